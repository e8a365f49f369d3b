"""Widths, words of memories, and integers cut to a bus."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.arithmetic import Word, arranged, code_width, cut, period_of, shared, signed_width, sum_latency
from hw.block import Bus, Memory, pack, unpack


@pytest.mark.parametrize(
    "low, high, width", [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-3, 1, 3), (-1, 3, 3), (-8, 7, 4), (-8, 8, 5)]
)
def test_signed_width_is_the_smallest_that_holds_both_ends(low, high, width):
    assert signed_width(low, high) == width


@pytest.mark.parametrize(
    "low, high, width", [(0, 0, 1), (0, 1, 1), (0, 7, 3), (3, 8, 4), (-1, 0, 1), (-1, 3, 3), (-2, 1, 2)]
)
def test_code_width_has_a_sign_only_where_it_needs_one(low, high, width):
    assert code_width(low, high) == width


def test_shared_is_what_all_have():
    assert (shared([3, 3, 3]), shared([3, 4]), shared([0])) == (3, None, 0)


@given(st.integers(1, 9), st.integers(1, 9))
def test_parameters_fill_whole_beats(channels, lanes):
    entries = arranged(range(channels), lanes)
    assert len(entries) == period_of(channels, lanes) * lanes
    assert entries == [min(k, channels - 1) for k in range(len(entries))]


@given(st.integers(-300, 300), st.integers(1, 8), st.booleans())
def test_cut_keeps_an_integer_modulo_its_width(n, width, signed):
    bus = Bus(1, width, signed)
    found = int(cut(np.array(n), bus))
    low = -(1 << width - 1) if signed else 0
    assert (found - n) % (1 << width) == 0
    assert low <= found < low + (1 << width)


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=5), st.integers(1, 9), st.booleans())
def test_beats_are_packed_and_unpacked(row, width, signed):
    bus = Bus(len(row), width, signed)
    elements = cut(np.array(row), bus).tolist()
    word = pack(elements, width)
    assert word == sum((e % (1 << width)) << (k * width) for k, e in enumerate(elements))
    assert list(unpack(word, bus)) == elements
    assert bus.bits == len(row) * width


@pytest.mark.parametrize("depth, width", [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_address_width(depth, width):
    assert Memory(depth, 8).address_width == width


WORD = Word(2, (("a", 3, True), ("b", 2, False), ("none", 0, False)))


@given(st.lists(st.tuples(st.integers(-4, 3), st.integers(0, 3)), min_size=4, max_size=4))
def test_words_give_their_fields_back(pairs):
    entries = [{"a": a, "b": b, "none": 0} for a, b in pairs]
    words = WORD.encode_all(entries)
    assert (len(words), WORD.lane_width, WORD.width) == (2, 5, 10)
    assert words[0] == sum((a % 8 | b << 3) << (5 * k) for k, (a, b) in enumerate(pairs[:2]))
    found = WORD.decode(words)
    assert [(int(a), int(b)) for a, b in zip(found["a"].reshape(-1), found["b"].reshape(-1), strict=True)] == pairs


@pytest.mark.parametrize(
    "change, message",
    [
        ({"a": 4}, "a must fit 3 signed bits, not 4"),
        ({"a": -5}, "a must fit 3 signed bits, not -5"),
        ({"b": 4}, "b must fit 2 unsigned bits, not 4"),
        ({"b": -1}, "b must fit 2 unsigned bits, not -1"),
        ({"none": 1}, "none must fit 0 unsigned bits, not 1"),
    ],
)
def test_values_that_do_not_fit_are_refused_wrong(change, message):
    entry = {"a": 0, "b": 0, "none": 0}
    with pytest.raises(ValueError, match=message):
        WORD.encode([entry | change, entry])


@pytest.mark.parametrize("terms, latency", [(1, 1), (2, 1), (3, 1), (4, 2), (9, 2), (10, 3)])
def test_three_terms_are_added_per_cycle(terms, latency):
    assert sum_latency(terms) == latency
