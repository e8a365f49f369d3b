"""Scales inputs so that their values fill 8-bit codes, and undoes it in the weights of the layers that take them.

Activations have power-of-two steps, so that sums are exact; a step of up to twice the size that a range asks for is the
price. For inputs it need not be paid: the host multiplies them by a number c before they become codes, and the first
layers' weights, which get scales of their own anyway, are divided by c. With c = (2^bits - 1) / (largest - smallest), 0
counted in, steps of 1 suffice; but values that lie on a grid already (pixels, codes of a feature extractor) should not
move between its points: of c·n / (2^bits - 1), n from half of the codes to all, it is the one of least squared error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tcompile.errors import printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin
from tcompile.passes.base import PassResult
from tcompile.passes.calibration import Observed, calibrate
from tcompile.passes.channels import FIXED, rescaled, trace
from tcompile.passes.quantize_activations import inserted
from tcompile.passes.weights import Names, constant

__all__ = ["ScaleInputs", "fitting"]


@dataclass(frozen=True)
class ScaleInputs:
    """Multiplies inputs so that their values fill the codes.

    Parameters
    ----------
    samples : mapping of str to array (N, ...)
        Calibration frames by the name of the input's ONNX tensor.
    bits : int
        Bits of the codes.
    """

    name: ClassVar[str] = "scale-inputs"
    samples: Mapping[str, np.ndarray] = field(repr=False, compare=False)
    bits: int = 8

    def run(self, graph: Graph) -> PassResult:
        """Scale every float input of `graph` of which all uses can be scaled with it."""
        channels = trace(graph, free_inputs=True)
        roots = channels.roots()
        inputs = {n.name: int(roots[channels.values[n.name].flat[0]]) for n in graph.all(R.Input)}
        seen = calibrate(graph, self.samples, tuple(v for v, root in inputs.items() if root != FIXED))
        factors, notes, scales = np.ones(len(roots)), [], {}
        for value, observed in seen.items():
            scale = fitting(observed, self.bits) if list(inputs.values()).count(inputs[value]) == 1 else 1.0
            if scale != 1:
                scales[value] = scale
                factors[roots == inputs[value]] = scale
                notes.append(f"{printable(graph[value].origin.tensor or value)}: multiplied by {scale:.6g}")
        if not scales:
            return PassResult(graph, False)
        return PassResult(_multiplied(rescaled(graph, channels, factors), scales), True, tuple(notes))


def fitting(observed: Observed, bits: int) -> float:
    """Factor, a float32, with which values fill the codes; 1 where codes hold them as they are, or all are 0."""
    lo, hi = min(observed.lo, 0.0), max(observed.hi, 0.0)
    top = (1 << bits) - 1
    sample = observed.sample
    if hi == lo or (hi - lo <= top and (sample == np.rint(sample)).all()):
        return 1.0
    scales = [float(np.float32(n / (hi - lo))) for n in range(top, top // 2, -1)]
    return min(scales, key=lambda c: float(((np.rint(sample * c) / c - sample) ** 2).sum()))


def _multiplied(graph: Graph, scales: Mapping[str, float]) -> Graph:
    names = Names(graph)

    def times(node: R.RealNode) -> tuple[R.RealNode, ...]:
        if node.name not in scales:
            return ()
        origin = Origin(node.origin.nodes)
        by = constant(names(node.name, "factor"), np.array(scales[node.name], np.float32), "float32", origin)
        return by, R.Mul(name=names(node.name, "filling"), inputs=(node.name, by.name), type=node.type, origin=origin)

    return inserted(graph, times)[0]
