"""A real graph in torch gives what onnxruntime gives: operator by operator, and for whole networks of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tcompile.compress.network import EVALUATE, Network
from tcompile.errors import ModelError
from tcompile.frontend.importer import import_model
from tcompile.frontend.load import load
from tcompile.frontend.normalize import normalize
from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.reference import Session
from tests.conftest import shared_model

FRAMES = 3
RANDOM = np.random.default_rng(0)
IMAGE = (1, 4, 7, 6)

MODELS = (
    "ad_alibaba", "cifar_cnn_winml", "cifar_lenet_jnulzl", "ece_gray96_fp32", "ece_gray96_int8_qdq",
    "fashion_mlp_shahjahan", "jsc_dense_big_keras", "jsc_three_layer_keras", "mlperf_ad01_fp32",
    "mlperf_ad01_int8_qdq", "mlperf_dscnn_fp32", "mlperf_resnet8_fp32", "mnist8_cntk", "mnist_cnn_codeman",
    "mnist_cnn_pool_pcelis", "mnist_lenet_fyh", "mnist_opt_wonnx", "qonnx_jettagging_6b", "qonnx_kwsmlp_w3a3",
    "qonnx_tfc_1w1a", "qonnx_tfc_1w2a", "qonnx_tfc_2w2a_ternary", "brevitas/cnn_bn.qcdq", "brevitas/cnn_bn.qonnx",
    "brevitas/mlp_bn.qonnx", "brevitas/probe_ternary",
)  # fmt: skip
LARGE = (
    "cifar_resnet20", "cifar_resnet20_folded", "cifar_resnet20_onnc", "kws_speech_recog_squeezenet_winml",
    "mlperf_dscnn_int8_qdq", "mlperf_resnet_large_fp32", "mlperf_resnet_large_int8_qdq", "mlperf_vww_mbv1_fp32",
)  # fmt: skip


def frames(graph: Graph, scale: float = 1.0) -> np.ndarray:
    node = graph.all(R.Input)[0]
    shape = (FRAMES, *node.type.shape)
    if node.type.is_integer:
        return RANDOM.integers(0, 127, size=shape).astype(node.type.dtype)
    return (scale * RANDOM.normal(size=shape)).astype(np.float32)


def both(graph: Graph, model: onnx.ModelProto, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first output for frames: torch's and onnxruntime's."""
    node = graph.all(R.Input)[0]
    with torch.no_grad():
        found = Network(graph).eval()(torch.from_numpy(x)).numpy()
    session = Session(model)
    return found, session.frames({node.origin.tensor: x})[session.outputs[0]]


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference relative to the largest number."""
    assert found.shape == wanted.shape
    return float(np.abs(found.astype(np.float64) - wanted).max() / (np.abs(wanted).max() or 1.0))


def imported(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], kind: int = TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return import_model(normalize(model)), model


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_others_equal_onnxruntime(name):
    loaded = load(shared_model(f"{name}.onnx"))
    graph = import_model(loaded.model)
    assert distance(*both(graph, loaded.reference, frames(graph))) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_of_others_equal_onnxruntime(name):
    test_networks_of_others_equal_onnxruntime(name)


def test_network_with_another_constant_is_seen_to_differ_wrong():
    graph, model = imported([helper.make_node("Mul", ["x", "c"], ["y"])], {"c": np.array(2, np.float32)})
    const = graph.all(R.Const)[0]
    value = replace(const.value, array=np.array(2.001, np.float32))
    wrong = graph.with_nodes([replace(n, value=value) if n is const else n for n in graph])
    assert distance(*both(wrong, model, frames(graph))) > 1e-4


def test_every_operator_of_the_ir_has_a_function():
    assert set(EVALUATE) == set(R.OPS.values()) - {R.Input, R.Const}


UNARY = (
    "Relu", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Exp", "Erf", "Sigmoid", "Tanh", "Softsign", "HardSwish",
    "Mish", "LeakyRelu", "Elu", "Selu", "ThresholdedRelu", "HardSigmoid", "Gelu", "GlobalAveragePool",
    "GlobalMaxPool", "Softmax", "LogSoftmax",
)  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_operator_of_one_input_equals_onnxruntime(op):
    graph, model = imported([helper.make_node(op, ["x"], ["y"])], {})
    assert distance(*both(graph, model, frames(graph, 2.0))) < 1e-6


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Reciprocal"])
def test_operator_of_positive_numbers_equals_onnxruntime(op):
    graph, model = imported([helper.make_node("Abs", ["x"], ["a"]), helper.make_node(op, ["a"], ["y"])], {})
    assert distance(*both(graph, model, frames(graph) + 3)) < 1e-6


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"])
@pytest.mark.parametrize("shape", [(), (4, 1, 1), (1, 4, 7, 6), (6,)])
def test_operator_with_a_constant_equals_onnxruntime(op, shape):
    constant = np.asarray(RANDOM.uniform(1, 2, size=shape), np.float32)
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node(op, ["a", "c"], ["y"])]
    graph, model = imported(nodes, {"c": constant})
    assert distance(*both(graph, model, frames(graph))) < 1e-6


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min"])
def test_operator_of_two_branches_of_different_rank_equals_onnxruntime(op):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Reshape", ["f", "s"], ["r"]),
        helper.make_node(op, ["x", "r"], ["y"]),
    ]
    graph, model = imported(nodes, {"s": np.array([4, 1, 1], np.int64)})
    assert distance(*both(graph, model, frames(graph))) < 1e-6


@pytest.mark.parametrize("op", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"])
def test_comparison_chooses_as_in_onnxruntime(op):
    nodes = [
        helper.make_node("Round", ["x"], ["r"]),
        helper.make_node(op, ["r", "zero"], ["p"]),
        helper.make_node("Greater", ["x", "zero"], ["q"]),
        helper.make_node("Not", ["q"], ["n"]),
        helper.make_node("And", ["p", "n"], ["a"]),
        helper.make_node("Or", ["a", "q"], ["o"]),
        helper.make_node("Where", ["o", "x", "zero"], ["w"]),
        helper.make_node("Cast", ["p"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["w", "c"], ["y"]),
    ]
    graph, model = imported(nodes, {"zero": np.array(0, np.float32)})
    found, wanted = both(graph, model, frames(graph))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2]},
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ],
)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "counting"])
def test_pool_equals_onnxruntime(op, attributes):
    more = {"count_include_pad": 1} if op == "counting" else {}
    node = helper.make_node("AveragePool" if more else op, ["x"], ["y"], **attributes, **more)
    graph, model = imported([node], {})
    assert distance(*both(graph, model, frames(graph))) < 1e-6


def test_dilated_max_pool_equals_onnxruntime():
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 1, 0, 0])
    graph, model = imported([node], {})
    assert distance(*both(graph, model, frames(graph))) == 0


@pytest.mark.parametrize(
    "weight, attributes",
    [
        ((5, 4, 3, 3), {}),
        ((5, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
        ((5, 4, 3, 2), {"pads": [0, 1, 2, 0], "dilations": [2, 2]}),
        ((4, 1, 3, 3), {"group": 4}),
        ((6, 2, 1, 3), {"group": 2, "pads": [0, 1, 0, 1]}),
    ],
)
def test_convolution_equals_onnxruntime(weight, attributes):
    constants = {k: RANDOM.normal(size=s).astype(np.float32) for k, s in (("w", weight), ("b", weight[:1]))}
    graph, model = imported([helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)], constants)
    assert distance(*both(graph, model, frames(graph))) < 1e-6


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": -2.0}])
def test_gemm_equals_onnxruntime(attributes):
    shape = (9, 168) if attributes.get("transB") else (168, 9)
    constants = {"w": RANDOM.normal(size=shape).astype(np.float32), "b": RANDOM.normal(size=9).astype(np.float32)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], **attributes),
    ]
    graph, model = imported(nodes, constants)
    assert distance(*both(graph, model, frames(graph))) < 1e-6


def test_product_of_two_branches_equals_onnxruntime():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    graph, model = imported(nodes, {})
    assert distance(*both(graph, model, frames(graph))) < 1e-6


def test_layout_equals_onnxruntime_exactly():
    constants = {
        "starts": np.array([5, 0], np.int64), "ends": np.array([-99, 7], np.int64), "axes": np.array([3, 2], np.int64),
        "steps": np.array([-2, 3], np.int64), "pads": np.array([0, 1, 0, 0, 0, 0, 2, 0], np.int64),
        "fill": np.array(0.5, np.float32), "c": RANDOM.normal(size=(1, 4, 3, 3)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["s"]),
        helper.make_node("Concat", ["s", "c"], ["k"], axis=1),
        helper.make_node("Pad", ["k", "pads", "fill"], ["p"]),
        helper.make_node("Transpose", ["p"], ["y"], perm=[2, 0, 3, 1]),
    ]
    graph, model = imported(nodes, constants)
    found, wanted = both(graph, model, frames(graph))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction_equals_onnxruntime(op, keepdims):
    node = helper.make_node(op, ["x", "axes"], ["y"], keepdims=keepdims)
    graph, model = imported([node], {"axes": np.array([2, -1], np.int64)})
    assert distance(*both(graph, model, frames(graph))) < 1e-6


@pytest.mark.parametrize("attributes", [{"axis": 1}, {"axis": -1, "keepdims": 0}, {"axis": 2, "select_last_index": 1}])
def test_index_of_the_largest_equals_onnxruntime(attributes):
    nodes = [helper.make_node("Round", ["x"], ["r"]), helper.make_node("ArgMax", ["r"], ["y"], **attributes)]
    graph, model = imported(nodes, {}, TensorProto.INT64)
    found, wanted = both(graph, model, frames(graph))
    assert np.array_equal(found, wanted)


def test_batch_normalization_equals_onnxruntime():
    constants = {k: RANDOM.uniform(0.5, 2, size=4).astype(np.float32) for k in "sbmv"}
    graph, model = imported([helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"])], constants)
    assert distance(*both(graph, model, frames(graph))) < 1e-6


@pytest.mark.parametrize("dtype, zero", [(np.uint8, 100), (np.int8, -7)])
def test_quantizers_equal_onnxruntime_exactly(dtype, zero):
    constants = {"s": np.array(0.05, np.float32), "z": np.array(zero, dtype)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph, model = imported(nodes, constants)
    found, wanted = both(graph, model, frames(graph, 6.0))
    assert np.array_equal(found, wanted)


def test_gradient_passes_through_a_quantizer_inside_its_range():
    constants = {"s": np.array(0.5, np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.UINT8),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    graph, _ = imported(nodes, constants)
    x = torch.zeros(1, *IMAGE)
    x[0, 0, 0, 0, :3] = torch.tensor([-1.0, 1.2, 200.0])
    x.requires_grad_()
    Network(graph)(x).sum().backward()
    assert x.grad[0, 0, 0, 0, :3].tolist() == [0.0, 1.0, 0.0]


def test_frames_do_not_see_each_other():
    constants = {"w": RANDOM.integers(-9, 9, size=(5, 4, 3, 3)).astype(np.float32)}
    graph, _ = imported([helper.make_node("Conv", ["x", "w"], ["y"])], constants)
    network, x = Network(graph), torch.from_numpy(np.rint(frames(graph, 9.0)))  # integers: sums are exact
    assert torch.equal(network(x)[1], network(x[1:2])[0])


def test_what_torch_cannot_do_is_refused_all_at_once():
    nodes = [
        helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[2, 2], dilations=[2, 2]),
        helper.make_node("AveragePool", ["a"], ["y"], kernel_shape=[2, 1], dilations=[2, 1]),
    ]
    graph, _ = imported(nodes, {})
    with pytest.raises(ModelError, match="must not be dilated") as caught:
        Network(graph)
    assert [p.code for p in caught.value.problems] == ["cannot-train"] * 2


def test_network_of_two_inputs_is_refused():
    graph, _ = imported([helper.make_node("Relu", ["x"], ["y"])], {})
    second = replace(graph.all(R.Input)[0], name="other")
    with pytest.raises(ModelError, match="one input, not 2"):
        Network(replace(graph, nodes=(second, *graph.nodes)))
