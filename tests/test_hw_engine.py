"""The engine computes what its schedule says, in the cycles its schedule says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.block import Bus
from hw.engine import WARM, Engine, Entry, booth_digits
from hw.lanes import Lanes
from tests.gateware import Stalls, bench


def test_booth_digits_give_the_weight_back():
    weights = np.arange(-256, 256)
    total = sum(booth_digits(weights, d) << (2 * d) for d in range(5))
    assert np.array_equal(total, weights)


def random_schedule(generator, span, blocks, passes, tiles):
    entries, tile = [], 0
    for _ in range(blocks):
        count = int(generator.integers(0, 5))
        row = []
        for _ in range(count):
            kept = sorted(generator.choice(passes, int(generator.integers(1, passes + 1)), replace=False))
            offset = int(generator.integers(0, span))
            row += [Entry(offset, int(d), last=False, next=bool(d == kept[-1])) for d in kept]
            tile += 1
        if not row:
            row, tile = [Entry(0, last=False)], tile + 1
        row[-1] = row[-1]._replace(last=True)
        entries += row
    last = max(k for k, e in enumerate(entries) if e.next)
    entries[last] = entries[last]._replace(next=False)
    return entries, tile


def make(seed, kind="dot", weight_width=2, signed_input=False, simd=3, pe=2):
    generator = np.random.default_rng(seed)
    span = int(generator.integers(1, 9))
    depth = span + int(generator.integers(0, 7))
    moves = ((3, 1), (2, int(generator.integers(1, 6))))
    frame = int(generator.integers(1, 14))
    passes = max(1, (weight_width + 1) // 2) if kind in ("dot", "lane") else 1
    entries, tiles = random_schedule(generator, span, 3, passes, 5)
    lanes = simd if kind == "dot" else pe
    width = 4
    out = Bus(pe, 20, True) if kind in ("dot", "lane", "sum") else Bus(pe, width, signed_input)
    block = Engine(
        kind, Bus(lanes, width, signed_input), out, depth, span, moves, frame, len(entries),
        tiles if kind in ("dot", "lane") else 0, weight_width if kind in ("dot", "lane") else 0,
        doubles=weight_width > 2, places=int(generator.integers(1, 12)),
    )  # fmt: skip
    memories = {"schedule": block.schedule_words(entries)}
    if block.weighted:
        low, high = (-1, 2) if weight_width == 2 else (-(1 << weight_width - 1), 1 << weight_width - 1)
        memories["weights"] = block.weight_words(generator.integers(low, high, (tiles, pe, block.simd)))
    low = -8 if signed_input else 0
    return block, generator.integers(low, low + 16, (3 * block.frame_words, lanes)), memories


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weight_width", [2, 3, 8, 9])
def test_dot_lanes(seed, weight_width):
    block, x, memories = make(seed, "dot", weight_width, bool(seed % 2), simd=[1, 2, 3, 4, 5, 8][seed], pe=1 + seed % 3)
    run = bench(block, [x], memories, Stalls.random(seed, block) if seed % 3 else Stalls())
    assert len(run.outputs[0])


@pytest.mark.parametrize("tree", [1, 3])
@pytest.mark.parametrize("weight_width, simd", [(2, 8), (2, 5), (8, 4), (9, 3)])
def test_registers_behind_every_adder_or_every_third(tree, weight_width, simd):
    block, x, memories = make(4, "dot", weight_width, simd=simd)
    block = replace(block, tree=tree)
    run = bench(block, [x], memories, Stalls.random(simd, block))
    assert len(run.outputs[0])
    assert block.lanes.tree_stages == -(-(simd - 1).bit_length() // tree)


def coded(block, memories):
    """The same engine with the digits of each pass in its weight memory."""
    entries, tiles = block.schedule(memories["schedule"]), block.lanes.decode(memories["weights"])
    tile, words, found = 0, [], []
    for e in entries:
        words.append(booth_digits(tiles[tile], e.digit))
        tile += e.next
        found.append(e._replace(next=True))
    found[-1] = found[-1]._replace(next=False)
    block = replace(block, coded=True, tiles=len(words))
    return block, {"schedule": block.schedule_words(found), "weights": block.weight_words(np.array(words))}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind, weight_width", [("dot", 3), ("dot", 8), ("dot", 9), ("lane", 8)])
def test_digits_in_the_memory_give_the_sums_of_the_weights(kind, weight_width, seed):
    block, x, memories = make(seed, kind, weight_width, bool(seed % 2), simd=[1, 2, 3, 4, 5, 8][seed], pe=1 + seed % 3)
    other, digits = coded(block, memories)
    run = bench(other, [x], digits, Stalls.random(seed, other) if seed % 3 else Stalls())
    assert np.array_equal(run.outputs[0], block.model([x], memories)[0])
    assert other.latency == block.latency


def test_digits_of_a_wrong_pass_give_other_sums_wrong():
    block, x, memories = make(1, "dot", 8)
    other, digits = coded(block, memories)
    turned = digits | {"weights": (*digits["weights"][1:], digits["weights"][0])}
    assert not np.array_equal(other.model([x], turned)[0], block.model([x], memories)[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["lane", "sum", "max"])
def test_lanes_with_own_elements(seed, kind):
    block, x, memories = make(seed, kind, 5, bool(seed % 2))
    bench(block, [x], memories, Stalls.random(seed, block) if seed else Stalls())


@pytest.mark.parametrize("seed", range(3))
def test_flickering_ready_changes_no_value(seed):
    block, x, memories = make(seed)
    bench(block, [x], memories, Stalls(flicker=seed))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "lane"}, "lane lanes must be as many at input and output, not 3, 2"),
        ({"kind": "sum", "tiles": 0, "weight_width": 0}, "sum lanes must be as many"),
        ({"span": 0}, "a window of 0 words must fit the ring of 8"),
        ({"span": 9}, "a window of 9 words must fit the ring of 8"),
        ({"tiles": 0}, "dot lanes and 0 tiles of 2 bits do not fit"),
        ({"weight_width": 0}, "dot lanes and 4 tiles of 0 bits do not fit"),
        ({"kind": "max", "i": Bus(2, 4), "tiles": 0}, "max lanes and 0 tiles of 2 bits do not fit"),
    ],
)
def test_descriptions_that_cannot_be_are_refused_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(WHOLE, **changes)


WHOLE = Engine("dot", Bus(3, 4), Bus(2, 12, True), 8, 8, ((3, 1), (2, 4)), 5, 7, 4, 2)


def test_schedule_goes_through_its_memory():
    block = replace(WHOLE, weight_width=7, entries=4)
    entries = [
        Entry(7, 3, last=False, next=False),
        Entry(0, 0, last=True, next=True),
        Entry(5, 1, last=True, next=False),
        Entry(2, 2, last=True, next=False),
    ]
    words = block.schedule_words(entries)
    assert block.schedule(words) == entries
    assert block.row_blocks(words) == [2, 1, 1]
    assert max(words) < 1 << block.memories["schedule"].width
    assert block.memories["schedule"].width == 3 + 2 + 5
    assert [word >> 7 for word in words] == [0, 4, 2, 1]  # the last entry is the one behind the next, the next, this


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("room", [0, 1, 4])
def test_short_schedules_in_memories_with_room(count, room):
    block = Engine("sum", Bus(2, 4), Bus(2, 8), 6, 3, ((3, 1),), 3, count + room)
    words = block.schedule_words(
        [Entry(k % 3, last=k != 1, next=False) for k in range(count - 1)] + [Entry(2, next=False)]
    )
    x = np.random.default_rng(count).integers(0, 16, (24, 2))
    assert len(bench(block, [x], {"schedule": words}, Stalls.random(room, block)).outputs[0])


@pytest.mark.parametrize("count, flags", [(1, [7]), (2, [2, 4 | 1])])
def test_short_schedules_go_round(count, flags):
    """Of one entry, the next one is itself; of two, the last one is also the one behind its next."""
    assert [word >> 5 for word in WHOLE.schedule_words([Entry(0)] * count)] == flags


@pytest.mark.parametrize("simd", [1, 2, 3, 8, 13])
@pytest.mark.parametrize(
    "weight_width, doubles, coded, low, high",
    [(2, False, False, -1, 1), (2, True, False, -2, 1), (7, True, False, -64, 63), (7, True, True, -2, 2)],
)
def test_tiles_go_through_their_memory(simd, weight_width, doubles, coded, low, high):
    lanes = Lanes("dot", Bus(simd, 4), Bus(3, 12, True), weight_width, doubles, coded)
    tiles = np.random.default_rng(simd).integers(low, high + 1, (20, 3, simd))
    words = lanes.encode(tiles)
    assert np.array_equal(lanes.decode(words), tiles)
    assert min(words) >= 0 and max(words) < 1 << lanes.tile_width


def test_ternary_weights_tell_their_sign_by_that_of_the_lane_they_meet():
    lanes = Lanes("dot", Bus(8, 4), Bus(1, 12, True), 2)
    signs = np.array([1, 1, 0, 1, 1, 1, 0, 0])
    (word,) = lanes.encode((1 - 2 * signs).reshape(1, 1, 8))
    met = [signs[k & (k - 1)] for k in range(1, 8)]
    assert [word >> (2 * k + 1) & 1 for k in range(8)] == [1, *(signs[1:] ^ met)]
    assert not any(word >> (2 * k) & 1 for k in range(8))


@pytest.mark.parametrize("weight_width, doubles, weight", [(2, False, -2), (2, True, 2), (4, True, 8), (4, True, -9)])
def test_weights_that_do_not_fit_are_refused_wrong(weight_width, doubles, weight):
    lanes = Lanes("dot", Bus(1, 4), Bus(1, 12, True), weight_width, doubles)
    with pytest.raises(ValueError, match="weights must be"):
        lanes.encode(np.array([[[weight]]]))


@pytest.mark.parametrize("weight_width, doubles", [(2, False), (5, True)])
def test_extreme_sums_fit(weight_width, doubles):
    """Eight lanes, all weights and elements at their ends, signs of all lanes alike and in turn."""
    high = 1 if weight_width == 2 else 15
    tiles = np.array([[[high] * 8, [-high] * 8], [[high, -high] * 4, [-high, high] * 4]])
    block = Engine("dot", Bus(8, 4), Bus(2, 12, True), 1, 1, ((1, 0),), 1, 8, 2, weight_width, doubles)
    row = [Entry(0, d, last=False, next=d == block.passes - 1) for d in range(block.passes)]
    entries = [*row[:-1], row[-1]._replace(last=True), *row[:-1], row[-1]._replace(last=True, next=False)]
    memories = {"schedule": block.schedule_words(entries), "weights": block.weight_words(tiles)}
    x = np.array([[15] * 8, [15, 0] * 4, [0, 15] * 4, [15, 15, 0, 0] * 2])
    run = bench(block, [x], memories)
    assert np.array_equal(run.outputs[0].reshape(4, 4), x @ tiles.reshape(4, 8).T)


def test_memories_may_hold_less_than_there_is_room_for():
    block, x, memories = make(2)
    larger = replace(block, entries=64, tiles=32)
    assert np.array_equal(bench(larger, [x], memories).outputs[0], bench(block, [x], memories).outputs[0])
    assert larger.rounded() == larger
    assert replace(block, entries=5, tiles=9).rounded() == replace(block, entries=8, tiles=16)


def test_words_of_a_frame_are_those_that_the_window_passes():
    assert WHOLE.frame_words == 2 + 4 + 2 + 5
    assert (WHOLE.positions, WHOLE.passes, WHOLE.simd) == (6, 1, 3)


@pytest.mark.parametrize("simd, stages", [(1, 0), (2, 1), (4, 1), (5, 2), (16, 2), (17, 3)])
def test_two_levels_of_adders_between_registers(simd, stages):
    block = replace(WHOLE, i=Bus(simd, 4))
    assert (block.lanes.tree_stages, block.pipeline, block.latency) == (stages, 5 + stages, 6 + stages)
    assert replace(block, weight_width=3).pipeline == 6 + stages


@pytest.mark.parametrize("kind", ["dot", "max"])
@pytest.mark.parametrize("moves, frame", [(((3, 1), (2, 2)), 1), (((4, 1),), 1), (((1, 0),), 2)])
def test_schedule_of_one_entry_gives_a_position_per_cycle(kind, moves, frame):
    o = Bus(2, 12, True) if kind == "dot" else Bus(2, 4)
    block = Engine(kind, Bus(2, 4), o, 9, 1, moves, frame, 1, 1 if kind == "dot" else 0, 2 if kind == "dot" else 0)
    memories = {"schedule": block.schedule_words([Entry(0, next=False)])}
    if kind == "dot":
        memories["weights"] = block.weight_words(np.array([[[1, -1], [0, 1]]]))
    x = np.random.default_rng(0).integers(0, 16, (4 * block.frame_words, 2))
    run = bench(block, [x], memories)
    assert run.taken[0] == list(range(len(x)))
    assert run.given[0][0] == WARM + block.pipeline
    bench(block, [x], memories, Stalls.random(1, block))
