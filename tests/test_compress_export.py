"""Written networks: exact in onnxruntime whichever way it runs them, small on disk, proved by the compiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tcompile.compress.export import exported, sum_bounds, to_onnx
from tcompile.compress.methods import prepared_for
from tcompile.compress.prepare import Prepared
from tcompile.compress.recipe import Recipe
from tcompile.compress.train import predict
from tcompile.errors import ModelError
from tcompile.frontend.importer import import_model
from tcompile.frontend.load import load
from tcompile.frontend.normalize import normalize
from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.reference import Session
from tests.command import DIGITS, tcompile
from tests.compression import digits, model
from tests.conftest import shared_model

RANDOM = np.random.default_rng(0)


def prepared(**options: object) -> Prepared:
    recipe = Recipe(**options)
    return prepared_for(import_model(normalize(model())), digits()["x_train"], recipe)


def scores_in_onnxruntime(graph: Graph, scores: str, x: np.ndarray, mode: str) -> np.ndarray:
    part = graph.with_nodes(graph.nodes, (scores,))
    session = Session(to_onnx(part), mode)
    source = graph.all(R.Input)[0]
    frames = x.reshape(-1, *source.type.shape)
    return session.frames({source.origin.tensor: frames})[session.outputs[0]].reshape(len(x), -1)


RECIPES = (
    {}, {"terms": 2}, {"terms": 4, "act_bits": 8}, {"first_terms": 3, "last_terms": 2}, {"ternary": "twn"},
    {"ternary": "gaussian", "per": "layer"}, {"ternary": "bcgd", "quantizer": "bcgd", "act_bits": 2}, {"act_bits": 1},
)  # fmt: skip


@pytest.mark.parametrize("options", RECIPES, ids=str)
@pytest.mark.parametrize("mode", ["plain", "fused"])
def test_scores_of_torch_are_those_of_onnxruntime_bit_for_bit(options, mode):
    net = prepared(**options)
    graph = exported(net)
    x = digits()["x_test"][:64]
    found = predict(graph, net.scores, x)
    assert len(np.unique(found)) > 64
    assert np.array_equal(found, scores_in_onnxruntime(graph, net.scores, x, mode))


def test_other_weights_are_seen_to_give_other_scores_wrong():
    net = prepared()
    graph, x = exported(net), digits()["x_test"][:64]
    with torch.no_grad():
        net.sites[1].weight[0] *= -1
    other = predict(exported(net), net.scores, x)
    assert not np.array_equal(other, scores_in_onnxruntime(graph, net.scores, x, "plain"))


@pytest.mark.long
@pytest.mark.parametrize("name", ["mnist8_cntk", "cifar_resnet20_onnc", "mlperf_dscnn_fp32"])
def test_networks_of_others_are_written_exactly(name):
    graph = import_model(load(shared_model(f"{name}.onnx")).model)
    x = RANDOM.normal(size=(32, *graph.all(R.Input)[0].type.shape)).astype(np.float32)
    net = prepared_for(graph, x, Recipe())
    written = exported(net)
    found = predict(written, net.scores, x[:8])
    for mode in ("plain", "fused"):
        assert np.array_equal(found, scores_in_onnxruntime(written, net.scores, x[:8], mode))


def test_network_in_evaluation_mode_is_the_written_one_up_to_rounding():
    net = prepared(act_bits=8)
    x = digits()["x_test"][:64]
    with torch.no_grad():
        frames = torch.from_numpy(x)[:, None]
        kept = net.network.eval().values(frames, (net.scores,))[net.scores].flatten(1).numpy()
    found = predict(exported(net), net.scores, x)
    assert np.abs(kept - found).max() < 0.02 * np.abs(found).max()


def test_weights_take_two_bits_each_on_disk():
    stored = {i.name: i for i in to_onnx(exported(prepared())).graph.initializer}
    codes = [i for i in stored.values() if i.data_type == onnx.TensorProto.INT2]
    assert [len(i.raw_data) for i in codes] == [8 * 9 // 4, 16 * 8 * 9 // 4, 64 * 10 // 4]


def test_sums_of_terms_take_four_bits():
    stored = to_onnx(exported(prepared(terms=2))).graph.initializer
    kinds = [i.data_type for i in stored if i.name.endswith("_codes")]
    assert kinds == [onnx.TensorProto.INT4] * 3


def test_layers_keep_their_names():
    names = {n.name: n.op_type for n in to_onnx(exported(prepared())).graph.node}
    assert {k: v for k, v in names.items() if v in ("Conv", "Gemm")} == {
        "conv1": "Conv",
        "conv2": "Conv",
        "linear": "Gemm",
    }


def test_no_quantizer_follows_a_layer_directly():
    graph = exported(prepared())
    for node in graph.all(R.Linear):
        assert [u.op for u in graph.consumers[node.name]] == ["Mul"]


def test_bounds_of_sums_are_those_of_the_codes():
    net = prepared()
    bounds = sum_bounds(exported(net))
    conv1 = net.sites[0].codes()[0].abs().flatten(1).sum(1).max()
    linear = net.sites[2].codes()[0].abs().sum(1).max()
    assert bounds["conv1"] == int(conv1) * 255 and bounds["linear"] == int(linear) * 15


def test_layer_whose_sums_may_not_be_exact_is_refused(monkeypatch):
    monkeypatch.setattr("tcompile.compress.export.EXACT", 500)
    with pytest.raises(ModelError, match=r"sums of 'conv2' must stay below 2\^24") as caught:
        exported(prepared())
    assert {p.where[0] for p in caught.value.problems} >= {"conv1", "conv2"}


def test_wide_inputs_reach_the_bound_for_real():
    graph = import_model(load(DIGITS).model)  # an exact file: its own bounds are known and small
    assert max(sum_bounds(graph).values()) < 1 << 24
    wide = prepared_for(import_model(normalize(model())), 4096 * digits()["x_train"], Recipe(input_bits=16, terms=7))
    found = sum_bounds(exported(wide))["conv1"]
    assert found == int(wide.sites[0].codes()[0].abs().flatten(1).sum(1).max()) * 65535


def test_written_network_is_proved_and_verified(tmp_path):
    net = prepared()
    (tmp_path / "out.onnx").write_bytes(to_onnx(exported(net)).SerializeToString())
    np.savez(tmp_path / "x.npz", x=digits()["x_test"], y=digits()["y_test"])
    assert tcompile("build", tmp_path / "out.onnx", "-o", tmp_path / "b").code == 0
    result = tcompile("verify", tmp_path / "b", "--inputs", tmp_path / "x.npz", "--json")
    assert result.code == 0, result.err
    assert result.json["exactness"]["verdict"] == "proved"
    assert result.json["verification"]["mismatches"] == 0
    assert result.json["verification"]["samples"] == len(digits()["y_test"])
    assert [layer["name"] for layer in result.json["layers"] if layer["MH"]] == ["conv1", "conv2", "linear"]


def test_export_is_the_same_bytes_each_time(tmp_path: Path):
    first, second = (to_onnx(exported(prepared())).SerializeToString() for _ in range(2))
    assert first == second
