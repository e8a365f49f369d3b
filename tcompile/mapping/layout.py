"""How the elements of a tensor travel: position by position, the channels of a position folded into beats.

A stream carries `positions` x `channels` elements per frame in beats of ``bus.lanes``; a position begins a new beat, so
its last beat is filled up where the lanes do not divide the channels. `order` says which element of the tensor, counted
flat in the ONNX shape, comes as the k-th.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from hw.block import Bus

__all__ = ["Layout", "channels_last"]


@dataclass(frozen=True, eq=False)
class Layout:
    """The elements of one tensor in the order of their arrival.

    Parameters
    ----------
    shape : tuple of int
        The tensor's shape, leading 1 included.
    grid : tuple of int
        Sizes of the spatial axes, slowest first; their product is the number of positions.
    channels : int
        Elements of one position.
    order : int64 array (positions * channels,)
        Flat index in the tensor of each element.
    """

    shape: tuple[int, ...]
    grid: tuple[int, ...]
    channels: int
    order: np.ndarray

    @property
    def positions(self) -> int:
        """Positions of one frame."""
        return prod(self.grid)

    def beats(self, lanes: int) -> int:
        """Beats of one frame."""
        return self.positions * -(-self.channels // lanes)

    def to_beats(self, frames: np.ndarray, bus: Bus) -> np.ndarray:
        """Frames (N, *shape) as beats (N * beats, lanes), filled up with zeros."""
        flat = frames.reshape(len(frames), -1)[:, self.order].reshape(len(frames), self.positions, self.channels)
        padded = np.pad(flat, [(0, 0), (0, 0), (0, -self.channels % bus.lanes)])
        return padded.reshape(-1, bus.lanes)

    def from_beats(self, beats: np.ndarray, bus: Bus) -> np.ndarray:
        """Beats (N * beats, lanes) as frames (N, *shape)."""
        folded = beats.reshape(-1, self.positions, -(-self.channels // bus.lanes) * bus.lanes)[:, :, : self.channels]
        flat = np.empty((len(folded), self.positions * self.channels), beats.dtype)
        flat[:, self.order] = folded.reshape(len(folded), -1)
        return flat.reshape(len(folded), *self.shape)

    def is_like(self, other: Layout) -> bool:
        """Whether both bring the elements in the same order and cut them into the same positions."""
        return (self.grid, self.channels) == (other.grid, other.channels) and np.array_equal(self.order, other.order)


def channels_last(shape: tuple[int, ...], axis: int) -> Layout:
    """The usual layout: `axis` holds the channels, the other axes in their order are the positions."""
    axis %= len(shape)
    index = np.moveaxis(np.arange(prod(shape)).reshape(shape), axis, -1)
    grid = tuple(n for k, n in enumerate(shape) if k not in (0, axis)) or (1,)
    if axis == 0:
        grid = shape[1:] or (1,)
    return Layout(shape, grid, shape[axis], index.reshape(-1))
