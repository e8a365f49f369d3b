"""Requantizers: the functions from an integer sum to a small integer code, and the forms hardware gives them.

`Steps` is the function itself, channel by channel, on the interval of inputs that can occur. A form (`Comparators`,
`Division`, `Shift`, `Table`) is a circuit that may reproduce it. Forms only compare, add, shift and look up; a
``multiplier`` is a constant of the whole layer, spelled in signed digits: one adder per digit but the first.

Parameters are int64 arrays with one entry per channel, or a single entry that all channels share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from tcompile.errors import InternalError, Problem

__all__ = [
    "Comparators",
    "Division",
    "Ints",
    "Requantizer",
    "Shift",
    "Steps",
    "Table",
    "Ties",
    "code_width",
    "cost",
    "signed_digits",
    "signed_width",
]

Ints = npt.NDArray[np.int64]
Ties = Literal["up", "even", "odd"]
_Scalar = TypeVar("_Scalar", bound=np.generic)

LUT_BITS = 64  # bits of constant memory that one unit of cost holds


def signed_width(lo: int, hi: int) -> int:
    """Bits of the smallest two's complement word that holds every integer of [lo, hi]."""
    return 1 + max(n.bit_length() if n >= 0 else (~n).bit_length() for n in (lo, hi))


def code_width(lo: int, hi: int) -> int:
    """Bits of the smallest word for [lo, hi]: unsigned if nothing is negative; at least 1."""
    return signed_width(lo, hi) if lo < 0 else max(1, hi.bit_length())


def signed_digits(n: int) -> int:
    """Nonzero digits of `n` in canonical signed-digit form: 1 for a power of two, 2 for 3, 5, 6, 7 ..."""
    n = abs(n)
    return (n ^ (3 * n)).bit_count()


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise InternalError(Problem("bad-requantizer", message))


def _frozen(values: npt.ArrayLike) -> Ints:
    array = np.array(values, dtype=np.int64, ndmin=1)
    array.setflags(write=False)
    return array


def _along(parameter: npt.NDArray[_Scalar], ndim: int, axis: int) -> npt.NDArray[_Scalar]:
    """A per-channel parameter, shaped to broadcast along `axis` of an array of `ndim` dimensions."""
    shape = [1] * ndim
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def _integers(x: npt.NDArray[np.integer]) -> Ints:
    return x.astype(np.int64, casting="safe", copy=False)


def _check_channels(x: Ints, axis: int, channels: int) -> None:
    _check(
        channels in (1, x.shape[axis]),
        f"the input has {x.shape[axis]} channels on axis {axis}, the requantizer {channels}",
    )


def _lookup(x: Ints, axis: int, starts: Sequence[Ints], values: Sequence[Ints]) -> Ints:
    """``values[c][number of starts[c] <= x]``; one channel serves all."""
    if len(starts) == 1:
        return values[0][np.searchsorted(starts[0], x, side="right")]
    result = np.empty_like(x)
    by_channel, out = np.moveaxis(x, axis, 0), np.moveaxis(result, axis, 0)
    for channel, (start, value) in enumerate(zip(starts, values, strict=True)):
        out[channel] = value[np.searchsorted(start, by_channel[channel], side="right")]
    return result


@dataclass(frozen=True, eq=False)
class _ByContent:
    """Equality and hash by the content of the fields, arrays included."""

    def _key(self) -> tuple[object, ...]:
        return (type(self), *(_content(getattr(self, item.name)) for item in fields(self)))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, _ByContent) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


