"""A pipeline that stops as a whole when a result has to wait: control and timing of the adder graphs.

A word is read digit by digit into registers of a digit, the first one as soon as the word stands there and the last one when it is
taken; of a word of one digit both are the same cycle. It *starts* in the next cycle in which the pipeline moves (a *tick*) after the
first, has the registers for `interval` ticks, and is offered `latency` ticks after its start. Wide words need no queues this way: what
comes before keeps a word until it is read, the registers of the pipeline are the waiting room of results, and a clock enable costs
nothing in an FPGA.

A pipeline with an interval of 1 has no ticks while a result is offered and not taken. In all others a result moves in its last tick
into registers of its own, where it is offered; the pipeline stops before that tick while they are full. So it is known a cycle ahead
whether it moves, and what enables thousands of flip-flops is a register.

``ready`` never falls without a transfer. Of words of one digit it is high while the registers are empty, which does not depend on ticks,
or while their word leaves in this very tick; of longer ones it rises with the digit before the last, and the last is read in the next tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hw.timing import Channel, Program, Queue

__all__ = ["Elastic", "elastic", "later_pairs"]


def later_pairs(digits: int, *, repeats: bool) -> int:
    """Pairs of digits to choose from, the first one not counted; what `repeats` is one digit more."""
    return -(-(digits + repeats) // 2) - 1


class Elastic:
    """Control of such a pipeline. What many registers need stands in a register itself.

    Parameters
    ----------
    m : Module
    i_valid, i_ready, o_valid, o_ready : Value
        Handshakes of the streams; `i_ready` and `o_valid` are driven.
    interval, latency : int
        In ticks, at least 1.
    digits : int
        Of a word, at most `interval`.
    repeats : bool
        Whether something else is read behind the last digit, as one more, until the interval ends; else zeros.

    Attributes
    ----------
    tick : Value
        Whether the pipeline moves in this cycle.
    enable : Value
        Whether the registers of a digit change at the end of this cycle.
    fill : Value
        Whether a result moves to where it is offered at the end of this cycle; never if the interval is 1.
    started : list of Value
        Whether the word in the registers started 0, 1, 2 ... ticks ago, as long as it is in them.
    resting : list of Value
        Whether, so many ticks ago, no tick of a word was to follow: its last tick, or there was none.
    """

    def __init__(
        self, m: Module, i_valid: Value, i_ready: Value, o_valid: Value, o_ready: Value, interval: int, latency: int,
        digits: int = 1, *, repeats: bool = False,
    ) -> None:  # fmt: skip
        start, load = Signal(name="start"), Signal(name="load", init=1)
        loads = Signal(name="loads")  # what `load` becomes
        passed, rested = Signal(latency - (interval > 1), name="passed"), Signal(latency, name="rested")
        full, filled, ends = Signal(name="full"), Signal(name="filled"), Signal(name="ends")
        self._m, self._interval, self._load, self._loads = m, interval, load, loads
        self.tick, self.enable = Signal(name="tick", init=interval > 1), Signal(name="enable", init=interval > 1)
        self._moves: Value = Const(1)  # what `tick` becomes, where that is a register
        self._clears: dict[int, Signal] = {}
        self.started: list[Value] = [start, *passed]
        self.resting: list[Value] = [load, *rested]
        self.fill = Signal(name="fill")
        self._odd, self._fixed = Signal(name="odd"), Signal(name="fixed")
        self._pairs = [Signal(name=f"pair_{k}") for k in range(1, later_pairs(digits, repeats=repeats) + 1)]
        m.d.comb += i_ready.eq((load if digits == 1 else ends) & self.enable)
        m.d.comb += filled.eq(Mux(load & self.enable, i_valid, full))
        m.d.sync += full.eq(filled)
        with m.If(self.enable):
            m.d.sync += start.eq(load & i_valid)
        with m.If(self.tick):
            m.d.sync += [passed.eq(Cat(start, passed)), rested.eq(Cat(load, rested))]
        if interval == 1:
            m.d.comb += [self.tick.eq(~o_valid | o_ready), self.enable.eq(~full | self.tick), o_valid.eq(passed[-1])]
        else:
            self._look_ahead(filled, o_valid, o_ready)
            self._count(i_valid, ends, digits, repeats=repeats)

    def _look_ahead(self, filled: Value, o_valid: Value, o_ready: Value) -> None:
        """What happens in a cycle, in registers that are set in the one before."""
        m, kept = self._m, Signal(name="kept")
        self._moves = moves = Signal(name="moves")
        last, free = Signal(name="last"), Signal(name="free")  # in the next cycle: a result's last tick, room for it
        m.d.comb += [
            o_valid.eq(kept),
            free.eq(~kept | o_ready),
            last.eq(self.started[-2] | ~self.tick),  # no result is next to another one
            moves.eq(~last | free),
        ]
        m.d.sync += [self.tick.eq(moves), self.enable.eq(~filled | moves), self.fill.eq(last & free)]
        m.d.sync += kept.eq(self.fill | ~free)

    def _count(self, i_valid: Value, ends: Signal, digits: int, *, repeats: bool) -> None:
        """Which digit is read."""
        m, interval, load = self._m, self._interval, self._load
        phase = Signal(range(interval), name="phase")
        place = Signal(range(digits + 1), name="place")  # number of the digit that is read at the end of this cycle
        turn = Signal.like(place, name="turn")  # of the one after it
        behind = turn == digits if interval > digits and not repeats else Const(0, 1)
        m.d.comb += self._loads.eq(Mux(load, ~i_valid, phase == interval - 2))
        m.d.comb += turn.eq(Mux(load, i_valid, Mux(phase == interval - 2, 0, Mux(place == digits, digits, place + 1))))
        with m.If(self.enable):
            m.d.sync += [phase.eq(Mux(load, 0, phase + 1)), load.eq(self._loads)]
            m.d.sync += [place.eq(turn), ends.eq(turn == digits - 1)]
            m.d.sync += [self._odd.eq(turn[0] & ~behind), self._fixed.eq((turn >= 2) | behind)]
            m.d.sync += [pair.eq((turn >> 1 == k) & ~behind) for k, pair in enumerate(self._pairs, start=1)]

    def rests(self, ticks: int, name: str) -> Value:
        """What `resting` says of so many ticks ago, in a register that only what has this name reads.

        One register for all adders of a level would have to reach all over the graph within a cycle.
        """
        if self._interval == 1:
            return self.resting[ticks]
        own = Signal(name=f"rests_{name}", init=ticks == 0, reset_less=ticks > 0)
        with self._m.If(self.tick if ticks else self.enable):
            self._m.d.sync += own.eq(self.resting[ticks - 1] if ticks else self._loads)
        return own

    def clears(self, ticks: int) -> Value:
        """Whether the pipeline moves in this cycle and no tick of a word was to follow so many ticks ago; not for an interval of 1.

        A register for each number of ticks: it resets flip-flops, which in FPGAs a reset does whatever their enable says.
        """
        if ticks not in self._clears:
            moved, before = (self.tick, self.resting[ticks - 1]) if ticks else (self.enable, self._loads)
            after = Mux(moved, before, self.resting[ticks])
            self._clears[ticks] = Signal(name=f"clears_{ticks}", init=ticks == 0)
            self._m.d.sync += self._clears[ticks].eq(self._moves & after)
        return self._clears[ticks]

    def chosen(self, digits: Sequence[Value]) -> Value:
        """The digit that is read, in a look-up table of four inputs for each two of them.

        The first table gives one of two digits; or 0 or 1, by which a later one then chooses among its two, or which is what is left.
        """
        found = Mux(self._odd, digits[1], digits[0]) if len(digits) > 1 else digits[0]
        found = Mux(self._fixed, self._odd.replicate(len(digits[0])), found)
        for k, pair in enumerate(self._pairs, start=1):
            low, high = digits[2 * k], digits[2 * k + 1] if 2 * k + 1 < len(digits) else Const(0)
            found = Mux(pair, (found & high) | (~found & low), found)
        return found


def elastic(i: Channel, o: Channel, interval: int, latency: int, digits: int = 1) -> Iterable[Program]:
    """The timing of such a pipeline."""
    starts, frozen = Queue(), Queue()
    if interval == 1:
        return (_taken(i, starts, frozen, interval, latency, digits), _given(o, starts, frozen, latency))
    return (_taken(i, starts, frozen, interval, latency - 1, digits), _moved(o, starts, frozen, latency - 1))


def _taken(i: Channel, starts: Queue, frozen: Queue, interval: int, latency: int, digits: int) -> Program:
    """Takes words; a tick is a cycle less the cycles frozen before it, which are asked for no earlier than needed."""
    offered = Queue()  # ticks in which results wait, if they do, of those of which that is not known yet
    p = Program()
    zero, lost, start, least, least_taken = p.time(), p.time(), p.time(-interval), p.time(), p.time()
    taken, tick, waited = p.time(), p.time(), p.time()
    with p.forever():
        with p.due(offered, tick, start + (interval - 1)):
            p.recv(frozen, waited)
            p.sum(lost, lost, waited)
        p.sum(least_taken, start + (interval - 1), lost)
        (p.get if digits == 1 else p.see)(i, taken, zero, least_taken)
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
        if digits > 1:  # the last digit is read in the tick before its own
            with p.due(offered, tick, start + (digits - 2)):
                p.recv(frozen, waited)
                p.sum(lost, lost, waited)
            p.sum(least_taken, start + (digits - 2), lost)
            p.get(i, taken, least_taken)
    return p


def _given(o: Channel, starts: Queue, frozen: Queue, latency: int) -> Program:
    """Gives results where they stand."""
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


def _moved(o: Channel, starts: Queue, frozen: Queue, last: int) -> Program:
    """Gives results where they are offered, to which each moves in its tick `last` once the one before has gone."""
    p = Program()
    lost, due, moved, taken = p.time(), p.time(), p.time(), p.time(-1)
    with p.forever():
        p.recv(starts, due)
        p.sum(due, due + last, lost)
        p.set(moved, due, taken + 1)
        p.difference(due, moved, due)
        p.sum(lost, lost, due)
        p.send(frozen, due)
        p.put(o, taken, moved + 1)
    return p
