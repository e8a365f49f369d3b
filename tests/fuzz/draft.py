"""An ONNX model in the making: a node runs in onnxruntime as soon as it is added, so that every value is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tcompile import reference
from tcompile.errors import ModelError
from tests.models import ELEMENT, tensor

__all__ = ["Dice", "Draft", "Skip", "Value"]

LARGEST = 3000  # elements of a value
MICROSOFT, QONNX = "com.microsoft", "qonnx.custom_op.general"


class Skip(Exception):
    """A step that the network cannot take; nothing of it stays."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that depends on the input.

    Parameters
    ----------
    frames : ndarray (frames, *shape)
        What it is on the sample frames.
    scale, zero : float, int
        Grid of a quantized value, a number or codes; scale 0 for any other.
    codes : str
        Codes that a quantized number was made from.
    """

    name: str
    frames: np.ndarray
    scale: float = 0.0
    zero: int = 0
    codes: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames.shape[1:]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def real(self) -> np.ndarray:
        """Real numbers that codes stand for; a number itself."""
        if self.frames.dtype.kind == "f":
            return self.frames
        return ((self.frames.astype(np.float64) - self.zero) * self.scale).astype(np.float32)


class Dice:
    """Random choices of one seed."""

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.random = np.random.default_rng(seed)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.random.integers(len(items)))]

    def integer(self, low: int, high: int) -> int:
        """From low to high, both possible."""
        return int(self.random.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def real(self, low: float, high: float, shape: Sequence[int] = ()) -> np.ndarray:
        return self.random.uniform(low, high, shape).astype(np.float32)


@dataclass
class Draft:
    """Nodes, constants and inputs; methods that add something return its value or, of constants, its name."""

    opset: int
    avoid: frozenset[str] = frozenset()
    inputs: dict[str, Value] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)  # of constants
    count: int = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def input(self, frames: np.ndarray, scale: float = 0.0, zero: int = 0) -> Value:
        name = f"in{len(self.inputs)}"
        self.inputs[name] = Value(name, frames, scale, zero)
        return self.inputs[name]

    def const(self, array: Any, dtype: str = "float32") -> str:
        name = self.fresh("c")
        self.kinds[name] = dtype
        self.constants.append(tensor(array, dtype, name))
        self.known[name] = np.asarray(array).astype(
            "int8" if dtype in ("int4", "int2") else dtype.replace("uint4", "uint8")
        )
        return name

    def computed(self, op: str, inputs: Sequence[str], array: np.ndarray, domain: str = "", **attributes: Any) -> str:
        """A node of constants whose value is known."""
        node = self._node(op, inputs, 1, domain, attributes)
        self.nodes.append(node)
        self.known[node.output[0]] = np.asarray(array)
        return str(node.output[0])

    def given(
        self, op: str, inputs: Sequence[Value | str], frames: np.ndarray, domain: str = "", **attributes: Any
    ) -> Value:
        """A node that onnxruntime cannot run by itself, with its value."""
        node = self._node(op, [i if isinstance(i, str) else i.name for i in inputs], 1, domain, attributes)
        self.nodes.append(node)
        return Value(node.output[0], frames)

    def op(self, op: str, *inputs: Value | str, domain: str = "", **attributes: Any) -> Value:
        return self.several(op, 1, *inputs, domain=domain, **attributes)[0]

    def several(self, op: str, outputs: int, *inputs: Value | str, domain: str = "", **attributes: Any) -> list[Value]:
        """A node with some outputs.

        Raises
        ------
        Skip
            onnxruntime refuses the node, or its values are empty, not finite or too many.
        """
        node = self._node(op, [i if isinstance(i, str) else i.name for i in inputs], outputs, domain, attributes)
        found = self.run(node, {i.name: i for i in inputs if isinstance(i, Value)})
        self.nodes.append(node)
        return [Value(name, frames) for name, frames in zip(node.output, found, strict=True)]

    def tried(self, op: str, *inputs: Value | str, domain: str = "", **attributes: Any) -> np.ndarray:
        """What a node would compute, without adding it."""
        node = self._node(op, [i if isinstance(i, str) else i.name for i in inputs], 1, domain, attributes)
        return self.run(node, {i.name: i for i in inputs if isinstance(i, Value)})[0]

    def run(self, node: onnx.NodeProto, feeds: Mapping[str, Value]) -> list[np.ndarray]:
        """Outputs of one node on all frames."""
        infos = [_info(v.name, v.frames) for v in feeds.values()]
        fixed = [numpy_helper.from_array(self.known[n], n) for n in dict.fromkeys(node.input) if n in self.known]
        ends = [onnx.ValueInfoProto(name=o) for o in node.output]
        graph = helper.make_graph([node], "one", infos, ends, fixed)
        try:
            found = reference.Session(self._model(graph)).frames({v.name: v.frames for v in feeds.values()})
        except ModelError as error:
            raise Skip(str(error)) from error
        for frames in found.values():
            if not frames.size or frames[0].size > LARGEST or not np.isfinite(frames.astype(np.float64)).all():
                raise Skip(f"{node.op_type} gives {frames.shape}")
        return [found[o] for o in node.output]

    def check(self, made: Sequence[Value]) -> None:
        """Let onnxruntime load the network as a whole; what it runs node by node it may refuse together.

        Its shape inference counts windows of ceil_mode that lie in the padding, and its kernels do not: a Gemm behind
        such a pool fits what comes in, and not what onnxruntime expects.

        Raises
        ------
        Skip
            It does not load.
        """
        model = self.model(made)
        if any(n.domain == QONNX for n in model.graph.node):
            return
        try:
            reference.Session(model)
        except ModelError as error:
            raise Skip(str(error)) from error

    def _node(
        self, op: str, inputs: Sequence[str], outputs: int, domain: str, attributes: Mapping[str, Any]
    ) -> onnx.NodeProto:
        if op in self.avoid:
            raise Skip(f"{op} is to be avoided")
        names = [self.fresh("v") for _ in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        return helper.make_node(op, list(inputs), names, name=f"{op.lower()}_{self.count}", domain=domain, **given)

    def _model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        domains = {n.domain for n in graph.node} - {""}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
        version = max(8, helper.find_min_ir_version_for(opsets[:1], True))
        return helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="fuzz")

    def mark(self) -> tuple[int, int]:
        """A point to come back to."""
        return len(self.nodes), len(self.constants)

    def back(self, mark: tuple[int, int]) -> None:
        del self.nodes[mark[0] :]
        del self.constants[mark[1] :]

    def used(self) -> set[str]:
        """Names that some node takes."""
        return {i for n in self.nodes for i in n.input}

    def model(self, outputs: Sequence[Value]) -> onnx.ModelProto:
        """The whole, with nothing that no output needs."""
        needed = {o.name for o in outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(node.input)
        graph = helper.make_graph(
            kept[::-1],
            "fuzz",
            [_info(v.name, v.frames) for v in self.inputs.values() if v.name in needed],
            [_info(o.name, o.frames) for o in outputs],
            [c for c in self.constants if c.name in needed],
        )
        return self._model(graph)


def _info(name: str, frames: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT[str(frames.dtype)], frames.shape[1:])
