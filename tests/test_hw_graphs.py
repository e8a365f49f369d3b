"""The parallel and the serial adder graph give the product with their matrix, in the cycles their timing says."""

from __future__ import annotations

import numpy as np
import pytest

from hw import digits
from hw.adders import Adder, AdderGraph, Output
from hw.block import Bus
from hw.constant import ConstantMatrix
from hw.parallel import Parallel
from hw.serial import Serial
from tests.adder_graphs import bounds, random_graph, results, trees
from tests.gateware import Stalls, bench
from tests.test_hw_reset import run as run_after_reset

FORMS = {
    **{f"parallel, spacing {n}": lambda i, o, g, n=n: Parallel(i, o, g, bounds(i), n) for n in (1, 2, 3)},
    **{f"serial, digit {n}": lambda i, o, g, n=n: Serial(i, o, g, n) for n in (1, 2, 3, 4)},
}
SEEDS = range(6)

#                       v3 = a - b    v4 = v3 + 4 c         v5 = 2 v4 - v3
DEEP = AdderGraph(3, (Adder(0, 1, subtract=True), Adder(3, 2, 0, 2), Adder(4, 3, 1, 0, True)), (Output(5), Output(3)))


def made(form: str, graph: AdderGraph, i: Bus, o: Bus | None = None) -> ConstantMatrix:
    return FORMS[form](i, o or results(graph, bounds(i)), graph)


def vectors(i: Bus, count: int, seed: int = 0) -> np.ndarray:
    """Both extremes, and random ones."""
    low, high = bounds(i)
    x = np.random.default_rng(seed).integers(low, high + 1, (count, i.lanes))
    x[0], x[1] = low, high
    return x


def check(form: str, graph: AdderGraph, i: Bus, o: Bus | None = None, stalls: Stalls | None = None) -> None:
    """The gateware gives x times the matrix, each transfer in its cycle."""
    block, x = made(form, graph, i, o), vectors(i, 9)
    run = bench(block, [x], stalls=stalls or Stalls.random(len(form), block, most=12))
    assert np.array_equal(run.outputs[0], x @ graph.matrix().T)


# --- values and cycles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", FORMS)
def test_random_graphs(form, seed):
    generator = np.random.default_rng(seed)
    i = Bus(1 + seed % 5, int(generator.integers(1, 5)), signed=seed % 2 == 1)
    graph = random_graph(generator, i.lanes, int(generator.integers(1, 8)), int(generator.integers(1, 5)))
    block = made(form, graph, i)
    x = vectors(i, 8, seed)
    stalls = Stalls() if seed % 3 == 0 else Stalls.random(seed, block, most=4 if seed % 3 == 1 else 15)
    run = bench(block, [x], stalls=stalls)
    assert np.array_equal(run.outputs[0], x @ graph.matrix().T)


@pytest.mark.parametrize("form", FORMS)
def test_flickering_ready_changes_no_value(form):
    check(form, DEEP, Bus(3, 4, signed=True), stalls=Stalls(flicker=3))


@pytest.mark.parametrize("form", ["parallel, spacing 2", "serial, digit 1", "serial, digit 2"])
def test_ternary_matrix(form):
    matrix = np.random.default_rng(0).choice([-1, 0, 1], size=(6, 10), p=[0.25, 0.5, 0.25])
    check(form, trees(matrix), Bus(10, 4))


