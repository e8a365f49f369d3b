"""Runs one block of the gateware in Amaranth's simulator, and its timing model under the same stalls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory as AmaranthMemory
from amaranth.sim import Simulator

from hw import timing
from hw.block import Beats, Block, Words, pack, unpack

__all__ = ["Run", "Stalls", "bench", "predicted", "ran", "simulated"]

PATIENCE = 300  # cycles without any transfer after which a run is over

LONGEST = 100_000  # cycles of a run that is not stuck in endless output


@dataclass(frozen=True)
class Stalls:
    """Cycles that sources and sinks wait after each transfer; `flicker` lets ``ready`` come and go instead."""

    sources: tuple[tuple[int, ...], ...] = ()
    sinks: tuple[tuple[int, ...], ...] = ()
    flicker: int | None = None

    @classmethod
    def random(cls, seed: int, block: Block, beats: int = 400, most: int = 6) -> Stalls:
        generator = np.random.default_rng(seed)

        def gaps() -> tuple[int, ...]:
            busy = generator.random() < 0.5
            return tuple(
                int(g) for g in generator.integers(0, most, beats) * (generator.random(beats) < 0.3 + 0.5 * busy)
            )

        return cls(tuple(gaps() for _ in block.inputs), tuple(gaps() for _ in block.outputs))

    def gap(self, which: str, port: int, beat: int) -> int:
        rows = getattr(self, which)
        return rows[port][beat] if port < len(rows) and beat < len(rows[port]) else 0


@dataclass(frozen=True)
class Run:
    """What came out, and in which cycle each transfer of each input and output took place."""

    outputs: tuple[Beats, ...]
    taken: tuple[list[int], ...]
    given: tuple[list[int], ...]


def _source(o: timing.Channel, beats: int, port: int, stalls: Stalls) -> timing.Process:
    t = -1
    for k in range(beats):
        t = yield ("put", o, t + 1 + stalls.gap("sources", port, k))


def _sink(i: timing.Channel, port: int, stalls: Stalls) -> timing.Process:
    t, k = -1, 0
    while True:
        t = yield ("get", i, t + 1 + stalls.gap("sinks", port, k))
        k += 1


def predicted(
    block: Block, beats: Sequence[int], stalls: Stalls = Stalls(), memories: Mapping[str, Words] | None = None
) -> tuple[tuple[list[int], ...], tuple[list[int], ...]]:
    """Cycles of all input and output transfers, by the block's timing."""
    i = [timing.Channel(n, record=True) for n in block.input_names]
    o = [timing.Channel(n, record=True) for n in block.output_names]
    timing.run(
        [
            *block.timing(i, o, memories or {}),
            *(_source(c, n, k, stalls) for k, (c, n) in enumerate(zip(i, beats, strict=True))),
            *(_sink(c, k, stalls) for k, c in enumerate(o)),
        ]
    )
    return tuple(c.times or [] for c in i), tuple(c.times or [] for c in o)


def join_memories(m: Module, block: Block, dut: Any, contents: Mapping[str, Words]) -> None:
    """Put the memories of a block beside its gateware."""
    for name, shape in block.memories.items():
        words = contents[name]
        assert shape.takes(words), f"{name} must hold {shape.depth} words of {shape.width} bits, not {len(words)}"
        m.submodules[name] = memory = AmaranthMemory(shape=shape.width, depth=len(words), init=list(words))
        port = memory.read_port()
        m.d.comb += [port.addr.eq(getattr(dut, f"{name}_addr")), getattr(dut, f"{name}_data").eq(port.data)]
        if shape.waits:
            m.d.comb += port.en.eq(getattr(dut, f"{name}_en"))


def simulated(
    block: Block, inputs: Sequence[Beats], memories: Mapping[str, Words] | None = None, stalls: Stalls = Stalls()
) -> Run:
    """Run the gateware until nothing moves any more."""
    m = Module()
    m.submodules.block = dut = block.component()
    join_memories(m, block, dut, memories or {})
    ins = [getattr(dut, n) for n in block.input_names]
    outs = [getattr(dut, n) for n in block.output_names]
    words = [[pack(row, bus.width) for row in beats] for bus, beats in zip(block.inputs, inputs, strict=True)]
    got: list[list[list[int]]] = [[] for _ in outs]
    taken: list[list[int]] = [[] for _ in ins]
    given: list[list[int]] = [[] for _ in outs]
    flicker = np.random.default_rng(stalls.flicker) if stalls.flicker is not None else None

    async def drive(ctx):  # type: ignore[no-untyped-def]
        offer = [stalls.gap("sources", k, 0) for k in range(len(ins))]
        accept = [stalls.gap("sinks", k, 0) for k in range(len(outs))]
        cycle, quiet = 0, 0
        while quiet < PATIENCE:
            assert cycle < LONGEST, "the block must come to an end"
            for k, s in enumerate(ins):
                valid = len(taken[k]) < len(words[k]) and cycle >= offer[k]
                ctx.set(s.valid, valid)
                ctx.set(s.payload, words[k][len(taken[k])] if valid else 0)
            for k, s in enumerate(outs):
                ctx.set(s.ready, bool(flicker.random() < 0.6) if flicker is not None else cycle >= accept[k])
            quiet += 1
            for k, s in enumerate(ins):
                if ctx.get(s.valid) and ctx.get(s.ready):
                    taken[k].append(cycle)
                    offer[k] = cycle + 1 + stalls.gap("sources", k, len(taken[k]))
                    quiet = 0
            for k, (s, bus) in enumerate(zip(outs, block.outputs, strict=True)):
                if ctx.get(s.valid) and ctx.get(s.ready):
                    got[k].append(unpack(ctx.get(s.payload), bus))
                    given[k].append(cycle)
                    accept[k] = cycle + 1 + stalls.gap("sinks", k, len(given[k]))
                    quiet = 0
            await ctx.tick()
            cycle += 1

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    outputs = tuple(
        np.array(rows, np.int64).reshape(-1, bus.lanes) for rows, bus in zip(got, block.outputs, strict=True)
    )
    return Run(outputs, tuple(taken), tuple(given))


def bench(
    block: Block, inputs: Sequence[Beats], memories: Mapping[str, Words] | None = None, stalls: Stalls = Stalls()
) -> Run:
    """Run the gateware and compare values with its model, and, without flicker, every cycle with its timing."""
    run = simulated(block, inputs, memories, stalls)
    wanted = block.model(inputs, memories or {})
    for name, mine, theirs in zip(block.output_names, run.outputs, wanted, strict=True):
        assert np.array_equal(mine, theirs), f"{name}: rtl {mine.tolist()[:20]} model {theirs.tolist()[:20]}"
    if stalls.flicker is None:
        taken, given = predicted(block, [len(x) for x in inputs], stalls, memories)
        assert (run.taken, run.given) == (taken, given)
    return run


def passes_ready(block: Block) -> bool:
    """Whether, in some cycle, the input is ready only if the output is: with input always there and an output always taken."""
    dut, found = block.component(), []

    async def drive(ctx):
        ctx.set(dut.i.valid, 1)
        for _ in range(100):
            answers = []
            for ready in (0, 1):
                ctx.set(dut.o.ready, ready)
                answers.append(ctx.get(dut.i.ready))
            found.append(answers[0] != answers[1])
            await ctx.tick()

    ran(dut, drive)
    return any(found)


def ran(dut: wiring.Component, drive: Callable[[Any], Any]) -> None:
    """Run a testbench on a component and its clock."""
    m = Module()
    m.submodules.dut = dut
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
