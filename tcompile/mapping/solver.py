"""Chooses hardware for all layers: the least that meets a rate, or the fastest that fits a device.

In a pipeline the slowest layer sets the rate, so layers are chosen one by one: within a budget of cycles per frame each
takes its cheapest offer (`tcompile.mapping.menu`), which is least as a whole, by the costs of the menus. For a device the
budget is the smallest whose choice fits, found by bisection, since less time never costs less. Where flip-flops or block
RAMs do not fit then, layers are chosen together: partial choices grow layer by layer, and of those the ones that others
beat in everything are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from tcompile.errors import Problem, UsageError
from tcompile.mapping.devices import Device
from tcompile.mapping.estimate import Resources
from tcompile.mapping.menu import Menu, Offer
from tcompile.mapping.plan import Plan, Rival

__all__ = ["Solution", "fastest", "fitting", "least"]

MOST = 1000  # partial choices that are kept
NOTHING = (0, 0, 0)

Needs = tuple[int, int, int]  # LUTs, flip-flops, block RAMs
Chosen = tuple["Chosen", Offer] | None  # what was chosen before, and last


@dataclass(frozen=True, eq=False)
class Solution:
    """An offer for each layer, by node."""

    budget: int
    offers: Mapping[str, Offer]
    plans: Mapping[str, Plan]

    @property
    def resources(self) -> Resources:
        """Of all layers together."""
        return sum((o.resources for o in self.offers.values()), Resources())


def least(menus: Mapping[str, Menu], budget: int) -> Solution:
    """The cheapest hardware that takes at most `budget` cycles per frame.

    Raises
    ------
    UsageError
        Layers that cannot be so fast, all of them at once.
    """
    found = {name: menu.best(budget) for name, menu in menus.items()}
    problems = [_too_fast(menus[name], budget) for name, offer in found.items() if offer is None]
    if problems:
        raise UsageError(problems)
    return _solution(menus, budget, {name: offer for name, offer in found.items() if offer is not None})


def _solution(menus: Mapping[str, Menu], budget: int, offers: Mapping[str, Offer]) -> Solution:
    plans = {n: replace(o.plan, rivals=tuple(map(_rival, menus[n].rivals(budget)))) for n, o in offers.items()}
    return Solution(budget, offers, plans)


def _rival(offer: Offer) -> Rival:
    return Rival(offer.plan.fold, offer.cycles, offer.resources.lut, offer.is_guess)


def _too_fast(menu: Menu, budget: int) -> Problem:
    best = menu.fastest
    if best.cycles <= budget:
        cycles = min(menu.pool_cycles(o.plan.fold.pe) for o in menu.offers if o.cycles <= budget)
        message = f"the pool behind it must take at most {budget} cycles per frame, and takes {cycles}"
    else:
        message = f"must take at most {budget} cycles per frame, and its fastest hardware, {_words(best)}, takes {best.cycles}"
    hint = "ask for fewer frames per second, or give a higher --clock-mhz"
    if len({o.plan.fold.form for o in menu.offers}) == 1:
        hint += ", or leave its form open (--form auto)"
    return Problem("too-fast", message, (menu.task.label,), hint)


def _words(offer: Offer) -> str:
    fold = offer.plan.fold
    if fold.form == "engine":
        return f"an engine of {fold.pe} x {fold.simd} lanes"
    return f"a {fold.form} graph"


def fastest(menus: Mapping[str, Menu], device: Device, besides: Resources) -> Solution:
    """The fastest hardware that fits a device.

    Parameters
    ----------
    besides : Resources
        Of all that is not in the menus.

    Raises
    ------
    UsageError
        Nothing fits; names what is too much, and the layers that take most of it.
    """
    low = max((m.fastest.cycles for m in menus.values()), default=1)
    high = max((m.slowest for m in menus.values()), default=1)
    best = fitting(menus, high, device, besides)
    if best is None:
        best = least(menus, high)
        problems = _too_large(best, device, besides)
        if problems:
            raise UsageError(problems)
    while low < high:
        middle = (low + high) // 2
        found = fitting(menus, middle, device, besides)
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
    return best


def fitting(menus: Mapping[str, Menu], budget: int, device: Device, besides: Resources) -> Solution | None:
    """The choice within a budget that has the fewest LUTs of those that fit a device; None where none does."""
    room = (device.lut - besides.lut, device.ff - besides.ff, device.bram - besides.bram)
    while True:
        found = _packed([menu.able(budget) for menu in menus.values()], room)
        if found is None:
            return None
        guesses = [(menu, o) for menu, o in zip(menus.values(), found, strict=True) if o.is_guess]
        if not guesses:
            return _solution(menus, budget, dict(zip(menus, found, strict=True)))
        for menu, offer in guesses:
            menu.search(offer.plan.fold.form)


def _packed(menus: Sequence[Sequence[Offer]], room: Needs) -> list[Offer] | None:
    """One offer of each menu, the fewest LUTs of all that fit into a room together; None where nothing fits.

    Exact as long as no more than `MOST` partial choices are worth keeping, else nearly so.
    """
    if not all(menus):
        return None
    cheapest = [min(offers, key=lambda o: o.needs) for offers in menus]
    if _within(reduce(_sum, (o.needs for o in cheapest), NOTHING), room):
        return cheapest
    rests: list[Needs] = [NOTHING]
    for offers in reversed(menus):
        rests.append(_sum(rests[-1], tuple(map(min, zip(*(o.needs for o in offers), strict=True)))))
    if not _within(rests[-1], room):
        return None
    partial: list[tuple[Needs, Chosen]] = [(NOTHING, None)]
    for menu, rest in zip(menus, rests[-2::-1], strict=True):
        offers = [chosen[1] for _, chosen in _unbeaten([(o.needs, (None, o)) for o in menu]) if chosen]
        grown = [(_sum(needs, o.needs), (chosen, o)) for needs, chosen in partial for o in offers]
        partial = _unbeaten([g for g in grown if _within(_sum(g[0], rest), room)])
        if not partial:
            return None
    chosen, found = partial[0][1], []
    while chosen is not None:
        chosen, offer = chosen
        found.append(offer)
    return found[::-1]


def _sum(one: Needs, other: Needs) -> Needs:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _within(needs: Needs, room: Needs) -> bool:
    return all(a <= b for a, b in zip(needs, room, strict=True))


def _unbeaten(partial: list[tuple[Needs, Chosen]]) -> list[tuple[Needs, Chosen]]:
    """Partial choices that no other beats in LUTs, flip-flops and block RAMs, fewest LUTs first."""
    kept: list[tuple[Needs, Chosen]] = []
    stairs: dict[int, int] = {}  # fewest flip-flops yet, by block RAMs
    for needs, chosen in sorted(partial, key=lambda p: p[0]):
        _, ff, bram = needs
        if all(ff < fewest for have, fewest in stairs.items() if have <= bram):
            stairs[bram] = ff
            kept.append((needs, chosen))
    return kept if len(kept) <= MOST else kept[:: -(-len(kept) // MOST)]


def _too_large(solution: Solution, device: Device, besides: Resources) -> list[Problem]:
    """What does not fit even when every layer takes its time."""
    total = solution.resources + besides
    problems = []
    for key, name in (("lut", "LUTs"), ("ff", "flip-flops"), ("bram", "block RAMs")):
        need, have = getattr(total, key), getattr(device, key)
        if need > have:
            largest = sorted(solution.offers.values(), key=lambda o: -getattr(o.resources, key))[:3]
            message = (
                f"the smallest design needs about {need} {name}, and {device.name} has {have}; most of them are for"
                " these layers"
            )
            hint = "choose a larger --target, fewer bits (--act-bits) or a sparser network (--prune)"
            problems.append(Problem("too-large", message, tuple(o.plan.label for o in largest), hint))
    return problems
