"""Integer kernels of the file in the host's last part: the file's own nodes, where the graph holds their pieces.

The frontend takes an operator on codes apart, into dequantizers, one or more operators and a quantizer. Those round in
another way than the kernel does, so that on the host the kernel itself runs.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
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
    """What the frontend made of one node: all between its operands, values by tensors of the file, and its result."""

    kernel: Kernel
    operands: Mapping[str, str]
    result: str

    def node(self, inner: Mapping[str, onnx.NodeProto]) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        """The file's node between the same values, and its constants."""
        node = onnx.NodeProto()
        node.CopyFrom(self.kernel.node)
        node.name = self.result
        node.output[:] = inner[self.result].output
        constants = {}
        for k, name in enumerate(node.input):
            if name in self.kernel.constants:
                node.input[k] = f"inner.{self.result}.{k}"  # no value of the graph has two dots
                constants[node.input[k]] = self.kernel.constants[name]
            elif name:
                node.input[k] = inner[self.operands[name]].output[0]
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
    inner = {n.name: n for n in model.graph.node}
    groups = list(_groups({n.name for n in nodes}, inner, graph, kernels))
    if not groups:
        return model
    made = {g.result: g.node(inner) for g in groups}
    constants = (*model.graph.initializer, *(c for _, added in made.values() for c in added))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    kept = _needed([made[n.name][0] if n.name in made else n for n in model.graph.node], model.graph.output)
    result.graph.node.extend(kept)
    used = {i for n in kept for i in n.input}
    result.graph.initializer.extend(c for c in constants if c.name in used)
    result.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return result


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[onnx.ValueInfoProto]) -> list[onnx.NodeProto]:
    """Nodes that an output is made of, in their order."""
    wanted, kept = {o.name for o in outputs}, list[onnx.NodeProto]()
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _groups(inside: set[str], known: Container[str], graph: Graph, kernels: Mapping[str, Kernel]) -> Iterable[_Group]:
    """Kernels all of whose pieces are among the values `inside`, and whose operands are `known`."""
    values = {n.origin.tensor: n for n in graph if isinstance(n, R.RealNode) and n.type.dtype != "float32"}  # the last
    for kernel in kernels.values():
        result = values.get(kernel.node.output[0])
        if result is None or result.name not in inside:
            continue
        tensors = {i for i in kernel.node.input if i and i not in kernel.constants}
        pieces, operands = _between(graph, result, tensors)
        if operands.keys() == tensors and pieces <= inside and all(v in known for v in operands.values()):
            yield _Group(kernel, operands, result.name)


def _between(graph: Graph, result: R.RealNode, tensors: Container[str]) -> tuple[set[str], dict[str, str]]:
    """Values from which `result` is computed, down to those that carry one of the file's `tensors`, and the latter."""
    pieces, operands, left = {result.name}, dict[str, str](), list(result.inputs)
    while left:
        value = left.pop()
        node = graph[value] if value else None
        if value in pieces or node is None or isinstance(node, R.Const):
            continue
        if node.origin.tensor in tensors:
            operands[node.origin.tensor] = value
        else:
            pieces.add(value)
            left += node.inputs
    return pieces, operands
