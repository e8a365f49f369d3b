"""Rows made from other rows: ``row = ±other + what differs``, where that takes fewer terms.

Rows are joined to a tree that starts at zero, nearest first, as long as the depth allows (Prim's minimum spanning tree;
so are matrices decomposed by Muhammad and Roy 2002, and by da4ml). Dense matrices of -1 and 1 gain: two rows differ
in half of their entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tcompile.adders.digits import signed_digits

__all__ = ["Joined", "join_rows"]

MOST = 1 << 27  # entries of all differences that are looked at
WORTH = 0.97  # of the terms that must be left


@dataclass(frozen=True)
class Joined:
    """Rows over inputs and nodes; a node is a row that others are made from.

    Attributes
    ----------
    matrix : numpy.ndarray
        int64 (rows + nodes, columns + nodes): the rows, then the definitions of the nodes.
    levels : tuple of int
        Of each node.
    """

    matrix: np.ndarray
    levels: tuple[int, ...]


def _terms(rows: np.ndarray) -> np.ndarray:
    """Signed digits of each row."""
    total = np.zeros(len(rows), np.int64)
    for digit in signed_digits(rows):
        total += np.count_nonzero(digit, axis=1)
    return total


def _level(terms: np.ndarray) -> np.ndarray:
    """Levels that sums of so many inputs need."""
    exact: np.ndarray = np.ceil(np.log2(np.maximum(terms, 1)))
    return exact.astype(np.int64)


def _tree(m: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parent (-1 for none), its sign, and level of each row."""
    count = len(m)
    terms = _terms(m)
    parent, sign, level = np.full(count, -1), np.ones(count, np.int64), _level(terms)
    waiting = np.ones(count, bool)
    while waiting.any():
        rows = np.flatnonzero(waiting)
        row = rows[np.argmin(terms[rows])]
        waiting[row] = False
        for s in (1, -1):
            differences = m - s * m[row]
            needed = _terms(differences) + 1
            reached = _level(needed - 1 + (1 << level[row]))
            better = waiting & (needed < terms) & (reached <= depth) & ((s > 0) | (differences > 0).any(axis=1))
            parent[better], sign[better] = row, s
            terms[better], level[better] = needed[better], reached[better]
    return parent, sign, level


def join_rows(matrix: np.ndarray, depth: int) -> Joined | None:
    """Make rows from each other within a depth; None where that is of little use or too much to look at."""
    rows, columns = matrix.shape
    if rows * rows * columns > MOST:
        return None
    parent, sign, level = _tree(matrix, depth)
    nodes = np.unique(parent[parent >= 0])
    number = np.full(rows, -1)
    number[nodes] = np.arange(len(nodes))
    joined = np.zeros((rows + len(nodes), columns + len(nodes)), np.int64)
    joined[:rows, :columns] = matrix
    made = np.flatnonzero(parent >= 0)
    joined[made, :columns] -= sign[made, None] * matrix[parent[made]]
    joined[made, columns + number[parent[made]]] = sign[made]
    joined[rows:] = joined[nodes]
    joined[nodes] = 0
    joined[nodes, columns + np.arange(len(nodes))] = 1
    if _terms(joined).sum() - len(nodes) > WORTH * _terms(matrix).sum():
        return None
    return Joined(joined, tuple(level[nodes].tolist()))
