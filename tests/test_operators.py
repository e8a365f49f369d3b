"""Operators put together from others, and files of integer operators: the integers are onnxruntime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tcompile.errors import ModelError
from tcompile.options import BuildOptions
from tcompile.pipeline import Compiled, compile_file
from tcompile.verify import random_inputs, verify
from tests.models import Net, differences, typed

FRAMES = 12
SHAPE = (1, 4, 4, 6)


def codes(shape=SHAPE, dtype="uint8", seed=0):
    return {"in0": np.random.default_rng(seed).integers(0, 100, (FRAMES, *shape)).astype(dtype)}


def quantized(make, shape=SHAPE, scale=0.5):
    """Codes -> dequantizer -> what `make` adds -> quantizer."""
    net = Net()
    x = net.dq(net.input(shape), scale, 3)
    return net.model(net.q(make(net, x), scale, 3))


def weights(net, shape, axis=0):
    values = np.random.default_rng(1).integers(-3, 4, shape)
    return net.weight(values, 0.25, axis=axis)


OPERATORS = {
    "depth to space": lambda n, x: n.op("DepthToSpace", x, blocksize=2),
    "space to depth": lambda n, x: n.op("SpaceToDepth", x, blocksize=2),
    "nearest": lambda n, x: n.op("Resize", x, "", n.const([1, 1, 2, 3]), mode="nearest"),
    "nearest, smaller": lambda n, x: n.op("Resize", x, "", n.const([1, 1, 0.5, 0.5]), mode="nearest"),
    "gather": lambda n, x: n.op("Gather", x, n.const([3, 0, 0, 2], "int64"), axis=1),
    "tile": lambda n, x: n.op("Tile", x, n.const([1, 1, 2, 1], "int64")),
    "maximum": lambda n, x: n.op("ReduceMax", x, n.const([3], "int64")),
    "mean of rows": lambda n, x: n.op("ReduceMean", x, n.const([3], "int64"), keepdims=0),
    "sum of positions": lambda n, x: n.op("ReduceSum", x, n.const([2, 3], "int64")),
    "transposed": lambda n, x: n.op("ConvTranspose", x, weights(n, (4, 3, 2, 3), 1), strides=[2, 2], pads=[0, 1, 0, 1]),
    "transposed, grouped": lambda n, x: n.op("ConvTranspose", x, weights(n, (4, 1, 3, 3), 1), group=2, strides=[1, 2]),
    "cut windows": lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "windows over the edge": lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 4], strides=[2, 4], ceil_mode=1),
    "dilated average": lambda n, x: n.op("AveragePool", x, kernel_shape=[2, 2], dilations=[2, 3]),
    "softplus": lambda n, x: n.op("Softplus", x),
    "celu": lambda n, x: n.op("Celu", x, alpha=2.0),
    "sum of three": lambda n, x: n.op("Sum", x, x, x),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_of_others_gives_the_integers_of_onnxruntime(name):
    found = differences(quantized(OPERATORS[name]), codes())
    assert found and set(found.values()) == {0}


def test_code_tensors_may_be_moved_joined_and_padded():
    net = Net()
    x = net.q(net.op("Relu", net.dq(net.input(SHAPE), 0.5, 3)), 0.5, 3)
    part = net.op("Slice", x, *(net.const([k], "int64") for k in (1, 4, 2)))
    wide = net.op("Pad", part, net.const([0, 0, 1, 0, 0, 0, 0, 0], "int64"), net.const(7, "uint8"))
    joined = net.op("Concat", x, wide, axis=1)
    y = net.op("Relu", net.dq(joined, 0.5, 3))
    assert set(differences(net.model(net.q(y, 0.25)), codes()).values()) == {0}


def test_pools_do_not_cross_channels_that_differ():
    """Constants vary along the last axis, over which the maximum is taken."""
    slopes = np.array([1, 2, 4, 0.5, 1, 8], np.float32)
    make = lambda n, x: n.op("ReduceMax", n.op("Add", x, n.const(slopes)), n.const([3], "int64"))  # noqa: E731
    assert set(differences(quantized(make), codes()).values()) == {0}


# files of integer operators


def compiled(model: onnx.ModelProto, folder: Path, **options: object) -> Compiled:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return compile_file(folder / "m.onnx", BuildOptions(**options))


def verified(model: onnx.ModelProto, folder: Path, **options: object) -> Compiled:
    """Compiled, and equal to onnxruntime on random frames, integers and final outputs."""
    result = compiled(model, folder, **options)
    found = verify(result.network, random_inputs(result.network, FRAMES))
    assert found.integers > 0 and found.mismatches == 0 and found.identical_outputs == FRAMES
    return result


def qoperators(nodes, constants, shape, out, inputs=TensorProto.UINT8) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(
        nodes, "q", [helper.make_tensor_value_info("x", inputs, list(shape))],
        [helper.make_tensor_value_info("y", out, None)], tensors,
    )  # fmt: skip
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


def parameters(kind=np.uint8, **scales):
    """Scale and zero point of each name: (scale, zero)."""
    return {
        k: v
        for name, (scale, zero) in scales.items()
        for k, v in ((f"{name}s", np.float32(scale)), (f"{name}z", kind(zero)))
    }


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("channels", [False, True])
def test_qlinear_conv(tmp_path, kind, channels):
    rng = np.random.default_rng(0)
    limits = np.iinfo(kind)
    w = rng.integers(limits.min, limits.max, (4, 2, 3, 3), endpoint=True).astype(kind)
    scales = np.linspace(0.01, 0.02, 4).astype(np.float32) if channels else np.float32(0.01)
    zeros = np.zeros(4, kind) if channels else kind(0)
    constants = {
        **parameters(kind, x=(0.02, 3), y=(0.05, 5)), "w": w, "ws": scales, "wz": zeros,
        "b": rng.integers(-999, 999, 4).astype(np.int32),
    }  # fmt: skip
    node = helper.make_node(
        "QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], "conv", pads=[1] * 4
    )
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    result = verified(qoperators([node], constants, (1, 2, 5, 5), element, element), tmp_path)
    assert result.loaded.format == "qoperator" and result.report["exactness"]["verdict"] == "proved"


def test_qlinear_matmul_add_and_gemm(tmp_path):
    rng = np.random.default_rng(0)
    constants = {
        **parameters(x=(0.02, 3), a=(0.1, 100), b=(0.2, 90), y=(0.3, 80)), **parameters(np.int8, w=(0.01, 0), v=(0.02, 0)),
        "w": rng.integers(-99, 99, (6, 6)).astype(np.int8), "v": rng.integers(-99, 99, (3, 6)).astype(np.int8),
        "c": rng.integers(-500, 500, 3).astype(np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "as", "az"], ["a"], "matmul"),
        helper.make_node("QLinearAdd", ["x", "xs", "xz", "a", "as", "az", "bs", "bz"], ["b"], "add", domain="com.microsoft"),
        helper.make_node("QGemm", ["b", "bs", "bz", "v", "vs", "vz", "c", "ys", "yz"], ["y"], "gemm",
                         domain="com.microsoft", transB=1),
    ]  # fmt: skip
    verified(qoperators(nodes, constants, (1, 6), TensorProto.UINT8), tmp_path)


@pytest.mark.parametrize("op_type, values", [
    ("QLinearLeakyRelu", {"alpha": 0.1}), ("QLinearSigmoid", {}), ("QLinearGlobalAveragePool", {}),
    ("QLinearAveragePool", {"kernel_shape": [2, 2]}),
])  # fmt: skip
def test_operators_on_one_code_tensor(tmp_path, op_type, values):
    constants = parameters(x=(0.25, 100), y=(0.125, 120))  # averages of other scales depend on the order of the terms
    node = helper.make_node(op_type, ["x", "xs", "xz", "ys", "yz"], ["y"], "n", domain="com.microsoft", **values)
    verified(qoperators([node], constants, (1, 3, 4, 4), TensorProto.UINT8), tmp_path)


def test_qlinear_concat(tmp_path):
    constants = parameters(x=(0.02, 100), a=(0.05, 90), y=(0.04, 120))
    nodes = [
        helper.make_node("QLinearLeakyRelu", ["x", "xs", "xz", "as", "az"], ["a"], "relu", domain="com.microsoft", alpha=0.1),
        helper.make_node("QLinearConcat", ["ys", "yz", "x", "xs", "xz", "a", "as", "az"], ["y"], "join",
                         domain="com.microsoft", axis=1),
    ]  # fmt: skip
    verified(qoperators(nodes, constants, (1, 3, 4, 4), TensorProto.UINT8), tmp_path)


@pytest.mark.parametrize("op_type", ["ConvInteger", "MatMulInteger"])
def test_sums_of_codes(tmp_path, op_type):
    rng = np.random.default_rng(0)
    shape, size = ((1, 2, 5, 5), (4, 2, 3, 3)) if op_type == "ConvInteger" else ((1, 6), (6, 4))
    constants = {
        "w": rng.integers(0, 99, size).astype(np.uint8), "xz": np.uint8(9), "wz": np.uint8(50),
        "k": np.float32(0.01), **parameters(y=(0.5, 20)),
    }  # fmt: skip
    nodes = [
        helper.make_node(op_type, ["x", "w", "xz", "wz"], ["a"], "sum"),
        helper.make_node("Cast", ["a"], ["b"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["b", "k"], ["c"], "mul"),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["y"], "quantizer"),
    ]
    verified(qoperators(nodes, constants, shape, TensorProto.UINT8), tmp_path)


def test_a_scale_of_every_frame_is_refused(tmp_path):
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"], "dynamic")
    with pytest.raises(ModelError, match="computed from every frame"):
        compiled(qoperators([node], {}, (1, 4), TensorProto.UINT8, TensorProto.FLOAT), tmp_path)


def test_weights_that_are_computed_are_refused(tmp_path):
    constants = parameters(x=(0.02, 3), y=(0.05, 5))
    node = helper.make_node("QLinearMatMul", ["x", "xs", "xz", "x", "xs", "xz", "ys", "yz"], ["y"], "matmul")
    with pytest.raises(ModelError, match="multiplies two unknowns"):
        compiled(qoperators([node], constants, (4, 4), TensorProto.UINT8), tmp_path)


@pytest.mark.parametrize("mode", ["plain", "fused"])
@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(), (2, 1, 1)], ids=["one", "per-channel"])
@pytest.mark.parametrize("first", [False, True])
def test_operators_on_codes_and_a_constant(tmp_path, mode, op_type, shape, first):
    """The constant has the scale of the codes; sums and products lie on ties, which the kernel rounds in its own way."""
    constants = {
        **parameters(x=(0.0625, 120), c=(0.0625, 145), y=(0.25, 41)), "c": np.resize(np.array([46, 201], np.uint8), shape),
    }  # fmt: skip
    operands = [["x", "xs", "xz"], ["c", "cs", "cz"]]
    inputs = [i for operand in (operands[::-1] if first else operands) for i in operand]
    node = helper.make_node(op_type, [*inputs, "ys", "yz"], ["y"], "n", domain="com.microsoft")
    equal_on_all_codes(qoperators([node], constants, (1, 2, 16, 16), TensorProto.UINT8), tmp_path, mode)


@pytest.mark.parametrize("mode", ["plain", "fused"])
@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_operators_on_codes_twice(tmp_path, mode, op_type):
    constants = parameters(x=(0.09472656, 13), y=(0.44865608, 237))
    node = helper.make_node(op_type, ["x", "xs", "xz", "x", "xs", "xz", "ys", "yz"], ["y"], "n", domain="com.microsoft")
    equal_on_all_codes(qoperators([node], constants, (1, 2, 16, 16), TensorProto.UINT8), tmp_path, mode)


def test_a_constant_is_added_by_a_kernel_of_the_optimized_graph(tmp_path):
    constants = {**parameters(x=(0.03, 100), c=(0.03, 100), y=(0.06, 90)), "c": np.uint8(177)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["a"], "left"),
        helper.make_node("DequantizeLinear", ["c", "cs", "cz"], ["b"], "right"),
        helper.make_node("Add", ["a", "b"], ["s"], "sum"),
        helper.make_node("QuantizeLinear", ["s", "ys", "yz"], ["y"], "quantizer"),
    ]
    equal_on_all_codes(qoperators(nodes, constants, (1, 2, 16, 16), TensorProto.UINT8), tmp_path, "fused")


def equal_on_all_codes(model, tmp_path, mode):
    """Every code of every channel gives onnxruntime's integer, and that is proved."""
    result = compiled(model, tmp_path, reference=mode)
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = verify(result.network, {"x": np.stack([codes, codes.T])[None, None]}, other=False)
    assert found.mismatches == 0
    assert result.report["exactness"]["verdict"] == "proved"


