"""The index of the largest channel, first of equals, whatever fills the lanes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.argmax import ArgMax
from hw.block import Bus
from tests.gateware import Stalls, bench

OUT = Bus(1, 5)


def positions(channels: int, count: int = 30) -> np.ndarray:
    """Positions with many equal elements; some hold their largest element in one channel only."""
    generator = np.random.default_rng(channels)
    x = generator.integers(-3, 2, (count, channels))
    x[np.arange(0, count, 2), np.arange(0, count, 2) % channels] = 3
    return x


def beats(x: np.ndarray, lanes: int, fill: int = 3) -> np.ndarray:
    """Positions as beats, filled up with the largest element of all."""
    return np.pad(x, [(0, 0), (0, -x.shape[1] % lanes)], constant_values=fill).reshape(-1, lanes)


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("channels", [1, 2, 10, 17])
def test_index_of_the_largest(lanes, channels):
    x = positions(channels)
    done = bench(ArgMax(Bus(lanes, 3, signed=True), OUT, channels), [beats(x, lanes)])
    assert np.array_equal(done.outputs[0][:, 0], x.argmax(axis=1))


@pytest.mark.parametrize("lanes", [1, 4])
def test_unsigned_elements(lanes):
    x = np.random.default_rng(0).integers(0, 8, (40, 6))
    done = bench(ArgMax(Bus(lanes, 3), OUT, 6), [beats(x, lanes, fill=7)])
    assert np.array_equal(done.outputs[0][:, 0], x.argmax(axis=1))


@pytest.mark.parametrize("seed, outbox", [(0, 0), (1, 0), (2, 1)])
@pytest.mark.parametrize("lanes, channels", [(2, 5), (4, 3), (1, 6)])
def test_stalls_move_transfers_as_the_timing_says(seed, lanes, channels, outbox):
    block = ArgMax(Bus(lanes, 3, signed=True), OUT, channels, outbox)
    bench(block, [beats(positions(channels), lanes)], stalls=Stalls.random(seed, block))


def test_flickering_ready_changes_no_value():
    bench(ArgMax(Bus(2, 3, signed=True), OUT, 5), [beats(positions(5), 2)], stalls=Stalls(flicker=1))


@pytest.mark.parametrize("lanes, channels", [(1, 3), (2, 5), (8, 8)])
def test_one_beat_per_cycle_after_the_latency(lanes, channels):
    block = ArgMax(Bus(lanes, 3, signed=True), OUT, channels)
    done = bench(block, [beats(positions(channels), lanes)])
    assert done.taken[0] == list(range(30 * block.beats))
    assert done.given[0] == [t + block.latency for t in done.taken[0][block.beats - 1 :: block.beats]]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channels": 0}, "at least 1"),
        ({"channels": 33}, "must hold 32"),
        ({"o": Bus(1, 5, signed=True)}, "must hold 19"),
        ({"o": Bus(2, 8)}, "one element"),
        ({"outbox": -1}, "outbox"),
    ],
)
def test_descriptions_that_cannot_be_are_refused_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ArgMax(Bus(2, 3), OUT, 20), **changes)
