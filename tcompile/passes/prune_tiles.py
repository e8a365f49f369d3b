"""Zeroes the weakest tiles of PE x SIMD weights, the unit that the engine skips.

The weights of a layer are a matrix of MH rows (output channels) and MW columns in the order (kernel..., channel within
the group). A tile is PE rows by SIMD columns and never crosses a kernel tap or a group; rows and channels that do not
divide are padded with zeros. Where a layer has fewer channels than SIMD, the taps along the last axis count as
channels, and a dense layer over a flattened image has the image's positions for taps: both are what the engine does.
A tile's strength is the root mean square of its own weights (padding not counted), so that padded tiles compare fairly;
across layers it is taken relative to the mean strength of the layer's tiles.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, TensorType
from tcompile.passes.base import PassResult
from tcompile.passes.weights import Layer, Names, float_layers, with_weight

__all__ = ["PruneTiles", "tile_counts", "tiles"]


def _blocks(weight: np.ndarray, pe: int, simd: int, group: int) -> np.ndarray:
    """Weights (MH, C, kernel...) padded and cut: (group, row blocks, taps, channel blocks, PE, SIMD)."""
    rows, channels = weight.shape[0] // group, weight.shape[1]
    x = weight.reshape(group, rows, channels, -1)
    x = np.pad(x, [(0, 0), (0, -rows % pe), (0, -channels % simd), (0, 0)])
    x = x.reshape(group, x.shape[1] // pe, pe, x.shape[2] // simd, simd, x.shape[3])
    return x.transpose(0, 1, 5, 3, 2, 4)


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
    sums = (_blocks(weight.astype(np.float64), pe, simd, group) ** 2).sum(axis=(4, 5))
    return np.asarray(np.sqrt(sums / _blocks(np.ones(weight.shape), pe, simd, group).sum(axis=(4, 5))))


def tile_counts(weight: np.ndarray, pe: int, simd: int, group: int = 1) -> tuple[int, int]:
    """Tiles of a layer after padding, and how many of them hold a weight that is not zero."""
    kept = (_blocks(weight, pe, simd, group) != 0).any(axis=(4, 5))
    return kept.size, int(kept.sum())


def _without(weight: np.ndarray, dropped: np.ndarray, pe: int, simd: int, group: int) -> np.ndarray:
    """The weights with tiles set to zero; `dropped` has the shape that `tiles` returns."""
    mask = dropped.transpose(0, 1, 3, 2).repeat(pe, axis=1).repeat(simd, axis=2)
    mask = mask[:, : weight.shape[0] // group, : weight.shape[1]]
    return np.where(mask.reshape(weight.shape), 0.0, weight)


@dataclass(frozen=True)
class _View:
    """A layer's weights as the engine cuts them: (MH, channels of a tap, taps)."""

    shape: tuple[int, ...]
    packed: bool

    @classmethod
    def of(cls, graph: Graph, layer: Layer, simd: int) -> _View:
        shape = layer.weight.shape
        image = _flattened(graph, layer.node.inputs[0]) if len(shape) == 2 else None
        if image is not None and prod(image) == shape[1]:
            return cls((shape[0], image[0], prod(image[1:])), packed=False)
        packed = layer.group == 1 and len(shape) > 2 and shape[-1] > 1 and shape[1] < simd
        return cls(shape, packed)

    def cut(self, weight: np.ndarray) -> np.ndarray:
        """The weights in this view."""
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
        views = [_View.of(graph, layer, self.simd) for layer in layers]
        strengths = [
            tiles(view.cut(layer.weight), self.pe, self.simd, layer.group)
            for layer, view in zip(layers, views, strict=True)
        ]
        dropped = self._choose(layers, strengths)
        names = Names(graph)
        new = {}
        for layer, view, drop, strength in zip(layers, views, dropped, strengths, strict=True):
            if (drop & (strength > 0)).any():
                cut = _without(view.cut(layer.weight), drop, self.pe, self.simd, layer.group)
                weight = view.joined(cut, layer.weight.shape)
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
        """Mark the weakest share of the tiles of some layers; equal ones in order of layer and place."""
        if not which:
            return
        relative = [(strengths[k] / (strengths[k].mean() or 1.0)).ravel() for k in which]
        count = round(Fraction(ratio) * sum(len(r) for r in relative))
        if not self.allow_empty:
            for r in relative:
                r[r.argmax()] = np.inf
        order = np.argsort(np.concatenate(relative), kind="stable")
        mark = np.zeros(len(order), bool)
        mark[order[:count]] = True
        if not self.allow_empty:
            mark &= np.isfinite(np.concatenate(relative))
        first = 0
        for k, r in zip(which, relative, strict=True):
            dropped[k] |= mark[first : first + len(r)].reshape(dropped[k].shape)
            first += len(r)

    def _note(self, layer: Layer, view: _View, zero: np.ndarray) -> str:
        rows, channels = layer.weight.shape[0] // layer.group, view.cut(layer.weight).shape[1]
        padded = [
            f"{what} {n} padded to {n + -n % m}"
            for what, n, m in (("rows", rows, self.pe), ("channels", channels, self.simd))
            if n % m
        ]
        per_group = " per group" if layer.group > 1 else ""
        tail = f" ({', '.join(padded)}{per_group})" if padded else ""
        return f"{printable(layer.name)}: {zero.size} tiles of {self.pe} x {self.simd}, {int(zero.sum())} zero{tail}"

    def _total(self, dropped: list[np.ndarray], strengths: list[np.ndarray]) -> tuple[str, ...]:
        count = sum(d.size for d in dropped)
        zero = sum(int((d | (s == 0)).sum()) for d, s in zip(dropped, strengths, strict=True))
        return (f"{zero} of {count} tiles are zero",) if count else ()
