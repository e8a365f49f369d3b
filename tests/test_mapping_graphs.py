"""Layers as constant matrices, against the interpreter; and graphs for them, searched once and kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.adders import Adder, AdderGraph, Output
from hw.block import Bus
from tcompile.adders import search
from tcompile.ir.graph import Graph, IntType
from tcompile.ir.interpret import interpret
from tcompile.mapping import graphs
from tcompile.mapping.folding import Fold
from tcompile.mapping.graphs import (
    adder_graph,
    constant_matrix,
    graph_from_json,
    graph_to_json,
    guessed_adders,
    input_bounds,
    is_searchable,
    offsets,
    window_geometry,
)
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import Linear, linear
from tests.networks import Builder, frames_of, one_layer

JUNK = 1000  # in lanes that only fill


def layer_of(graph: Graph, value: str) -> Linear:
    return linear(graph[value], layouts(graph)[graph[value].inputs[0]])


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(-3, 4, shape)


def products(graph: Graph, value: str, simd: int) -> tuple[np.ndarray, np.ndarray]:
    """What the interpreter says, and the matrix times the windows of the stream: (positions, channels) both."""
    known, node = layouts(graph), graph[value]
    layer, fold = layer_of(graph, value), Fold(1, simd, "serial")
    values = interpret(graph, frames_of(graph, 1), keep=lambda _: True)
    order = layer.needs or known[node.inputs[0]]
    geometry = window_geometry(layer, fold)
    lanes = geometry.words * simd
    elements = order.to_beats(values[node.inputs[0]], Bus(order.channels, 32, signed=True)).reshape(
        *layer.grid, order.channels
    )
    filled = np.pad(elements, [(0, 0)] * len(layer.grid) + [(0, lanes - order.channels)], constant_values=JUNK)
    border = [*zip(layer.before, layer.after, strict=True), (0, 0)]
    stream = np.pad(filled, border, constant_values=layer.code).reshape(-1, simd)
    bases = [
        sum(p * s * w for p, s, w in zip(place, layer.strides, geometry.pitch, strict=True))
        for place in np.ndindex(*layer.out)
    ]
    windows = stream[np.array(bases)[:, None] + np.array(offsets(geometry))].reshape(len(bases), -1)
    out = known[value]
    return out.to_beats(values[value], Bus(out.channels, 64, signed=True)), windows @ constant_matrix(layer, fold).T


def conv(shape: tuple[int, ...], kernel: tuple[int, ...], **window) -> Callable[[Builder], str]:
    return lambda b: b.conv(b.input((1, *shape), -8, 7), weights(*kernel), **window)


LAYERS: dict[str, Callable[[Builder], str]] = {
    "convolution": conv((3, 4, 5), (2, 3, 2, 3)),
    "along one axis": conv((3, 7), (4, 3, 3)),
    "along three": conv((2, 3, 4, 3), (3, 2, 2, 2, 2)),
    "strides": conv((2, 5, 6), (3, 2, 2, 2), strides=(2, 3)),
    "dilations": conv((2, 5, 6), (3, 2, 2, 3), dilations=(2, 1)),
    "border": conv((2, 3, 4), (3, 2, 3, 3), pads=(1, 0, 2, 1), pad_code=-3),
    "groups": conv((6, 3, 4), (4, 3, 2, 2), group=2),
    "depthwise": conv((5, 4, 4), (5, 1, 3, 3), group=5, pads=(1, 1, 1, 1)),
    "several rows of each channel": conv((3, 4), (6, 1, 2), group=3),
    "dense": lambda b: b.dense(b.input((1, 6)), weights(4, 6)),
    "dense over positions": lambda b: b.dense(b.input((1, 3, 5)), weights(4, 5)),
    "dense over an image": lambda b: b.dense(b.reshape(b.input((1, 3, 2, 4)), (1, 24)), weights(5, 24)),
}


@pytest.mark.parametrize("simd", [1, 2, 3, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_matrix_times_windows_is_the_layer(name, simd):
    b = Builder()
    value = LAYERS[name](b)
    graph = b.graph(value)
    wanted, found = products(graph, value, min(simd, layer_of(graph, value).limits("serial")[1]))
    assert np.array_equal(found, wanted)


@given(st.integers(0, 1 << 20), st.integers(1, 6))
@settings(max_examples=60)
def test_matrix_times_windows_is_any_layer(seed, simd):
    graph, value = one_layer(seed)
    wanted, found = products(graph, value, min(simd, layer_of(graph, value).limits("serial")[1]))
    assert np.array_equal(found, wanted)


@given(st.integers(0, 1 << 20), st.integers(1, 6), st.sampled_from(["serial", "parallel"]))
@settings(max_examples=25)
def test_graph_computes_the_matrix(seed, simd, form):
    layer = layer_of(*one_layer(seed))
    fold = Fold(1, min(simd, layer.limits(form)[1]), form)
    assert np.array_equal(adder_graph(layer, fold, (0, 15)).matrix(), constant_matrix(layer, fold))


def test_one_search_serves_all_foldings(monkeypatch):
    made = []
    monkeypatch.setattr(graphs, "search", lambda *a: made.append(a) or search(*a))
    graphs._searched.cache_clear()
    layer = layer_of(*one_layer(3))
    for digit, pe, simd in [(1, 1, 1), (2, 1, 2), (4, layer.MH, 3)]:
        adder_graph(layer, Fold(pe, min(simd, layer.limits("serial")[1]), "serial", digit), (0, 15))
    assert len(made) == 1
    adder_graph(layer, Fold(1, 1, "parallel"), (0, 15))
    assert [objective.cost for _, objective in made] == ["serial", "bits"]


@pytest.mark.parametrize(
    "pads, code, found", [((0, 0), -3, (0, 15)), ((1, 0), -3, (-3, 15)), ((0, 1), 20, (0, 20)), ((1, 1), 4, (0, 15))]
)
def test_bounds_of_a_window_count_its_border(pads, code, found):
    b = Builder()
    value = b.conv(b.input((1, 1, 4)), np.ones((1, 1, 2), int), pads=pads, pad_code=code)
    assert input_bounds(layer_of(b.graph(value), value), IntType((1, 1, 4), 0, 15)) == found


@given(st.integers(0, 1 << 20))
@settings(max_examples=30)
def test_graphs_go_through_json(seed):
    layer = layer_of(*one_layer(seed))
    graph = adder_graph(layer, Fold(1, 1, "serial"), (0, 15))
    assert graph_from_json(json.loads(json.dumps(graph_to_json(graph)))) == graph


def test_every_field_goes_through_json():
    adders = (Adder(0, 1, 3, 0, subtract=True), Adder(2, 0, 0, 2))
    graph = AdderGraph(2, adders, (Output(), Output(3, 1, negative=True), Output(0)))
    assert graph_from_json(json.loads(json.dumps(graph_to_json(graph)))) == graph


# --- guesses -----------------------------------------------------------------------------------------------------------


def dense(weight: np.ndarray) -> Linear:
    b = Builder()
    value = b.dense(b.input((1, weight.shape[1])), weight)
    return layer_of(b.graph(value), value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("most", [1, 7])
def test_guess_is_near_what_the_search_finds(share, most):
    random = np.random.default_rng(0)
    layer = dense(
        random.integers(1, most + 1, (32, 48)) * random.choice([-1, 1], (32, 48)) * (random.random((32, 48)) < share)
    )
    graph = adder_graph(layer, Fold(1, 1, "serial"), (0, 15))
    assert guessed_adders(layer) == pytest.approx(len(graph.adders) + graph.negations, rel=0.25)


@pytest.mark.parametrize("weight", [np.zeros((3, 4), int), np.eye(4, dtype=int)])
def test_nothing_to_add_is_guessed_as_nothing(weight):
    assert guessed_adders(dense(weight)) == 0


def test_digits_are_those_that_are_not_zero():
    assert [dense(np.array([[w]])).digits for w in (0, 1, -2, 3, 5, -8)] == [0, 1, 1, 2, 2, 1]


def test_layers_with_too_many_digits_are_not_searched(monkeypatch):
    layer = dense(np.ones((4, 5), int))
    for most, found in ((20, True), (19, False)):
        monkeypatch.setattr(graphs, "MOST_DIGITS", most)
        assert is_searchable(layer) is found
