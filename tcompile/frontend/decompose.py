"""Rewrites operators as several simpler ones that give the same numbers.

What only moves elements becomes ``Reshape``, ``Transpose``, ``Slice`` and ``Concat``; a transposed convolution becomes one
between inserted zeros; an average whose windows are cut by the border becomes an average for each size of window. The
last node, or the one that does the work, bears the name of the node that is replaced. The reference keeps the file's nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, product
from math import prod

import numpy as np
from onnx import NodeProto, helper

from tcompile.frontend.modernize import windowed
from tcompile.frontend.parts import Context, Parts, Rule
from tcompile.frontend.protos import CHANNELS_LAST, attributes
from tcompile.frontend.qoperator import RULES as QOPERATOR

__all__ = ["decomposed", "is_decomposed"]

MOST_PIECES = 256  # that a value is put together from
LONGEST_WINDOW = 1 << 16  # elements along an axis of an average, padding included


def is_decomposed(node: NodeProto) -> bool:
    """Tell whether a node has a rule here."""
    return (node.domain, node.op_type) in RULES


def decomposed(node: NodeProto, context: Context) -> Iterator[NodeProto]:
    """Nodes that compute the outputs of a node, in the order of definition before use.

    Each is to be made known to the context before the next is asked for.

    Parameters
    ----------
    node : NodeProto
        In the form of `tcompile.frontend.modernize`.
    context : Context
        The graph around it.

    Raises
    ------
    ModelError
        The operator is used in a way that has no form here.
    """
    rule = RULES.get((node.domain, node.op_type))
    for part in [node] if rule is None else rule(node, context):
        if (part.domain, part.op_type) == (node.domain, node.op_type):
            yield part
        else:
            yield from decomposed(part, context)


# Elements moved


def _depth_to_space(node: NodeProto, context: Context) -> list[NodeProto]:
    """Channels become blocks of pixels; ``DCR``: blocks outside of channels, ``CRD``: inside."""
    parts, (n, c, h, w) = Parts(node, context), _image(node, context)
    b, mode = parts.integer("blocksize", 0), attributes(node).get("mode", "DCR")
    if b < 1 or c % (b * b) or mode not in ("DCR", "CRD"):
        raise parts.misfit(f"blocks of {b} x {b} in mode {mode!r} do not fit {c} channels")
    d = c // (b * b)
    split, perm = (
        ((n, b, b, d, h, w), (0, 3, 4, 1, 5, 2)) if mode == "DCR" else ((n, d, b, b, h, w), (0, 1, 4, 2, 5, 3))
    )
    x = parts.add("Transpose", [parts.reshaped(node.input[0], split)], perm=perm)
    return parts.done(parts.reshaped(x, (n, d, h * b, w * b)))


def _space_to_depth(node: NodeProto, context: Context) -> list[NodeProto]:
    """Blocks of pixels become channels."""
    parts, (n, c, h, w) = Parts(node, context), _image(node, context)
    b = parts.integer("blocksize", 0)
    if b < 1 or h % b or w % b:
        raise parts.misfit(f"blocks of {b} x {b} do not fit {h} x {w} pixels")
    x = parts.reshaped(node.input[0], (n, c, h // b, b, w // b, b))
    return parts.done(
        parts.reshaped(parts.add("Transpose", [x], perm=(0, 3, 5, 1, 2, 4)), (n, c * b * b, h // b, w // b))
    )


def _image(node: NodeProto, context: Context) -> tuple[int, int, int, int]:
    shape = context.shape(node.input[0])
    if len(shape) != 4:
        raise Parts(node, context).misfit(f"it must have an image of 4 axes, not shape {shape}")
    n, c, h, w = shape
    return n, c, h, w


def _gather(node: NodeProto, context: Context) -> list[NodeProto]:
    """Constant indices along an axis."""
    parts, shape = Parts(node, context), context.shape(node.input[0])
    indices = context.constant(node.input[1])
    if context.constant(node.input[0]) is not None or indices is None:
        return [node]
    axis = _axis(parts, parts.integer("axis", 0), len(shape))
    size = shape[axis]
    if indices.size < 1 or indices.min() < -size or indices.max() >= size:
        raise parts.misfit(f"its indices must be from {-size} to {size - 1}")
    x = _picked(parts, node.input[0], shape, axis, [int(k) % size for k in indices.ravel()])
    return parts.done(
        x if indices.ndim == 1 else parts.reshaped(x, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))
    )


def _axis(parts: Parts, axis: int, rank: int) -> int:
    """An axis, counted from the first."""
    if not -rank <= axis < rank:
        raise parts.misfit(f"it must have an axis from {-rank} to {rank - 1}, not {axis}")
    return axis % rank


def _picked(parts: Parts, x: str, shape: Sequence[int], axis: int, indices: Sequence[int]) -> str:
    """Elements of some indices along an axis, out of a value of a shape."""
    size, times = shape[axis], len(indices) // shape[axis]
    if list(indices) == list(range(size)):
        return x
    if times > 1 and list(indices) == [k // times for k in range(size * times)]:  # each several times
        if times > MOST_PIECES:
            raise parts.refused(f"it repeats elements {times} times, and more than {MOST_PIECES} are not built")
        wide = parts.reshaped(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        return parts.reshaped(parts.joined([wide] * times, axis + 1), (*shape[:axis], size * times, *shape[axis + 1 :]))
    runs = _runs(indices)
    if len(runs) > MOST_PIECES:
        raise parts.refused(f"it puts {len(runs)} pieces together, and more than {MOST_PIECES} are not built")
    return parts.joined([parts.sliced(x, axis, *run) for run in runs], axis)


def _runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Indices as (start, count, step) of slices."""
    runs: list[tuple[int, int, int]] = []
    for index in indices:
        if runs:
            start, count, step = runs[-1]
            if index != start and (count == 1 or index == start + count * step):
                runs[-1] = (start, count + 1, index - start if count == 1 else step)
                continue
        runs.append((index, 1, 1))
    return runs


