"""The whole mapping: plans of the layers, the design, its queues, its cycles, and what it is estimated to cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isqrt

from tcompile.errors import Problem, UsageError
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph
from tcompile.mapping.cycles import Cycles, cycles_of, predict
from tcompile.mapping.design import Design
from tcompile.mapping.devices import Device
from tcompile.mapping.estimate import NO_RESOURCES, Family, Resources, estimate
from tcompile.mapping.folding import Wish
from tcompile.mapping.joints import Joint, joints
from tcompile.mapping.menu import Menu, menu
from tcompile.mapping.permute import Order, permutation
from tcompile.mapping.place import LEAST_DEPTH, Recipe, between, entrance, place
from tcompile.mapping.plan import Choice, Plan, Task, checked, plan_as_asked, tasks
from tcompile.mapping.queues import sized, smoothing
from tcompile.mapping.solver import Solution, fastest, fitting, least

__all__ = ["Mapped", "map_network", "plan_layers"]

KINDS = ("lut", "ff", "bram")
WITHOUT = 1  # beats on their way that need no queue
ATTEMPTS = 6  # at a target that bubbles between layers make the pipeline miss
EASE = 256  # one in so many of the cycles of a frame


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
    graph : Graph
        The network that it computes: the one given, or one that equals it with inner channels in another order.
    family : {"ecp5", "xcup"}
        Whose resources are estimated.
    orders : mapping of str to Order
        Values whose channels are in another order than in the network given.
    """

    design: Design
    recipe: Recipe
    plans: Mapping[str, Plan]
    cycles: Cycles
    graph: Graph
    family: Family = "ecp5"
    orders: Mapping[str, Order] = field(default_factory=dict)

    @property
    def interval(self) -> int:
        """Cycles from frame to frame."""
        assert self.cycles.interval is not None, "the prediction must run as many frames as an interval needs"
        return self.cycles.interval

    def resources(self) -> dict[str, Resources]:
        """Estimate by node of the graph."""
        total: dict[str, Resources] = {}
        for instance in self.design.instances:
            total[instance.layer] = total.get(instance.layer, Resources()) + estimate(instance, self.family)
        return total

    def total(self) -> Resources:
        """Estimate of the whole design."""
        return sum(self.resources().values(), Resources())


def plan_layers(graph: Graph, choice: Choice) -> dict[str, Plan]:
    """Plans of all linear layers, by node, as the menus' costs choose them: before the pipeline is looked at as a whole.

    Raises
    ------
    UsageError
        A wish that cannot be, or a target out of reach.
    """
    work = tasks(graph)
    if not choice.is_open:
        return plan_as_asked(work, choice)
    of = _Search.of(graph, choice, work)
    if choice.budget is not None:
        return dict(least(of.menus, choice.budget, of.joints).plans)
    assert choice.target is not None
    return dict(fastest(of.menus, choice.target, Resources(), of.joints).plans)


def map_network(graph: Graph, choice: Choice) -> Mapped:
    """Map a graph of the integer level.

    Raises
    ------
    UsageError
        A folding that cannot be, or a target out of reach.
    """
    if choice.is_open:
        mapped = _solved(graph, choice)
        return _reordered(mapped, choice) if choice.permute else mapped
    plans = plan_as_asked(tasks(graph), choice)
    if choice.permute is False:
        return _mapped(graph, choice, plans)
    found = permutation(graph, {name: plan.fold for name, plan in plans.items()})
    if found.orders:
        plans = plan_as_asked(tasks(found.graph), choice)
    return replace(_mapped(found.graph, choice, plans), orders=found.orders)


