"""The engine: PE x SIMD lanes that add, subtract or skip, fed from a buffer that the schedule addresses.

Input beats fill a ring of `depth` words. For every output position the schedule memory is read from its first entry to
its last; an entry names a word of the position's window (`offset`, counted from the window's first word), so stride,
dilation, groups and kernels are contents of a memory, and what has no entry costs no cycle. Between positions the
window moves on by a constant: along a row, to the next row, to the next frame. Padding is put into the stream before.

Four kinds of lanes share all of this:

- ``dot``: one word of SIMD elements goes to all PEs; each has SIMD ternary or Booth digits: a tile of weights;
- ``lane``: a word of PE elements, one for each PE, one weight each: depthwise convolution;
- ``sum``, ``max``: the same without weights: pooling.

Weights are two's complement, `weight_width` bits. Pass p of a tile uses its radix-4 Booth digit p, one of -2 .. 2,
``-2·b[2p+1] + b[2p] + b[2p-1]``; two bits make ternary weights a single pass. An entry's sum is shifted by 2p and added.

Timing: an entry per cycle. The first entry of a position waits until the ring holds the whole window; the last entry of
a row block waits for a place in the outbox. A result is offered `pipeline` cycles after its last entry was issued.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import cycle
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory as Ram

from hw.block import Beats, Block, Bus, Memory, Words, pack
from hw.outbox import Outbox
from hw.timing import Channel, Process, Queue, outbox

__all__ = ["Engine", "Entry", "Kind", "booth_digits"]

Kind = Literal["dot", "lane", "sum", "max"]
TREE_LEVELS = 2  # levels of adders between registers


class Entry(NamedTuple):
    """One entry of a schedule.

    Parameters
    ----------
    offset : int
        Word of the window.
    digit : int
        Booth digit of the tile's weights that is used: the pass.
    first, last : bool
        Whether it begins and ends a row block.
    adds : bool
        False for the one entry of a row block without any kept tile: the sum is 0.
    next : bool
        Whether the next entry that adds uses the next tile; false from the last tile on.
    """

    offset: int
    digit: int = 0
    first: bool = True
    last: bool = True
    adds: bool = True
    next: bool = True


def booth_digits(weights: np.ndarray, digit: int) -> np.ndarray:
    """Radix-4 Booth digit number `digit` of two's complement integers: ``-2·b[2d+1] + b[2d] + b[2d-1]``."""
    low = (weights >> (2 * digit - 1)) & 1 if digit else np.zeros_like(weights)
    return -2 * ((weights >> (2 * digit + 1)) & 1) + ((weights >> (2 * digit)) & 1) + low


