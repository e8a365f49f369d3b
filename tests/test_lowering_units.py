"""The parts of lowering one by one, against numbers worked out by hand or with exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

from tcompile import reference
from tcompile.errors import ModelError
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, TensorType
from tcompile.ir.interpret import interpret
from tcompile.ir.requantizers import Steps, signed_digits
from tcompile.lowering import grid, operands, pairs, steps, windows
from tcompile.lowering.builder import slope
from tcompile.lowering.certificate import certify, certify_output, certify_pair, error_bound, exact_sum
from tcompile.lowering.lifted import (
    AccumulatorStart,
    ChainError,
    CodeStart,
    ConcatStart,
    GridStart,
    IntegerKernelStart,
    KernelStart,
    Lifted,
    PairStart,
    RelaidStart,
    _windows,
    evaluate,
    pair_codes,
)
from tcompile.lowering.lower import lower
from tests.models import Net, integers_of, real_graph, typed


def accumulator(scale, magnitude, bias=0.0, x_scale=1.0, correction=0, terms=4, bias_code=None):
    """A linear layer's start; one channel per weight scale."""
    w = np.atleast_1d(np.asarray(scale, np.float64))
    spread = lambda v, kind: np.broadcast_to(np.asarray(v, kind), w.shape)  # noqa: E731
    return AccumulatorStart(
        "y", w * x_scale, spread(correction, np.int64), spread(bias, np.float64), spread(magnitude, np.int64),
        terms, "layer", x_scale, w, bias_code,
    )  # fmt: skip


def alone(start, lo, hi, dtype="float32", **more):
    """A value that is its start and nothing else."""
    graph = Graph("real", (R.Input(name=start.value, type=TensorType(dtype, (1, 4)), origin=Origin()),), ())
    return Lifted("n", start, start.value, np.atleast_1d(lo), np.atleast_1d(hi), graph, **more)


def chained(net, out, lo, hi, start=None, channels=1):
    """The elementwise nodes of a net with one input as a chain on integers."""
    graph = real_graph(net.model(out))
    (head,) = (n for n in graph if isinstance(n, R.Input))
    nodes = tuple(n for n in graph if isinstance(n, R.Elementwise | R.DequantizeLinear))
    make = start or (lambda name: CodeStart(name, head.type.dtype))
    lo, hi = np.atleast_1d(lo), np.atleast_1d(hi)
    return Lifted("n", make(head.name), nodes[-1].name, lo, hi, graph, nodes, 1, channels)


def per_channel(values):
    return np.float32(values).reshape(1, -1, 1, 1)


# exact_sum


def test_both_odd_parts_count_against_24_bits():
    """3 · 5 · 1118481 = 2**24 - 1."""
    start = accumulator([1.25, 1.25, 1.25], [1118481, 1118482, 1118480], x_scale=0.75)
    assert exact_sum(start).tolist() == [True, False, True]


@pytest.mark.parametrize("x_scale, w_scale, odd", [(3.0, 1.0, 3), (0.5, 7.0, 7), (6.0, 20.0, 15), (0.375, 0.875, 21)])
def test_the_limit_is_the_product_of_the_odd_parts(x_scale, w_scale, odd):
    last = ((1 << 24) - 1) // odd
    start = accumulator([w_scale, w_scale], [last, last + 1], x_scale=x_scale)
    assert exact_sum(start).tolist() == [True, False]


@pytest.mark.parametrize("bias, exact", [(0, True), (15, True), (-15, True), (16, False), (-16, False), (0.5, False)])
def test_a_bias_counts_in_the_unit_of_both_scales(bias, exact):
    """Units of 2**-4; 15 are left below 2**24."""
    start = accumulator(1.25, 1118480, bias=bias * 2.0**-4, x_scale=0.75)
    assert exact_sum(start).tolist() == [exact]


def test_units_below_the_smallest_float_are_not_exact():
    pair = accumulator([2.0**-63, 2.0**-64], 3, x_scale=2.0**-63)
    assert exact_sum(pair).tolist() == [True, False]


def test_sums_beyond_the_largest_float_are_not_exact():
    pair = accumulator([2.0**63, 2.0**63], [7, 8], x_scale=2.0**61)
    assert exact_sum(pair).tolist() == [True, False]


