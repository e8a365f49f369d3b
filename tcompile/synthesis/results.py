"""What a flow left in a build directory: cells, layer by layer, clocks and bitstreams."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from hw.axi_lite import Control
from tcompile.emit.synth import layer_module
from tcompile.errors import InternalError, Problem, damaged_build
from tcompile.mapping.design import Design
from tcompile.mapping.estimate import Family, Resources, block_rams, estimate, estimate_block
from tcompile.synthesis.flows import Job
from tcompile.yosys import TECHNOLOGIES, below, modules_of

__all__ = ["Placed", "Route", "Synthesis", "results"]

CREATOR = re.compile(r"Yosys (\S+)")
ROUTED = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD"}  # as nextpnr calls them
INSTANCE = re.compile(r"(?:^|\.)[um]_([a-z0-9_]+)\.")  # of a cell of the top level
DAMAGES = (OSError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Route:
    """Place and route with one seed.

    Parameters
    ----------
    seed : int
    fmax_mhz : float
        By static timing.
    bitstream : str
        Path in the build directory.
    bytes : int
        Its size.
    used : mapping of str to (int, int)
        What is used of the device, and what there is, the registers around the accelerator included.
    critical : tuple of str
        The instances of the design that the longest path leads through.
    """

    seed: int
    fmax_mhz: float
    bitstream: str
    bytes: int
    used: Mapping[str, tuple[int, int]]
    critical: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """A memory whose place is another than the mapping took it to be; block RAMs by estimate and in the netlist."""

    memory: str
    estimated: int
    found: int


@dataclass(frozen=True)
class Synthesis:
    """Results of a flow.

    Parameters
    ----------
    job : Job
    total : Resources
        Of the accelerator, without the registers around it.
    dsp : int
        Cells that multiply: 0, or there is an error.
    layers : tuple of Resources
        By row of ``layers`` in the report; empty if the layers were not kept apart.
    estimate : Resources or None
        Of the accelerator, by the model for the family, if there is one.
    layer_estimates : tuple of Resources
        By row; empty without a model.
    routes : tuple of Route
    used : mapping of str to (int, int)
        What is used of the device, and what there is; empty for a family as a whole.
    elsewhere : tuple of Placed
        Memories that are in block RAMs, or not, against the estimate.
    registers : tuple of str
        Memories that became registers.
    tools : mapping of str to str
        Versions.
    """

    job: Job
    total: Resources
    dsp: int
    layers: tuple[Resources, ...]
    estimate: Resources | None
    layer_estimates: tuple[Resources, ...]
    routes: tuple[Route, ...]
    used: Mapping[str, tuple[int, int]]
    elsewhere: tuple[Placed, ...]
    registers: tuple[str, ...]
    tools: Mapping[str, str]

    @property
    def fmax_mhz(self) -> float | None:
        """Median over the seeds."""
        return median(r.fmax_mhz for r in self.routes) if self.routes else None


def results(
    directory: Path, job: Job, design: Design, rows: Mapping[str, int], versions: Mapping[str, str]
) -> Synthesis:
    """Read what a flow left.

    Parameters
    ----------
    rows : mapping of str to int
        For nodes of the network the row of ``layers`` in the report.
    versions : mapping of str to str
        Of the tools; yosys' is read from its results.

    Raises
    ------
    InternalError
        There is a cell that multiplies.
    UsageError
        The files are not what was written.
    """
    try:
        return _results(directory, job, design, rows, versions)
    except DAMAGES as error:
        raise damaged_build(directory, f"synth/{job.netlist_folder}: {error}") from error


def _results(
    directory: Path, job: Job, design: Design, rows: Mapping[str, int], versions: Mapping[str, str]
) -> Synthesis:
    technology = TECHNOLOGIES[job.family]
    netlist = directory / "synth" / job.netlist_folder
    modules = modules_of(netlist / "stat.json")
    cells = below(modules, design.name)
    if found := technology.multipliers(cells):
        raise InternalError(Problem("multiplier", f"the accelerator must multiply nothing, and has {found}"))
    count = 1 + max(rows.values(), default=-1)
    named = [layer_module(design.name, k) for k in range(count)]
    layers = () if job.flatten else tuple(technology.count(below(modules, n) if n in modules else {}) for n in named)
    total = technology.count(cells)
    family = _modelled(job.family)
    by_row = _estimates(design, rows, count, family) if family else ()
    routes = tuple(_route(directory, job, seed) for seed in job.seeds)
    return Synthesis(
        job, total, 0, layers, _whole(design, family) if family else None, by_row, routes,
        routes[0].used if routes else _share(job, total),
        _elsewhere(design, family, (netlist / "blocks.txt").read_text().split()) if family else (),
        tuple((netlist / "registers.txt").read_text().split()),
        {**versions, "yosys": _yosys(netlist / "stat.json")},
    )  # fmt: skip


def _modelled(family: str) -> Family | None:
    """The family whose model of resources stands for one."""
    known: dict[str, Family] = {"ecp5": "ecp5", "xc7": "xcup", "xcup": "xcup"}
    return known.get(family)


def _whole(design: Design, family: Family) -> Resources:
    control = estimate_block(Control(len(design.inputs), len(design.outputs)), family)
    return sum((estimate(i, family) for i in design.instances), control)


def _estimates(design: Design, rows: Mapping[str, int], count: int, family: Family) -> tuple[Resources, ...]:
    found = [Resources()] * count
    for instance in design.instances:
        if instance.layer in rows:
            found[rows[instance.layer]] += estimate(instance, family)
    return tuple(found)


def _share(job: Job, total: Resources) -> dict[str, tuple[int, int]]:
    device = job.device
    if device is None:
        return {}
    return {"lut": (total.lut, device.lut), "ff": (total.ff, device.ff), "bram": (total.bram, device.bram)}


def _elsewhere(design: Design, family: Family, cells: list[str]) -> tuple[Placed, ...]:
    """Memories in block RAMs that were estimated elsewhere, and the other way round.

    Cells are named ``module/u_instance.memory...`` or, of constant memories, ``module/m_instance_memory...``.
    """
    found = Counter(cell.partition("/")[2].partition(".")[0] for cell in cells)
    wrong = []
    for instance in design.instances:
        for name, estimated in block_rams(instance, family).items():
            place = f"m_{instance.name}_{name}" if name else f"u_{instance.name}"
            if bool(estimated) != bool(found[place]):
                wrong.append(Placed(place[2:], estimated, found[place]))
    return tuple(wrong)


def _yosys(statistics: Path) -> str:
    found = CREATOR.search(str(json.loads(statistics.read_text(encoding="utf-8")).get("creator")))
    return found[1] if found else "unknown"


def _route(directory: Path, job: Job, seed: int) -> Route:
    folder = f"synth/{job.route_folder}"
    report: dict[str, Any] = json.loads((directory / folder / f"seed-{seed}.json").read_text(encoding="utf-8"))
    parts = report["utilization"]
    used = {ours: (int(parts[theirs]["used"]), int(parts[theirs]["available"])) for ours, theirs in ROUTED.items()}
    (clock,) = report["fmax"].values()
    bitstream = f"{folder}/seed-{seed}.bit"
    size = (directory / bitstream).stat().st_size
    return Route(seed, float(clock["achieved"]), bitstream, size, used, _critical(report["critical_paths"]))


def _critical(paths: list[dict[str, Any]]) -> tuple[str, ...]:
    """Instances along the longest path between registers; those at pins end or begin at no clock."""
    inner = [p["path"] for p in paths if p["from"] == p["to"]]
    longest: list[dict[str, Any]] = max(inner, key=_delay, default=[])
    cells = (str(step[end].get("cell", "")) for step in longest for end in ("from", "to"))
    return tuple(dict.fromkeys(found[1] for cell in cells if (found := INSTANCE.search(cell))))


def _delay(path: list[dict[str, Any]]) -> float:
    return sum(float(step["delay"]) for step in path)
