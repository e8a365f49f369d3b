"""Channel permutation: the channels between layers reordered so that zeros gather in whole tiles of PE x SIMD weights.

Output channels of a layer may come in any order if all that uses them is told: rows of weights and parameters of
requantizers move with their channel, columns of the next layers' weights too. Channels that are added to each other
(a residual connection) keep one common order. What the host gives and takes keeps its order, and so does everything
that touches an operation to which the order matters.

The search descends by swaps of two channels. A tile that holds n digits counts ``1 - rate**n``: with rate 0 these are
the entries of the schedule, with larger rates a tile that is nearly empty counts less than a full one, which shows the
way. The sum is bilinear in the powers, so that one matrix product gives the gains of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import singledispatch, singledispatchmethod
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from hw.engine import booth_digits
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node, Tensor
from tcompile.ir.requantizers import Ints, Requantizer
from tcompile.mapping.folding import Fold
from tcompile.mapping.layout import Layout
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import linear
from tcompile.mapping.schedule import tiled

__all__ = ["Order", "Permutation", "entries", "permutation", "permute"]

RATES = (0.75, 0.4, 0.0)  # from the blurred objective to the real one
ROUNDS = 3  # over all groups, each with the order of the others
KICKS = 24  # random disturbances of a group's order that are tried
WORK = 1e9  # multiplications and additions for the order of one group at most, each time
PAIR = 32  # additions that the gain of a pair takes beside its tiles
RANKED = 4  # swaps that are looked at in one step, per channel
SEED = 0

Form = TypeVar("Form", bound=Requantizer)
Orders = dict[int, Ints]


@dataclass(frozen=True)
class Order:
    """How the elements of a value were reordered.

    Parameters
    ----------
    channels : tuple of int
        For each new channel the old one.
    inner : int
        Elements of the flat tensor that follow each other in one channel; the channels repeat behind their last one.
    """

    channels: tuple[int, ...]
    inner: int

    def of(self, x: np.ndarray) -> np.ndarray:
        """Frames (N, *shape) of the old value as frames of the new one."""
        return self._taken(x, np.array(self.channels))

    def restored(self, x: np.ndarray) -> np.ndarray:
        """Frames (N, *shape) of the new value as frames of the old one."""
        return self._taken(x, np.argsort(self.channels))

    def _taken(self, x: np.ndarray, order: Ints) -> np.ndarray:
        return x.reshape(len(x), -1, len(order), self.inner)[:, :, order].reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Permutation:
    """A graph with its inner channels in another order.

    Parameters
    ----------
    graph : Graph
        The same values by the same names, of the same types; the given graph itself where no order gains anything.
    orders : mapping of str to Order
        Values whose channels moved; all others are what they were.
    before, after : mapping of str to int
        Entries of a frame, by linear layer: those of the schedule times positions.
    """

    graph: Graph
    orders: Mapping[str, Order]
    before: Mapping[str, int]
    after: Mapping[str, int]


def permute(graph: Graph, folds: Mapping[str, Fold]) -> Graph:
    """An equal graph with inner channels reordered so that its layers take fewer cycles; see `permutation`."""
    return permutation(graph, folds).graph


def permutation(graph: Graph, folds: Mapping[str, Fold]) -> Permutation:
    """Reorder inner channels of an integer graph so that zeros gather in whole tiles.

    Parameters
    ----------
    graph : Graph
        Integer level.
    folds : mapping of str to Fold
        Lanes by linear layer. Layers that are missing or have another form than ``engine`` cost nothing.

    Returns
    -------
    Permutation
        Equal to the given graph at all inputs and outputs. The layers' entries together are fewer, those of the
        layer with the most are not more; else nothing is reordered. The same graph gives the same result.
    """
    groups = _Groups(graph)
    before = entries(graph, folds)
    searched = _Search(graph, folds, groups, max(before.values(), default=0))
    best = Permutation(graph, {}, before, before)
    with threadpool_limits(1, "blas"):
        for orders in searched.candidates():
            other = _reordered_graph(graph, groups, orders)
            after = entries(other, folds)
            if sum(after.values()) < sum(best.after.values()) and max(after.values()) <= max(before.values()):
                best = Permutation(other, _moved(groups, orders), before, after)
    return best


def entries(graph: Graph, folds: Mapping[str, Fold]) -> dict[str, int]:
    """Entries of a frame by linear layer in engine form: of each row block its tiles' passes, at least one."""
    known, found = layouts(graph), {}
    for node in _engines(graph, folds):
        layer = linear(node, known[node.inputs[0]])
        tiles = tiled(layer, folds[node.name])
        passes = sum((booth_digits(tiles, d) != 0).any(axis=(2, 3)).sum(axis=1) for d in range(layer.planes))
        found[node.name] = prod(layer.out) * int(np.maximum(passes, 1).sum())
    return found


