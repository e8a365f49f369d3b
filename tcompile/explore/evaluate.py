"""One point, compiled and mapped: cycles and resources by the models, accuracy by the interpreter; or synthesized."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tcompile.data import read_npz, test_split
from tcompile.errors import InternalError, Problem, TcompileError, ToolError
from tcompile.explore.space import Point
from tcompile.options import BuildOptions
from tcompile.pipeline import Built, Compiled, build, compile_file, synth_build
from tcompile.verify import frames_of, input_types, labels_of, verify
from tcompile.version import __version__

__all__ = ["FAILED", "FAULT", "Task", "evaluate", "key", "synthesize"]

FAULT = "fault"  # key of a result that is tcompile's own fault, and tried again
FAILED = "failed"  # the same of an outside tool that is missing or failed
SYNTHESIS = ("flow", "device", "lut", "ff", "bram", "dsp", "fmax_mhz", "fps")
HARDWARE = (
    "pe",
    "simd",
    "fold",
    "fps",
    "clock_mhz",
    "target",
    "permute",
    "form",
    "loadable",
)  # options that leave the integers alone
TILED = ("pe", "simd")  # but of these, tiles are pruned


@dataclass(frozen=True)
class Task:
    """What a worker needs: it reads the files itself.

    Parameters
    ----------
    point : Point
    calibration, inputs : str or None
        Data files: sample inputs for ranges, and frames with labels for the accuracy.
    samples : int or None
        Frames of `inputs` that are used; all if left out.
    """

    point: Point
    calibration: str | None = None
    inputs: str | None = None
    samples: int | None = None


def key(task: Task) -> str:
    """What the result depends on, as 16 hexadecimal digits: a result of the same key need not be made again."""
    total = hashlib.sha256(f"{__version__}\n{task.point.text}\n{task.samples}\n".encode())
    for path in (task.point.model, task.calibration, task.inputs):
        total.update(b"none" if path is None else hashlib.sha256(Path(path).read_bytes()).digest())
    return total.hexdigest()[:16]


def evaluate(task: Task) -> dict[str, Any]:
    """The figures of a point, or why it cannot be.

    Returns
    -------
    dict
        ``model``, ``options``, ``refused`` (reasons, or None), and of a design ``interval`` and ``latency`` in cycles, ``clock_mhz``,
        ``fps``, ``lut``, ``ff``, ``bram`` (estimates), ``bits`` stored, ``forms``, ``verdict``, ``accuracy``, ``mismatches``.
    """
    row: dict[str, Any] = {"model": Path(task.point.model).name, "options": task.point.options, "refused": None}
    try:
        made, found = _made(task)
    except InternalError as error:
        return row | {FAULT: [p.message for p in error.problems]}
    except TcompileError as error:
        return row | {"refused": [p.message for p in error.problems]}
    report, resources = made.report, made.mapped.resources().values()
    performance = report["performance"]
    forms = sorted({layer["form"] for layer in report["layers"] if layer["form"]})
    return row | {
        "interval": performance["ii_cycles"],
        "latency": performance["latency_cycles"],
        "clock_mhz": performance["clock_mhz"],
        "fps": performance["fps"],
        "lut": sum(r.lut for r in resources),
        "ff": sum(r.ff for r in resources),
        "bram": sum(r.bram for r in resources),
        "bits": report["weights"]["bits_stored"],
        "forms": forms,
        "verdict": report["exactness"]["verdict"],
        **found,
    }


def _made(task: Task) -> tuple[Built, Mapping[str, Any]]:
    options = task.point.build_options()
    of_network = Task(_network_point(task.point, options), task.calibration, task.inputs, task.samples)
    compiled, found = _network(of_network)
    return build(compiled, options), found


def synthesize(task: Task, flow: str, device: str | None) -> dict[str, Any]:
    """What a flow of ``synth`` makes of a point that can be built; its clock is static timing, not measured on a board.

    Returns
    -------
    dict
        ``flow``, ``device``, ``lut``, ``ff``, ``bram``, ``dsp``, ``fmax_mhz`` and ``fps`` as in ``report.json``; ``refused`` as in `evaluate`.
    """
    row: dict[str, Any] = {**dict.fromkeys(SYNTHESIS), "flow": flow, "device": device, "refused": None}
    try:
        with TemporaryDirectory(prefix="tcompile-") as folder:
            directory = Path(folder) / "design"
            _made(task)[0].write(directory)
            found = synth_build(directory, flow=flow, target=device)["synthesis"]
    except InternalError as error:
        return row | {FAULT: [p.message for p in error.problems]}
    except ToolError as error:
        return row | {FAILED: [(p.code, p.message, p.hint) for p in error.problems]}
    except TcompileError as error:
        return row | {"refused": [p.message for p in error.problems]}
    return row | {name: found[name] for name in SYNTHESIS}


def _network_point(point: Point, options: BuildOptions) -> Point:
    """The point without what changes no integer, so that designs of one network compile it once."""
    needed = TILED if options.prune else ()
    kept = {k: v for k, v in point.options.items() if k not in HARDWARE or k in needed}
    return Point.of(point.model, kept)


@lru_cache(maxsize=2)
def _network(task: Task) -> tuple[Compiled, Mapping[str, Any]]:
    """A network in integers, and its accuracy where there are labels."""
    arrays = None if task.calibration is None else read_npz(Path(task.calibration))
    compiled = compile_file(Path(task.point.model), task.point.build_options(), arrays)
    return compiled, _accuracy(compiled, task)


def _accuracy(compiled: Compiled, task: Task) -> dict[str, Any]:
    """The share of frames that the integers get right, every integer compared with onnxruntime's."""
    if task.inputs is None:
        return {"accuracy": None, "mismatches": None}
    arrays = test_split(read_npz(Path(task.inputs)))
    frames = frames_of(input_types(compiled.network), arrays)
    labels = labels_of(arrays, len(next(iter(frames.values()))))
    frames = {name: x[: task.samples] for name, x in frames.items()}
    found = verify(compiled.network, frames, None if labels is None else labels[: task.samples], other=False)
    if found.mismatches and compiled.report["exactness"]["verdict"] == "proved":
        raise InternalError(Problem("mismatch", f"{found.mismatches} integers of a network that is proved differ"))
    return {"accuracy": found.accuracy, "mismatches": found.mismatches}
