"""What the pictures need and ``report.json`` does not hold: what feeds what, bits, and which tiles of weights are kept.

All of it follows from the network and the recipe of its design, ``network.ir`` and ``mapping.json`` of a build directory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node
from tcompile.mapping.folding import Fold
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import Linear, linear
from tcompile.mapping.place import Recipe
from tcompile.mapping.plan import labels
from tcompile.mapping.schedule import tiled
from tcompile.report import LAYERS

__all__ = ["Kept", "Stage", "stages"]


@dataclass(frozen=True, eq=False)
class Kept:
    """Which parts of a layer's matrix hold a weight that is not zero.

    Parameters
    ----------
    cells : bool array (rows, columns)
        Tiles of an engine, row blocks by places in the window; or single weights, MH by MW, of a graph.
    unit : {"tile", "weight"}
        What a cell is.
    """

    cells: np.ndarray
    unit: Literal["tile", "weight"]


@dataclass(frozen=True, eq=False)
class Stage:
    """A port or a layer of the pipeline.

    Parameters
    ----------
    name : str
        As in ``report.json``.
    kind : {"input", "layer", "output"}
    sources : tuple of int
        Places of the stages whose values come in.
    shape : tuple of int
        Of the value that it gives, frames left out.
    bits_in, bits_out : tuple of int
        Of the codes that come and that leave: one number, or several where values of several widths do.
    bits_sum, bits_weight : int or None
        Of a layer's sums, and of its weights where it has some.
    kept : Kept or None
        Of a layer with weights.
    """

    name: str
    kind: Literal["input", "layer", "output"]
    sources: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    bits_in: tuple[int, ...] = ()
    bits_out: tuple[int, ...] = ()
    bits_sum: int | None = None
    bits_weight: int | None = None
    kept: Kept | None = None


def stages(graph: Graph, recipe: Recipe) -> tuple[Stage, ...]:
    """Ports and layers of a network in the order of computation; requantizers and views belong to the layer before them.

    Parameters
    ----------
    graph : Graph
        Of the integer level.
    """
    found: list[Stage] = []
    owner: dict[str, int] = {}
    known, names = layouts(graph), labels(graph)
    for node in graph:
        if isinstance(node, LAYERS):
            owner[node.name] = len(found)
            found.append(_layer(node, names[node.name]))
        elif node.inputs:
            owner[node.name] = owner[node.inputs[0]]
        elif graph.consumers[node.name] or node.name in graph.outputs:  # others have no port
            owner[node.name] = len(found)
            port = sum(s.kind == "input" for s in found)
            found.append(Stage(f"s_axis_{port}", "input", shape=_shape(node)))
    for node in graph:
        for value in node.uses:
            _connect(found, owner[value], owner[node.name], _type(graph[value]).width)
    for port, value in enumerate(graph.outputs):
        found.append(Stage(f"m_axis_{port}", "output", shape=_shape(graph[value])))
        _connect(found, owner[value], len(found) - 1, _type(graph[value]).width)
    for node in graph.all(I.Conv) + graph.all(I.Dense):
        layer = linear(node, known[node.inputs[0]])
        kept = _kept(layer, recipe.folds[node.name])
        found[owner[node.name]] = replace(found[owner[node.name]], bits_weight=layer.width, kept=kept)
    return tuple(found)


def _type(node: Node) -> IntType:
    assert isinstance(node.type, IntType)
    return node.type


def _shape(node: Node) -> tuple[int, ...]:
    return _type(node).shape[1:] or (1,)


def _layer(node: Node, label: str) -> Stage:
    return Stage(label, "layer", shape=_shape(node), bits_sum=_type(node).width)


def _connect(found: list[Stage], source: int, target: int, bits: int) -> None:
    """Note that a value of so many bits goes from one stage to another."""
    if source != target:
        giver, taker = found[source], found[target]
        found[source] = replace(giver, bits_out=_joined(giver.bits_out, bits))
        found[target] = replace(taker, sources=_joined(taker.sources, source), bits_in=_joined(taker.bits_in, bits))


def _joined(known: tuple[int, ...], new: int) -> tuple[int, ...]:
    return tuple(sorted({*known, new}))


def _kept(layer: Linear, fold: Fold) -> Kept:
    if fold.form == "engine":
        planes = [tiled(layer, fold, plane).any(axis=(2, 3)) for plane in layer.nonzero]
        return Kept(np.any(planes, axis=0), "tile")
    return Kept((layer.weights != 0).reshape(layer.MH, -1), "weight")
