"""Sums of two scaled streams: every pair of elements, every transfer cycle."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hw.add_scaled import AddScaled
from hw.arithmetic import signed_digits
from hw.block import Bus
from tests.gateware import Stalls, bench

A, B, OUT = Bus(2, 4, signed=True), Bus(2, 3), Bus(2, 20, signed=True)


def pairs() -> list[np.ndarray]:
    """Every element of A with every element of B."""
    a, b = np.meshgrid(np.arange(-8, 8), np.arange(8))
    return [a.reshape(-1, 2), b.reshape(-1, 2)]


FACTORS = [(1, 1), (1, -1), (-1, -1), (4, 1), (3, -7), (-3, -5), (45, 128), (171, -171), (-683, -683), (1, 2731)]


@pytest.mark.parametrize("factors", FACTORS)
def test_sum_of_scaled_elements(factors):
    a, b = pairs()
    done = bench(AddScaled(A, B, OUT, factors), [a, b])
    assert np.array_equal(done.outputs[0], factors[0] * a + factors[1] * b)


def test_output_keeps_the_low_bits():
    a, b = pairs()
    done = bench(AddScaled(A, B, Bus(2, 5), (3, 5)), [a, b])
    assert np.array_equal(done.outputs[0], (3 * a + 5 * b) % 32)


@pytest.mark.parametrize("seed, outbox", [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2)])
def test_stalls_move_transfers_as_the_timing_says(seed, outbox):
    block = AddScaled(A, B, OUT, (3, -7), outbox)
    bench(block, pairs(), stalls=Stalls.random(seed, block))


def test_flickering_ready_changes_no_value():
    bench(AddScaled(A, B, OUT, (3, -7)), pairs(), stalls=Stalls(flicker=1))


@pytest.mark.parametrize("more", [0, 1])
def test_each_input_waits_for_the_other(more):
    counts = [3, 3]
    counts[more] = 5
    done = bench(AddScaled(A, B, OUT, (1, 1)), [x[:n] for x, n in zip(pairs(), counts, strict=True)])
    assert (len(done.taken[more]), len(done.given[0])) == (4, 3)


@pytest.mark.parametrize("factors, latency", [((1, 1), 3), ((3, 1), 3), ((3, 5), 4), ((45, 45), 4), ((171, 171), 5)])
def test_one_beat_per_cycle_after_the_latency(factors, latency):
    block = AddScaled(A, B, OUT, factors)
    done = bench(block, pairs())
    assert block.latency == latency
    assert done.taken[0] == done.taken[1] == list(range(64))
    assert done.given[0] == [t + latency for t in done.taken[0]]


def test_signed_digits_are_canonical():
    for n in [*range(-600, 601), 2**40 - 1, -(2**33)]:
        digits = signed_digits(n)
        assert sum(sign << position for position, sign in digits) == n
        assert all(b - a > 1 for (a, _), (b, _) in pairwise(digits))


@pytest.mark.parametrize(
    "changes, message", [({"factors": (0, 1)}, "factor"), ({"o": Bus(1, 4)}, "lanes"), ({"outbox": -1}, "outbox")]
)
def test_descriptions_that_cannot_be_are_refused_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(AddScaled(A, B, OUT, (1, 1)), **changes)
