"""Integer kernels of onnxruntime that work on single codes: their tables, from the kernels themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tcompile.ir import real as R
from tcompile.lowering.grid import Grid, grid_of
from tcompile.lowering.lifted import CodeStart, ConcatStart, Lifted, RelaidStart, TableStart
from tcompile.reference import Kernel

__all__ = ["table_of"]

ON_ONE = ("QLinearLeakyRelu", "QLinearSigmoid")


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
    codes = np.arange(low, high + 1, dtype=np.int64)[:, None]
    if isinstance(lifted.start, ConcatStart) and not absorbed:
        table = _joined(lifted.start, kernels.get(layer), codes, grid)
    else:
        table = _mapped(lifted, kernels, absorbed, codes, grid)
    return None if table is None else TableStart(quantizer.name, low, table, quantizer.type.dtype)


def _mapped(
    lifted: Lifted, kernels: Mapping[str, Kernel], absorbed: tuple[R.RealNode, ...], codes: np.ndarray, grid: Grid
) -> np.ndarray | None:
    """Dequantizer, function, quantizer: one kernel that bears the function's name."""
    start = lifted.start
    while isinstance(start, RelaidStart) and not start.previous.chain:
        start = start.previous.start
    if not isinstance(start, CodeStart) or len(absorbed) != 2 or not absorbed[1].origin.nodes:
        return None
    kernel, source = kernels.get(absorbed[1].origin.nodes[-1][0]), grid_of(replace(lifted, chain=lifted.chain[:1]))
    if kernel is None or kernel.op not in ON_ONE or source is None or not kernel.has_scales([source.step], grid.step):
        return None
    return kernel([codes], [source.zero], grid.zero)


def _joined(start: ConcatStart, kernel: Kernel | None, codes: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Branches one behind the other: one table for the channels of each."""
    if kernel is None or kernel.op != "QLinearConcat" or len(kernel.node.input) != 2 + 3 * len(start.parts):
        return None
    grids = [grid_of(part) for part in start.parts]
    found = [g for g in grids if g is not None]
    if len(found) != len(grids) or not kernel.has_scales([g.step for g in found], grid.step):
        return None
    columns = []
    for k, (part, own, size) in enumerate(zip(start.parts, found, start.sizes, strict=True)):
        inside = np.clip(codes, int(part.lo.min()), int(part.hi.max()))
        columns.append(np.repeat(kernel.part(k, inside, own.zero, grid.zero), 1 if start.grid else size, axis=1))
    if start.grid is None:
        return np.concatenate(columns, axis=1)
    return columns[0] if all((c == columns[0]).all() for c in columns) else None
