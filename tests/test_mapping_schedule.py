"""Schedules carried out on symbols: what a position adds up is its row of the matrix, and nothing more is stored."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.engine import booth_digits
from tcompile.mapping.folding import Fold
from tcompile.mapping.geometry import Geometry
from tcompile.mapping.layout import Layout, channels_last
from tcompile.mapping.linear import Linear, linear
from tcompile.mapping.schedule import Schedule, schedule, tiled
from tests.networks import Builder


def conv(weight: np.ndarray, group: int = 1, size: int = 9, **window: object) -> Linear:
    """A convolution over an image that is large enough."""
    b = Builder()
    x = b.input((1, group * weight.shape[1], *(size,) * (weight.ndim - 2)))
    b.conv(x, weight, group=group, **window)
    return linear(b.nodes[-1], channels_last(b.shape(x), 1))


def geometry(layer: Linear, fold: Fold) -> Geometry:
    """The window of a layer after padding and packing."""
    if layer.is_packed(fold):
        grid = (*layer.padded_grid[:-1], layer.out[-1])
        words = -(-layer.kernel[-1] * layer.channels // fold.simd)
        return Geometry(grid, (*layer.kernel[:-1], 1), (*layer.strides[:-1], 1), (*layer.dilations[:-1], 1), words)
    lanes = fold.pe if layer.is_depthwise else fold.simd
    words = -(-layer.groups * layer.channels // lanes)
    return Geometry(layer.padded_grid, layer.kernel, layer.strides, layer.dilations, words)


def carried_out(layer: Linear, fold: Fold, g: Geometry, plan: Schedule) -> np.ndarray:
    """Factor of every element of the window in every sum: (row blocks * PE, words, lanes)."""
    lanes = fold.pe if layer.is_depthwise else fold.simd
    blocks: list[np.ndarray] = []
    tile = 0
    running = False
    for e in plan.entries:
        if not running:
            blocks.append(np.zeros((fold.pe, g.span, lanes), np.int64))
        part = booth_digits(plan.tiles[tile], e.digit) << (2 * e.digit)
        assert part.any() or (e.last and not running), "an entry that adds nothing beside others"
        if layer.is_depthwise:
            blocks[-1][np.arange(fold.pe), e.offset, np.arange(fold.pe)] += part[:, 0]
        else:
            blocks[-1][:, e.offset] += part
        tile += e.next
        running = not e.last
    assert not running
    assert tile == plan.words - 1
    return np.concatenate(blocks)


def wanted(layer: Linear, weight: np.ndarray, fold: Fold, g: Geometry, rows: int) -> np.ndarray:
    """The same, weight by weight from the ONNX tensor (M, C / group, *kernel)."""
    lanes = fold.pe if layer.is_depthwise else fold.simd
    result = np.zeros((rows, g.span, lanes), np.int64)
    share, per_group = weight.shape[1], len(weight) // layer.groups
    for m, c, *tap in product(*map(range, weight.shape)):
        channel = m // per_group * share + c
        row = (m // per_group) * (-(-per_group // fold.pe) * fold.pe) + m % per_group
        row = m if layer.is_depthwise else row
        if layer.is_packed(fold):
            channel, tap = tap[-1] * share + c, [*tap[:-1], 0]
        place = [t * d for t, d in zip(tap, g.dilations, strict=True)]
        word = int(np.ravel_multi_index(place, g.grid)) * g.words + channel // lanes
        result[row, word, channel % lanes] += weight[
            (m, c, *(tap if not layer.is_packed(fold) else _original(tap, channel, share)))
        ]
    return result


def _original(tap: list[int], element: int, share: int) -> list[int]:
    """The tap of an element of a packed row."""
    return [*tap[:-1], element // share]


@st.composite
def cases(draw):
    kind = draw(st.sampled_from(["plain", "grouped", "depthwise"]))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(draw(st.integers(1, 2))))
    group = 1 if kind == "plain" else draw(st.integers(2, 4))
    share = 1 if kind == "depthwise" else draw(st.integers(1, 6))
    rows = group if kind == "depthwise" else group * draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    high = draw(st.sampled_from([1, 2, 8, 128]))
    weight = generator.integers(-high, max(2, high), (rows, share, *kernel))
    weight = weight * (generator.random(weight.shape) < draw(st.sampled_from([0.05, 0.3, 1.0])))
    layer = conv(weight, group, dilations=[draw(st.integers(1, 2)) for _ in kernel])
    return layer, weight, layer.fit(draw(st.integers(1, 8)), draw(st.integers(1, 20)))


@given(cases())
@settings(max_examples=150)
def test_schedule_gives_the_matrix_back(case):
    layer, weight, fold = case
    g = geometry(layer, fold)
    plan = schedule(layer, fold, g)
    found = carried_out(layer, fold, g, plan)
    assert np.array_equal(found, wanted(layer, weight, fold, g, len(found)))


@given(cases())
@settings(max_examples=60)
def test_only_tiles_that_hold_a_weight_are_stored(case):
    layer, _, fold = case
    tiles = tiled(layer, fold)
    plan = schedule(layer, fold, geometry(layer, fold))
    assert plan.tiles_all == tiles.shape[0] * tiles.shape[1]
    held = [t for block in tiles for t in ([t for t in block if t.any()] or [np.zeros_like(block[0])])]
    assert plan.words == len(held)
    assert all(np.array_equal(a, b) for a, b in zip(plan.tiles, held, strict=True))
    digits = [
        sum(bool(booth_digits(t, d).any()) for d in range(layer.planes)) for t in tiles.reshape(-1, *tiles.shape[2:])
    ]
    per_block = np.reshape(digits, tiles.shape[:2]).sum(axis=1)
    assert len(plan.entries) == np.maximum(per_block, 1).sum()
    assert plan.shortest == max(1, per_block.min())


def test_row_block_without_weights_has_one_entry_for_a_tile_of_zeros():
    weight = np.zeros((4, 2, 1), int)
    weight[2] = 1
    plan = schedule(conv(weight), Fold(1, 2), Geometry((9,), (1,), (1,), (1,), 1))
    assert plan.tiles.any(axis=(1, 2)).tolist() == [False, False, True, False]
    assert [e.next for e in plan.entries] == [True, True, True, False]
    assert all(e.last and (e.offset, e.digit) == (0, 0) for e in plan.entries)


def test_layer_without_weights_stores_zeros_for_each_row_block():
    plan = schedule(conv(np.zeros((3, 2, 1), int)), Fold(2, 2), Geometry((9,), (1,), (1,), (1,), 1))
    assert (plan.words, plan.tiles.any(), plan.tiles_all, len(plan.entries)) == (2, False, 2, 2)


def test_passes_go_from_low_digits_to_high_and_leave_out_zeros():
    plan = schedule(conv(np.array([[[64]], [[1]]])), Fold(1, 1), Geometry((9,), (1,), (1,), (1,), 1))
    assert [(e.digit, e.next) for e in plan.entries] == [(3, True), (0, False)]
    plan = schedule(conv(np.array([[[65]], [[17]]])), Fold(2, 1), Geometry((9,), (1,), (1,), (1,), 1))
    assert [(e.digit, e.last) for e in plan.entries] == [(0, False), (2, False), (3, True)]


@pytest.mark.parametrize("shape, group, limits", [((6, 4, 3, 3), 1, (6, 12)), ((6, 4, 3, 1), 1, (6, 4)), ((6, 2, 3, 3), 2, (3, 2)), ((4, 1, 3, 3), 4, (4, 1)), ((4, 1, 3, 3), 1, (4, 3)), ((8, 1, 3, 3), 4, (2, 1))])  # fmt: skip
def test_limits(shape, group, limits):
    layer = conv(np.ones(shape, int), group)
    assert layer.limits() == limits
    assert layer.is_depthwise == (group == 4 and shape[0] == 4)
    assert layer.fit(100, 100) == Fold(*limits)
    assert layer.legal(*limits)
    assert not layer.legal(limits[0] + 1, 1)
    assert not layer.legal(1, limits[1] + 1)
    assert not layer.legal(0, 1)
    assert not layer.legal(1, 0)


def test_groups_are_divided_and_others_padded():
    grouped, plain = conv(np.ones((12, 6, 1), int), 2), conv(np.ones((6, 6, 1), int))
    legal = {(p, s) for p, s in product(range(1, 8), repeat=2) if grouped.legal(p, s)}
    assert legal == set(product((1, 2, 3, 6), repeat=2))
    assert {(p, s) for p, s in product(range(1, 8), repeat=2) if plain.legal(p, s)} == set(
        product(range(1, 7), repeat=2)
    )
    assert (grouped.fit(5, 4), plain.fit(5, 4)) == (Fold(3, 3), Fold(5, 4))
    assert (grouped.fit(1, 6), grouped.fit(6, 1)) == (Fold(1, 6), Fold(6, 1))


def test_rows_are_packed_where_channels_alone_leave_lanes_empty():
    layer = conv(np.ones((2, 3, 3, 3), int))
    assert [layer.is_packed(Fold(1, simd)) for simd in (3, 4, 9)] == [False, True, True]
    assert not conv(np.ones((2, 3, 3, 1), int)).is_packed(Fold(1, 9))
    assert not conv(np.ones((4, 1, 3, 3), int), 2).is_packed(Fold(1, 3))


@pytest.mark.parametrize("weight, width, planes", [(0, 2, 1), (1, 2, 1), (-1, 2, 1), (-2, 2, 1), (2, 3, 2), (-8, 4, 2), (8, 5, 3), (127, 8, 4), (-256, 9, 5)])  # fmt: skip
def test_weight_width_and_passes(weight, width, planes):
    layer = conv(np.array([[[weight]]]))
    assert (layer.width, layer.planes) == (width, planes)


def test_numbers_of_a_convolution():
    layer = conv(np.ones((6, 2, 3, 2), int), 2, pads=[1, 0, 2, 1], strides=[2, 3], dilations=[1, 2], pad_code=-3)
    assert (layer.groups, layer.rows, layer.channels, layer.MH, layer.MW) == (2, 3, 2, 6, 12)
    assert (layer.grid, layer.padded_grid, layer.out, layer.code) == ((9, 9), (12, 10), (5, 3), -3)
    assert (layer.kernel, layer.strides, layer.dilations) == ((3, 2), (2, 3), (1, 2))
    assert layer.needs.is_like(channels_last((1, 4, 9, 9), 1))


def dense(shape: tuple[int, ...], source: Layout, weight: np.ndarray) -> Linear:
    b = Builder()
    b.dense(b.input(shape), weight)
    return linear(b.nodes[-1], source)


def test_dense_layer_over_a_whole_frame_takes_any_order():
    weight = np.arange(24).reshape(2, 12)
    order = np.random.default_rng(0).permutation(12)
    layer = dense((1, 12), Layout((1, 12), (2, 3), 2, order), weight)
    assert layer.needs is None
    assert (layer.grid, layer.kernel, layer.out, layer.code) == ((2, 3), (2, 3), (1, 1), 0)
    assert np.array_equal(layer.weights.reshape(2, 12), weight[:, order])
    assert layer.weights.shape == (1, 2, 6, 2)


def test_dense_layer_over_rows_wants_them_as_channels():
    weight = np.arange(8).reshape(2, 4)
    layer = dense((1, 3, 4), channels_last((1, 3, 4), 1), weight)
    assert layer.needs.is_like(channels_last((1, 3, 4), 2))
    assert (layer.grid, layer.kernel, layer.out) == ((3,), (1,), (3,))
    assert np.array_equal(layer.weights.reshape(2, 4), weight)
