"""The IR as text that parses back: for dumps, golden tests and bug reports.

One line per node::

    conv1 = Conv(x, w) {"group":1,"pads":[1,1,1,1],...} : float32[1,8,8,8] @ {"nodes":[["conv1","Conv"]],...}

Attributes and origins are JSON. Large arrays are written as base85 of their zlib-compressed bytes.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import fields
from typing import Any

import numpy as np

from tcompile.ir import integer, real, requantizers
from tcompile.ir.graph import Graph, IntType, Node, Origin, Tensor, TensorType, Type

__all__ = ["dump", "parse"]

INLINE = 32  # arrays of up to so many elements are written out
COMMON = {"name", "inputs", "type", "origin"}
FORMS: dict[str, Any] = {name: getattr(requantizers, name) for name in ("Comparators", "Division", "Shift", "Table")}
NODE = re.compile(r"(?P<name>\w+) = (?P<op>\w+)\((?P<inputs>[\w, ]*)\) ")
REAL = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,]*)\]")
INTEGER = re.compile(r"int\[(?P<shape>[\d,]*)\]\{(?P<lo>-?\d+)\.\.(?P<hi>-?\d+)\}")


def dump(graph: Graph) -> str:
    """Write a graph as text."""
    lines = [f"graph {json.dumps(graph.name)} {graph.level} -> {', '.join(graph.outputs)}"]
    lines += [_line(node) for node in graph]
    return "\n".join(lines) + "\n"


def _line(node: Node) -> str:
    attributes = {f.name: _encode(getattr(node, f.name)) for f in fields(node) if f.name not in COMMON}
    origin = {"nodes": node.origin.nodes, "tensor": node.origin.tensor}
    return (
        f"{node.name} = {node.op}({', '.join(i or '_' for i in node.inputs)}) {_json(attributes)}"
        f" : {_type(node.type)} @ {_json(origin)}"
    )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _type(kind: Type) -> str:
    shape = ",".join(map(str, kind.shape))
    if isinstance(kind, IntType):
        return f"int[{shape}]{{{kind.lo}..{kind.hi}}}"
    return f"{kind.dtype}[{shape}]"


def _encode(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": value.dtype, **_array(value.array)}
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    if type(value).__name__ in FORMS:
        return {"form": type(value).__name__, **{f.name: _encode(getattr(value, f.name)) for f in fields(value)}}
    return value


def _array(array: np.ndarray) -> dict[str, Any]:
    exact = array.dtype.kind in "iub"
    if array.size <= INLINE and exact:
        data: Any = array.ravel().tolist()
    else:
        data = base64.b85encode(zlib.compress(array.tobytes(), 9)).decode()
    return {"array": array.dtype.str, "shape": list(array.shape), "data": data}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v) for v in value)
    if isinstance(value, dict) and "form" in value:
        return FORMS[value["form"]](**{k: _decode(v) for k, v in value.items() if k != "form"})
    if isinstance(value, dict) and "array" in value:
        dtype, shape, data = np.dtype(value["array"]), tuple(value["shape"]), value["data"]
        if isinstance(data, str):
            array = np.frombuffer(zlib.decompress(base64.b85decode(data)), dtype).reshape(shape)
        else:
            array = np.array(data, dtype).reshape(shape)
        return Tensor(array, value["tensor"]) if "tensor" in value else array
    return value


def parse(text: str) -> Graph:
    """Read a graph back from text.

    Raises
    ------
    ValueError
        A line is not of the form that `dump` writes.
    """
    lines = text.splitlines()
    head, _, outputs = lines[0].rpartition(" -> ")
    match = re.fullmatch(r'graph (?P<name>".*") (?P<level>real|integer)', head)
    if match is None:
        raise ValueError(f"The first line must be 'graph \"name\" level -> outputs', not {lines[0]!r}")
    level: Any = match["level"]
    nodes = tuple(_node(line, level) for line in lines[1:] if line)
    return Graph(level, nodes, tuple(outputs.split(", ")), json.loads(match["name"]))


def _node(line: str, level: str) -> Node:
    match = NODE.match(line)
    ops: dict[str, Any] = dict(real.OPS if level == "real" else integer.OPS)
    if match is None or match["op"] not in ops:
        raise ValueError(f"A line must be 'name = Op(inputs) {{...}} : type @ {{...}}', not {line[:80]!r}")
    decoder = json.JSONDecoder()
    attributes, end = decoder.raw_decode(line, match.end())
    kind, _, origin = line[end:].removeprefix(" : ").partition(" @ ")
    where = json.loads(origin)
    inputs = tuple("" if i == "_" else i for i in match["inputs"].split(", ") if i)
    return ops[match["op"]](  # type: ignore[no-any-return]
        name=match["name"],
        inputs=inputs,
        type=_parse_type(kind),
        origin=Origin(tuple((n, o) for n, o in where["nodes"]), where["tensor"]),
        **{name: _decode(value) for name, value in attributes.items()},
    )


def _parse_type(text: str) -> Type:
    if match := INTEGER.fullmatch(text):
        return IntType(_shape(match["shape"]), int(match["lo"]), int(match["hi"]))
    if match := REAL.fullmatch(text):
        return TensorType(match["dtype"], _shape(match["shape"]))
    raise ValueError(f"A type must be 'float32[1,2]' or 'int[1,2]{{0..3}}', not {text!r}")


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(d) for d in text.split(",") if d)
