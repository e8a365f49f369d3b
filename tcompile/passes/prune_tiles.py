"""Zeroes the weakest tiles of PE x SIMD weights, the unit that the engine skips.

What a tile is says `tcompile.passes.tile_view`; rows and channels that do not divide are padded with zeros.
A tile's strength is the root mean square of its own weights (padding not counted), so that padded tiles compare fairly;
across layers it is taken relative to the mean strength of the layer's tiles.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir.graph import Graph
from tcompile.passes.base import PassResult
from tcompile.passes.tile_view import TileView, blocks
from tcompile.passes.weights import Layer, Names, float_layers, with_weight

__all__ = ["PruneTiles", "tile_counts", "tiles", "weakest"]


def tiles(weight: np.ndarray, pe: int, simd: int, group: int = 1) -> np.ndarray:
    """Strength of every tile: root mean square of the weights that are not padding.

    Parameters
    ----------
    weight : array (MH, Cin / group, kernel...) or (MH, MW)
        Weights, output channel first.

    Returns
    -------
    float64 array (group, row blocks, taps, channel blocks)
    """
    sums = (blocks(weight.astype(np.float64), pe, simd, group) ** 2).sum(axis=(4, 5))
    return np.asarray(np.sqrt(sums / blocks(np.ones(weight.shape), pe, simd, group).sum(axis=(4, 5))))


def tile_counts(weight: np.ndarray, pe: int, simd: int, group: int = 1) -> tuple[int, int]:
    """Tiles of a layer after padding, and how many of them hold a weight that is not zero."""
    kept = (blocks(weight, pe, simd, group) != 0).any(axis=(4, 5))
    return kept.size, int(kept.sum())


def weakest(strengths: Sequence[np.ndarray], count: int, *, allow_empty: bool = False) -> list[np.ndarray]:
    """The weakest groups of some layers that compete; of equal ones those of the first layer and place.

    Parameters
    ----------
    strengths : sequence of float64 array
        Of each layer, comparable between layers.
    count : int
        Groups to choose.
    allow_empty : bool
        Whether a layer may lose its strongest group; without it fewer may be chosen.

    Returns
    -------
    list of bool array
        Which are chosen, layer by layer.
    """
    if not strengths:
        return []
    flat = [np.array(s, np.float64).ravel() for s in strengths]
    if not allow_empty:
        for s in flat:
            s[s.argmax()] = np.inf
    everything = np.concatenate(flat)
    mark = np.zeros(len(everything), bool)
    mark[np.argsort(everything, kind="stable")[:count]] = True
    if not allow_empty:
        mark &= np.isfinite(everything)
    ends = np.cumsum([len(s) for s in flat])[:-1]
    return [m.reshape(s.shape) for m, s in zip(np.split(mark, ends), strengths, strict=True)]


@dataclass(frozen=True)
class PruneTiles:
    """Zeroes the weakest tiles of PE x SIMD weights.

    Parameters
    ----------
    ratio : float
        Share of the tiles to zero, at least 0 and below 1; at most 1 with `allow_empty`.
    pe, simd : int
        Rows and columns of a tile.
    per_layer : mapping of str to float
        Ratios of single layers by ONNX node name; they leave the competition.
    scope : {"network", "layer"}
        Whether all layers compete, or each loses its own share.
    skip_first : bool
        Leave the first layer whole.
    allow_empty : bool
        Whether a layer may lose all its tiles.

    Raises
    ------
    UsageError
        A ratio or a size that makes no sense, or a layer that does not exist.
    """

    name: ClassVar[str] = "prune-tiles"
    ratio: float
    pe: int = 8
    simd: int = 8
    per_layer: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    scope: Literal["network", "layer"] = "network"
    skip_first: bool = False
    allow_empty: bool = False

    def __post_init__(self) -> None:
        problems = [
            Problem(
                "prune-ratio",
                f"the ratio of tiles to prune must be at least 0 and below 1, not {r!r}",
                (who,) if who else (),
            )
            for who, r in [("", self.ratio), *self.per_layer.items()]
            if not (0 <= r < 1 or (r == 1 and self.allow_empty))
        ]
        if self.pe < 1 or self.simd < 1:
            problems.append(
                Problem("tile-size", f"a tile must have at least one row and column, not {self.pe} x {self.simd}")
            )
        if self.scope not in ("network", "layer"):
            problems.append(
                Problem("prune-scope", f"tiles compete in the network or in their layer, not in {self.scope!r}")
            )
        if problems:
            raise UsageError(problems)

    def run(self, graph: Graph) -> PassResult:
        """Prune `graph`."""
        layers, notes = float_layers(graph)
        if self.skip_first and layers:
            notes = (*notes, f"{printable(layers[0].name)} left alone: first layer")
            layers = layers[1:]
        self._check_names(layers)
        views = [TileView.of_layer(graph, layer, self.pe, self.simd) for layer in layers]
        strengths = [
            tiles(view.cut(layer.weight), view.pe, view.simd, view.group)
            for layer, view in zip(layers, views, strict=True)
        ]
        dropped = self._choose(layers, strengths)
        names = Names(graph)
        new = {}
        for layer, view, drop, strength in zip(layers, views, dropped, strengths, strict=True):
            if (drop & (strength > 0)).any():
                weight = np.where(drop.ravel()[view.ids(layer.weight.shape)], 0.0, layer.weight)
                new[layer.node.name] = with_weight(graph, layer, weight, names)
        notes += tuple(
            self._note(layer, view, drop | (strength == 0))
            for layer, view, drop, strength in zip(layers, views, dropped, strengths, strict=True)
        )
        notes += self._total(dropped, strengths)
        if not new:
            return PassResult(graph, False, notes)
        nodes = [n for node in graph for n in new.get(node.name, (node,))]
        return PassResult(graph.with_nodes(nodes), True, notes)

    def _check_names(self, layers: tuple[Layer, ...]) -> None:
        known = [layer.name for layer in layers]
        problems = []
        for name in self.per_layer:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"is {printable(close[0])} meant?" if close else ""
                problems.append(
                    Problem("unknown-layer", f"no layer with float weights is named {printable(name)}", hint=hint)
                )
        if problems:
            raise UsageError(problems)

    def _choose(self, layers: tuple[Layer, ...], strengths: list[np.ndarray]) -> list[np.ndarray]:
        """Tiles to zero, layer by layer."""
        dropped = [np.zeros(s.shape, bool) for s in strengths]
        shared = []
        for k, layer in enumerate(layers):
            if layer.name in self.per_layer:
                self._drop([k], strengths, dropped, self.per_layer[layer.name])
            elif self.scope == "layer":
                self._drop([k], strengths, dropped, self.ratio)
            else:
                shared.append(k)
        self._drop(shared, strengths, dropped, self.ratio)
        return dropped

    def _drop(self, which: list[int], strengths: list[np.ndarray], dropped: list[np.ndarray], ratio: float) -> None:
        """Mark the weakest share of the tiles of some layers, relative to each layer's mean."""
        relative = [strengths[k] / (strengths[k].mean() or 1.0) for k in which]
        count = round(Fraction(ratio) * sum(r.size for r in relative))
        for k, chosen in zip(which, weakest(relative, count, allow_empty=self.allow_empty), strict=True):
            dropped[k] |= chosen

    def _note(self, layer: Layer, view: TileView, zero: np.ndarray) -> str:
        rows, channels = view.shape[0] // view.group, view.cut(layer.weight).shape[1]
        padded = [
            f"{what} {n} padded to {n + -n % m}"
            for what, n, m in (("rows", rows, view.pe), ("channels", channels, view.simd))
            if n % m
        ]
        per_group = " per group" if view.group > 1 else ""
        tail = f" ({', '.join(padded)}{per_group})" if padded else ""
        return f"{printable(layer.name)}: {zero.size} tiles of {view.pe} x {view.simd}, {int(zero.sum())} zero{tail}"

    def _total(self, dropped: list[np.ndarray], strengths: list[np.ndarray]) -> tuple[str, ...]:
        count = sum(d.size for d in dropped)
        zero = sum(int((d | (s == 0)).sum()) for d, s in zip(dropped, strengths, strict=True))
        return (f"{zero} of {count} tiles are zero",) if count else ()
