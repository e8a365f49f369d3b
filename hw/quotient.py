"""Rounded quotients of a linear function by restoring division or shifts.

With R = hi - lo and the quotient counted from lo, ``n = ±multiplier*x + addend - lo*divisor``; a negative n saturates
to lo, one of at least ``divisor << bits`` to hi, and each row of the division between finds one bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Literal, NamedTuple

import numpy as np
from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring

from hw.arithmetic import (
    MOST_BITS,
    Pipelined,
    PipelinedComponent,
    Word,
    code_width,
    cut,
    delayed,
    elements,
    multiples,
    shared,
    signed_digits,
    signed_width,
    sum_latency,
    summed,
)
from hw.block import Beats, Bus, Memory, Words

__all__ = ["Quotient", "QuotientChannel", "quotient_words"]

State = dict[str, Any]
Ties = Literal["up", "even", "odd"]


class QuotientChannel(NamedTuple):
    """``clip(floor((±multiplier*x + addend) / divisor) - tie, lo, hi)``, and `corrections` added at `exceptions`."""

    negate: bool
    addend: int
    divisor: int
    lo: int
    hi: int
    exceptions: tuple[int, ...] = ()
    corrections: tuple[int, ...] = ()

    def folded(self, multiplier: int) -> int:
        """What is added to ``±multiplier*x`` to count the quotient from `lo`, where -x is made of the bits of ~x."""
        return self.addend - self.lo * self.divisor + (multiplier if self.negate else 0)

    def numerator(self, multiplier: int, x: int) -> int:
        """The numerator of the quotient counted from `lo`."""
        return multiplier * (-x if self.negate else x) + self.addend - self.lo * self.divisor

    def correction(self) -> dict[int, int]:
        """What is added at each exception."""
        total: dict[int, int] = {}
        for x, addition in zip(self.exceptions, self.corrections, strict=True):
            total[int(x)] = total.get(int(x), 0) + int(addition)
        return total


@dataclass(frozen=True)
class Quotient(Pipelined):
    """``clip(floor((±multiplier*x + addend) / divisor) - tie, lo, hi) + correction``, per channel.

    `tie` is 1 where the remainder is 0 and the quotient is odd (`ties` "even") or even ("odd"); "up" never subtracts.
    Memory ``params`` holds addends, divisors, signs, exceptions and corrections; memory ``limits`` what is needed at
    the end: lo, hi - lo and which shift, each only where channels differ. Some memory may be missing.

    By division (`shifts` empty), `unroll` units each find ``interval`` bits of the quotient, one per cycle; with
    `unroll` = `quotient_width` the division takes a beat per cycle, with 1 a single row does all. By shifts, a beat
    per cycle.

    Parameters
    ----------
    i, o : Bus
    period : int
        Beats after which parameters repeat.
    multiplier : int
        Positive.
    ties : {"up", "even", "odd"}
    negate : bool or None
        Whether x is negated; None where channels differ.
    lo : int or None
        Lower end of the clipping range; None where channels differ.
    span : int or None
        Length hi - lo of the clipping range; None where channels differ.
    quotient_width : int
        Bits of the longest hi - lo.
    numerator_width : int
        Bits of the two's complement word that holds ``±multiplier*x + addend - lo*divisor``.
    addend_width : int
        Bits of the two's complement word that holds what is added to ``multiplier*x``; see `QuotientChannel.folded`.
    divisor_width : int
        Bits of the largest divisor; 0 with shifts.
    shifts : tuple of int
        Distinct amounts to shift by, where all divisors are powers of two; empty for division.
    exceptions : int
        The most exceptions of a channel.
    correction_width : int
        Bits of the two's complement word that holds every correction; 0 without exceptions.
    unroll : int
        Units of the division; 1 with shifts.
    outbox : int
        Places of the queue at the end; 0 for as many as keep an unstalled pipeline going.
    """

    i: Bus
    o: Bus
    period: int
    multiplier: int
    ties: Ties
    negate: bool | None
    lo: int | None
    span: int | None
    quotient_width: int
    numerator_width: int
    addend_width: int
    divisor_width: int = 0
    shifts: tuple[int, ...] = ()
    exceptions: int = 0
    correction_width: int = 0
    unroll: int = 1
    outbox: int = 0

    def __post_init__(self) -> None:
        self.check()
        if self.multiplier < 1:
            raise ValueError(f"the multiplier must be positive, not {self.multiplier}")
        if self.ties not in ("up", "even", "odd"):
            raise ValueError(f"ties must go up, even or odd, not {self.ties!r}")
        if bool(self.shifts) == bool(self.divisor_width):
            raise ValueError("there must be either divisors or shifts")
        if not 1 <= self.unroll <= (1 if self.shifts else self.quotient_width):
            raise ValueError(f"{self.unroll} units cannot find {self.quotient_width} bits")
        if max(self.numerator_width, self.addend_width) > MOST_BITS:
            raise ValueError(f"numerators must fit {MOST_BITS} bits, not {self.numerator_width}, {self.addend_width}")
        if bool(self.exceptions) != bool(self.correction_width):
            raise ValueError("exceptions need corrections and corrections exceptions")

    @classmethod
    def of(
        cls,
        i: Bus,
        o: Bus,
        channels: Sequence[QuotientChannel],
        ranges: Sequence[tuple[int, int]],
        *,
        multiplier: int = 1,
        ties: Ties = "up",
        interval: int = 1,
        shift: bool = False,
        outbox: int = 0,
    ) -> Quotient:
        """The smallest description for some parameters.

        Parameters
        ----------
        channels : sequence of QuotientChannel
            Arranged: an entry per lane of each beat of the period (`hw.arithmetic.arranged`).
        ranges : sequence of (int, int)
            The smallest and largest input that can occur, arranged likewise.
        interval : int
            Cycles per beat that a division may take.
        shift : bool
            Whether to shift; then divisors are powers of two.
        """
        spans = [c.hi - c.lo for c in channels]
        width = code_width(0, max(spans))
        ends = [c.numerator(multiplier, x) for c, low_high in zip(channels, ranges, strict=True) for x in low_high]
        addends = [c.folded(multiplier) for c in channels]
        corrections = [c.correction() for c in channels]
        additions = [v for correction in corrections for v in correction.values()]
        divisors = sorted({int(c.divisor) for c in channels})
        if shift and any(d & (d - 1) for d in divisors):
            raise ValueError(f"divisors must be powers of two to shift, not {divisors}")
        return cls(
            i,
            o,
            period=len(channels) // i.lanes,
            multiplier=multiplier,
            ties=ties,
            negate=shared(bool(c.negate) for c in channels),
            lo=shared(int(c.lo) for c in channels),
            span=shared(map(int, spans)),
            quotient_width=width,
            numerator_width=signed_width(min(ends), max(ends)),
            addend_width=signed_width(min(addends), max(addends)),
            divisor_width=0 if shift else divisors[-1].bit_length(),
            shifts=tuple(d.bit_length() - 1 for d in divisors) if shift else (),
            exceptions=max(map(len, corrections)),
            correction_width=signed_width(min(additions), max(additions)) if additions else 0,
            unroll=1 if shift else -(-width // max(1, min(interval, width))),
            outbox=outbox,
        )

    @property
    def interval(self) -> int:
        return 1 if self.shifts else -(-self.quotient_width // self.unroll)

    @property
    def units(self) -> int:
        """Rows of the division that exist."""
        return 0 if self.shifts else -(-self.quotient_width // self.interval)

    @property
    def rows(self) -> int:
        """Bits of the quotient that the division finds."""
        return self.units * self.interval if self.units else self.quotient_width

    @property
    def ahead(self) -> int:
        """Cycles from the transfer to the numerator."""
        return 1 + sum_latency(len(signed_digits(self.multiplier)) + 1)

    @property
    def latency(self) -> int:
        return self.ahead + self.units * self.interval + 3

    @property
    def params(self) -> Word:
        """Layout of memory ``params``."""
        fields: list[tuple[str, int, bool]] = [("addend", self.addend_width, True)]
        if self.divisor_width:
            fields.append(("divisor", self.divisor_width, False))
        if self.negate is None:
            fields.append(("negate", 1, False))
        for k in range(self.exceptions):
            fields += [(f"exception{k}", self.i.width, self.i.signed), (f"correction{k}", self.correction_width, True)]
        return Word(self.i.lanes, tuple(fields))

    @property
    def limits(self) -> Word:
        """Layout of memory ``limits``."""
        fields: list[tuple[str, int, bool]] = []
        if self.lo is None:
            fields.append(("lo", self.o.width, self.o.signed))
        if self.span is None:
            fields.append(("span", self.quotient_width, False))
        if len(self.shifts) > 1:
            fields.append(("shift", code_width(0, len(self.shifts) - 1), False))
        return Word(self.i.lanes, tuple(fields))

    @property
    def memories(self) -> dict[str, Memory]:
        words = {"params": self.params, "limits": self.limits}
        return {name: Memory(self.period, word.width) for name, word in words.items() if word.width}

    def component(self) -> wiring.Component:
        return _Quotient(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        x = np.asarray(inputs[0], np.int64)
        beat = self.beats(x)[:, 0]
        params = self.params.decode(memories["params"])
        limits = self.limits.decode(memories["limits"]) if self.limits.width else {}
        of = {name: values[beat] for name, values in (params | limits).items()}
        numerator = self._numerator(x, of)
        if self.shifts:
            amount = np.array(self.shifts)[of["shift"] if len(self.shifts) > 1 else np.zeros_like(x)]
            divisor = np.left_shift(1, amount)
        else:
            divisor = of["divisor"]
        lo = of["lo"] if self.lo is None else self.lo
        span = of["span"] if self.span is None else self.span
        quotient = numerator // divisor
        if self.ties != "up":
            odd = (quotient + lo) & 1
            quotient = quotient - ((quotient * divisor == numerator) & (odd == (self.ties == "even")))
        result = np.clip(quotient, 0, span) + lo
        for k in range(self.exceptions):
            result = result + np.where(x == of[f"exception{k}"], of[f"correction{k}"], 0)
        return (cut(result, self.o),)

    def _numerator(self, x: np.ndarray, of: Mapping[str, np.ndarray]) -> np.ndarray:
        flip = of["negate"] if self.negate is None else self.negate
        return cut(np.where(flip, ~x, x) * self.multiplier + of["addend"], Bus(1, self.numerator_width, True))


def quotient_words(block: Quotient, channels: Sequence[QuotientChannel]) -> dict[str, tuple[int, ...]]:
    """Contents of the memories, for channels arranged as `Quotient.of` takes them."""
    block.entries(channels)
    params, limits = [], []
    for c in channels:
        _check_shared(block, c)
        entry = {"addend": c.folded(block.multiplier), "divisor": c.divisor, "negate": int(c.negate)}
        pairs = list(c.correction().items())
        if len(pairs) > block.exceptions:
            raise ValueError(f"there may be {block.exceptions} exceptions, not {len(pairs)}")
        for k, (x, addition) in enumerate(pairs + [(0, 0)] * (block.exceptions - len(pairs))):
            entry |= {f"exception{k}": x, f"correction{k}": addition}
        params.append(entry)
        lo = int(cut(np.array(c.lo), block.o))
        shift = block.shifts.index(int(c.divisor).bit_length() - 1) if block.shifts else 0
        limits.append({"lo": lo, "span": c.hi - c.lo, "shift": shift})
    words = {"params": block.params.encode_all(params)}
    return words | ({"limits": block.limits.encode_all(limits)} if block.limits.width else {})


def _check_shared(block: Quotient, c: QuotientChannel) -> None:
    if c.divisor < 1 or c.hi < c.lo:
        raise ValueError(f"divisor {c.divisor} and clipping range {c.lo} .. {c.hi} cannot be")
    if block.shifts and c.divisor not in {1 << k for k in block.shifts}:
        raise ValueError(f"the divisor must be a power of two of {block.shifts}, not {c.divisor}")
    for name, common, own in (
        ("sign", block.negate, c.negate),
        ("lo", block.lo, c.lo),
        ("span", block.span, c.hi - c.lo),
    ):
        if common is not None and common != own:
            raise ValueError(f"{name} must be {common}, not {own}")


class _Quotient(PipelinedComponent):
    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.block
        take, beat = self.intake(m)
        params, inputs = self.params(m, beat), elements(delayed(m, self.i.payload, 1), block.i)
        lanes = [self._opening(m, x, block.params.split(params, lane)) for lane, x in enumerate(inputs)]
        start = delayed(m, take, block.ahead, reset_less=False)
        before = delayed(m, beat if block.limits.width else C(0, 0), block.ahead - 1)
        beat = delayed(m, before, 1)
        for _ in range(block.units):
            lanes = [self._unit(m, start, state) for state in lanes]
            before, beat = _hold(m, start, beat, block.interval)
            start = delayed(m, start, block.interval, reset_less=False)
        if block.limits.width:
            m.d.comb += self.limits_addr.eq(before)
        self.give(
            m,
            delayed(m, start, 2, reset_less=False),
            [self._closing(m, lane, state) for lane, state in enumerate(lanes)],
        )
        return m

    def _opening(self, m: Module, x: Any, params: Mapping[str, Any]) -> State:
        """The numerator of a lane and what goes with it, `ahead` cycles after the transfer."""
        block = self.block
        state: State = {}
        if block.exceptions:  # x is one of them at most: `QuotientChannel.correction` has each once
            seen = [Mux(x == params[f"exception{k}"], params[f"correction{k}"], 0) for k in range(block.exceptions)]
            correction = reduce(or_, (delayed(m, value, 1) for value in seen))
            state["correction"] = delayed(m, correction, block.ahead - 2)
        if block.negate is not False:
            flipped = ~Cat(x, x[-1] if block.i.signed else C(0, 1)).as_signed()
            x = flipped if block.negate else Mux(params["negate"], flipped, x)
        terms = [*multiples(x, block.multiplier), (params["addend"], 1)]
        numerator = summed(m, terms, block.numerator_width)
        if block.shifts:
            return state | {"numerator": numerator, "below": numerator < 0}
        divisor = params["divisor"] if block.period == 1 else delayed(m, params["divisor"], block.ahead - 1)
        return state | self._dividend(m, numerator, divisor)

    def _dividend(self, m: Module, numerator: Any, divisor: Any) -> State:
        """What the first row begins with."""
        block = self.block
        top = numerator.shift_right(block.rows)
        remainder, digits = Signal(block.divisor_width), Signal(block.rows)
        m.d.comb += [remainder.eq(top), digits.eq(numerator)]
        return {
            "below": numerator < 0,
            "above": top >= divisor,
            "remainder": remainder,
            "digits": digits,
            "divisor": divisor,
        }

    def _unit(self, m: Module, start: Any, state: State) -> State:
        """A row that finds a bit per cycle from `start` on; its state `interval` cycles later."""
        width = self.block.divisor_width
        fixed = {"divisor": state["divisor"]} if self.block.period == 1 else {}
        moving = {name: value for name, value in state.items() if name not in fixed}
        own = {name: Signal(value.shape(), name=name, reset_less=True) for name, value in moving.items()}
        seen = {n: v if self.block.interval == 1 else Mux(start, v, own[n]) for n, v in moving.items()} | fixed
        trial = Cat(seen["digits"][-1], seen["remainder"])
        difference = Signal(signed(width + 2))
        m.d.comb += difference.eq(trial - seen["divisor"])
        fits = difference >= 0
        found = {
            "remainder": Mux(fits, difference, trial)[:width],
            "digits": Cat(fits, seen["digits"][:-1]),
        }
        m.d.sync += [register.eq(found.get(name, seen[name])) for name, register in own.items()]
        return own | fixed

    def _closing(self, m: Module, lane: int, state: State) -> Any:
        """Ties, saturation, `lo` and correction; two cycles later."""
        block = self.block
        limits = block.limits.split(self.limits_data, lane) if block.limits.width else {}
        lo: Any = limits.get("lo")
        span: Any = limits.get("span")
        quotient, exact, above = self._shifted(state["numerator"], limits) if block.shifts else _divided(state)
        odd = quotient[0] ^ (C(block.lo & 1, 1) if block.lo is not None else lo[0])
        tie = {"up": C(0, 1), "even": exact & odd, "odd": exact & ~odd}[block.ties]
        rounded = Signal(signed(len(quotient) + 1), reset_less=True)
        m.d.sync += rounded.eq(quotient - tie)
        below, above = delayed(m, state["below"], 1), delayed(m, above, 1)
        span = self._later(m, span, 1) if span is not None else C(block.span, block.quotient_width)
        clipped = Signal(block.quotient_width, reset_less=True)
        low, high = below | ((rounded < 0) & ~above), above | (rounded > span)
        m.d.sync += clipped.eq(Mux(low, 0, Mux(high, span, rounded)))
        result = clipped + (self._later(m, lo, 2) if lo is not None else block.lo)
        return result + delayed(m, state["correction"], 2) if block.exceptions else result

    def _shifted(self, numerator: Any, limits: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """The quotient by shifting, whether nothing was left over, and whether it has more bits than `span`."""
        block = self.block
        quotient, exact = numerator.shift_right(block.shifts[0]), _is_zero(numerator, block.shifts[0])
        for k, amount in enumerate(block.shifts[1:], 1):
            chosen = limits["shift"] == k
            quotient = Mux(chosen, numerator.shift_right(amount), quotient)
            exact = Mux(chosen, _is_zero(numerator, amount), exact)
        return quotient[: block.quotient_width], exact, quotient.shift_right(block.quotient_width) > 0

    def _later(self, m: Module, parameter: Any, cycles: int) -> Any:
        """A parameter some cycles later; one that never changes needs no registers."""
        return parameter if self.block.period == 1 else delayed(m, parameter, cycles)


def _divided(state: State) -> tuple[Any, Any, Any]:
    """The quotient by division, whether nothing was left over, and whether it has more bits than were looked for."""
    return state["digits"], state["remainder"] == 0, state["above"]


def _hold(m: Module, start: Any, value: Any, interval: int) -> tuple[Any, Any]:
    """A unit's copy of a value: as it is before each clock edge, and `interval` cycles after `start`."""
    own = Signal(value.shape(), reset_less=True)
    seen = value if interval == 1 else Mux(start, value, own)
    m.d.sync += own.eq(seen)
    return seen, own


def _is_zero(numerator: Any, bits: int) -> Any:
    """Whether the low bits are zero."""
    return numerator[: min(bits, len(numerator))] == 0 if bits else C(1, 1)
