"""Tables in gateware give what the requantizer's form gives, in the cycles their timing says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.arithmetic import arranged
from hw.block import Bus
from hw.table import Table, table_words
from tcompile.ir import requantizers
from tests.gateware import Stalls, bench

IN, OUT = Bus(2, 6, signed=True), Bus(2, 5, signed=True)


def beats(x: np.ndarray, lanes: int) -> np.ndarray:
    """Positions (n, channels) as beats; filling lanes repeat the last channel."""
    return np.pad(x, [(0, 0), (0, -x.shape[1] % lanes)], mode="edge").reshape(-1, lanes)


def table(seed: int, channels: int) -> requantizers.Table:
    generator = np.random.default_rng(seed)
    base = generator.integers(-32, 20, channels)
    return requantizers.Table(base, tuple(generator.integers(-16, 16, generator.integers(1, 32 - b)) for b in base))


def inputs(form: requantizers.Table, channels: int, positions: int = 10) -> np.ndarray:
    """Random inputs inside the tables, the ends among them."""
    generator = np.random.default_rng(5)
    base = np.broadcast_to(form.base, (channels,))
    last = np.broadcast_to(form.base + [len(v) - 1 for v in form.values], (channels,))
    return np.stack([base, last, *generator.integers(base, last + 1, (positions, channels))])


def run(form, *, channels, i=IN, o=OUT, stalls=None, positions=10, **changes):
    """Gateware = model = form = timing; gives the block and the run."""
    values = [tuple(map(int, row)) for row in form.values]
    block = replace(Table.of(i, o, arranged(values, i.lanes)), **changes)
    words = table_words(block, arranged(form.base.tolist(), i.lanes), arranged(values, i.lanes))
    x = inputs(form, channels, positions)
    done = bench(block, [beats(x, i.lanes)], words, stalls or Stalls())
    assert np.array_equal(done.outputs[0].reshape(len(x), -1)[:, :channels], form(x, axis=1))
    return block, done


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_table_gives_what_the_form_gives(seed, lanes):
    run(table(seed, 5), channels=5, i=replace(IN, lanes=lanes), o=replace(OUT, lanes=lanes))


def test_one_channel_serves_all():
    block, _ = run(table(7, 1), channels=3)
    assert block.period == 1


def test_unsigned_input_and_full_table():
    whole = requantizers.Table([0], (np.arange(64) % 31 - 15,))
    assert run(whole, channels=2, i=replace(IN, signed=False))[0].depth == 64


def test_equal_tables_are_stored_once():
    form = requantizers.Table([0, -5, 3, 1], ([1, 2, 3], [4, 5], [1, 2, 3], [6, 7]))
    assert run(form, channels=4)[0].depth == 4


def test_table_of_one_value():
    run(requantizers.Table([9], ([-7],)), channels=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("outbox", [0, 1, 2])
def test_stalls_move_transfers_as_the_timing_says(seed, outbox):
    run(table(seed, 3), channels=3, stalls=Stalls.random(seed, Table(IN, OUT, 1, 1)), positions=30, outbox=outbox)


@pytest.mark.parametrize("stalls", [Stalls(), Stalls.random(1, Table(IN, OUT, 1, 1))])
def test_parameters_that_come_late_are_read_a_beat_ahead(monkeypatch, stalls):
    monkeypatch.setattr("hw.block.LUT_BITS", 0)
    block, done = run(table(2, 3), channels=3, stalls=stalls)
    assert block.fetches_ahead
    assert done.taken[0][0] >= 1


def test_flickering_ready_changes_no_value():
    run(table(1, 3), channels=3, stalls=Stalls(flicker=4))


def test_one_beat_per_cycle_after_the_latency():
    block, done = run(table(2, 3), channels=3)
    assert done.taken[0] == list(range(24))
    assert done.given[0] == [t + block.latency for t in done.taken[0]]


@pytest.mark.parametrize(
    "base, values, message",
    [
        ([0], [[1]], "2 entries"),
        ([0, 0], [[1], [1, 2, 3]], "3 values, the table 2"),
        ([0, 0], [[1], [16]], "must fit 5 signed bits"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_wrong(base, values, message):
    with pytest.raises(ValueError, match=message):
        table_words(Table(IN, OUT, period=1, depth=2), base, values)


def test_table_of_nothing_is_refused_wrong():
    with pytest.raises(ValueError, match="at least 1"):
        Table(IN, OUT, period=1, depth=0)
