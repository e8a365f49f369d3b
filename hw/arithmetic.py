"""What the arithmetic blocks share: signed digits, pipelined sums, words of parameters, the frame of a pipeline.

A pipelined block takes a beat every `interval` cycles while its outbox has a place, and the work of a beat takes a
fixed number of cycles. Parameters that differ by channel repeat every `period` beats; a counter of beats addresses the
memories that hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import wiring

from hw.block import Beats, Block, Bus, Words
from hw.outbox import Outbox, outbox_depth
from hw.timing import Channel, Program, Queue, dispatch, outbox

__all__ = [
    "MOST_BITS",
    "Pipelined",
    "PipelinedComponent",
    "Word",
    "arranged",
    "below",
    "code_width",
    "cut",
    "delayed",
    "elements",
    "multiples",
    "period_of",
    "shared",
    "signed_digits",
    "signed_width",
    "sum_latency",
    "summed",
]

_T = TypeVar("_T")
Term = tuple[Any, int]  # a value of the gateware, and its sign, 1 or -1

MOST_BITS = 62  # bits of an integer of which models in int64 can hold sums
OPERANDS = 3  # summed between two registers: two adders


def signed_width(lo: int, hi: int) -> int:
    """Bits of the smallest two's complement word that holds every integer of [lo, hi]."""
    return 1 + max(n.bit_length() if n >= 0 else (~n).bit_length() for n in (lo, hi))


def code_width(lo: int, hi: int) -> int:
    """Bits of the smallest word for [lo, hi]: unsigned if nothing is negative; at least 1."""
    return signed_width(lo, hi) if lo < 0 else max(1, hi.bit_length())


def signed_digits(n: int) -> tuple[tuple[int, int], ...]:
    """Canonical signed digits: pairs (position, 1 or -1), no two at neighbouring positions, lowest first."""
    digits = []
    position = 0
    while n:
        if n & 1:
            sign = 2 - (n & 3)
            digits.append((position, sign))
            n -= sign
        n >>= 1
        position += 1
    return tuple(digits)


