"""What a graph of adders needs in hardware."""

from __future__ import annotations

from collections.abc import Sequence

from hw.adders import AdderGraph
from tcompile.adders.objective import Objective
from tcompile.adders.trees import bits

__all__ = ["adder_bits", "adders", "cost", "delays"]


def adders(graph: AdderGraph) -> int:
    """Adders, and negated outputs."""
    return len(graph.adders) + graph.negations


def adder_bits(graph: AdderGraph, bounds: Sequence[tuple[int, int]]) -> int:
    """Bits of the results of all adders, and of negated outputs, from the exact intervals of the values."""
    ranges = graph.ranges(bounds)
    negated = [ranges[o.value] for o in graph.outputs if o.value is not None and o.negative]
    return sum(bits(lo, hi) for lo, hi in ranges[graph.inputs :]) + sum(bits(-hi, -lo) for lo, hi in negated)


def delays(graph: AdderGraph) -> int:
    """Levels that values wait, each until its last use; outputs wait for the last of them."""
    level = graph.levels
    last = list(level)
    for k, a in enumerate(graph.adders, start=graph.inputs):
        for operand in (a.left, a.right):
            last[operand] = max(last[operand], level[k] - 1)
    for o in graph.outputs:
        if o.value is not None:
            last[o.value] = graph.depth
    return sum(last) - sum(level)


def cost(graph: AdderGraph, objective: Objective) -> int:
    """What `objective` says should be small."""
    if objective.cost == "bits":
        return adder_bits(graph, objective.bounds_of(graph.inputs))
    return 2 * adders(graph) + delays(graph) if objective.cost == "serial" else adders(graph)
