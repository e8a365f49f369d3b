"""The graph found computes its matrix, shares what can be shared, keeps to its depth, and negates only what it must."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.adders import AdderGraph
from tcompile.adders import Objective, search
from tcompile.adders.cost import adders
from tcompile.adders.system import levels_needed
from tcompile.errors import InternalError
from tests.adder_graphs import trees

QUICK = Objective(effort=0)


def ternary(rows: int, columns: int, sparsity: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.choice([-1, 1], (rows, columns)) * (generator.random((rows, columns)) >= sparsity)


def matrices(least: int, most: int) -> st.SearchStrategy[np.ndarray]:
    return st.builds(
        lambda rows, columns, seed: np.random.default_rng(seed).integers(least, most + 1, (rows, columns)),
        st.integers(0, 12),
        st.integers(0, 12),
        st.integers(0, 1000),
    )


def unit_responses(graph: AdderGraph) -> np.ndarray:
    return graph.evaluate(np.eye(graph.inputs, dtype=np.int64)).T


# --- exact -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    matrix=matrices(-1, 1) | matrices(-9, 9) | matrices(-1000, 1000) | matrices(0, 255),
    cost=st.sampled_from(["adders", "bits", "serial"]),
    depth=st.sampled_from([0, 1, None]),
    effort=st.integers(0, 2),
)
def test_graph_computes_its_matrix_within_its_depth(matrix, cost, depth, effort):
    graph = search(matrix, Objective(cost, (-4, 3), depth, effort))
    assert np.array_equal(unit_responses(graph), matrix)
    if depth is not None:
        assert graph.depth <= levels_needed(matrix) + depth


def test_damaged_graph_is_found_wrong(monkeypatch):
    def damaged(*arguments: object) -> AdderGraph:
        return AdderGraph(8, (), ())

    monkeypatch.setattr(sys.modules["tcompile.adders.search"], "graph_of", damaged)
    with pytest.raises(InternalError, match="does not give its matrix back"):
        search(ternary(8, 8, 0.5))


def test_same_matrix_gives_same_graph():
    matrix = ternary(20, 20, 0.5)
    assert search(matrix) == search(matrix.astype(np.int8))


# --- size --------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(matrix=matrices(-1, 1))
def test_never_more_than_plain_trees(matrix):
    graph = search(matrix, QUICK)
    assert len(graph.adders) <= len(trees(matrix).adders)
    assert graph.depth <= trees(matrix).depth


@pytest.mark.parametrize(
    "rows, columns, sparsity, most", [(64, 64, 0.5, 986), (64, 64, 0.8, 537), (64, 64, 0.9, 273), (64, 128, 0.8, 1061)]
)
def test_no_more_adders_than_da4ml_at_less_depth(rows, columns, sparsity, most):
    matrix = ternary_of_benchmark(rows, columns, sparsity)
    graph = search(matrix)
    assert adders(graph) <= most
    assert graph.depth == levels_needed(matrix)


def ternary_of_benchmark(rows: int, columns: int, sparsity: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.integers(0, 2, (rows, columns)) * 2 - 1) * (generator.random((rows, columns)) >= sparsity)


def test_effort_pays():
    matrix = ternary(48, 48, 0.5)
    first, later = (len(search(matrix, Objective(effort=effort)).adders) for effort in (0, 2))
    assert later < 0.98 * first


def test_dense_rows_are_made_from_each_other_where_depth_allows():
    matrix = ternary(48, 48, 0)
    flat, deep = (search(matrix, Objective(depth=depth, effort=0)) for depth in (0, None))
    assert len(deep.adders) < 0.95 * len(flat.adders)


def test_large_matrix_takes_seconds_and_little_memory():
    matrix = ternary(128, 1152, 0.9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = search(matrix, QUICK)
    assert len(graph.adders) < 0.68 * len(trees(matrix).adders)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (
        1 if sys.platform == "darwin" else 1024
    ) < 3e8


# --- structure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix, count, negations",
    [
        ([[0, 0], [0, 0]], 0, 0),
        ([[0, 1], [1, 0], [0, 4]], 0, 0),
        ([[-1, 0], [0, -2]], 0, 2),
        ([[1, 1], [1, 1], [2, 2]], 1, 0),
        ([[1, 1], [-1, -1]], 1, 1),
        ([[1, -1], [-1, 1]], 2, 0),
        ([[-1, -1, -1]], 2, 1),
        ([[1, -1, -1, -1]], 3, 0),
        ([[5, 0], [0, 3], [10, 6]], 3, 0),
        ([[1, 1, 1, 0], [1, 1, 0, 1]], 3, 0),
        ([[1, -1, 1, 0], [-1, 1, 0, 1]], 3, 0),
    ],
    ids=lambda x: str(x).replace(" ", ""),
)
def test_adders_and_negations(matrix, count, negations):
    graph = search(np.array(matrix))
    assert (len(graph.adders), graph.negations) == (count, negations)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_matrix_needs_nothing(shape):
    graph = search(np.zeros(shape, int))
    assert (graph.inputs, len(graph.adders), len(graph.outputs)) == (shape[1], 0, shape[0])


@settings(deadline=None, max_examples=40)
@given(matrix=matrices(-1, 1))
def test_only_rows_without_positive_entry_are_negated(matrix):
    without = (matrix <= 0).all(axis=1) & (matrix < 0).any(axis=1)
    assert [o.negative for o in search(matrix).outputs] == without.tolist()


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix, message",
    [
        (np.zeros(3, int), "2 dimensions"),
        (np.zeros((2, 2)), "integers"),
        (np.array([[1 << 50, 1]]), r"below .* in magnitude"),
    ],
)
def test_what_is_no_matrix_is_refused_wrong(matrix, message):
    with pytest.raises(ValueError, match=message):
        search(matrix)


@pytest.mark.parametrize("option", [dict(cost="area"), dict(depth=-1), dict(effort=-1)])
def test_objective_out_of_range_is_refused_wrong(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        Objective(**option)


@pytest.mark.parametrize("bounds", [(3, 0), ((0, 1), (0, 1), (0, 1))])
def test_bounds_that_do_not_fit_are_refused_wrong(bounds):
    with pytest.raises(ValueError, match=r"bounds .* for 2 inputs"):
        search(np.ones((2, 2), int), Objective(bounds=bounds))
