"""Reads tensor data that a model keeps in files beside it, and nothing else.

A location is an untrusted string. It must be relative and, after symbolic links are followed, lie inside the model's
folder; the byte range must be inside the file and fit the tensor. Everything is checked before the first byte is read.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import ModelProto, TensorProto

from tcompile.errors import Problem, printable
from tcompile.frontend.protos import raise_all, tensors_of
from tcompile.frontend.tensors import byte_count, dims_problem

__all__ = ["MAX_BYTES", "read_external"]

MAX_BYTES = 2**31 - 1  # of a model with all its data: the limit of the file format


@dataclass(frozen=True)
class _Span:
    tensor: TensorProto
    path: Path
    offset: int
    length: int


def read_external(model: ModelProto, folder: Path) -> None:
    """Replace every external tensor of ``model`` by one that holds its data.

    Parameters
    ----------
    model : ModelProto
        Changed in place.
    folder : Path
        Folder of the model file; nothing outside it is read.

    Raises
    ------
    ModelError
        A location leaves the folder, a file is missing, a range is outside its file, or all is over `MAX_BYTES`.
    """
    root = folder.resolve()
    problems: list[Problem] = []
    spans: list[_Span] = []
    for tensor, _ in tensors_of(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        found = _span(tensor, root)
        if isinstance(found, _Span):
            spans.append(found)
        else:
            problems.append(found)
    total = sum(span.length for span in spans)
    if total > MAX_BYTES:
        problems.append(Problem("too-large", f"external data must be under 2 GiB in all, not {total} bytes"))
    raise_all(problems)
    raise_all(problem for span in spans if (problem := _read(span)) is not None)


def _span(tensor: TensorProto, root: Path) -> _Span | Problem:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    problem = dims_problem(tensor)
    if problem is not None:
        return problem
    path = _inside(entries.get("location", ""), root)
    if path is None:
        return _refused(
            tensor, f"its location {printable(entries.get('location', ''))} is not inside the model's folder"
        )
    offset, expected = _number(entries.get("offset", "0")), byte_count(tensor)
    length = _number(entries["length"]) if "length" in entries else expected
    if offset is None or length is None or length != expected:
        found = f"offset {printable(entries.get('offset', '0'))}, length {printable(entries.get('length', ''))}"
        return _refused(tensor, f"its data must be {expected} bytes, not {found}")
    try:
        status = path.stat()
    except OSError as error:
        return _refused(tensor, f"{printable(path.name)}: {error.strerror}", "put the data file beside the model file")
    if not stat.S_ISREG(status.st_mode):
        return _refused(tensor, f"{printable(path.name)} is not a file")
    if offset + length > status.st_size:
        return _refused(tensor, f"bytes {offset} to {offset + length} are past the end of {printable(path.name)}")
    return _Span(tensor, path, offset, length)


def _refused(tensor: TensorProto, reason: str, hint: str = "") -> Problem:
    return Problem("external-data", f"external data of {printable(tensor.name)}: {reason}", (tensor.name,), hint)


def _inside(location: str, root: Path) -> Path | None:
    windows = PureWindowsPath(location)
    if not location or "\0" in location or PurePosixPath(location).is_absolute() or windows.anchor:
        return None
    try:
        path = (root / location).resolve()
    except (OSError, RuntimeError):  # a loop of symbolic links
        return None
    return path if path.is_relative_to(root) and path != root else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _read(span: _Span) -> Problem | None:
    try:
        with span.path.open("rb") as file:
            file.seek(span.offset)
            data = file.read(span.length)
    except OSError as error:
        return _refused(span.tensor, f"{printable(span.path.name)}: {error.strerror}")
    if len(data) != span.length:
        return _refused(span.tensor, f"{printable(span.path.name)} ended early")
    span.tensor.raw_data = data
    span.tensor.ClearField("external_data")
    span.tensor.data_location = TensorProto.DEFAULT
    return None
