"""Menus: every way to build a layer within its wishes, less what nobody would choose, and searches only where needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.mapping import graphs, menu
from tcompile.mapping.cost import cost
from tcompile.mapping.estimate import Resources
from tcompile.mapping.folding import DIGITS, FORMS, Fold, Form, Wish
from tcompile.mapping.menu import Menu, Offer, price, steps
from tcompile.mapping.plan import Task, planned, tasks
from tcompile.mapping.solver import least
from tests.networks import Builder, one_layer


def task_of(seed: int) -> Task:
    graph, value = one_layer(seed)
    return tasks(graph)[value]


def conv_task(pools: tuple[tuple[int, int], ...] = ()) -> Task:
    """Six rows of 4 x 2 weights over seven positions."""
    b = Builder()
    value = b.conv(b.input((1, 4, 8)), np.ones((6, 4, 2), int))
    return replace(tasks(b.graph(value))[value], pools=pools)


def menu_of(task: Task, wish: Wish = Wish(), others: Wish = Wish(), spacing: int = 2) -> Menu:
    return menu.menu(task, wish, others, spacing, "ecp5")


def folds(found: Menu, form: Form) -> list[Fold]:
    return [o.plan.fold for o in found.offers if o.plan.fold.form == form]


def all_offers(task: Task) -> list[Offer]:
    """Every folding that a menu tries, with what it costs."""
    layer = task.layer
    tried = []
    for form in FORMS:
        pes, simds = map(steps, layer.limits(form))
        details = [(d, 1) for d in DIGITS] if form == "serial" else [(1, 2 if form == "parallel" else 1)]
        tried += [Fold(p, s, form, *d) for p in pes for s in simds for d in details if layer.legal(p, s, form)]
    if layer.planes > 1:
        tried += [replace(fold, coded=True) for fold in tried if fold.form == "engine"]
    return [Offer(plan, plan.cycles, cost(task, plan, "ecp5")) for plan in (planned(task, fold) for fold in tried)]


def figures(offer: Offer) -> tuple[int, ...]:
    r = offer.own
    return offer.cycles, r.lut, r.ff, r.bram


def lanes(offer: Offer) -> tuple[str, int, int]:
    fold = offer.plan.fold
    return fold.form, fold.pe, fold.simd


def best(of: Menu, budget: int) -> Offer | None:
    """What the solver takes of one menu."""
    return least({"x": of}, budget).offers["x"] if of.able(budget) else None


@pytest.mark.parametrize(
    "count, found",
    [(1, [1]), (6, [1, 2, 3, 4, 6]), (8, [1, 2, 3, 4, 8]), (9, [1, 2, 3, 4, 8, 9]), (64, [1, 2, 4, 8, 16, 22, 32, 64])],
)
def test_steps_are_divisors_and_powers_of_two_and_a_third(count, found):
    assert steps(count) == found


def test_digits_in_memory_make_lanes_smaller_and_memories_larger():
    random = np.random.default_rng(0)
    b = Builder()
    value = b.dense(b.input((1, 512), 0, 255), random.integers(-128, 128, (256, 512)))
    task = tasks(b.graph(value))[value]
    plain, coded = (planned(task, Fold(8, 16, coded=coded)) for coded in (False, True))
    assert plain.cycles == coded.cycles
    weights, digits = (cost(task, plan, "ecp5") for plan in (plain, coded))
    assert weights.lut > digits.lut and weights.bram < digits.bram


@pytest.mark.parametrize("coded", [False, True])
def test_how_weights_are_kept_may_be_asked(coded):
    b = Builder()
    task = tasks(b.graph(value := b.dense(b.input((1, 8)), np.arange(-32, 32).reshape(8, 8))))[value]
    offers = menu_of(task, Wish(form="engine", coded=coded)).offers
    assert {o.plan.fold.coded for o in offers} == {coded}


def test_ternary_weights_are_digits_already():
    assert not any(o.plan.fold.coded for o in menu_of(conv_task()).offers)


def test_flip_flops_and_memories_decide_between_equals():
    dear = [Resources(7), Resources(6, 900, 0), Resources(6, 2, 1), Resources(6, 2, 0), Resources(6, 1, 0)]
    assert sorted(dear, key=price) == dear[::-1]


@given(st.integers(0, 1 << 20))
@settings(max_examples=15)
def test_only_what_is_beaten_in_everything_is_left_out(seed):
    task = task_of(seed)
    kept = menu_of(task).offers
    known = {o.plan.fold: o for o in kept}
    for offer in all_offers(task):
        rivals = [o for o in kept if lanes(o) == lanes(offer)]
        if offer.plan.fold in known:
            assert figures(known[offer.plan.fold]) == figures(offer)
        else:
            assert any(all(a <= b for a, b in zip(figures(o), figures(offer), strict=True)) for o in rivals)


@given(st.integers(0, 1 << 20))
@settings(max_examples=15)
def test_what_is_left_beats_nothing_else_with_its_lanes(seed):
    offers = menu_of(task_of(seed)).offers
    for k, mine in enumerate(offers):
        for other in offers[:k]:
            beaten = all(a <= b for a, b in zip(figures(other), figures(mine), strict=True))
            assert not (beaten and lanes(other) == lanes(mine))


# --- wishes ------------------------------------------------------------------------------------------------------------


def test_wishes_hold_as_they_are():
    """No graph gives six rows in parts of four, or takes more lanes than there are channels."""
    assert folds(menu_of(conv_task(), Wish(pe=4, simd=3)), "engine") == [Fold(4, 3)]
    assert folds(menu_of(conv_task(), Wish(pe=4)), "serial") == []
    assert folds(menu_of(conv_task(), Wish(simd=8)), "parallel") == []
    assert {f.pe for f in folds(menu_of(conv_task(), Wish(pe=3)), "serial")} == {3}


def test_defaults_hold_as_far_as_they_can():
    found = menu_of(conv_task(), others=Wish(pe=4, simd=8))
    assert folds(found, "engine") == [Fold(4, 8)]
    assert {(f.pe, f.simd) for f in folds(found, "serial")} == {(3, 4)}


@pytest.mark.parametrize("form", FORMS)
def test_form_that_is_wished_is_the_only_one(form):
    assert {o.plan.fold.form for o in menu_of(conv_task(), Wish(form=form)).offers} == {form}


def test_digits_and_spacing_are_those_wished_then_those_of_all_then_any():
    def digits(*wishes: Wish) -> set[int]:
        return {f.digit for f in folds(menu_of(conv_task(), *wishes), "serial")}

    def spacing(*wishes: Wish) -> set[int]:
        return {f.spacing for f in folds(menu_of(conv_task(), *wishes, spacing=3), "parallel")}

    assert digits(Wish(form="serial", digit=2), Wish(digit=4)) == {2}
    assert digits(Wish(), Wish(digit=4)) == {4}
    assert digits() > {1}
    assert spacing(Wish(form="parallel", spacing=5), Wish(spacing=1)) == {5}
    assert spacing(Wish(), Wish(spacing=1)) == {1}
    assert spacing() == {3}


def test_layer_with_too_many_digits_has_no_graphs(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_DIGITS", 47)
    assert {o.plan.fold.form for o in menu_of(conv_task()).offers} == {"engine"}


# --- choosing ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 20), st.floats(0, 1))
@settings(max_examples=30)
def test_best_is_the_cheapest_of_all_whatever_a_search_finds(seed, share):
    task = task_of(seed)
    found, known = menu_of(task), menu_of(task)
    known.search("serial")
    known.search("parallel")
    cycles = sorted({o.cycles for o in known.offers})
    budget = cycles[int(share * (len(cycles) - 1))]
    cheapest = min(price(o.resources) for o in known.able(budget))
    chosen = best(found, budget)
    assert chosen is not None and not chosen.is_guess and chosen.cycles <= budget
    assert price(chosen.resources) == cheapest
    assert best(found, cycles[0] - 1) is None


def guessing(costs: dict[Form, int], real: dict[Form, int], monkeypatch) -> tuple[Menu, list[Form]]:
    """A menu of one offer of each form with these costs, of which those of graphs are guesses; and its searches."""
    task, searched = conv_task(), []
    plans = {form: planned(task, Fold(1, 1, form)) for form in costs}

    def search(task, plan):
        searched.append(plan.fold.form)
        return replace(plan, graph=graphs.adder_graph(task.layer, plan.fold, (0, 15)))

    monkeypatch.setattr(menu, "searched", search)
    monkeypatch.setattr(menu, "cost", lambda task, plan, family: Resources(real[plan.fold.form]))
    return Menu(task, [Offer(plans[f], 100, Resources(c)) for f, c in costs.items()], "ecp5"), searched


@pytest.mark.parametrize(
    "real, searched, chosen",
    [
        ({"serial": 900, "parallel": 0}, ["serial"], 900),
        ({"serial": 1300, "parallel": 0}, ["serial"], 1000),
    ],
)
def test_graph_is_searched_where_luck_would_make_it_the_cheapest(real, searched, chosen, monkeypatch):
    found, seen = guessing({"engine": 1000, "serial": 1200, "parallel": 1500}, real, monkeypatch)
    offer = best(found, 100)
    assert offer is not None and (offer.own.lut, seen) == (chosen, searched)
    best(found, 100)
    assert seen == searched


def test_nothing_is_searched_where_an_engine_is_far_cheaper(monkeypatch):
    found, seen = guessing({"engine": 500, "serial": 1200, "parallel": 1400}, {}, monkeypatch)
    offer = best(found, 100)
    assert offer is not None and (offer.plan.fold.form, seen) == ("engine", [])


def test_rivals_are_the_cheapest_of_each_form_within_the_budget():
    found = menu_of(conv_task())
    best(found, 14)
    rivals = found.rivals(14)
    assert [o.resources.lut for o in rivals] == sorted(o.resources.lut for o in rivals)
    assert len({o.plan.fold.form for o in rivals}) == len(rivals)
    assert all(o.cycles <= 14 for o in rivals)
    assert found.rivals(0) == ()


def test_guesses_count_as_lucky_searches():
    plan = planned(conv_task(), Fold(1, 1, "serial"))
    guess = Offer(plan, 9, Resources(400, 800, 3))
    assert guess.is_guess and guess.needs == (250, 550, 3) and guess.least() == price(Resources(250, 550, 3))
    assert replace(guess, behind=Resources(9, 8, 7)).needs == (259, 558, 10)
    engine = replace(guess, plan=planned(conv_task(), Fold(1, 1)))
    assert not engine.is_guess and engine.needs == (400, 800, 3) and engine.least() == price(engine.resources)


# --- pools -------------------------------------------------------------------------------------------------------------


def test_pools_behind_a_layer_need_its_lanes():
    found = menu_of(conv_task(pools=((14, 6), (20, 2))))
    assert [found.pool_cycles(pe) for pe in (1, 2, 3, 6)] == [84, 42, 28, 20]
    offer = best(found, 30)
    assert offer is not None and offer.plan.fold.pe >= 3
    assert best(found, 19) is None


def test_slowest_counts_pools():
    assert menu_of(conv_task(pools=((1000, 6),)), Wish(pe=2)).slowest == 3000
    found = menu_of(conv_task())
    assert found.slowest == max(o.cycles for o in found.offers)
    assert found.fastest.cycles == min(o.cycles for o in found.offers)
