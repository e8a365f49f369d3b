"""Pad puts a frame into a larger one, Slice takes a part of it; both count axes in beats."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from hw.block import Bus
from hw.pad import Pad
from hw.slice import Slice
from tests.gateware import Stalls, bench

BUS = Bus(2, 4, signed=True)
FRAMES = 3
# grid, before, inner
PADS = {
    "image": ((5, 6, 2), (1, 2, 0), (3, 3, 2)),
    "channels": ((3, 4), (0, 1), (3, 2)),
    "end": ((7,), (0,), (4,)),
    "begin": ((7,), (3,), (4,)),
    "none": ((2, 3), (0, 0), (2, 3)),
    "single": ((2, 3, 1), (1, 1, 0), (1, 1, 1)),
}
# grid, starts, steps, sizes
SLICES = {
    "image": ((4, 6, 2), (1, 1, 0), (2, 3, 1), (2, 2, 2)),
    "channels": ((3, 5), (0, 2), (1, 1), (3, 2)),
    "steps": ((9,), (0,), (2,), (5,)),
    "short": ((9,), (1,), (3,), (2,)),
    "all": ((3, 1, 2), (0, 0, 0), (1, 1, 1), (3, 1, 2)),
    "one": ((3, 4), (2, 3), (5, 4), (1, 1)),
}


def pad(case: str, out: Bus = Bus(2, 5, signed=True), code: int = -9) -> Pad:
    grid, before, inner = PADS[case]
    return Pad(BUS, out, grid, before, inner, code)


def part(case: str) -> Slice:
    return Slice(BUS, *SLICES[case])


def frames(grid: tuple[int, ...]) -> np.ndarray:
    """Frames (FRAMES, *grid, lanes)."""
    return np.random.default_rng(1).integers(-8, 8, (FRAMES, *grid, BUS.lanes))


def stalls(seed: int | None, block: Pad | Slice) -> Stalls:
    return Stalls() if seed is None else Stalls.random(seed, block)


@pytest.mark.parametrize("case", PADS)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_pad_surrounds_the_frame(case, seed):
    block = pad(case)
    x = frames(block.inner)
    run = bench(block, [x.reshape(-1, 2)], stalls=stalls(seed, block))
    around = [(b, n - b - i) for n, b, i in zip(block.grid, block.before, block.inner, strict=True)]
    wanted = np.pad(x, [(0, 0), *around, (0, 0)], constant_values=-9)
    assert np.array_equal(run.outputs[0], wanted.reshape(-1, 2))


def test_unsigned_elements_keep_their_values_in_a_signed_output():
    block = Pad(Bus(2, 4), Bus(2, 5, signed=True), (3,), (1,), (1,), -1)
    run = bench(block, [np.array([[15, 8]])])
    assert run.outputs[0].tolist() == [[-1, -1], [15, 8], [-1, -1]]


@pytest.mark.parametrize("case", PADS)
def test_pad_gives_a_beat_per_cycle(case):
    run = bench(pad(case), [frames(pad(case).inner).reshape(-1, 2)])
    assert run.given[0] == list(range(1, 1 + FRAMES * prod(pad(case).grid)))


def test_pad_makes_nothing_of_a_frame_that_has_not_begun():
    late = Stalls(sources=((0, 0, 0, 0, 50),))
    run = bench(pad("begin"), [frames((4,)).reshape(-1, 2)[:8]], stalls=late)
    assert [t for t in run.given[0] if 8 <= t <= run.taken[0][4]] == []


@pytest.mark.parametrize("case", SLICES)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_slice_takes_a_part_of_the_frame(case, seed):
    block = part(case)
    x = frames(block.grid)
    run = bench(block, [x.reshape(-1, 2)], stalls=stalls(seed, block))
    axes = zip(block.starts, block.steps, block.sizes, strict=True)
    wanted = x[:, *(slice(start, None, step) for start, step, _ in axes)][:, *map(slice, block.sizes)]
    assert np.array_equal(run.outputs[0], wanted.reshape(-1, 2))


@pytest.mark.parametrize("case", SLICES)
def test_slice_takes_a_beat_per_cycle(case):
    run = bench(part(case), [frames(part(case).grid).reshape(-1, 2)])
    assert run.taken[0] == list(range(FRAMES * prod(part(case).grid)))


def test_slice_drops_beats_while_its_output_waits():
    run = bench(part("short"), [frames((9,)).reshape(-1, 2)], stalls=Stalls(sinks=((30,),)))
    assert run.taken[0][:5] == [0, 1, 2, 3, 30]


@pytest.mark.parametrize("make", [pad, part])
def test_flickering_ready_changes_no_value(make):
    block = make("image")
    grid = block.inner if isinstance(block, Pad) else block.grid
    bench(block, [frames(grid).reshape(-1, 2)], stalls=Stalls(flicker=4))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"grid": (5, 6)}, "as many axes"),
        ({"before": (3, 2, 0)}, "must lie in"),
        ({"before": (-1, 2, 0)}, "must lie in"),
        ({"inner": (0, 3, 2)}, "must lie in"),
        ({"out": Bus(3, 5, signed=True)}, "lanes"),
        ({"out": Bus(2, 3, signed=True)}, "at least 4 bits"),
        ({"code": -17}, "from -16 to 15"),
    ],
)
def test_pads_that_cannot_be_are_refused_wrong(change, reason):
    good = pad("image")
    with pytest.raises(ValueError, match=reason):
        Pad(**{**vars(good), **change})


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"sizes": (2, 2)}, "as many axes"),
        ({"sizes": (3, 2, 2)}, "must lie in"),
        ({"sizes": (0, 2, 2)}, "must lie in"),
        ({"steps": (0, 3, 1)}, "must lie in"),
        ({"starts": (-1, 1, 0)}, "must lie in"),
    ],
)
def test_slices_that_cannot_be_are_refused_wrong(change, reason):
    good = part("image")
    with pytest.raises(ValueError, match=reason):
        Slice(**{**vars(good), **change})


@pytest.mark.parametrize("block", [pad("end"), part("steps")])
def test_first_beat_comes_after_the_latency(block):
    beats = block.grid if isinstance(block, Slice) else block.inner
    run = bench(block, [frames(beats).reshape(-1, 2)])
    assert run.given[0][0] == run.taken[0][0] + block.latency
