"""The registers of a digit-serial adder graph as data: what `hw.serial` makes gateware of, and `tcompile.emit` Verilog.

All registers are vectors of up to `LONGEST` bits, so that each operation on them is one machine word in a simulator.
Elements stand in the order in which they are last read, those that are read longest first: what waits for one more tick is then
the lower part of what waited before, and costs a simulator no shuffling of bits. Within that order neighbours read neighbours, so
that one range of a register is the left operand of several adders.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hw.constant import ConstantMatrix, Node

__all__ = ["LONGEST", "Addition", "Bit", "Delay", "Held", "Level", "Plan", "Word", "plan"]

T = TypeVar("T")
LONGEST = 32  # elements of a vector
CHAIN = 16  # bits of an addition that several adders share


@dataclass(frozen=True, slots=True)
class Bit:
    """A bit of a register.

    Parameters
    ----------
    register : str
    index : int
    time, skip : int
        It reads as 0 with each of a word's first `skip` digits, of which the first is read `time` ticks after the start.
    """

    register: str
    index: int
    time: int = 0
    skip: int = 0


Bits = tuple[Bit | None, ...]  # lowest first; 0 where None


@dataclass(frozen=True, slots=True)
class Held:
    """One bit of the digit of some inputs.

    Parameters
    ----------
    name : str
    digits : tuple of tuple of (int or None)
        Bits of the payload, digit by digit; 0 where None.
    behind : str or None
        The register that is read behind the last digit, which holds its highest bit; zeros where None.
    """

    name: str
    digits: tuple[tuple[int | None, ...], ...]
    behind: str | None


@dataclass(frozen=True, slots=True)
class Delay:
    """What waits for a tick."""

    name: str
    source: Bits


@dataclass(frozen=True, slots=True)
class Addition:
    """Some digits on one carry chain: all of them are sums, or all are differences.

    Parameters
    ----------
    subtract : bool
    adders : tuple of int
        Their places in the level.
    """

    subtract: bool
    adders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """Adders of one level.

    Parameters
    ----------
    name : str
        The registers are ``sum_<name>``, bit k of all digits before bit k + 1, and ``carry_<name>``.
    level : int
    left, right : tuple of Bits
        The digits that the adders read.
    subtract : tuple of bool
        Whether an adder subtracts the right one.
    chains : tuple of Addition
        How digits of more than one bit are added; digits of one bit need none.
    """

    name: str
    level: int
    left: tuple[Bits, ...]
    right: tuple[Bits, ...]
    subtract: tuple[bool, ...]
    chains: tuple[Addition, ...]

    @property
    def start(self) -> int:
        """The carries that a word begins with."""
        return sum(s << k for k, s in enumerate(self.subtract))


@dataclass(frozen=True, slots=True)
class Word:
    """A result, gathered digit by digit; `row` is its place in the vector of results."""

    row: int
    digit: Bits


@dataclass(frozen=True)
class Plan:
    """All registers, in the order in which they may be made.

    Parameters
    ----------
    widths : dict of str to int
        Bits of each register that a `Bit` may name.
    words : tuple of (Word or None)
        One for each row; None where it is 0.
    """

    widths: dict[str, int]
    held: tuple[Held, ...]
    levels: tuple[Level, ...]
    delays: tuple[Delay, ...]
    words: tuple[Word | None, ...]

    def skips(self) -> list[tuple[int, int]]:
        """Every `time` and `skip` of a bit that reads as 0 at first."""
        read = [b for d in self.delays for b in d.source]
        read += [b for v in self.levels for digit in (*v.left, *v.right) for b in digit]
        read += [b for w in self.words if w is not None for b in w.digit]
        return sorted({(b.time, b.skip) for b in read if b is not None and b.skip})


def plan(block: ConstantMatrix, digit: int, digits: int, *, repeats: bool) -> Plan:
    """The registers of a graph.

    Parameters
    ----------
    block : ConstantMatrix
    digit : int
        Bits of a digit.
    digits : int
        Digits of an element.
    repeats : bool
        Whether the highest bit of an element stands for those behind its last digit.
    """
    return _Planner(block, digit, digits, repeats).plan()


def _cut(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[k : k + LONGEST] for k in range(0, len(items), LONGEST))


class _Planner:
    """Bits of digits by value and by how many ticks after the value's own time they are read."""

    def __init__(self, block: ConstantMatrix, digit: int, digits: int, repeats: bool) -> None:
        self.block = block
        self.digit = digit
        self.digits = digits
        self.repeats = repeats
        self.columns = block.graph.inputs
        self.bits: dict[tuple[int, int, int], Bit] = {}  # value, delay, bit of the digit
        self.waits = self.needed()
        self.widths: dict[str, int] = {}
        self.delays: list[Delay] = []

    def plan(self) -> Plan:
        b = self.block
        held = self.inputs()
        by_level: dict[int, list[int]] = defaultdict(list)
        for k, node in enumerate(b.nodes):
            by_level[node.level].append(k)
        levels = [level for n in sorted(by_level) for level in self.adders(n, by_level[n])]
        words = tuple(self.word(k, row) for k, row in enumerate(b.rows))
        return Plan(self.widths, tuple(held), tuple(levels), tuple(self.delays), words)

    def source(self, shift: int, bit: int) -> tuple[int, int]:
        """How many ticks ago, and as which bit of its digit, a bit of a shifted value's digit was one of the value."""
        d = self.digit
        return -((bit - shift) // d), (bit - shift) % d

    def needed(self) -> dict[tuple[int, int], int]:
        """Longest delay in which each bit of each value is read."""
        b = self.block
        longest: dict[tuple[int, int], int] = defaultdict(int)

        def read(value: int, shift: int, time: int) -> None:
            for bit in range(self.digit):
                back, source = self.source(shift, bit)
                delay = time - b.level(value) + back
                longest[value, source] = max(longest[value, source], delay)

        for node in b.nodes:
            if node.left is not None:
                read(node.left, node.left_shift, node.level - 1)
            read(node.right, node.right_shift, node.level - 1)
        for row in b.rows:
            if row is not None:
                read(row[0], row[1], b.depth)
        return longest

    def wait(self, value: int) -> int:
        """Longest delay of a value's bits."""
        return max(self.waits.get((value, bit), 0) for bit in range(self.digit))

    def read(self, value: int, shift: int, time: int) -> Bits:
        """The shifted value's digit whose first one is read `time` ticks after a word's start."""
        found = []
        for bit in range(self.digit):
            back, source = self.source(shift, bit)
            b = self.bits[value, time - self.block.level(value) + back, source]
            found.append(Bit(b.register, b.index, time, back) if back else b)
        return tuple(found)

    def named(self, name: str, width: int) -> str:
        self.widths[name] = width
        return name

    def inputs(self) -> list[Held]:
        """The digits of the elements that are used, with their sign or zeros behind; and their delays."""
        d, i = self.digit, self.block.i
        used = sorted({value for value, _ in self.waits if value < self.columns}, key=lambda v: (-self.wait(v), v))
        held = []
        for n, part in enumerate(_cut(used)):
            names = [self.named(f"held_{n}_{bit}", len(part)) for bit in range(d)]
            for bit, name in enumerate(names):
                places = [bit + d * k for k in range(self.digits)]
                known = [min(p, i.width - 1) if i.signed or p < i.width else None for p in places]
                digits = tuple(tuple(None if p is None else v * i.width + p for v in part) for p in known)
                held.append(Held(name, digits, names[-1] if self.repeats else None))
                self.bits |= {(v, 0, bit): Bit(name, k) for k, v in enumerate(part)}
        self.delay(used, "0")
        return held

    def delay(self, values: Sequence[int], name: str) -> None:
        """Registers for what is read later than it comes."""
        digit = range(self.digit)
        late = [(v, bit) for bit in digit for v in values if self.waits.get((v, bit), 0) > 0]
        late.sort(key=lambda b: -self.waits[b])
        for n, part in enumerate(_cut(late)):
            for step in range(self.waits[part[0]]):
                alive = [b for b in part if self.waits[b] > step]
                register = self.named(f"wait_{name}_{n}_{step}", len(alive))
                self.delays.append(Delay(register, tuple(self.bits[v, step, bit] for v, bit in alive)))
                self.bits |= {(v, step + 1, bit): Bit(register, k) for k, (v, bit) in enumerate(alive)}

    def adders(self, level: int, which: list[int]) -> Iterator[Level]:
        """All adders of a level, as vectors; and their delays."""
        b, first = self.block, self.columns
        order = self.order(level, which)
        for n, part in enumerate(_cut(order)):
            nodes = [b.nodes[k] for k in part]
            left = tuple(self.operand(x.left, x.left_shift, level) for x in nodes)
            right = tuple(self.operand(x.right, x.right_shift, level) for x in nodes)
            name = f"{level}_{n}"
            total = self.named(f"sum_{name}", len(part) * self.digit)
            self.named(f"carry_{name}", len(part))
            for k, place in enumerate(part):
                self.bits |= {(first + place, 0, bit): Bit(total, bit * len(part) + k) for bit in range(self.digit)}
            yield Level(name, level, left, right, tuple(x.subtract for x in nodes), tuple(self.chains(nodes)))
        self.delay([first + k for k in order], str(level))

    def order(self, level: int, which: list[int]) -> list[int]:
        """Adders whose sums are read longest first; of equal ones in turns whose left operands are neighbours."""
        turns: Counter[tuple[int, str, int]] = Counter()
        keys = []
        for k in which:
            node = self.block.nodes[k]
            left = self.operand(node.left, node.left_shift, level)[0]
            place = (-self.wait(self.columns + k), *((left.register, left.index) if left is not None else ("", 0)))
            keys.append((place[0], turns[place], *place[1:], k))
            turns[place] += 1
        return [key[-1] for key in sorted(keys)]

    def chains(self, nodes: list[Node]) -> Iterator[Addition]:
        """Digits that are added together: as many as a chain holds, each with a place for its carry."""
        if self.digit == 1:
            return
        size = max(1, CHAIN // (self.digit + 1))
        for subtract in (False, True):
            alike = [k for k, n in enumerate(nodes) if n.subtract == subtract]
            for k in range(0, len(alike), size):
                yield Addition(subtract, tuple(alike[k : k + size]))

    def operand(self, value: int | None, shift: int, level: int) -> Bits:
        """A digit as an adder of a level reads it."""
        return (None,) * self.digit if value is None else self.read(value, shift, level - 1)

    def word(self, k: int, row: tuple[int, int] | None) -> Word | None:
        return None if row is None else Word(k, self.read(row[0], row[1], self.block.depth))
