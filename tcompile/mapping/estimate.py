"""Resources of a block before any synthesis, from a model that was fitted on synthesis.

What a block is made of follows from its description: bits of adders, of choices, of registers, of counters (`made`).
Each kind of block has a coefficient for each of them, not negative, per family of devices; ``benchmarks/resources.py``
fits them on blocks synthesized by yosys, beside logic with longer paths as in a design, and writes ``resources.json``. A kind that was never fitted is estimated by
what passes through its ports, with coefficients that are fitted as well (`FALLBACK`).

Memories follow rules of each family instead, found by the same tool: how deep one must be to be worth a block RAM, and
how many look-up tables (LUT) or block RAMs it then takes.

Counted are: for ``ecp5`` LUT4, two for each CCU2C and four for each TRELLIS_DPR16X4, and blocks of 18 kbit; for ``xcup``
LUT1 to LUT6 and what shift registers and memories take of them, and halves of block RAMs of 36 kbit.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, singledispatch
from math import ceil, log2
from pathlib import Path
from typing import Any, Literal

from hw.add_scaled import AddScaled
from hw.argmax import ArgMax
from hw.arithmetic import OPERANDS, signed_digits, signed_width
from hw.axi_lite import Control
from hw.axi_stream import AxisIn, AxisOut
from hw.block import Block, Memory, Words
from hw.comparators import Comparators
from hw.concat import Concat
from hw.constant import Node
from hw.digits import LONGEST
from hw.engine import WARM, Engine
from hw.fifo import Fifo
from hw.fork import Fork
from hw.lanes import Lanes
from hw.pad import Pad
from hw.parallel import Parallel
from hw.quotient import Quotient
from hw.reorder import READING, Reorder
from hw.rows import RowPacker
from hw.serial import Serial
from hw.slice import Slice
from hw.table import Table
from hw.width import Narrow, Widen
from hw.window import SHORT, Window
from tcompile.mapping.design import Instance

__all__ = [
    "FAMILIES",
    "NO_RESOURCES",
    "Family",
    "Made",
    "Resources",
    "block_rams",
    "estimate",
    "estimate_block",
    "estimate_parallel",
    "estimate_serial",
    "made",
]

Family = Literal["ecp5", "xcup"]
FAMILIES: tuple[Family, ...] = ("ecp5", "xcup")
FALLBACK = "Block"  # the kind of those that were never fitted
PIECE, PIECE_LUTS = 32, 5  # bits that are loaded at a time, and LUTs that see whether it is their turn
COEFFICIENTS = Path(__file__).with_name("resources.json")


@dataclass(frozen=True)
class Resources:
    """LUTs, flip-flops and block RAMs of 18 kbit."""

    lut: int = 0
    ff: int = 0
    bram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.lut + other.lut, self.ff + other.ff, self.bram + other.bram)


NO_RESOURCES = Resources()


@dataclass(frozen=True)
class Ram:
    """A memory: ``rom`` constant, ``comb`` read in the same cycle, ``sync`` a cycle later, ``bypassed`` with what is written in that cycle.

    Of a constant one whose contents are known: distinct columns, and distinct parts of these as long as a LUT holds.
    """

    kind: Literal["rom", "comb", "sync", "bypassed"]
    depth: int
    width: int
    columns: int | None = None
    parts: int | None = None


@dataclass(frozen=True)
class Made:
    """What a block is made of.

    Parameters
    ----------
    kind : str
        Whose coefficients apply.
    lut, ff : mapping of str to float
        How much there is of what takes LUTs and flip-flops.
    rams : sequence of Ram
    parts : sequence of Made
        Parts of a kind of their own.
    """

    kind: str
    lut: Mapping[str, float]
    ff: Mapping[str, float]
    rams: Sequence[Ram] = ()
    parts: Sequence[Made] = ()


Amounts = tuple[float, float, int]


def estimate(instance: Instance, family: Family = "ecp5") -> Resources:
    """Resources of a block in its place and of its constant memories with their contents."""
    _known(family)
    return _rounded(_total(_placed(instance, family), family), *roms(instance, family))


def _placed(instance: Instance, family: Family) -> Made:
    """What a block is made of when what its memories hold is known."""
    block, words = instance.block, instance.memories
    if instance.loadable:
        return made(block, family)
    if isinstance(block, Quotient) and _divisor_is_fixed(block, words.get("params", ())):
        return quotient(block, family, fixed=True)
    if isinstance(block, Engine) and "weights" in words:
        width = block.memories["weights"].width
        columns = _filled(words["weights"], width, family).columns
        return engine(block, family, 1.0 if columns is None else columns / width)
    return made(block, family)


def _divisor_is_fixed(block: Quotient, words: Words) -> bool:
    """Whether each lane divides all its channels by the same number."""
    if not block.divisor_width or not words:
        return False
    width, below = block.params.lane_width, block.addend_width
    lane = (1 << block.divisor_width) - 1 << below
    mask = sum(lane << (width * k) for k in range(block.i.lanes))
    return len({word & mask for word in words}) == 1


def estimate_block(
    block: Block | Control, family: Family = "ecp5", depths: Mapping[str, int] | None = None
) -> Resources:
    """Resources of a block and of its constant memories with any contents.

    Parameters
    ----------
    depths : mapping of str to int, optional
        Words of memories, by name, where the description only says how many there may be.

    Raises
    ------
    ValueError
        A depth of a memory that the block has not, or a family that is not known.
    """
    shapes = block.memories if isinstance(block, Block) else {}
    if not set(depths or {}) <= set(shapes):
        raise ValueError(f"depths must be of {sorted(shapes)}, not {sorted(depths or {})}")
    memories = [_rom((depths or {}).get(name, shape.depth), shape.width) for name, shape in shapes.items()]
    return _rounded(_total(made(block, _known(family)), family), *(_memory(rom, family) for rom in memories))


def roms(instance: Instance, family: Family) -> list[Amounts]:
    """LUTs, flip-flops and block RAMs of the memories that an instance only reads."""
    if instance.loadable:
        return [_loadable(shape, family) for shape in instance.block.memories.values()]
    found = []
    for name, shape in instance.block.memories.items():
        words = instance.memories.get(name)
        found.append(_rom(shape.depth, shape.width) if words is None else _filled(words, shape.width, family))
    return [_memory(rom, family) for rom in found]


def _loadable(shape: Memory, family: Family) -> Amounts:
    """A memory that can be loaded: each piece of its words is written on its own."""
    pieces = [Ram("sync", shape.depth, min(PIECE, shape.width - low)) for low in range(0, shape.width, PIECE)]
    lut, ff, blocks = (sum(column) for column in zip(*(_memory(piece, family) for piece in pieces), strict=True))
    return lut + PIECE_LUTS * len(pieces), ff, int(blocks)


def block_rams(instance: Instance, family: Family) -> dict[str, int]:
    """Block RAMs of each constant memory of an instance by name, and of all others together under an empty name."""
    others = _total(made(instance.block, _known(family)), family)[2]
    constant = zip(instance.block.memories, roms(instance, family), strict=True)
    return {"": int(others), **{name: int(amounts[2]) for name, amounts in constant}}


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    """What was fitted."""
    data: dict[str, Any] = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    return data


def _known(family: Family) -> Family:
    if family not in FAMILIES:
        raise ValueError(f"the family must be one of {', '.join(FAMILIES)}, not {family!r}")
    return family


def _total(of: Made, family: Family) -> Amounts:
    return total(of, family, _data()["families"][family])


def total(of: Made, family: Family, coefficients: Mapping[str, Any]) -> Amounts:
    """LUTs, flip-flops and block RAMs, by coefficients of each kind, resource and feature."""
    lut, ff = (
        sum(coefficients[of.kind][resource][name] * amount for name, amount in amounts.items())
        for resource, amounts in (("lut", of.lut), ("ff", of.ff))
    )
    inside = [total(part, family, coefficients) for part in of.parts] + [_memory(ram, family) for ram in of.rams]
    return lut + sum(x[0] for x in inside), ff + sum(x[1] for x in inside), sum(x[2] for x in inside)


def _rounded(*amounts: Amounts) -> Resources:
    lut, ff, bram = (sum(column) for column in zip(*amounts, strict=True))
    return Resources(round(lut), round(ff), int(bram))


# --- memories ------------------------------------------------------------------------------------------------------------


def _filled(words: Words, width: int, family: Family) -> Ram:
    """A constant memory: equal columns are one, constant ones and constant parts of others are none."""
    if len(words) > MOST_COMPARED:
        return _rom(len(words), width)
    columns = {tuple(word >> k & 1 for word in words) for k in range(width)}
    columns = {c for c in columns if 0 in c and 1 in c}
    part = MEMORIES[family].rom
    parts = {c[k : k + part] for c in columns for k in range(0, len(words), part)}
    return Ram("rom", len(words), width, len(columns), sum(0 in p and 1 in p for p in parts))


def _rom(depth: int, width: int) -> Ram:
    """A constant memory with random contents: few words make few distinct columns."""
    patterns = (1 << depth) - 2 if depth <= FEW_WORDS else 0
    return Ram("rom", depth, width, ceil(patterns * (1 - (1 - 1 / (patterns + 2)) ** width)) if patterns else None)


def _memory(ram: Ram, family: Family) -> Amounts:
    """LUTs, flip-flops and block RAMs."""
    if not ram.depth or not ram.width:
        return 0.0, 0.0, 0
    if ram.depth == 1 and ram.kind == "comb":
        return 0.0, ram.width, 0
    memories = MEMORIES[family]
    blocks, rows = memories.blocks(ram.depth, ram.width)
    if ram.kind == "rom":
        if ram.depth * ram.width / memories.rom_bits > blocks * memories.block_cost:
            return rows_muxed(rows, ram.width), float(rows > 1), blocks
        columns = ram.width if ram.columns is None else ram.columns
        parts = columns * -(-ram.depth // memories.rom) if ram.parts is None else ram.parts
        return parts * memories.part_luts(ram.depth), columns, 0
    beside = ram.kind == "bypassed" and memories.collides
    dear = blocks * memories.block_cost + COLLISION_COST * beside
    if ram.kind != "comb" and memories.ram_cost(ram.depth, ram.width) > dear:
        lut, ff = rows_muxed(rows, ram.width), float(rows > 1)
        if beside:  # what is read while it is written comes from registers beside the block
            lut, ff = lut + ram.width + bits(ram.depth), ff + 2 * ram.width + bits(ram.depth) + 2
        return lut, ff, blocks
    return memories.ram_luts(ram.depth, ram.width), ram.width if ram.kind != "comb" else 0, 0


def rows_muxed(rows: int, width: int) -> float:
    """LUTs that choose among rows of block RAMs."""
    return width * (rows - 1)


@dataclass(frozen=True)
class Memories:
    """Rules of a family.

    Parameters
    ----------
    bank, lanes, luts : int
        Words, bits and LUTs of a memory in LUTs.
    narrow : tuple of (int, int), optional
        Words and bits of one with fewer words and more bits, of equal LUTs.
    shapes : tuple of (int, int, int)
        Words, bits and size of block RAMs.
    rom_bits, block_cost, lut_cost : float
        What yosys compares: bits of a constant memory in LUTs for 1, a block, a bank in LUTs.
    rom, free : int
        Words of a constant memory that a LUT holds, and up to which the choice among LUTs costs nothing.
    choice : int
        Rows of memories among which a LUT chooses; 1 where it takes several.
    collides : bool
        Whether block RAMs need help to read, in the cycle of a write, what was there before.
    """

    bank: int
    lanes: int
    luts: int
    narrow: tuple[int, int] | None
    shapes: tuple[tuple[int, int, int], ...]
    rom_bits: float
    block_cost: float
    lut_cost: float
    rom: int
    free: int
    choice: int
    collides: bool

    def blocks(self, depth: int, width: int) -> tuple[int, int]:
        """Block RAMs, and rows of them, in the shape that needs fewest."""
        return min(
            (-(-depth // words) * -(-width // lanes) * size, -(-depth // words)) for words, lanes, size in self.shapes
        )

    def part_luts(self, depth: int) -> float:
        """LUTs of a part of a column: of few words registers do most, of many the choice among parts costs as well."""
        if depth <= FEW_WORDS:
            return 0.3 if depth <= FEW_WORDS // 2 else 0.9
        return 1 + 0.22 * max(0.0, log2(depth / self.free))

    def banks(self, depth: int, width: int) -> tuple[int, int]:
        """Memories in LUTs: of a row, and rows."""
        if self.narrow and depth <= self.narrow[0]:
            return -(-width // self.narrow[1]), 1
        return -(-width // self.lanes), -(-depth // self.bank)

    def ram_luts(self, depth: int, width: int) -> float:
        """LUTs of a memory in LUTs, with the choice among its rows."""
        columns, rows = self.banks(depth, width)
        chosen = -(-rows // self.choice) if self.choice > 1 else rows if rows > 3 else rows - 1
        return columns * rows * self.luts + (width * chosen + rows if rows > 1 else 0)

    def ram_cost(self, depth: int, width: int) -> float:
        """What yosys takes for the cost of that."""
        columns, rows = self.banks(depth, width)
        return columns * rows * self.lut_cost + width * (rows - 1) / 2


MEMORIES = {
    "ecp5": Memories(
        bank=16, lanes=4, luts=4, narrow=None,
        shapes=((512, 36, 1), (1024, 18, 1), (2048, 9, 1), (4096, 4, 1), (8192, 2, 1), (16384, 1, 1)),
        rom_bits=16, block_cost=128, lut_cost=4, rom=16, free=128, choice=1, collides=True,
    ),
    "xcup": Memories(
        bank=64, lanes=7, luts=8, narrow=(32, 14),
        shapes=(
            (512, 36, 1), (1024, 18, 1), (2048, 9, 1), (4096, 4, 1), (8192, 2, 1), (16384, 1, 1), (512, 72, 2), (32768, 1, 2),
        ),
        rom_bits=64, block_cost=129, lut_cost=16, rom=64, free=256, choice=4, collides=False,
    ),
}  # fmt: skip
COLLISION_COST = 12  # of what helps a block RAM where reads and writes may meet
MOST_COMPARED, FEW_WORDS = 1024, 8


# --- what blocks are made of ---------------------------------------------------------------------------------------------


@singledispatch
def made(block: Block | Control, family: Family) -> Made:
    """What a block is made of, without its constant memories."""
    assert isinstance(block, Block)
    return by_ports(block)


def by_ports(block: Block) -> Made:
    """What passes through the ports: of kinds that were never fitted."""
    taken, given = (sum(bus.bits for bus in side) for side in (block.inputs, block.outputs))
    return Made(FALLBACK, {"control": 1, "in": taken, "out": given}, {"control": 1, "in": taken, "out": given})


def bits(count: int) -> int:
    """Bits of a register that counts from 0 to count - 1."""
    return (count - 1).bit_length() if count > 1 else 0


def carry(width: int) -> int:
    """Bits of a comparison as carry chains hold them, in pairs."""
    return width + width % 2


def adder(width: int, family: Family, *, grows: bool = True) -> int:
    """LUTs of an adder; its operands have a bit less where it `grows`. Yosys leaves short ones of ECP5 to plain logic."""
    if family == "ecp5":
        short = FEW_BITS_GROWING if grows else FEW_BITS
        return short[width] if width < len(short) else carry(width)
    return width


FEW_BITS_GROWING, FEW_BITS = (0, 1, 2, 3, 7), (0, 1, 2, 6, 14)  # LUTs by bits


def delay(width: int, cycles: int, family: Family) -> tuple[int, int]:
    """LUTs and flip-flops of a delay that nobody taps and nothing resets."""
    if family == "xcup" and cycles >= SHIFT_REGISTER:
        return width * -(-cycles // 32), 0
    return 0, width * cycles


SHIFT_REGISTER = 3  # cycles of delay from which yosys makes shift registers of LUTs


def counters(sizes: Iterable[int]) -> dict[str, float]:
    """Counters that go round: their bits, and those that need a comparison to do so."""
    real = [n for n in sizes if n > 1]
    return {"counter": sum(map(bits, real)), "wrap": sum(bits(n) for n in real if n & (n - 1))}


def grid(axes: Iterable[int]) -> dict[str, int]:
    """An odometer: its axes, and the bits of their counters; each axis has a flag as well."""
    real = [n for n in axes if n > 1]
    return {"axes": len(real), "counter": sum(map(bits, real))}


def queue(kind: str, width: int, depth: int, reserved: bool) -> Made:
    """A queue of places; one whose places are reserved counts those as well."""
    ends, level = 2 * bits(depth), bits(depth + 1) * (2 if reserved else 1)
    wraps = 2 * bits(depth) if depth & (depth - 1) else 0
    lut = {"control": 1, "ends": ends, "level": level, "wraps": wraps}
    return Made(kind, lut, {"registers": ends + level + 2 + reserved}, [Ram("comb", depth, width)])


def outbox(width: int, depth: int) -> Made:
    """The queue at the end of a pipeline."""
    return queue("Outbox", width, depth, reserved=True)


@made.register
def _(block: Fifo, family: Family) -> Made:
    width, depth = block.bus.bits, block.depth
    if block.latency == 1:
        return queue("Fifo", width, depth, reserved=False)
    of = queue("Fifo", width, depth - 1, reserved=False)
    lut = {"control": 1, **{f"long_{name}": n for name, n in of.lut.items()}}
    return Made("Fifo", lut, {"registers": of.ff["registers"] + 1}, [Ram("bypassed", depth - 1, width)])


@made.register
def _(block: Fork, family: Family) -> Made:
    return Made("Fork", {"control": 1, "copies": block.copies}, {"registers": block.bus.bits + 1 + block.copies})


@made.register
def _(block: Narrow, family: Family) -> Made:
    held, ratio = block.bus.bits, block.bus.lanes // block.lanes
    counter, beats = bits(max(2, ratio)) + bits(len(block.pieces)), len(block.pieces) > 1
    return Made("Narrow", {"control": 1, "choice": held, "counter": counter}, {"registers": held + 2 + counter + beats})


@made.register
def _(block: Widen, family: Family) -> Made:
    ratio, beats = block.lanes // block.bus.lanes, len(block.pieces)
    missing = ratio - block.pieces[-1]  # parts that the last beat lacks, filled with zeros
    counter = bits(beats) + (beats > 1) if missing else 0
    lut = {"control": 1, "choice": missing * block.bus.bits, "parts": missing, "counter": counter}
    return Made("Widen", lut, {"registers": block.outputs[0].bits + 1 + ratio + counter})


@made.register
def _(block: Concat, family: Family) -> Made:
    count = len(block.runs)
    turn, left = bits(max(2, count)), bits(max(2, *block.runs))
    lut = {
        "control": 1, "choice": block.out.bits * (count == 2), "choice_of_3": block.out.bits * (count == 3),
        "choice_of_more": block.out.bits * count * (count > 3), "counter": turn + left,
    }  # fmt: skip
    return Made("Concat", lut, {"registers": 1 + block.out.bits + turn + left})


@made.register
def _(block: Pad, family: Family) -> Made:
    limits = sum(
        int(bits(n) * ((b > 0) + (b + i < n))) for n, b, i in zip(block.grid, block.before, block.inner, strict=True)
    )
    places = grid(block.grid)
    lut = {"control": 1, "choice": block.bus.bits, "limits": limits, **places}
    flags = 1 + places["axes"] + sum(n != i for n, i in zip(block.grid, block.inner, strict=True))
    return Made("Pad", lut, {"registers": block.bus.bits + 1 + places["counter"] + flags})


@made.register
def _(block: Slice, family: Family) -> Made:
    places, limits, phases = grid(block.grid), 0, 0
    flags = places["axes"]
    for n, start, step, size in zip(block.grid, block.starts, block.steps, block.sizes, strict=True):
        limits += bits(n) * ((start > 0) + (start + (size - 1) * step + 1 < n))
        phases += bits(step) if step > 1 and size > 1 else 0
        flags += ((size - 1) * step + 1 != n) + (step > 1 and size > 1)
    lut = {"control": 1, "limits": limits, "phases": phases, **places}
    return Made("Slice", lut, {"registers": block.bus.bits + 1 + places["counter"] + phases + flags})


@made.register
def _(block: RowPacker, family: Family) -> Made:
    pixel, steps = block.bus.lanes * block.out.width, block.steps
    until = bits(max(2, block.span, block.stride))
    limits = bits(steps) * ((block.before > 0) + (block.before + block.width < steps))
    fills = block.before > 0 or block.before + block.width < steps
    lut = {"control": 1, "choice": block.bus.bits if fills else 0, "counter": bits(steps) + until, "limits": limits}
    kept = (block.bus.bits if not fills else pixel) * (block.span - 1)
    flags = 2 + (steps > 1) + fills  # the first step, one that gives; the last; a pixel, not filling
    return Made("RowPacker", lut, {"registers": block.bus.bits + 1 + kept + bits(steps) + until + flags})


@made.register
def _(block: Reorder, family: Family) -> Made:
    width = block.memories["order"].width
    lut = {"control": 1, "counter": 2 * width, "wrap": 2 * width if block.beats & (block.beats - 1) else 0}
    ff = {"registers": 2 * width + 3 + 2 + 2 + (width + 1) + 1 + block.bus.bits}
    frames = Ram("sync", (1 << width) + block.beats, block.bus.bits)
    return Made("Reorder", lut, ff, [frames], [outbox(block.bus.bits, READING + 1)])


@made.register
def _(block: Window, family: Family) -> Made:
    gaps = [b - a for a, b in zip(block.offsets, block.offsets[1:], strict=False)]
    long = [gap for gap in gaps if gap > SHORT]
    words = 1 + sum(gap for gap in gaps if gap <= SHORT)
    need = max(block.span, block.frame, *(w for _, w in block.moves)).bit_length()
    counts = any(count > 1 and words != block.frame for count, words in block.moves)
    axes = grid(count for count, _ in block.moves if counts)
    places = sum(bits(gap) for gap in set(long))
    srl, kept = 0, block.i.bits * words
    if family == "xcup":
        for gap in gaps:
            if SHIFT_REGISTER <= gap <= SHORT:
                srl, kept = srl + block.i.bits, kept - block.i.bits * gap
    lut = {
        "control": 1, "need": need, "choices": need * len([1 for count, _ in block.moves if count > 1]),
        "places": places, "shift": srl, **axes,
    }  # fmt: skip
    ff = {"registers": 2 + kept + need + axes["counter"] + axes["axes"] + 2 * places}
    return Made("Window", lut, ff, [Ram("sync", gap, block.i.bits) for gap in long])


@made.register
def _(block: AxisIn, family: Family) -> Made:
    place = bits(max(2, block.beats))
    lut = {"control": 1, "choice": block.bus.bits, "counter": place}
    return Made("AxisIn", lut, {"registers": 2 * (block.bus.bits + 1) + 10 + place})


@made.register
def _(block: AxisOut, family: Family) -> Made:
    place = bits(max(2, block.beats))
    lut = {"control": 1, "choice": block.bus.bits, "counter": place}
    return Made("AxisOut", lut, {"registers": 2 * (block.bus.bits + 1) + 4 + place})


@made.register
def _(block: Control, family: Family) -> Made:
    ports = block.inputs + block.outputs
    return Made("Control", {"control": 1, "ports": ports}, {"control": 1, "ports": ports})


# --- arithmetic ----------------------------------------------------------------------------------------------------------


def frame(block: Any) -> tuple[dict[str, float], int]:
    """Counters of a pipelined block: of LUTs, and registers."""
    period, wait = bits(block.period), bits(block.interval)
    ahead = block.params.width + 1 if block.fetches_ahead else 0
    return {"control": 1, "counter": period + wait}, period + wait + ahead


Span = tuple[int, int]  # lowest and highest bit, not counted, of a number


def additions(terms: Sequence[Span], width: int, family: Family) -> tuple[int, int, int]:
    """LUTs of adders, bits that join a third number to a sum, and registers of `hw.arithmetic.summed`."""
    alone, joined, registers = 0, 0, 0
    while True:
        groups = [terms[k : k + OPERANDS] for k in range(0, len(terms), OPERANDS)]
        terms = [(min(low for low, _ in g), min(width, max(high for _, high in g) + len(g) - 1)) for g in groups]
        for group, (_, high) in zip(groups, terms, strict=True):
            above = high - sorted(low for low, _ in group)[-1]
            alone += adder(above, family) * (len(group) > 1)
            joined += above * (len(group) > 2)
        registers += sum(high - low for low, high in terms)
        if len(terms) == 1:
            return alone, joined, registers


def spans(bus_width: int, factor: int) -> list[Span]:
    """The terms of ``factor * x``."""
    return [(position, position + bus_width) for position, _ in signed_digits(factor)]


@made.register
def _(block: AddScaled, family: Family) -> Made:
    terms = spans(block.i0.width, block.factors[0]) + spans(block.i1.width, block.factors[1])
    alone, joined, registers = additions(terms, block.o.width, family)
    lut = {"control": 1, "adders": block.o.lanes * alone, "joined": block.o.lanes * joined}
    held = block.i0.bits + block.i1.bits + 2
    flags = block.work - 1
    return Made(
        "AddScaled",
        lut,
        {"registers": held + block.o.lanes * registers + flags},
        parts=[outbox(block.o.bits, block.places)],
    )


@made.register
def _(block: ArgMax, family: Family) -> Made:
    width, lanes, index = block.i.width, block.i.lanes, block.o.width
    fills = int(block.channels % lanes > 0)  # a bit that says whether an element is there
    compared, chosen, held, nodes = 0, 0, 0, lanes
    for level in range(1, block.levels + 1):
        pairs, nodes = nodes // 2, -(-nodes // 2)
        compared += pairs * carry(width + 1)
        chosen += pairs * (width + level)
        held += nodes * width + pairs * level + (nodes - pairs) * (level - 1) + fills
    lut = {
        "control": 1,
        "compared": compared + carry(width + 1),
        "chosen": chosen,
        "counter": bits(block.beats) + index,
    }
    flags = 2 * (block.levels + 1) + 2
    ff = {"registers": block.i.bits + held + width + index + flags + 2 * bits(block.beats)}
    return Made("ArgMax", lut, ff, parts=[outbox(block.o.bits, block.places)])


@made.register
def _(block: Table, family: Family) -> Made:
    lut, counted = frame(block)
    offset = block.params.lane_width
    lut |= {"adders": block.i.lanes * adder(offset, family, grows=False) if block.depth > 1 else 0}
    ff = {"registers": min(offset, block.i.width) * block.i.lanes + counted + 2}
    return Made("Table", lut, ff, parts=[outbox(block.o.bits, block.places)])


@made.register
def _(block: Comparators, family: Family) -> Made:
    lut, counted = frame(block)
    lanes, width = block.i.lanes, max(block.i.width + (not block.i.signed), block.threshold_width)
    period = bits(block.period)
    box = outbox(block.o.bits, block.places)
    added = carry(block.o.width) if block.first is None else 0 if block.first == 0 else block.o.width
    if block.form == "flat":
        levels = block.levels
        values = (block.o.width if block.first is None else 0) if block.counting else (levels + 1) * block.o.width
        chosen = added if block.counting else levels * block.o.width
        popcount = levels.bit_length() * max(0, levels - 1) if block.counting else 0
        lut |= {"compared": lanes * levels * carry(width), "chosen": lanes * chosen, "popcount": lanes * popcount}
        delayed = lanes * values if block.period > 1 else 0
        return Made("Flat", lut, {"registers": block.i.bits + lanes * levels + delayed + counted + 2}, parts=[box])
    stages = block.stages
    counts = stages + 2 * sum(range(stages))  # a bit is found in each stage, and those before it wait two cycles
    lut |= {"compared": lanes * stages * carry(width), "chosen": lanes * added if block.counting else 0}
    final = lanes * stages if block.counting and block.reads_value else 0
    waits = max(0, 2 * stages - 1)  # cycles that the input is carried along
    beats = period * (waits + block.reads_value)
    ff = {"registers": block.i.bits * waits + lanes * counts + final + beats + counted + 2 * stages + block.reads_value}
    return Made("Tree", lut, ff, parts=[box])


@made.register
def _(block: Quotient, family: Family) -> Made:
    return quotient(block, family)


def rows_of_division(block: Quotient, family: Family, *, fixed: bool) -> tuple[int, int, int]:
    """Of a lane's rows: LUTs of shift registers, flip-flops, and bits that wait for the next beat if rows are shared."""
    remainder, units = block.divisor_width, block.units
    read = remainder * (1 if fixed else 2)
    waiting = 2 + block.rows + block.correction_width
    if family == "ecp5" or block.interval > 1:
        return 0, units * (read + waiting), read + waiting
    luts, registers = (2 + block.correction_width) * (units >= SHIFT_REGISTER), units * read
    registers += 0 if luts else units * (2 + block.correction_width)
    for unit in range(units):  # a bit of the numerator before it, the bit that it found behind it
        before, behind = delay(1, unit + 1, family), delay(1, units - unit, family)
        luts, registers = luts + before[0] + behind[0], registers + before[1] + behind[1] - 1
    return luts, registers, 0


