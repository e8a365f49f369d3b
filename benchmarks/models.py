"""What becomes of trained networks as other tools wrote them: compiled, verified and simulated, or refused with the reason.

For every file below ``models/`` of a data folder (``--data``, default ``../shared/data``): how it is compiled, what the
certificate says, output integers compared with onnxruntime's by the interpreter, accuracy of the file in onnxruntime and
of the accelerator on the same test frames, and some frames in Verilator, with the cycles predicted and simulated.
``python -m benchmarks.models`` does what is not in ``models.json`` yet and writes ``docs/models.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exactness import DATA, ROOT, brevitas, keywords, mnist_unit
from benchmarks.planes import CIFAR, CLOTHES, DIGITS, IMAGENET, THINGS, Subject, normalized, symmetric, unit, words
from tcompile.accelerator import build_options
from tcompile.errors import TcompileError
from tcompile.frontend import load
from tcompile.machine import Hardware, machine_of
from tcompile.pipeline import build, compile_file
from tcompile.reference import Session
from tcompile.verify import Verification, frames_of, input_types, random_inputs, verify

FILE = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "models.md"
RANDOM = 100  # frames where there is no data
CSD = {"weights": "csd:3"}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A file, how it is compiled, its frames, and how many of them run where.

    Parameters
    ----------
    subject : Subject or None
        Test frames and labels; without, frames are random.
    spread : float
        Of random calibration frames.
    """

    file: str
    options: Mapping[str, Any] = field(default_factory=dict)
    subject: Subject | None = None
    frames: int = 2000
    simulated: int = 4
    spread: float = 1.0

    @property
    def title(self) -> str:
        """File and options."""
        options = {k.replace("_", "-"): v for k, v in self.options.items()}
        shown = [
            f"--{k} {next(f'{a}={b}' for a, b in v.items()) if isinstance(v, dict) else v}" for k, v in options.items()
        ]
        return " ".join([self.file, *shown])

    def part(self, data: Path, *, test: bool) -> Arrays | None:
        """Frames and labels; None where there are none."""
        if self.subject is None:
            return None
        x, y = self.subject.part(data, test)
        return {"x": x, "y": y}


def _held(read: Any, data: Path, test: bool, count: int) -> tuple[np.ndarray, np.ndarray]:
    arrays = read(data)
    return arrays["x"][:count], arrays["y"][:count]


def _test(file: str, read: Any, frames: int) -> Subject:
    """A file whose network is quantized: no calibration."""
    return Subject(file, partial(_held, read), frames=frames)


