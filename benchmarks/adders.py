"""Adder graphs of random ternary matrices: adders, depth and bits, beside those of da4ml.

`python -m benchmarks.adders --da4ml-python PATH` names the interpreter of an environment with da4ml (``pip install
da4ml``); without it da4ml's columns stay empty. Writes ``benchmarks/adders.md`` and ``.json``; 1 if a graph has more
adders or levels than da4ml's. Every graph is checked to give its matrix back. A negated output of ours counts as an
adder; da4ml's negations are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CASES = [(64, 64, 0.0, 1), *((64, columns, s, 0) for columns in (64, 128, 576) for s in (0.5, 0.8, 0.9))]
FIELDS = ("adders", "depth", "bits4", "bits8", "seconds")
LIMIT = 3600.0  # seconds for da4ml on one case
SLOW = 8000  # terms from which on only the first seed is compared: minutes of da4ml's time


def random_matrix(rows: int, columns: int, sparsity: float, seed: int) -> np.ndarray:
    """A ternary matrix, of which a share of about `sparsity` is 0."""
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 2, (rows, columns)) * 2 - 1) * (generator.random((rows, columns)) >= sparsity)


def ours(case: tuple[int, int, float, int], seed: int, effort: int) -> dict[str, float]:
    """Figures of one graph of `tcompile.adders`."""
    from tcompile.adders import Objective, search
    from tcompile.adders.cost import adder_bits, adders

    matrix = random_matrix(*case[:3], seed)
    start = time.process_time()
    graph = search(matrix, Objective(depth=case[3], effort=effort))
    seconds = time.process_time() - start
    bits = [adder_bits(graph, [(0, hi)] * graph.inputs) for hi in (15, 255)]
    return dict(zip(FIELDS, (adders(graph), graph.depth, *bits, seconds), strict=True))


def theirs(case: tuple[int, int, float, int], seed: int) -> dict[str, float]:
    """Figures of one graph of da4ml, by its own search over depths; runs in da4ml's environment."""
    from da4ml.cmvm import solve
    from da4ml.types import QInterval

    matrix = random_matrix(*case[:3], seed)
    inputs = [QInterval(0.0, 15.0, 1.0)] * case[1]
    start = time.process_time()
    solution = solve(np.ascontiguousarray(matrix.T, np.float32), qintervals=inputs)
    seconds = time.process_time() - start
    sums = [op.qint for stage in solution.solutions for op in stage.ops if op.opcode in (0, 1)]

    def bits(factor: int) -> int:
        ends = [(round(q.min / q.step) * factor, round(q.max / q.step) * factor) for q in sums]
        return sum(hi.bit_length() if lo >= 0 else 1 + max((-lo - 1).bit_length(), hi.bit_length()) for lo, hi in ends)

    depth = max(solution.latency)
    return dict(zip(FIELDS, (len(sums), depth, bits(1), bits(17), seconds), strict=True))  # 255 = 17 * 15


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {field: round(median(run[field] for run in runs), 3) for field in FIELDS}


def peer(python: str, case: int, seeds: int) -> dict[str, float]:
    """Medians of da4ml for a case, in its own interpreter."""
    command = [python, str(Path(__file__).resolve()), "--as-da4ml", str(case), "--seeds", str(seeds)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def table(results: list[dict[str, Any]], effort: int, seeds: int) -> str:
    """The results as Markdown."""
    lines = [
        f"# Adder graphs of random ternary matrices: median of {seeds} seeds, effort {effort}",
        "",
        "Adders, depth, bits of all adders with unsigned inputs of 4 and 8 bits, CPU seconds; da4ml's after the stroke,",
        "then ours through da4ml's. Both have the first seed only where da4ml takes minutes (64 x 576 at 0.5). Ours keep to",
        "the least possible depth; 64 x 64 without zeros may take one level more. Made by `python -m benchmarks.adders`.",
        "",
        "| matrix | sparsity | adders | depth | bits, A = 4 | bits, A = 8 | seconds | adders | bits, A = 4 | bits, A = 8 |",
        "|" + "---|" * 10,
    ]
    for r in results:
        mine, other = r["tcompile"], r["da4ml"]
        cells = [f"{r['rows']} x {r['columns']}", f"{r['sparsity']}"]
        for field in FIELDS:
            both = [f"{x[field]:.2f}" if field == "seconds" else f"{x[field]:.0f}" for x in (mine, other) if x]
            cells.append(" / ".join(both))
        ratios = [f"{mine[f] / other[f]:.3f}" if other else "" for f in ("adders", "bits4", "bits8")]
        lines.append("| " + " | ".join(cells + ratios) + " |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Adder graphs beside da4ml's")
    parser.add_argument("--da4ml-python", help="interpreter of an environment with da4ml")
    parser.add_argument("--effort", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "adders", help="without ending")
    parser.add_argument("--as-da4ml", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def compared(number: int, a: argparse.Namespace) -> dict[str, Any]:
    """Figures of a case."""
    rows, columns, sparsity, further = case = CASES[number]
    seeds = 1 if a.da4ml_python and rows * columns * (1 - sparsity) > SLOW else a.seeds
    return {
        "rows": rows,
        "columns": columns,
        "sparsity": sparsity,
        "further": further,
        "tcompile": medians([ours(case, seed, a.effort) for seed in range(seeds)]),
        "da4ml": peer(a.da4ml_python, number, seeds) if a.da4ml_python else None,
        "seeds": seeds,
    }


def main() -> int:
    a = arguments()
    if a.as_da4ml is not None:
        case = CASES[a.as_da4ml]
        print(json.dumps(medians([theirs(case, seed) for seed in range(a.seeds)])))
        return 0
    ours((4, 4, 0.5, 0), 0, 1)  # compiles
    results = []
    for number in range(len(CASES)):
        results.append(compared(number, a))
        print(results[-1], flush=True)
    text = table(results, a.effort, a.seeds)
    found = {"effort": a.effort, "seeds": a.seeds, "results": results}
    a.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    a.out.with_suffix(".md").write_text(text)
    print(text)
    pairs = [(r["tcompile"], r["da4ml"]) for r in results if r["da4ml"]]
    return int(any(mine[f] > other[f] for mine, other in pairs for f in ("adders", "depth")))


if __name__ == "__main__":
    sys.exit(main())
