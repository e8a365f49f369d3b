"""``report.json``: what was built, how exact it is, what it costs. Keys are a contract: all are always there."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import onnx

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph
from tcompile.ir.requantizers import signed_width
from tcompile.lowering.certificate import LISTED, Entry
from tcompile.passes import PassRecord, tile_counts
from tcompile.reference import version
from tcompile.verify import Difference, Verification
from tcompile.version import __version__

__all__ = ["SCHEMA", "build_report", "dump", "verdict", "with_verification"]

SCHEMA = 1
FLOAT_BITS = 32
Json = dict[str, Any]
UNKNOWN_LAYER: Json = dict.fromkeys(
    ["form", "digit", "cycles_predicted", "cycles_simulated", "lut_estimate", "ff_estimate", "bram_estimate"]
)
PERFORMANCE = ["ii_cycles", "ii_cycles_simulated", "latency_cycles", "latency_cycles_simulated", "clock_mhz", "fps"]
SYNTHESIS = ["flow", "lut", "ff", "bram", "dsp", "fmax_mhz"]
VERIFICATION = [
    "simulator", "samples", "mismatches", "reference", "differences_other_reference", "stall", "accuracy",
    "accuracy_reference", "agreement", "integers", "identical_outputs", "located", "located_other", "notes",
]  # fmt: skip


@dataclass(frozen=True)
class Folding:
    """Tile size: PE output channels by SIMD input channels."""

    pe: int
    simd: int


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer in numbers."""

    count: int
    nonzero: int
    digits: int
    width: int
    tiles: int
    kept: int

    def bits(self, folding: Folding) -> int:
        """Stored bits: all weights, or the kept tiles and one bit per tile that says so; what is less."""
        tiled = self.kept * folding.pe * folding.simd * self.width + self.tiles
        return min(self.count * self.width, tiled)

    @property
    def compressed(self) -> bool:
        """Whether the weights are ternary (or binary)."""
        return self.width <= 2


def layer_weights(node: I.Conv | I.Dense, folding: Folding) -> LayerWeights:
    """Count a layer's weights, signed digits and tiles."""
    codes = node.weight.array.astype(np.int64)
    group = node.group if isinstance(node, I.Conv) else 1
    tiles, kept = tile_counts(codes, folding.pe, folding.simd, group)
    magnitude = np.abs(codes)
    digits = sum(int(n).bit_count() for n in (magnitude ^ (3 * magnitude)).ravel())
    width = max(2, signed_width(int(codes.min(initial=0)), int(codes.max(initial=0))))
    return LayerWeights(codes.size, int(np.count_nonzero(codes)), digits, width, tiles, kept)


def _layer(node: I.IntNode, folding: Folding) -> Json:
    row: Json = {"name": node.origin.names[-1] if node.origin.names else node.name, "op": node.op}
    row["onnx_nodes"] = list(node.origin.names)
    blank: Json = dict.fromkeys(["MH", "MW", "PE", "SIMD", "planes", "tiles", "tiles_kept"])
    positions = prod(node.type.shape[2:]) if len(node.type.shape) > 2 else 1
    row |= {**blank, **UNKNOWN_LAYER, "positions": positions, "additions_dense": None, "additions_done": None}
    if isinstance(node, (I.Conv, I.Dense)):
        w = layer_weights(node, folding)
        rows = node.weight.shape[0]
        if isinstance(node, I.Dense):
            positions = prod(node.type.shape) // rows
        planes = 1 if w.compressed else (w.width + 1) // 2
        row |= {
            "MH": rows, "MW": w.count // rows, "PE": folding.pe, "SIMD": folding.simd, "planes": planes,
            "tiles": w.tiles, "tiles_kept": w.kept, "positions": positions,
            "additions_dense": w.count * planes * positions, "additions_done": w.digits * positions,
        }  # fmt: skip
    return row


