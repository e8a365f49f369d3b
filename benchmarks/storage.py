"""Structured against unstructured pruning at equal accuracy: bits that are stored, and cycles of the compiled accelerator.

The question of "Non-structured DNN weight pruning - is it beneficial in any platform?" (Ma et al., TNNLS 2022), asked of
this accelerator. One ternary network is trained, then pruned to several shares of tiles and of single weights, and the
survivors trained. Bits of a layer with w bits per weight:

    dense      every weight
    relative   w and an index of b bits per weight that is not zero: the zeros since the last one; where they are more
               than 2^b - 1, a zero is stored as a filler. The best b of 1 to 8, layer by layer
    bitmap     one bit per weight, and w per weight that is not zero
    tiles      w per weight of a tile that holds one, padding included
    memories   what the accelerator holds: weights of kept tiles and the schedule that names them

Cycles of a frame are those of the pipeline's cycle model, with channels as they are and reordered so that zeros gather in
tiles. ``python -m benchmarks.storage`` reads ``../shared/data`` and writes ``benchmarks/storage.md`` and ``.json``; what is in the
``.json`` already is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compression import LANES, Bench, Job, Network, Setting, integers, save
from benchmarks.exactness import DATA
from tcompile.mapping.network import Mapped, map_network
from tcompile.mapping.plan import Choice
from tcompile.passes.tile_view import TileView

FILE = Path(__file__).with_suffix(".json")
TERNARY = 2  # bits of a weight
WIDTHS = range(1, 9)  # of an index
SHARES = {"tile": (0.0, 0.5, 0.25, 0.75), "weight": (0.75, 0.9, 0.5)}
Row = dict[str, Any]


def relative_bits(weights: np.ndarray, bits: int, index: int) -> int:
    """Bits of a layer with relative indices of a width, weights in their order in memory.

    Parameters
    ----------
    weights : int array
    bits : int
        Of a weight.
    index : int
        Bits of an index.
    """
    places = np.flatnonzero(weights.reshape(-1))
    zeros = np.diff(places, prepend=-1) - 1
    fillers = int((zeros >> index).sum())  # each stands for 2^index zeros: those that its index skips, and itself
    return (len(places) + fillers) * (bits + index)


def best_relative(weights: np.ndarray, bits: int) -> tuple[int, int]:
    """Bits with the index width that takes least, and that width; of equal ones the narrowest."""
    return min((relative_bits(weights, bits, b), b) for b in WIDTHS)


def bitmap_bits(weights: np.ndarray, bits: int) -> int:
    """Bits of a layer with a map of what is not zero."""
    return weights.size + bits * int(np.count_nonzero(weights))


def tile_bits(weights: np.ndarray, bits: int, view: TileView) -> int:
    """Bits of the tiles that hold a weight."""
    cut = view.blocks(weights)
    kept = (cut != 0).any(axis=(4, 5))
    return int(kept.sum()) * cut.shape[4] * cut.shape[5] * bits


def memory_bits(mapped: Mapped) -> int:
    """Bits of the accelerator's weight memories and schedules."""
    return sum(
        len(words) * instance.block.memories[name].width
        for instance in mapped.design.instances
        if "weights" in instance.block.memories
        for name, words in instance.memories.items()
    )


def measured(net: Network) -> Row:
    """What a ternary network takes."""
    layers = [(layer, layer.codes()) for layer in net.layers]  # type: ignore[operator]
    best = [best_relative(codes, TERNARY) for _, codes in layers]
    graph = integers(net)
    plain, reordered = (map_network(graph, Choice(LANES, LANES, permute=p)) for p in (False, True))
    return {
        "weights": sum(codes.size for _, codes in layers),
        "nonzero": sum(int(np.count_nonzero(codes)) for _, codes in layers),
        "dense": sum(codes.size for _, codes in layers) * TERNARY,
        "relative": sum(b for b, _ in best),
        "widths": [w for _, w in best],
        "bitmap": sum(bitmap_bits(codes, TERNARY) for _, codes in layers),
        "tiles": sum(
            tile_bits(codes, TERNARY, TileView.of(codes.shape, LANES, LANES, image=layer.image))  # type: ignore[arg-type]
            for layer, codes in layers
        ),
        "memories": memory_bits(plain),
        "cycles": plain.interval,
        "cycles all": sum(p.cycles for p in plain.plans.values()),
        "cycles reordered": reordered.interval,
        "cycles all reordered": sum(p.cycles for p in reordered.plans.values()),
    }


