"""QONNX files, rewritten in standard operators, compute what the ``qonnx`` package computes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tcompile import reference
from tcompile.errors import ModelError
from tcompile.frontend import load, normalize
from tcompile.frontend.qonnx import rewrite

GENERAL = "qonnx.custom_op.general"
MODES = ["ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN"]
INTEGER_TYPES = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32}
X = (
    np.concatenate([np.arange(-40, 41) / 4, np.random.default_rng(0).normal(0, 5, 80)])
    .astype(np.float32)
    .reshape(1, 7, 23)
)


def model_of(
    nodes: list[NodeProto], constants: dict[str, Any], shape: tuple[int, ...] = X.shape, domain: str = GENERAL
) -> ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(domain, 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=opsets, ir_version=8)


def quant(
    scale: Any = 1.0, zero: Any = 0.0, bits: Any = 4.0, *, op_type: str = "Quant", domain: str = GENERAL,
    shape: tuple[int, ...] = X.shape, **attributes: Any,
) -> ModelProto:  # fmt: skip
    given = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **attributes}
    node = helper.make_node(op_type, ["x", "s", "z", "b"], ["y"], "quantizer", domain=domain, **given)
    return model_of([node], {"s": scale, "z": zero, "b": bits}, shape, domain)


def executed(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """What the executor of the qonnx package computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.util.cleanup import cleanup_model

        wrapped = cleanup_model(ModelWrapper(model))
        feeds = {wrapped.graph.input[0].name: x}
        (result,) = execute_onnx(wrapped, feeds).values()
    return result


def rewritten(model: ModelProto, x: np.ndarray) -> np.ndarray:
    standard = rewrite(model)
    onnx.checker.check_model(standard, full_check=True)
    check_codes(standard)
    (result,) = reference.run(standard, {"x": x}).values()
    return result


def check_codes(model: ModelProto) -> None:
    """Every dequantizer reads codes of an integer type."""
    types = {v.name: v.type.tensor_type.elem_type for v in normalize(model).graph.value_info}
    types |= {t.name: t.data_type for t in normalize(model).graph.initializer}
    for node in normalize(model).graph.node:
        assert not node.domain
        if node.op_type == "DequantizeLinear":
            assert types[node.input[0]] in INTEGER_TYPES


def ops(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def refused(model: ModelProto) -> str:
    with pytest.raises(ModelError) as caught:
        rewrite(model)
    assert {p.code for p in caught.value.problems} == {"unsupported-quantizer"}
    return str(caught.value)


def operator(
    op_type: str, constants: dict[str, Any], shape: tuple[int, ...], domain: str, version: int = 1, **attributes: Any
) -> ModelProto:
    node = helper.make_node(op_type, ["x", *constants], ["y"], "n", domain=domain, **attributes)
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(domain, version)]
    return helper.make_model(helper.make_graph([node], "g", [x], [y], tensors), opset_imports=opsets, ir_version=8)


# Trunc, QuantAvgPool2d


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "CEIL"])
@pytest.mark.parametrize("zero", [0, 4])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_trunc_equals_the_executor(mode, zero, scale):
    constants = {"s": scale, "z": zero, "i": 8, "o": 6}
    older = operator("Trunc", constants, X.shape, GENERAL, rounding_mode=mode)
    assert np.array_equal(rewritten(older, X), executed(older, X))
    constants = {"s": scale, "z": zero, "i": 8, "t": scale * 4, "o": 4}
    newer = operator("Trunc", constants, X.shape, GENERAL, 2, rounding_mode=mode, signed=1, narrow=0)
    assert np.array_equal(rewritten(newer, X), executed(newer, X))


@pytest.mark.parametrize("constants", [{"s": 1, "z": 0, "i": 4, "o": 6}, {"s": 1, "z": 0, "i": 8}])
def test_trunc_wrong(constants):
    assert "it must" in refused(operator("Trunc", constants, X.shape, GENERAL, rounding_mode="FLOOR"))


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_trunc_to_a_scale_that_is_none(scale):
    constants = {"s": 1, "z": 0, "i": 8, "t": scale, "o": 4}
    assert "above 0" in refused(
        operator("Trunc", constants, X.shape, GENERAL, 2, rounding_mode="FLOOR", signed=1, narrow=0)
    )


def test_average_pool_of_integers_equals_the_executor():
    x = np.random.default_rng(0).integers(0, 16, (1, 3, 6, 6)).astype(np.float32)
    model = operator(
        "QuantAvgPool2d", {}, x.shape, GENERAL, kernel=2, stride=2, ibits=4, obits=3, signed=0, data_layout="NCHW"
    )
    assert np.array_equal(rewritten(model, x), executed(model, x))


# channels last

