"""The certificate: what it proves is so, what it lists is near a step, and its bound is no larger than it must be."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tcompile import reference
from tcompile.ir import integer as I
from tcompile.ir.interpret import interpret
from tcompile.lowering.certificate import error_bound, exact_sum
from tests.models import Net, integers_of, with_outputs


def dense(weight, w_scale, x_scale, end=1.0, zero=0, bias=None):
    """codes -> Gemm -> quantizer."""
    weight = np.atleast_2d(weight)
    net = Net()
    x = net.dq(net.input((1, weight.shape[1])), x_scale)
    inputs = [x, net.weight(weight, w_scale), *([] if bias is None else [net.const(bias)])]
    return net.model(net.q(net.op("Gemm", *inputs, transB=1), end, zero))


def entry_of(model):
    (entry,) = integers_of(model)[1].certificate
    return entry


def start_of(model):
    lowered = integers_of(model)[1]
    (layer,) = lowered.graph.all(I.Dense)
    return lowered.probes[layer.name].start


def codes_reaching(row: np.ndarray, total: int) -> np.ndarray:
    """Codes of 0 to 255 with Σ row · codes = total; a 1 and a -1 in the row make the last unit reachable."""
    codes = np.where(row < 0, 255, 0)
    left = total - int(row @ codes)
    for k in np.argsort(-np.abs(row), kind="stable"):
        if row[k]:
            step = min(255, left // abs(int(row[k])))
            codes[k] += step if row[k] > 0 else -step
            left -= step * abs(int(row[k]))
    assert left == 0
    return codes


def test_a_listed_step_is_reached_and_its_margin_is_the_distance():
    rng = np.random.default_rng(6)
    weight = rng.integers(-7, 8, (3, 40))
    weight[:, :2] = 1, -1
    w_scale, x_scale, end = np.float32([0.013, 0.0071, 0.02]), np.float32(0.037), np.float32(0.61)
    model = dense(weight, w_scale, x_scale, end, 128)
    lowered = integers_of(model)[1]
    (entry,) = lowered.certificate
    assert entry.method == "bounded" and 0 < entry.at_risk < entry.steps
    (layer,) = lowered.graph.all(I.Dense)
    for risk in entry.risks:
        codes = codes_reaching(weight[risk.channel], risk.accumulator)
        (name,) = lowered.inputs
        values = interpret(lowered.graph, {name: codes[None, None]}, keep=lambda n: True)
        assert values[layer.name][0, 0, risk.channel] == risk.accumulator
        assert values[lowered.graph.outputs[0]][0, 0, risk.channel] == risk.codes[0]
        exact = risk.accumulator * Fraction(float(x_scale)) * Fraction(float(w_scale[risk.channel]))
        step = Fraction(float(end)) * (Fraction(2 * max(risk.codes) - 1, 2) - 128)
        ulp = Fraction(float(np.spacing(np.float32(abs(step)))))
        assert abs(abs(exact - step) - Fraction(risk.margin)) <= 2 * ulp
        assert 0 <= risk.margin <= risk.bound
        assert abs(risk.codes[0] - risk.codes[1]) == 1


def test_listed_steps_come_with_the_nearest_first():
    rng = np.random.default_rng(7)
    risks = entry_of(dense(rng.integers(-9, 9, (2, 60)), 0.3, 0.1, 2.0)).risks
    ratios = [r.margin / r.bound for r in risks]
    assert len(risks) == 20 and ratios == sorted(ratios)


def test_power_of_two_scales_are_proved():
    rng = np.random.default_rng(8)
    entry = entry_of(dense(rng.integers(-127, 128, (4, 100)), [0.5, 2.0**-9, 1.0, 4.0], 2.0**-5, 3.3))
    assert (entry.method, entry.at_risk, entry.proved) == ("exact", 0, True)


@pytest.mark.parametrize(
    "terms, x_scale, exact",
    [(518, 1.0, True), (519, 1.0, False), (172, 0.75, True), (173, 0.75, False), (103, 1.25, True), (104, 1.25, False)],
)
def test_a_sum_is_exact_up_to_24_bits_of_its_unit(terms, x_scale, exact):
    """0.75 counts as 3 quarters, 1.25 as 5: 518 · 127 · 255 < 2**24 < 519 · 127 · 255."""
    model = dense(np.full((1, terms), 127), 0.5, x_scale, 3.0 * terms)
    assert exact_sum(start_of(model)).tolist() == [exact]
    assert (entry_of(model).method == "exact") is exact


def test_every_channel_is_judged_by_its_own_weights():
    weight = np.zeros((2, 600), np.int64)
    weight[0, 0], weight[1] = 1, 127
    assert exact_sum(start_of(dense(weight, 1.0, 1.0))).tolist() == [True, False]


@pytest.mark.parametrize("bias, exact", [(0.25, True), (0.125, False), (2.0**23, False)])
def test_a_bias_must_lie_on_the_units_of_the_sum(bias, exact):
    model = dense([[1, -1]], 0.5, 0.5, bias=[bias], end=1.0)
    assert exact_sum(start_of(model)).tolist() == [exact]


def test_a_sum_over_24_bits_is_not_proved():
    entry = entry_of(dense(np.full((1, 600), 127), 1.0, 1.0, 2.0**17))
    assert entry.method == "bounded" and not entry.proved


# The bound


BIG, SMALL = 520, 3000
REACHED = BIG * 127 * 255 + SMALL  # beyond 2**24: float32 counts in twos there


def lossy(end: float):
    weight = np.concatenate([np.full(BIG, 127), np.ones(SMALL, np.int64)])
    codes = np.concatenate([np.full(BIG, 255), np.ones(SMALL, np.int64)])
    return dense(weight, 1.0, 1.0, end), weight, codes


def sequential(products: np.ndarray) -> float:
    return float(np.add.accumulate(products.astype(np.float32))[-1])


def test_the_bound_holds_for_an_order_that_loses_every_small_term_but_half_of_it_does_not():
    """Large terms first, then each 1 is half a unit in the last place and rounds away; a step in between is missed."""
    end = (REACHED - 2500) / 99.5
    model, weight, codes = lossy(end)
    lowered = integers_of(model)[1]
    (requantize,) = lowered.graph.all(I.Requantize)
    total = sequential(weight * codes)
    error = REACHED - total
    bound = float(error_bound(start_of(model))[0])
    assert error == SMALL
    assert bound / 2 < error <= bound
    assert round(total / end) == 99 and requantize.form(np.array([[REACHED]]), 1).item() == 100
    assert not entry_of(model).proved


@pytest.mark.parametrize("seed", range(5))
def test_no_order_misses_the_bound(seed):
    rng = np.random.default_rng(seed)
    weight, x_scale, w_scale = rng.integers(-127, 128, 300), np.float32(0.0137), np.float32(0.31)
    bound = float(error_bound(start_of(dense(weight[None], w_scale, x_scale)))[0])
    codes = rng.integers(0, 256, 300)
    exact = int(weight @ codes) * Fraction(float(x_scale)) * Fraction(float(w_scale))
    products = (codes * x_scale) * (weight * w_scale)
    for order in (np.arange(300), np.argsort(products), np.argsort(-np.abs(products)), rng.permutation(300)):
        assert abs(Fraction(sequential(products[order])) - exact) <= bound


def test_a_negative_scale_of_the_sum_has_a_bound_too():
    net = Net()
    x = net.dq(net.input((1, 9)), 0.1)
    w = net.weight(np.arange(-4, 5)[None], 0.3)
    y = net.op("Gemm", x, w, alpha=-0.7, transB=1)
    model = net.model(net.q(y, 0.042, 100))
    assert (error_bound(start_of(model)) > 0).all()
    assert entry_of(model).at_risk > 0


# Floats on a grid, pools


def test_steps_between_floats_are_at_risk_too():
    """Behind Round the values are 0, 1/4, 1/2, 3/4: no integers, and yet steps that ties decide."""
    net = Net()
    x = net.dq(net.input((1, 3)), 0.1)
    y = net.op("MatMul", x, net.weight(np.array([[1], [-1], [1]]), 0.3, axis=1))
    y = net.op("Clip", net.op("Round", net.op("Div", y, net.const(0.06))), net.const(0.0), net.const(3.0))
    y = net.op("MatMul", net.op("Mul", y, net.const(0.25)), net.weight(np.array([[1]]), 1.0, axis=1))
    entries = integers_of(net.model(net.q(y, 0.125)))[1].certificate
    assert [e.method for e in entries] == ["bounded", "exact"]
    assert entries[0].steps == 3 and entries[0].at_risk > 0


@pytest.mark.parametrize("scale, proved", [(0.5, True), (2 / 27, False)])
@pytest.mark.parametrize("zero", [0, 255], ids=["positive", "negative"])
def test_an_average_is_exact_if_its_sum_is(scale, proved, zero):
    net = Net()
    x = net.dq(net.input((1, 1, 3, 3)), np.float32(1 / 3) if not proved else 0.25, zero)
    model = net.model(net.q(net.op("AveragePool", x, kernel_shape=[3, 3]), scale, zero))
    assert entry_of(model).proved is proved


def test_a_layer_whose_verdict_is_exact_gives_the_same_codes_in_any_order():
    rng = np.random.default_rng(9)
    weight = rng.integers(-127, 128, (2, 200))
    model = dense(weight, [0.5, 0.25], 0.75, 100.0, 128)
    assert entry_of(model).method == "exact"
    codes = rng.integers(0, 256, 200)
    order = rng.permutation(200)
    shuffled = dense(weight[:, order], [0.5, 0.25], 0.75, 100.0, 128)
    for m, q in ((model, codes), (shuffled, codes[order])):
        out = next(iter(reference.run(with_outputs(m, ["v3"]), {"in0": q[None].astype(np.uint8)}).values()))
        np.testing.assert_array_equal(out, _codes(model, codes))


def _codes(model, codes):
    graph = integers_of(model)[1].graph
    return interpret(graph, {graph.nodes[0].name: codes[None, None]})[graph.outputs[0]][0]


def test_the_verdict_needs_every_step_safe():
    entry = entry_of(dense([[1, 1]], 1.0, 1.0))
    assert entry.proved and not replace(entry, at_risk=1).proved