def shared(values: Iterable[_T]) -> _T | None:
    """The value that all are equal to, or None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def period_of(channels: int, lanes: int) -> int:
    """Beats after which parameters of `channels` channels repeat; parameters of a single channel serve all."""
    return -(-channels // lanes)


def arranged(channels: Sequence[_T], lanes: int) -> list[_T]:
    """Parameters by channel as encoders want them: an entry per lane of each beat of the period.

    A single channel serves all lanes; the filling lanes of the last beat get the parameters of the last channel.
    """
    return [*channels, *[channels[-1]] * (-len(channels) % lanes)]


def cut(values: np.ndarray, bus: Bus) -> np.ndarray:
    """Integers as the elements of a bus hold them: modulo ``2**width``."""
    low = values & ((1 << bus.width) - 1)
    sign = 1 << (bus.width - 1)
    return (low ^ sign) - sign if bus.signed else low


def below(a: Any, b: Any) -> Any:
    """Whether one integer of the gateware is less than another, by the sign of the difference: one carry chain.

    Signed comparisons as synthesis makes them leave the chain below the highest bit, for one more table and two more wires.
    """
    return (a - b)[-1]


@dataclass(frozen=True)
class Word:
    """Layout of a memory word: the fields of lane 0 in the low bits, then those of lane 1 ...

    Parameters
    ----------
    lanes : int
    fields : tuple of (name, width, signed)
        The first in the low bits of its lane.
    """

    lanes: int
    fields: tuple[tuple[str, int, bool], ...]

    @property
    def lane_width(self) -> int:
        """Bits of one lane."""
        return sum(width for _, width, _ in self.fields)

    @property
    def width(self) -> int:
        """Bits of the word."""
        return self.lanes * self.lane_width

    def encode(self, lanes: Sequence[Mapping[str, int]]) -> int:
        """The word that holds these fields; ValueError where a value does not fit."""
        word, at = 0, 0
        for values in lanes:
            for name, width, is_signed in self.fields:
                value = int(values[name])
                low, high = (-(1 << width >> 1), (1 << width >> 1)) if is_signed else (0, 1 << width)
                if not low <= value < max(high, low + 1):
                    raise ValueError(
                        f"{name} must fit {width} {'signed' if is_signed else 'unsigned'} bits, not {value}"
                    )
                word |= (value & ((1 << width) - 1)) << at
                at += width
        return word

    def encode_all(self, entries: Sequence[Mapping[str, int]]) -> tuple[int, ...]:
        """One word per beat, from the entries of all lanes of all beats."""
        return tuple(self.encode(entries[k : k + self.lanes]) for k in range(0, len(entries), self.lanes))

    def decode(self, words: Words) -> dict[str, np.ndarray]:
        """Every field of every word, as int64 (words, lanes)."""
        result = {name: np.zeros((len(words), self.lanes), np.int64) for name, _, _ in self.fields}
        for beat, word in enumerate(words):
            at = 0
            for lane in range(self.lanes):
                for name, width, is_signed in self.fields:
                    value = (word >> at) & ((1 << width) - 1)
                    result[name][beat, lane] = value - (1 << width) if is_signed and value >> (width - 1) else value
                    at += width
        return result

    def split(self, data: Any, lane: int) -> dict[str, Any]:
        """The fields of one lane in the gateware."""
        fields, at = {}, lane * self.lane_width
        for name, width, is_signed in self.fields:
            part = data[at : at + width]
            fields[name] = part.as_signed() if is_signed else part
            at += width
        return fields


def elements(payload: Any, bus: Bus) -> list[Any]:
    """The elements of a beat in the gateware."""
    parts = [payload[k * bus.width : (k + 1) * bus.width] for k in range(bus.lanes)]
    return [part.as_signed() for part in parts] if bus.signed else parts


def delayed(m: Module, value: Any, cycles: int, *, reset_less: bool = True) -> Any:
    """`value` as it was `cycles` cycles ago; without `reset_less`, zero after a reset."""
    for _ in range(cycles):
        later = Signal(value.shape(), reset_less=reset_less)
        m.d.sync += later.eq(value)
        value = later
    return value


def multiples(x: Any, factor: int) -> list[Term]:
    """The terms of ``factor * x``: one shifted copy of x per signed digit."""
    return [(x.shift_left(position), sign) for position, sign in signed_digits(factor)]


def _levels(terms: int) -> int:
    return 1 if terms <= OPERANDS else 1 + _levels(-(-terms // OPERANDS))


def sum_latency(terms: int) -> int:
    """Cycles that `summed` takes."""
    return _levels(terms)


def _group(terms: Sequence[Term]) -> Term:
    """The sum of some terms; its sign is -1 only where all of them have it."""
    ordered = sorted(terms, key=lambda term: -term[1])
    total, sign = ordered[0]
    for value, of_value in ordered[1:]:
        total = total + value if of_value == sign else total - value
    return total, sign


def summed(m: Module, terms: Sequence[Term], width: int) -> Any:
    """The sum of `terms`, modulo ``2**width``, signed; two adders between registers, `sum_latency` cycles late."""
    for level in range(_levels(len(terms)), 0, -1):
        groups = [_group(terms[k : k + OPERANDS]) for k in range(0, len(terms), OPERANDS)]
        terms = []
        for value, sign in groups:
            total = Signal(signed(width), reset_less=True)
            m.d.sync += total.eq(-value if sign < 0 and level == 1 else value)
            terms.append((total, sign))
    return terms[0][0]


class Pipelined(Block):
    """A block with one stream in and one out, as many lanes in as out, whose work takes a fixed time.

    Attributes
    ----------
    i, o : Bus
    period : int
        Beats after which parameters repeat.
    outbox : int
        Places of the queue at the end; 0 for as many as keep an unstalled pipeline going.
    """

    i: Bus
    o: Bus
    period: int
    outbox: int

    @property
    def interval(self) -> int:
        """Cycles per beat."""
        return 1

    @property
    def places(self) -> int:
        """Places of the queue at the end."""
        return self.outbox or outbox_depth(self.latency, self.interval)

    @property
    def fetches_ahead(self) -> bool:
        """Whether ``params`` are read a beat ahead and held in a register; the first beat waits a cycle for them."""
        params = self.memories.get("params")
        return self.period > 1 and params is not None and params.is_slow

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.i,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.o,)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        results, credits = Queue(), Queue()
        return (
            dispatch(i[0], results, credits, self.places, self.latency, self.interval, int(self.fetches_ahead)),
            outbox(o[0], results, credits),
        )

    def check(self) -> None:
        """Refuse what no pipeline can be."""
        if self.i.lanes != self.o.lanes:
            raise ValueError(f"input and output must have the same lanes, not {self.i.lanes} and {self.o.lanes}")
        if self.period < 1 or self.outbox < 0:
            raise ValueError(f"the period must be at least 1 and the outbox 0, not {self.period}, {self.outbox}")

    def entries(self, *lists: Sequence[Any]) -> None:
        """Refuse lists of parameters that do not hold one entry per lane of each beat of the period."""
        for entries in lists:
            if len(entries) != self.period * self.i.lanes:
                raise ValueError(f"parameters must have {self.period * self.i.lanes} entries, not {len(entries)}")

    def beats(self, x: Beats) -> np.ndarray:
        """The beat of the period that each beat is, as a column."""
        return np.arange(len(x))[:, None] % self.period


class PipelinedComponent(wiring.Component):
    """The frame of a pipelined block's gateware: intake, counter of beats, outbox."""

    def __init__(self, block: Any) -> None:
        self.block = block
        super().__init__(block.signature)

    def intake(self, m: Module) -> tuple[Any, Any]:
        """Make the frame; gives `take`, high in the cycle of a transfer, and the beat of the period it is."""
        block = self.block
        m.submodules.outbox = self.box = Outbox(block.o.bits, block.places)
        wiring.connect(m, self.box.o, wiring.flipped(self.o))
        take = Signal()
        beat = Signal(range(block.period))
        wait = Signal(range(block.interval))
        self.following = following = Signal.like(beat)
        there = Const(1)
        if block.fetches_ahead:
            there = Signal()
            m.d.sync += there.eq(1)
        m.d.comb += [self.i.ready.eq(self.box.may & (wait == 0) & there), take.eq(self.i.valid & self.i.ready)]
        m.d.comb += self.box.take.eq(take)
        if block.interval > 1:
            with m.If(take):
                m.d.sync += wait.eq(block.interval - 1)
            with m.Elif(wait != 0):
                m.d.sync += wait.eq(wait - 1)
        if block.period > 1:
            m.d.comb += following.eq(beat)
            with m.If(take):
                m.d.comb += following.eq(Mux(beat == block.period - 1, 0, beat + 1))
            m.d.sync += beat.eq(following)
        return take, beat

    def params(self, m: Module, beat: Any) -> Any:
        """The word of memory ``params`` for a beat that is taken, a cycle later."""
        if not self.block.fetches_ahead:
            m.d.comb += self.params_addr.eq(beat)
            return self.params_data
        m.d.comb += self.params_addr.eq(self.following)
        return delayed(m, self.params_data, 1)

    def give(self, m: Module, push: Any, results: Sequence[Any]) -> None:
        """Put the results of a beat, one per lane, into the outbox in cycles in which `push` is high."""
        width = self.block.o.width
        for lane, result in enumerate(results):
            m.d.comb += self.box.data[lane * width : (lane + 1) * width].eq(result)
        m.d.comb += self.box.push.eq(push)
