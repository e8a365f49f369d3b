"""Channel permutation: tiles kept and cycles before and after, on networks whose zeros lie in different ways.

`OPENBLAS_NUM_THREADS=1 python -m benchmarks.permutation` makes ternary networks with random weights, no data needed, permutes their channels
and writes ``benchmarks/permutation.md`` and ``.json``; 1 if a network got slower or its integers changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph
from tcompile.ir.interpret import interpret
from tcompile.ir.requantizers import Shift
from tcompile.mapping.folding import Fold
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import linear
from tcompile.mapping.permute import permutation
from tcompile.mapping.schedule import tiled
from tests.networks import Builder, frames_of

LANES = 8  # PE and SIMD
HEAD = "| network | zeros | tiles | kept | kept after | cycles | cycles after | of before | slowest layer | after | seconds |"


def unstructured(keep: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Which weights stay: any, one by one."""
    return lambda rng, shape: rng.random(shape) < keep


def slices(rows: float, columns: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Which weights stay: those of some filters and some input channels."""

    def mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        found = np.ones(shape, bool)
        for axis, share in ((0, rows), (1, columns)):
            gone = rng.permutation(shape[axis])[round(share * shape[axis]) :]
            np.moveaxis(found, axis, 0)[gone] = False
        return found

    return mask


def tiles(keep: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Which weights stay: whole tiles of one tap."""

    def mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        blocks = [-(-n // LANES) for n in shape[:2]]
        kept = rng.random((*blocks, *shape[2:])) < keep
        return kept.repeat(LANES, 0).repeat(LANES, 1)[: shape[0], : shape[1]]

    return mask


ZEROS = {
    "90 % of single weights": unstructured(0.1),
    "95 % of single weights": unstructured(0.05),
    "half of the filters": slices(0.5, 1.0),
    "half of filters and of input channels": slices(0.5, 0.5),
    "75 % of tiles, then shuffled": tiles(0.25),
    "90 % of tiles, then shuffled": tiles(0.1),
}


@dataclass
class Maker:
    """Makes networks; channels that keep a common order have a common key, by which they are shuffled."""

    mask: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    b: Builder = field(default_factory=Builder)
    orders: dict[str, np.ndarray] = field(default_factory=dict)

    def weights(self, shape: tuple[int, ...], rows: str, columns: str) -> np.ndarray:
        """Random ternary weights; without a key the channels stay."""
        w = self.rng.choice([-1, 1], shape) * self.mask(self.rng, shape)
        for axis, key in enumerate((rows, columns)):
            if key:
                w = w.take(self.orders.setdefault(key, self.rng.permutation(shape[axis])), axis)
        return w

    def codes(self, x: str, lo: int = 0) -> str:
        zero = np.zeros(1, np.int64)
        return self.b.requantize(x, Shift(zero > 0, 1, zero, "up", zero + lo, zero + lo + 15, bits=zero + 2))

    def conv(self, x: str, rows: int, keys: tuple[str, str], kernel: int = 3, stride: int = 1, lo: int = 0) -> str:
        weight = self.weights((rows, self.b.shape(x)[1], kernel, kernel), *keys)
        return self.codes(self.b.conv(x, weight, (stride,) * 2, (kernel // 2,) * 4), lo)

    def depthwise(self, x: str, stride: int) -> str:
        weight = self.rng.choice([-1, 1], (self.b.shape(x)[1], 1, 3, 3))
        return self.codes(self.b.conv(x, weight, (stride,) * 2, (1,) * 4, group=len(weight)))


def layer(kernel: int) -> Callable[[Maker], Graph]:
    """A layer of 64 channels to 64, both free, between two full ones of one channel."""

    def make(m: Maker) -> Graph:
        x = m.codes(m.b.conv(m.b.input((1, 1, 8, 8)), np.ones((64, 1, 1, 1), np.int64)))
        x = m.conv(x, 64, ("rows", "columns"), kernel)
        return m.b.graph(m.b.conv(x, np.ones((1, 64, 1, 1), np.int64)))

    return make


def mlp(m: Maker) -> Graph:
    """Dense layers 784-256-256-256-10."""
    x = m.b.input((1, 784))
    for k, rows in enumerate((256, 256, 256, 10)):
        keys = (str(k + 1) if rows > 10 else "", str(k) if k else "")
        x = m.b.dense(x, m.weights((rows, m.b.shape(x)[1]), *keys))
        x = m.codes(x) if rows > 10 else x
    return m.b.graph(x)


def resnet20(m: Maker) -> Graph:
    """ResNet-20 on 32 x 32 pixels, shortcuts of 1 x 1 convolutions."""
    x, before = m.conv(m.b.input((1, 3, 32, 32)), 16, ("stage 16", "")), 16
    for rows in (16, 32, 64):
        for block in range(3):
            stride, inner = (2 if rows > before else 1), f"{rows} {block}"
            y = m.conv(x, rows, (inner, f"stage {before}"), 3, stride)
            y = m.conv(y, rows, (f"stage {rows}", inner), lo=-8)
            if rows > before:
                x = m.conv(x, rows, (f"stage {rows}", f"stage {before}"), 1, stride, lo=-8)
            x, before = m.codes(m.b.add_scaled(y, x)), rows
    x = m.codes(m.b.pool(x, (8, 8), maximum=False))
    return m.b.graph(m.b.dense(m.b.reshape(x, (1, 64)), m.weights((10, 64), "", "stage 64")))


def mobilenet(m: Maker) -> Graph:
    """Depthwise and 1 x 1 convolutions by turns; depthwise weights are all there."""
    x = m.conv(m.b.input((1, 3, 32, 32)), 32, ("0", ""))
    for k, (rows, stride) in enumerate([(64, 1), (128, 2), (128, 1), (256, 2), (256, 1)]):
        x = m.conv(m.depthwise(x, stride), rows, (str(k + 1), str(k)), 1)
    x = m.codes(m.b.pool(x, (8, 8), maximum=False))
    return m.b.graph(m.b.dense(m.b.reshape(x, (1, 256)), m.weights((10, 256), "", "5")))


NETWORKS = {
    "64 x 64": layer(1),
    "64 x 576": layer(3),
    "MLP 784-256-256-256-10": mlp,
    "ResNet-20": resnet20,
    "MobileNet-like": mobilenet,
}


def measure(network: str, zeros: str) -> dict[str, Any]:
    """One row of the table."""
    graph = NETWORKS[network](Maker(ZEROS[zeros]))
    folds = {n.name: linear(n, s).fit(LANES, LANES) for n, s in _layers(graph)}
    started = time.perf_counter()
    found = permutation(graph, folds)
    seconds = time.perf_counter() - started
    frames = frames_of(graph, 2)
    before, after = interpret(graph, frames), interpret(found.graph, frames)
    return {
        "network": network,
        "zeros": zeros,
        "tiles": sum(_tiles(graph, folds)[0]),
        "kept": [sum(_tiles(g, folds)[1]) for g in (graph, found.graph)],
        "cycles": [sum(x.values()) for x in (found.before, found.after)],
        "slowest": [max(x.values()) for x in (found.before, found.after)],
        "equal": all(np.array_equal(before[v], after[v]) for v in before),
        "seconds": round(seconds, 2),
    }


def _layers(graph: Graph) -> list[tuple[I.Conv | I.Dense, Any]]:
    known = layouts(graph)
    return [(n, known[n.inputs[0]]) for n in graph if isinstance(n, (I.Conv, I.Dense))]


def _tiles(graph: Graph, folds: dict[str, Fold]) -> tuple[list[int], list[int]]:
    """Tiles of each layer, and those that hold a weight."""
    kept = [(tiled(linear(n, s), folds[n.name]) != 0).any(axis=(2, 3)) for n, s in _layers(graph)]
    return [k.size for k in kept], [int(k.sum()) for k in kept]


def text(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Channel permutation",
        "",
        f"`OPENBLAS_NUM_THREADS=1 python -m benchmarks.permutation`; random ternary weights, PE {LANES} and SIMD {LANES} (less where a layer has fewer channels).",
        "Tiles: of all layers, and those that hold a weight. Cycles: positions x schedule entries, summed over layers; and of",
        "the layer with the most. Inputs, outputs and the integers at the outputs are the same before and after.",
        "",
        HEAD,
        "|" + "---|" * (HEAD.count("|") - 1),
    ]
    for r in rows:
        kept, cycles, slowest = r["kept"], r["cycles"], r["slowest"]
        lines.append(
            f"| {r['network']} | {r['zeros']} | {r['tiles']} | {kept[0]} | {kept[1]} | {cycles[0]} | {cycles[1]}"
            f" | {cycles[1] / cycles[0]:.2f} | {slowest[0]} | {slowest[1]} | {r['seconds']:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure and write."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    for network in NETWORKS:
        for zeros in ZEROS:
            rows.append(measure(network, zeros))
            print(json.dumps(rows[-1]), flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    Path(__file__).with_suffix(".md").write_text(text(rows))
    print(text(rows))
    return int(not all(r["equal"] and r["cycles"][1] <= r["cycles"][0] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
