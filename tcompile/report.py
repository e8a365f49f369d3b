"""``report.json``: what was built, how exact it is, what it costs. Keys are a contract: all are always there."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from typing import Any

import numpy as np
import onnx

from hw.axi_lite import register_map
from hw.axi_stream import tdata_width
from hw.engine import booth_digits
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph
from tcompile.ir.requantizers import signed_width
from tcompile.lowering.certificate import LISTED, Entry
from tcompile.mapping.design import Design, Edge
from tcompile.mapping.estimate import Resources
from tcompile.mapping.network import Mapped
from tcompile.mapping.plan import Plan, Rival, labels
from tcompile.passes import PassRecord
from tcompile.reference import version
from tcompile.synthesis import Synthesis
from tcompile.verify import Difference, Verification
from tcompile.version import __version__
from tcompile.yosys import TECHNOLOGIES

__all__ = [
    "SCHEMA",
    "build_report",
    "dump",
    "hardware",
    "layer_rows",
    "verdict",
    "with_hardware",
    "with_synthesis",
    "with_verification",
]

SCHEMA = 1
FLOAT_BITS = 32
TERNARY_BITS = 2
Json = dict[str, Any]
LAYER = [
    "MH", "MW", "PE", "SIMD", "form", "coded", "digit", "adders", "planes", "tiles", "tiles_kept", "positions", "cycles_predicted",
    "cycles_simulated", "additions_dense", "additions_done", "lut_estimate", "ff_estimate", "bram_estimate", "lut_synthesis", "ff_synthesis",
    "bram_synthesis", "choices",
]  # fmt: skip
LAYERS = (I.Conv, I.Dense, I.SumPool, I.MaxPool, I.AddScaled, I.ArgMax, I.Concat)
PERFORMANCE = ["ii_cycles", "ii_cycles_simulated", "latency_cycles", "latency_cycles_simulated", "clock_mhz", "fps"]
SYNTHESIS = [
    "flow", "lut", "ff", "bram", "dsp", "fmax_mhz", "fps", "family", "device", "flattened", "clock_mhz", "seeds", "used", "estimate",
    "bram_kbit", "memories_elsewhere", "memories_in_registers", "tools",
]  # fmt: skip
VERIFICATION = [
    "simulator", "samples", "mismatches", "reference", "differences_other_reference", "stall", "accuracy",
    "accuracy_reference", "accuracy_original", "agreement", "integers", "identical_outputs", "located", "located_other", "notes",
]  # fmt: skip


def _layer(node: I.IntNode, label: str) -> Json:
    row: Json = {"name": label, "op": node.op, "onnx_nodes": list(node.origin.names)}
    row |= dict.fromkeys(LAYER)
    shape = node.type.shape
    row["positions"] = prod(shape[2:]) if len(shape) > 2 else 1
    if isinstance(node, (I.Conv, I.Dense)):
        codes = node.weight.array.astype(np.int64)
        rows = codes.shape[0]
        if isinstance(node, I.Dense):
            row["positions"] = prod(shape) // rows
        width = _width(codes)
        digits = sum(int(np.count_nonzero(booth_digits(codes, d))) for d in range((width + 1) // 2))
        row |= {
            "MH": rows, "MW": codes.size // rows, "planes": (width + 1) // 2,
            "additions_dense": codes.size * ((width + 1) // 2) * row["positions"],
            "additions_done": digits * row["positions"],
        }  # fmt: skip
    return row


def _width(codes: np.ndarray) -> int:
    """Bits of a weight, at least 2: a ternary weight is one Booth digit."""
    return max(2, signed_width(int(codes.min(initial=0)), int(codes.max(initial=0))))


def verdict(entries: Sequence[Entry], extra: Sequence[str], verified: bool) -> str:
    """``proved`` if no step is at risk, else ``tested`` once frames were compared, else ``untested``."""
    if not extra and all(e.proved for e in entries):
        return "proved"
    return "tested" if verified else "untested"


def _weights(graph: Graph) -> Json:
    """Weights in numbers; how they are stored is known once the network is on hardware."""
    codes = [n.weight.array for n in graph if isinstance(n, (I.Conv, I.Dense))]
    count = sum(c.size for c in codes)
    return {
        "count": count,
        "nonzero": sum(int(np.count_nonzero(c)) for c in codes),
        "bits_original": FLOAT_BITS * count,
        **dict.fromkeys(["bits_stored", "compression_whole_model", "compression_compressed_layers"]),
    }


def build_report(
    *,
    model: Mapping[str, str],
    passes: Sequence[PassRecord],
    graph: Graph,
    certificate: Sequence[Entry],
    doubts: Sequence[str],
    mode: str,
    notes: Sequence[str],
    options: Mapping[str, Any],
) -> Json:
    """The report of a build that was not verified yet.

    Parameters
    ----------
    model : mapping
        ``file``, ``sha256``, ``format``.
    doubts : sequence of str
        Reasons beside the listed steps why equality is not proved.
    options : mapping
        What was asked for.
    """
    names = labels(graph)
    risks = sorted((r for e in certificate for r in e.risks), key=lambda r: r.margin / r.bound if r.bound else 0.0)
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "options": dict(options),
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
        "weights": _weights(graph),
        "layers": [_layer(n, names[n.name]) for n in graph if isinstance(n, LAYERS)],
        "performance": dict.fromkeys(PERFORMANCE),
        "verification": dict.fromkeys(VERIFICATION),
        "synthesis": dict.fromkeys(SYNTHESIS),
        "ports": [],
        "registers": [],
        "tools": {
            "tcompile": __version__,
            "onnxruntime": version(),
            "onnx": onnx.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "notes": list(notes),
    }


def with_hardware(report: Json, graph: Graph, mapped: Mapped, clock_mhz: float) -> Json:
    """The report of a network that was mapped to hardware."""
    interval, resources = mapped.cycles.interval, mapped.resources()
    fused = _owners(graph)
    rows = []
    for row, node in zip(report["layers"], (n for n in graph if isinstance(n, LAYERS)), strict=True):
        cost = sum((resources.get(n, Resources()) for n in fused[node.name]), Resources())
        row = row | {"lut_estimate": cost.lut, "ff_estimate": cost.ff, "bram_estimate": cost.bram}
        if node.name in mapped.plans:
            row |= hardware(mapped.plans[node.name])
        rows.append(row)
    return {
        **report,
        "weights": report["weights"] | _stored(graph, mapped),
        "layers": rows,
        "performance": dict.fromkeys(PERFORMANCE)
        | {
            "ii_cycles": interval,
            "latency_cycles": mapped.cycles.latency,
            "clock_mhz": clock_mhz,
            "fps": None if not interval else clock_mhz * 1e6 / interval,
        },
        "ports": [_port(mapped.design, way, e) for way, edges in (("s_axis", mapped.design.inputs), ("m_axis", mapped.design.outputs)) for e in edges],
        "registers": [
            r._asdict() for r in register_map(len(mapped.design.inputs), len(mapped.design.outputs))
        ],
    }  # fmt: skip


def hardware(plan: Plan) -> Json:
    """What a linear layer became. A graph of adders has no tiles; all its adders work on each position."""
    fold = plan.fold
    row: Json = {"PE": fold.pe, "SIMD": fold.simd, "form": fold.form, "cycles_predicted": plan.cycles}
    if plan.rivals:
        row["choices"] = [_choice(r) for r in plan.rivals]
    if plan.graph is None:
        return row | {"coded": fold.coded, "tiles": plan.tiles, "tiles_kept": plan.kept}
    adders = len(plan.graph.adders) + plan.graph.negations
    digit = fold.digit if fold.form == "serial" else None
    return row | {"digit": digit, "adders": adders, "additions_done": adders * plan.positions}


def _choice(rival: Rival) -> Json:
    """The best of one form that was to be had."""
    fold = rival.fold
    digit = fold.digit if fold.form == "serial" else None
    return {
        "form": fold.form, "digit": digit, "PE": fold.pe, "SIMD": fold.simd, "cycles": rival.cycles,
        "lut_estimate": rival.lut, "guess": rival.is_guess,
    }  # fmt: skip


def _port(design: Design, way: str, edge: Edge) -> Json:
    stream = design.streams[edge.stream]
    bus = stream.bus
    return {
        "name": f"{way}_{edge.port}", "value": edge.value, "tdata_bits": tdata_width(bus), "elements": bus.lanes,
        "bits": bus.width, "signed": bus.signed, "beats": stream.beats,
    }  # fmt: skip


def _owners(graph: Graph) -> dict[str, list[str]]:
    """For each layer the values that belong to it: itself, and the requantizers and views behind it."""
    owner: dict[str, str] = {}
    for node in graph:
        listed = isinstance(node, LAYERS) or not node.inputs
        owner[node.name] = node.name if listed else owner[node.inputs[0]]
    owned: dict[str, list[str]] = {node.name: [] for node in graph}
    for value, layer in owner.items():
        owned[layer].append(value)
    return owned


def layer_rows(graph: Graph) -> dict[str, int]:
    """For nodes of the network the row of ``layers`` that they belong to."""
    fused = _owners(graph)
    layers = [node.name for node in graph if isinstance(node, LAYERS)]
    return {value: row for row, layer in enumerate(layers) for value in fused[layer]}


def _stored(graph: Graph, mapped: Mapped) -> Json:
    """Bits in weight memories, schedules included, and what of 32-bit floats they are."""
    bits = {name: 0 for name, plan in mapped.plans.items() if plan.graph is not None}  # they are wires
    for instance in mapped.design.instances:
        if "weights" in instance.block.memories:
            shapes = instance.block.memories
            bits[instance.layer] = sum(len(words) * shapes[name].width for name, words in instance.memories.items())
    counts = {n: p.layer.weights.size for n, p in mapped.plans.items()}
    few = [n for n, p in mapped.plans.items() if p.layer.width <= TERNARY_BITS]
    total, count = sum(bits.values()), sum(counts.values())
    few_bits, few_count = sum(bits[n] for n in few), sum(counts[n] for n in few)
    return {
        "bits_stored": total,
        "compression_whole_model": FLOAT_BITS * count / total if total else None,
        "compression_compressed_layers": FLOAT_BITS * few_count / few_bits if few_bits else None,
    }


def with_verification(report: Json, found: Verification) -> Json:
    """The report with the results of a verification."""
    exactness = dict(report["exactness"])
    if found.mismatches:
        exactness["verdict"] = "untested"  # what was said is refuted by these frames
    elif exactness["verdict"] != "proved":
        exactness["verdict"] = "tested"
    performance = dict(report["performance"])
    if found.latency is not None and found.stall == "none":
        performance |= {"ii_cycles_simulated": found.interval, "latency_cycles_simulated": found.latency}
    return {
        **report,
        "exactness": exactness,
        "performance": performance,
        "verification": {
            **dict.fromkeys(VERIFICATION),
            "simulator": found.simulator,
            "samples": found.samples,
            "mismatches": found.mismatches,
            "reference": found.reference,
            "differences_other_reference": found.differences_other_reference,
            "stall": found.stall,
            "accuracy": found.accuracy,
            "accuracy_reference": found.accuracy_reference,
            "accuracy_original": found.accuracy_original,
            "agreement": found.agreement,
            "integers": found.integers,
            "identical_outputs": found.identical_outputs,
            "located": [_difference(d) for d in found.located],
            "located_other": [_difference(d) for d in found.located_other],
            "notes": list(found.notes),
        },
    }


def with_synthesis(report: Json, found: Synthesis) -> Json:
    """The report with the results of a synthesis; estimates beside it are those for its family, where there is a model."""
    job, speed, fmax = found.job, report["performance"], found.fmax_mhz
    interval = speed["ii_cycles_simulated"] or speed["ii_cycles"]
    rows = []
    for k, row in enumerate(report["layers"]):
        row = row | dict.fromkeys(["lut_synthesis", "ff_synthesis", "bram_synthesis"])
        if found.layers:
            row |= _resources(found.layers[k], "_synthesis")
        if found.layer_estimates:
            row |= _resources(found.layer_estimates[k], "_estimate")
        rows.append(row)
    return {
        **report,
        "layers": rows,
        "synthesis": {
            "flow": job.flow,
            **_resources(found.total),
            "dsp": found.dsp,
            "fmax_mhz": fmax,
            "fps": None if fmax is None or not interval else fmax * 1e6 / interval,
            "family": job.family,
            "device": None if job.device is None else job.device.name,
            "flattened": job.flatten,
            "clock_mhz": job.clock_mhz if job.is_routed else None,
            "seeds": [
                {"seed": r.seed, "fmax_mhz": r.fmax_mhz, "bitstream": r.bitstream, "bytes": r.bytes, "critical_path": list(r.critical)}
                for r in found.routes
            ],
            "used": {name: {"used": used, "available": there} for name, (used, there) in found.used.items()},
            "estimate": None if found.estimate is None else _resources(found.estimate),
            "bram_kbit": TECHNOLOGIES[job.family].kbit,
            "memories_elsewhere": [asdict(m) for m in found.elsewhere],
            "memories_in_registers": list(found.registers),
            "tools": dict(found.tools),
        },
    }  # fmt: skip


def _resources(found: Resources, suffix: str = "") -> Json:
    return {f"lut{suffix}": found.lut, f"ff{suffix}": found.ff, f"bram{suffix}": found.bram}


def _difference(found: Difference) -> Json:
    return {**asdict(found), "position": list(found.position)}


def dump(report: Json) -> bytes:
    """The report as it is written."""
    return (json.dumps(report, indent=1, ensure_ascii=True) + "\n").encode()
