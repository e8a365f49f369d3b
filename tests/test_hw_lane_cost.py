"""What a ternary lane costs after synthesis, tree and accumulators included, memories excluded."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hw.block import Bus
from hw.engine import Engine
from tcompile.emit.verilog import modules
from tests.yosys import SYNTHESIS, cells, dsp_blocks

LUTS = {f"LUT{n}": 1 for n in range(1, 7)}
COUNTED = {"xcup": LUTS | {"INV": 1}, "ecp5": {"LUT4": 1, "CCU2C": 2}}


def engine(lanes: int, width: int) -> Engine:
    """One for a layer of 64 x 64 weights, as many PEs as elements per word, unsigned inputs."""
    out = Bus(lanes, (64 * ((1 << width) - 1)).bit_length() + 1, signed=True)
    words = 64 // lanes
    return Engine("dot", Bus(lanes, width), out, 2 * words, words, ((1, 0),), words, words**2, words**2, 2)


@cache
def found(family: str, lanes: int, width: int) -> Counter[str]:
    """Cells of a whole engine: lanes, and sequencer, ring and outbox without their memories."""
    (module,) = modules([engine(lanes, width)]).values()
    with TemporaryDirectory() as folder:
        (Path(folder) / "engine.v").write_text(module.text)
        return cells(Path(folder), module.name, SYNTHESIS[family])


def per_lane(family: str, lanes: int, width: int) -> float:
    return sum(found(family, lanes, width)[kind] * n for kind, n in COUNTED[family].items()) / lanes**2


LONG = [pytest.mark.long, pytest.mark.exhaustive]


@pytest.mark.parametrize(
    "family, lanes, width, most",
    [pytest.param("xcup", 16, 4, 6, marks=LONG), pytest.param("xcup", 8, 4, 7, marks=LONG), ("ecp5", 8, 4, 16.5)],
)
def test_whole_engine_needs_few_look_up_tables_per_lane(family, lanes, width, most):
    assert per_lane(family, lanes, width) <= most


def test_zero_weights_and_signs_cost_no_look_up_table():
    """Of 64 lanes, half are registers that a weight resets, the others are in the adders of the trees."""
    adders = 8 * (4 * 4 + 2 * 6 + 7)
    accumulators = 8 * 11
    control = 64
    assert sum(found("xcup", 8, 4)[kind] for kind in LUTS) <= adders + accumulators + control


def test_nothing_multiplies():
    assert not dsp_blocks(found("xcup", 8, 4))