def _content(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    return tuple(map(_content, value)) if isinstance(value, tuple) else value


@dataclass(frozen=True, eq=False)
class Steps(_ByContent):
    """A piecewise constant function of an integer, per channel, on the inputs that can occur.

    Parameters
    ----------
    starts : tuple of int64 arrays
        Per channel the first input of each piece, rising; the first is the smallest input that can occur.
    values : tuple of int64 arrays
        Per channel the value on each piece; neighbours differ.
    hi : tuple of int
        Per channel the largest input that can occur.
    """

    starts: tuple[Ints, ...]
    values: tuple[Ints, ...]
    hi: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(map(_frozen, self.starts)))
        object.__setattr__(self, "values", tuple(map(_frozen, self.values)))
        object.__setattr__(self, "hi", tuple(map(int, self.hi)))
        _check(
            0 < len(self.starts) == len(self.values) == len(self.hi),
            f"starts, values and hi must name the same channels, not {len(self.starts)}, {len(self.values)}, "
            f"{len(self.hi)}",
        )
        for channel, (start, value, hi) in enumerate(zip(self.starts, self.values, self.hi, strict=True)):
            _check(0 < start.size == value.size, f"channel {channel}: each piece needs one start and one value")
            _check(bool(np.all(start[1:] > start[:-1])), f"channel {channel}: starts must rise")
            _check(bool(np.all(value[1:] != value[:-1])), f"channel {channel}: neighbouring pieces must differ")
            _check(int(start[-1]) <= hi, f"channel {channel}: the last piece starts above the largest input {hi}")

    @classmethod
    def from_table(cls, lo: int | Sequence[int] | Ints, table: Ints, hi: Sequence[int] | Ints | None = None) -> Steps:
        """The steps of a tabulated function.

        Parameters
        ----------
        lo : int or one per channel
            Input of the first column; the smallest that can occur.
        table : int64 array [channels, n]
            Values for the inputs lo, lo + 1, ...
        hi : one per channel, optional
            Largest input that can occur; columns beyond are ignored. Default: the last column.
        """
        channels, columns = table.shape
        base = np.broadcast_to(_frozen(lo), (channels,))
        last = base + columns - 1 if hi is None else _frozen(hi)
        _check(
            last.size == channels and bool(np.all((base <= last) & (last < base + columns))),
            "the largest input of each channel must lie in the table",
        )
        rows, before = np.nonzero(table[:, 1:] != table[:, :-1])
        inside = before + 1 <= (last - base)[rows]
        rows, after = rows[inside], before[inside] + 1
        cuts = np.searchsorted(rows, np.arange(1, channels))
        columns_of = [np.concatenate(([0], part)) for part in np.split(after, cuts)]
        return cls(
            tuple(base[c] + part for c, part in enumerate(columns_of)),
            tuple(table[c, part] for c, part in enumerate(columns_of)),
            tuple(last.tolist()),
        )

    @property
    def channels(self) -> int:
        return len(self.starts)

    @property
    def lo(self) -> tuple[int, ...]:
        """Per channel the smallest input that can occur."""
        return tuple(int(start[0]) for start in self.starts)

    @property
    def count(self) -> int:
        """Steps, summed over channels: inputs where the value differs from that of the input before."""
        return sum(start.size - 1 for start in self.starts)

    @property
    def output_range(self) -> tuple[int, int]:
        """Smallest and largest value of any channel."""
        return min(int(v.min()) for v in self.values), max(int(v.max()) for v in self.values)

    @property
    def input_width(self) -> int:
        """Bits of the two's complement word that holds every input of every channel."""
        return signed_width(min(self.lo), max(self.hi))

    def is_monotone(self, channel: int) -> bool:
        """Whether the channel only rises or only falls (a constant does both)."""
        rises = np.diff(self.values[channel]) > 0
        return bool(rises.all() or not rises.any())

    def is_falling(self, channel: int) -> bool:
        """Whether the channel is monotone and has a step down."""
        return self.is_monotone(channel) and bool(self.values[channel][0] > self.values[channel][-1])

    def ends(self, channel: int) -> Ints:
        """Last input of each piece."""
        return np.append(self.starts[channel][1:] - 1, self.hi[channel])

    def __call__(self, x: npt.NDArray[np.integer], axis: int) -> Ints:
        """The values for `x`, channels along `axis`; an input that cannot occur is an internal error."""
        x = _integers(x)
        _check_channels(x, axis, self.channels)
        lo, hi = (_along(_frozen(bound), x.ndim, axis) for bound in (self.lo, self.hi))
        _check(bool(np.all((x >= lo) & (x <= hi))), "an input lies outside the interval of inputs that can occur")
        return _lookup(x, axis, tuple(start[1:] for start in self.starts), self.values)


