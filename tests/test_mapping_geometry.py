"""Windows over a ring of words against windows over a grid, place by place."""

from __future__ import annotations

from itertools import islice, pairwise, product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.block import Bus
from hw.engine import Engine
from tcompile.mapping.geometry import Geometry
from tcompile.mapping.schedule import pool_schedule


@st.composite
def geometries(draw):
    rank = draw(st.integers(1, 3))
    kernel, strides, dilations = (tuple(draw(st.integers(1, most)) for _ in range(rank)) for most in (3, 3, 2))
    grid = tuple((k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True))
    return Geometry(grid, kernel, strides, dilations, draw(st.integers(1, 3)))


def places(g: Geometry) -> list[tuple[int, ...]]:
    """First grid place of every window that lies inside the grid."""
    reach = [(k - 1) * d for k, d in zip(g.kernel, g.dilations, strict=True)]
    starts = product(*(range(0, n, s) for n, s in zip(g.grid, g.strides, strict=True)))
    return [p for p in starts if all(a + r < n for a, r, n in zip(p, reach, g.grid, strict=True))]


def word(g: Geometry, place: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index(place, g.grid)) * g.words


def bases(g: Geometry, frames: int) -> list[int]:
    """First words of all windows by the moves of the sequencer."""
    block = Engine("sum", Bus(1, 1), Bus(1, 1), 1 << 20, g.span, g.moves, g.frame, 1)
    found = [0]
    for move in islice(block.advances(), frames * block.positions - 1):
        found.append(found[-1] + move)
    return found


@given(geometries())
def test_windows_lie_where_they_lie_on_the_grid(g):
    assert prod(g.out) == len(places(g))
    one = [word(g, p) for p in places(g)]
    assert bases(g, 2) == [*one, *(w + prod(g.grid) * g.words for w in one)]


@given(geometries())
def test_taps_are_the_places_of_the_first_window(g):
    kernel = product(*map(range, g.kernel))
    assert list(g.taps) == [word(g, tuple(t * d for t, d in zip(tap, g.dilations, strict=True))) for tap in kernel]
    assert g.span == max(g.taps) + g.words


@given(geometries())
def test_axes_of_one_position_do_not_move(g):
    assert [n for n, _ in g.moves] == ([n for n in reversed(g.out) if n > 1] or [1])
    assert all(words > 0 for n, words in g.moves if n > 1)


@given(geometries(), st.integers(1, 40))
def test_ring_holds_the_present_window_and_the_next(g, entries):
    both = max(b - a for a, b in pairwise(bases(g, 3))) + g.span
    assert both <= g.ring(entries) <= both + 3
    assert g.ring(1000) == both


@pytest.mark.parametrize(
    "words, entries, more", [(1, 1, 3), (1, 2, 2), (1, 3, 1), (1, 4, 0), (4, 4, 3), (4, 6, 1), (4, 7, 0)]
)
def test_ring_has_room_for_what_is_read_late(words, entries, more):
    assert Geometry((9,), (1,), (1,), (1,), words).ring(entries) == 2 * words + more


@given(geometries())
def test_pool_reads_every_tap_of_every_word_of_channels(g):
    plan = pool_schedule(g)
    assert [e.offset for e in plan.entries] == [t + w for w in range(g.words) for t in g.taps]
    assert [e.last for e in plan.entries] == [(k + 1) % len(g.taps) == 0 for k in range(len(plan.entries))]
    assert all(not e.next and e.digit == 0 for e in plan.entries)
    assert (plan.words, plan.tiles_all, plan.shortest) == (0, 0, len(g.taps))