def _engines(graph: Graph, folds: Mapping[str, Fold]) -> Iterator[I.Conv | I.Dense]:
    for node in graph:
        if isinstance(node, (I.Conv, I.Dense)) and node.name in folds and folds[node.name].form == "engine":
            yield node


def _shape(node: Node) -> tuple[int, ...]:
    assert isinstance(node.type, IntType)
    return node.type.shape


# --- which channels may move, and which move together ----------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """Where a group's channels lie in a tensor: flat element k is of channel ``(k // inner) % channels``."""

    group: int
    channels: int
    inner: int

    def along(self, shape: tuple[int, ...], axis: int) -> int | None:
        """Elements of an axis that follow each other in one channel, if the channel depends on that axis alone."""
        step = prod(shape[axis + 1 :])
        depends = self.inner % step == 0 and (shape[axis] * step) % (self.channels * self.inner) == 0
        return self.inner // step if depends else None

    def axis(self, shape: tuple[int, ...]) -> int | None:
        """The axis that the channels lie on, if it is one."""
        return next((k for k in range(len(shape)) if self.along(shape, k) is not None), None)

    def ignores(self, shape: tuple[int, ...], axis: int) -> bool:
        """Whether moving channels never moves an element along an axis."""
        step = prod(shape[axis + 1 :])
        return self.inner % (step * shape[axis]) == 0 or step % (self.channels * self.inner) == 0

    def carried(self, source: tuple[int, ...], axis: int, target: tuple[int, ...], to: int) -> _View | None:
        """The same channels in a tensor of another shape, where an axis became another (of the same size)."""
        inner = self.along(source, axis)
        return None if inner is None else replace(self, inner=inner * prod(target[to + 1 :]))

    def order(self, channels: Ints, size: int, inner: int) -> Ints:
        """For each new element of an axis of this size the old one."""
        return np.asarray(np.arange(size).reshape(-1, self.channels, inner)[:, channels].reshape(-1))


