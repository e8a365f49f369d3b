"""Makes a parsed model a well-formed graph: header, functions, names, definitions before uses.

Everything is untrusted. Checks gather all problems; the work is linear in the size of the file.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence

import onnx
from google.protobuf.message import Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, inliner

from tcompile.errors import ModelError, Problem, printable
from tcompile.frontend.protos import (
    CHANNELS_LAST,
    DEFAULT_DOMAINS,
    IR_VERSION,
    MICROSOFT,
    OPSET,
    QONNX_DOMAINS,
    Names,
    excerpt,
    opset_of,
    shown,
)
from tcompile.frontend.tensors import MAX_RANK

__all__ = [
    "OPSET_RANGE",
    "QONNX_OPS",
    "end_at",
    "graph_problems",
    "header_problems",
    "inline_functions",
    "name_nodes",
    "sort_nodes",
    "text_problem",
    "tidy",
]

OPSET_RANGE = range(7, 27)
QONNX_OPS = ("Quant", "IntQuant", "BipolarQuant", "MultiThreshold", "Trunc", "QuantAvgPool2d")
CHANNELS_LAST_OPS = ("Conv", "MaxPool", "BatchNormalization")

_IR_RANGE = range(3, onnx.IR_VERSION + 1)
_MAX_NODES = 100_000
_SHOWN_NODES = 20
_TYPES = {
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "perm", "axes"), onnx.AttributeProto.INTS),
    **dict.fromkeys(("alpha", "beta", "epsilon", "momentum", "out_scale", "out_bias"), onnx.AttributeProto.FLOAT),
    **dict.fromkeys(("auto_pad", "rounding_mode", "data_layout", "out_dtype", "activation"), onnx.AttributeProto.STRING),
    **dict.fromkeys(
        (
            "axis", "group", "transA", "transB", "channels_last", "ceil_mode", "count_include_pad", "storage_order",
            "signed", "narrow", "kernel", "stride", "ibits", "obits", "block_size", "output_dtype", "saturate",
        ),
        onnx.AttributeProto.INT,
    ),
}  # fmt: skip
_SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def text_problem(model: ModelProto) -> Problem | None:
    """Return the problem of the first string that is not UTF-8; such a string reads as bytes."""
    todo: list[Message] = [model]
    while todo:
        for field, value in todo.pop().ListFields():
            values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,)
            if field.type == field.TYPE_MESSAGE:
                todo.extend(values)
            elif field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in values):
                return Problem(
                    "invalid-onnx", f"a {field.name} in the file is not UTF-8 text", (), "is the file damaged?"
                )
    return None


def header_problems(model: ModelProto) -> Iterator[Problem]:
    """Yield what is wrong with versions and with parts of the format that have no place here."""
    opset = opset_of(model)
    if not model.graph.node:
        yield Problem("empty-graph", "the model has no nodes")
    if opset is None:
        hint = "write it again with a current exporter, or set opset_import to the version it was written for"
        yield Problem("missing-opset", "the model does not say its operator set (no opset_import)", (), hint)
    elif opset not in OPSET_RANGE:
        wanted = f"{OPSET_RANGE.start} to {OPSET_RANGE.stop - 1}"
        hint = "convert it with onnx.version_converter, or export it again"
        yield Problem("unsupported-opset", f"operator set must be {wanted}, not {opset}", (), hint)
    if model.ir_version not in _IR_RANGE and opset is not None:
        wanted = f"{_IR_RANGE.start} to {_IR_RANGE.stop - 1}"
        yield Problem("unsupported-ir", f"IR version must be {wanted}, not {model.ir_version}")
    if model.training_info:
        yield Problem("unsupported-training", "the model holds training graphs; export it for inference")
    if model.graph.sparse_initializer:
        names = tuple(t.values.name for t in model.graph.sparse_initializer)
        yield Problem("unsupported-sparse", "sparse initializers are not read; export them dense", names)
    if len(model.graph.node) > _MAX_NODES:
        yield Problem("too-large", f"a graph must have at most {_MAX_NODES} nodes, not {len(model.graph.node)}")


def inline_functions(model: ModelProto) -> ModelProto:
    """Replace calls of the model's own functions by their bodies."""
    if not model.functions:
        return model
    _bound_inlining(model)
    try:
        result = inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(Problem("unsupported-function", f"functions cannot be inlined: {excerpt(error)}")) from error
    left = {(f.domain, f.name) for f in result.functions}
    calls = [node for node in result.graph.node if (node.domain, node.op_type) in left]
    if calls:
        names = tuple(node.name for node in calls[:_SHOWN_NODES])
        raise ModelError(Problem("unsupported-function", f"{shown(calls[0])} calls a function not inlined", names))
    result.ClearField("functions")
    return result