def rows(bench: Bench, job: Job, done: set[tuple[str, float]]) -> Iterator[Row]:
    """One network, pruned in all ways that are not done yet."""
    todo = [(g, s) for g, shares in SHARES.items() for s in shares if (g, s) not in done]
    net = bench.drawn(job)[0] if todo else None
    for group, share in todo:
        assert net is not None
        pruned, seen = bench.pruned(net, job, share, group)
        found = {k: round(seen[k], 5) for k in ("validation", "test")}
        yield {"network": job.network, "data": job.data, "group": group, "share": share, **found} | measured(pruned)


HEAD = (
    "| network | pruned | share | test, % | not zero | dense | relative (b) | bitmap | tiles | memories | cycles, slowest |"
    " all layers | reordered | all layers |"
)


def text(found: list[Row]) -> str:
    """The results as Markdown."""
    lines = [
        "# Structured and unstructured pruning: stored bits and cycles",
        "",
        f"`python -m benchmarks.storage`; ternary weights, {LANES} x {LANES} lanes per layer, one seed. Bits of all layers; (b) are the best index",
        "widths, layer by layer; *memories* are the accelerator's own, schedules included. Cycles per frame: of the pipeline,",
        "which its slowest layer decides (lenet's first is never pruned), and summed over layers; *reordered*: channels permuted",
        "so that zeros gather in tiles. Equal integers, so any difference in accuracy is the pruning's.",
        "",
        HEAD,
        "|" + "---|" * (HEAD.count("|") - 1),
    ]
    found = sorted(found, key=lambda r: (r["network"], r["data"], r["share"] > 0, r["group"], r["share"]))
    return "\n".join([*lines, *map(_line, found), "", *_equal(found), ""])


def _line(r: Row) -> str:
    widths = ", ".join(map(str, r["widths"]))
    return (
        f"| {r['network']}, {r['data']} | {r['group'] if r['share'] else '-'} | {r['share']:.1%} | {100 * r['test']:.2f}"
        f" | {r['nonzero'] / r['weights']:.1%} | {r['dense']} | {r['relative']} ({widths}) | {r['bitmap']} | {r['tiles']}"
        f" | {r['memories']} | {r['cycles']} | {r['cycles all']} | {r['cycles reordered']} | {r['cycles all reordered']} |"
    )


def _equal(found: list[Row]) -> Iterator[str]:
    """Beside each unstructured network the sparsest structured one that validates at least as well."""
    for key in sorted({(r["network"], r["data"]) for r in found}):
        mine = [r for r in found if (r["network"], r["data"]) == key]
        (whole,) = [r for r in mine if not r["share"]]
        yield f"At equal accuracy or better ({', '.join(key)}): beside each unstructured network the sparsest in tiles that validates"
        yield "at least as well. *Rate*: weights that are not zero, before and after; *speed-up*: cycles of all layers."
        yield ""
        yield "| pruned | validation, % | least bits | in the accelerator | cycles, all layers | rate | speed-up | rate / speed-up |"
        yield "|---|---|---|---|---|---|---|---|"
        for weight in (r for r in mine if r["group"] == "weight"):
            rivals = [r for r in mine if r["group"] == "tile" and r["validation"] >= weight["validation"]]
            for r in (weight, *([max(rivals, key=lambda r: r["share"])] if rivals else [])):
                yield _compared(r, whole)
        yield ""


def _compared(r: Row, whole: Row) -> str:
    kinds = ("relative", "bitmap", "dense") if r["group"] == "weight" else ("tiles",)
    least = min(kinds, key=lambda k: r[k])
    rate, speed = whole["nonzero"] / r["nonzero"], whole["cycles all"] / r["cycles all"]
    return (
        f"| {r['group']}, {r['share']:.0%} | {100 * r['validation']:.2f} | {r[least]} ({least}) | {r['memories']} | {r['cycles all']}"
        f" | {rate:.2f} | {speed:.2f} | {rate / speed:.2f} |"
    )


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA, help="default: %(default)s")
    parser.add_argument("--network", default="mlp")
    parser.add_argument("--set", default="MNIST")
    options = parser.parse_args()
    if not (options.data / "datasets").is_dir():
        print(f"skipped: no data sets below {options.data}")
        return 0
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    found: list[Row] = json.loads(FILE.read_text()) if FILE.exists() else []
    job = Job(options.network, options.set, "ternary", Setting("none"), 0)
    done = {(r["group"], r["share"]) for r in found if (r["network"], r["data"]) == (job.network, job.data)}
    for row in rows(Bench(options.data), job, done):
        found.append(row)
        save(FILE, found)
        print(json.dumps(row), flush=True)
    FILE.with_suffix(".md").write_text(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
