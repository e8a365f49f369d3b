"""The order in which elements arrive, and what becomes of it when only names change."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.block import Bus
from tcompile.ir import integer as I
from tcompile.ir.graph import IntType
from tcompile.ir.interpret import apply
from tcompile.ir.requantizers import Table
from tcompile.mapping.converters import _period
from tcompile.mapping.layout import Layout, channels_last
from tcompile.mapping.layouts import canonical_axis, layouts, usual
from tests.networks import Builder

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(lambda sizes: (1, *sizes))


def streamed(layout: Layout, x: np.ndarray) -> list[int]:
    """The elements of one frame in the order of their arrival."""
    return x.reshape(-1)[layout.order].tolist()


@given(SHAPES, st.data())
def test_channels_last_is_numpys(shape, data):
    axis = data.draw(st.integers(1, len(shape) - 1))
    layout = channels_last(shape, axis)
    x = np.arange(prod(shape)).reshape(shape)
    assert streamed(layout, x) == np.moveaxis(x, axis, -1).reshape(-1).tolist()
    assert layout.channels == shape[axis]
    assert layout.grid == (tuple(n for k, n in enumerate(shape) if k not in (0, axis)) or (1,))
    assert layout.positions * layout.channels == prod(shape)
    assert channels_last(shape, axis - len(shape)).is_like(layout)


def test_channels_on_the_first_axis():
    layout = channels_last((1, 2, 3), 0)
    assert (layout.grid, layout.channels, layout.order.tolist()) == ((2, 3), 1, list(range(6)))
    alone = channels_last((1,), 0)
    assert (alone.grid, alone.channels) == ((1,), 1)


@given(SHAPES, st.integers(1, 5), st.integers(1, 3), st.data())
def test_beats_hold_position_by_position(shape, lanes, frames, data):
    layout = channels_last(shape, data.draw(st.integers(1, len(shape) - 1)))
    x = np.arange(1, 1 + frames * prod(shape)).reshape(frames, *shape)
    bus = Bus(lanes, 16)
    beats = layout.to_beats(x, bus)
    wanted = []
    for frame in x:
        flat = streamed(layout, frame)
        for p in range(layout.positions):
            position = flat[p * layout.channels : (p + 1) * layout.channels]
            position += [0] * (-len(position) % lanes)
            wanted += [position[k : k + lanes] for k in range(0, len(position), lanes)]
    assert beats.tolist() == wanted
    assert len(beats) == frames * layout.beats(lanes)
    filled = np.where(beats == 0, 99, beats)  # what fills a beat is nobody's
    assert np.array_equal(layout.from_beats(filled, bus), x)


def test_layouts_are_like_each_other_by_order_and_cut():
    image = channels_last((1, 2, 2, 3), 1)
    assert image.is_like(Layout((12,), (2, 3), 2, image.order.copy()))
    assert not image.is_like(Layout(image.shape, (3, 2), 2, image.order))
    assert not image.is_like(Layout(image.shape, (2, 3), 2, image.order[::-1]))
    assert not image.is_like(Layout(image.shape, (12,), 1, image.order))


@given(SHAPES, st.data())
def test_canonical_axis_is_found(shape, data):
    axis = data.draw(st.integers(1, len(shape) - 1))
    layout = channels_last(shape, axis)
    found = canonical_axis(layout)
    assert found is not None
    assert channels_last(shape, found).is_like(layout)


def test_images_then_rows_are_tried_first():
    ones = channels_last((1, 1, 1), 1)
    assert canonical_axis(ones) == 1
    assert canonical_axis(channels_last((1, 2, 3, 4), 3)) == 3
    assert canonical_axis(channels_last((1, 2, 3, 4), 2)) == 2
    assert canonical_axis(Layout((1, 2, 3), (3,), 2, np.arange(6))) is None


def test_images_have_their_channels_on_axis_1():
    assert usual((1, 3, 4)).is_like(channels_last((1, 3, 4), 1))
    assert usual((5,)).channels == 5


@given(SHAPES, st.data())
def test_reshape_and_transpose_rename_elements_on_their_way(shape, data):
    b = Builder()
    x = b.input(shape, 0, 1)
    perm = (0, *(1 + p for p in data.draw(st.permutations(range(len(shape) - 1)))))
    b.reshape(b.transpose(x, perm), (1, prod(shape)))
    known = layouts(b.graph("v2"))
    value = np.arange(prod(shape)).reshape(shape)
    turned = value.transpose(perm)
    assert streamed(known["v1"], turned) == streamed(known["v0"], value) == streamed(known["v2"], turned.reshape(1, -1))
    assert {(k.grid, k.channels) for k in known.values()} == {(known["v0"].grid, known["v0"].channels)}
    assert [k.shape for k in known.values()] == [shape, turned.shape, (1, prod(shape))]


@given(SHAPES, st.data())
def test_slice_backwards_is_the_slice_forwards_renamed(shape, data):
    b = Builder()
    x = b.input(shape, 0, 1)
    starts, steps, sizes = [], [], []
    for n in shape:
        step, size = data.draw(st.sampled_from([1, -1, 2, -2])), 0
        size = data.draw(st.integers(1, -(-n // abs(step))))
        first = data.draw(st.integers(0, n - 1 - (size - 1) * abs(step)))
        starts.append(first if step > 0 else first + (size - 1) * -step)
        steps.append(step)
        sizes.append(size)
    y = b.slice(x, starts, steps, sizes)
    known = layouts(b.graph(y))
    value = np.arange(prod(shape)).reshape(shape)
    node = b.nodes[-1]
    cut = apply(node, [value[None]], [IntType(shape, 0, 1)])[0]
    axis = canonical_axis(known[x])
    forwards = cut[tuple(slice(None, None, -1 if s < 0 else 1) for s in steps)]
    assert streamed(known[y], cut) == streamed(channels_last(tuple(sizes), axis), forwards)


@pytest.mark.parametrize(
    "make, axis",
    [
        (lambda b, x: b.dense(x, np.ones((2, 5), int)), 3),
        (lambda b, x: b.conv(x, np.ones((2, 3, 1, 1), int)), 1),
        (lambda b, x: b.pool(x, (1, 1)), 1),
        (lambda b, x: b.pool(x, (1, 1), maximum=False), 1),
        (lambda b, x: b.add_scaled(x, x), 1),
        (lambda b, x: b.dense(b.requantize(x, Table([0], [range(16)])), np.ones((2, 5), int)), 3),
        (lambda b, x: b.dense(b.add_scaled(x, x), np.ones((2, 5), int)), 3),
        (lambda b, x: b.dense(b.transpose(x, (0, 1, 2, 3)), np.ones((2, 5), int)), 1),
        (lambda b, x: x, 1),
    ],
)
def test_input_comes_as_its_first_consumer_wants_it(make, axis):
    b = Builder()
    x = b.input((1, 3, 4, 5))
    known = layouts(b.graph(make(b, x)))
    assert known[x].is_like(channels_last((1, 3, 4, 5), axis))


def test_input_serves_its_first_consumer():
    b = Builder()
    x = b.input((1, 3, 4, 5))
    pooled, summed = b.pool(x, (1, 1)), b.dense(x, np.ones((2, 5), int))
    assert layouts(b.graph(pooled, summed))[x].is_like(channels_last((1, 3, 4, 5), 1))


@pytest.mark.parametrize("axis", [1, 3])
def test_concat_and_pad_keep_the_order_of_their_first_input(axis):
    b = Builder()
    x = b.input((1, 3, 4, 5))
    first = b.dense(x, np.ones((5, 5), int)) if axis == 3 else b.pool(x, (1, 1))
    joined = b.concat([first, x], 2)
    padded = b.pad(first, (0, 0, 0, 1, 0, 0, 0, 0), 0)
    known = layouts(b.graph(joined, padded))
    assert canonical_axis(known[joined]) == canonical_axis(known[padded]) == axis


def test_concat_of_what_has_no_axis_comes_as_images():
    b = Builder()
    flat = b.reshape(b.input((1, 3, 4)), (1, 12))
    pair = b.concat([flat, flat], 1)
    assert layouts(b.graph(pair))[pair].is_like(usual((1, 24)))


def test_argmax_gives_one_element_per_position():
    b = Builder()
    x = b.input((1, 3, 4))
    index = b.argmax(x, 2)
    found = layouts(b.graph(index))[index]
    assert (found.shape, found.grid, found.channels, found.order.tolist()) == ((1, 3, 1), (3,), 1, [0, 1, 2])


def test_sums_come_in_the_order_of_the_layer():
    b = Builder()
    x = b.input((1, 2, 3))
    y = b.dense(x, np.ones((4, 3), int))
    assert isinstance(b.nodes[-1], I.Dense)
    assert layouts(b.graph(y))[y].is_like(channels_last((1, 2, 4), 2))


@pytest.mark.parametrize("order, period", [
    ([0], 1), ([0, 1, 2, 3], 1), ([1, 0, 3, 2], 2), ([1, 0, 2, 3], 4), ([3, 2, 1, 0], 4), ([0, 2, 1, 3, 4, 6, 5, 7], 4),
    ([2, 0, 1, 5, 3, 4], 3), ([1, 0, 2, 4, 3, 5, 6, 7], 8),
])  # fmt: skip
def test_a_reorder_holds_no_more_than_what_changes_places(order, period):
    assert _period(np.array(order)) == period
