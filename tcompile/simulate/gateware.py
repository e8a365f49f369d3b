"""A design in Amaranth's simulator: slow, and needs nothing but Python."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Const, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory as Ram
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.block import Beats
from tcompile.mapping.design import Design
from tcompile.simulate.interface import Interface, Link
from tcompile.simulate.netlist import IDENTITY, RESET, Netlist, Rom, netlist, stream_net
from tcompile.simulate.packing import beat_bytes, from_bytes, to_bytes
from tcompile.simulate.run import DRAIN, Pauses, Progress, Run, faults

__all__ = ["Accelerator", "simulate"]


class Accelerator(wiring.Component):  # type: ignore[misc] # Amaranth has no types
    """The top level as gateware: the same cells, nets and memories as in the Verilog. It has no reset but the one while memories are loaded.

    After elaboration, ``nets`` has the signal of each net by name.
    """

    def __init__(self, design: Netlist) -> None:
        self.design = design
        self.nets: dict[str, Signal] = {}
        super().__init__({p.name: (In if p.way == "input" else Out)(p.width) for p in design.pins})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self.nets |= {net.name: Signal(net.width, name=net.name) for net in self.design.nets}
        identity = Const(self.design.identity, 256)
        wires = self.nets | {IDENTITY: identity} | {p.name: getattr(self, p.name) for p in self.design.pins}
        for cell in self.design.cells:
            component = cell.block.component()
            held = self.design.loadable and cell.wires["rst"] != RESET
            m.submodules[f"u_{cell.name}"] = ResetInserter(wires[cell.wires["rst"]])(component) if held else component
            for path, member, port in component.signature.flatten(component):
                wire = wires[cell.wires["__".join(map(str, path))]]
                m.d.comb += port.eq(wire) if member.flow == In else wire.eq(port)
        if self.design.loadable:
            steps = Signal(2)
            m.d.sync += steps.eq(Cat(wires["load_hold"], steps[0]))
            m.d.comb += [wires[net].eq(steps[1]) for net in self.design.resets]
        for number, rom in enumerate(self.design.roms):
            if self.design.loadable:
                m.submodules[f"m_{rom.name}"] = self.loaded(rom, number, wires)
                continue
            memory = Ram(shape=rom.shape.width, depth=len(rom.words), init=list(rom.words))
            m.submodules[f"m_{rom.name}"] = memory
            port = memory.read_port()
            m.d.comb += [port.addr.eq(wires[rom.address]), wires[rom.data].eq(port.data)]
            if rom.enable:
                m.d.comb += port.en.eq(wires[rom.enable])
        return m

    def loaded(self, rom: Rom, number: int, wires: Mapping[str, Any]) -> Module:
        """A memory that can be loaded: a memory for each piece of its words."""
        m, data = Module(), []
        for piece in range(rom.pieces):
            low, width = 32 * piece, min(32, rom.shape.width - 32 * piece)
            part = [word >> low & (1 << width) - 1 for word in rom.words]
            m.submodules[f"piece_{piece}"] = memory = Ram(shape=width, depth=len(part), init=part)
            out, into = memory.read_port(), memory.write_port()
            mine = wires["load_go"] & (wires["load_memory"] == number) & (wires["load_piece"] == piece)
            m.d.comb += [out.addr.eq(wires[rom.address]), into.addr.eq(wires["load_word"]), into.en.eq(mine)]
            m.d.comb += into.data.eq(wires["load_data"])
            data.append(out.data)
            if rom.enable:
                m.d.comb += out.en.eq(wires[rom.enable])
        m.d.comb += wires[rom.data].eq(Cat(*data))
        return m


@dataclass(eq=False)
class _Port:
    """One AXI4-Stream port, its signals, and what has gone through it."""

    link: Link
    valid: Signal
    ready: Signal
    data: Signal
    last: Signal
    pauses: Pauses | None
    words: list[int]
    total: int
    done: int = 0
    offering: bool = False
    held: tuple[int, int] | None = None

    def active(self) -> bool:
        return self.pauses is None or self.pauses.active()


def simulate(
    design: Design,
    inputs: Sequence[Beats],
    *,
    stall: int | None = None,
    probes: Sequence[str] = (),
    patience: int | None = None,
    progress: Progress | None = None,
) -> Run:
    """Send frames through a design without pause, or with random pauses.

    Parameters
    ----------
    design : Design
    inputs : sequence of ndarray
        Beats (frames * beats, lanes) of each input port.
    stall : int, optional
        Seed of random pauses at all ports.
    probes : sequence of str
        Inner streams whose beats are kept.
    patience : int, optional
        Cycles without any transfer that are a standstill; by default those of `Interface.of`.
    progress : callable, optional
        Is told the number of frames that have left.
    """
    top = Accelerator(netlist(design, (0,) * 8))
    bench = _Bench(top, Interface.of(design, patience), inputs, stall, probes, progress)
    start = time.perf_counter()
    simulator = Simulator(_with(top))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench.drive)
    simulator.run()
    return bench.result(time.perf_counter() - start)


def _with(top: Accelerator) -> Module:
    m = Module()
    m.submodules.top = top
    return m


class _Bench:
    def __init__(
        self,
        top: Accelerator,
        interface: Interface,
        inputs: Sequence[Beats],
        stall: int | None,
        probes: Sequence[str],
        progress: Progress | None,
    ) -> None:
        self.top = top
        self.interface = interface
        self.progress = progress
        self.frames = len(inputs[0]) // interface.inputs[0].beats
        self.inputs = [
            self._port(link, None if stall is None else Pauses(stall, k), _words(beats, link))
            for k, (link, beats) in enumerate(zip(interface.inputs, inputs, strict=True))
        ]
        self.outputs = [
            self._port(link, None if stall is None else Pauses(stall, 1000 + k), [])
            for k, link in enumerate(interface.outputs)
        ]
        self.probed: dict[str, list[int]] = {name: [] for name in probes}
        self.first: int | None = None
        self.ends = [0] * self.frames
        self.cycles = 0
        self.told = 0
        self.wrong = {"last_errors": 0, "protocol_errors": 0, "surplus": 0}
        self.standstill: dict[str, str] = {}

    def _port(self, link: Link, pauses: Pauses | None, words: list[int]) -> _Port:
        valid, ready, data, last = (getattr(self.top, f"{link.name}_t{n}") for n in ("valid", "ready", "data", "last"))
        return _Port(link, valid, ready, data, last, pauses, words, self.frames * link.beats)

    async def drive(self, ctx: Any) -> None:
        """Cycle after cycle until all frames have left or nothing moves any more."""
        silent, cycle = 0, 0
        while any(p.done < p.total for p in self.outputs):
            silent = 0 if self._cycle(ctx, cycle) else silent + 1
            cycle += 1
            if silent >= self.interface.patience:
                self._stand(ctx)
                break
            await ctx.tick()
        self.cycles = cycle
        for k in range(0 if self.standstill else DRAIN):
            self._cycle(ctx, cycle + k)
            await ctx.tick()

    def _cycle(self, ctx: Any, cycle: int) -> bool:
        for port in self.inputs:
            may = port.active()
            if not port.offering and port.done < port.total and may:
                port.offering = True
                ctx.set(port.data, port.words[port.done])
                ctx.set(port.last, (port.done + 1) % port.link.beats == 0)
            ctx.set(port.valid, port.offering)
        for port in self.outputs:
            ctx.set(port.ready, port.active())
        moved = [self._take(ctx, port, cycle) for port in self.outputs]
        for link in self.interface.streams:
            if link.name in self.probed:
                self._probe(ctx, link)
        for port in self.inputs:
            if ctx.get(port.valid) and ctx.get(port.ready):
                port.done, port.offering = port.done + 1, False
                self.first = cycle if self.first is None else self.first
                moved.append(True)
        return any(moved)

    def _take(self, ctx: Any, port: _Port, cycle: int) -> bool:
        valid, ready = ctx.get(port.valid), ctx.get(port.ready)
        offer = (ctx.get(port.data), ctx.get(port.last)) if valid else None
        self.wrong["protocol_errors"] += port.held is not None and port.held != offer
        port.held = None if ready else offer
        if offer is None or not ready:
            return False
        if port.done >= port.total:
            self.wrong["surplus"] += 1
            return False
        port.words.append(offer[0])
        port.done += 1
        end = port.done % port.link.beats == 0
        self.wrong["last_errors"] += end != bool(offer[1])
        if end:
            frame = port.done // port.link.beats - 1
            self.ends[frame] = max(self.ends[frame], cycle)
            self._tell()
        return True

    def _complete(self) -> int:
        return min((p.done // p.link.beats for p in self.outputs), default=0)

    def _tell(self) -> None:
        if self.progress is not None and self._complete() > self.told:
            self.told = self._complete()
            self.progress(self.told)

    def _probe(self, ctx: Any, link: Link) -> None:
        if ctx.get(self._net(link, "valid")) and ctx.get(self._net(link, "ready")):
            self.probed[link.name].append(ctx.get(self._net(link, "payload")))

    def _net(self, link: Link, signal: str) -> Signal:
        return self.top.nets[stream_net(link.name, signal)]

    def _stand(self, ctx: Any) -> None:
        streams: Mapping[str, tuple[Signal, Signal]] = {
            **{p.link.name: (p.valid, p.ready) for p in self.inputs},
            **{s.name: (self._net(s, "valid"), self._net(s, "ready")) for s in self.interface.streams},
            **{p.link.name: (p.valid, p.ready) for p in self.outputs},
        }
        for name, (valid, ready) in streams.items():
            self.standstill[name] = "blocked" if ctx.get(valid) else "starved" if ctx.get(ready) else "idle"

    def result(self, seconds: float) -> Run:
        buses = {s.name: s.bus for s in self.interface.streams}
        return Run(
            tuple(_beats(p.words, p.link.bus) for p in self.outputs),
            self.first,
            tuple(self.ends[: self._complete()]),
            self.cycles,
            {name: _beats(words, buses[name]) for name, words in self.probed.items()},
            self.standstill,
            faults(**self.wrong),
            seconds,
        )


def _words(beats: Beats, link: Link) -> list[int]:
    size, data = beat_bytes(link.bus), to_bytes(beats, link.bus)
    return [int.from_bytes(data[k : k + size], "little") for k in range(0, len(data), size)]


def _beats(words: Sequence[int], bus: Any) -> np.ndarray:
    return from_bytes(b"".join(word.to_bytes(beat_bytes(bus), "little") for word in words), bus)
