"""Bits of pruned weights: relative indices with fillers, bitmap, tiles; by hand, and by reading them back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.storage import best_relative, bitmap_bits, relative_bits, tile_bits
from tcompile.passes.tile_view import TileView

SPARSE = arrays(np.int64, st.integers(0, 80), elements=st.sampled_from([0, 0, 0, 0, 0, 1, -1]))


def entries(weights: np.ndarray, index: int) -> list[tuple[int, int]]:
    """(zeros skipped, weight) as a reader of the memory would need them."""
    found, zeros, top = [], 0, (1 << index) - 1
    for w in weights.tolist():
        if w == 0 and zeros < top:
            zeros += 1
        else:
            found.append((zeros, w))
            zeros = 0
    while found and found[-1][1] == 0:  # zeros at the end need no entry
        found.pop()
    return found


@given(SPARSE, st.integers(1, 8))
def test_relative_indices_as_they_would_be_written(weights: np.ndarray, index: int) -> None:
    written = entries(weights, index)
    read: list[int] = []
    for zeros, w in written:
        read += [0] * zeros + [w]
    assert read == weights.tolist()[: len(read)] and not any(weights.tolist()[len(read) :])
    assert relative_bits(weights, 2, index) == len(written) * (2 + index)


def test_relative_indices_by_hand() -> None:
    """Gaps 0, 3, 8: with two bits the last needs two fillers of four zeros each, with three bits one of eight."""
    weights = np.array([1, 0, 0, 0, -1, *[0] * 8, 1])
    assert relative_bits(weights, 2, 2) == (3 + 2) * 4
    assert relative_bits(weights, 2, 3) == (3 + 1) * 5
    assert relative_bits(weights, 2, 4) == 3 * 6
    assert best_relative(weights, 2) == (18, 4)


def test_relative_indices_wrong_without_fillers() -> None:
    weights = np.array([1, 0, 0, 0, -1, *[0] * 8, 1])
    assert relative_bits(weights, 2, 2) != 3 * 4


def test_an_index_costs_more_than_a_ternary_weight_unless_most_are_zero() -> None:
    rng = np.random.default_rng(0)
    for zeros, pays in ((0.5, False), (0.95, True)):
        weights = rng.choice([-1, 1], 4000) * (rng.random(4000) >= zeros)
        assert (best_relative(weights, 2)[0] < 2 * weights.size) == pays


def test_bitmap_by_hand() -> None:
    assert bitmap_bits(np.array([[1, 0, 0], [-1, 0, 0]]), 2) == 6 + 4


def test_tiles_count_what_is_kept_with_its_padding() -> None:
    weights = np.zeros((3, 5), np.int64)
    weights[2, 4] = 1
    view = TileView.of(weights.shape, 2, 4)
    assert tile_bits(weights, 2, view) == 8 * 2
    assert tile_bits(np.ones((3, 5), np.int64), 2, view) == 4 * 8 * 2


@pytest.mark.parametrize("weights", [np.zeros(7, np.int64), np.zeros((0,), np.int64)])
def test_nothing_costs_nothing(weights: np.ndarray) -> None:
    assert best_relative(weights, 2) == (0, 1) and bitmap_bits(weights, 2) == weights.size
