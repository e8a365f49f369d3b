"""Chooses hardware for all layers: the least that meets a rate, or the fastest that fits a device.

In a pipeline the slowest layer sets the rate, so within a budget of cycles per frame every layer may take any of its
offers (`tcompile.mapping.menu`) that keep it. What stands between two layers depends on the lanes of both
(`tcompile.mapping.joints`), so all layers are chosen together, exactly (`tcompile.mapping.together`), by the costs of
the menus and the joints. More time never costs more: every choice for a budget is one for a larger budget. For a device
the budget is the smallest whose choice fits, found by bisection. Where flip-flops or block RAMs do not fit then, partial
choices grow layer by layer, and of those the ones that others beat in everything are dropped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from tcompile.errors import Problem, UsageError
from tcompile.mapping.devices import Device
from tcompile.mapping.estimate import NO_RESOURCES, Family, Resources
from tcompile.mapping.joints import Joint
from tcompile.mapping.menu import USUAL, Menu, Offer, Prices, price
from tcompile.mapping.plan import Plan, Rival
from tcompile.mapping.together import cheapest

__all__ = ["Solution", "fastest", "fitting", "least"]

DEARER = 6  # times that what is scarce is made dearer
MOST = 1000  # partial choices that are kept
NOTHING = (0, 0, 0)

Needs = tuple[int, int, int]  # LUTs, flip-flops, block RAMs
Chosen = tuple["Chosen", Offer] | None  # what was chosen before, and last


@dataclass(frozen=True, eq=False)
class Solution:
    """An offer for each layer, by node.

    Parameters
    ----------
    between : Resources
        Of all that stands between the layers.
    """

    budget: int
    offers: Mapping[str, Offer]
    plans: Mapping[str, Plan]
    between: Resources = NO_RESOURCES

    @property
    def resources(self) -> Resources:
        """Of all layers together, and of what stands between them."""
        return sum((o.resources for o in self.offers.values()), self.between)


def least(menus: Mapping[str, Menu], budget: int, joints: Sequence[Joint] = (), prices: Prices = USUAL) -> Solution:
    """The cheapest hardware that takes at most `budget` cycles per frame.

    Raises
    ------
    UsageError
        Layers that cannot be so fast, all of them at once.
    """
    able = {name: menu.able(budget) for name, menu in menus.items()}
    problems = [_too_fast(menus[name], budget) for name, offers in able.items() if not offers]
    if problems:
        raise UsageError(problems)
    while True:
        found = _together(able, menus, joints, prices)
        guesses = [(name, o) for name, o in found.items() if o.is_guess]
        if not guesses:
            return _solution(menus, budget, found, joints)
        _search([(menus[name], offer) for name, offer in guesses])
        able |= {name: menus[name].able(budget) for name, _ in guesses}


def _search(guesses: Sequence[tuple[Menu, Offer]]) -> None:
    """Make the searches for some graphs, a layer's on each core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda guess: guess[0].search(guess[1].plan.fold.form), guesses))


def _together(
    able: Mapping[str, Sequence[Offer]], menus: Mapping[str, Menu], joints: Sequence[Joint], prices: Prices
) -> dict[str, Offer]:
    """The cheapest offers with what stands between them; guesses count as lucky searches."""
    options = {name: _options(offers, prices) for name, offers in able.items()}
    alone = {name: np.array([o.least(prices) for o in offers]) for name, offers in options.items()}
    pairs = []
    for joint in joints:
        family, user = menus[joint.user].family, options[joint.user]

        def cost(lanes: int, of: Offer, joint: Joint = joint, family: Family = family) -> float:
            return price(joint.resources(lanes, of.plan.fold, family), prices)

        if joint.maker in ("", joint.user):
            alone[joint.user] = alone[joint.user] + [cost(o.plan.fold.leaving, o) for o in user]
        else:
            table = [[cost(m.plan.fold.leaving, o) for o in user] for m in options[joint.maker]]
            pairs.append((joint.maker, joint.user, np.array(table)))
    chosen = cheapest(alone, pairs)
    return {name: offers[chosen[name]] for name, offers in options.items()}


def _options(offers: Sequence[Offer], prices: Prices) -> list[Offer]:
    """The cheapest offer for each way to take and to give elements."""
    best: dict[tuple[int, int, int, bool], Offer] = {}
    for offer in sorted(offers, key=lambda o: (o.least(prices), o.cycles)):
        fold = offer.plan.fold
        best.setdefault((fold.pe, fold.leaving, fold.simd, fold.form == "engine"), offer)
    return list(best.values())


