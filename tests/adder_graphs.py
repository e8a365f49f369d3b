"""Adder graphs to test with: random ones, and plain trees of a matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hw.adders import Adder, AdderGraph, Output
from hw.block import Bus

__all__ = ["bounds", "random_graph", "results", "trees"]


def bounds(bus: Bus) -> tuple[int, int]:
    """Smallest and largest element of a beat."""
    return (-(1 << bus.width - 1), (1 << bus.width - 1) - 1) if bus.signed else (0, (1 << bus.width) - 1)


def random_graph(generator: np.random.Generator, inputs: int, adders: int, rows: int, shifts: int = 3) -> AdderGraph:
    """Anything that is a graph: rows of 0, inputs as rows, negated rows, a row twice, inputs that nothing uses."""

    def below(n: int) -> int:
        return int(generator.integers(n))

    made = [
        Adder(below(inputs + k), below(inputs + k), below(shifts), below(shifts), bool(below(2))) for k in range(adders)
    ]
    outputs = [
        Output(below(inputs + adders) if generator.random() < 0.9 else None, below(shifts), generator.random() < 0.3)
        for _ in range(rows)
    ]
    return AdderGraph(inputs, tuple(made), tuple(outputs)).trimmed()


def trees(matrix: np.ndarray) -> AdderGraph:
    """A balanced tree for each row of a matrix of -1, 0 and 1, nothing shared."""
    adders: list[Adder] = []
    outputs = []
    for row in matrix:
        terms = [(0, int(k), bool(row[k] < 0)) for k in np.flatnonzero(row)]
        while len(terms) > 1:
            terms.sort(key=lambda term: (term[0], term[2]))
            (level, a, minus_a), (other, b, minus_b), *rest = terms
            if minus_a and not minus_b:
                a, b = b, a
            adders.append(Adder(a, b, subtract=minus_a != minus_b))
            place = matrix.shape[1] + len(adders) - 1
            terms = [*rest, (max(level, other) + 1, place, minus_a and minus_b)]
        outputs.append(Output(terms[0][1], negative=terms[0][2]) if terms else Output())
    return AdderGraph(matrix.shape[1], tuple(adders), tuple(outputs))


def results(graph: AdderGraph, of: tuple[int, int] | Sequence[tuple[int, int]]) -> Bus:
    """A signed bus, just wide enough for all that a graph gives for elements within bounds, equal ones or one for each."""
    matrix = graph.matrix()
    low, high = np.broadcast_to(np.array(of, np.int64), (graph.inputs, 2)).T
    least = np.minimum(matrix * low, matrix * high).sum(axis=1).min(initial=0)
    most = np.maximum(matrix * low, matrix * high).sum(axis=1).max(initial=0)
    return Bus(len(matrix), 1 + max((-int(least) - 1).bit_length() if least < 0 else 0, int(most).bit_length()), True)
