"""Spoils a model: its bytes, any field of its messages, or what nodes, tensors and inputs say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper

from tests.fuzz.draft import Dice
from tests.mutated import strange

__all__ = ["spoilt"]

OF_BYTES = 0.15  # share of files whose bytes are changed, and not (only) what they say
Model = onnx.ModelProto


def spoilt(model: Model, dice: Dice) -> tuple[bytes, tuple[str, ...]]:
    """A file made of the model, and what was done to it."""
    result, done = Model(), []
    result.CopyFrom(model)
    of_bytes = dice.chance(OF_BYTES)
    for _ in range(dice.pick([0, 0, 1]) if of_bytes else dice.pick([1, 1, 1, 2, 2, 3])):
        change = dice.pick(CHANGES)
        change(result, dice)
        done.append(change.__name__.strip("_"))
    data = result.SerializeToString()
    if of_bytes:
        data = _bytes(data, dice)
        done.append("bytes")
    return data, tuple(done)


def _bytes(data: bytes, dice: Dice) -> bytes:
    """Bytes flipped, removed, inserted, repeated, or the end missing."""
    result = bytearray(data)
    for _ in range(dice.pick([1, 1, 2, 5, 40])):
        at = dice.integer(0, max(len(result) - 1, 0))
        length = dice.pick([1, 1, 2, 8, 100])
        kind = dice.pick(["flip", "flip", "flip", "set", "remove", "insert", "repeat", "cut"])
        if kind == "flip" and result:
            result[at] ^= 1 << dice.integer(0, 7)
        elif kind == "set" and result:
            result[at] = dice.pick([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == "remove":
            del result[at : at + length]
        elif kind == "insert":
            result[at:at] = dice.random.bytes(length)
        elif kind == "repeat":
            result[at:at] = result[at : at + length]
        elif kind == "cut" and dice.chance(0.3):
            del result[at:]
    return bytes(result)


# Any field


def _messages(message: Message) -> Iterator[Message]:
    """All messages below one, itself first."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if _is_repeated(value) else [value]:
                yield from _messages(inner)


def _is_repeated(value: Any) -> bool:
    return not isinstance(value, Message | str | bytes) and hasattr(value, "__len__")


def _field(model: Model, dice: Dice) -> tuple[Message, Any, Any]:
    """A field that is there: its message, descriptor and value."""
    holder = dice.pick([m for m in _messages(model) if m.ListFields()])
    return (holder, *dice.pick(holder.ListFields()))


def _field_dropped(model: Model, dice: Dice) -> None:
    holder, field, value = _field(model, dice)
    if _is_repeated(value) and dice.chance(0.7):
        del value[dice.integer(0, len(value) - 1)]
    else:
        holder.ClearField(field.name)


def _field_set(model: Model, dice: Dice) -> None:
    holder, field, value = _field(model, dice)
    if field.type == field.TYPE_MESSAGE:
        return
    new = _value(field, dice)
    if _is_repeated(value):
        value[dice.integer(0, len(value) - 1)] = new
    else:
        setattr(holder, field.name, new)


def _value(field: Any, dice: Dice) -> Any:
    """A strange value of a field's type."""
    if field.type == field.TYPE_STRING:
        return strange.text(dice)
    if field.type == field.TYPE_BYTES:
        return dice.random.bytes(dice.pick([0, 1, 3, 4, 8, 64]))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return strange.floats(dice, 1)[0]
    if field.type == field.TYPE_ENUM:
        return dice.pick([v.number for v in field.enum_type.values])
    number = strange.integer(dice)
    return (number + 2**31) % 2**32 - 2**31 if field.type == field.TYPE_INT32 else number % 2**63


def _field_swapped(model: Model, dice: Dice) -> None:
    """The same field of two messages, or two entries of one."""
    holder, field, value = _field(model, dice)
    if _is_repeated(value) and len(value) > 1:
        j, k = dice.integer(0, len(value) - 1), dice.integer(0, len(value) - 1)
        if field.type == field.TYPE_MESSAGE:
            first = type(value[j])()
            first.CopyFrom(value[j])
            value[j].CopyFrom(value[k])
            value[k].CopyFrom(first)
        else:
            value[j], value[k] = value[k], value[j]
        return
    others = [m for m in _messages(model) if type(m) is type(holder) and m is not holder]
    if others:
        _exchange(holder, dice.pick(others), field.name)


def _exchange(one: Message, other: Message, name: str) -> None:
    first, second = type(one)(), type(one)()
    first.CopyFrom(one)
    second.CopyFrom(other)
    for target, source in ((one, second), (other, first)):
        target.ClearField(name)
        part = type(one)()
        part.CopyFrom(source)
        for field, _ in part.ListFields():
            if field.name != name:
                part.ClearField(field.name)
        target.MergeFrom(part)