@pytest.mark.parametrize("name", ["x", "w", "b"])
@pytest.mark.parametrize("op_type", ["Identity", "Constant"])
def test_parameters_of_kernels_may_be_computed_of_constants(tmp_path, name, op_type):
    """As exporters write them; the bias is the kernel's, and kernels of signed weights must not saturate."""
    rng = np.random.default_rng(0)
    constants = {
        **parameters(x=(0.03, 100), y=(0.2, 128)), **parameters(np.int8, w=(0.01, 0)),
        "w": rng.integers(-128, 128, (4, 4, 3, 3)).astype(np.int8), "b": rng.integers(-3000, 3000, 4).astype(np.int32),
    }  # fmt: skip
    given = name if name in constants else f"{name}s"
    value = constants.pop(given)
    if op_type == "Identity":
        constants["given"] = value
        made = helper.make_node("Identity", ["given"], [given], "maker")
    else:
        made = helper.make_node("Constant", [], [given], "maker", value=numpy_helper.from_array(np.asarray(value)))
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    nodes = [made, helper.make_node("QLinearConv", inputs, ["y"], "conv", pads=[1] * 4)]
    result = verified(qoperators(nodes, constants, (1, 4, 6, 6), TensorProto.UINT8), tmp_path)
    assert result.report["exactness"]["verdict"] == "proved"


