"""Float files without training: what few signed digits and few bits of activations cost in accuracy.

For each file with a test set: the float file in onnxruntime, and the file that `tcompile build --weights csd:N --act-bits B
--calib ...` compiles, in onnxruntime too (its integers are the accelerator's), on the same frames. Calibrated on 128 training
frames; of DS-CNN, which has no training set here, on the first 128 frames, and tested on the others. No setting of a
row is chosen on test frames, but the passes were developed while looking at results on some of them. ``python -m benchmarks.planes`` does what is not in ``planes.json`` yet and writes ``planes.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exactness import DATA, cifar, keywords, mnist, normalized
from tcompile.frontend import load
from tcompile.frontend.export import export
from tcompile.frontend.importer import import_model
from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.options import BuildOptions
from tcompile.passes import csd
from tcompile.pipeline import compressed
from tcompile.reference import Session

CALIBRATION = 128
Part = tuple[np.ndarray, np.ndarray]


def _images(data: Path, test: bool, count: int, folder: str) -> Part:
    if folder == "cifar10":
        arrays = cifar(data, "test" if test else "train_1", count)
    else:
        arrays = mnist(data, "t10k" if test else "train", folder)
    return arrays["x"][:count], arrays["y"][:count]


def words(data: Path, test: bool, count: int) -> Part:
    arrays = keywords(data)
    part = slice(CALIBRATION, CALIBRATION + count) if test else slice(count)
    return arrays["x"][part], arrays["y"][part]


def _standardized(x: np.ndarray, mean: tuple[float, ...], deviation: tuple[float, ...]) -> np.ndarray:
    m, d = (np.array(c, np.float32).reshape(3, 1, 1) for c in (mean, deviation))
    return np.asarray((x / 255 - m) / d, np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.float32(255)


def symmetric(x: np.ndarray) -> np.ndarray:
    return x / np.float32(127.5) - 1


def _raw(x: np.ndarray) -> np.ndarray:
    return x


IMAGENET = partial(_standardized, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
CIFAR = partial(_standardized, mean=(0.4914, 0.4822, 0.4465), deviation=(0.2023, 0.1994, 0.2010))


@dataclass(frozen=True)
class Subject:
    """A file, its data, and the number of test frames."""

    file: str
    data: Callable[[Path, bool, int], Part]
    prepare: Callable[[np.ndarray], np.ndarray] = _raw
    frames: int = 2000

    def part(self, data: Path, test: bool) -> Part:
        """Frames as the network takes them, and classes."""
        x, y = self.data(data, test, self.frames if test else CALIBRATION)
        return self.prepare(x), y


DIGITS, CLOTHES, THINGS = (partial(_images, folder=f) for f in ("mnist", "fashion-mnist", "cifar10"))
SUBJECTS = (
    Subject("mnist8_cntk", DIGITS),
    Subject("mnist_lenet_fyh", DIGITS, normalized),
    Subject("mnist_cnn_pool_pcelis", DIGITS, unit),
    Subject("mnist_opt_wonnx", DIGITS, unit),
    Subject("mnist_cnn_codeman", DIGITS, normalized),
    Subject("fashion_mlp_shahjahan", CLOTHES, symmetric),
    Subject("mlperf_dscnn_fp32", words, frames=872),
    Subject("cifar_lenet_jnulzl", THINGS, symmetric),
    Subject("cifar_cnn_winml", THINGS, symmetric),
    Subject("mlperf_resnet8_fp32", THINGS),
    Subject("mlperf_resnet_large_fp32", THINGS, frames=1000),
    Subject("cifar_resnet20_folded", THINGS, IMAGENET, 1000),
    Subject("cifar_resnet20_onnc", THINGS, CIFAR, 1000),
)
SETTINGS: tuple[dict[str, Any], ...] = (
    *({"weights": f"csd:{n}", "act_bits": 8} for n in (1, 2, 3, 4)),
    *({"weights": "csd:3", "act_bits": b} for b in (6, 4)),
    *({"weights": "csd:3", "act_bits": b, "equalize": True} for b in (8, 4)),
)


def title(setting: dict[str, Any]) -> str:
    """A setting as a column's head."""
    return f"{setting['weights']}, {setting['act_bits']} bits" + (", equalized" if "equalize" in setting else "")


