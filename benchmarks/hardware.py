"""Hardware on real networks: the Verilog of each file, simulated cycle by cycle, against onnxruntime and the cycle model.

Reads trained models and test sets from a data folder (``--data``, default ``../shared/data``), builds each file, runs
frames through Verilator without stalls and under five patterns of random stalls, and writes ``benchmarks/hardware.md``
and ``.json``: mismatches, cycles simulated and predicted, and how fast simulation goes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exactness import CASES, DATA, Case
from tcompile.accelerator import build_options
from tcompile.errors import MismatchError
from tcompile.machine import Hardware, machine_of
from tcompile.pipeline import build, compile_file
from tcompile.reference import Session
from tcompile.verify import Network, frames_of, input_types, labels_of, random_inputs, verify

ROOT = Path(__file__).parent.parent
SEEDS = range(1, 6)
STALLED = 4  # frames under each pattern of stalls

FRAMES: dict[str, tuple[int, dict[str, Any]]] = {  # frames to run, and lanes
    "examples/digits/digits.int2.onnx": (450, {}),
    "qonnx_tfc_2w2a_ternary.onnx": (1000, {}),
    "qonnx_tfc_1w2a.onnx": (1000, {}),
    "qonnx_tfc_1w1a.onnx": (1000, {}),
    "qonnx_jettagging_6b.onnx": (1000, {}),
    "brevitas/cnn_bn.qonnx.onnx": (450, {}),
    "brevitas/cnn_bn.qcdq.onnx": (450, {}),
    "brevitas/mlp_bn.qonnx.onnx": (450, {}),
    "brevitas/probe_ternary.onnx": (450, {}),
    "mlperf_dscnn_int8_qdq.onnx": (20, {}),
    "mlperf_ad01_int8_qdq.onnx": (20, {}),
    "ece_gray96_int8_qdq.onnx": (20, {}),
    "mnist8_cntk.onnx": (100, {}),
    "mlperf_resnet_large_int8_qdq.onnx": (4, {}),
}


@dataclass(frozen=True)
class Job:
    """A case of `benchmarks.exactness` in hardware."""

    case: Case
    frames: int
    lanes: Mapping[str, Any]


def jobs() -> list[Job]:
    """The first case of each file that is to run in hardware."""
    first = {case.file: case for case in reversed(CASES)}
    return [Job(first[file], count, lanes) for file, (count, lanes) in FRAMES.items()]


def run(job: Job, data: Path) -> dict[str, Any]:
    """Build and simulate one case; the row of the table."""
    start = time.perf_counter()
    options = build_options({**job.case.options, **job.lanes})
    calibration = None if job.case.calibration is None else {"x": job.case.calibration(data)}
    built = build(compile_file(job.case.path(data), options, calibration), options)
    network, design = built.compiled.network, built.mapped.design
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "build"
        built.write(place)
        written = time.perf_counter()
        with machine_of("verilator", network.graph, lambda: design, place) as machine:
            assert isinstance(machine, Hardware)
            ready = time.perf_counter()
            frames, labels = frames_for(job, network, data)
            found = verify(network, frames, labels, machine=machine, other=False)
            done = time.perf_counter()
            stalled = {seed: stalls(machine, network, frames, seed) for seed in SEEDS}
    performance = built.mapped.cycles
    lanes = sum(p.fold.lanes for p in built.mapped.plans.values())
    return {
        "case": job.case.title, "frames": found.samples, "integers": found.integers, "mismatches": found.mismatches,
        "lanes": lanes, "blocks": len(design.instances), "modules": len({i.block for i in design.instances}),
        "interval": found.interval, "interval_predicted": performance.interval,
        "latency": found.latency, "latency_predicted": performance.latency,
        "ends_as_predicted": found.ends[:4] == tuple(e for e in ends_of(performance.ends, found.ends)),
        "stalled_integers_differ": sum(stalled.values()),
        "accuracy": found.accuracy, "accuracy_reference": found.accuracy_reference,
        "build_s": round(written - start, 1), "bench_build_s": round(ready - written, 1),
        "verify_s": round(done - ready, 1),
    }  # fmt: skip


def ends_of(predicted: tuple[int, ...], simulated: tuple[int, ...]) -> tuple[int, ...]:
    """Predicted ends of as many frames as were simulated, four at most."""
    return predicted[: min(4, len(simulated))]


def frames_for(job: Job, network: Network, data: Path) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Frames of the case's test set, or random ones."""
    if job.case.frames is None:
        return random_inputs(network, job.frames), None
    arrays = job.case.frames(data)
    frames = frames_of(input_types(network), {"x": arrays["x"][: job.frames]})
    return frames, labels_of({"y": arrays["y"][: job.frames]}, len(next(iter(frames.values()))))


def stalls(machine: Hardware, network: Network, frames: Mapping[str, np.ndarray], seed: int) -> int:
    """Integers that differ between a run with and a run without random pauses."""
    host = Session(network.pre)
    made = host.frames({i: frames[i][:STALLED] for i in host.inputs})
    codes = dict(zip((n.name for n in network.graph if not n.inputs), made.values(), strict=True))
    free = machine.run(codes, lambda done: None).integers
    paused = replace(machine, seed=seed).run(codes, lambda done: None).integers
    return int(sum((free[n] != paused[n]).sum() for n in free))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = (
        "| file | frames | integers | mismatches | under 5 stall patterns differ | lanes | interval (predicted) |"
        " latency (predicted) | accuracy | build / bench / run s |"
    )
    lines = [
        "# Hardware on real networks",
        "",
        "`make bench-hardware`: emitted Verilog in Verilator against onnxruntime, every output integer; cycles beside those",
        "of the cycle model. Seconds: ONNX to Verilog / compiling the bench / host, simulation and onnxruntime.",
        "",
        head,
        "|" + "---|" * (head.count("|") - 1),
    ]
    for r in rows:
        accuracy = "" if r["accuracy"] is None else f"{r['accuracy']:.2%} / {r['accuracy_reference']:.2%}"
        lines.append(
            f"| {r['case']} | {r['frames']} | {r['integers']} | {r['mismatches']} | {r['stalled_integers_differ']}"
            f" | {r['lanes']} | {r['interval']} ({r['interval_predicted']}) | {r['latency']} ({r['latency_predicted']})"
            f" | {accuracy} | {r['build_s']} / {r['bench_build_s']} / {r['verify_s']} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Run the cases; 1 if any integer or any cycle is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--keep", action="store_true", help="keep the rows of other files")
    options = parser.parse_args()
    target = ROOT / "benchmarks" / "hardware.json"
    rows = {r["case"]: r for r in json.loads(target.read_text())} if options.keep and target.exists() else {}
    bad = 0
    for job in jobs():
        if options.only not in job.case.file:
            continue
        try:
            row = run(job, options.data)
        except MismatchError as error:
            print(job.case.title, error, file=sys.stderr)
            bad += 1
            continue
        print(json.dumps(row), flush=True)
        rows[row["case"]] = row
        bad += bool(row["mismatches"] or row["stalled_integers_differ"] or not row["ends_as_predicted"])
    ordered = [rows[j.case.title] for j in jobs() if j.case.title in rows]
    target.write_text(json.dumps(ordered, indent=1) + "\n")
    (ROOT / "benchmarks" / "hardware.md").write_text(table(ordered))
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