@dataclass(frozen=True)
class Engine(Block):
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
        Length of the schedule.
    tiles : int
        Words of the weight memory; 0 for pooling.
    weight_width : int
        Bits of a weight; 0 for pooling.
    doubles : bool
        Whether any digit is 2 or -2.
    places : int
        Places of the outbox.
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

    @property
    def simd(self) -> int:
        """Elements that a PE takes per cycle."""
        return self.i.lanes if self.kind == "dot" else 1

    @property
    def passes(self) -> int:
        """Booth digits of a weight."""
        return max(1, (self.weight_width + 1) // 2)

    @property
    def positions(self) -> int:
        """Output positions of a frame."""
        return prod(count for count, _ in self.moves)

    @property
    def frame_words(self) -> int:
        """Input beats of a frame."""
        total, repeats = self.frame, 1
        for count, words in reversed(self.moves):
            total += repeats * (count - 1) * words
            repeats *= count
        return total

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
        return (self.passes - 1).bit_length()

    @property
    def memories(self) -> dict[str, Memory]:
        shapes = {"schedule": Memory(self.entries, self.offset_width + self.digit_width + 4)}
        if self.weighted:
            shapes["weights"] = Memory(self.tiles, self.o.lanes * self.simd * self.weight_width)
        return shapes

    @property
    def tree_stages(self) -> int:
        """Registers in the tree that adds a PE's SIMD terms."""
        return -(-(self.simd - 1).bit_length() // TREE_LEVELS)

    @property
    def pipeline(self) -> int:
        """Cycles from the issue of a row block's last entry until its result is offered."""
        return 5 + self.tree_stages + (self.passes > 1)

    @property
    def latency(self) -> int:
        """For a window of one entry; one cycle more for each further entry of the row block."""
        return 1 + self.pipeline

    def schedule_words(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Contents of the schedule memory."""
        return tuple(
            e.offset
            | e.digit << self.offset_width
            | (e.first | e.last << 1 | e.adds << 2 | e.next << 3) << (self.offset_width + self.digit_width)
            for e in entries
        )

    def schedule(self, words: Words) -> list[Entry]:
        """The entries of a schedule memory."""
        flags = self.offset_width + self.digit_width
        return [
            Entry(
                word & ((1 << self.offset_width) - 1),
                word >> self.offset_width & ((1 << self.digit_width) - 1),
                *(bool(word >> (flags + k) & 1) for k in range(4)),
            )
            for word in words
        ]

    def row_blocks(self, words: Words) -> list[int]:
        """Entries of each row block."""
        ends = [k for k, e in enumerate(self.schedule(words)) if e.last]
        return [b - a for a, b in zip([-1, *ends], ends, strict=False)]

    def weight_words(self, tiles: np.ndarray) -> tuple[int, ...]:
        """Contents of the weight memory: tiles (n, PE, SIMD)."""
        return tuple(pack(tile.reshape(-1).tolist(), self.weight_width) for tile in tiles)

    def _tiles(self, words: Words) -> np.ndarray:
        """Weights (n, PE, SIMD) of a weight memory."""
        count, width = self.o.lanes * self.simd, self.weight_width
        mask, sign = (1 << width) - 1, 1 << (width - 1)
        rows = [[((word >> (k * width) & mask) ^ sign) - sign for k in range(count)] for word in words]
        return np.array(rows, np.int64).reshape(-1, self.o.lanes, self.simd)

    def component(self) -> wiring.Component:
        return _Engine(self)

    def advances(self) -> Iterator[int]:
        """Words by which the window moves on after each position, frame after frame."""
        counts = [count for count, _ in self.moves]
        for position in cycle(range(1, self.positions + 1)):
            left, move = position, self.frame
            for count, words in zip(counts, (w for _, w in self.moves), strict=True):
                if left % count:
                    move = words
                    break
                left //= count
            yield move

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        x = inputs[0]
        bases, base = [], 0
        for move in self.advances():
            if base + self.span > len(x):
                break
            bases.append(base)
            base += move
        entries = self.schedule(memories["schedule"])
        tiles = self._tiles(memories["weights"]) if self.weighted else None
        at = np.array(bases, np.int64)
        rows, tile = [], 0
        total = np.zeros((len(at), self.o.lanes), np.int64)
        for e in entries:
            term = self._term(x[at + e.offset], tiles[tile] if tiles is not None and e.adds else None, e)
            total = term if e.first else np.maximum(total, term) if self.kind == "max" else total + term
            tile += e.next
            if e.last:
                rows.append(total)
        result = np.stack(rows, axis=1).reshape(-1, self.o.lanes)
        wrapped = result & ((1 << self.o.width) - 1)
        sign = 1 << (self.o.width - 1)
        return ((wrapped ^ sign) - sign if self.o.signed else wrapped,)

    def _term(self, x: np.ndarray, tile: np.ndarray | None, e: Entry) -> np.ndarray:
        """What an entry adds: (positions, PE)."""
        if not e.adds:
            return np.zeros((len(x), self.o.lanes), np.int64)
        if tile is None:
            return x
        digits = booth_digits(tile, e.digit) << (2 * e.digit)
        return np.asarray(x @ digits.T if self.kind == "dot" else x * digits[:, 0])

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Process]:
        raise TypeError("the timing of an engine depends on its schedule; ask `timing`")

    def timing(self, i: Sequence[Channel], o: Sequence[Channel], memories: Mapping[str, Words]) -> Iterable[Process]:
        lengths = self.row_blocks(memories["schedule"])
        written, freed, results, credits = Queue(), Queue(), Queue(), Queue()
        return (
            self._writes(i[0], written, freed),
            self._works(lengths, written, freed, results, credits),
            outbox(o[0], results, credits),
        )

    def _writes(self, i: Channel, written: Queue, freed: Queue) -> Process:
        """Takes a word when its place in the ring is free, two cycles after the window has left it."""
        t, word, limit, free = -1, 0, self.depth, 0
        moves = self.advances()
        while True:
            while word >= limit:
                free = yield ("recv", freed)
                limit += next(moves)
            t = yield ("get", i, max(t + 1, free))
            yield ("send", written, t + 1)
            word += 1

    def _works(self, lengths: list[int], written: Queue, freed: Queue, results: Queue, credits: Queue) -> Process:
        """Issues the entries of one position after the other."""
        t, base, have, there, block = -1, 0, 0, 0, 0
        for move in self.advances():
            while have < base + self.span:
                there = yield ("recv", written)
                have += 1
            t = max(t, there - 1)
            for length in lengths:
                credit = (yield ("recv", credits)) if block >= self.places else 0
                block += 1
                t = max(t + length, credit)
                yield ("send", results, t + self.pipeline)
            base += move
            yield ("send", freed, t + 2)


class _Engine(wiring.Component):
    """Sequencer, ring, lanes, adder tree and accumulators, in the order of the flow."""

    def __init__(self, block: Engine) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        b = self.block
        m.submodules.box = box = Outbox(b.o.bits, b.places)
        entry = self.issue(m, box)
        word, flags = self.read(m, entry)
        rows, flags = self.terms(m, word, flags)
        sums, flags = self.add(m, rows, flags)
        self.accumulate(m, sums, flags, box)
        m.d.comb += [self.o.valid.eq(box.o.valid), self.o.payload.eq(box.o.payload), box.o.ready.eq(self.o.ready)]
        return m

    def issue(self, m: Module, box: Outbox) -> _Issued:
        """One entry of the schedule per cycle, unless the window or the outbox make it wait."""
        b, word = self.block, self.schedule_data
        ow, dw = b.offset_width, b.digit_width
        first, last, adds, following_tile = (word[ow + dw + k] for k in range(4))
        entry, following = Signal(range(b.entries)), Signal(range(b.entries))
        go, ends, moves_on, there = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            go.eq(((entry != 0) | there) & (~last | box.may)),
            ends.eq(entry == b.entries - 1),
            moves_on.eq(go & ends),
            box.take.eq(go & last),
            following.eq(Mux(go, Mux(ends, 0, entry + 1), entry)),
            self.schedule_addr.eq(following),
        ]
        m.d.sync += entry.eq(following)
        move, step = self.move(m, moves_on)
        base = Signal(range(b.depth))
        with m.If(moves_on):
            m.d.sync += base.eq(_wrapped(m, base + step, b.depth))
        self.fill(m, moves_on, move, there)
        return _Issued(go, base, word[:ow], word[ow : ow + dw], first, last, adds, following_tile, moves_on)

    def move(self, m: Module, moves_on: Value) -> tuple[Value, Value]:
        """By how many words the window moves on after the present position, plainly and modulo the ring."""
        b = self.block
        move = Signal(range(max(b.frame, *(w for _, w in b.moves)) + 1))
        step = Signal(range(b.depth))
        m.d.comb += [move.eq(b.frame), step.eq(b.frame % b.depth)]
        carry: Value = Const(1, 1)
        for axis, (count, words) in enumerate(b.moves):
            at, wraps = Signal(range(count), name=f"at_{axis}"), Signal(name=f"wraps_{axis}")
            m.d.comb += wraps.eq(at == count - 1)
            with m.If(moves_on & carry):
                m.d.sync += at.eq(Mux(wraps, 0, at + 1))
            with m.If(carry & ~wraps):
                m.d.comb += [move.eq(words), step.eq(words % b.depth)]
            carry = carry & wraps
        return move, step

    def fill(self, m: Module, moves_on: Value, move: Value, there: Signal) -> None:
        """Counts the words from the window's first on; below zero while the window moved past what has come.

        A word's place is given to another two cycles after the window moved on, when it has been read for certain.
        """
        b = self.block
        shape = signed(max(b.depth, b.frame, *(w for _, w in b.moves)).bit_length() + 2)
        held, kept = Signal(shape), Signal(shape)
        moved, owed = Signal(), Signal.like(move)
        wrote = self.i.valid & self.i.ready
        m.d.sync += [
            moved.eq(moves_on),
            owed.eq(move),
            held.eq(held + wrote - Mux(moves_on, move, 0)),
            kept.eq(kept + wrote - Mux(moved, owed, 0)),
        ]
        m.d.comb += [there.eq(held >= b.span), self.i.ready.eq(kept < b.depth)]

    def read(self, m: Module, entry: _Issued) -> tuple[Value, _Flags]:
        """The word of the ring, two cycles after the issue, with the tile of weights beside it."""
        b = self.block
        m.submodules.ring = ring = Ram(shape=unsigned(b.i.bits), depth=b.depth, init=[])
        into, out = ring.write_port(), ring.read_port()
        to = Signal(range(b.depth))
        m.d.comb += [into.addr.eq(to), into.data.eq(self.i.payload), into.en.eq(self.i.valid & self.i.ready)]
        with m.If(into.en):
            m.d.sync += to.eq(Mux(to == b.depth - 1, 0, to + 1))
        address = Signal(range(b.depth), reset_less=True)
        m.d.sync += address.eq(_wrapped(m, entry.base + entry.offset, b.depth))
        m.d.comb += out.addr.eq(address)
        if b.weighted:
            tile, fetched = Signal(range(b.tiles)), Signal(range(b.tiles))
            with m.If(entry.go):
                m.d.sync += tile.eq(Mux(entry.ends, 0, tile + entry.next))
            m.d.sync += fetched.eq(tile)
            m.d.comb += self.weights_addr.eq(fetched)
        flags = _Flags(entry.first, entry.last & entry.go, entry.adds, entry.digit, entry.go)
        return out.data, flags.delayed(m, 2, "read")

    def terms(self, m: Module, word: Value, flags: _Flags) -> tuple[list[list[_Term]], _Flags]:
        """What the lanes of each PE give, registered."""
        b = self.block
        shape = signed(b.i.width + (not b.i.signed) + b.doubles)
        rows = []
        for pe in range(b.o.lanes):
            elements = range(b.simd) if b.kind == "dot" else range(pe, pe + 1)
            x = [_signed(word.word_select(k, b.i.width), b.i.signed) for k in elements]
            one, two, minus = self.digits(pe, flags) if b.weighted else ([flags.adds], [Const(0)], [Const(0)])
            rows.append([_Term.named(f"term_{pe}_{k}", shape) for k in range(b.simd)])
            for k, term in enumerate(rows[-1]):
                size = Mux(one[k], x[k], Mux(two[k], x[k] << 1, 0) if b.doubles else 0)
                m.d.sync += [term.value.eq(Mux(minus[k], ~size, size)), term.carry.eq(minus[k])]
        return rows, flags.delayed(m, 1, "terms")

    def digits(self, pe: int, flags: _Flags) -> tuple[list[Value], list[Value], list[Value]]:
        """Of each weight's digit: whether its size is 1, whether it is 2, and whether it is negative."""
        b = self.block
        one, two, minus = [], [], []
        for k in range(b.simd):
            weight = self.weights_data.word_select(pe * b.simd + k, b.weight_width).as_signed()
            padded = Cat(Const(0, 1), weight, weight[-1] if b.weight_width % 2 else Const(0, 0))
            low, mid, high = padded.bit_select(flags.digit << 1 if b.passes > 1 else Const(0), 3)
            one.append((low ^ mid) & flags.adds)
            two.append((mid ^ high) & ~(low ^ mid) & flags.adds)
            minus.append(high & flags.adds)
        return one, two, minus

    def add(self, m: Module, rows: list[list[_Term]], flags: _Flags) -> tuple[list[_Term], _Flags]:
        """Each PE's terms added in a tree."""
        sums = []
        for pe, terms in enumerate(rows):
            level = 0
            while len(terms) > 1:
                level += 1
                keep = level % TREE_LEVELS == 0 or len(terms) == 2
                terms = self.level(m.d.sync if keep else m.d.comb, terms, f"sum_{pe}_{level}")
            sums += terms
        return sums, flags.delayed(m, self.block.tree_stages, "tree")

    def level(self, domain: Any, terms: list[_Term], name: str) -> list[_Term]:
        """One level of a tree: the adder of a pair takes one of its carries, the other is left."""
        sums = []
        for k in range(0, len(terms), 2):
            pair = terms[k : k + 2]
            new = _Term.named(f"{name}_{k}", signed(max(len(t.value) for t in pair) + len(pair) - 1))
            total = _plus(pair[0].value, pair[1].value, pair[0].carry) if len(pair) == 2 else pair[0].value
            domain += [new.value.eq(total), new.carry.eq(pair[-1].carry)]
            sums.append(new)
        return sums

    def accumulate(self, m: Module, sums: list[_Term], flags: _Flags, box: Outbox) -> None:
        """Adds an entry's sums to the accumulators; what the last entry of a row block leaves goes out."""
        b = self.block
        if b.passes > 1:
            sums = [self.shifted(m, term, flags.digit, pe) for pe, term in enumerate(sums)]
            flags = flags.delayed(m, 1, "shift")
        totals = [Signal(b.o.width, name=f"total_{pe}", reset_less=True) for pe in range(b.o.lanes)]
        for total, term in zip(totals, sums, strict=True):
            if b.kind == "max":
                mine, best = _signed(term.value[: b.o.width], b.o.signed), _signed(total, b.o.signed)
                result = Mux(flags.first | (mine > best), mine, best)
            else:
                result = _plus(Mux(flags.first, 0, total), term.value, term.carry)
            with m.If(flags.go):
                m.d.sync += total.eq(result)
        done = flags.delayed(m, 1, "done")
        m.d.comb += [box.push.eq(done.last), box.data.eq(Cat(*totals))]

    def shifted(self, m: Module, term: _Term, digit: Value, pe: int) -> _Term:
        """A sum times 4 to the power of `digit`; the carry fills the low bits, so that it still adds one to the sum."""
        new = _Term.named(f"shifted_{pe}", signed(self.block.o.width))
        with m.Switch(digit):
            for d in range(self.block.passes):
                with m.Case(d):
                    m.d.sync += new.value.eq(Cat(term.carry.replicate(2 * d), term.value).as_signed())
        m.d.sync += new.carry.eq(term.carry)
        return new


@dataclass(frozen=True)
class _Term:
    """A number on its way through the adders: value + carry. A negated size is its complement and a carry."""

    value: Signal
    carry: Signal

    @classmethod
    def named(cls, name: str, shape: Shape) -> _Term:
        return cls(Signal(shape, name=name, reset_less=True), Signal(name=f"{name}_carry", reset_less=True))


@dataclass(frozen=True)
class _Issued:
    """What the sequencer says of the entry that it issues."""

    go: Value
    base: Value
    offset: Value
    digit: Value
    first: Value
    last: Value
    adds: Value
    next: Value
    ends: Value


@dataclass(frozen=True)
class _Flags:
    """What travels with an entry through the pipeline."""

    first: Value
    last: Value
    adds: Value
    digit: Value
    go: Value

    def delayed(self, m: Module, cycles: int, name: str) -> _Flags:
        """The same, some cycles later."""
        flags = self
        for k in range(cycles):
            new = [flags.later(f.name, f"{f.name}_{name}_{k}") for f in fields(flags)]
            m.d.sync += [s.eq(getattr(flags, f.name)) for s, f in zip(new, fields(flags), strict=True)]
            flags = _Flags(*new)
        return flags

    def later(self, field: str, name: str) -> Signal:
        """A register for a field; only what starts or ends work needs a reset."""
        return Signal(len(getattr(self, field)), name=name, reset_less=field not in ("go", "last"))


def _signed(value: Value, is_signed: bool) -> Value:
    """A field of bits as a signed value."""
    return value.as_signed() if is_signed else Cat(value, Const(0, 1)).as_signed()


def _plus(a: Value, b: Value, carry: Value) -> Value:
    """a + b + carry in one adder: the carry enters below the lowest bits; as wide as the wider plus one, signed."""
    total = Cat(Const(1, 1), a).as_signed() + Cat(carry, b).as_signed()
    return total[1:].as_signed()


def _wrapped(m: Module, place: Value, depth: int) -> Value:
    """A place in a ring of `depth` words, from one below twice that."""
    if depth & (depth - 1) == 0:
        return place[: depth.bit_length() - 1]
    over = Signal(len(place))
    m.d.comb += over.eq(place - depth)
    return Mux(place >= depth, over, place)
