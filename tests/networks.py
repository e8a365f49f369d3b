"""Small integer networks for tests of the mapping: made node by node, or at random; and designs run by their models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from hw.fifo import Fifo
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Tensor
from tcompile.ir.interpret import apply
from tcompile.ir.legality import _interval, check
from tcompile.ir.requantizers import Comparators, Division, Requantizer, Shift, Table
from tcompile.mapping.design import Design, Stream
from tcompile.mapping.folding import Fold
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import linear

WIDE = IntType((1,), -(1 << 62), (1 << 62) - 1)
NARROW = 12  # bits above which a random network requantizes


@dataclass
class Builder:
    """An integer graph in the making; every method adds a node and returns its value. Intervals are the tightest."""

    nodes: list[I.IntNode] = field(default_factory=list)
    bounds: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def type(self, value: str) -> IntType:
        return next(n.type for n in self.nodes if n.name == value)

    def shape(self, value: str) -> tuple[int, ...]:
        return self.type(value).shape

    def add(self, cls: type[I.IntNode], inputs: Sequence[str], shape: Sequence[int], **fields: Any) -> str:
        name = f"v{len(self.nodes)}"
        kind = IntType(tuple(map(int, shape)), WIDE.lo, WIDE.hi)
        node = cls(name=name, inputs=tuple(inputs), type=kind, **fields)
        lo, hi = _interval(node, [self.bounds[i] for i in inputs], [self.type(i) for i in inputs])
        kind = IntType(kind.shape, int(lo.min()), int(hi.max()))
        self.nodes.append(cls(name=name, inputs=tuple(inputs), type=kind, **fields))
        self.bounds[name] = lo, hi
        return name

    def input(self, shape: Sequence[int], lo: int = 0, hi: int = 15) -> str:
        name = f"v{len(self.nodes)}"
        kind = IntType(tuple(shape), lo, hi)
        self.nodes.append(I.Input(name=name, type=kind))
        one = (1,) * len(shape)
        self.bounds[name] = np.full(one, lo), np.full(one, hi)
        return name

    def conv(
        self,
        x: str,
        weight: np.ndarray,
        strides: Sequence[int] = (),
        pads: Sequence[int] = (),
        dilations: Sequence[int] = (),
        group: int = 1,
        pad_code: int = 0,
    ) -> str:
        rank = weight.ndim - 2
        slid = _slid(rank, strides, pads, dilations)
        shape = (1, len(weight), *_sizes(self.shape(x)[2:], weight.shape[2:], **slid))
        return self.add(I.Conv, [x], shape, weight=Tensor.of(weight), group=group, pad_code=pad_code, **slid)

    def dense(self, x: str, weight: np.ndarray) -> str:
        return self.add(I.Dense, [x], (*self.shape(x)[:-1], len(weight)), weight=Tensor.of(weight))

    def pool(
        self,
        x: str,
        kernel: Sequence[int],
        strides: Sequence[int] = (),
        pads: Sequence[int] = (),
        dilations: Sequence[int] = (),
        *,
        maximum: bool = True,
        pad_code: int = 0,
    ) -> str:
        slid = _slid(len(kernel), strides, pads, dilations)
        shape = (*self.shape(x)[:2], *_sizes(self.shape(x)[2:], kernel, **slid))
        if maximum:
            return self.add(I.MaxPool, [x], shape, kernel=tuple(kernel), **slid)
        return self.add(I.SumPool, [x], shape, kernel=tuple(kernel), pad_code=pad_code, **slid)

    def requantize(self, x: str, form: Requantizer, axis: int = 1) -> str:
        """The interval is that of all values of the form, reached or not."""
        return self.declared(self.add(I.Requantize, [x], self.shape(x), form=form, axis=axis), *form.output_range)

    def add_scaled(self, a: str, b: str, factors: tuple[int, int] = (1, 1)) -> str:
        return self.add(I.AddScaled, [a, b], self.shape(a), factors=factors)

    def concat(self, parts: Sequence[str], axis: int) -> str:
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(p)[axis] for p in parts)
        return self.add(I.Concat, parts, shape, axis=axis)

    def slice(self, x: str, starts: Sequence[int], steps: Sequence[int], sizes: Sequence[int]) -> str:
        return self.add(I.Slice, [x], sizes, starts=tuple(starts), steps=tuple(steps))

    def pad(self, x: str, pads: Sequence[int], code: int) -> str:
        """The interval holds the code even if there is no border."""
        rank = len(pads) // 2
        shape = [n + a + b for n, a, b in zip(self.shape(x), pads[:rank], pads[rank:], strict=True)]
        y = self.add(I.Pad, [x], shape, pads=tuple(pads), code=code)
        return self.declared(y, min(self.type(y).lo, code), max(self.type(y).hi, code))

    def declared(self, value: str, lo: int, hi: int) -> str:
        """The last value with this interval."""
        one, node = (1,) * len(self.shape(value)), self.nodes.pop()
        self.nodes.append(replace(node, type=IntType(node.type.shape, lo, hi)))
        self.bounds[value] = np.full(one, lo), np.full(one, hi)
        return value

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.add(I.Reshape, [x], shape)

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        return self.add(I.Transpose, [x], [self.shape(x)[p] for p in perm], perm=tuple(perm))

    def argmax(self, x: str, axis: int) -> str:
        shape = list(self.shape(x))
        shape[axis] = 1
        return self.add(I.ArgMax, [x], shape, axis=axis)

    def graph(self, *outputs: str) -> Graph:
        """The checked graph, without what no output needs."""
        graph = Graph("integer", tuple(self.nodes), outputs)
        graph = graph.with_nodes(graph.nodes)
        check(graph)
        return graph


def _slid(rank: int, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> dict[str, Any]:
    ones = (1,) * rank
    return {
        "strides": tuple(strides) or ones,
        "pads": tuple(pads) or (0,) * (2 * rank),
        "dilations": tuple(dilations) or ones,
    }


def _sizes(
    grid: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    rank = len(kernel)
    return tuple(
        (grid[k] + pads[k] + pads[rank + k] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(rank)
    )


# --- networks at random ----------------------------------------------------------------------------------------------


@dataclass
class RandomNetwork:
    """A network of random operations, every one over a random value that it can take."""

    seed: int
    size: int = 6

    def graph(self) -> Graph:
        self.random = np.random.default_rng(self.seed)
        self.b = Builder()
        self.open = [self.b.input(self.first_shape(), *self.pick([(0, 15), (-8, 7), (0, 1), (-3, 0)]))]
        if self.random.random() < 0.2:
            self.open.append(self.b.input(self.b.shape(self.open[0])))
        steps = [
            self.conv, self.conv, self.conv, self.dense, self.dense, self.pool, self.pool, self.requantize, self.add,
            self.concat, self.slice, self.pad, self.reshape, self.transpose, self.argmax,
        ]  # fmt: skip
        for _ in range(self.size):
            x = self.pick(self.open[-3:])
            made = self.pick(steps)(x)
            if made is not None:
                self.open.append(self.narrow(made))
        used = {i for n in self.b.nodes for i in n.inputs}
        loose = [v for v in self.open if v not in used]
        return self.b.graph(*loose)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.random.integers(len(items)))]

    def integer(self, low: int, high: int) -> int:
        """From low to high, both possible."""
        return int(self.random.integers(low, high + 1))

    def first_shape(self) -> tuple[int, ...]:
        rank = self.pick([0, 1, 2, 2, 2, 3])
        sizes = [self.integer(1, (12, 9, 6, 4)[rank]) for _ in range(rank)]
        return (1, self.integer(1, 6), *sizes)

    def weights(self, shape: Sequence[int]) -> np.ndarray:
        low, high = self.pick([(-1, 1), (-1, 1), (-2, 1), (-8, 7), (-128, 127), (0, 1)])
        w = self.random.integers(low, high + 1, shape)
        w = w * (self.random.random(w.shape) < self.pick([0.1, 0.5, 1.0]))
        if self.random.random() < 0.4:
            w[self.integer(0, len(w) - 1)] = 0
        return w

    def window(self, grid: Sequence[int]) -> dict[str, Any]:
        """A window that has a place on the grid."""
        kernel, strides, before, after, dilations = [], [], [], [], []
        for n in grid:
            size = self.integer(1, min(n, 3))
            dilation = self.integer(1, 2) if (size - 1) * 2 < n else 1
            kernel.append(size)
            dilations.append(dilation)
            strides.append(self.integer(1, 3))
            border = min((size - 1) * dilation, 2) if self.random.random() < 0.6 else 0
            before.append(self.integer(0, border))
            after.append(self.integer(0, border))
        return {"kernel": kernel, "strides": strides, "pads": before + after, "dilations": dilations}

    def is_image(self, x: str) -> bool:
        shape = self.b.shape(x)
        return len(shape) > 2 and shape[0] == 1 and prod(shape[2:]) < 300

    def conv(self, x: str) -> str | None:
        if not self.is_image(x):
            return None
        channels = self.b.shape(x)[1]
        window = self.window(self.b.shape(x)[2:])
        group = self.pick([1, 1, *[g for g in range(1, channels + 1) if channels % g == 0]])
        rows = group * (1 if group == channels and self.random.random() < 0.7 else self.integer(1, 4))
        weight = self.weights((rows, channels // group, *window.pop("kernel")))
        code = self.integer(-2, 2)
        return self.b.conv(x, weight, group=group, pad_code=code, **window)

    def dense(self, x: str) -> str | None:
        return self.b.dense(x, self.weights((self.integer(1, 7), self.b.shape(x)[-1])))

    def pool(self, x: str) -> str | None:
        if not self.is_image(x):
            return None
        window = self.window(self.b.shape(x)[2:])
        return self.b.pool(x, maximum=self.random.random() < 0.5, pad_code=self.integer(-2, 2), **window)

    def narrow(self, x: str) -> str:
        return self.requantize(x) if self.b.type(x).width > NARROW else x

    def requantize(self, x: str) -> str:
        shape, kind = self.b.shape(x), self.b.type(x)
        axis = self.pick(range(len(shape)))
        channels = self.pick([1, shape[axis]])
        forms = [self.comparators, self.division, self.shift]
        if kind.hi - kind.lo < 200:
            forms.append(self.table)
        return self.b.requantize(x, self.pick(forms)(kind, channels), axis)

    def comparators(self, kind: IntType, channels: int) -> Requantizer:
        counts = [self.integer(0, 7) if self.random.random() < 0.5 else 3 for _ in range(channels)]
        thresholds = [np.sort(self.random.integers(kind.lo, kind.hi + 1, n)) for n in counts]
        if self.random.random() < 0.5:
            first = self.integer(-3, 1)
            return Comparators(tuple(thresholds), tuple(np.arange(n + 1) + first for n in counts))
        return Comparators(tuple(thresholds), tuple(self.random.integers(-8, 8, n + 1) for n in counts))

    def table(self, kind: IntType, channels: int) -> Requantizer:
        size = kind.hi - kind.lo + 1
        return Table(np.full(channels, kind.lo), tuple(self.random.integers(-8, 8, size) for _ in range(channels)))

    def linear(self, kind: IntType, channels: int) -> dict[str, Any]:
        lo, reach = self.random.integers(-8, 1, channels), self.random.integers(1, 16, channels)
        parts: dict[str, Any] = {
            "negate": self.random.random(channels) < 0.3,
            "multiplier": self.pick([1, 2, 3, 5]),
            "addend": self.random.integers(-20, 20, channels),
            "ties": self.pick(["up", "even", "odd"]),
            "lo": lo,
            "hi": lo + reach,
        }
        return parts

    def division(self, kind: IntType, channels: int) -> Requantizer:
        return Division(
            **self.linear(kind, channels), divisor=self.random.integers(1, 2 + (kind.hi - kind.lo), channels)
        )

    def shift(self, kind: IntType, channels: int) -> Requantizer:
        return Shift(**self.linear(kind, channels), bits=self.random.integers(0, kind.width, channels))

    def add(self, x: str) -> str | None:
        same = [v for v in self.open if self.b.shape(v) == self.b.shape(x)]
        factors = (self.pick([1, 3, -2]), self.pick([1, -1, 5]))
        pair = [x, self.pick(same)]
        self.random.shuffle(pair)
        return self.b.add_scaled(*pair, factors)

    def concat(self, x: str) -> str | None:
        shape = self.b.shape(x)
        axis = self.integer(1, len(shape) - 1)

        def rest(v: str) -> tuple[int, ...]:
            return tuple(n for k, n in enumerate(self.b.shape(v)) if k != axis)

        fitting = [v for v in self.open if len(self.b.shape(v)) == len(shape) and rest(v) == rest(x)]
        return self.b.concat([x, *(self.pick(fitting) for _ in range(self.integer(0, 2)))], axis)

    def slice(self, x: str) -> str | None:
        starts, steps, sizes = [], [], []
        for n in self.b.shape(x):
            step = self.pick([1, 1, 2, 3])
            size = self.integer(1, -(-n // step))
            start = self.integer(0, n - (size - 1) * step - 1)
            if self.random.random() < 0.2:
                start, step = start + (size - 1) * step, -step
            starts.append(start)
            steps.append(step)
            sizes.append(size)
        return self.b.slice(x, starts, steps, sizes)

    def pad(self, x: str) -> str | None:
        rank = len(self.b.shape(x))
        pads = [self.pick([0, 0, 1, 2]) for _ in range(2 * rank)]
        pads[0] = pads[rank] = 0
        return self.b.pad(x, pads, self.integer(-3, 3))

    def reshape(self, x: str) -> str | None:
        shape = self.b.shape(x)
        total = prod(shape)
        first = self.pick([n for n in range(1, total + 1) if total % n == 0])
        second = self.pick([n for n in range(1, total // first + 1) if total // first % n == 0])
        return self.b.reshape(
            x, self.pick([(1, total), (1, *shape[:0:-1]), (1, first, total // first), (1, first, second, total // first // second)])
        )  # fmt: skip

    def transpose(self, x: str) -> str | None:
        rank = len(self.b.shape(x))
        return self.b.transpose(x, [0, *(int(p) + 1 for p in self.random.permutation(rank - 1))])

    def argmax(self, x: str) -> str | None:
        return self.b.argmax(x, self.integer(1, len(self.b.shape(x)) - 1))


def one_layer(seed: int) -> tuple[Graph, str]:
    """A network of one random layer."""
    net = RandomNetwork(seed)
    net.random, net.b = np.random.default_rng(seed), Builder()
    x = net.b.input(net.first_shape())
    y = net.conv(x) or net.dense(x)
    assert y is not None
    return net.b.graph(y), y


def random_folds(graph: Graph, seed: int) -> dict[str, Fold]:
    """Lanes at random, as many as a layer can use at most; memories of some engines hold digits."""
    known, generator, coins = layouts(graph), np.random.default_rng(seed), np.random.default_rng(seed + 1)
    folds = {
        n.name: linear(n, known[n.inputs[0]]).fit(*(int(k) for k in generator.integers(1, 9, 2)))
        for n in graph
        if isinstance(n, (I.Conv, I.Dense))
    }
    return {name: replace(fold, coded=bool(coins.integers(2))) for name, fold in folds.items()}


# --- designs ---------------------------------------------------------------------------------------------------------


def frames_of(graph: Graph, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random frames for every input; the first and the second hold the ends of the interval."""
    generator = np.random.default_rng(seed)
    found = {}
    for node in graph.all(I.Input):
        kind = node.type
        x = generator.integers(kind.lo, kind.hi + 1, (count, *kind.shape))
        ends = generator.integers(0, 2, (min(count, 2), *kind.shape))
        x[:2] = np.where(ends, kind.hi, kind.lo)
        found[node.name] = x
    return found