@dataclass(frozen=True, eq=False)
class Comparators(_ByContent):
    """``values[c][number of thresholds[c] <= x]``: all thresholds compared at once, the true ones counted.

    Parameters
    ----------
    thresholds : tuple of int64 arrays
        Per channel, rising; their number may differ from channel to channel.
    values : tuple of int64 arrays
        Per channel, one more than thresholds.
    """

    thresholds: tuple[Ints, ...]
    values: tuple[Ints, ...]

    kind: ClassVar[str] = "comparators"

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(map(_frozen, self.thresholds)))
        object.__setattr__(self, "values", tuple(map(_frozen, self.values)))
        _check(0 < len(self.thresholds) == len(self.values), "thresholds and values must name the same channels")
        for channel, (threshold, value) in enumerate(zip(self.thresholds, self.values, strict=True)):
            _check(value.size == threshold.size + 1, f"channel {channel}: values must be one more than thresholds")
            _check(bool(np.all(threshold[1:] >= threshold[:-1])), f"channel {channel}: thresholds must be sorted")

    @property
    def channels(self) -> int:
        return len(self.thresholds)

    @property
    def is_counting(self) -> bool:
        """Whether each channel's value is its first value plus the number of thresholds reached."""
        return all(bool(np.all(np.diff(value) == 1)) for value in self.values)

    @property
    def levels(self) -> int:
        """Comparators that one lane needs: the largest number of thresholds of a channel."""
        return max(threshold.size for threshold in self.thresholds)

    @property
    def output_range(self) -> tuple[int, int]:
        return min(int(v.min()) for v in self.values), max(int(v.max()) for v in self.values)

    @property
    def threshold_width(self) -> int:
        """Bits of the two's complement word that holds every threshold."""
        used = [t for t in self.thresholds if t.size]
        return signed_width(min(int(t[0]) for t in used), max(int(t[-1]) for t in used)) if used else 0

    def __call__(self, x: npt.NDArray[np.integer], axis: int) -> Ints:
        x = _integers(x)
        _check_channels(x, axis, self.channels)
        return _lookup(x, axis, self.thresholds, self.values)


@dataclass(frozen=True, eq=False)
class _Linear(_ByContent):
    """What `Division` and `Shift` share: a rounded quotient of a linear function of x, clipped, then corrected.

    Corrections are for rounding in floating point, which makes a tie of a value that only comes near one.
    """

    negate: npt.NDArray[np.bool_]
    multiplier: int
    addend: Ints
    ties: Ties
    lo: Ints
    hi: Ints
    exceptions: tuple[Ints, ...] = field(default=(), kw_only=True)
    corrections: tuple[Ints, ...] = field(default=(), kw_only=True)

    def _freeze(self, *names: str) -> None:
        negate = np.array(self.negate, dtype=np.bool_, ndmin=1)
        negate.setflags(write=False)
        object.__setattr__(self, "negate", negate)
        for name in ("addend", "lo", "hi", *names):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        for name in ("exceptions", "corrections"):
            object.__setattr__(self, name, tuple(map(_frozen, getattr(self, name))))
        _check(
            [x.size for x in self.exceptions] == [x.size for x in self.corrections],
            "each exception needs one correction",
        )
        sizes = {array.size for array in self._parameters() if array.size != 1} | {len(self.exceptions) or 1} - {1}
        _check(len(sizes) <= 1 and 0 not in sizes, f"parameters must name the same channels, not {sorted(sizes)}")
        _check(self.multiplier > 0, f"the multiplier must be positive, not {self.multiplier!r}")
        _check(self.ties in ("up", "even", "odd"), f"ties must go up, even or odd, not {self.ties!r}")
        _check(bool(np.all(self.lo <= self.hi)), "the clipping range must not be empty")

    def _parameters(self) -> tuple[npt.NDArray[np.generic], ...]:
        values = (getattr(self, item.name) for item in fields(self))
        return tuple(value for value in values if isinstance(value, np.ndarray))

    @property
    def channels(self) -> int:
        return max(len(self.exceptions), *(array.size for array in self._parameters()))

    @property
    def exceptions_per_channel(self) -> int:
        """Equality comparators that one lane needs: the largest number of exceptions of a channel."""
        return max((x.size for x in self.exceptions), default=0)

    @property
    def output_range(self) -> tuple[int, int]:
        return int(self.lo.min()), int(self.hi.max())

    @property
    def addend_width(self) -> int:
        """Bits of the two's complement word that holds every addend."""
        return signed_width(int(self.addend.min()), int(self.addend.max()))

    def numerator_width(self, lo: Sequence[int], hi: Sequence[int]) -> int:
        """Bits of the two's complement word for ±multiplier·x, with and without the addend.

        Parameters
        ----------
        lo, hi : sequences of int
            Per channel the smallest and largest input that can occur.
        """
        m = self.multiplier
        negate = np.broadcast_to(self.negate, (len(lo),)).tolist()
        addend = np.broadcast_to(self.addend, (len(lo),)).tolist()
        seen = [
            sum_
            for flip, b, low, high in zip(negate, addend, lo, hi, strict=True)
            for x in (low, high)
            for sum_ in ((-x if flip else x) * m, (-x if flip else x) * m + b)
        ]
        return signed_width(min(seen), max(seen))

    def _numerator(self, x: Ints, axis: int) -> Ints:
        scaled = np.where(_along(self.negate, x.ndim, axis), -x, x) if self.negate.any() else x
        total: Ints = scaled * self.multiplier + _along(self.addend, x.ndim, axis)
        return total

    def _rounded(self, x: Ints, quotient: Ints, exact: npt.NDArray[np.bool_] | None, axis: int) -> Ints:
        if exact is not None:
            quotient = quotient - (exact & ((quotient & 1) == (1 if self.ties == "even" else 0)))
        bounds = (_along(bound, quotient.ndim, axis) for bound in (self.lo, self.hi))
        result: Ints = np.clip(quotient, *bounds)
        for channel, (inputs, additions) in enumerate(zip(self.exceptions, self.corrections, strict=True)):
            of_channel = np.moveaxis(x, axis, 0), np.moveaxis(result, axis, 0)
            seen, corrected = of_channel if len(self.exceptions) == 1 else (part[channel] for part in of_channel)
            for exception, addition in zip(inputs, additions, strict=True):
                corrected[seen == exception] += addition
        return result