def test_the_bound_is_gamma_times_the_terms():
    start = accumulator([0.5, 0.25], [100, 200], bias=[1.0, -2.0], terms=11)
    gamma = Fraction(16, 1 << 24) / (1 - Fraction(16, 1 << 24))
    for got, size in zip(error_bound(start), (51, 52), strict=True):
        assert gamma * size <= Fraction(float(got)) <= gamma * size * Fraction(1000001, 1000000)


# certify


def kernel_start(**more):
    return IntegerKernelStart("y", accumulator([0.3], 1 << 25), np.float32(1.0), 0, 0, 255, "uint8", **more)


STEPS = Steps(([0, 10],), ([0, 1],), (20,))


def test_integer_kernels_have_their_own_method():
    entry = certify(alone(kernel_start(), 0, 20, "uint8"), STEPS, "l")
    assert (entry.method, entry.steps, entry.at_risk) == ("kernel", 1, 0)


def test_a_kernel_on_a_pair_has_its_own_method():
    side = alone(CodeStart("x", "uint8"), 0, 3, "uint8")
    start = KernelStart("y", PairStart("y", side, side), None, (0, 0), 0, "uint8")
    entry = certify(alone(start, 0, 15, "uint8"), STEPS, "l")
    assert (entry.method, entry.steps, entry.at_risk) == ("kernel", 1, 0)


def test_outputs_are_at_risk_channel_by_channel():
    start = accumulator([0.3, 0.5, 0.7], [1 << 25, 100, 1 << 26])
    entry = certify_output(start, "l")
    bound = error_bound(start)
    assert (entry.method, entry.steps, entry.at_risk) == ("bounded", 3, 2)
    assert [(r.channel, r.margin, r.bound) for r in entry.risks] == [(0, 0.15, bound[0]), (2, 0.35, bound[2])]


def test_exact_outputs_are_exact():
    entry = certify_output(accumulator([0.5, 1.0], 100), "l")
    assert (entry.method, entry.steps, entry.at_risk, entry.risks) == ("exact", 2, 0, ())


def pair_of(left, right, exceptions=()):
    start = PairStart("y", left, right)
    return pairs.Pairing(start, (3, -2), Steps(([0, 4, 8],), ([0, 1, 2],), (20,)), exceptions)


SURE = alone(CodeStart("a", "uint8"), 0, 3, "uint8")
ROUNDS = alone(accumulator([0.3], 1 << 25), 0, 3)


@pytest.mark.parametrize("left, right, method, at_risk", [
    (SURE, SURE, "pairs", 0), (SURE, ROUNDS, "assumed", 2), (ROUNDS, SURE, "assumed", 2), (ROUNDS, ROUNDS, "assumed", 2),
])  # fmt: skip
def test_one_side_that_rounds_is_enough(left, right, method, at_risk):
    entry = certify_pair(pair_of(left, right), "l", 0.5)
    assert (entry.method, entry.steps, entry.at_risk) == (method, 2, at_risk)


def test_exceptions_of_a_pair_are_listed_at_their_sum():
    entry = certify_pair(pair_of(SURE, SURE, ((5, 2, 1, 2), (1, 3, 0, 1))), "l", -0.5)
    assert entry.at_risk == 2
    assert [(r.channel, r.accumulator, r.codes, r.margin, r.bound) for r in entry.risks] == [
        (0, 11, (1, 2), 0.0, 0.5), (0, -3, (0, 1), 0.0, 0.5)
    ]  # fmt: skip


def test_more_exceptions_than_steps_count_one_by_one():
    entry = certify_pair(pair_of(SURE, ROUNDS, ((0, 0, 0, 1),) * 3), "l", 1.0)
    assert (entry.method, entry.at_risk) == ("assumed", 3)


W = np.array([[100, 90, -70, 1], [-120, 50, 33, 2]])
W_SCALE, X_SCALE = np.float32([0.0131, 0.00713]), np.float32(0.37)


def layer_entry(end):
    net = Net()
    x = net.dq(net.input((1, 4)), X_SCALE)
    y = net.op("Gemm", x, net.weight(W, W_SCALE), transB=1)
    lowered = integers_of(net.model(net.q(y, end, 100)))[1]
    (layer,) = lowered.graph.all(I.Dense)
    (entry,) = lowered.certificate
    return entry, lowered.probes[layer.name]