def modelled(design: Design, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Beats of every stream, block by block."""
    ports = {e.stream: e for e in design.inputs}
    beats: dict[str, np.ndarray] = {}
    for instance in design.instances:
        if not instance.inputs:
            edge = ports[instance.outputs[0]]
            beats[edge.stream] = edge.layout.to_beats(frames[edge.value], design.streams[edge.stream].bus)
        elif instance.outputs:
            made = instance.block.model([beats[s] for s in instance.inputs], instance.memories)
            beats |= zip(instance.outputs, made, strict=True)
    return beats


def differences(design: Design, graph: Graph, frames: Mapping[str, np.ndarray]) -> list[str]:
    """What of the blocks' models is not what the network says: streams of wrong length, and of wrong values."""
    values = {n.name: x for n, x in zip(graph, _values(graph, frames), strict=True)}
    count = len(next(iter(frames.values())))
    wrong = []
    for name, beats in modelled(design, frames).items():
        stream = design.streams[name]
        if len(beats) != count * stream.beats:
            wrong.append(f"{name}: {len(beats)} beats instead of {count} * {stream.beats}")
        elif stream.layout is not None and stream.layout.shape and not _same(stream, beats, values[stream.value]):
            wrong.append(f"{name}: other values than {stream.value}, by {design.producer(name).name}")
    return wrong


def _same(stream: Stream, beats: np.ndarray, value: np.ndarray) -> bool:
    """Whether a stream that has a layout carries a value."""
    assert stream.layout is not None
    return np.array_equal(stream.layout.from_beats(beats, stream.bus), value)


def _values(graph: Graph, frames: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    values: dict[str, np.ndarray] = {}
    for node in graph:
        types = [graph[i].type for i in node.inputs]
        values[node.name] = (
            frames[node.name] if isinstance(node, I.Input) else apply(node, [values[i] for i in node.inputs], types)
        )
    return [values[n.name] for n in graph]


def queues(design: Design) -> dict[str, Fifo]:
    """Queues of a design by instance name."""
    return {i.name: i.block for i in design.instances if isinstance(i.block, Fifo)}
