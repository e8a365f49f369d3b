"""A matrix of integers as rows of signed digits, with what equal, shifted and negated rows share taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Rows", "canonical_rows", "signed_digits"]

LIMIT = 1 << 48  # of a weight's magnitude: sums of rows stay within 64 bits


def signed_digits(x: np.ndarray) -> list[np.ndarray]:
    """Canonical signed digits (-1, 0, 1), lowest first, of which no two neighbours are non-zero: the fewest terms."""
    rest = np.array(x, np.int64)
    digits = []
    while rest.any():
        odd = rest & 1
        digit = odd * (2 - (rest & 3))
        digits.append(digit.astype(np.int8))
        rest = (rest - digit) >> 1
    return digits


@dataclass(frozen=True)
class Rows:
    """Different rows to be computed, and how the matrix is made of them.

    Attributes
    ----------
    matrix : numpy.ndarray
        int64 (different, columns). Each row has an odd and a positive entry, and more than one entry or a 1 only.
    row : numpy.ndarray
        Row of `matrix` for each row of the whole; -1 for zero.
    shift : numpy.ndarray
        Left shift of that row.
    negative : numpy.ndarray
        Whether it is negated.
    """

    matrix: np.ndarray
    row: np.ndarray
    shift: np.ndarray
    negative: np.ndarray


def canonical_rows(matrix: np.ndarray) -> Rows:
    """Take zero rows, common powers of two, equal rows and rows without a positive entry out of a matrix."""
    m = np.asarray(matrix)
    if m.ndim != 2 or not (np.issubdtype(m.dtype, np.integer) or m.dtype == bool):
        raise ValueError(f"a matrix must have 2 dimensions and integers, not shape {m.shape} of {m.dtype}")
    if m.size and max(abs(int(m.min())), abs(int(m.max()))) >= LIMIT:
        raise ValueError(f"a weight must be below {LIMIT} in magnitude, not {max(m.min(), m.max(), key=abs)}")
    m = m.astype(np.int64)
    bits = np.bitwise_or.reduce(m, axis=1) if m.shape[1] else np.zeros(len(m), np.int64)
    shift = np.where(bits == 0, 0, np.bitwise_count((bits & -bits) - 1)).astype(np.int64)
    m >>= shift[:, None]
    negative = (bits != 0) & ~(m > 0).any(axis=1)
    m[negative] *= -1
    numbers: dict[bytes, int] = {}
    row = np.array([numbers.setdefault(r.tobytes(), len(numbers)) if b else -1 for r, b in zip(m, bits, strict=True)])
    row = row.astype(np.int64)
    _, first = np.unique(row[row >= 0], return_index=True)
    return Rows(m[np.flatnonzero(row >= 0)[first]], row, shift, negative)