def _bound_inlining(model: ModelProto) -> None:
    bodies = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    for key in bodies:
        _expanded(key, bodies, sizes)
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in model.graph.node)
    if total > _MAX_NODES:
        raise ModelError(Problem("too-large", f"with functions inlined the graph has over {_MAX_NODES} nodes"))


def _expanded(
    start: tuple[str, str], bodies: dict[tuple[str, str], FunctionProto], sizes: dict[tuple[str, str], int]
) -> None:
    stack, entered = [start], set[tuple[str, str]]()
    while stack:
        key = stack[-1]
        calls = [(n.domain, n.op_type) for n in bodies[key].node]
        waiting = [c for c in calls if c in bodies and c not in sizes]
        if key in sizes:
            stack.pop()
        elif not waiting:
            sizes[key] = sum(sizes.get(c, 1) for c in calls)
            stack.pop()
        elif key in entered:
            raise ModelError(Problem("unsupported-function", f"function {printable(key[1])} calls itself", (key[1],)))
        else:
            entered.add(key)
            stack.extend(dict.fromkeys(waiting))


def tidy(model: ModelProto) -> None:
    """Sort the nodes and drop what is no part of the computation.

    Parameters
    ----------
    model : ModelProto
        Without `graph_problems`. Changed in place: initializers no longer inputs, nodes in an order of
        definition before use, only the operator sets in use, no stored shapes of inner values.

    Raises
    ------
    ModelError
        Nodes form a cycle, or onnx's checker finds a fault.
    """
    graph = model.graph
    for node in graph.node:
        if node.domain in DEFAULT_DOMAINS:
            node.domain = ""
    _drop_unused(model, sort_nodes(list(graph.node)))
    outputs = [ValueInfoProto.FromString(v.SerializeToString()) for v in graph.output]
    for value in graph.output:  # exporters leave their types out; they are inferred later
        kind = value.type.tensor_type
        kind.elem_type = kind.elem_type or onnx.TensorProto.FLOAT
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(Problem("invalid-onnx", f"not valid ONNX: {excerpt(error)}")) from error
    graph.ClearField("output")
    graph.output.extend(outputs)


def name_nodes(graph: GraphProto) -> None:
    """Give nodes without a name one, and those whose name is taken another; in place."""
    names, seen = Names(node.name for node in graph.node), set[str]()
    for index, node in enumerate(graph.node):
        if not node.name:
            node.name = names.fresh(f"{node.op_type}_{index}")
        elif node.name in seen:
            node.name = names.fresh(node.name)
        seen.add(node.name)


def end_at(graph: GraphProto, name: str) -> None:
    """Leave only what a node, or the node that gives a tensor, is computed from; in place. Nothing happens if there is none."""
    last = next((n for n in graph.node if n.name == name or name in n.output), None)
    if last is None:
        return
    makers = {output: node for node in graph.node for output in node.output if output}
    needed, stack = set[str](), [last]
    while stack:
        node = stack.pop()
        if node.name not in needed:
            needed.add(node.name)
            stack.extend(makers[i] for i in node.input if i in makers)
    kept = [n for n in graph.node if n.name in needed]
    known = {v.name: v for v in (*graph.value_info, *graph.output)}
    outputs = [known.get(o, ValueInfoProto(name=o)) for o in last.output if o]
    for field, values in ((graph.node, kept), (graph.output, outputs)):
        copies = [type(v).FromString(v.SerializeToString()) for v in values]
        del field[:]
        field.extend(copies)