EDGES = {
    "wires": (AdderGraph(2, (), (Output(1), Output(0), Output(1))), Bus(2, 3), None),
    "shifted wires": (AdderGraph(2, (), (Output(1, 2), Output(0, 5))), Bus(2, 3, signed=True), None),
    "negated inputs": (AdderGraph(2, (), (Output(0, negative=True), Output(0), Output(1, 3, True))), Bus(2, 3), None),
    "least value negated": (AdderGraph(1, (), (Output(0, negative=True),)), Bus(1, 3, signed=True), None),
    "rows of 0": (AdderGraph(1, (Adder(0, 0),), (Output(), Output(1), Output())), Bus(1, 2), None),
    "nothing but 0": (AdderGraph(2, (), (Output(), Output())), Bus(2, 2), None),
    "what cancels": (AdderGraph(1, (Adder(0, 0, subtract=True),), (Output(1),)), Bus(1, 4), Bus(1, 1)),
    "a sum negated twice": (AdderGraph(2, (Adder(0, 1),), (Output(2, 1, True), Output(2, 0, True))), Bus(2, 3), None),
    "shift beyond the other": (AdderGraph(2, (Adder(0, 1, 0, 6), Adder(0, 1, 6, 0)), (Output(2), Output(3))), Bus(2, 3), None),
    "the same, signed": (AdderGraph(2, (Adder(0, 1, 0, 6, True), Adder(0, 1, 6, 0, True)), (Output(2), Output(3))), Bus(2, 3, True), None),
    "both shifted": (AdderGraph(2, (Adder(0, 1, 2, 3), Adder(0, 1, 3, 1, True)), (Output(2), Output(3))), Bus(2, 2), None),
    "larger on the way": (AdderGraph(2, (Adder(0, 1, 0, 3), Adder(2, 1, 0, 3, True)), (Output(3),)), Bus(2, 3), Bus(1, 3)),
    "unsigned result": (AdderGraph(2, (Adder(0, 1, 0, 1),), (Output(2),)), Bus(2, 2), Bus(1, 4)),
    "wide result": (AdderGraph(2, (Adder(0, 1, subtract=True),), (Output(2),)), Bus(2, 1), Bus(1, 9, True)),
    "early and late": (AdderGraph(2, (Adder(0, 1), Adder(2, 0), Adder(3, 0, 0, 1)), (Output(4), Output(0), Output(2))), Bus(2, 2), None),
}  # fmt: skip


@pytest.mark.parametrize("form", ["parallel, spacing 1", "parallel, spacing 2", "serial, digit 1", "serial, digit 3"])
@pytest.mark.parametrize("name", EDGES)
def test_edges(form, name):
    check(form, *EDGES[name])


@pytest.mark.parametrize("digit", [1, 2])
def test_long_vectors_are_cut(digit, monkeypatch):
    monkeypatch.setattr(digits, "LONGEST", 3)
    check(f"serial, digit {digit}", trees(np.random.default_rng(1).integers(-1, 2, (5, 7))), Bus(7, 3, signed=True))


def test_elements_beyond_the_bounds_do_not_cost_width():
    """Sums are as wide as what can be, not as what the bus could carry."""
    graph = AdderGraph(2, (Adder(0, 1), Adder(0, 1, subtract=True)), (Output(2), Output(3)))
    shapes = Parallel(Bus(2, 4), Bus(2, 5, True), graph, (0, 8)).shapes
    assert [(s.width, s.signed) for s in shapes] == [(4, False), (4, False), (5, False), (5, True)]
    shapes = Parallel(Bus(2, 4), Bus(2, 5, True), graph, (0, 7)).shapes
    assert [(s.width, s.signed) for s in shapes] == [(3, False), (3, False), (4, False), (4, True)]


@pytest.mark.parametrize("form", ["parallel, spacing 1", "serial, digit 2"])
@pytest.mark.parametrize("before, stalled", [(5, False), (17, False), (40, True)])
def test_nothing_is_left_of_what_was_before_a_reset(form, before, stalled):
    block = made(
        form, AdderGraph(2, (Adder(0, 1, 1, 0, True), Adder(2, 0)), (Output(3), Output(2, 0, True))), Bus(2, 4)
    )
    found = run_after_reset(block, {}, before, stalled)
    assert found == run_after_reset(block, {}, 0, False)
    assert all(found)