class _Groups:
    """Channels of every value by group; channels of one group keep one common order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parents: list[int] = []
        self.frozen: set[int] = set()
        self.views: dict[str, _View | None] = {}
        for node in graph:
            self.views[node.name] = self.see(node)
        for value in graph.outputs:
            self.freeze(self.views[value])

    def root(self, group: int) -> int:
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def view(self, value: str) -> _View | None:
        """Channels of a value that may move."""
        found = self.views[value]
        if found is None or (root := self.root(found.group)) in self.frozen:
            return None
        return replace(found, group=root)

    def freeze(self, *views: _View | None) -> None:
        """Let channels stay where they are."""
        self.frozen.update(self.root(v.group) for v in views if v is not None)

    def join(self, views: Sequence[_View | None]) -> _View | None:
        """One order for values that meet element by element."""
        first = views[0]
        if first is None or any(v is None or (v.channels, v.inner) != (first.channels, first.inner) for v in views):
            self.freeze(*views)
            return None
        roots = {self.root(v.group) for v in views if v is not None}
        common = min(roots)
        if roots & self.frozen:
            self.frozen.add(common)
        for root in roots:
            self.parents[root] = common
        return first

    def passed(self, node: Node, to: _View | None) -> _View | None:
        """What came out of following the channels of a node's inputs; they stay where they are if nothing did."""
        if to is None:
            self.freeze(*(self.views[i] for i in node.inputs))
        return to

    def source(self, node: Node) -> tuple[_View | None, tuple[int, ...]]:
        return self.views[node.inputs[0]], _shape(self.graph[node.inputs[0]])

    def rows(self, node: I.Conv | I.Dense, inner: int) -> _View | None:
        """A group for the rows of a layer; the channels that come in stay where they are unless they are columns."""
        view, shape = self.source(node)
        if view is not None and view.along(shape, _column_axis(node, shape)) is None:
            self.freeze(view)
        if len(node.weight.array) == 1:
            return None
        self.parents.append(len(self.parents))
        return _View(self.parents[-1], len(node.weight.array), inner)

    @singledispatchmethod
    def see(self, node: Node) -> _View | None:
        """The channels of a node's value; those of its inputs that must not move are frozen."""
        return self.passed(node, None)

    @see.register
    def _(self, node: I.Conv) -> _View | None:
        view, shape = self.source(node)
        target = _shape(node)
        if node.group == 1:
            return self.rows(node, prod(target[2:]))
        follows = view is not None and view.channels == node.group == target[1]
        return self.passed(node, view.carried(shape, 1, target, 1) if view is not None and follows else None)

    @see.register
    def _(self, node: I.Dense) -> _View | None:
        return self.rows(node, 1)

    @see.register(I.MaxPool)
    @see.register(I.SumPool)
    def _(self, node: I.MaxPool | I.SumPool) -> _View | None:
        view, shape = self.source(node)
        return view and self.passed(node, view.carried(shape, 1, _shape(node), 1))

    @see.register
    def _(self, node: I.AddScaled) -> _View | None:
        return self.join([self.views[i] for i in node.inputs])

    @see.register
    def _(self, node: I.Requantize) -> _View | None:
        view, shape = self.source(node)
        if view is None:
            return None
        free = node.form.channels == 1 or view.along(shape, node.axis) is not None or view.ignores(shape, node.axis)
        return self.passed(node, view if free else None)

    @see.register
    def _(self, node: I.Reshape) -> _View | None:
        return self.source(node)[0]

    @see.register
    def _(self, node: I.Transpose) -> _View | None:
        view, shape = self.source(node)
        axis = self.kept_axis(node)
        if view is None or axis is None:
            return self.passed(node, None)
        return view.carried(shape, axis, _shape(node), node.perm.index(axis))

    @see.register
    def _(self, node: I.Pad) -> _View | None:
        return self.elsewhere(node)

    @see.register
    def _(self, node: I.Slice) -> _View | None:
        axis = self.kept_axis(node)
        return self.elsewhere(node) if axis is None or node.steps[axis] == 1 else self.passed(node, None)

    @see.register
    def _(self, node: I.Concat) -> _View | None:
        axis, target = self.kept_axis(node), _shape(node)
        if axis is None or axis == node.axis % len(target):
            return self.passed(node, None)
        views = [(self.views[i], _shape(self.graph[i])) for i in node.inputs]
        return self.passed(node, self.join([v and v.carried(shape, axis, target, axis) for v, shape in views]))

    def kept_axis(self, node: Node) -> int | None:
        """The axis of the first input's channels."""
        view, shape = self.source(node)
        return None if view is None else view.axis(shape)

    def elsewhere(self, node: Node) -> _View | None:
        """The view behind an operation that may change all axes but that of the channels."""
        view, shape = self.source(node)
        axis = self.kept_axis(node)
        if view is None or axis is None or shape[axis] != _shape(node)[axis]:
            return self.passed(node, None)
        return view.carried(shape, axis, _shape(node), axis)


def _column_axis(node: I.Conv | I.Dense, shape: tuple[int, ...]) -> int:
    """Axis of the input that columns of the weights belong to."""
    return 1 if isinstance(node, I.Conv) else len(shape) - 1


# --- the same graph in another order ---------------------------------------------------------------------------------


def _reordered_graph(graph: Graph, groups: _Groups, orders: Orders) -> Graph:
    return graph.with_nodes(_reordered(node, groups, orders) for node in graph)


def _moved(groups: _Groups, orders: Orders) -> dict[str, Order]:
    """Orders by value, where they are not the old ones."""
    found = {}
    for node in groups.graph:
        view = groups.view(node.name)
        if view is not None and (order := orders[view.group]).tolist() != list(range(view.channels)):
            found[node.name] = Order(tuple(order.tolist()), view.inner)
    return found


