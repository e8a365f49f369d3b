"""The IR as text: it parses back, whatever the file's names are; and one network's text, in full, is kept."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, IntType, Origin, Tensor, TensorType
from tcompile.ir.requantizers import Comparators, Division, Shift, Table
from tcompile.ir.text import dump, parse
from tests.models import Net, integers_of

hostile = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ['"', "'", "a\nb", "\r\n", "\u2028", "} : int[1]{0..1} @ {", "x -> y", "\\", "\0", "\x85", "名 🙂"]
    ),
)
origins = st.builds(
    Origin, st.lists(st.tuples(hostile, st.sampled_from(["Conv", 'Re"lu'])), max_size=3).map(tuple), hostile
)
names = st.text(string.ascii_letters, min_size=1, max_size=4)
shapes = st.lists(st.integers(1, 9), max_size=4).map(tuple)
sizes = st.integers(-(1 << 63), 1 << 62)
seeds = st.integers(0, 1 << 30)


def _array(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return np.where(rng.random(shape) < 0.1, np.inf, rng.standard_normal(shape)).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


tensors = st.builds(
    lambda seed, shape, dtype: Tensor.of(_array(seed, shape, dtype)),
    seeds, shapes, st.sampled_from(["float32", "int8", "int64", "bool", "uint8", "float64"]),
)  # fmt: skip
packed = st.builds(
    lambda seed, dtype: Tensor(_array(seed, (3, 2), "uint8"), dtype), seeds, st.sampled_from(["uint2", "uint4"])
)
int_types = st.builds(lambda shape, ends: IntType(shape, *sorted(ends)), shapes, st.tuples(sizes, sizes))
real_types = st.builds(TensorType, st.sampled_from(["float32", "int4", "uint8", "bool", "int64"]), shapes)
pairs = st.tuples(st.integers(0, 5), st.integers(0, 5))
forms = st.sampled_from(
    [
        Comparators(([0, 5], [3]), ([1, 2, 3], [-1, 7])),
        Table([-3, 4], ([1, 2], [5])),
        Shift(np.array([True, False]), 3, [1, -1], "even", [0], [7], [2]),
        Division([False], 1, [7], "odd", [-8], [7], [3], exceptions=([1, 2], []), corrections=([1, -1], [])),
    ]
)

integer_nodes = st.one_of(
    st.builds(lambda w, s, p, d, g, c: (I.Conv, dict(weight=w, strides=s, pads=p * 2, dilations=d, group=g, pad_code=c)),
              tensors, pairs, pairs, pairs, st.integers(1, 9), sizes),
    st.builds(lambda w: (I.Dense, dict(weight=w)), tensors),
    st.builds(lambda f: (I.AddScaled, dict(factors=f)), st.tuples(sizes, sizes)),
    st.builds(lambda f, a: (I.Requantize, dict(form=f, axis=a)), forms, st.integers(0, 3)),
    st.builds(lambda k, p: (I.MaxPool, dict(kernel=k, strides=k, pads=p * 2, dilations=p)), pairs, pairs),
    st.just((I.Reshape, {})), st.just((I.Input, {})),
    st.builds(lambda p, c: (I.Pad, dict(pads=p, code=c)), pairs, sizes),
)  # fmt: skip
real_nodes = st.one_of(
    st.builds(lambda t: (R.Const, dict(value=t)), st.one_of(tensors, packed)),
    st.builds(lambda a, b: (R.Gemm, dict(alpha=a, beta=b)), st.floats(allow_nan=False), st.floats(width=32, allow_nan=False)),
    st.builds(lambda p, v: (R.Pad, dict(pads=p, value=v)), pairs, st.floats(allow_nan=False)),
    st.just((R.Relu, {})), st.builds(lambda a: (R.Gelu, dict(approximate=a)), hostile),
    st.builds(lambda a: (R.QuantizeLinear, dict(axis=a)), st.integers(-4, 4)),
)  # fmt: skip


@st.composite
def graphs(draw, level):
    """Any nodes one after the other; text asks no more of a graph than its names."""
    kinds, types = (integer_nodes, int_types) if level == "integer" else (real_nodes, real_types)
    nodes = []
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        earlier = [n.name for n in nodes]
        inputs = draw(st.lists(st.sampled_from([*earlier, ""]), max_size=3)) if earlier else []
        cls, fields = draw(kinds)
        nodes.append(cls(name=name, inputs=tuple(inputs), type=draw(types), origin=draw(origins), **fields))
    outputs = draw(st.lists(st.sampled_from([n.name for n in nodes]), min_size=1, unique=True))
    return Graph(level, tuple(nodes), tuple(outputs), draw(hostile))


def origins_of(graph):
    return [node.origin for node in graph]


@pytest.mark.parametrize("level", ["real", "integer"])
@given(st.data())
@settings(max_examples=60)
def test_text_parses_back(level, data):
    graph = data.draw(graphs(level))
    found = parse(dump(graph))
    assert found == graph
    assert origins_of(found) == origins_of(graph)
    assert dump(found) == dump(graph)


def small() -> Graph:
    net = Net()
    x = net.dq(net.input((1, 2, 4, 4)), 0.5, 3)
    w = np.array([[[[1, -1]], [[0, 1]]], [[[0, 0]], [[-1, -1]]]])
    y = net.op("Relu", net.op("Conv", x, net.weight(w, 0.25, "int2"), pads=[0, 1, 0, 0]))
    return integers_of(net.model(net.q(y, 0.5, 1, "uint4")))[1].graph


def test_text_of_a_small_network(golden):
    assert dump(small()) == golden("small_network.ir", dump(small()))


def test_text_parses_back_wrong():
    """A changed code is seen by the comparison of graphs."""
    graph = small()
    changed = dump(graph).replace("0..255", "0..254", 1)
    assert parse(changed) != graph


def test_one_line_per_node_whatever_the_names():
    graph = small()
    nodes = tuple(replace(n, origin=Origin((("a\nb\u2028\x85c", "Conv"),), "\r\n")) for n in graph)
    text = dump(replace(graph, nodes=nodes))
    assert len(text.splitlines()) == len(graph.nodes) + 1 and text.isascii()


@pytest.mark.parametrize(
    "text, message",
    [
        ("graph x real -> y\n", "first line"),
        ('graph "n" integer -> y\ny = Nothing() {} : int[1]{0..1} @ {"nodes":[],"tensor":""}\n', "line must be"),
        ('graph "n" integer -> y\ny = Input() {} : int{0..1} @ {"nodes":[],"tensor":""}\n', "type must be"),
        ('graph "n" real -> y\nnonsense\n', "line must be"),
    ],
    ids=["head", "operation", "type", "node"],
)
def test_other_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)
