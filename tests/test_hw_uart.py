# amaranth: UnusedElaboratable=no
"""The serial line: bytes in and out at every speed, and lines that are not as they should be."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.uart import MOST_ERROR, Receiver, Transmitter, baud_error, bit_clocks, levels, received
from tests.gateware import ran

BYTES = [0x55, 0x00, 0xFF, 0x7E, 0x01, 0x80]


def taken(line: Sequence[int], clocks: int) -> list[int | None]:
    """What the gateware takes from a line."""
    dut, found = Receiver().component(), []

    async def drive(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.bit_clocks, clocks)
        for level in [*line, *[line[-1]] * 4]:
            ctx.set(dut.rx, level)
            await ctx.tick()
            assert not (ctx.get(dut.strobe) and ctx.get(dut.broken))
            if ctx.get(dut.strobe):
                found.append(ctx.get(dut.data))
            if ctx.get(dut.broken):
                found.append(None)

    ran(dut, drive)
    return found


def sent(data: Sequence[int], clocks: int, gaps: Sequence[int] = ()) -> list[int]:
    """Levels of the line on which the gateware sends; it is offered byte k after `gaps[k]` idle cycles."""
    dut, line = Transmitter().component(), []

    async def drive(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.bit_clocks, clocks)
        queue, wait = list(data), list(gaps)
        pause = wait.pop(0) if wait else 0
        for _ in range((10 * clocks + 1) * len(data) + sum(gaps) + 2 * clocks):
            ctx.set(dut.i.valid, bool(queue) and pause == 0)
            ctx.set(dut.i.payload, queue[0] if queue and pause == 0 else 0xA5)
            gone = ctx.get(dut.i.valid) and ctx.get(dut.i.ready)
            pause = max(0, pause - ctx.get(dut.i.ready))
            await ctx.tick()
            line.append(ctx.get(dut.tx))
            if gone:
                queue.pop(0)
                pause = wait.pop(0) if wait else 0

    ran(dut, drive)
    return line


def idle(count: int) -> list[int]:
    return [1] * count


@pytest.mark.parametrize("clocks", [4, 5, 8, 33])
def test_bytes_are_taken_without_pause(clocks):
    line = [*idle(3), *levels(BYTES, clocks), *idle(clocks)]
    assert taken(line, clocks) == BYTES == received(line, clocks)


@pytest.mark.parametrize("seed", range(6))
def test_any_line_is_taken_as_in_the_model(seed):
    generator = np.random.default_rng(seed)
    clocks = int(generator.integers(4, 9))
    runs = generator.integers(1, 4 * clocks, 60)
    line = [*idle(2), *(k % 2 for k, n in enumerate(runs) for _ in range(n)), *idle(30 * clocks)]
    found = taken(line, clocks)
    assert found == received(line, clocks)
    assert len(found) > 5


def test_without_a_stop_bit_there_is_no_byte_until_the_line_rests():
    line = [*idle(2), *levels([0x31], 8)[:-8], *[0] * 200, *idle(8), *levels([0x42], 8), *idle(8)]
    assert taken(line, 8) == [None, 0x42] == received(line, 8)


def test_a_short_pulse_is_no_byte():
    line = [*idle(2), 0, 0, 0, *idle(20), *levels([0x42], 8), *idle(8)]
    assert taken(line, 8) == [0x42]


@pytest.mark.parametrize("ratio", [Fraction(96, 100), Fraction(104, 100)])
def test_a_sender_may_be_four_percent_off(ratio):
    exact = levels(BYTES * 3, 100)
    line = [*idle(5), *(exact[int(k * ratio)] for k in range(int(len(exact) / ratio))), *idle(100)]
    assert taken(line, 100) == BYTES * 3


def test_a_sender_may_be_four_percent_off_wrong():
    exact = levels([0x00, 0xFF, 0x00], 100)
    line = [*idle(5), *(exact[k * 107 // 100] for k in range(len(exact) * 100 // 107)), *idle(100)]
    assert taken(line, 100) != [0x00, 0xFF, 0x00]


@pytest.mark.parametrize("clocks", [4, 7, 16])
@pytest.mark.parametrize("gaps", [(), (3, 0, 50, 1, 0, 9)], ids=["free", "pauses"])
def test_bytes_are_sent(clocks, gaps):
    line = sent(BYTES, clocks, gaps)
    assert received(line, clocks) == BYTES


def test_a_sent_byte_takes_ten_bits_and_a_clock():
    assert sent([0x31, 0x42], 6)[: 2 * 61] == [*levels([0x31], 6), 1, *levels([0x42], 6), 1]


@pytest.mark.parametrize(
    "clock, baud, clocks", [(100_000_000, 1_000_000, 100), (100_000_000, 3_000_000, 33), (25_000_000, 115_200, 217)]
)
def test_length_of_a_bit(clock, baud, clocks):
    assert bit_clocks(clock, baud) == clocks


@given(st.fractions(1_000_000, 400_000_000), st.integers(9600, 4_000_000))
def test_no_other_length_of_a_bit_is_closer(clock, baud):
    try:
        clocks = bit_clocks(clock, baud)
    except ValueError:
        return
    assert baud_error(clock, baud, clocks) <= MOST_ERROR
    assert abs(clock / baud - clocks) <= Fraction(1, 2)


@pytest.mark.parametrize(
    "clock, baud, reason",
    [
        (100_000_000, 0, "at least 1"),
        (10_000_000, 3_000_000, "must last 4"),
        (100_000_000, 300, "must last 4 to 65535"),
        (25_000_000, 3_000_000, "within 2%"),
    ],
)
def test_a_speed_that_cannot_be_is_refused_wrong(clock, baud, reason):
    with pytest.raises(ValueError, match=reason):
        bit_clocks(clock, baud)
