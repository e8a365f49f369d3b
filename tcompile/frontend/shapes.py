"""Gives every input of a model a static shape: one frame at a time, the user's wishes first."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from onnx import ModelProto, ValueInfoProto

from tcompile.errors import Problem, printable
from tcompile.frontend.protos import elements, graph_inputs, tensor_type
from tcompile.frontend.tensors import MAX_ELEMENTS, MAX_RANK

__all__ = ["fix_input_shapes", "fixed_batches", "with_frame"]

_MAX_RANK = 8
Dims = list[int | str | None]


def fix_input_shapes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[str], list[Problem]]:
    """Make every input shape static.

    A dynamic first dimension is the batch and becomes 1. Dimensions of one symbolic name have one size.

    Parameters
    ----------
    model : ModelProto
        Changed in place.
    shapes : mapping
        Shapes that the user gives, by input name.

    Returns
    -------
    list of str
        What was chosen for the user.
    list of Problem
        Dimensions other than the first that stay dynamic, given shapes that do not fit.
    """
    inputs = graph_inputs(model.graph)
    strange = [v.name for v in inputs if not v.type.tensor_type.elem_type]
    if strange:
        message = f"input {printable(strange[0])} must be a tensor of numbers"
        return [], [Problem("unsupported-type", message, tuple(strange))]
    known = {value.name: _dims(value) for value in inputs}
    problems = [*_given_problems(known, shapes)]
    if problems:
        return [], problems
    symbols = _bindings(known, shapes, problems)
    notes: list[str] = []
    for value in inputs:
        dims = known[value.name]
        shape = (
            list(shapes[value.name]) if value.name in shapes else _resolved(value.name, dims, symbols, notes, problems)
        )
        if shape is not None:
            if len(shape) > MAX_RANK:
                message = f"input {printable(value.name)} must have at most {MAX_RANK} dimensions, not {len(shape)}"
                problems.append(Problem("too-large", message, (value.name,)))
            elif elements(shape) > MAX_ELEMENTS:
                found = "x".join(map(str, shape))
                message = f"input {printable(value.name)} must have at most 2^31 elements, not {found}"
                problems.append(Problem("too-large", message, (value.name,)))
            value.type.CopyFrom(tensor_type(value.type.tensor_type.elem_type, shape))
    return notes, problems


def _dims(value: ValueInfoProto) -> Dims | None:
    """Sizes; a symbolic dimension is its name, an unnamed one None. None if even the rank is unknown."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.dim_value > 0 else d.dim_param or None for d in value.type.tensor_type.shape.dim]


def _given_problems(known: Mapping[str, Dims | None], shapes: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    problems = []
    for name, shape in shapes.items():
        dims = known.get(name)
        text = ",".join(map(str, shape))
        if name not in known:
            near = difflib.get_close_matches(name[:100], [n[:100] for n in known], 1)
            listed = ", ".join(printable(n) for n in list(known)[:5])
            hint = f"did you mean {printable(near[0])}?" if near else f"the inputs are {listed}"
            problems.append(
                Problem("unknown-input", f"--shape names {printable(name)}, which is no input", (name,), hint)
            )
        elif not shape or min(shape) < 1 or len(shape) > _MAX_RANK:
            problems.append(
                Problem("wrong-shape", f"--shape of {printable(name)} must be positive sizes, not {text}", (name,))
            )
        elif dims is not None and len(dims) != len(shape):
            message = f"--shape of {printable(name)} must have {len(dims)} sizes, not {len(shape)} ({text})"
            problems.append(Problem("wrong-shape", message, (name,)))
        elif dims is not None:
            axes = [i for i, (d, s) in enumerate(zip(dims, shape, strict=True)) if isinstance(d, int) and d != s]
            if [axis for axis in axes if axis or shape[0] != 1]:
                fixed = ",".join(str(d) if isinstance(d, int) else "?" for d in dims)
                message = f"--shape of {printable(name)} must agree with the file's {fixed}, not {text}"
                problems.append(Problem("wrong-shape", message, (name,)))
    return problems


def _bindings(
    known: Mapping[str, Dims | None], shapes: Mapping[str, tuple[int, ...]], problems: list[Problem]
) -> dict[str, int]:
    """Sizes of symbolic dimensions that follow from the given shapes."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        for dim, size in zip(known[name] or [], shape, strict=False):
            if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                message = f"--shape gives dimension {printable(dim)} the sizes {sizes[dim]} and {size}"
                problems.append(Problem("wrong-shape", message, (name,)))
    return sizes


def _resolved(
    name: str, dims: Dims | None, symbols: Mapping[str, int], notes: list[str], problems: list[Problem]
) -> list[int] | None:
    if dims is None:
        hint = f"give --shape {printable(name)[1:-1]}=1,3,32,32"
        problems.append(Problem("dynamic-shape", f"input {printable(name)} has no shape at all", (name,), hint))
        return None
    shape = [symbols.get(d) if isinstance(d, str) else d for d in dims]
    if shape and shape[0] is None:
        notes.append(f"input {printable(name)}: its dynamic batch is 1 (one frame at a time)")
        shape[0] = 1
    free = [axis for axis, size in enumerate(shape) if size is None]
    if free:
        axes = ", ".join(f"{axis}" + (f" ({printable(str(dims[axis]))})" if dims[axis] else "") for axis in free)
        example = ",".join("32" if size is None else str(size) for size in shape)
        message = f"input {printable(name)} has no fixed size on axis {axes}"
        problems.append(Problem("dynamic-shape", message, (name,), f"give --shape {printable(name)[1:-1]}={example}"))
        return None
    return [size for size in shape if size is not None]


def fixed_batches(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Inputs of rank 2 or more whose first dimension is over 1, unless the user gave their shape."""
    sizes = {}
    for value in graph_inputs(model.graph):
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1 and dims[0].dim_value > 1 and value.name not in shapes:
            sizes[value.name] = int(dims[0].dim_value)
    return sizes


def with_frame(model: ModelProto, batches: Mapping[str, int]) -> ModelProto:
    """Copy a model, with the first dimension of the inputs in ``batches`` set to 1."""
    result = ModelProto()
    result.CopyFrom(model)
    for value in result.graph.input:
        if value.name in batches:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    return result
