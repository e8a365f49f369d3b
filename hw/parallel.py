"""The parallel adder graph: a constant matrix times a vector in each cycle, whole words, pipelined.

Every value is as wide as the interval of what it can be, which follows from the matrix and the bounds of the inputs.
Registers stand behind every `spacing` levels of adders; a value that is used later is carried along. The pipeline stops
as a whole while its result waits (`hw.elastic`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import Cat, Module, Shape, Signal, Value, signed, unsigned
from amaranth.lib import wiring

from hw.constant import ConstantMatrix, Node
from hw.elastic import Elastic

__all__ = ["Parallel"]


@dataclass(frozen=True)
class Parallel(ConstantMatrix):
    """A constant matrix times a vector.

    Parameters
    ----------
    i, o, graph
        See `hw.constant.ConstantMatrix`.
    bounds : (int, int)
        Smallest and largest element of a vector.
    spacing : int
        Levels of adders between registers.

    Notes
    -----
    Takes a vector per cycle; a result is offered `latency` cycles after its vector was taken.
    """

    bounds: tuple[int, int]
    spacing: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spacing < 1:
            raise ValueError(f"there must be at least 1 level between registers, not {self.spacing}")

    @property
    def interval(self) -> int:
        return 1

    @property
    def ticks(self) -> int:
        return max(1, -(-self.depth // self.spacing))

    def stage(self, value: int) -> int:
        """The register behind which a value first stands; 0 is that of the inputs."""
        return -(-self.level(value) // self.spacing)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Shape of each value, from the interval of what it can be."""
        graph = self.graph
        ranges = list(graph.ranges([self.bounds] * graph.inputs))
        ranges += [(-ranges[n.right][1], -ranges[n.right][0]) for n in self.nodes[len(graph.adders) :]]
        return tuple(_shape(lo, hi) for lo, hi in ranges)

    def component(self) -> wiring.Component:
        return _Parallel(self)


def _shape(lo: int, hi: int) -> Shape:
    if lo >= 0:
        return unsigned(max(1, hi.bit_length()))
    return signed(1 + max((-lo - 1).bit_length(), max(hi, 0).bit_length()))


class _Parallel(wiring.Component):
    def __init__(self, block: Parallel) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        b = self.block
        control = Elastic(m, self.i.valid, self.i.ready, self.o.valid, self.o.ready, 1, b.ticks)
        held = Signal(b.i.bits, reset_less=True)
        with m.If(control.enable):
            m.d.sync += held.eq(self.i.payload)
        values = self.values(m, held, control.tick)
        rows = []
        for k, row in enumerate(b.rows):
            result = Signal(b.o.width, name=f"row_{k}")
            m.d.comb += result.eq(values[row[0]][b.ticks] << row[1] if row else 0)
            rows.append(result)
        m.d.comb += self.o.payload.eq(Cat(*rows))
        return m

    def values(self, m: Module, held: Value, tick: Value) -> list[dict[int, Value]]:
        """Every value, by the register behind which it is read."""
        b = self.block
        until = self.last_uses()
        values: list[dict[int, Value]] = []
        steps = []
        for v in range(b.graph.inputs + len(b.nodes)):
            if v < b.graph.inputs:
                now: Value = _element(held, v, b.i.width, b.i.signed)
                seen = {0: now}
            else:
                now = Signal(b.shapes[v], name=f"sum_{v}")
                m.d.comb += now.eq(self.sum(b.nodes[v - b.graph.inputs], b.stage(v), values))
                seen = {b.stage(v) - 1: now}  # before its register: for adders of the same stage
            for stage in range(max(seen) + 1, until[v] + 1):
                later = Signal(b.shapes[v], name=f"at_{v}_{stage}", reset_less=True)
                steps.append(later.eq(now))
                seen[stage] = now = later
            values.append(seen)
        with m.If(tick):
            m.d.sync += steps
        return values

    def last_uses(self) -> list[int]:
        """The last register behind which each value is read."""
        b = self.block
        until = [0] * b.graph.inputs + [b.stage(v) - 1 for v in range(b.graph.inputs, b.graph.inputs + len(b.nodes))]
        for v, node in enumerate(b.nodes, start=b.graph.inputs):
            for operand in (node.left, node.right):
                if operand is not None:
                    until[operand] = max(until[operand], b.stage(v) - 1)
        for row in b.rows:
            if row is not None:
                until[row[0]] = b.ticks
        return until

    def sum(self, node: Node, stage: int, values: list[dict[int, Value]]) -> Value:
        """The adder of a node; bits of one operand below the other's shift need none."""
        right = values[node.right][stage - 1]
        if node.left is None:
            return -right
        left = values[node.left][stage - 1]
        a, b = left << node.left_shift, right << node.right_shift
        low = node.right_shift if not node.left_shift else 0 if node.subtract or node.right_shift else node.left_shift
        if not low or low >= min(len(a), len(b)):
            return a - b if node.subtract else a + b
        fixed = (a if node.right_shift else b)[:low]
        high = (a >> low) - (b >> low) if node.subtract else (a >> low) + (b >> low)
        return Cat(fixed, high).as_signed()


def _element(held: Value, k: int, width: int, is_signed: bool) -> Value:
    bits = held[k * width : (k + 1) * width]
    return bits.as_signed() if is_signed else bits
