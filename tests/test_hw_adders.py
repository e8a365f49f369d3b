"""Adder graphs as data: what they compute, how large it gets, how deep they are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hw.adders import Adder, AdderGraph, Output
from tests.adder_graphs import random_graph, trees

SEEDS = range(40)
#        v2 = x0 + 4 x1        v3 = 2 v2 - x0 = x0 + 8 x1     v4 = v3 - v3
SMALL = AdderGraph(2, (Adder(0, 1, 0, 2), Adder(2, 0, 1, 0, True), Adder(3, 3, subtract=True)),
                   (Output(3), Output(2, 3, negative=True), Output(), Output(1), Output(4)))  # fmt: skip


def some(seed: int) -> AdderGraph:
    generator = np.random.default_rng(seed)
    return random_graph(generator, int(generator.integers(1, 5)), int(generator.integers(0, 9)), 4)


def with_all_values(graph: AdderGraph) -> AdderGraph:
    """The same adders, each value an output."""
    return AdderGraph(graph.inputs, graph.adders, tuple(Output(k) for k in range(graph.inputs + len(graph.adders))))


# --- what it computes --------------------------------------------------------------------------------------------------


def test_small_graph_by_hand():
    assert SMALL.matrix().tolist() == [[1, 8], [-8, -32], [0, 0], [0, 1], [0, 0]]
    assert SMALL.evaluate(np.array([[3, -2], [0, 1]])).tolist() == [[-13, 40, 0, -2, 0], [8, -32, 0, 1, 0]]


@pytest.mark.parametrize("seed", SEEDS)
def test_evaluation_is_the_product_with_the_matrix(seed):
    graph = some(seed)
    x = np.random.default_rng(seed).integers(-50, 50, (9, graph.inputs))
    assert np.array_equal(graph.evaluate(x), x @ graph.matrix().T)


def test_trees_compute_their_matrix():
    matrix = np.random.default_rng(0).integers(-1, 2, (9, 7))
    assert np.array_equal(trees(matrix).matrix(), matrix)


def test_graph_without_rows_gives_none():
    assert AdderGraph(3, (), ()).evaluate(np.zeros((2, 3))).shape == (2, 0)


# --- ranges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_ranges_are_the_least_and_the_most_of_all_inputs(seed):
    graph = some(seed)
    generator = np.random.default_rng(seed)
    low = generator.integers(-3, 3, graph.inputs)
    limits = [(int(a), int(a + generator.integers(0, 3))) for a in low]
    values = with_all_values(graph).evaluate(np.array(list(product(*(range(a, b + 1) for a, b in limits)))))
    assert graph.ranges(limits) == tuple(zip(values.min(axis=0), values.max(axis=0), strict=True))


def test_range_of_what_cancels_is_nothing():
    assert SMALL.ranges([(0, 15), (-8, 7)]) == ((0, 15), (-8, 7), (-32, 43), (-64, 71), (0, 0))


def test_ranges_hold_integers_of_any_size():
    doubles = AdderGraph(1, tuple(Adder(k, k) for k in range(80)), (Output(80),))
    assert doubles.ranges([(-1, 3)])[-1] == (-(1 << 80), 3 << 80)


# --- shape -------------------------------------------------------------------------------------------------------------


def test_levels_count_adders_on_the_longest_way():
    assert SMALL.levels == (0, 0, 1, 2, 3)
    assert SMALL.depth == 3
    assert AdderGraph(2, SMALL.adders, (Output(2), Output())).depth == 1
    assert AdderGraph(2, SMALL.adders, (Output(),)).depth == 0


def test_values_that_are_negated_are_counted_once():
    outputs = (Output(0, negative=True), Output(0), Output(0, 2, True), Output(None, negative=True))
    assert AdderGraph(1, (), outputs).negations == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_trimmed_graph_keeps_the_matrix_and_what_it_needs(seed):
    generator = np.random.default_rng(seed)
    adders = tuple(Adder(int(generator.integers(3 + k)), int(generator.integers(3 + k)), 1) for k in range(9))
    graph = AdderGraph(3, adders, tuple(Output(int(k)) for k in generator.integers(0, 12, 2)))
    found = graph.trimmed()
    assert np.array_equal(found.matrix(), graph.matrix())
    assert found.used >= set(range(3, 3 + len(found.adders)))
    assert len(found.adders) == len(graph.used - {0, 1, 2})
    assert found.trimmed() == found


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "adder", [Adder(2, 0), Adder(0, 2), Adder(-1, 0), Adder(0, -1), Adder(0, 1, -1), Adder(0, 1, 0, -1)]
)
def test_adder_of_what_does_not_exist_yet_is_refused_wrong(adder):
    with pytest.raises(ValueError, match="value 2 must be made of earlier ones"):
        AdderGraph(2, (adder,), ())


@pytest.mark.parametrize("output", [Output(3), Output(-1), Output(0, -1)])
def test_output_that_does_not_exist_is_refused_wrong(output):
    with pytest.raises(ValueError, match="an output must be a value that exists"):
        AdderGraph(2, (Adder(0, 1),), (output,))


def test_ranges_need_bounds_for_each_input_wrong():
    with pytest.raises(ValueError, match="3 inputs need as many bounds, not 2"):
        AdderGraph(3, (), ()).ranges([(0, 1)] * 2)
