"""Relu(MaxPool(x)) = MaxPool(Relu(x)): both are monotone, and a window never holds padding alone.

The quantizer then stands before the pool, which moves codes of few bits instead of sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from tcompile.errors import printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin
from tcompile.passes.base import PassResult
from tcompile.passes.weights import Names, layer_name

__all__ = ["ReluBeforeMaxPool"]


@dataclass(frozen=True)
class ReluBeforeMaxPool:
    """Moves a Relu behind a MaxPool before it."""

    name: ClassVar[str] = "relu-before-max-pool"

    def run(self, graph: Graph) -> PassResult:
        """Swap every MaxPool that only a Relu uses with that Relu."""
        names = Names(graph)
        table: dict[str, tuple[R.RealNode, ...]] = {}
        notes = []
        for relu in graph.all(R.Relu):
            pool = graph[relu.inputs[0]]
            alone = len(graph.consumers[pool.name]) == 1 and pool.name not in graph.outputs
            if not alone or not isinstance(pool, R.MaxPool | R.GlobalMaxPool):
                continue
            source = graph[pool.inputs[0]]
            assert isinstance(source, R.RealNode)
            name = names(relu.name, "first")
            table[pool.name] = ()
            table[relu.name] = (
                replace(relu, name=name, inputs=pool.inputs, type=source.type, origin=Origin(relu.origin.nodes)),
                replace(pool, name=relu.name, inputs=(name,), origin=Origin(pool.origin.nodes, relu.origin.tensor)),
            )
            notes.append(f"{printable(layer_name(relu))} moved before {printable(layer_name(pool))}")
        if not table:
            return PassResult(graph, False)
        nodes = [n for node in graph for n in table.get(node.name, (node,))]
        return PassResult(graph.with_nodes(nodes), True, tuple(notes))
