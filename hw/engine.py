"""The engine: PE x SIMD lanes that add, subtract or skip, fed from a buffer that the schedule addresses.

Input beats fill a ring of `depth` words. For every output position the schedule memory is read from its first entry to
its last; an entry names a word of the position's window (`offset`, counted from the window's first word), so stride,
dilation, groups and kernels are contents of a memory, and what has no entry costs no cycle. Between positions the
window moves on by a constant: along a row, to the next row, to the next frame. Padding is put into the stream before.

Four kinds of lanes share all of this:

- ``dot``: one word of SIMD elements goes to all PEs; each has SIMD ternary or Booth digits: a tile of weights;
- ``lane``: a word of PE elements, one for each PE, one weight each: depthwise convolution;
- ``sum``, ``max``: the same without weights: pooling.

Weights of more than two bits take several passes over their tile; what lanes and passes are is told in `hw.lanes`.

Timing: an entry per cycle, `WARM` cycles after a reset at the earliest. The first entry of a position waits until the ring holds the whole window; the last entry of
a row block waits for a place in the outbox. A result is offered `pipeline` cycles after its last entry was issued.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory as Ram

from hw.block import Beats, Block, Bus, Memory, Words
from hw.lanes import Flags, Kind, Lanes, booth_digits, extended
from hw.outbox import Outbox
from hw.routing import odometer
from hw.sliding import Sliding
from hw.timing import Channel, Program, Queue, outbox

__all__ = ["Engine", "Entry", "Kind", "booth_digits"]

WARM = 3  # cycles after a reset before the first entry can be issued
ENDS, NEXT_ENDS, THEN_ENDS = 4, 8, 16  # flags: the last entry is this one, the next one, the one behind that


class Entry(NamedTuple):
    """One entry of a schedule.

    Parameters
    ----------
    offset : int
        Word of the window.
    digit : int
        Booth digit of the tile's weights that is used: the pass.
    last : bool
        Whether it ends a row block.
    next : bool
        Whether the next entry uses the next tile; false from the last tile on.
    """

    offset: int
    digit: int = 0
    last: bool = True
    next: bool = True


@dataclass(frozen=True)
class Engine(Sliding, Block):
    """Description of an engine.

    Parameters
    ----------
    kind : {"dot", "lane", "sum", "max"}
        What a lane does.
    i : Bus
        SIMD lanes for ``dot``, else PE lanes.
    o : Bus
        PE lanes; sums are taken modulo its width, which the largest final sum must fit.
    depth : int
        Words of the ring, at least `span`.
    span : int
        Words from the first to the last of a window, both counted.
    moves : tuple of (count, words)
        Positions along each axis, innermost first, and by how many words the window moves on along it.
    frame : int
        Words from the window of a frame's last position to the next frame's first.
    entries : int
        Most entries that the schedule may have.
    tiles : int
        Most words that the weight memory may have; 0 for pooling.
    weight_width : int
        Bits of a weight; 0 for pooling.
    doubles : bool
        Whether any digit is 2 or -2.
    places : int
        Places of the outbox.
    coded : bool
        Whether a word of the weight memory holds the digits of one pass; then each entry has a word of its own.
    tree : int
        Levels of adders between registers, where a PE adds what its lanes give.
    """

    kind: Kind
    i: Bus
    o: Bus
    depth: int
    span: int
    moves: tuple[tuple[int, int], ...]
    frame: int
    entries: int
    tiles: int = 0
    weight_width: int = 0
    doubles: bool = False
    places: int = 8
    coded: bool = False
    tree: int = 2

    def __post_init__(self) -> None:
        if self.kind != "dot" and self.i.lanes != self.o.lanes:
            raise ValueError(
                f"{self.kind} lanes must be as many at input and output, not {self.i.lanes}, {self.o.lanes}"
            )
        if not 1 <= self.span <= self.depth:
            raise ValueError(f"a window of {self.span} words must fit the ring of {self.depth}")
        if self.weighted != (self.tiles > 0) or self.weighted != (self.weight_width > 0):
            raise ValueError(f"{self.kind} lanes and {self.tiles} tiles of {self.weight_width} bits do not fit")

    @property
    def weighted(self) -> bool:
        """Whether lanes have weights."""
        return self.kind in ("dot", "lane")

    @cached_property
    def lanes(self) -> Lanes:
        """The lanes, the trees and the accumulators."""
        return Lanes(self.kind, self.i, self.o, self.weight_width, self.doubles, self.coded, self.tree)

    @property
    def simd(self) -> int:
        """Elements that a PE takes per cycle."""
        return self.lanes.simd

    @property
    def passes(self) -> int:
        """Booth digits of a weight."""
        return self.lanes.passes

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.i,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.o,)

    @property
    def offset_width(self) -> int:
        return (self.span - 1).bit_length()

    @property
    def digit_width(self) -> int:
        return self.lanes.digit_width

    @property
    def memories(self) -> dict[str, Memory]:
        shapes = {"schedule": Memory(self.entries, self.offset_width + self.digit_width + 5, partial=True, waits=True)}
        if self.weighted:
            shapes["weights"] = Memory(self.tiles, self.lanes.tile_width, partial=True)
        return shapes

    @property
    def pipeline(self) -> int:
        """Cycles from the issue of a row block's last entry until its result is offered."""
        return 3 + self.lanes.latency

    @property
    def latency(self) -> int:
        """For a window of one entry; one cycle more for each further entry of the row block."""
        return 1 + self.pipeline

    def schedule_words(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Contents of the schedule memory."""
        flags = self.offset_width + self.digit_width
        words = [e.offset | e.digit << self.offset_width | (e.last | e.next << 1) << flags for e in entries]
        for ahead, flag in enumerate((ENDS, NEXT_ENDS, THEN_ENDS)):  # the schedule goes round
            words[-(1 + ahead) % len(words)] |= flag << flags
        return tuple(words)

    def schedule(self, words: Words) -> list[Entry]:
        """The entries of a schedule memory."""
        flags = self.offset_width + self.digit_width
        return [
            Entry(
                word & ((1 << self.offset_width) - 1),
                word >> self.offset_width & ((1 << self.digit_width) - 1),
                *(bool(word >> (flags + k) & 1) for k in range(2)),
            )
            for word in words
        ]

    def row_blocks(self, words: Words) -> list[int]:
        """Entries of each row block."""
        ends = [k for k, e in enumerate(self.schedule(words)) if e.last]
        return [b - a for a, b in zip([-1, *ends], ends, strict=False)]

    def weight_words(self, tiles: np.ndarray) -> tuple[int, ...]:
        """Contents of the weight memory: tiles (n, PE, SIMD) of weights, or of digits where these are coded."""
        return self.lanes.encode(tiles)

    def rounded(self) -> Engine:
        """With room for as many entries and tiles as the addresses reach: layers alike in all else share a module."""
        entries, tiles = (1 << (n - 1).bit_length() if n else 0 for n in (self.entries, self.tiles))
        return replace(self, entries=entries, tiles=tiles)

    def component(self) -> wiring.Component:
        return _Engine(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        x = inputs[0]
        bases, base = [], 0
        for move in self.advances():
            if base + self.span > len(x):
                break
            bases.append(base)
            base += move
        entries = self.schedule(memories["schedule"])
        tiles = self.lanes.decode(memories["weights"]) if self.weighted else None
        at = np.array(bases, np.int64)
        rows, tile = [], 0
        total = None
        for e in entries:
            term = self._term(x[at + e.offset], tiles[tile] if tiles is not None else None, e)
            total = term if total is None else np.maximum(total, term) if self.kind == "max" else total + term
            tile += e.next
            if e.last:
                rows.append(total)
                total = None
        result = np.stack(rows, axis=1).reshape(-1, self.o.lanes)
        wrapped = result & ((1 << self.o.width) - 1)
        sign = 1 << (self.o.width - 1)
        return ((wrapped ^ sign) - sign if self.o.signed else wrapped,)

    def _term(self, x: np.ndarray, tile: np.ndarray | None, e: Entry) -> np.ndarray:
        """What an entry adds: (positions, PE)."""
        if tile is None:
            return x
        digits = (tile if self.coded else booth_digits(tile, e.digit)) << (2 * e.digit)
        return np.asarray(x @ digits.T if self.kind == "dot" else x * digits[:, 0])

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        raise TypeError("the timing of an engine depends on its schedule; ask `timing`")

    def timing(self, i: Sequence[Channel], o: Sequence[Channel], memories: Mapping[str, Words]) -> Iterable[Program]:
        lengths = self.row_blocks(memories["schedule"])
        written, freed, results, credits = Queue(), Queue(), Queue(), Queue()
        return (
            self._writes(i[0], written, freed),
            self._works(lengths, written, freed, results, credits),
            outbox(o[0], results, credits),
        )

    def _writes(self, i: Channel, written: Queue, freed: Queue) -> Program:
        """Takes a word when its place in the ring is free, two cycles after the window has left it."""
        p = Program()
        t, free = p.time(-1), p.time()
        freed.spare = 1  # the ring is empty at first
        with p.forever():
            p.recv(freed, free)
            with p.times(self.moved, [self.depth]):
                p.get(i, t, t + 1, free)
                p.send(written, t + 1)
        return p

    def _works(self, lengths: list[int], written: Queue, freed: Queue, results: Queue, credits: Queue) -> Program:
        """Issues the entries of one position after the other."""
        p = Program()
        t, there, credit, length = p.time(WARM - 1), p.time(), p.time(), p.time()
        credits.spare = self.places
        with p.forever():
            with p.times(self.moved, [self.span]):
                p.recv(written, there)
            p.set(t, t, there - 1)
            with p.times(len(lengths)):
                p.recv(credits, credit)
                p.value(length, lengths)
                p.sum(t, t, length)
                p.set(t, t, credit)
                p.send(results, t + self.pipeline)
            p.send(freed, t + 2)
        return p


class _Engine(wiring.Component):
    """Sequencer, ring and lanes, in the order of the flow."""

    def __init__(self, block: Engine) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        b = self.block
        m.submodules.box = box = Outbox(b.o.bits, b.places)
        entry = self.issue(m, box)
        m.submodules.lanes = lanes = b.lanes.component()
        word, flags = self.read(m, entry)
        m.d.comb += [
            lanes.word.eq(word),
            lanes.digit.eq(flags.digit),
            box.push.eq(lanes.done),
            box.data.eq(lanes.results),
        ]
        m.d.comb += [getattr(lanes, name).eq(getattr(flags, name)) for name in ("first", "last", "go")]
        if b.weighted:
            weights = Signal.like(self.weights_data, reset_less=True)
            m.d.sync += weights.eq(self.weights_data)
            m.d.comb += lanes.weights.eq(weights)
        m.d.comb += [self.o.valid.eq(box.o.valid), self.o.payload.eq(box.o.payload), box.o.ready.eq(self.o.ready)]
        return m

    def issue(self, m: Module, box: Outbox) -> _Issued:
        """One entry of the schedule per cycle, unless the window or the outbox make it wait."""
        b, go = self.block, Signal()
        ow, dw = b.offset_width, b.digit_width
        word, warm = self.fetch(m, go)
        last, following_tile, ends = (word[ow + dw + k] for k in range(3))
        first, moves_on, there = Signal(init=1), Signal(), Signal()
        begun = Signal()  # the entry is not the schedule's first
        m.d.comb += [
            go.eq(warm & (begun | there) & (~last | box.may)),
            moves_on.eq(go & ends),
            box.take.eq(go & last),
        ]
        with m.If(go):
            m.d.sync += [first.eq(last), begun.eq(~ends)]
        minus, step, back = self.move(m, moves_on)
        place = _Place.of(b.depth)
        with m.If(moves_on):
            place.moves(m, step, back)
        self.fill(m, moves_on, minus, there)
        return _Issued(go, place, word[:ow], word[ow : ow + dw], first, last, following_tile, moves_on)

    def fetch(self, m: Module, go: Value) -> tuple[Value, Value]:
        """The present entry, which `go` replaces by the next one, and whether there is one: `WARM` cycles after a reset.

        The entry stands in a register, the one behind it at the memory's output, and the address of the one behind that in
        another register: nothing decides within a cycle what is read in it, and nothing hangs on a word in the cycle that brings it.
        A schedule of one entry is read once.
        """
        b = self.block
        ends, next_ends, then_ends = (
            b.offset_width + b.digit_width + f.bit_length() - 1 for f in (ENDS, NEXT_ENDS, THEN_ENDS)
        )
        address, warm = Signal.like(self.schedule_addr, name="address"), Signal(WARM)
        word = Signal.like(self.schedule_data, name="word", reset_less=True)
        begins, second = ~warm[0], warm[1] & ~warm[2]
        m.d.comb += [self.schedule_addr.eq(address), self.schedule_en.eq(begins | (second & ~word[ends]) | go)]
        with m.If(go | ~warm[1]):
            m.d.sync += word.eq(self.schedule_data)
        with m.If(begins | second | go):
            wraps = Mux(warm[2], word[then_ends], second & word[next_ends])
            m.d.sync += address.eq(Mux(wraps, 0, address + 1))
        m.d.sync += warm.eq(Cat(Const(1, 1), warm))
        return word, warm[2]

    def move(self, m: Module, moves_on: Value) -> tuple[Value, Value, Value]:
        """By how many words the window moves on after the present position: less than zero, modulo the ring, and that less the ring.

        All are registers, chosen a position ahead.
        """
        b = self.block
        first, most = next(b.advances()), max(b.frame, *(w for _, w in b.moves))
        minus, step = Signal(range(-most, 1), init=-first), Signal(range(b.depth), init=first % b.depth)
        back = Signal(range(-b.depth, 0), init=first % b.depth - b.depth)
        axes = odometer(m, [count for count, _ in reversed(b.moves)], moves_on, ahead=True)
        move: Value = Const(-b.frame, minus.shape())
        place: Value = Const(b.frame % b.depth, step.shape())
        less: Value = Const(b.frame % b.depth - b.depth, back.shape())
        for (_, words), axis in zip(reversed(b.moves), axes, strict=True):
            move, place = Mux(axis.last, move, -words), Mux(axis.last, place, words % b.depth)
            less = Mux(axis.last, less, words % b.depth - b.depth)
        with m.If(moves_on):
            m.d.sync += [minus.eq(move), step.eq(place), back.eq(less)]
        return minus, step, back

    def fill(self, m: Module, moves_on: Value, minus: Value, there: Signal) -> None:
        """Counts the words from the window's first on, less what is asked of them, so that signs are the answers.

        `held` is below zero until the window is there, `kept` as long as there is room. A word's place is given to another two
        cycles after the window moved on, when it has been read for certain.
        """
        b = self.block
        shape = signed(max(b.depth, b.frame, *(w for _, w in b.moves)).bit_length() + 2)
        held, kept = Signal(shape, init=-b.span), Signal(shape, init=-b.depth)
        moved, owed = Signal(), Signal.like(minus)
        wrote = self.i.valid & self.i.ready
        stays, moves = Signal.like(held), Signal.like(held)  # both are ready when it is decided which one holds
        m.d.comb += [stays.eq(held + wrote), moves.eq(_counted(held, wrote, minus))]
        m.d.sync += [
            moved.eq(moves_on),
            owed.eq(minus),
            held.eq(Mux(moves_on, moves, stays)),
            kept.eq(_counted(kept, wrote, Mux(moved, owed, 0))),
        ]
        m.d.comb += [there.eq(~held[-1]), self.i.ready.eq(kept[-1])]

    def read(self, m: Module, entry: _Issued) -> tuple[Value, Flags]:
        """The word of the ring, two cycles after the issue; the tile of weights comes a cycle later."""
        b = self.block
        m.submodules.ring = ring = Ram(shape=unsigned(b.i.bits), depth=b.depth, init=[])
        into, out = ring.write_port(), ring.read_port()
        to = Signal(range(b.depth))
        m.d.comb += [into.addr.eq(to), into.data.eq(self.i.payload), into.en.eq(self.i.valid & self.i.ready)]
        with m.If(into.en):
            m.d.sync += to.eq(Mux(to == b.depth - 1, 0, to + 1))
        address = Signal(range(b.depth), reset_less=True)
        m.d.sync += address.eq(entry.place.plus(entry.offset))
        m.d.comb += out.addr.eq(address)
        if b.weighted:
            tile, met = (Signal(range(b.tiles), name=name) for name in ("tile", "met"))
            with m.If(entry.go):
                m.d.sync += tile.eq(Mux(entry.ends, 0, tile + entry.next))
            m.d.sync += met.eq(tile)
            m.d.comb += self.weights_addr.eq(met)
        flags = Flags(entry.first, entry.last & entry.go, entry.digit, entry.go)
        return out.data, flags.delayed(m, 2, "read")


@dataclass(frozen=True)
class _Issued:
    """What the sequencer says of the entry that it issues."""

    go: Value
    place: _Place
    offset: Value
    digit: Value
    first: Value
    last: Value
    next: Value
    ends: Value


def _counted(count: Signal, one: Value, addend: Value) -> Value:
    """A number plus 0 or 1 plus another, in one chain of carries: the 0 or 1 is what it begins with."""
    return (Cat(Const(1, 1), count).as_signed() + Cat(one, extended(addend, len(count))).as_signed()).as_unsigned()[1:]


@dataclass(frozen=True)
class _Place:
    """A place in a ring of words and, where the ring's length is no power of two, the place less that length.

    Both are registers, so that the sum that wraps and the one that does not are there at the same time; the sign of the first chooses.
    """

    base: Signal
    before_end: Signal | None

    @classmethod
    def of(cls, depth: int) -> _Place:
        """The beginning of a ring."""
        before_end = Signal(range(-depth, 0), init=-depth, name="before_end") if depth & (depth - 1) else None
        return cls(Signal(range(depth), name="base"), before_end)

    def plus(self, words: Value) -> Value:
        """The place so many words on, less than all of the ring; in its low bits."""
        near = self.base + words
        if self.before_end is None:
            return near
        far = self.before_end + words
        return Mux(far[-1], near, far)

    def moves(self, m: Module, words: Value, back: Value) -> None:
        """Go on by so many words; `back` is how many these are less the ring's."""
        m.d.sync += self.base.eq(self.plus(words))
        if self.before_end is not None:
            far = self.before_end + words
            m.d.sync += self.before_end.eq(Mux(far[-1], far, self.before_end + back))
