"""Whole small networks: every code tensor that the interpreter computes is the one that onnxruntime computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.ir import integer as I
from tests.models import Net, code_range, differences, integers_of

FRAMES = 4
KINDS = ["conv", "depthwise", "max", "average", "add", "concat", "slice", "pad", "transpose", "global"]
DTYPES = ["uint8", "int8", "uint4", "int4"]


def frames(model, seed=0):
    """Random codes for each input; the first and the last frame hold the smallest and the largest code."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in model.graph.input:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = {2: "uint8", 3: "int8"}[info.type.tensor_type.elem_type]
        lo, hi = code_range(dtype)
        x = rng.integers(lo, hi + 1, (FRAMES, *shape))
        x[0], x[-1] = lo, hi
        feeds[info.name] = x.astype(dtype)
    return feeds


def exact(model, seed=0):
    """No code differs, and the certificate says so beforehand."""
    proved = all(entry.proved for entry in integers_of(model)[1].certificate)
    return proved and set(differences(model, frames(model, seed)).values()) <= {0}


@st.composite
def networks(draw):
    """A chain of layers on power-of-two scales, so that no sum rounds."""
    net = Net()
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    power = st.sampled_from([0.25, 0.5, 1.0, 2.0])
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    shape = (1, draw(st.sampled_from([1, 2, 4])), draw(st.integers(4, 7)), draw(st.integers(4, 7)))
    zero = draw(st.integers(*code_range(dtype)))
    x = net.dq(net.input(shape, dtype), 0.5, zero, dtype)
    x, shape = _quantized(draw, net, rng, x, shape), shape
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(KINDS if min(shape[2:]) > 1 else ["conv", "add", "concat", "pad", "global"]))
        x, shape = _layer(draw, net, rng, kind, x, shape, draw(power))
    if draw(st.booleans()):
        size = int(np.prod(shape))
        x = net.op("Reshape", x, net.const([1, size], "int64"))
        w = rng.integers(-8, 8, (size, 3))
        x = net.op("MatMul", x, net.weight(w, draw(power), "int4"))
        x = net.op("Add", x, net.const(rng.integers(-9, 9, 3) / 4))
    return net.model(net.q(x, draw(power) * 4, draw(st.integers(0, 15)), "uint4"))


def _quantized(draw, net, rng, x, shape):
    dtype = draw(st.sampled_from(DTYPES))
    lo, hi = code_range(dtype)
    if draw(st.booleans()):
        x = net.op("Relu", x)
    scale = draw(st.sampled_from([2.0, 4.0, 8.0, 32.0]))
    return net.qdq(x, scale, draw(st.sampled_from([0, 0, lo, hi // 2])), dtype)


def _layer(draw, net, rng, kind, x, shape, scale):
    _, channels, height, width = shape
    k = [min(3, height), min(2, width)]
    if kind in ("conv", "depthwise"):
        group = channels if kind == "depthwise" else 1
        rows = channels if kind == "depthwise" else draw(st.integers(1, 4))
        pads = [draw(st.integers(0, p - 1)) for p in k] * 2
        strides = [draw(st.integers(1, 2)), 1]
        w = rng.integers(-1, 2, (rows, channels // group, *k))
        per_channel = rng.choice([0.25, 0.5, 1.0], rows)
        inputs = [x, net.weight(w, per_channel, "int2")]
        if draw(st.booleans()):
            inputs.append(net.const(rng.integers(-20, 20, rows) / 8))
        y = net.op("Conv", *inputs, pads=pads, strides=strides, group=group)
        size = [(n + pads[i] + pads[2 + i] - k[i]) // strides[i] + 1 for i, n in enumerate((height, width))]
        return _quantized(draw, net, rng, y, shape), (1, rows, *size)
    if kind == "max":
        pads = [p - 1 for p in k] * 2 if draw(st.booleans()) else [0] * 4
        y = net.op("MaxPool", x, kernel_shape=k, pads=pads, strides=[1, 1])
        return y, (1, channels, *(n + pads[i] + pads[2 + i] - k[i] + 1 for i, n in enumerate((height, width))))
    if kind == "average":
        y = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        return _quantized(draw, net, rng, y, shape), (1, channels, height // 2, width // 2)
    if kind == "add":
        other = _quantized(draw, net, rng, net.op("Mul", x, net.const(scale)), shape)
        return _quantized(draw, net, rng, net.op(draw(st.sampled_from(["Add", "Sub"])), x, other), shape), shape
    if kind == "concat":
        other = _quantized(draw, net, rng, net.op("Mul", x, net.const(scale)), shape)
        return net.op("Concat", x, other, axis=1), (1, 2 * channels, height, width)
    if kind == "slice":
        start, pace = ([1, 0], [1, 2]) if draw(st.booleans()) else ([height - 1, width - 1], [-1, -2])
        ends = [1 << 40] * 2 if pace[0] > 0 else [-(1 << 40)] * 2
        consts = [net.const(v, "int64") for v in (start, ends, [2, 3], pace)]
        return net.op("Slice", x, *consts), (1, channels, height - 1 if pace[0] > 0 else height, -(-width // 2))
    if kind == "pad":
        pads = [0, draw(st.integers(0, 1)), 1, 0, 0, draw(st.integers(0, 1)), 0, 2]
        y = net.op("Pad", x, net.const(pads, "int64"), net.const(0.0))
        return y, tuple(n + pads[i] + pads[4 + i] for i, n in enumerate(shape))
    if kind == "transpose":
        return net.op("Transpose", x, perm=[0, 2, 3, 1]), (1, height, width, channels)
    y = net.op("GlobalAveragePool", x)
    return _quantized(draw, net, rng, y, shape), (1, channels, 1, 1)


@given(networks())
@settings(max_examples=700)
def test_every_code_equals_onnxruntime(model):
    assert exact(model)
