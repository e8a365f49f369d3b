"""Real numbers to integers.

The graph is walked once. Every real value is one of

constant
    known now; resolved by the operation that uses it,
before
    computed on the host from the inputs alone, up to the first code tensor,
lifted
    a function of one integer value of the accelerator (`Lifted`),
after
    computed on the host from lifted values,
broken
    refused, or behind something refused.

Elementwise operations only grow a chain. When a chain reaches a code tensor that is dequantized, or an operation that
needs codes, the chain becomes a requantizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod

import numpy as np

from tcompile.errors import ModelError, Problem, printable
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, IntType, Origin, Tensor, identifier
from tcompile.ir.requantizers import Steps
from tcompile.lowering.certificate import Entry, certify, certify_output, certify_pair
from tcompile.lowering.grid import Grid, grid_of, regrid
from tcompile.lowering.lifted import (
    AccumulatorStart,
    ChainError,
    CodeStart,
    ConcatStart,
    GridStart,
    IntegerKernelStart,
    KernelStart,
    Lifted,
    PairStart,
    PoolStart,
    RelaidStart,
    evaluate,
)
from tcompile.lowering.operands import bias_of, weights_of
from tcompile.lowering.pairs import pairing
from tcompile.lowering.requantize import synthesize
from tcompile.lowering.steps import direction, steps_of
from tcompile.reference import Kernel, Mode

__all__ = ["Lowered", "Placement", "lower"]

PAIRS = 1 << 18  # pairs of codes that are run through onnxruntime
CODES = 1 << 16  # codes that a layer may take
REASONS_WIDTH = "quantize it: give --act-bits and --calib, or export the model quantized"
State = Lifted | str  # a chain, or one of the words below
CONSTANT, BEFORE, AFTER, BROKEN = "constant", "before", "after", "broken"


@dataclass(frozen=True)
class Placement:
    """What becomes of one real-level node."""

    where: str  # host before | accelerator | host after | constant
    becomes: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Lowered:
    """The network in integers.

    Parameters
    ----------
    graph : Graph
        Integer level.
    inputs : mapping of str to str
        Integer inputs to the real-level code tensors they carry.
    outputs : mapping of str to Lifted
        Integer outputs to the chains that the host continues from.
    certificate : tuple of Entry
        One per requantizer.
    placements : mapping of str to Placement
        Real-level values to what became of their operation.
    probes : mapping of str to Lifted
        Integer values that can be compared with the reference inside the network.
    heads : mapping of str to tuple of str
        Code tensors to the ONNX node of the layer they come from.
    zeros : mapping of str to int
        Zero points of code tensors.
    notes : tuple of str
        Things to tell the user.
    """

    graph: Graph
    inputs: Mapping[str, str]
    outputs: Mapping[str, Lifted]
    certificate: tuple[Entry, ...]
    placements: Mapping[str, Placement]
    probes: Mapping[str, Lifted]
    heads: Mapping[str, tuple[str, ...]]
    zeros: Mapping[str, int]
    notes: tuple[str, ...] = ()


def lower(graph: Graph, mode: Mode, kernels: Mapping[str, Kernel]) -> Lowered:
    """Lower a real-level graph.

    Parameters
    ----------
    graph : Graph
        Real level.
    mode : {"plain", "fused"}
        Reference whose integers to reproduce.
    kernels : mapping of str to Kernel
        Nodes of onnxruntime's optimized graph by name; used where `mode` is ``fused``.

    Raises
    ------
    ModelError
        Every reason why the network has no integer form.
    """
    return _Lowering(graph, mode, kernels).run()


class _Refusal(Exception):
    def __init__(self, code: str, message: str, hint: str = "", where: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.where = code, message, hint, tuple(where)


@dataclass
class _Lowering:
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

    # The walk

    def run(self) -> Lowered:
        for node in self.graph:
            assert isinstance(node, R.RealNode)
            try:
                self.states[node.name] = self.visit(node)
            except (_Refusal, ChainError) as reason:
                self.states[node.name] = BROKEN
                self._refuse(node, reason)
        outputs = {} if self.problems else self._outputs()
        if self.problems:
            raise ModelError(self.problems)
        graph = Graph("integer", tuple(self.nodes), tuple(outputs))
        graph = graph.with_nodes(self.nodes)
        return Lowered(
            graph,
            {k: v for k, v in self.inputs.items() if k in graph.by_name},
            outputs,
            tuple(self.entries),
            self.placements,
            {k: v for k, v in self.probes.items() if k in graph.by_name},
            self.heads,
            self.zeros,
            tuple(self.notes),
        )

    def _refuse(self, node: R.RealNode, reason: _Refusal | ChainError) -> None:
        what = f"{node.op} (node {printable(_node_name(node))})"
        if isinstance(reason, _Refusal):
            self.problems.append(
                Problem(reason.code, f"{what} {reason.message}", (_node_name(node), *reason.where), reason.hint)
            )
        else:
            self.problems.append(Problem("no-integer-form", f"{what}: {reason}", (_node_name(node),)))

    def visit(self, node: R.RealNode) -> State:
        if isinstance(node, R.Input):
            return BEFORE
        states = [self.states[i] for i in node.uses]
        if BROKEN in states:
            return BROKEN
        if all(s == CONSTANT for s in states):
            return CONSTANT
        if AFTER in states:
            return self._after(node)
        if BEFORE in states:
            return self._before(node, states)
        return self._lifted(node)

    def _before(self, node: R.RealNode, states: list[State]) -> State:
        if any(isinstance(s, Lifted) for s in states):
            raise _Refusal("mixed-inputs", "must not mix the network's unquantized input with codes", REASONS_WIDTH)
        if isinstance(node, R.DequantizeLinear):
            return self._input(node)
        if isinstance(node, R.Linear):
            self.notes.append(f"{node.op} {printable(_node_name(node))} runs on the host: nothing quantizes its input")
        self._place(node, "host before", node.op)
        return BEFORE

    def _after(self, node: R.RealNode) -> State:
        culprit = next(i for i in node.uses if self.states[i] == AFTER)
        if isinstance(node, R.Linear):
            raise _Refusal("float-input", f"gets floating-point input: {self.barriers[culprit]}", REASONS_WIDTH)
        self.barriers[node.name] = self.barriers[culprit]
        self._place(node, "host after", node.op)
        return AFTER

    def _leave(self, node: R.RealNode, why: str) -> State:
        """The value leaves the accelerator here."""
        self.barriers[node.name] = f"{node.op} (node {printable(_node_name(node))}) {why}"
        self._place(node, "host after", node.op)
        return AFTER

    def _place(self, node: R.RealNode, where: str, becomes: str, note: str = "") -> None:
        self.placements[node.name] = Placement(where, becomes, note)

    # Operations on lifted values

    def _lifted(self, node: R.RealNode) -> State:
        match node:
            case R.DequantizeLinear():
                return self._dequantize(node)
            case R.Elementwise():
                return self._elementwise(node)
            case R.Conv():
                return self._conv(node)
            case R.Gemm() | R.MatMul():
                return self._dense(node)
            case R.MaxPool() | R.GlobalMaxPool():
                return self._max_pool(node)
            case R.AveragePool() | R.GlobalAveragePool() | R.ReduceMean():
                return self._average(node)
            case R.Reshape() | R.Transpose() | R.Slice():
                return self._layout(node)
            case R.Pad():
                return self._pad(node)
            case R.Concat():
                return self._concat(node)
            case R.ArgMax() | R.TopIndex():
                return self._arg_max(node)
            case _:
                return self._leave(node, "runs on the host")

    def _source(self, node: R.RealNode) -> Lifted:
        """The single lifted input, which must be the first."""
        source = self.states[node.inputs[0]]
        if not isinstance(source, Lifted):
            raise _Refusal("constant-operand", "must have its activations as first input")
        return source

    def _elementwise(self, node: R.RealNode) -> State:
        sources = [s for i in dict.fromkeys(node.uses) if isinstance(s := self.states[i], Lifted)]
        first = sources[0]
        if all(s.start is first.start for s in sources):
            self._place(node, "accelerator", "requantizer")
            try:
                return first.then(node, sources[1:])
            except ChainError as reason:
                return self._leave(node, f"cannot join the chain before it: {reason}")
        if len(sources) == 2:
            return self._pair(node, *sources)
        return self._leave(node, f"joins {len(sources)} branches that are not on one integer")

    def _pair(self, node: R.RealNode, left: Lifted, right: Lifted) -> State:
        if not isinstance(node, (R.Add, R.Sub)):
            return self._leave(node, "multiplies or compares two branches")
        left, right = self._narrow(left), self._narrow(right)
        if left.span * right.span > PAIRS or left.kind.shape != right.kind.shape:
            return self._leave(node, f"adds branches of {left.span} and {right.span} values that are not quantized")
        assert isinstance(left.base, str) and isinstance(right.base, str)
        start = PairStart(node.name, left, right)
        count = left.span * right.span
        self._place(node, "accelerator", "AddScaled")
        lifted = Lifted(
            (left.base, right.base), start, node.name, np.zeros(1, np.int64), np.array([count - 1]), self.graph
        )
        for other in (left, right):
            if other.axis is not None:
                lifted = replace(lifted, axis=other.axis, channels=other.channels)
        return replace(lifted, chain=(node,))

    def _narrow(self, lifted: Lifted) -> Lifted:
        """The same value on few integers, if it is not already."""
        if lifted.span <= CODES and isinstance(lifted.base, str):
            return lifted
        return self._on_grid(lifted)[0]

    # Codes

    def _input(self, node: R.DequantizeLinear) -> Lifted:
        """The first dequantizer behind the host's part: its codes enter the accelerator."""
        value = node.inputs[0]
        if value not in self.codes:
            lo, hi = _range(self.graph, value)
            name = identifier(self.graph[value].origin.tensor or value, self.taken)
            shape = self.graph[value].type.shape
            self._emit(I.Input(name=name, type=IntType(shape, lo, hi), origin=self.graph[value].origin))
            self.inputs[name] = value
            quantizer = self.graph[value]
            if isinstance(quantizer, R.QuantizeLinear):
                self.zeros[name] = _quantizer(self.graph, quantizer)[1]
            self.codes[value] = self._code_tensor(name, value)
        self._place(node, "accelerator", "codes")
        return self.codes[value].then(node)

    def _code_tensor(self, base: str, value: str) -> Lifted:
        kind = self.types[base]
        dtype = self.graph[value].type.dtype  # type: ignore[union-attr]
        lifted = Lifted(base, CodeStart(value, dtype), value, np.array([kind.lo]), np.array([kind.hi]), self.graph)
        self.probes[base] = lifted
        return lifted

    def _dequantize(self, node: R.DequantizeLinear) -> Lifted:
        self._place(node, "accelerator", "codes")
        return self._codes_of(node.inputs[0]).then(node)

    def _codes_of(self, value: str) -> Lifted:
        """A code tensor of the file as an integer value of its own."""
        if value not in self.codes:
            lifted = self.states[value]
            assert isinstance(lifted, Lifted)
            self.codes[value] = self._requantized(lifted, value) if lifted.chain else lifted
        return self.codes[value]

    def _requantized(self, lifted: Lifted, value: str) -> Lifted:
        base = self._requantize(lifted)
        self.heads[base] = (_layer(lifted),)
        quantizer = next((n for n in lifted.chain if isinstance(n, R.QuantizeLinear)), None)
        self.zeros[base] = _quantizer(self.graph, quantizer)[1] if quantizer is not None else 0
        return self._code_tensor(base, value)

    def _requantize(self, lifted: Lifted) -> str:
        """Turn a chain that ends in codes into a requantizer; returns its integer value."""
        lifted = self._fused(lifted)
        layer = _layer(lifted)
        if isinstance(lifted.start, PairStart | KernelStart) and isinstance(lifted.base, tuple):
            return self._requantize_pair(lifted, layer)
        assert isinstance(lifted.base, str)
        steps = steps_of(lifted)
        self.entries.append(certify(lifted, steps, layer))
        return self._emit_requantizer(lifted.base, lifted, steps)

    def _requantize_pair(self, lifted: Lifted, layer: str) -> str:
        pair_start = lifted.start.inner if isinstance(lifted.start, KernelStart) else lifted.start
        assert isinstance(pair_start, PairStart) and isinstance(lifted.base, tuple)
        head = self.graph[pair_start.value]
        ratio = _slope(pair_start.left) / _slope(pair_start.right)
        found = pairing(lifted, pair_start, -ratio if isinstance(head, R.Sub) else ratio)
        self.entries.append(certify_pair(found, layer, float(ratio)))
        a, b = found.factors
        left, right = (self.types[t] for t in lifted.base)
        ends = [a * x + b * y for x in (left.lo, left.hi) for y in (right.lo, right.hi)]
        name = identifier(layer + "_sum", self.taken)
        kind = IntType(left.shape, min(ends), max(ends))
        self._emit(I.AddScaled(name=name, inputs=lifted.base, type=kind, factors=(a, b), origin=head.origin))
        return self._emit_requantizer(name, lifted, found.steps)

    def _emit_requantizer(self, base: str, lifted: Lifted, steps: Steps) -> str:
        form = synthesize(steps)
        values = [int(v) for column in steps.values for v in (column.min(), column.max())]
        nodes = tuple(n for node in lifted.chain for n in node.origin.nodes)
        origin = Origin(nodes, self.graph[lifted.value].origin.tensor)
        name = identifier(origin.tensor or lifted.value, self.taken)
        kind = IntType(self.types[base].shape, min(values), max(values))
        axis = lifted.axis if lifted.axis is not None else min(1, len(kind.shape) - 1)
        self._emit(I.Requantize(name=name, inputs=(base,), type=kind, form=form, axis=axis, origin=origin))
        return name

    def _fused(self, lifted: Lifted) -> Lifted:
        """The same chain as onnxruntime's integer kernels compute it, where the reference does."""
        position = next((k for k, n in enumerate(lifted.chain) if isinstance(n, R.QuantizeLinear)), None)
        if self.mode != "fused" or position is None:
            return lifted
        quantizer = lifted.chain[position]
        assert isinstance(quantizer, R.QuantizeLinear)
        scale, zero = _quantizer(self.graph, quantizer)
        lo, hi = _dtype_range(quantizer.type.dtype)
        rest = lifted.chain[position + 1 :]
        start = lifted.start
        dtype = quantizer.type.dtype
        if isinstance(start, AccumulatorStart):
            kernel = self.kernels.get(start.node)
            absorbed = lifted.chain[:position]  # saturation does what these do; onnxruntime has made sure
            if kernel is None or not kernel.integer or not all(isinstance(n, (R.Relu, R.Clip)) for n in absorbed):
                return lifted
            whole = IntegerKernelStart(quantizer.name, start, np.float32(scale), zero, lo, hi, dtype)
            return replace(lifted, start=whole, chain=rest, axis=lifted.axis)
        if isinstance(start, (PairStart, PoolStart)):
            head = self.graph[start.value]
            kernel = self.kernels.get(_node_name(head))
            if kernel is None or not kernel.op.startswith("QLinear"):
                return lifted
            sources = (start.left, start.right) if isinstance(start, PairStart) else (start.source,)
            zeros = tuple(grid.zero if (grid := grid_of(s)) else 0 for s in sources)
            return replace(lifted, start=KernelStart(quantizer.name, start, kernel, zeros, zero, dtype), chain=rest)
        return lifted

    def _on_grid(self, lifted: Lifted) -> tuple[Lifted, Grid]:
        """The value as codes on an even grid, as a linear layer needs it.

        Raises
        ------
        _Refusal
            The value is not quantized.
        """
        grid = grid_of(lifted)
        if grid is not None and lifted.span <= CODES:
            return lifted, grid
        if lifted.value not in self.grids:
            try:
                steps, step = regrid(lifted)
            except ChainError as reason:
                raise _Refusal(
                    "not-quantized", f"needs quantized input, and {printable(_tensor(self.graph, lifted.value))} is not: {reason}",
                    REASONS_WIDTH,
                ) from reason  # fmt: skip
            if isinstance(lifted.base, tuple):
                raise _Refusal("not-quantized", "needs the sum of two branches quantized", REASONS_WIDTH)
            self.entries.append(certify(lifted, steps, _layer(lifted)))
            base = self._emit_requantizer(lifted.base, lifted, steps)
            kind = self.types[base]
            start = GridStart(lifted.value, step)
            new = Lifted(base, start, lifted.value, np.array([kind.lo]), np.array([kind.hi]), self.graph)
            self.grids[lifted.value] = (new, Grid(step, 0))
        return self.grids[lifted.value]

    # Linear layers

    def _conv(self, node: R.Conv) -> Lifted:
        source, grid = self._on_grid(self._source(node))
        self._constant_weights(node)
        weights = weights_of(self.graph, node.inputs[1], 0)
        per_tap = weights.codes.reshape(len(weights.codes), -1)
        padded = any(node.pads)
        start, lo, hi = self._accumulate(node, source, grid, weights.codes, weights.scale, per_tap, padded)
        kind = IntType(node.type.shape, int(lo.min()), int(hi.max()))
        name = identifier(_node_name(node), self.taken)
        assert isinstance(source.base, str)
        self._emit(
            I.Conv(
                name=name, inputs=(source.base,), type=kind, origin=node.origin,
                weight=_weight_tensor(weights.codes), strides=node.strides, pads=node.pads,
                dilations=node.dilations, group=node.group, pad_code=grid.zero,
            )
        )  # fmt: skip
        return self._accumulator(node, name, start, lo, hi, 1)

    def _dense(self, node: R.Gemm | R.MatMul) -> Lifted:
        source, grid = self._on_grid(self._source(node))
        self._constant_weights(node)
        rank = len(self.graph[node.inputs[1]].type.shape)
        if rank != 2:
            raise _Refusal("matmul-rank", f"must have a matrix of weights, not {rank} axes")
        rows = 1
        alpha = 1.0
        if isinstance(node, R.Gemm):
            if node.transA:
                raise _Refusal("transposed-activations", "must not transpose its activations", "transpose before it")
            rows, alpha = (0 if node.transB else 1), node.alpha
        weights = weights_of(self.graph, node.inputs[1], rows)
        scale = weights.scale * alpha
        start, lo, hi = self._accumulate(node, source, grid, weights.codes, scale, weights.codes, False)
        kind = IntType(node.type.shape, int(lo.min()), int(hi.max()))
        name = identifier(_node_name(node), self.taken)
        assert isinstance(source.base, str)
        self._emit(
            I.Dense(
                name=name, inputs=(source.base,), type=kind, origin=node.origin, weight=_weight_tensor(weights.codes)
            )
        )
        return self._accumulator(node, name, start, lo, hi, len(node.type.shape) - 1)

    def _constant_weights(self, node: R.RealNode) -> None:
        if any(self.states[i] != CONSTANT for i in node.inputs[1:] if i):
            raise _Refusal("unknown-weights", "must have constant weights: nothing here multiplies two unknowns")

    def _accumulate(
        self,
        node: R.Conv | R.Gemm | R.MatMul,
        source: Lifted,
        grid: Grid,
        codes: np.ndarray,
        scale: np.ndarray,
        matrix: np.ndarray,
        padded: bool,
    ) -> tuple[AccumulatorStart, np.ndarray, np.ndarray]:
        """Scales and the interval of the integer sum per channel."""
        q_lo, q_hi = int(source.lo.min()), int(source.hi.max())
        if padded:
            q_lo, q_hi = min(q_lo, grid.zero), max(q_hi, grid.zero)
        positive, negative = np.maximum(matrix, 0).sum(axis=1), np.minimum(matrix, 0).sum(axis=1)
        lo, hi = positive * q_lo + negative * q_hi, positive * q_hi + negative * q_lo
        largest = max(abs(q_lo - grid.zero), abs(q_hi - grid.zero))
        unit = scale * grid.step
        floats, bias_code = np.zeros(len(codes)), None
        if len(node.inputs) > 2 and node.inputs[2]:
            bias = bias_of(self.graph, node.inputs[2], unit)
            floats, bias_code = bias.floats * (node.beta if isinstance(node, R.Gemm) else 1.0), bias.codes
        start = AccumulatorStart(
            node.name, unit, matrix.sum(axis=1) * grid.zero, floats, np.abs(matrix).sum(axis=1) * largest,
            matrix.shape[1], _node_name(node), grid.step, scale, bias_code,
        )  # fmt: skip
        return start, lo, hi

    def _accumulator(
        self, node: R.RealNode, base: str, start: AccumulatorStart, lo: np.ndarray, hi: np.ndarray, axis: int
    ) -> Lifted:
        self._place(node, "accelerator", self.nodes[-1].op)
        lifted = Lifted(base, start, node.name, lo, hi, self.graph, (), axis, len(lo))
        self.probes[base] = lifted
        return lifted

    # Pools and layout

    def _max_pool(self, node: R.MaxPool | R.GlobalMaxPool) -> State:
        source = self._source(node)
        sign = _rising(source)
        if sign is None:
            source = self._on_grid(source)[0]
        if not isinstance(source.base, str):
            raise _Refusal("not-quantized", "needs quantized input", REASONS_WIDTH)
        spatial = len(node.type.shape) - 2
        if isinstance(node, R.MaxPool):
            kernel, strides, pads, dilations = node.kernel_shape, node.strides, node.pads, node.dilations
        else:
            kernel = source.kind.shape[2:]
            strides, pads, dilations = (1,) * spatial, (0,) * 2 * spatial, (1,) * spatial
        pads = _covering(source.kind.shape, node.type.shape, kernel, strides, pads, dilations)
        make = lambda name, kind: I.MaxPool(  # noqa: E731
            name=name, inputs=(source.base,), type=kind, origin=node.origin,
            kernel=kernel, strides=strides, pads=pads, dilations=dilations,
        )  # fmt: skip
        return self._relaid(node, source, make, axis=source.axis)

    def _average(self, node: R.AveragePool | R.GlobalAveragePool | R.ReduceMean) -> State:
        source, grid = self._on_grid(self._source(node))
        shape = source.kind.shape
        spatial = len(shape) - 2
        kernel, strides, pads, dilations = shape[2:], (1,) * spatial, (0,) * 2 * spatial, (1,) * spatial
        if isinstance(node, R.AveragePool):
            kernel, strides, pads, dilations = node.kernel_shape, node.strides, node.pads, node.dilations
            if (any(pads) and not node.count_include_pad) or node.ceil_mode:
                raise _Refusal("average-pool", "must divide every window by the same number (no uncounted padding)")
        if isinstance(node, R.ReduceMean) and (node.axes != tuple(range(2, len(shape))) or spatial < 1):
            return self._leave(node, f"averages over axes {list(node.axes)}, not over all positions")
        assert isinstance(source.base, str)
        count = prod(kernel)
        lo, hi = self.types[source.base].lo, self.types[source.base].hi
        if any(pads):
            lo, hi = min(lo, grid.zero), max(hi, grid.zero)
        out = (*shape[:2], *(1,) * spatial) if isinstance(node, R.ReduceMean) else node.type.shape
        kind = IntType(out, lo * count, hi * count)
        name = identifier(_node_name(node), self.taken)
        self._emit(
            I.SumPool(
                name=name, inputs=(source.base,), type=kind, origin=node.origin,
                kernel=kernel, strides=strides, pads=pads, dilations=dilations, pad_code=grid.zero,
            )
        )  # fmt: skip
        if out != node.type.shape:
            self._emit(
                I.Reshape(
                    name=(name := identifier(name, self.taken)), inputs=(self.nodes[-1].name,),
                    type=replace(kind, shape=node.type.shape), origin=node.origin,
                )
            )  # fmt: skip
        self._place(node, "accelerator", "SumPool")
        start = PoolStart(node.name, source, node, tuple(kernel))
        return Lifted(name, start, node.name, np.array([kind.lo]), np.array([kind.hi]), self.graph)

    def _layout(self, node: R.Reshape | R.Transpose | R.Slice) -> State:
        source = self._source(node)
        axis = _moved_axis(node, source)
        if not isinstance(source.base, str) or (source.axis is not None and axis is None):
            try:
                source = self._on_grid(source)[0]
            except _Refusal as reason:
                return self._leave(node, f"moves values that are not codes ({reason.message})")
            axis = None
        base = source.base
        assert isinstance(base, str)
        common = {"inputs": (base,), "origin": node.origin}

        def make(name: str, kind: IntType) -> I.IntNode:
            match node:
                case R.Reshape():
                    return I.Reshape(name=name, type=kind, **common)  # type: ignore[arg-type]
                case R.Transpose():
                    return I.Transpose(name=name, type=kind, perm=node.perm, **common)  # type: ignore[arg-type]
                case R.Slice():
                    return I.Slice(name=name, type=kind, starts=node.starts, steps=node.steps, **common)  # type: ignore[arg-type]

        return self._relaid(node, source, make, axis=axis)

    def _pad(self, node: R.Pad) -> State:
        source, grid = self._on_grid(self._source(node))
        code = Fraction(node.value) / Fraction(grid.step) + grid.zero
        if code.denominator != 1:
            raise _Refusal("pad-value", f"must fill with a value on the grid of its input, not {node.value!r}")
        base = source.base
        assert isinstance(base, str)
        kind = self.types[base]
        lo, hi = min(kind.lo, int(code)), max(kind.hi, int(code))
        make = lambda name, kind: I.Pad(  # noqa: E731
            name=name, inputs=(base,), type=kind, origin=node.origin, pads=node.pads, code=int(code)
        )
        wide = replace(source, lo=np.array([lo]), hi=np.array([hi]))
        return self._relaid(node, wide, make, axis=None)

    def _relaid(
        self, node: R.RealNode, source: Lifted, make: Callable[[str, IntType], I.IntNode], axis: int | None
    ) -> Lifted:
        """The same function of the integers, in another layout."""
        name = identifier(_node_name(node), self.taken)
        kind = IntType(node.type.shape, int(source.lo.min()), int(source.hi.max()))
        self._emit(make(name, kind))
        self._place(node, "accelerator", self.nodes[-1].op)
        start = RelaidStart(node.name, source)
        channels = source.channels if axis is not None else 1
        return Lifted(name, start, node.name, source.lo, source.hi, self.graph, (), axis, channels)

    def _concat(self, node: R.Concat) -> State:
        axis = node.axis % len(node.type.shape)
        if any(not isinstance(self.states[i], Lifted) for i in node.uses):
            return self._leave(node, "joins codes with constants")
        parts = [self._on_grid(s)[0] for i in node.uses if isinstance(s := self.states[i], Lifted)]
        lo, hi = min(int(p.lo.min()) for p in parts), max(int(p.hi.max()) for p in parts)
        bases = tuple(p.base for p in parts if isinstance(p.base, str))
        make = lambda name, kind: I.Concat(  # noqa: E731
            name=name, inputs=bases, type=kind, origin=node.origin, axis=axis
        )
        whole = replace(parts[0], lo=np.array([lo]), hi=np.array([hi]))
        if len({grid_of(p) for p in parts}) == 1:
            return self._relaid(node, whole, make, axis=None)
        sizes = tuple(p.kind.shape[axis] for p in parts)
        result = self._relaid(node, whole, make, axis=None)
        start = ConcatStart(node.name, tuple(parts), sizes)
        lows = np.repeat([int(p.lo.min()) for p in parts], sizes)
        highs = np.repeat([int(p.hi.max()) for p in parts], sizes)
        return replace(result, start=start, axis=axis, channels=sum(sizes), lo=lows, hi=highs)

    def _arg_max(self, node: R.ArgMax | R.TopIndex) -> State:
        source = self._source(node)
        if isinstance(node, R.ArgMax) and node.select_last_index:
            return self._leave(node, "takes the last of equals")
        if isinstance(node, R.TopIndex) and not node.largest:
            return self._leave(node, "takes the smallest")
        if not isinstance(source.base, str) or source.axis is not None or not _injective(source):
            return self._leave(node, "compares values that are not one rising function of integers")
        axis = node.axis % len(source.kind.shape)
        name = identifier(_node_name(node), self.taken)
        kind = IntType(node.type.shape, 0, source.kind.shape[axis] - 1)
        self._emit(I.ArgMax(name=name, inputs=(source.base,), type=kind, origin=node.origin, axis=axis))
        self._place(node, "accelerator", "ArgMax")
        self.codes[node.name] = self._code_tensor(name, node.name)
        return self.codes[node.name]

    def _emit(self, node: I.IntNode) -> None:
        self.nodes.append(node)
        self.types[node.name] = node.type

    # Outputs

    def _outputs(self) -> dict[str, Lifted]:
        """Integer outputs: where the host's last part begins."""
        found: dict[str, Lifted] = {}
        visited: set[str] = set()

        def cut(value: str) -> None:
            if value in visited:
                return
            visited.add(value)
            state = self.states[value]
            if isinstance(state, Lifted):
                last = self._last_codes(state)
                for node in last.chain:
                    self._place(node, "host after", node.op)
                self._cut(last, found)
            elif state == AFTER:
                for used in self.graph[value].uses:
                    cut(used)
            elif state == BEFORE:
                self.problems.append(
                    Problem("unquantized-output", f"output {printable(_tensor(self.graph, value))} does not pass any quantized layer",
                            hint="give --ternary or --weights with --calib, or a quantized model")
                )  # fmt: skip

        for output in self.graph.outputs:
            cut(output)
        return found

    def _last_codes(self, lifted: Lifted) -> Lifted:
        """An output that is itself a code tensor is made on the accelerator."""
        return self._codes_of(lifted.value) if lifted.chain and lifted.kind.is_integer else lifted

    def _cut(self, lifted: Lifted, found: dict[str, Lifted]) -> None:
        start = lifted.start
        match start:
            case PairStart():
                for part in (start.left, start.right):
                    self._cut(part, found)
            case PoolStart():
                self._cut(start.source, found)
            case RelaidStart():
                self._cut(start.previous, found)
            case ConcatStart():
                for part in start.parts:
                    self._cut(part, found)
            case _:
                assert isinstance(lifted.base, str)
                if isinstance(start, AccumulatorStart) and lifted.base not in found:
                    self.entries.append(certify_output(start, start.node))
                found[lifted.base] = replace(lifted, chain=(), value=start.value)