CASES = (
    Case("qonnx_tfc_1w1a", subject=_test("", mnist_unit, 10000), simulated=20),
    Case("qonnx_tfc_1w2a", subject=_test("", mnist_unit, 10000), simulated=20),
    Case("qonnx_tfc_2w2a_ternary", subject=_test("", mnist_unit, 10000), simulated=20),
    Case("qonnx_jettagging_6b", simulated=20),
    Case("qonnx_kwsmlp_w3a3", simulated=20),
    Case("qonnx_espcn_subpixel_quant", frames=4, simulated=1),
    Case("qonnx_tiny_unet", frames=2, simulated=0),
    Case("brevitas/cnn_bn.qonnx", subject=_test("", brevitas("cnn_bn"), 450), simulated=20),
    Case("brevitas/cnn_bn.qcdq", subject=_test("", brevitas("cnn_bn"), 450), simulated=20),
    Case("brevitas/mlp_bn.qonnx", subject=_test("", brevitas("mlp_bn"), 450), simulated=20),
    Case("brevitas/probe_ternary", simulated=20),
    Case("mlperf_dscnn_int8_qdq", subject=_test("", keywords, 1000)),
    Case("mlperf_ad01_int8_qdq"),
    Case("mlperf_resnet_large_int8_qdq", subject=Subject("", THINGS, frames=1000), simulated=1),
    Case("ece_gray96_int8_qdq", simulated=2),
    Case("dronet_nemo_int_frontnet", {"input_type": {"0": "uint8"}}, frames=20, simulated=1),
    Case("mnist8_cntk", CSD, Subject("", DIGITS, frames=10000)),
    Case("mnist_opt_wonnx", CSD, Subject("", DIGITS, unit, 10000)),
    Case("mnist_lenet_fyh", CSD, Subject("", DIGITS, normalized, 10000)),
    Case("mnist_cnn_codeman", CSD, Subject("", DIGITS, normalized, 2000)),
    Case("mnist_cnn_pool_pcelis", CSD, Subject("", DIGITS, unit, 10000)),
    Case("fashion_mlp_shahjahan", CSD, Subject("", CLOTHES, symmetric, 10000)),
    Case("cifar_resnet20", CSD, Subject("", THINGS, IMAGENET, 300), simulated=0),
    Case("cifar_resnet20_folded", CSD, Subject("", THINGS, IMAGENET, 300), simulated=1),
    Case("cifar_resnet20_onnc", CSD, Subject("", THINGS, CIFAR, 300), simulated=0),
    Case("cifar_cnn_winml", CSD, Subject("", THINGS, symmetric, 1000), simulated=0),
    Case("cifar_lenet_jnulzl", CSD, Subject("", THINGS, symmetric, 1000), simulated=1),
    Case("mlperf_dscnn_fp32", CSD, Subject("", words, frames=872), simulated=1),
    Case("mlperf_resnet8_fp32", CSD, Subject("", THINGS, frames=500), simulated=1),
    Case("mlperf_resnet_large_fp32", CSD, Subject("", THINGS, frames=100), simulated=0),
    Case("mlperf_ad01_fp32", CSD, simulated=1),
    Case("mlperf_vww_mbv1_fp32", CSD, frames=10, simulated=0, spread=0.3),
    Case("jsc_three_layer_keras", CSD, simulated=20),
    Case("jsc_dense_big_keras", CSD, simulated=20),
    Case("ad_alibaba", CSD, simulated=1),
    Case("ece_gray96_fp32", CSD, simulated=1),
    Case("kws_speech_recog_squeezenet_winml", CSD, frames=10, simulated=0),
    Case("superres_onnx_tutorial", CSD),
)


def run(case: Case, data: Path) -> dict[str, Any]:
    """Compile, verify and simulate one case; the row of the table."""
    path, begun = data / "models" / f"{case.file}.onnx", time.perf_counter()
    options = build_options(dict(case.options))
    try:
        calibration = _calibration(case, path, data)
        compiled = compile_file(path, options, calibration)
        arrays = case.part(data, test=True)
        frames = _frames(case, compiled.network, arrays)
        labels = None if arrays is None else arrays["y"]
        found = verify(compiled.network, frames, labels, other=False)
        exact = compiled.report["exactness"]
        row = {
            "format": compiled.loaded.format, "reference": found.reference, "verdict": exact["verdict"],
            "at_risk": exact["steps_at_risk"], "doubts": len(exact["doubts"]), **_counted(found),
            "accuracy": found.accuracy, "accuracy_file": None if arrays is None else _accuracy(path, frames, labels),
        }  # fmt: skip
        row["seconds"] = round(time.perf_counter() - begun, 1)
        if case.simulated:
            row |= _simulated(build(compiled, options), frames, case.simulated)
    except TcompileError as error:
        return {"refused": [f"{p.code}: {p.message}" for p in error.problems][:4]}
    return row


def _calibration(case: Case, path: Path, data: Path) -> Arrays | None:
    if "weights" not in case.options:
        return None
    part = case.part(data, test=False)
    if part is not None:
        return {"x": part["x"]}
    rng = np.random.default_rng(0)
    return {
        v.name: rng.normal(0, case.spread, (64, *(d.dim_value for d in v.type.tensor_type.shape.dim))).astype(
            np.float32
        )
        for v in load(path).reference.graph.input
    }


def _frames(case: Case, network: Any, arrays: Arrays | None) -> Arrays:
    if arrays is not None:
        return frames_of(input_types(network), {"x": arrays["x"]})
    return random_inputs(network, min(RANDOM, case.frames))


