"""Finds the cheapest circuit that reproduces a step function exactly on every input that can occur.

The linear forms round ``N / a`` with ``N = ±m·x + b``. Let ``T(y)`` be the smallest N whose rounded quotient is y or
more: ``T(y) = a·y + p(y)``, where p(y) is 1 for the codes that a tie avoids (odd ones if ties go to even) and else 0.
T never falls, so the form is monotone, and a piece with value y on the inputs [first, last] is reproduced if and only
if

    T(y) <= m·first + b      unless y is the lower clip
    m·last + b < T(y + 1)    unless y is the upper clip

For one m these are linear inequalities in the integers a and b. A b exists if every lower bound on it (pieces i) is at
most every upper bound (pieces j), which is linear in a: the divisors that work form an interval, and its ends are found
exactly by cutting planes, from each end the bound of the worst pair (i, j) until no pair is violated.

If a works for m, then k·a works for k·m. So one search at a highly composite multiplier bounds the divisors for all its
divisors, and refuses at once what no multiplier of the family can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tcompile.ir.requantizers import (
    Comparators,
    Division,
    Ints,
    Requantizer,
    Shift,
    Steps,
    Table,
    Ties,
    cost,
    signed_digits,
)

__all__ = ["Candidate", "candidates", "reproduces", "synthesize"]

_Scalar = TypeVar("_Scalar", bound=np.generic)

BLOCK = 1 << 16  # pieces handled in one numpy operation
TABLE_ENTRIES = 1 << 20  # larger tables are not considered
LARGEST = 60  # bits of magnitude that bounds on addends, and so numerators, stay below
UNBOUNDED = 1 << LARGEST + 1

POWERS = 1 << 24
COMPOSITE = 8 * 3**3 * 5**2 * 7 * 11 * 13  # for scales that are small integers times a power of two, ties included
TIES: tuple[Ties, ...] = ("up", "even", "odd")
EXCEPTIONS = 16  # most corrected inputs of a channel
DIGITS = 4  # most signed digits of a multiplier


@dataclass(frozen=True)
class Candidate:
    """A form that reproduces the steps, and its `cost`."""

    form: Requantizer
    cost: int


@dataclass(frozen=True)
class _Pieces:
    """Pieces of some channels, turned so that values rise; rows are filled up by repeating the last piece."""

    first: Ints
    last: Ints
    value: Ints
    lo: Ints
    hi: Ints

    def parity(self, value: Ints, ties: Ties) -> Ints:
        if ties == "up":
            return np.zeros_like(value)
        return value & 1 if ties == "even" else 1 - (value & 1)

    def bounds(self, a: Ints, multiplier: int, ties: Ties, slack: Ints) -> tuple[Ints, Ints]:
        """Lower and upper bounds [channels, pieces] that the pieces put on the addend, for divisors `a`.

        Each bound is missed by up to `slack` (per channel).
        """
        above = self.value + 1
        lower = a[:, None] * self.value + self.parity(self.value, ties) - multiplier * self.first - slack[:, None]
        upper = a[:, None] * above + self.parity(above, ties) - 1 - multiplier * self.last + slack[:, None]
        free_below, free_above = self.value <= self.lo[:, None], self.value >= self.hi[:, None]
        return np.where(free_below, -UNBOUNDED, lower), np.where(free_above, UNBOUNDED, upper)

    def divisors(self, multiplier: int, ties: Ties, slack: Ints) -> tuple[Ints, Ints]:
        """Smallest and largest divisor of each channel that leaves an addend; 1 and 0 for a channel that has none.

        Larger divisors than ``multiplier * (inputs + 1)`` are never needed, and not looked at.
        """
        ends = np.ones_like(self.lo), multiplier * (self.last[:, -1] - self.first[:, 0] + 2)
        lost = np.zeros(self.lo.shape, dtype=np.bool_)
        for end, towards in ((0, -1), (1, 1)):
            while True:
                a = ends[end]
                lower, upper = self.bounds(a, multiplier, ties, slack)
                i, j = lower.argmax(axis=1)[:, None], upper.argmin(axis=1)[:, None]
                gap = (np.take_along_axis(upper, j, 1) - np.take_along_axis(lower, i, 1))[:, 0]
                missed = (gap < 0) & ~lost
                if not missed.any():
                    break
                # The pair (i, j) asks slope·a <= bound; at a it lacks `gap`.
                slope = (np.take_along_axis(self.value, i, 1) - np.take_along_axis(self.value, j, 1))[:, 0] - 1
                lost |= missed & (slope * towards <= 0)
                missed &= ~lost
                bound = gap + slope * a
                size = np.where(missed, np.abs(slope), 1)
                cut = bound // size if end else -(bound // size)
                ends[end][:] = np.where(missed, cut, a)
                lost |= ends[0] > ends[1]
                ends[0][lost], ends[1][lost] = 1, 0
        return ends


@dataclass(frozen=True)
class _Layer:
    """All channels of a layer, in blocks, with the clipping range they are to be given."""

    blocks: tuple[_Pieces, ...]
    negate: npt.NDArray[np.bool_]
    lo: Ints
    hi: Ints
    limit: int  # largest multiplier whose arithmetic stays within `LARGEST` bits

    def divisors(self, multiplier: int, ties: Ties) -> tuple[Ints, Ints] | None:
        """As `_Pieces.divisors`, for all channels."""
        found = []
        for block in self.blocks:
            ends = block.divisors(multiplier, ties, np.zeros_like(block.lo))
            if (ends[0] > ends[1]).any():
                return None
            found.append(ends)
        return np.concatenate([low for low, _ in found]), np.concatenate([high for _, high in found])

    def addends(self, a: Ints, multiplier: int, ties: Ties) -> Ints:
        """An addend for each channel: one for all if there is one, else the one nearest to 0."""
        lows, highs, row = [], [], 0
        for block in self.blocks:
            lower, upper = block.bounds(a[row : row + block.lo.size], multiplier, ties, np.zeros_like(block.lo))
            lows.append(lower.max(axis=1))
            highs.append(upper.min(axis=1))
            row += block.lo.size
        low, high = np.concatenate(lows), np.concatenate(highs)
        if low.max() <= high.min():
            low, high = low.max(keepdims=True), high.min(keepdims=True)
        nearest: Ints = np.clip(np.zeros_like(low), low, high)
        return nearest


def _shared(values: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """One entry if all are equal."""
    return values[:1] if (values == values[0]).all() else values


def _layer(steps: Steps, lo: Ints, hi: Ints) -> _Layer:
    """The pieces of monotone steps, to be clipped to [lo, hi] (per channel)."""
    falling = np.array([steps.is_falling(c) for c in range(steps.channels)])
    longest = max(start.size for start in steps.starts)
    per_block = max(1, BLOCK // longest)
    blocks = []
    for top in range(0, steps.channels, per_block):
        chosen = range(top, min(top + per_block, steps.channels))
        pieces = [
            (-steps.ends(c)[::-1], -steps.starts[c][::-1], steps.values[c][::-1])
            if falling[c]
            else (steps.starts[c], steps.ends(c), steps.values[c])
            for c in chosen
        ]
        length = max(value.size for _, _, value in pieces)
        first, last, value = (
            np.stack([np.pad(piece[k], (0, length - piece[k].size), mode="edge") for piece in pieces]) for k in range(3)
        )
        blocks.append(_Pieces(first, last, value, lo[chosen.start : chosen.stop], hi[chosen.start : chosen.stop]))
    span = max(abs(x) for bound in (steps.lo, steps.hi) for x in bound) * 2 + 2
    codes = max(map(abs, steps.output_range)) + 1
    return _Layer(tuple(blocks), falling, lo, hi, (1 << LARGEST - 2) // (span * (codes + 1)))


def _multipliers(family: int) -> list[int]:
    """Divisors of `family` with few signed digits, cheapest first."""
    small = [m for m in range(1, 256) if family % m == 0]
    large = [1 << k for k in range(8, 25) if family % (1 << k) == 0]
    return sorted((m for m in small + large if signed_digits(m) <= DIGITS), key=lambda m: (signed_digits(m), m))


def _power_within(low: Ints, high: Ints) -> Ints | None:
    """Exponents of a power of two in each channel's [low, high], one for all if there is one; else None."""
    bits = np.array([(n - 1).bit_length() for n in low.tolist()], dtype=np.int64)
    widest: Ints = bits.max(keepdims=True)
    if (np.int64(1) << widest <= high).all():
        return widest
    return bits if (np.int64(1) << bits <= high).all() else None


