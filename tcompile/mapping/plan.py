"""What each linear layer is to become: its folding, its schedule, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import gcd, prod

import numpy as np

from hw.adders import AdderGraph
from tcompile.errors import Problem, UsageError
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node
from tcompile.mapping.devices import Device
from tcompile.mapping.estimate import Family
from tcompile.mapping.folding import Fold, Folding, Form, Wish
from tcompile.mapping.graphs import (
    MOST_DIGITS,
    adder_graph,
    input_bounds,
    is_searchable,
    window_geometry,
)
from tcompile.mapping.layout import Layout
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import Linear, linear
from tcompile.mapping.schedule import tiled

__all__ = [
    "Carried",
    "Choice",
    "Plan",
    "Rival",
    "Task",
    "budget_of",
    "checked",
    "labels",
    "lanes_come_from",
    "plan_as_asked",
    "planned",
    "searched",
    "spacing_of",
    "tasks",
    "tree_of",
]

ADDERS_MHZ = 250.0  # clock that one adder between registers reaches on an FPGA of low cost; two reach half of it
MOST_CYCLES = 2.0**40  # per frame; no network needs so many


def budget_of(fps: float, clock_mhz: float) -> int:
    """Cycles that a frame may take at a rate of frames per second."""
    return int(min(clock_mhz * 1_000_000 / fps, MOST_CYCLES))


def spacing_of(clock_mhz: float) -> int:
    """Levels of adders between registers that a clock allows."""
    return max(1, int(ADDERS_MHZ / clock_mhz))


def tree_of(spacing: int) -> int:
    """Those of an engine: more than two save few registers."""
    return min(spacing, 2)


@dataclass(frozen=True)
class Choice:
    """What was asked for.

    Parameters
    ----------
    pe, simd : int
        Lanes of layers that nothing else decides; cut to what a layer can use.
    folding : Folding
        Wishes for single layers; these must be possible as they are.
    budget : int or None
        Cycles per frame that no layer may exceed; hardware is then chosen, as little as possible.
    form : {"engine", "serial", "parallel"} or None
        Form of all layers that the folding does not speak of; None for engines, or with a budget for what costs least.
    target : Device or None
        What the fastest design must fit, where there is no budget.
    spacing : int
        Levels of adders between registers of parallel graphs that the clock allows.
    permute : bool or None
        Whether inner channels may be reordered so that zeros gather in tiles; None where lanes are given.
    """

    pe: int = 8
    simd: int = 8
    folding: Folding = field(default_factory=Folding)
    budget: int | None = None
    form: Form | None = None
    target: Device | None = None
    spacing: int = 2
    permute: bool | None = None

    @property
    def is_open(self) -> bool:
        """Whether the solver chooses."""
        return self.budget is not None or self.target is not None

    @property
    def family(self) -> Family:
        """Whose resources are estimated."""
        return self.target.family if self.target is not None else "ecp5"


@dataclass(frozen=True, eq=False)
class Carried:
    """A value that travels in a layer's lanes: its own, and what requantizers, pools and additions make of it.

    Parameters
    ----------
    node : Node
        What makes it; the layer itself for its own value.
    sources : tuple of IntType
        What comes into that.
    layout : Layout
        How it travels.
    maker : Node or None
        The layer or the pool whose beats come into it as they are; None where something stands between.
    uses, ports : int
        How often it is used, outputs of the network among them, and by how many of these.
    """

    node: Node
    sources: tuple[IntType, ...]
    layout: Layout
    maker: Node | None
    uses: int
    ports: int


@dataclass(frozen=True, eq=False)
class Task:
    """A linear layer that needs hardware.

    Parameters
    ----------
    label : str
    layer : Linear
    source, out : IntType
        What comes in, and what it makes of it.
    pools : tuple of (int, int)
        (cycles per word, channels) of the pools behind it that take its lanes as they come.
    carried : tuple of Carried
        All that travels in its lanes, up to the next layer.
    """

    label: str
    layer: Linear
    source: IntType
    out: IntType
    pools: tuple[tuple[int, int], ...] = ()
    carried: tuple[Carried, ...] = ()

    @property
    def padded(self) -> IntType:
        """What comes in, padding counted."""
        return IntType(self.source.shape, *input_bounds(self.layer, self.source))

    @classmethod
    def of(cls, graph: Graph, node: Node, layer: Linear, label: str, known: Mapping[str, Layout]) -> Task:
        """The task of a node, its neighbours looked up."""
        source, out = graph[node.inputs[0]].type, node.type
        assert isinstance(source, IntType) and isinstance(out, IntType)
        found = tuple(_carried(graph, node, known))
        pools = (c.node for c in found if isinstance(c.node, (I.MaxPool, I.SumPool)))
        cycles = tuple((prod(_type(n).shape[2:]) * prod(n.kernel), _type(n).shape[1]) for n in pools)
        return cls(label, layer, source, out, cycles, found)


@dataclass(frozen=True)
class Rival:
    """What a layer could have been, or is.

    Parameters
    ----------
    fold : Fold
    cycles : int
        Per frame.
    lut : int
        Estimate for the layer and the requantizers behind it.
    is_guess : bool
        Whether the graph was not searched, and its size is a guess.
    """

    fold: Fold
    cycles: int
    lut: int
    is_guess: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """One linear layer: what it is, its hardware, and its work in numbers.

    Parameters
    ----------
    label : str
        Name in reports and folding files.
    tiles, kept, entries, shortest, words : int
        Of an engine: tiles of PE x SIMD after padding, those that hold a weight, entries of the schedule and of its
        shortest row block, words of the weight memory.
    graph : AdderGraph or None
        Of a graph, once the search has been made.
    word, digits : int
        Of a graph: cycles that a window takes, and of these in which it is read.
    rivals : tuple of Rival
        The best of each form, where there was a choice.
    """

    label: str
    layer: Linear
    fold: Fold
    tiles: int = 0
    kept: int = 0
    entries: int = 0
    shortest: int = 1
    words: int = 0
    graph: AdderGraph | None = None
    word: int = 1
    digits: int = 1
    rivals: tuple[Rival, ...] = ()

    @property
    def positions(self) -> int:
        """Output positions of a frame."""
        return prod(self.layer.out)

    @property
    def cycles(self) -> int:
        """Cycles per frame of the work, or more where beats come in or go out more slowly."""
        work = self.positions * self.entries if self.fold.form == "engine" else self._windows
        return max(work, self.beats)

    @property
    def _windows(self) -> int:
        """Cycles of a graph: windows take a word each, or as long as their words need to come when the one before has been read.

        Where results leave more slowly than that, three of them are under way at most: while a window takes longer than these to
        come, at the end of a row or of the frame, nothing leaves. That is right to within the time of one window's results;
        the design's own timing (`tcompile.mapping.cycles`) is exact.
        """
        geometry, leaving = window_geometry(self.layer, self.fold), -(-self.layer.MH // self.fold.pe)
        read = self.digits - 1  # cycles in which a window stands still
        taken, left, repeats = max(self.word, geometry.frame + read), max(leaving, geometry.frame - 2 * leaving), 1
        for count, words in reversed(geometry.moves):
            taken += repeats * (count - 1) * max(self.word, words + read)
            left += repeats * (count - 1) * max(leaving, words - 2 * leaving)
            repeats *= count
        return max(taken, left)

    @property
    def beats(self) -> int:
        """Input or output beats of a frame, whichever are more."""
        layer, fold = self.layer, self.fold
        if layer.is_packed(fold):
            taken = self._packed_beats
        else:
            taken = prod(layer.padded_grid) * -(-layer.groups * layer.channels // layer.lanes_in(fold))
        return max(taken, self.positions * -(-layer.MH // fold.pe))

    @property
    def _packed_beats(self) -> int:
        """Steps that make rows of windows, beats of these as they are folded into lanes, and of those with padding."""
        layer, simd = self.layer, self.fold.simd
        rows, columns = prod(layer.grid[:-1]), layer.out[-1]
        reach = (layer.kernel[-1] - 1) * layer.dilations[-1] + 1 + (columns - 1) * layer.strides[-1]
        elements = layer.kernel[-1] * layer.channels
        return max(
            rows * max(layer.before[-1] + layer.grid[-1], reach),
            rows * columns * (elements // gcd(elements, simd)),
            prod(layer.padded_grid[:-1]) * columns * -(-elements // simd),
        )


def labels(graph: Graph) -> dict[str, str]:
    """Names for people: of the ONNX node, made unique; else the operation and its number."""
    taken: set[str] = set()
    result = {}
    for index, node in enumerate(graph):
        base = node.origin.names[-1] if node.origin.names and node.origin.names[-1] else f"{node.op}_{index}"
        label, count = base, 1
        while label in taken:
            count += 1
            label = f"{base}_{count}"
        taken.add(label)
        result[node.name] = label
    return result


def tasks(graph: Graph) -> dict[str, Task]:
    """The linear layers of a graph, by node."""
    known, names = layouts(graph), labels(graph)
    return {
        n.name: Task.of(graph, n, linear(n, known[n.inputs[0]]), names[n.name], known)
        for n in graph
        if isinstance(n, (I.Conv, I.Dense))
    }


def checked(work: Mapping[str, Task], choice: Choice) -> dict[str, Wish]:
    """What is asked of each layer.

    Raises
    ------
    UsageError
        Wishes that cannot be, all of them at once.
    """
    wishes = {name: _wish(choice, task.label) for name, task in work.items()}
    problems = [p for name, task in work.items() for p in _refused(task, wishes[name])]
    if problems:
        raise UsageError(problems)
    return wishes


def plan_as_asked(work: Mapping[str, Task], choice: Choice) -> dict[str, Plan]:
    """Plans of all layers where no target chooses, by node."""
    wishes = checked(work, choice)
    plans = {name: planned(task, _fit(task.layer, wishes[name], choice)) for name, task in work.items()}
    return {name: p if p.fold.form == "engine" else searched(work[name], p) for name, p in plans.items()}


def _wish(choice: Choice, label: str) -> Wish:
    """What is asked of a layer by its name."""
    mine, others = choice.folding.layers.get(label, Wish()), choice.folding.defaults
    return replace(mine, form=mine.form or others.form or choice.form)


def _refused(task: Task, wish: Wish) -> list[Problem]:
    """What of a wish cannot be."""
    layer, form = task.layer, wish.form or "engine"
    most_pe, most_simd = layer.limits(form)
    fit = layer.fit(wish.pe or most_pe, wish.simd or most_simd, form)
    problems = []
    if form == "engine":
        divides = " and divide it, since the layer is grouped" if layer.groups > 1 and not layer.is_depthwise else ""
        pe_of, simd_of = (
            f"(output channels of a group){divides}",
            f"(input channels of a tap, or of a row of taps){divides}",
        )
    else:
        pe_of, simd_of = "(output channels) and divide it", "(input channels)"
    for key, asked, possible, most, of in (
        ("PE", wish.pe, fit.pe, most_pe, pe_of),
        ("SIMD", wish.simd, fit.simd, most_simd, simd_of),
    ):
        if asked is not None and asked != possible:
            message = f"{key} must be at most {most} {of} and is {asked}"
            problems.append(Problem("bad-folding", message, (task.label,), f"the next that is possible is {possible}"))
    for key, value, needed in (
        ("digit", wish.digit, "serial"),
        ("spacing", wish.spacing, "parallel"),
        ("coded", wish.coded, "engine"),
    ):
        if value is not None and wish.form != needed:
            message = f"{key} is for the form {needed}, and the layer's form is {wish.form or 'not given'}"
            problems.append(Problem("bad-folding", message, (task.label,), f'add "form": "{needed}"'))
    if wish.coded and layer.planes == 1:
        message = f"coded is for weights that take several passes, and those of the layer have {layer.width} bits"
        problems.append(Problem("bad-folding", message, (task.label,), "leave it out"))
    if form != "engine" and not is_searchable(layer):
        problems.append(_too_many_digits(task, form))
    return problems


def _too_many_digits(task: Task, form: Form) -> Problem:
    message = (
        f"a {form} graph must have at most {MOST_DIGITS} digits of weights that are not zero, and the layer has"
        f" {task.layer.digits}: the search for it would take more time and memory than there is"
    )
    hint = "leave its form open (--form auto), make it an engine (--form engine), or have fewer weights (--prune)"
    return Problem("graph-too-large", message, (task.label,), hint)


def _fit(layer: Linear, wish: Wish, choice: Choice) -> Fold:
    """What was asked of this layer, of all layers in the folding file, of all layers elsewhere."""
    others = choice.folding.defaults
    fold = layer.fit(wish.pe or others.pe or choice.pe, wish.simd or others.simd or choice.simd, wish.form or "engine")
    if fold.form == "serial":
        return replace(fold, digit=wish.digit or others.digit or 1)
    if fold.form == "parallel":
        return replace(fold, spacing=wish.spacing or others.spacing or choice.spacing)
    coded = others.coded if wish.coded is None else wish.coded
    return replace(fold, coded=bool(coded) and layer.planes > 1, tree=tree_of(choice.spacing))


def planned(task: Task, fold: Fold) -> Plan:
    """A plan, counted without making a schedule, and for a graph without the search."""
    layer = task.layer
    if fold.form != "engine":
        if fold.form == "parallel":
            return Plan(task.label, layer, fold)
        word, digits = (-(-width // fold.digit) for width in (task.out.width, task.padded.width))
        return Plan(task.label, layer, fold, word=word, digits=min(digits, word))
    planes = [tiled(layer, fold, plane).any(axis=(2, 3)) for plane in layer.nonzero]
    needed = np.sum([plane.sum(axis=1) for plane in planes], axis=0)
    kept, empty, per_block = int(np.any(planes, axis=0).sum()), int((needed == 0).sum()), np.maximum(needed, 1)
    words = int(per_block.sum()) if fold.coded else kept + empty
    plan = Plan(task.label, layer, fold, planes[0].size, kept, int(per_block.sum()), int(per_block.min()), words)
    return replace(plan, fold=replace(fold, out=_leaving(task, plan)))


def _leaving(task: Task, plan: Plan) -> int:
    """How many of an engine's results leave at a time, 0 for all: as few as hold up neither it nor a pool behind it.

    It gives a beat every so many cycles, and what comes behind it needs hardware for each element of a beat. Ports of the
    network keep the engine's lanes.
    """
    pe = plan.fold.pe
    if not any(isinstance(c.node, I.Requantize) for c in task.carried) or any(c.ports for c in task.carried):
        return 0
    fewer = (n for n in range(-(-pe // plan.shortest), pe) if pe % n == 0)
    return next((n for n in fewer if all(t * -(-c // n) <= plan.cycles for t, c in task.pools)), 0)


def searched(task: Task, plan: Plan) -> Plan:
    """The plan of a graph, with the graph."""
    return replace(plan, graph=adder_graph(task.layer, plan.fold, input_bounds(task.layer, task.source)))


def _carried(graph: Graph, layer: Node, known: Mapping[str, Layout]) -> Iterator[Carried]:
    """What travels in the lanes of a layer before the next one; an addition takes those of its first input."""
    waiting: list[tuple[Node, Node | None]] = [(layer, None)]
    while waiting:
        node, maker = waiting.pop()
        ports = graph.outputs.count(node.name)
        uses = ports + sum(user.inputs.count(node.name) for user in graph.consumers[node.name])
        sources = tuple(_type(graph[i]) for i in node.inputs)
        yield Carried(node, sources, known[node.name], maker, uses, ports)
        gives = node if uses == 1 and isinstance(node, (I.Conv, I.Dense, I.MaxPool, I.SumPool)) else None
        waiting += ((user, gives) for user in graph.consumers[node.name] if lanes_come_from(user) == node.name)


def lanes_come_from(node: Node) -> str:
    """The value whose lanes an operation's result has; empty where it has others."""
    if isinstance(node, (I.MaxPool, I.SumPool, I.Requantize, I.Reshape, I.Transpose, I.AddScaled)):
        return node.inputs[0]
    return ""


def _type(node: Node) -> IntType:
    assert isinstance(node.type, IntType)
    return node.type
