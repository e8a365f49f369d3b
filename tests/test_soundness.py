"""Whatever is called proved is equal: small networks made to break that, with inputs at their extremes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tcompile import hosts, reference
from tcompile.errors import ModelError
from tcompile.options import BuildOptions
from tcompile.pipeline import compile_file
from tcompile.verify import Verification, verify
from tests.models import Net, typed

ALL = np.arange(256, dtype=np.uint8)


@pytest.fixture(name="run")
def _run(tmp_path: Path):
    """Compile for a reference and compare on frames: verdict and what was found."""

    def run(model: onnx.ModelProto, frames, mode: str = "plain") -> tuple[str, Verification]:
        path = tmp_path / "model.onnx"
        onnx.save(typed(model), path)
        compiled = compile_file(path, BuildOptions(reference=mode))
        named = frames if isinstance(frames, dict) else {"in0": frames}
        return compiled.report["exactness"]["verdict"], verify(compiled.network, named, other=False)

    return run


def sound(result: tuple[str, Verification]) -> bool:
    verdict, found = result
    return verdict != "proved" or found.mismatches == 0


def extremes(shape: tuple[int, ...], count: int = 24, seed: int = 0, lo: int = 0, hi: int = 255) -> np.ndarray:
    """All-high, all-low, alternating, random corners, random codes; frames of `shape`."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(lo, hi + 1, (count, *shape))
    codes[0], codes[1] = hi, lo
    codes[2].flat[::2], codes[2].flat[1::2] = hi, lo
    codes[3:9] = np.where(rng.random((6, *shape)) < 0.5, lo, hi)
    return codes


def floats(shape: tuple[int, ...], scale: float, zero: int = 0, count: int = 24) -> np.ndarray:
    return ((extremes(shape, count) - zero) * np.float32(scale)).astype(np.float32)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-7, 8, shape)


# Sums of floats


def rounded_up() -> tuple[Net, str, np.float32]:
    """A sum whose float32 value at all-max inputs exceeds the rounded real one, and the latter."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        row, x_scale, w_scale = rng.integers(1, 128, (1, 300)), *np.float32(rng.uniform(0.01, 0.1, 2))
        net = Net()
        total = net.op("Gemm", net.dq(net.input((1, 300)), x_scale), net.weight(row, w_scale), transB=1)
        found = reference.run(typed(net.model(total)), {"in0": np.full((1, 300), 255, np.uint8)})[total].item()
        real = np.float32(int((row * 255).sum()) * float(x_scale) * float(w_scale))
        if found > real:
            return net, total, real
    raise AssertionError("onnxruntime sums without rounding up")


def test_a_step_just_beyond_the_last_reachable_sum_is_at_risk(run):
    """The highest sum is a tie that goes down to 0; onnxruntime's sum is one unit in the last place above it."""
    net, total, real = rounded_up()
    assert sound(run(net.model(net.q(total, 2 * real)), np.full((1, 1, 300), 255, np.uint8)))


def test_products_below_the_smallest_float_are_not_exact(run):
    net = Net()
    total = net.op("Gemm", net.dq(net.input((1, 64)), 2.0**-80), net.weight(weights(3, 64), 2.0**-80), transB=1)
    scaled = net.op("Mul", net.op("Mul", total, net.const(2.0**80)), net.const(2.0**77))
    assert sound(run(net.model(net.q(scaled, 1.0, 128)), extremes((1, 64)).astype(np.uint8)))


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.0371])
def test_averages(run, scale):
    net = Net()
    mean = net.op("AveragePool", net.dq(net.input((1, 2, 6, 6)), scale, 7), kernel_shape=[3, 3])
    assert sound(run(net.model(net.q(mean, scale * 0.77, 3)), extremes((1, 2, 6, 6)).astype(np.uint8)))


