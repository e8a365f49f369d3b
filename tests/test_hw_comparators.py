"""Comparators in gateware give what the requantizer's form gives, in the cycles their timing says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.arithmetic import arranged, period_of
from hw.block import Bus
from hw.comparators import Comparators, comparators_words
from tcompile.ir import requantizers
from tests.gateware import Stalls, bench


def beats(x: np.ndarray, lanes: int) -> np.ndarray:
    """Positions (n, channels) as beats; filling lanes repeat the last channel."""
    return np.pad(x, [(0, 0), (0, -x.shape[1] % lanes)], mode="edge").reshape(-1, lanes)


def thresholds(seed: int, channels: int, levels: int, *, counting: bool) -> requantizers.Comparators:
    """A random form; the first channel has all levels, the extremes of 6 bits among them."""
    generator = np.random.default_rng(seed)
    counts = [levels, *generator.integers(0, levels + 1, channels - 1)]
    rows = [np.sort(generator.integers(-32, 32, n)) for n in counts]
    if levels:
        rows[0][0], rows[0][-1] = -32, 31
    values = [
        np.arange(n + 1) - generator.integers(0, 3) if counting else generator.integers(-4, 32, n + 1) for n in counts
    ]
    return requantizers.Comparators(tuple(rows), tuple(values))


def run(wanted, /, *, lanes, channels, signed=True, stalls=None, beats_of=8, **changes):
    """Gateware = model = form = timing; gives the run."""
    rows = [list(map(int, row)) for row in wanted.thresholds]
    values = [list(map(int, row)) for row in wanted.values]
    i, o = Bus(lanes, 6 + (not signed), signed=signed), Bus(lanes, 7, signed=True)
    block = Comparators.of(i, o, arranged(rows, lanes), arranged(values, lanes))
    block = replace(block, **changes)
    words = comparators_words(block, arranged(rows, lanes), arranged(values, lanes))
    generator = np.random.default_rng(9)
    x = generator.integers(-32 if signed else 0, 32 if signed else 128, (beats_of, channels))
    near = np.concatenate([[-32, 31], *wanted.thresholds, *(row - 1 for row in wanted.thresholds)])
    x[::2] = np.clip(generator.choice(near, x[::2].shape), -32 if signed else 0, 31)
    run = bench(block, [beats(x, lanes)], words, stalls or Stalls())
    assert np.array_equal(run.outputs[0].reshape(len(x), -1)[:, :channels], wanted(x, axis=1))
    return block, run


@pytest.mark.parametrize("form", ["flat", "tree"])
@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("levels", [1, 3, 4, 12])
def test_comparators_give_what_the_form_gives(form, counting, levels):
    run(thresholds(levels, 5, levels, counting=counting), lanes=2, channels=5, form=form)


@pytest.mark.parametrize("form", ["flat", "tree"])
@pytest.mark.parametrize("changes", [{}, {"first": None}, {"first": None, "counting": False}])
def test_no_thresholds_give_constants(form, changes):
    run(requantizers.Comparators(([], []), ([5], [5])), lanes=1, channels=2, form=form, **changes)


@pytest.mark.parametrize("form", ["flat", "tree"])
@pytest.mark.parametrize("counting", [True, False])
def test_one_channel_serves_all(form, counting):
    block, _ = run(thresholds(1, 1, 5, counting=counting), lanes=3, channels=7, form=form)
    assert block.period == 1


@pytest.mark.parametrize("form", ["flat", "tree"])
def test_missing_threshold_is_not_reached_by_the_largest_input(form):
    short = requantizers.Comparators(([0, 1, 2], [31]), ([0, 1, 2, 3], [0, 1]))
    run(short, lanes=1, channels=2, form=form)


@pytest.mark.parametrize("form", ["flat", "tree"])
def test_unsigned_input_above_all_thresholds(form):
    run(thresholds(4, 4, 6, counting=True), lanes=4, channels=4, signed=False, form=form)


@pytest.mark.parametrize("form", ["flat", "tree"])
@pytest.mark.parametrize("shared", [True, False])
def test_first_value_is_shared_or_stored(form, shared):
    rows = ([-3, 0, 4, 9], [1, 2])
    starts = (-2, -2) if shared else (-2, 5)
    counted = requantizers.Comparators(
        rows, tuple(np.arange(len(r) + 1) + f for r, f in zip(rows, starts, strict=True))
    )
    block, _ = run(counted, lanes=1, channels=2, form=form)
    assert block.first == (-2 if shared else None)


@pytest.mark.parametrize("form", ["flat", "tree"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stalls_move_transfers_as_the_timing_says(form, seed):
    counted = thresholds(seed, 5, 6, counting=seed == 1)
    some = Comparators(Bus(1, 1), Bus(1, 1), 0, 1, 0, True, 0)
    run(counted, lanes=2, channels=5, form=form, stalls=Stalls.random(seed, some), beats_of=25, outbox=seed * 2)


@pytest.mark.parametrize("stalls", [Stalls(), Stalls.random(1, Comparators(Bus(1, 1), Bus(1, 1), 0, 1, 0, True, 0))])
def test_thresholds_that_come_late_are_read_a_beat_ahead(monkeypatch, stalls):
    monkeypatch.setattr("hw.block.LUT_BITS", 0)
    block, done = run(thresholds(3, 5, 6, counting=False), lanes=2, channels=5, form="flat", stalls=stalls, beats_of=25)
    assert block.fetches_ahead
    assert done.taken[0][0] >= 1


@pytest.mark.parametrize("form", ["flat", "tree"])
def test_flickering_ready_changes_no_value(form):
    run(thresholds(3, 3, 6, counting=False), lanes=1, channels=3, form=form, stalls=Stalls(flicker=2))


@pytest.mark.parametrize("levels, form, latency", [(3, "flat", 3), (3, "tree", 6), (4, "tree", 8), (0, "tree", 2)])
def test_one_beat_per_cycle_after_the_latency(levels, form, latency):
    block, done = run(thresholds(0, 3, levels, counting=True), lanes=1, channels=3, form=form)
    assert block.latency == latency
    assert done.taken[0] == list(range(24))
    assert done.given[0] == [t + latency for t in done.taken[0]]


def test_search_needs_a_comparator_per_bit_of_the_count():
    block = Comparators(Bus(2, 8), Bus(2, 8), 15, 3, 8, True)
    assert [name for name in block.memories if name.startswith("threshold")] == [
        f"threshold_{stage}_{lane}" for lane in range(2) for stage in range(4)
    ]
    assert block.memories["threshold_3_0"].depth == 3 * 8


def test_few_levels_are_compared_at_once():
    forms = [Comparators.of(Bus(1, 8), Bus(1, 4), [list(range(n))], [list(range(n + 1))]).form for n in range(5)]
    assert forms == ["flat", "flat", "flat", "flat", "tree"]


def test_parameters_repeat_after_the_beats_of_a_position():
    assert [period_of(c, 4) for c in (1, 4, 5, 9)] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    "rows, values, message",
    [
        ([[1]], [[0, 1]], "2 entries"),
        ([[1], [1, 2, 3]], [[0, 1], [0, 1, 2, 3]], "do not fit 2 levels"),
        ([[1], [2]], [[0, 1], [0, 2]], "must count"),
        ([[1], [2]], [[0, 1], [1, 2]], "first value must be 0"),
        ([[1], [8]], [[0, 1], [0, 1]], "must fit 4 signed bits"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_wrong(rows, values, message):
    block = Comparators(Bus(1, 6, True), Bus(1, 3), 2, 2, 4, counting=True, first=0)
    with pytest.raises(ValueError, match=message):
        comparators_words(block, rows, values)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"o": Bus(2, 3)}, "same lanes"),
        ({"period": 0}, "period"),
        ({"form": "round"}, "flat"),
        ({"threshold_width": 0}, "cannot be"),
        ({"counting": False, "first": 1}, "count"),
    ],
)
def test_descriptions_that_cannot_be_are_refused_wrong(changes, message):
    block = Comparators(Bus(1, 6, True), Bus(1, 3), 2, 2, 4, counting=True)
    with pytest.raises(ValueError, match=message):
        replace(block, **changes)
