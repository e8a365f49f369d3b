"""The search for a graph of adders that computes a constant matrix."""

from __future__ import annotations

import numpy as np

from hw.adders import AdderGraph
from tcompile.adders import kernel
from tcompile.adders.digits import canonical_rows
from tcompile.adders.objective import Objective
from tcompile.adders.result import graph_of
from tcompile.adders.system import levels_needed, make
from tcompile.adders.trees import bits
from tcompile.errors import InternalError

__all__ = ["search"]

AHEAD = 8  # equal pairs that are compared in the first search
WORK = 10_000  # terms walked per digit and effort


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
    bounds = objective.bounds_of(matrix.shape[1])
    depth = None if objective.depth is None else levels_needed(rows.matrix) + objective.depth
    price = [bits(lo, hi) + 2 if objective.cost == "bits" else 1 for lo, hi in bounds]
    state = make(rows.matrix, depth=depth, price=price, number=1)
    kernel.settle(state, AHEAD)
    if objective.effort and (state.value[:, kernel.ALIVE] == 1).any():
        kernel.improve(state, objective.effort * WORK * np.count_nonzero(rows.matrix), 120, 3.0 * max(price), 2)
    graph = graph_of(state, rows, bounds)
    if not np.array_equal(graph.matrix(), matrix):
        raise InternalError("the graph of adders does not give the matrix back")
    return graph
