"""Methods of the literature on the same networks, with the same budget: what `tcompile compress` gives, and its hardware.

Three networks: one like LeNet-5 on MNIST, the same of twice the width on Fashion-MNIST, ResNet-20 on CIFAR-10 as JPEG images.
Each has a float network to start from, a row per method, and a float network that was trained on for as many epochs as a
method has (the baseline of *drop*). All layers are ternary, first and last too; activations have 4 bits. Some results are
built on engines, all lanes alike, and simulated in Verilator against onnxruntime.

::

    python -m benchmarks.methods --only lenet

trains what is not in ``methods.json`` yet and writes ``methods.md``. Reads ``../shared/data`` (``--data``); works below
``build/methods`` (``--work``), where a training that was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.compression import save
from benchmarks.exactness import DATA, ROOT
from tcompile.frontend.importer import import_model
from tcompile.frontend.load import load

FILE = Path(__file__).with_suffix(".json")
PAGE = FILE.with_suffix(".md")
SEEDS = 3
SIMULATED = 4  # frames
FLOAT = "float"  # the baseline's row
Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A method with its options.

    Parameters
    ----------
    name : str
        Of files; the same in all networks.
    title : str
        What the table says.
    source : str
        Number of the method in the papers' order, as the page explains it.
    options : tuple of str
        Of ``tcompile compress``.
    config : str
        Lines of a recipe, for what has no option.
    seeds : int
    simulated : bool
        Whether the result of the first seed is built and simulated.
    """

    name: str
    title: str
    source: str
    options: tuple[str, ...] = ()
    config: str = ""
    seeds: int = 1
    simulated: bool = False


def pruned(method: str, share: float, *more: str, group: str = "tile") -> tuple[str, ...]:
    """Options of a pruner."""
    return ("--method", method, "--sparsity", str(share), "--group", group, *more)