def risky(sums, bound, end):
    """By fractions: {(channel, integer): (codes, margin)} of all integers that the bound carries over a step."""
    found = {}
    for c in range(2):
        unit = Fraction(float(X_SCALE)) * Fraction(float(W_SCALE[c]))
        code = lambda n, unit=unit: min(255, max(0, round(n * unit / end) + 100))  # noqa: E731
        for n in range(int(sums.lo[c]), int(sums.hi[c]) + 1):
            for other in (n - 1, n + 1):
                if code(n) != code(other):
                    step = (Fraction(2 * max(code(n), code(other)) - 1, 2) - 100) * end
                    if abs(n * unit - step) <= bound[c]:
                        found[c, n] = (code(n), code(other)), abs(n * unit - step)
    return found


def test_all_listed_risks_of_two_channels_are_those_of_exact_arithmetic():
    end = Fraction(7, 4)
    entry, sums = layer_entry(1.75)
    bound = error_bound(sums.start)
    wanted = risky(sums, bound, end)
    assert entry.method == "bounded" and {c for c, _ in wanted} == {0, 1}
    assert {(r.channel, r.accumulator): r.codes for r in entry.risks} == {k: v[0] for k, v in wanted.items()}
    for risk in entry.risks:
        margin = wanted[risk.channel, risk.accumulator][1]
        assert abs(Fraction(risk.margin) - margin) <= Fraction(float(np.spacing(np.float32(155 * 1.75))))
        assert risk.bound == bound[risk.channel] and risk.layer == "gemm_2"
    assert entry.at_risk == len(wanted)


# slope


def test_the_slope_of_a_chain_is_its_rise_over_its_steps():
    net = Net()
    lifted = chained(net, net.op("Relu", net.dq(net.input((1, 2, 1, 1)), 0.75, 2)), 2, 6)
    assert slope(lifted) == Fraction(3, 4)


def test_the_slope_of_a_grid_is_its_step():
    assert slope(alone(GridStart("x", 0.375, 5), 0, 9)) == Fraction(3, 8)


@pytest.mark.parametrize("lo, hi", [(0, 2), (2, 2), (6, 6)])
def test_the_slope_of_a_constant_is_one(lo, hi):
    net = Net()
    assert slope(chained(net, net.op("Relu", net.dq(net.input((1, 2, 1, 1)), 0.75, 2)), lo, hi)) == 1


def test_the_slope_clipped_at_one_end_is_still_taken_over_all_codes():
    net = Net()
    assert slope(chained(net, net.op("Relu", net.dq(net.input((1, 2, 1, 1)), 0.75, 2)), 0, 6)) == Fraction(3, 6)


# Linear layers


def narrow(net, shape, end=1.0, zero=0):
    """Codes of 10 to 20."""
    x = net.dq(net.input(shape), 0.5)
    return net.dq(net.q(net.op("Clip", x, net.const(10.0), net.const(20.0)), end, zero), end, zero)


def test_a_dense_layer_reaches_no_zero_that_its_codes_do_not():
    net = Net()
    y = net.op("MatMul", narrow(net, (1, 3)), net.weight([[1], [1], [-1]], 0.5, axis=1))
    lowered = integers_of(net.model(net.q(y, 3.0)))[1]
    (layer,) = lowered.graph.all(I.Dense)
    assert (layer.type.lo, layer.type.hi) == (0, 30)
    start = lowered.probes[layer.name].start
    assert start.magnitude.tolist() == [60] and start.terms == 3 and start.scale.tolist() == [0.5]


@pytest.mark.parametrize("pads, lo, hi", [((0, 0), 0, 30), ((1, 0), -20, 40)])
def test_a_convolution_reaches_zero_where_it_pads(pads, lo, hi):
    net = Net()
    y = net.op("Conv", narrow(net, (1, 1, 5)), net.weight([[[1, 1, -1]]], 0.5), pads=pads)
    lowered = integers_of(net.model(net.q(y, 3.0)))[1]
    (layer,) = lowered.graph.all(I.Conv)
    assert (layer.type.lo, layer.type.hi) == (lo, hi)


