"""Inputs that hold integers, said so: files whose arithmetic is integer, but whose types are float (NEMO, QuantLab)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir import real as R
from tcompile.ir.graph import NARROW, Graph, Origin, TensorType
from tcompile.passes.base import PassResult
from tcompile.passes.quantize_activations import inserted
from tcompile.passes.weights import Names, constant

__all__ = ["DeclareInputs"]


@dataclass(frozen=True)
class DeclareInputs:
    """Puts a quantizer of step 1 behind float inputs that hold integers; it changes no integer of the type.

    Parameters
    ----------
    types : mapping of str to str
        Integer type (``uint8``, ``int8`` ...) by the name of the input's ONNX tensor.
    """

    name: ClassVar[str] = "declare-inputs"
    types: Mapping[str, str] = field(hash=False)

    def run(self, graph: Graph) -> PassResult:
        """Declare the inputs of `graph`.

        Raises
        ------
        UsageError
            There is no such input, or it does not hold floats; all of them.
        """
        inputs = {n.origin.tensor: n for n in graph.all(R.Input)}
        problems = [
            Problem("unknown-input", f"the model must have an input {printable(name)} of float32 to declare", (name,),
                    f"its inputs are {', '.join(printable(i) for i in inputs)}")
            for name in self.types
            if name not in inputs or inputs[name].type.dtype != "float32"
        ]  # fmt: skip
        if problems:
            raise UsageError(problems)
        names, used = Names(graph), {i for n in graph for i in n.uses}

        def behind(node: R.RealNode) -> list[R.RealNode]:
            kind = self.types.get(node.origin.tensor) if isinstance(node, R.Input) and node.name in used else None
            return [] if kind is None else _declared(node, kind, names)

        return PassResult(inserted(graph, behind)[0], bool(self.types))


def _declared(node: R.RealNode, dtype: str, names: Names) -> list[R.RealNode]:
    origin = Origin(node.origin.nodes)
    step = constant(names(node.name, "step"), np.array(1, np.float32), "float32", origin)
    zero = constant(names(node.name, "zero"), np.array(0, NARROW.get(dtype, dtype)), dtype, origin)
    codes = R.QuantizeLinear(
        name=names(node.name, "codes"), inputs=(node.name, step.name, zero.name),
        type=TensorType(dtype, node.type.shape), origin=origin,
    )  # fmt: skip
    real = R.DequantizeLinear(
        name=names(node.name, "real"), inputs=(codes.name, step.name, zero.name), type=node.type, origin=origin
    )
    return [step, zero, codes, real]
