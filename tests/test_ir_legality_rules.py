"""The legality tables at their edges: the last legal value passes, the next one is refused."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace

import numpy as np
import onnx
import pytest

from tcompile.errors import InternalError
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, IntType, Tensor, TensorType
from tcompile.ir.legality import INTEGER, REAL, check
from tcompile.ir.requantizers import Comparators, Division, Shift, Table

SHAPE = (1, 2, 4, 4)
MANY = 9  # inputs; stands for any number

REAL_INPUTS = dict.fromkeys(R.OPS, (1, 1)) | {
    "Input": (0, 0), "Const": (0, 0), "Conv": (2, 3), "Gemm": (2, 3), "MatMul": (2, 2), "Concat": (1, MANY),
    "BatchNormalization": (5, 5), "QuantizeLinear": (2, 3), "DequantizeLinear": (2, 3), "Clip": (1, 3),
    "Add": (2, 2), "Sub": (2, 2), "Mul": (2, 2), "Div": (2, 2), "Pow": (2, 2), "Max": (1, MANY), "Min": (1, MANY),
    "PRelu": (2, 2), "Greater": (2, 2), "GreaterOrEqual": (2, 2), "Less": (2, 2), "LessOrEqual": (2, 2),
    "Equal": (2, 2), "And": (2, 2), "Or": (2, 2), "Where": (3, 3),
}  # fmt: skip
INTEGER_INPUTS = dict.fromkeys(I.OPS, (1, 1)) | {"Input": (0, 0), "Concat": (1, MANY), "AddScaled": (2, 2)}


def refused(graph, message):
    with pytest.raises(InternalError) as caught:
        check(graph)
    assert [message in p.message for p in caught.value.problems] == [True], str(caught.value)


def of_kind(cls, *inputs):
    """A node whose fields without default are empty, after an input x of its level."""
    kind = TensorType("float32", SHAPE) if cls.level == "real" else IntType(SHAPE, 0, 3)
    known = {"name", "inputs", "type", "origin"}
    empty = {f.name: () for f in fields(cls) if f.name not in known and f.default is MISSING}
    x = (R if cls.level == "real" else I).Input(name="x", type=kind)
    node = cls(name="y", inputs=inputs, type=kind, **empty)
    return Graph(cls.level, (x, node), ("y",)), node


def by_level(test):
    cases = [(R.OPS[op], REAL[0], *ends) for op, ends in REAL_INPUTS.items()]
    cases += [(I.OPS[op], INTEGER[0], *ends) for op, ends in INTEGER_INPUTS.items()]
    ids = [f"{cls.level}-{cls.__name__}" for cls, *_ in cases]
    return pytest.mark.parametrize("cls, rule, low, high", cases, ids=ids)(test)


@by_level
def test_an_operation_takes_its_fewest_and_its_most_inputs(cls, rule, low, high):
    for count in {low, high}:
        graph, node = of_kind(cls, *["x"] * count)
        assert rule.holds(graph, node)


@by_level
def test_an_input_too_few_or_too_many_is_refused(cls, rule, low, high):
    for count in {low - 1, high + 1} - {-1, MANY + 1}:
        refused(of_kind(cls, *["x"] * count)[0], rule.text)


@by_level
def test_each_required_input_must_be_named(cls, rule, low, high):
    for left_out in range(low):
        refused(of_kind(cls, *("" if k == left_out else "x" for k in range(low)))[0], rule.text)


@pytest.mark.parametrize("op", ["Conv", "Gemm", "QuantizeLinear", "DequantizeLinear", "Clip"])
def test_optional_inputs_may_be_left_out(op):
    low, high = REAL_INPUTS[op]
    graph, node = of_kind(R.OPS[op], *["x"] * low, *[""] * (high - low))
    assert REAL[0].holds(graph, node)


@pytest.mark.parametrize("op", [op for op in R.OPS if onnx.defs.has(op)])
def test_field_defaults_are_those_of_onnx(op):
    attributes = onnx.defs.get_schema(op).attributes
    for item in fields(R.OPS[op]):
        attribute = attributes.get(item.name)
        if item.default is MISSING or attribute is None or not attribute.default_value.name:
            continue
        expected = onnx.helper.get_attribute_value(attribute.default_value)
        expected = expected.decode() if isinstance(expected, bytes) else expected
        if isinstance(expected, float):
            assert np.float32(item.default) == np.float32(expected), item.name
        else:
            assert item.default == expected, item.name


DEFAULTS = {
    R.Conv: {"group": 1},
    R.Pad: {"value": 0.0},
    R.TopIndex: {"axis": -1, "largest": 1},
    R.Softmax: {"axis": -1},
    R.QuantizeLinear: {"axis": 1},
    R.ReduceSum: {"keepdims": 1},
    I.Conv: {"group": 1, "pad_code": 0},
    I.SumPool: {"pad_code": 0},
    I.Requantize: {"axis": 1},
}


@pytest.mark.parametrize("cls", DEFAULTS, ids=lambda c: f"{c.level}-{c.__name__}")
def test_defaults_that_the_schema_does_not_tell(cls):
    found = {f.name: f.default for f in fields(cls)}
    assert {name: found[name] for name in DEFAULTS[cls]} == DEFAULTS[cls]


# Windows at the real level


def pooled(shape=(1, 2, 3, 3), x=SHAPE, **changed):
    window = {"kernel_shape": (1, 1), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)} | changed
    source = R.Input(name="x", type=TensorType("float32", x))
    node = R.MaxPool(name="y", inputs=("x",), type=TensorType("float32", shape), **window)
    return Graph("real", (source, node), ("y",))


def test_the_smallest_window_is_legal():
    check(pooled())
    check(pooled(x=(1, 2), shape=(1, 2), kernel_shape=(), strides=(), pads=(), dilations=()))


@pytest.mark.parametrize("name", ["kernel_shape", "strides", "dilations", "pads"])
@pytest.mark.parametrize("wrong", ["short", "long", "small first", "small last"])
def test_each_field_of_a_real_window_is_looked_at(name, wrong):
    least, length = (0, 4) if name == "pads" else (1, 2)
    value = {
        "short": (least,) * (length - 1),
        "long": (least,) * (length + 1),
        "small first": (least - 1,) + (least,) * (length - 1),
        "small last": (least,) * (length - 1) + (least - 1,),
    }[wrong]
    refused(pooled(**{name: value}), "have one positive window entry per spatial axis")


def real_conv(weight=(4, 1, 2, 2), out=4, group=2, kernel=(2, 2)):
    x = R.Input(name="x", type=TensorType("float32", SHAPE))
    w = R.Const(name="w", value=Tensor.of(np.ones(weight, np.float32)), type=TensorType("float32", weight))
    window = {"kernel_shape": kernel, "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    node = R.Conv(name="y", inputs=("x", "w"), type=TensorType("float32", (1, out, 3, 3)), group=group, **window)
    return Graph("real", (x, w, node), ("y",))


REAL_CONVS = {
    "weights of three axes": {"weight": (4, 1, 2)},
    "no group": {"group": 0},
    "a negative group": {"group": -2},
    "one group": {"group": 1},
    "rows that do not divide": {"weight": (3, 1, 2, 2), "out": 3},
    "another number of channels": {"out": 3},
    "another kernel": {"kernel": (2, 1)},
}


def test_a_grouped_convolution_is_legal():
    check(real_conv())


@pytest.mark.parametrize("changed", REAL_CONVS.values(), ids=list(REAL_CONVS))
def test_each_size_of_real_weights_is_looked_at(changed):
    refused(real_conv(**changed), "have weights (M, C/group, *kernel)")


# Windows and shapes at the integer level


def integer(cls, shape, lo, hi, *, x=(SHAPE, 0, 3), count=1, **given):
    source = I.Input(name="x", type=IntType(*x))
    node = cls(name="y", inputs=("x",) * count, type=IntType(shape, lo, hi), **given)
    return Graph("integer", (source, node), ("y",))


def changed_type(graph, **changes):
    """The graph with another type of its last node."""
    *before, node = graph.nodes
    return replace(graph, nodes=(*before, replace(node, type=replace(node.type, **changes))))


PLAIN = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
WINDOWED = {
    "Conv": lambda shape=(1, 3, 3, 3), x=SHAPE, **g: integer(
        I.Conv, shape, 0, 24, x=(x, 0, 3), **{"weight": Tensor.of(np.ones((3, 2, 2, 2), np.int8)), **PLAIN, **g}
    ),
    "SumPool": lambda shape=(1, 2, 3, 3), x=SHAPE, **g: integer(
        I.SumPool, shape, 0, 12, x=(x, 0, 3), **{"kernel": (2, 2), **PLAIN, **g}
    ),
    "MaxPool": lambda shape=(1, 2, 3, 3), x=SHAPE, **g: integer(
        I.MaxPool, shape, 0, 3, x=(x, 0, 3), **{"kernel": (2, 2), **PLAIN, **g}
    ),
}
BAD_WINDOWS = {
    "two frames": {"x": (2, 2, 4, 4)},
    "a stride too many": {"strides": (1, 1, 1)},
    "a stride too few": {"strides": (1,)},
    "a dilation too many": {"dilations": (1, 1, 1)},
    "a dilation too few": {"dilations": (1,)},
    "a pad too many": {"pads": (0,) * 5},
    "a pad too few": {"pads": (0,) * 3},
    "no stride": {"strides": (0, 1)},
    "a negative stride": {"strides": (1, -1)},
    "no dilation": {"dilations": (0, 1)},
    "a negative pad": {"pads": (1, 0, -1, 0)},
}


@pytest.mark.parametrize("op", WINDOWED)
def test_a_plain_window_is_legal(op):
    check(WINDOWED[op]())


@pytest.mark.parametrize("op", WINDOWED)
@pytest.mark.parametrize("changed", BAD_WINDOWS.values(), ids=list(BAD_WINDOWS))
def test_each_field_of_an_integer_window_is_looked_at(op, changed):
    refused(WINDOWED[op](**changed), "have the shape that its window gives")


@pytest.mark.parametrize("op", ["SumPool", "MaxPool"])
@pytest.mark.parametrize("kernel", [(2,), (2, 2, 1), (0, 2), (2, 0)])
def test_a_pool_has_a_positive_kernel_entry_per_axis(op, kernel):
    refused(WINDOWED[op](kernel=kernel), "have the shape that its window gives")


@pytest.mark.parametrize("op, channels", [("Conv", 3), ("SumPool", 2), ("MaxPool", 2)])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("step", [-1, 1])
def test_each_size_that_a_window_gives_is_exact(op, channels, axis, step):
    """Input 4 x 4, pads 1 before and 0 after, kernel 2 two apart along the first axis, stride 2 along the second."""
    given = {"pads": (1, 1, 0, 0), "dilations": (2, 1), "strides": (1, 2)}
    shape = (1, channels, (4 + 1 - 3) // 1 + 1, (4 + 1 - 2) // 2 + 1)
    check(WINDOWED[op](shape=shape, **given))
    wrong = tuple(n + step * (k == axis) for k, n in enumerate(shape))
    text = "positive dimensions" if 0 in wrong else "have the shape that its window gives"
    refused(WINDOWED[op](shape=wrong, **given), text)


def test_padding_that_reaches_as_far_as_the_window_leaves_one_element_out_of_sight():
    pool = {"kernel": (2, 1), "dilations": (2, 1), "strides": (1, 1)}
    check(integer(I.MaxPool, (1, 2, 6, 4), 0, 3, pads=(2, 0, 2, 0), **pool))
    for pads in ((3, 0, 1, 0), (1, 0, 3, 0)):
        refused(integer(I.MaxPool, (1, 2, 6, 4), 0, 3, pads=pads, **pool), "see at least one element")


@pytest.mark.parametrize("rows, share, group, legal", [
    (4, 1, 2, True), (2, 2, 1, True), (3, 1, 2, False), (4, 2, 2, False), (4, 1, 1, False), (2, 2, 0, False),
    (2, 2, -1, False),
])  # fmt: skip
def test_groups_divide_rows_and_channels(rows, share, group, legal):
    weight = Tensor.of(np.ones((rows, share, 2, 2), np.int8))
    graph = integer(I.Conv, (1, rows, 3, 3), 0, 99, weight=weight, group=group, **PLAIN)
    if legal:
        check(graph)
    else:
        refused(graph, "have weights (M, C/group, *kernel)")


@pytest.mark.parametrize("weight", [-256, 255])
def test_weights_of_9_bits_are_legal(weight):
    check(integer(I.Dense, (1, 1), -999, 999, x=((1, 1), 0, 3), weight=Tensor.of([[weight]])))


@pytest.mark.parametrize("weight", [-257, 256])
def test_weights_of_10_bits_are_refused(weight):
    refused(integer(I.Dense, (1, 1), -999, 999, x=((1, 1), 0, 3), weight=Tensor.of([[weight]])), "9 bits")


@pytest.mark.parametrize("lo, hi, legal", [
    (0, (1 << 64) - 1, True), (0, 1 << 64, False), (-(1 << 63), (1 << 63) - 1, True), (-(1 << 63) - 1, 3, False),
    (-1, 1 << 63, False), (0, 3, True),
])  # fmt: skip
def test_an_interval_has_at_most_64_bits(lo, hi, legal):
    rule = INTEGER[1]
    graph = integer(I.Reshape, (1, 32), lo, hi)
    assert rule.holds(graph, graph["y"]) == legal


def test_an_interval_of_one_value_is_legal():
    check(integer(I.Reshape, (1, 32), 0, 0, x=(SHAPE, 0, 0)))


@pytest.mark.parametrize("axis, channels, legal", [
    (0, 1, True), (1, 2, True), (3, 4, True), (1, 1, True), (-1, 4, False), (4, 1, False), (1, 3, False), (3, 2, False),
])  # fmt: skip
def test_a_requantizer_lies_along_an_axis_of_its_input(axis, channels, legal):
    form = Comparators(([1],) * channels, ([0, 1],) * channels)
    graph = integer(I.Requantize, SHAPE, 0, 1, form=form, axis=axis)
    if legal:
        check(graph)
    else:
        refused(graph, "parameters for each of its channels or for all")


@pytest.mark.parametrize("axis, shape, legal", [
    (0, SHAPE[1:], True), (0, SHAPE, True), (3, SHAPE[:3], True), (3, (1, 2, 4, 1), True), (-1, SHAPE[:3], False),
    (4, SHAPE, False), (3, SHAPE, False), (1, (1, 4), False), (-1, (1, 2, 4, 1, 2, 4, 4), False),
])  # fmt: skip
def test_an_argmax_drops_its_axis_or_leaves_one_element(axis, shape, legal):
    graph = integer(I.ArgMax, shape, 0, 3, axis=axis)
    if legal:
        check(graph)
    else:
        refused(graph, "reduce its axis")


@pytest.mark.parametrize("axis, shape, legal", [
    (0, (2, 2, 4, 4), True), (3, (1, 2, 4, 8), True), (-1, (1, 2, 4, 8), True), (-4, (2, 2, 4, 4), True),
    (4, (2, 2, 4, 4), False), (-5, (1, 2, 4, 8), False), (1, (1, 5, 4, 4), False), (1, (1, 3, 4, 4), False),
])  # fmt: skip
def test_a_join_is_as_long_as_its_inputs(axis, shape, legal):
    graph = integer(I.Concat, shape, 0, 3, count=2, axis=axis)
    if legal:
        check(graph)
    else:
        refused(graph, "be as long as its inputs together")


@pytest.mark.parametrize("start, step, count, legal", [
    (0, 1, 4, True), (3, -1, 4, True), (3, 1, 1, True), (1, 2, 2, True), (0, 1, 5, False), (3, -1, 5, False),
    (4, 1, 1, False), (-1, 1, 2, False), (2, 2, 2, False), (0, 0, 4, False),
])  # fmt: skip
def test_a_slice_ends_at_the_ends_of_its_input(start, step, count, legal):
    graph = integer(I.Slice, (1, 2, 4, count), 0, 3, starts=(0, 0, 0, start), steps=(1, 1, 1, step))
    if legal:
        check(graph)
    else:
        refused(graph, "stay inside its input")


@pytest.mark.parametrize("pads, shape, legal", [
    ((0, 0, 0, 1, 0, 0, 0, 2), (1, 2, 4, 7), True), ((1, *(0,) * 7), (2, 2, 4, 4), True),
    ((0,) * 8, SHAPE, True), ((0,) * 7, SHAPE, False), ((0,) * 9, SHAPE, False),
    ((0, 0, 0, -1, 0, 0, 0, 0), (1, 2, 4, 3), False), ((0, 0, 0, 1, 0, 0, 0, 2), (1, 2, 4, 6), False),
])  # fmt: skip
def test_a_border_is_counted(pads, shape, legal):
    graph = integer(I.Pad, shape, 0, 3, pads=pads, code=0)
    if legal:
        check(graph)
    else:
        refused(graph, "as large as its input and its border")


# Intervals

VECTOR = ((1, 2), -3, 5)
PADDED = {"strides": (1, 1), "pads": (1, 0, 0, 0), "dilations": (1, 1)}
SIGNED = (SHAPE, -2, 3)
WEIGHT = Tensor.of(np.array([[[[1, -2], [0, 3]]], [[[-1, 0], [0, 0]]]]))
PATCHED = {"exceptions": ([0, 2],), "corrections": ([-9, 7],)}
EXACT = {
    "Reshape": integer(I.Reshape, (1, 32), -2, 3, x=SIGNED),
    "Transpose": integer(I.Transpose, (4, 4, 2, 1), -2, 3, x=SIGNED, perm=(3, 2, 1, 0)),
    "Slice": integer(I.Slice, (1, 1, 4, 4), -2, 3, x=SIGNED, starts=(0, 1, 0, 0), steps=(1,) * 4),
    "Concat": integer(I.Concat, (1, 4, 4, 4), -2, 3, x=SIGNED, count=2, axis=1),
    "Pad inside": integer(I.Pad, (1, 3, 4, 4), -2, 3, x=SIGNED, pads=(0, 1, *(0,) * 6), code=1),
    "Pad below": integer(I.Pad, (1, 3, 4, 4), -7, 3, x=SIGNED, pads=(0, 1, *(0,) * 6), code=-7),
    "Pad above": integer(I.Pad, (1, 3, 4, 4), -2, 8, x=SIGNED, pads=(0, 1, *(0,) * 6), code=8),
    "Conv": integer(I.Conv, (1, 2, 3, 3), -3 - 11, 16, x=SIGNED, weight=WEIGHT, group=2, **PLAIN),
    "Conv padded": integer(I.Conv, (1, 2, 4, 3), -8 - 10, 5 * 4 + 4, x=SIGNED, weight=WEIGHT, group=2, pad_code=5, **PADDED),
    "Dense": integer(I.Dense, (1, 2), -3 * 3 - 2 * 5, 3 * 5 + 2 * 3, x=VECTOR, weight=Tensor.of([[3, -2], [1, 1]])),
    "SumPool": integer(I.SumPool, (1, 2, 3, 3), -8, 12, x=SIGNED, kernel=(2, 2), **PLAIN),
    "SumPool padded below": integer(I.SumPool, (1, 2, 4, 3), -28, 12, x=SIGNED, kernel=(2, 2), pad_code=-7, **PADDED),
    "SumPool padded above": integer(I.SumPool, (1, 2, 4, 3), -8, 36, x=SIGNED, kernel=(2, 2), pad_code=9, **PADDED),
    "MaxPool padded": integer(I.MaxPool, (1, 2, 4, 3), -2, 3, x=SIGNED, kernel=(2, 2), **PADDED),
    "AddScaled": integer(I.AddScaled, SHAPE, -2 * 3 - 3 * 4, 3 * 3 + 2 * 4, x=SIGNED, count=2, factors=(3, -4)),
    "AddScaled by 0": integer(I.AddScaled, SHAPE, -2, 3, x=SIGNED, count=2, factors=(1, 0)),
    "ArgMax": integer(I.ArgMax, (1, 2, 4), 0, 3, x=SIGNED, axis=2),
    "Comparators": integer(I.Requantize, SHAPE, -6, 9, x=SIGNED, form=Comparators(([-2, 0, 3, 4],), ([-99, 1, -6, 9, 99],))),
    "Table": integer(I.Requantize, SHAPE, -6, 9, x=SIGNED, form=Table([-3], ([99, 9, 1, 0, -6, 2, 3, 99],))),
    "Table that just fits": integer(I.Requantize, SHAPE, 0, 5, x=SIGNED, form=Table([-2], ([0, 1, 2, 3, 4, 5],))),
    "Division": integer(I.Requantize, SHAPE, -2, 1, x=SIGNED, form=Division([True], 2, [1], "up", [-9], [9], [3])),
    "Division patched": integer(I.Requantize, SHAPE, -9, 9, x=SIGNED, form=Division([False], 1, [0], "up", [-9], [9], [1], **PATCHED)),
    "Shift": integer(I.Requantize, SHAPE, -1, 2, x=SIGNED, form=Shift([False], 1, [1], "up", [-9], [9], [1])),
    "Shift clipped": integer(I.Requantize, SHAPE, 0, 1, x=SIGNED, form=Shift([False], 1, [1], "up", [0], [1], [1])),
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT)
def test_the_exact_interval_is_legal(case):
    check(EXACT[case])


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("end", ["lo", "hi"])
def test_an_interval_one_short_at_an_end_is_refused(case, end):
    kind = EXACT[case]["y"].type
    short = {"lo": kind.lo + 1} if end == "lo" else {"hi": kind.hi - 1}
    refused(
        changed_type(EXACT[case], **short),
        f"declare the interval of its values, [{kind.lo}, {kind.hi}]",
    )


def bounded(cls, bound, scale, shape, **given):
    """The same operation where the largest magnitude is the last within 64 bits, and the first beyond."""
    last = ((1 << 63) - 1) // scale
    return [integer(cls, shape, -(1 << 63), (1 << 63) - 1, x=(bound, 0, last + k), **given) for k in (0, 1)]


SUMS = {
    "Dense": bounded(I.Dense, (1, 2), 4, (1, 1), weight=Tensor.of([[3, 1]])),
    "SumPool": bounded(I.SumPool, SHAPE, 4, (1, 2, 3, 3), kernel=(2, 2), **PLAIN),
    "AddScaled": bounded(I.AddScaled, SHAPE, 4, SHAPE, count=2, factors=(3, 1)),
}


@pytest.mark.parametrize("case", SUMS)
def test_sums_stay_within_64_bits(case):
    within, beyond = SUMS[case]
    check(within)
    refused(beyond, "stay within 64 bits")


@pytest.mark.parametrize("lo, hi, legal", [(-3, 3, True), (-4, 3, False), (-3, 4, False)])
def test_a_table_covers_its_inputs(lo, hi, legal):
    graph = integer(I.Requantize, SHAPE, 0, 6, x=(SHAPE, lo, hi), form=Table([-3], (list(range(7)),)))
    if legal:
        check(graph)
    else:
        refused(graph, "have a table for")


@pytest.mark.parametrize("hi, legal", [((1 << 60) - 1, True), (1 << 60, False)])
def test_a_numerator_has_64_bits(hi, legal):
    form = Shift([False], 8, [0], "up", [0], [9], [60])
    graph = integer(I.Requantize, SHAPE, 0, 9, x=(SHAPE, 0, hi), form=form)
    if legal:
        check(graph)
    else:
        refused(graph, "have a numerator of at most 64 bits")


def test_a_patch_of_one_channel_leaves_the_others_alone():
    """1 lies inside [0, 2], the inputs of channel 0; channel 1 holds [5, 6] and is patched where it never goes."""
    source = I.Input(name="x", type=IntType(SHAPE, 0, 3))
    cut = Comparators(([1], [1]), ([0, 2], [5, 6]))
    patched = Division(
        [False], 1, [0], "up", [0], [9], [1], exceptions=([1], [1]), corrections=([10], [80])
    )  # 1 is no input of channel 1
    nodes = (
        source,
        I.Requantize(name="c", inputs=("x",), type=IntType(SHAPE, 0, 6), form=cut),
        I.Requantize(name="y", inputs=("c",), type=IntType(SHAPE, 0, 11), form=patched),
    )
    graph = Graph("integer", nodes, ("y",))
    check(graph)
    refused(changed_type(graph, hi=10), "[0, 11]")


def test_a_patch_that_all_channels_share_reaches_each_of_them():
    """3 is an input of channel 1 alone, between its ends."""
    source = I.Input(name="x", type=IntType(SHAPE, 0, 3))
    cut = Comparators(([1], [1]), ([0, 1], [2, 4]))
    patched = Division([False], 1, [0], "up", [0], [9], [1], exceptions=([3],), corrections=([40],))
    nodes = (
        source,
        I.Requantize(name="c", inputs=("x",), type=IntType(SHAPE, 0, 4), form=cut),
        I.Requantize(name="y", inputs=("c",), type=IntType(SHAPE, 0, 43), form=patched),
    )
    graph = Graph("integer", nodes, ("y",))
    check(graph)
    refused(changed_type(graph, hi=42), "[0, 43]")


@pytest.mark.parametrize("case", EXACT)
def test_an_interval_found_fits_the_shape_of_its_value(case):
    """What only moves elements spreads the bounds over the whole shape."""
    graph = EXACT[case]
    kind = graph["y"].type
    flat = I.Reshape(name="z", inputs=("y",), type=replace(kind, shape=(int(np.prod(kind.shape)),)))
    check(replace(graph, nodes=(*graph.nodes, flat), outputs=("z",)))
    refused(
        replace(graph, nodes=(*graph.nodes, replace(flat, type=replace(flat.type, lo=kind.lo + 1))), outputs=("z",)),
        f"[{kind.lo}, {kind.hi}]",
    )
