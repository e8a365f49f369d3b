"""Convolutions replaced by three: the same function at full rank, ranks by share or by search, trained and written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tcompile.compress import Compression
from tcompile.compress.decompose import by_share, by_training, decomposed, wide_layers
from tcompile.compress.job import run
from tcompile.compress.low_rank import tucker2
from tcompile.compress.methods import low_rank_for
from tcompile.compress.network import Network
from tcompile.compress.recipe import Recipe, read_recipe
from tcompile.compress.train import settings
from tcompile.errors import UsageError
from tcompile.frontend.importer import import_model
from tcompile.frontend.normalize import normalize
from tcompile.ir.graph import Graph
from tests.compression import digits, few, model

LANES = 2  # ranks below the 8 and 16 channels of the network


def network() -> Graph:
    return import_model(normalize(model()))


def scores(graph: Graph) -> np.ndarray:
    frames = torch.from_numpy(few()["x_test"])[:, None]
    return Network(graph).eval()(frames).detach().numpy()


def test_the_network_is_the_same_at_full_rank() -> None:
    graph = network()
    wide = wide_layers(graph, LANES, LANES)
    whole = decomposed(graph, {w.layer.name: tucker2(w.weight, 100) for w in wide})
    assert len(whole.nodes) > len(graph.nodes) and whole.outputs == graph.outputs
    np.testing.assert_allclose(scores(whole), scores(graph), atol=1e-5)


def test_the_network_is_not_the_same_wrong_at_a_lower_rank() -> None:
    graph = network()
    low = decomposed(graph, {w.layer.name: tucker2(w.weight, LANES) for w in wide_layers(graph, LANES, LANES)})
    assert np.abs(scores(low) - scores(graph)).max() > 0.01


def test_only_ranks_that_save_cycles_are_considered() -> None:
    layers = wide_layers(network(), LANES, LANES)
    assert [w.layer.name for w in layers] == ["conv2"]  # the first layer is left alone
    shape = layers[0].layer.weight.shape
    full = layers[0].conv.cycles(shape, LANES, LANES)
    assert all(sum(layers[0].conv.cycles_at(shape, r, LANES, LANES)) < full for r in layers[0].ranks)
    assert wide_layers(network(), 64, 64) == []


@pytest.mark.parametrize("share, rank", [(0.1, 2), (0.2, 4), (0.9, 12)])
def test_a_share_of_the_channels_is_the_closest_rank(share: float, rank: int) -> None:
    layers = wide_layers(network(), LANES, LANES)
    assert layers[0].ranks == (2, 4, 6, 8, 10, 12)
    assert by_share(layers, share)["conv2"].core.shape[:2] == (rank, min(rank, 8))


def test_the_rank_is_that_of_the_larger_side() -> None:
    """Eight outputs of 32 inputs: at rank 14 the core has 8 x 14."""
    shapes = {"w1": (32, 3, 1, 1), "w2": (8, 32, 3, 3)}
    made = helper.make_graph(
        [helper.make_node("Conv", ["x", "w1"], ["a"], "c1"), helper.make_node("Conv", ["a", "w2"], ["y"], "c2")],
        "narrowing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 4, 4])],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()],
    )
    graph = import_model(normalize(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))
    recipe = read_recipe(None, {"low_rank": 0.44, "pe": LANES, "simd": LANES})
    assert low_rank_for(graph, recipe)[1] == {"c2": 14}


def searched(strength: float) -> dict[str, int]:
    graph = network()
    x, y = digits()["x_train"], digits()["y_train"]
    layers = wide_layers(graph, LANES, LANES)
    with settings(Recipe()):
        found = by_training(graph, layers, x, y, epochs=2, strength=strength, batch=32, pe=LANES, simd=LANES)
    return {name: f.core.shape[0] for name, f in found.items()}


def test_a_search_takes_the_cheapest_rank_where_only_cycles_count() -> None:
    assert searched(100.0) == {"conv2": 2}


def test_a_search_takes_another_wrong_where_cycles_are_free() -> None:
    assert searched(0.0) != {"conv2": 2}


def test_a_network_of_low_rank_is_trained_and_written() -> None:
    recipe = read_recipe(None, {"low_rank": "0.75", "pe": LANES, "simd": LANES, "epochs": 6})
    result = run(network(), digits(), recipe)
    assert result.report["ranks"] == {"conv2": 12}
    names = ["conv1", "conv2/first", "conv2/core", "conv2", "linear"]
    assert [x["name"] for x in result.report["layers"]] == names
    assert result.report["accuracy"]["test"] > 0.6
    full = run(network(), digits(), read_recipe(None, {"pe": LANES, "simd": LANES, "epochs": 0}))
    assert result.report["accuracy"]["test_float"] == full.report["accuracy"]["test_float"]


def test_a_search_needs_labels() -> None:
    with pytest.raises(UsageError, match="needs labelled frames"):
        Compression(network(), few()["x_train"], low_rank="search", pe=LANES, simd=LANES)


def test_lanes_that_leave_no_rank_are_refused() -> None:
    with pytest.raises(UsageError, match="there is none that does"):
        Compression(network(), few()["x_train"], low_rank=0.5, pe=64, simd=64)


@pytest.mark.parametrize("value", ["0", "1", "some", "-0.5"])
def test_other_words_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match="low_rank"):
        read_recipe(None, {"low_rank": value})