def test_batch_normalization_with_negative_and_zero_gamma(run):
    net = Net()
    total = net.op("Conv", net.dq(net.input((1, 4, 5, 5)), 0.5, 100), net.weight(weights(3, 4, 3, 3), 0.25))
    values = [net.const(v) for v in ([1, -2, 0.0], [1, 2, 3.0], [1, 2, 3.0], [1, 2, 3.0])]
    model = net.model(net.q(net.op("BatchNormalization", total, *values), 3.3, 128))
    verdict, found = run(model, extremes((1, 4, 5, 5)).astype(np.uint8))
    assert verdict == "proved" and found.mismatches == 0


# Elementwise operations


def computed(op: str, zero: int, frames: np.ndarray) -> np.ndarray:
    """The 256 values of an operation on codes, in frames of a certain width."""
    net = Net()
    value = net.op(op, net.dq(net.input(frames.shape[1:]), 0.0117, zero))
    return reference.Session(typed(net.model(value))).frames({"in0": frames})[value].ravel()[:256]


@pytest.mark.parametrize("op, zero", [("Elu", 255), ("Selu", 255), ("Log", 0), ("Mish", 128)])
def test_operations_whose_value_depends_on_the_place_are_not_proved(run, op, zero):
    """Three elements are computed one by one, 256 several at a time: a step between both results decides."""
    threes = np.resize(ALL, (86, 1, 3))
    few, many = computed(op, zero, threes), computed(op, zero, ALL[None, None])
    for k in np.flatnonzero((few != many) & np.isfinite(few))[:3]:
        for end in (few[k], many[k]):
            near = np.float32(abs(end) / 20.5)
            for step in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(9))):
                net = Net()
                value = net.op(op, net.dq(net.input((1, 3)), 0.0117, zero))
                try:
                    assert sound(run(net.model(net.q(value, step, 128)), threes))
                except ModelError:
                    return


def test_a_power_with_an_exponent_per_channel_is_replayed_as_it_runs(run):
    """onnxruntime computes x·x·x for a scalar exponent 3 (a channel's, here) and calls pow for a row of them."""
    exponent = np.array([3.0, 3.0, 4.0]).reshape(3, 1, 1)
    codes = np.broadcast_to(ALL, (1, 1, 3, 1, 256)).copy()
    net = Net()
    power = net.op("Pow", net.dq(net.input((1, 3, 1, 256)), 0.37), net.const(exponent))
    values = reference.run(typed(net.model(power)), {"in0": codes[0]})[power]
    for k in range(100, 106):
        net = Net()
        power = net.op("Pow", net.dq(net.input((1, 3, 1, 256)), 0.37), net.const(exponent))
        try:
            assert sound(run(net.model(net.q(power, np.float32(values[0, 0, 0, k] / 50.5))), codes))
        except ModelError:
            return


@pytest.mark.parametrize("op", ["Sqrt", "Reciprocal"])
def test_chains_that_make_nan_and_infinity(run, op):
    net = Net()
    value = net.op("Relu", net.op(op, net.dq(net.input((1, 37)), 0.5, 100)))
    _, found = run(net.model(net.q(value, 0.03, 3)), extremes((1, 37)).astype(np.uint8))
    assert found.mismatches == 0


def test_one_code_met_by_itself(run):
    net = Net()
    codes = net.input((1, 8))
    total = net.op("Add", net.dq(codes, 0.5), net.dq(codes, 0.3, 4))
    square = net.op("Mul", total, total)
    verdict, found = run(net.model(net.q(square, 70.0)), extremes((1, 8)).astype(np.uint8))
    assert verdict == "proved" and found.mismatches == 0


# Codes


def test_concatenated_codes_of_both_signs(run):
    net = Net()
    left, right = net.dq(net.input((1, 2, 3, 3)), 1.0), net.dq(net.input((1, 2, 3, 3), "int8"), 1.0, 0, "int8")
    model = net.model(net.q(net.op("Concat", left, right, axis=1), 2.0, 100))
    signed = extremes((1, 2, 3, 3), lo=-128, hi=127).astype(np.int8)
    assert sound(run(model, {"in0": extremes((1, 2, 3, 3)).astype(np.uint8), "in1": signed}))


