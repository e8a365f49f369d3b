"""Convolutions replaced by three: the same function at full rank, ranks by share or by search, trained and written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tcompile.compress import Compression
from tcompile.compress.decompose import by_share, by_training, decomposed, wide_layers
from tcompile.compress.job import run
from tcompile.compress.low_rank import Factors, tucker2
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


def scores(graph: Graph, frames: np.ndarray) -> np.ndarray:
    return Network(graph).eval()(torch.from_numpy(frames)[:, None]).detach().numpy()


def whole(*shape: int, seed: int) -> torch.Tensor:
    """Small integers, whose products and sums float32 holds exactly."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32))


def narrowing(weight: np.ndarray) -> Graph:
    """A convolution 1 x 1 of ones from 3 channels, and one of 3 x 3 with a stride, padding and bias behind it."""
    outputs, inputs = weight.shape[:2]
    arrays = {"w1": np.ones((inputs, 3, 1, 1), np.float32), "w2": weight, "b2": np.arange(outputs, dtype=np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "c1"),
        helper.make_node("Conv", ["a", "w2", "b2"], ["y"], "c2", strides=[2, 1], pads=[1, 0, 0, 1]),
    ]
    made = helper.make_graph(
        nodes,
        "narrowing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs, 3, 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return import_model(normalize(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))


def test_three_convolutions_are_the_one_they_stand_for() -> None:
    factors = Factors(whole(4, 6, 1, 1, seed=0), whole(5, 4, 3, 3, seed=1), whole(8, 5, 1, 1, seed=2))
    graph = narrowing(factors.joined().numpy())
    frames = np.random.default_rng(3).integers(-3, 4, (5, 3, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(scores(decomposed(graph, {"c2": factors}), frames), scores(graph, frames))


def test_the_network_is_not_the_same_wrong_at_a_lower_rank() -> None:
    graph, frames = network(), few()["x_test"]
    low = decomposed(graph, {w.layer.name: tucker2(w.weight, LANES) for w in wide_layers(graph, LANES, LANES)})
    assert np.abs(scores(low, frames) - scores(graph, frames)).max() > 0.01


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
    graph = narrowing(np.ones((8, 32, 3, 3), np.float32))
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
