"""Verilog of adder graphs, rendered from the plans of their registers.

Amaranth and yosys would write the same circuit; for ten thousand adders they take a minute, and what they write takes simulators
several. Here a bit that is computed has no name of its own and belongs to the clocked process that reads it, so that a
simulator computes it once in a cycle, and not at all while nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hw.digits import Addition, Bit, Held, Level, Plan, Word
from hw.elastic import later_pairs
from hw.serial import Serial
from tcompile.templates import render

__all__ = ["PORTS", "serial_text"]

PORTS = ("clk", "rst", "i__payload", "i__valid", "i__ready", "o__payload", "o__valid", "o__ready")


@dataclass(frozen=True)
class _Register:
    name: str
    width: int
    init: str


@dataclass(frozen=True)
class _Assigned:
    name: str
    value: str


@dataclass(frozen=True)
class _Clear:
    name: str
    value: str
    init: int


@dataclass(frozen=True)
class _Pair:
    number: int
    low: str
    high: str


@dataclass(frozen=True)
class _Held:
    name: str
    width: int
    first: str
    pairs: tuple[_Pair, ...]


@dataclass(frozen=True)
class _Chain:
    name: str
    width: int
    left: str
    operator: str
    right: str


@dataclass(frozen=True)
class _Level:
    name: str
    level: int
    width: int
    rests: str
    start: str
    left: str
    right: str
    chains: tuple[_Chain, ...]
    sums: str
    carries: str


@dataclass(frozen=True)
class _Serial:
    name: str
    i_bits: int
    o_bits: int
    interval: int
    latency: int
    stages: int
    phase_bits: int
    digits: int
    place_bits: int
    pairs: int
    zeros: bool
    held: tuple[_Held, ...]
    begun: tuple[_Assigned, ...]
    clears: tuple[_Clear, ...]
    registers: tuple[_Register, ...]
    levels: tuple[_Level, ...]
    steps: tuple[_Assigned, ...]
    rows: tuple[_Assigned, ...]
    payload: str


def serial_text(block: Serial, name: str) -> str:
    """Verilog of a digit-serial graph."""
    p, gathered = block.plan, (block.interval - 1) * block.digit
    words = [w for w in p.words if w is not None]
    held = {h.name for h in p.held}
    starts = {f"carry_{v.name}": v.start for v in p.levels}
    registers = [_Register(n, w, _constant(starts.get(n, 0), w)) for n, w in p.widths.items() if n not in held]
    for kind, width in (("word", gathered), ("row", block.o.width)):
        registers += [_Register(f"{kind}_{w.row}", width, _constant(0, width)) for w in words if width]
    steps = [_Assigned(d.name, _joined(p, d.source)) for d in p.delays]
    steps += [_Assigned(f"word_{w.row}", _shifted(block, w)) for w in words if gathered]
    context = _Serial(
        name, block.i.bits, block.o.bits, block.interval, block.ticks, block.ticks - (block.interval > 1),
        max(1, (block.interval - 1).bit_length()),
        block.digits, block.digits.bit_length(), later_pairs(block.digits, repeats=block.repeats),
        block.digits < block.interval and not block.repeats, tuple(_held(h) for h in p.held),
        tuple(_Assigned(_begun(t, s), f"|{{{', '.join(_started(k) for k in range(t, min(t + s, block.ticks)))}}}") for t, s in p.skips()),
        tuple(_clears(block)), tuple(registers), tuple(_level(block, v) for v in p.levels), tuple(steps),
        tuple(_Assigned(f"row_{w.row}", _whole(block, w)) for w in words),
        "{" + ", ".join(_constant(0, block.o.width) if w is None else f"row_{w.row}" for w in reversed(p.words)) + "}",
    )  # fmt: skip
    return render("rtl/serial.v.j2", context).decode()


def _shifted(block: Serial, word: Word) -> str:
    """A word with a digit more at its upper end."""
    gathered, new = (block.interval - 1) * block.digit, _joined(block.plan, word.digit)
    if gathered == block.digit:
        return new
    return f"{{{new}, {_range(f'word_{word.row}', gathered - 1, block.digit, gathered)}}}"


def _whole(block: Serial, word: Word) -> str:
    """A word with its last digit."""
    gathered = (block.interval - 1) * block.digit
    last = _joined(block.plan, word.digit[: block.o.width - gathered])
    return f"{{{last}, word_{word.row}}}" if gathered else last


def _resting(ticks: int) -> str:
    """Whether no tick of a word was to follow so many ticks ago."""
    return f"rested[{ticks - 1}]" if ticks else "load"


def _clears(block: Serial) -> Iterator[_Clear]:
    """See `hw.elastic.Elastic.clears`."""
    for ticks in sorted({v.level - 1 for v in block.plan.levels if v.chains and block.interval > 1}):
        value = f"(tick ? {_resting(ticks - 1)} : {_resting(ticks)})" if ticks else "(enable ? loads : load)"
        yield _Clear(f"clears_{ticks}", value, int(ticks == 0))


def _constant(value: int, width: int) -> str:
    return f"{width}'h{value:x}"


def _started(ticks: int) -> str:
    """Whether the word in the registers started so many ticks ago."""
    return f"passed[{ticks - 1}]" if ticks else "start"


def _begun(time: int, skip: int) -> str:
    return f"begun_{time}_{skip}"


def _range(name: str, high: int, low: int, width: int) -> str:
    """Some bits of a vector."""
    if (high, low) == (width - 1, 0):
        return name
    return f"{name}[{high}]" if high == low else f"{name}[{high}:{low}]"


def _ranges(places: Iterable[tuple[str, int] | None], widths: dict[str, int]) -> str:
    """Bits side by side, given lowest first, neighbours as ranges; 0 where None."""
    parts: list[str] = []
    run: tuple[str, int, int] | None = None
    for place in (*places, ("", 0)):
        if run is not None and place == (run[0], run[2] + 1):
            run = (run[0], run[1], run[2] + 1)
            continue
        if run is not None:
            parts.append(_range(run[0], run[2], run[1], widths[run[0]]))
        run = None if place is None else (place[0], place[1], place[1])
        if place is None:
            parts.append("1'h0")
    return parts[0] if len(parts) == 1 else f"{{{', '.join(reversed(parts))}}}"


def _joined(plan: Plan, bits: Sequence[Bit | None]) -> str:
    """The value of some bits, lowest first."""
    plain = _ranges(((b.register, b.index) if b is not None else None for b in bits), plan.widths)
    skipped = sorted({(b.time, b.skip) for b in bits if b is not None and b.skip})
    for time, skip in skipped:
        mask = sum(1 << k for k, b in enumerate(bits) if b is not None and (b.time, b.skip) == (time, skip))
        plain = f"({plain} & ~({{{len(bits)}{{{_begun(time, skip)}}}}} & {_constant(mask, len(bits))}))"
    return plain


def _held(held: Held) -> _Held:
    """See `hw.elastic.Elastic.chosen`."""
    width, widths = len(held.digits[0]), {"i__payload": 0}
    digits = [_ranges((None if k is None else ("i__payload", k) for k in d), widths) for d in held.digits]
    digits += [] if held.behind is None else [held.behind]
    first = f"(odd ? {digits[1]} : {digits[0]})" if len(digits) > 1 else digits[0]
    digits += [_constant(0, width)] * (len(digits) % 2)
    pairs = tuple(_Pair(k, digits[2 * k], digits[2 * k + 1]) for k in range(1, len(digits) // 2))
    return _Held(held.name, width, first, pairs)


def _level(block: Serial, level: Level) -> _Level:
    p, d, count = block.plan, block.digit, len(level.subtract)
    if block.interval == 1:
        rests = _resting(level.level - 1)
    else:  # see `hw.elastic.Elastic`
        rests = f"clears_{level.level - 1}" if level.chains else f"rests_{level.name}"
    start = _constant(level.start, count)
    if not level.chains:
        left, right = ([bit for digit in side for bit in digit] for side in (level.left, level.right))
        return _Level(level.name, level.level, count, rests, start, _joined(p, left), _joined(p, right), (), "", "")
    chains = tuple(_chain(p, level, addition, d) for addition in level.chains)
    place = {
        k: (c.name, n * (d + 1) + 1) for c, a in zip(chains, level.chains, strict=True) for n, k in enumerate(a.adders)
    }
    widths = {c.name: c.width for c in chains}
    sums = _ranges(((place[k][0], place[k][1] + bit) for bit in range(d) for k in range(count)), widths)
    carries = _ranges(((place[k][0], place[k][1] + d) for k in range(count)), widths)
    return _Level(level.name, level.level, count, rests, start, "", "", chains, sums, carries)


def _chain(plan: Plan, level: Level, addition: Addition, digit: int) -> _Chain:
    """See `hw.serial`."""
    carry = f"carry_{level.name}"
    name = f"chain_{level.name}_{addition.adders[0]}"
    left: list[str] = ["1'h0"]
    right: list[str] = [_constant(addition.subtract, 1)]
    for k in reversed(addition.adders):
        kept = _range(carry, k, k, plan.widths[carry])
        left += [_joined(plan, level.left[k]), kept]
        right += [_joined(plan, level.right[k]), f"~{kept}" if addition.subtract else kept]
    operator = "-" if addition.subtract else "+"
    width = len(addition.adders) * (digit + 1) + 1
    return _Chain(name, width, f"{{{', '.join(left)}}}", operator, f"{{{', '.join(right)}}}")