@pytest.mark.parametrize("value", [-3.0, 300.0])
def test_padding_beyond_the_range_of_the_codes(run, value):
    net = Net()
    widths = net.const([0, 0, 1, 1, 0, 0, 1, 1], "int64")
    padded = net.op("Pad", net.dq(net.input((1, 2, 3, 3)), 1.0), widths, net.const(value))
    assert sound(run(net.model(net.q(padded, 2.0, 100)), extremes((1, 2, 3, 3)).astype(np.uint8)))


@pytest.mark.parametrize("given, made, zero", [("int8", "uint8", 0), ("uint8", "int8", 128)])
def test_a_cast_of_the_input_wraps_around(run, given, made, zero):
    net = Net()
    codes = net.op("Cast", net.input((1, 16), given), to=onnx.TensorProto.DataType.Value(made.upper()))
    total = net.op("Gemm", net.dq(codes, 1.0, 0, made), net.weight(weights(3, 16), 1.0), transB=1)
    _, found = run(net.model(net.q(total, 16.0, 128)), (extremes((1, 16)) - (128 - zero)).astype(given))
    assert found.mismatches == 0


def test_a_clip_of_input_codes_with_its_bounds_swapped(run):
    net = Net()
    codes = net.op("Clip", net.input((1, 16)), net.const(200, "uint8"), net.const(100, "uint8"))
    total = net.op("Gemm", net.dq(codes, 1.0), net.weight(weights(3, 16), 1.0), transB=1)
    try:
        _, found = run(net.model(net.q(total, 16.0, 128)), extremes((1, 16)).astype(np.uint8))
    except ModelError:
        return
    assert found.mismatches == 0


# Shapes and outputs


@pytest.mark.parametrize(
    "shape, constant", [((1, 4), (3, 1)), ((1, 1, 4, 4), (1, 3, 1, 1)), ((1, 4), (1, 1, 4)), ((4,), (1, 1))]
)
def test_a_constant_that_makes_the_value_larger(run, shape, constant):
    net = Net()
    factors = np.arange(1, np.prod(constant) + 1).reshape(constant)
    model = net.model(net.q(net.op("Mul", net.dq(net.input(shape), 1.0), net.const(factors)), 2.0))
    try:
        _, found = run(model, extremes(shape).astype(np.uint8))
    except ModelError:
        return
    assert found.mismatches == 0


def test_an_output_that_was_put_on_one_grid(run):
    net = Net()
    scaled = net.op("Mul", net.dq(net.input((1, 4, 3, 3)), 0.5), net.const(np.array([1, 2, 4, 8.0]).reshape(4, 1, 1)))
    _, found = run(net.model(net.op("Flatten", scaled)), extremes((1, 4, 3, 3)).astype(np.uint8))
    assert found.identical_outputs == found.samples


def test_an_output_that_is_an_index(run):
    net = Net()
    index = net.op("ArgMax", net.dq(net.input((1, 8)), 0.5, 100), axis=1, keepdims=0)
    _, found = run(net.model(index), extremes((1, 8)).astype(np.uint8))
    assert found.mismatches == 0


def test_sums_and_codes_of_one_layer_as_outputs(run):
    net = Net()
    total = net.op("Conv", net.dq(net.input((1, 4, 5, 5)), 0.5), net.weight(weights(3, 4, 3, 3), 0.25))
    codes = net.q(total, 0.3, 128)
    _, found = run(net.model(total, codes, net.dq(codes, 0.3, 128)), extremes((1, 4, 5, 5)).astype(np.uint8))
    assert found.mismatches == 0 and found.identical_outputs == found.samples


# Fused kernels


def conv(net: Net, bias: str = "") -> str:
    x = net.qdq(net.input((1, 4, 6, 6), "float32"), 0.5)
    return net.op("Conv", x, net.weight(weights(3, 4, 3, 3), 0.25), *([bias] if bias else []))


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_a_floating_point_bias_that_onnxruntime_quantizes(run, op):
    net = Net()
    bias = net.const([0.7, -3.3, 100.123])
    if op == "Conv":
        shape, total = (1, 4, 6, 6), conv(net, bias)
    else:
        shape = (1, 40)
        x = net.qdq(net.input(shape, "float32"), 0.5)
        total = net.op("Gemm", x, net.weight(weights(3, 40), 0.25), bias, transB=1)
    assert sound(run(net.model(net.qdq(total, 0.3, 128)), floats(shape, 0.5), "fused"))


