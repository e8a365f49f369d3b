"""What both levels share: types, names, origins, and graphs that stay consistent."""

from __future__ import annotations

import keyword

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Origin, Tensor, TensorType, identifier


def fits(width: int, signed: bool, n: int) -> bool:
    return -(1 << width - 1) <= n < 1 << width - 1 if signed else 0 <= n < 1 << width


@given(st.integers(-300, 300), st.integers(0, 600))
def test_width_is_the_smallest_that_holds_both_ends(lo, length):
    kind = IntType((1,), lo, lo + length)
    assert kind.signed == (lo < 0)
    assert fits(kind.width, kind.signed, kind.lo) and fits(kind.width, kind.signed, kind.hi)
    narrower = kind.width - 1
    assert narrower == 0 or not (fits(narrower, kind.signed, kind.lo) and fits(narrower, kind.signed, kind.hi))


@pytest.mark.parametrize(
    "lo, hi, width",
    [(0, 0, 1), (0, 1, 1), (0, 15, 4), (0, 16, 5), (-1, 0, 1), (-1, 1, 2), (-128, 127, 8), (-129, 0, 9)],
)
def test_width_of_known_intervals(lo, hi, width):
    assert IntType((), lo, hi).width == width


@pytest.mark.parametrize(
    "dtype, whole", [("int8", True), ("uint4", True), ("int2", True), ("float32", False), ("bool", False)]
)
def test_codes_have_integer_types(dtype, whole):
    assert TensorType(dtype, ()).is_integer is whole


@given(st.lists(st.text(max_size=60), max_size=12))
def test_identifiers_are_plain_and_unique(names):
    taken: set[str] = set()
    made = [identifier(name, taken) for name in names]
    assert len(set(made)) == len(made)
    assert all(m.isidentifier() and m.isascii() and len(m) <= 50 for m in made)
    assert taken == set(made)


@pytest.mark.parametrize(
    "name, plain",
    [
        ("conv1", "conv1"),
        ("/layer1/Conv", "layer1_Conv"),
        ("42", "v42"),
        ("", "v"),
        ("a'b\n", "a_b"),
        ("x" * 99, "x" * 40),
    ],
)
def test_identifier_of_a_hostile_name(name, plain):
    assert identifier(name, set()) == plain
    assert identifier(name, {plain}) == f"{plain}_2"
    assert not keyword.iskeyword(identifier("_" + name, set())) or name in keyword.kwlist


def test_joined_origins_keep_each_node_once_and_the_last_tensor():
    a = Origin((("n1", "Conv"), ("n2", "Relu")), "t1")
    b = Origin((("n2", "Relu"), ("n3", "Add")), "t2")
    assert (a + b).names == ("n1", "n2", "n3")
    assert (a + b).tensor == "t2"
    assert (a + Origin()).tensor == "t1"


def test_tensors_are_equal_by_content_type_and_shape():
    x = Tensor.of(np.arange(4, dtype=np.int8))
    assert x == Tensor.of(np.arange(4, dtype=np.int8)) and hash(x) == hash(Tensor.of(np.arange(4, dtype=np.int8)))
    assert x != Tensor.of(np.arange(4, dtype=np.int8), "int4")
    assert x != Tensor.of(np.arange(4, dtype=np.int8).reshape(2, 2))
    assert x != Tensor.of(np.arange(1, 5, dtype=np.int8))


def test_a_tensor_does_not_change():
    source = np.arange(4)
    x = Tensor.of(source)
    source[0] = 9
    assert x.array[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        x.array[0] = 1


def chain() -> Graph:
    kind = IntType((1, 2), 0, 3)
    nodes = (
        I.Input(name="x", type=kind),
        I.Input(name="unused", type=kind),
        I.AddScaled(name="sum", inputs=("x", "x"), type=IntType((1, 2), 0, 9), factors=(1, 2)),
        I.Reshape(name="dead", inputs=("x",), type=IntType((2,), 0, 3)),
        I.Reshape(name="out", inputs=("sum",), type=IntType((2,), 0, 9)),
    )
    return Graph("integer", nodes, ("out",))


def test_nodes_that_no_output_needs_are_dropped_and_inputs_stay():
    graph = chain()
    assert [n.name for n in graph.with_nodes(graph.nodes)] == ["x", "unused", "sum", "out"]
    assert [n.name for n in graph.with_nodes(graph.nodes, ("sum",))] == ["x", "unused", "sum"]


def test_consumers_are_listed_once_in_order():
    users = {value: [n.name for n in nodes] for value, nodes in chain().consumers.items()}
    assert users == {"x": ["sum", "dead"], "unused": [], "sum": ["out"], "dead": [], "out": []}
