"""The whole mapping: what was asked for is met, or refused."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from tcompile.errors import Problem, UsageError
from tcompile.ir.graph import Graph
from tcompile.mapping import menu, network
from tcompile.mapping.cycles import predict
from tcompile.mapping.devices import Device
from tcompile.mapping.estimate import Resources
from tcompile.mapping.folding import Fold, Folding, Wish
from tcompile.mapping.menu import Menu, Offer
from tcompile.mapping.network import map_network, plan_layers
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import Choice, Task, planned
from tests.networks import Builder, differences, frames_of, one_layer, queues


def chain() -> Graph:
    b, random = Builder(), np.random.default_rng(0)

    def ternary(*shape: int) -> np.ndarray:
        return random.integers(-1, 2, shape)

    x = b.conv(b.input((1, 2, 8, 8)), ternary(8, 2, 3, 3), pads=(1,) * 4)
    x = b.conv(b.pool(x, (2, 2), (2, 2)), ternary(4, 8, 3, 3))
    return b.graph(b.dense(b.reshape(x, (1, 16)), ternary(10, 16)))


def residual() -> Graph:
    b = Builder()
    x = b.input((1, 4, 6, 6))
    y = b.conv(x, np.ones((4, 4, 3, 3), int), pads=(1,) * 4)
    return b.graph(b.add_scaled(x, y))


def test_lanes_are_those_asked_for():
    mapped = map_network(chain(), Choice(4, 2))
    assert mapped.recipe.folds == {"v1": Fold(4, 2), "v3": Fold(4, 2), "v5": Fold(4, 2)}
    assert mapped.recipe.folds == {name: plan.fold for name, plan in mapped.plans.items()}
    assert (mapped.recipe.lanes, mapped.recipe.pace) == (2, max(p.cycles for p in mapped.plans.values()))


def test_design_is_that_of_the_recipe_and_runs_in_its_cycles():
    mapped = map_network(residual(), Choice(2, 2))
    assert mapped.recipe.depths
    assert {n: q.depth for n, q in queues(mapped.design).items() if n in mapped.recipe.depths} == mapped.recipe.depths
    again = place(residual(), mapped.recipe)
    assert again.instances == mapped.design.instances
    assert mapped.cycles == predict(again)


def test_network_without_layers_has_no_pace():
    b = Builder()
    assert map_network(b.graph(b.pool(b.input((1, 2, 4)), (2,))), Choice()).recipe.pace == 1


@pytest.mark.parametrize("budget", [10_000, 1200, 576, 300])
def test_target_is_met(budget):
    mapped = map_network(chain(), Choice(budget=budget))
    assert mapped.cycles.interval <= budget


def test_lower_targets_take_more_hardware():
    """Only what memories hold is not known to the solver: equal columns of weights are one."""
    luts = [map_network(chain(), Choice(budget=b)).total().lut for b in (10_000, 1200, 576, 300, 150)]
    assert all(slower <= 1.03 * faster for slower, faster in pairwise(luts))
    assert luts[0] < luts[-1]


def test_forms_may_differ_from_layer_to_layer():
    layers = {"Conv_1": Wish(form="serial", digit=2), "Conv_3": Wish(form="parallel")}
    mapped = map_network(chain(), Choice(2, 2, Folding(layers)))
    assert [(p.fold.form, p.graph is None) for p in mapped.plans.values()] == [
        ("serial", False),
        ("parallel", False),
        ("engine", True),
    ]
    assert mapped.recipe.graphs == {name: mapped.plans[name].graph for name in ("v1", "v3")}
    frames = frames_of(chain(), 2)
    assert differences(mapped.design, chain(), frames) == []
    again = place(chain(), Recipe.from_json(json.loads(json.dumps(mapped.recipe.to_json()))))
    assert again.instances == mapped.design.instances


def test_target_that_no_folding_meets_is_refused_wrong():
    with pytest.raises(UsageError) as caught:
        map_network(chain(), Choice(budget=40))
    assert {p.code for p in caught.value.problems} == {"too-fast"}


def test_budget_of_the_layers_is_lowered_where_the_pipeline_has_bubbles(monkeypatch):
    def two(task: Task, *_: object) -> Menu:
        plans = [planned(task, Fold(1, simd)) for simd in (2, 3)]
        return Menu(task, [Offer(p, p.cycles, Resources(p.fold.simd)) for p in plans], "ecp5")

    monkeypatch.setattr(network, "menu", two)
    monkeypatch.setattr(network, "joints", lambda *_: ())
    graph, value = one_layer(130)
    plan = plan_layers(graph, Choice(budget=28))[value]
    alone = place(graph, Recipe({value: plan.fold}, 8, plan.cycles))
    assert plan.cycles == 28 < predict(alone).interval
    assert map_network(graph, Choice(budget=28)).cycles.interval == 20


def test_target_that_bubbles_make_unreachable_is_refused_wrong():
    graph, value = one_layer(130)
    assert plan_layers(graph, Choice(budget=15, form="engine"))[value].cycles == 15
    with pytest.raises(UsageError) as caught:
        map_network(graph, Choice(budget=15, form="engine"))
    assert caught.value.problems == (
        Problem(
            "too-fast",
            "the pipeline must take at most 15 cycles per frame, and takes 20",
            hint="ask for fewer frames per second, or give a higher --clock-mhz",
        ),
    )


# --- targets -----------------------------------------------------------------------------------------------------------


def part(of: Resources, **other: int) -> Device:
    """A device that holds so much, or else of some."""
    return Device("x", "ecp5", **{"lut": of.lut, "ff": of.ff, "bram": of.bram} | other)


@pytest.mark.parametrize("budget", [10_000, 1200, 576, 300])
def test_fastest_design_that_fits_does(budget):
    """A little more than what a rate needs is enough for about that rate, whatever stands between the layers."""
    asked = map_network(chain(), Choice(budget=budget))
    device = part(asked.total(), lut=asked.total().lut * 6 // 5, ff=9**9, bram=99)
    mapped = map_network(chain(), Choice(target=device))
    assert device.holds(mapped.total())
    assert mapped.interval <= 1.3 * asked.interval


def test_room_for_everything_is_as_fast_as_can_be():
    """The first layer takes the 10 x 10 positions of its padded input one by one."""
    mapped = map_network(chain(), Choice(target=Device("x", "ecp5", 9**9, 9**9, 9**9)))
    assert max(p.cycles for p in mapped.plans.values()) == 100


def test_fastest_plans_are_those_of_the_layers_alone():
    need = map_network(chain(), Choice(budget=576)).total()
    plans = plan_layers(chain(), Choice(target=part(need, lut=need.lut * 11 // 10, ff=9**9, bram=99)))
    assert max(p.cycles for p in plans.values()) <= 576


def test_device_is_checked_where_a_rate_is_asked_for_wrong():
    need = map_network(chain(), Choice(budget=576)).total()
    assert map_network(chain(), Choice(budget=576, target=part(need))).interval <= 576
    with pytest.raises(UsageError) as caught:
        map_network(chain(), Choice(budget=576, target=part(need, lut=need.lut // 2)))
    (problem,) = caught.value.problems
    assert problem.code == "too-large"
    assert problem.message.startswith(f"the design must fit x (of which {need.lut // 2} LUTs, ")
    assert f" and takes about {need.lut} LUTs, {need.ff} flip-flops and {need.bram} block RAMs; most" in problem.message
    assert set(problem.where) == {"Conv_1", "Conv_3", "Dense_5"}
    assert problem.hint == "choose a larger --target, or ask for fewer frames per second"


def test_scarce_flip_flops_are_saved_within_a_rate(monkeypatch):
    """What a rate alone would give has more flip-flops than the device, and more LUTs make up for them."""

    def two(task: Task, *_: object) -> Menu:
        plans = [planned(task, Fold(1, simd)) for simd in (1, 2)]
        return Menu(task, [Offer(plans[0], 9, cheap), Offer(plans[1], 9, lean)], "ecp5")

    graph, value = one_layer(130)
    wishes = [Folding(defaults=Wish(pe=1, simd=simd, form="engine")) for simd in (1, 2)]
    real = [map_network(graph, Choice(budget=100, folding=wish)).total() for wish in wishes]
    assert real[0].ff < real[1].ff
    cheap, lean = Resources(30, real[0].ff, 0), Resources(20, real[1].ff, 0)
    monkeypatch.setattr(network, "menu", two)
    monkeypatch.setattr(network, "joints", lambda *_: ())
    monkeypatch.setattr(menu, "cost_behind", lambda *_: Resources())
    assert map_network(graph, Choice(budget=100)).plans[value].fold == Fold(1, 2)
    device = part(Resources(9**9, real[0].ff, 99))
    assert map_network(graph, Choice(budget=100, target=device)).plans[value].fold == Fold(1, 1)


def test_device_too_small_for_anything_is_refused_wrong():
    with pytest.raises(UsageError) as caught:
        map_network(chain(), Choice(target=Device("x", "ecp5", 10, 10, 1)))
    assert {p.code for p in caught.value.problems} == {"too-large"}


def test_device_that_holds_the_layers_but_not_what_is_between_them_is_refused_wrong(monkeypatch):
    def little(task: Task, *_: object) -> Menu:
        return Menu(task, [Offer(planned(task, Fold(1, 1)), 9, Resources(1, 1, 0))], "ecp5")

    monkeypatch.setattr(network, "menu", little)
    monkeypatch.setattr(network, "joints", lambda *_: ())
    monkeypatch.setattr(menu, "cost_behind", lambda *_: Resources())
    with pytest.raises(UsageError) as caught:
        map_network(chain(), Choice(target=Device("x", "ecp5", 5, 9**9, 99)))
    (problem,) = caught.value.problems
    assert problem.code == "too-large"
    assert problem.message.startswith("the design must fit x (of which 5 LUTs, ")
