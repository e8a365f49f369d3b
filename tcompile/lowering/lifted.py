"""A real value as a function of one integer, and its replay in onnxruntime.

Between two code tensors the network is one integer sum per position followed by a chain of elementwise operations.
`Lifted` holds such a chain; `evaluate` runs it, cut out of the file, in onnxruntime on any integers: tables of
requantizers come from there and nowhere else.

A chain is replayed as a matrix of shape (integers, channels). Constants of a chain vary with the channel or not at
all; `channel_axis` refuses others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
import onnx
from onnx import helper

from tcompile.frontend.export import model_of
from tcompile.ir import real as R
from tcompile.ir.graph import NARROW, Graph, Tensor, TensorType
from tcompile.reference import Kernel, Session

__all__ = [
    "AccumulatorStart", "ChainError", "CodeStart", "ConcatStart", "GridStart", "IntegerKernelStart", "KernelStart", "Lifted",
    "PairStart", "PoolStart", "RelaidStart", "Start", "TableStart", "channel_axis", "evaluate", "pair_codes",
]  # fmt: skip

CHUNK = 1 << 22  # elements replayed at a time


class ChainError(Exception):
    """A chain cannot be extended or replayed; the message says why."""


class Start:
    """How the floats (or codes) at the head of a chain follow from the integers."""

    value: str

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        """Values at the head, shape (L, C), from integers of shape (L, C)."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class CodeStart(Start):
    """The integers are the codes of an integer tensor of the file."""

    value: str
    dtype: str

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        return {self.value: n.astype(NARROW.get(self.dtype, self.dtype))}


@dataclass(frozen=True, eq=False)
class GridStart(Start):
    """Value = float32((n - zero) · step), as a dequantizer computes it, for integers of any range."""

    value: str
    step: float
    zero: int = 0

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        return {self.value: ((n - self.zero).astype(np.float64) * self.step).astype(np.float32)}


@dataclass(frozen=True, eq=False)
class AccumulatorStart(Start):
    """Value = float32((n - correction) · scale + bias): a linear operation's output from its integer sum.

    Parameters
    ----------
    scale : float64 array (C,)
        Product of the activation's and the channel's weight scale; exact, both being float32.
    correction : int64 array (C,)
        What the activation's zero point adds to the integer sum.
    bias : float64 array (C,)
        Bias inside the operation, 0 where there is none.
    magnitude : int64 array (C,)
        Largest Σ|w·(q - zero point)|.
    terms : int
        Products summed.
    node : str
        Name of the linear operation's ONNX node.
    """

    value: str
    scale: np.ndarray
    correction: np.ndarray
    bias: np.ndarray
    magnitude: np.ndarray
    terms: int
    node: str
    x_scale: float
    w_scale: np.ndarray
    bias_code: np.ndarray | None = None

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        exact = (n - self.correction).astype(np.float64) * self.scale + self.bias
        return {self.value: exact.astype(np.float32)}


@dataclass(frozen=True, eq=False)
class IntegerKernelStart(Start):
    """Codes that onnxruntime's integer kernels make of the sum: rint(saturate(float32(acc) · float32(scale))) + zero.

    Saturated first, for a product may be too large for any integer.
    """

    value: str
    accumulator: AccumulatorStart
    y_scale: np.float32
    zero: int
    lo: int
    hi: int
    dtype: str

    @property
    def ratio(self) -> np.ndarray:
        """Codes per unit of the sum, float32, one per channel or one for all."""
        a = self.accumulator
        return np.asarray((np.float32(a.x_scale) * a.w_scale.astype(np.float32)) / self.y_scale, np.float32)

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        a = self.accumulator
        acc = n - a.correction + (0 if a.bias_code is None else a.bias_code)
        y = np.clip(acc.astype(np.float32) * self.ratio, self.lo - self.zero, self.hi - self.zero)
        return {self.value: (np.rint(y).astype(np.int64) + self.zero).astype(self.dtype)}


@dataclass(frozen=True, eq=False)
class RelaidStart(Start):
    """The head is another chain's value, seen in another layout."""

    value: str
    previous: Lifted

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        return {self.value: evaluate(self.previous, n)}


@dataclass(frozen=True, eq=False)
class PairStart(Start):
    """Two chains meet in one operation; the integer numbers the pairs of their codes (`pair_codes`)."""

    value: str
    left: Lifted
    right: Lifted

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        a, b = pair_codes(self.left, self.right, n)
        feeds = {self.left.value: evaluate(self.left, a)}
        feeds[self.right.value] = evaluate(self.right, b)
        return feeds


