"""Reads an ONNX file, which is untrusted, into a clean static model and its normal form."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto

from tcompile.errors import ModelError, Problem, UsageError, printable
from tcompile.frontend.external import MAX_BYTES, read_external
from tcompile.frontend.further import further
from tcompile.frontend.normalize import normalize
from tcompile.frontend.protos import CHANNELS_LAST, QONNX_DOMAINS, raise_all, static_shape
from tcompile.frontend.qonnx import rewrite
from tcompile.frontend.shapes import fix_input_shapes, fixed_batches, with_frame
from tcompile.frontend.structure import (
    end_at,
    graph_problems,
    header_problems,
    inline_functions,
    name_nodes,
    text_problem,
    tidy,
)
from tcompile.frontend.tensors import tensor_problems
from tcompile.frontend.widen import in_float32

__all__ = ["Loaded", "digest", "load"]

_NO_SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType({})
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_QOPERATORS = ("ConvInteger", "MatMulInteger", "QGemm", "DynamicQuantizeLinear")
_UNSUPPORTED = {
    getattr(TensorProto, name): name.lower()
    for name in ("COMPLEX64", "COMPLEX128", "STRING", "FLOAT8E4M3FN", "FLOAT8E5M2")
}


@dataclass(frozen=True)
class Loaded:
    """A model that was read.

    Parameters
    ----------
    file : str
        Name of the file, without its folder.
    sha256 : str
        Digest of the model file itself, without its external data.
    format : str
        ``float``, ``qdq``, ``qcdq``, ``qonnx`` or ``qoperator``.
    reference : ModelProto
        What onnxruntime runs as the reference: the user's graph in standard operators, one frame, all data inside.
    model : ModelProto
        The same in the form of `tcompile.frontend.normalize`.
    notes : tuple of str
        What the user should know: choices made for the file.
    """

    file: str
    sha256: str
    format: str
    reference: ModelProto
    model: ModelProto
    notes: tuple[str, ...]


def load(path: Path, shapes: Mapping[str, tuple[int, ...]] = _NO_SHAPES, until: str | None = None) -> Loaded:
    """Read an ONNX file.

    Parameters
    ----------
    path : Path
        The file. External data is read only from inside its folder.
    shapes : mapping
        Shapes by input name, for dynamic dimensions.
    until : str, optional
        Node, or tensor, that the network ends with: what lies behind it is not looked at.

    Raises
    ------
    UsageError
        The file cannot be read.
    ModelError
        It is no ONNX file, or not one that can be compiled; lists every problem of the stage that failed, and what
        `tcompile.frontend.further` finds beyond.
    """
    data = _read(path)
    model = _parse(data, path)
    text = text_problem(model)
    raise_all([text] if text is not None else header_problems(model))
    model = inline_functions(model)
    name_nodes(model.graph)
    if until is not None:
        end_at(model.graph, until)
    read_external(model, path.parent)
    notes, problems = fix_input_shapes(model, shapes)
    damages = list(tensor_problems(model.graph))
    raise_all(_with_further(model, [*damages, *graph_problems(model), *problems], damaged=bool(damages)))
    try:
        tidy(model)
        notes += in_float32(model)
        kind = _format(list(model.graph.node))
        reference, normal, more = _one_frame(model, fixed_batches(model, shapes), quantizers=kind == "qonnx")
    except ModelError as error:
        raise ModelError(_with_further(model, error.problems)) from error
    for target, source in zip(reference.graph.output, normal.graph.output, strict=True):
        target.CopyFrom(source)
    raise_all(_type_problems(normal))
    notes = [*notes, *more, *_removal_note(reference, normal)]
    return Loaded(path.name, hashlib.sha256(data).hexdigest(), kind, reference, normal, tuple(notes))


def _with_further(model: ModelProto, found: Sequence[Problem], *, damaged: bool = False) -> tuple[Problem, ...]:
    """The problems of a stage that failed, and those that later ones would find."""

    def prepare(part: ModelProto) -> ModelProto:
        tidy(part)
        in_float32(part)
        return _prepared(part, quantizers=_format(list(part.graph.node)) == "qonnx")[1]

    return tuple(dict.fromkeys((*found, *further(model, found, None if damaged else prepare)))) if found else ()


def digest(path: Path) -> str:
    """SHA-256 of a file, as `Loaded.sha256`.

    Raises
    ------
    UsageError
        The file cannot be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: Path) -> bytes:
    where, shown = (str(path),), printable(str(path))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(Problem("not-a-file", f"{shown} is not a file", where))
        if status.st_size > MAX_BYTES:
            raise UsageError(Problem("too-large", f"{shown} must be under 2 GiB, not {status.st_size} bytes", where))
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(Problem("unreadable", f"cannot read {shown}: {reason}", where)) from error