def test_magnitude_and_correction_count_from_the_zero_point():
    net = Net()
    y = net.op("MatMul", net.dq(net.input((1, 3)), 0.5, 200), net.weight([[1], [4], [-2]], 0.25, axis=1))
    lowered = integers_of(net.model(net.q(y, 3.0)))[1]
    (layer,) = lowered.graph.all(I.Dense)
    start = lowered.probes[layer.name].start
    assert (start.magnitude.tolist(), start.correction.tolist()) == ([1400], [600])
    assert (layer.type.lo, layer.type.hi) == (-510, 1275)


# Twice the same codes, and onnxruntime's kernels


def fused(model):
    return lower(real_graph(model), "fused", reference.kernels(typed(model), "fused"))


def doubled(uses=1):
    net = Net()
    x = net.dq(net.input((1, 256)), 0.5, 3)
    y = net.op("Add", x, x)
    outs = [net.q(y, 1.5, 10)]
    if uses == 2:
        outs.append(net.q(net.op("Relu", y), 0.75, 2))
    return net.model(*outs)


def equal_to_onnxruntime(lowered, model, mode):
    codes = np.arange(256, dtype=np.uint8)[None]
    (name,) = lowered.inputs
    got = list(interpret(lowered.graph, {name: codes[None]}).values())
    wanted = list(reference.run(typed(model), {"in0": codes}, mode).values())
    return len(got) == len(wanted) and all((g[0] == w).all() for g, w in zip(got, wanted, strict=True))


@pytest.mark.parametrize("uses", [1, 2])
def test_codes_added_to_themselves_are_one_chain(uses):
    model = doubled(uses)
    lowered = integers_of(model)[1]
    assert not lowered.graph.all(I.AddScaled) and len(lowered.graph.all(I.Requantize)) == uses
    assert [e.method for e in lowered.certificate] == ["exact"] * uses
    assert equal_to_onnxruntime(lowered, model, "plain")


def test_codes_added_to_themselves_by_a_kernel_are_one_requantizer():
    model = doubled()
    kernels = reference.kernels(typed(model), "fused")
    if "QLinearAdd" not in {k.op for k in kernels.values()}:
        pytest.skip("this onnxruntime does not add codes to themselves in integers")
    lowered = fused(model)
    assert not lowered.graph.all(I.AddScaled) and not lowered.doubts
    assert equal_to_onnxruntime(lowered, model, "fused")


def test_kernels_of_both_families_are_used():
    net = Net()
    x = net.dq(net.input((1, 3)), 0.5, 3)
    y = net.op("Gemm", x, net.weight(np.ones((2, 3)), 0.3), transB=1)
    model = net.model(net.q(y, 1.5, 10))
    kernels = reference.kernels(typed(model), "fused")
    if "QGemm" not in {k.op for k in kernels.values()}:
        pytest.skip("this onnxruntime has no integer Gemm")
    lowered = fused(model)
    assert [e.method for e in lowered.certificate] == ["kernel"] and not lowered.doubts


def test_a_kernel_that_adds_is_used():
    net = Net()
    a, b = net.dq(net.input((1, 8)), 0.5, 3), net.dq(net.input((1, 8)), 0.3, 5)
    model = net.model(net.q(net.op("Add", a, b), 1.1, 10))
    kernels = reference.kernels(typed(model), "fused")
    if "QLinearAdd" not in {k.op for k in kernels.values()}:
        pytest.skip("this onnxruntime does not add codes in integers")
    rows = np.stack([np.arange(8) * 30, np.arange(8)[::-1] * 29]).astype(np.uint8)
    lowered = fused(model)
    feeds = {name: rows[int(value[-1])][None, None] for name, value in lowered.inputs.items()}
    got = next(iter(interpret(lowered.graph, feeds).values()))[0]
    wanted = next(iter(reference.run(typed(model), {"in0": rows[:1], "in1": rows[1:]}, "fused").values()))
    assert not lowered.doubts and (got == wanted).all()


# Float weights on a grid


