"""Quantizers move into the pieces of what is put together; what the network computes stays."""

from __future__ import annotations

import numpy as np
import pytest

from tcompile import reference
from tcompile.frontend.export import export
from tcompile.ir import real as R
from tcompile.lowering.branches import parted
from tests.models import Net, real_graph


def averages(shape=(1, 2, 5, 4), *, used_twice=False, per_channel=False):
    """Codes -> average over cut windows -> Relu -> quantizer -> dequantizer."""
    net = Net()
    x = net.dq(net.input(shape), 0.5, 3)
    mean = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = net.op("Mul", mean, net.const(np.full((1, 2, 1, 1), 2.0))) if per_channel else net.op("Relu", mean)
    codes = net.q(y, 0.25, 1)
    outputs = [net.dq(codes, 0.25, 1), *([net.op("Neg", mean)] if used_twice else [])]
    return real_graph(net.model(*outputs))


def run(graph, seed=0):
    (info,) = graph.all(R.Input)
    x = np.random.default_rng(seed).integers(0, 256, info.type.shape).astype(np.uint8)
    return list(reference.run(export(graph), {info.name: x}).values())


def test_every_piece_gets_its_quantizer():
    graph = averages()
    moved = parted(graph)
    assert len(moved.all(R.QuantizeLinear)) == len(moved.all(R.AveragePool)) == 9
    assert all(c.type.is_integer for c in moved.all(R.Concat))
    assert all(np.array_equal(a, b) for a, b in zip(run(moved), run(graph), strict=True))


@pytest.mark.parametrize("options", [{"used_twice": True}, {"per_channel": True}])
def test_what_others_read_or_differs_by_channel_stays(options):
    graph = averages(**options)
    assert parted(graph) is graph


def test_a_concat_of_codes_stays():
    net = Net()
    x = net.dq(net.input((1, 2, 4, 4)), 0.5, 3)
    graph = real_graph(net.model(net.q(net.op("Concat", x, x, axis=3), 0.25)))
    assert parted(graph) is graph
