"""Requantizers as blocks: every element meets the parameters of its channel, in whatever order it comes."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.block import Bus
from hw.comparators import Comparators as ComparatorsBlock
from hw.quotient import Quotient
from hw.table import Table as TableBlock
from tcompile.ir import integer as I
from tcompile.ir.graph import IntType
from tcompile.ir.requantizers import Comparators, Division, Shift, Table
from tcompile.mapping.layout import Layout, channels_last
from tcompile.mapping.requantize import channels_of_lanes, is_identity, requantizer
from tests.networks import RandomNetwork

KIND = IntType((1, 3, 2, 5), -20, 43)
OUT = IntType(KIND.shape, -32, 31)


def node(form, axis=1, shape=KIND.shape) -> I.Requantize:
    return I.Requantize(name="y", inputs=("x",), type=IntType(shape, OUT.lo, OUT.hi), form=form, axis=axis)


def forms(seed: int, channels: int) -> list:
    net = RandomNetwork(seed)
    net.random = np.random.default_rng(seed)
    return [make(KIND, channels) for make in (net.comparators, net.table, net.division, net.shift)]


def arranged(layout: Layout, axis: int, lanes: int) -> list[list[int]]:
    """Channel of every lane of every beat of a frame; the lanes that only fill are -1."""
    index = np.broadcast_to(
        np.arange(layout.shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(layout.shape))]), layout.shape
    )
    return (layout.to_beats(1 + index[None], Bus(lanes, 8)) - 1).tolist()


@st.composite
def orders(draw):
    shape = (1, *(draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3)))))
    layout = channels_last(shape, draw(st.integers(0, len(shape) - 1)))
    if draw(st.booleans()):  # as after a reshape
        order = np.random.default_rng(draw(st.integers(0, 9))).permutation(prod(shape))
        layout = Layout(shape, layout.grid, layout.channels, order)
    return layout, draw(st.integers(0, len(shape) - 1)), draw(st.integers(1, 5))


@given(orders())
def test_every_lane_has_the_channel_of_its_element(case):
    layout, axis, lanes = case
    net = RandomNetwork(0)
    net.random = np.random.default_rng(0)
    form = net.table(KIND, layout.shape[axis])
    found = channels_of_lanes(node(form, axis, layout.shape), layout, lanes)
    beats = arranged(layout, axis, lanes)
    assert len(found) % lanes == 0
    for k, beat in enumerate(beats):
        mine = [found[(k * lanes + lane) % len(found)] for lane in range(lanes)]
        assert all(c in (-1, m) for c, m in zip(beat, mine, strict=True))


def test_parameters_repeat_as_soon_as_they_can():
    form = Table(np.zeros(3), ([0] * 64,) * 3)
    image = channels_last(KIND.shape, 1)
    assert channels_of_lanes(node(form), image, 2) == [0, 1, 2, 2]
    assert channels_of_lanes(node(form), image, 3) == [0, 1, 2]
    rows = channels_last((1, 3, 2, 1), 2)
    assert channels_of_lanes(node(form, 1, rows.shape), rows, 2) == [0, 0, 1, 1, 2, 2]
    assert channels_of_lanes(node(Table([0], ([0] * 64,))), image, 4) == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("axis", [1, 3])
def test_block_computes_the_form(kind, per_channel, lanes, axis):
    layout = channels_last(KIND.shape, 1)
    form = forms(10 * kind + axis, KIND.shape[axis] if per_channel else 1)[kind]
    i, o = Bus(lanes, 7, signed=True), Bus(lanes, 6, signed=True)
    block, memories = requantizer(node(form, axis), KIND, i, o, layout, 1)
    assert isinstance(block, (ComparatorsBlock, TableBlock, Quotient, Quotient)[kind])
    assert {n: (len(w), max(w) < 1 << block.memories[n].width) for n, w in memories.items()} == {
        n: (m.depth, True) for n, m in block.memories.items()
    }
    x = np.random.default_rng(kind).integers(KIND.lo, KIND.hi + 1, (20, *KIND.shape))
    x[0], x[1] = KIND.lo, KIND.hi
    (found,) = block.model([layout.to_beats(x, i)], memories)
    assert np.array_equal(layout.from_beats(found, o), form(x, axis + 1))


@given(st.integers(0, 1 << 20), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=40)
def test_block_computes_the_form_after_a_reshape(seed, lanes, kind):
    shape = (1, 30)
    order = np.random.default_rng(seed).permutation(30)
    layout = Layout(shape, (10,), 3, order)
    form = forms(seed, 30)[kind]
    i, o = Bus(lanes, 7, signed=True), Bus(lanes, 6, signed=True)
    block, memories = requantizer(node(form, 1, shape), IntType(shape, KIND.lo, KIND.hi), i, o, layout, 1 + seed % 9)
    x = np.random.default_rng(seed).integers(KIND.lo, KIND.hi + 1, (4, *shape))
    (found,) = block.model([layout.to_beats(x, i)], memories)
    assert np.array_equal(layout.from_beats(found, o), form(x, 2))


def linear(cls, **changes):
    one = np.array([0])
    parts = {"negate": one > 0, "multiplier": 1, "addend": one, "ties": "up", "lo": one - 20, "hi": one + 43}
    return cls(**parts | {"bits" if cls is Shift else "divisor": one if cls is Shift else one + 1} | changes)


def test_exceptions_are_corrected():
    form = linear(Shift, bits=[1], exceptions=([-20, 7],), corrections=([1, -2],))
    layout = channels_last(KIND.shape, 1)
    i = Bus(2, 7, signed=True)
    block, memories = requantizer(node(form), KIND, i, i, layout, 1)
    x = np.resize(np.arange(KIND.lo, KIND.hi + 1), (3, *KIND.shape))
    (found,) = block.model([layout.to_beats(x, i)], memories)
    assert np.array_equal(layout.from_beats(found, i), form(x, 2))
    assert {-9, 1} <= set(found.reshape(-1).tolist())


def test_exceptions_of_each_channel_are_corrected():
    three = np.zeros(3)
    form = Division(
        three > 0, 1, three, "up", three - 20, three + 43,
        exceptions=([-3, 7], [], [5]), corrections=([1, -2], [], [3]), divisor=three + 3,
    )  # fmt: skip
    layout = channels_last(KIND.shape, 1)
    i = Bus(2, 7, signed=True)
    block, memories = requantizer(node(form), KIND, i, i, layout, 1)
    x = np.resize(np.arange(KIND.lo, KIND.hi + 1), (13, *KIND.shape))
    (found,) = block.model([layout.to_beats(x, i)], memories)
    assert np.array_equal(layout.from_beats(found, i), form(x, 2))


def test_what_changes_nothing_is_no_block():
    assert is_identity(node(linear(Shift)), KIND)
    assert is_identity(node(linear(Shift, lo=[-99], hi=[99])), KIND)


@pytest.mark.parametrize(
    "form",
    [
        linear(Shift, multiplier=2),
        linear(Shift, negate=[True]),
        linear(Shift, addend=[1]),
        linear(Shift, bits=[1]),
        linear(Shift, lo=[-19]),
        linear(Shift, hi=[42]),
        linear(Shift, exceptions=([3],), corrections=([1],)),
        linear(Division),
        Table([-20], (range(-20, 44),)),
        Comparators((range(-19, 44),), (range(-20, 44),)),
    ],
)
def test_what_changes_something_is_a_block(form):
    assert not is_identity(node(form), KIND)


def test_leisure_lets_a_quotient_share_its_divider():
    form = linear(Division, divisor=[7], addend=[3], lo=[-4], hi=[7])
    layout, bus = channels_last(KIND.shape, 1), Bus(1, 7, signed=True)
    units = [requantizer(node(form), KIND, bus, bus, layout, n)[0].units for n in (1, 100)]
    assert units[0] > units[1]
