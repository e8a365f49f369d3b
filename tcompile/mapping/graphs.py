"""Layers as constant matrices for adder graphs: a column for every lane of a window, a row for every output channel."""

from __future__ import annotations

from functools import lru_cache
from math import exp, log

import numpy as np

from hw.adders import Adder, AdderGraph, Output
from tcompile.adders import Objective, search
from tcompile.ir.graph import IntType
from tcompile.mapping.folding import Fold, Form
from tcompile.mapping.geometry import Geometry
from tcompile.mapping.linear import Linear

__all__ = [
    "MOST_DIGITS",
    "adder_graph",
    "constant_matrix",
    "graph_from_json",
    "graph_to_json",
    "guessed_adders",
    "input_bounds",
    "is_searchable",
    "offsets",
    "window_geometry",
    "words",
]

MOST_DIGITS = 500_000  # that a search is made for: some minutes, about a gigabyte


def words(layer: Linear, fold: Fold) -> int:
    """Beats of one position of the input."""
    return -(-layer.groups * layer.channels // fold.simd)


def window_geometry(layer: Linear, fold: Fold) -> Geometry:
    """The window of a layer over the padded grid."""
    return Geometry(layer.padded_grid, layer.kernel, layer.strides, layer.dilations, words(layer, fold))


def offsets(geometry: Geometry) -> tuple[int, ...]:
    """Places in the stream of a window's words, taps slowest."""
    return tuple(tap + word for tap in geometry.taps for word in range(geometry.words))


def input_bounds(layer: Linear, source: IntType) -> tuple[int, int]:
    """Smallest and largest element of a window, padding counted."""
    is_padded = any(layer.before) or any(layer.after)
    return (min(source.lo, layer.code), max(source.hi, layer.code)) if is_padded else (source.lo, source.hi)


def constant_matrix(layer: Linear, fold: Fold) -> np.ndarray:
    """The layer's matrix over all lanes of a window: int64 (MH, taps · words · SIMD); lanes that only fill are 0."""
    groups, rows, taps, channels = layer.weights.shape
    blocks = np.zeros((groups, rows, taps, groups, channels), np.int64)
    blocks[np.arange(groups), :, :, np.arange(groups)] = layer.weights
    full = blocks.reshape(groups * rows, taps, groups * channels)
    filled = words(layer, fold) * fold.simd - groups * channels
    return np.pad(full, [(0, 0), (0, 0), (0, filled)]).reshape(groups * rows, -1)


def is_searchable(layer: Linear) -> bool:
    """Whether a search for the layer's graph ends in some minutes and some gigabytes."""
    return layer.digits <= MOST_DIGITS


def guessed_adders(layer: Linear) -> int:
    """About how many adders a search finds for a layer, by a formula fitted on searches of random matrices.

    They are fewer per digit, the more digits there are and the denser they are, since more sums are shared then; and
    never more than sums without sharing need.
    """
    density = layer.digits / max(1, layer.weights.size * layer.planes) * (0.8 if layer.planes > 1 else 1)
    unshared = layer.digits - int(np.count_nonzero(layer.weights.any(axis=(2, 3))))
    return min(unshared, round(1.2 * exp(0.942 * log(max(1, layer.digits)) - density)))


def adder_graph(layer: Linear, fold: Fold, bounds: tuple[int, int]) -> AdderGraph:
    """The graph of a layer's matrix; one search for all foldings, since filling lanes are no columns of it."""
    matrix = constant_matrix(layer, fold)
    used = np.flatnonzero(matrix.any(axis=0))
    small = _searched(matrix[:, used].tobytes(), (len(matrix), len(used)), fold.form, bounds)
    return _spread(small, used, matrix.shape[1])


@lru_cache(maxsize=256)
def _searched(content: bytes, shape: tuple[int, int], form: Form, bounds: tuple[int, int]) -> AdderGraph:
    matrix = np.frombuffer(content, np.int64).reshape(shape)
    return search(matrix, Objective("serial" if form == "serial" else "bits", bounds))


def _spread(graph: AdderGraph, used: np.ndarray, lanes: int) -> AdderGraph:
    """The same graph over more inputs, of which it uses some."""
    place = [*used.tolist(), *range(lanes, lanes + len(graph.adders))]
    adders = (Adder(place[a.left], place[a.right], a.left_shift, a.right_shift, a.subtract) for a in graph.adders)
    outputs = (o if o.value is None else Output(place[o.value], o.shift, o.negative) for o in graph.outputs)
    return AdderGraph(lanes, tuple(adders), tuple(outputs))


def graph_to_json(graph: AdderGraph) -> dict[str, object]:
    """As a JSON object of flat lists."""
    adders = [x for a in graph.adders for x in (a.left, a.right, a.left_shift, a.right_shift, int(a.subtract))]
    outputs = [x for o in graph.outputs for x in (-1 if o.value is None else o.value, o.shift, int(o.negative))]
    return {"inputs": graph.inputs, "adders": adders, "outputs": outputs}


def graph_from_json(data: dict[str, object]) -> AdderGraph:
    """From a JSON object."""
    inputs, flat, rows = data["inputs"], data["adders"], data["outputs"]
    assert isinstance(inputs, int) and isinstance(flat, list) and isinstance(rows, list)
    adders = (Adder(a, b, c, d, bool(e)) for a, b, c, d, e in zip(*(flat[k::5] for k in range(5)), strict=True))
    outputs = (
        Output(None if v < 0 else v, s, bool(n)) for v, s, n in zip(*(rows[k::3] for k in range(3)), strict=True)
    )
    return AdderGraph(inputs, tuple(adders), tuple(outputs))