def _solution(menus: Mapping[str, Menu], budget: int, offers: Mapping[str, Offer], joints: Sequence[Joint]) -> Solution:
    plans = {n: replace(o.plan, rivals=tuple(map(_rival, menus[n].rivals(budget)))) for n, o in offers.items()}
    between = Resources()
    for joint in joints:
        lanes = offers[joint.maker or joint.user].plan.fold.leaving
        between += joint.resources(lanes, offers[joint.user].plan.fold, menus[joint.user].family)
    return Solution(budget, offers, plans, between)


def _rival(offer: Offer) -> Rival:
    return Rival(offer.plan.fold, offer.cycles, offer.resources.lut, offer.is_guess)


def _too_fast(menu: Menu, budget: int) -> Problem:
    best = menu.fastest
    if best.cycles <= budget:
        cycles = min(menu.pool_cycles(o.plan.fold.leaving) for o in menu.offers if o.cycles <= budget)
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


def fastest(menus: Mapping[str, Menu], device: Device, besides: Resources, joints: Sequence[Joint] = ()) -> Solution:
    """The fastest hardware that fits a device.

    Parameters
    ----------
    besides : Resources
        Of all that is neither in the menus nor in the joints.

    Raises
    ------
    UsageError
        Nothing fits; names what is too much, and the layers that take most of it.
    """
    low = max((m.fastest.cycles for m in menus.values()), default=1)
    high = max((m.slowest for m in menus.values()), default=1)
    best = fitting(menus, high, device, besides, joints)
    if best is None:
        best = least(menus, high, joints)
        problems = _too_large(best, device, besides)
        if problems:
            raise UsageError(problems)
    while low < high:
        middle = (low + high) // 2
        found = fitting(menus, middle, device, besides, joints)
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
    return best


def fitting(
    menus: Mapping[str, Menu], budget: int, device: Device, besides: Resources, joints: Sequence[Joint] = ()
) -> Solution | None:
    """A choice within a budget that fits a device, with few LUTs; None where none is found.

    Where the choice of the fewest LUTs does not fit, what is scarce is made dearer, step by step; and layers are packed
    into what is left of the device, with what stands between them taken to need what it did at the last prices. The
    latter is exact where nothing stands between the layers.
    """
    if not all(menu.able(budget) for menu in menus.values()):
        return None
    found, prices = [], USUAL
    for _ in range(DEARER):
        solution = least(menus, budget, joints, prices)
        total = solution.resources + besides
        if device.holds(total):
            if prices == USUAL:
                return solution
            found.append(solution)
            break
        prices = _dearer(prices, total, device)
    found += _pack(menus, budget, device, besides + solution.between, joints)
    fits = [s for s in found if device.holds(s.resources + besides)]
    return min(fits, key=lambda s: s.resources.lut, default=None)


def _dearer(prices: Prices, need: Resources, device: Device) -> Prices:
    """Prices at which what does not fit costs more."""
    lut, ff, bram = prices
    return (
        lut * (2 if need.lut > device.lut else 1),
        ff * (10 if need.ff > device.ff else 1),
        bram * (10 if need.bram > device.bram else 1),
    )


def _pack(
    menus: Mapping[str, Menu], budget: int, device: Device, besides: Resources, joints: Sequence[Joint]
) -> list[Solution]:
    """The choice of the fewest LUTs that fits into what is left of a device, if there is one."""
    room = (device.lut - besides.lut, device.ff - besides.ff, device.bram - besides.bram)
    while True:
        found = _packed([menu.able(budget) for menu in menus.values()], room)
        if found is None:
            return []
        guesses = [(menu, o) for menu, o in zip(menus.values(), found, strict=True) if o.is_guess]
        if not guesses:
            return [_solution(menus, budget, dict(zip(menus, found, strict=True)), joints)]
        _search(guesses)


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
                f"the smallest design needs about {need} {name}, and of {device.name} {have} can be filled; most are for"
                " these layers"
            )
            hint = "choose a larger --target, fewer bits (--act-bits) or a sparser network (--prune)"
            problems.append(Problem("too-large", message, tuple(o.plan.label for o in largest), hint))
    return problems
