"""What preparing keeps: the function of the float network; what it finds; what it refuses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tcompile.compress.network import Network
from tcompile.compress.prepare import Prepared, prepare
from tcompile.compress.ternarizers import Sws, Unquantized
from tcompile.errors import ModelError
from tcompile.frontend.importer import import_model
from tcompile.frontend.load import load
from tcompile.frontend.normalize import normalize
from tcompile.ir import real as R
from tests.compression import digits, model
from tests.conftest import shared_model

RANDOM = np.random.default_rng(0)


def floats(index: int, count: int, weight: torch.Tensor) -> torch.nn.Module:
    return Unquantized()


def without_quantizers(prepared: Prepared) -> Network:
    return Network(prepared.graph, {s.node.name: s for s in prepared.sites}).eval()


def difference(prepared: Prepared, x: np.ndarray) -> float:
    """Between the float network and its sites, relative to the largest score."""
    frames = torch.from_numpy(x).reshape(-1, *prepared.network.input.type.shape)
    with torch.no_grad():
        wanted = prepared.teacher.values(frames, (prepared.scores,))[prepared.scores]
        found = without_quantizers(prepared).values(frames, (prepared.scores,))[prepared.scores]
    return float((found - wanted).abs().max() / wanted.abs().max())


def chain(nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray], outputs: tuple[str, ...] = ("y",)):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 6, 6))],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return import_model(normalize(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)))


def frames(count: int = 16) -> np.ndarray:
    return RANDOM.normal(size=(count, 4, 6, 6)).astype(np.float32)


WEIGHT = RANDOM.normal(size=(5, 4, 3, 3))
CONSTANTS = {
    "w": WEIGHT, "b": RANDOM.normal(size=5), "c": RANDOM.normal(size=(5, 1, 1)), "d": RANDOM.normal(size=(1, 5, 1, 1)),
    "g": RANDOM.uniform(0.5, 2, 5), "o": RANDOM.normal(size=5), "m": RANDOM.normal(size=5), "v": RANDOM.uniform(1, 2, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", ["digits", "mnist8_cntk", "mnist_lenet_fyh", "jsc_three_layer_keras"])
def test_prepared_network_of_floats_is_the_network(name):
    if name == "digits":
        graph, x = import_model(normalize(model())), digits()["x_train"][:64]
    else:
        graph = import_model(load(shared_model(f"{name}.onnx")).model)
        x = RANDOM.normal(size=(64, *graph.all(R.Input)[0].type.shape)).astype(np.float32)
    assert difference(prepare(graph, x, floats), x) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", ["cifar_resnet20_onnc", "mlperf_dscnn_fp32", "ad_alibaba"])
def test_prepared_network_of_a_large_network_is_the_network(name):
    test_prepared_network_of_floats_is_the_network(name)


def test_bias_additions_and_normalization_go_into_one_node():
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["p"], "conv"),
        helper.make_node("Add", ["p", "c"], ["q"]),
        helper.make_node("BatchNormalization", ["q", *"gomv"], ["r"]),
        helper.make_node("Add", ["d", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    x = frames()
    prepared = prepare(chain(nodes, CONSTANTS), x, floats)
    kinds = [n.op for n in prepared.graph if not isinstance(n, R.Const)]
    assert kinds == ["Input", "Conv", "Relu"]
    assert prepared.sites[0].name == "conv"
    assert difference(prepared, x) < 1e-5


def test_addition_that_is_forgotten_is_seen_wrong():
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["p"]),
        helper.make_node("BatchNormalization", ["p", *"gomv"], ["y"]),
    ]
    x = frames()
    prepared = prepare(chain(nodes, CONSTANTS), x, floats)
    assert difference(prepared, x) < 1e-5
    prepared.sites[0].norm.mean += torch.from_numpy(CONSTANTS["b"]).float()
    assert difference(prepared, x) > 1e-3


def test_addition_of_another_shape_stays_a_node():
    constants = {**CONSTANTS, "z": RANDOM.normal(size=(1, 1, 4, 4))}
    nodes = [helper.make_node("Conv", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "z"], ["y"])]
    prepared = prepare(chain(nodes, constants), frames(), floats)
    assert [n.op for n in prepared.graph if not isinstance(n, R.Const)] == ["Input", "Conv", "Add"]


def test_value_that_others_see_too_is_not_absorbed():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "c"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    x = frames()
    prepared = prepare(chain(nodes, CONSTANTS), x, floats)
    assert [n.op for n in prepared.graph if not isinstance(n, R.Const)] == ["Input", "Conv", "Add", "Add"]
    assert difference(prepared, x) < 1e-5


def test_factors_of_a_gemm_go_into_weights_and_normalization():
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["a"]),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("Gemm", ["f", "k", "b"], ["y"], alpha=0.5, beta=-3.0),
    ]
    x = frames()
    prepared = prepare(chain(nodes, {"k": RANDOM.normal(size=(4, 5)), "b": CONSTANTS["b"]}), x, floats)
    assert difference(prepared, x) < 1e-5


def test_softmax_at_the_end_is_no_part_of_the_scores():
    graph = import_model(normalize(model()))
    prepared = prepare(graph, digits()["x_train"][:16], floats)
    assert graph[prepared.scores].op == "Gemm"


def test_every_layer_gets_a_ternarizer_and_its_number():
    seen = []

    def note(index: int, count: int, weight: torch.Tensor) -> torch.nn.Module:
        seen.append((index, count, tuple(weight.shape)))
        return Sws()

    prepare(import_model(normalize(model())), digits()["x_train"][:16], note)
    assert seen == [(0, 3, (8, 1, 3, 3)), (1, 3, (16, 8, 3, 3)), (2, 3, (10, 64))]


def test_input_has_bits_of_its_own_and_a_step_that_stays():
    prepared = prepare(import_model(normalize(model())), digits()["x_train"][:64], floats, act_bits=3, input_bits=6)
    ranges = {value: (q.lo, q.hi, q.exponent.requires_grad) for value, q in prepared.quantizers.items()}
    assert list(ranges.values()) == [(0, 63, False), (0, 7, True), (0, 7, True)]


@pytest.mark.parametrize("op", ["Sign", "Floor", "Ceil"])
def test_operator_without_gradient_is_refused(op):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["p"]),
        helper.make_node(op, ["p"], ["q"], "flat"),
        helper.make_node("Conv", ["q", "k"], ["y"]),
    ]
    graph = chain(nodes, {"w": WEIGHT, "k": RANDOM.normal(size=(3, 5, 1, 1))})
    with pytest.raises(ModelError, match=f"{op} .* has no gradient") as caught:
        prepare(graph, frames(), floats)
    assert caught.value.problems[0].where == ("flat",)


def test_operator_without_gradient_before_all_layers_is_allowed():
    nodes = [helper.make_node("Floor", ["x"], ["p"]), helper.make_node("Conv", ["p", "w"], ["y"])]
    assert len(prepare(chain(nodes, {"w": WEIGHT}), frames(), floats).sites) == 1


def test_network_of_two_outputs_is_refused():
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    with pytest.raises(ModelError, match="one output, not 2"):
        prepare(chain(nodes, {"w": WEIGHT}, ("y", "z")), frames(), floats)


def test_network_without_float_weights_is_refused():
    with pytest.raises(ModelError, match="has no linear layer"):
        prepare(chain([helper.make_node("Relu", ["x"], ["y"])], {}), frames(), floats)
