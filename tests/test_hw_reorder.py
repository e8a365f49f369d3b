"""Reorder gives each frame's elements in the order of its memory, an element per cycle frame after frame."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import Bus
from hw.reorder import Reorder
from tests.gateware import Stalls, bench

BUS = Bus(1, 6, signed=True)
FRAMES = 6


def frames(beats: int) -> np.ndarray:
    return np.random.default_rng(beats).integers(-32, 32, (FRAMES, beats))


def shuffled(beats: int) -> list[int]:
    return np.random.default_rng(beats).permutation(beats).tolist()


def turned(beats: int) -> list[int]:
    """The last element first: every place is read as long after or as shortly before a writing as can be."""
    return list(range(beats))[::-1]


@pytest.mark.parametrize("beats", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("order", [shuffled, turned])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_elements_come_in_the_order_of_the_memory(beats, order, seed):
    block, x = Reorder(BUS, beats), frames(beats)
    stalls = Stalls() if seed is None else Stalls.random(seed, block)
    run = bench(block, [x.reshape(-1, 1)], {"order": block.words(order(beats))}, stalls)
    assert np.array_equal(run.outputs[0].reshape(FRAMES, beats), x[:, order(beats)])


@pytest.mark.parametrize("beats", [1, 2, 8, 13])
def test_an_element_passes_per_cycle(beats):
    block = Reorder(BUS, beats)
    run = bench(block, [frames(beats).reshape(-1, 1)], {"order": block.words(turned(beats))})
    first = beats - 1 + block.latency
    assert run.taken[0] == list(range(FRAMES * beats))
    assert run.given[0] == list(range(first, first + FRAMES * beats))


def test_two_frames_and_the_outbox_are_held_while_the_output_waits():
    block = Reorder(BUS, 8)
    run = bench(block, [frames(8).reshape(-1, 1)], {"order": block.words(turned(8))}, Stalls(sinks=((90,),)))
    assert [t < 90 for t in run.taken[0]].index(False) == 16


def test_flickering_ready_changes_no_value():
    block = Reorder(BUS, 5)
    bench(block, [frames(5).reshape(-1, 1)], {"order": block.words(turned(5))}, Stalls(flicker=4))


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 3], [-1, 0, 1]])
def test_orders_that_leave_the_frame_are_refused_wrong(order):
    with pytest.raises(ValueError, match="3 places from 0 to 2"):
        Reorder(BUS, 3).words(order)


@pytest.mark.parametrize("bus, beats, reason", [(Bus(2, 6), 4, "1 element, not 2"), (BUS, 0, "at least 1")])
def test_frames_that_cannot_be_are_refused_wrong(bus, beats, reason):
    with pytest.raises(ValueError, match=reason):
        Reorder(bus, beats)
