"""The state that the compiled kernel searches in, made from rows of signed digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tcompile.adders import kernel
from tcompile.adders.digits import signed_digits

__all__ = ["levels_needed", "make"]

UNLIMITED = 1 << 60
LONGEST = 1 << 20  # bounds of pairs that the search tells apart


def levels_needed(matrix: np.ndarray) -> int:
    """Least depth of any graph in which each non-zero digit is a term of its own."""
    terms = sum((d != 0).sum(axis=1) for d in signed_digits(matrix))
    return int(np.max(terms, initial=1) - 1).bit_length() if matrix.size else 0


def make(
    matrix: np.ndarray, *, depth: int | None, price: Sequence[int], number: int, nodes: Sequence[int] = ()
) -> kernel.State:
    """A state with a term for each signed digit.

    Parameters
    ----------
    matrix : numpy.ndarray
        int64 (rows, inputs + nodes): outputs first, then the definitions of the nodes, which stand as further columns.
    depth : int, optional
        Levels of each output.
    price : sequence of int
        What a term of each input costs.
    number : int
        Seed.
    nodes : sequence of int
        Levels of values that are given beforehand, whose definitions are the last rows.
    """
    digits = signed_digits(matrix)
    terms = int(sum(np.count_nonzero(d) for d in digits))
    given = len(nodes)
    outputs, inputs = len(matrix) - given, matrix.shape[1] - given
    room = terms // 2 + 8 + given
    values, rows = inputs + room, outputs + room
    most = max(int(sum((d != 0).sum(axis=0) for d in digits).max(initial=0)), len(matrix)) if digits else 1
    keys = values * max(1, 2 * len(digits) - 1)
    dearest = max(price, default=1)
    bounds = most * (dearest + 64 if dearest > 1 else 1) + 1
    state = kernel.State(
        row=np.zeros((rows, kernel.ROW_FIELDS), np.int64),
        terms=np.zeros(5 * terms + 64, np.int32),
        value=np.zeros((values, kernel.VALUE_FIELDS), np.int64),
        weight=np.ones(values, np.int64),
        places=np.zeros(5 * terms + 64, np.int32),
        head=np.full(min(bounds, LONGEST), -1),
        counts=np.zeros((keys, 4), np.int32),
        touched=np.zeros(keys, np.int64),
        held=np.zeros(2 * terms + 64, np.int64),
        free=np.arange(values)[::-1].copy(),
        saved=np.zeros(6 * (values + rows) + 4 * terms + 64, np.int64),
        g=np.zeros(kernel.SCALARS, np.int64),
    )
    state.g[kernel.INPUTS], state.g[kernel.OUTPUTS] = inputs, outputs
    state.g[kernel.DIGITS], state.g[kernel.FREE] = max(1, len(digits)), values - inputs - given
    kernel.seed(state.g, number)
    value = state.value[: inputs + given]
    value[:, kernel.PRICE] = [*price, *[max(price, default=1)] * given]
    state.weight[inputs : inputs + given] = [1 << level for level in nodes]
    value[inputs:, kernel.ALIVE] = 2
    limits = [UNLIMITED if depth is None else 1 << depth] * outputs + [1 << level for level in nodes]
    state.row[: len(matrix), kernel.SLACK] = limits
    kernel.commit(state.g)
    for shift, digit in enumerate(digits):
        r, c = np.nonzero(digit)
        kernel.fill(state, r, c, shift, (digit[r, c] < 0).astype(np.int64))
    kernel.start(state, np.random.default_rng(number).permutation(inputs + given))
    return state