def _along(groups: _Groups, orders: Orders, value: str, axis: int) -> Ints | None:
    """For each new element of an axis the old one; None where nothing moves along it."""
    view, shape = groups.view(value), _shape(groups.graph[value])
    inner = None if view is None else view.along(shape, axis)
    return None if view is None or inner is None else view.order(orders[view.group], shape[axis], inner)


@singledispatch
def _reordered(node: Node, groups: _Groups, orders: Orders) -> Node:
    """A node with its parameters in the order of its channels."""
    return node


@_reordered.register
def _(node: I.Conv, groups: _Groups, orders: Orders) -> Node:
    rows = _along(groups, orders, node.name, 1)
    columns = _along(groups, orders, node.inputs[0], 1) if node.group == 1 else None
    return replace(node, weight=_taken(node.weight, rows, columns))


@_reordered.register
def _(node: I.Dense, groups: _Groups, orders: Orders) -> Node:
    rows = _along(groups, orders, node.name, len(_shape(node)) - 1)
    columns = _along(groups, orders, node.inputs[0], len(_shape(node)) - 1)
    return replace(node, weight=_taken(node.weight, rows, columns))


@_reordered.register
def _(node: I.Requantize, groups: _Groups, orders: Orders) -> Node:
    order = _along(groups, orders, node.name, node.axis)
    return node if order is None else replace(node, form=_with_order(node.form, order))


def _taken(weight: Tensor, rows: Ints | None, columns: Ints | None) -> Tensor:
    array = weight.array if rows is None else weight.array[rows]
    return Tensor(array if columns is None else array[:, columns], weight.dtype)


def _with_order(form: Form, order: Ints) -> Form:
    """A requantizer whose channels come in another order; what all channels share stays."""

    def moved(value: object) -> object:
        if isinstance(value, np.ndarray) and value.size == len(order):
            return value[order]
        if isinstance(value, tuple) and len(value) == len(order):
            return tuple(value[k] for k in order)
        return value

    if form.channels == 1:
        return form
    parameters: dict[str, Any] = {f.name: moved(getattr(form, f.name)) for f in fields(form)}
    return replace(form, **parameters)


# --- tiles, and what a swap of two channels makes of them ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Layer:
    """A linear layer as its engine sees it, for the search.

    Parameters
    ----------
    digits : bool array (rows, channels, taps, planes)
        Which Booth digits of a weight are not zero; columns by channel of the group that comes in, all in `taps` if
        there is none.
    blocks : int array (rows,)
        Row block of each place of a row.
    tiles : int array (channels, taps)
        Tile within the row block, of each place of a column.
    positions : int
    out, into : int or None
        Groups of rows and columns; None where they stay.
    """

    digits: np.ndarray
    blocks: Ints
    tiles: Ints
    positions: int
    out: int | None
    into: int | None

    @property
    def groups(self) -> set[int]:
        return {g for g in (self.out, self.into) if g is not None}

    def by_row(self, orders: Orders) -> np.ndarray:
        """Digits of each row by tile: (rows, tiles, planes)."""
        digits = self.digits if self.into is None else self.digits[:, orders[self.into]]
        return _summed(digits.reshape(len(digits), -1, digits.shape[3]), self.tiles.reshape(-1), 1)

    def by_channel(self, orders: Orders) -> np.ndarray:
        """Digits of each column by row block: (channels, taps, row blocks x planes)."""
        digits = self.digits if self.out is None else self.digits[orders[self.out]]
        summed = _summed(digits, self.blocks, 0).transpose(1, 2, 0, 3)
        return summed.reshape(*summed.shape[:2], -1)

    def cost(self, orders: Orders) -> int:
        """Entries of a frame."""
        rows = self.by_row(orders)
        rows = rows if self.out is None else rows[orders[self.out]]
        kept = (_summed(rows, self.blocks, 0) > 0).sum(axis=(1, 2))
        return self.positions * int(np.maximum(kept, 1).sum())


