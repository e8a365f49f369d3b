"""Statistical weight scaling with residual expansion (He, Gong, Fan, WACV 2019), without training.

Term i of N has the support |w| >= Δ_i, Δ_i = i·β·max|w|; the supports are nested, so a weight's magnitude is one of
the levels a_1, a_1 + a_2, ..., and 0 below Δ_1. In the paper every term has the scale mean{|w| : |w| >= Δ_i}, and the
network is trained around it. For N = 1 that mean is the least squared error scale of the support, and is kept. For
N > 1 the paper's scales overlap (their sum overshoots), which training repairs; without training the scales are fitted:
the least squared error levels of nested supports are the means of |w| between neighbouring thresholds. They are then
snapped to integers 0 < k_1 < k_2 < ... times one float step, choosing integers and step of the least squared error, so
that a layer lies on one INT2 grid (N = 1) or INT4 grid (N <= 7, k <= 7).

``thresholds="fitted"`` leaves Δ_i and takes for each channel the step s whose grid {0, ±s, ..., ±N·s} is nearest to the
weights; the supports are nested all the same, at (i - 1/2)·s.

Mean correction: nothing is known here of a layer's inputs, so that its scale is stretched by ‖w‖/‖w_q‖. That keeps the
mean power of the output for inputs that are alike and uncorrelated. With calibration data the pass `match-outputs`
corrects means and scales after this one.

Weights that are zero stay zero: every threshold of a channel with a weight is positive. A channel without any has
codes 0 and scale 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import gcd
from typing import ClassVar, Literal

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir.graph import Graph
from tcompile.passes.base import PassResult
from tcompile.passes.weights import Layer, Names, float_layers, integer_dtype, written

__all__ = ["Ternarize", "fitted", "patterns", "statistical"]

INT4_TOP = 7
INT8_TOP = 127
CANDIDATES = 64
ROUNDS = 8


def statistical(weight: np.ndarray, terms: int = 1, beta: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Codes and steps of nested supports |w| >= i·β·max|w| (the edge belongs to the support).

    Parameters
    ----------
    weight : float64 array (rows, n)
        One scale per row.
    terms : int
        Number of nested supports.
    beta : float
        First threshold as a share of the largest weight.

    Returns
    -------
    (int64 array (rows, n), float64 array (rows,))
        Signed integers and their steps.
    """
    size = np.abs(weight)
    top = size.max(axis=1, keepdims=True, initial=0.0)
    level = sum((size >= i * beta * top).astype(np.int64) for i in range(1, terms + 1)) * (size > 0)
    counts = np.stack([(level == i).sum(axis=1) for i in range(1, terms + 1)], axis=1)
    sums = np.stack([(size * (level == i)).sum(axis=1) for i in range(1, terms + 1)], axis=1)
    table = patterns(terms)
    cross, square = sums @ table.T, counts @ (table**2).T
    gain = np.divide(cross**2, square, out=np.zeros_like(cross), where=square > 0)
    best = gain.argmax(axis=1)
    k = np.concatenate([np.zeros((len(best), 1), np.int64), table[best]], axis=1)
    codes = np.take_along_axis(k, level, axis=1) * np.sign(weight).astype(np.int64)
    return np.asarray(codes), _step(weight, codes)


