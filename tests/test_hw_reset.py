"""A reset in the middle of the work leaves nothing behind: what comes afterwards is as after power-up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator

from hw.add_scaled import AddScaled
from hw.argmax import ArgMax
from hw.block import Block, Bus, pack, unpack
from hw.concat import Concat
from hw.engine import Engine, Entry
from hw.fifo import Fifo
from hw.fork import Fork
from hw.pad import Pad
from hw.reorder import Reorder
from hw.rows import RowPacker
from hw.slice import Slice
from hw.table import Table, table_words
from hw.width import Narrow, Widen
from hw.window import Window
from tests.gateware import join_memories

BUS = Bus(2, 4)
ENGINE = Engine("sum", BUS, Bus(2, 8), 6, 3, ((3, 1),), 3, 3)
ENTRIES = [Entry(k, last=k == 2, next=False) for k in range(3)]
LONE, PAIR = (replace(ENGINE, entries=n) for n in (4, 2))  # one entry in a memory with room, two in one without
TABLE = Table.of(BUS, BUS, [list(range(15, -1, -1))] * 4)
BLOCKS = {
    "add": AddScaled(BUS, BUS, Bus(2, 8), (3, 5)),
    "argmax": ArgMax(BUS, Bus(1, 3), 5),
    "concat": Concat((BUS, BUS), BUS, (2, 3)),
    "engine": ENGINE,
    "engine, one entry": LONE,
    "engine, two entries": PAIR,
    "fifo": Fifo(BUS, 5),
    "long fifo": Fifo(BUS, 70),
    "fork": Fork(BUS, 2),
    "pad": Pad(BUS, BUS, (5, 2), (1, 0), (3, 2), 7),
    "reorder": Reorder(Bus(1, 4), 6),
    "rows": RowPacker(BUS, Bus(6, 4), 5, 3, 1, 1, 1, 1, 9),
    "slice": Slice(BUS, (5, 2), (1, 0), (2, 1), (2, 2)),
    "narrow": Narrow(Bus(4, 4), 2, 7),
    "narrow that rests": Narrow(Bus(4, 4), 2, 7, rests=True),
    "window": Window(Bus(1, 4), (0, 1), ((2, 1),), 2),
    "window that rests": Window(Bus(1, 4), (0, 1), ((2, 1),), 2, rests=True),
    "widen": Widen(BUS, 6, 9),
    "table": TABLE,
}
MEMORIES = {
    "engine": {"schedule": ENGINE.schedule_words(ENTRIES)},
    "engine, one entry": {"schedule": LONE.schedule_words(ENTRIES[2:])},
    "engine, two entries": {"schedule": PAIR.schedule_words(ENTRIES[1:])},
    "reorder": {"order": (3, 1, 5, 0, 2, 4)},
    "table": table_words(TABLE, [0] * 4, [list(range(15, -1, -1))] * 4),
}
FRAME = 60  # beats, a whole number of frames of every block


def run(block: Block, memories: dict, before: int, stalled: bool) -> list[list[list[int]]]:
    """Beats given after a reset that comes `before` cycles after the first beat; the sources begin anew with it."""
    inputs = [np.random.default_rng(k).integers(0, 16, (FRAME, b.lanes)) for k, b in enumerate(block.inputs)]
    reset = Signal()
    m = Module()
    dut = block.component()
    m.submodules.block = ResetInserter(reset)(dut)
    join_memories(m, block, dut, memories)
    ins, outs = ([getattr(dut, n) for n in names] for names in (block.input_names, block.output_names))
    got: list[list[list[int]]] = [[] for _ in outs]

    async def drive(ctx):  # type: ignore[no-untyped-def]
        sent = [0] * len(ins)
        for cycle in range(before + 400):
            if cycle == before:
                sent = [0] * len(ins)
                for beats in got:
                    beats.clear()
            ctx.set(reset, cycle == before - 1)
            for s, x, n in zip(ins, inputs, sent, strict=True):
                ctx.set(s.valid, n < FRAME)
                ctx.set(s.payload, pack(x[min(n, FRAME - 1)], len(s.payload) // x.shape[1]))
            for s in outs:
                ctx.set(s.ready, not (stalled and cycle < before))
            for k, s in enumerate(ins):
                sent[k] += ctx.get(s.valid) and ctx.get(s.ready)
            for beats, s, bus in zip(got, outs, block.outputs, strict=True):
                if ctx.get(s.valid) and ctx.get(s.ready):
                    beats.append(list(unpack(ctx.get(s.payload), bus)))
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return got


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("before, stalled", [(3, False), (8, False), (13, False), (14, True), (40, True)])
def test_nothing_is_left_of_what_was_before_a_reset(name, before, stalled):
    block, memories = BLOCKS[name], MEMORIES.get(name, {})
    found = run(block, memories, before, stalled)
    assert found == run(block, memories, 0, False)
    assert all(found)
