"""The whole mapping: plans of the layers, the design, its queues, its cycles, and what it is estimated to cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tcompile.errors import Problem, UsageError
from tcompile.ir.graph import Graph
from tcompile.mapping.cycles import Cycles, predict
from tcompile.mapping.design import Design
from tcompile.mapping.estimate import Resources, estimate
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import Choice, Plan, plan_layers
from tcompile.mapping.queues import queue_depths

__all__ = ["Mapped", "map_network"]

ATTEMPTS = 6  # at a target that bubbles between layers make the pipeline miss


@dataclass(frozen=True, eq=False)
class Mapped:
    """A network on hardware.

    Parameters
    ----------
    design : Design
    recipe : Recipe
        What makes the design of the network.
    plans : mapping of str to Plan
        By node of the graph.
    cycles : Cycles
        Of a run without stalls.
    """

    design: Design
    recipe: Recipe
    plans: Mapping[str, Plan]
    cycles: Cycles

    @property
    def interval(self) -> int:
        """Cycles from frame to frame."""
        assert self.cycles.interval is not None, "the prediction must run as many frames as an interval needs"
        return self.cycles.interval

    def resources(self) -> dict[str, Resources]:
        """Estimate by node of the graph."""
        total: dict[str, Resources] = {}
        for instance in self.design.instances:
            total[instance.layer] = total.get(instance.layer, Resources()) + estimate(instance)
        return total


def map_network(graph: Graph, choice: Choice) -> Mapped:
    """Map a graph of the integer level.

    Raises
    ------
    UsageError
        A folding that cannot be, or a target out of reach.
    """
    mapped = _mapped(graph, choice)
    target = budget = choice.budget
    if target is None or budget is None:
        return mapped
    for _ in range(ATTEMPTS):
        if mapped.interval <= target:
            break
        budget = min(budget * target // mapped.interval, budget - 1)
        try:
            mapped = _mapped(graph, replace(choice, budget=budget))
        except UsageError:  # of a budget that nobody asked for
            break
    if mapped.interval <= target:
        return mapped
    message = f"the pipeline must take at most {target} cycles per frame, and takes {mapped.interval}"
    hint = "ask for fewer frames per second, or give a higher --clock-mhz"
    raise UsageError(Problem("too-fast", message, hint=hint))


def _mapped(graph: Graph, choice: Choice) -> Mapped:
    plans = plan_layers(graph, choice)
    pace = max((plan.cycles for plan in plans.values()), default=1)
    recipe = Recipe({name: plan.fold for name, plan in plans.items()}, choice.simd, pace)
    design = place(graph, recipe)
    depths = queue_depths(design)
    if depths:
        recipe = replace(recipe, depths=depths)
        design = place(graph, recipe)
    return Mapped(design, recipe, plans, predict(design))