def _entry_repeated(model: Model, dice: Dice) -> None:
    lists = [(field, value) for m in _messages(model) for field, value in m.ListFields() if _is_repeated(value)]
    if not lists:
        return
    field, value = dice.pick(lists)
    if field.type == field.TYPE_MESSAGE:
        value.add().CopyFrom(dice.pick(value))
    else:
        value.append(dice.pick(value))


# Nodes


def _node(model: Model, dice: Dice) -> NodeProto:
    return dice.pick(model.graph.node) if model.graph.node else model.graph.node.add()


def _value_names(model: Model) -> list[str]:
    graph = model.graph
    names = [t.name for t in graph.initializer] + [v.name for v in graph.input]
    return ["", *names, *(name for node in graph.node for name in node.output)]


def _attributes_swapped(model: Model, dice: Dice) -> None:
    nodes = [n for n in model.graph.node if n.attribute]
    if nodes:
        _exchange(dice.pick(nodes), dice.pick(nodes), "attribute")


def _attribute_changed(model: Model, dice: Dice) -> None:
    nodes = [n for n in model.graph.node if n.attribute]
    if not nodes:
        return
    old = dice.pick(dice.pick(nodes).attribute)
    same_type = old.type in (1, 2, 7) and dice.chance(0.6)
    if same_type and old.type == onnx.AttributeProto.INT:
        old.i = strange.integer(dice)
    elif same_type and old.type == onnx.AttributeProto.FLOAT:
        old.f = strange.floats(dice, 1)[0]
    elif same_type and len(old.ints):
        old.ints[dice.integer(0, len(old.ints) - 1)] = strange.integer(dice)
    else:
        old.CopyFrom(strange.attribute(dice, old.name))


def _attribute_added(model: Model, dice: Dice) -> None:
    node = _node(model, dice)
    made = strange.attribute(dice)
    kept = [a for a in node.attribute if a.name != made.name]
    node.ClearField("attribute")
    node.attribute.extend([*kept, made])


def _operator_changed(model: Model, dice: Dice) -> None:
    node = _node(model, dice)
    node.op_type = dice.pick(strange.OPERATORS)
    if dice.chance(0.4):
        node.domain = dice.pick(strange.DOMAINS)
    if dice.chance(0.3):
        node.ClearField("attribute")


def _domain_changed(model: Model, dice: Dice) -> None:
    _node(model, dice).domain = dice.pick(strange.DOMAINS)


def _input_changed(model: Model, dice: Dice) -> None:
    """Another value, a value more, one less."""
    node, names = _node(model, dice), _value_names(model)
    if node.input and dice.chance(0.7):
        node.input[dice.integer(0, len(node.input) - 1)] = dice.pick(names)
    elif node.input and dice.chance(0.5):
        del node.input[dice.integer(0, len(node.input) - 1) :]
    else:
        node.input.extend([dice.pick(names)] * dice.pick([1, 1, 2, 9]))


def _output_changed(model: Model, dice: Dice) -> None:
    node = _node(model, dice)
    if node.output and dice.chance(0.6):
        node.output[dice.integer(0, len(node.output) - 1)] = dice.pick([*_value_names(model), *strange.NAMES])
    elif dice.chance(0.5):
        node.ClearField("output")
    else:
        node.output.append(dice.pick(["more", "", *_value_names(model)]))


def _node_inserted(model: Model, dice: Dice) -> None:
    """A node with strange attributes between a value and its users."""
    names = [n for n in _value_names(model) if n]
    if not names:
        return
    source, op = dice.pick(names), dice.pick(strange.OPERATORS)
    more = [_constant(model, dice) for _ in range(dice.pick([0, 0, 1, 2, 3]))]
    made = helper.make_node(op, [source, *more], ["inserted"], "inserted", domain=dice.pick(["", *strange.DOMAINS]))
    made.attribute.extend(strange.attribute(dice) for _ in range(dice.integer(0, 2)))
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if name == source:
                node.input[k] = "inserted"
    if source in {v.name for v in model.graph.output}:
        model.graph.output.add(name="inserted")
    model.graph.node.append(made)


def _constant(model: Model, dice: Dice) -> str:
    """A new constant."""
    made = strange.tensor(dice, f"new{len(model.graph.initializer)}")
    model.graph.initializer.append(made)
    return str(made.name)


def _node_moved(model: Model, dice: Dice) -> None:
    """A node removed, twice there, or elsewhere."""
    nodes = model.graph.node
    copy = NodeProto()
    copy.CopyFrom(_node(model, dice))
    if dice.chance(0.6):
        nodes.remove(copy)
    if dice.chance(0.6):
        nodes.insert(dice.integer(0, len(nodes)), copy)


