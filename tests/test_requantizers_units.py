"""Requantizers in small: widths against brute force, costs against sums by hand, what the constructors refuse."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tcompile.errors import InternalError
from tcompile.ir.requantizers import (
    Comparators,
    Division,
    Shift,
    Steps,
    Table,
    code_width,
    cost,
    signed_digits,
    signed_width,
)
from tcompile.ir.requantizers import _integers as integers

EDGES = sorted({s * (1 << k) + d for k in range(7) for s in (-1, 1) for d in (-1, 0, 1)})
PAIRS = [(lo, hi) for lo in EDGES for hi in EDGES if lo <= hi]


def bits(lo, hi, signed):
    """The first word length whose range holds both."""
    ends = ((-(1 << w - 1), (1 << w - 1) - 1) if signed else (0, (1 << w) - 1) for w in range(1, 99))
    return next(w for w, (least, most) in enumerate(ends, 1) if least <= lo and hi <= most)


def test_widths_are_the_first_that_suffice():
    assert [signed_width(*pair) for pair in PAIRS] == [bits(*pair, signed=True) for pair in PAIRS]
    assert [code_width(*pair) for pair in PAIRS] == [bits(*pair, signed=pair[0] < 0) for pair in PAIRS]


@cache
def fewest(n):
    """Fewest signed powers of two that sum to n >= 0."""
    if n < 2:
        return n
    return fewest(n // 2) if n % 2 == 0 else 1 + min(fewest(n // 2), fewest(n // 2 + 1))


def test_signed_digits_are_the_fewest():
    assert [signed_digits(n) for n in range(300)] == [fewest(n) for n in range(300)]
    assert [signed_digits(-n) for n in range(300)] == [fewest(n) for n in range(300)]


# The linear forms

SHIFT = Shift([False], 1, [0], "up", [0], [7], [2])
DIVISION = Division([False], 1, [0], "up", [0], [7], [5])
COMPARATORS = Comparators(([1, 2, 9],), ([0, 1, 2, 3],))
TABLE = Table([-2], ([0, 1, 2, 3],))
STEPS = Steps(([-3, 0, 5], [-1]), ([4, 2, -7], [1]), (9, 8))

BY_CHANNEL = Shift([False, True], 1, [3, -40], "odd", [0, 1], [7, 7], [1, 4])
COSTS = [
    (COMPARATORS, 5, 8 + 3),
    (Comparators(([1, 2, 9],), ([0, 5, 2, 7],)), 5, 8 + 3 * 3),
    (Comparators(([1, 2, 9], [1]), ([0, 1, 2, 3], [0, 1])), 5, 8 + 3 + 1),
    (Comparators(([1, 2, 9], [1]), ([0, 1, 2, 3], [0, 7])), 20, 30 + 3 * 3 + 3),
    (Comparators(([],), ([3],)), 5, 0),
    (Table([0], (list(range(25)),)), 9, 2),
    (Table([0], ([0, 1] * 32,)), 9, 1),
    (Table([0, 0], ([0, 1] * 32, [1])), 9, 2),
    (SHIFT, 6, 6),
    (replace(SHIFT, ties="even"), 6, 6 + 3),
    (replace(SHIFT, addend=[1]), 6, 6 + 6),
    (replace(SHIFT, negate=[True]), 6, 6 + 6),
    (replace(SHIFT, multiplier=4), 6, 8),
    (replace(SHIFT, multiplier=5), 6, 8 + 8),
    (Shift([True], 5, [3], "even", [-4], [3], [2]), 6, 3 * 8 + 8 + 3),
    (replace(SHIFT, bits=[1, 4]), 6, 6 + 3 * 6 + 1),
    (BY_CHANNEL, 6, 2 * 6 + 6 + 3 + 1 + 3 * 6 + 1),
    (replace(SHIFT, lo=[0] * 22), 6, 6 + 2),
    (replace(SHIFT, hi=[7] * 22), 6, 6 + 2),
    (replace(SHIFT, lo=[0] * 21), 6, 6 + 1),
    (replace(SHIFT, negate=[True] * 65), 6, 6 + 6 + 2),
    (replace(SHIFT, addend=[3] * 22), 6, 6 + 6 + 2),
    (replace(SHIFT, exceptions=([0, 2],), corrections=([1, 1],)), 7, 7 + 2 * (4 + 3)),
    (replace(SHIFT, exceptions=([0, 2], [1]), corrections=([1, 1], [1])), 7, 7 + 2 * (4 + 3) + 1),
    (replace(SHIFT, exceptions=([0],) * 9, corrections=([1],) * 9), 7, 7 + (4 + 3) + 2),
    (DIVISION, 6, 6 + 3 * 2 * 4),
    (replace(DIVISION, lo=[-4], hi=[3]), 6, 6 + 3 * 2 * 4),
    (replace(DIVISION, lo=[-4], hi=[4], ties="odd"), 6, 6 + 4 + 4 * 2 * 4),
    (replace(DIVISION, divisor=[5, 9]), 6, 6 + 3 * 2 * 5 + 1),
    (replace(DIVISION, divisor=[9] * 40), 6, 6 + 3 * 2 * 5 + 3),
]  # fmt: skip


@pytest.mark.parametrize("form, width, expected", COSTS, ids=[f"{k}-{f.kind}" for k, (f, *_) in enumerate(COSTS)])
def test_costs_are_those_of_the_formula(form, width, expected):
    assert cost(form, width) == expected


@pytest.mark.parametrize("multiplier", [1, 3, 8])
@pytest.mark.parametrize("addend", [-9, 0, 64])
@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("lo, hi", [(0, 0), (0, 8), (-8, 7), (-9, 3), (5, 16), (-16, -5)])
def test_a_numerator_has_the_width_of_its_sums(multiplier, addend, negate, lo, hi):
    form = Shift([negate], multiplier, [addend], "up", [0], [7], [2])
    products = [(-x if negate else x) * multiplier for x in range(lo, hi + 1)]
    sums = products + [p + addend for p in products]
    assert form.numerator_width([lo], [hi]) == bits(min(sums), max(sums), signed=True)


def test_a_numerator_is_as_wide_as_that_of_the_widest_channel():
    form = Shift([False, True], 1, [0, 100], "up", [0], [7], [2])
    assert form.numerator_width([0, -30], [7, 0]) == bits(0, 130, signed=True)
    assert form.numerator_width([-500, 0], [7, 0]) == bits(-500, 100, signed=True)


def expected(x, numerator, divisor, ties, lo, hi):
    quotient, remainder = divmod(numerator, divisor)
    odd = quotient % 2 == 1
    tie = remainder == 0 and {"up": False, "even": odd, "odd": not odd}[ties]
    return min(hi, max(lo, quotient - tie))


@pytest.mark.parametrize("ties", ["up", "even", "odd"])
@pytest.mark.parametrize("negate", [False, True])
def test_the_linear_forms_are_their_formula(ties, negate):
    xs = range(-40, 41)
    shift = Shift([negate], 3, [4], ties, [-6], [9], [3])
    division = Division([negate], 3, [4], ties, [-6], [9], [8])
    wanted = [expected(x, 3 * (-x if negate else x) + 4, 8, ties, -6, 9) for x in xs]
    assert shift(np.array([xs]), 0).tolist() == [wanted] == division(np.array([xs]), 0).tolist()


@pytest.mark.parametrize("shared", [False, True])
def test_corrections_are_added_after_clipping(shared):
    rows = ([1, 3],) if shared else ([1, 3], [])
    added = ([10, -20],) if shared else ([10, -20], [])
    form = Division([False, False], 1, [0], "up", [0], [2], [1], exceptions=rows, corrections=added)
    patched = [0, 11, 2, -18, 2]
    assert form(np.array([range(5)] * 2), 0).tolist() == [patched, patched if shared else [0, 1, 2, 2, 2]]
    assert form(np.array([range(5)] * 2).T, 1).T.tolist() == [patched, patched if shared else [0, 1, 2, 2, 2]]


# Properties


def test_properties_of_steps():
    assert (STEPS.channels, STEPS.lo, STEPS.count, STEPS.output_range) == (2, (-3, -1), 2, (-7, 4))
    assert STEPS.input_width == 5
    assert [STEPS.ends(c).tolist() for c in (0, 1)] == [[-1, 4, 9], [8]]
    assert [STEPS.is_monotone(c) for c in (0, 1)] == [True, True]
    assert [STEPS.is_falling(c) for c in (0, 1)] == [True, False]


@pytest.mark.parametrize("values, monotone, falling", [
    ([0, 1, 2], True, False), ([2, 1, 0], True, True), ([0, 1, 0], False, False), ([1, 0, 1], False, False),
    ([2, 3, 0], False, False), ([5], True, False),
])  # fmt: skip
def test_monotone_and_falling_steps(values, monotone, falling):
    steps = Steps((range(len(values)),), (values,), (9,))
    assert (steps.is_monotone(0), steps.is_falling(0)) == (monotone, falling)


def test_steps_of_a_table_end_at_the_largest_input():
    table = np.array([[0, 0, 1, 1, 2], [3, 4, 4, 4, 4]])
    assert Steps.from_table(-1, table) == Steps(([-1, 1, 3], [-1, 0]), ([0, 1, 2], [3, 4]), (3, 3))
    assert Steps.from_table([-1, 5], table, [2, 5]) == Steps(([-1, 1], [5]), ([0, 1], [3]), (2, 5))
    assert Steps.from_table(0, table, [4, 4]) == Steps(([0, 2, 4], [0, 1]), ([0, 1, 2], [3, 4]), (4, 4))
    for hi in ([5, 4], [-1, 4], [4], [4, 4, 4]):
        with pytest.raises(InternalError, match="must lie in the table"):
            Steps.from_table(0, table, hi)


def test_properties_of_comparators():
    form = Comparators(([1, 2], [-9], []), ([0, 1, 2], [-4, 5], [3]))
    assert (form.channels, form.levels, form.output_range, form.threshold_width) == (3, 2, (-4, 5), 5)
    assert (form.is_counting, COMPARATORS.is_counting) == (False, True)
    assert Comparators(([1], [8]), ([0, 1], [5, 6])).threshold_width == 5
    assert Comparators(([],), ([3],)).threshold_width == 0
    assert Comparators(([4, 4],), ([0, 1, 2],))(np.array([[3, 4, 5]]), 0).tolist() == [[0, 2, 2]]


def test_properties_of_the_linear_forms():
    assert (SHIFT.channels, BY_CHANNEL.channels, SHIFT.output_range, SHIFT.addend_width) == (1, 2, (0, 7), 1)
    assert (BY_CHANNEL.addend_width, SHIFT.exceptions_per_channel) == (7, 0)
    patched = replace(SHIFT, exceptions=([], [1, 2], [3]), corrections=([], [1, 1], [1]))
    assert (patched.channels, patched.exceptions_per_channel) == (3, 2)
    assert [replace(DIVISION, divisor=[1, d]).divisor_width for d in (1, 7, 8)] == [1, 3, 4]


@pytest.mark.parametrize("sizes, width", [((1,), 1), ((2,), 1), ((3,), 2), ((4, 1), 2), ((1, 5), 3)])
def test_properties_of_tables(sizes, width):
    form = Table([0] * len(sizes), tuple(range(n) for n in sizes))
    assert (form.channels, form.entries, form.address_width) == (len(sizes), sum(sizes), width)
    assert form.output_range == (0, max(sizes) - 1)


@pytest.mark.parametrize("form", [SHIFT, DIVISION, COMPARATORS, TABLE, STEPS], ids=lambda f: type(f).__name__)
def test_parameters_cannot_be_written(form):
    entries = [v for value in vars(form).values() for v in (value if isinstance(value, tuple) else (value,))]
    arrays = [entry for entry in entries if isinstance(entry, np.ndarray)]
    assert arrays
    assert [array.flags.writeable for array in arrays] == [False] * len(arrays)
    assert all(array.dtype in (np.int64, np.bool_) and array.ndim == 1 for array in arrays)


def test_a_form_copies_the_arrays_it_is_given():
    base = np.array([0])
    form = Table(base, ([1, 2],))
    base[0] = 7
    assert form.base.tolist() == [0]


def test_equality_is_by_content():
    assert replace(SHIFT, lo=np.array([0])) == SHIFT and hash(SHIFT) == hash(replace(SHIFT, lo=np.array([0])))
    assert replace(SHIFT, hi=[8]) != SHIFT and SHIFT not in (DIVISION, 3)
    assert Table([-2], ([0, 1, 2, 4],)) != TABLE


def test_inputs_of_64_bits_are_not_copied_and_others_widened():
    x = np.arange(3)
    assert integers(x) is x
    assert integers(x.astype(np.int8)).dtype == np.int64
    with pytest.raises(TypeError):
        integers(np.array([1.0]))


@pytest.mark.parametrize("form", [BY_CHANNEL, Table([0, 0], ([1], [2])), STEPS], ids=lambda f: type(f).__name__)
def test_the_input_has_as_many_channels(form):
    form(np.zeros((2, 3, 1), np.int64), 0)
    form(np.zeros((3, 2, 1), np.int64), 1)
    with pytest.raises(InternalError, match=r"3 channels on axis 1, the requantizer 2"):
        form(np.zeros((2, 3, 1), np.int64), 1)


@pytest.mark.parametrize("form, least, most", [(TABLE, -2, 1), (Steps(([-2, 0],), ([1, 2],), (1,)), -2, 1)])
def test_inputs_that_cannot_occur_are_refused(form, least, most):
    form(np.array([[least, most]]), 0)
    for x in (least - 1, most + 1):
        with pytest.raises(InternalError, match="an input lies outside"):
            form(np.array([[x]]), 0)


REFUSED = {
    "no channel of steps": (lambda: Steps((), (), ()), "same channels"),
    "steps without end": (lambda: Steps(([0],), ([0],), ()), "same channels"),
    "steps without value": (lambda: Steps(([0, 1],), ([0],), (3,)), "one start and one value"),
    "steps without start": (lambda: Steps(([],), ([],), (3,)), "one start and one value"),
    "a start twice": (lambda: Steps(([0, 0],), ([0, 1],), (3,)), "starts must rise"),
    "a value twice": (lambda: Steps(([0, 1],), ([1, 1],), (3,)), "must differ"),
    "a start beyond the end": (lambda: Steps(([0, 4],), ([0, 1],), (3,)), "above the largest"),
    "no comparators": (lambda: Comparators((), ()), "same channels"),
    "values of another channel": (lambda: Comparators(([1],), ([0, 1], [0])), "same channels"),
    "a value too few": (lambda: Comparators(([1],), ([0],)), "one more"),
    "a value too many": (lambda: Comparators(([1],), ([0, 1, 2],)), "one more"),
    "falling thresholds": (lambda: Comparators(([2, 1],), ([0, 1, 2],)), "sorted"),
    "channels that differ": (lambda: replace(SHIFT, lo=[0, 0], hi=[7, 7, 7]), "same channels"),
    "exceptions for other channels": (
        lambda: replace(BY_CHANNEL, exceptions=([1],) * 3, corrections=([1],) * 3),
        "same channels",
    ),
    "an empty parameter": (lambda: replace(SHIFT, addend=[]), "same channels"),
    "an exception without correction": (lambda: replace(SHIFT, exceptions=([1],)), "one correction"),
    "a multiplier of 0": (lambda: replace(SHIFT, multiplier=0), "multiplier must be positive"),
    "other ties": (lambda: replace(SHIFT, ties="down"), "ties must go"),
    "an empty range": (lambda: replace(SHIFT, lo=[8]), "clipping range"),
    "a negative shift": (lambda: replace(SHIFT, bits=[-1]), "from 0 to 62"),
    "a shift of 63": (lambda: replace(SHIFT, bits=[63]), "from 0 to 62"),
    "a divisor of 0": (lambda: replace(DIVISION, divisor=[0]), "divisors must be positive"),
    "tables of other channels": (lambda: Table([0, 1], ([1],)), "same channels"),
    "an empty table": (lambda: Table([0], ([],)), "must not be empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_that_make_no_form_are_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(InternalError, match=message):
        make()


def test_parameters_at_their_limits_make_a_form():
    Steps(([0, 3],), ([0, 1],), (3,))
    replace(SHIFT, bits=[0, 62])
    replace(SHIFT, lo=[7])
    replace(DIVISION, divisor=[1])