def _parse(data: bytes, path: Path) -> ModelProto:
    hint = "fetch it with git lfs pull" if data.startswith(b"version https://git-lfs") else "is the file complete?"
    problem = Problem("not-onnx", f"{printable(path.name)} is not an ONNX file, or it is truncated", (str(path),), hint)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(problem) from error
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(problem)
    return model


def _format(nodes: list[NodeProto]) -> str:
    kinds = {node.op_type for node in nodes}
    if any(node.domain in (*QONNX_DOMAINS, CHANNELS_LAST) for node in nodes):
        return "qonnx"
    if any(kind.startswith("QLinear") or kind in _QOPERATORS for kind in kinds):
        return "qoperator"
    quantized = {name for node in nodes if node.op_type == _Q for name in node.output}
    if any(node.op_type == "Clip" and node.input[0] in quantized for node in nodes):
        return "qcdq"
    return "qdq" if kinds & {_Q, _DQ} else "float"


def _one_frame(
    model: ModelProto, batches: Mapping[str, int], *, quantizers: bool
) -> tuple[ModelProto, ModelProto, list[str]]:
    """Rewrite and normalize with a fixed batch set to 1, if then every value is one frame of what it was."""
    reference, normal = _prepared(model, quantizers=quantizers)
    if not batches:
        return reference, normal, []
    try:
        frame = _prepared(with_frame(model, batches), quantizers=quantizers)
    except ModelError:
        frame = None
    names = ", ".join(printable(name) for name in batches)
    if frame is None or not _is_frame_of(frame[1], normal, set(batches.values())):
        return reference, normal, [f"input {names}: its first dimension is kept, the graph depends on it"]
    return (*frame, [f"input {names}: its fixed batch is 1 now (one frame at a time)"])


def _prepared(model: ModelProto, *, quantizers: bool) -> tuple[ModelProto, ModelProto]:
    reference = ModelProto()
    reference.CopyFrom(rewrite(model) if quantizers else model)
    return reference, normalize(reference)


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...] | None]:
    graph = model.graph
    return {v.name: static_shape(v.type) for v in (*graph.input, *graph.value_info, *graph.output)}


def _is_frame_of(frame: ModelProto, batch: ModelProto, sizes: set[int]) -> bool:
    small, large = _shapes(frame), _shapes(batch)
    if small.keys() != large.keys() or len(sizes) != 1:
        return False
    moving = _depending(batch)
    for name, whole in large.items():
        if name not in moving and small[name] != whole:
            return False
        if name in moving and (not whole or whole[0] not in sizes or small[name] != (1, *whole[1:])):
            return False
    return True


def _depending(model: ModelProto) -> set[str]:
    """Values that depend on the inputs."""
    names = {v.name for v in model.graph.input}
    for node in model.graph.node:
        if names.intersection(node.input):
            names.update(node.output)
    return names


def _removal_note(reference: ModelProto, normal: ModelProto) -> list[str]:
    count = len({n.name for n in reference.graph.node} - {n.name for n in normal.graph.node})
    return [f"{count} nodes compute constants or change nothing; they are gone"] if count else []


def _type_problems(model: ModelProto) -> list[Problem]:
    graph = model.graph
    users = {name: node.name for node in graph.node for name in (*node.input, *node.output)}
    types = {t.name: t.data_type for t in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    bad: dict[str, list[str]] = {}
    for name, elem_type in types.items():
        if elem_type in _UNSUPPORTED:
            bad.setdefault(_UNSUPPORTED[elem_type], []).append(name)
    hint = "export the network in float32"
    return [
        Problem(
            "unsupported-type",
            f"values must be float32 or integers; {printable(names[0])} is {kind} ({len(names)} such values)",
            tuple(dict.fromkeys(users.get(name, name) for name in names)),
            hint,
        )
        for kind, names in bad.items()
    ]