def _subgraph(model: Model, dice: Dice) -> None:
    """If, Loop or Scan around a node, perhaps deep."""
    node = _node(model, dice)
    inner = helper.make_graph([node], "inner", [], [helper.make_empty_tensor_value_info(o) for o in node.output])
    names = {"If": ["then_branch", "else_branch"], "Loop": ["body"], "Scan": ["body"]}
    op = dice.pick(list(names))
    for _ in range(dice.pick([1, 1, 3, 20])):
        nested = [helper.make_attribute(n, inner) for n in names[op][:1]]
        outer = helper.make_node(op, node.input[:1], list(node.output), "nested")
        outer.attribute.extend(nested)
        inner = helper.make_graph([outer], "inner", [], [])
    node.CopyFrom(outer)


# Tensors


def _tensor(model: Model, dice: Dice) -> TensorProto:
    return dice.pick(model.graph.initializer) if model.graph.initializer else model.graph.initializer.add()


def _tensor_values(model: Model, dice: Dice) -> None:
    """Strange numbers of the same type and shape."""
    old = _tensor(model, dice)
    if old.data_location == TensorProto.EXTERNAL:
        return
    try:
        array = np.array(numpy_helper.to_array(old))
    except (ValueError, TypeError, KeyError):
        return
    if not array.size:
        return
    flat = array.reshape(-1)
    for at in range(flat.size) if dice.chance(0.4) else [dice.integer(0, flat.size - 1)]:
        _assign(flat, at, dice)
    old.CopyFrom(numpy_helper.from_array(flat.reshape(array.shape), old.name))


def _assign(flat: np.ndarray, at: int, dice: Dice) -> None:
    if flat.dtype.kind in "iu":
        limits = np.iinfo(flat.dtype)
        flat[at] = min(max(strange.integer(dice), int(limits.min)), int(limits.max))
    elif flat.dtype.kind == "f":
        with np.errstate(all="ignore"):
            flat[at] = strange.floats(dice, 1)[0]
    elif flat.dtype.kind == "b":
        flat[at] = dice.chance(0.5)


def _tensor_replaced(model: Model, dice: Dice) -> None:
    """A tensor of another type and shape."""
    old = _tensor(model, dice)
    old.CopyFrom(strange.tensor(dice, old.name))


def _tensor_reshaped(model: Model, dice: Dice) -> None:
    """Other dimensions: as many elements, more, or a number that no computer holds."""
    old = _tensor(model, dice)
    dims, kind = list(old.dims), dice.pick(["one more", "one less", "turned", "strange", "many"])
    if kind == "one more":
        dims.insert(dice.integer(0, len(dims)), 1)
    elif kind == "one less" and dims:
        dims = [int(np.prod(dims[:2])), *dims[2:]] if len(dims) > 1 else []
    elif kind == "turned":
        dims = dims[::-1]
    elif kind == "strange":
        dims = [strange.integer(dice) for _ in range(dice.integer(0, 4))]
    elif kind == "many":
        dims = [1] * dice.pick([9, 33, 70])
    del old.dims[:]
    old.dims.extend(dims)


def _tensor_type(model: Model, dice: Dice) -> None:
    old = _tensor(model, dice)
    old.data_type = dice.pick([*TensorProto.DataType.values(), 99, -1])
    if dice.chance(0.4):
        old.ClearField("raw_data")


def _tensor_data(model: Model, dice: Dice) -> None:
    old = _tensor(model, dice)
    data = bytes(old.raw_data)
    old.raw_data = dice.pick(
        [b"", data[:-1], data + b"\0", data * 2, dice.random.bytes(len(data)), b"\xff" * len(data)]
    )


def _tensor_external(model: Model, dice: Dice) -> None:
    old = _tensor(model, dice)
    old.data_location = TensorProto.EXTERNAL
    if dice.chance(0.8):
        old.ClearField("raw_data")
    old.external_data.add(key="location", value=dice.pick(strange.LOCATIONS))
    if dice.chance(0.6):
        values = ["0", "4", "-1", "1e9", str(strange.integer(dice)), "", "x"]
        old.external_data.add(key=dice.pick(["length", "offset", "checksum", ""]), value=dice.pick(values))


def _tensor_computed(model: Model, dice: Dice) -> None:
    """A constant that is a node, an input as well, or named otherwise."""
    old = TensorProto()
    old.CopyFrom(_tensor(model, dice))
    kind = dice.pick(["node", "input", "name"])
    if kind == "node":
        model.graph.node.insert(0, helper.make_node("Constant", [], [old.name], "made", value=old))
    if kind == "input":
        model.graph.input.append(helper.make_tensor_value_info(old.name, old.data_type, old.dims))
    if kind != "name":
        kept = [t for t in model.graph.initializer if t.name != old.name]
        model.graph.ClearField("initializer")
        model.graph.initializer.extend(kept)
    else:
        _tensor(model, dice).name = dice.pick([old.name, *strange.NAMES])


# Ends and header


