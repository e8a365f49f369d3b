"""Cross-layer equalization by powers of two: channels that share a grid of activations become alike in range.

Where a channel's values reach the layers behind it through positively homogeneous operations only (f(x/s) = f(x)/s for
s > 0: Relu, pools, sums of branches, what moves elements), what makes the channel may be divided by s, weights and bias,
and the weights that take it multiplied by s, and the network stays the same. Nagel, van Baalen, Blankevoort, Welling,
"Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), eq. 11, sets

    s_i = sqrt(r1_i / r2_i),

r1_i the range of the weights that make channel i and r2_i the range of those that take it. Here every s is a power of two, so that not a bit of the network's outputs changes (underflow aside). And r1_i is
the largest magnitude of the channel's values on calibration data, because weights have a scale per output channel
already and activations have one grid for all channels (so Xiao et al., "SmoothQuant", ICML 2023, eq. 4, α = 1/2). For the
same reason r2_i is relative to the largest weight of its output channel; and a depthwise layer, whose channels have
weights and scales of their own, asks for no compromise: channels that only such layers take get s_i = r1_i.

Channels that meet in a sum of branches share their s; those that meet an operation that is not homogeneous (Clip,
Sigmoid, a quantizer), an input or an output of the network keep theirs, 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tcompile.errors import Problem, UsageError
from tcompile.ir.graph import Graph
from tcompile.passes.base import PassResult
from tcompile.passes.calibration import magnitudes
from tcompile.passes.channels import FIXED, Channels, rescaled, trace

__all__ = ["Equalize"]

FURTHEST = 24  # exponents beyond are cut, far from underflow
LEAST = 1 / 16  # of the largest: a channel that is almost silent on calibration data may not be so on others


@dataclass(frozen=True)
class Equalize:
    """Gives channels that share a grid like ranges, by powers of two that the network's outputs do not show.

    Parameters
    ----------
    samples : mapping of str to array (N, ...)
        Calibration frames by the name of the input's ONNX tensor.

    Raises
    ------
    UsageError
        There are no samples, or they do not fit the inputs.
    """

    name: ClassVar[str] = "equalize"
    samples: Mapping[str, np.ndarray] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.samples:
            message = "calibration data is needed to equalize channels"
            raise UsageError(Problem("calibration-needed", message, hint="give --calib X.npz"))

    def run(self, graph: Graph) -> PassResult:
        """Equalize all channels of `graph` that can be."""
        channels = trace(graph)
        roots = channels.roots()
        exponents = _exponents(channels, roots, self._ranges(graph, channels, roots))
        moved = int((exponents != 0).sum())
        if not moved:
            return PassResult(graph, False)
        note = f"{moved} of {len(channels)} channels divided by 2^{exponents.min()} .. 2^{exponents.max()}"
        return PassResult(rescaled(graph, channels, np.exp2(-exponents)), True, (note,))

    def _ranges(self, graph: Graph, channels: Channels, roots: np.ndarray) -> np.ndarray:
        """Largest magnitude of the values of each channel that a layer takes."""
        values = tuple(dict.fromkeys(layer.node.inputs[0] for layer, _ in channels.taken.values()))
        ranges = np.zeros(len(roots))
        for value, size in magnitudes(graph, self.samples, values).items():
            floor = np.where(size > 0, LEAST * size.max(initial=0.0), 0.0)
            np.maximum.at(ranges, roots[channels.values[value]], np.maximum(size, floor))
        return ranges


def _exponents(channels: Channels, roots: np.ndarray, r1: np.ndarray) -> np.ndarray:
    """log2 of s per channel, an int array."""
    r2, alone = _taken(channels, roots)
    able = (r1 > 0) & (r2 > 0)
    log1, log2 = (np.log2(r, out=np.zeros_like(r), where=able) for r in (r1, r2))
    exponents = np.rint(np.where(alone, log1, (log1 - log2) / 2)).clip(-FURTHEST, FURTHEST).astype(np.int64)
    exponents[FIXED] = 0
    return np.asarray(exponents[roots])


def _taken(channels: Channels, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest weight that takes a channel, relative to its row; and whether only depthwise layers do."""
    largest, alone = np.zeros(len(roots)), np.ones(len(roots), bool)
    for layer, columns in channels.taken.values():
        ids = roots[columns]
        size = np.abs(layer.weight).reshape(layer.group, len(layer.weight) // layer.group, layer.weight.shape[1], -1)
        size = size.max(axis=3)
        top = size.max(axis=2, keepdims=True)
        relative = np.divide(size, top, out=np.zeros_like(size), where=top > 0).max(axis=1).reshape(-1)
        np.maximum.at(largest, ids, np.where(relative > 0, np.maximum(relative, LEAST), 0.0))
        if size.shape[2] > 1:
            alone[ids] = False
    return largest, alone
