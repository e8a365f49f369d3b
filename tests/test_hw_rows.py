"""The row packer gives the pixels under the kernel for every output column, and nothing of the row before."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import Bus
from hw.rows import RowPacker
from tests.gateware import Stalls, bench

# width, kernel, stride, dilation, before, after
SHAPES = [
    (6, 3, 1, 1, 1, 1),
    (7, 3, 2, 1, 0, 1),
    (5, 1, 1, 1, 0, 0),
    (5, 1, 2, 1, 0, 0),
    (9, 3, 2, 2, 2, 1),
    (4, 2, 3, 1, 0, 0),
    (3, 2, 1, 1, 3, 4),
    (1, 3, 1, 1, 1, 1),
    (6, 2, 4, 1, 1, 0),
    (2, 1, 5, 1, 0, 0),
]
ROWS = 4


def packer(width: int, kernel: int, stride: int, dilation: int, before: int, after: int, code: int = -3) -> RowPacker:
    out = Bus(2 * kernel, 5, signed=True)
    return RowPacker(Bus(2, 4), out, width, kernel, stride, dilation, before, after, code)


def pixels(block: RowPacker) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 16, (ROWS, block.width, 2))


def pixel(row: np.ndarray, x: int) -> list[int]:
    return row[x].tolist() if 0 <= x < len(row) else [-3, -3]


def columns(row: np.ndarray, block: RowPacker) -> list[list[int]]:
    starts = range(-block.before, len(row) + block.after - (block.kernel - 1) * block.dilation, block.stride)
    taps = [[pixel(row, x + tap * block.dilation) for tap in range(block.kernel)] for x in starts]
    return np.array(taps).reshape(len(starts), -1).tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_columns_hold_the_pixels_under_the_kernel(shape, seed):
    block = packer(*shape)
    x = pixels(block)
    stalls = Stalls() if seed is None else Stalls.random(seed, block)
    run = bench(block, [x.reshape(-1, 2)], stalls=stalls)
    assert run.outputs[0].tolist() == [column for row in x for column in columns(row, block)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_takes_its_steps(shape):
    block = packer(*shape)
    run = bench(block, [pixels(block).reshape(-1, 2)])
    assert np.all(np.diff(run.given[0][:: block.columns]) == block.steps)


def test_column_is_valid_a_latency_after_its_last_pixel():
    block = packer(6, 3, 1, 1, 1, 1)
    run = bench(block, [pixels(block)[0]])
    assert run.given[0][0] - block.before - run.taken[0][0] - 1 == block.latency


def test_flickering_ready_changes_no_value():
    block = packer(9, 3, 2, 2, 2, 1)
    bench(block, [pixels(block).reshape(-1, 2)], stalls=Stalls(flicker=4))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"stride": 0}, "at least 1"),
        ({"after": -1}, "at least 1"),
        ({"dilation": 5}, "spans 11 pixels"),
        ({"out": Bus(4, 5, signed=True)}, "6 lanes"),
        ({"out": Bus(6, 4, signed=True)}, "at least 5 bits"),
        ({"code": 16}, "from -16 to 15"),
    ],
)
def test_rows_that_cannot_be_are_refused_wrong(change, reason):
    good = packer(6, 3, 1, 1, 1, 1)
    with pytest.raises(ValueError, match=reason):
        RowPacker(**{**vars(good), **change})
