"""A layer's weights as the engine cuts them into tiles of PE output by SIMD input channels.

The weights are a matrix of MH rows and MW columns in the order (kernel..., channel within the group); a tile is PE rows
by SIMD columns of one kernel tap and one group. Four layers look different to the engine, and so here:

- few channels: where a layer that is not grouped has fewer channels than SIMD, the taps along the last axis count as
  channels (the engine takes whole rows of the window);
- a dense layer over a flattened image has the image's positions for taps;
- a depthwise layer is one matrix of a column per tap: PE of its channels share a tile;
- a grouped layer has tiles that divide its rows and channels.

`TileView.ids` says it in one array: the tile of every weight. All that prunes tiles works with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tcompile.ir import real as R
from tcompile.ir.graph import Graph, TensorType
from tcompile.passes.weights import Layer

__all__ = ["TileView", "blocks"]


def blocks(weight: np.ndarray, pe: int, simd: int, group: int) -> np.ndarray:
    """Weights (MH, C, kernel...) padded and cut: (group, row blocks, taps, channel blocks, PE, SIMD)."""
    rows, channels = weight.shape[0] // group, weight.shape[1]
    x = weight.reshape(group, rows, channels, -1)
    x = np.pad(x, [(0, 0), (0, -rows % pe), (0, -channels % simd), (0, 0)])
    x = x.reshape(group, x.shape[1] // pe, pe, x.shape[2] // simd, simd, x.shape[3])
    return x.transpose(0, 1, 5, 3, 2, 4)


@dataclass(frozen=True)
class TileView:
    """How one layer is cut.

    Parameters
    ----------
    shape : tuple of int
        (MH, channels of a tap, taps...), before taps count as channels.
    pe, simd : int
        Rows and columns of a tile.
    group : int
        Matrices; those of a depthwise layer are one.
    packed : bool
        Whether the taps along the last axis count as channels.
    """

    shape: tuple[int, ...]
    pe: int
    simd: int
    group: int = 1
    packed: bool = False

    @classmethod
    def of(
        cls, shape: tuple[int, ...], pe: int, simd: int, group: int = 1, image: tuple[int, ...] | None = None
    ) -> TileView:
        """The view of weights of a shape.

        Parameters
        ----------
        shape : tuple of int
            (MH, C / group, kernel...) or (MH, MW).
        image : tuple of int, optional
            Channels and axes of the image that the input of a dense layer was before it was flattened.
        """
        rows, channels = shape[0] // group, shape[1]
        if group > 1 and rows == channels == 1:
            return cls(shape, pe, 1)
        if group > 1:
            return cls(shape, _divisor(rows, pe), _divisor(channels, simd), group)
        if image is not None and len(shape) == 2 and prod(image) == shape[1]:
            shape = (shape[0], *image)
        return cls(shape, pe, simd, 1, len(shape) > 2 and shape[-1] > 1 and shape[1] < simd)

    @classmethod
    def of_layer(cls, graph: Graph, layer: Layer, pe: int, simd: int) -> TileView:
        """The view of a layer of a graph."""
        shape = layer.weight.shape
        image = _flattened(graph, layer.node.inputs[0]) if len(shape) == 2 else None
        return cls.of(shape, pe, simd, layer.group, image)

    def cut(self, weight: np.ndarray) -> np.ndarray:
        """The weights in this view: (MH, channels, taps...)."""
        w = weight.reshape(self.shape)
        if self.packed:
            w = np.moveaxis(w, -1, 1)
            w = w.reshape(w.shape[0], w.shape[1] * w.shape[2], *w.shape[3:])
        return w

    def joined(self, cut: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The weights of a view in the layer's own shape."""
        if self.packed:
            taps, channels = self.shape[-1], self.shape[1]
            cut = np.moveaxis(cut.reshape(cut.shape[0], taps, channels, *cut.shape[2:]), 1, -1)
        return cut.reshape(shape)

    def blocks(self, weight: np.ndarray) -> np.ndarray:
        """The weights padded and cut: (group, row blocks, taps, channel blocks, PE, SIMD)."""
        return blocks(self.cut(weight), self.pe, self.simd, self.group)

    def ids(self, shape: tuple[int, ...]) -> np.ndarray:
        """The tile of each weight of the layer, counted in the order of `blocks`: int64 array of the layer's shape."""
        places = self.blocks(np.arange(1, prod(shape) + 1).reshape(shape))
        count = prod(places.shape[:4])
        tile = np.broadcast_to(np.arange(count).reshape(*places.shape[:4], 1, 1), places.shape)
        result = np.empty(prod(shape) + 1, np.int64)
        result[places.reshape(-1)] = tile.reshape(-1)  # padding writes to place 0, which nobody reads
        return result[1:].reshape(shape)


def _divisor(n: int, most: int) -> int:
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)


def _flattened(graph: Graph, value: str) -> tuple[int, ...] | None:
    """Channels and positions of the image that a vector was, elementwise operations looked through."""
    node = graph[value]
    while node.inputs:
        source = graph[node.inputs[0]]
        shapes = [n.type.shape for n in (node, source) if isinstance(n.type, TensorType)]
        if isinstance(node, R.Reshape):
            return shapes[1][1:] if len(shapes[1]) > 2 and shapes[1][0] == 1 else None
        if shapes[0] != shapes[1]:
            return None
        node = source
    return None
