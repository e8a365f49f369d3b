"""The committed digits network: standard ONNX, ternary, the same bits with and without optimization, accurate."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parents[1] / "examples" / "digits"
TOP_CODE = 15
SUMMING = ("Conv", "MatMul")

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(FOLDER / "digits.int2.onnx")


@pytest.fixture(scope="module")
def data() -> dict[str, NDArray[np.generic]]:
    with np.load(FOLDER / "digits.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    pytest.importorskip("torch", reason="training needs torch")
    pytest.importorskip("sklearn", reason="training needs scikit-learn")
    spec = importlib.util.spec_from_file_location("digits_train", FOLDER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def run(model: onnx.ModelProto, images: Floats, *, optimize: bool) -> Floats:
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def bits(logits: Floats) -> bytes:
    return logits.astype("<f4").tobytes()


def weight_of(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.TensorProto:
    """The initializer behind the DequantizeLinear at a layer's second input."""
    producer = {output: other for other in model.graph.node for output in other.output}[node.input[1]]
    assert producer.op_type == "DequantizeLinear"
    return {tensor.name: tensor for tensor in model.graph.initializer}[producer.input[0]]


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in SUMMING]


def scalars(model: onnx.ModelProto, operators: tuple[str, ...]) -> list[float]:
    """The scales of all quantizing nodes of these kinds."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [constants[node.input[1]].item() for node in model.graph.node if node.op_type in operators]


def quantized_sums(model: onnx.ModelProto) -> list[str]:
    """QuantizeLinear nodes that follow a Conv or MatMul directly, or with only a Relu between."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        before = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if before is not None and before.op_type == "Relu":
            before = producers.get(before.input[0])
        if before is not None and before.op_type in SUMMING:
            found.append(node.name)
    return found


def test_optimized_and_plain_outputs_have_the_same_bits_on_the_test_images(
    model: onnx.ModelProto, data: dict[str, NDArray[np.float32]]
) -> None:
    images = data["x_test"]
    assert bits(run(model, images, optimize=True)) == bits(run(model, images, optimize=False))


def test_optimized_and_plain_outputs_have_the_same_bits_on_inputs_out_of_range(model: onnx.ModelProto) -> None:
    images = np.random.default_rng(0).uniform(-4, 20, (200, 1, 8, 8)).astype(np.float32)
    assert bits(run(model, images, optimize=True)) == bits(run(model, images, optimize=False))


def test_one_changed_weight_changes_the_bits_wrong(
    model: onnx.ModelProto, data: dict[str, NDArray[np.float32]]
) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weight = weight_of(changed, layers(changed)[0])
    first = 1 - (weight.raw_data[0] & 0b11)  # +1 becomes 0, 0 becomes +1, -1 (0b11) becomes -2
    weight.raw_data = bytes([weight.raw_data[0] & 0b11111100 | first & 0b11]) + weight.raw_data[1:]
    images = data["x_test"][:20]
    assert bits(run(changed, images, optimize=False)) != bits(run(model, images, optimize=False))


def test_accuracy_on_held_out_images(model: onnx.ModelProto, data: dict[str, NDArray[np.generic]]) -> None:
    logits = run(model, data["x_test"].astype(np.float32), optimize=True)
    assert np.mean(logits.argmax(1) == data["y_test"]) >= 0.95


def test_no_test_image_is_a_training_image(data: dict[str, NDArray[np.generic]]) -> None:
    assert {image.tobytes() for image in data["x_test"]}.isdisjoint(image.tobytes() for image in data["x_train"])


def test_data_has_the_models_shape_and_every_class(
    model: onnx.ModelProto, data: dict[str, NDArray[np.generic]]
) -> None:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    for part, count in (("train", 1347), ("test", 450)):
        x, y = data[f"x_{part}"], data[f"y_{part}"]
        assert (x.shape, y.shape) == ((count, *shape[1:]), (count,))
        assert (x.dtype.name, y.dtype.name) == ("float32", "int64")
        assert set(y.tolist()) == set(range(10))


def test_file_is_valid_and_in_the_documented_version(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(entry.domain, entry.version) for entry in model.opset_import]) == (13, [("", 25)])


def test_every_weight_is_a_packed_ternary_int2_initializer_and_nothing_else_is(model: onnx.ModelProto) -> None:
    weights = [weight_of(model, node) for node in layers(model)]
    int2 = [tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT2]
    assert [weight.name for weight in weights] == int2
    for weight in weights:
        assert len(weight.raw_data) == math.ceil(math.prod(weight.dims) / 4)
        assert set(numpy_helper.to_array(weight).astype(int).ravel().tolist()) == {-1, 0, 1}


def test_node_names_are_unique(model: onnx.ModelProto) -> None:
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_no_quantizer_follows_a_conv_or_matmul_directly(model: onnx.ModelProto) -> None:
    assert len(layers(model)) == 4
    assert quantized_sums(model) == []


@pytest.mark.parametrize("between", [[], ["Relu"]])
def test_a_quantizer_behind_a_conv_is_found_wrong(between: list[str]) -> None:
    operators = ["Conv", *between, "QuantizeLinear"]
    nodes = [helper.make_node(op, [f"t{i}", "c"], [f"t{i + 1}"], name=f"n{i}") for i, op in enumerate(operators)]
    planted = helper.make_model(helper.make_graph(nodes, "planted", [], []))
    assert quantized_sums(planted) == [nodes[-1].name]


def test_all_quantizer_scales_are_powers_of_two(model: onnx.ModelProto) -> None:
    scales = scalars(model, ("QuantizeLinear", "DequantizeLinear"))
    assert len(scales) == 12  # four activations, quantized and dequantized; four weights
    assert {math.frexp(scale)[0] for scale in scales} == {0.5}


def test_all_sums_are_exact_in_float32(model: onnx.ModelProto) -> None:
    for node in layers(model):
        weight = numpy_helper.to_array(weight_of(model, node)).astype(np.int64)
        channel = 0 if node.op_type == "Conv" else 1
        largest = np.abs(np.moveaxis(weight, channel, 0)).reshape(weight.shape[channel], -1).sum(1).max() * TOP_CODE
        assert 0 < largest < 2**24


def test_an_untrained_tiny_network_is_exported_bit_for_bit(train: ModuleType) -> None:
    train.torch.manual_seed(0)
    network = train.DigitsNet((3, 5, 2))
    folded = train.fold(network)
    exported = train.export(folded)
    images = np.random.default_rng(0).uniform(0, 16, (30, 1, 8, 8)).astype(np.float32)
    expected = train.integer_logits(folded, images)
    assert len({row.tobytes() for row in expected}) == len(images)
    for optimize in (False, True):
        assert bits(run(exported, images, optimize=optimize)) == bits(expected)