# --- numbers of cycles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form, interval, latency",
    [  # DEEP has 3 levels; for 3 bits its results have 7
        ("parallel, spacing 1", 1, 4),
        ("parallel, spacing 2", 1, 3),
        ("parallel, spacing 3", 1, 2),
        ("serial, digit 1", 7, 11),
        ("serial, digit 2", 4, 8),
        ("serial, digit 3", 3, 7),
        ("serial, digit 4", 2, 6),
    ],
)
def test_vectors_follow_each_other_by_the_interval(form, interval, latency):
    block = made(form, DEEP, Bus(3, 3))
    assert block.o.width == 7
    assert (block.interval, block.latency) == (interval, latency)
    run = bench(block, [vectors(block.i, 6)])
    assert run.taken[0] == [interval * k + block.digits - 1 for k in range(6)]
    assert run.given[0] == [interval * k + latency for k in range(6)]


@pytest.mark.parametrize("form, latency", [("parallel, spacing 3", 2), ("serial, digit 1", 4)])
def test_wires_take_their_time(form, latency):
    block = made(form, AdderGraph(1, (), (Output(0),)), Bus(1, 3), Bus(1, 3))
    run = bench(block, [vectors(Bus(1, 3), 2)])
    assert run.given[0][0] - run.taken[0][0] == latency - block.digits + 1


def test_pipeline_stops_while_a_result_waits():
    """The first result is offered in cycle 4 and taken in 9: what is behind it stands still for 5 cycles."""
    block = made("parallel, spacing 1", DEEP, Bus(3, 3))
    run = bench(block, [vectors(block.i, 8)], stalls=Stalls(sinks=((9,),)))
    assert run.taken[0] == [0, 1, 2, 3, 9, 10, 11, 12]
    assert run.given[0] == [9, 10, 11, 12, 13, 14, 15, 16]


def test_result_waits_in_registers_of_its_own():
    """The first result is offered in cycle 11 and taken in 15, before the second one comes: nothing stops."""
    block = made("serial, digit 1", DEEP, Bus(3, 3))
    run = bench(block, [vectors(block.i, 4)], stalls=Stalls(sinks=((15,),)))
    assert run.given[0] == [15, 18, 25, 32]
    assert run.taken[0] == [2, 9, 16, 23]


def test_word_waits_where_it_stands():
    """The first result is taken in cycle 20: the second one's last tick comes after it instead of in 17, and all that is behind it waits."""
    block = made("serial, digit 1", DEEP, Bus(3, 3))
    run = bench(block, [vectors(block.i, 4)], stalls=Stalls(sinks=((20,),)))
    assert run.given[0] == [20, 22, 29, 36]
    assert run.taken[0] == [2, 9, 16, 27]


def test_word_stands_until_its_last_digit_is_read_though_the_pipeline_stops_between():
    """The third word's first digit is read in cycle 16, its second one in 21, when the pipeline goes on."""
    block = made("serial, digit 1", DEEP, Bus(3, 3))
    run = bench(block, [vectors(block.i, 3)], stalls=Stalls(sources=((0, 0, 6),), sinks=((20,),)))
    assert run.taken[0] == [2, 9, 22]


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("i, o", [(Bus(2, 3), Bus(2, 7, True)), (Bus(3, 3), Bus(3, 7, True))])
@pytest.mark.parametrize("form", ["parallel, spacing 1", "serial, digit 1"])
def test_lanes_that_are_not_the_matrix_are_refused_wrong(form, i, o):
    with pytest.raises(ValueError, match="a matrix of 2 x 3 takes and gives as many lanes"):
        made(form, DEEP, i, o)


@pytest.mark.parametrize("form", ["parallel, spacing 1", "serial, digit 1"])
def test_adders_that_nothing_needs_are_refused_wrong(form):
    with pytest.raises(ValueError, match=r"by AdderGraph\.trimmed"):
        made(form, AdderGraph(2, (Adder(0, 1),), (Output(1),)), Bus(2, 3))


def test_no_levels_between_registers_are_refused_wrong():
    with pytest.raises(ValueError, match="at least 1 level between registers, not 0"):
        Parallel(Bus(3, 3), Bus(2, 7, True), DEEP, (0, 7), 0)


def test_digit_without_bits_is_refused_wrong():
    with pytest.raises(ValueError, match="a digit must have at least 1 bit, not 0"):
        Serial(Bus(3, 3), Bus(2, 7, True), DEEP, 0)
