"""A fork gives every beat once to every output, and an output that is ready waits for none of the others."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import Bus
from hw.fork import Fork
from tests.gateware import Stalls, bench

BUS = Bus(2, 3)
BEATS = np.random.default_rng(0).integers(0, 8, (60, 2))


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_every_output_gets_every_beat(copies, seed):
    block = Fork(BUS, copies)
    assert len(bench(block, [BEATS], stalls=Stalls.random(seed, block)).given[-1]) == 60


def test_flickering_ready_changes_no_value():
    bench(Fork(BUS, 3), [BEATS], stalls=Stalls(flicker=1))


def test_a_beat_passes_per_cycle():
    run = bench(Fork(BUS, 2), [BEATS])
    assert (run.taken[0], run.given[0], run.given[1]) == (list(range(60)), list(range(1, 61)), list(range(1, 61)))


@pytest.mark.parametrize("slow", [0, 1])
def test_slow_output_does_not_hold_up_the_beat_of_the_other(slow):
    run = bench(Fork(BUS, 2), [BEATS[:1]], stalls=Stalls(sinks=tuple((9 * (k == slow),) for k in range(2))))
    assert (run.given[slow], run.given[1 - slow]) == ([9], [1])


def test_fork_without_outputs_is_refused_wrong():
    with pytest.raises(ValueError, match="at least 1 output"):
        Fork(BUS, 0)
