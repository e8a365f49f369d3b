"""All the hardware that a layer could become, with cycles and costs: what the solver chooses from.

Engines of every folding with sizes that divide, graphs for digits of every size and for whole words. What is dearer and
slower than something else with the same lanes is left out; what stands behind the layer and between layers depends on
these. A graph's cost is guessed from its matrix until the search has been made, which
happens only to graphs that would be chosen if the search were lucky: what is chosen is then the cheapest, whatever the
other searches would find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from tcompile.mapping.cost import cost, cost_behind
from tcompile.mapping.estimate import NO_RESOURCES, Family, Resources
from tcompile.mapping.folding import DIGITS, FORMS, Fold, Form, Wish
from tcompile.mapping.graphs import is_searchable
from tcompile.mapping.plan import Plan, Task, planned, searched, tree_of

__all__ = ["USUAL", "Menu", "Offer", "Prices", "menu", "price"]

Prices = tuple[float, float, float]  # of a LUT, a flip-flop and a block RAM
USUAL: Prices = (1.0, 1e-3, 0.1)
LUCK, TRIFLE = 0.75, 50  # a search may find so much of a guess at best, and so many LUTs less where graphs are tiny


def price(resources: Resources, prices: Prices = USUAL) -> float:
    """Resources in LUTs: flip-flops and block RAMs are trifles that decide between equals, unless they are scarce."""
    return sum(p * n for p, n in zip(prices, (resources.lut, resources.ff, resources.bram), strict=True))


@dataclass(frozen=True, eq=False)
class Offer:
    """One way to build a layer.

    Parameters
    ----------
    plan : Plan
        With its graph, once searched.
    cycles : int
        Per frame.
    own : Resources
        Of the layer.
    behind : Resources
        Of the requantizers, pools and additions that take its lanes, as far as a pace is known for them.
    """

    plan: Plan
    cycles: int
    own: Resources
    behind: Resources = NO_RESOURCES

    @property
    def is_guess(self) -> bool:
        """Whether the graph is not known yet."""
        return self.plan.fold.form != "engine" and self.plan.graph is None

    @property
    def resources(self) -> Resources:
        """Of the layer and of all behind it."""
        return self.own + self.behind

    def least(self, prices: Prices = USUAL) -> float:
        """The price, or what it may be after a lucky search."""
        return price(Resources(*self.needs), prices)

    @property
    def needs(self) -> tuple[int, int, int]:
        """LUTs, flip-flops and block RAMs, or what they may be after a lucky search."""
        own, behind = self.own, self.behind
        if self.is_guess:
            own = Resources(max(0, int(LUCK * own.lut) - TRIFLE), max(0, int(LUCK * own.ff) - TRIFLE), own.bram)
        total = own + behind
        return total.lut, total.ff, total.bram


class Menu:
    """The offers for one layer."""

    def __init__(self, task: Task, offers: Sequence[Offer], family: Family) -> None:
        self.task = task
        self.family = family
        self.offers = list(offers)

    @property
    def fastest(self) -> Offer:
        """The offer of fewest cycles."""
        return min(self.offers, key=lambda o: (o.cycles, o.own.lut))

    @property
    def slowest(self) -> int:
        """Cycles within which every offer stays, with its pools."""
        return max(max(o.cycles, self.pool_cycles(o.plan.fold.leaving)) for o in self.offers)

    def rivals(self, budget: int) -> tuple[Offer, ...]:
        """The cheapest offer of each form within the budget, guesses among them, cheapest first."""
        cheapest: dict[Form, Offer] = {}
        for offer in sorted(self.able(budget), key=lambda o: (price(o.resources), o.cycles)):
            cheapest.setdefault(offer.plan.fold.form, offer)
        return tuple(cheapest.values())

    def able(self, budget: int) -> list[Offer]:
        """The offers that stay within a budget, and with which the pools behind the layer do, at its pace."""
        return [self._paced(o, budget) for o in self.offers if o.cycles <= budget and self.pools_keep_up(o, budget)]

    def _paced(self, offer: Offer, pace: int) -> Offer:
        return replace(offer, behind=cost_behind(self.task, offer.plan, pace, self.family))

    def pools_keep_up(self, offer: Offer, budget: int) -> bool:
        """Whether the pools behind the layer, which take its lanes, stay within the budget."""
        return self.pool_cycles(offer.plan.fold.leaving) <= budget

    def pool_cycles(self, lanes: int) -> int:
        """Cycles per frame of the slowest pool behind the layer, which takes the layer's lanes; 0 without pools."""
        return max((cycles * -(-channels // lanes) for cycles, channels in self.task.pools), default=0)

    def search(self, form: Form) -> None:
        """Find the graphs of all offers of a form."""
        for k, offer in enumerate(self.offers):
            if offer.plan.fold.form == form and offer.is_guess:
                plan = searched(self.task, offer.plan)
                self.offers[k] = Offer(plan, offer.cycles, cost(self.task, plan, self.family))


def menu(task: Task, wish: Wish, others: Wish, spacing: int, family: Family) -> Menu:
    """All offers for a layer, less what nobody would choose.

    Parameters
    ----------
    wish, others : Wish
        What must be, and what is asked of all layers where it is possible.
    spacing : int
        Levels of adders between registers that the clock allows.
    """
    forms = [wish.form] if wish.form else FORMS if is_searchable(task.layer) else ("engine",)
    offers = []
    for form in forms:
        folds = (
            _engines(task, wish, others, spacing) if form == "engine" else _graphs(task, form, wish, others, spacing)
        )
        of_form = []
        for fold in folds:
            plan = planned(task, fold)
            of_form.append(Offer(plan, plan.cycles, cost(task, plan, family)))
        offers += _front(of_form)
    return Menu(task, offers, family)


def _engines(task: Task, wish: Wish, others: Wish, spacing: int) -> Iterator[Fold]:
    asked = others.coded if wish.coded is None else wish.coded
    codings = [False] if task.layer.planes == 1 else [False, True] if asked is None else [asked]
    for pe, simd in product(*_sizes(task, "engine", wish, others)):
        if task.layer.legal(pe, simd):
            yield from (Fold(pe, simd, coded=coded, tree=tree_of(spacing)) for coded in codings)


def _graphs(task: Task, form: Form, wish: Wish, others: Wish, spacing: int) -> Iterator[Fold]:
    """Graphs that give their rows in parts of every size; words come as fast as they are needed."""
    digit = wish.digit or others.digit
    digits = ([digit] if digit else DIGITS) if form == "serial" else [1]
    levels = (wish.spacing or others.spacing or spacing) if form == "parallel" else 1
    for digit, pe, simd in product(digits, *_sizes(task, form, wish, others)):
        if task.layer.legal(pe, simd, form):
            yield Fold(pe, simd, form, digit, levels)


def _sizes(task: Task, form: Form, wish: Wish, others: Wish) -> tuple[list[int], list[int]]:
    """Sizes to try for PE and SIMD: what must be, as it is; what is asked of all layers, as far as it is possible."""
    layer = task.layer
    most_pe, most_simd = layer.limits(form)
    pes = [wish.pe] if wish.pe else [layer.fit(others.pe, 1, form).pe] if others.pe else steps(most_pe)
    simds = [wish.simd] if wish.simd else [layer.fit(1, others.simd, form).simd] if others.simd else steps(most_simd)
    return pes, simds


def _front(offers: Sequence[Offer]) -> list[Offer]:
    """Offers that nothing with the same lanes beats in LUTs, flip-flops, block RAMs and cycles."""
    kept: list[Offer] = []
    best: dict[tuple[int, int], list[Offer]] = {}
    for offer in sorted(offers, key=_key):
        alike = best.setdefault((offer.plan.fold.pe, offer.plan.fold.simd), [])
        if not any(_beats(other, offer) for other in alike):
            alike.append(offer)
            kept.append(offer)
    return kept


def _key(offer: Offer) -> tuple[int, ...]:
    r = offer.own
    return (offer.cycles, r.lut, r.ff, r.bram)


def _beats(one: Offer, other: Offer) -> bool:
    return all(a <= b for a, b in zip(_key(one), _key(other), strict=True))


def steps(count: int) -> list[int]:
    """Sizes of parts, rising: all that divide the whole, powers of two, between which streams convert easily, and a third."""
    return [n for n in range(1, count + 1) if count % n == 0 or n & (n - 1) == 0 or n == -(-count // 3)]
