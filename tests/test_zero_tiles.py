"""Zero tiles cost nothing: cycles of a layer bound by compute are positions times kept tiles (and passes), exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tcompile.bundle import Bundle
from tcompile.emit import emit
from tcompile.ir.interpret import interpret
from tcompile.mapping.folding import Fold
from tcompile.mapping.network import Mapped, map_network
from tcompile.mapping.plan import Choice
from tcompile.simulate.gateware import simulate
from tcompile.simulate.verilator import Simulation
from tests.networks import Builder

FRAMES = 4
GRID, KERNEL = (4, 3), (2, 2)
POSITIONS = 3 * 2
ROWS, CHANNELS = 16, 8
FOLD = Fold(2, 2)
BLOCKS, COLUMNS = ROWS // FOLD.pe, CHANNELS // FOLD.simd * 4  # row blocks; tiles of each: channel words times taps

SHARES = [Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(1, 8)]
KINDS = {  # weights of a tile: its Booth digits that are not all zero follow from the bits
    "ternary": lambda rng, shape: rng.choice([-1, 1], shape),
    "int8": lambda rng, shape: rng.integers(-128, 128, shape),
    "low": lambda rng, shape: rng.choice([-2, -1, 1], shape),  # the lowest digit only
    "high": lambda rng, shape: rng.choice([-128, -64], shape),  # the highest only
}


def kept_somewhere(share: Fraction, seed: int = 0) -> np.ndarray:
    """Which tiles (row blocks, columns) hold weights: one in every row block, the others anywhere."""
    rng = np.random.default_rng(seed)
    kept = np.zeros((BLOCKS, COLUMNS), bool)
    kept[range(BLOCKS), rng.integers(0, COLUMNS, BLOCKS)] = True
    free = rng.permutation(np.flatnonzero(~kept))
    kept.flat[free[: int(share * kept.size) - BLOCKS]] = True
    return kept


def weights(kept: np.ndarray, kinds: tuple[str, ...] = ("ternary",), seed: int = 0) -> np.ndarray:
    """Weights (M, C, kh, kw) of a convolution whose kept tiles are of random kinds, and all others zero."""
    rng = np.random.default_rng(seed)
    tiles = np.zeros((*kept.shape, FOLD.pe, FOLD.simd), np.int64)
    for place in np.argwhere(kept):
        tiles[tuple(place)] = KINDS[kinds[rng.integers(len(kinds))]](rng, (FOLD.pe, FOLD.simd))
    taps, words = KERNEL[0] * KERNEL[1], CHANNELS // FOLD.simd
    rows = tiles.reshape(BLOCKS, taps, words, FOLD.pe, FOLD.simd).transpose(0, 3, 2, 4, 1)
    return rows.reshape(ROWS, CHANNELS, *KERNEL)


def formula(weight: np.ndarray) -> int:
    """positions · Σ over row blocks of max(1, passes of all its tiles), from the weights alone."""
    width = max(2, *(max(int(w), ~int(w)).bit_length() + 1 for w in weight.flat))
    total = 0
    for block in range(BLOCKS):
        rows = weight[block * FOLD.pe : (block + 1) * FOLD.pe]
        entries = 0
        for word in range(0, CHANNELS, FOLD.simd):
            for tap in np.ndindex(*KERNEL):
                tile = rows[:, word : word + FOLD.simd, *tap]
                entries += len({d for w in tile.flat for d in digits(int(w), width)})
        total += max(1, entries)
    return POSITIONS * total


def digits(weight: int, width: int) -> list[int]:
    """Places of the radix-4 Booth digits that are not zero."""
    bits = [0, *((weight >> k) & 1 for k in range(width + 1))]  # a zero below, the sign above
    return [d for d in range((width + 1) // 2) if bits[2 * d] + bits[2 * d + 1] - 2 * bits[2 * d + 2]]


def mapped(weight: np.ndarray) -> Mapped:
    builder = Builder()
    graph = builder.graph(builder.conv(builder.input((1, CHANNELS, *GRID), 0, 7), weight))
    return map_network(graph, Choice(FOLD.pe, FOLD.simd))


def frames(weight: np.ndarray):
    """Random frames, and what the network makes of them."""
    builder = Builder()
    x = builder.input((1, CHANNELS, *GRID), 0, 7)
    y = builder.conv(x, weight)
    codes = np.random.default_rng(9).integers(0, 8, (FRAMES, 1, CHANNELS, *GRID))
    return codes, interpret(builder.graph(y), {x: codes})[y]


def simulated(found: Mapped, weight: np.ndarray, bench) -> set[int]:
    """Cycles per frame of a full pipeline, once it has computed what it should."""
    codes, wanted = frames(weight)
    entry, leave = found.design.inputs[0], found.design.outputs[0]
    run = bench([entry.layout.to_beats(codes, found.design.streams[entry.stream].bus)])
    given = leave.layout.from_beats(run.outputs[0], found.design.streams[leave.stream].bus)
    assert np.array_equal(given, wanted)
    return set(run.intervals[1:])


def agree(weight: np.ndarray) -> int:
    """Cycles per frame of formula, plan, cycle model and gateware, which are the same."""
    found = mapped(weight)
    (plan,) = found.plans.values()
    assert plan.fold == FOLD
    cycles = formula(weight)
    assert simulated(found, weight, lambda x: simulate(found.design, x)) == {cycles}
    assert (found.cycles.interval, plan.cycles) == (cycles, cycles)
    return cycles


@pytest.mark.parametrize("share", SHARES, ids=str)
def test_ternary_layer_takes_its_share_of_the_cycles(share):
    assert agree(weights(kept_somewhere(share))) == share * POSITIONS * BLOCKS * COLUMNS


@pytest.mark.parametrize("share, kind, seed", [("1/4", "ternary", 5), ("1/4", "low", 6), ("3/8", "ternary", 7)])
def test_cycles_follow_the_kept_share_within_two_percent(share, kind, seed):
    """The promise of pruning by tiles, predicted and simulated: three quarters of zeros are at least 3.9 times as fast."""
    share = Fraction(share)
    dense, sparse = (agree(weights(kept_somewhere(s, seed), (kind,), seed)) for s in (Fraction(1), share))
    assert abs(sparse / dense - share) <= 0.02 * share
    assert share > Fraction(1, 4) or dense / sparse >= 3.9


@pytest.mark.parametrize("share", SHARES[1:], ids=str)
def test_eight_bit_layer_takes_one_cycle_per_pass(share):
    kept = kept_somewhere(share, 1)
    weight = weights(kept, ("int8", "int8", "low", "high"), 1)
    assert POSITIONS * kept.sum() < agree(weight) < 4 * POSITIONS * kept.sum()


@pytest.mark.parametrize("kind", ["low", "high", "ternary"])
def test_passes_without_a_digit_cost_nothing(kind):
    """One tile of full width makes every weight eight bits wide; the others need one pass each."""
    kept = kept_somewhere(Fraction(1, 4), 2)
    weight = weights(kept, (kind,), 2)
    (row, channel, *tap) = np.argwhere(weight)[0]
    weight[row, channel, *tap] = 0b01010101
    assert agree(weight) == POSITIONS * (kept.sum() + 3)


@pytest.mark.parametrize("share, empty", [(Fraction(1, 2), 1), (Fraction(1, 4), 2)], ids=str)
def test_row_block_without_tiles_costs_one_cycle(share, empty):
    kept = kept_somewhere(share, 3)
    kept[1 : 1 + empty] = False
    assert agree(weights(kept)) == POSITIONS * (kept.sum() + empty)


def test_zeros_that_fill_no_tile_save_nothing_wrong():
    """Three of four weights are zero, and one in every tile is not."""
    weight = np.zeros((ROWS, CHANNELS, *KERNEL), np.int64)
    weight[:: FOLD.pe, :: FOLD.simd] = 1
    assert agree(weight) == POSITIONS * BLOCKS * COLUMNS


@pytest.mark.long
def test_verilator_counts_the_same(tmp_path):
    weight = weights(kept_somewhere(Fraction(1, 4), 1), ("int8", "low", "high"), 1)
    found = mapped(weight)
    codes, wanted = frames(weight)
    Bundle(emit(found.design, {"s_axis_0": codes, "m_axis_0": wanted})).write(tmp_path / "layer")
    with Simulation(tmp_path / "layer") as simulation:
        assert simulated(found, weight, simulation.run) == {formula(weight)}
