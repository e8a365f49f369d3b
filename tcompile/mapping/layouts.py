"""In which order the elements of every value arrive."""

from __future__ import annotations

from functools import singledispatch
from math import prod

import numpy as np

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node
from tcompile.mapping.layout import Layout, channels_last

__all__ = ["canonical_axis", "layouts", "usual"]

Known = dict[str, Layout]


def layouts(graph: Graph) -> Known:
    """The layout of every value: what its producer gives without rearranging anything."""
    known: Known = {}
    for node in graph:
        known[node.name] = _layout(node, graph, known)
    return known


def canonical_axis(layout: Layout) -> int | None:
    """The channel axis, if the layout is that of `channels_last`; None otherwise."""
    rank = len(layout.shape)
    axes: list[int] = [min(1, rank - 1), rank - 1, *range(rank)]
    for axis in axes:
        if layout.is_like(channels_last(layout.shape, axis)):
            return axis
    return None


def usual(shape: tuple[int, ...]) -> Layout:
    """The layout of images: channels on axis 1."""
    return channels_last(shape, min(1, len(shape) - 1))


def _shape(node: Node) -> tuple[int, ...]:
    assert isinstance(node.type, IntType)
    return node.type.shape


@singledispatch
def _layout(node: Node, graph: Graph, known: Known) -> Layout:
    """Convolutions and pools give pixels; what works element by element keeps the order of its first input."""
    if not node.inputs or isinstance(node, (I.Conv, I.SumPool, I.MaxPool)):
        return usual(_shape(node))
    return known[node.inputs[0]]


@_layout.register
def _(node: I.Input, graph: Graph, known: Known) -> Layout:
    """An input comes as its first consumer wants it."""
    shape, value = _shape(node), node.name
    while users := graph.consumers[value]:
        if isinstance(users[0], I.Dense):
            return channels_last(shape, -1)
        if not isinstance(users[0], (I.Requantize, I.AddScaled)):
            break
        value = users[0].name
    return usual(shape)


@_layout.register
def _(node: I.Dense, graph: Graph, known: Known) -> Layout:
    return channels_last(_shape(node), -1)


@_layout.register(I.Concat)
@_layout.register(I.Pad)
@_layout.register(I.Slice)
def _(node: I.Concat | I.Pad | I.Slice, graph: Graph, known: Known) -> Layout:
    axis = canonical_axis(known[node.inputs[0]])
    result = usual(_shape(node)) if axis is None else channels_last(_shape(node), axis)
    return _reversed(result, node.steps) if isinstance(node, I.Slice) else result


def _reversed(layout: Layout, steps: tuple[int, ...]) -> Layout:
    """A slice backwards is the slice forwards with its elements named in reverse."""
    index = np.arange(prod(layout.shape)).reshape(layout.shape)
    turned = index[tuple(slice(None, None, -1 if s < 0 else 1) for s in steps)].reshape(-1)
    return Layout(layout.shape, layout.grid, layout.channels, turned[layout.order])


@_layout.register
def _(node: I.Reshape, graph: Graph, known: Known) -> Layout:
    source = known[node.inputs[0]]
    return Layout(_shape(node), source.grid, source.channels, source.order)


@_layout.register
def _(node: I.Transpose, graph: Graph, known: Known) -> Layout:
    source = known[node.inputs[0]]
    index = np.arange(prod(source.shape)).reshape(_shape(node))
    moved = index.transpose(np.argsort(node.perm)).reshape(-1)
    return Layout(_shape(node), source.grid, source.channels, moved[source.order])


@_layout.register
def _(node: I.ArgMax, graph: Graph, known: Known) -> Layout:
    source = channels_last(known[node.inputs[0]].shape, node.axis)
    return Layout(_shape(node), source.grid, 1, np.arange(source.positions))
