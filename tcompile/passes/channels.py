"""Which channels of a network can be scaled together: every channel of every value as a variable.

What constants make (the rows of a linear layer's weights, the channels of a BatchNormalization) may have any scale as
long as all that it meets has the same one. `trace` follows channels through the operations that are positively
homogeneous, f(s·x) = s·f(x) for s > 0, joins those that meet, and joins what cannot be scaled with the channel `FIXED`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.passes.weights import Layer, Names, constant, float_layers, with_weight

__all__ = ["ANY", "FIXED", "Channels", "channel_axis", "rescaled", "trace"]

FIXED = 0  # the channel whose scale is 1
ANY = -1  # zeros that padding adds: they have every scale

SAME = (R.Relu, R.LeakyRelu, R.Abs, R.Neg)
POOLS = (R.MaxPool, R.AveragePool, R.GlobalAveragePool, R.GlobalMaxPool)
MEETINGS = (R.Add, R.Sub, R.Max, R.Min)


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels, who makes them and who takes them.

    Attributes
    ----------
    parents : list of int
        Disjoint sets of channels that have met.
    values : dict of str to int array
        Channel of each element of each value that depends on the inputs.
    made : dict of str to int array (rows,)
        Channel of each row of a linear layer's or BatchNormalization's constants, by value.
    taken : dict of str to (Layer, int array (columns,))
        Channel of each column of a linear layer's weights (of all its groups), by value.
    offsets : set of str
        Values to which a constant is added.
    """

    parents: list[int] = field(default_factory=lambda: [FIXED])
    values: dict[str, np.ndarray] = field(default_factory=dict)
    made: dict[str, np.ndarray] = field(default_factory=dict)
    taken: dict[str, tuple[Layer, np.ndarray]] = field(default_factory=dict)
    offsets: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.parents) - 1

    def new(self, count: int) -> np.ndarray:
        """Channels that nothing has met yet."""
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, channel: int) -> int:
        """The one that stands for all that a channel has met."""
        while self.parents[channel] != channel:
            self.parents[channel] = channel = self.parents[self.parents[channel]]
        return channel

    def roots(self) -> np.ndarray:
        """`root` of every channel, an int array; the last element stands for `ANY`."""
        return np.array([*(self.root(k) for k in range(len(self.parents))), FIXED])

    def join(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Let channels meet element by element; what comes out."""
        a, b = np.broadcast_arrays(a, b)
        meet = (a != ANY) & (b != ANY) & (a != b)
        for one, other in np.unique(np.stack([a[meet], b[meet]], axis=1), axis=0):
            low, high = sorted((self.root(int(one)), self.root(int(other))))
            self.parents[high] = low  # FIXED is the lowest, and stays a root
        return np.where(a == ANY, b, a)

    def merge(self, ids: np.ndarray, axes: Iterable[int]) -> np.ndarray:
        """Let all channels along some axes meet; these axes get size 1."""
        for axis in axes:
            first = ids.max(axis=axis, keepdims=True)
            self.join(ids, first)
            ids = first
        return ids


def channel_axis(node: R.RealNode, rank: int) -> int:
    """Axis of the channels of a linear layer's input or output."""
    return 1 if isinstance(node, R.Conv | R.BatchNormalization) else rank - 1


def trace(graph: Graph, free_inputs: bool = False) -> Channels:
    """Follow the channels of a graph.

    Parameters
    ----------
    free_inputs : bool
        Whether the network's inputs may be scaled too, each as a whole.
    """
    channels = Channels()
    layers = {layer.node.name: layer for layer in float_layers(graph)[0]}
    for node in graph:
        assert isinstance(node, R.RealNode)
        given = [channels.values[i] for i in node.uses if i in channels.values]
        if isinstance(node, R.Input) and free_inputs:
            channels.values[node.name] = np.broadcast_to(channels.new(1), node.type.shape)
        elif given or isinstance(node, R.Input):
            ids = _followed(channels, graph, node, given, layers.get(node.name))
            for x in given if ids is None else ():
                channels.join(x, np.asarray(FIXED))
            channels.values[node.name] = np.broadcast_to(np.asarray(FIXED) if ids is None else ids, node.type.shape)
    for output in graph.outputs:
        channels.join(channels.values[output], np.asarray(FIXED))
    return channels


def _followed(
    channels: Channels, graph: Graph, node: R.RealNode, given: Sequence[np.ndarray], layer: Layer | None
) -> np.ndarray | None:
    """Channels of an operation's result; None where it cannot be scaled with what it takes."""
    if layer is not None:
        return _linear(channels, graph, layer, given)
    alone = len(given) == len(node.uses)
    match node:
        case R.BatchNormalization():
            return _batch_normalization(channels, node, given)
        case R.Add() | R.Sub() if len(given) == 1 and len(node.uses) == 2:
            channels.offsets.add(node.name)
            return given[0]
        case R.Mul() | R.Div() if len(given) == 1 and len(node.uses) == 2 and node.inputs[0] in channels.values:
            return given[0]
        case R.ReduceMean() | R.ReduceSum():
            return channels.merge(given[0], [a % given[0].ndim for a in node.axes]).reshape(node.type.shape)
        case R.Concat() if alone:
            return np.concatenate(given, axis=node.axis)
        case R.Pad() if node.value != 0:
            return None
    if isinstance(node, SAME) and alone:
        return given[0]
    if isinstance(node, POOLS):
        return channels.merge(given[0], range(2, given[0].ndim))
    if isinstance(node, MEETINGS) and alone:
        return reduce(channels.join, given)
    return _moved(node, given[0]) if isinstance(node, R.Layout) else None


def _linear(channels: Channels, graph: Graph, layer: Layer, given: Sequence[np.ndarray]) -> np.ndarray | None:
    node, rows = layer.node, len(layer.weight)
    bias = graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
    fits = bias is None or (isinstance(bias, R.Const) and bias.value.array.size == rows)
    if not fits or len(given) != 1 or (isinstance(node, R.Gemm) and node.transA):
        return None
    axis = channel_axis(node, given[0].ndim)
    columns = channels.merge(given[0], [k for k in range(given[0].ndim) if k != axis]).reshape(-1)
    channels.taken[node.name] = (layer, columns)
    return _new(channels, node, rows)


def _batch_normalization(channels: Channels, node: R.RealNode, given: Sequence[np.ndarray]) -> np.ndarray | None:
    if len(given) != 1:
        return None
    channels.join(given[0], np.asarray(FIXED))
    return _new(channels, node, node.type.shape[1])


def _new(channels: Channels, node: R.RealNode, rows: int) -> np.ndarray:
    made = channels.made[node.name] = channels.new(rows)
    rank = len(node.type.shape)
    return made.reshape([-1 if k == channel_axis(node, rank) else 1 for k in range(rank)])


def _moved(node: R.RealNode, ids: np.ndarray) -> np.ndarray | None:
    match node:
        case R.Reshape():
            return ids.reshape(node.type.shape)
        case R.Transpose():
            return ids.transpose(node.perm)
        case R.Slice():
            parts = zip(node.starts, node.steps, node.type.shape, strict=True)
            return ids[np.ix_(*(start + step * np.arange(size) for start, step, size in parts))]
        case R.Pad():
            half = len(node.pads) // 2
            widths = list(zip(node.pads[:half], node.pads[half:], strict=True))
            return np.pad(ids, widths, constant_values=ANY)
    return None


def rescaled(graph: Graph, channels: Channels, factors: np.ndarray) -> Graph:
    """The graph whose channels are multiplied by factors, and whose layers undo it.

    Parameters
    ----------
    factors : float64 array
        For each channel, as `Channels.roots` counts them; the same for those that have met, 1 for `FIXED` and at the end.
    """
    names = Names(graph)
    nodes: list[R.RealNode] = []
    for node in graph:
        assert isinstance(node, R.RealNode)
        if node.name in channels.taken:
            nodes += _layer(graph, channels, node.name, factors, names)
        elif node.name in channels.made:
            nodes += _constants(graph, node, (1, 2), factors[channels.made[node.name]], names)
        elif node.name in channels.offsets:
            which = 1 if isinstance(graph[node.inputs[1]], R.Const) else 0
            nodes += _constants(graph, node, (which,), _short(factors[channels.values[node.name]]), names)
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)


