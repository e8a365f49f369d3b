"""What a trained network weighs: zeros, tiles, stored bits, cycles on engines, layer by layer and in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tcompile.compress.goals import LayerCost
from tcompile.compress.prepare import Prepared
from tcompile.passes.tile_view import TileView
from tcompile.passes.weights import integer_dtype

__all__ = ["LayerCensus", "census", "counter", "totals"]

FLOAT_BITS = 32
TERNARY_BITS = 2


@dataclass(frozen=True)
class LayerCensus:
    """One layer.

    Parameters
    ----------
    name : str
    weights, nonzero : int
    bits : int
        Of one stored weight: 2, 4 or 8.
    channels : int
        Each with a factor and an offset of 32 bits.
    tiles, kept : int
        Tiles of PE x SIMD, and those that hold a weight.
    kept_weights : int
        Weights in kept tiles, without padding.
    cycles : int
        Per frame, on an engine.
    map : tuple of str
        Tiles, "1" where kept: a text per row block, a character per tap and channel block.
    """

    name: str
    weights: int
    nonzero: int
    bits: int
    channels: int
    tiles: int
    kept: int
    kept_weights: int
    cycles: int
    map: tuple[str, ...]

    @property
    def stored(self) -> int:
        """Bits of kept tiles' weights, and one bit per tile that says whether it is kept."""
        return self.bits * self.kept_weights + self.tiles


def counter(prepared: Prepared, pe: int, simd: int) -> Callable[[], tuple[LayerCensus, ...]]:
    """What counts the layers of a network as they are when it is called."""
    layers = [(s, LayerCost.of(prepared.graph, s.layer, pe, simd)) for s in prepared.sites]
    views = [TileView.of_layer(prepared.graph, s.layer, pe, simd) for s in prepared.sites]

    def count() -> tuple[LayerCensus, ...]:
        found = []
        for (site, cost), view in zip(layers, views, strict=True):
            codes = site.codes()[0].cpu().numpy().round().astype(np.int64)
            tiles, kept = cost.tiles(codes)
            alive = view.blocks(codes != 0).any(axis=(4, 5))
            rows = alive.reshape(alive.shape[0] * alive.shape[1], -1)
            ids = view.ids(codes.shape)
            found.append(
                LayerCensus(
                    site.name, codes.size, int(np.count_nonzero(codes)), int(integer_dtype(codes).lstrip("int")),
                    len(codes), tiles, kept, int(alive.reshape(-1)[ids].sum()), cost.cycles(codes), tuple(map(_bits, rows)),
                )
            )  # fmt: skip
        return tuple(found)

    return count


def _bits(row: np.ndarray) -> str:
    return "".join("01"[int(kept)] for kept in row)


def census(prepared: Prepared, pe: int, simd: int) -> tuple[LayerCensus, ...]:
    """All layers as they are now."""
    return counter(prepared, pe, simd)()


def totals(layers: Sequence[LayerCensus]) -> Mapping[str, Any]:
    """The network: shares of zero tiles and zero weights, compression rates, cycles of the slowest layer.

    ``rate_model`` compares all layers, with a factor and an offset of 32 bits per channel on both sides;
    ``rate_layers`` the weights of the layers of at most 2 bits alone, None if there are none.
    """
    weights = sum(x.weights for x in layers)
    tiles = sum(x.tiles for x in layers)
    channels = 2 * FLOAT_BITS * sum(x.channels for x in layers)
    few = [x for x in layers if x.bits <= TERNARY_BITS]
    few_bits = sum(x.stored for x in few)
    return {
        "tile_sparsity": 1 - sum(x.kept for x in layers) / tiles,
        "zeros": 1 - sum(x.nonzero for x in layers) / weights,
        "rate_model": (FLOAT_BITS * weights + channels) / (sum(x.stored for x in layers) + channels),
        "rate_layers": FLOAT_BITS * sum(x.weights for x in few) / few_bits if few else None,
        "cycles": max(x.cycles for x in layers),
    }