def scores(graph: Graph, x: np.ndarray) -> np.ndarray:
    """First output of each frame, flat."""
    session = Session(export(graph))
    shape = graph.all(R.Input)[0].type.shape
    return np.array([session({session.inputs[0]: f.reshape(shape)})[session.outputs[0]].ravel() for f in x])


def additions(graph: Graph) -> float:
    """Nonzero signed digits per weight."""
    digits = count = 0
    for layer in graph.all(R.Linear):
        codes = graph[graph[layer.inputs[1]].inputs[0]]
        assert isinstance(codes, R.Const)
        values, numbers = np.unique(codes.value.array, return_counts=True)
        digits += sum(sum(map(abs, csd(int(v)))) * int(n) for v, n in zip(values, numbers, strict=True))
        count += codes.value.array.size
    return digits / count


def measure(subject: Subject, data: Path, known: dict[str, Any], save: Callable[[], None]) -> None:
    """Fill in the missing settings of a file."""
    missing = [s for s in SETTINGS if title(s) not in known]
    if not missing:
        return
    path = data / "models" / f"{subject.file}.onnx"
    graph = import_model(load(path).model)
    x, y = subject.part(data, True)
    tensor = graph.all(R.Input)[0].origin.tensor
    samples = {tensor: subject.part(data, False)[0]}
    plain = scores(graph, x)
    known["float"] = {"accuracy": float((plain.argmax(axis=1) == y).mean()), "frames": len(x)}
    for setting in missing:
        small, _ = compressed(graph, BuildOptions(**setting), samples)
        found = scores(small, x)
        known[title(setting)] = {
            "accuracy": float((found.argmax(axis=1) == y).mean()),
            "agreement": float((found.argmax(axis=1) == plain.argmax(axis=1)).mean()),
            "error": float(((found - plain) ** 2).sum() / ((plain - plain.mean(axis=0)) ** 2).sum()),
            "additions": additions(small),
        }
        save()
        print(subject.file, title(setting), known[title(setting)], flush=True)


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    titles = [title(s) for s in SETTINGS]
    lines = [
        "# Float files without training",
        "",
        "`python -m benchmarks.planes`. Accuracy of the float file in onnxruntime, and by how many points the compiled file's is lower, on",
        "the same test frames (a fall below 0 is a rise); in parentheses the additions per weight, its nonzero signed digits. With 1000 frames",
        "a point is ten frames. Calibrated on 128 training frames.",
        "",
        f"| file | frames | float | {' | '.join(titles)} |",
        "|" + "---|" * (len(titles) + 3),
    ]
    for file, known in results.items():
        cells = [_cell(known, t) for t in titles]
        start = f"| {file} | {known['float']['frames']} | {known['float']['accuracy']:.2%}"
        lines.append(f"{start} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(known: dict[str, Any], name: str) -> str:
    if name not in known:
        return ""
    drop = 100 * (known["float"]["accuracy"] - known[name]["accuracy"])
    return f"{drop + 0.0:.2f} ({known[name]['additions']:.2f})"


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default="", help="part of a file name")
    options = parser.parse_args()
    store = Path(__file__).with_suffix(".json")
    results: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}

    def save() -> None:
        store.write_text(json.dumps(results, indent=1) + "\n")
        store.with_suffix(".md").write_text(
            table({s.file: results[s.file] for s in SUBJECTS if "float" in results.get(s.file, {})})
        )

    for subject in SUBJECTS:
        if options.only in subject.file:
            measure(subject, options.data, results.setdefault(subject.file, {}), save)
    save()


if __name__ == "__main__":
    main()