@dataclass(frozen=True, eq=False)
class _Search:
    """A network, what is asked for, and all that can be chosen."""

    graph: Graph
    choice: Choice
    menus: Mapping[str, Menu]
    joints: tuple[Joint, ...]

    @classmethod
    def of(cls, graph: Graph, choice: Choice, work: Mapping[str, Task]) -> _Search:
        """All offers for the layers, as far as wishes leave them open."""
        wishes, others = checked(work, choice), choice.folding.defaults
        menus = {name: menu(task, wishes[name], others, choice.spacing, choice.family) for name, task in work.items()}
        return cls(graph, choice, menus, joints(graph, work))

    def chosen(self, budget: int, besides: Resources = NO_RESOURCES) -> Solution:
        """What fits the device if anything does, else what has the fewest LUTs."""
        device = self.choice.target
        found = None if device is None else fitting(self.menus, budget, device, besides, self.joints)
        return least(self.menus, budget, self.joints) if found is None else found

    def mapped(self, solution: Solution) -> Mapped:
        """The design of a choice. Where nobody asked for a rate, a few cycles more may go into a better clock."""
        eased = solution.budget // EASE if self.choice.budget is None else 0
        return _mapped(self.graph, self.choice, solution.plans, solution.budget + eased)


def _solved(graph: Graph, choice: Choice) -> Mapped:
    of = _Search.of(graph, choice, tasks(graph))
    if choice.budget is None:
        assert choice.target is not None
        return _fitting(of, choice.target)
    return _within(of, choice.budget)


def _reordered(mapped: Mapped, choice: Choice) -> Mapped:
    """Channels reordered for the engines that were chosen, and lanes chosen again; forms stay."""
    found = permutation(mapped.graph, mapped.recipe.folds)
    if not found.orders:
        return mapped
    wishes = {
        plan.label: replace(choice.folding.layers.get(plan.label, Wish()), form=plan.fold.form)
        for plan in mapped.plans.values()
    }
    again = _solved(found.graph, replace(choice, folding=replace(choice.folding, layers=wishes)))
    return replace(again, orders=found.orders)


def _within(of: _Search, budget: int) -> Mapped:
    """The least hardware within a budget; where a device must hold it, what is scarce there may be dearer."""
    mapped, solution = _keeping(of, budget, Resources())
    device = of.choice.target
    if device is None or device.holds(mapped.total()):
        return mapped
    mapped, _ = _keeping(of, budget, _besides(mapped, solution))
    if not device.holds(mapped.total()):
        raise UsageError(_too_large(mapped, device))
    return mapped