@pytest.mark.parametrize("row, step", [
    ([0.5, -1.0, 1.5], 0.5), ([2 * 0.25, 3 * 0.25], 0.25), ([-3.0, 4.0, 5.0], 1.0), ([0.0, 0.0], 1.0), ([7.0], 7.0),
    ([16.0, 17.0], 1.0), ([17.0, 18.0], 1.0), ([-47.0, 59.0, 92.0], 1.0), ([0.375, 0.625], 0.125), ([1.0, 255.0], 1.0), ([16.0, 255.0], 1.0), ([0.0, 6.0, -9.0], 3.0),
])  # fmt: skip
def test_the_step_is_the_largest_that_makes_weights_integers(row, step):
    assert operands._step(np.float32(row)) == step


@pytest.mark.parametrize("row", [[1.0, 256.0], [2.0, 257.0], [1.0, 1.4142135], [2.0**-149, 300 * 2.0**-149]])
def test_rows_without_small_integers_have_no_step(row):
    assert operands._step(np.float32(row)) is None


def test_every_row_has_its_own_codes_and_scale():
    tenth = np.float32(0.1)
    weight = np.stack([
        np.float32([2, -3, 0]) * tenth, np.float32([0, 0, 0]), np.float32([0.5, 0.25, -63.75]), np.float32([3, 3, -3])
    ]).reshape(4, 1, 3)  # fmt: skip
    found = operands._numeric(weight)
    assert found.codes.tolist() == [[[2, -3, 0]], [[0, 0, 0]], [[2, 1, -255]], [[1, 1, -1]]]
    assert found.scale.tolist() == [float(tenth), 1.0, 0.25, 3.0]
    assert found.bits == 9
    assert ((found.codes * found.scale.reshape(4, 1, 1)).astype(np.float32) == weight).all()


@pytest.mark.parametrize("row, bits", [([0.0], 2), ([2.0], 2), ([1.0, 2.0], 3), ([1.0, -3.0], 3), ([1.0, 4.0], 4)])
def test_bits_hold_the_largest_code_and_a_sign(row, bits):
    assert operands._numeric(np.float32([row])).bits == bits


def test_one_row_off_the_grid_is_enough_to_refuse():
    with pytest.raises(ChainError, match="not on a grid"):
        operands._numeric(np.float32([[1, 2], [1, 1000]]))


# Factors of a pair


def cost(factors):
    return sum(map(signed_digits, factors)), sum(map(abs, factors))


@pytest.mark.parametrize(
    "ratio", [Fraction(1), Fraction(1, 2), Fraction(3, 4), Fraction(-3, 4), Fraction(7, 3), Fraction(-1)]
)
def test_small_ratios_are_tried_exactly(ratio):
    found = pairs._factors(ratio)
    assert (abs(ratio.numerator), ratio.denominator * (1 if ratio > 0 else -1)) in found
    assert all(a > 0 and (b < 0) == (ratio < 0) for a, b in found)


@pytest.mark.parametrize("ratio, first", [(1, (1, 1)), (Fraction(1, 2), (1, 2)), (-1, (1, -1))])
def test_the_cheapest_factors_come_first(ratio, first):
    assert pairs._factors(Fraction(ratio))[0] == first


def best_so_far(size):
    """Every (a, b) nearer to the ratio than all with a smaller b."""
    found, error = [], None
    for b in range(1, 4097):
        a = round(size * b)
        if a and (error is None or abs(Fraction(a, b) - size) < error):
            error = abs(Fraction(a, b) - size)
            found.append((a, b))
    return found


@pytest.mark.parametrize(
    "ratio", [Fraction(3, 10), Fraction(-355, 113), Fraction(1, 50), Fraction(1, 5000), Fraction(0.37)]
)
def test_the_factors_tried_are_best_approximations_and_powers_of_two(ratio):
    size, sign = abs(ratio), -1 if ratio < 0 else 1
    wanted = set(best_so_far(size))
    wanted |= {(max(1, round(size * 2**k)), 2**k) for k in range(4, 13)}
    wanted |= {(2**k, max(1, round(2**k / size))) for k in range(13)}
    found = pairs._factors(ratio)
    assert len(found) == len(wanted) and set(found) == {(a, sign * b) for a, b in wanted}
    assert [cost(f) for f in found] == sorted(cost(f) for f in found)


# Steps