ROWS = (
    Row("sws", "statistical scaling", "1", seeds=SEEDS, simulated=True),
    Row("sws-a8", "statistical scaling, activations of 8 bits", "1", ("--act-bits", "8"), simulated=True),
    Row("sws2", "statistical scaling, two terms", "1", ("--terms", "2")),
    Row("twn", "TWN", "-", ("--ternary", "twn")),
    Row("magnitude50", "magnitude, half of the tiles", "-", pruned("magnitude", 0.5), seeds=SEEDS),
    Row("lasso50", "group lasso, half of the tiles", "2", pruned("lasso", 0.5)),
    Row("wpc25", "clipping, a quarter of the tiles", "2", pruned("wpc", 0.25), simulated=True),
    Row("wpc25-a8", "clipping, a quarter of the tiles, activations of 8 bits", "2", pruned("wpc", 0.25, "--act-bits", "8"), simulated=True),
    Row("wpc50", "clipping, half of the tiles", "2", pruned("wpc", 0.5), seeds=SEEDS, simulated=True),
    Row("wpc50-a8", "clipping, half of the tiles, activations of 8 bits", "2", pruned("wpc", 0.5, "--act-bits", "8"), simulated=True),
    Row("wpc50-long", "clipping, half of the tiles, activations of 8 bits, 24 epochs, images flipped and shifted", "2",
        pruned("wpc", 0.5, "--act-bits", "8", "--epochs", "24", "--retrain", "16"), "flip = true\nshift = 2", simulated=True),
    Row("wpc50-two", "clipping, half of the tiles, two terms, activations of 8 bits", "1, 2", pruned("wpc", 0.5, "--terms", "2", "--act-bits", "8"),
        simulated=True),
    Row("wpc75", "clipping, three quarters of the tiles", "2", pruned("wpc", 0.75), simulated=True),
    Row("gaussian", "truncated Gaussian", "3", ("--ternary", "gaussian"), 'per = "layer"'),
    Row("rank", "low rank by search", "4", ("--low-rank", "search")),
    Row("rank-wpc50", "low rank by search, clipping, half of the tiles", "4, 2", ("--low-rank", "search", *pruned("wpc", 0.5))),
    Row("bcgd", "BCGD, weights and activations", "5", ("--ternary", "bcgd"), 'per = "layer"\nquantizer = "bcgd"'),
    Row("slr50", "SLR, half of the tiles", "6", pruned("slr", 0.5)),
    Row("admm50", "ADMM, half of the tiles", "7", pruned("admm", 0.5)),
    Row("weight50", "magnitude, half of the weights", "7", pruned("magnitude", 0.5, group="weight")),
    Row("weight70", "magnitude, 70 % of the weights", "7", pruned("magnitude", 0.7, group="weight")),
    Row("weight85", "magnitude, 85 % of the weights", "7", pruned("magnitude", 0.85, group="weight")),
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A network, its data, and how it is trained.

    Parameters
    ----------
    start : tuple of str
        Script below ``examples`` and its arguments: the float network; ``{data}``, ``{work}`` and ``{epochs}`` are filled in.
    before : tuple of tuple of str
        Scripts that are run first.
    model, frames : str
        What they write, below the network's folder.
    floats : int
        Epochs of the float network.
    epochs, options, config
        Of every method.
    rows : tuple of str
        Names of the rows that are run; all of one seed if `seeds` is 1.
    """

    name: str
    title: str
    start: tuple[str, ...]
    floats: int
    epochs: int
    model: str
    before: tuple[tuple[str, ...], ...] = ()
    options: tuple[str, ...] = ()
    config: str = ""
    rows: tuple[str, ...] = tuple(r.name for r in ROWS if r.name not in ("wpc50-long", "wpc50-two"))
    seeds: int = SEEDS


NETWORKS = (
    Network(
        "lenet", "LeNet-5-like, MNIST",
        ("lenet/train_float.py", "{data}/datasets/mnist", "-o", "{work}", "--epochs", "{epochs}"),
        6, 12, "lenet.onnx", options=("--distill", "0.5"),
    ),
    Network(
        "fashion", "LeNet-5-like of twice the width, Fashion-MNIST",
        ("lenet/train_float.py", "{data}/datasets/fashion-mnist", "-o", "{work}", "--width", "2", "--epochs", "{epochs}"),
        6, 12, "lenet.onnx", options=("--distill", "0.5"), config="retrain = 8", rows=tuple(r.name for r in ROWS),
    ),
    Network(
        "resnet20", "ResNet-20, CIFAR-10 (JPEG)",
        ("resnet20/finetune.py", "{data}/models/cifar_resnet20.onnx", "--data", "{work}/data.npz", "-o", "{work}/tuned.onnx",
         "--epochs", "{epochs}"),
        5, 8, "tuned.onnx", before=(("resnet20/prepare.py", "{data}/datasets/cifar10-jpeg", "-o", "{work}"),),
        options=("--distill", "0.5", "--rate", "0.001"), config="strength = 5e-4\nretrain = 5\nflip = true\nshift = 4",
        rows=("sws", "sws-a8", "wpc25", "wpc25-a8", "weight50", "weight70", "weight85"), seeds=1,
    ),
)  # fmt: skip


def script(words: tuple[str, ...], **values: object) -> None:
    """Run an example."""
    name, *arguments = (word.format(**values) for word in words)
    print("$", name, *arguments, flush=True)
    subprocess.run([sys.executable, str(ROOT / "examples" / name), *arguments], check=True, cwd=ROOT)


class Bench:
    """Trainings of one network below a folder."""

    def __init__(self, network: Network, data: Path, work: Path, found: Found) -> None:
        self.network, self.data, self.found = network, data, found
        self.folder = work / network.name

    def key(self, *parts: object) -> str:
        return "/".join(map(str, (self.network.name, *parts)))

    def float_network(self, folder: Path, epochs: int) -> Path:
        """A float network of so many epochs."""
        model = folder / self.network.model
        if not model.exists():
            for words in (*self.network.before, self.network.start):
                script(words, data=self.data, work=folder, epochs=epochs)
        return model

    def start(self) -> Path:
        """The float network that every method starts from."""
        return self.float_network(self.folder, self.network.floats)

    def baseline(self) -> None:
        """Accuracy of the float network after as many epochs as a method has seen."""
        epochs = self.network.floats + self.network.epochs
        if self.key(FLOAT) not in self.found:
            model = self.float_network(self.folder / "longer", epochs)
            with np.load(model.with_name("data.npz")) as arrays:
                x, y = arrays["x_test"], arrays["y_test"]
            self.keep(self.key(FLOAT), {"epochs": epochs, "test": float_accuracy(model, x, y)})

    def keep(self, key: str, result: dict[str, Any]) -> None:
        """The file is complete after each result; another process may have written in between."""
        self.found.update(read())
        self.found[key] = result
        save(FILE, self.found)
        PAGE.write_text(text(self.found), encoding="utf-8")

    def train(self, row: Row, seed: int) -> Path:
        """Compress, or go on with it."""
        out, config = (self.folder / f"{row.name}-{seed}{end}" for end in (".onnx", ".toml"))
        if not out.exists():
            start = self.start()
            config.write_text(f"{self.network.config}\n{row.config}\n", encoding="utf-8")
            words = ["compress", start, "--data", self.folder / "data.npz", "-o", out, "--config", config, "--resume"]
            words += ["--batch", 128, "--epochs", self.network.epochs, "--seed", seed]
            words += [*self.network.options, *row.options]
            print("$ tcompile", *words, flush=True)
            subprocess.run([sys.executable, "-m", "tcompile", *map(str, words)], check=True, cwd=ROOT)
        return out

    def run(self, row: Row) -> None:
        """All seeds of a row."""
        for seed in range(min(row.seeds, self.network.seeds)):
            key = self.key(row.name, seed)
            if key not in self.found:
                out = self.train(row, seed)
                self.keep(key, kept(out))
            if row.simulated and seed == 0 and "hardware" not in self.found[key]:
                out = self.train(row, seed)
                self.keep(key, self.found[key] | {"hardware": simulated(out, self.folder / "data.npz")})


def kept(model: Path) -> dict[str, Any]:
    """What the tables need of a report."""
    report = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    return {
        "recipe": report["recipe"],
        "data": report["data"]["sha256"],
        "accuracy": report["accuracy"],
        "mismatches": report["onnxruntime"]["mismatches"],
        "weights": report["weights"],
        "bytes": model.stat().st_size,
        "validation": [record["validation"] for record in report["history"]],
    }


def float_accuracy(model: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Share of frames that a float network gets right."""
    from tcompile.compress.train import evaluate, predict

    graph = import_model(load(model).model)
    return float(evaluate(predict(graph, graph.outputs[0], x.astype(np.float32)), y)[0])


def simulated(model: Path, data: Path) -> dict[str, Any]:
    """Built on engines of 8 x 8 lanes, every layer alike, and compared with onnxruntime."""
    with tempfile.TemporaryDirectory() as folder, np.load(data) as arrays:
        design, frames = Path(folder, "design"), Path(folder, "frames.npz")
        np.savez(frames, x=arrays["x_test"][:SIMULATED], y=arrays["y_test"][:SIMULATED])
        lanes = ("--form", "engine", "--pe", "8", "--simd", "8")
        command = [sys.executable, "-m", "tcompile"]
        subprocess.run([*command, "build", str(model), "-o", str(design), "-q", *lanes], check=True, cwd=ROOT)
        subprocess.run([*command, "verify", str(design), "-q", "--inputs", str(frames)], check=True, cwd=ROOT)
        report = json.loads((design / "report.json").read_text(encoding="utf-8"))
    performance, verification = report["performance"], report["verification"]
    return {
        "verdict": report["exactness"]["verdict"],
        "samples": verification["samples"],
        "mismatches": verification["mismatches"],
        "interval": performance["ii_cycles"],
        "interval_simulated": performance["ii_cycles_simulated"],
        "latency_simulated": performance["latency_cycles_simulated"],
        "layers": {layer["name"]: layer["cycles_predicted"] for layer in report["layers"] if layer["tiles"]},
    }


# What is written

HEAD = (
    "method", "of", "options", "seeds", "**test, %**", "drop, points", "zero tiles", "zeros", "smaller (whole, 2-bit layers)", "file, bytes",
    "cycles per frame",
)  # fmt: skip
SOURCES = (
    "*of*: 1 He, Gong, Fan (statistical weight scaling); 2 Yang, He, Fan (Weight Penalty Clipping); 3 He, Fan (truncated Gaussian);",
    "4 HALOC (low rank); 5 Yin et al. (BCGD); 6 SLR; 7 Ma et al. (structured or not, ADMM).",
)


def spread(values: list[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def text(found: Found) -> str:
    """The page."""
    lines = [
        "# Methods beside each other",
        "",
        "`python -m benchmarks.methods`: networks trained by `tcompile compress` on a processor, every method for as many epochs; where there is pruning",
        "its last third, or `retrain` epochs, train the survivors. Schedules are short: compare rows, not papers. All layers are ternary, first and last too; activations",
        "have 4 bits where nothing else is said. *Float*: the network that every method starts from, and the same trained for as many epochs as a method",
        "has seen in all; *drop* is against the better of the two. Nothing was chosen on test frames; onnxruntime computes torch's scores bit for bit on every test",
        "frame. Mean and sample standard deviation over seeds. *Smaller*: whole model, and layers of 2 bits, against 32 bits per weight.",
        "*Cycles*: slowest layer on engines of 8 x 8 lanes.",
        *SOURCES,
    ]
    for network in NETWORKS:
        lines += list(section(network, found))
    return "\n".join([*lines, ""])


def results(network: Network, row: Row, found: Found) -> list[dict[str, Any]]:
    keys = (f"{network.name}/{row.name}/{seed}" for seed in range(SEEDS))
    return [found[k] for k in keys if k in found]


def section(network: Network, found: Found) -> Iterator[str]:
    """A network: its accuracies, its hardware, its curves."""
    rows = [(row, seen) for row in ROWS if (seen := results(network, row, found))]
    if not rows:
        return
    start = 100 * rows[0][1][0]["accuracy"]["test_float"]
    longer = found.get(f"{network.name}/{FLOAT}")
    also = f", after {longer['epochs']} epochs {100 * longer['test']:.2f} %" if longer else ""
    best = max(start, 100 * longer["test"]) if longer else start
    common = " ".join(("--batch 128 --epochs", str(network.epochs), *network.options))
    recipe = f"; recipe: `{', '.join(network.config.splitlines())}`" if network.config else ""
    yield from ("", f"## {network.title}", "")
    yield f"Float after {network.floats} epochs {start:.2f} %{also}. All methods: `{common}`{recipe}."
    yield from ("", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD))
    yield from ("| " + " | ".join(cells(row, seen, best)) + " |" for row, seen in rows)
    hardware = [(row, seen[0]) for row, seen in rows if "hardware" in seen[0]]
    if hardware:
        yield from ("", f"In Verilator, {SIMULATED} test frames, engines of 8 x 8 lanes in every layer:", "")
        yield from built(hardware)
    yield from ("", "Validation accuracy by epoch, in percent, from the calibrated start on (first seed):", "")
    yield from (f"- {row.title}: {' '.join(f'{100 * v:.1f}' for v in seen[0]['validation'])}" for row, seen in rows)


def cells(row: Row, seen: list[dict[str, Any]], best: float) -> list[str]:
    """A row of the table of accuracies."""
    tests = [100 * r["accuracy"]["test"] for r in seen]
    weights = [r["weights"] for r in seen]
    few = [w["rate_layers"] for w in weights if w["rate_layers"] is not None]
    recipe = "".join(f"; `{k} = {v!r}`" for k, v in tomllib.loads(row.config).items())
    return [
        row.title, row.source, (f"`{' '.join(row.options)}`" if row.options else "-") + recipe, str(len(seen)), f"**{spread(tests)}**",
        f"{best - mean(tests):.2f}", f"{mean(w['tile_sparsity'] for w in weights):.1%}", f"{mean(w['zeros'] for w in weights):.1%}",
        f"{mean(w['rate_model'] for w in weights):.1f}x, " + (f"{mean(few):.1f}x" if few else "-"),
        str(round(mean(r["bytes"] for r in seen))), str(round(mean(w["cycles"] for w in weights))),
    ]  # fmt: skip


def built(rows: list[tuple[Row, dict[str, Any]]]) -> Iterator[str]:
    """Cycles in hardware against tiles; the speed-up is against no pruning with as many bits of activations."""
    head = (
        "method", "zero tiles", "certificate", "mismatches", "interval, predicted", "simulated", "speed-up", "cycles of all layers",
    )  # fmt: skip
    yield from ("| " + " | ".join(head) + " |", "|" + "---|" * len(head))
    dense = {
        seen["recipe"]["act_bits"]: seen["hardware"]["interval_simulated"]
        for _, seen in rows
        if not seen["weights"]["tile_sparsity"]
    }
    for row, seen in rows:
        h = seen["hardware"]
        whole = dense.get(seen["recipe"]["act_bits"])
        line = (
            row.title, f"{seen['weights']['tile_sparsity']:.1%}", h["verdict"], f"{h['mismatches']} in {h['samples']} frames",
            h["interval"], h["interval_simulated"], f"{whole / h['interval_simulated']:.2f}" if whole else "-", sum(h["layers"].values()),
        )  # fmt: skip
        yield "| " + " | ".join(map(str, line)) + " |"


def read() -> Found:
    """What was found so far."""
    found: Found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return found


def main() -> int:
    """Train what is missing, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[n.name for n in NETWORKS], action="append", help="networks; all without")
    parser.add_argument("--rows", nargs="*", help=f"names of rows, {FLOAT} among them; all without")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "methods")
    given = parser.parse_args()
    found = read()
    for network in NETWORKS:
        if given.only and network.name not in given.only:
            continue
        bench = Bench(network, given.data, given.work, found)
        for row in ROWS:
            if row.name in network.rows and (not given.rows or row.name in given.rows):
                bench.run(row)
        if not given.rows or FLOAT in given.rows:
            bench.baseline()
    PAGE.write_text(text(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