def _summed(x: np.ndarray, labels: Ints, axis: int) -> np.ndarray:
    """Sums over equal labels along an axis; labels are 0, 1, ... without gap."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    return np.asarray(np.add.reduceat(x.take(order, axis), starts, axis=axis, dtype=np.int32))


def _layer(node: I.Conv | I.Dense, groups: _Groups, layout: Layout, fold: Fold) -> _Layer:
    source = linear(node, layout)
    rows, width = source.MH, source.MW
    numbers = 1 + np.arange(rows * width).reshape(source.weights.shape)
    tiles = tiled(replace(source, weights=numbers), fold)
    place = np.argwhere(tiles)
    element = tiles[tuple(place.T)] - 1
    blocks, inside = np.empty(rows, np.int64), np.empty(width, np.int64)
    blocks[element // width], inside[element % width] = place[:, 0], place[:, 1]
    weights = source.weights.reshape(rows, width)
    digits = np.stack([booth_digits(weights, d) != 0 for d in range(source.planes)], axis=-1)
    view, out = groups.view(node.inputs[0]), groups.view(node.name)
    order, into = np.arange(width)[None], None
    if view is not None and not source.is_depthwise:
        shape = (1, *node.weight.shape[1:])
        numbered = replace(node, weight=Tensor.of(np.arange(width).reshape(shape)))
        columns = linear(numbered, layout).weights.reshape(-1)  # of the weights in the graph, in the engine's order
        order, into = _by_channel(node, view, _shape(groups.graph[node.inputs[0]]), columns), view.group
    positions = prod(source.out)
    return _Layer(digits[:, order], blocks, inside[order], positions, None if out is None else out.group, into)


def _by_channel(node: I.Conv | I.Dense, view: _View, shape: tuple[int, ...], columns: Ints) -> Ints:
    """Columns of a layer, (channels, taps), that belong to each channel; taps of equal place in all channels."""
    axis, taps = _column_axis(node, shape), prod(node.weight.shape[2:])
    inner = view.along(shape, axis)
    assert inner is not None
    element = columns // taps
    channel = element // inner % view.channels
    tap = (element // (inner * view.channels) * inner + element % inner) * taps + columns % taps
    return np.lexsort((tap, channel)).reshape(view.channels, -1)


class _Term(Protocol):
    """What one layer adds to the objective of a group."""

    @property
    def classes(self) -> Ints | None:
        """Places with the same tiles, by number; None where tiles are shared in other ways."""

    @property
    def weight(self) -> float:
        """What a tile counts."""

    @property
    def work(self) -> float:
        """Additions and multiplications of `gains`."""

    def gains(self, order: Ints, rate: float) -> np.ndarray:
        """For each pair of places what the objective falls by if their channels are swapped: (channels, channels)."""


@dataclass(frozen=True, eq=False)
class _Classed:
    """Channels whose places fall into classes, and a class's tiles are its own.

    Parameters
    ----------
    digits : int array (channels, n)
        Digits that a channel brings into each tile of its class.
    classes : int array (channels,)
    weight : float
    least : int
        Entries of a class at least.
    """

    digits: np.ndarray
    classes: Ints
    weight: float
    least: int = 0

    @property
    def work(self) -> float:
        return 2.0 * len(self.digits) * (self.digits.size + PAIR * len(self.digits))

    def gains(self, order: Ints, rate: float) -> np.ndarray:
        mine = self.digits[order]
        total = _summed(mine, self.classes, 0)
        powers = (rate ** np.arange(int(total.max(initial=0)) + 1)).astype(np.float32)
        rest = total[self.classes] - mine
        cost = mine.shape[1] - (powers[rest] @ powers[mine].T).astype(np.float64)
        if rate == 0:
            cost = np.maximum(cost, self.least)
        now = np.diag(cost)
        gains = now[:, None] + now[None, :] - cost - cost.T
        gains[self.classes[:, None] == self.classes] = 0
        return np.asarray(self.weight * gains)


@dataclass(frozen=True, eq=False)
class _Mixed:
    """Channels whose taps lie in tiles of any kind, as in packed rows.

    Parameters
    ----------
    digits : int array (channels, taps, n)
    tiles : int array (channels, taps)
        Tile of each place.
    weight : float
    """

    digits: np.ndarray
    tiles: Ints
    weight: float
    classes: None = None

    @property
    def work(self) -> float:
        return 4.0 * len(self.digits) * self.digits.size * (int(self.tiles.max()) + 1)

    def gains(self, order: Ints, rate: float) -> np.ndarray:
        mine = self.digits[order].astype(np.float32)
        spread = (self.tiles[:, None] == np.arange(self.tiles.max() + 1)[:, None]).astype(np.float32)
        own = spread @ mine  # (channels, tiles, n)
        total = own.sum(axis=0)
        powers = (rate ** np.arange(int(self.digits.sum(axis=(0, 1)).max(initial=0)) + 1)).astype(np.float32)
        now = powers[total.astype(np.int64)].sum()
        gains = np.empty((len(mine), len(mine)))
        for k in range(len(mine)):
            after = total - own[k] - own + spread[k] @ mine + spread @ mine[k]
            gains[k] = powers[after.astype(np.int64)].sum(axis=(1, 2)) - now
        return np.asarray(self.weight * gains)


# --- the search ------------------------------------------------------------------------------------------------------


class _Search:
    """Orders of all groups, improved group by group."""

    def __init__(self, graph: Graph, folds: Mapping[str, Fold], groups: _Groups, most: int) -> None:
        known = layouts(graph)
        layers = [_layer(n, groups, known[n.inputs[0]], folds[n.name]) for n in _engines(graph, folds)]
        self.layers = [layer for layer in layers if layer.groups]
        self.most = most
        views = [v for value in groups.views if (v := groups.view(value)) is not None]
        self.given = {v.group: np.arange(v.channels) for v in views}
        self.used = {g: tuple(x for x in self.layers if g in x.groups) for g in self.given}
        self.random = np.random.default_rng(SEED)

    def candidates(self) -> Iterator[Orders]:
        """Orders to choose from: searched from channels put together by likeness, and from the order that is given."""
        searched = [g for g, layers in self.used.items() if layers]
        alike = self.given | {g: self.gathered(g) for g in searched}
        for start in (alike, self.given):
            orders = dict(start)
            for _ in range(ROUNDS):
                before = self.cost(orders, self.layers)
                for group in searched:
                    self.improve(group, orders)
                if self.cost(orders, self.layers) == before:
                    break
            yield orders

    def cost(self, orders: Orders, layers: Sequence[_Layer]) -> tuple[int, int]:
        """What layers take beyond the slowest layer before any change, and what they take together."""
        costs = [layer.cost(orders) for layer in layers]
        return sum(max(0, c - self.most) for c in costs), sum(costs)

    def improve(self, group: int, orders: Orders) -> None:
        """Search the order of a group with those of the others as they are."""
        layers = self.used[group]
        best = self.cost(orders, layers)
        coupled = any(layer.out == layer.into for layer in layers)
        terms = _terms(group, layers, orders)
        budget = WORK / max(1.0, sum(term.work for term in terms))
        for trial in range(2 + KICKS):
            start = orders[group] if trial < 2 else self.kicked(orders[group])
            rates = (RATES[-1:], RATES, RATES[1:])[min(trial, 2)]
            if coupled:
                terms = _terms(group, layers, orders)
            found, steps = _descend(start, terms, rates, int(budget), single=coupled)
            budget -= steps
            other = orders | {group: found}
            if (cost := self.cost(other, layers)) < best:
                best, orders[group] = cost, found
            if budget < 1:
                break

    def kicked(self, order: Ints) -> Ints:
        """An order with a few channels mixed at random."""
        chosen = self.random.choice(len(order), max(2, len(order) // 8), replace=False)
        kicked = order.copy()
        kicked[chosen] = order[self.random.permutation(chosen)]
        return kicked

    def gathered(self, group: int) -> Ints:
        """Channels of similar support side by side, whatever the order of all other channels is."""
        terms = [t for layer in self.used[group] for t in _plain_terms(group, layer)]
        if not terms:
            return self.given[group]
        order = _alike(terms, max(terms, key=lambda t: t.weight).classes)
        budget = WORK / sum(term.work for term in terms)
        return _descend(order, terms, RATES, int(budget), single=False)[0]


def _terms(group: int, layers: Sequence[_Layer], orders: Orders) -> list[_Term]:
    """The objective of a group, with all other groups as they are."""
    terms: list[_Term] = []
    for layer in layers:
        if layer.out == group and layer.blocks.any():
            digits = layer.by_row(orders)
            terms.append(_Classed(digits.reshape(len(digits), -1), layer.blocks, layer.positions, 1))
        if layer.into == group and len(layer.tiles) > 1:
            digits, classes = layer.by_channel(orders), _classes(layer.tiles)
            if classes is None:
                terms.append(_Mixed(digits, layer.tiles, layer.positions))
            elif classes.any():
                terms.append(_Classed(digits.reshape(len(digits), -1), classes, layer.positions))
    return terms


def _plain_terms(group: int, layer: _Layer) -> list[_Classed]:
    """As `_terms` with tiles of one row or one column, which no other group's order changes."""
    terms = []
    digits = layer.digits.astype(np.int32)
    if layer.out == group and layer.blocks.any():
        wide = layer.tiles.size / (layer.tiles.max() + 1)
        terms.append(_Classed(digits.reshape(len(digits), -1), layer.blocks, layer.positions / wide))
    classes = _classes(layer.tiles)
    if layer.into == group and classes is not None and classes.any():
        high = len(layer.blocks) / (layer.blocks.max() + 1)
        columns = digits.swapaxes(0, 1).reshape(len(classes), -1)
        terms.append(_Classed(columns, classes, layer.positions / high))
    return terms