def _node_name(node: R.RealNode | object) -> str:
    assert isinstance(node, R.RealNode)
    return node.origin.nodes[-1][0] if node.origin.nodes else node.name


def _tensor(graph: Graph, value: str) -> str:
    return graph[value].origin.tensor or value


def _layer(lifted: Lifted) -> str:
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
                return _node_name(lifted.graph[start.value])


def _weight_tensor(codes: np.ndarray) -> Tensor:
    kind = np.int8 if codes.min(initial=0) >= -128 and codes.max(initial=0) <= 127 else np.int16
    return Tensor.of(codes.astype(kind))


def _quantizer(graph: Graph, node: R.QuantizeLinear) -> tuple[float, int]:
    scale = graph[node.inputs[1]]
    zero = graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
    assert isinstance(scale, R.Const)
    value = int(zero.value.array.ravel()[0]) if isinstance(zero, R.Const) else 0
    return float(scale.value.array.ravel()[0]), value


def _dtype_range(dtype: str) -> tuple[int, int]:
    bits = int("".join(c for c in dtype if c.isdigit()))
    return (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)


def _range(graph: Graph, value: str) -> tuple[int, int]:
    """Codes that a code tensor computed on the host can hold."""
    node = graph[value]
    assert isinstance(node, R.RealNode)
    if node.type.dtype == "bool":
        return 0, 1
    lo, hi = _dtype_range(node.type.dtype) if node.type.is_integer else (-(1 << 15), (1 << 16) - 1)
    if isinstance(node, R.Clip):
        bounds = [_scalar(graph, i) for i in node.inputs[1:]]
        low = bounds[0] if bounds and bounds[0] is not None else lo
        high = bounds[1] if len(bounds) > 1 and bounds[1] is not None else hi
        return max(lo, int(low)), min(hi, int(high))
    if isinstance(node, R.Where) and all(_scalar(graph, i) is not None for i in node.inputs[1:]):
        choices = [int(v) for i in node.inputs[1:] if (v := _scalar(graph, i)) is not None]
        return min(choices), max(choices)
    if isinstance(node, (R.Cast, R.Reshape, R.Transpose)):
        inner = _range(graph, node.inputs[0])
        return max(lo, inner[0]), min(hi, inner[1])
    return lo, hi


