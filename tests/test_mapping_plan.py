"""Plans: the cycles formula against the cycle model, the solver against trying everything, wishes that cannot be."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.errors import UsageError
from tcompile.ir.graph import Graph, Origin
from tcompile.mapping.cycles import predict
from tcompile.mapping.folding import Fold, Folding, Wish
from tcompile.mapping.geometry import Geometry
from tcompile.mapping.layout import channels_last
from tcompile.mapping.linear import Linear, linear
from tcompile.mapping.network import plan_layers
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import Choice, Plan, labels
from tcompile.mapping.schedule import schedule
from tests.networks import Builder, one_layer


def asked(graph: Graph, value: str, pe: int, simd: int) -> Plan:
    return plan_layers(graph, Choice(pe, simd))[value]


@given(st.integers(0, 1 << 20), st.integers(1, 8), st.integers(1, 12))
@settings(max_examples=120)
def test_cycles_of_a_layer_alone_are_those_of_the_cycle_model(seed, pe, simd):
    graph, value = one_layer(seed)
    plan = asked(graph, value, pe, simd)
    design = place(graph, Recipe({value: plan.fold}, plan.fold.pe if plan.layer.is_depthwise else simd, plan.cycles))
    found = predict(design).interval
    assert found is not None
    if plan.layer.is_packed(plan.fold) and plan.layer.padded_grid[:-1] != plan.layer.grid[:-1]:
        assert found >= plan.cycles  # two blocks that insert padding wait for each other now and then
    else:
        assert found == plan.cycles


@given(st.integers(0, 1 << 20), st.integers(1, 8), st.integers(1, 12))
@settings(max_examples=60)
def test_numbers_of_a_plan_are_those_of_its_schedule(seed, pe, simd):
    graph, value = one_layer(seed)
    plan = asked(graph, value, pe, simd)
    layer, fold = plan.layer, plan.fold
    packed = layer.is_packed(fold)
    kernel = (*layer.kernel[:-1], 1) if packed else layer.kernel
    lanes = fold.pe if layer.is_depthwise else fold.simd
    elements = layer.kernel[-1] * layer.channels if packed else layer.groups * layer.channels
    g = Geometry(layer.padded_grid, kernel, layer.strides, layer.dilations, -(-elements // lanes))
    found = schedule(layer, fold, g)
    assert (plan.tiles, plan.kept, plan.entries) == (found.tiles_all, found.kept, len(found.entries))
    assert plan.positions == prod(layer.out)
    assert plan.cycles == max(plan.positions * plan.entries, plan.beats)
    assert (fold.pe, fold.simd) == (min(pe, fold.pe), min(simd, fold.simd))


# --- names -----------------------------------------------------------------------------------------------------------


def test_layers_are_called_by_their_last_onnx_node_and_stay_apart():
    b = Builder()
    x = b.input((1, 2))
    for _ in range(4):
        x = b.dense(x, np.ones((2, 2), int))
    names = [(), (("a", "Conv"), ("fc", "Add")), (("fc", "Gemm"),), (("", "Gemm"),), (("fc_2", "Gemm"),)]
    for node, origin in zip(b.nodes, names, strict=True):
        object.__setattr__(node, "origin", Origin(origin))
    assert list(labels(b.graph(x)).values()) == ["Input_0", "fc", "fc_2", "Dense_3", "fc_2_2"]
    assert list(labels(b.graph(x))) == ["v0", "v1", "v2", "v3", "v4"]


# --- wishes ----------------------------------------------------------------------------------------------------------


def two_layers() -> Graph:
    """A grouped convolution (groups of 6 x 4), and a dense layer of 3 x 24."""
    b = Builder()
    x = b.input((1, 8, 3))
    y = b.conv(x, np.ones((12, 4, 2), int), group=2)
    return b.graph(b.dense(b.reshape(y, (1, 24)), np.ones((3, 24), int)))


def folds(choice: Choice) -> dict[str, Fold]:
    return {name: plan.fold for name, plan in plan_layers(two_layers(), choice).items()}


def test_wishes_come_before_defaults_and_these_before_options():
    layers = {"Conv_1": Wish(pe=2), "Dense_3": Wish(simd=6)}
    assert folds(Choice(3, 2, Folding(layers, Wish(pe=1)))) == {"v1": Fold(2, 2), "v3": Fold(1, 6)}
    assert folds(Choice(3, 2, Folding(layers, Wish(simd=1)))) == {"v1": Fold(2, 1), "v3": Fold(3, 6)}
    assert folds(Choice(3, 2)) == {"v1": Fold(3, 2), "v3": Fold(3, 2)}
    assert folds(Choice()) == {"v1": Fold(6, 4), "v3": Fold(3, 8)}
    assert folds(Choice(5, 3)) == {"v1": Fold(3, 2), "v3": Fold(3, 3)}


def test_plans_have_labels():
    assert [p.label for p in plan_layers(two_layers(), Choice()).values()] == ["Conv_1", "Dense_3"]


def problems(choice: Choice, graph: Graph | None = None) -> list[tuple[str, str, tuple[str, ...], str]]:
    with pytest.raises(UsageError) as caught:
        plan_layers(graph or two_layers(), choice)
    return [(p.code, p.message, p.where, p.hint) for p in caught.value.problems]


@pytest.mark.parametrize(
    "wish, message, hint",
    [
        (Wish(pe=7), "PE must be at most 6 (output channels of a group) and divide it, since the layer is grouped and is 7", 6),
        (Wish(pe=4), "PE must be at most 6 (output channels of a group) and divide it, since the layer is grouped and is 4", 3),
        (Wish(simd=3), "SIMD must be at most 4 (input channels of a tap, or of a row of taps) and divide it, since the layer is grouped and is 3", 2),
        (Wish(pe=2, simd=8), "SIMD must be at most 4 (input channels of a tap, or of a row of taps) and divide it, since the layer is grouped and is 8", 4),
    ],
)  # fmt: skip
def test_lanes_that_a_grouped_layer_cannot_have_are_refused_wrong(wish, message, hint):
    assert problems(Choice(folding=Folding({"Conv_1": wish}))) == [
        ("bad-folding", message, ("Conv_1",), f"the next that is possible is {hint}")
    ]


def test_lanes_beyond_the_layer_are_refused_wrong():
    found = problems(Choice(folding=Folding({"Dense_3": Wish(4, 25)})))
    assert [m for _, m, _, _ in found] == [
        "PE must be at most 3 (output channels of a group) and is 4",
        "SIMD must be at most 24 (input channels of a tap, or of a row of taps) and is 25",
    ]


def test_depthwise_layer_takes_any_pe_but_no_simd_wrong():
    b = Builder()
    graph = b.graph(b.conv(b.input((1, 4, 5)), np.ones((4, 1, 2), int), group=4))
    assert plan_layers(graph, Choice(folding=Folding({"Conv_1": Wish(3, 1)})))["v1"].fold == Fold(3, 1)
    ((_, message, _, _),) = problems(Choice(folding=Folding({"Conv_1": Wish(simd=2)})), graph)
    assert message == "SIMD must be at most 1 (input channels of a tap, or of a row of taps) and is 2"


def test_all_layers_are_refused_at_once_wrong():
    layers = {"Conv_1": Wish(pe=5), "Dense_3": Wish(pe=5)}
    assert [where for _, _, where, _ in problems(Choice(folding=Folding(layers)))] == [("Conv_1",), ("Dense_3",)]
    assert [where for _, _, where, _ in problems(Choice(folding=Folding({"Conv_1": Wish(pe=5)}), budget=1))] == [
        ("Conv_1",),
        ("Dense_3",),
    ]


# --- least lanes -----------------------------------------------------------------------------------------------------


def candidates(layer: Linear) -> list[Fold]:
    """Parts that divide the whole and powers of two, as far as they are legal."""
    rows = layer.groups if layer.is_depthwise else layer.rows
    parts = [[n for n in range(1, m + 1) if m % n == 0 or n in (1, 2, 4, 8, 16, 32)] for m in (rows, layer.limits()[1])]
    return [Fold(p, s) for p, s in product(*parts) if layer.legal(p, s)]


@given(st.integers(0, 1 << 20), st.floats(0, 1))
@settings(max_examples=60)
def test_no_candidate_with_fewer_lanes_meets_the_budget(seed, share):
    graph, value = one_layer(seed)
    layer = linear(graph[value], channels_last(graph["v0"].type.shape, 1))
    if len(graph["v0"].type.shape) == 2 or not hasattr(graph[value], "group"):
        layer = asked(graph, value, 1, 1).layer
    plans = {fold: asked(graph, value, fold.pe, fold.simd) for fold in candidates(layer)}
    cycles = sorted({p.cycles for p in plans.values()})
    budget = cycles[int(share * (len(cycles) - 1))]
    fast = [fold for fold, p in plans.items() if p.cycles <= budget]
    best = min(fast, key=lambda f: (f.lanes, f.pe))
    assert plan_layers(graph, Choice(budget=budget))[value].fold == best
    with pytest.raises(UsageError):
        plan_layers(graph, Choice(budget=cycles[0] - 1))


def test_budget_out_of_reach_names_the_layer_and_its_best_wrong():
    assert problems(Choice(budget=4)) == [
        (
            "too-fast",
            "must take at most 4 cycles per frame, and with all its 24 lanes takes 8",
            ("Conv_1",),
            "ask for fewer frames per second, or give a higher --clock-mhz",
        )
    ]


def test_wishes_hold_within_a_budget():
    layers = {"Conv_1": Wish(pe=2), "Dense_3": Wish(simd=24)}
    assert folds(Choice(folding=Folding(layers), budget=24)) == {"v1": Fold(2, 4), "v3": Fold(1, 24)}
    assert folds(Choice(budget=10_000)) == {"v1": Fold(1, 1), "v3": Fold(1, 1)}


@pytest.mark.parametrize("budget, pe", [(56, 1), (55, 2), (28, 2), (27, 4), (14, 4)])
@pytest.mark.parametrize("maximum", [True, False])
def test_pools_behind_a_layer_need_its_lanes(budget, pe, maximum):
    """A pool of 7 x 2 places takes 14 cycles for every beat of its 4 channels; the layer itself takes 8 for each row."""
    b = Builder()
    y = b.conv(b.input((1, 1, 8)), np.ones((4, 1, 1), int))
    plan = plan_layers(b.graph(b.pool(b.add_scaled(y, y), (2,), maximum=maximum)), Choice(budget=budget))["v1"]
    assert plan.fold == Fold(pe, 1)


def test_pools_behind_pools_count_and_those_behind_other_layers_do_not():
    b = Builder()
    y = b.pool(b.conv(b.input((1, 1, 8)), np.ones((4, 1, 1), int)), (1,))
    first = b.graph(b.pool(y, (4,)))
    assert plan_layers(first, Choice(budget=79))["v1"].fold == Fold(2, 1)
    z = b.conv(y, np.ones((4, 4, 1), int))
    assert plan_layers(b.graph(b.pool(z, (4,))), Choice(budget=79))["v1"].fold == Fold(1, 1)


def test_pools_out_of_reach_are_refused_wrong():
    b = Builder()
    y = b.conv(b.input((1, 1, 8)), np.ones((4, 1, 1), int))
    assert problems(Choice(budget=13), b.graph(b.pool(y, (2,), maximum=False)))[0][0] == "too-fast"
