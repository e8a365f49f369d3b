"""Width converters keep the elements of every position, in order, at a beat per cycle on their narrow side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.block import Bus
from hw.width import Narrow, Widen
from tests.gateware import Stalls, bench, passes_ready

# wide lanes, narrow lanes, channels of a position
SHAPES = [(4, 1, 4), (4, 2, 7), (6, 2, 2), (6, 3, 19), (4, 1, 5), (3, 3, 5), (8, 1, 1)]
POSITIONS = 6


def narrow(wide: int, lanes: int, channels: int) -> Narrow:
    return Narrow(Bus(wide, 3, signed=True), lanes, channels)


def widen(wide: int, lanes: int, channels: int) -> Widen:
    return Widen(Bus(lanes, 3), wide, channels)


def positions(block: Narrow | Widen) -> np.ndarray:
    """Elements (positions, channels), none of them 0, so that a filling can be told from them."""
    elements = np.random.default_rng(0).integers(1, 4, (POSITIONS, block.channels))
    return -elements if block.bus.signed else elements


def beats(elements: np.ndarray, lanes: int) -> np.ndarray:
    return np.pad(elements, [(0, 0), (0, -elements.shape[1] % lanes)]).reshape(-1, lanes)


def resting(wide: int, lanes: int, channels: int) -> Narrow:
    return replace(narrow(wide, lanes, channels), rests=True)


def widen_resting(wide: int, lanes: int, channels: int) -> Widen:
    return replace(widen(wide, lanes, channels), rests=True)


@pytest.mark.parametrize("make", [narrow, resting, widen, widen_resting])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_positions_are_kept(make, shape, seed):
    block = make(*shape)
    x = positions(block)
    stalls = Stalls() if seed is None else Stalls.random(seed, block)
    run = bench(block, [beats(x, block.bus.lanes)], stalls=stalls)
    assert np.array_equal(run.outputs[0], beats(x, block.outputs[0].lanes))


@pytest.mark.parametrize("make", [narrow, resting, widen, widen_resting])
def test_flickering_ready_changes_no_value(make):
    block = make(6, 2, 9)
    bench(block, [beats(positions(block), block.bus.lanes)], stalls=Stalls(flicker=2))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_narrow_side_runs_without_gaps(shape):
    block = narrow(*shape)
    assert np.all(np.diff(bench(block, [beats(positions(block), block.bus.lanes)]).given[0]) == 1)
    block = widen(*shape)
    assert np.all(np.diff(bench(block, [beats(positions(block), block.bus.lanes)]).taken[0]) == 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_that_rests_takes_a_beat_in_the_cycle_after_the_last_part(shape):
    block = resting(*shape)
    run = bench(block, [beats(positions(block), block.bus.lanes)])
    last = np.cumsum(block.pieces * POSITIONS) - 1
    assert run.taken[0][1:] == [run.given[0][k] + 1 for k in last[:-1]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_that_gathers_and_rests_takes_a_beat_in_the_cycle_after_one_left(shape):
    block = widen_resting(*shape)
    run = bench(block, [beats(positions(block), block.bus.lanes)])
    firsts = np.cumsum(block.pieces * POSITIONS)[:-1]
    assert [run.taken[0][k] for k in firsts] == [t + 1 for t in run.given[0][:-1]]


@pytest.mark.parametrize("make, rests", [(narrow, resting), (widen, widen_resting)])
def test_no_path_leads_through_a_block_that_rests(make, rests):
    assert passes_ready(make(4, 2, 4))
    assert not passes_ready(rests(4, 2, 4))


def test_output_is_valid_a_latency_after_its_last_input():
    block = narrow(4, 2, 3)
    run = bench(block, [beats(positions(block), 4)])
    assert [o - i for i, o in zip(run.taken[0], run.given[0][::2], strict=True)] == [block.latency] * POSITIONS
    block = widen(4, 2, 3)
    run = bench(block, [beats(positions(block), 2)])
    assert [o - i for i, o in zip(run.taken[0][1::2], run.given[0], strict=True)] == [block.latency] * POSITIONS


@pytest.mark.parametrize("make", [narrow, widen])
@pytest.mark.parametrize(
    "shape, reason", [((6, 4, 8), "must divide"), ((6, 0, 8), "must divide"), ((6, 2, 0), "channel")]
)
def test_shapes_that_do_not_fit_are_refused_wrong(make, shape, reason):
    with pytest.raises(ValueError, match=reason):
        make(*shape)