def test_an_integer_bias_of_another_scale(run):
    net = Net()
    x = net.qdq(net.input((1, 40), "float32"), 0.5)
    bias = net.dq(net.const([100, -50, 33], "int32"), 0.3, 0, "int32")
    total = net.op("Gemm", x, net.weight(weights(3, 40), 0.25), bias, transB=1)
    assert sound(run(net.model(net.qdq(total, 0.3, 128)), floats((1, 40), 0.5), "fused"))


@pytest.mark.parametrize("between", ["Transpose", "Reshape", "MaxPool", "Slice"])
def test_a_layout_between_a_kernel_and_its_quantizer(run, between):
    """onnxruntime moves the quantizer in front of the layout and then makes an integer kernel."""
    net = Net()
    total = conv(net)
    whole = [net.const(v, "int64") for v in ([1], [3], [2])]
    moved = {
        "Transpose": lambda: net.op("Transpose", total, perm=[0, 2, 3, 1]),
        "Reshape": lambda: net.op("Reshape", total, net.const([1, 3, 16], "int64")),
        "MaxPool": lambda: net.op("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2]),
        "Slice": lambda: net.op("Slice", total, *whole),
    }[between]()
    assert sound(run(net.model(net.qdq(moved, 0.3, 128)), floats((1, 4, 6, 6), 0.5, count=100), "fused"))


def test_two_quantizers_in_a_row(run):
    """onnxruntime makes one of them."""
    net = Net()
    x = net.qdq(net.qdq(net.input((1, 4, 5, 5), "float32"), 0.5), 1.0)
    total = net.op("Conv", x, net.weight(weights(3, 4, 3, 3), 0.25))
    model = net.model(net.qdq(net.qdq(total, 11.3, 128), 13.7, 100))
    assert sound(run(model, floats((1, 4, 5, 5), 0.5, count=60), "fused"))


@pytest.mark.parametrize("zero", [127, 128])
def test_an_average_kernel_rounds_after_its_zero_point_is_added(run, zero):
    """It does so unless the window is the whole image, where ties go to even before the zero point is added."""
    net = Net()
    x = net.qdq(net.input((1, 3, 4, 4), "float32"), 8.0, 128)
    mean = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[1, 1], pads=[0] * 4)
    assert sound(run(net.model(net.qdq(mean, 8.0, zero)), floats((1, 3, 4, 4), 8.0, 128, 60), "fused"))


@pytest.mark.parametrize("dtype, zero", [("uint8", 9), ("int8", -128)])
@pytest.mark.parametrize("op", ["Concat", "LeakyRelu", "Sigmoid"])
def test_codes_of_every_kernel_are_compared_with_their_own_zero_point(run, op, dtype, zero):
    """onnxruntime writes signed codes as unsigned ones; to find them equal is verification's task."""
    net = Net()
    x = net.qdq(net.input((1, 2, 4, 4), "float32"), 0.5, 3)
    if op == "Concat":
        value = net.op("Concat", x, net.qdq(net.op("HardSwish", x), 0.7, 20), axis=1)
    else:
        value = net.op(op, x)
    _, found = run(net.model(net.qdq(value, 0.0625, zero, dtype)), floats((1, 2, 4, 4), 0.5, 3), "fused")
    assert found.identical_outputs == found.samples
    assert found.mismatches == 0


def test_a_code_added_to_itself_goes_through_the_same_kernel(run):
    net = Net()
    x = net.qdq(net.input((1, 600), "float32"), 0.75, 136)
    assert sound(run(net.model(net.qdq(net.op("Add", x, x), 2.0, 255)), floats((1, 600), 0.75, 136), "fused"))


