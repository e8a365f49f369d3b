"""Division and Shift in gateware give what the requantizer's form gives, in the cycles their timing says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.arithmetic import arranged
from hw.block import Bus
from hw.quotient import Quotient, QuotientChannel, quotient_words
from tcompile.ir import requantizers
from tests.gateware import Stalls, bench

LOW, HIGH = -60, 61  # inputs of most tests, all of them tried


def beats(x: np.ndarray, lanes: int) -> np.ndarray:
    """Positions (n, channels) as beats; filling lanes repeat the last channel."""
    return np.pad(x, [(0, 0), (0, -x.shape[1] % lanes)], mode="edge").reshape(-1, lanes)


def described(form: requantizers.Division | requantizers.Shift) -> list[QuotientChannel]:
    """The form's parameters by channel."""
    channels = form.channels
    divisor = form.divisor if isinstance(form, requantizers.Division) else 1 << form.bits
    columns = [np.broadcast_to(p, (channels,)).tolist() for p in (form.negate, form.addend, divisor, form.lo, form.hi)]
    rare = [tuple(map(tuple, lists)) or ((),) for lists in (form.exceptions, form.corrections)]
    columns += [lists * channels if len(lists) == 1 else lists for lists in rare]
    return [QuotientChannel(*row) for row in zip(*columns, strict=True)]


def run(form, *, lanes=1, channels=None, x=None, interval=1, stalls=None, output=None, **changes):
    """Gateware = model = form = timing; gives the block and the run."""
    channels = channels or form.channels
    x = np.tile(np.arange(LOW, HIGH)[:, None], (1, channels)) if x is None else x
    i = Bus(lanes, requantizers.signed_width(int(x.min()), int(x.max())), signed=True)
    entries = arranged(described(form), lanes)
    block = Quotient.of(
        i,
        output or Bus(lanes, 9, signed=True),
        entries,
        [(int(x.min()), int(x.max()))] * len(entries),
        multiplier=form.multiplier,
        ties=form.ties,
        interval=interval,
        shift=isinstance(form, requantizers.Shift),
    )
    block = replace(block, **changes)
    done = bench(block, [beats(x, lanes)], quotient_words(block, entries), stalls or Stalls())
    assert np.array_equal(done.outputs[0].reshape(len(x), -1)[:, :channels], form(x, axis=1))
    return block, done


def division(seed: int, ties: str, channels: int = 3, **changes: object) -> requantizers.Division:
    """Random parameters in which much is clipped and much is not, and many remainders are 0."""
    generator = np.random.default_rng(seed)
    lo = generator.integers(-9, 3, channels)
    parameters = {
        "negate": generator.random(channels) < 0.5,
        "multiplier": 1,
        "addend": generator.integers(-30, 30, channels),
        "ties": ties,
        "lo": lo,
        "hi": lo + generator.integers(0, 14, channels),
        "divisor": generator.choice([1, 2, 3, 5, 6, 11], channels),
    }
    return requantizers.Division(**(parameters | changes))


def shift(seed: int, ties: str, bits: list[int], **changes: object) -> requantizers.Shift:
    """The same with divisors that are powers of two."""
    given = division(seed, ties, **changes)
    return requantizers.Shift(
        given.negate,
        given.multiplier,
        given.addend,
        given.ties,
        given.lo,
        given.hi,
        bits,
        exceptions=given.exceptions,
        corrections=given.corrections,
    )


@pytest.mark.parametrize("ties", ["up", "even", "odd"])
@pytest.mark.parametrize("seed", [0, 2])
def test_division_gives_what_the_form_gives(ties, seed):
    run(division(seed, ties), lanes=2)


@pytest.mark.parametrize("ties", ["up", "even", "odd"])
@pytest.mark.parametrize("bits", [[0], [2], [9], [0, 3, 1]])
def test_shift_gives_what_the_form_gives(ties, bits):
    run(shift(len(bits) + bits[0], ties, bits), lanes=2)