def _layer(graph: Graph, channels: Channels, value: str, factors: np.ndarray, names: Names) -> list[R.RealNode]:
    layer, columns = channels.taken[value]
    rows, columns_factor = factors[channels.made[value]], factors[columns].reshape(layer.group, 1, -1, 1)
    if (rows == 1).all() and (columns_factor == 1).all():
        return [layer.node]
    w = layer.weight
    new = w.reshape(layer.group, len(w) // layer.group, w.shape[1], -1) / columns_factor
    new = new.reshape(w.shape) * rows.reshape(-1, *(1,) * (w.ndim - 1))
    *consts, node = with_weight(graph, layer, new, names)
    return [*consts, *_constants(graph, node, (2,) if len(node.inputs) > 2 and node.inputs[2] else (), rows, names)]


def _constants(
    graph: Graph, node: R.RealNode, places: Sequence[int], factor: np.ndarray, names: Names
) -> list[R.RealNode]:
    """An operation with some of its constants multiplied, and these."""
    if (factor == 1).all():
        return [node]
    inputs, made = list(node.inputs), list[R.RealNode]()
    for k in places:
        old = graph[node.inputs[k]]
        assert isinstance(old, R.Const)
        array = (old.value.array.astype(np.float64) * factor).astype(old.value.array.dtype)
        made.append(constant(names(old.name, "scaled"), array, old.value.dtype, old.origin))
        inputs[k] = made[-1].name
    return [*made, replace(node, inputs=tuple(inputs))]


def _short(factor: np.ndarray) -> np.ndarray:
    """An array with size 1 along the axes that change nothing."""
    for axis in range(factor.ndim):
        first = factor.take([0], axis)
        factor = first if (factor == first).all() else factor
    return factor
