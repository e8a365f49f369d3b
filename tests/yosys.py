"""yosys on emitted Verilog: which kinds of cells a script leaves, and which of them multiply."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tcompile.emit.verilog import YOSYS

__all__ = ["COARSE", "INFERENCE", "SYNTHESIS", "cells", "dsp_blocks", "multipliers"]

COARSE = "read_verilog *.v; hierarchy -check -top {top}; proc; opt; check -assert"
SYNTHESIS = {  # as vendors' tools do, over the borders of modules; both infer DSP blocks
    "ecp5": "read_verilog *.v; synth_ecp5 -top {top}",
    "xcup": "read_verilog *.v; synth_xilinx -family xcup -flatten -top {top}",
}
INFERENCE = {  # the same until arithmetic has been mapped, or not, to DSP blocks
    "ecp5": f"{SYNTHESIS['ecp5']} -run begin:map_ram",
    "xcup": f"{SYNTHESIS['xcup']} -run begin:map_memory",
}
MULTIPLIES = re.compile(r"\$_?(mul|macc|macc_v2|div|divfloor|mod|modfloor|pow|fma)_?")  # before mapping
DSP = re.compile(r"MULT\w*|ALU\d+\w*|DSP\w*|SB_MAC\w*|MISTRAL_MUL\w*")  # of Lattice, Xilinx, Intel
STATISTICS = "cells.json"


def cells(folder: Path, top: str, script: str) -> Counter[str]:
    """Number of cells of each kind in all modules after a script.

    Parameters
    ----------
    folder : Path
        Verilog and memory files; yosys runs in it, since YoWASP's sees no other, and writes a file there.
    script : str
        Commands, ``{top}`` in the place of the top module's name.
    """
    commands = f"{script.format(top=top)}; tee -q -o {STATISTICS} stat -json"
    command = [sys.executable, "-c", YOSYS, "-q", "-p", commands]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / STATISTICS).read_text())["modules"].values()
    return sum((Counter(m["num_cells_by_type"]) for m in found), Counter())


def multipliers(found: Counter[str]) -> dict[str, int]:
    """Operators that multiply or divide; after mapping adders of three terms also are called ``$macc``."""
    return {kind: n for kind, n in found.items() if MULTIPLIES.fullmatch(kind)}


def dsp_blocks(found: Counter[str]) -> dict[str, int]:
    """Cells of a device that multiply."""
    return {kind: n for kind, n in found.items() if DSP.fullmatch(kind)}
