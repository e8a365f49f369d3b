"""Exactness on real networks: integers of tcompile's interpreter against onnxruntime's, file by file.

Reads trained models and test sets from a data folder (``--data``, default ``../shared/data``), compiles each file,
verifies it on its whole test set or on random frames, and writes ``benchmarks/exactness.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tcompile

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
RANDOM = 1000  # frames where there is no data
Arrays = dict[str, np.ndarray]


def _idx(path: Path, offset: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes())[offset:], np.uint8)


def mnist(data: Path, part: str = "t10k", folder: str = "mnist") -> Arrays:
    """Images 0..255 (N, 1, 28, 28) and labels."""
    base = data / "datasets" / folder
    x = _idx(base / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).astype(np.float32)
    return {"x": x, "y": _idx(base / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)}


def mnist_unit(data: Path) -> Arrays:
    """Images 0..1."""
    arrays = mnist(data)
    return {**arrays, "x": arrays["x"] / np.float32(255)}


def normalized(x: np.ndarray) -> np.ndarray:
    """MNIST images as LeNet was trained on them."""
    return ((x / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)).astype(np.float32)


def mnist_normalized(data: Path) -> Arrays:
    """Images with the training set's mean and deviation."""
    arrays = mnist(data)
    return {**arrays, "x": normalized(arrays["x"])}


def keywords(data: Path) -> Arrays:
    """MFCC frames of spoken words."""
    held = np.load(data / "datasets" / "kws01_gsc_mfcc_int8.npz")
    x = (held["x"].astype(np.float32) - 83) * np.float32(0.5847029)
    return {"x": x.reshape(-1, 1, 49, 10), "y": held["y"].astype(np.int64)}


def cifar(data: Path, part: str = "test", count: int | None = None) -> Arrays:
    """CIFAR-10 images, JPEG-decoded, 0..255 (N, 3, 32, 32), and labels; the first of a random order."""
    from PIL import Image

    held = np.load(data / "datasets" / "cifar10-jpeg" / f"{part}.npz")
    stream, offset = held["jpeg"], held["offset"]
    order = np.random.default_rng(0).permutation(len(offset) - 1)[:count]  # the file is sorted by class
    images = [Image.open(io.BytesIO(stream[offset[k] : offset[k + 1]].tobytes())).convert("RGB") for k in order]
    x = np.stack([np.asarray(i) for i in images]).transpose(0, 3, 1, 2).astype(np.float32)
    return {"x": x, "y": held["label"].astype(np.int64)[order]}


def brevitas(name: str) -> Callable[[Path], Arrays]:
    """Test inputs that lie beside the exports."""

    def read(data: Path) -> Arrays:
        held = np.load(data / "models" / "brevitas" / f"{name}.npz")
        return {"x": held["xte"], "y": held["yte"], "out": held["out"]}

    return read


def digits(_: Path) -> Arrays:
    """The demo's held-out images."""
    held = np.load(ROOT / "examples" / "digits" / "digits.npz")
    return {"x": held["x_test"], "y": held["y_test"]}


@dataclass(frozen=True)
class Case:
    """One file, how it is compiled, and its test set (None: random frames)."""

    file: str
    frames: Callable[[Path], Arrays] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    calibration: Callable[[Path], np.ndarray] | None = None

    @property
    def title(self) -> str:
        """File and options."""
        words = [Path(self.file).name, *(f"--{k} {v}" for k, v in self.options.items())]
        return " ".join(words)

    def path(self, data: Path) -> Path:
        """Where the model lies."""
        return ROOT / self.file if self.file.startswith("examples") else data / "models" / self.file


def _train_raw(data: Path) -> np.ndarray:
    return mnist(data, "train")["x"][:256]


def _train_normalized(data: Path) -> np.ndarray:
    return normalized(_train_raw(data))