@pytest.mark.parametrize("values", [{"auto_pad": "SAME_UPPER"}, {"pads": [1] * 4}, {"channels_last": 0}])
def test_convolutions_of_onnxruntimes_own_domain(tmp_path, values):
    rng = np.random.default_rng(0)
    constants = {
        **parameters(x=(0.03, 100), y=(0.2, 128)), **parameters(np.int8, w=(0.01, 0)),
        "w": rng.integers(-128, 128, (4, 4, 3, 3)).astype(np.int8),
    }  # fmt: skip
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearConv", inputs, ["y"], "conv", domain="com.microsoft", **values)
    verified(qoperators([node], constants, (1, 4, 6, 6), TensorProto.UINT8), tmp_path)


def test_convolutions_of_channels_behind_are_refused(tmp_path):
    constants = {
        **parameters(x=(0.03, 100), y=(0.2, 128)), **parameters(np.int8, w=(0.01, 0)), "w": np.ones((4, 4, 3, 3), np.int8),
    }  # fmt: skip
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearConv", inputs, ["y"], "conv", domain="com.microsoft", channels_last=1)
    with pytest.raises(ModelError, match="must be axis 1"):
        compiled(qoperators([node], constants, (1, 4, 4, 4), TensorProto.UINT8), tmp_path)


