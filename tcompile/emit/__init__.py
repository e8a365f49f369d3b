"""Files of a build directory made from a design: Verilog, memories, benches, what the host and other flows need."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tcompile.emit.bench import sim_files
from tcompile.emit.board import BoardPlan, board_files
from tcompile.emit.host import host_files
from tcompile.emit.integrate import integration_files
from tcompile.emit.synth import CLOCK_MHZ, synth_files
from tcompile.emit.top import rtl
from tcompile.mapping.design import Design, Edge
from tcompile.simulate.interface import Interface

__all__ = ["emit"]


def emit(
    design: Design,
    golden: Mapping[str, np.ndarray],
    *,
    patience: int | None = None,
    rows: Mapping[str, int] | None = None,
    clock_mhz: float = CLOCK_MHZ,
    board: BoardPlan | None = None,
) -> dict[str, bytes]:
    """All files that follow from a design, by relative path: ``rtl``, ``sim``, ``synth``, ``host``, ``board`` and what other flows need.

    The same design and frames give the same bytes.

    Parameters
    ----------
    design : Design
    golden : mapping of str to ndarray
        Integer frames (N, *shape) by name of the AXI4-Stream port (``s_axis_0``, ``m_axis_0``), inputs and outputs.
    patience : int, optional
        Cycles without a transfer at any port after which a simulation is over; must exceed latency and interval.
    rows : mapping of str to int, optional
        For nodes of the integer network the row of ``layers`` in the report that they belong to.
    clock_mhz : float
        Clock that place and route aims at, where none is given.
    board : BoardPlan, optional
        Board for which a design around the accelerator is written too.

    Raises
    ------
    ToolError
        The yosys package is missing or failed.
    """
    interface = Interface.of(design, patience)
    inputs = [_beats(design, e, golden[f"s_axis_{e.port}"]) for e in design.inputs]
    outputs = [_beats(design, e, golden[f"m_axis_{e.port}"]) for e in design.outputs]
    written = rtl(design)
    around = {} if board is None else board_files(design, golden, board, written.identity, interface.patience)
    return {
        **written.files,
        **sim_files(interface, inputs, outputs),
        **synth_files(design, written.netlist, rows or {}, clock_mhz),
        **host_files(design, golden),
        **integration_files(design, written),
        **around,
    }


def _beats(design: Design, edge: Edge, frames: np.ndarray) -> np.ndarray:
    return edge.layout.to_beats(frames, design.streams[edge.stream].bus)