def _resize(node: NodeProto, context: Context) -> list[NodeProto]:
    """To nearest neighbours; which these are, the operator itself says, of indices along each axis."""
    parts, shape = Parts(node, context), context.shape(node.input[0])
    if context.constant(node.input[0]) is not None:
        return [node]
    values = attributes(node)
    if values.get("mode", "nearest") != "nearest":
        hint = 'resize to nearest neighbours (mode "nearest"), or let a transposed convolution do it'
        raise parts.refused(f"it must take nearest neighbours, not interpolate ({values['mode']})", hint)
    if values.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise parts.refused("it must not crop")
    for index in (2, 3):
        if parts.given(index):
            parts.known(index, "scales" if index == 2 else "sizes")
    x, now = node.input[0], list(shape)
    for axis, size in enumerate(shape):
        indices = _neighbours(parts, axis, size)
        x = _picked(parts, x, now, axis, indices)
        now[axis] = len(indices)
    return parts.done(x)


def _neighbours(parts: Parts, axis: int, size: int) -> list[int]:
    """What the node makes of indices along one axis, all other axes as they are."""
    node, shape = parts.node, parts.context.shape(parts.node.input[0])
    line = np.arange(size, dtype=np.float32).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    probe = NodeProto()
    probe.CopyFrom(node)
    probe.name, probe.output[0] = (
        parts.context.fresh(f"{node.name}_probe"),
        parts.context.fresh(f"{node.output[0]}_probe"),
    )
    whole = parts.constant("indices", np.broadcast_to(line, shape), np.float32)
    probe.input[0] = whole
    found = np.moveaxis(parts.context.evaluated(probe), axis, 0)
    if not found.size:
        raise parts.misfit(f"it must leave elements, and gives shape {found.shape}")
    return [int(k) for k in found.reshape(len(found), -1)[:, 0]]