def floors(net, factors, then=None):
    """Floor(x · factor) per channel, perhaps times another factor."""
    y = net.op("Floor", net.op("Mul", net.input((1, len(factors), 1, 1), "float32"), net.const(per_channel(factors))))
    return y if then is None else net.op("Mul", y, net.const(per_channel(then)))


def table_of(lo, hi, factors, then):
    n = [np.arange(a, b + 1) for a, b in zip(lo, hi, strict=True)]
    return [np.floor(k * f).astype(np.int64) * t for k, f, t in zip(n, factors, then, strict=True)]


def pieces(lo, values):
    change = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    return (change + lo).tolist(), values[change].tolist()


LO, HI = [-40, -7, 0, 5, -9], [50, 90, 3, 5, 9]
FACTORS, THEN = [0.25, -0.5, 0.125, 1.0, 0.5], [1, 3, 1, 2, -7]


@pytest.mark.parametrize("method", [steps._bisect, steps._tabulate])
def test_steps_of_rising_falling_constant_and_jumping_channels(method):
    net = Net()
    lifted = chained(net, floors(net, FACTORS, THEN), LO, HI, lambda name: GridStart(name, 1.0), 5)
    found = method(lifted, np.array(LO), np.array(HI))
    assert found.hi == tuple(HI)
    for c, values in enumerate(table_of(LO, HI, FACTORS, THEN)):
        assert (found.starts[c].tolist(), found.values[c].tolist()) == pieces(LO[c], values)


def test_bisection_finds_steps_at_both_ends():
    net = Net()
    lifted = chained(net, floors(net, [1.0, -1.0]), [3, 3], [6, 6], lambda name: GridStart(name, 1.0), 2)
    found = steps._bisect(lifted, np.array([3, 3]), np.array([6, 6]))
    assert [s.tolist() for s in found.starts] == [[3, 4, 5, 6]] * 2
    assert [v.tolist() for v in found.values] == [[3, 4, 5, 6], [-3, -4, -5, -6]]


def test_a_table_in_several_blocks_joins_them(monkeypatch):
    """Blocks of 2**23 integers: one step at the border, none there for the other piece."""
    low = -5
    border = low + (1 << 23)
    edges = np.array([low + 7, border, border + 1, border + 30])
    monkeypatch.setattr(steps, "_codes", lambda lifted, n: np.searchsorted(edges, n, side="right"))
    found = steps._tabulate(None, np.array([low]), np.array([border + 99]))
    assert found.starts[0].tolist() == [low, *edges] and found.values[0].tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(steps, "_codes", lambda lifted, n: np.full_like(n, 4))
    assert steps._tabulate(None, np.array([low]), np.array([border + 99])).starts[0].tolist() == [low]


# Grids


@pytest.mark.parametrize("values, step", [
    ([-3.0, 0.0, 6.0], 3.0), ([2.0, 3.0], 1.0), ([16.0, 17.0], 1.0), ([17.0, 18.0], 1.0), ([0.0], 1.0), ([1.0, 65535.0], 1.0), ([-0.25], 0.25),
])  # fmt: skip
def test_the_grid_of_some_values(values, step):
    assert grid._step(np.array(values)) == step


@pytest.mark.parametrize("values, why", [
    ([1.0, 65536.0], "even grid"), ([1.0, np.inf], "finite"), ([np.nan], "finite"),
    (np.arange(1, 65538), "different values"),
])  # fmt: skip
def test_values_off_any_grid_are_refused(values, why):
    with pytest.raises(ChainError, match=why):
        grid._step(np.asarray(values, np.float64))


def test_divisors_reach_sixteen():
    assert list(grid.DIVISORS) == list(range(1, 17))


def test_regrid_puts_every_channel_on_one_grid():
    net = Net()
    lifted = chained(net, floors(net, [0.5, -1.0], [6, 9]), [-2, 0], [3, 1], lambda name: GridStart(name, 1.0), 2)
    found, step = grid.regrid(lifted)
    assert step == 3.0 and found.hi == (3, 1)
    assert [s.tolist() for s in found.starts] == [[-2, 0, 2], [0, 1]]
    assert [v.tolist() for v in found.values] == [[-2, 0, 2], [0, -3]]


