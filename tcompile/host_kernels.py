"""Integer kernels of the file in the host's last part: the file's own nodes, where the graph holds their pieces.

The frontend takes an operator on codes apart, into dequantizers, the operator and a quantizer. Those round in another
way than the kernel does, so that on the host the kernel itself runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.reference import Kernel

__all__ = ["with_kernels"]

DOMAIN = "com.microsoft"  # of kernels that ONNX itself does not have


@dataclass(frozen=True, eq=False)
class _Group:
    """What the frontend made of one node: dequantizers of its operands, the operator, the quantizer."""

    kernel: Kernel
    operands: tuple[str, ...]
    operator: str
    quantizer: str

    def node(self, inner: Mapping[str, onnx.NodeProto]) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        """The file's node between the same values, and its constants."""
        node = onnx.NodeProto()
        node.CopyFrom(self.kernel.node)
        node.name = self.quantizer
        node.output[:] = inner[self.quantizer].output
        operands = iter(self.operands)
        constants = {}
        for k, name in enumerate(node.input):
            if name in self.kernel.constants:
                node.input[k] = f"inner.{self.quantizer}.{k}"  # no value of the graph has two dots
                constants[node.input[k]] = self.kernel.constants[name]
            elif name:
                node.input[k] = inner[next(operands)].input[0]
        return node, [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]


def with_kernels(
    model: onnx.ModelProto, nodes: Iterable[R.RealNode], graph: Graph, kernels: Mapping[str, Kernel]
) -> onnx.ModelProto:
    """The host's model with the file's kernels in the places of their pieces.

    Parameters
    ----------
    model : onnx.ModelProto
        Made of `nodes`, whose names its nodes bear.
    graph : Graph
        Real level.
    kernels : mapping of str to Kernel
        The file's own, by name: `tcompile.reference.kernels` of mode ``plain``.
    """
    groups = list(_groups({n.name for n in nodes}, graph, kernels))
    if not groups:
        return model
    inner = {n.name: n for n in model.graph.node}
    made = {g.quantizer: g.node(inner) for g in groups}
    gone = {name for g in groups for name in (*g.operands, g.operator)}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(made[n.name][0] if n.name in made else n for n in model.graph.node if n.name not in gone)
    used = {i for n in result.graph.node for i in n.input}
    constants = (*model.graph.initializer, *(c for _, added in made.values() for c in added))
    result.graph.initializer.extend(c for c in constants if c.name in used)
    if any(n.domain == DOMAIN for n in result.graph.node):
        result.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return result


def _groups(inside: set[str], graph: Graph, kernels: Mapping[str, Kernel]) -> Iterable[_Group]:
    """Kernels all of whose pieces are among the values `inside`."""
    for quantizer in graph.all(R.QuantizeLinear):
        operator = graph[quantizer.inputs[0]]
        assert isinstance(operator, R.RealNode)
        kernel = kernels.get(operator.origin.nodes[-1][0]) if operator.origin.nodes else None
        if kernel is None or not kernel.op.endswith(operator.op):
            continue
        parts = [graph[i] for i in operator.inputs if i]
        moving = [
            p.name for p in parts if isinstance(p, R.DequantizeLinear) and not isinstance(graph[p.inputs[0]], R.Const)
        ]
        codes = [i for i in kernel.node.input if i and i not in kernel.constants]
        if len(moving) == len(codes) and inside.issuperset([*moving, operator.name, quantizer.name]):
            yield _Group(kernel, tuple(moving), operator.name, quantizer.name)
