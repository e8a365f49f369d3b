"""Random networks placed block by block: every stream carries what the network says, and nothing ever stands still."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.adders import Adder, AdderGraph, Output
from hw.axi_stream import AxisIn, AxisOut
from hw.block import Bus
from hw.engine import Engine
from hw.fifo import Fifo
from hw.fork import Fork
from hw.pad import Pad
from hw.parallel import Parallel
from hw.reorder import Reorder
from hw.rows import RowPacker
from hw.serial import Serial
from hw.slice import Slice
from hw.width import Narrow, Widen
from hw.window import Window
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType
from tcompile.ir.interpret import interpret
from tcompile.ir.requantizers import Shift, Table
from tcompile.mapping.converters import holding
from tcompile.mapping.cycles import FRAMES, predict
from tcompile.mapping.design import Design
from tcompile.mapping.devices import Device
from tcompile.mapping.folding import DIGITS, FORMS, Fold, Folding, Wish
from tcompile.mapping.geometry import bus_of
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import linear
from tcompile.mapping.network import map_network
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import Choice, planned, searched, spacing_of, tasks
from tcompile.mapping.queues import queue_depths
from tcompile.simulate.gateware import simulate
from tests.networks import Builder, RandomNetwork, differences, frames_of, random_folds


def placed(graph: Graph, seed: int = 0, lanes: int = 8, pace: int = 1) -> Design:
    """With lanes at random, and queues as deep as they must be."""
    recipe = Recipe(random_folds(graph, seed), lanes, pace, relays=seed % 2 == 1)
    return place(graph, replace(recipe, depths=queue_depths(place(graph, recipe))))


@given(st.integers(0, 1 << 30), st.integers(1, 8), st.sampled_from([1, 50, 2000]), st.integers(1, 8))
@settings(max_examples=250)
def test_blocks_compute_the_network(seed, lanes, pace, size):
    graph = RandomNetwork(seed, size).graph()
    design = placed(graph, seed, lanes, pace)
    assert differences(design, graph, frames_of(graph, 2, seed)) == []
    assert len(predict(design).ends) == FRAMES


@given(st.integers(0, 1 << 30), st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=60)
def test_blocks_compute_the_network_in_mixed_forms(seed, pe, simd, size):
    graph, random = RandomNetwork(seed, size).graph(), np.random.default_rng(seed)
    forms = {task.label: Wish(form=FORMS[random.integers(3)]) for task in tasks(graph).values()}
    others = Wish(digit=int(random.choice(DIGITS)), spacing=int(random.integers(1, 4)))
    mapped = map_network(graph, Choice(pe, simd, Folding(forms, others), spacing=1 + seed % 2, permute=False))
    assert differences(mapped.design, graph, frames_of(graph, 2, seed)) == []
    assert len(mapped.cycles.ends) == FRAMES


@pytest.mark.parametrize("seed", range(14))
def test_gateware_computes_the_network_in_the_cycles_of_the_model(seed):
    graph = RandomNetwork(seed, 4).graph()
    design = placed(graph, seed, 1 + seed % 4, 300 * (seed % 2))
    frames = frames_of(graph, FRAMES, seed)
    wanted, cycles = interpret(graph, frames), predict(design)
    run = simulate(design, [e.layout.to_beats(frames[e.value], design.streams[e.stream].bus) for e in design.inputs])
    for edge, beats in zip(design.outputs, run.outputs, strict=True):
        found = edge.layout.from_beats(beats, design.streams[edge.stream].bus)
        assert np.array_equal(found, wanted[edge.value])
    assert (run.first, run.ends, run.standstill, run.faults) == (cycles.first, cycles.ends, {}, ())


# --- what is put where -----------------------------------------------------------------------------------------------


def kinds(design: Design) -> list[str]:
    return [type(i.block).__name__ for i in design.instances]


def blocks(design: Design, kind: type) -> list:
    return [i.block for i in design.instances if isinstance(i.block, kind)]


def test_names_are_those_of_values_and_roles_and_stay_apart():
    b = Builder()
    x = b.input((1, 4, 6))
    y = b.add_scaled(x, b.pad(b.slice(x, (0, 0, 0), (1, 1, 1), (1, 4, 5)), (0, 0, 1, 0, 0, 0), 0))
    design = placed(b.graph(y), lanes=4)
    names = [i.name for i in design.instances]
    assert names == [
        "v0_s_axis_0", "v0_fork", "v0_branch0", "v0_branch1", "v1_slice", "v2_pad", "v3_add", "v3_m_axis_0",
    ]  # fmt: skip
    assert [i.layer for i in design.instances] == [n.split("_")[0] for n in names]
    assert [s.name for s in design.streams.values()] == [f"s{k}" for k in range(8)]


def test_two_conversions_of_a_value_have_two_names():
    b = Builder()
    x = b.input((1, 4, 6))
    heads = [b.conv(x, np.ones((1, 4, 1), int)) for _ in range(3)]
    graph = b.graph(*heads)
    recipe = Recipe({h: Fold(1, n) for h, n in zip(heads, (4, 2, 1), strict=True)}, 4)
    assert [i.name for i in place(graph, recipe).instances if "narrow" in i.name] == ["v0_narrow", "v0_narrow_2"]


def test_every_use_of_a_value_has_a_queue():
    b = Builder()
    x = b.input((1, 2, 3))
    y = b.add_scaled(x, x)
    design = placed(b.graph(y, x))
    (fork,) = blocks(design, Fork)
    assert (fork.copies, len(blocks(design, Fifo))) == (3, 3)
    assert [e.value for e in design.outputs] == [y, x]
    assert [(e.port, e.value) for e in design.inputs] == [(0, x)]


def test_inputs_without_use_have_no_port():
    b = Builder()
    b.input((1, 2, 3))
    x = b.input((1, 2, 3))
    design = placed(b.graph(x))
    assert [(e.port, e.value) for e in design.inputs] == [(0, x)]
    assert kinds(design) == ["AxisIn", "AxisOut"]


def test_ports_count_the_beats_of_a_frame():
    b = Builder()
    x = b.input((1, 5, 3))
    design = placed(b.graph(b.pool(x, (3,))), lanes=2)
    assert [(k.beats, k.bus.lanes) for k in (*blocks(design, AxisIn), *blocks(design, AxisOut))] == [(9, 2), (3, 2)]


@pytest.mark.parametrize(
    "lanes, channels, found",
    [(3, 8, 3), (8, 3, 3), (1, 8, 1)],
)
def test_input_has_the_lanes_of_the_recipe_but_no_more_than_channels(lanes, channels, found):
    b = Builder()
    assert blocks(placed(b.graph(b.pool(b.input((1, channels, 2)), (2,))), lanes=lanes), AxisIn)[0].bus.lanes == found


def image(make, fold: Fold, lanes: int = 8) -> Design:
    """An input of 4 channels, something in between, and a convolution of 6 rows over 2 taps."""
    b = Builder()
    x = make(b, b.input((1, 4, 6)))
    y = b.conv(x, np.ones((6, b.shape(x)[1], 2), int))
    return place(b.graph(y), Recipe({y: fold}, lanes))


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: x,
        lambda b, x: b.requantize(x, Table([0], (range(16),))),
        lambda b, x: b.pool(x, (1,)),
        lambda b, x: b.pool(x, (1,), maximum=False),
        lambda b, x: b.add_scaled(x, x),
    ],
)
def test_input_comes_in_the_lanes_of_the_layer_that_takes_it(make):
    assert blocks(image(make, Fold(1, 2)), AxisIn)[0].bus.lanes == 2
    assert not blocks(image(make, Fold(1, 2)), Narrow)


def test_input_comes_position_by_position_to_a_packed_layer():
    design = image(lambda b, x: x, Fold(2, 8))
    assert kinds(design) == ["AxisIn", "RowPacker", "Engine", "AxisOut"]
    (rows,) = blocks(design, RowPacker)
    assert (rows.bus.lanes, rows.out.lanes, rows.width, rows.kernel) == (4, 8, 6, 2)


def test_input_comes_in_the_rows_of_a_depthwise_layer():
    b = Builder()
    x = b.input((1, 4, 6))
    y = b.conv(x, np.ones((4, 1, 2), int), group=4)
    design = place(b.graph(y), Recipe({y: Fold(3, 1)}, 8))
    (engine,) = blocks(design, Engine)
    assert (engine.kind, engine.i.lanes, engine.o.lanes, blocks(design, AxisIn)[0].bus.lanes) == ("lane", 3, 3, 3)


def test_widths_are_converted_through_their_common_divisor():
    b = Builder()
    x = b.input((1, 12, 6))
    first = b.conv(x, np.ones((12, 12, 1), int))
    second = b.conv(first, np.ones((1, 12, 1), int))
    design = place(b.graph(second), Recipe({first: Fold(4, 1), second: Fold(1, 6)}, 8))
    (narrow,), (widen,) = blocks(design, Narrow), blocks(design, Widen)
    assert (narrow.bus.lanes, narrow.lanes, widen.bus.lanes, widen.lanes) == (4, 2, 2, 6)
    only = place(b.graph(second), Recipe({first: Fold(4, 1), second: Fold(1, 2)}, 8))
    assert (len(blocks(only, Narrow)), len(blocks(only, Widen))) == (1, 0)


@pytest.mark.parametrize(
    "weights, simd, narrow, widen",
    [(6, 6, False, False), (7, 6, True, True), (7, 2, True, False), (9, 2, True, False), (10, 2, True, True), (8, 3, True, False), (9, 3, True, True)],
)  # fmt: skip
def test_what_gathers_requantized_beats_rests_where_it_keeps_up(weights, simd, narrow, widen):
    """Results of six channels leave one by one, as often as the engine has weights."""
    b = Builder()
    one = np.ones(6, np.int64)
    first = b.conv(b.input((1, 1, weights + 4), lo=0, hi=15), np.ones((6, 1, weights), int))
    y = b.requantize(first, Shift(one < 0, 1, 0 * one, "up", 0 * one, 15 * one, bits=3 * one))
    second = b.conv(y, np.ones((2, 6, 1), int))
    design = place(b.graph(second), Recipe({first: Fold(6, 1, out=1), second: Fold(1, simd)}, 8))
    assert [block.rests for kind in (Narrow, Widen) for block in blocks(design, kind)] == [narrow, widen]


def test_other_orders_go_through_a_memory_of_frames():
    b = Builder()
    x = b.input((1, 2, 3))
    design = placed(b.graph(b.add_scaled(x, b.transpose(b.reshape(x, (1, 3, 2)), (0, 2, 1)))))
    (reorder,) = blocks(design, Reorder)
    (memory,) = [i.memories["order"] for i in design.instances if isinstance(i.block, Reorder)]
    assert (reorder.beats, sorted(memory)) == (6, list(range(6)))


@pytest.mark.parametrize("pads, code", [((1, 0), 0), ((0, 1), -2), ((0, 0), 0)])
def test_padding_is_put_into_the_stream(pads, code):
    b = Builder()
    x = b.input((1, 2, 3))
    y = b.conv(x, np.ones((1, 2, 2), int), pads=pads, pad_code=code)
    design = place(b.graph(y), Recipe({y: Fold(1, 2)}, 8))
    found = blocks(design, Pad)
    assert len(found) == any(pads)
    if found:
        assert (found[0].grid, found[0].before, found[0].inner, found[0].code) == ((4, 1), (pads[0], 0), (3, 1), code)


def test_maximum_ignores_its_border():
    b = Builder()
    x = b.input((1, 1, 3), -5, 3)
    (pad,) = blocks(placed(b.graph(b.pool(x, (2,), pads=(1, 0)))), Pad)
    assert pad.code == -5


def test_weights_of_one_digit_need_no_doubles():
    def doubles(low: int, high: int) -> bool:
        b = Builder()
        y = b.dense(b.input((1, 2)), np.array([[low, high]]))
        (engine,) = blocks(placed(b.graph(y)), Engine)
        assert engine.weight_width == max(2, linear(b.nodes[-1], layouts(b.graph(y))["v0"]).width)
        return engine.doubles

    assert [doubles(-1, 1), doubles(-2, 1), doubles(0, 2), doubles(0, 0)] == [False, True, True, False]


def test_layer_without_weights_has_a_tile_of_zeros():
    b = Builder()
    y = b.dense(b.input((1, 6)), np.zeros((4, 6), int))
    design = placed(b.graph(y), seed=1)
    ((lanes, words),) = [
        (i.block.lanes, i.memories["weights"]) for i in design.instances if isinstance(i.block, Engine)
    ]
    assert len(words) == 1 and not lanes.decode(words).any()
    assert differences(design, b.graph(y), frames_of(b.graph(y), 3)) == []


def test_outbox_never_holds_an_engine_up():
    b = Builder()
    y = b.dense(b.input((1, 6)), np.ones((4, 6), int))
    graph = b.graph(y)
    for simd in (1, 2, 6):
        (engine,) = blocks(place(graph, Recipe({y: Fold(1, simd)}, 8)), Engine)
        assert engine.places == -(-(engine.pipeline + 1) // (6 // simd))


@pytest.mark.parametrize("pace, wide", [(1, True), (10_000, False)])
def test_requantizer_takes_its_leisure(pace, wide):
    b = Builder()
    x = b.input((1, 2, 3), -100, 100)
    one = np.array([3])
    form = Shift(one < 0, 5, one, "up", one - 10, one + 10, bits=one)
    y = b.requantize(x, form)
    design = place(b.graph(y), Recipe({}, 2, pace))
    assert predict(design).interval == 3 if wide else predict(design).interval >= 3


def test_requantizer_behind_an_engine_takes_the_time_of_a_row_block():
    from tcompile.ir.requantizers import Division

    b = Builder()
    x = b.input((1, 16, 4))
    y = b.conv(x, np.ones((2, 16, 1), int))
    one = np.array([7])
    z = b.requantize(y, Division(one < 0, 1, one, "up", one - 10, one + 10, divisor=one))
    units = []
    for simd in (1, 16):
        design = place(b.graph(z), Recipe({y: Fold(1, simd)}, 8))
        units += [i.block.units for i in design.instances if i.name == "v2_requantize"]
        assert predict(design).interval == 4 * 2 * 16 // simd
    assert units[0] < units[1]


def test_requantizer_that_changes_nothing_is_left_out():
    b = Builder()
    zero = np.array([0])
    y = b.requantize(b.input((1, 2, 3)), Shift(zero > 0, 1, zero, "up", zero, zero + 15, bits=zero))
    assert kinds(placed(b.graph(y))) == ["AxisIn", "AxisOut"]


def test_slice_of_whole_beats_keeps_its_lanes():
    def lanes(start: int, size: int, step: int = 1) -> int:
        b = Builder()
        y = b.slice(b.input((1, 12, 3)), (0, start, 0), (1, step, 1), (1, size, 3))
        design = placed(b.graph(y), lanes=4)
        assert differences(design, b.graph(y), frames_of(b.graph(y), 2)) == []
        return blocks(design, Slice)[0].bus.lanes

    assert [lanes(4, 8), lanes(0, 6), lanes(2, 10), lanes(3, 9), lanes(0, 6, 2), lanes(4, 5)] == [4, 2, 2, 1, 1, 1]


def test_pad_of_whole_beats_keeps_its_lanes():
    def lanes(channels: int, first: int, last: int) -> int:
        b = Builder()
        y = b.pad(b.input((1, channels, 3)), (0, first, 1, 0, last, 0), 2)
        design = placed(b.graph(y), lanes=4)
        assert differences(design, b.graph(y), frames_of(b.graph(y), 2)) == []
        return blocks(design, Pad)[0].bus.lanes

    assert [lanes(8, 4, 4), lanes(8, 0, 0), lanes(8, 2, 0), lanes(6, 4, 0), lanes(6, 0, 4), lanes(6, 0, 0)] == [
        4, 4, 2, 4, 2, 4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "lo, hi, more, bus",
    [(0, 7, (), (3, False)), (0, 7, (-1,), (4, True)), (-4, 3, (9,), (5, True)), (0, 0, (), (1, False))],
)
def test_bus_holds_the_interval_and_more(lo, hi, more, bus):
    assert bus_of(IntType((1,), lo, hi), 2, *more) == Bus(2, *bus)


@pytest.mark.parametrize(
    "bus, others, found",
    [
        (Bus(2, 4), [Bus(3, 3)], Bus(2, 4)),
        (Bus(2, 4), [Bus(3, 6)], Bus(2, 6)),
        (Bus(2, 1, True), [Bus(3, 1)], Bus(2, 2, True)),
        (Bus(2, 4), [Bus(1, 4, True)], Bus(2, 5, True)),
        (Bus(2, 4, True), [Bus(1, 3), Bus(1, 5)], Bus(2, 6, True)),
    ],
)
def test_bus_is_made_wide_enough_for_others(bus, others, found):
    assert holding(bus, *others) == found


def test_constant_zero_is_padded_with_less():
    """One bit holds 0, and one bit with a sign holds -1 and 0, but not the other way round."""
    b = Builder()
    x = b.requantize(b.input((1, 2, 3)), Table([0], ([0] * 16,)))
    y = b.conv(x, np.ones((1, 2, 2), int), pads=(1, 0), pad_code=-1)
    for simd in (2, 4):
        graph = b.graph(y)
        design = place(graph, Recipe({y: Fold(1, simd)}, 2))
        assert differences(design, graph, frames_of(graph, 2)) == []


def test_streams_are_what_they_are_called():
    b = Builder()
    x = b.input((1, 5, 3))
    y = b.slice(x, (0, 1, 0), (1, 1, 1), (1, 3, 3))
    design = placed(b.graph(y), lanes=4)
    assert [(s.value, s.bus.lanes, s.beats) for s in design.streams.values()] == [(x, 4, 6), (x, 1, 15), (y, 1, 9)]


@pytest.mark.parametrize("pe, narrow", [(1, True), (3, True), (6, False)])
@pytest.mark.parametrize("form", ["serial", "parallel"])
def test_graph_takes_windows_and_gives_all_rows_then_pe_of_them(form, pe, narrow):
    b = Builder()
    x = b.input((1, 4, 6))
    y = b.conv(x, np.ones((6, 4, 2), int), pads=(1, 0), pad_code=-3)
    (task,) = tasks(b.graph(y)).values()
    fold = Fold(pe, 2, form, 2, 3)
    graph = searched(task, planned(task, fold)).graph
    design = place(b.graph(y), Recipe({y: fold}, 8, graphs={y: graph}))
    assert kinds(design) == ["AxisIn", "Pad", "Window", form.title(), *["Narrow"] * narrow, "AxisOut"]
    (block,) = blocks(design, Serial if form == "serial" else Parallel)
    assert (block.i.lanes, block.o.lanes, block.graph) == (8, 6, graph)
    assert (block.digit == 2) if form == "serial" else ((block.bounds, block.spacing) == ((-3, 15), 3))
    assert blocks(design, AxisOut)[0].bus.lanes == pe


@pytest.mark.parametrize(
    "form, digit, pace, pe, window, narrow",
    [
        ("serial", 1, 1, 1, True, [True]), ("serial", 8, 34, 1, True, [False]), ("serial", 8, 35, 1, True, [True]),
        ("parallel", 1, 34, 1, True, [False]), ("parallel", 1, 35, 1, True, [True]), ("parallel", 1, 10, 6, False, []), ("parallel", 1, 11, 6, True, []),
    ],
)  # fmt: skip
def test_neighbours_of_a_graph_rest_where_the_layer_keeps_the_pace(form, digit, pace, pe, window, narrow):
    """Five results in 6 parts each, of 7 digits for words of 4, or of one digit."""
    b = Builder()
    y = b.conv(b.input((1, 4, 6), lo=0, hi=15), np.ones((6, 4, 2), int))
    (task,) = tasks(b.graph(y)).values()
    fold = Fold(pe, 4, form, digit)
    design = place(b.graph(y), Recipe({y: fold}, 8, pace, graphs={y: searched(task, planned(task, fold)).graph}))
    assert [block.rests for block in (*blocks(design, Window), *blocks(design, Narrow))] == [window, *narrow]


@settings(max_examples=25)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(3, 8), st.integers(3, 10)), kernel=st.sampled_from([1, 3]), stride=st.integers(1, 3),
    pe=st.sampled_from([1, 2, 4]), digit=st.integers(1, 3), late=st.integers(0, 40), seed=st.integers(0, 99),
)  # fmt: skip
def test_what_rests_beside_a_graph_costs_nothing_beyond_the_pace(sizes, kernel, stride, pe, digit, late, seed):
    """interval(rests at this pace) <= max(pace, interval(nothing rests))"""
    b = Builder()
    weights = np.random.default_rng(seed).integers(-1, 2, (8, sizes[0], kernel, kernel))
    y = b.conv(b.input((1, *sizes), lo=0, hi=15), weights, strides=(stride, stride), pads=(kernel // 2,) * 4)
    (task,) = tasks(b.graph(y)).values()
    fold = Fold(pe, 1, "serial", digit)
    recipe = Recipe({y: fold}, 8, graphs={y: searched(task, planned(task, fold)).graph})
    own = predict(restless(place(b.graph(y), recipe))).interval
    pace = own + late
    assert predict(place(b.graph(y), replace(recipe, pace=pace))).interval <= pace


def restless(design: Design) -> Design:
    """The same design in which nothing rests."""
    instances = [
        replace(i, block=replace(i.block, rests=False)) if hasattr(i.block, "rests") else i for i in design.instances
    ]
    return replace(design, instances=tuple(instances))


@pytest.mark.parametrize("slack, rests", [(0, False), (3, False), (4, True)])
def test_what_rests_keeps_the_pace_at_the_ends_of_rows_too(slack, rests):
    """Rows of four results, two words apart, then eleven words: a result of 10 digits for words of 4 waits there alone."""
    b = Builder()
    x = b.input((1, 2, 8, 8), lo=0, hi=15)
    weights = np.random.default_rng(0).integers(-1, 2, (4, 2, 3, 3))
    y = b.conv(x, weights, strides=(2, 2), pads=(1, 1, 1, 1))
    folding = Folding(defaults=Wish(form="serial", digit=1))
    mapped = map_network(b.graph(y), Choice(budget=196 + slack, folding=folding))
    assert mapped.interval == 196 + 4 * rests
    assert [w.rests for w in blocks(mapped.design, Window)] == [rests]


@pytest.mark.parametrize("clock_mhz, tree, relays", [(100, 2, False), (125, 2, False), (126, 1, True), (50, 2, False)])
def test_a_fast_clock_has_more_registers(clock_mhz, tree, relays):
    """Behind every adder and before the layer; what takes results apart rests at any clock: they come every eighteen cycles at the earliest."""
    b = Builder()
    y = b.conv(b.input((1, 4, 6), lo=0, hi=15), np.ones((6, 4, 2), int), pads=(1, 0))
    one = np.ones(6, np.int64)
    y = b.conv(
        b.requantize(y, Shift(one < 0, 1, 0 * one, "up", 0 * one, 15 * one, bits=3 * one)), np.ones((2, 6, 1), int)
    )
    mapped = map_network(b.graph(y), Choice(6, 1, spacing=spacing_of(clock_mhz)))
    assert [block.tree for block in blocks(mapped.design, Engine)] == [tree] * 2
    assert [block.depth for block in blocks(mapped.design, Fifo)] == [2, 2] * relays
    narrows = blocks(mapped.design, Narrow)
    assert narrows
    assert all(block.rests for block in narrows)


def test_what_rests_may_take_a_few_cycles_where_no_rate_is_asked_for():
    """As above, with 64 rows of results."""
    b = Builder()
    weights = np.random.default_rng(0).integers(-1, 2, (4, 2, 3, 3))
    y = b.conv(b.input((1, 2, 128, 128), lo=0, hi=15), weights, strides=(2, 2), pads=(1, 1, 1, 1))
    choice = Choice(folding=Folding(defaults=Wish(form="serial", digit=1)))
    eased = map_network(b.graph(y), replace(choice, target=Device("x", "ecp5", 9**9, 9**9, 9**9)))
    strict = map_network(b.graph(y), replace(choice, budget=eased.interval - 1))
    assert [w.rests for m in (eased, strict) for w in blocks(m.design, Window)] == [True, False]
    assert strict.interval < eased.interval <= strict.interval * 257 // 256


def test_input_comes_in_the_channels_that_a_graph_takes_even_where_each_row_has_one():
    b = Builder()
    y = b.conv(b.input((1, 4, 6)), np.ones((4, 1, 2), int), group=4)
    (task,) = tasks(b.graph(y)).values()
    fold = Fold(1, 2, "serial")
    design = place(b.graph(y), Recipe({y: fold}, 8, graphs={y: searched(task, planned(task, fold)).graph}))
    assert kinds(design) == ["AxisIn", "Window", "Serial", "Narrow", "AxisOut"]
    assert blocks(design, AxisIn)[0].bus.lanes == 2


def test_recipe_with_graphs_goes_through_json():
    graph = AdderGraph(2, (Adder(0, 1, 0, 2, subtract=True),), (Output(2, 1), Output()))
    recipe = Recipe({"v1": Fold(2, 3, "serial", 4)}, 4, 77, graphs={"v1": graph})
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_recipe_goes_through_json():
    recipe = Recipe({"v1": Fold(2, 3)}, 4, 77, {"v0_branch1": 9})
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_operation_without_a_block_is_refused_wrong():
    class Strange(I.IntNode):
        pass

    x = I.Input(name="x", type=IntType((1, 2), 0, 1))
    with pytest.raises(TypeError, match="Strange has no block"):
        place(Graph("integer", (x, Strange(name="y", inputs=("x",), type=x.type)), ("y",)), Recipe({}))