CHANNELS_LAST = "qonnx.custom_op.channels_last"


def test_channels_last_convolutions_equal_the_executor():
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (1, 5, 4, 4)).astype(np.float32)
    constants = {"w": rng.integers(-2, 3, (6, 3, 3, 2)), "b": rng.integers(-9, 9, 6)}
    window = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 2}
    model = operator("Conv", constants, x.shape, CHANNELS_LAST, **window)
    assert np.array_equal(rewritten(model, x), executed(model, x))


def test_channels_last_pools_and_normalizations_equal_the_executor():
    x = np.random.default_rng(0).integers(-8, 8, (1, 4, 4, 3)).astype(np.float32)
    pool = operator("MaxPool", {}, x.shape, CHANNELS_LAST, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)
    assert np.array_equal(rewritten(pool, x), executed(pool, x))
    constants = {"s": [1, 2, 3], "b": [0, 1, 2], "m": [1, 0, 2], "v": [1, 4, 9]}
    norm = operator("BatchNormalization", constants, x.shape, CHANNELS_LAST, 9, epsilon=0.0)
    assert np.array_equal(rewritten(norm, x), executed(norm, x))


# Quant


@given(
    mode=st.sampled_from(MODES),
    signed=st.booleans(),
    narrow=st.booleans(),
    bits=st.integers(1, 8),
    scale=st.sampled_from([1.0, 0.5, 0.25, 0.1, 0.37, 3.0]),
    zero=st.integers(-3, 3),
)
def test_quant_equals_the_executor(mode, signed, narrow, bits, scale, zero):
    zero = 0 if bits == 1 else zero if signed else abs(zero)
    model = quant(scale, zero, bits, signed=int(signed), narrow=int(narrow), rounding_mode=mode)
    assert np.array_equal(rewritten(model, X), executed(model, X))


@pytest.mark.parametrize("mode", MODES)
def test_rounding_modes_may_be_in_small_letters(mode):
    assert ops(rewrite(quant(rounding_mode=mode.lower()))) == ops(rewrite(quant(rounding_mode=mode)))


def test_rounding_modes_differ_wrong():
    results = {rewritten(quant(rounding_mode=mode), X).tobytes() for mode in MODES}
    assert len(results) == len(MODES) - 1  # ROUND is HALF_EVEN


def test_an_odd_zero_point_would_turn_ties_wrong():
    model, ties = quant(zero=1.0), np.full(X.shape, 0.5, np.float32)
    assert rewritten(model, ties).max() == executed(model, ties).max() == 1.0  # QuantizeLinear alone gives 0


@pytest.mark.parametrize("bits, signed", [(9, 1), (12, 0), (16, 1), (16, 0)])
@pytest.mark.parametrize("narrow", [0, 1])
def test_activations_have_up_to_16_bits(bits, signed, narrow):
    model = quant(0.001, 0, bits, signed=signed, narrow=narrow)
    assert np.array_equal(rewritten(model, 9 * X), executed(model, 9 * X))