def graph_problems(model: ModelProto) -> Iterator[Problem]:
    """Yield unknown operators, subgraphs, and values that are defined twice or not at all."""
    yield from _operator_problems(model)
    yield from _range_problems(model.graph)
    yield from _foreign_problems(model.graph)
    yield from _definition_problems(model.graph)


def _operator_problems(model: ModelProto) -> Iterator[Problem]:
    opset = opset_of(model)
    bad: dict[tuple[str, str], list[str]] = {}
    for node in model.graph.node:
        nested = any(a.type in _SUBGRAPHS for a in node.attribute)
        if nested or not _known(node, opset or OPSET_RANGE.stop - 1):
            bad.setdefault((node.domain, node.op_type), []).append(node.name)
    for (domain, op_type), names in bad.items():
        origin = f" of domain {printable(domain)}" if domain else f" of operator set {opset}"
        message = f"{printable(op_type)}{origin} (node {printable(names[0])}) is not supported"
        more = f"; {len(names)} nodes use it" if len(names) > 1 else ""
        yield Problem("unsupported-op", message + more, tuple(names))


def _range_problems(graph: GraphProto) -> Iterator[Problem]:
    """Axes that no tensor has, of which onnx's inference takes the low 32 bits; flags that are none."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "keepdims" and attribute.i not in (0, 1):  # which others mean is told nowhere
                message = f"keepdims of {shown(node)} must be 0 or 1, not {attribute.i}"
                yield Problem("invalid-onnx", message, (node.name,), "is the file damaged?")
            if attribute.name == "axis" and not -MAX_RANK <= attribute.i < MAX_RANK:
                message = f"axis of {shown(node)} must be from {-MAX_RANK} to {MAX_RANK - 1}, not {attribute.i}"
                yield Problem("invalid-onnx", message, (node.name,), "is the file damaged?")


def _foreign_problems(graph: GraphProto) -> Iterator[Problem]:
    """Nodes outside the default domain, which onnx's checker does not know: first input, output, attributes."""
    hint = "is the file damaged?"
    for node in graph.node:
        if node.domain in DEFAULT_DOMAINS:
            continue
        for what, names in (("input", node.input), ("output", node.output)):
            if not names or not names[0]:
                yield Problem("invalid-onnx", f"{shown(node)} must have a first {what}", (node.name,), hint)
        for attribute in node.attribute:
            if (reason := _attribute_misfit(node, attribute)) is not None:
                message = f"attribute {printable(attribute.name)} of {shown(node)} {reason}"
                yield Problem("invalid-onnx", message, (node.name,), hint)


def _attribute_misfit(node: NodeProto, attribute: onnx.AttributeProto) -> str | None:
    kinds = onnx.AttributeProto.AttributeType
    wanted = _TYPES.get(attribute.name)
    if wanted is not None and attribute.type != wanted:
        known = attribute.type in kinds.values()
        return f"must be {kinds.Name(wanted)}, not {kinds.Name(attribute.type) if known else attribute.type}"
    standard = node.domain == CHANNELS_LAST or node.op_type == "QLinearConv"
    if standard and onnx.defs.has(node.op_type, OPSET, ""):
        known = attribute.name in {*onnx.defs.get_schema(node.op_type, OPSET, "").attributes, "channels_last"}
        return None if known else "must be one of the operator's own, and is none"
    return None


