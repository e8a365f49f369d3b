"""Registers behind block RAMs become the RAMs' own: which ones, and that nothing else changes; on what yosys makes of a small design."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tcompile.yosys import run_yosys

SCRIPT = Path(__file__).resolve().parents[1] / "templates/synth/output_registers.py.j2"
DESIGN = """\
module top(input clk, input write, input [8:0] at, input [8:0] to, input [35:0] data, output [35:0] x, output [35:0] y);
  reg [35:0] rom [0:511];
  (* no_rw_check *) reg [35:0] ring [0:511];
  integer k;
  initial for (k = 0; k < 512; k = k + 1) rom[k] = {k[8:0] * 9'd77, k[8:0] * 9'd5, ~k[8:0], k[8:0] ^ 9'd99};
  reg [35:0] weights, word, weights_2, word_2;
  assign x = ~weights_2, y = word_2 ^ weights_2;
  always @(posedge clk) begin
    weights <= rom[at];
    word <= ring[at];
    if (write) ring[to] <= data;
    weights_2 <= weights;
    word_2 <= word;
  end
endmodule
"""
PORTS = {"A": "DOA", "B": "DOB"}


@pytest.fixture(name="script", scope="module")
def _script():
    spec = importlib.util.spec_from_loader("output_registers", None)
    module = importlib.util.module_from_spec(spec)
    exec(compile(SCRIPT.read_text(encoding="utf-8"), str(SCRIPT), "exec"), module.__dict__)
    return module


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("netlist")
    (folder / "design.v").write_text(DESIGN)
    run_yosys(["-p", "read_verilog design.v; synth_ecp5 -top top; write_json netlist.json"], folder)
    return folder


@pytest.fixture(name="before")
def _before(folder):
    return json.loads((folder / "netlist.json").read_text())


def module(netlist):
    return netlist["modules"]["top"]


def rams(netlist):
    return {name: cell for name, cell in module(netlist)["cells"].items() if cell["type"] == "DP16KD"}


def behind(netlist):
    """Registers that read RAMs: pin, clock, reset and output of each, by its name."""
    pins = {
        bits[0]: (name, pin)
        for name, c in rams(netlist).items()
        for pin, bits in c["connections"].items()
        if pin.startswith("DO")
    }
    found = {}
    for name, cell in module(netlist)["cells"].items():
        wires = {pin: bits[0] for pin, bits in cell["connections"].items()}
        if cell["type"] == "TRELLIS_FF" and wires["DI"] in pins:
            found[name] = (*pins[wires["DI"]], wires["CLK"], wires.get("LSR", "0"), wires["Q"])
    return found


def own(netlist):
    """The same of registers in RAMs."""
    driven = {
        b
        for c in module(netlist)["cells"].values()
        for p, bits in c["connections"].items()
        if c["port_directions"][p] == "input"
        for b in bits
    }
    found = set()
    for name, cell in rams(netlist).items():
        wires = {pin: bits[0] for pin, bits in cell["connections"].items()}
        for letter, pins in PORTS.items():
            if cell["parameters"][f"REGMODE_{letter}"] == "OUTREG":
                assert wires[f"OCE{letter}"] == "1"
                assert wires[f"RST{letter}"] == "0"
                read = [pin for pin in wires if pin.startswith(pins) and wires[pin] in driven]
                found |= {(name, p, wires[f"CLK{letter}"], wires[f"RST{letter}"], wires[p]) for p in read}
    return found


def test_registers_become_those_of_the_rams(script, before):
    after = copy.deepcopy(before)
    wanted = behind(before)
    assert script.taken_in(module(after)) == len(wanted) == 72
    assert own(after) == set(wanted.values())


def test_nothing_else_changes(script, before):
    after = copy.deepcopy(before)
    script.taken_in(module(after))
    others = {n: c for n, c in module(before)["cells"].items() if n not in rams(before) and n not in behind(before)}
    assert {n: c for n, c in module(after)["cells"].items() if n not in rams(after)} == others


def test_from_file_to_file(folder, before):
    words = [sys.executable, str(SCRIPT), "netlist.json", "new.json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "72 flip-flops are output registers of block RAMs\n"
    assert own(json.loads((folder / "new.json").read_text())) == set(behind(before).values())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"modules": 3}'])
def test_other_files_are_refused_wrong(text, tmp_path):
    (tmp_path / "other.json").write_text(text)
    words = [sys.executable, str(SCRIPT), "other.json", "new.json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("other.json must be a netlist that yosys has written as JSON, and is not: ")
    assert not (tmp_path / "new.json").exists()


# --- what is not such a register ---------------------------------------------------------------------------------------


def changed(part, key, value):
    """A register with another pin, or another parameter."""

    def spoil(register, top):
        register[part][key] = value

    return spoil


def read_elsewhere(register, top):
    wires = {"A": register["connections"]["DI"]}
    top["cells"]["spy"] = {"type": "LUT4", "parameters": {}, "port_directions": {"A": "input"}, "connections": wires}


def read_outside(register, top):
    top["ports"]["spy"] = {"direction": "output", "bits": register["connections"]["DI"]}


def ram_with_an_enable(register, top):
    for cell in top["cells"].values():
        if cell["type"] == "DP16KD":
            cell["connections"]["CEB"] = [OTHER]


def ram_with_a_reset(register, top):
    for cell in top["cells"].values():
        if cell["type"] == "DP16KD":
            cell["connections"]["RSTB"] = [OTHER]


OTHER = 99_999
SPOILT = {
    "another clock": changed("connections", "CLK", [OTHER]),
    "a reset": changed("connections", "LSR", [OTHER]),
    "an enable": changed("parameters", "CEMUX", "CE"),
    "begins with 1": changed("parameters", "REGSET", "SET"),
    "falling edge": changed("parameters", "CLKMUX", "INV"),
    "read elsewhere": read_elsewhere,
    "read outside": read_outside,
    "RAM with an enable": ram_with_an_enable,
    "RAM with a reset": ram_with_a_reset,
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_what_is_not_such_a_register_stays_wrong(script, before, spoilt):
    """One register that is not like the others keeps all of its port in slices."""
    cells = module(before)["cells"]
    name, (ram, *_) = next(iter(behind(before).items()))
    SPOILT[spoilt](cells[name], module(before))
    script.taken_in(module(before))
    assert name in cells
    assert ram not in {found for found, *_ in own(before)}