@pytest.mark.parametrize(
    "bits, signed, narrow, expected",
    [
        (8, 1, 0, ["QuantizeLinear", "DequantizeLinear"]),
        (8, 0, 0, ["QuantizeLinear", "DequantizeLinear"]),
        (8, 1, 1, ["QuantizeLinear", "Clip", "DequantizeLinear"]),
        (4, 0, 0, ["QuantizeLinear", "Clip", "DequantizeLinear"]),
        (16, 1, 0, ["QuantizeLinear", "DequantizeLinear"]),
        (12, 1, 0, ["Div", "Round", "Clip", "Cast", "DequantizeLinear"]),
        (1, 1, 0, ["Div", "GreaterOrEqual", "Where", "DequantizeLinear"]),
    ],
)
def test_the_form_of_a_quantizer(bits, signed, narrow, expected):
    assert ops(rewrite(quant(0.5, 0, bits, signed=signed, narrow=narrow))) == expected


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR"])
@pytest.mark.parametrize("shape", [(1, 7, 1), (7, 1), (1, 1, 23), (23,), (1,)])
def test_scales_per_channel(mode, shape):
    scale = np.linspace(0.2, 1.7, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    model = quant(scale, rounding_mode=mode)
    assert np.array_equal(rewritten(model, X), executed(model, X))


def test_extra_axes_of_a_scale_add_none_to_the_result():
    result = rewritten(quant(np.full((1, 1, 1, 1), 0.5)), X)
    assert np.array_equal(result, executed(quant(0.5), X))


def test_zero_points_per_channel():
    model = quant(0.5, np.arange(7).reshape(1, 7, 1), 4, signed=0)
    assert np.array_equal(rewritten(model, X), executed(model, X))


@pytest.mark.parametrize("domain", [GENERAL, "onnx.brevitas", "finn.custom_op.general"])
@pytest.mark.parametrize("op_type", ["Quant", "IntQuant"])
def test_all_names_of_the_operator_are_read(domain, op_type):
    assert np.array_equal(rewritten(quant(0.5, op_type=op_type, domain=domain), X), rewritten(quant(0.5), X))


def test_names_of_values_and_nodes_stay_recognisable():
    standard = rewrite(quant())
    assert standard.graph.node[-1].output[0] == "y"
    assert all(node.name.startswith("quantizer_") for node in standard.graph.node)


@pytest.mark.parametrize(
    "model, said",
    [
        (quant(bits=17.0), "activations must have at most 16 bits, not 17"),
        (quant(bits=2.5), "bit width must be one positive integer"),
        (quant(bits=0.0), "bit width must be one positive integer"),
        (quant(bits=[2.0, 3.0]), "bit width must be one positive integer"),
        (quant(0.0), "scale must be positive"),
        (quant(-1.0), "scale must be positive"),
        (quant(zero=0.5), "zero point must be an integer"),
        (quant(zero=100.0), "fit its 8-bit codes|zero point"),
        (quant(zero=300.0), "zero point must fit"),
        (quant(np.ones((1, 7, 23))), "along one axis only"),
        (quant(np.ones((5,))), "does not fit"),
        (quant(rounding_mode="STOCHASTIC"), "rounding mode must be one of"),
        (quant(1.0, 1.0, 1.0), "zero point must be 0 for one signed bit"),
    ],
)
def test_quantizers_without_an_exact_form_are_refused(model, said):
    if "|" in said:
        assert np.array_equal(rewritten(model, X), executed(model, X))
    else:
        assert said in refused(model)


def test_a_computed_scale_is_refused():
    nodes = [
        helper.make_node("Abs", ["x"], ["s"], "abs"),
        helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], "quantizer", domain=GENERAL, signed=1, narrow=0),
    ]
    assert "scale must be a constant, but 's' is computed" in refused(model_of(nodes, {"z": 0, "b": 4}))


def test_a_scale_computed_from_constants_is_read():
    nodes = [
        helper.make_node("Mul", ["h", "h"], ["s"], "square"),
        helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], "quantizer", domain=GENERAL, signed=1, narrow=0),
    ]
    model = model_of(nodes, {"h": 0.5, "z": 0, "b": 4})
    assert np.array_equal(rewritten(model, X), rewritten(quant(0.25), X))


def test_all_refused_quantizers_are_listed():
    nodes = [
        helper.make_node("Quant", ["x", "s", "z", "b"], ["a"], "one", domain=GENERAL),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Quant", ["r", "s", "half", "b"], ["y"], "two", domain=GENERAL),
    ]
    with pytest.raises(ModelError) as caught:
        rewrite(model_of(nodes, {"s": 0, "z": 0, "half": 0.5, "b": 4}))
    assert [p.where for p in caught.value.problems] == [("one",), ("two",)]


# weights and biases


def layer(bits: float = 2.0, **attributes: Any) -> ModelProto:
    weight = np.random.default_rng(1).normal(0, 1, (23, 23))
    given = {"signed": 1, "narrow": 1, **attributes}
    nodes = [
        helper.make_node("Quant", ["w", "s", "z", "b"], ["q"], "weights", domain=GENERAL, **given),
        helper.make_node("Transpose", ["q"], ["t"], "transpose"),
        helper.make_node("MatMul", ["x", "t"], ["y"], "product"),
    ]
    return model_of(nodes, {"w": weight, "s": np.full((23, 1), 0.5), "z": 0, "b": bits})


@pytest.mark.parametrize("mode", MODES)
def test_latent_weights_become_integer_constants(mode):
    model = layer(rounding_mode=mode)
    normal = normalize(rewrite(model))
    assert ops(normal) == ["DequantizeLinear", "Transpose", "MatMul"]
    codes = next(numpy_helper.to_array(t) for t in normal.graph.initializer if t.name == normal.graph.node[0].input[0])
    assert codes.dtype == np.int8
    assert set(np.unique(codes)) <= {-1, 0, 1}
    assert np.allclose(rewritten(model, X), executed(model, X), rtol=0, atol=1e-5)  # float sums in another order


def test_weights_over_8_bits_are_refused():
    assert "weights must have at most 8 bits, not 9" in refused(layer(9.0))


@pytest.mark.parametrize("bits", [8, 16, 20, 24, 31, 32])
def test_biases_have_up_to_32_bits(bits):
    nodes = [
        helper.make_node("Quant", ["w", "s", "z", "b"], ["q"], "bias", domain=GENERAL, signed=1, narrow=0),
        helper.make_node("Add", ["x", "q"], ["y"], "add"),
    ]
    model = model_of(nodes, {"w": np.linspace(-900, 900, 23), "s": 0.0625, "z": 0, "b": bits})
    assert np.array_equal(rewritten(model, X), executed(model, X))


