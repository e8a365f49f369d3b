"""Queues behind forks: deep enough, not deeper, whatever the branches are; and the cycles that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.fifo import Fifo
from tcompile.errors import InternalError
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph
from tcompile.ir.requantizers import Comparators
from tcompile.mapping.cycles import FRAMES, Cycles, predict, transfers
from tcompile.mapping.design import Design
from tcompile.mapping.folding import Fold
from tcompile.mapping.place import Recipe, between, entrance, place
from tcompile.mapping.plan import planned, searched, tasks
from tcompile.mapping.queues import queue_depths, smoothing
from tests.networks import Builder, RandomNetwork, differences, frames_of, queues, random_folds


def residual(kernel: int = 3) -> Graph:
    """A convolution beside nothing, added up."""
    b = Builder()
    x = b.input((1, 2, 6, 6))
    reach = kernel // 2
    y = b.conv(x, np.ones((2, 2, kernel, kernel), int), pads=(reach,) * 4)
    return b.graph(b.add_scaled(y, x))


def two_convolutions() -> Graph:
    b = Builder()
    x = b.input((1, 2, 6, 6))
    small, large = (b.conv(x, np.ones((2, 2, k, k), int), pads=(k // 2,) * 4) for k in (3, 5))
    return b.graph(b.add_scaled(small, large))


def rearranged() -> Graph:
    """One branch waits for a whole frame, the other for three rows."""
    b = Builder()
    x = b.input((1, 2, 6, 6))
    y = b.conv(x, np.ones((2, 2, 3, 3), int), pads=(1,) * 4)
    return b.graph(b.add_scaled(y, b.transpose(x, (0, 1, 3, 2))))


def joined() -> Graph:
    """What comes second in a frame arrives first."""
    b = Builder()
    x = b.input((1, 2, 9))
    return b.graph(b.concat([x, b.concat([x, x], 2)], 2))


NETWORKS = {"residual": residual, "pair": two_convolutions, "rearranged": rearranged, "joined": joined}


def made(graph: Graph, depths: dict[str, int] | None = None, lanes: int = 2) -> Design:
    return place(graph, Recipe(random_folds(graph, 3), lanes, 1, depths or {}))


def unlimited(graph: Graph) -> Cycles:
    """Cycles with queues that are never full."""
    return predict(made(graph, dict.fromkeys(queues(made(graph)), 1 << 20)))


@pytest.mark.parametrize("name", NETWORKS)
def test_depths_let_a_design_run_as_fast_as_any(name):
    graph = NETWORKS[name]()
    depths = queue_depths(made(graph))
    assert predict(made(graph, depths)).interval == unlimited(graph).interval


def times(graph: Graph, depths: dict[str, int]) -> dict[str, list[int]]:
    return transfers(made(graph, depths), FRAMES).streams


@pytest.mark.parametrize("name", NETWORKS)
def test_queues_of_these_depths_hold_nothing_up(name):
    graph = NETWORKS[name]()
    depths = queue_depths(made(graph))
    free = transfers(made(graph), FRAMES, list(depths)).streams
    for stream, found in times(graph, depths).items():
        assert all(a <= b for a, b in zip(found, free[stream], strict=True))


@pytest.mark.parametrize("name, fewer", [("residual", 1), ("pair", 1), ("rearranged", 1), ("joined", 2)])
def test_fewer_places_hold_something_up(name, fewer):
    """A place is not needed where a queue turns out so short that it is one cycle faster than one without end."""
    graph = NETWORKS[name]()
    depths = queue_depths(made(graph))
    best = times(graph, depths)
    deep = [n for n, depth in depths.items() if depth > 2]
    assert deep
    for queue in deep:
        worse = times(graph, depths | {queue: depths[queue] - fewer})
        assert any(len(worse[s]) < len(best[s]) or max(np.subtract(worse[s], best[s])) > 0 for s in best)


@given(st.integers(0, 1 << 20))
@settings(max_examples=60)
def test_every_network_finishes(seed):
    graph = RandomNetwork(seed, 7).graph()
    recipe = Recipe(random_folds(graph, seed), 1 + seed % 5)
    depths = queue_depths(place(graph, recipe))
    assert len(predict(place(graph, replace(recipe, depths=depths))).ends) == 4
    assert all(depth >= 2 for depth in depths.values())


def test_longest_branch_of_a_fork_needs_no_room():
    design = made(two_convolutions())
    assert list(queue_depths(design)) == ["v0_branch0"]
    assert list(queue_depths(made(residual()))) == ["v0_branch1"]
    assert list(queue_depths(made(rearranged()))) == ["v0_branch0"]


def test_branch_that_was_thought_the_longest_gets_room_at_a_standstill():
    depths = queue_depths(made(joined()))
    assert set(depths) == set(queues(made(joined())))


def test_chain_has_no_queues():
    b = Builder()
    x = b.input((1, 2, 4))
    assert queue_depths(made(b.graph(b.pool(x, (2,))))) == {}


def test_fork_to_two_outputs_needs_little_room():
    b = Builder()
    x = b.input((1, 2, 4))
    design = made(b.graph(b.pool(x, (2,)), b.pool(x, (2,), maximum=False)))
    assert max(queue_depths(design).values()) <= 3


# --- cycles ----------------------------------------------------------------------------------------------------------


def test_standstill_names_what_waits_wrong():
    with pytest.raises(InternalError) as caught:
        predict(made(joined()), frames=2)
    (problem,) = caught.value.problems
    assert problem.code == "standstill"
    assert problem.message.startswith("the design does not finish 2 frames; s0: ")
    assert all(f"{name}: " in problem.message for name in made(joined()).streams)
    assert " of 18 beats" in problem.message


def test_transfers_of_a_standstill_are_told():
    design = made(joined())
    seen = transfers(design, 1)
    assert 0 < len(seen.streams["s0"]) < design.streams["s0"].beats
    assert len(seen.streams[design.outputs[0].stream]) >= len(seen.ports["v2_m_axis_0"])


def test_queues_without_end_take_all():
    design = made(joined())
    seen = transfers(design, 3, list(queues(design)))
    assert seen.streams["s0"].tolist() == list(range(seen.streams["s0"][0], seen.streams["s0"][0] + 27))
    assert {len(seen.streams[e.stream]) for e in design.outputs} == {3 * 27}


def test_cycles_are_counted_from_the_first_beat_to_the_last_of_a_frame():
    found = Cycles(3, (10, 15, 21, 28))
    assert (found.latency, found.interval) == (7, 7)
    assert Cycles(3, (10, 15, 21)).interval is None


def test_frames_end_with_their_last_beat_at_any_port():
    b = Builder()
    x = b.input((1, 1, 8))
    first, second = b.pool(x, (8,)), b.pool(x, (1,))
    design = made(b.graph(first, second), lanes=1)
    seen = transfers(design, 3)
    ports = [seen.ports[i.name] for i in design.instances if not i.outputs]
    assert [len(p) for p in ports] == [3, 24]
    assert predict(design, 3).ends == tuple(max(ports[0][f], ports[1][8 * f + 7]) for f in range(3))
    assert predict(design, 3).first == seen.ports["v0_s_axis_0"][0]


def test_first_beat_is_that_of_the_earliest_input():
    b = Builder()
    late, early = b.input((1, 1, 8)), b.input((1, 1, 8))
    design = made(b.graph(b.add_scaled(late, early)), lanes=1)
    seen = transfers(design, 1)
    assert predict(design, 1).first == min(seen.ports[n][0] for n in ("v0_s_axis_0", "v1_s_axis_1"))


def test_depth_of_a_queue_is_that_of_the_recipe():
    depths = {"v0_branch1": 7}
    assert {n: q.depth for n, q in queues(made(residual(), depths)).items()} == {"v0_branch0": 2, "v0_branch1": 7}
    assert all(isinstance(q, Fifo) for q in queues(made(residual())).values())


# --- between layers ----------------------------------------------------------------------------------------------------


ONE_BY_ONE = ((8, 1, 2), (8, 1, 2), (8, 2, 2), (8, 1, 1))  # channels, stride, lanes in
WIDENED = ((8, 1, 2), (32, 2, 4))  # channels come one by one, at the pace at which they are needed


def bursts(layers: Sequence[tuple[int, int, int]] = ONE_BY_ONE) -> tuple[Graph, Recipe]:
    """Graphs behind each other, one of them with a stride: rows come in bursts, and nothing has room for words ahead."""
    b, random, folds, graphs = Builder(), np.random.default_rng(0), {}, {}
    x = b.input((1, 2, 16, 16))
    for channels, stride, simd in layers:
        weights = random.integers(-1, 2, (channels, b.shape(x)[1], 3, 3))
        x = b.conv(x, weights, strides=(stride,) * 2, pads=(1,) * 4)
        folds[x] = Fold(1, simd, "parallel")
        x = b.requantize(x, Comparators((np.sort(random.integers(-20, 20, 3)),), (np.arange(4),)))
    graph = b.graph(x)
    for name, task in tasks(graph).items():
        graphs[name] = searched(task, planned(task, folds[name])).graph
    return graph, Recipe(folds, 8, 2300, graphs=graphs)


def with_queues(graph: Graph, recipe: Recipe) -> Recipe:
    """Queues before all layers but the first."""
    everywhere = {between(n.inputs[0]): 2 for n in graph if isinstance(n, I.Conv) and n.inputs[0] != "v0"}
    depths = smoothing(place(graph, replace(recipe, depths=everywhere)), 1)
    return replace(recipe, depths={name: max(2, depth) for name, depth in depths.items()})


def test_queues_between_layers_that_work_in_bursts_make_a_pipeline_faster():
    graph, recipe = bursts()
    smooth = with_queues(graph, recipe)
    plain, fast = place(graph, recipe), place(graph, smooth)
    assert len(smooth.depths) == 3 and max(smooth.depths.values()) > 16
    assert predict(fast).interval < predict(plain).interval - 100
    assert differences(fast, graph, frames_of(graph, 2)) == []


def test_queues_of_less_than_they_hold_make_it_slower_again_wrong():
    graph, recipe = bursts()
    smooth = with_queues(graph, recipe)
    short = replace(smooth, depths=dict.fromkeys(smooth.depths, 2))
    assert predict(place(graph, short)).interval > predict(place(graph, smooth)).interval


def test_depths_with_which_frames_keep_their_pace_are_enough_for_it():
    graph, recipe = bursts()
    for pace in (2400, 3000):
        everywhere = dict.fromkeys(with_queues(graph, recipe).depths, 2)
        depths = smoothing(place(graph, replace(recipe, depths=everywhere)), pace)
        deep = replace(recipe, depths={name: max(2, depth) for name, depth in depths.items()})
        assert predict(place(graph, deep)).interval <= pace


def of_entrances(graph: Graph, recipe: Recipe, places: Mapping[str, int]) -> Recipe:
    """Queues between layers as the pipeline needs them, and at those entrances that are named."""
    names = dict.fromkeys([between(n.inputs[0]) for n in graph if n.name in recipe.folds], 2)
    depths = smoothing(place(graph, replace(recipe, depths=names | dict(places))), 1)
    return replace(recipe, depths={name: max(2, depth) for name, depth in depths.items()})


def test_a_queue_of_widened_beats_makes_up_for_words_that_come_slowly():
    graph, recipe = bursts(WIDENED)
    recipe = replace(recipe, pace=8 * 256)  # at which nothing may rest
    last = list(recipe.folds)[-1]
    plain, smooth = of_entrances(graph, recipe, {}), of_entrances(graph, recipe, {entrance(last): 2})
    assert smooth.depths[entrance(last)] > 16
    assert predict(place(graph, smooth)).interval == 8 * 256 < predict(place(graph, plain)).interval - 100
    assert differences(place(graph, smooth), graph, frames_of(graph, 2)) == []


def test_a_layer_whose_lanes_come_as_it_takes_them_has_no_queue_at_its_entrance():
    graph, recipe = bursts(ONE_BY_ONE[:1])
    assert not of_entrances(graph, recipe, dict.fromkeys(map(entrance, recipe.folds), 2)).depths.keys() & set(
        map(entrance, recipe.folds)
    )
