"""What lowering builds up: integer nodes, code tensors, requantizers, and where each operation ended up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from tcompile.errors import Problem, printable
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, IntType, Origin, identifier
from tcompile.ir.requantizers import Steps
from tcompile.lowering.certificate import Entry, certify, certify_pair
from tcompile.lowering.grid import Grid, grid_of, regrid
from tcompile.lowering.kernel_tables import kernel_at, table_of
from tcompile.lowering.lifted import (
    AccumulatorStart,
    ChainError,
    CodeStart,
    GridStart,
    IntegerKernelStart,
    KernelStart,
    Lifted,
    PairStart,
    PoolStart,
    RelaidStart,
    evaluate,
)
from tcompile.lowering.pairs import pairing
from tcompile.lowering.requantize import synthesize
from tcompile.lowering.steps import steps_of
from tcompile.reference import Kernel, Mode

__all__ = [
    "AFTER",
    "BEFORE",
    "BROKEN",
    "CONSTANT",
    "UNQUANTIZED",
    "Builder",
    "Placement",
    "Refusal",
    "State",
    "dtype_range",
    "grid_parameters",
    "layer_of",
    "node_name",
    "tensor",
]

PAIRS = 1 << 18  # pairs of codes that are run through onnxruntime
CODES = 1 << 16  # codes that a layer may take
UNQUANTIZED = "quantize it: give --act-bits and --calib, or export the model quantized"
State = Lifted | str  # a chain, or one of the words below
CONSTANT, BEFORE, AFTER, BROKEN = "constant", "before", "after", "broken"


@dataclass(frozen=True)
class Placement:
    """What becomes of one real-level node."""

    where: str  # host before | accelerator | host after | constant
    becomes: str
    note: str = ""


class Refusal(Exception):
    """One operation has no integer form; the walk makes a `Problem` of it and goes on."""

    def __init__(self, code: str, message: str, hint: str = "", where: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.where = code, message, hint, tuple(where)


@dataclass
class Builder:
    """The integer graph while it grows, and what is known of every real value."""

    graph: Graph
    mode: Mode
    kernels: Mapping[str, Kernel]
    states: dict[str, State] = field(default_factory=dict)
    nodes: list[I.IntNode] = field(default_factory=list)
    types: dict[str, IntType] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    codes: dict[str, Lifted] = field(default_factory=dict)  # code tensors of the file already made
    grids: dict[str, tuple[Lifted, Grid]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    placements: dict[str, Placement] = field(default_factory=dict)
    probes: dict[str, Lifted] = field(default_factory=dict)
    heads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    zeros: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    barriers: dict[str, str] = field(default_factory=dict)  # value computed after -> why it left the accelerator
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # ONNX nodes that onnxruntime's defaults compute in another way

    def emit(self, node: I.IntNode) -> None:
        """Append an integer node."""
        self.nodes.append(node)
        self.types[node.name] = node.type

    def place(self, node: R.RealNode, where: str, becomes: str, note: str = "") -> None:
        """Say what becomes of an operation."""
        self.placements[node.name] = Placement(where, becomes, note)

    def leave(self, node: R.RealNode, why: str) -> State:
        """The value leaves the accelerator here."""
        self.barriers[node.name] = f"{node.op} (node {printable(node_name(node))}) {why}"
        self.place(node, "host after", node.op)
        return AFTER

    def source(self, node: R.RealNode) -> Lifted:
        """The single lifted input, which must be the first."""
        source = self.states[node.inputs[0]]
        if not isinstance(source, Lifted):
            raise Refusal("constant-operand", "must have its activations as first input")
        kernels = any(kernel_at(self.kernels, n) for n in source.chain) or layer_of(source) in self.kernels
        if source.kind.is_integer and source.chain and kernels:
            return self.settled(source)  # an integer kernel gives these codes before anything is done with them
        return source

    def narrow(self, lifted: Lifted) -> Lifted:
        """The same value as codes on one grid for all channels, if it is not already."""
        if lifted.span <= CODES and isinstance(lifted.base, str) and grid_of(lifted) is not None:
            return lifted
        return self.on_grid(lifted)[0]

    def enter(self, node: R.DequantizeLinear) -> Lifted:
        """The first dequantizer behind the host's part: its codes enter the accelerator."""
        value = node.inputs[0]
        if value not in self.codes:
            lo, hi = code_range(self.graph, value)
            name = identifier(self.graph[value].origin.tensor or value, self.taken)
            shape = self.graph[value].type.shape
            self.emit(I.Input(name=name, type=IntType(shape, lo, hi), origin=self.graph[value].origin))
            self.inputs[name] = value
            quantizer = self.graph[value]
            if isinstance(quantizer, R.QuantizeLinear):
                self.zeros[name] = grid_parameters(self.graph, quantizer)[1]
            self.codes[value] = self.code_tensor(name, value)
        self.place(node, "accelerator", "codes")
        return self.codes[value].then(node)

    def code_tensor(self, base: str, value: str) -> Lifted:
        """An integer value as the file's code tensor."""
        kind = self.types[base]
        dtype = self.graph[value].type.dtype  # type: ignore[union-attr]
        lifted = Lifted(base, CodeStart(value, dtype), value, np.array([kind.lo]), np.array([kind.hi]), self.graph)
        self.probes[base] = lifted
        return lifted

    def dequantize(self, node: R.DequantizeLinear) -> Lifted:
        """Codes as real numbers; a chain before them becomes a requantizer."""
        self.place(node, "accelerator", "codes")
        return self.codes_of(node.inputs[0]).then(node)

    def codes_of(self, value: str) -> Lifted:
        """A code tensor of the file as an integer value of its own."""
        if value not in self.codes:
            lifted = self.states[value]
            assert isinstance(lifted, Lifted)
            self.codes[value] = self.requantized(lifted, value) if lifted.chain else lifted
        return self.codes[value]

    def requantized(self, lifted: Lifted, value: str) -> Lifted:
        """The code tensor at the end of a chain, made by a requantizer."""
        base = self.requantize(lifted)
        self.heads[base] = () if isinstance(lifted.start, RelaidStart) else (layer_of(lifted),)
        quantizer = next((n for n in lifted.chain if isinstance(n, R.QuantizeLinear)), None)
        self.zeros[base] = grid_parameters(self.graph, quantizer)[1] if quantizer is not None else 0
        return self.code_tensor(base, value)

    def requantize(self, lifted: Lifted) -> str:
        """Turn a chain that ends in codes into a requantizer; returns its integer value."""
        made_by, lifted = lifted.chain, self.fused(lifted)
        layer = layer_of(lifted)
        if isinstance(lifted.start, PairStart | KernelStart) and isinstance(lifted.base, tuple):
            return self.requantize_pair(lifted, layer, made_by)
        assert isinstance(lifted.base, str)
        steps = steps_of(lifted)
        entry = certify(lifted, steps, layer)
        self.entries.append(entry)
        if entry.at_risk and isinstance(lifted.start, PoolStart | KernelStart):
            self.notes.append(
                f"{printable(layer)} averages in floating point: at {entry.at_risk} of its {entry.steps} steps onnxruntime's result"
                f" depends on the order of the terms, so that {_extent(entry)} integers may differ; verify counts them"
            )
        return self.emit_requantizer(lifted.base, lifted, steps, made_by)

    def requantize_pair(self, lifted: Lifted, layer: str, made_by: tuple[R.RealNode, ...]) -> str:
        """The same for a chain on two integers: a scaled sum first."""
        pair_start = lifted.start.inner if isinstance(lifted.start, KernelStart) else lifted.start
        assert isinstance(pair_start, PairStart) and isinstance(lifted.base, tuple)
        head = self.graph[pair_start.value]
        ratio = slope(pair_start.left) / slope(pair_start.right)
        found = pairing(lifted, pair_start, -ratio if isinstance(head, R.Sub) else ratio)
        self.entries.append(certify_pair(found, layer, float(ratio)))
        a, b = found.factors
        left, right = (self.types[t] for t in lifted.base)
        ends = [a * x + b * y for x in (left.lo, left.hi) for y in (right.lo, right.hi)]
        name = identifier(layer + "_sum", self.taken)
        kind = IntType(left.shape, min(ends), max(ends))
        self.emit(I.AddScaled(name=name, inputs=lifted.base, type=kind, factors=(a, b), origin=head.origin))
        return self.emit_requantizer(name, lifted, found.steps, made_by)

    def emit_requantizer(self, base: str, lifted: Lifted, steps: Steps, made_by: tuple[R.RealNode, ...]) -> str:
        """The cheapest form that equals the steps, as an integer node; `made_by` is the file's chain."""
        form = synthesize(steps)
        values = [int(v) for column in steps.values for v in (column.min(), column.max())]
        nodes = tuple(n for node in made_by for n in node.origin.nodes)
        origin = Origin(nodes, self.graph[lifted.value].origin.tensor)
        name = identifier(origin.tensor or lifted.value, self.taken)
        kind = IntType(self.types[base].shape, min(values), max(values))
        axis = lifted.axis if lifted.axis is not None else min(1, len(kind.shape) - 1)
        self.emit(I.Requantize(name=name, inputs=(base,), type=kind, form=form, axis=axis, origin=origin))
        return name

    def fused(self, lifted: Lifted) -> Lifted:
        """The same chain as onnxruntime's integer kernels compute it, where the reference does.

        Where it uses an integer kernel in another way than this knows, that is noted as a doubt.
        """
        position = next((k for k, n in enumerate(lifted.chain) if isinstance(n, R.QuantizeLinear)), None)
        quantizer = lifted.chain[position] if position is not None else None
        if isinstance(quantizer, R.QuantizeLinear) and position is not None:
            grid = Grid(*grid_parameters(self.graph, quantizer))
            table = table_of(lifted, self.kernels, layer_of(lifted), quantizer, grid)
            if table is not None:
                return replace(lifted, start=table, chain=lifted.chain[position + 1 :])
        computed = next((n for n in lifted.chain if kernel_at(self.kernels, n)), None)
        if computed is not None and not isinstance(lifted.start, PairStart):
            self.doubts.append(node_name(computed))
            return lifted
        kernel = self.kernels.get(layer_of(lifted))
        if kernel is None or not (kernel.integer or kernel.op.startswith("QLinear")):
            if self.mode == "fused":
                self._doubt_merged(lifted)
            return lifted
        start = None
        if isinstance(quantizer, R.QuantizeLinear) and position is not None:
            start = self._kernel_start(lifted, kernel, quantizer, lifted.chain[:position])
        if start is None or position is None:
            self.doubts.append(layer_of(lifted))
            return lifted
        return replace(lifted, start=start, chain=lifted.chain[position + 1 :])

    def _kernel_start(
        self, lifted: Lifted, kernel: Kernel, quantizer: R.QuantizeLinear, absorbed: tuple[R.RealNode, ...]
    ) -> IntegerKernelStart | KernelStart | None:
        """Codes straight from the kernel; None if the file's chain is not what the kernel computes."""
        scale, zero = grid_parameters(self.graph, quantizer)
        lo, hi = dtype_range(quantizer.type.dtype)
        start = lifted.start
        while isinstance(start, RelaidStart):  # onnxruntime moves quantizers in front of layouts
            absorbed, start = (*start.previous.chain, *absorbed), start.previous.start
        if isinstance(start, AccumulatorStart):
            saturated = all(isinstance(n, (R.Relu, R.Clip)) for n in absorbed)  # by the codes' range; ORT made sure
            if not kernel.integer or not saturated or not kernel.has_scales([start.x_scale], scale):
                return None
            own = replace(start, bias_code=kernel.bias)
            made = IntegerKernelStart(quantizer.name, own, np.float32(scale), zero, lo, hi, quantizer.type.dtype)
            return made if np.isfinite(made.ratio).all() else None  # 0 · inf is no number, nor a certain code
        if not isinstance(start, (PairStart, PoolStart)) or start is not lifted.start:
            return None
        sources = (start.left, start.right) if isinstance(start, PairStart) else (start.source,)
        grids = [grid_of(s) for s in sources]
        steps = [g.step for g in grids if g is not None]
        known = kernel.op in ("QLinearAdd", "QLinearAveragePool", "QLinearGlobalAveragePool")
        if isinstance(start, PoolStart) and kernel.window not in ((), tuple(start.window)):
            return None  # a part of what the kernel does
        plain = all(isinstance(n, (R.Relu, R.Add)) for n in absorbed)
        if not known or not plain or len(steps) != len(sources) or not kernel.has_scales(steps, scale):
            return None
        zeros = tuple(g.zero for g in grids if g is not None)
        return KernelStart(quantizer.name, start, kernel, zeros, zero, quantizer.type.dtype)

    def _doubt_merged(self, lifted: Lifted) -> None:
        """A quantizer of codes that onnxruntime's defaults have no node for: merged with a neighbour, or moved."""
        for node in lifted.chain:
            name = node_name(node)
            if isinstance(node, R.QuantizeLinear) and name not in self.kernels and not self._same_grid(lifted, node):
                self.doubts.append(name)
            kernel = self.kernels.get(name)
            if kernel is not None and kernel.op.startswith("QLinear"):
                self.doubts.append(name)

    def _same_grid(self, lifted: Lifted, node: R.QuantizeLinear) -> bool:
        """Whether a quantizer only repeats the grid that its codes came from."""
        first = replace(lifted, chain=lifted.chain[:1])
        grid = grid_of(first) if len(lifted.chain) > 1 else grid_of(replace(lifted, chain=()))
        return grid is not None and grid == Grid(*grid_parameters(self.graph, node))

    def on_grid(self, lifted: Lifted) -> tuple[Lifted, Grid]:
        """The value as codes on an even grid, as a linear layer needs it.

        Raises
        ------
        Refusal
            The value is not quantized.
        """
        grid = grid_of(lifted)
        if grid is not None and lifted.span <= CODES:
            return lifted, grid
        if lifted.value not in self.grids:
            try:
                steps, step = regrid(lifted)
            except ChainError as reason:
                raise Refusal(
                    "not-quantized", f"needs quantized input, and {printable(tensor(self.graph, lifted.value))} is not: {reason}",
                    UNQUANTIZED,
                ) from reason  # fmt: skip
            if isinstance(lifted.base, tuple):
                raise Refusal("not-quantized", "needs the sum of two branches quantized", UNQUANTIZED)
            self.entries.append(certify(lifted, steps, layer_of(lifted)))
            base = self.emit_requantizer(lifted.base, lifted, steps, lifted.chain)
            kind = self.types[base]
            start = GridStart(lifted.value, step)
            new = Lifted(base, start, lifted.value, np.array([kind.lo]), np.array([kind.hi]), self.graph)
            self.grids[lifted.value] = (new, Grid(step, 0))
        return self.grids[lifted.value]

    def settled(self, lifted: Lifted) -> Lifted:
        """The value as integers that all channels read alike: the file's codes where it is a code tensor, else on a grid.

        Raises
        ------
        Refusal
            The value is not quantized.
        """
        if not lifted.kind.is_integer:
            return self.on_grid(lifted)[0]
        codes, start = self.codes_of(lifted.value), self.codes_of(lifted.value).start
        while isinstance(start, RelaidStart) and not start.previous.chain:
            start = start.previous.start
        if not isinstance(start, CodeStart):  # a function of integers that was moved
            self.codes[lifted.value] = codes = self.requantized(codes, lifted.value)
        return codes

    def relaid(
        self, node: R.RealNode, source: Lifted, make: Callable[[str, IntType], I.IntNode], axis: int | None
    ) -> Lifted:
        """The same function of the integers, in another layout."""
        name = identifier(node_name(node), self.taken)
        kind = IntType(node.type.shape, int(source.lo.min()), int(source.hi.max()))
        self.emit(make(name, kind))
        self.place(node, "accelerator", self.nodes[-1].op)
        start = RelaidStart(node.name, source)
        if axis is not None:
            return Lifted(name, start, node.name, source.lo, source.hi, self.graph, (), axis, source.channels)
        lo, hi = np.array([source.lo.min()]), np.array([source.hi.max()])
        return Lifted(name, start, node.name, lo, hi, self.graph)


