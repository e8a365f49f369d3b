"""A smaller network that fails in the same way: outputs moved to the front, nodes left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import onnx
from onnx import helper

__all__ = ["shrunk"]

PATIENCE = 30.0  # seconds


def shrunk(model: onnx.ModelProto, fails: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """The smallest network found for which `fails` holds.

    Parameters
    ----------
    fails : callable
        Whether a model fails as the given one does; asked of models that onnxruntime may not run.
    """
    end = time.monotonic() + PATIENCE
    smaller: onnx.ModelProto | None = model
    while smaller is not None:
        model = smaller
        smaller = next((m for m in _candidates(model) if time.monotonic() < end and fails(m)), None)
    return model


def _candidates(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Models with fewer nodes: the smallest beginnings first, then the same with one node left out."""
    kinds = _kinds(model)
    count = len(model.graph.node)
    for node in model.graph.node:
        for name in node.output:
            if name in kinds:
                made = _kept(model, [kinds[name]])
                if len(made.graph.node) < count:
                    yield made
    if len(model.graph.output) > 1:
        for output in model.graph.output:
            yield _kept(model, [o for o in model.graph.output if o.name != output.name])
    for k, node in enumerate(model.graph.node):
        inner = next((i for i in node.input if _same(kinds, i, node.output[0])), None)
        if inner is not None and len(node.output) == 1:
            yield _without(model, k, inner)


def _kinds(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Types of all values; those behind operators of QONNX are as before them."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.domain.startswith("qonnx"):
            copy = helper.make_node("Identity", node.input[:1], node.output, name=node.name)
            node.CopyFrom(copy)
    try:
        graph = onnx.shape_inference.infer_shapes(plain, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = plain.graph
    return {v.name: v for v in [*graph.input, *graph.value_info, *graph.output] if v.type.tensor_type.HasField("shape")}


def _same(kinds: dict[str, onnx.ValueInfoProto], a: str, b: str) -> bool:
    return a in kinds and b in kinds and kinds[a].type == kinds[b].type


def _without(model: onnx.ModelProto, index: int, inner: str) -> onnx.ModelProto:
    """The model with an input of a node in the place of its output."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    gone = result.graph.node[index].output[0]
    del result.graph.node[index]
    for node in result.graph.node:
        for k, name in enumerate(node.input):
            if name == gone:
                node.input[k] = inner
    outputs = []
    for output in result.graph.output:
        output.name = inner if output.name == gone else output.name
        if output.name not in {o.name for o in outputs}:
            outputs.append(output)
    return _kept(result, outputs)


def _kept(model: onnx.ModelProto, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The model with these outputs and what they need."""
    needed = {o.name for o in outputs}
    nodes = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for name in ("node", "input", "output", "initializer"):
        result.graph.ClearField(name)
    result.graph.node.extend(nodes[::-1])
    result.graph.output.extend(outputs)
    result.graph.input.extend(i for i in model.graph.input if i.name in needed)
    result.graph.initializer.extend(i for i in model.graph.initializer if i.name in needed)
    return result
