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

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tcompile.errors import ModelError, Problem, printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.lowering import linear, windows
from tcompile.lowering.builder import (
    AFTER,
    BEFORE,
    BROKEN,
    CONSTANT,
    PAIRS,
    UNQUANTIZED,
    Builder,
    Placement,
    Refusal,
    State,
    node_name,
    tensor,
)
from tcompile.lowering.certificate import Entry, certify_output
from tcompile.lowering.lifted import (
    AccumulatorStart,
    ChainError,
    CodeStart,
    ConcatStart,
    Lifted,
    PairStart,
    PoolStart,
    RelaidStart,
)
from tcompile.reference import Kernel, Mode

__all__ = ["Lowered", "Placement", "lower"]


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
    doubts : tuple of str
        ONNX nodes that onnxruntime's defaults compute in a way that is not reproduced.
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
    doubts: tuple[str, ...] = ()


def lower(graph: Graph, mode: Mode, kernels: Mapping[str, Kernel]) -> Lowered:
    """Lower a real-level graph.

    Parameters
    ----------
    graph : Graph
        Real level.
    mode : {"plain", "fused"}
        Reference whose integers to reproduce.
    kernels : mapping of str to Kernel
        Nodes that the reference runs by name: `tcompile.reference.kernels`.

    Raises
    ------
    ModelError
        Every reason why the network has no integer form.
    """
    return _Lowering(graph, mode, kernels).run()


