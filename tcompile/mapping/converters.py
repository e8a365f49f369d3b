"""What stands between one block's lanes and the next one's: other lanes, another order, a border, rows of windows; and pools.

Each function gives the steps that a stream passes, as data: the placer puts them in place, and the solver counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd, prod

import numpy as np

from hw.block import Block, Bus
from hw.pad import Pad
from hw.reorder import Reorder
from hw.rows import RowPacker
from hw.width import Narrow, Widen
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType
from tcompile.mapping.folding import Fold
from tcompile.mapping.geometry import Geometry, bus_of, engine_block
from tcompile.mapping.layout import Layout
from tcompile.mapping.layouts import usual
from tcompile.mapping.linear import Linear
from tcompile.mapping.schedule import pool_schedule

__all__ = [
    "FORK_DEPTH",
    "Step",
    "brought",
    "entering",
    "first_layer",
    "folded",
    "holding",
    "lanes_wanted",
    "pooled",
]

FORK_DEPTH = 2  # places of a branch's queue before its need is known


@dataclass(frozen=True)
class Step:
    """A block of one input and one output on the way of a value.

    Parameters
    ----------
    block : Block
    role : str
        What it does, for its name.
    beats : int
        That it gives per frame.
    layout : Layout or None
        Of what it gives; None where no tensor travels so.
    memories : mapping of str to tuple of int
        Contents of its memories.
    """

    block: Block
    role: str
    beats: int
    layout: Layout | None = field(default=None, compare=False)
    memories: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def bus(self) -> Bus:
        """Shape of a beat that it gives."""
        return self.block.outputs[0]


def holding(bus: Bus, *others: Bus) -> Bus:
    """The bus, wider where an element of the others would not fit it."""
    signed = any(b.signed for b in (bus, *others))
    return Bus(bus.lanes, max(b.width + (signed and not b.signed) for b in (bus, *others)), signed)


def folded(bus: Bus, layout: Layout, lanes: int, *, rests: bool = False) -> Iterator[Step]:
    """The same elements, `lanes` per beat: down to the greatest common divisor, with or without a rest, up from there."""
    common = gcd(bus.lanes, lanes)
    if bus.lanes != common:
        narrow = Narrow(bus, common, layout.channels, rests=rests)
        yield (step := Step(narrow, "narrow", layout.beats(common), layout))
        bus = step.bus
    if common != lanes:
        yield Step(Widen(bus, lanes, layout.channels), "widen", layout.beats(lanes), layout)


def brought(bus: Bus, have: Layout, want: Layout | None, lanes: int | None = None) -> list[Step]:
    """A value in the order that is wanted, and in as many lanes, where it comes otherwise."""
    steps: list[Step] = []
    if want is not None and not have.is_like(want):
        steps += _reordered(bus, have, want)
        have = want
    return steps if lanes is None else [*steps, *folded(_last(bus, steps), have, lanes)]


def _reordered(bus: Bus, have: Layout, want: Layout) -> Iterator[Step]:
    """The same elements in another order, one per beat, through a memory of two of its periods (a frame at most)."""
    steps = list(folded(bus, have, 1))
    yield from steps
    place_of = np.empty(len(have.order), np.int64)
    place_of[have.order] = np.arange(len(have.order))
    order = place_of[want.order]
    period = _period(order)
    if period == 1:  # the same elements one by one; only what stands together in a beat differs
        return
    words = tuple(int(k) for k in order[:period])
    yield Step(Reorder(_last(bus, steps), period), "reorder", len(order), want, {"order": words})


def _period(order: np.ndarray) -> int:
    """Fewest elements that change places among themselves only, and those behind them in the same way."""
    count = len(order)
    ends = 1 + np.flatnonzero(np.maximum.accumulate(order) == np.arange(count))  # nothing crosses these
    places = np.arange(count)
    for size in (int(n) for n in ends if count % n == 0):
        if np.array_equal(order, places // size * size + order[places % size]):
            return size
    return count


def _bordered(
    bus: Bus,
    kind: IntType,
    grid: tuple[int, ...],
    words: int,
    before: tuple[int, ...],
    after: tuple[int, ...],
    code: int,
) -> Iterator[Step]:
    """The stream of `kind` with a border of `code` around its grid of positions, `words` beats each."""
    if not any(before) and not any(after):
        return
    inner = (*grid, words)
    outer = (*(n + a + b for n, a, b in zip(grid, before, after, strict=True)), words)
    wide = holding(bus_of(kind, bus.lanes, code), bus)
    yield Step(Pad(bus, wide, outer, (*before, 0), inner, code), "pad", prod(outer))


def first_layer(graph: Graph, value: str) -> str:
    """The layer whose lanes an input of the network comes in: the first that takes it; empty where there is none."""
    for user in graph.consumers[value]:
        if isinstance(user, (I.Conv, I.Dense)):
            return user.name
        if isinstance(user, (I.Requantize, I.AddScaled, I.Reshape, I.MaxPool, I.SumPool)):
            return first_layer(graph, user.name)
    return ""


def lanes_wanted(layer: Linear, fold: Fold, have: Layout) -> int:
    """Lanes in which an input of the network comes to a layer."""
    return min(have.channels, layer.channels if layer.is_packed(fold) else layer.lanes_in(fold))


def entering(layer: Linear, fold: Fold, bus: Bus, kind: IntType, have: Layout) -> list[Step]:
    """All that stands before the engine or the window of a layer: a value of `kind` comes in the layout `have`."""
    if layer.is_packed(fold):
        steps = brought(bus, have, layer.needs, layer.channels)
        return steps + list(_packed(layer, fold, _last(bus, steps), kind))
    lanes = layer.lanes_in(fold)
    steps = brought(bus, have, layer.needs, lanes)
    words = (layer.needs or have).beats(lanes) // prod(layer.grid)
    return steps + list(_bordered(_last(bus, steps), kind, layer.grid, words, layer.before, layer.after, layer.code))


def pooled(node: I.MaxPool | I.SumPool, source: IntType, bus: Bus) -> list[Step]:
    """A pool, and the border before it: `source` comes as images do, and leaves in the same lanes."""
    layout, rank, is_max = usual(source.shape), len(node.kernel), isinstance(node, I.MaxPool)
    assert isinstance(node.type, IntType)
    code = source.lo if isinstance(node, I.MaxPool) else node.pad_code
    before, after, words = node.pads[:rank], node.pads[rank:], -(-layout.channels // bus.lanes)
    steps = list(_bordered(bus, source, layout.grid, words, before, after, code))
    bus = _last(bus, steps)
    grid = tuple(n + a + b for n, a, b in zip(layout.grid, before, after, strict=True))
    geometry = Geometry(grid, node.kernel, node.strides, node.dilations, words)
    plan = pool_schedule(geometry)
    out = bus if is_max else bus_of(node.type, bus.lanes)
    block = engine_block("max" if is_max else "sum", bus, out, geometry, len(plan.entries), plan.shortest).rounded()
    given = usual(node.type.shape)
    return [
        *steps,
        Step(block, "pool", given.beats(out.lanes), given, {"schedule": block.schedule_words(plan.entries)}),
    ]


def _packed(layer: Linear, fold: Fold, bus: Bus, kind: IntType) -> Iterator[Step]:
    """Rows of windows as positions: all taps along the last axis become channels."""
    kernel, channels = layer.kernel[-1], layer.kernel[-1] * layer.channels
    wide = holding(bus_of(kind, channels, layer.code), bus)
    grid = (*layer.grid[:-1], layer.out[-1])
    block = RowPacker(
        bus, wide, layer.grid[-1], kernel, layer.strides[-1], layer.dilations[-1], layer.before[-1], layer.after[-1],
        layer.code,
    )  # fmt: skip
    yield (rows := Step(block, "rows", prod(grid)))
    steps = list(folded(rows.bus, Layout((), grid, channels, np.arange(0)), fold.simd))
    yield from steps
    before, after = (*layer.before[:-1], 0), (*layer.after[:-1], 0)
    words = -(-channels // fold.simd)
    yield from _bordered(_last(rows.bus, steps), kind, grid, words, before, after, layer.code)


def _last(bus: Bus, steps: Sequence[Step]) -> Bus:
    """What comes out of steps that a bus goes into."""
    return steps[-1].bus if steps else bus
