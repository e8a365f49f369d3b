"""Integer kernels of onnxruntime that make one code of another: their tables, from the kernels themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from tcompile.ir import real as R
from tcompile.lowering.grid import Grid, dequantizer_grid, grid_of
from tcompile.lowering.lifted import ConcatStart, Lifted, PairStart, TableStart, channel_axis
from tcompile.reference import Kernel

__all__ = ["kernel_at", "table_of"]

LOOKED_UP = ("QLinearLeakyRelu", "QLinearSigmoid")  # by the code alone
COMPUTED = ("QLinearAdd", "QLinearMul")  # of a code and a constant, or of a code twice; rounds in a way of its own


def kernel_at(kernels: Mapping[str, Kernel], node: R.RealNode) -> Kernel | None:
    """The integer kernel that computes an elementwise operation of codes, if the reference has one."""
    kernel = kernels.get(node.origin.nodes[-1][0]) if node.origin.nodes else None
    known = kernel is not None and kernel.op in (*LOOKED_UP, *COMPUTED) and kernel.op.endswith(node.op)
    return kernel if known else None


def table_of(
    lifted: Lifted, kernels: Mapping[str, Kernel], layer: str, quantizer: R.QuantizeLinear, grid: Grid
) -> TableStart | None:
    """What the reference's kernel makes of each integer, up to a quantizer in the chain; None if there is no such kernel.

    Parameters
    ----------
    lifted : Lifted
        A chain with the quantizer.
    layer : str
        ONNX node where the chain starts.
    grid : Grid
        Of the quantizer.
    """
    absorbed = lifted.chain[: lifted.chain.index(quantizer)]
    low, high = int(lifted.lo.min()), int(lifted.hi.max())
    integers = np.arange(low, high + 1, dtype=np.int64)[:, None]
    at = next((k for k, node in enumerate(absorbed) if kernel_at(kernels, node) is not None), None)
    table = None
    if isinstance(lifted.start, ConcatStart) and not absorbed:
        table = _joined(lifted.start, kernels.get(layer), integers, grid)
    elif at is not None and not isinstance(lifted.start, PairStart):
        table = _mapped(lifted, kernels, absorbed, at, integers, grid)
    return None if table is None else TableStart(quantizer.name, low, table, quantizer.type.dtype)


def _mapped(
    lifted: Lifted,
    kernels: Mapping[str, Kernel],
    absorbed: tuple[R.RealNode, ...],
    at: int,
    integers: np.ndarray,
    grid: Grid,
) -> np.ndarray | None:
    """Dequantizers of the same codes, an operation, quantizer: one kernel that bears the operation's name."""
    before, node, behind = absorbed[:at], absorbed[at], absorbed[at + 1 :]
    kernel, value = kernel_at(kernels, node), lifted.start.value
    made = {n.name: n for n in before if isinstance(n, R.DequantizeLinear) and n.inputs[0] == value}
    grids = [dequantizer_grid(lifted, made[i]) for i in node.inputs if i in made]
    found = [g for g in grids if g is not None]
    alone = len(made) == len(before) and all(
        isinstance(n, R.Relu) for n in behind
    )  # by the codes' range; ORT made sure
    if kernel is None or not alone or not grids or len(found) != len(grids):  # no grid: what dequantizes has moved
        return None
    if not kernel.has_scales([g.step for g in found], grid.step):
        return None
    codes, zeros = lifted.start.feed(integers)[value].astype(np.int64), [g.zero for g in found]
    if kernel.op in LOOKED_UP:
        return kernel([codes], zeros, grid.zero)
    constants = [k for k, i in enumerate(node.inputs) if i not in made]
    axis = channel_axis(node, constants[0], lifted.graph) if constants else None
    return _computed(kernel, codes, zeros, grid.zero, lifted.kind.shape, axis)


def _computed(
    kernel: Kernel, codes: np.ndarray, zeros: Sequence[int], zero: int, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    """Results of codes (L, 1), a column for each element of the constants along an axis, or one.

    The codes come in the shape that they have in the file, one frame after the other: the kernel rounds a row and a
    single constant otherwise than two rows.
    """
    channels = 1 if axis is None else shape[axis]
    outer = 1 if axis is None else prod(shape[:axis])
    places = prod(shape) // channels
    rows = np.broadcast_to(
        np.pad(codes, [(0, -len(codes) % places), (0, 0)], mode="edge"), (-(-len(codes) // places) * places, channels)
    )
    made = []
    for frame in rows.reshape(-1, outer, places // outer, channels).transpose(0, 1, 3, 2):
        found = kernel([frame.reshape(shape)] * len(zeros), zeros, zero)
        made.append(found.reshape(frame.shape).transpose(0, 2, 1).reshape(places, channels))
    return np.concatenate(made)[: len(codes)]


def _joined(start: ConcatStart, kernel: Kernel | None, integers: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Branches one behind the other: one table for the channels of each."""
    if kernel is None or kernel.op != "QLinearConcat" or len(kernel.node.input) != 2 + 3 * len(start.parts):
        return None
    grids = [grid_of(part) for part in start.parts]
    found = [g for g in grids if g is not None]
    if len(found) != len(grids) or not kernel.has_scales([g.step for g in found], grid.step):
        return None
    columns = []
    for k, (part, own, size) in enumerate(zip(start.parts, found, start.sizes, strict=True)):
        inside = np.clip(integers, int(part.lo.min()), int(part.hi.max()))
        columns.append(np.repeat(kernel.part(k, inside, own.zero, grid.zero), 1 if start.grid else size, axis=1))
    if start.grid is None:
        return np.concatenate(columns, axis=1)
    return columns[0] if all((c == columns[0]).all() for c in columns) else None
