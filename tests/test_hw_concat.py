"""Concat gives its inputs' beats in turns, each element with its value."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import Bus
from hw.concat import Concat
from tests.gateware import Stalls, bench

OUT = Bus(2, 6, signed=True)
CASES = {
    "one": Concat((Bus(2, 4, signed=True),), OUT, (3,)),
    "two": Concat((Bus(2, 4, signed=True), Bus(2, 5)), OUT, (1, 1)),
    "uneven": Concat((Bus(2, 5), Bus(2, 6, signed=True), Bus(2, 1)), OUT, (1, 4, 2)),
    "unsigned": Concat((Bus(2, 3), Bus(2, 6)), Bus(2, 6), (3, 2)),
}
TURNS = 12


def elements(bus: Bus, count: int) -> np.ndarray:
    low, high = (-(1 << bus.width - 1), 1 << bus.width - 1) if bus.signed else (0, 1 << bus.width)
    return np.random.default_rng(bus.width).integers(low, high, (count, bus.lanes))


def turns(block: Concat) -> list[np.ndarray]:
    return [elements(bus, TURNS * run) for bus, run in zip(block.bus_in, block.runs, strict=True)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_inputs_come_in_turns(case, seed):
    block = CASES[case]
    x = turns(block)
    run = bench(block, x, stalls=Stalls.random(seed, block))
    parts = [a[t * n : (t + 1) * n] for t in range(TURNS) for a, n in zip(x, block.runs, strict=True)]
    assert np.array_equal(run.outputs[0], np.concatenate(parts))


def test_flickering_ready_changes_no_value():
    bench(CASES["uneven"], turns(CASES["uneven"]), stalls=Stalls(flicker=1))


@pytest.mark.parametrize("case", CASES)
def test_a_beat_passes_per_cycle(case):
    block = CASES[case]
    run = bench(block, turns(block))
    beats = TURNS * sum(block.runs)
    assert sorted(t for times in run.taken for t in times) == list(range(beats))
    assert run.given[0] == list(range(block.latency, beats + block.latency))


@pytest.mark.parametrize(
    "bus, out, runs, reason",
    [
        (Bus(3, 4), OUT, (1,), "lanes"),
        (Bus(2, 6), OUT, (1,), "at least 7 bits"),
        (Bus(2, 4, signed=True), Bus(2, 6), (1,), "signed output"),
        (Bus(2, 4), OUT, (0,), "run"),
        (Bus(2, 4), OUT, (1, 1), "run"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_wrong(bus, out, runs, reason):
    with pytest.raises(ValueError, match=reason):
        Concat((bus,), out, runs)
