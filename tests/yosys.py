"""Scripts for yosys on emitted Verilog, and which of the cells that they leave multiply."""

from __future__ import annotations

import re
from collections import Counter

from tcompile.yosys import MULTIPLYING, TECHNOLOGIES, cells

__all__ = ["COARSE", "INFERENCE", "SYNTHESIS", "cells", "dsp_blocks", "multipliers"]

COARSE = "read_verilog *.v; hierarchy -check -top {top}; proc; opt; check -assert"
SYNTHESIS = {  # as vendors' tools do, over the borders of modules; both infer DSP blocks
    family: f"read_verilog *.v; {TECHNOLOGIES[family].command} -top {{top}}" for family in ("ecp5", "xcup")
}
INFERENCE = {  # the same until arithmetic has been mapped, or not, to DSP blocks
    "ecp5": f"{SYNTHESIS['ecp5']} -run begin:map_ram",
    "xcup": f"{SYNTHESIS['xcup']} -run begin:map_memory",
}
MAPPED = re.compile(r"\$_(\w+?)_")  # a gate, named after an operator


def multipliers(found: Counter[str]) -> dict[str, int]:
    """Operators that multiply or divide; after mapping adders of three terms also are called ``$macc``."""
    return {kind: n for kind, n in found.items() if MAPPED.sub(r"$\1", kind) in MULTIPLYING}


def dsp_blocks(found: Counter[str]) -> dict[str, int]:
    """Cells of a device that multiply."""
    return {kind: n for t in TECHNOLOGIES.values() for kind, n in t.multipliers(found).items()}