def _channels_first(node: NodeProto, context: Context) -> list[NodeProto]:
    """An operator whose channels are the last axis (QONNX), between transpositions."""
    parts, rank = Parts(node, context), len(context.shape(node.input[0]))
    if rank < (2 if node.op_type == "BatchNormalization" else 3):
        raise parts.misfit(f"it must have axes between batch and channels, not shape {context.shape(node.input[0])}")
    forward, back = (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)
    count = 2 if node.op_type == "Conv" else 1  # of inputs that are turned: weights of a convolution, too
    inputs = [parts.add("Transpose", [name], perm=forward) for name in node.input[:count]] + list(node.input[count:])
    values = attributes(node)
    if node.op_type != "BatchNormalization":
        for name, default in (("strides", 1), ("dilations", 1), ("pads", 0)):
            values.setdefault(name, [default] * ((rank - 2) * (2 if name == "pads" else 1)))
    y = parts.add(node.op_type, inputs, main=True, **values)
    return parts.done(parts.add("Transpose", [y], perm=back))


def _expand(node: NodeProto, context: Context) -> list[NodeProto]:
    """Axes of one element, repeated."""
    parts, shape = Parts(node, context), context.shape(node.input[0])
    if context.constant(node.input[0]) is not None:
        return [node]
    given = tuple(int(k) for k in parts.known(1, "shape").ravel())
    try:
        wanted = np.broadcast_shapes(shape, given)
    except ValueError:
        raise parts.misfit(f"a value of shape {shape} does not fit shape {given}") from None
    whole = (1,) * (len(wanted) - len(shape)) + shape
    x = node.input[0] if whole == shape else parts.reshaped(node.input[0], whole)
    return parts.done(_repeated(parts, x, [b if a == 1 else 1 for a, b in zip(whole, wanted, strict=True)]))


def _tile(node: NodeProto, context: Context) -> list[NodeProto]:
    """A value several times along axes."""
    parts = Parts(node, context)
    if context.constant(node.input[0]) is not None:
        return [node]
    times, rank = [int(k) for k in parts.known(1, "repeats").ravel()], len(context.shape(node.input[0]))
    if len(times) != rank:
        raise parts.misfit(f"it must have one repeat for each of {rank} axes, not {len(times)}")
    return parts.done(_repeated(parts, node.input[0], times))


def _repeated(parts: Parts, x: str, times: Sequence[int]) -> str:
    for axis, count in enumerate(times):
        if not 1 <= count <= MOST_PIECES:
            raise parts.refused(f"it repeats a value {count} times, and must from 1 to {MOST_PIECES} times")
        x = parts.joined([x] * count, axis)
    return x


def _sum(node: NodeProto, context: Context) -> list[NodeProto]:
    """Of any number of values, from the first to the last."""
    parts = Parts(node, context)
    x = node.input[0]
    for other in node.input[1:]:
        x = parts.add("Add", [x, other])
    return parts.done(x)


def _transpose(node: NodeProto, context: Context) -> list[NodeProto]:
    """Without ``perm`` axes are reversed."""
    if "perm" in attributes(node):
        return [node]
    rank = len(context.shape(node.input[0]))
    return [helper.make_node("Transpose", node.input, node.output, node.name, perm=list(range(rank))[::-1])]


def _reduce(node: NodeProto, context: Context) -> list[NodeProto]:
    """Over no axes: all of them, or nothing is done."""
    parts = Parts(node, context)
    axes = parts.known(1, "axes") if parts.given(1) else np.zeros(0, np.int64)
    if axes.size or not parts.integer("noop_with_empty_axes", 0):
        return [node]
    return parts.done(node.input[0])


# Windows