@pytest.mark.parametrize("op, attributes", [("Sigmoid", {}), ("Tanh", {}), ("LeakyRelu", {"alpha": 0.1}), ("Gelu", {})])
def test_elementwise_operations_between_fused_layers(run, op, attributes):
    net = Net()
    codes = net.qdq(conv(net), 5.3, 128)
    value = net.qdq(net.op(op, codes, **attributes), 0.11, 20)
    total = net.op("Conv", value, net.weight(weights(2, 3, 1, 1), 0.3))
    assert sound(run(net.model(net.qdq(total, 1.7, 99)), floats((1, 4, 6, 6), 0.5), "fused"))


# The largest of several


def test_the_largest_of_sums_that_round_is_not_proved(run):
    """Averages of equal integer sums are unequal floats: onnxruntime finds a largest where the integers have several."""
    net = Net()
    mean = net.op("AveragePool", net.dq(net.input((1, 1, 2, 9)), 0.0078683235), kernel_shape=[2, 1])
    rng = np.random.default_rng(0)
    upper = rng.integers(0, 101, (200, 1, 1, 1, 9))
    frames = np.concatenate([upper, 100 - upper], axis=3).astype(np.uint8)
    verdict, found = run(net.model(net.op("ArgMax", mean, axis=3)), frames)
    assert found.mismatches > 0
    assert verdict != "proved"


def test_the_largest_of_exact_sums_is_proved(run):
    net = Net()
    total = net.op("Gemm", net.dq(net.input((1, 20)), 0.25), net.weight(weights(7, 20), 0.5), transB=1)
    verdict, found = run(net.model(net.op("ArgMax", total, axis=1)), extremes((1, 20), 60).astype(np.uint8))
    assert (verdict, found.mismatches) == ("proved", 0)


def test_the_largest_of_a_window_of_padding_only_is_refused(run):
    """It is the smallest float, which is no code."""
    net = Net()
    x = net.dq(net.input((1, 1, 1, 5)), 0.5)
    pool = net.op("MaxPool", x, kernel_shape=[2, 1], dilations=[2, 1], pads=[1, 0, 1, 0])
    with pytest.raises(ModelError, match="some windows hold padding only"):
        run(net.model(net.q(pool, 0.5)), extremes((1, 1, 1, 5)).astype(np.uint8))


# Kernels of the file on the host


PLANE = (1, 1, 5, 8)


def product_of_two(net: Net, *, averaged: bool) -> onnx.ModelProto:
    """A product of two branches, which no hardware here computes; its ties go to the even code. Then perhaps an average over
    windows that the border cuts, which the frontend takes apart into several."""
    double, parts = net.const(2.0), [net.input(PLANE), net.input(PLANE)]
    grids = [net.const(1.0), net.const(3, "uint8")]
    moved = [net.dq(net.q(net.dq(p, 1.0, 3), 1.0, 3), 1.0, 3) for p in parts]
    codes = [i for p in moved for i in (net.q(p, 1.0, 3), *grids)]
    zero = net.const(11, "uint8")
    y = net.op("QLinearMul", *codes, double, zero, domain="com.microsoft")
    if averaged:
        window = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "strides": [2, 2]}
        y = net.op("QLinearAveragePool", y, double, zero, net.const(0.6), zero, domain="com.microsoft", **window)
    model = net.model(y)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    shape = (1, 1, 3, 5) if averaged else PLANE
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(y, onnx.TensorProto.UINT8, shape))
    return model


def products(tmp_path: Path, *, averaged: bool) -> Verification:
    """What becomes of them, on frames whose products are small."""
    onnx.save(product_of_two(net := Net(), averaged=averaged), tmp_path / "model.onnx")
    compiled = compile_file(tmp_path / "model.onnx", BuildOptions(reference="plain"))
    rng = np.random.default_rng(0)
    frames = {name: rng.integers(0, 12, (20, *PLANE)).astype(np.uint8) for name in net.inputs}
    return verify(compiled.network, frames, other=False)


@pytest.mark.parametrize("averaged", [False, True])
def test_kernels_on_the_host_are_those_of_the_file(tmp_path, averaged):
    found = products(tmp_path, averaged=averaged)
    assert (found.mismatches, found.identical_outputs) == (0, found.samples)


