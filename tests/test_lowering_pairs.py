"""Sums of two codes: every pair equals onnxruntime, and the exceptions listed are exactly the pairs that do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile import reference
from tcompile.ir import integer as I
from tcompile.ir.interpret import interpret
from tcompile.lowering.certificate import Entry
from tests.models import Net, integers_of, with_outputs

scales = st.one_of(st.floats(0.015625, 1, width=32), st.sampled_from([0.25, 0.75, 0.3]))


def pair_net(left, right, end, op="Add", then=()):
    """Two code inputs, dequantized, joined and quantized; `then` are (operator, constant) between."""
    net = Net()
    a, b = (net.dq(net.input((1, 1, 256, 256), d), s, z, d) for s, z, d in (left, right))
    y = net.op(op, a, b)
    for name, constant in then:
        y = net.op(name, y, net.const(np.float32(constant).reshape(-1, 1, 1)))
    return net.model(net.q(y, *end))


def all_pairs(left, right):
    """One frame in which every pair of codes meets once."""
    q1, q2 = (np.arange(256) - (128 if d == "int8" else 0) for _, _, d in (left, right))
    grid = np.meshgrid(q1, q2, indexing="ij")
    return [g[None, None].astype(d) for g, (_, _, d) in zip(grid, (left, right), strict=True)]


def run_both(model, left, right) -> tuple[np.ndarray, np.ndarray, Entry]:
    frame = all_pairs(left, right)
    _, lowered = integers_of(model)
    feeds = {name: frame[int(value[-1])][None] for name, value in lowered.inputs.items()}
    got = next(iter(interpret(lowered.graph, feeds).values()))[0]
    typed = with_outputs(model, [o.name for o in model.graph.output])
    wanted = next(iter(reference.run(typed, {"in0": frame[0], "in1": frame[1]}).values()))
    (entry,) = lowered.certificate
    return got, wanted.astype(np.int64), entry


codes = st.tuples(scales, st.sampled_from([0, 3, 100]), st.sampled_from(["uint8", "int8"]))


@given(codes, codes, codes, st.sampled_from(["Add", "Sub"]))
@settings(max_examples=12)
def test_every_pair_is_right_or_listed(left, right, end, op):
    got, wanted, entry = run_both(pair_net(left, right, end, op), left, right)
    assert entry.method == "pairs"
    assert entry.at_risk == int((got != wanted).sum())


def test_equal_scales_have_no_exception():
    left = right = (0.25, 3, "uint8")
    got, wanted, entry = run_both(pair_net(left, right, (0.5, 10, "uint8")), left, right)
    assert entry.proved and np.array_equal(got, wanted)


@pytest.mark.parametrize("factor", [-1.0, -0.5, 2.0])
def test_a_sum_may_fall(factor):
    """A factor below zero behind the sum turns all steps round."""
    left, right = (0.25, 3, "uint8"), (0.5, 0, "uint8")
    got, wanted, entry = run_both(pair_net(left, right, (1.0, 100, "uint8"), then=[("Mul", factor)]), left, right)
    assert entry.proved and np.array_equal(got, wanted)


def test_a_function_of_a_sum_may_rise_and_fall():
    left, right = (0.25, 3, "uint8"), (0.5, 200, "uint8")
    net = Net()
    a, b = (net.dq(net.input((1, 1, 256, 256)), s, z) for s, z, _ in (left, right))
    model = net.model(net.q(net.op("Abs", net.op("Add", a, b)), 0.5))
    got, wanted, entry = run_both(model, left, right)
    assert entry.proved and np.array_equal(got, wanted)


def test_every_pair_is_right_or_listed_wrong():
    """Another zero point than the file's: pairs differ that nobody listed."""
    left = right = (0.25, 3, "uint8")
    got, _, entry = run_both(pair_net(left, right, (0.5, 10, "uint8")), left, right)
    _, wanted, _ = run_both(pair_net(left, right, (0.5, 11, "uint8")), left, right)
    assert entry.at_risk != int((got != wanted).sum())


def test_a_branch_of_sums_that_round_is_added_on_the_host():
    """All pairs may be right for the replayed floats, yet the floats are not known."""
    net = Net()
    x = net.dq(net.input((1, 2)), 0.3)
    y = net.op("Gemm", x, net.weight(np.array([[1, -1]]), 0.07, "int2"), transB=1)
    other = net.dq(net.input((1, 1)), 0.2)
    model = net.model(net.q(net.op("Add", y, other), 1.0, 128))
    lowered = integers_of(model)[1]
    assert [n.op for n in lowered.graph] == ["Input", "Dense", "Input"]
    assert "host after" in {p.where for p in lowered.placements.values() if p.becomes == "Add"}


def test_sum_of_two_codes_is_one_requantizer():
    left = right = (0.25, 3, "uint8")
    graph = integers_of(pair_net(left, right, (0.5, 10, "uint8")))[1].graph
    assert [n.op for n in graph] == ["Input", "Input", "AddScaled", "Requantize"]
    (add,) = graph.all(I.AddScaled)
    assert add.factors == (1, 1)
