"""The legality tables: legal graphs pass, and every rule is broken once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from tcompile.errors import InternalError
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, IntType, Origin, Tensor, TensorType
from tcompile.ir.integer import OPS
from tcompile.ir.interpret import interpret
from tcompile.ir.legality import COMMON, INTEGER, REAL, check
from tcompile.ir.requantizers import Comparators, Division, Shift, Table
from tests.models import real_graph
from tests.test_lowering_graphs import frames, integers_of, networks

HALF = Shift([False], 1, [1], "even", [-128], [127], [1])


def real(**nodes):
    """A graph of real-level nodes by name; the last one is the output."""
    return Graph("real", tuple(make(name) for name, make in nodes.items()), (list(nodes)[-1],))


def r(cls, shape, *inputs, dtype="float32", **fields):
    return lambda name: cls(name=name, inputs=inputs, type=TensorType(dtype, tuple(shape)), **fields)


def const(array, dtype="float32"):
    array = np.asarray(array)
    return lambda name: R.Const(name=name, value=Tensor(array, dtype), type=TensorType(dtype, array.shape))


def n(cls, shape, lo, hi, *inputs, **fields):
    return lambda name: cls(name=name, inputs=inputs, type=IntType(tuple(shape), lo, hi), **fields)


def integer(lo=0, hi=3, shape=(1, 2, 4, 4), **nodes):
    """An input x in front of integer-level nodes; the last one is the output."""
    x = I.Input(name="x", type=IntType(shape, lo, hi))
    return Graph("integer", (x, *(make(name) for name, make in nodes.items())), (list(nodes)[-1],))


X = {"x": r(R.Input, (1, 2, 4, 4))}
CODES = {"x": r(R.Input, (1, 2, 4, 4), dtype="uint8"), "s": const(np.float32(1))}
WINDOW = {"kernel_shape": (2, 2), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
SQUARE = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
ONES = Tensor.of(np.ones((3, 2, 2, 2), np.int8))
PLANE = (1, 3, 3, 3)

LEGAL = [
    real(**CODES, d=r(R.DequantizeLinear, (1, 2, 4, 4), "x", "s"), q=r(R.QuantizeLinear, (1, 2, 4, 4), "d", "s", dtype="int4")),
    real(**X, w=const(np.ones((3, 2, 2, 2), np.float32)), y=r(R.Conv, PLANE, "x", "w", **WINDOW)),
    real(**X, low=const(np.float32(0)), y=r(R.Clip, (1, 2, 4, 4), "x", "", "low")),
    real(**X, y=r(R.Slice, (1, 2, 2, 4), "x", starts=(0, 0, 3, 0), steps=(1, 1, -2, 1))),
    integer(y=n(I.Conv, PLANE, 0, 24, "x", weight=ONES, **SQUARE)),
    integer(y=n(I.Conv, (1, 3, 4, 4), -40, 24, "x", weight=ONES, strides=(1, 1), pads=(1, 0, 0, 1), dilations=(1, 1), pad_code=-5)),
    integer(y=n(I.Requantize, (1, 2, 4, 4), 0, 2, "x", form=HALF)),
    integer(y=n(I.AddScaled, (1, 2, 4, 4), -6, 9, "x", "x", factors=(3, -2))),
]  # fmt: skip


@pytest.mark.parametrize("graph", LEGAL, ids=lambda g: g.nodes[-1].op)
def test_legal_graphs_pass(graph):
    check(graph)


COMMON_WRONG = {
    "a node of the other level": (Graph("real", integer(y=n(I.Reshape, (1, 32), 0, 3, "x")).nodes, ("y",)), "level"),
    "no operation": (Graph("real", (R.Elementwise(name="y", type=TensorType("float32", (1,))),), ("y",)), "level"),
    "a name that is no identifier": (real(**{"a b": r(R.Input, (1,))}), "identifier"),
    "a name twice": (replace(LEGAL[4], nodes=LEGAL[4].nodes[:1] + LEGAL[4].nodes), "no other node"),
    "a use before its definition": (replace(LEGAL[4], nodes=LEGAL[4].nodes[::-1]), "defined before"),
    "an unknown output": (replace(LEGAL[4], outputs=("z",)), "Outputs"),
    "no output": (replace(LEGAL[4], outputs=()), "Outputs"),
    "an output twice": (replace(LEGAL[4], outputs=("y", "y")), "Outputs"),
    "an empty dimension": (real(x=r(R.Input, (1, 0))), "positive dimensions"),
}

REAL_WRONG = {
    "too many inputs": (real(**X, y=r(R.Relu, (1, 2, 4, 4), "x", "x")), "as many inputs"),
    "a missing input": (real(**X, y=r(R.Add, (1, 2, 4, 4), "x", "")), "as many inputs"),
    "a constant of another type": (real(c=lambda m: R.Const(name=m, value=Tensor.of([1]), type=TensorType("int8", (1,)))), "type of its value"),
    "quantizes integers": (real(**CODES, y=r(R.QuantizeLinear, (1, 2, 4, 4), "x", "s", dtype="int8")), "turn floats"),
    "quantizes to floats": (real(**X, s=const(np.float32(1)), y=r(R.QuantizeLinear, (1, 2, 4, 4), "x", "s")), "make integer codes"),
    "dequantizes floats": (real(**X, s=const(np.float32(1)), y=r(R.DequantizeLinear, (1, 2, 4, 4), "x", "s")), "turn integer codes"),
    "dequantizes to integers": (real(**CODES, y=r(R.DequantizeLinear, (1, 2, 4, 4), "x", "s", dtype="int8")), "make floats"),
    "a zero point of another type": (real(**CODES, z=const(np.int8(0), "int8"), y=r(R.DequantizeLinear, (1, 2, 4, 4), "x", "s", "z")), "zero point"),
    "a scale for other channels": (real(**CODES, t=const(np.ones(3, np.float32)), y=r(R.DequantizeLinear, (1, 2, 4, 4), "x", "t")), "scale"),
    "weights of another float": (real(**X, w=const(np.ones((3, 2, 2, 2)), "float64"), y=r(R.Conv, PLANE, "x", "w", **WINDOW)), "one float type"),
    "a matrix product of codes": (real(x=r(R.Input, (1, 2), dtype="int8"), y=r(R.MatMul, (1, 1), "x", "x", dtype="int8")), "have floats"),
    "a Relu that converts": (real(**X, y=r(R.Relu, (1, 2, 4, 4), "x", dtype="int8")), "one type"),
    "a sum that converts": (real(**X, y=r(R.Add, (1, 2, 4, 4), "x", "x", dtype="int8")), "one type"),
    "a comparison that is a float": (real(**X, y=r(R.Less, (1, 2, 4, 4), "x", "x")), "truth values"),
    "a choice by floats": (real(**X, y=r(R.Where, (1, 2, 4, 4), "x", "x", "x")), "choose by truth"),
    "an index that is a float": (real(**X, y=r(R.ArgMax, (1, 1, 4, 4), "x", axis=1)), "int64"),
    "too few strides": (real(**X, y=r(R.MaxPool, PLANE, "x", **{**WINDOW, "strides": (1,)})), "per spatial axis"),
    "weights for other channels": (real(**X, w=const(np.ones((3, 1, 2, 2), np.float32)), y=r(R.Conv, PLANE, "x", "w", **WINDOW)), "C/group"),
    "a reshape that loses elements": (real(**X, y=r(R.Reshape, (1, 31), "x")), "number of elements"),
    "an axis twice": (real(**X, y=r(R.Transpose, (1, 2, 4, 4), "x", perm=(0, 1, 2, 2))), "permute"),
    "a slice beyond the end": (real(**X, y=r(R.Slice, (1, 2, 2, 4), "x", starts=(0, 0, 3, 0), steps=(1,) * 4)), "inside"),
    "a border that is not counted": (real(**X, y=r(R.Pad, (1, 2, 4, 4), "x", pads=(0, 0, 1, 0, 0, 0, 0, 0))), "border"),
    "a join along another axis": (real(**X, y=r(R.Concat, (1, 4, 4, 4), "x", "x", axis=2)), "as long as"),
}  # fmt: skip

INTEGER_WRONG = {
    "a third summand": (integer(y=n(I.AddScaled, (1, 2, 4, 4), 0, 9, "x", "x", "x", factors=(1, 1))), "as many inputs"),
    "an interval of 65 bits": (integer(y=n(I.Reshape, (1, 32), 0, 1 << 64, "x")), "64 bits"),
    "an empty interval": (integer(y=n(I.Reshape, (1, 32), 3, 0, "x")), "64 bits"),
    "weights of 10 bits": (integer(shape=(1, 1), y=n(I.Dense, (1, 1), 0, 999, "x", weight=Tensor.of([[256]]))), "9 bits"),
    "weights that are floats": (integer(shape=(1, 1), y=n(I.Dense, (1, 1), 0, 9, "x", weight=Tensor.of([[1.0]]))), "integer weights"),
    "a group that does not divide": (integer(y=n(I.Conv, PLANE, 0, 24, "x", weight=ONES, group=2, **SQUARE)), "C/group"),
    "a matrix of another length": (integer(shape=(1, 3), y=n(I.Dense, (1, 1), 0, 9, "x", weight=Tensor.of([[1, 1]]))), "last axis"),
    "a plane that is too small": (integer(y=n(I.Conv, (1, 3, 3, 2), 0, 24, "x", weight=ONES, **SQUARE)), "window gives"),
    "a window of padding only": (integer(y=n(I.MaxPool, (1, 2, 8, 3), 0, 3, "x", kernel=(1, 2), strides=(1, 1), pads=(4, 0, 0, 0), dilations=(1, 1))), "at least one element"),
    "a factor that is no integer": (integer(y=n(I.AddScaled, (1, 2, 4, 4), 0, 9, "x", "x", factors=(1, 0.5))), "integer factors"),
    "summands of other shapes": (integer(y=n(I.AddScaled, (1, 2, 16), 0, 9, "x", "x", factors=(1, 1))), "own shape"),
    "parameters for other channels": (integer(y=n(I.Requantize, (1, 2, 4, 4), 0, 9, "x", form=Table([0] * 3, ([0, 1, 2, 3],) * 3))), "parameters"),
    "a join along another axis": (integer(y=n(I.Concat, (1, 4, 4, 4), 0, 3, "x", "x", axis=2)), "as long as"),
    "a slice beyond the end": (integer(y=n(I.Slice, (1, 2, 2, 4), 0, 3, "x", starts=(0, 0, 3, 0), steps=(1,) * 4)), "inside"),
    "a border that is not counted": (integer(y=n(I.Pad, (1, 2, 4, 4), 0, 3, "x", pads=(0, 0, 1, 0, 0, 0, 0, 0), code=0)), "border"),
    "a reshape that loses elements": (integer(y=n(I.Reshape, (1, 31), 0, 3, "x")), "number of elements"),
    "an axis twice": (integer(y=n(I.Transpose, (1, 2, 4, 4), 0, 3, "x", perm=(0, 1, 2, 2))), "permute"),
    "an index of every element": (integer(y=n(I.ArgMax, (1, 2, 4, 4), 0, 1, "x", axis=1)), "reduce"),
}  # fmt: skip

VALLEY = Comparators(([1, 2],), ([5, -3, 6],))  # its ends say nothing about the middle
PATCHED = Division([False], 1, [0], "up", [0], [9], [1], exceptions=([2],), corrections=([50],))
INTERVAL_WRONG = {
    "a sum beyond it": (integer(y=n(I.Conv, PLANE, 0, 23, "x", weight=ONES, **SQUARE)), r"\[0, 24\]"),
    "a sum below it": (integer(shape=(1, 2), y=n(I.Dense, (1, 1), -2, 3, "x", weight=Tensor.of([[1, -1]]))), r"\[-3, 3\]"),
    "padding beyond it": (integer(y=n(I.Conv, (1, 3, 5, 3), 0, 24, "x", weight=ONES, strides=(1, 1), pads=(1, 0, 1, 0), dilations=(1, 1), pad_code=4)), r"\[0, 32\]"),
    "a pool beyond it": (integer(y=n(I.SumPool, (1, 2, 3, 3), 0, 11, "x", kernel=(2, 2), **SQUARE)), r"\[0, 12\]"),
    "a maximum beyond it": (integer(y=n(I.MaxPool, (1, 2, 3, 3), 0, 2, "x", kernel=(2, 2), **SQUARE)), r"\[0, 3\]"),
    "a difference beyond it": (integer(y=n(I.AddScaled, (1, 2, 4, 4), -5, 9, "x", "x", factors=(3, -2))), r"\[-6, 9\]"),
    "a border beyond it": (integer(y=n(I.Pad, (1, 3, 4, 4), 0, 3, "x", pads=(0, 1, *(0,) * 6), code=-1)), r"\[-1, 3\]"),
    "an index beyond it": (integer(y=n(I.ArgMax, (1, 4, 4), 0, 0, "x", axis=1)), r"\[0, 1\]"),
    "a code beyond it": (integer(y=n(I.Requantize, (1, 2, 4, 4), 0, 1, "x", form=HALF)), r"\[0, 2\]"),
    "a code between the ends": (integer(y=n(I.Requantize, (1, 2, 4, 4), 5, 6, "x", form=VALLEY)), r"\[-3, 6\]"),
    "a corrected code": (integer(y=n(I.Requantize, (1, 2, 4, 4), 0, 9, "x", form=PATCHED)), r"\[0, 52\]"),
    "a table that is too short": (integer(y=n(I.Requantize, (1, 2, 4, 4), 0, 9, "x", form=Table([0], ([0, 1, 2],)))), "table for"),
    "a sum of 65 bits": (integer(hi=1 << 62, shape=(1, 4), y=n(I.Dense, (1, 1), 0, 9, "x", weight=Tensor.of([[1] * 4]))), "64 bits"),
    "a numerator of 65 bits": (integer(hi=1 << 61, y=n(I.Requantize, (1, 2, 4, 4), 0, 9, "x", form=Shift([False], 1 << 9, [0], "up", [0], [9], [3]))), "numerator"),
}  # fmt: skip

WRONG = {**COMMON_WRONG, **{f"real: {k}": v for k, v in REAL_WRONG.items()}}
WRONG |= {f"integer: {k}": v for k, v in INTEGER_WRONG.items()} | {
    f"interval: {k}": v for k, v in INTERVAL_WRONG.items()
}


@pytest.mark.parametrize("case", WRONG)
def test_an_illegal_graph_is_refused(case):
    graph, message = WRONG[case]
    with pytest.raises(InternalError, match=message):
        check(graph)


@pytest.mark.parametrize("table, cases", [(COMMON, COMMON_WRONG), (REAL, REAL_WRONG), (INTEGER, INTEGER_WRONG)])
def test_every_rule_has_a_graph_that_breaks_it(table, cases):
    problems = []
    for graph, _ in cases.values():
        with pytest.raises(InternalError) as caught:
            check(graph)
        problems += [p.message for p in caught.value.problems]
    for rule in table:
        assert any(message.endswith(f"must {rule.text}") for message in problems), rule.text


def test_every_broken_node_is_named_with_its_origin():
    origin = Origin((("conv_7", "Conv"),))
    nodes = tuple(
        replace(node, name=f"y{k}", origin=origin)
        for k, node in enumerate([INTEGER_WRONG["an axis twice"][0].nodes[1]] * 2)
    )
    graph = Graph("integer", (I.Input(name="x", type=IntType((1, 2, 4, 4), 0, 3)), *nodes), ("y0", "y1"))
    with pytest.raises(InternalError) as caught:
        check(graph)
    assert [p.where for p in caught.value.problems] == [("y0", "conv_7"), ("y1", "conv_7")]


def test_an_interval_may_be_wider_than_needed():
    check(integer(y=n(I.Conv, PLANE, -1, 99, "x", weight=ONES, **SQUARE)))


def test_channels_have_intervals_of_their_own():
    """The first table covers the first channel's sums only; no other value reaches it."""
    weight = Tensor.of([[1, 0], [0, 9]])
    form = Table([0, 0], (list(range(4)), [1] * 28))
    dense = n(I.Dense, (1, 2), 0, 27, "x", weight=weight)
    check(integer(shape=(1, 2), d=dense, y=n(I.Requantize, (1, 2), 0, 3, "d", form=form)))


@given(networks())
@settings(max_examples=15)
def test_lowered_networks_are_legal_and_their_values_stay_in_their_intervals(model):
    real_graph(model)
    graph, lowered = integers_of(model)
    feeds = frames(model)
    found = interpret(
        lowered.graph,
        {name: feeds[graph[value].origin.tensor] for name, value in lowered.inputs.items()},
        keep=lambda node: True,
    )
    for node in lowered.graph:
        assert node.type.lo <= found[node.name].min() and found[node.name].max() <= node.type.hi


def test_only_operations_with_constant_weights_multiply():
    """The guarantee in the table's words: no operation has two inputs but those that add or join."""
    several = {name for name in OPS if name in ("AddScaled", "Concat")}
    for name, cls in OPS.items():
        if name not in several | {"Input"}:
            node = object.__new__(cls)
            for key, value in {
                "name": "y",
                "inputs": ("x", "x"),
                "type": IntType((1, 2, 4, 4), 0, 9),
                "origin": Origin(),
            }.items():
                object.__setattr__(node, key, value)
            with pytest.raises(InternalError, match="as many inputs"):
                check(integer(y=lambda m, node=node: node))