@dataclass(frozen=True, eq=False)
class Division(_Linear):
    """``clip(floor((±multiplier·x + addend) / divisor) - tie, lo, hi)``, by restoring division.

    `tie` is 1 where the remainder is 0 and the quotient is odd (`ties` "even": half goes to the even code) or even
    ("odd": an odd zero point was added after rounding half to even), else 0; `ties` "up" never subtracts.
    The quotient counted from `lo` has ``code_width(0, hi - lo)`` bits; anything beyond is clipped.

    Parameters
    ----------
    negate : bool array
        Whether x is negated, per channel.
    multiplier : int
        Positive constant of the whole layer; mostly a power of two, which costs nothing.
    addend, divisor, lo, hi : int64 arrays
    ties : {"up", "even", "odd"}
    exceptions, corrections : tuples of int64 arrays
        Per channel the inputs where something is added after clipping, and what; empty tuples for none.
    """

    divisor: Ints

    kind: ClassVar[str] = "division"

    def __post_init__(self) -> None:
        self._freeze("divisor")
        _check(bool(np.all(self.divisor > 0)), "divisors must be positive")

    @property
    def divisor_width(self) -> int:
        """Bits of the largest divisor, unsigned."""
        return int(self.divisor.max()).bit_length()

    def __call__(self, x: npt.NDArray[np.integer], axis: int) -> Ints:
        x = _integers(x)
        _check_channels(x, axis, self.channels)
        numerator = self._numerator(x, axis)
        divisor = _along(self.divisor, x.ndim, axis)
        quotient: Ints = numerator // divisor
        return self._rounded(x, quotient, None if self.ties == "up" else quotient * divisor == numerator, axis)


@dataclass(frozen=True, eq=False)
class Shift(_Linear):
    """`Division` by ``2**bits``: an adder, an arithmetic shift to the right, the same ties and clipping.

    Parameters
    ----------
    negate, multiplier, addend, ties, lo, hi, exceptions, corrections
        As in `Division`.
    bits : int64 array
        Positions to shift, 0 or more, per channel.
    """

    bits: Ints

    kind: ClassVar[str] = "shift"

    def __post_init__(self) -> None:
        self._freeze("bits")
        _check(bool(np.all((self.bits >= 0) & (self.bits < 63))), "shifts must be from 0 to 62")

    def __call__(self, x: npt.NDArray[np.integer], axis: int) -> Ints:
        x = _integers(x)
        _check_channels(x, axis, self.channels)
        numerator = self._numerator(x, axis)
        bits = _along(self.bits, x.ndim, axis)
        quotient: Ints = numerator >> bits
        return self._rounded(x, quotient, None if self.ties == "up" else quotient << bits == numerator, axis)