def test_a_grid_is_read_from_a_dequantizer_with_a_positive_scale():
    net = Net()
    lifted = chained(net, net.dq(net.input((1, 2, 1, 1)), 0.75, 7), 0, 255)
    assert grid.grid_of(lifted) == grid.Grid(0.75, 7)
    assert grid.grid_of(alone(RelaidStart("y", lifted), 0, 255)) == grid.Grid(0.75, 7)


# Windows


def moved(node, shape, axis):
    return windows._moved_axis(node, SimpleNamespace(axis=axis, kind=TensorType("float32", shape)))


def reshape(shape):
    return R.Reshape(name="y", type=TensorType("float32", shape), origin=Origin())


def cut(shape, step):
    kind = TensorType("float32", shape)
    return R.Slice(name="y", type=kind, origin=Origin(), starts=(0,) * len(shape), steps=(1, step, 1))


@pytest.mark.parametrize("shape, axis, new, wanted", [
    ((1, 3, 4), 1, (1, 3, 2, 2), 1), ((1, 3, 4), 1, (3, 4), 0), ((1, 3, 1, 1), 1, (1, 3), 1), ((1, 3, 4), 1, (1, 12), None),
    ((2, 3, 4), 1, (3, 2, 4), None), ((2, 6, 3), 2, (4, 3, 3), 2), ((2, 6, 3), 2, (12, 3), 1), ((1, 4), None, (4,), None),
    ((1, 3, 4), 1, (1, 1, 3, 4), 2), ((2, 2, 2), 1, (2, 2, 2), 1),
])  # fmt: skip
def test_where_a_reshape_takes_the_channels(shape, axis, new, wanted):
    assert prod(shape) == prod(new)
    assert moved(reshape(new), shape, axis) == wanted


def test_where_a_transpose_takes_the_channels():
    node = R.Transpose(name="y", type=TensorType("float32", (4, 1, 3)), origin=Origin(), perm=(2, 0, 1))
    assert [moved(node, (1, 3, 4), axis) for axis in (0, 1, 2, None)] == [1, 2, 0, None]


@pytest.mark.parametrize("shape, step, wanted", [((1, 3, 2), 1, 1), ((1, 2, 4), 1, None), ((1, 3, 4), -1, None)])
def test_a_slice_keeps_whole_channels_only(shape, step, wanted):
    assert moved(cut(shape, step), (1, 3, 4), 1) == wanted


@pytest.mark.parametrize("size, out, kernel, stride, pads, dilation, wanted", [
    (5, 2, 2, 2, (0, 0), 1, (0, 0)), (5, 3, 2, 2, (0, 0), 1, (0, 1)), (5, 3, 3, 2, (1, 1), 1, (1, 1)),
    (7, 3, 3, 3, (0, 0), 1, (0, 2)), (7, 3, 2, 2, (0, 0), 3, (0, 1)), (6, 3, 3, 2, (1, 0), 1, (1, 0)),
    (6, 4, 3, 2, (1, 0), 1, (1, 2)),
])  # fmt: skip
def test_pads_grow_to_cover_the_last_window(size, out, kernel, stride, pads, dilation, wanted):
    assert windows._covering((1, 2, size), (1, 2, out), (kernel,), (stride,), pads, (dilation,)) == wanted


def test_pads_grow_axis_by_axis():
    assert windows._covering((1, 2, 5, 6), (1, 2, 3, 3), (2, 2), (2, 2), (0,) * 4, (1, 1)) == (0, 0, 1, 0)


def padded(value):
    net = Net()
    y = net.op("Pad", net.dq(net.input((1, 2)), 0.5, 3), net.const([0, 1, 0, 2], "int64"), net.const(value))
    return integers_of(net.model(net.q(y, 2.0, 20)))[1]


@pytest.mark.parametrize(
    "value, code, lo, hi", [(-4.0, -5, -5, 255), (1.5, 6, 0, 255), (200.0, 403, 0, 403), (0.0, 3, 0, 255)]
)
def test_padding_is_a_code_and_may_lie_beyond_the_range(value, code, lo, hi):
    (node,) = padded(value).graph.all(I.Pad)
    assert (node.code, node.type.lo, node.type.hi, node.type.shape) == (code, lo, hi, (1, 5))


def test_padding_off_the_grid_is_refused():
    with pytest.raises(ModelError, match="on the grid"):
        padded(0.75)


