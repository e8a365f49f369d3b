"""Weights with at most N nonzero canonical signed digits: each product is at most N shifted additions.

The canonical signed digit form of an integer has digits -1, 0, 1, no two neighbours nonzero, and no form has fewer
nonzero digits. A weight becomes the nearest multiple of its channel's scale whose integer has at most N of them; of two
equally near ones the smaller magnitude. The scale is searched for the least squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir.graph import Graph
from tcompile.passes.base import PassResult
from tcompile.passes.weights import Names, float_layers, integer_dtype, written

__all__ = ["SignedDigits", "csd", "nearest_with_digits"]

CANDIDATES = 32


def csd(n: int) -> tuple[int, ...]:
    """Canonical signed digits of an integer, least significant first; empty for 0."""
    digits = []
    while n:
        digit = 2 - n % 4 if n % 2 else 0
        digits.append(digit)
        n = (n - digit) // 2
    return tuple(digits)


@lru_cache
def _table(digits: int, bits: int) -> np.ndarray:
    """Integers of at most `bits` bits (symmetric) with at most `digits` nonzero digits, rising."""
    top = (1 << bits - 1) - 1
    return np.array([n for n in range(-top, top + 1) if sum(d != 0 for d in csd(n)) <= digits])


def nearest_with_digits(values: np.ndarray, digits: int, bits: int = 8) -> np.ndarray:
    """Nearest integers with at most `digits` nonzero signed digits; of two equally near ones the smaller magnitude.

    Parameters
    ----------
    values : float64 array
        Real numbers; those beyond ±(2^(bits - 1) - 1) saturate.
    """
    table = _table(digits, bits)
    size = np.abs(values)
    positive = table[table >= 0]
    right = np.clip(np.searchsorted(positive, size), 1, len(positive) - 1)
    low, high = positive[right - 1], positive[right]
    nearest = np.where(high - size < size - low, high, low)
    return np.asarray(np.where(values < 0, -nearest, nearest), np.int64)


@dataclass(frozen=True)
class SignedDigits:
    """Replaces float weights by integers of few signed digits.

    Parameters
    ----------
    digits : int
        Nonzero digits per weight, at least 1.
    bits : int
        Bits of a weight, 2 to 8.
    """

    name: ClassVar[str] = "signed-digits"
    digits: int
    bits: int = 8

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.digits <= 8:
            problems.append(
                Problem("signed-digits", f"the number of signed digits must be 1 to 8, not {self.digits!r}")
            )
        if not 2 <= self.bits <= 8:
            problems.append(Problem("weight-bits", f"weights must have 2 to 8 bits, not {self.bits!r}"))
        if problems:
            raise UsageError(problems)

    def run(self, graph: Graph) -> PassResult:
        """Round the weights of every layer of `graph` that has constant float weights."""
        layers, notes = float_layers(graph)
        names = Names(graph)
        new = {}
        for layer in layers:
            codes, scale = self.fit(layer.weight.reshape(len(layer.weight), -1))
            codes = codes.reshape(layer.weight.shape)
            new[layer.node.name] = written(graph, layer, codes, scale, names)
            used = sum(
                abs(d) for n, k in zip(*np.unique(codes, return_counts=True), strict=True) for d in csd(int(n)) * int(k)
            )
            notes += (
                f"{printable(layer.name)}: {integer_dtype(codes).upper()}, {used / codes.size:.2f} digits per weight",
            )
        if not new:
            return PassResult(graph, False, notes)
        nodes = [n for node in graph for n in new.get(node.name, (node,))]
        return PassResult(graph.with_nodes(nodes), True, notes)

    def fit(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes and one scale per row of a float64 matrix; scale 1 where a row is zero."""
        largest = np.abs(weight).max(axis=1, initial=0.0)
        top = int(_table(self.digits, self.bits)[-1])
        best, scale = np.zeros(weight.shape, np.int64), np.ones(len(weight))
        error = (weight**2).sum(axis=1)
        for share in np.geomspace(0.9, 2.2, CANDIDATES):
            step = np.where(largest > 0, largest * share / top, 1.0)
            codes = nearest_with_digits(weight / step[:, None], self.digits, self.bits)
            square = (codes**2).sum(axis=1)
            step = np.divide((weight * codes).sum(axis=1), square, out=step, where=square > 0)
            new = ((weight - codes * step[:, None]) ** 2).sum(axis=1)
            better = new < error
            best[better], scale[better], error[better] = codes[better], step[better], new[better]
        return best, scale