@dataclass(frozen=True, eq=False)
class Table(_ByContent):
    """``values[c][x - base[c]]``.

    Parameters
    ----------
    base : int64 array
        Per channel the input of the first entry.
    values : tuple of int64 arrays
        Per channel one value for each input from `base` on.
    """

    base: Ints
    values: tuple[Ints, ...]

    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", _frozen(self.base))
        object.__setattr__(self, "values", tuple(map(_frozen, self.values)))
        _check(self.base.size == len(self.values), "base and values must name the same channels")
        _check(all(value.size > 0 for value in self.values), "a table must not be empty")

    @property
    def channels(self) -> int:
        return len(self.values)

    @property
    def output_range(self) -> tuple[int, int]:
        return min(int(v.min()) for v in self.values), max(int(v.max()) for v in self.values)

    @property
    def entries(self) -> int:
        """Entries of all channels together."""
        return sum(value.size for value in self.values)

    @property
    def address_width(self) -> int:
        """Bits of the largest ``x - base``."""
        return max(1, (max(value.size for value in self.values) - 1).bit_length())

    def __call__(self, x: npt.NDArray[np.integer], axis: int) -> Ints:
        x = _integers(x)
        _check_channels(x, axis, self.channels)
        sizes = _frozen([value.size for value in self.values])
        index = x - _along(self.base, x.ndim, axis)
        _check(
            bool(np.all((index >= 0) & (index < _along(sizes, x.ndim, axis)))),
            "an input lies outside the table",
        )
        offsets = np.concatenate(([0], np.cumsum(sizes[:-1])))
        flat: Ints = np.concatenate(self.values)[index + _along(offsets, x.ndim, axis)]
        return flat


Requantizer = Comparators | Division | Shift | Table


def _memory(*arrays_and_widths: tuple[npt.NDArray[np.generic], int]) -> int:
    """Units for constants that differ by channel; shared ones are wires."""
    bits = sum(array.size * width for array, width in arrays_and_widths if array.size > 1)
    return -(-bits // LUT_BITS)


def cost(form: Requantizer, x_width: int) -> int:
    """Estimated size of one lane, in units of about one 6-input LUT; only good for choosing between forms.

    With w = `x_width` bits of input, o = bits of output, n = thresholds, d = divisor bits, and memory = bits of
    constants that differ by channel / 64:

    - comparators: n·w/2 to compare, n to count if values are consecutive, else n·o to select; memory
    - shift: s·w for s additions (the addend, the multiplier's signed digits but the first, a negation), w to clip,
      w per bit of a shift that differs by channel, o if ties are corrected; memory
    - division: as shift, with o·2·(d + 1) for o rows of subtract and select in place of the shift
    - table: entries·o/64

    w counts the multiplier's bits too in division and shift. An exception costs them w/2 + o, and its memory.

    Parameters
    ----------
    form : Requantizer
    x_width : int
        Bits of the input.
    """
    lo, hi = form.output_range
    out = code_width(lo, hi)
    if isinstance(form, Table):
        return -(-form.entries * out // LUT_BITS)
    if isinstance(form, Comparators):
        levels = form.levels
        stored = levels * (x_width + (0 if form.is_counting else out)) * form.channels if form.channels > 1 else 0
        return -(-levels * x_width // 2) + levels * (1 if form.is_counting else out) + -(-stored // LUT_BITS)
    width = x_width + form.multiplier.bit_length() - 1
    additions = signed_digits(form.multiplier) - 1 + bool(form.addend.any()) + bool(form.negate.any())
    memory = _memory((form.addend, form.addend_width), (form.negate, 1), (form.lo, out), (form.hi, out))
    common = additions * width + width + (0 if form.ties == "up" else out) + memory
    exceptions = form.exceptions_per_channel
    stored = exceptions * (x_width + 1) * len(form.exceptions) if len(form.exceptions) > 1 else 0
    common += exceptions * (-(-x_width // 2) + out) + -(-stored // LUT_BITS)
    if isinstance(form, Shift):
        widest = int(form.bits.max()).bit_length()
        return common + (widest * width if form.bits.size > 1 else 0) + _memory((form.bits, widest))
    rows = code_width(0, hi - lo)
    return common + rows * 2 * (form.divisor_width + 1) + _memory((form.divisor, form.divisor_width))