def _reduce_max(node: NodeProto, context: Context) -> list[NodeProto]:
    """Over positions: a pool whose window is all of them."""
    parts, shape = Parts(node, context), context.shape(node.input[0])
    if context.constant(node.input[0]) is not None:
        return [node]
    given = parts.known(1, "axes").ravel() if parts.given(1) else np.zeros(0, np.int64)
    if not given.size and parts.integer("noop_with_empty_axes", 0):
        return parts.done(node.input[0])
    given = given if given.size else np.arange(len(shape))
    axes = sorted({_axis(parts, int(a), len(shape)) for a in given})
    if len(shape) < 3 or not axes or axes[0] < 2:
        raise parts.refused(
            f"it must take the largest over positions (axes from 2 on), not over axes {axes} of {shape}"
        )
    kernel = [n if k in axes else 1 for k, n in enumerate(shape)][2:]
    rank = len(kernel)
    pool = {"kernel_shape": kernel, "strides": [1] * rank, "dilations": [1] * rank, "pads": [0] * 2 * rank}
    x = parts.add("MaxPool", [node.input[0]], main=True, **pool)
    keep = parts.integer("keepdims", 1)
    return parts.done(x if keep else parts.reshaped(x, [n for k, n in enumerate(shape) if k not in axes]))


def _conv_transpose(node: NodeProto, context: Context) -> list[NodeProto]:
    """A convolution with the mirrored kernel over the input, zeros inserted between its pixels."""
    parts, shape = Parts(node, context), context.shape(node.input[0])
    rank, group = len(shape) - 2, parts.integer("group", 1)
    weight = context.shape(node.input[1])
    if rank < 1 or len(weight) != len(shape) or group < 1 or weight[0] != shape[1] or shape[1] % group:
        raise parts.misfit(f"weights of shape {weight} in {group} groups do not fit {shape}")
    kernel = weight[2:]
    told = tuple(attributes(node).get("kernel_shape") or kernel)
    if told != kernel:
        raise parts.misfit(f"its kernel_shape {told} is not that of its weights, {kernel}")
    strides, dilations, extra, pads = _transposed_window(parts, shape[2:], kernel)
    x = _spread(parts, node.input[0], shape, strides)
    begins = [d * (k - 1) - p for d, k, p in zip(dilations, kernel, pads[:rank], strict=True)]
    ends = [
        d * (k - 1) - p + o - (s - 1)
        for d, k, p, o, s in zip(dilations, kernel, pads[rank:], extra, strides, strict=True)
    ]
    for axis, (size, stride) in enumerate(zip(shape[2:], strides, strict=True)):
        first, last = max(-begins[axis], 0), max(-ends[axis], 0)
        if first or last:
            x = parts.sliced(x, axis + 2, first, size * stride - first - last)
    values = {"kernel_shape": kernel, "strides": [1] * rank, "dilations": dilations, "group": group}
    padding = [max(p, 0) for p in (*begins, *ends)]
    inputs = [x, _mirrored(parts, weight, group), *node.input[2:]]
    return parts.done(parts.add("Conv", inputs, main=True, pads=padding, **values))


