"""No block reads a place of a memory while it is written: what would come then changes nothing.

The Verilog says so to the synthesis (``no_rw_check``), which then adds no logic for such reads.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hw.block import Bus
from hw.fifo import LUT_DEPTH, Fifo
from hw.packet_queue import replayed
from hw.reorder import Reorder
from hw.window import Window
from tcompile.emit.verilog import UNWATCHED, modules
from tests.gateware import Stalls, bench
from tests.test_hw_engine import make
from tests.test_hw_packets import acts, queued
from tests.test_hw_window import GEOMETRIES, frames, window
from tests.yosys import SYNTHESIS, cells


class Shown:
    """A read port whose data may be spoilt."""

    def __init__(self, port: Any) -> None:
        self.port, self.addr, self.en, self.data = port, port.addr, port.en, Signal.like(port.data)


class Spoilt(wiring.Elaboratable):
    """A memory that gives the complement of a word that is read while it is written."""

    made: list[Spoilt]

    def __init__(self, **options: Any) -> None:
        self.memory = Memory(**options)
        self.writes: list[Any] = []
        self.reads: list[Shown] = []
        self.met = Signal()  # whether that ever happened
        type(self).made.append(self)

    def write_port(self, **options: Any) -> Any:
        self.writes.append(self.memory.write_port(**options))
        return self.writes[-1]

    def read_port(self, *, domain: str = "sync", **options: Any) -> Any:
        port = self.memory.read_port(domain=domain, **options)
        if domain == "comb":  # a read between the clock's edges meets no writing
            return port
        self.reads.append(Shown(port))
        return self.reads[-1]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = self.memory
        for read in self.reads:
            hit = Signal()
            with m.If(read.en):
                m.d.sync += hit.eq(0)
                for write in self.writes:
                    with m.If(write.en.any() & (write.addr == read.addr)):
                        m.d.sync += [hit.eq(1), self.met.eq(1)]
            m.d.comb += read.data.eq(Mux(hit, ~read.port.data, read.port.data))
        return m


@pytest.fixture(name="spoilt")
def _spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """All memories that are written are of that kind."""
    Spoilt.made = []
    for place in (
        "hw.engine.Ram",
        "hw.window.Ram",
        "hw.reorder.AmaranthMemory",
        "hw.packet_queue.Memory",
        "amaranth.lib.fifo.Memory",
    ):
        monkeypatch.setattr(place, Spoilt)


SEEDS = [None, 0, 1, 2]


def stalls(seed: int | None, block: Any) -> Stalls:
    return Stalls() if seed is None else Stalls.random(seed, block)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["3x3", "dilated, stride 2", "five words, dilated", "one position, words left over"])
@pytest.mark.usefixtures("spoilt")
def test_windows_do_not_depend_on_it(name, seed):
    block: Window = window(GEOMETRIES[name])
    bench(block, [frames(block)], stalls=stalls(seed, block))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["dot", "max"])
@pytest.mark.parametrize("layer", range(4))
@pytest.mark.usefixtures("spoilt")
def test_engines_do_not_depend_on_it(layer, kind, seed):
    block, x, memories = make(layer, kind)
    bench(block, [x], memories, stalls(seed, block))
    assert Spoilt.made


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beats", [1, 2, 3, 13])
@pytest.mark.usefixtures("spoilt")
def test_reorders_do_not_depend_on_it(beats, seed):
    block = Reorder(Bus(1, 6), beats)
    x = np.random.default_rng(beats).integers(0, 64, (6 * beats, 1))
    bench(block, [x], {"order": block.words(list(range(beats))[::-1])}, stalls(seed, block))
    assert Spoilt.made


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("depth", [LUT_DEPTH + 1, LUT_DEPTH + 9])
@pytest.mark.usefixtures("spoilt")
def test_deep_queues_do_not_depend_on_it(depth, seed):
    block = Fifo(Bus(1, 6), depth)
    bench(block, [np.random.default_rng(depth).integers(0, 64, (200, 1))], stalls=stalls(seed, block))
    assert Spoilt.made


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("depth", [2, 5, 120])
@pytest.mark.usefixtures("spoilt")
def test_packet_queues_do_not_depend_on_it(depth, seed):
    some = acts(len(SEEDS) if seed is None else seed, 12, min(depth, 6))
    assert queued(depth, some, seed if depth == 120 else None) == replayed(depth, some)
    assert Spoilt.made


@pytest.mark.usefixtures("spoilt")
def test_a_memory_that_is_read_while_it_is_written_is_told_wrong():
    memory = Spoilt(shape=8, depth=4, init=[])
    into, out = memory.write_port(), memory.read_port()
    m = Module()
    m.submodules.memory = memory
    m.d.comb += [into.en.eq(1), into.addr.eq(2), into.data.eq(0x5A), out.addr.eq(2)]
    m.d.comb += out.en.eq(1) if isinstance(out.en, Signal) else []
    found = []

    async def look(ctx: Any) -> None:
        await ctx.tick().repeat(3)
        found.append((ctx.get(out.data), ctx.get(memory.met)))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(look)
    simulator.run()
    assert found == [(0x5A ^ 0xFF, 1)]


def test_every_memory_of_the_verilog_says_so():
    block = make(0)[0]
    lines = [
        line
        for line in modules([block, Fifo(Bus(1, 6), 70)])[block].text.splitlines()
        if re.search(r"\breg\b.*\[\d+:\d+\];$", line)
    ]
    assert lines and all(line.strip().startswith(UNWATCHED) for line in lines)


@pytest.mark.long
def test_synthesis_adds_no_logic_for_what_does_not_happen(tmp_path):
    block, flip_flops = Fifo(Bus(1, 32), 300), []
    for name, mark in (("with", UNWATCHED), ("without", "")):
        made = modules([block])[block]
        (tmp_path / name).mkdir()
        (tmp_path / name / "queue.v").write_text(made.text.replace(UNWATCHED, mark))
        flip_flops.append(cells(tmp_path / name, made.name, SYNTHESIS["ecp5"])["TRELLIS_FF"])
    assert flip_flops[0] + 32 <= flip_flops[1]
