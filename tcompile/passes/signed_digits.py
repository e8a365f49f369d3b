"""Weights with at most N nonzero canonical signed digits: each product is at most N shifted additions.

The canonical signed digit form of an integer has digits -1, 0, 1, no two neighbours nonzero, and no form has fewer
nonzero digits. A weight becomes the nearest multiple of its channel's scale whose integer has at most N of them; of two
equally near ones the smaller magnitude. The scale is searched for the least squared error.

With calibration data weights are rounded column by column, each rounding error made good by the columns that follow
(`tcompile.passes.feedback`); the scale is then the one of least squared error of the layer's output.

A layer's sums must stay below 2^24 for codes of 8 bits at its input, or they would not be exact in float32: a layer with
so many and so large weights gets fewer bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir.graph import Graph
from tcompile.passes.base import PassResult
from tcompile.passes.feedback import moments, rounded
from tcompile.passes.weights import Layer, Names, float_layers, integer_dtype, written

__all__ = ["SignedDigits", "csd", "nearest_with_digits"]

CANDIDATES = 32
LARGEST_SUM = ((1 << 24) - 1) // 255  # of the magnitudes of a row's codes


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
    samples : mapping of str to array (N, ...)
        Calibration frames by the name of the input's ONNX tensor; without them weights are rounded each for itself.
    """

    name: ClassVar[str] = "signed-digits"
    digits: int
    bits: int = 8
    samples: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)

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
        inputs = moments(graph, self.samples, layers) if self.samples else {}
        names = Names(graph)
        new = {}
        for layer in layers:
            codes, scale, bits = self._exact(layer, inputs.get(layer.node.name))
            new[layer.node.name] = written(graph, layer, codes.reshape(layer.weight.shape), scale, names)
            notes += (_note(layer, codes) + (f", {bits} bits so that sums are exact" if bits < self.bits else ""),)
        if not new:
            return PassResult(graph, False, notes)
        nodes = [n for node in graph for n in new.get(node.name, (node,))]
        return PassResult(graph.with_nodes(nodes), True, notes)

    def _exact(self, layer: Layer, covariance: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
        """Codes (MH, MW), scales and bits: as many bits as keep the sums exact, 2 if none do."""
        weight = layer.weight.reshape(len(layer.weight), -1)
        for bits in range(self.bits, 1, -1):
            codes, scale = self.fit(weight, bits)
            if covariance is not None:
                codes, scale = self._corrected(weight, covariance, scale, bits)
            if np.abs(codes).sum(axis=1).max(initial=0) <= LARGEST_SUM:
                break
        return codes, scale, bits

    def _corrected(
        self, weight: np.ndarray, covariance: np.ndarray, scale: np.ndarray, bits: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes whose errors make each other good, group by group."""
        nearest = partial(nearest_with_digits, digits=self.digits, bits=bits)
        parts = [np.array_split(a, len(covariance)) for a in (weight, scale)]
        pairs = [rounded(w, c, s, nearest) for w, s, c in zip(*parts, covariance, strict=True)]
        return np.concatenate([c for c, _ in pairs]), np.concatenate([s for _, s in pairs])

    def fit(self, weight: np.ndarray, bits: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Codes, each nearest to its weight, and one scale per row of a float64 matrix; scale 1 where a row is zero."""
        bits = bits or self.bits
        largest = np.abs(weight).max(axis=1, initial=0.0)
        top = int(_table(self.digits, bits)[-1])
        best, scale = np.zeros(weight.shape, np.int64), np.ones(len(weight))
        error = (weight**2).sum(axis=1)
        for share in np.geomspace(0.9, 2.2, CANDIDATES):
            step = np.where(largest > 0, largest * share / top, 1.0)
            codes = nearest_with_digits(weight / step[:, None], self.digits, bits)
            square = (codes**2).sum(axis=1)
            step = np.divide((weight * codes).sum(axis=1), square, out=step, where=square > 0)
            new = ((weight - codes * step[:, None]) ** 2).sum(axis=1)
            better = new < error
            best[better], scale[better], error[better] = codes[better], step[better], new[better]
        return best, scale


def _note(layer: Layer, codes: np.ndarray) -> str:
    values, counts = np.unique(codes, return_counts=True)
    used = sum(sum(map(abs, csd(int(n)))) * int(k) for n, k in zip(values, counts, strict=True))
    return f"{printable(layer.name)}: {integer_dtype(codes).upper()}, {used / codes.size:.2f} digits per weight"
