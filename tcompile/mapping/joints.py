"""What stands between two layers, which depends on both: lanes to convert, orders to change, borders, the input's port.

A value comes in the lanes of the layer that it comes from. In front of a layer it is brought into that layer's lanes, and
in front of an addition into those of the addition's first input. Where a value has no such lanes (it was concatenated,
sliced or padded) what stands there is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from hw.axi_stream import AxisIn
from hw.block import Block
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType
from tcompile.mapping.converters import brought, entering, first_layer, lanes_wanted
from tcompile.mapping.estimate import Family, Resources, estimate_block
from tcompile.mapping.folding import Fold
from tcompile.mapping.geometry import bus_of
from tcompile.mapping.layout import Layout
from tcompile.mapping.layouts import layouts
from tcompile.mapping.plan import Task, lanes_come_from

__all__ = ["Joint", "joints"]


@dataclass(frozen=True, eq=False)
class Joint:
    """A value on its way from one layer to another.

    Parameters
    ----------
    maker : str
        The layer whose lanes it comes in; empty for an input of the network, which comes in the lanes of its user.
    user : str
        The layer in front of which it stands, or in whose lanes the addition works.
    task : Task
        Of the user.
    at : {"layer", "addition"}
        What it goes into.
    kind : IntType
    have, want : Layout
        How it comes, and how an addition takes it.
    """

    maker: str
    user: str
    task: Task
    at: Literal["layer", "addition"]
    kind: IntType
    have: Layout
    want: Layout

    def resources(self, lanes: int, fold: Fold, family: Family) -> Resources:
        """Of all that stands there.

        Parameters
        ----------
        lanes : int
            Of the maker.
        fold : Fold
            Of the user.
        """
        return _counted(self, lanes, self._taken(fold), family)

    def _taken(self, fold: Fold) -> Fold | int:
        """What of a folding matters here."""
        if self.at == "addition":
            return fold.leaving
        return Fold(1 if self.task.layer.lanes_in(fold) == fold.simd else fold.pe, fold.simd, fold.form)

    def blocks(self, lanes: int, taken: Fold | int) -> Iterator[Block]:
        """What stands there."""
        if isinstance(taken, int):
            steps = brought(bus_of(self.kind, lanes), self.have, self.want, taken)
            yield from (step.block for step in steps)
            return
        if not self.maker:
            lanes = lanes_wanted(self.task.layer, taken, self.have)
            yield AxisIn(bus_of(self.kind, lanes), self.have.beats(lanes))
        steps = entering(self.task.layer, taken, bus_of(self.kind, lanes), self.kind, self.have)
        yield from (step.block for step in steps)


@lru_cache(maxsize=1 << 16)
def _counted(joint: Joint, lanes: int, taken: Fold | int, family: Family) -> Resources:
    return sum((estimate_block(block, family) for block in joint.blocks(lanes, taken)), Resources())


def joints(graph: Graph, work: Mapping[str, Task]) -> tuple[Joint, ...]:
    """All joints of a graph."""
    known, found = layouts(graph), []
    makers = {name: _maker(graph, name) for name in graph.by_name}
    firsts = {n.name: first_layer(graph, n.name) for n in graph if isinstance(n, I.Input)}
    for node in graph:
        if isinstance(node, (I.Conv, I.Dense)):
            value, user, at = node.inputs[0], node.name, "layer"
        elif isinstance(node, I.AddScaled) and makers[node.name] in work:
            value, user, at = node.inputs[1], makers[node.name], "addition"
        else:
            continue
        maker = makers[value]
        if maker in firsts and firsts[maker] == user and at == "layer":
            maker = ""
        elif maker not in work:
            continue
        kind = graph[value].type
        assert isinstance(kind, IntType)
        found.append(Joint(maker, user, work[user], at, kind, known[value], known[node.name]))  # type: ignore[arg-type]
    return tuple(found)


def _maker(graph: Graph, value: str) -> str:
    """The layer, or another operation, whose lanes a value has."""
    while source := lanes_come_from(graph[value]):
        value = source
    return value