def joined(second):
    net = Net()
    a, b = net.dq(net.input((1, 2)), 0.5, 3), net.dq(net.input((1, 3), "int8"), *second, "int8")
    lowered = integers_of(net.model(net.q(net.op("Concat", a, b, axis=1), 2.0, 20)))[1]
    return lowered, lowered.graph.all(I.Concat)[0]


def test_branches_on_one_grid_are_one_chain():
    lowered, node = joined((0.5, 3))
    (requantize,) = lowered.graph.all(I.Requantize)
    assert (node.type.lo, node.type.hi, node.axis) == (-128, 255, 1)
    n = np.arange(-128, 256)[:, None]
    wanted = np.clip(np.rint((n - 3) * 0.5 / 2.0) + 20, 0, 255)
    assert (requantize.form(np.repeat(n, 5, 1), 1) == wanted).all()


def test_branches_on_two_grids_are_told_apart_by_channel():
    lowered, node = joined((0.75, -4))
    (requantize,) = lowered.graph.all(I.Requantize)
    assert (node.type.lo, node.type.hi) == (-128, 255) and requantize.axis == 1
    n = np.array([[0, 255, -128, 127, 6], [100, 7, 9, -4, 33]])
    real = (n - [3, 3, -4, -4, -4]) * [0.5, 0.5, 0.75, 0.75, 0.75]
    assert (requantize.form(n, 1) == np.clip(np.rint(real / 2.0) + 20, 0, 255)).all()


def test_the_head_of_a_concatenation_is_part_by_part():
    a, b = alone(GridStart("a", 0.5, 1), 0, 9), alone(GridStart("b", 2.0), -3, 3)
    start = ConcatStart("y", (a, b), (1, 2))
    assert start.feed(np.array([[5], [-9]]))["y"].tolist() == [[2.0, 6.0, 6.0], [-0.5, -6.0, -6.0]]
    shared = ConcatStart("y", (a, b), (1, 2), GridStart("y", 0.25, 2))
    assert shared.feed(np.array([[5], [-9]]))["y"].tolist() == [[0.75], [-2.75]]


# Starts


def test_pairs_are_numbered_left_code_major():
    left, right = alone(CodeStart("a", "int8"), -2, 1, "int8"), alone(CodeStart("b", "int8"), [3, 5], [4, 7], "int8")
    a, b = pair_codes(left, right, np.arange(4 * 5))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(i, k) for i in range(-2, 2) for k in range(3, 8)]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_windows_sum_to_their_number_and_are_balanced(count):
    n = np.arange(-23, 40).reshape(21, 3)
    rows = _windows(n, count)
    assert rows.shape == (63, count) and rows.sum(axis=1).tolist() == n.ravel().tolist()
    assert (rows.max(axis=1) - rows.min(axis=1) <= 1).all()


def test_an_accumulator_is_corrected_scaled_and_offset():
    start = accumulator([0.5, 2.0], 10, bias=[1.0, -3.0], x_scale=0.5, correction=[4, -6])
    assert start.feed(np.array([[4, 4], [10, -6]]))["y"].tolist() == [[1.0, 7.0], [2.5, -3.0]]


def test_an_integer_kernel_rounds_to_even_shifts_and_clips():
    """acc = n - 2 + 1, ratio 0.5 · 2 / 2 = 1/2."""
    inner = accumulator([2.0], 10, x_scale=0.5, correction=2, bias_code=np.array([1]))
    start = IntegerKernelStart("y", inner, np.float32(2.0), 10, 8, 13, "uint8")
    acc = np.array([-9, -5, -3, -1, 0, 1, 2, 3, 5, 7, 9])
    made = start.feed(acc[:, None] + 1)["y"]
    assert made.dtype == np.uint8
    assert made[:, 0].tolist() == [8, 8, 8, 10, 10, 10, 11, 12, 12, 13, 13]


def test_an_integer_kernel_without_bias_adds_none():
    start = IntegerKernelStart("y", accumulator([1.0, 3.0], 10), np.float32(1.0), 0, -128, 127, "int8")
    assert evaluate(alone(start, 0, 9, "int8"), np.array([[7, 5], [-60, 60]])).tolist() == [[7, 15], [-60, 127]]
