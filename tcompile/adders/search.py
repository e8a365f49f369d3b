"""The search for a graph of adders that computes a constant matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hw.adders import AdderGraph
from tcompile.adders import kernel
from tcompile.adders.cost import cost as _cost
from tcompile.adders.differences import join_rows
from tcompile.adders.digits import canonical_rows
from tcompile.adders.objective import Objective
from tcompile.adders.result import graph_of
from tcompile.adders.system import levels_needed, make
from tcompile.adders.trees import bits
from tcompile.errors import InternalError, Problem

__all__ = ["search"]

AHEAD = 8  # equal pairs that are compared in the first search, and when it is improved
AHEAD_LATER = 2
WORK = 10_000  # terms walked per digit and effort
SIZE = 120  # nodes ruined at once, at most
HEAT = 3.0  # adders that may be lost for a while
FURTHER = 16  # levels that rows made of rows may add where the depth is not limited


def search(matrix: np.ndarray, objective: Objective = Objective()) -> AdderGraph:  # noqa: B008
    """Find a small graph of adders and subtracters whose outputs are ``matrix @ inputs``.

    Parameters
    ----------
    matrix : numpy.ndarray
        Integers (rows, columns).
    objective : Objective

    Raises
    ------
    ValueError
        If it is no matrix of integers, or bounds do not fit it.
    InternalError
        If the graph does not give the matrix back.
    """
    rows = canonical_rows(matrix)
    bounds = objective.bounds_of(rows.matrix.shape[1])
    price = [bits(lo, hi) + 2 if objective.cost == "bits" else 1 for lo, hi in bounds]
    states = list(_starts(rows.matrix, objective.depth, price))
    state = min(states, key=lambda s: _cost(graph_of(s, rows, bounds), objective) if len(states) > 1 else 0)
    nodes = int(np.count_nonzero(state.value[:, kernel.ALIVE] == 1))
    if objective.effort and nodes:
        work = objective.effort * WORK * int(np.count_nonzero(rows.matrix))
        kernel.improve(state, work, min(SIZE, 1 + nodes // 2), HEAT * max(price), AHEAD_LATER)
    graph = graph_of(state, rows, bounds)
    if not np.array_equal(graph.matrix(), matrix):
        raise InternalError(Problem("adder-graph", "the graph of adders does not give its matrix back"))
    return graph


def _starts(matrix: np.ndarray, further: int | None, price: list[int]) -> Iterator[kernel.State]:
    """States searched once: each row for itself, and rows made of rows."""
    least = levels_needed(matrix)
    depth = None if further is None else least + further
    state = make(matrix, depth=depth, price=price, number=1)
    kernel.settle(state, AHEAD)
    yield state
    joined = join_rows(matrix, least + (FURTHER if further is None else further))
    if joined is not None:
        state = make(joined.matrix, depth=depth, price=price, number=1, nodes=joined.levels)
        kernel.settle(state, AHEAD)
        yield state