@pytest.mark.parametrize("averaged", [False, True])
def test_pieces_of_a_kernel_on_the_host_give_other_codes_wrong(tmp_path, monkeypatch, averaged):
    monkeypatch.setattr(hosts, "with_kernels", lambda model, *others: model)
    assert products(tmp_path, averaged=averaged).identical_outputs < 20


def test_a_kernel_behind_a_moved_operator_is_a_doubt(run):
    """The dequantizer is in front of the pool, which goes to the codes: its table is not that of the kernel behind."""
    net = Net()
    codes = net.q(net.input((1, 2, 3, 4), "float32"), 2.0**-8, -128, "int8")
    pooled = net.op(
        "MaxPool", net.dq(codes, 2.0**-8, -128, "int8"), kernel_shape=[3, 1], pads=[1, 0, 1, 0], ceil_mode=1
    )
    outputs = [net.qdq(net.op(op, pooled), 2.0**-7) for op in ("Sigmoid", "HardSigmoid")]
    assert sound(run(net.model(*outputs), floats((1, 2, 3, 4), 2.0**-8, 128), "fused"))


def test_a_quantizer_in_pieces_keeps_its_zero_point(run):
    """The border cuts the last window: an average and a quantizer for each piece, whose codes meet in a Concat."""
    net = Net()
    x = net.qdq(net.input((1, 1, 1, 3), "float32"), 0.5, 53)
    mean = net.op("AveragePool", x, kernel_shape=[1, 2], strides=[1, 2], ceil_mode=1)
    y = net.qdq(net.op("PRelu", mean, net.const([[[0.5]]])), 0.25, -128, "int8")
    verdict, found = run(net.model(y), floats((1, 1, 1, 3), 0.5, 53), "fused")
    assert (verdict, found.mismatches, found.identical_outputs) == ("proved", 0, found.samples)


@pytest.mark.parametrize("moved", [False, True])
def test_an_average_beyond_all_floats_is_not_proved(run, moved):
    net = Net()
    x = net.qdq(net.input((1, 2, 2, 2), "float32"), 3e38)
    mean = net.op("GlobalAveragePool", x)
    y = net.op("Transpose", mean, perm=[0, 2, 3, 1]) if moved else mean
    try:
        verdict, _ = run(net.model(net.qdq(y, 1e38)), floats((1, 2, 2, 2), 1e36))
    except ModelError as refused:
        verdict = refused.problems[0].code
    assert verdict in ("tested", "untested", "overflow", "not-finite")


@pytest.mark.parametrize("fill", [0.0, -0.25])
def test_codes_that_two_outputs_read_reach_both(run, fill):
    """A border of another value is outside of the file's codes, so that its head is not the code tensor."""
    net = Net()
    codes = net.q(net.input((1, 3, 4), "float32"), 0.25)
    first, second = (net.dq(codes, 0.25) for _ in range(2))
    padded = net.op("Pad", second, net.const([0, 0, 1, 0, 0, 1], "int64"), net.const(fill))
    verdict, found = run(net.model(net.op("Softmax", first, axis=2), padded), floats((1, 3, 4), 0.25))
    assert (verdict, found.mismatches, found.identical_outputs) == ("proved", 0, found.samples)


def large_products(scale: float, step: float = 2.0**-10) -> onnx.ModelProto:
    net = Net()
    x = net.qdq(net.input((1, 8), "float32"), 0.5)
    return net.model(net.qdq(net.op("Gemm", x, net.weight(weights(5, 8), scale), transB=1), step, 99))


def test_products_beyond_all_integers_saturate(run):
    assert sound(run(large_products(1e30), floats((1, 8), 0.5, count=60), "fused"))


def test_a_ratio_beyond_all_floats_is_not_proved(run):
    """Nothing says what code 0 times infinity becomes."""
    verdict, _ = run(large_products(1e30, 1e-10), floats((1, 8), 0.5, count=60), "fused")
    assert verdict != "proved"


def test_products_beyond_all_floats_are_refused(run):
    with pytest.raises(ModelError, match="must stay below 2"):
        run(large_products(1e38), floats((1, 8), 0.5), "fused")
