"""Whole small networks: every code tensor that the interpreter computes is the one that onnxruntime computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    x = _quantized(draw, net, rng, x, shape)
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
        joined = net.op("Concat", x, other, axis=1)
        return _quantized(draw, net, rng, joined, shape), (1, 2 * channels, height, width)
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
@settings(max_examples=50)
def test_every_code_equals_onnxruntime(model):
    assert exact(model)


def head(shape, scale=0.5, zero=0, dtype="uint8"):
    net = Net()
    return net, net.dq(net.input(shape, dtype), scale, zero, dtype)


def test_max_pool_before_the_quantizer():
    net, x = head((1, 2, 6, 5), zero=9)
    w = np.random.default_rng(1).integers(-1, 2, (3, 2, 3, 3))
    y = net.op("Relu", net.op("Conv", x, net.weight(w, np.array([0.25, 1, 0.5]), "int2")))
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    assert exact(net.model(net.q(y, 4.0)))


def test_max_pool_where_a_falling_chain_turns_the_order():
    """Behind a factor below zero the largest value is the smallest code."""
    net, x = head((1, 2, 4, 4), zero=100)
    y = net.op("MaxPool", net.op("Mul", x, net.const(-0.5)), kernel_shape=[2, 2], strides=[1, 1])
    assert exact(net.model(net.q(y, 1.0, 60)))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("window", [[2, 2], [3, 3], [1, 5]], ids=str)
def test_average_pool(window, dtype):
    """Sums of a window are exact; the division that follows is onnxruntime's own, whatever the window."""
    net, x = head((1, 2, 5, 6), 0.5, 3, dtype)
    y = net.op("AveragePool", x, kernel_shape=window, strides=[1, 2])
    assert exact(net.model(net.q(y, 0.25, -3, "int8")))


def test_average_pool_that_counts_padding():
    net, x = head((1, 2, 5, 6), 0.5, 3)
    y = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    assert exact(net.model(net.q(y, 0.25, 100)))


def test_concat_of_different_scales():
    net, x = head((1, 2, 3, 3))
    parts = [net.qdq(x, 2.0, 3), net.qdq(net.op("Mul", x, net.const(-0.3)), 0.3, -7, "int8")]
    y = net.op("Concat", *parts, axis=1)
    assert exact(net.model(net.q(y, 0.7, 11)))


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_sum_of_branches_joined_from_different_scales(op):
    """Each half of the channels has a ratio of its own to the other branch."""
    net, x = head((1, 1, 5, 5))
    joined = net.op("Concat", net.qdq(x, 8.0, -128, "int8"), net.qdq(x, 32.0), axis=1)
    assert exact(net.model(net.q(net.op(op, joined, net.qdq(joined, 32.0, 0, "uint4")), 4.0, 0, "int8")))


def test_sum_of_a_layer_with_scales_per_channel():
    net, x = head((1, 2, 3, 3), 1.0)
    y = net.op("Conv", x, net.weight(np.ones((2, 1, 1, 1), int), np.array([0.25, 0.5]), "int2"), group=2)
    assert exact(net.model(net.q(net.op("Add", y, x), 2.0)))


def test_bipolar_codes_with_padding():
    """A convolution pads with real 0, which is no value of {-1, 1}."""
    net, x = head((1, 1, 5, 5), 1.0, 128)
    one = net.const(1.0)
    y = net.op("Where", net.op("GreaterOrEqual", x, net.const(0.0)), one, net.op("Neg", one))
    w = np.random.default_rng(2).choice([-1, 1], (2, 1, 3, 3))
    y = net.op("Conv", y, net.weight(w, 1.0, "int2"), pads=[1, 1, 1, 1])
    assert exact(net.model(net.q(y, 1.0, 9)))


def test_batch_normalization_with_negative_gamma():
    net, x = head((1, 3, 4, 4), zero=5)
    w = np.random.default_rng(3).integers(-1, 2, (4, 3, 2, 2))
    y = net.op("Conv", x, net.weight(w, np.array([0.25, 1, 0.5, 2]), "int2"))
    stats = ([-1.3, 0.7, -0.01, 0.0], [0.1, 2, -3, 1], [5.0, -9, 0, 1], [4.0, 0.5, 1, 2])
    y = net.op("Relu", net.op("BatchNormalization", y, *map(net.const, stats)))
    assert exact(net.model(net.q(y, 0.3, 0, "uint4")))


def test_gemm_with_negative_alpha():
    net, x = head((1, 6), zero=50)
    w = np.random.default_rng(4).integers(-7, 8, (3, 6))
    y = net.op("Gemm", x, net.weight(w, 0.5, "int4"), net.const([1.0, -2.0, 0.5]), alpha=-0.5, beta=2.0, transB=1)
    assert exact(net.model(net.q(y, 16.0, 7)))


def test_max_pool_of_codes_whose_scale_is_negative():
    """The largest value is then the smallest code."""
    net, x = head((1, 2, 4, 4), -0.5, 100)
    y = net.op("MaxPool", x, kernel_shape=[2, 2])
    assert exact(net.model(net.q(y, 0.5, 128)))


def test_one_dimensional_network():
    net, x = head((1, 3, 17), zero=5)
    w = np.random.default_rng(5).integers(-1, 2, (4, 3, 3))
    y = net.op("Conv", x, net.weight(w, 0.5, "int2"), pads=[2, 2], dilations=[2], strides=[3])
    assert exact(net.model(net.q(net.op("Relu", y), 2.0, 0, "uint4")))


def test_exact_wrong():
    """Codes that are a function of more than the sum do differ: the comparison is able to fail."""
    net, x = head((1, 2, 4, 4), 1 / 3, 100)
    y = net.op("AveragePool", x, kernel_shape=[3, 3])
    assert not exact(net.model(net.q(y, 2 / 27, 100)))
