"""From rows of many terms to adders of two operands.

The terms of a row are merged two at a time, of the lowest level first, which reaches the least depth (Golumbic 1976,
as Huffman's trees). Among terms of that level the pair is merged whose sum is narrowest: terms of one sign first, so that
no bit is spent on a sign, or ranges that balance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from hw.adders import Adder

__all__ = ["Builder", "Term", "bits"]

PARTNERS = 6  # looked at for each merge


def bits(lo: int, hi: int) -> int:
    """Bits of a number within an interval; one more for the sign where it may be negative."""
    return hi.bit_length() if lo >= 0 else 1 + max((-lo - 1).bit_length(), hi.bit_length() if hi > 0 else 0)


@dataclass(frozen=True, slots=True, order=True)
class Term:
    """``±(value << shift)``."""

    value: int
    shift: int = 0
    minus: bool = False


class Builder:
    """Adders so far, with level and range of each value.

    Parameters
    ----------
    bounds : sequence of (int, int)
        Of the inputs.
    """

    def __init__(self, bounds: Sequence[tuple[int, int]]) -> None:
        self.inputs = len(bounds)
        self.adders: list[Adder] = []
        self.level = [0] * self.inputs
        self.ranges = list(bounds)
        self.known: dict[Adder, int] = {}

    def sum(self, terms: Iterable[Term]) -> Term:
        """A term that equals the sum of some; added if one of them is."""
        heap = [self._key(t) for t in terms]
        heapify(heap)
        while len(heap) > 1:
            first = heappop(heap)
            others = [heappop(heap)]
            while heap and len(others) < PARTNERS and heap[0][0] == first[0] == others[0][0]:
                others.append(heappop(heap))
            best = min(range(len(others)), key=lambda i: self._width(first[-1], others[i][-1]))
            second = others.pop(best)
            for other in others:
                heappush(heap, other)
            heappush(heap, self._key(self.add(first[-1], second[-1])))
        return heap[0][-1]

    def add(self, a: Term, b: Term) -> Term:
        """A term that equals the sum of two."""
        if (a.minus, a.value, a.shift) > (b.minus, b.value, b.shift):
            a, b = b, a
        low = min(a.shift, b.shift)
        adder = Adder(a.value, b.value, a.shift - low, b.shift - low, a.minus != b.minus)
        value = self.known.get(adder)
        if value is None:
            value = self.known[adder] = len(self.level)
            self.adders.append(adder)
            self.level.append(1 + max(self.level[a.value], self.level[b.value]))
            self.ranges.append(self._range(adder))
        return Term(value, low, a.minus and b.minus)

    def _range(self, a: Adder) -> tuple[int, int]:
        lo, hi = self.ranges[a.right]
        if a.subtract:
            lo, hi = -hi, -lo
        left = self.ranges[a.left]
        return (left[0] << a.left_shift) + (lo << a.right_shift), (left[1] << a.left_shift) + (hi << a.right_shift)

    def _width(self, a: Term, b: Term) -> tuple[int, int]:
        (lo, hi), (lo_b, hi_b) = self._signed(a), self._signed(b)
        if a.minus and b.minus:
            return bits(-hi - hi_b, -lo - lo_b), hi - lo
        return bits(lo + lo_b, hi + hi_b), hi - lo

    def _signed(self, t: Term) -> tuple[int, int]:
        lo, hi = self.ranges[t.value]
        lo, hi = lo << t.shift, hi << t.shift
        return (-hi, -lo) if t.minus else (lo, hi)

    def _key(self, t: Term) -> tuple[int, int, Term]:
        lo, hi = self.ranges[t.value]
        return self.level[t.value], (hi - lo) << t.shift, t