def pair_codes(left: Lifted, right: Lifted, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of pair number n: left code major, right code minor."""
    lo, hi = int(right.lo.min()), int(right.hi.max())
    count = hi - lo + 1
    return n // count + int(left.lo.min()), n % count + lo


@dataclass(frozen=True, eq=False)
class PoolStart(Start):
    """An averaging operation, run on windows whose codes sum to the integer and are as equal as can be."""

    value: str
    source: Lifted
    node: R.RealNode
    window: tuple[int, ...]

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        floats = evaluate(self.source, _windows(n, prod(self.window)))
        return {self.value: self.average(floats.astype(np.float32), n.shape)}

    def images(self, windows: np.ndarray) -> np.ndarray:
        """Rows of windows as images (L·C, 1, ...) whose first window they are.

        As in the file, the image is larger than the window or equal to it: onnxruntime rounds these two differently.
        """
        images = windows.reshape(-1, 1, *self.window)
        whole = tuple(self.source.kind.shape[2:]) == self.window
        return images if whole else np.concatenate([images, images], axis=2)

    def average(self, floats: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Average rows of shape (L·C, K) through onnxruntime; back to (L, C)."""
        session, source = self._session
        return next(iter(session({source: floats.reshape(-1, 1, *self.window)}).values())).reshape(shape)

    @cached_property
    def _session(self) -> tuple[Session, str]:
        source = self.node.inputs[0]
        rank = len(self.window)
        node = self.node
        if isinstance(node, R.AveragePool):
            node = replace(node, pads=(0,) * 2 * rank, dilations=(1,) * rank)  # windows come whole
        shape = (1, 1) + (1,) * rank
        node = replace(node, type=TensorType("float32", shape))
        inputs = {source: TensorType("float32", (-1, 1, *self.window))}
        model = model_of([node], inputs, {node.name: TensorType("float32", ())})
        return Session(_free(model)), source


def _windows(n: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` codes that sum to n: (L·C, count)."""
    low, rest = np.divmod(n.reshape(-1, 1), count)
    return low + (np.arange(count) < rest)


@dataclass(frozen=True, eq=False)
class ConcatStart(Start):
    """Branches one behind the other along the channels; `grid` is theirs if they share one."""

    value: str
    parts: tuple[Lifted, ...]
    sizes: tuple[int, ...]
    grid: GridStart | None = None

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        if self.grid is not None:
            return self.grid.feed(n)
        wide = np.broadcast_to(n, (len(n), sum(self.sizes)))
        pieces, first = [], 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            inside = np.clip(wide[:, first : first + size], int(part.lo.min()), int(part.hi.max()))
            pieces.append(evaluate(part, inside))
            first += size
        return {self.value: np.concatenate(pieces, axis=1)}


@dataclass(frozen=True, eq=False)
class TableStart(Start):
    """Codes that an integer kernel makes of each integer from `low` on: rows of a table, one column per channel or for all."""

    value: str
    low: int
    table: np.ndarray
    dtype: str

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.broadcast_to(n, (len(n), max(n.shape[1], self.table.shape[1]))) - self.low
        return {self.value: self.table[rows, np.arange(rows.shape[1]) % self.table.shape[1]].astype(self.dtype)}


@dataclass(frozen=True, eq=False)
class KernelStart(Start):
    """Codes that one integer kernel of onnxruntime's (QLinearAdd, QLinearAveragePool ...) makes of codes."""

    value: str
    inner: PairStart | PoolStart
    kernel: Kernel
    zeros: tuple[int, ...]
    zero: int
    dtype: str

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        if isinstance(self.inner, PairStart):
            codes = list(pair_codes(self.inner.left, self.inner.right, n))
        else:
            codes = [self.inner.images(_windows(n, prod(self.inner.window)))]
        made = self.kernel(codes, self.zeros, self.zero)
        if isinstance(self.inner, PoolStart):
            made = made.reshape(*made.shape[:2], -1)[:, :, 0]
        return {self.value: made.reshape(n.shape).astype(self.dtype)}


@dataclass(frozen=True, eq=False)
class Lifted:
    """value = chain(start(n)) for the integers n of an integer-level value.

    Parameters
    ----------
    base : str or (str, str)
        Integer-level value; a pair where two meet.
    start : Start
        From integers to the head of the chain.
    chain : tuple of RealNode
        Elementwise nodes in topological order; constants are looked up in `graph`.
    value : str
        Real-level value.
    axis : int or None
        Channel axis of the value; None if all channels are alike.
    channels : int
        Size along the axis, 1 if all are alike.
    lo, hi : int64 arrays (channels,) or (1,)
        Reachable integers.
    """

    base: str | tuple[str, str]
    start: Start
    value: str
    lo: np.ndarray
    hi: np.ndarray
    graph: Graph = field(repr=False)
    chain: tuple[R.RealNode, ...] = ()
    axis: int | None = None
    channels: int = 1

    @property
    def kind(self) -> TensorType:
        """Type of the real value."""
        kind = self.graph[self.value].type
        assert isinstance(kind, TensorType)
        return kind

    @property
    def span(self) -> int:
        """Integers per channel, at most."""
        return int((self.hi - self.lo).max()) + 1

    @property
    def codes(self) -> int:
        """Integers of all channels together, from the smallest to the largest."""
        return int(self.hi.max() - self.lo.min()) + 1

    def then(self, node: R.RealNode, others: Sequence[Lifted] = ()) -> Lifted:
        """The chain with one more node; `others` are chains on the same base that meet in it."""
        axis, channels = self.axis, self.channels
        if node.type.shape != self.kind.shape:
            raise ChainError(f"its constants make {list(self.kind.shape)} larger: {list(node.type.shape)}")
        chain = list(self.chain)
        for other in others:
            chain += [n for n in other.chain if n not in chain]
            axis, channels = _same_axis(axis, channels, other.axis, other.channels, node)
        for index, name in enumerate(node.inputs):
            if name and isinstance(self.graph[name], (R.Const, R.DequantizeLinear)) and _is_constant(self.graph, name):
                found = channel_axis(node, index, self.graph)
                if found is not None:
                    size = self.graph[node.name].type.shape[found]
                    axis, channels = _same_axis(axis, channels, found, size, node)
        return replace(self, chain=(*chain, node), value=node.name, axis=axis, channels=channels)

    @cached_property
    def session(self) -> Session:
        """The chain in onnxruntime, as matrices of shape (L, C)."""
        return Session(_replay_model(self))


def _same_axis(a: int | None, n: int, b: int | None, m: int, node: R.RealNode) -> tuple[int | None, int]:
    if a is None or b is None or a == b:
        return (b, m) if a is None else (a, n)
    raise ChainError(f"its constants vary along axis {b}, those before it along axis {a}")


def _is_constant(graph: Graph, name: str) -> bool:
    node = graph[name]
    return isinstance(node, R.Const) or (bool(node.uses) and all(_is_constant(graph, i) for i in node.uses))


def channel_axis(node: R.RealNode, index: int, graph: Graph) -> int | None:
    """Axis of the output along which constant input `index` varies; None for a scalar.

    Raises
    ------
    ChainError
        It varies along several axes.
    """
    shape = graph[node.inputs[index]].type.shape
    rank = len(node.type.shape)
    if prod(shape) == 1:
        return None
    if isinstance(node, R.BatchNormalization):
        return 1
    if isinstance(node, (R.QuantizeLinear, R.DequantizeLinear)):
        return node.axis % rank
    varying = [rank - len(shape) + k for k, d in enumerate(shape) if d != 1]
    if len(varying) != 1:
        raise ChainError(f"a constant of shape {list(shape)} varies along several axes, not per channel")
    return varying[0]


def _replay_model(lifted: Lifted) -> onnx.ModelProto:
    """The chain with every value a matrix (L, C) and constants of shape () or (C,)."""
    graph = lifted.graph
    heads = _heads(lifted)
    inside = {n.name for n in lifted.chain}
    nodes: list[R.RealNode] = []
    done: set[str] = set()
    for node in lifted.chain:
        for name in node.uses:
            if name not in inside and name not in heads and name not in done:
                done.add(name)
                nodes.extend(_constants(graph, name, node, lifted.channels))
        changes = {"type": TensorType(node.type.dtype, (0, 0))}
        if isinstance(node, (R.QuantizeLinear, R.DequantizeLinear)):
            node = replace(node, axis=1)
        nodes.append(replace(node, **changes))  # type: ignore[arg-type]
    outputs = {lifted.value: lifted.kind}
    if lifted.kind.dtype in NARROW:
        nodes += _unpacked(lifted)
        outputs = {f"{lifted.value}__float": TensorType("float32", ())}
    inputs = {name: TensorType(str(np.dtype(_wide(kind.dtype))), (0, 0)) for name, kind in heads.items()}
    return _free(model_of(_widened(nodes, inputs), inputs, outputs))


def _wide(dtype: str) -> str:
    return str(np.dtype(NARROW[dtype])) if dtype in NARROW else dtype


def _heads(lifted: Lifted) -> dict[str, TensorType]:
    names = [lifted.start.value]
    if isinstance(lifted.start, PairStart):
        names = [lifted.start.left.value, lifted.start.right.value]
    kinds = {}
    for name in names:
        kind = lifted.graph[name].type
        assert isinstance(kind, TensorType)
        kinds[name] = kind
    return kinds


def _constants(graph: Graph, name: str, user: R.RealNode, channels: int) -> list[R.RealNode]:
    """A constant operand (evaluated if it is a dequantized one), flattened to () or (C,); a normalization takes (C,) only."""
    node = graph[name]
    array = node.value.array if isinstance(node, R.Const) else constant_floats(graph, name)
    dtype = node.value.dtype if isinstance(node, R.Const) else str(array.dtype)
    flat = array.reshape(()) if array.size == 1 else array.reshape(-1)
    if isinstance(user, R.BatchNormalization):
        flat = np.broadcast_to(flat, (max(channels, flat.size),))
    return [R.Const(name=name, value=Tensor(flat, dtype), type=TensorType(dtype, flat.shape))]


def constant_floats(graph: Graph, name: str) -> np.ndarray:
    """Value of a constant expression (dequantized weights, layouts of them), from onnxruntime."""
    needed: dict[str, R.RealNode] = {}

    def visit(value: str) -> None:
        node = graph[value]
        assert isinstance(node, R.RealNode)
        for used in node.uses:
            visit(used)
        needed[value] = node

    visit(name)
    kind = graph[name].type
    assert isinstance(kind, TensorType)
    model = model_of(list(needed.values()), {}, {name: kind})
    return Session(model)({})[name]


def _unpacked(lifted: Lifted) -> list[R.RealNode]:
    """Codes of fewer than 8 bits leave as floats: onnxruntime hands no packed tensors out."""
    one = R.Const(
        name=f"{lifted.value}__one", value=Tensor(np.array(1, np.float32), "float32"), type=TensorType("float32", ())
    )
    out = R.DequantizeLinear(
        name=f"{lifted.value}__float", inputs=(lifted.value, one.name), type=TensorType("float32", (0, 0))
    )
    return [one, out]


def _widened(nodes: list[R.RealNode], inputs: Mapping[str, TensorType]) -> list[R.RealNode]:
    """Zero points follow inputs that were widened from packed codes."""
    points = {
        n.inputs[2] for n in nodes if isinstance(n, R.DequantizeLinear) and len(n.inputs) > 2 and n.inputs[0] in inputs
    }
    result = []
    for node in nodes:
        if isinstance(node, R.Const) and node.name in points and node.value.dtype in NARROW:
            wide = _wide(node.value.dtype)
            node = replace(node, value=Tensor(node.value.array, wide), type=TensorType(wide, node.type.shape))
        result.append(node)
    return result


def _free(model: onnx.ModelProto) -> onnx.ModelProto:
    """Free every declared dimension that is not positive, and the outputs' shapes."""
    for info in model.graph.input:
        for k, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.dim_value <= 0:
                dim.dim_param = f"d{k}"
    for info in model.graph.output:
        info.CopyFrom(helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, None))
    return model


def evaluate(lifted: Lifted, n: np.ndarray) -> np.ndarray:
    """Run a chain in onnxruntime.

    Parameters
    ----------
    n : int64 array (L, C) or (L, 1)
        Integers; one column serves all channels.

    Returns
    -------
    ndarray (L, C)
        Values in the value's own type (packed types one per byte).
    """
    step = max(1, CHUNK // max(n.shape[1], lifted.channels))
    parts = [_evaluate(lifted, n[k : k + step]) for k in range(0, max(1, len(n)), step)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _evaluate(lifted: Lifted, n: np.ndarray) -> np.ndarray:
    feeds = lifted.start.feed(n)
    width = max([lifted.channels, n.shape[1], *(f.shape[1] for f in feeds.values())])
    if not lifted.chain:
        out = next(iter(feeds.values()))
    else:
        if lifted.channels > 1:  # not every operator lets its first input be the narrower one
            feeds = {name: np.broadcast_to(f, (len(f), width)) for name, f in feeds.items()}
        out = next(iter(lifted.session({k: np.ascontiguousarray(f) for k, f in feeds.items()}).values()))
    if lifted.kind.dtype in NARROW:
        out = out.astype(NARROW[lifted.kind.dtype])
    return np.asarray(np.broadcast_to(out, (len(n), width)))