@pytest.mark.parametrize("may, interval", [(1, 1), (2, 2), (3, 3), (4, 4), (7, 4), (8, 8), (9, 8)])
def test_division_takes_at_most_the_cycles_it_may(may, interval):
    wide = division(5, "even", lo=[-100, -128, 0], hi=[100, 127, 200], divisor=[3, 1, 2], multiplier=3)
    block, done = run(wide, interval=may, x=random_inputs(may))
    assert block.interval == interval
    assert np.diff(done.taken[0]).tolist() == [block.interval] * (len(done.taken[0]) - 1)
    assert done.given[0] == [t + block.latency for t in done.taken[0]]


@pytest.mark.parametrize("interval, units", [(1, 8), (2, 4), (3, 3), (4, 2), (5, 2), (7, 2), (8, 1)])
def test_rows_are_shared_as_far_as_the_interval_allows(interval, units):
    channel = QuotientChannel(False, 0, 3, 0, 255)
    block = Quotient.of(Bus(1, 12), Bus(1, 8), [channel], [(0, 4095)], interval=interval)
    assert (block.units, block.unroll) == (units, units)


@pytest.mark.parametrize("multiplier", [2, 3, 11, 45, 8 * 171])
def test_multiplier_is_signed_digits(multiplier):
    run(division(multiplier, "odd", multiplier=multiplier, divisor=multiplier * np.array([1, 2, 3]) + [0, 1, -1]))


@pytest.mark.parametrize("negate", [[False], [True], [True, False, True]])
def test_sign_of_the_input_is_shared_or_stored(negate):
    block, _ = run(division(3, "even", negate=negate, multiplier=5))
    assert block.negate == (negate[0] if len(negate) == 1 else None)


@pytest.mark.parametrize("negate", [False, True])
def test_unsigned_input(negate):
    entries = [QuotientChannel(negate, 4, 3, -20, 20)]
    block = Quotient.of(Bus(1, 5), Bus(1, 6, True), entries, [(0, 31)], ties="even")
    x = np.arange(32)[:, None]
    done = bench(block, [x], quotient_words(block, entries))
    assert np.array_equal(done.outputs[0], requantizers.Division([negate], 1, [4], "even", [-20], [20], [3])(x, 1))


@pytest.mark.parametrize("interval", [1, 2])
def test_one_channel_serves_all(interval):
    block, _ = run(division(4, "even", channels=1), lanes=3, channels=4, interval=interval)
    assert (block.period, block.limits.width) == (1, 0)


@pytest.mark.parametrize("kind", ["division", "shift"])
@pytest.mark.parametrize("interval", [1, 3])
def test_corrections_are_added_after_clipping(kind, interval):
    lists = {"exceptions": ([-60, 0, 7], [], [60]), "corrections": ([1, -1, 2], [], [-2])}
    parameters = {"negate": [False], "multiplier": 1, "addend": [1], "ties": "even", "lo": [-5], "hi": [5]}
    if kind == "division":
        form = requantizers.Division(**parameters, divisor=[3, 4, 5], **lists)
    else:
        form = requantizers.Shift(**parameters, bits=[2], **lists)
    run(form, lanes=2, interval=interval)


def test_one_list_of_exceptions_serves_all():
    lists = {"exceptions": ([0, 3],), "corrections": ([1, -1],)}
    run(division(6, "up", **lists), lanes=3)


@pytest.mark.parametrize("lo, hi", [(-3, -3), (0, 1), (-256, 255), (100, 130)])
@pytest.mark.parametrize("ties", ["even", "odd"])
def test_clipping_ranges(lo, hi, ties):
    run(division(7, ties, lo=[lo], hi=[hi], multiplier=4))


@pytest.mark.parametrize("form", [division(8, "even", lo=[-3], hi=[60]), shift(8, "odd", [1], lo=[-3], hi=[60])])
def test_numerators_shorter_than_the_quotient(form):
    run(form, x=np.tile(np.arange(-2, 3)[:, None], (1, 3)))


@pytest.mark.parametrize("interval", [1, 4])
def test_wide_numerators(interval):
    ends = np.array([[-(2**31), 2**31 - 1], [0, -1], [2**30, 12345678]])
    form = requantizers.Division([False, True], 1000, [-5, 2**40], "even", [-128], [127], [2**35 + 1, 2**33 - 1])
    run(form, x=ends, interval=interval)