def _keeping(of: _Search, target: int, besides: Resources) -> tuple[Mapped, Solution]:
    """A choice whose pipeline keeps a budget: bubbles between layers may make it ask more of them."""
    budget = target
    solution = of.chosen(budget, besides)
    mapped = of.mapped(solution)
    for _ in range(ATTEMPTS):
        if mapped.interval <= target:
            break
        slowest = max((plan.cycles for plan in solution.plans.values()), default=budget)  # above, nothing else is least
        budget = min(budget * target // mapped.interval, min(budget, slowest) - 1)
        try:
            solution = of.chosen(budget, besides)
        except UsageError:  # of a budget that nobody asked for
            break
        mapped = of.mapped(solution)
    if mapped.interval <= target:
        return mapped, solution
    message = f"the pipeline must take at most {target} cycles per frame, and takes {mapped.interval}"
    hint = "ask for fewer frames per second, or give a higher --clock-mhz"
    raise UsageError(Problem("too-fast", message, hint=hint))


def _fitting(of: _Search, device: Device) -> Mapped:
    """The fastest hardware that fits with all that only a whole design tells, such as the depths of queues.

    What a design has besides the choice is set aside for the next choice, until a design fits; then budgets between
    its own and one that failed are tried.
    """
    besides, failed, high = Resources(), 0, max((m.slowest for m in of.menus.values()), default=1)
    best: Mapped | None = None
    for _ in range(ATTEMPTS):
        try:
            solution = fastest(of.menus, device, besides, of.joints)
        except UsageError:
            if not failed:
                raise
            break  # what is slower may have less besides
        mapped = of.mapped(solution)
        if device.holds(mapped.total()):
            best, high = mapped, solution.budget
            break
        besides, failed = _besides(mapped, solution), max(failed, solution.budget)
    if best is None:
        best = of.mapped(of.chosen(high, besides))
    if not device.holds(best.total()):
        raise UsageError(_too_large(best, device))
    return _faster(of, device, (failed, high), best) if failed else best


def _faster(of: _Search, device: Device, between: tuple[int, int], best: Mapped) -> Mapped:
    """The fastest design that fits of some budgets between one that fails and that of a design that fits."""
    low, high = between
    for _ in range(ATTEMPTS):
        middle = isqrt(low * high)
        if not low < middle < high:
            break
        mapped = of.mapped(of.chosen(middle))
        if device.holds(mapped.total()):
            best, high = mapped, middle
        else:
            low = middle
    return best


def _besides(mapped: Mapped, solution: Solution) -> Resources:
    """What a design has that the choice does not count, or counts as less."""
    total, counted = mapped.total(), solution.resources
    return Resources(*(max(0, getattr(total, k) - getattr(counted, k)) for k in KINDS))


def _too_large(mapped: Mapped, device: Device) -> Problem:
    """A whole design that does not fit, and what takes most of it."""
    total, layers = mapped.total(), mapped.resources()
    scarce = max(KINDS, key=lambda k: getattr(total, k) / max(1, getattr(device, k)))
    labels = {name: plan.label for name, plan in mapped.plans.items()}
    largest = sorted((n for n in layers if n in labels), key=lambda n: -int(getattr(layers[n], scarce)))[:3]
    message = (
        f"the design must fit {device.name} (of which {device.lut} LUTs, {device.ff} flip-flops, {device.bram} block RAMs can be filled), and"
        f" takes about {total.lut} LUTs, {total.ff} flip-flops and {total.bram} block RAMs; most of it for these layers"
    )
    hint = "choose a larger --target, or ask for fewer frames per second"
    return Problem("too-large", message, tuple(labels[n] for n in largest), hint)


def _mapped(graph: Graph, choice: Choice, plans: Mapping[str, Plan], target: int | None = None) -> Mapped:
    """The design of some plans.

    Parameters
    ----------
    target : int, optional
        Cycles per frame that it should take: the pace of what may take its time, and what queues between layers that
        work in bursts are for. Without it the pace is that of the slowest layer.
    """
    pace = max((plan.cycles for plan in plans.values()), default=1) if target is None else target
    graphs = {name: plan.graph for name, plan in plans.items() if plan.graph is not None}
    folds = {name: plan.fold for name, plan in plans.items()}
    recipe = Recipe(folds, choice.simd, pace, graphs=graphs, relays=choice.spacing == 1)
    design = place(graph, recipe)
    depths, seen = sized(design)
    cycles = cycles_of(design, seen)
    if target is not None and cycles.interval is not None and cycles.interval > target:
        smooth = _smoothed(graph, recipe, target)
        found = Mapped(*smooth, plans, predict(smooth[0]), graph, choice.family)
        if found.interval < cycles.interval:
            return found
    if depths:
        recipe = replace(recipe, depths=depths)
        design = place(graph, recipe)
    return Mapped(design, recipe, plans, cycles, graph, choice.family)


def _smoothed(graph: Graph, recipe: Recipe, target: int) -> tuple[Design, Recipe]:
    """The design with queues between layers that work in bursts, as fast as it should be or as queues can make it."""
    everywhere = dict.fromkeys([*map(between, _between(graph)), *map(entrance, recipe.folds)], LEAST_DEPTH)
    needs = smoothing(place(graph, replace(recipe, depths=everywhere)), target)
    depths = {n: max(LEAST_DEPTH, d) for n, d in needs.items() if n not in everywhere or d > WITHOUT}
    recipe = replace(recipe, depths=depths)
    return place(graph, recipe), recipe


def _between(graph: Graph) -> Iterator[str]:
    """Values on their only way into a layer or into an addition."""
    for node in graph:
        if isinstance(node, (I.Conv, I.Dense, I.AddScaled)):
            for value in node.inputs:
                alone = len(graph.consumers[value]) == 1 and value not in graph.outputs
                if alone and not isinstance(graph[value], I.Input) and node.inputs.count(value) == 1:
                    yield value