def _counted(found: Verification) -> dict[str, Any]:
    return {"frames": found.samples, "integers": found.integers, "mismatches": found.mismatches}


def _accuracy(path: Path, frames: Arrays, labels: np.ndarray) -> float:
    """Of the file as it is, in onnxruntime."""
    session = Session(load(path).reference, "plain")
    first = session.frames(frames)[session.outputs[0]]
    return float((first.reshape(len(labels), -1).argmax(axis=1) == labels).mean())


def _simulated(built: Any, frames: Arrays, count: int) -> dict[str, Any]:
    network, few = built.compiled.network, {name: x[:count] for name, x in frames.items()}
    with tempfile.TemporaryDirectory() as folder:
        place, begun = Path(folder) / "build", time.perf_counter()
        built.write(place)
        with machine_of("verilator", network.graph, lambda: built.mapped.design, place) as machine:
            assert isinstance(machine, Hardware)
            found = verify(network, few, machine=machine, other=False)
    return {
        "simulated": found.samples, "simulated_mismatches": found.mismatches, "predicted": built.mapped.interval,
        "interval": found.interval, "latency": found.latency, "simulation_seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip


HEAD = (
    "file and options", "format", "compared with", "certificate", "frames", "integers", "mismatches",
    "accuracy: file, accelerator", "simulated frames, mismatches", "cycles per frame", "seconds",
)  # fmt: skip


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Trained networks, as other tools wrote them",
        "",
        "`python -m benchmarks.models`. Each file is compiled with the options shown and otherwise defaults; *integers* are its outputs on",
        "the accelerator, compared by the interpreter with onnxruntime's one by one. *certificate*: proved for every input, or the steps",
        "(and operations) where rounding in onnxruntime might decide otherwise. Accuracy on test frames where there are any, else random",
        "frames; of float files the file itself in onnxruntime, and what was made of it. *simulated*: the Verilog in Verilator,",
        "cycle by cycle; where several frames ran, the cycles between them were the predicted ones. Seconds: compiling and",
        "verifying, and Verilog, bench and simulation, on 2 shared cores.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|" + "---|" * len(HEAD),
    ]
    lines += [_line(title, row) for title, row in results.items() if "refused" not in row]
    refused = {title: row["refused"] for title, row in results.items() if "refused" in row}
    if refused:
        lines += ["", "Refused:", "", *(f"- `{title}`: {'; '.join(why)}" for title, why in refused.items())]
    return "\n".join([*lines, ""])


def _line(title: str, row: Mapping[str, Any]) -> str:
    verdict = "proved" if row["verdict"] == "proved" else f"{row['at_risk']} steps, {row['doubts']} operations"
    accuracy = "" if row["accuracy"] is None else f"{row['accuracy_file']:.2%}, {row['accuracy']:.2%}"
    simulated = f"{row['simulated']}, {row['simulated_mismatches']}" if "simulated" in row else ""
    cycles = str(row["predicted"]) if "predicted" in row else ""
    if row.get("interval") not in (None, row.get("predicted")):
        cycles += f" (simulated {row['interval']})"
    seconds = f"{row['seconds']}" + (f", {row['simulation_seconds']}" if "simulated" in row else "")
    cells = (
        f"`{title}`", row["format"], row["reference"], verdict, row["frames"], row["integers"], f"**{row['mismatches']}**",
        accuracy, simulated, cycles, seconds,
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default="", help="part of a file name")
    given = parser.parse_args()
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    for case in CASES:
        if given.only in case.title and case.title not in results:
            print(case.title, flush=True)
            results[case.title] = run(case, given.data)
            print("   ", results[case.title], flush=True)
            ordered = {c.title: results[c.title] for c in CASES if c.title in results}
            FILE.write_text(json.dumps(ordered, indent=1) + "\n")
    PAGE.write_text(page({c.title: results[c.title] for c in CASES if c.title in results}))


if __name__ == "__main__":
    main()