@pytest.mark.parametrize("interval", [1, 2, 4])
@pytest.mark.parametrize("seed, outbox", [(0, 0), (1, 0), (2, 1), (3, 3)])
def test_stalls_move_transfers_as_the_timing_says(interval, seed, outbox):
    form = division(seed, "even", lo=[-7], hi=[8], exceptions=([3], [4], [5]), corrections=([1], [1], [-1]))
    some = Quotient.of(Bus(1, 4), Bus(1, 4), [QuotientChannel(False, 0, 1, 0, 1)], [(0, 1)])
    run(form, interval=interval, stalls=Stalls.random(seed, some), x=random_inputs(seed), outbox=outbox)


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("form", [division(1, "even"), shift(1, "even", [1, 2, 3])])
def test_parameters_that_come_late_are_read_a_beat_ahead(monkeypatch, form, interval):
    monkeypatch.setattr("hw.block.LUT_BITS", 0)
    some = Quotient.of(Bus(1, 4), Bus(1, 4), [QuotientChannel(False, 0, 1, 0, 1)], [(0, 1)])
    for stalls in (Stalls(), Stalls.random(1, some)):
        block, done = run(form, x=random_inputs(1), interval=interval, stalls=stalls)
        assert block.fetches_ahead
        assert done.taken[0][0] >= 1


def random_inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(LOW, HIGH, (25, 3))


@pytest.mark.parametrize("form", [division(1, "even"), shift(1, "even", [1, 2, 3])])
def test_flickering_ready_changes_no_value(form):
    run(form, x=random_inputs(1), interval=2, stalls=Stalls(flicker=1))


def test_shared_limits_are_wires():
    same = Quotient.of(Bus(1, 8), Bus(1, 4), [QuotientChannel(False, b, 3, 0, 15) for b in (1, 2)], [(0, 9)] * 2)
    other = Quotient.of(Bus(1, 8), Bus(1, 4), [QuotientChannel(False, b, 3, 0, 15 - b) for b in (1, 2)], [(0, 9)] * 2)
    assert (list(same.memories), list(other.memories)) == (["params"], ["params", "limits"])


PLAIN = Quotient.of(Bus(1, 8), Bus(1, 4), [QuotientChannel(False, 1, 3, 0, 15)], [(0, 255)])
SHIFT = Quotient.of(Bus(1, 8), Bus(1, 4), [QuotientChannel(False, 1, 4, 0, 15)], [(0, 255)], shift=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"multiplier": 0}, "multiplier"),
        ({"ties": "down"}, "ties"),
        ({"divisor_width": 0}, "either divisors or shifts"),
        ({"shifts": (2,)}, "either divisors or shifts"),
        ({"unroll": 5}, "5 units"),
        ({"unroll": 0}, "0 units"),
        ({"numerator_width": 63}, "62 bits"),
        ({"exceptions": 1}, "corrections"),
        ({"o": Bus(2, 4)}, "same lanes"),
    ],
)
def test_descriptions_that_cannot_be_are_refused_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)


@pytest.mark.parametrize(
    "block, channel, message",
    [
        (PLAIN, QuotientChannel(True, 1, 3, 0, 15), "sign must be False"),
        (PLAIN, QuotientChannel(False, 1, 3, 1, 16), "lo must be 0"),
        (PLAIN, QuotientChannel(False, 1, 3, 0, 14), "span must be 15"),
        (PLAIN, QuotientChannel(False, 1, 0, 0, 15), "divisor 0"),
        (PLAIN, QuotientChannel(False, 1, 4, 0, 15), "divisor must fit"),
        (PLAIN, QuotientChannel(False, 9, 3, 0, 15), "addend must fit"),
        (PLAIN, QuotientChannel(False, 1, 3, 0, 15, (1,), (1,)), "0 exceptions"),
        (SHIFT, QuotientChannel(False, 1, 8, 0, 15), "power of two"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_wrong(block, channel, message):
    with pytest.raises(ValueError, match=message):
        quotient_words(block, [channel])


def test_shift_by_three_quarters_is_refused_wrong():
    with pytest.raises(ValueError, match="powers of two"):
        Quotient.of(Bus(1, 8), Bus(1, 4), [QuotientChannel(False, 1, 3, 0, 15)], [(0, 255)], shift=True)