# BipolarQuant and MultiThreshold


@pytest.mark.parametrize("scale", [1.0, 0.3, np.linspace(0.1, 2, 7).reshape(1, 7, 1)])
def test_bipolar_quant_equals_the_executor(scale):
    node = helper.make_node("BipolarQuant", ["x", "s"], ["y"], "sign", domain=GENERAL)
    model = model_of([node], {"s": scale})
    assert ops(rewrite(model)) == ["GreaterOrEqual", "Where", "DequantizeLinear"]
    assert np.array_equal(rewritten(model, X), executed(model, X))


def multi_threshold(channels: int, count: int, shape: tuple[int, ...], **attributes: Any) -> ModelProto:
    thresholds = np.sort(np.random.default_rng(2).integers(-20, 20, (channels, count)) / 2, axis=1)
    node = helper.make_node(
        "MultiThreshold", ["x", "t"], ["y"], "steps", domain=GENERAL, out_dtype="UINT8", **attributes
    )
    return model_of([node], {"t": thresholds}, shape)


@pytest.mark.parametrize(
    "shape, channels, layout",
    [
        ((1, 7, 4, 3), 7, {}),
        ((1, 7, 4, 3), 7, {"data_layout": "NCHW"}),
        ((1, 4, 3, 7), 7, {"data_layout": "NHWC"}),
        ((1, 7), 7, {"data_layout": "NC"}),
        ((1, 7), 7, {}),
        ((1, 4, 7), 7, {}),
        ((1, 7, 4, 3), 1, {}),
    ],
)
@pytest.mark.parametrize("scaling", [{}, {"out_scale": 0.5}, {"out_bias": -2.0}, {"out_scale": 0.3, "out_bias": 0.7}])
def test_multi_threshold_equals_the_executor(shape, channels, layout, scaling):
    model = multi_threshold(channels, 5, shape, **layout, **scaling)
    x = np.random.default_rng(3).integers(-30, 30, shape).astype(np.float32) / 2
    assert np.array_equal(rewritten(model, x), executed(model, x))


def test_multi_threshold_counts_over_255():
    model = multi_threshold(7, 300, (1, 7, 2, 2))
    x = np.random.default_rng(3).integers(-30, 30, (1, 7, 2, 2)).astype(np.float32) / 2
    assert np.array_equal(rewritten(model, x), executed(model, x))


def test_thresholds_that_do_not_fit_are_refused():
    assert "do not fit" in refused(multi_threshold(5, 3, (1, 7, 4, 3)))
    assert "1 to 65535 thresholds" in refused(multi_threshold(7, 0, (1, 7, 4, 3)))


# whole files

FILES = ["qonnx_tfc_1w1a", "qonnx_tfc_1w2a", "qonnx_tfc_2w2a_ternary", "qonnx_jettagging_6b", "qonnx_kwsmlp_w3a3"]
SUMS_DIFFER = 1e-4  # the executor runs other float kernels; codes are compared in the tests above


@pytest.mark.parametrize("name", [*FILES, "brevitas/mlp_bn.qonnx", "brevitas/cnn_bn.qonnx", "brevitas/probe_ternary"])
def test_files_compute_what_the_executor_computes(shared_model, name):
    path = shared_model(f"{name}.onnx")
    loaded = load(path)
    check_codes(loaded.reference)
    (value,) = loaded.reference.graph.input
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    original = onnx.load(path)
    for seed in range(3):
        x = np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)
        (result,) = reference.run(loaded.reference, {value.name: x}).values()
        assert np.allclose(result, executed(original, x), rtol=SUMS_DIFFER, atol=SUMS_DIFFER)


@pytest.mark.parametrize("name", ["mlp_bn", "cnn_bn"])
def test_brevitas_files_give_the_recorded_outputs(shared_model, name):
    loaded = load(shared_model(f"brevitas/{name}.qonnx.onnx"))
    data = np.load(shared_model(f"brevitas/{name}.npz"))
    x, expected = data["xte"], data["out"]
    shape = [d.dim_value for d in loaded.reference.graph.input[0].type.tensor_type.shape.dim]
    session = reference.Session(loaded.reference)
    results = [session({"input": frame.reshape(shape)}) for frame in x[:100]]
    got = np.concatenate([next(iter(result.values())) for result in results])
    assert np.allclose(got, expected[:100], rtol=SUMS_DIFFER, atol=SUMS_DIFFER)
    assert np.array_equal(got.argmax(axis=1), expected[:100].argmax(axis=1))