@pytest.mark.parametrize("op_type", ["Atan", "Celu", "Cos", "Elu", "Mish", "Selu", "Sin", "Softplus"])
def test_operators_whose_values_depend_on_the_place_are_never_proved(tmp_path, op_type):
    """onnxruntime computes the last elements of a tensor by other instructions than those in front."""
    (tmp_path / "m.onnx").write_bytes(typed(quantized(lambda n, x: n.op(op_type, x), scale=0.05)).SerializeToString())
    result = compile_file(tmp_path / "m.onnx", BuildOptions())
    assert result.report["exactness"]["verdict"] == "untested" and result.report["exactness"]["steps_at_risk"] > 0


def test_an_output_that_changes_nothing_may_be_read_by_others(tmp_path):
    """A Resize by 1 whose output is one of the network's, too."""
    net = Net()
    x = net.qdq(net.input((1, 2, 6), "float32"), 0.5, 9)
    same = net.op("Resize", x, "", net.const([1, 1, 1]), mode="nearest")
    verified(typed(net.model(same, net.qdq(net.op("Relu", same), 0.25, 0))), tmp_path)


def test_codes_of_an_input_that_is_an_output_are_no_mismatch(tmp_path):
    """The reference makes no tensor of them; what is behind a float layer may differ in its last bits."""
    net = Net()
    weights = net.weight(np.random.default_rng(2).integers(-100, 100, (6, 3)), 0.0123, axis=1)
    model = typed(net.model(net.dq(net.input((1, 3), "int8"), 0.0147, -1, "int8"),
                            net.op("MatMul", net.dq(net.input((1, 6)), 0.0153, 48), weights)))  # fmt: skip
    network = compiled(model, tmp_path).network
    found = verify(network, random_inputs(network, FRAMES))
    assert found.integers > 0 and found.mismatches == 0
