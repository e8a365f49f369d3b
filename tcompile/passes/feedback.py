"""Rounding a layer's weights one column after the other, each time correcting the columns still to come.

With x a layer's inputs, centred, and H = E[x·xᵀ], rounding a row w to q changes its output by (w - q)·H·(w - q) in the
mean square (the mean itself is the bias's). Optimal brain surgery (Hassibi, Stork, 1993): once weight j is rounded, the
change of the others that makes good most of it is -e/U_jj · U_j, U the upper Cholesky factor of H⁻¹ and e the rounding
error. Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ" (ICLR 2023), eq. 2 and algorithm 1, go through the columns once, the same
order for all rows; here the order is that of falling H_jj. H gets 1 % of its mean diagonal added, as there.
Weights that are zero stay zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.passes.calibration import frames_of, runner
from tcompile.passes.weights import Layer

__all__ = ["moments", "rounded", "rows_of"]

POSITIONS = 32  # of a convolution, drawn from each frame
WIDEST = 2048  # columns; a wider layer's matrix would be too large
DAMPING = 0.01
ROUNDING = 2.0**-30  # of the mean square, far above that of sums in float64


def moments(graph: Graph, samples: Mapping[str, np.ndarray], layers: tuple[Layer, ...]) -> dict[str, np.ndarray]:
    """Covariance of the inputs of each layer on calibration frames, by value; nothing for very wide layers.

    Returns
    -------
    dict of str to float64 array (group, K, K)
        K columns of a group, in the order of the layer's weights.
    """
    layers = tuple(layer for layer in layers if _columns(layer) <= WIDEST)
    if not layers:
        return {}
    frames = frames_of(graph, samples)
    session = runner(graph, tuple(dict.fromkeys(layer.node.inputs[0] for layer in layers)))
    random = np.random.default_rng(0)
    sums = {layer.node.name: _Sums(layer) for layer in layers}
    for k in range(len(next(iter(frames.values())))):
        values = session({name: x[k] for name, x in frames.items()})
        for layer in layers:
            sums[layer.node.name].add(rows_of(layer, values[layer.node.inputs[0]], random))
    return {value: s.covariance() for value, s in sums.items()}


def _columns(layer: Layer) -> int:
    return int(np.prod(layer.weight.shape[1:]))


class _Sums:
    def __init__(self, layer: Layer) -> None:
        self.count = 0
        self.first = np.zeros((layer.group, _columns(layer)))
        self.second = np.zeros((layer.group, _columns(layer), _columns(layer)))

    def add(self, x: np.ndarray) -> None:
        self.count += x.shape[1]
        self.first += x.sum(axis=1)
        self.second += x.transpose(0, 2, 1) @ x

    def covariance(self) -> np.ndarray:
        mean, square = self.first / self.count, self.second / self.count
        power = np.einsum("gkk->g", square) / square.shape[1]
        floor = ROUNDING * power[:, None, None] * np.eye(square.shape[1])  # what the difference may have lost
        return np.asarray(square - mean[:, :, None] * mean[:, None, :] + floor)


def rows_of(layer: Layer, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What a layer multiplies its weights with, float64 (group, n, K); of a convolution at positions drawn at random."""
    node = layer.node
    x = x.astype(np.float64)
    if not isinstance(node, R.Conv):
        x = x.T if isinstance(node, R.Gemm) and node.transA else x
        return x.reshape(1, -1, x.shape[-1])
    axes = len(node.kernel_shape)
    x = np.pad(x, [(0, 0), (0, 0), *zip(node.pads[:axes], node.pads[axes:], strict=True)])
    out = node.type.shape[2:]
    count = int(np.prod(out))
    places = np.unravel_index(random.choice(count, min(POSITIONS, count), replace=False), out)
    taps = np.indices(node.kernel_shape).reshape(axes, -1)
    index = [places[a][:, None] * node.strides[a] + taps[a] * node.dilations[a] for a in range(axes)]
    window = x[0][(slice(None), *index)]  # (C, n, taps)
    window = window.reshape(layer.group, -1, *window.shape[1:]).transpose(0, 2, 1, 3)
    return np.asarray(window.reshape(layer.group, window.shape[1], -1))


def rounded(
    weight: np.ndarray, covariance: np.ndarray, step: np.ndarray, nearest: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and the step that suits them best.

    Parameters
    ----------
    weight : float64 array (rows, K)
        Weights of one group.
    covariance : float64 array (K, K)
        Of what they are multiplied with.
    step : float64 array (rows,)
        Scale for which codes are chosen.
    nearest : callable
        Codes for a column of weights in units of the step.
    """
    diagonal = np.diag(covariance)
    order = np.argsort(-diagonal, kind="stable")
    damped = covariance[np.ix_(order, order)] + np.eye(len(order)) * (DAMPING * float(diagonal.mean()) or 1.0)
    upper = np.linalg.inv(np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1])
    left = weight[:, order] / step[:, None]
    codes = np.zeros(weight.shape, np.int64)
    for j, column in enumerate(order):
        codes[:, column] = nearest(left[:, j]) * (weight[:, column] != 0)
        error = (left[:, j] - codes[:, column]) / upper[j, j]
        left[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    moved = codes[:, order] @ damped
    power, cross = (moved * codes[:, order]).sum(axis=1), (moved * weight[:, order]).sum(axis=1)
    return codes, np.where((power > 0) & (cross > 0), np.divide(cross, power, out=step.copy(), where=power > 0), step)
