"""A queue gives what it took, in order, in the cycles its timing says."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import Bus
from hw.fifo import Fifo
from tests.gateware import Stalls, bench

BUS = Bus(2, 5, signed=True)


def beats(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-16, 16, (count, 2))


@pytest.mark.parametrize("depth", [2, 3, 8, 64, 65, 70])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_queue_gives_what_it_took(depth, seed):
    block = Fifo(BUS, depth)
    stalls = Stalls() if seed is None else Stalls.random(seed, block)
    assert len(bench(block, [beats(150)], stalls=stalls).given[0]) == 150


@pytest.mark.parametrize("depth", [2, 65])
def test_flickering_ready_changes_no_value(depth):
    bench(Fifo(BUS, depth), [beats(100)], stalls=Stalls(flicker=3))


def test_first_beat_comes_after_the_latency():
    run = bench(Fifo(BUS, 2), [beats(1)])
    assert run.given[0][0] - run.taken[0][0] == Fifo(BUS, 2).latency


def test_queue_of_one_place_is_refused_wrong():
    with pytest.raises(ValueError, match="at least 2"):
        Fifo(BUS, 1)
