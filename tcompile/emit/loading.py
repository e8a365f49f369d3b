"""``host/weights.bin``: writes to the control port after which all memories of an accelerator hold what this build's do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hw.axi_lite import HOLD, Control
from tcompile.simulate.netlist import Netlist

__all__ = ["loading_file"]


def loading_file(net: Netlist, control: Control) -> bytes:
    """Pairs of words of 32 bits, the lowest byte first: offset of a register, and what is written there."""
    offsets = {row.name: row.offset for row in control.registers}
    writes = [(offsets[name], value) for name, value in _writes(net)]
    return np.array(writes, "<u4").tobytes()


def _writes(net: Netlist) -> Iterator[tuple[str, int]]:
    """Hold all, write one memory after the other, let go."""
    for number, rom in enumerate(net.roms):
        yield "load_place", 1 << HOLD | rom.pieces - 1 << 16 | number
        for word in rom.words:
            for piece in range(rom.pieces):
                yield "load_data", word >> 32 * piece & 0xFFFFFFFF
    yield "load_place", 0
