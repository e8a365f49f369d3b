"""What each linear layer is to become: its folding, its schedule, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd, prod

import numpy as np

from hw.engine import booth_digits
from tcompile.errors import Problem, UsageError
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node
from tcompile.mapping.folding import Fold, Folding, Wish
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import Linear, linear
from tcompile.mapping.schedule import tiled

__all__ = ["Choice", "Plan", "labels", "plan_layers"]


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
        Cycles per frame that no layer may exceed; lanes are then chosen, as few as possible.
    """

    pe: int = 8
    simd: int = 8
    folding: Folding = field(default_factory=Folding)
    budget: int | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """One linear layer: what it is, its folding, and its schedule in numbers.

    Parameters
    ----------
    label : str
        Name in reports and folding files.
    tiles, kept, entries : int
        Tiles of PE x SIMD after padding, those that hold a weight, entries of the schedule.
    """

    label: str
    layer: Linear
    fold: Fold
    tiles: int
    kept: int
    entries: int

    @property
    def positions(self) -> int:
        """Output positions of a frame."""
        return prod(self.layer.out)

    @property
    def cycles(self) -> int:
        """Cycles per frame: entries times positions, or more where beats come in or go out more slowly."""
        return max(self.positions * self.entries, self.beats)

    @property
    def beats(self) -> int:
        """Input or output beats of a frame, whichever are more."""
        layer, fold = self.layer, self.fold
        lanes = fold.pe if layer.is_depthwise else fold.simd
        if layer.is_packed(fold):
            taken = self._packed_beats
        else:
            taken = prod(layer.padded_grid) * -(-layer.groups * layer.channels // lanes)
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


def plan_layers(graph: Graph, choice: Choice) -> dict[str, Plan]:
    """Plans of all linear layers, by node of the graph.

    Raises
    ------
    UsageError
        A wish that cannot be, or a budget that no folding meets; all of them at once.
    """
    known, names = layouts(graph), labels(graph)
    layers = {n.name: linear(n, known[n.inputs[0]]) for n in graph if isinstance(n, (I.Conv, I.Dense))}
    problems: list[Problem] = []
    plans = {}
    for name, layer in layers.items():
        wish = _wish(choice.folding, names[name])
        refused = _refused(layer, wish, names[name])
        if refused:
            problems += refused
        elif choice.budget is not None:
            asked = _with_defaults(layer, wish, choice.folding.defaults)
            found = _least(layer, asked, choice.budget, _pools(graph, name), names[name])
            if isinstance(found, Plan):
                plans[name] = found
            else:
                problems.append(found)
        else:
            plans[name] = _planned(layer, _fit(layer, wish, choice), names[name])
    if problems:
        raise UsageError(problems)
    return plans


def _wish(folding: Folding, label: str) -> Wish:
    """What is asked of a layer by its name."""
    mine = folding.layers.get(label, Wish())
    return Wish(mine.pe, mine.simd, mine.form or folding.defaults.form)


def _refused(layer: Linear, wish: Wish, label: str) -> list[Problem]:
    """What of a wish cannot be."""
    most_pe, most_simd = layer.limits()
    fit = layer.fit(wish.pe or most_pe, wish.simd or most_simd)
    problems = []
    for key, asked, possible, most, of in (
        ("PE", wish.pe, fit.pe, most_pe, "output channels of a group"),
        ("SIMD", wish.simd, fit.simd, most_simd, "input channels of a tap, or of a row of taps"),
    ):
        if asked is not None and asked != possible:
            grouped = (
                "and divide it, since the layer is grouped " if layer.groups > 1 and not layer.is_depthwise else ""
            )
            message = f"{key} must be at most {most} ({of}) {grouped}and is {asked}"
            problems.append(Problem("bad-folding", message, (label,), f"the next that is possible is {possible}"))
    return problems


def _with_defaults(layer: Linear, wish: Wish, others: Wish) -> Wish:
    """A wish completed by what the folding file asks of all layers, cut to what this one can use."""
    most_pe, most_simd = layer.limits()
    fit = layer.fit(others.pe or most_pe, others.simd or most_simd)
    return Wish(wish.pe or (others.pe and fit.pe), wish.simd or (others.simd and fit.simd), wish.form)


def _fit(layer: Linear, wish: Wish, choice: Choice) -> Fold:
    """What was asked of this layer, of all layers in the folding file, of all layers elsewhere."""
    others = choice.folding.defaults
    return layer.fit(wish.pe or others.pe or choice.pe, wish.simd or others.simd or choice.simd)


def _planned(layer: Linear, fold: Fold, label: str) -> Plan:
    """A plan, counted without making the schedule."""
    tiles = tiled(layer, fold)
    digits = sum((booth_digits(tiles, d) != 0).any(axis=(2, 3)).astype(np.int64) for d in range(layer.planes))
    per_block = np.asarray(digits).sum(axis=1)
    kept = int((tiles != 0).any(axis=(2, 3)).sum())
    return Plan(label, layer, fold, tiles.shape[0] * tiles.shape[1], kept, int(np.maximum(per_block, 1).sum()))


def _pools(graph: Graph, name: str) -> list[tuple[int, int]]:
    """(cycles per word, channels) of the pools behind a layer that take its lanes as they come."""
    found, users = [], list(graph.consumers[name])
    while users:
        node = users.pop()
        if isinstance(node, (I.MaxPool, I.SumPool)):
            shape = _shape(node)
            found.append((prod(shape[2:]) * prod(node.kernel), shape[1]))
        if isinstance(node, (I.MaxPool, I.SumPool, I.Requantize, I.AddScaled)):
            users += graph.consumers[node.name]
    return found


def _shape(node: Node) -> tuple[int, ...]:
    assert isinstance(node.type, IntType)
    return node.type.shape


def _least(layer: Linear, wish: Wish, budget: int, pools: list[tuple[int, int]], label: str) -> Plan | Problem:
    """The folding of fewest lanes within the budget; of equal ones the one with fewer PEs, that is, accumulators."""
    most_pe, most_simd = layer.limits()
    rows = layer.groups if layer.is_depthwise else layer.rows
    pes = [wish.pe] if wish.pe else [n for n in _steps(rows) if layer.legal(n, 1)]
    pes = [n for n in pes if all(cycles * -(-channels // n) <= budget for cycles, channels in pools)]
    simds = [wish.simd] if wish.simd else [n for n in _steps(most_simd) if layer.legal(1, n)]
    best: Plan | None = None
    for simd in simds:
        low, high = 0, len(pes)  # the first PE that meets the budget: more rows at once never take more cycles
        found = None
        while low < high:
            middle = (low + high) // 2
            plan = _planned(layer, Fold(pes[middle], simd), label)
            if plan.cycles <= budget:
                found, high = plan, middle
            else:
                low = middle + 1
        if found and (best is None or (found.fold.lanes, found.fold.pe) < (best.fold.lanes, best.fold.pe)):
            best = found
    if best is not None:
        return best
    fastest = _planned(layer, layer.fit(most_pe, most_simd), label)
    message = f"must take at most {budget} cycles per frame, and with all its {fastest.fold.lanes} lanes takes {fastest.cycles}"
    return Problem("too-fast", message, (label,), "ask for fewer frames per second, or give a higher --clock-mhz")


def _steps(count: int) -> list[int]:
    """Sizes of parts, rising: all that divide the whole, and powers of two, between which streams convert easily."""
    return [n for n in range(1, count + 1) if count % n == 0 or n & (n - 1) == 0]
