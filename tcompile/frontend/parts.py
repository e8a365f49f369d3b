"""Nodes that take the place of one, and what rules may ask about the graph around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from onnx import NodeProto, helper

from tcompile.errors import ModelError, Problem
from tcompile.frontend.protos import attributes, shown

__all__ = ["Context", "Parts", "Rule"]


class Context(Protocol):
    """What a rule may ask about the graph around a node, and the way to add to it."""

    opset: int

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a value."""

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant, or None if it is computed from the input."""

    def evaluated(self, node: NodeProto) -> np.ndarray:
        """Result of a node in the form of `OPSET` whose inputs are constants."""

    def is_used(self, name: str) -> bool:
        """Tell whether a node or an output of the graph uses a value."""

    def add_constant(self, wanted: str, value: np.ndarray) -> str:
        """Add a constant and return its name."""

    def fresh(self, wanted: str) -> str:
        """Return a name that neither a tensor nor a node bears."""


Rule = Callable[[NodeProto, Context], list[NodeProto]]


@dataclass
class Parts:
    """The nodes that replace one; the last writes its output."""

    node: NodeProto
    context: Context
    nodes: list[NodeProto] = field(default_factory=list)

    def add(self, op_type: str, inputs: Sequence[str], *, main: bool = False, **values: Any) -> str:
        """Append a node and return its output; the `main` one bears the name of the node that is replaced."""
        output = self.context.fresh(f"{self.node.output[0]}_{op_type}")
        name = self.node.name if main else self.context.fresh(f"{self.node.name}_{op_type}")
        given: dict[str, Any] = {k: v for k, v in values.items() if v not in ([], ())}  # an empty list has no type
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name, **given))
        return output

    def constant(self, what: str, value: Any, dtype: Any = np.int64) -> str:
        """Add a constant and return its name."""
        return self.context.add_constant(f"{self.node.name}_{what}", np.asarray(value, dtype=dtype))

    def reshaped(self, x: str, shape: Sequence[int]) -> str:
        """The same elements in another shape."""
        return self.add("Reshape", [x, self.constant("shape", shape)])

    def sliced(self, x: str, axis: int, start: int, count: int, step: int = 1) -> str:
        """Every step-th element from start on along an axis, so many; all of them are the value itself."""
        if (start, step) == (0, 1) and count == self.context.shape(self.node.input[0])[axis] and x in self.node.input:
            return x
        end = start + count * step
        bounds = ([start], [end if end >= 0 else np.iinfo(np.int64).min], [axis], [step])
        names = [self.constant(w, v) for w, v in zip(("starts", "ends", "axes", "steps"), bounds, strict=True)]
        return self.add("Slice", [x, *names])

    def joined(self, parts: Sequence[str], axis: int) -> str:
        """Values one behind the other; a single one is itself."""
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=axis)

    def done(self, result: str) -> list[NodeProto]:
        """All nodes; `result`, made by the last of them, becomes the output of the node that is replaced."""
        if not self.nodes or self.nodes[-1].output[0] != result:
            self.nodes.append(helper.make_node("Identity", [result], [result], ""))
            self.nodes[-1].name = self.context.fresh(f"{self.node.name}_Identity")
        self.nodes[-1].output[0] = self.node.output[0]
        if all(n.name != self.node.name for n in self.nodes):
            self.nodes[-1].name = self.node.name
        return self.nodes

    # what a node says

    def integer(self, name: str, default: int) -> int:
        """An integer attribute; operators of other domains have not been checked."""
        value = attributes(self.node).get(name, default)
        if not isinstance(value, int):
            raise self.misfit(f"its attribute {name} must be an integer")
        return value

    def given(self, index: int) -> str:
        """Name of an input; empty if it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def known(self, index: int, what: str) -> np.ndarray:
        """Value of an input that must be constant."""
        value = self.context.constant(self.given(index)) if self.given(index) else None
        if value is None:
            raise self.refused(f"its {what} must be constant", "fold it before the export")
        return value

    def refused(self, reason: str, hint: str = "cut the graph before it with --until") -> ModelError:
        """Error that says why the node has no form here."""
        return ModelError(Problem("unsupported-op", f"{shown(self.node)}: {reason}", (self.node.name,), hint))

    def misfit(self, reason: str) -> ModelError:
        """Error that says what is wrong with the node."""
        return ModelError(Problem("invalid-onnx", f"{shown(self.node)}: {reason}", (self.node.name,)))