def _classes(tiles: Ints) -> Ints | None:
    """Places with the same tiles, by number; None if tiles are shared in other ways."""
    kinds, classes = np.unique(tiles, axis=0, return_inverse=True)
    return classes.reshape(-1) if len(np.unique(tiles)) == kinds.size else None


def _alike(terms: Sequence[_Classed], classes: Ints) -> Ints:
    """Classes filled one after the other: from the fullest channel left with those most like the class so far."""
    present = np.concatenate([(t.digits > 0) * np.float32(t.weight) for t in terms], axis=1)
    size = present.sum(axis=1)
    left = np.ones(len(classes), bool)
    order = np.empty(len(classes), np.int64)
    for k in range(classes.max() + 1):
        union = np.zeros(present.shape[1], np.float32)
        for place in np.flatnonzero(classes == k):
            shared = present @ (union > 0).astype(np.float32)
            likeness = shared / np.maximum(size + union.sum() - shared, 1e-9) if union.any() else size
            order[place] = chosen = int(np.argmax(np.where(left, likeness, -1.0)))
            left[chosen] = False
            union = np.maximum(union, present[chosen])
    return order


def _descend(
    order: Ints, terms: Sequence[_Term], rates: Sequence[float], steps: int, *, single: bool
) -> tuple[Ints, int]:
    """Swap channels while that gains something.

    Parameters
    ----------
    steps : int
        Evaluations of all pairs at most.
    single : bool
        Whether swaps must be made one by one.

    Returns
    -------
    (order, steps)
        The order, and the evaluations made.
    """
    least = max((t.weight for t in terms), default=0.0)
    classes = [t.classes for t in terms]
    single = single or any(c is None for c in classes)
    order, made = order.copy(), 0
    for rate in rates:
        while terms and made < steps:
            made += 1
            gains = sum((t.gains(order, rate) for t in terms), np.zeros((len(order), len(order))))
            swaps = _best(gains, [c for c in classes if c is not None], least * (1e-2 if rate else 1e-6), single)
            for a, b in swaps:
                order[[a, b]] = order[[b, a]]
            if not swaps:
                break
    return order, made


def _best(gains: np.ndarray, classes: Sequence[Ints], least: float, single: bool) -> list[tuple[int, int]]:
    """The swap that gains most, and others that touch none of its tiles."""
    first, second = np.nonzero(np.triu(gains > least))
    value = gains[first, second]
    ranked = np.argsort(-value, kind="stable")[: 1 if single else RANKED * len(gains)]
    swaps: list[tuple[int, int]] = []
    free = np.ones(len(gains), bool)
    for a, b in zip(first[ranked].tolist(), second[ranked].tolist(), strict=True):
        if free[a] and free[b]:
            swaps.append((a, b))
            for c in classes:
                free &= (c != c[a]) & (c != c[b])
    return swaps
