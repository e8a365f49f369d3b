"""Files that `tests.mutated` found, or whose like it could find: each is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

from tcompile.errors import ModelError
from tcompile.frontend import load
from tcompile.frontend.importer import import_model
from tcompile.options import BuildOptions
from tcompile.pipeline import compile_file
from tcompile.verify import random_inputs
from tests.models import Net
from tests.mutated.bases import bases


def node_of(model: ModelProto, op_type: str) -> NodeProto:
    return next(n for n in model.graph.node if n.op_type == op_type)


def with_attribute(op_type: str, name: str, value: object) -> Callable[[ModelProto], None]:
    """Sets an attribute of the first node of an operator."""

    def change(model: ModelProto) -> None:
        node = node_of(model, op_type)
        kept = [a for a in node.attribute if a.name != name]
        node.ClearField("attribute")
        made = helper.make_attribute(name, value) if not isinstance(value, AttributeProto) else value
        node.attribute.extend([*kept, made])

    return change


def with_constant(op_type: str, index: int, value: object) -> Callable[[ModelProto], None]:
    """Gives the first node of an operator another constant."""

    def change(model: ModelProto) -> None:
        node = node_of(model, op_type)
        node.input.extend([""] * (index + 1 - len(node.input)))
        node.input[index] = "other"
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "other"))

    return change


def with_inputs(op_type: str, *inputs: int | None) -> Callable[[ModelProto], None]:
    """Leaves an operator these of its inputs; None for an empty name."""

    def change(model: ModelProto) -> None:
        node = node_of(model, op_type)
        names = ["" if k is None else node.input[k] for k in inputs]
        node.ClearField("input")
        node.input.extend(names)

    return change


def without_output(model: ModelProto) -> None:
    node_of(model, "Trunc").ClearField("output")


def of_many_dimensions(model: ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([1] * 70)


def with_an_input_of_many_dimensions(model: ModelProto) -> None:
    for _ in range(70):
        model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 1


def of_two_dimensions(model: ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[1:3]


EMPTY = AttributeProto(name="kernel_shape", type=AttributeProto.TENSOR)
EMPTIES = AttributeProto(name="kernel_shape", type=AttributeProto.INTS)
CASES = {
    "dimensions": ("moved", of_many_dimensions, "at most 32 dimensions, not 7"),
    "input dimensions": ("moved", with_an_input_of_many_dimensions, "at most 32 dimensions, not 74"),
    "gather axis": ("moved", with_attribute("Gather", "axis", 4), "an axis from -4 to 3"),
    "gather axis below": ("moved", with_attribute("Gather", "axis", -5), "an axis from -4 to 3"),
    "axis of 64 bits": ("moved", with_attribute("Gather", "axis", -(2**63)), "must be from -32 to 31, not -9223372036854775808"),
    "flag": ("windows", with_attribute("ReduceMax", "keepdims", 4), "keepdims of .* must be 0 or 1, not 4"),
    "another": ("moved", with_attribute("Concat", "axis", 2**32 + 1), "must be from -32 to 31, not 4294967297"),
    "expand": ("moved", with_constant("Expand", 1, np.array([1, 7, 4, 2])), "does not fit"),
    "expand below": ("moved", with_constant("Expand", 1, np.array([1, -1, 4, 2])), "not fit|does not"),
    "resize to nothing": ("moved", with_constant("Resize", 2, np.float32([1, 1, 0.1, 1])), "elements|Resize"),
    "pad value": ("moved", with_constant("Pad", 2, np.zeros(0, np.float32)), "must be one number|onnxruntime|does not"),
    "kernel": ("qonnx", with_attribute("MaxPool", "kernel_shape", EMPTY), "must be INTS, not TENSOR"),
    "kernel of one": ("qonnx", with_attribute("MaxPool", "kernel_shape", 2), "must be INTS, not INT"),
    "name of ours": ("qonnx", with_attribute("Conv", "main", 1), "must be one of the operator's own"),
    "operator's name": ("qonnx", with_attribute("Conv", "op_type", "x"), "must be one of the operator's own"),
    "two dimensions": ("qonnx", of_two_dimensions, "must have axes between batch and channels"),
    "no kernel": ("qonnx", with_attribute("MaxPool", "kernel_shape", EMPTIES), "'MaxPool'"),
    "layout": ("qonnx", with_attribute("MultiThreshold", "data_layout", 7), "must be STRING, not INT"),
    "bits of an average": ("qonnx", with_attribute("QuantAvgPool2d", "ibits", 2**62), "ibits and obits must be 1 to 32"),
    "less bits": ("qonnx", with_attribute("QuantAvgPool2d", "obits", -1), "ibits and obits must be 1 to 32"),
    "no bits": ("qonnx", with_constant("Quant", 3, np.zeros(0, np.float32)), "must be one positive integer, not"),
    "bits of Trunc": ("qonnx", with_constant("Trunc", 4, np.float32(-4)), "must be positive|must drop"),
    "empty bits": ("qonnx", with_constant("Trunc", 4, np.zeros(0, np.float32)), "must be one number each"),
    "no output": ("qonnx", without_output, "must have a first output"),
    "no inputs": ("qonnx", with_inputs("Trunc"), "must have a first input"),
    "empty input": ("qoperator", with_inputs("QGemm", None, 1, 2), "must have a first input"),
    "sigmoid": ("qoperator", with_inputs("QLinearSigmoid", 0, 1, 2, 3), "output must have a zero point"),
    "leaky": ("qoperator", with_inputs("QLinearLeakyRelu", 0, 1, 2, 3), "output must have a zero point"),
    "concat": ("qoperator", with_inputs("QLinearConcat", 0, 1, 2, 3, None), "each part must have a zero point"),
    "weights": ("qoperator", with_inputs("QLinearMatMul", 0, 1, 2, None, 4, 5, 6, 7), "QLinearMatMul"),
    "average": ("windows", with_attribute("AveragePool", "pads", [10**9, 0, 0, 1]), "at most 65536 elements, not 1000000000"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_file_is_refused(tmp_path: Path, case: str):
    base, change, message = CASES[case]
    model = ModelProto()
    model.CopyFrom(bases()[base])
    change(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=message):
        import_model(load(tmp_path / "model.onnx").model)


def test_inner_values_of_many_dimensions_are_refused(tmp_path):
    net = Net()
    x = net.input((1, 2), "float32")
    x = net.op("Unsqueeze", x, net.const(list(range(40)), "int64"))
    (tmp_path / "model.onnx").write_bytes(net.model(net.op("Relu", x)).SerializeToString())
    with pytest.raises(ModelError, match=r"computed by .* at most 32 dimensions, not 42"):
        load(tmp_path / "model.onnx")


def test_an_operator_without_elements_is_refused(tmp_path):
    net = Net()
    x = net.input((1, 4, 2, 2), "float32")
    x = net.op("Slice", x, *(net.const([k], "int64") for k in (2, 2, 3)))
    x = net.op("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]))
    (tmp_path / "model.onnx").write_bytes(net.model(x).SerializeToString())
    with pytest.raises(ModelError, match="must have an input with elements, not of shape"):
        load(tmp_path / "model.onnx")


def quantizer(tmp_path: Path, scale: str, *more: onnx.ValueInfoProto):
    """A network whose input is quantized by a scale."""
    net = Net()
    x = net.q(net.input((1, 2), "float32"), 0.5, 3)
    y = net.q(net.op("MatMul", net.dq(x, 0.5, 3), net.weight(np.eye(2), 0.5)), 0.5)
    model = net.model(net.dq(y, 0.5))
    model.graph.node[0].input[1] = scale
    model.graph.input.extend(more)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e37), "large"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return compile_file(tmp_path / "model.onnx", BuildOptions()).network


def test_random_inputs_of_a_large_scale_are_finite(tmp_path):
    frames = random_inputs(quantizer(tmp_path, "large"), 20)["in0"]
    assert np.isfinite(frames).all()
    assert np.abs(frames).max() == np.finfo(np.float32).max


def test_a_scale_that_is_an_input_is_refused(tmp_path):
    scale = helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, [])
    with pytest.raises(ModelError, match="must be constant; 'quantizelinear_0' has one that is computed or an input"):
        quantizer(tmp_path, "given", scale)
