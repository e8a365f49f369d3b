"""A design in Amaranth's simulator: values of the models, cycles of the timing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from amaranth.hdl import Fragment, Instance, Module
from amaranth.sim import Simulator

from hw import timing
from hw.axi_stream import AxisOut
from hw.block import pack
from tcompile.simulate.gateware import Accelerator, simulate
from tcompile.simulate.netlist import netlist
from tcompile.simulate.run import Pauses
from tests.designs import BUS, LAYOUT, design, expected, inputs

BEATS = LAYOUT.beats(BUS.lanes)


def predicted_ends(found, frames):
    """Cycles of the last output beats by the timing of the blocks."""
    channels = {n: timing.Channel(n, record=True) for n in (*found.streams, "in", "out")}
    processes = [timing.source(channels["in"], frames * BEATS), timing.sink(channels["out"])]
    for k, instance in enumerate(found.instances):
        i = [channels[n] for n in (instance.inputs if k else ("in",))]
        o = [channels[n] for n in (instance.outputs or ("out",))]
        processes += instance.block.processes(i, o)
    timing.run(processes)
    return tuple(channels["out"].times[BEATS - 1 :: BEATS])


def test_values_are_those_of_the_models():
    x = inputs(3)
    run = simulate(design(), [x], probes=["b", "c"])
    wanted = expected(design(), x)
    assert np.array_equal(run.outputs[0], wanted["d"])
    assert all(np.array_equal(run.probes[n], wanted[n]) for n in "bc")
    assert run.faults == ()


def test_cycles_are_those_of_the_timing():
    run = simulate(design(), [inputs(4)])
    assert run.ends == predicted_ends(design(), 4)
    assert run.latency == run.ends[0] - run.first
    assert run.intervals == (BEATS,) * 3
    assert run.cycles == run.ends[-1] + 1


def test_pauses_change_cycles_only():
    x = inputs(3)
    free, *paused = (simulate(design(), [x], stall=s) for s in (None, 0, 1, 2))
    assert all(np.array_equal(run.outputs[0], free.outputs[0]) and run.faults == () for run in paused)
    assert len({run.ends for run in (free, *paused)}) == 4


def test_pauses_alternate_between_bursts_and_rests():
    pauses = Pauses(1, 0)
    shares = [np.mean([pauses.active() for _ in range(64)]) for _ in range(300)]
    assert min(shares) < 0.1
    assert max(shares) == 1


def test_standstill_names_the_streams():
    run = simulate(design(broken=True), [inputs(2)], patience=100)
    assert [n for n, state in run.standstill.items() if state == "blocked"] == ["s_axis_0", "a", "b"]
    assert {run.standstill[n] for n in ("c", "d", "m_axis_0")} == {"starved"}
    assert (run.ends, len(run.outputs[0])) == ((), 0)


def test_progress_counts_frames():
    told: list[int] = []
    simulate(design(), [inputs(3)], progress=told.append)
    assert told == [1, 2, 3]


def test_no_frames():
    run = simulate(design(), [inputs(0)])
    assert (run.first, run.ends, run.cycles, run.latency) == (None, (), 0, None)


def test_tlast_at_the_wrong_beat_is_a_fault_wrong():
    whole = design()
    hasty = replace(whole.instances[-1], block=AxisOut(BUS, BEATS // 2))
    run = simulate(replace(whole, instances=(*whole.instances[:-1], hasty)), [inputs(2)])
    assert run.faults == ("TLAST was wrong at 2 output beats",)


def test_beats_too_many_are_a_fault_wrong():
    whole = design()
    short = {**whole.streams, "d": replace(whole.streams["d"], beats=BEATS // 2)}
    run = simulate(replace(whole, streams=short), [inputs(2)])
    assert f"{BEATS} output beats came after the last frame" in run.faults


def test_top_has_no_instances():
    """Amaranth's simulator takes them for silent zeros."""
    assert not instances(Fragment.get(Accelerator(netlist(design(), (0,) * 8)), None))


def test_instances_are_found_wrong():
    m = Module()
    m.submodules.inner = inner = Module()
    inner.submodules.rom = Instance("tc_rom")
    assert instances(Fragment.get(m, None))


def instances(fragment):
    below = [i for sub, *_ in fragment.subfragments for i in instances(sub)]
    return [fragment, *below] if isinstance(fragment, Instance) else below


def test_control_registers_count_what_the_ports_tell():
    identity = tuple(range(1, 9))
    top = Accelerator(netlist(design(), identity))
    beats = inputs(3)
    words = [pack(row, BUS.width) for row in beats]
    found: dict[int, int] = {}

    async def drive(ctx):
        ctx.set(top.m_axis_0_tready, 1)
        ctx.set(top.s_axi_control_rready, 1)
        ctx.set(top.s_axis_0_tvalid, 1)
        for k, word in enumerate(words):
            ctx.set(top.s_axis_0_tdata, word)
            ctx.set(top.s_axis_0_tlast, k in (BEATS - 1, 2 * BEATS - 1))  # the third frame lacks its TLAST
            await ctx.tick().until(top.s_axis_0_tready)
        ctx.set(top.s_axis_0_tvalid, 0)
        await ctx.tick().repeat(100)
        for address in (0x0C, 0x24, 0x40, 0xC0):
            ctx.set(top.s_axi_control_araddr, address)
            ctx.set(top.s_axi_control_arvalid, 1)
            await ctx.tick().until(top.s_axi_control_arready)
            ctx.set(top.s_axi_control_arvalid, 0)
            (found[address],) = await ctx.tick().sample(top.s_axi_control_rdata).until(top.s_axi_control_rvalid)

    m = Module()
    m.submodules.top = top
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    late = 1 << 3
    assert found == {0x0C: late, 0x24: identity[1], 0x40: 3, 0xC0: 3}
