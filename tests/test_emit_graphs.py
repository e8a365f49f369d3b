"""Rendered Verilog of an adder graph is the circuit that Amaranth would make: yosys proves it, register by register."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hw import digits
from hw.adders import Adder, AdderGraph, Output
from hw.block import Bus
from hw.serial import Serial
from tcompile.emit import verilog
from tcompile.emit.graphs import PORTS, serial_text
from tcompile.yosys import YOSYS
from tests.adder_graphs import bounds, results, trees
from tests.test_hw_graphs import DEEP

TERNARY = trees(np.random.default_rng(1).integers(-1, 2, (5, 7)))
ROWS = AdderGraph(
    2, (Adder(0, 1, 0, 3), Adder(2, 1, 0, 3, True)), (Output(3), Output(), Output(0, 5), Output(2, 1, True))
)
PROVE = """\
read_verilog gold.v gate.v
proc
opt -full
equiv_make gold gate both
hierarchy -top both
clean
equiv_simple -undef
equiv_induct -undef
equiv_status -assert
"""


def serial(graph: AdderGraph, digit: int, i: Bus) -> Serial:
    return Serial(i, results(graph, bounds(i)), graph, digit)


GRAPHS = {
    "sums and differences": serial(TERNARY, 1, Bus(7, 3, signed=True)),
    "digits of two bits": serial(TERNARY, 2, Bus(7, 3, signed=True)),
    "digits of three bits": serial(ROWS, 3, Bus(2, 4)),
    "shifts": serial(DEEP, 1, Bus(3, 4)),
    "shifts across digits": serial(DEEP, 2, Bus(3, 5)),
    "rows of 0, wires, negations": serial(ROWS, 1, Bus(2, 2)),
    "a word of one digit": serial(AdderGraph(2, (Adder(0, 1),), (Output(2),)), 4, Bus(2, 3)),
    "words longer than an element of one digit": serial(ROWS, 3, Bus(2, 2)),
    "such words with signs": serial(ROWS, 3, Bus(2, 3, signed=True)),
    "shifts by more than a word": Serial(
        Bus(2, 2), Bus(1, 3), AdderGraph(2, (Adder(0, 1, 0, 5), Adder(2, 1, 0, 5, True)), (Output(3),)), 1
    ),
    "shifts by much more": Serial(
        Bus(2, 2), Bus(1, 3), AdderGraph(2, (Adder(0, 1, 0, 6), Adder(2, 1, 0, 6, True)), (Output(3),)), 1
    ),
    "wires only": serial(AdderGraph(2, (), (Output(1), Output(0))), 1, Bus(2, 3)),
}


def proof(folder, block: Serial, text: str) -> subprocess.CompletedProcess[str]:
    """yosys, asked whether a text is what Amaranth makes of the block."""
    by_amaranth = verilog._split(verilog._run_yosys(verilog._rtlil(block, "gold")))["gold"][1]
    (folder / "gold.v").write_text(by_amaranth)
    (folder / "gate.v").write_text(text)
    (folder / "prove.ys").write_text(PROVE)
    command = [sys.executable, "-c", YOSYS, "-q", "prove.ys"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", GRAPHS)
def test_rendered_verilog_is_what_amaranth_makes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "LONGEST", 4)
    block = GRAPHS[name]
    done = proof(tmp_path, block, serial_text(block, "gate"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    "right, fault",
    [
        ("left ^ right ^", "left & right ^"),
        ("begins & 2'h3", "begins & 2'h2"),
        ("passed <= {passed, start}", "passed <= {passed, load}"),
        ("rests_2_0 <= load", "rests_2_0 <= start"),
        ("if (enable) rests_1_0 <= loads", "if (tick) rests_1_0 <= loads"),
        ("fill <= last & free", "fill <= last"),
        ("kept <= fill | ~free", "kept <= fill | ~o__ready"),
        ("enable <= ~filled | moves", "enable <= moves"),
    ],
)
def test_rendered_verilog_with_a_fault_is_another_circuit_wrong(right, fault, tmp_path):
    block = GRAPHS["rows of 0, wires, negations"]
    text = serial_text(block, "gate")
    assert right in text
    done = proof(tmp_path, block, text.replace(right, fault))
    assert done.returncode != 0
    assert "unproven" in done.stdout + done.stderr


def test_carries_that_are_not_cleared_between_words_are_found_wrong(tmp_path):
    block = GRAPHS["digits of two bits"]
    text = serial_text(block, "gate")
    assert "clears_1 <= moves & (tick ? load : rested[0])" in text
    assert proof(tmp_path, block, text.replace("clears_1 <= moves &", "clears_1 <= tick &")).returncode != 0


def test_ports_are_those_of_every_block():
    block = GRAPHS["shifts"]
    assert set(verilog.modules([block])[block].ports) == set(PORTS)
    assert set(PORTS) == {"clk", "rst", *(f"{p}__{s}" for p in "io" for s in ("payload", "valid", "ready"))}


def test_what_waits_longer_is_a_part_of_what_waited():
    """A second tick of waiting reads neighbours of one register, so that a simulator shuffles no bits."""
    for block in GRAPHS.values():
        for delay in block.plan.delays:
            if not delay.name.endswith("_0"):
                assert [b.index for b in delay.source] == list(range(len(delay.source)))
                assert len({b.register for b in delay.source}) == 1


def test_neighbours_read_neighbours():
    """Two turns of adders over the four inputs, whatever their order in the graph: each reads them as one range."""
    adders = tuple(
        Adder(left, right) for left, right in [(2, 5), (0, 4), (3, 4), (2, 4), (1, 5), (0, 5), (1, 4), (3, 5)]
    )
    block = serial(AdderGraph(6, adders, tuple(Output(6 + k) for k in range(8))), 1, Bus(6, 2))
    (level,) = block.plan.levels
    assert [bit.index for (bit,) in level.left] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert "left = {held_0_0[3:0], held_0_0[3:0]};" in serial_text(block, "gate")