def _known(node: NodeProto, opset: int) -> bool:
    if node.domain in QONNX_DOMAINS:
        return node.op_type in QONNX_OPS
    if node.domain == CHANNELS_LAST:
        return node.op_type in CHANNELS_LAST_OPS
    return node.domain == MICROSOFT or (node.domain in DEFAULT_DOMAINS and onnx.defs.has(node.op_type, opset, ""))


def _definition_problems(graph: GraphProto) -> Iterator[Problem]:
    constants = [t.name for t in graph.initializer]
    inputs = [v.name for v in graph.input]
    produced = [name for node in graph.node for name in node.output if name]
    sources = Counter(produced) + Counter(set(inputs) | set(constants))
    repeated = {n for names in (constants, inputs) for n, count in Counter(names).items() if count > 1}
    repeated |= {name for name, count in sources.items() if count > 1}
    producers: dict[str, list[str]] = {name: [] for name in repeated}
    for node in graph.node:
        for name in repeated.intersection(node.output):
            producers[name].append(node.name)
    for name in sorted(repeated):
        where = tuple(producers[name]) or (name,)
        yield Problem("duplicate-name", f"tensor {printable(name)} is defined more than once", where)
    for node in graph.node:
        for name in node.input:
            if name and name not in sources:
                message = f"input {printable(name)} of {shown(node)} is not defined anywhere"
                yield Problem("undefined-tensor", message, (node.name,))
    if not graph.output:
        yield Problem("empty-graph", "the model has no outputs")
    outputs = Counter(v.name for v in graph.output)
    for name, count in outputs.items():
        if name not in sources:
            yield Problem("undefined-tensor", f"output {printable(name)} is not computed by any node", (name,))
        if count > 1:
            yield Problem("duplicate-name", f"output {printable(name)} is listed {count} times", (name,))


def sort_nodes(nodes: list[NodeProto]) -> list[NodeProto]:
    """Order nodes so that values are defined before they are used, otherwise as given; refuse cycles."""
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[name] for name in node.input if name in producer} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    for i, sources in enumerate(needs):
        for source in sources:
            users[source].append(i)
    missing = [len(sources) for sources in needs]
    ready = [i for i, count in enumerate(missing) if count == 0]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users[i]:
            missing[user] -= 1
            if missing[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        _refuse_cycle(nodes, needs, set(range(len(nodes))) - set(order))
    return [nodes[i] for i in order]


def _refuse_cycle(nodes: list[NodeProto], needs: list[set[int]], left: set[int]) -> None:
    path, at = dict[int, None](), min(left)
    while at not in path:
        path[at] = None
        at = min(needs[at] & left)
    steps = list(path)
    loop = steps[steps.index(at) :]  # each waits for the next
    cycle = [nodes[i].name for i in (loop[0], *reversed(loop[1:]))]
    more = f" and {len(cycle) - _SHOWN_NODES} more" if len(cycle) > _SHOWN_NODES else ""
    listed = ", ".join(printable(name) for name in cycle[:_SHOWN_NODES])
    raise ModelError(Problem("cycle", f"nodes wait for each other in a cycle: {listed}{more}", tuple(cycle)))


def _drop_unused(model: ModelProto, ordered: list[NodeProto]) -> None:
    graph = model.graph
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
    graph.ClearField("node")
    graph.node.extend(nodes)
    constants = {t.name for t in graph.initializer}
    kept = [v for v in graph.input if v.name not in constants]
    graph.ClearField("input")
    graph.input.extend(kept)
    graph.ClearField("value_info")
    graph.ClearField("quantization_annotation")
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("device_configurations")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    used = sorted({node.domain for node in graph.node} - {""})
    opset = opset_of(model)
    model.ClearField("opset_import")
    model.opset_import.append(helper.make_opsetid("", opset or OPSET_RANGE.stop - 1))
    model.opset_import.extend(helper.make_opsetid(d, versions.get(d, 1)) for d in used)
    model.ir_version = min(max(model.ir_version, 4), IR_VERSION)
