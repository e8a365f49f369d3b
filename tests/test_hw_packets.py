# amaranth: UnusedElaboratable=no
"""Packets on a line, and the queue that takes them back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.packet_queue import PacketQueue, replayed
from hw.packets import ESCAPE, FLAG, PacketReader, PacketWriter, decode, encode
from tests.gateware import ran

BODIES = [b"\x01", b"hello", bytes([FLAG, ESCAPE, FLAG ^ 0x20, 0, 0xFF]), bytes(range(100, 140))]


def read(line: Sequence[int | None], gaps: Sequence[int] = ()) -> list[bytes | None]:
    """Bodies that the gateware finds; it waits `gaps[k]` cycles before byte k."""
    dut, found, body = PacketReader().component(), [], bytearray()

    async def drive(ctx):  # type: ignore[no-untyped-def]
        def see():
            assert not (ctx.get(dut.body_strobe) and ctx.get(dut.end))
            if ctx.get(dut.body_strobe):
                body.append(ctx.get(dut.body))
            if ctx.get(dut.end):
                found.append(bytes(body) if ctx.get(dut.good) else None)
                body.clear()

        for k, byte in enumerate([*line, FLAG]):
            for _ in range(gaps[k % len(gaps)] if gaps else 0):
                ctx.set(dut.strobe, 0), ctx.set(dut.broken, 0), ctx.set(dut.data, FLAG)
                await ctx.tick()
                see()
            ctx.set(dut.strobe, byte is not None), ctx.set(dut.broken, byte is None), ctx.set(dut.data, byte or 0)
            await ctx.tick()
            see()

    ran(dut, drive)
    return found


def written(bodies: Sequence[bytes], valid: Sequence[int], ready: Sequence[int]) -> bytes:
    """Bytes that the gateware gives, valid and ready by patterns."""
    dut, line = PacketWriter().component(), bytearray()
    octets = [(byte, k == len(body) - 1) for body in bodies for k, byte in enumerate(body)]

    async def drive(ctx):  # type: ignore[no-untyped-def]
        at, cycle, offered = 0, 0, False
        while cycle < 12 * len(octets) + 200:
            offered = at < len(octets) and (offered or bool(valid[cycle % len(valid)]))
            ctx.set(dut.i.valid, offered)
            ctx.set(dut.i.payload.data, octets[at][0] if offered else FLAG)
            ctx.set(dut.i.payload.last, octets[at][1] if offered else 0)
            ctx.set(dut.o.ready, ready[cycle % len(ready)])
            if ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
                line.append(ctx.get(dut.o.payload))
            if ctx.get(dut.i.ready) and offered:
                at, offered = at + 1, False
            await ctx.tick()
            cycle += 1

    ran(dut, drive)
    return bytes(line)


def spoilt(line: bytes, seed: int) -> list[int | None]:
    """A line on which bytes are lost, changed, put in, or broken."""
    generator, result = np.random.default_rng(seed), list[int | None](line)
    for _ in range(int(generator.integers(1, 5))):
        at, byte = int(generator.integers(len(result))), int(generator.choice([FLAG, ESCAPE, *generator.bytes(3)]))
        act = generator.integers(4)
        result[at : at + (act != 0)] = [[byte], [], [byte], [None]][act]
    return result


def test_bodies_are_read_as_in_the_model():
    line = b"".join(map(encode, BODIES))
    assert read(line) == BODIES == decode(line)
    assert read(line, [0, 2, 1, 5]) == BODIES


@pytest.mark.parametrize("seed", range(20))
def test_a_spoilt_line_is_read_as_in_the_model(seed):
    line = spoilt(b"".join(map(encode, BODIES)), seed)
    assert read(line, [seed % 3]) == decode([*line, FLAG])


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4))
def test_what_is_encoded_is_decoded(bodies):
    assert decode(b"".join(map(encode, bodies))) == bodies


@given(st.binary(min_size=1, max_size=20), st.data())
def test_one_wrong_bit_is_always_seen_wrong(body, data):
    line = bytearray(encode(body))
    bit = data.draw(st.integers(8, 8 * len(line) - 9))
    line[bit // 8] ^= 1 << bit % 8
    assert all(found != body for found in decode(bytes(line)))


def test_whoever_comes_late_is_in_step_at_the_next_flag():
    line = b"".join(map(encode, [b"first", b"second", b"third"]))
    assert read(line[3:])[-2:] == [b"second", b"third"]


@pytest.mark.parametrize(
    "line, found",
    [
        ([FLAG, FLAG, FLAG], []),
        ([FLAG, 1, FLAG], [None]),
        ([FLAG, *zlib.crc32(b"").to_bytes(4, "little"), FLAG], [None]),
        ([None, FLAG], [None]),
        ([ESCAPE, FLAG], [None]),
        ([*encode(b"x")[:-1], ESCAPE, FLAG], [None]),
    ],
    ids=["flags only", "a byte", "no body", "not received", "an escape", "given up"],
)
def test_what_is_no_packet(line, found):
    assert read(line) == found == decode(line)


@pytest.mark.parametrize("valid, ready", [("1", "1"), ("10", "1"), ("1", "10"), ("110", "00011"), ("0001", "1")])
def test_packets_are_written_as_in_the_model_under_stalls(valid, ready):
    patterns = ([int(c) for c in p] for p in (valid, ready))
    assert written(BODIES, *patterns) == b"".join(map(encode, BODIES))


def queued(depth: int, acts: Sequence[int | str], seed: int | None = None) -> tuple[list[int], list[bool]]:
    """Bytes that leave the queue, and whether one was refused, at each commit or discard; emptied at the end, or on the way."""
    dut, found, told = PacketQueue(depth).component(), [], []
    generator = np.random.default_rng(seed)

    async def drive(ctx):  # type: ignore[no-untyped-def]
        for act in [*acts, *[None] * (3 * depth + 5)]:
            for signal, value in ((dut.push, isinstance(act, int)), *((getattr(dut, n), act == n) for n in ENDS)):
                ctx.set(signal, value)
            ctx.set(dut.data, act if isinstance(act, int) else 0x5A)
            ctx.set(dut.o.ready, act is None or (seed is not None and bool(generator.random() < 0.5)))
            if act in ENDS:
                told.append(bool(ctx.get(dut.refused)))
            if ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
                found.append(ctx.get(dut.o.payload))
            await ctx.tick()
        assert ctx.get(dut.empty)

    ran(dut, drive)
    return found, told


ENDS = ("commit", "discard")


def acts(seed: int, packets: int, most: int) -> list[int | str]:
    generator = np.random.default_rng(seed)
    lines = [[*map(int, generator.integers(0, 256, generator.integers(0, most))), str(generator.choice(ENDS))]
             for _ in range(packets)]  # fmt: skip
    return [act for line in lines for act in line]


@pytest.mark.parametrize("depth", [2, 5, 8, 21])
@pytest.mark.parametrize("seed", range(4))
def test_queue_holds_what_the_model_holds(depth, seed):
    assert queued(depth, acts(seed, 8, depth)) == replayed(depth, acts(seed, 8, depth))


@pytest.mark.parametrize("seed", range(4))
def test_queue_gives_all_that_was_committed_while_it_is_read(seed):
    some = acts(seed, 40, 6)
    roomy = replayed(1000, some)
    assert queued(120, some, seed) == roomy


def test_what_is_taken_back_leaves_its_place():
    assert queued(3, [1, 2, 3, "discard", 4, 5, 6, "commit"]) == ([4, 5, 6], [False, False])


def test_a_full_queue_says_so():
    assert queued(2, [1, 2, 3, "discard", 4, "commit"]) == ([4], [True, False])


def test_a_queue_of_one_byte_wrong():
    with pytest.raises(ValueError, match="at least 2"):
        PacketQueue(1)