def _scalar(graph: Graph, name: str) -> float | None:
    node = graph[name] if name else None
    return float(node.value.array.ravel()[0]) if isinstance(node, R.Const) and node.value.array.size == 1 else None


def _slope(lifted: Lifted) -> Fraction:
    """Real value per code."""
    grid = grid_of(lifted)
    if grid is not None:
        return Fraction(grid.step)
    ends = evaluate(lifted, np.array([[int(lifted.lo.min())], [int(lifted.hi.max())]]))
    rise = Fraction(float(ends[1].max())) - Fraction(float(ends[0].max()))
    return rise / max(1, lifted.span - 1) or Fraction(1)


def _rising(lifted: Lifted) -> bool | None:
    """Whether a chain rises with its integers on all channels."""
    sign = direction(lifted)
    return True if sign is not None and (sign > 0).all() else None


def _injective(lifted: Lifted) -> bool:
    if lifted.span > CODES:
        return False
    values = evaluate(lifted, np.arange(int(lifted.lo.min()), int(lifted.hi.max()) + 1)[:, None])
    return bool((np.diff(values.astype(np.float64), axis=0) > 0).all())


def _moved_axis(node: R.RealNode, source: Lifted) -> int | None:
    """Where the channel axis goes; None if it does not survive."""
    axis = source.axis
    if axis is None:
        return None
    shape, new = source.kind.shape, node.type.shape
    if isinstance(node, R.Transpose):
        return node.perm.index(axis)
    if isinstance(node, R.Slice):
        return axis if shape[axis] == new[axis] and node.steps[axis] == 1 else None
    before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
    for k, size in enumerate(new):
        if size == shape[axis] and prod(new[:k]) == before and prod(new[k + 1 :]) == after:
            return k
    return None


def _covering(
    shape: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[int, ...]:
    """Pads with the end grown where the last window reaches beyond them (ceil_mode)."""
    rank = len(kernel)
    ends = []
    for k in range(rank):
        reach = (out[2 + k] - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1
        ends.append(max(pads[rank + k], reach - pads[k] - shape[2 + k]))
    return (*pads[:rank], *ends)