def _extent(entry: Entry) -> str:
    """How many integers a layer's steps at risk may concern, in words, and what would help."""
    if 2 * entry.at_risk < entry.steps:
        return "a few"
    return (
        "some in a hundred (where input and output share a scale, every tie is at risk; another output scale has none)"
    )


def node_name(node: R.RealNode | object) -> str:
    assert isinstance(node, R.RealNode)
    return node.origin.nodes[-1][0] if node.origin.nodes else node.name


def tensor(graph: Graph, value: str) -> str:
    return graph[value].origin.tensor or value


def layer_of(lifted: Lifted) -> str:
    """ONNX node where the chain starts."""
    start = lifted.start
    while True:
        match start:
            case IntegerKernelStart():
                return start.accumulator.node
            case AccumulatorStart():
                return start.node
            case KernelStart():
                start = start.inner
            case RelaidStart():
                start = start.previous.start
            case _:
                return node_name(lifted.graph[start.value])


def grid_parameters(graph: Graph, node: R.QuantizeLinear) -> tuple[float, int]:
    scale = graph[node.inputs[1]]
    zero = graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
    assert isinstance(scale, R.Const)
    value = int(zero.value.array.ravel()[0]) if isinstance(zero, R.Const) else 0
    return float(scale.value.array.ravel()[0]), value