def _transposed_window(
    parts: Parts, size: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, output padding and pads in full."""
    values, rank = attributes(parts.node), len(size)
    strides, dilations = list(values.get("strides") or [1] * rank), list(values.get("dilations") or [1] * rank)
    extra, pads = list(values.get("output_padding") or [0] * rank), list(values.get("pads") or [0] * 2 * rank)
    mode = values.get("auto_pad", "NOTSET")
    if {len(strides), len(dilations), len(extra), len(pads) - rank} != {rank} or min(strides + dilations) < 1:
        raise parts.misfit(f"strides {strides}, dilations {dilations}, pads {pads} do not fit {rank} axes")
    wanted = values.get("output_shape")
    if mode.startswith("SAME") and not wanted:
        wanted = [n * s for n, s in zip(size, strides, strict=True)]
    if wanted:
        pads = [0] * 2 * rank
        for k, length in enumerate(list(wanted)[-rank:]):
            total = (size[k] - 1) * strides[k] + extra[k] + (kernel[k] - 1) * dilations[k] + 1 - length
            half = total // 2 if mode == "SAME_UPPER" else total - total // 2
            pads[k], pads[rank + k] = half, total - half
    sizes = [
        (n - 1) * s + (k - 1) * d + 1 + e - a - b
        for n, s, k, d, e, a, b in zip(size, strides, kernel, dilations, extra, pads[:rank], pads[rank:], strict=True)
    ]
    if min(sizes) < 1:
        raise parts.misfit(f"its pads {pads} leave nothing of its output, {sizes}")
    return strides, dilations, extra, pads


def _spread(parts: Parts, x: str, shape: Sequence[int], strides: Sequence[int]) -> str:
    """Pixels apart by the strides, zeros between them and behind the last of each row."""
    if max(strides) == 1:
        return x
    apart = [n for size in shape[2:] for n in (size, 1)]
    pads = [p for s in strides for p in (0, s - 1)]
    none = [0] * (len(pads) + 2)
    wide = parts.add(
        "Pad",
        [
            parts.reshaped(x, (*shape[:2], *apart)),
            parts.constant("zeros", [*none, 0, 0, *pads]),
            parts.constant("zero", 0.0, np.float32),
        ],
    )
    return parts.reshaped(wide, (*shape[:2], *(n * s for n, s in zip(shape[2:], strides, strict=True))))


def _mirrored(parts: Parts, shape: Sequence[int], group: int) -> str:
    """Weights (C, M/group, ...) of a transposed convolution as those of a convolution, (M, C/group, ...)."""
    rank, (c, m) = len(shape) - 2, shape[:2]
    w = parts.reshaped(parts.node.input[1], (group, c // group, *shape[1:]))
    w = parts.add("Transpose", [w], perm=(0, 2, 1, *range(3, rank + 3)))
    w = parts.reshaped(w, (group * m, c // group, *shape[2:]))
    bounds = ([-1] * rank, [np.iinfo(np.int64).min] * rank, list(range(2, rank + 2)), [-1] * rank)
    return parts.add("Slice", [w, *(parts.constant("mirror", b) for b in bounds)])


def _average(node: NodeProto, context: Context) -> list[NodeProto]:
    """Where windows are cut by the border, one average for each size of window."""
    (node,) = windowed(node, context)
    values, shape = attributes(node), context.shape(node.input[0])
    counted = bool(values.get("count_include_pad", 0))
    if not values.get("ceil_mode", 0) and (counted or not any(values["pads"])):
        return [node]
    parts = Parts(node, context)
    longest = max(*values["kernel_shape"], *values["pads"])
    if longest > LONGEST_WINDOW:
        raise parts.refused(f"its windows and pads must be at most {LONGEST_WINDOW} elements, not {longest}")
    regions = [_regions(shape[2 + k], values, k, counted) for k in range(len(shape) - 2)]
    if not all(regions):
        raise parts.misfit(f"windows of {values['kernel_shape']} do not fit {shape[2:]} positions")
    if all(len(r) == 1 for r in regions) and not any(values["pads"]):
        return [_without_ceil(node)]
    if prod(map(len, regions)) > MOST_PIECES:
        raise parts.refused(
            f"its windows are cut in {prod(map(len, regions))} ways, and more than {MOST_PIECES} are not built"
        )
    x = _padded(parts, values["pads"]) if counted else node.input[0]
    return parts.done(_tiled(parts, x, regions, lambda where: _region(parts, x, where, values)))


def _without_ceil(node: NodeProto) -> NodeProto:
    kept = {k: v for k, v in attributes(node).items() if k != "ceil_mode"}
    return helper.make_node("AveragePool", node.input, node.output, node.name, **kept)


Region = tuple[int, int, int]  # first element, taps, outputs


def _regions(size: int, values: dict[str, object], k: int, counted: bool) -> list[Region]:
    """Along one axis: runs of windows that are cut in the same way."""
    rank = len(values["kernel_shape"])  # type: ignore[arg-type]
    kernel, stride, step = (values[name][k] for name in ("kernel_shape", "strides", "dilations"))  # type: ignore[index]
    before, after = values["pads"][k], values["pads"][rank + k]  # type: ignore[index]
    whole = size + before + after
    room = whole - (kernel - 1) * step - 1
    outputs = (-(-room // stride) if values.get("ceil_mode", 0) else room // stride) + 1
    if values.get("ceil_mode", 0) and (outputs - 1) * stride >= size + before:
        outputs -= 1  # a window must begin inside of the image or in front of it
    low, high = (0, whole) if counted else (before, before + size)  # elements that count, in the padded row
    found = []
    for k_out in range(outputs):
        taps = [k_out * stride + t * step for t in range(kernel)]
        inside = [t for t in taps if low <= t < high]
        found.append((inside[0] - low, len(inside)) if inside else (0, 0))
    regions: list[Region] = []
    for taps_in, run in groupby(found, key=lambda f: f[1]):
        starts = [f[0] for f in run]
        for first, count in _spaced(starts, stride):
            regions.append((first, taps_in, count))
    return regions


def _spaced(starts: Sequence[int], stride: int) -> Iterator[tuple[int, int]]:
    """Starts as runs (first, count) that are a stride apart."""
    first, count = starts[0], 1
    for start in starts[1:]:
        if start == first + count * stride:
            count += 1
        else:
            yield first, count
            first, count = start, 1
    yield first, count


def _padded(parts: Parts, pads: Sequence[int]) -> str:
    rank = len(pads) // 2
    if not any(pads):
        return parts.given(0)
    widths = parts.constant("pads", [0, 0, *pads[:rank], 0, 0, *pads[rank:]])
    return parts.add("Pad", [parts.node.input[0], widths, parts.constant("zero", 0.0, np.float32)])


def _tiled(parts: Parts, x: str, regions: Sequence[Sequence[Region]], make: Callable[[Sequence[Region]], str]) -> str:
    """A value put together from what is made of each region."""
    made = [make(where) for where in product(*regions)]
    for axis in reversed(range(len(regions))):
        count = len(regions[axis])
        made = [parts.joined(made[k : k + count], axis + 2) for k in range(0, len(made), count)]
    return made[0]


def _region(parts: Parts, x: str, where: Sequence[Region], values: dict[str, object]) -> str:
    """The averages of one region."""
    strides, dilations = list(values["strides"]), list(values["dilations"])  # type: ignore[call-overload]
    kernel = [taps for _, taps, _ in where]
    if min(kernel) < 1:
        raise parts.refused("it has windows that lie outside of the image")
    for k, (first, taps, count) in enumerate(where):
        x = parts.sliced(x, k + 2, first, (count - 1) * strides[k] + (taps - 1) * dilations[k] + 1)
    rank = len(kernel)
    pool = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": [0] * 2 * rank}
    return parts.add("AveragePool", [x], **pool)


RULES: dict[tuple[str, str], Rule] = {
    **QOPERATOR,
    **{(CHANNELS_LAST, op_type): _channels_first for op_type in ("Conv", "MaxPool", "BatchNormalization")},
    ("", "DepthToSpace"): _depth_to_space,
    ("", "SpaceToDepth"): _space_to_depth,
    ("", "Gather"): _gather,
    ("", "Resize"): _resize,
    ("", "Expand"): _expand,
    ("", "Tile"): _tile,
    ("", "Sum"): _sum,
    ("", "Transpose"): _transpose,
    ("", "ReduceMean"): _reduce,
    ("", "ReduceSum"): _reduce,
    ("", "ReduceMax"): _reduce_max,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "AveragePool"): _average,
}
"""By domain and operator."""
