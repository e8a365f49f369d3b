"""The graph of adders that a searched system describes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hw.adders import AdderGraph, Output
from tcompile.adders import kernel
from tcompile.adders.digits import Rows
from tcompile.adders.trees import Builder, Term

__all__ = ["graph_of"]


def _terms(state: kernel.State, row: int) -> list[tuple[int, int, bool]]:
    start, length = state.row[row, [kernel.START, kernel.LENGTH]]
    packed = np.sort(state.terms[start : start + length]).tolist()
    return [(t >> 7, (t >> 1) & 63, bool(t & 1)) for t in packed]


def _order(definitions: dict[int, list[tuple[int, int, bool]]], inputs: int) -> list[int]:
    """Nodes, each behind those that it is made of."""
    done: set[int] = set()
    order = []
    for root in definitions:
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [] if node in done else [v for v, _, _ in definitions[node] if v >= inputs and v not in done]
            stack.extend(waiting)
            if not waiting:
                stack.pop()
                if node not in done:
                    done.add(node)
                    order.append(node)
    return order


def graph_of(state: kernel.State, rows: Rows, bounds: Sequence[tuple[int, int]]) -> AdderGraph:
    """Make adders of a state whose outputs are `rows`."""
    inputs, outputs = int(state.g[kernel.INPUTS]), int(state.g[kernel.OUTPUTS])
    nodes = inputs + np.flatnonzero(state.value[inputs:, kernel.ALIVE])
    definitions = {int(n): _terms(state, outputs + int(n) - inputs) for n in nodes}
    builder = Builder(bounds)
    made = {v: Term(v) for v in range(inputs)}

    def build(terms: list[tuple[int, int, bool]]) -> Term:
        parts = [(made[v], shift, minus) for v, shift, minus in terms]
        return builder.sum(Term(t.value, t.shift + shift, t.minus != minus) for t, shift, minus in parts)

    for n in _order(definitions, inputs):
        made[n] = build(definitions[n])
    ends = [build(_terms(state, r)) for r in range(outputs)]
    results = []
    for row, shift, negative in zip(rows.row.tolist(), rows.shift.tolist(), rows.negative.tolist(), strict=True):
        if row < 0:
            results.append(Output())
        else:
            end = ends[row]
            results.append(Output(end.value, end.shift + shift, end.minus != negative))
    return AdderGraph(inputs, tuple(builder.adders), tuple(results))
