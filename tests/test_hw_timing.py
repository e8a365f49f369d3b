"""Timed processes: a transfer takes place as soon as both sides are prepared, in whatever order they are run."""

from __future__ import annotations

from itertools import permutations

import pytest

from hw.outbox import outbox_depth
from hw.timing import Channel, Process, Program, Queue, dispatch, outbox, run, sink, source


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    "offers, wishes, times",
    [([], [], [0, 1, 2]), ([4], [], [4, 5, 6]), ([0, 7], [3], [3, 7, 8]), ([1, 1, 1], [0, 5, 5], [1, 5, 6])],
)
def test_transfer_needs_both_sides(order, offers, wishes, times):
    channel = Channel("x", record=True)
    processes = [source(channel, 3, offers), sink(channel, wishes)]
    run(processes[::-1] if order else processes)
    assert (channel.times, channel.transfers) == (times, 3)


def test_times_are_kept_only_where_asked():
    channel = Channel()
    run([source(channel, 2), sink(channel)])
    assert (channel.times, channel.transfers) == (None, 2)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("wish, times", [(0, [7, 12]), (6, [9, 13])])
def test_a_beat_is_seen_in_the_cycle_in_which_it_is_offered_and_taken_later(order, wish, times):
    channel, reader = Channel("x", record=True), Program()
    seen = reader.time(wish)
    with reader.times(2):
        reader.see(channel, seen, seen)
        reader.get(channel, seen, seen + 3)
    processes = [source(channel, 2, [4, 9]), reader]
    run(processes[::-1] if order else processes)
    assert channel.times == times


def test_process_without_a_partner_waits():
    channel = Channel("x", record=True)
    run([source(channel, 2)])
    assert channel.times == []


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_order_of_the_processes_does_not_matter(order):
    i, o, results, credits = Channel("i", record=True), Channel("o", record=True), Queue(), Queue()
    processes = [
        source(i, 6, [0, 3]),
        dispatch(i, results, credits, 2, 3),
        outbox(o, results, credits),
        sink(o, [0, 0, 12]),
    ]
    run([processes[k] for k in order])
    assert i.times == [0, 3, 4, 7, 13, 14]
    assert o.times == [3, 6, 12, 13, 16, 17]


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_beats_are_taken_every_interval(interval):
    i, o, results, credits = Channel("i", record=True), Channel("o", record=True), Queue(), Queue()
    run([source(i, 4), dispatch(i, results, credits, 9, 2, interval), outbox(o, results, credits), sink(o)])
    assert i.times == [k * interval for k in range(4)]
    assert o.times == [k * interval + 2 for k in range(4)]


@pytest.mark.parametrize("latency, interval", [(1, 1), (4, 1), (4, 2), (5, 2), (7, 9)])
def test_outbox_depth_is_the_least_that_holds_nothing_up(latency, interval):
    def times(depth: int) -> list[int] | None:
        i, o, results, credits = Channel("i", record=True), Channel("o"), Queue(), Queue()
        run(
            [
                source(i, 20),
                dispatch(i, results, credits, depth, latency, interval),
                outbox(o, results, credits),
                sink(o),
            ]
        )
        return i.times

    depth = outbox_depth(latency, interval)
    assert times(depth) == [k * interval for k in range(20)]
    assert depth == 1 or times(depth - 1) != times(depth)


def test_a_stream_carries_a_beat_per_cycle_at_most():
    """Whatever the other side would do."""

    def eager(step: str, channel: Channel) -> Process:
        for _ in range(3):
            yield (step, channel, 0)

    there, back = Channel("there", record=True), Channel("back", record=True)
    run([source(there, 3), eager("get", there), sink(back), eager("put", back)])
    assert there.times == back.times == [0, 1, 2]