def fitted(weight: np.ndarray, terms: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Codes in -terms .. terms and steps of the least squared error found by search; arguments as `statistical`."""
    size = np.abs(weight)
    top = size.max(axis=1, keepdims=True, initial=0.0)
    best, error = np.zeros(weight.shape, np.int64), np.full(len(weight), np.inf)
    for share in np.linspace(0.25, 1.0, CANDIDATES):
        step = share * top[:, 0] / terms
        for _ in range(ROUNDS if terms == 1 else 2):
            codes = _nearest(weight, step, terms)
            step = _step(weight, codes)
        new = ((weight - codes * step[:, None]) ** 2).sum(axis=1)
        better = new < error
        best[better], error[better] = codes[better], new[better]
    return best, _step(weight, best)


def _nearest(weight: np.ndarray, step: np.ndarray, terms: int) -> np.ndarray:
    safe = np.where(step > 0, step, 1.0)[:, None]
    return np.asarray(np.clip(np.rint(weight / safe), -terms, terms).astype(np.int64))


def patterns(terms: int) -> np.ndarray:
    """Rising positive integers that the levels may take, without a common factor: (patterns, terms)."""
    if terms == 1:
        return np.ones((1, 1), np.int64)
    if terms <= INT4_TOP:
        return np.array([k for k in combinations(range(1, INT4_TOP + 1), terms) if gcd(*k) == 1])
    lasts = range(terms, min(INT8_TOP, 4 * terms) + 1)
    return np.array([[*range(1, terms), last] for last in lasts])


def _step(weight: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Step of the least squared error for given codes; 1 where all codes are 0."""
    square = (codes**2).sum(axis=1)
    step = np.divide((weight * codes).sum(axis=1), square, out=np.ones(len(codes)), where=square > 0)
    return np.asarray(step)


@dataclass(frozen=True)
class Ternarize:
    """Replaces float weights by sums of scaled ternary planes.

    Parameters
    ----------
    terms : int
        Ternary planes per layer, 1 to 64.
    per : {"layer", "channel"}
        What shares one scale.
    beta : float
        First threshold as a share of the largest weight; term i has i·beta. terms·beta must be below 1.
    mean_correction : bool
        Stretch the scale so that the mean power of the output stays.
    thresholds : {"statistical", "fitted"}
        Thresholds by β, or those of the least squared error.
    """

    name: ClassVar[str] = "ternarize"
    terms: int = 1
    per: Literal["layer", "channel"] = "channel"
    beta: float = 0.05
    mean_correction: bool = True
    thresholds: Literal["statistical", "fitted"] = "statistical"

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.terms <= 64:
            problems.append(
                Problem("ternary-terms", f"the number of ternary terms must be 1 to 64, not {self.terms!r}")
            )
        elif not 0 < self.beta * self.terms < 1 and self.thresholds == "statistical":
            problems.append(
                Problem(
                    "ternary-beta",
                    f"thresholds must lie between 0 and the largest weight; {self.terms} times {self.beta!r} does not",
                    hint="choose a smaller beta, or fitted thresholds",
                )
            )
        if self.per not in ("layer", "channel"):
            problems.append(Problem("ternary-scope", f"a scale belongs to a layer or a channel, not to {self.per!r}"))
        if self.thresholds not in ("statistical", "fitted"):
            problems.append(
                Problem("ternary-thresholds", f"thresholds are statistical or fitted, not {self.thresholds!r}")
            )
        if problems:
            raise UsageError(problems)

    def run(self, graph: Graph) -> PassResult:
        """Ternarize every layer of `graph` that has constant float weights."""
        layers, notes = float_layers(graph)
        names = Names(graph)
        new = {}
        for layer in layers:
            codes, scale = self._codes(layer.weight)
            if self.mean_correction:
                scale = self._stretch(layer.weight, codes, scale)
            new[layer.node.name] = written(graph, layer, codes, scale, names)
            notes += (self._note(layer, codes, scale),)
        if not new:
            return PassResult(graph, False, notes)
        nodes = [n for node in graph for n in new.get(node.name, (node,))]
        return PassResult(graph.with_nodes(nodes), True, notes)

    def _codes(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes like the weights; scale (MH,) or ()."""
        flat = weight.reshape(len(weight) if self.per == "channel" else 1, -1)
        if self.thresholds == "fitted":
            codes, step = fitted(flat, self.terms)
        else:
            codes, step = statistical(flat, self.terms, self.beta)
        return codes.reshape(weight.shape), step if self.per == "channel" else step[0]

    def _stretch(self, weight: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Scales with which the quantized weights have the norm of the weights."""
        axes = tuple(range(1 if self.per == "channel" else 0, weight.ndim))
        power, kept = (weight**2).sum(axis=axes), scale**2 * (codes**2).sum(axis=axes)
        ratio = np.divide(power, kept, out=np.ones_like(kept), where=kept > 0)
        return np.asarray(scale * np.sqrt(ratio))

    def _note(self, layer: Layer, codes: np.ndarray, scale: np.ndarray) -> str:
        values = np.asarray(scale).reshape(-1, *(1,) * (codes.ndim - 1)) * codes
        power = float((layer.weight**2).sum()) or 1.0
        error = float(((layer.weight - values) ** 2).sum()) / power
        zeros = float((codes == 0).mean())
        return (
            f"{printable(layer.name)}: {integer_dtype(codes).upper()}, {100 * zeros:.1f} % zeros, "
            f"squared error {100 * error:.1f} % of the weights' power"
        )
