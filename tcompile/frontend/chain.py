"""The graph around a QONNX quantizer, and the chain of standard nodes that replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tcompile.errors import ModelError, Problem
from tcompile.frontend.protos import QONNX_DOMAINS, Names, shown, static_shape

__all__ = ["Chain", "Surroundings", "refuse"]

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


@dataclass
class Surroundings:
    """What the rules ask about the graph, and the constants they add."""

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, TensorProto]
    users: Mapping[str, list[NodeProto]]
    names: Names
    added: list[TensorProto] = field(default_factory=list)

    @classmethod
    def of(cls, model: ModelProto) -> Surroundings:
        """Read the surroundings from a model with static types."""
        graph = model.graph
        values = (*graph.input, *graph.value_info, *graph.output)
        shapes = {v.name: static_shape(v.type) or () for v in values}
        shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
        users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                users.setdefault(name, []).append(node)
        names = Names([*shapes, *(node.name for node in graph.node)])
        return cls(shapes, {t.name: t for t in graph.initializer}, users, names)

    def add(self, wanted: str, value: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = self.names.fresh(wanted)
        self.added.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def is_weight(self, name: str) -> bool:
        """Tell whether a constant reaches a multiplication by a moving value, at most through changes of layout."""
        seen, todo = set[str](), [name]
        while todo:
            at = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            for node in self.users.get(at, []):
                if node.op_type == "MatMul" or (node.op_type in ("Conv", "Gemm") and at in node.input[:2]):
                    return True
                if node.op_type in _MOVES or node.domain in QONNX_DOMAINS:
                    todo.extend(node.output)
        return False


@dataclass
class Chain:
    """Nodes that replace one quantizer, one after the other; the last writes the quantizer's output."""

    node: NodeProto
    graph: Surroundings
    at: str
    nodes: list[NodeProto] = field(default_factory=list)

    def then(self, op_type: str, *others: str, first: bool = True, last: bool = False, **values: Any) -> None:
        """Append an operator whose first (or second) input is the chain's value so far."""
        name = f"{self.node.name}_{op_type}"
        output = self.node.output[0] if last else self.graph.names.fresh(f"{self.node.output[0]}_{op_type}")
        inputs = [self.at, *others] if first else [*others, self.at]
        self.nodes.append(helper.make_node(op_type, inputs, [output], self.graph.names.fresh(name), **values))
        self.at = output

    def constant(self, what: str, value: np.ndarray | float, dtype: Any = np.float32) -> str:
        """Add a constant that belongs to the quantizer and return its name."""
        return self.graph.add(f"{self.node.output[0]}_{what}", np.asarray(value, dtype=dtype))


def refuse(node: NodeProto, reason: str, hint: str = "") -> ModelError:
    """Error that says why a quantizer has no exact standard form."""
    return ModelError(Problem("unsupported-quantizer", f"{shown(node)}: {reason}", (node.name,), hint))