def quotient(block: Quotient, family: Family, *, fixed: bool = False) -> Made:
    """What a quotient is made of; where the divisor is `fixed`, by description or by contents, nothing carries it along."""
    lut, counted = frame(block)
    fixed = fixed or block.period == 1
    lanes, n, width = block.i.lanes, block.numerator_width, block.quotient_width
    x = block.i.width + (block.negate is not False and not block.i.signed)
    alone, joined, registers = additions([*spans(x, block.multiplier), (0, block.addend_width)], n, family)
    ahead = block.ahead - 1
    limits = block.limits.width
    shift, flip = delay(bits(block.period) * bool(limits), ahead, family)
    kept = flip + bits(block.period) * bool(limits)
    lut |= {
        "opening": lanes * alone,
        "joined": lanes * joined,
        "negate": lanes * block.i.width * (block.negate is None),
    }
    correction_lut, correction = delay(block.correction_width, ahead - 1, family)
    correction += block.exceptions * block.correction_width
    ends_lut, ends = delay(block.correction_width, 2, family)
    lane = block.i.width + registers + correction + ends
    state = 2 + block.correction_width
    if block.shifts:
        lut |= {"shifted": lanes * n * (len(block.shifts) - 1), "exact": lanes * n * (block.ties != "up")}
    else:
        row = block.divisor_width
        divisor_lut, divisor = (0, 0) if fixed else delay(row, ahead, family)
        row_luts, row_registers, held = rows_of_division(block, family, fixed=fixed)
        lut |= {
            "rows": lanes * block.units * carry(row + 2),
            "restore": lanes * block.units * row,
            "hold": lanes * block.units * held * (block.interval > 1),
            "above": lanes * carry(max(row, n - block.rows) + 1),
        }
        lane += divisor + row_registers
        correction_lut += divisor_lut + row_luts
        kept += block.units * bits(block.period) * bool(limits)
    closing = 2 * width + 1 + 2
    waits = 0
    if block.period > 1:
        waits = (width if block.span is None else 0) + 2 * (block.o.width if block.lo is None else 0)
    lut |= {
        "closing": lanes * (carry(width + 1) + carry(block.o.width) * (block.lo != 0)),
        "clip": lanes * (width + carry(width + 1) * (block.span is None)),
        "exceptions": lanes * block.exceptions * (block.i.width + block.correction_width),
        "shift": lanes * (correction_lut + ends_lut) + shift,
    }
    flags = block.ahead + block.units * block.interval + 2
    return Made(
        "Shift" if block.shifts else "Division",
        lut,
        {"registers": lanes * (lane + closing + waits) + kept + counted + flags, "state": lanes * state},
        parts=[outbox(block.o.bits, block.places)],
    )