CASES = (
    Case("examples/digits/digits.int2.onnx", digits, {"reference": "plain"}),
    Case("examples/digits/digits.int2.onnx", digits, {"reference": "fused"}),
    Case("qonnx_tfc_2w2a_ternary.onnx", mnist_unit),
    Case("qonnx_tfc_1w2a.onnx", mnist_unit),
    Case("qonnx_tfc_1w1a.onnx", mnist_unit),
    Case("qonnx_jettagging_6b.onnx"),
    Case("brevitas/cnn_bn.qonnx.onnx", brevitas("cnn_bn")),
    Case("brevitas/cnn_bn.qcdq.onnx", brevitas("cnn_bn")),
    Case("brevitas/mlp_bn.qonnx.onnx", brevitas("mlp_bn")),
    Case("brevitas/probe_ternary.onnx"),
    Case("mlperf_dscnn_int8_qdq.onnx", keywords, {"reference": "fused"}),
    Case("mlperf_ad01_int8_qdq.onnx", None, {"reference": "fused"}),
    Case("mlperf_resnet_large_int8_qdq.onnx", cifar, {"reference": "fused"}),
    Case("ece_gray96_int8_qdq.onnx", None, {"reference": "fused"}),
    Case("mnist8_cntk.onnx", mnist, {"ternary": "sws:2", "prune": "tile:0.25"}, _train_raw),
    Case("mnist8_cntk.onnx", mnist, {"weights": "csd:3"}, _train_raw),
    Case("mnist_lenet_fyh.onnx", mnist_normalized, {"ternary": "sws:2", "prune": "tile:0.25"}, _train_normalized),
    Case("mnist_lenet_fyh.onnx", mnist_normalized, {"weights": "csd:3"}, _train_normalized),
)


def run(case: Case, data: Path, limit: int | None = None) -> tuple[tcompile.Accelerator, dict[str, Any]]:
    """Compile and verify one case.

    Returns
    -------
    (Accelerator, dict)
        The accelerator with its report, and the row of the table.
    """
    start = time.perf_counter()
    calibration = None if case.calibration is None else case.calibration(data)
    accelerator = tcompile.compile(case.path(data), calib=calibration, **case.options)
    compiled = time.perf_counter()
    if case.frames is None:
        found = accelerator.verify(samples=min(RANDOM, limit or RANDOM), simulator="model")
    else:
        arrays = case.frames(data)
        found = accelerator.verify(arrays["x"][:limit], arrays["y"][:limit], simulator="model")
    exact = accelerator.report["exactness"]
    row = {
        "case": case.title,
        "reference": found.reference,
        "verdict": exact["verdict"],
        "steps": exact["steps"],
        "steps_at_risk": exact["steps_at_risk"],
        "frames": found.samples,
        "integers": found.integers,
        "mismatches": found.mismatches,
        "other_reference": found.differences_other_reference,
        "first_other": found.located_other[0].node if found.located_other else None,
        "accuracy": found.accuracy,
        "accuracy_reference": found.accuracy_reference,
        "compile_s": round(compiled - start, 1),
        "verify_s": round(time.perf_counter() - compiled, 1),
    }
    return accelerator, row


def table(rows: list[dict[str, Any]], tools: Mapping[str, str]) -> str:
    """The rows as Markdown."""
    head = "| file | reference | verdict (steps at risk) | frames | integers | mismatches | other reference differs | accuracy | compile / verify s |"
    lines = [
        "# Exactness on real networks",
        "",
        f"`make bench`; {', '.join(f'{k} {v}' for k, v in tools.items())}. Mismatches: output integers that differ from the",
        "reference; the other reference is run too and its differences counted. Accuracy: ours / the reference's.",
        "",
        head,
        "|" + "---|" * (head.count("|") - 1),
    ]
    for r in rows:
        accuracy = "" if r["accuracy"] is None else f"{r['accuracy']:.2%} / {r['accuracy_reference']:.2%}"
        other = "-" if r["other_reference"] is None else str(r["other_reference"])
        other += f" (from {r['first_other']})" if r["first_other"] else ""
        lines.append(
            f"| {r['case']} | {r['reference']} | {r['verdict']} ({r['steps_at_risk']} of {r['steps']}) | {r['frames']}"
            f" | {r['integers']} | {r['mismatches']} | {other} | {accuracy} | {r['compile_s']} / {r['verify_s']} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Run all cases; 1 if any integer differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--limit", type=int, help="frames per case")
    parser.add_argument("--only", default="", help="part of a file name")
    options = parser.parse_args()
    if not (options.data / "models").is_dir():
        print(f"skipped: no models below {options.data}; give --data")
        return 0
    rows, tools = [], {}
    for case in CASES:
        if options.only in case.title:
            accelerator, row = run(case, options.data, options.limit)
            tools = accelerator.report["tools"]
            rows.append(row)
            print(
                f"{row['case']}: {row['mismatches']} mismatches in {row['integers']} integers, {row['verdict']}",
                flush=True,
            )
    if not options.only and not options.limit:
        Path(__file__).with_suffix(".md").write_text(table(rows, tools))
        Path(__file__).with_suffix(".json").write_text(json.dumps({"tools": tools, "rows": rows}, indent=1) + "\n")
    return int(any(r["mismatches"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
