"""The solver against trying everything: least hardware within a budget, fastest within a device, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.errors import UsageError
from tcompile.ir.graph import Graph
from tcompile.ir.requantizers import Comparators
from tcompile.mapping import solver
from tcompile.mapping.devices import Device
from tcompile.mapping.estimate import Resources
from tcompile.mapping.folding import FORMS, Fold, Wish
from tcompile.mapping.menu import Menu, Offer, menu, price
from tcompile.mapping.plan import planned, tasks
from tcompile.mapping.solver import fastest, fitting, least
from tests.networks import Builder

PLENTY = 1 << 40


def network(seed: int, layers: int = 3) -> Graph:
    """A chain of small convolutions."""
    b, random = Builder(), np.random.default_rng(seed)
    x = b.input((1, int(random.integers(1, 5)), 6))
    for _ in range(layers):
        shape = (int(random.integers(2, 7)), b.shape(x)[1], int(random.integers(1, 3)))
        x = b.requantize(b.conv(x, random.integers(-1, 2, shape)), levels(random))
    return b.graph(x)


def levels(random: np.random.Generator) -> Comparators:
    return Comparators((np.sort(random.integers(-20, 20, 3)),), (np.arange(4),))


def menus(graph: Graph, wish: Wish = Wish(), *, searched: bool = False) -> dict[str, Menu]:
    found = {name: menu(task, wish, Wish(), 2, "ecp5") for name, task in tasks(graph).items()}
    if searched:
        for each in found.values():
            each.search("serial")
            each.search("parallel")
    return found


def offering(*figures: Iterable[int]) -> Menu:
    """A menu of offers with these cycles, LUTs, flip-flops and block RAMs."""
    b = Builder()
    value = b.dense(b.input((1, 2)), np.ones((3, 2), int))
    task = replace(tasks(b.graph(value))[value], carried=())
    plan = planned(task, Fold(1, 1))
    return Menu(task, [Offer(plan, cycles, Resources(*need)) for cycles, *need in figures], "ecp5")


def budgets(of: Mapping[str, Menu]) -> list[int]:
    """Every number of cycles at which a choice may change, and that all layers reach."""
    low = max(m.fastest.cycles for m in of.values())
    return sorted({o.cycles for m in of.values() for o in m.offers if o.cycles >= low})


def combinations(of: Mapping[str, Menu]) -> list[tuple[int, Resources]]:
    """Cycles of the slowest, and resources, of each choice of offers, without hurry."""
    offers: list[list[Offer]] = [m.able(PLENTY) for m in of.values()]
    return [
        (max(o.cycles for o in chosen), sum((o.resources for o in chosen), Resources())) for chosen in product(*offers)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_least_is_the_least_of_all_combinations(seed):
    graph = network(seed, 2)
    everything = combinations(menus(graph, searched=True))
    found = menus(graph)
    for budget in budgets(found):
        solution = least(found, budget)
        assert max(o.cycles for o in solution.offers.values()) <= budget
        wanted = min(price(r) for cycles, r in everything if cycles <= budget)
        assert price(solution.resources) == pytest.approx(wanted)


@given(st.integers(0, 1 << 20))
@settings(max_examples=3)
def test_more_time_never_costs_more(seed):
    """Also when each budget is asked for alone, before any graph is known."""
    graph = network(seed, 2)
    costs = [price(least(menus(graph), budget).resources) for budget in budgets(menus(graph))[:8]]
    assert costs == sorted(costs, reverse=True)


@given(st.integers(0, 1 << 20))
@settings(max_examples=8)
def test_mixed_forms_are_never_dearer_than_one(seed):
    graph = network(seed)
    mixed, single = menus(graph), [menus(graph, Wish(form=form)) for form in FORMS]
    for budget in budgets(mixed):
        cost = price(least(mixed, budget).resources)
        for of in single:
            if all(m.able(budget) for m in of.values()):
                assert cost <= price(least(of, budget).resources)


def test_plans_are_those_of_the_offers_and_know_their_rivals():
    solution = least(menus(network(1)), 40)
    for name, plan in solution.plans.items():
        offer = solution.offers[name]
        assert (plan.fold, plan.graph) == (offer.plan.fold, offer.plan.graph)
        assert plan.rivals[0].fold == plan.fold and not plan.rivals[0].is_guess
        assert all(r.cycles <= 40 for r in plan.rivals)
        assert len(plan.rivals) == len({r.fold.form for r in plan.rivals})


# --- refusals ----------------------------------------------------------------------------------------------------------


def problems(of: Mapping[str, Menu], budget: int) -> list[tuple[str, str, tuple[str, ...], str]]:
    with pytest.raises(UsageError) as caught:
        least(of, budget)
    return [(p.code, p.message, p.where, p.hint) for p in caught.value.problems]


def test_layers_that_cannot_be_so_fast_are_named_all_at_once_wrong():
    found = menus(network(0))
    assert [where for _, _, where, _ in problems(found, 1)] == [("Conv_1",), ("Conv_3",), ("Conv_5",)]


@pytest.mark.parametrize(
    "form, words",
    [("engine", "an engine of 2 x 3 lanes"), ("serial", "a serial graph"), ("parallel", "a parallel graph")],
)
def test_fastest_hardware_of_a_layer_too_slow_is_told_wrong(form, words):
    b = Builder()
    graph = b.graph(b.conv(b.input((1, 3, 4)), np.ones((2, 3, 1), int)))
    found = menus(graph, Wish(form=form))
    (best,) = (m.fastest.cycles for m in found.values())
    assert problems(found, 2) == [
        (
            "too-fast",
            f"must take at most 2 cycles per frame, and its fastest hardware, {words}, takes {best}",
            ("Conv_1",),
            "ask for fewer frames per second, or give a higher --clock-mhz, or leave its form open (--form auto)",
        )
    ]
    assert not problems(menus(graph), 2)[0][3].endswith("(--form auto)")


def test_pool_that_cannot_be_so_fast_is_told_wrong():
    b = Builder()
    y = b.conv(b.input((1, 1, 8)), np.ones((4, 1, 1), int))
    found = menus(b.graph(b.pool(y, (2,), maximum=False)))
    ((code, message, where, _),) = problems(found, 13)
    assert (code, where) == ("too-fast", ("Conv_1",))
    assert message == "the pool behind it must take at most 13 cycles per frame, and takes 14"


# --- devices -----------------------------------------------------------------------------------------------------------


def part(lut: int = PLENTY, ff: int = PLENTY, bram: int = PLENTY) -> Device:
    return Device("x", "ecp5", lut, ff, bram)


def quickest(everything: list[tuple[int, Resources]], device: Device, besides: Resources) -> int | None:
    return min((cycles for cycles, r in everything if device.holds(r + besides)), default=None)


@pytest.mark.parametrize("kind", ["lut", "ff"])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_faster_fits(seed, kind):
    found = menus(network(seed, 2), searched=True)
    everything, besides = combinations(found), Resources(300, 200, 1)
    amounts = sorted({getattr(r, kind) for _, r in everything})
    for amount in amounts[:: max(1, len(amounts) // 10)]:
        device = part(**{kind: amount + getattr(besides, kind)})
        solution = fastest(found, device, besides)
        assert device.holds(solution.resources + besides)
        assert max(o.cycles for o in solution.offers.values()) == quickest(everything, device, besides)


def test_fastest_without_limits_is_the_fastest():
    found = menus(network(0, 2))
    assert fastest(found, part(), Resources()).budget == max(m.fastest.cycles for m in found.values())


@pytest.mark.parametrize("kind", ["ff", "bram"])
def test_what_is_scarce_is_paid_for_with_luts(kind):
    """Fewest LUTs take too much of the other; each layer could do with less, and one must."""
    scarce = dict(zip(("ff", "bram"), [(30, 0), (0, 30)][kind == "bram"], strict=True))
    menus_of_two = {name: offering((9, 100, 20, 20), (9, 100 + more, 9, 9)) for name, more in (("a", 50), ("b", 400))}
    found = fitting(menus_of_two, 9, part(lut=250, **{kind: scarce[kind]}), Resources())
    assert found is not None and found.resources.lut == 250
    assert fitting(menus_of_two, 9, part(lut=249, **{kind: scarce[kind]}), Resources()) is None


@given(st.integers(0, 1 << 20))
@settings(max_examples=80)
def test_nothing_faster_fits_where_everything_is_scarce(seed):
    random = np.random.default_rng(seed)
    found = {name: offering(*random.integers(1, 100, (5, 4)).tolist()) for name in ("a", "b", "c")}
    everything = combinations(found)
    device = part(*(int(random.choice([getattr(r, k) for _, r in everything])) for k in ("lut", "ff", "bram")))
    wanted = quickest(everything, device, Resources())
    try:
        solution = fastest(found, device, Resources())
    except UsageError:
        assert wanted is None
    else:
        assert device.holds(solution.resources)
        assert max(o.cycles for o in solution.offers.values()) == wanted
        able = [r for cycles, r in everything if cycles <= solution.budget]
        fewest = min(r.lut for r in able if device.holds(r))
        assert solution.resources.lut == fewest or price(solution.resources) == min(map(price, able))


@pytest.mark.parametrize("most", [1, 3])
def test_what_is_found_fits_even_if_few_partial_choices_are_kept(most, monkeypatch):
    monkeypatch.setattr(solver, "MOST", most)
    random = np.random.default_rng(1)
    found = {name: offering(*random.integers(1, 100, (9, 4)).tolist()) for name in ("a", "b", "c", "d")}
    device = part(300, 200, 200)
    assert device.holds(fastest(found, device, Resources()).resources)


def test_pools_slower_than_all_layers_do_not_keep_a_device_from_being_met():
    b = Builder()
    y = b.conv(b.input((1, 1, 40)), np.ones((4, 1, 1), int))
    found = menus(b.graph(b.pool(y, (9,), maximum=False)), Wish(pe=4))
    solution = fastest(found, part(), Resources())
    assert solution.budget == 32 * 9


@pytest.mark.parametrize("kind, words", [("lut", "LUTs"), ("ff", "flip-flops")])
def test_device_that_holds_nothing_names_what_is_too_much_and_for_whom_wrong(kind, words):
    found = menus(network(0))
    with pytest.raises(UsageError) as caught:
        fastest(found, part(**{kind: 10}), Resources(1000, 1000))
    (problem,) = caught.value.problems
    assert problem.code == "too-large"
    assert problem.message.startswith("the smallest design needs about ")
    assert f" {words}, and of x 10 can be filled; most are for these layers" in problem.message
    assert set(problem.where) == {"Conv_1", "Conv_3", "Conv_5"}
    assert problem.hint == "choose a larger --target, fewer bits (--act-bits) or a sparser network (--prune)"
