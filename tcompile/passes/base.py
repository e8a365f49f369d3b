"""What a pass is: a graph in, another graph out, with a note on what was done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from tcompile.ir.graph import Graph

__all__ = ["Pass", "PassRecord", "PassResult", "apply"]


@dataclass(frozen=True)
class PassResult:
    """What a pass made of a graph; the given graph itself where nothing changed."""

    graph: Graph
    changed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassRecord:
    """What the report keeps of a pass."""

    name: str
    changed: bool
    notes: tuple[str, ...] = ()


class Pass(Protocol):
    """A rewrite of the real level. Its options are its fields; its first docstring line says what it does."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> PassResult:
        """Rewrite `graph`, which stays as it is."""
        ...


def apply(graph: Graph, passes: Iterable[Pass]) -> tuple[Graph, tuple[PassRecord, ...]]:
    """Run passes one after the other.

    Returns
    -------
    (Graph, tuple of PassRecord)
        The last graph and one record per pass.
    """
    records = []
    for step in passes:
        result = step.run(graph)
        graph = result.graph
        records.append(PassRecord(step.name, result.changed, result.notes))
    return graph, tuple(records)
