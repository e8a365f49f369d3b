"""What trainings gave: reports of ``tcompile compress`` as one table.

::

    python -m benchmarks.training --name "LeNet-5-like, MNIST" build/lenet/small.json ...

adds reports (the ``.json`` beside each written network) to ``training.json`` beside this file and writes ``training.md``. Without
reports the page is written again. Rows whose recipes differ in the seed alone are one: mean, and sample standard deviation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tcompile.compress.recipe import Recipe

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_suffix(".md")
LONG = ("pe", "simd", "method", "sparsity", "cycles", "target", "fps", "group", "ternary", "terms", "act_bits", "epochs", "retrain", "batch",
        "rate", "distill", "low_rank")  # fmt: skip
HEAD = (
    "network", "options that are not the default's", "seeds", "epochs", "float, %", "**test, %**", "drop, points", "zero tiles", "zeros",
    "smaller (whole, 2-bit layers)", "file, bytes", "lanes", "cycles per frame",
)  # fmt: skip


def kept(path: Path) -> dict[str, Any]:
    """What the table needs of a report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    model = path.with_suffix(".onnx")
    return {
        "tcompile": report["tcompile"],
        "recipe": report["recipe"],
        "data": report["data"]["sha256"],
        "frames": report["frames"],
        "accuracy": report["accuracy"],
        "mismatches": report["onnxruntime"]["mismatches"],
        "weights": report["weights"],
        "bytes": model.stat().st_size,
        "validation": [record["validation"] for record in report["history"]],
    }


def options(recipe: Mapping[str, Any]) -> str:
    """The command's options that are not the defaults."""
    usual = Recipe().model_dump(mode="json")
    other = {k: v for k, v in recipe.items() if k != "seed" and v != usual.get(k)}
    words = [f"--{k.replace('_', '-')} {v}" for k, v in other.items() if k in LONG]
    in_recipe = [f"{k} = {json.dumps(v)}" for k, v in other.items() if k not in LONG]
    return "`" + " ".join(words) + "`" + ("; recipe: `" + ", ".join(in_recipe) + "`" if in_recipe else "")


def text(rows: Mapping[str, dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Trainings",
        "",
        "`python -m benchmarks.training`: reports of `tcompile compress`, on processors. All layers are ternary, first and last too; *drop* is",
        "against the float network of the file on the same test frames. Epochs are few; nothing was chosen on test frames.",
        "onnxruntime computes torch's scores bit for bit on every test frame. Lanes and cycles: engines of PE x SIMD, slowest layer.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
    ]
    lines += ["| " + " | ".join(cells) + " |" for cells in table(rows)]
    curves = [f"- {r['name']}, {options(r['recipe'])}, seed {r['recipe']['seed']}: {curve(r)}" for r in rows.values()]
    return "\n".join(
        [*lines, "", "Validation accuracy by epoch, in percent, from the calibrated start on:", "", *curves, ""]
    )


def curve(row: Mapping[str, Any]) -> str:
    """Validation accuracies."""
    return " ".join(f"{100 * v:.1f}" for v in row["validation"])


def table(rows: Mapping[str, dict[str, Any]]) -> Iterator[list[str]]:
    """A row for all seeds of a recipe."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows.values():
        groups.setdefault((row["name"], options(row["recipe"])), []).append(row)
    for (name, words), found in groups.items():
        tests, floats = ([100 * r["accuracy"][k] for r in found] for k in ("test", "test_float"))
        weights = [r["weights"] for r in found]
        recipe = found[0]["recipe"]
        few = [w["rate_layers"] for w in weights if w["rate_layers"] is not None]
        smaller = f"{mean(w['rate_model'] for w in weights):.1f}x, " + (f"{mean(few):.1f}x" if few else "-")
        yield [
            name, words, str(len(found)), str(recipe["epochs"]), _spread(floats), f"**{_spread(tests)}**",
            f"{mean(floats) - mean(tests):.2f}", f"{mean(w['tile_sparsity'] for w in weights):.1%}",
            f"{mean(w['zeros'] for w in weights):.1%}", smaller, str(round(mean(r["bytes"] for r in found))),
            f"{recipe['pe']} x {recipe['simd']}", str(round(mean(w["cycles"] for w in weights))),
        ]  # fmt: skip


def _spread(values: list[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def main() -> int:
    """Add reports, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="*", type=Path)
    parser.add_argument("--name", help="of the network and the data")
    given = parser.parse_args()
    if given.reports and not given.name:
        parser.error("reports need the name of their network and data: --name")
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for path in given.reports:
        row = {"name": given.name, **kept(path)}
        rows[json.dumps([given.name, row["recipe"]], sort_keys=True)] = row
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(text(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
