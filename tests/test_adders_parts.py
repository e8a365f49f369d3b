"""Signed digits, canonical rows, rows made of rows, merging of terms, and what a graph is said to need."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.adders import Adder, AdderGraph, Output
from tcompile.adders import Objective
from tcompile.adders.cost import adder_bits, adders, cost, delays
from tcompile.adders.differences import join_rows
from tcompile.adders.digits import canonical_rows, signed_digits
from tcompile.adders.system import levels_needed
from tcompile.adders.trees import Builder, Term, bits


@given(st.lists(st.integers(-(1 << 40), 1 << 40), min_size=1, max_size=20))
def test_signed_digits_add_up_and_have_no_neighbours(numbers):
    digits = signed_digits(np.array(numbers))
    assert [sum(int(d[i]) << k for k, d in enumerate(digits)) for i in range(len(numbers))] == numbers
    assert not any((low & high).any() for low, high in pairwise(digits))


def test_canonical_rows_are_few():
    rows = canonical_rows(np.array([[1, 2], [-1, -2], [4, 8], [0, 0], [2, -2]]))
    assert rows.matrix.tolist() == [[1, 2], [1, -1]]
    assert rows.row.tolist() == [0, 0, 0, -1, 1]
    assert rows.shift.tolist() == [0, 0, 2, 0, 1]
    assert rows.negative.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("terms, levels", [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7)])
def test_least_depth_is_that_of_a_balanced_tree(terms, levels):
    assert levels_needed(np.ones((1, terms), np.int64)) == levels


def test_joined_rows_give_the_rows_back():
    matrix = np.random.default_rng(0).choice([-1, 1], (16, 24))
    joined = join_rows(matrix, 12)
    assert joined is not None
    nodes = joined.matrix.shape[0] - 16
    own, others = joined.matrix[:, :24], joined.matrix[:, 24:]
    inverse = np.linalg.inv(np.eye(nodes) - others[16:]).round().astype(np.int64)
    assert np.array_equal(own[:16] + others[:16] @ inverse @ own[16:], matrix)


def test_sparse_rows_are_not_joined():
    assert join_rows(np.eye(8, dtype=np.int64), 20) is None


def test_sums_are_balanced_and_positive():
    builder = Builder([(0, 15)] * 7)
    total = builder.sum(Term(k, 0, k != 3) for k in range(7))
    assert not total.minus
    assert len(builder.adders) == 6
    assert builder.level[total.value] == 3
    assert builder.ranges[total.value] == (-90, 15)


def test_equal_adders_are_made_once():
    builder = Builder([(0, 1)] * 2)
    assert builder.add(Term(0, 3), Term(1, 1)) == Term(2, 1)
    assert builder.add(Term(1), Term(0, 2)) == Term(2)
    assert len(builder.adders) == 1


@pytest.mark.parametrize(
    "lo, hi, width", [(0, 0, 0), (0, 1, 1), (0, 15, 4), (0, 16, 5), (-1, 0, 1), (-8, 7, 4), (-9, 7, 5)]
)
def test_bits_of_an_interval(lo, hi, width):
    assert bits(lo, hi) == width


GRAPH = AdderGraph(
    3, (Adder(0, 1), Adder(3, 2, 0, 0, True), Adder(4, 2, 0, 2)), (Output(5), Output(3, 0, True), Output())
)


def test_cost_of_a_graph():
    every = [(0, 15)] * 3
    assert adders(GRAPH) == 4
    assert adder_bits(GRAPH, every) == 5 + 6 + 7 + 6
    assert delays(GRAPH) == 2 + 2  # input 2 until level 2; value 3 until the last output
    assert cost(GRAPH, Objective("adders")) == 4
    assert cost(GRAPH, Objective("bits", (0, 15))) == 24
    assert cost(GRAPH, Objective("serial")) == 12
