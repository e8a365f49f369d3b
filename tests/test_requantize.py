"""Requantizers: every form found equals the steps on every input that can occur, and the cheap ones are found."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.errors import InternalError
from tcompile.ir.requantizers import (
    Comparators,
    Division,
    Requantizer,
    Shift,
    Steps,
    Table,
    cost,
    signed_digits,
    signed_width,
)
from tcompile.lowering.requantize import candidates, reproduces, synthesize


def quantizer(scale, bias=0, zero=0, lo=-128, hi=127):
    """x -> clip(rint((x + bias)·scale) + zero), exact, half to even."""
    return lambda x: min(hi, max(lo, round((x + bias) * Fraction(scale)) + zero))


def table(lo, hi, *functions):
    return Steps.from_table(lo, np.array([[f(x) for x in range(lo, hi + 1)] for f in functions]))


def everywhere(form: Requantizer, steps: Steps) -> bool:
    """Equality input by input, without the shortcuts of `reproduces`."""
    longest = max(hi - lo for lo, hi in zip(steps.lo, steps.hi, strict=True))
    x = np.minimum(np.array(steps.lo)[:, None] + np.arange(longest + 1), np.array(steps.hi)[:, None])
    return bool(np.array_equal(form(x, 0), steps(x, 0)))


def of_kind(steps, kind):
    return [c.form for c in candidates(steps) if isinstance(c.form, kind)]


RANGE = (-300, 411)
WIDE = (-4000, 4100)  # tables are dear here
scales = st.builds(Fraction, st.integers(-30, 30), st.integers(1, 60))
biases = st.builds(Fraction, st.integers(-60, 60), st.integers(1, 7))


@st.composite
def quantizers(draw):
    lo, hi = sorted((draw(st.integers(-128, 127)), draw(st.integers(-128, 127))))
    return quantizer(draw(scales), draw(biases), draw(st.integers(-9, 9)), lo, hi)


@st.composite
def arbitrary(draw):
    rows = draw(st.integers(1, 4))
    columns = draw(st.integers(1, 40))
    values = draw(
        st.lists(st.lists(st.integers(-9, 9), min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    )
    lo = draw(st.lists(st.integers(-1000, 1000), min_size=rows, max_size=rows))
    used = draw(st.lists(st.integers(0, columns - 1), min_size=rows, max_size=rows))
    return Steps.from_table(lo, np.array(values), [low + n for low, n in zip(lo, used, strict=True)])


# Steps


@given(arbitrary())
def test_steps_equal_the_table_they_came_from(steps):
    for channel, (lo, hi) in enumerate(zip(steps.lo, steps.hi, strict=True)):
        x = np.arange(lo, hi + 1)
        pieces = zip(steps.starts[channel], steps.ends(channel), steps.values[channel], strict=True)
        spelled = np.concatenate([np.full(last - first + 1, value) for first, last, value in pieces])
        x_all = np.broadcast_to(x, (steps.channels, x.size)).copy()
        x_all[:] = np.clip(x, np.array(steps.lo)[:, None], np.array(steps.hi)[:, None])
        assert np.array_equal(steps(x_all, 0)[channel], spelled)


def test_from_table_reads_columns_as_inputs():
    steps = Steps.from_table([5, -2], np.array([[1, 1, 7, 7], [3, 4, 4, 9]]), [8, 0])
    assert steps == Steps((np.array([5, 7]), np.array([-2, -1])), (np.array([1, 7]), np.array([3, 4])), (8, 0))
    assert (steps.lo, steps.hi, steps.count, steps.output_range) == ((5, -2), (8, 0), 2, (1, 7))


def test_steps_have_value_equality_wrong():
    steps = table(0, 9, quantizer(Fraction(1, 2)))
    assert steps == table(0, 9, quantizer(Fraction(1, 2))) and hash(steps) == hash(table(0, 9, quantizer("1/2")))
    assert steps != table(0, 9, quantizer(Fraction(1, 3)))


@pytest.mark.parametrize("x", [[[-1]], [[10]]], ids=["below", "above"])
def test_an_input_that_cannot_occur_is_refused(x):
    with pytest.raises(InternalError, match="outside the interval"):
        table(0, 9, quantizer(1))(np.array(x), 0)


@pytest.mark.parametrize(
    "starts, values, hi",
    [
        (([0, 0],), ([1, 2],), (9,)),
        (([0, 5],), ([1, 1],), (9,)),
        (([0, 5],), ([1, 2],), (4,)),
        (([0, 5],), ([1],), (9,)),
        (([0],), ([1],), (9, 9)),
        (([],), ([],), (9,)),
        ((), (), ()),
    ],
    ids=["starts", "same-value", "hi", "lengths", "channels", "empty", "no-channel"],
)
def test_steps_must_be_canonical(starts, values, hi):
    with pytest.raises(InternalError):
        Steps(tuple(map(np.array, starts)), tuple(map(np.array, values)), hi)


def test_monotone_means_one_direction():
    rising, falling, constant, both = (table(-9, 9, f) for f in (lambda x: x, lambda x: -x, lambda x: 4, abs))
    assert [s.is_monotone(0) for s in (rising, falling, constant, both)] == [True, True, True, False]
    assert [s.is_falling(0) for s in (rising, falling, constant, both)] == [False, True, False, False]


# Forms found


@settings(deadline=None, max_examples=40)
@given(st.lists(quantizers(), min_size=1, max_size=4))
def test_every_candidate_equals_a_rounded_affine_function(functions):
    steps = table(*RANGE, *functions)
    assert all(everywhere(c.form, steps) for c in candidates(steps))


@settings(deadline=None, max_examples=40)
@given(arbitrary())
def test_every_candidate_equals_arbitrary_steps(steps):
    assert all(everywhere(c.form, steps) for c in candidates(steps))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 3), min_size=30, max_size=30), min_size=1, max_size=3))
def test_every_candidate_equals_random_monotone_steps(jumps):
    steps = Steps.from_table(-7, np.cumsum(jumps, axis=1))
    found = candidates(steps)
    assert any(isinstance(c.form, Comparators) for c in found)
    assert all(everywhere(c.form, steps) for c in found)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 15), st.integers(1, 200), st.integers(-50, 50), st.integers(-9, 9))
def test_rational_scales_become_divisions_or_shifts(numerator, denominator, bias, zero):
    steps = table(*RANGE, quantizer(Fraction(numerator, denominator), bias, zero))
    assert of_kind(steps, Division | Shift)


@pytest.mark.parametrize("zero, ties", [(0, "even"), (1, "odd"), (-3, "odd"), (6, "even")])
@pytest.mark.parametrize("scale, bits", [("1/2", 1), ("1/4", 2), ("1/32", 5)])
def test_powers_of_two_become_shifts_that_keep_ties(scale, bits, zero, ties):
    form = synthesize(table(*RANGE, quantizer(scale, 0, zero)))
    assert isinstance(form, Shift) and (form.bits.tolist(), form.multiplier, form.ties) == ([bits], 1, ties)


@pytest.mark.parametrize("scale, multiplier", [("3/8", 3), ("5/16", 5), ("7/64", 7), ("3/1", 3), ("2/1", 2)])
def test_small_multiples_of_powers_of_two_become_shifts_of_a_multiple(scale, multiplier):
    form = synthesize(table(*RANGE, quantizer(scale)))
    assert isinstance(form, Shift) and form.multiplier == multiplier


@pytest.mark.parametrize("scale", ["1/6", "1/10", "3/14", "5/22"])
def test_ties_of_other_scales_become_divisions_that_round_to_even(scale):
    form = synthesize(table(*WIDE, quantizer(scale)))
    assert isinstance(form, Division) and form.ties == "even"
    assert Fraction(form.multiplier, int(form.divisor[0])) == Fraction(scale)


def test_channels_of_one_layer_share_a_multiplier():
    steps = table(*RANGE, *(quantizer(s) for s in ("1/6", "3/8", "5/14", "7/64")))
    form = synthesize(steps)
    assert isinstance(form, Division) and form.multiplier == 105 and everywhere(form, steps)


def test_falling_channels_are_negated():
    form = synthesize(table(*RANGE, quantizer("-1/8"), quantizer("1/8")))
    assert isinstance(form, Shift) and form.negate.tolist() == [True, False]


@pytest.mark.parametrize("value", [-128, 0, 5, 127])
def test_constant_channels_fit_the_form_of_their_layer(value):
    steps = table(*RANGE, quantizer("1/12", 3), lambda x: value)
    assert isinstance(synthesize(steps), Division)


@pytest.mark.parametrize("x", [-5, 0, 7])
def test_a_single_input_is_enough(x):
    steps = table(x, x, lambda x: 3)
    assert all(everywhere(c.form, steps) for c in candidates(steps))


def test_a_constant_layer_ignores_its_input():
    form = synthesize(table(*RANGE, lambda x: 3, lambda x: 3))
    assert form == Comparators((np.array([], np.int64),), (np.array([3]),))


@pytest.mark.parametrize("scale", [Fraction(1, 16000), Fraction(np.float32(6.1e-5).item()), Fraction(-1, 16384)])
def test_255_levels_over_22_bits(scale):
    x = np.arange(-(1 << 21), 1 << 21)
    exact = x * scale.numerator * 2 + scale.denominator
    y, rest = np.divmod(exact, 2 * scale.denominator)
    y = np.clip(y - ((rest == 0) & (y % 2 == 1)), -127, 127)
    steps = Steps.from_table(-(1 << 21), y[None])
    form = synthesize(steps)
    assert isinstance(form, Division | Shift)
    assert steps.count == 254 and np.array_equal(form(x[None], 0)[0], y)


def test_random_monotone_steps_become_comparators():
    rng = np.random.default_rng(0)
    starts = np.sort(rng.choice(np.arange(-(1 << 20), 1 << 20), 16, replace=False))
    steps = Steps((starts,), (np.arange(16),), (1 << 20,))
    form = synthesize(steps)
    assert isinstance(form, Comparators) and form.is_counting


def test_steps_that_turn_back_become_comparators_or_a_table():
    steps = table(*RANGE, lambda x: abs(x) // 100)
    assert {type(c.form) for c in candidates(steps)} == {Comparators, Table}


def test_channels_that_are_alike_share_their_parameters():
    form = synthesize(table(*RANGE, *[quantizer("1/10", 7)] * 5))
    assert form.channels == 1
    assert everywhere(form, table(*RANGE, *[quantizer("1/10", 7)] * 5))


def float32_steps(*scales):
    """rint(float32(x)·float32(scale)) as integer kernels compute it: rounded products make ties of near ties."""
    x = np.arange(-8192, 8192)
    codes = np.clip(np.rint(x.astype(np.float32) * np.array(scales, np.float32)[:, None]), -128, 127)
    return Steps.from_table(-8192, codes.astype(np.int64))


FLOAT32 = float32_steps(0.01, 0.012314126, 0.017)


def test_steps_rounded_in_floating_point_become_divisions_with_few_exceptions():
    form = synthesize(FLOAT32)
    assert isinstance(form, Division) and 0 < form.exceptions_per_channel <= 8
    assert everywhere(form, FLOAT32)


def test_exceptions_wrong():
    form = synthesize(FLOAT32)
    channel = next(c for c, x in enumerate(form.exceptions) if x.size)

    def with_changed(name, array):
        arrays = getattr(form, name)
        return replace(form, **{name: (*arrays[:channel], array, *arrays[channel + 1 :])})

    moved = with_changed("exceptions", nudged(form.exceptions[channel], 1))
    opposite = with_changed("corrections", -form.corrections[channel])
    none = replace(form, exceptions=(), corrections=())
    for wrong in (moved, opposite, none):
        assert not reproduces(wrong, FLOAT32) and not everywhere(wrong, FLOAT32)


# Faults that must be seen

DIVIDED = table(*RANGE, quantizer("1/10", 3, 1, -20, 30))
SHIFTED = table(*RANGE, quantizer("1/4", 3, 1))


def nudged(array, by, channel=0):
    wrong = array.copy()
    wrong[channel] += by
    return wrong


@pytest.mark.parametrize(
    "name, by", [("multiplier", 1), *((name, by) for name in ("addend", "divisor", "lo", "hi") for by in (-1, 1))]
)
def test_division_wrong(name, by):
    form = of_kind(DIVIDED, Division)[0]
    old = getattr(form, name)
    wrong = replace(form, **{name: old + by if isinstance(old, int) else nudged(old, by)})
    assert reproduces(form, DIVIDED) and everywhere(form, DIVIDED)
    assert not reproduces(wrong, DIVIDED) and not everywhere(wrong, DIVIDED)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("name", ["addend", "bits"])
def test_shift_wrong(name, by):
    form = of_kind(SHIFTED, Shift)[0]
    wrong = replace(form, **{name: nudged(getattr(form, name), by)})
    assert reproduces(form, SHIFTED) and not reproduces(wrong, SHIFTED)


@pytest.mark.parametrize("steps, kind", [(DIVIDED, Division), (SHIFTED, Shift)])
@pytest.mark.parametrize("change", [{"negate": np.array([True])}, {"ties": "up"}, {"ties": "even"}])
def test_rounding_wrong(steps, kind, change):
    form = of_kind(steps, kind)[0]
    assert form.ties == "odd" and not reproduces(replace(form, **change), steps)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("index", [0, 5, -1])
def test_comparators_wrong(index, by):
    (form,) = of_kind(DIVIDED, Comparators)
    assert reproduces(form, DIVIDED)
    assert not reproduces(Comparators((nudged(form.thresholds[0], by, index),), form.values), DIVIDED)
    assert not reproduces(Comparators(form.thresholds, (nudged(form.values[0], by, index),)), DIVIDED)


@pytest.mark.parametrize("index", [0, 17, -1])
def test_table_wrong(index):
    (form,) = of_kind(DIVIDED, Table)
    assert reproduces(form, DIVIDED)
    assert not reproduces(Table(form.base, (nudged(form.values[0], 1, index),)), DIVIDED)
    assert not reproduces(Table(form.base + 1, form.values), DIVIDED)
    assert not reproduces(Table(form.base, (form.values[0][:-1],)), DIVIDED)


def test_one_wrong_channel_is_enough_to_refuse():
    steps = table(*RANGE, quantizer("1/10"), quantizer("1/12"), quantizer("1/14"))
    form = of_kind(steps, Division)[0]
    assert reproduces(form, steps)
    assert not reproduces(replace(form, divisor=nudged(form.divisor, 1, 2)), steps)


@settings(deadline=None, max_examples=40)
@given(quantizers(), st.integers(1, 64), st.integers(1, 600), st.integers(-3000, 3000), st.sampled_from(["up", "even"]))
def test_the_ends_of_the_pieces_decide(function, multiplier, divisor, addend, ties):
    steps = table(*RANGE, function)
    lo, hi = steps.output_range
    form = Division(np.array(False), multiplier, np.array(addend), ties, np.array(lo), np.array(hi), np.array(divisor))
    assert reproduces(form, steps) == everywhere(form, steps)


# Forms


@given(st.integers(1, 9), st.integers(1, 12), st.integers(-40, 40), st.sampled_from(["up", "even", "odd"]))
def test_division_is_exact_rounding(multiplier, divisor, addend, ties):
    form = Division(np.array(False), multiplier, np.array(addend), ties, np.array(-20), np.array(20), np.array(divisor))

    def expected(x):
        numerator = multiplier * x + addend
        y = math.floor(Fraction(numerator, divisor))
        avoided = {"up": False, "even": y % 2 == 1, "odd": y % 2 == 0}[ties]
        return min(20, max(-20, y - (numerator % divisor == 0 and avoided)))

    x = np.arange(-60, 61)
    assert form(x, 0).tolist() == [expected(n) for n in x.tolist()]


@given(st.integers(0, 5), st.integers(-40, 40), st.booleans(), st.sampled_from(["up", "even", "odd"]))
def test_shift_is_division_by_a_power_of_two(bits, addend, negate, ties):
    common = (np.array(negate), 3, np.array(addend), ties, np.array(-20), np.array(20))
    x = np.arange(-60, 61)
    assert np.array_equal(Shift(*common, np.array(bits))(x, 0), Division(*common, np.array(1 << bits))(x, 0))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_channels_run_along_the_axis(axis):
    steps = table(-20, 20, quantizer("1/3"), quantizer("-1/2", 1), quantizer(1))
    x = np.random.default_rng(0).integers(-20, 21, (3, 3, 3))
    for form in (steps, *(c.form for c in candidates(steps))):
        expected = [steps(channel[None].repeat(3, 0), 0)[c] for c, channel in enumerate(np.moveaxis(x, axis, 0))]
        assert np.array_equal(np.moveaxis(form(x, axis), axis, 0), expected)


def test_a_wrong_number_of_channels_is_refused():
    form = synthesize(table(-20, 20, quantizer("1/3"), quantizer("1/2"), quantizer(1)))
    with pytest.raises(InternalError, match="2 channels on axis 0, the requantizer 3"):
        form(np.zeros((2, 5), np.int64), 0)


def test_floats_are_refused():
    with pytest.raises(TypeError):
        synthesize(DIVIDED)(np.zeros((1, 5)), 0)


@pytest.mark.parametrize("x", [RANGE[0] - 1, RANGE[1] + 1])
def test_a_table_refuses_inputs_outside(x):
    with pytest.raises(InternalError, match="outside the table"):
        of_kind(DIVIDED, Table)[0](np.array([[x]]), 0)


def test_forms_have_value_equality_wrong():
    for one, other in zip(candidates(DIVIDED), candidates(DIVIDED), strict=True):
        assert one.form == other.form and one.form is not other.form and hash(one.form) == hash(other.form)
    assert len({c.form for c in candidates(DIVIDED)} | {c.form for c in candidates(SHIFTED)}) > len(candidates(DIVIDED))


def test_parameters_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        of_kind(DIVIDED, Division)[0].divisor[0] = 3


@given(st.integers(-300, 300), st.integers(-300, 300))
def test_signed_width_is_the_smallest(a, b):
    width = signed_width(a, b)
    assert all(-(1 << width - 1) <= n < 1 << width - 1 for n in (a, b))
    assert width == 1 or any(not -(1 << width - 2) <= n < 1 << width - 2 for n in (a, b))


@pytest.mark.parametrize("n, digits", [(1, 1), (64, 1), (3, 2), (7, 2), (11, 3), (105, 4), (0, 0)])
def test_signed_digits_are_canonical(n, digits):
    assert signed_digits(n) == digits


@settings(deadline=None, max_examples=40)
@given(st.lists(quantizers(), min_size=1, max_size=3))
def test_numerators_fit_the_stated_width(functions):
    steps = table(*RANGE, *functions)
    for form in of_kind(steps, Division | Shift):
        bound = 1 << form.numerator_width(steps.lo, steps.hi) - 1
        sign = np.where(form.negate, -1, 1)[:, None] * np.array(RANGE) * form.multiplier
        seen = np.concatenate((sign.ravel(), (sign + form.addend[:, None]).ravel()))
        assert -bound <= seen.min() and seen.max() < bound <= max(1, 2 * max(seen.max() + 1, -seen.min()))


# Cost


def test_few_levels_become_comparators_and_many_do_not():
    def steps(levels):
        return table(*RANGE, quantizer(Fraction(levels, 500), Fraction(1, 3), 0, 0, levels - 1))

    assert isinstance(synthesize(steps(2)), Comparators)
    assert isinstance(synthesize(steps(200)), Division | Shift)


def test_candidates_come_cheapest_first():
    found = candidates(DIVIDED)
    assert [c.cost for c in found] == sorted(cost(c.form, DIVIDED.input_width) for c in found)
    assert {type(c.form) for c in found} == {Comparators, Division, Table}


def test_synthesis_is_repeatable():
    steps = table(*RANGE, quantizer("1/10"), quantizer("3/14", 5))
    assert synthesize(steps) == synthesize(steps)