def verdict(entries: Sequence[Entry], extra: Sequence[str], verified: bool) -> str:
    """``proved`` if no step is at risk, else ``tested`` once frames were compared, else ``untested``."""
    if not extra and all(e.proved for e in entries):
        return "proved"
    return "tested" if verified else "untested"


def _weights(graph: Graph, folding: Folding) -> Json:
    rows = [layer_weights(n, folding) for n in graph if isinstance(n, (I.Conv, I.Dense))]
    count, bits = sum(r.count for r in rows), sum(r.bits(folding) for r in rows)
    few = [r for r in rows if r.compressed]
    few_bits = sum(r.bits(folding) for r in few)
    return {
        "count": count,
        "nonzero": sum(r.nonzero for r in rows),
        "bits_original": FLOAT_BITS * count,
        "bits_stored": bits,
        "compression_whole_model": FLOAT_BITS * count / bits if bits else None,
        "compression_compressed_layers": FLOAT_BITS * sum(r.count for r in few) / few_bits if few_bits else None,
    }


def build_report(
    *,
    model: Mapping[str, str],
    passes: Sequence[PassRecord],
    graph: Graph,
    certificate: Sequence[Entry],
    doubts: Sequence[str],
    mode: str,
    folding: Folding,
    notes: Sequence[str],
) -> Json:
    """The report of a build that was not verified yet.

    Parameters
    ----------
    model : mapping
        ``file``, ``sha256``, ``format``.
    doubts : sequence of str
        Reasons beside the listed steps why equality is not proved.
    """
    risks = sorted((r for e in certificate for r in e.risks), key=lambda r: r.margin / r.bound if r.bound else 0.0)
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "passes": [{"name": p.name, "changed": p.changed, "notes": list(p.notes)} for p in passes],
        "exactness": {
            "verdict": verdict(certificate, doubts, verified=False),
            "reference": mode,
            "steps": sum(e.steps for e in certificate),
            "steps_at_risk": sum(e.at_risk for e in certificate),
            "risks": [asdict(r) for r in risks[:LISTED]],
            "layers": [
                {"layer": e.layer, "method": e.method, "steps": e.steps, "at_risk": e.at_risk} for e in certificate
            ],
            "doubts": list(doubts),
        },
        "weights": _weights(graph, folding),
        "layers": [
            _layer(n, folding)
            for n in graph
            if isinstance(n, (I.Conv, I.Dense, I.SumPool, I.MaxPool, I.AddScaled, I.ArgMax))
        ],
        "performance": dict.fromkeys(PERFORMANCE),
        "verification": dict.fromkeys(VERIFICATION),
        "synthesis": dict.fromkeys(SYNTHESIS),
        "tools": {
            "tcompile": __version__,
            "onnxruntime": version(),
            "onnx": onnx.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "notes": list(notes),
    }


def with_verification(report: Json, found: Verification) -> Json:
    """The report with the results of a verification."""
    exactness = dict(report["exactness"])
    if found.mismatches:
        exactness["verdict"] = "untested"  # what was said is refuted by these frames
    elif exactness["verdict"] != "proved":
        exactness["verdict"] = "tested"
    return {
        **report,
        "exactness": exactness,
        "verification": {
            **dict.fromkeys(VERIFICATION),
            "simulator": found.simulator,
            "samples": found.samples,
            "mismatches": found.mismatches,
            "reference": found.reference,
            "differences_other_reference": found.differences_other_reference,
            "stall": None,
            "accuracy": found.accuracy,
            "accuracy_reference": found.accuracy_reference,
            "agreement": found.agreement,
            "integers": found.integers,
            "identical_outputs": found.identical_outputs,
            "located": [_difference(d) for d in found.located],
            "located_other": [_difference(d) for d in found.located_other],
            "notes": list(found.notes),
        },
    }


def _difference(found: Difference) -> Json:
    return {**asdict(found), "position": list(found.position)}


def dump(report: Json) -> bytes:
    """The report as it is written."""
    return (json.dumps(report, indent=1, ensure_ascii=True) + "\n").encode()