# --- graphs of adders ----------------------------------------------------------------------------------------------------


@made.register
def _(block: Serial, family: Family) -> Made:
    taps, srl, waits = serial_taps(block), 0, 0
    for (value, _), tap in taps.items():
        luts, registers = tap.line(family, begins=value >= block.graph.inputs)
        srl, waits = srl + luts, waits + registers
    used = len({value for value, _ in taps if value < block.graph.inputs})
    groups = sum(-(-n // LONGEST) for n in Counter(node.level for node in block.nodes).values())
    masks = sum(n.left is not None and n.left_shift > 0 for n in block.nodes) + sum(
        n.right_shift > 0 for n in block.nodes
    )
    return serial(
        adders=len(block.nodes), inputs=used, in_width=block.i.width, rows=len(set(block.rows) - {None}),
        out_width=block.o.width, digit=block.digit, depth=block.depth, waits=waits, groups=groups, shift=srl, masks=masks,
    )  # fmt: skip


def serial(
    *, adders: float, inputs: int, in_width: int, rows: int, out_width: int, digit: int, depth: int, waits: float,
    groups: float, shift: float = 0, masks: float = 0,
) -> Made:  # fmt: skip
    """What a digit-serial graph is made of; `groups` of adders each know when a word begins."""
    interval = -(-out_width // digit)
    pairs = -(-in_width // (2 * digit)) if in_width > digit else 0  # of digits of an element, from which one is chosen
    phase = bits(interval)
    lut = {
        "control": 1, "phase": phase, "adders": adders * (digit == 1), "chains": adders * (digit + 1) * (digit > 1),
        "masks": masks * digit, "inputs": inputs * digit * pairs, "shift": shift,
    }  # fmt: skip
    state = 4 + 2 * phase + pairs + depth + interval + max(0, depth - 1) + groups * (interval > 1 and digit == 1)
    state += (3 + depth * (digit > 1)) * (interval > 1)
    registers = adders * (digit + 1) + inputs * digit + rows * ((interval - 1) * digit + out_width) + waits
    return Made("Serial", lut, {"registers": registers, "control": state})


@dataclass
class Taps:
    """After how many cycles a bit is read by adders, and by how many results."""

    adders: set[int] = field(default_factory=set)
    results: dict[int, int] = field(default_factory=dict)

    def longest(self) -> int:
        """Registers behind the bit's own."""
        return max(*self.adders, *self.results, 0, 0)

    def line(self, family: Family, *, begins: bool) -> tuple[int, int]:
        """LUTs and flip-flops of the delay; shift registers may take in the bit's own, where it begins, and a result's."""
        srl, registers, at = 0, 0, -1 if begins else 0
        for tap in sorted(self.adders | set(self.results)):
            length = tap - at
            ends = tap not in self.adders and self.results[tap] == 1
            if family == "xcup" and length and length + ends >= SHIFT_REGISTER:
                srl, registers = srl + 1, registers - ends
            else:
                registers += length
            at = tap
        return srl, registers - begins


def serial_taps(block: Serial) -> dict[tuple[int, int], Taps]:
    """How each bit of each value's digits is read."""
    taps: dict[tuple[int, int], Taps] = defaultdict(Taps)

    def places(value: int, shift: int, time: int) -> Iterator[tuple[Taps, int]]:
        for bit in range(block.digit):
            back, source = divmod(bit - shift, block.digit)
            yield taps[value, source], time - block.level(value) - back

    for node in block.nodes:
        for value, shift in ((node.left, node.left_shift), (node.right, node.right_shift)):
            if value is not None:
                for tap, place in places(value, shift, node.level - 1):
                    tap.adders.add(place)
    for row in {row for row in block.rows if row is not None}:
        for tap, place in places(*row, block.depth):
            tap.results[place] = tap.results.get(place, 0) + 1
    return taps


def chain(width: int, first: int, taps: Iterable[int], family: Family) -> tuple[int, int]:
    """LUTs and flip-flops of a delay line read at some places, `first` being where it begins."""
    srl, registers, at = 0, 0, first
    for tap in sorted(taps):
        if tap > at:
            luts, kept = delay(width, tap - at, family)
            srl, registers, at = srl + luts, registers + kept, tap
    return srl, registers


@made.register
def _(block: Parallel, family: Family) -> Made:
    first = block.graph.inputs
    read: list[list[int]] = [[] for _ in range(first + len(block.nodes))]
    for v, node in enumerate(block.nodes, start=first):
        for operand in (node.left, node.right):
            if operand is not None:
                read[operand].append(block.stage(v) - 1)
    for row in block.rows:
        if row is not None:
            read[row[0]].append(block.ticks)
    widths = [shape.width for shape in block.shapes]
    alone, joined, srl, registers = 0, 0, 0, 0
    for v, taps in enumerate(read):
        start = block.stage(v) - 1 if v >= first else 0
        luts, kept = chain(widths[v] if v >= first else block.i.width, start, taps, family)
        srl, registers = srl + luts, registers + kept
        if v < first:
            registers += block.i.width if taps else 0
            continue
        size = adder(max(0, widths[v] - free_bits(block.nodes[v - first])), family)
        if taps == [start]:  # added on in the same cycle, and nothing else: one sum of three
            joined += size
        else:
            alone += size
    return parallel(alone, joined, registers, block.ticks, srl)


def parallel(alone: float, joined: float, registers: float, ticks: int, shift: float = 0) -> Made:
    """What a parallel graph is made of."""
    lut = {"control": 1, "adders": alone, "joined": joined, "shift": shift}
    return Made("Parallel", lut, {"registers": registers, "control": 2 + ticks})


def free_bits(node: Node) -> int:
    """Lowest bits of a sum that need no adder."""
    if node.left is None:
        return 0
    return node.right_shift if not node.left_shift else 0 if node.subtract or node.right_shift else node.left_shift


# --- engines -------------------------------------------------------------------------------------------------------------


@made.register
def _(block: Engine, family: Family) -> Made:
    return engine(block, family)


def engine(block: Engine, family: Family, distinct: float = 1.0) -> Made:
    """What an engine is made of; `distinct` is the share of the columns of its weights that are unlike all others."""
    lanes, pes = block.lanes, block.o.lanes
    added, held, signs = tree(lanes)
    digits, width = pes * lanes.simd * block.weighted, block.i.width + lanes.doubles
    odd, multi = pes * (lanes.simd // 2), lanes.passes > 1
    booth = digits * (not lanes.is_flagged)
    sums = block.kind != "max"
    place, steps = bits(block.depth), [words for count, words in block.moves if count > 1 and words != block.frame]
    move, level = max(block.frame, *steps, 0).bit_length(), max(block.depth, block.frame, *steps, 0).bit_length() + 2
    axes = grid(count for count, _ in block.moves if steps)
    entry, tile = bits(block.entries), bits(block.tiles) * block.weighted
    lut = {
        "control": 1, "tree": pes * added, "terms": odd * width * (not lanes.doubles),
        "doubles": (digits - odd) * width * lanes.doubles, "doubled terms": odd * width * lanes.doubles,
        "booth": booth, "passes": booth * (lanes.passes - 1), "sums": pes * carry(block.o.width + 1) * sums,
        "shifted": block.o.bits * (lanes.passes - 1), "max": pes * carry(block.o.width) * (not sums),
        "counter": entry + tile + axes["counter"] + move, "levels": 2 * level,
        "places": place * (1 if block.depth & (block.depth - 1) == 0 else 5), "axes": axes["axes"],
    }  # fmt: skip
    terms = (digits - odd) * width + (block.i.lanes // 2 * block.i.width if lanes.simd > 1 else 0)
    flags = (odd * (1 + lanes.doubles) + digits + lanes.tile_width) * distinct if block.weighted else 0
    registers = block.i.bits + terms + flags + pes * (held + signs * block.weighted) + block.o.bits
    registers += (block.o.bits + pes) * multi
    after = 1 + lanes.tree_stages + multi if block.weighted else int(not sums)
    wraps = place + 1 if block.depth & (block.depth - 1) else 0
    walk = axes["counter"] + axes["axes"] + (2 * (move + 1) + place + wraps) * bool(steps)
    word = block.memories["schedule"].width
    sequencer = entry + word + WARM + 3 * place + wraps + walk + 3 + 2 * level + 2 * tile
    control = 2 * (3 + after) + 2 + lanes.digit_width * (3 + (after if multi else 0)) + 4 * (not sums)
    ff = {"registers": registers, "control": sequencer + control}
    ring = Ram("sync", block.depth, block.i.bits)
    return Made("Engine", lut, ff, [ring], [outbox(block.o.bits, block.places)])


def tree(lanes: Lanes) -> tuple[int, int, int]:
    """Adder bits of a PE's tree, its registers, and those of signs."""
    low = -1 << (lanes.i.width - 1) if lanes.i.signed else 0
    reach = [(low << lanes.doubles, (low + (1 << lanes.i.width) - 1) << lanes.doubles)] * lanes.simd
    added, held, signs, level = 0, 0, 0, 0
    while len(reach) > 1:
        level += 1
        pairs = [reach[k : k + 2] for k in range(0, len(reach), 2)]
        reach = [
            p[0]
            if len(p) == 1
            else (min(p[0][0] + p[1][0], p[0][0] - p[1][1]), max(p[0][1] + p[1][1], p[0][1] - p[1][0]))
            for p in pairs
        ]
        widths = [min(signed_width(*r), lanes.o.width) for r in reach]
        added += sum(carry(w + 1) for w, p in zip(widths, pairs, strict=True) if len(p) > 1)
        if level % lanes.tree == 0 or len(reach) == 1:
            held, signs = held + sum(widths), signs + len(widths)
    return added, held, signs


# --- before there is a graph ---------------------------------------------------------------------------------------------


def estimate_serial(
    adders: float, inputs: int, in_width: int, rows: int, out_width: int, digit: int, family: Family = "ecp5"
) -> Resources:
    """Resources of `hw.serial.Serial` when only its number of adders is known.

    Parameters
    ----------
    adders : float
    inputs, in_width : int
        Elements of a vector and bits of each.
    rows, out_width : int
        Results and bits of each.
    digit : int
        Bits of a digit.
    """
    of = serial(
        adders=adders, inputs=inputs, in_width=in_width, rows=rows, out_width=out_width, digit=digit,
        depth=depth(adders, rows), waits=_typical()["waits"] * adders * digit,
        groups=adders / LONGEST + depth(adders, rows),
    )  # fmt: skip
    return _rounded(_total(of, _known(family)))


def estimate_parallel(
    adders: float, inputs: int, in_width: int, rows: int, out_width: int, spacing: int, family: Family = "ecp5"
) -> Resources:
    """Resources of `hw.parallel.Parallel` when only its number of adders is known; parameters as of `estimate_serial`.

    Parameters
    ----------
    spacing : int
        Levels of adders between registers.
    """
    levels, known = depth(adders, rows), _typical()
    mean = in_width + (out_width - in_width) * known["width"]
    added = adders * mean
    joined = known["joined"] * added if spacing > 1 else 0.0
    registers = known["registers"] * added / spacing + inputs * in_width
    return _rounded(_total(parallel(added - joined, joined, registers, -(-levels // spacing)), _known(family)))


def depth(adders: float, rows: int) -> int:
    """Levels that a graph may have."""
    return 1 + ceil(log2(1 + 2 * adders / max(1, rows)))


def _typical() -> dict[str, float]:
    return dict(_data()["typical"])