@dataclass
class _Lowering(Builder):
    """The walk over the real-level graph."""

    def run(self) -> Lowered:
        for node in self.graph:
            assert isinstance(node, R.RealNode)
            try:
                self.states[node.name] = self.visit(node)
            except (Refusal, ChainError) as reason:
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
            tuple(dict.fromkeys(self.doubts)),
        )

    def _refuse(self, node: R.RealNode, reason: Refusal | ChainError) -> None:
        what = f"{node.op} (node {printable(node_name(node))})"
        if isinstance(reason, Refusal):
            self.problems.append(
                Problem(reason.code, f"{what} {reason.message}", (node_name(node), *reason.where), reason.hint)
            )
        else:
            hint = "quantize them: give --weights csd:3 or --ternary sws" if "floating point" in str(reason) else ""
            self.problems.append(Problem("no-integer-form", f"{what}: {reason}", (node_name(node),), hint))

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
            raise Refusal("mixed-inputs", "must not mix the network's unquantized input with codes", UNQUANTIZED)
        if isinstance(node, R.DequantizeLinear):
            return self.enter(node)
        if isinstance(node, R.Linear):
            self.notes.append(f"{node.op} {printable(node_name(node))} runs on the host: nothing quantizes its input")
        self.place(node, "host before", node.op)
        return BEFORE

    def _after(self, node: R.RealNode) -> State:
        culprit = next(i for i in node.uses if self.states[i] == AFTER)
        if isinstance(node, R.Linear):
            hint = "end the accelerator before it (--until), or train with an operation that has an integer form"
            raise Refusal("float-input", f"gets floating-point input: {self.barriers[culprit]}", hint)
        self.barriers[node.name] = self.barriers[culprit]
        self.place(node, "host after", node.op)
        return AFTER

    def _lifted(self, node: R.RealNode) -> State:
        match node:
            case R.DequantizeLinear():
                return self.dequantize(node)
            case R.Elementwise():
                return self._elementwise(node)
            case R.Conv():
                return linear.conv(self, node)
            case R.Gemm() | R.MatMul():
                return linear.dense(self, node)
            case R.MaxPool() | R.GlobalMaxPool():
                return windows.max_pool(self, node)
            case R.AveragePool() | R.GlobalAveragePool() | R.ReduceMean() | R.ReduceSum():
                return windows.average(self, node)
            case R.Reshape() | R.Transpose() | R.Slice():
                return windows.layout(self, node)
            case R.Pad():
                return windows.pad(self, node)
            case R.Concat():
                return windows.concat(self, node)
            case R.ArgMax() | R.TopIndex():
                return windows.arg_max(self, node)
            case _:
                return self.leave(node, "has no integer form and runs on the host, behind the last integer only")

    def _elementwise(self, node: R.RealNode) -> State:
        sources = [s for i in dict.fromkeys(node.uses) if isinstance(s := self.states[i], Lifted)]
        first = sources[0]
        if all(s.start is first.start for s in sources):
            self.place(node, "accelerator", "requantizer")
            try:
                return first.then(node, sources[1:])
            except ChainError as reason:
                return self.leave(node, f"cannot join the chain before it: {reason}")
        if len(sources) == 2:
            return self._pair(node, *sources)
        return self.leave(node, f"joins {len(sources)} branches that are not on one integer")

    def _pair(self, node: R.RealNode, left: Lifted, right: Lifted) -> State:
        if not isinstance(node, (R.Add, R.Sub)):
            return self.leave(node, "multiplies or compares two branches")
        try:
            left, right = self.narrow(left), self.narrow(right)
        except Refusal as reason:
            return self.leave(node, f"adds a branch that is not quantized ({reason.message})")
        count = left.codes * right.codes
        if left.kind.shape != right.kind.shape:
            shapes = [list(left.kind.shape), list(right.kind.shape)]
            return self.leave(node, f"adds branches of shapes {shapes[0]} and {shapes[1]}, and does not repeat either")
        if count > PAIRS:
            return self.leave(node, f"adds branches of {left.codes} and {right.codes} values")
        assert isinstance(left.base, str) and isinstance(right.base, str)
        start = PairStart(node.name, left, right)
        self.place(node, "accelerator", "AddScaled")
        lifted = Lifted(
            (left.base, right.base), start, node.name, np.zeros(1, np.int64), np.array([count - 1]), self.graph
        )
        return replace(lifted, chain=(node,))

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
                    self.place(node, "host after", node.op)
                self._cut(last, found)
            elif state == AFTER:
                for used in self.graph[value].uses:
                    cut(used)
            elif state == BEFORE:
                self.problems.append(
                    Problem("unquantized-output", f"output {printable(tensor(self.graph, value))} does not pass any quantized layer",
                            hint=self._quantizing())
                )  # fmt: skip

        for output in self.graph.outputs:
            try:
                cut(output)
            except (Refusal, ChainError) as reason:
                node = self.graph[output]
                assert isinstance(node, R.RealNode)
                self._refuse(node, reason)
        return found

    def _quantizing(self) -> str:
        """What makes integers of a network that has none."""
        kernels = [self.graph[n.inputs[1]] for n in self.graph if isinstance(n, R.Linear)]
        arrays = [k.value.array for k in kernels if isinstance(k, R.Const)]
        if arrays and len(arrays) == len(kernels) and all((a == np.rint(a)).all() for a in arrays):
            name = next(iter(self.graph.all(R.Input))).origin.tensor
            return f"its weights are integers; if its input holds integers too, say so: --input-type {name}=uint8"
        return "give --ternary or --weights with --calib, a quantized model, or train it: tcompile compress"

    def _last_codes(self, lifted: Lifted) -> Lifted:
        """An output that is itself a code tensor is made on the accelerator."""
        return self.codes_of(lifted.value) if lifted.chain and lifted.kind.is_integer else lifted

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
                if lifted.base in found and found[lifted.base].start.value != start.value:
                    start = self._file_codes(lifted.base).start  # from which the host computes both values
                if isinstance(start, AccumulatorStart) and lifted.base not in found:
                    self.entries.append(certify_output(start, start.node))
                found[lifted.base] = replace(lifted, start=start, chain=(), value=start.value)

    def _file_codes(self, base: str) -> Lifted:
        """The code tensor of the file that integers are."""
        return next(c for c in self.codes.values() if c.base == base and isinstance(c.start, CodeStart))
