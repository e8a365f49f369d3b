"""What a serial adder graph costs after synthesis, and that one look-up table lies between its registers.

The graph is one that the search finds: plain trees compute many sums twice, whose parts synthesis then shares.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from hw.block import Bus
from hw.serial import Serial
from tcompile.adders import Objective, search
from tcompile.emit.verilog import modules
from tests.adder_graphs import results
from tests.yosys import SYNTHESIS, cells

NETLIST = "netlist.json"
TABLE = re.compile(r"LUT\d|INV|SRL\w+")  # delays of the graph in look-up tables are counted with them
WIDE = {"CCU2C": 2}  # cells with more than one
REGISTER = re.compile(r"TRELLIS_FF|FD[RSCP]E")
INPUTS = {"held"}
CONTROL = {
    "phase", "load", "full", "start", "place", "ends", "odd", "fixed", "pair", "rests", "tick", "enable", "fill", "kept", "o__valid",
}  # fmt: skip
MATRIX = np.random.default_rng(0).choice([-1, 0, 1], size=(24, 32), p=[0.3, 0.4, 0.3])
GRAPH = search(MATRIX, Objective(cost="serial", bounds=(0, 15)))


class Netlist:
    """The cells of a serial graph after synthesis."""

    def __init__(self, family: str, digit: int) -> None:
        i = Bus(GRAPH.inputs, 4)
        (module,) = modules([Serial(i, results(GRAPH, (0, 15)), GRAPH, digit)]).values()
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "graph.v").write_text(module.text)
            cells(folder, module.name, f"{SYNTHESIS[family]}; write_json {NETLIST}")
            found = json.loads((folder / NETLIST).read_text())["modules"][module.name]
        self.cells: list[dict[str, Any]] = list(found["cells"].values())
        self.names = {
            bit: name.rstrip("_0123456789")
            for name, net in found["netnames"].items()
            if "$" not in name and "TRELLIS" not in name and "LUT" not in name
            for bit in net["bits"]
        }
        self.readers: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        self.drivers: dict[Any, dict[str, Any]] = {}
        for cell in self.cells:
            for bit in self.pins(cell, "input"):
                self.readers[bit].append(cell)
            for bit in self.pins(cell, "output"):
                self.drivers[bit] = cell

    def pins(self, cell: dict[str, Any], way: str) -> list[Any]:
        """Nets at the inputs or outputs of a cell, clocks left out."""
        clocks = ("C", "CLK") if REGISTER.fullmatch(cell["type"]) else ("CLK",)
        ways = cell["port_directions"]
        return [bit for p, bits in cell["connections"].items() if ways[p] == way and p not in clocks for bit in bits]

    def register(self, cell: dict[str, Any]) -> str:
        """Name of a register; nothing for other cells."""
        return self.names.get(cell["connections"]["Q"][0], "other") if REGISTER.fullmatch(cell["type"]) else ""

    def tables(self, *, inputs: bool = False) -> int:
        """Look-up tables, less those that only read the inputs, or these."""
        mine = [c for c in self.cells if all(self.fed(b) == INPUTS for b in self.pins(c, "output")) == inputs]
        return sum(bool(TABLE.fullmatch(c["type"])) + WIDE.get(c["type"], 0) for c in mine)

    def fed(self, bit: Any) -> set[str]:
        """Registers that a bit reaches through tables."""
        found = [{self.register(r)} if self.register(r) else self.through(r) for r in self.readers[bit]]
        return set().union(*found)

    def through(self, cell: dict[str, Any]) -> set[str]:
        return set().union(*(self.fed(b) for b in self.pins(cell, "output")))

    def levels(self, of: set[str] | None = None) -> int:
        """Cells in a row on the way from register to register: to some, or to all but those that read inputs and count their digits."""
        ends = [
            cell
            for cell in self.cells
            if (name := self.register(cell)) and (name in of if of else name not in CONTROL | INPUTS)
        ]
        return max(self.level(bit) for cell in ends for bit in self.pins(cell, "input"))

    def level(self, bit: Any) -> int:
        cell = self.drivers.get(bit)
        if cell is None or REGISTER.fullmatch(cell["type"]) or not self.pins(cell, "input"):
            return 0
        return 1 + max(map(self.level, self.pins(cell, "input")))


@cache
def netlist(family: str, digit: int = 1) -> Netlist:
    return Netlist(family, digit)


def adders() -> int:
    return len(GRAPH.adders) + GRAPH.negations


@pytest.mark.parametrize("family", ["ecp5", "xcup"])
def test_adder_of_one_bit_needs_two_tables(family):
    """Control is counted too; only what reads the inputs is apart."""
    assert netlist(family).tables() <= 2.26 * adders()


@pytest.mark.parametrize("family", ["ecp5", "xcup"])
def test_four_bits_are_read_through_two_tables(family):
    assert netlist(family).tables(inputs=True) <= 2 * GRAPH.inputs


@pytest.mark.parametrize("digit, most", [(2, 3.9), (4, 6.1)])
def test_longer_digits_cost_less_per_bit(digit, most):
    """Two tables for two bits of a chain; a digit has a place more, a chain another one, and inversions a table."""
    assert netlist("ecp5", digit).tables() <= most * adders()


def test_adder_of_two_bits_needs_more_wrong():
    assert netlist("ecp5", 2).tables() > 2.25 * adders()


def test_one_table_lies_between_registers():
    assert netlist("ecp5").levels() == 1


@pytest.mark.parametrize("registers, most", [(INPUTS, 2), ({"start"}, 2), (CONTROL, 4)])
def test_few_tables_lie_before_the_digits_and_what_counts_them(registers, most):
    assert netlist("ecp5").levels(registers) <= most


def test_carry_through_a_digit_of_two_bits_is_longer_wrong():
    assert netlist("ecp5", 2).levels() > 1


def test_nothing_multiplies():
    assert not [cell["type"] for cell in netlist("xcup").cells if "DSP" in cell["type"]]
