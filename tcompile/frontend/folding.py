"""Which nodes are evaluated at compile time, and how much work that may be: the file is untrusted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from tcompile.errors import ModelError, Problem, printable
from tcompile.frontend.protos import DEFAULT_DOMAINS, MICROSOFT, attributes, elements, shown

__all__ = ["Budget", "can_be_evaluated", "constant_value"]

_MAX_ELEMENTS = 2**26  # of one evaluated constant
_MAX_TOTAL = 2**28  # elements that all evaluated nodes read and write
_MAX_WORK = 2**36  # multiplications of one evaluated node
_HEAVY = {
    "Attention", "ConvInteger", "ConvTranspose", "DFT", "DeformConv", "Det", "Einsum", "GRU", "GridSample", "LRN",
    "LSTM", "LpPool", "MatMulInteger", "NonMaxSuppression", "QLinearConv", "QLinearMatMul", "RNN", "RoiAlign", "STFT",
}  # fmt: skip
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}

Shape = Callable[[str], tuple[int, ...]]


def can_be_evaluated(node: NodeProto) -> bool:
    """Tell whether a node of constants is a constant; dequantizers are kept, random numbers are none."""
    known = node.domain in DEFAULT_DOMAINS or node.domain == MICROSOFT
    return known and node.op_type != "DequantizeLinear" and node.op_type not in _RANDOM


class Budget:
    """Bounds the work that evaluated nodes may be, together and each."""

    def __init__(self) -> None:
        self._spent = 0

    def spend(self, node: NodeProto, shape: Shape) -> None:
        """Count a node that will be evaluated.

        Parameters
        ----------
        node : NodeProto
        shape : callable
            Shape of a value by name; inputs and outputs are asked for.

        Raises
        ------
        ModelError
            The node, or all nodes so far, are more work than any network's constants need.
        """
        count = sum(elements(shape(name)) for name in node.output if name)
        self._spent += count + sum(elements(shape(name)) for name in node.input if name)
        if count > _MAX_ELEMENTS or self._spent > _MAX_TOTAL or _work(node, count, shape) > _MAX_WORK:
            message = f"{shown(node)} makes a constant of {count} elements: too much work at compile time"
            raise ModelError(
                Problem("too-large", message, (node.name,), "export the network with its constants folded")
            )


def _work(node: NodeProto, count: int, shape: Shape) -> int:
    """Bound the operations that evaluate a node with ``count`` output elements."""
    if node.op_type in ("MatMul", "Gemm"):
        return count * max(shape(node.input[0]), default=1)
    if node.op_type == "Conv":
        return count * elements(shape(node.input[1])[1:])
    if node.op_type in ("MaxPool", "AveragePool"):
        return count * elements(attributes(node)["kernel_shape"])
    if node.op_type in _HEAVY or node.domain:
        return count * max(elements(shape(name)) for name in node.input if name)
    return count


def constant_value(node: NodeProto) -> TensorProto:
    """Tensor of a ``Constant`` node; strings and sparse tensors are refused."""
    values = attributes(node)
    key, value = next(iter(values.items()), ("", None))
    if key == "value" and isinstance(value, TensorProto):
        return value
    if key in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.asarray(value, dtype=np.float32))
    if key in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.asarray(value, dtype=np.int64))
    message = f"{shown(node)} must hold a dense tensor of numbers, not {printable(key)}"
    raise ModelError(Problem("unsupported-op", message, (node.name,)))
