"""The reference: onnxruntime as the file says it, one frame at a time, and with its optimizations."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tcompile import reference
from tcompile.errors import ModelError
from tests.models import Net, with_outputs


def model(y, net):
    return with_outputs(net.model(y), [y])


def quantized_gemm():
    net = Net()
    x = net.dq(net.input((1, 4)), 0.1, 5)
    w = net.weight(np.arange(-4, 8).reshape(3, 4), 0.2)
    y = net.q(net.op("Gemm", x, w, transB=1), 0.3, 7)
    return model(y, net), y


def test_run_returns_every_output_by_name():
    net = Net()
    x = net.input((1, 2), "float32")
    two, three = net.op("Mul", x, net.const(2.0)), net.op("Mul", x, net.const(3.0))
    found = reference.run(with_outputs(net.model(two, three), [two, three]), {x: np.float32([[1, 2]])})
    assert {k: v.tolist() for k, v in found.items()} == {two: [[2, 4]], three: [[3, 6]]}


@pytest.mark.parametrize("mode", ["plain", "fused"])
def test_frames_are_run_one_by_one(mode):
    made, y = quantized_gemm()
    frames = np.random.default_rng(0).integers(0, 256, (5, 1, 4)).astype(np.uint8)
    seen: list[int] = []
    found = reference.Session(made, mode).frames({"in0": frames}, progress=seen.append)[y]
    assert found.shape == (5, 1, 3) and seen == [1, 2, 3, 4, 5]
    for frame, result in zip(frames, found, strict=True):
        np.testing.assert_array_equal(reference.run(made, {"in0": frame}, mode)[y], result)


def test_plain_computes_the_integers_of_the_file():
    made, y = quantized_gemm()
    codes = np.array([[0, 255, 17, 5]])
    total = (codes - 5) @ np.arange(-4, 8).reshape(3, 4).T
    expected = np.clip(np.rint(total * 0.1 * 0.2 / 0.3) + 7, 0, 255)
    np.testing.assert_array_equal(reference.run(made, {"in0": codes.astype(np.uint8)})[y], expected)


def test_what_onnxruntime_does_not_load_is_a_model_error():
    net = Net()
    y = net.op("NoSuchOperator", net.input((1, 2), "float32"))
    broken = net.model(y)
    broken.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(y, 1, [1, 2]))
    with pytest.raises(ModelError, match=r"onnxruntime .* does not load the model \(plain\)"):
        reference.Session(broken)


def test_optimizations_make_integer_kernels_with_the_names_of_the_file():
    kernel = reference.kernels(quantized_gemm()[0], "fused")["gemm_2"]
    assert (kernel.op, kernel.integer) == ("QGemm", True)


def test_version_is_that_of_the_installed_package():
    assert reference.version().split(".")[0].isdecimal()


def test_integer_kernels_sum_the_largest_codes_exactly_on_every_processor():
    """Also on x86 processors without VNNI, whose kernels for signed weights saturate."""
    assert not reference.saturates()


@pytest.mark.parametrize("mode", ["plain", "fused"])
@pytest.mark.parametrize("op_type, domain", [
    ("QLinearMatMul", ""), ("QLinearConv", ""), ("QLinearConv", "com.microsoft"), ("QGemm", "com.microsoft"),
])  # fmt: skip
def test_integer_operators_of_the_file_sum_the_largest_codes_exactly(mode, op_type, domain):
    size = 64
    shape, wide = ((1, size, 1, 1), (1, size, 1, 1)) if op_type == "QLinearConv" else ((1, size), (size, 1))
    constants = {
        "w": np.full(wide, 127, np.int8), "s": np.float32(1), "z": np.uint8(0), "wz": np.int8(0), "ys": np.float32(20000),
    }  # fmt: skip
    inputs = ["x", "s", "z", "w", "s", "wz", *([""] if op_type == "QGemm" else []), "ys", "z"]
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], domain=domain)], "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    whole = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    y = reference.run(whole, {"x": np.full(shape, 255, np.uint8)}, mode)["y"]
    assert y.ravel().tolist() == [round(255 * 127 * size / 20000)]


def test_windows_that_are_not_counted_as_inferred_run():
    """Inference counts two rows, the kernel one; with reuse of memory its place would be taken by what has two."""
    net = Net()
    shared = net.qdq(net.input((1, 1, 2, 1), "float32"), 0.5, 9)
    pool = net.op("MaxPool", shared, kernel_shape=[1, 2], pads=[0, 1, 0, 0], strides=[3, 1], ceil_mode=1)
    ends = [net.qdq(shared, 0.25), net.op("Softmax", pool, axis=3)]
    made = net.model(*ends)
    made.opset_import[0].version, made.ir_version = 20, 9
    found = reference.run(onnx.shape_inference.infer_shapes(made), {"in0": np.ones((1, 1, 2, 1), np.float32)})
    assert [found[e].shape for e in ends] == [(1, 1, 2, 1), (1, 1, 1, 1)]


def test_a_frame_may_be_a_single_number():
    """Inputs without axes: a frame of (N,) numbers is an array for onnxruntime too."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = reference.Session(model).frames({"x": np.float32([1, 2, 3])})
    assert np.array_equal(found["y"], np.float32([2, 4, 6]))
