"""The whole mapping: what was asked for is met, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from tcompile.errors import Problem, UsageError
from tcompile.ir.graph import Graph
from tcompile.mapping.cycles import predict
from tcompile.mapping.folding import Fold
from tcompile.mapping.network import map_network, plan_layers
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import Choice
from tests.networks import Builder, one_layer, queues


def chain() -> Graph:
    b = Builder()
    x = b.conv(b.input((1, 2, 8, 8)), np.ones((8, 2, 3, 3), int), pads=(1,) * 4)
    x = b.conv(b.pool(x, (2, 2), (2, 2)), np.ones((4, 8, 3, 3), int))
    return b.graph(b.dense(b.reshape(x, (1, 16)), np.ones((10, 16), int)))


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


def test_lower_targets_take_more_lanes():
    lanes = [
        sum(p.fold.lanes for p in map_network(chain(), Choice(budget=b)).plans.values())
        for b in (10_000, 1200, 576, 300)
    ]
    assert lanes == sorted(set(lanes))
    assert lanes[0] == 3


def test_target_that_no_folding_meets_is_refused_wrong():
    with pytest.raises(UsageError) as caught:
        map_network(chain(), Choice(budget=60))
    assert {p.code for p in caught.value.problems} == {"too-fast"}


def test_budget_of_the_layers_is_lowered_where_the_pipeline_has_bubbles():
    graph, value = one_layer(130)
    plan = plan_layers(graph, Choice(budget=28))[value]
    alone = place(graph, Recipe({value: plan.fold}, 8, plan.cycles))
    assert plan.cycles <= 28 < predict(alone).interval
    assert map_network(graph, Choice(budget=28)).cycles.interval <= 28


def test_target_that_bubbles_make_unreachable_is_refused_wrong():
    graph, value = one_layer(130)
    assert plan_layers(graph, Choice(budget=15))[value].cycles == 15
    with pytest.raises(UsageError) as caught:
        map_network(graph, Choice(budget=15))
    assert caught.value.problems == (
        Problem(
            "too-fast",
            "the pipeline must take at most 15 cycles per frame, and takes 20",
            hint="ask for fewer frames per second, or give a higher --clock-mhz",
        ),
    )
