"""Plans: the cycles formula against the cycle model, wishes and those that cannot be, lanes that pools need."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.errors import UsageError
from tcompile.ir.graph import Graph, Origin
from tcompile.ir.requantizers import Comparators
from tcompile.mapping import graphs, plan
from tcompile.mapping.cycles import predict
from tcompile.mapping.folding import DIGITS, Fold, Folding, Wish
from tcompile.mapping.geometry import Geometry
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


@given(st.integers(0, 1 << 20), st.integers(1, 8), st.integers(1, 12), st.sampled_from(DIGITS))
@settings(max_examples=60)
def test_cycles_of_a_graph_alone_are_those_of_the_cycle_model(seed, pe, simd, digit):
    graph, value = one_layer(seed)
    for form in ("serial", "parallel"):
        choice = Choice(pe, simd, Folding(defaults=Wish(digit=digit)), form=form)
        plan = plan_layers(graph, choice)[value]
        recipe = Recipe({value: plan.fold}, plan.fold.simd, plan.cycles, graphs={value: plan.graph})
        leaving = -(-plan.layer.MH // plan.fold.pe)
        found = predict(place(graph, recipe)).interval
        assert found == plan.cycles if leaving <= plan.word else abs(found - plan.cycles) <= leaving


def test_results_that_leave_slowly_do_not_leave_while_the_next_frame_comes():
    """A frame of 12 x 12 positions with a window of 3 x 3: nothing leaves while 2 rows and 3 positions come."""
    b = Builder()
    graph = b.graph(value := b.conv(b.input((1, 1, 12, 12)), np.ones((2, 1, 3, 3), int)))
    plan = plan_layers(graph, Choice(1, 1, form="parallel"))[value]
    assert plan.cycles > plan.beats == 200
    recipe = Recipe({value: plan.fold}, 1, plan.cycles, graphs={value: plan.graph})
    assert abs(predict(place(graph, recipe)).interval - plan.cycles) <= 2


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
    assert (plan.tiles, plan.words, plan.entries) == (found.tiles_all, found.words, len(found.entries))
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


def test_graphs_give_their_rows_in_equal_parts_wrong():
    layers = {"Conv_1": Wish(pe=8, form="serial"), "Dense_3": Wish(simd=13, form="parallel")}
    assert problems(Choice(folding=Folding(layers))) == [
        (
            "bad-folding",
            "PE must be at most 12 (output channels) and divide it and is 8",
            ("Conv_1",),
            "the next that is possible is 6",
        ),
        (
            "bad-folding",
            "SIMD must be at most 12 (input channels) and is 13",
            ("Dense_3",),
            "the next that is possible is 12",
        ),
    ]


@pytest.mark.parametrize(
    "wish, message",
    [
        (Wish(digit=2), "digit is for the form serial, and the layer's form is not given"),
        (Wish(digit=2, form="engine"), "digit is for the form serial, and the layer's form is engine"),
        (Wish(spacing=2, form="serial"), "spacing is for the form parallel, and the layer's form is serial"),
        (Wish(coded=False, form="serial"), "coded is for the form engine, and the layer's form is serial"),
    ],
)
def test_details_of_another_form_are_refused_wrong(wish, message):
    needed = "parallel" if wish.spacing else "serial" if wish.digit else "engine"
    for budget in (None, 1000):
        assert problems(Choice(folding=Folding({"Dense_3": wish}), budget=budget)) == [
            ("bad-folding", message, ("Dense_3",), f'add "form": "{needed}"')
        ]


def test_digits_in_memory_are_for_weights_of_more_than_one_wrong():
    ((code, message, where, _),) = problems(Choice(folding=Folding({"Dense_3": Wish(form="engine", coded=True)})))
    assert (code, where) == ("bad-folding", ("Dense_3",))
    assert message == "coded is for weights that take several passes, and those of the layer have 2 bits"


def test_digits_are_kept_in_memory_where_it_is_asked(tmp_path):
    b = Builder()
    graph = b.graph(value := b.dense(b.input((1, 8)), np.arange(-32, 32).reshape(8, 8)))
    asked = Folding(defaults=Wish(form="engine", coded=True))
    plan = plan_layers(graph, Choice(4, 4, asked))[value]
    assert plan.fold == Fold(4, 4, coded=True)
    assert predict(place(graph, Recipe({value: plan.fold}, 4, plan.cycles))).interval == plan.cycles


def test_details_may_be_asked_of_all_layers_whatever_their_form():
    mine = {"Conv_1": Wish(form="serial"), "Dense_3": Wish(form="engine")}
    found = folds(Choice(folding=Folding(mine, Wish(digit=4, spacing=5))))
    assert found == {"v1": Fold(6, 8, "serial", digit=4), "v3": Fold(3, 8)}


@pytest.mark.parametrize("form", ["serial", "parallel"])
def test_graph_too_large_for_memory_is_refused_before_the_search_wrong(form, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_DIGITS", 72)
    monkeypatch.setattr(plan, "MOST_DIGITS", 72)
    monkeypatch.setattr(graphs, "search", lambda *_: pytest.fail("no search must begin"))
    assert problems(Choice(form=form)) == [
        (
            "graph-too-large",
            (
                f"a {form} graph must have at most 72 digits of weights that are not zero, and the layer has 96: the"
                " search for it would take more time and memory than there is"
            ),
            ("Conv_1",),
            "leave its form open (--form auto), make it an engine (--form engine), or have fewer weights (--prune)",
        ),
    ]


def test_layers_too_large_for_graphs_become_engines(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_DIGITS", 72)
    assert folds(Choice(budget=8))["v1"].form == "engine"


def test_all_layers_are_refused_at_once_wrong():
    layers = {"Conv_1": Wish(pe=5), "Dense_3": Wish(pe=5)}
    assert [where for _, _, where, _ in problems(Choice(folding=Folding(layers)))] == [("Conv_1",), ("Dense_3",)]
    assert [where for _, _, where, _ in problems(Choice(budget=1))] == [("Conv_1",), ("Dense_3",)]


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_budget_out_of_reach_names_the_layer_and_its_best_wrong():
    assert problems(Choice(budget=2)) == [
        (
            "too-fast",
            "must take at most 2 cycles per frame, and its fastest hardware, a parallel graph, takes 3",
            ("Conv_1",),
            "ask for fewer frames per second, or give a higher --clock-mhz",
        )
    ]


def test_wishes_hold_within_a_budget():
    layers = {"Conv_1": Wish(pe=2), "Dense_3": Wish(simd=24)}
    assert folds(Choice(folding=Folding(layers), budget=24, form="engine")) == {"v1": Fold(2, 4), "v3": Fold(1, 24)}
    assert sum(f.lanes for f in folds(Choice(budget=10_000, form="engine")).values()) <= 6
    mine = {"Conv_1": Wish(form="serial", digit=2), "Dense_3": Wish(pe=3)}
    found = folds(Choice(folding=Folding(mine), budget=1000))
    assert (found["v1"].form, found["v1"].digit, found["v3"].pe) == ("serial", 2, 3)


@pytest.mark.parametrize("budget, pe", [(55, 2), (28, 2), (27, 4), (14, 4)])
@pytest.mark.parametrize("maximum", [True, False])
def test_pools_behind_a_layer_need_its_lanes(budget, pe, maximum):
    """A pool of 7 x 2 places takes 14 cycles for every beat of its 4 channels; the layer itself takes 8 for each row."""
    b = Builder()
    y = b.conv(b.input((1, 1, 8)), np.ones((4, 1, 1), int))
    plan = plan_layers(
        b.graph(b.pool(b.add_scaled(y, y), (2,), maximum=maximum)), Choice(budget=budget, form="engine")
    )["v1"]
    assert plan.fold.pe >= pe


def test_pools_behind_pools_count_and_those_behind_other_layers_do_not():
    b = Builder()
    y = b.pool(b.conv(b.input((1, 1, 8)), np.ones((4, 1, 1), int)), (1,))
    first = b.graph(b.pool(y, (4,)))
    assert plan_layers(first, Choice(budget=79, form="engine"))["v1"].fold == Fold(2, 1)
    z = b.conv(y, np.ones((4, 4, 1), int))
    assert plan_layers(b.graph(b.pool(z, (4,))), Choice(budget=79, form="engine"))["v1"].fold == Fold(1, 1)


def test_pools_out_of_reach_are_refused_wrong():
    b = Builder()
    y = b.conv(b.input((1, 1, 8)), np.ones((4, 1, 1), int))
    assert problems(Choice(budget=13), b.graph(b.pool(y, (2,), maximum=False)))[0][0] == "too-fast"


def requantized(*, channels: int = 8, inner: int = 4, pooled: bool = False, ends: bool = False) -> Graph:
    """A layer of 8 x 8 positions with a requantizer behind it; then perhaps a pool, then another layer or the end."""
    b = Builder()
    y = b.conv(b.input((1, inner, 8, 8)), np.ones((channels, inner, 1, 1), int))
    y = b.requantize(y, Comparators((np.arange(1, 4),), (np.arange(4),)))
    y = b.pool(y, (2, 2), (2, 2)) if pooled else y
    return b.graph(y if ends else b.conv(y, np.ones((3, channels, 1, 1), int)))


@pytest.mark.parametrize("simd, leaving", [(4, 8), (2, 4), (1, 2)])
def test_results_leave_as_few_at_a_time_as_the_engine_has_time_for(simd, leaving):
    """Rows take 4 / SIMD cycles for 8 results."""
    graph = requantized()
    plan = asked(graph, "v1", 8, simd)
    assert (plan.shortest, plan.fold.leaving) == (4 // simd, leaving)
    lone = place(graph, Recipe({**folds_of(graph, 8, simd), "v1": Fold(8, simd)}, simd, plan.cycles))
    assert predict(place(graph, Recipe(folds_of(graph, 8, simd), simd, plan.cycles))).interval == predict(lone).interval


def folds_of(graph: Graph, pe: int, simd: int) -> dict[str, Fold]:
    return {name: p.fold for name, p in plan_layers(graph, Choice(pe, simd)).items()}


def test_results_leave_as_many_at_a_time_as_pools_need():
    """The layer takes 256 cycles; a pool of 16 places of 2 x 2 takes 512 with one lane, and 256 with two."""
    graph = requantized(pooled=True)
    assert asked(requantized(), "v1", 8, 1).fold.leaving == 2
    wide = requantized(inner=16)
    assert [
        asked(g, "v1", 8, s).fold.leaving for g, s in ((graph, 1), (wide, 1), (requantized(inner=16, pooled=True), 2))
    ] == [2, 1, 1]


def test_results_that_go_to_a_port_leave_all_at_a_time():
    assert asked(requantized(ends=True), "v1", 8, 1).fold == Fold(8, 1)