def _end_changed(model: Model, dice: Dice) -> None:
    """Type of an input or output."""
    ends = [*model.graph.input, *model.graph.output]
    if not ends:
        return
    kind = dice.pick(ends).type
    how = dice.pick(["elements", "elements", "dims", "dims", "rank", "symbol", "none", "sequence", "deep"])
    if how == "elements":
        kind.tensor_type.elem_type = dice.pick([*TensorProto.DataType.values(), 99, -1])
    elif how == "dims" and kind.tensor_type.shape.dim:
        dice.pick(kind.tensor_type.shape.dim).dim_value = strange.integer(dice)
    elif how == "rank":
        kind.tensor_type.shape.dim.add().dim_value = strange.integer(dice)
    elif how == "symbol" and kind.tensor_type.shape.dim:
        dice.pick(kind.tensor_type.shape.dim).dim_param = strange.text(dice)
    elif how == "none":
        kind.ClearField(dice.pick(["tensor_type", "denotation"]))
    elif how in ("sequence", "deep"):
        for _ in range(1 if how == "sequence" else 30):
            outer = TypeProto()
            outer.sequence_type.elem_type.CopyFrom(kind)
            kind.CopyFrom(outer)


def _end_renamed(model: Model, dice: Dice) -> None:
    """An input or output of another name, listed twice, new, or gone."""
    ends = model.graph.input if dice.chance(0.5) else model.graph.output
    how = dice.pick(["name", "twice", "other", "gone"])
    if how == "gone" or not ends:
        del ends[:]
    elif how == "twice":
        ends.add().CopyFrom(dice.pick(ends))
    elif how == "other":
        ends.add().CopyFrom(dice.pick(ends))
        ends[-1].name = dice.pick([*_value_names(model), *strange.NAMES])
    else:
        dice.pick(ends).name = dice.pick([*_value_names(model), *strange.NAMES])


def _renamed(model: Model, dice: Dice) -> None:
    """A value or node of a hostile name, everywhere."""
    new = dice.pick(strange.NAMES)
    if dice.chance(0.3):
        _node(model, dice).name = new
        return
    old = dice.pick(_value_names(model))
    for node in model.graph.node:
        for field in (node.input, node.output):
            names = [new if name == old else name for name in field]
            del field[:]
            field.extend(names)
    for named in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        named.name = new if named.name == old else named.name


def _versions(model: Model, dice: Dice) -> None:
    how = dice.pick(["set", "set", "set", "gone", "more", "ir"])
    if how == "set" and model.opset_import:
        dice.pick(model.opset_import).version = dice.integer(5, 27) if dice.chance(0.8) else strange.integer(dice)
    elif how == "gone":
        model.ClearField("opset_import")
    elif how == "more":
        model.opset_import.add(domain=dice.pick(strange.DOMAINS), version=dice.integer(0, 27))
    else:
        model.ir_version = dice.integer(0, 14) if dice.chance(0.8) else strange.integer(dice)


def _extras(model: Model, dice: Dice) -> None:
    """Parts of the format that few files have."""
    how = dice.pick(["sparse", "function", "itself", "training", "annotation", "metadata", "value_info"])
    graph, node = model.graph, _node(model, dice)
    if how == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(_tensor(model, dice))
    elif how in ("function", "itself"):
        made = model.functions.add(name=node.op_type, domain=node.domain)
        made.input.extend(["a"])
        made.output.extend(["b"])
        made.node.append(
            helper.make_node(node.op_type if how == "itself" else "Relu", ["a"], ["b"], domain=node.domain)
        )
        made.opset_import.add(domain="", version=dice.integer(5, 25))
    elif how == "training":
        model.training_info.add()
    elif how == "annotation":
        graph.quantization_annotation.add(tensor_name=strange.text(dice))
    elif how == "metadata":
        model.metadata_props.add(key=strange.text(dice), value=strange.text(dice))
    else:
        name = dice.pick(_value_names(model))
        graph.value_info.append(helper.make_tensor_value_info(name, dice.integer(0, 20), [strange.integer(dice)]))


CHANGES: list[Callable[[Model, Dice], None]] = [
    _field_dropped, _field_dropped, _field_set, _field_set, _field_swapped, _entry_repeated,
    _attributes_swapped, _attribute_changed, _attribute_changed, _attribute_changed, _attribute_added, _attribute_added,
    _operator_changed, _operator_changed, _domain_changed, _input_changed, _input_changed, _output_changed,
    _node_inserted, _node_inserted, _node_moved, _subgraph,
    _tensor_values, _tensor_values, _tensor_values, _tensor_replaced, _tensor_replaced, _tensor_reshaped, _tensor_type,
    _tensor_data, _tensor_external, _tensor_computed,
    _end_changed, _end_renamed, _renamed, _renamed, _versions, _extras,
]  # fmt: skip
