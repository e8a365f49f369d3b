"""A window gives the words that numpy cuts out of the frame, in the cycles its timing says."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from amaranth.back import rtlil
from numpy.lib.stride_tricks import sliding_window_view

from hw.block import Bus
from hw.window import SHORT, Window
from tcompile.mapping.geometry import Geometry
from tests.gateware import Stalls, bench, passes_ready

FRAMES = 3
GEOMETRIES = {
    "3x3": Geometry((5, 6), (3, 3), (1, 1), (1, 1), 1),
    "stride 2": Geometry((5, 7), (3, 3), (2, 2), (1, 1), 1),
    "stride beyond the kernel": Geometry((5, 8), (2, 2), (3, 3), (1, 1), 1),
    "stride along one axis": Geometry((4, 6), (2, 3), (1, 3), (1, 1), 1),
    "dilated": Geometry((5, 6), (3, 2), (1, 1), (2, 3), 1),
    "dilated, stride 2": Geometry((6, 7), (2, 3), (2, 2), (3, 2), 1),
    "three words": Geometry((3, 4), (2, 2), (1, 1), (1, 1), 3),
    "five words, dilated": Geometry((3, 4), (2, 2), (1, 1), (2, 2), 5),
    "1x1": Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1),
    "1x1, stride 2, two words": Geometry((4, 5), (1, 1), (2, 2), (1, 1), 2),
    "one position": Geometry((2, 3), (2, 3), (1, 1), (1, 1), 2),
    "one position, words left over": Geometry((4, 4), (3, 3), (2, 2), (1, 1), 1),
    "dense": Geometry((), (), (), (), 6),
    "one axis": Geometry((9,), (4,), (2,), (1,), 2),
}


def window(g: Geometry, bus: Bus = Bus(2, 3)) -> Window:
    offsets = tuple(tap + word for tap in g.taps for word in range(g.words))
    return Window(bus, offsets, g.moves, g.frame)


def frames(block: Window, seed: int = 0, count: int = FRAMES) -> np.ndarray:
    low = -(1 << block.i.width - 1) if block.i.signed else 0
    span = 1 << block.i.width
    return np.random.default_rng(seed).integers(low, low + span, (count * block.frame_words, block.i.lanes))


def cut(x: np.ndarray, g: Geometry) -> np.ndarray:
    """The windows of a stream of frames: positions in order, in each the taps, in each the words."""
    stream = x.reshape(-1, *g.grid, g.words * x.shape[1])
    axes = tuple(range(1, 1 + len(g.grid)))
    reach = [(k - 1) * d + 1 for k, d in zip(g.kernel, g.dilations, strict=True)]
    found = sliding_window_view(stream, reach, axes)  # frame, positions, channels, taps
    found = found[:, *(slice(None, None, s) for s in g.strides), :, *(slice(None, None, d) for d in g.dilations)]
    return np.moveaxis(found, 1 + len(axes), -1).reshape(-1, prod(g.kernel) * g.words * x.shape[1])


@pytest.mark.parametrize("rests", [False, True])
@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_windows_are_what_is_cut_out_of_the_frames(name, seed, rests):
    g = GEOMETRIES[name]
    block = replace(window(g), rests=rests)
    x = frames(block)
    run = bench(block, [x], stalls=Stalls() if seed is None else Stalls.random(seed, block))
    assert np.array_equal(run.outputs[0], cut(x, g))
    assert len(run.outputs[0]) == FRAMES * block.positions


@pytest.mark.parametrize("name", ["stride 2", "three words", "dense"])
def test_flickering_ready_changes_no_value(name):
    block = window(GEOMETRIES[name], Bus(1, 4, signed=True))
    run = bench(block, [frames(block)], stalls=Stalls(flicker=3))
    assert len(run.outputs[0]) == FRAMES * block.positions


@pytest.mark.parametrize("gap", range(1, SHORT + 4))
def test_delays_in_registers_and_in_memories_are_as_long(gap):
    """Two lines of the same length share their counters; the third has its own."""
    block = Window(Bus(1, 8), (0, gap, 2 * gap, 2 * gap + SHORT + 1), ((5, 1),), 7)
    x = np.arange(50)[:, None]
    run = bench(block, [x], stalls=Stalls.random(gap, block))
    starts = np.array([frame + k for frame in range(0, 50, 11) for k in range(5)])[:, None]
    found = run.outputs[0]
    assert len(found) >= 12
    assert np.array_equal(found, (starts + np.array(block.offsets))[: len(found)])


@pytest.mark.parametrize("gap, memories", [(SHORT, 0), (SHORT + 1, 2)])
def test_long_delays_are_memories(gap, memories):
    text = rtlil.convert(Window(Bus(1, 8), (0, gap, 2 * gap), ((5, 1),), 7).component())
    assert len(re.findall(r"^ *memory ", text, re.M)) == memories


def test_window_takes_a_word_per_cycle():
    block = window(GEOMETRIES["stride 2"])
    run = bench(block, [frames(block)])
    assert run.taken[0] == list(range(FRAMES * 35))


def test_window_is_offered_in_the_cycle_after_its_last_word():
    block = window(GEOMETRIES["3x3"])
    run = bench(block, [frames(block)])
    last = [2 * 6 + 2 + y * 6 + x for y in range(3) for x in range(4)]  # word of the frame of 30
    assert block.latency == 1
    assert run.given[0] == [30 * k + t + 1 for k in range(FRAMES) for t in last]


def test_waiting_window_stops_the_stream():
    block = window(GEOMETRIES["1x1"])
    run = bench(block, [frames(block)], stalls=Stalls(sinks=((0, 5),)))
    assert run.taken[0][:4] == [0, 1, 7, 8]
    assert run.given[0][:4] == [1, 7, 8, 9]


def test_window_that_rests_takes_no_word_when_it_leaves():
    run = bench(replace(window(GEOMETRIES["1x1"]), rests=True), [frames(window(GEOMETRIES["1x1"]))])
    assert run.taken[0][:4] == [0, 2, 4, 6]
    assert run.given[0][:4] == [1, 3, 5, 7]


def test_no_path_leads_through_a_window_that_rests():
    block = window(GEOMETRIES["stride 2"])
    assert passes_ready(block)
    assert not passes_ready(replace(block, rests=True))


def test_numbers_of_a_window():
    block = window(GEOMETRIES["dilated, stride 2"])
    assert (block.span, block.positions, block.frame_words) == (3 * 7 + 4 + 1, 2 * 2, 6 * 7)
    assert block.outputs == (Bus(2 * 6, 3),)


@pytest.mark.parametrize("offsets", [(), (1, 2), (0, 2, 2), (0, 3, 1)])
def test_places_that_do_not_rise_from_0_are_refused_wrong(offsets):
    with pytest.raises(ValueError, match="must rise from 0"):
        Window(Bus(1, 4), offsets, ((2, 1),), 3)


@pytest.mark.parametrize("change", [{"moves": ((2, 0),)}, {"moves": ((2, 1), (2, -1))}, {"frame": 0}])
def test_window_that_does_not_move_on_is_refused_wrong(change):
    block = Window(Bus(1, 4), (0, 1), ((2, 1), (1, 0)), 3)
    with pytest.raises(ValueError, match="must move on by at least one word"):
        replace(block, **change)