def dtype_range(dtype: str) -> tuple[int, int]:
    bits = int("".join(c for c in dtype if c.isdigit()))
    return (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)


def code_range(graph: Graph, value: str) -> tuple[int, int]:
    """Codes that a code tensor computed on the host can hold."""
    node = graph[value]
    assert isinstance(node, R.RealNode)
    if node.type.dtype == "bool":
        return 0, 1
    lo, hi = dtype_range(node.type.dtype) if node.type.is_integer else (-(1 << 15), (1 << 16) - 1)
    if isinstance(node, R.Clip):
        bounds = [scalar(graph, i) for i in node.inputs[1:]]
        low = bounds[0] if bounds and bounds[0] is not None else lo
        high = bounds[1] if len(bounds) > 1 and bounds[1] is not None else hi
        low, high = max(lo, int(low)), min(hi, int(high))
        return min(low, high), high  # bounds the wrong way round: everything becomes the upper one
    if isinstance(node, R.Where) and all(scalar(graph, i) is not None for i in node.inputs[1:]):
        choices = [int(v) for i in node.inputs[1:] if (v := scalar(graph, i)) is not None]
        return min(choices), max(choices)
    if isinstance(node, (R.Cast, R.Reshape, R.Transpose)):
        inner = code_range(graph, node.inputs[0])
        return inner if lo <= inner[0] and inner[1] <= hi else (lo, hi)  # a Cast beyond the range wraps around
    return lo, hi


def scalar(graph: Graph, name: str) -> float | None:
    node = graph[name] if name else None
    return float(node.value.array.ravel()[0]) if isinstance(node, R.Const) and node.value.array.size == 1 else None


def slope(lifted: Lifted) -> Fraction:
    """Real value per code."""
    grid = grid_of(lifted)
    if grid is not None:
        return Fraction(grid.step)
    ends = evaluate(lifted, np.array([[int(lifted.lo.min())], [int(lifted.hi.max())]]))
    rise = Fraction(float(ends[1].max())) - Fraction(float(ends[0].max()))
    return rise / max(1, lifted.span - 1) or Fraction(1)