def _linear_forms(layer: _Layer, ties: Ties, family: int) -> Iterator[Division | Shift]:
    """The division and the shift with the cheapest multipliers of a family, as far as they exist."""
    while family > layer.limit and family % 2 == 0:
        family //= 2
    if family > layer.limit:
        return
    widest = layer.divisors(family, ties)
    if widest is None:
        return
    division: Division | None = None
    for multiplier in _multipliers(family):
        part = family // multiplier
        low, high = -(-widest[0] // part), widest[1] // part
        wanted = (division is None and (low <= high).all()) or _power_within(low, high) is not None
        ends = layer.divisors(multiplier, ties) if wanted else None
        if ends is None:
            continue
        bits = _power_within(*ends)
        if bits is not None:
            yield _shift(layer, ties, multiplier, bits)
            return
        if division is None:
            division = _division(layer, ties, multiplier, *ends)
            yield division


def _division(layer: _Layer, ties: Ties, multiplier: int, low: Ints, high: Ints) -> Division:
    divisor = np.full_like(low, low.max()) if low.max() <= high.min() else low
    addend = layer.addends(divisor, multiplier, ties)
    return Division(
        negate=_shared(layer.negate),
        multiplier=multiplier,
        addend=_shared(addend),
        ties=ties,
        lo=_shared(layer.lo),
        hi=_shared(layer.hi),
        divisor=_shared(divisor),
    )


def _shift(layer: _Layer, ties: Ties, multiplier: int, bits: Ints) -> Shift:
    divisor = np.broadcast_to(np.int64(1) << bits, layer.lo.shape)
    addend = layer.addends(divisor, multiplier, ties)
    return Shift(
        negate=_shared(layer.negate),
        multiplier=multiplier,
        addend=_shared(addend),
        ties=ties,
        lo=_shared(layer.lo),
        hi=_shared(layer.hi),
        bits=_shared(bits),
    )


def _linear(steps: Steps) -> Iterator[Division | Shift]:
    """Divisions and shifts for monotone steps."""
    own_lo = np.array([int(value.min()) for value in steps.values])
    own_hi = np.array([int(value.max()) for value in steps.values])
    own = _layer(steps, own_lo, own_hi)
    same = _layer(steps, np.full_like(own_lo, own_lo.min()), np.full_like(own_hi, own_hi.max()))
    for ties in TIES:
        for family in (POWERS, COMPOSITE):
            # Clipping each channel to its own values asks least of the divisor.
            found = list(_linear_forms(own, ties, family))
            yield from found
            if found:
                yield from _linear_forms(same, ties, family)


def _patched(steps: Steps, ties: Ties) -> Iterator[Division]:
    """Divisions for monotone steps of which a few are off the line by a fraction of an input; the rest is corrected."""
    lo = np.array([int(value.min()) for value in steps.values])
    hi = np.array([int(value.max()) for value in steps.values])
    layer = _layer(steps, lo, hi)
    for bits in range(6, 22, 2):
        multiplier = 1 << bits
        if multiplier > layer.limit:
            return
        found = [_near(block, multiplier, ties) for block in layer.blocks]
        core = Division(
            negate=_shared(layer.negate),
            multiplier=multiplier,
            addend=_shared(np.concatenate([addend for _, addend in found])),
            ties=ties,
            lo=_shared(lo),
            hi=_shared(hi),
            divisor=_shared(np.concatenate([divisor for divisor, _ in found])),
        )
        patched = _corrected(core, steps)
        if patched is not None:
            yield patched


def _near(block: _Pieces, multiplier: int, ties: Ties) -> tuple[Ints, Ints]:
    """Divisors and addends in the middle of what the least slack leaves, up to half an input."""
    divisor, addend = np.ones_like(block.lo), np.zeros_like(block.lo)
    missing = np.ones(block.lo.shape, dtype=np.bool_)
    for slack in (0, *(multiplier >> k for k in range(12, 0, -1))):
        left = _Pieces(*(getattr(block, name)[missing] for name in ("first", "last", "value", "lo", "hi")))
        room = np.full_like(left.lo, slack)
        low, high = left.divisors(multiplier, ties, room)
        middle = np.maximum(1, (low + high) // 2)
        lower, upper = (bound for bound in left.bounds(middle, multiplier, ties, room))
        least, most = lower.max(axis=1), upper.min(axis=1)
        central = np.where(
            (least > -UNBOUNDED) & (most < UNBOUNDED), least + (most - least) // 2, np.clip(0, least, most)
        )
        solved = low <= high
        rows = np.flatnonzero(missing)[solved]
        divisor[rows], addend[rows] = middle[solved], central[solved]
        missing[rows] = False
        if not missing.any():
            break
    return divisor, addend


def _corrected(core: Division, steps: Steps) -> Division | None:
    """`core` with exceptions where it differs from `steps` at an end of a piece; None if there are too many."""
    ends = _piece_ends(steps)
    missing = steps(ends, 0) - core(ends, 0)
    exceptions = tuple(np.unique(x[difference != 0]) for x, difference in zip(ends, missing, strict=True))
    if max(x.size for x in exceptions) > EXCEPTIONS:
        return None
    corrections = tuple(
        np.array([difference[x == e][0] for e in exception], dtype=np.int64)
        for x, difference, exception in zip(ends, missing, exceptions, strict=True)
    )
    return replace(core, exceptions=exceptions, corrections=corrections)


def _comparators(steps: Steps) -> Comparators:
    thresholds, values = tuple(start[1:] for start in steps.starts), steps.values
    alike = all(
        np.array_equal(t, thresholds[0]) and np.array_equal(v, values[0])
        for t, v in zip(thresholds, values, strict=True)
    )
    return Comparators(thresholds[:1], values[:1]) if alike else Comparators(thresholds, values)


def _table(steps: Steps) -> Table | None:
    sizes = [hi - lo + 1 for lo, hi in zip(steps.lo, steps.hi, strict=True)]
    alike = all(
        steps.hi[c] == steps.hi[0]
        and np.array_equal(steps.starts[c], steps.starts[0])
        and np.array_equal(steps.values[c], steps.values[0])
        for c in range(steps.channels)
    )
    used = 1 if alike else steps.channels
    if sum(sizes[:used]) > TABLE_ENTRIES:
        return None
    return Table(
        np.array(steps.lo[:used]),
        tuple(np.repeat(steps.values[c], steps.ends(c) - steps.starts[c] + 1) for c in range(used)),
    )


def reproduces(form: Requantizer, steps: Steps) -> bool:
    """Whether `form` equals `steps` on every input that can occur.

    Divisions and shifts are monotone (see the module's docstring) but for their exceptions, and between two inputs
    where a monotone function takes the same value it takes no other: the two ends of every piece decide, together with
    the exceptions and the inputs on both sides of them. The pieces of comparators and tables are compared whole.
    """
    if form.channels not in (1, steps.channels):
        return False
    if isinstance(form, Division | Shift):
        return _agrees_at_ends(form, steps)
    return all(_agrees_everywhere(form, steps, c) for c in range(steps.channels))


def _agrees_at_ends(form: Division | Shift, steps: Steps) -> bool:
    x = _piece_ends(steps)
    if form.exceptions:
        lo, hi = np.array(steps.lo)[:, None], np.array(steps.hi)[:, None]
        exceptions = form.exceptions * (steps.channels if len(form.exceptions) == 1 else 1)
        around = [np.concatenate((row - 1, row, row + 1, [low])) for row, low in zip(exceptions, steps.lo, strict=True)]
        longest = max(row.size for row in around)
        padded = np.stack([np.pad(row, (0, longest - row.size), mode="edge") for row in around])
        x = np.concatenate((x, np.clip(padded, lo, hi)), axis=1)
    return bool(np.array_equal(form(x, 0), steps(x, 0)))


def _piece_ends(steps: Steps) -> Ints:
    """First and last input of each piece [channels, n]; short rows are filled up by repetition."""
    longest = max(start.size for start in steps.starts)
    return np.stack(
        [
            np.pad(np.concatenate((start, steps.ends(c))), (0, 2 * (longest - start.size)), mode="edge")
            for c, start in enumerate(steps.starts)
        ]
    )


def _agrees_everywhere(form: Comparators | Table, steps: Steps, channel: int) -> bool:
    lo, hi = steps.lo[channel], steps.hi[channel]
    own = channel if form.channels > 1 else 0
    if isinstance(form, Table):
        offset = lo - int(form.base[own])
        value = form.values[own][max(offset, 0) : offset + hi - lo + 1]
        if offset < 0 or value.size != hi - lo + 1:
            return False
        start = np.arange(lo, hi + 1)
    else:
        threshold = form.thresholds[own]
        inside = (threshold > lo) & (threshold <= hi)
        reached = np.flatnonzero(inside)
        start = np.concatenate(([lo], threshold[inside]))
        value = form.values[own][np.concatenate(([int((threshold <= lo).sum())], reached + 1))]
        kept = np.append(start[1:] != start[:-1], True)  # of equal thresholds, the last one decides
        start, value = start[kept], value[kept]
    new = np.concatenate(([True], value[1:] != value[:-1]))
    return np.array_equal(start[new], steps.starts[channel]) and np.array_equal(value[new], steps.values[channel])


def candidates(steps: Steps) -> list[Candidate]:
    """All forms found that reproduce `steps`, cheapest first.

    Comparators always do, so the list is never empty.
    """
    forms: list[Requantizer] = [_comparators(steps)]
    if all(steps.is_monotone(c) for c in range(steps.channels)):
        linear: list[Division | Shift] = list(_linear(steps))
        forms += linear or [form for ties in TIES for form in _patched(steps, ties)]
    table = _table(steps)
    if table is not None:
        forms.append(table)
    exact = [Candidate(form, cost(form, steps.input_width)) for form in dict.fromkeys(forms) if reproduces(form, steps)]
    return sorted(exact, key=lambda candidate: candidate.cost)


def synthesize(steps: Steps) -> Requantizer:
    """The cheapest form that equals `steps` on every input that can occur; at equal cost the simplest."""
    return candidates(steps)[0].form
