"""Resources of a block by formula, before any synthesis: a first guess, good for comparing foldings with each other.

A look-up table (LUT) does one bit of an adder, a comparator or a two-way choice. Memories of up to `LUT_RAM` bits lie
in LUTs of 64 bits, larger ones in block RAMs of 18 kbit with up to 36 bits per word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

from hw.block import Block
from hw.comparators import Comparators
from hw.engine import Engine
from hw.fifo import Fifo
from hw.quotient import Quotient
from hw.reorder import Reorder
from hw.rows import RowPacker
from tcompile.mapping.design import Instance

__all__ = ["Resources", "estimate"]

LUT_RAM = 2048  # bits below which a memory is not worth a block RAM
BLOCK_BITS, BLOCK_WIDTH = 18 * 1024, 36
CONTROL = 40  # LUTs and flip-flops of counters and handshakes of any block


@dataclass(frozen=True)
class Resources:
    """LUTs, flip-flops and block RAMs of 18 kbit."""

    lut: int = 0
    ff: int = 0
    bram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.lut + other.lut, self.ff + other.ff, self.bram + other.bram)


def estimate(instance: Instance) -> Resources:
    """Resources of a block and its memories."""
    total = _logic(instance.block) + Resources(CONTROL, CONTROL)
    for shape in instance.block.memories.values():
        total += _memory(shape.depth, shape.width)
    return total


def _memory(depth: int, width: int) -> Resources:
    if depth * width <= LUT_RAM or depth <= 32:
        return Resources(lut=-(-depth // 64) * width)
    columns, rows = -(-width // BLOCK_WIDTH), -(-depth // (BLOCK_BITS // BLOCK_WIDTH))
    return Resources(bram=min(columns * rows, max(columns, -(-depth * width // BLOCK_BITS))))


def _queue(places: int, width: int) -> Resources:
    return _memory(places, width) + Resources(lut=2 * places.bit_length(), ff=3 * places.bit_length())


@singledispatch
def _logic(block: Block) -> Resources:
    """A register stage for what comes and goes."""
    bits = sum(bus.bits for bus in (*block.inputs, *block.outputs))
    return Resources(bits, bits)


@_logic.register
def _(block: Engine) -> Resources:
    term = block.i.width + (not block.i.signed) + block.doubles
    lanes = block.o.lanes * block.simd
    decode = lanes * (term * (2 if block.doubles else 1) + 3 * block.passes) if block.weighted else 0
    tree = block.o.lanes * (block.simd - 1) * (term + 2)
    sums = block.o.bits * (2 if block.passes > 1 or block.kind == "max" else 1)
    registers = lanes * (term + 1) + tree // 2 + block.o.bits * (1 + (block.passes > 1))
    ring = _memory(block.depth, block.i.bits) + _queue(block.places, block.o.bits)
    return Resources(decode + tree + sums, registers) + ring


@_logic.register
def _(block: Fifo) -> Resources:
    return _queue(block.depth, block.bus.bits)


@_logic.register
def _(block: Reorder) -> Resources:
    return _memory(2 * block.beats, block.bus.bits)


@_logic.register
def _(block: RowPacker) -> Resources:
    return Resources(block.out.bits, block.out.bits)


@_logic.register
def _(block: Comparators) -> Resources:
    levels = block.levels if block.form == "flat" else block.stages
    return Resources(block.i.lanes * levels * block.i.width, block.i.lanes * levels * (block.i.width + 4))


@_logic.register
def _(block: Quotient) -> Resources:
    adders = bin(block.multiplier ^ (3 * block.multiplier)).count("1")
    row = block.divisor_width + 1
    lane = (adders + 1) * block.numerator_width + 2 * row * block.units + 2 * block.o.width
    held = (adders + 2) * block.numerator_width + (row + block.quotient_width) * max(1, block.units)
    return Resources(block.i.lanes * lane, block.i.lanes * held)
