"""A pipeline that stops as a whole while its result waits: control and timing of the adder graphs.

A word is taken into a register and *starts* in the next cycle in which the pipeline moves (a *tick*); it keeps the
register for `interval` ticks, is offered `latency` ticks after its start, and while it is offered and not taken there
are no ticks. Wide results need no queue this way: the registers of the pipeline are their own waiting room, and a clock
enable costs nothing in an FPGA.

``ready`` never falls without a transfer: the register is either empty, which does not depend on ticks, or its word
leaves in this very tick.
"""

from __future__ import annotations

from collections.abc import Iterable

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from hw.timing import Channel, Program, Queue

__all__ = ["Elastic", "elastic"]


class Elastic:
    """Control of such a pipeline. What many registers need stands in a register itself.

    Parameters
    ----------
    m : Module
    i_valid, i_ready, o_valid, o_ready : Value
        Handshakes of the streams; `i_ready` and `o_valid` are driven.
    interval, latency : int
        In ticks, at least 1.

    Attributes
    ----------
    tick : Value
        Whether the pipeline moves in this cycle.
    enable, load : Value
        Whether the register of the inputs changes at the end of this cycle, and if so, whether it takes a new word.
    started : list of Value
        Whether the word in the register started 0, 1, 2 ... `latency` ticks ago.
    resting : list of Value
        Whether, so many ticks ago, no tick of a word was to follow: its last tick, or there was none.
    """

    def __init__(
        self, m: Module, i_valid: Value, i_ready: Value, o_valid: Value, o_ready: Value, interval: int, latency: int
    ) -> None:
        full, start, load = Signal(name="full"), Signal(name="start"), Signal(name="load", init=1)
        tick, enable = Signal(name="tick"), Signal(name="enable")
        passed, rested = Signal(latency, name="passed"), Signal(latency, name="rested")
        m.d.comb += [
            tick.eq(~o_valid | o_ready),
            enable.eq(~full | tick),
            i_ready.eq(load & enable),
            o_valid.eq(passed[-1]),
        ]
        with m.If(enable):
            m.d.sync += start.eq(load & i_valid)
            with m.If(load):
                m.d.sync += full.eq(i_valid)
            if interval > 1:
                phase = Signal(range(interval), name="phase")
                m.d.sync += [
                    phase.eq(Mux(load, 0, phase + 1)),
                    load.eq(Mux(load, ~i_valid, phase == interval - 2)),
                ]
        with m.If(tick):
            m.d.sync += [passed.eq(Cat(start, passed)), rested.eq(Cat(load, rested))]
        self.tick = tick
        self.enable = enable
        self.load = load
        self.started: list[Value] = [start, *passed]
        self.resting: list[Value] = [load, *rested]


def elastic(i: Channel, o: Channel, interval: int, latency: int) -> Iterable[Program]:
    """The timing of such a pipeline."""
    starts, frozen = Queue(), Queue()
    return (_taken(i, starts, frozen, interval, latency), _given(o, starts, frozen, latency))


def _taken(i: Channel, starts: Queue, frozen: Queue, interval: int, latency: int) -> Program:
    """Takes words; a tick is a cycle less the cycles frozen before it, which are asked for no earlier than needed."""
    offered = Queue()  # ticks at which words will be offered, whose waiting is not known yet
    p = Program()
    zero, lost, start, least, least_taken = p.time(), p.time(), p.time(-interval), p.time(), p.time()
    taken, tick, waited = p.time(), p.time(), p.time()
    with p.forever():
        with p.due(offered, tick, start + (interval - 1)):
            p.recv(frozen, waited)
            p.sum(lost, lost, waited)
        p.sum(least_taken, start + (interval - 1), lost)
        p.get(i, taken, zero, least_taken)
        p.set(least, start + interval)
        p.difference(start, taken + 1, lost)
        with p.due(offered, tick, start):
            p.set(least, least, tick)
            p.recv(frozen, waited)
            p.sum(lost, lost, waited)
            p.difference(start, taken + 1, lost)
        p.set(start, start, least)
        p.send(offered, start + latency)
        p.send(starts, start)
    return p


def _given(o: Channel, starts: Queue, frozen: Queue, latency: int) -> Program:
    p = Program()
    lost, offered, taken = p.time(), p.time(), p.time()
    with p.forever():
        p.recv(starts, offered)
        p.sum(offered, offered + latency, lost)
        p.put(o, taken, offered)
        p.difference(taken, taken, offered)
        p.sum(lost, lost, taken)
        p.send(frozen, taken)
    return p
