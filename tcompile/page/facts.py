"""Single figures of the page, the verdict in words, and the commands that lead to it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from tcompile.page.cells import (
    NONE,
    Cell,
    Row,
    Show,
    figure,
    part,
    percent,
    rows_of,
    share,
    times,
    total,
    truth,
    word,
)

__all__ = ["TONES", "Fact", "cards", "clock_facts", "commands", "exactness_facts", "sentences", "synthesis_facts", "verdict", "verification_facts", "weight_facts"]  # fmt: skip

TONES = {"proved": "good", "tested": "fair", "untested": "open", "refuted": "bad"}
TIMING = "static timing, not measured on a board"


@dataclass(frozen=True)
class Fact:
    """A labelled value with its unit and remarks."""

    label: str
    cell: Cell
    unit: str = ""
    notes: tuple[str, ...] = ()


Wanted = tuple[tuple[str, str, Show], ...]
WEIGHTS: Wanted = (
    ("Weights", "count", figure),
    ("Not zero", "nonzero", figure),
    ("Bits, as 32-bit floats", "bits_original", figure),
    ("Bits stored, schedules included", "bits_stored", figure),
    ("Compression, whole model", "compression_whole_model", times),
    ("Compression, layers of at most 2 bits", "compression_compressed_layers", times),
)
EXACTNESS: Wanted = (
    ("Reference: onnxruntime", "reference", word),
    ("Steps", "steps", figure),
    ("Steps at risk", "steps_at_risk", figure),
)
VERIFICATION: Wanted = (
    ("Simulator", "simulator", word),
    ("Reference: onnxruntime", "reference", word),
    ("Frames", "samples", figure),
    ("Integers compared", "integers", figure),
    ("Mismatches", "mismatches", figure),
    ("Stalls", "stall", word),
    ("Differences to the other reference", "differences_other_reference", figure),
    ("Frames whose final outputs are bit-equal", "identical_outputs", figure),
    ("Accuracy", "accuracy", percent),
    ("Accuracy of the reference", "accuracy_reference", percent),
    ("Accuracy of the original file", "accuracy_original", percent),
    ("Agreement", "agreement", percent),
)
CLOCK: Wanted = (("Clock assumed, MHz", "clock_mhz", figure), ("Frames per second at that clock", "fps", figure))
SYNTHESIS: Wanted = (
    ("Flow", "flow", word),
    ("Device", "device", word),
    ("Family", "family", word),
    ("Layers optimized over their borders", "flattened", truth),
    ("Bits of a block RAM, thousands", "bram_kbit", figure),
    ("DSP", "dsp", figure),
    ("Clock aimed at, MHz", "clock_mhz", figure),
    ("Fmax by static timing, MHz", "fmax_mhz", figure),
    ("Frames per second at Fmax", "fps", figure),
)


def weight_facts(report: Row) -> tuple[Fact, ...]:
    """Weights in numbers."""
    return _facts(part(report, "weights"), WEIGHTS)


def exactness_facts(report: Row) -> tuple[Fact, ...]:
    """The certificate in numbers."""
    return _facts(part(report, "exactness"), EXACTNESS)


def verification_facts(report: Row) -> tuple[Fact, ...]:
    """The comparison with onnxruntime in numbers."""
    return _facts(part(report, "verification"), VERIFICATION)


def clock_facts(report: Row) -> tuple[Fact, ...]:
    """What was assumed when the network was built."""
    return _facts(part(report, "performance"), CLOCK)


def synthesis_facts(report: Row) -> tuple[Fact, ...]:
    """Synthesis in numbers; empty where nothing was synthesized."""
    found = part(report, "synthesis")
    return tuple(f for f in _facts(found, SYNTHESIS) if f.cell is not NONE) if found.get("flow") else ()


def _facts(section: Row, wanted: Wanted) -> tuple[Fact, ...]:
    return tuple(Fact(label, show(section.get(key))) for label, key, show in wanted)


def verdict(report: Row) -> str:
    """What is known about equality, in one word."""
    if part(report, "verification").get("mismatches"):
        return "refuted"
    found = part(report, "exactness").get("verdict")
    return found if found in TONES else "untested"


def sentences(report: Row) -> tuple[str, ...]:
    """The verdict in words."""
    exact, verification = part(report, "exactness"), part(report, "verification")
    risk, steps = figure(exact.get("steps_at_risk")).text, figure(exact.get("steps")).text
    proofs = {
        "proved": f"The integers are proved equal to onnxruntime's: {risk} of {steps} steps are at risk.",
        "tested": f"Equal on the frames below, not proved: {risk} of {steps} steps are at risk.",
        "refuted": "The integers differ from onnxruntime's; the first differences are listed below.",
    }
    first = proofs.get(verdict(report), f"Neither proved nor compared yet: {risk} of {steps} steps are at risk.")
    if verification.get("samples") is None:
        return (first, "Not verified on frames yet.")
    mismatches, integers, frames = (figure(verification.get(k)).text for k in ("mismatches", "integers", "samples"))
    return (first, f"Verification: {mismatches} mismatches in {integers} integers of {frames} frames.")


def interval(report: Row) -> Any:
    """Cycles from frame to frame: counted, else predicted, else None."""
    performance = part(report, "performance")
    counted = performance.get("ii_cycles_simulated")
    return performance.get("ii_cycles") if counted is None else counted


def _clock(report: Row) -> tuple[Any, str]:
    """The clock that figures are given at, in MHz, and how it is known."""
    reached = part(report, "synthesis").get("fmax_mhz")
    if reached:
        return reached, f"at {figure(reached).text} MHz: {TIMING}"
    clock = part(report, "performance").get("clock_mhz")
    return clock, "clock not known yet" if clock is None else f"at {figure(clock).text} MHz, assumed"


def _measured(section: Row, name: str) -> tuple[Cell, tuple[str, ...]]:
    """Cycles, and how they are known."""
    predicted, counted = section.get(name), section.get(f"{name}_simulated")
    if counted is None:
        return figure(predicted), ("predicted",) if predicted is not None else ("not known yet",)
    if counted == predicted:
        return figure(counted), ("predicted and simulated alike",)
    return figure(counted), (f"simulated; predicted {figure(predicted).text}",)


def cards(report: Row) -> tuple[Fact, ...]:
    """The figures that matter most."""
    return (*_speed_cards(report), *_size_cards(report))


def _speed_cards(report: Row) -> tuple[Fact, ...]:
    """Accuracy, throughput, interval, latency."""
    verification, performance = part(report, "verification"), part(report, "performance")
    clock, at = _clock(report)
    between, between_notes = _measured(performance, "ii_cycles")
    latency, latency_notes = _measured(performance, "latency_cycles")
    if clock and latency.value:
        latency_notes = (*latency_notes, f"{_time(float(latency.value) / clock)} {at.partition(':')[0]}")
    accuracy = percent(verification.get("accuracy"))
    theirs = (
        f"onnxruntime {percent(verification.get('accuracy_reference')).text}" if accuracy.value else "not measured yet"
    )
    reached = part(report, "synthesis").get("fps")
    return (
        Fact("Accuracy", accuracy, notes=(theirs,)),
        Fact("Throughput", figure(performance.get("fps") if reached is None else reached), "frames/s", (at,)),
        Fact("Interval between frames", between, "cycles", between_notes),
        Fact("Latency", latency, "cycles", latency_notes),
    )


def _size_cards(report: Row) -> tuple[Fact, ...]:
    """LUTs, additions, bits, and whether the integers are right."""
    verification, weights, layers = part(report, "verification"), part(report, "weights"), rows_of(report, "layers")
    done, dense = total(layers, "additions_done"), total(layers, "additions_dense")
    smaller, mismatches = weights.get("compression_whole_model"), verification.get("mismatches")
    integers, frames = (figure(verification.get(k)).text for k in ("integers", "samples"))
    return (
        _lut_card(report),
        Fact("Additions per frame", figure(done), notes=(_of_dense(done, dense),)),
        Fact(
            "Weight bits stored", figure(weights.get("bits_stored")),
            notes=("not known yet" if smaller is None else f"{times(smaller).text} smaller than 32-bit floats",),
        ),
        Fact(
            "Mismatches", figure(mismatches),
            notes=("not verified yet" if mismatches is None else f"in {integers} integers of {frames} frames",),
        ),
    )  # fmt: skip


def _of_dense(done: Any, dense: Any) -> str:
    part_of = share(done, dense)
    return f"of {figure(dense).text} dense{f' ({part_of})' if part_of else ''}"


def _lut_card(report: Row) -> Fact:
    """LUTs, synthesized or estimated, and what they are spent on."""
    layers, found = rows_of(report, "layers"), part(report, "synthesis").get("lut")
    engines = [r for r in layers if r.get("form") == "engine"]
    lanes = sum(r["PE"] * r["SIMD"] for r in engines if r.get("PE") is not None and r.get("SIMD") is not None)
    parts = [
        f"{figure(count).text} {name}"
        for count, name in ((lanes, "lanes of engines"), (total(layers, "adders"), "adders of graphs"))
        if count
    ]
    estimate = total(layers, "lut_estimate")
    if found is not None:
        known = f"synthesized; estimate {figure(estimate).text}"
    else:
        known = "not known yet" if estimate is None else "estimate"
    return Fact("LUTs", figure(estimate if found is None else found), notes=(known, *parts))


def _time(microseconds: float) -> str:
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= factor:
            return f"{microseconds / factor:.4g} {unit}"
    return f"{microseconds:.4g} µs"


def commands(report: Row) -> tuple[Fact, ...]:
    """What to type to get the same again."""
    model = argument(part(report, "model").get("file"), "MODEL.onnx")
    stall = part(report, "verification").get("stall")
    stalled = "" if stall in (None, "none") else f" --stall {argument(stall, 'none')}"
    flow = part(report, "synthesis").get("flow")
    asked = " ".join([f"tcompile build {model} -o DIR", *_options(part(report, "options"))])
    steps = [
        ("The file is the one above", f"sha256sum {model}"),
        ("Build" if "options" in report else "Build, with the options that were given", asked),
        ("Compare with onnxruntime", f"tcompile verify DIR --inputs X.npz{stalled}"),
    ]
    if any(r.get("form") for r in rows_of(report, "layers")):
        steps.append(("Simulate without tcompile", "make -C DIR/sim"))
        chosen = f" --flow {argument(flow, 'NAME')}" if flow else ""
        steps.append(("Resources and clock", f"tcompile synth DIR{chosen}"))
    return tuple(Fact(label, Cell(text)) for label, text in steps)


def _options(asked: Row) -> list[str]:
    """Options of ``build`` as they are typed."""
    typed = []
    for key, value in asked.items():
        flag = {"from_node": "from", "until_node": "until"}.get(key, key.replace("_", "-"))
        if key == "calib":
            typed.append("--calib X.npz")
        elif isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        elif key in ("shape", "input_type"):
            pairs = [(name, ",".join(map(str, v)) if key == "shape" else v) for name, v in value.items()]
            typed += [f"--{flag} {argument(f'{name}={v}', 'NAME=...')}" for name, v in pairs]
        elif isinstance(value, dict):
            typed.append(f"--{flag} {flag.upper()}.json")
        else:
            whole = isinstance(value, float) and value.is_integer()
            typed.append(f"--{flag} {argument(int(value) if whole else value, '...')}")
    return typed


def argument(value: Any, otherwise: str) -> str:
    """A word of a shell command; another one if the value cannot be typed as it is."""
    text = str(value)
    if value is None or not text.isprintable():
        return otherwise
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
