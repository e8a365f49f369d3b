"""What the commands print: the report as tables."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcompile.console import Screen
from tcompile.errors import printable
from tcompile.mapping.plan import Plan
from tcompile.pipeline import Built, Compiled, node_rows
from tcompile.report import hardware
from tcompile.verify import Verification

__all__ = [
    "show_build",
    "show_check",
    "show_compression",
    "show_epoch",
    "show_exploration",
    "show_layers",
    "show_point",
    "show_synthesis",
    "show_verification",
]

Report = Mapping[str, Any]
PLANNED = ("form", "coded", "digit", "PE", "SIMD", "cycles_predicted", "tiles", "tiles_kept", "adders", "choices")
NODE_COLUMNS = ("node", "operator", "where", "becomes", "bits", "exactness")
COMPRESSIONS = ("ternarize", "signed-digits", "prune-tiles")
GROUPS = {"tile": "tiles", "weight": "weights"}
NAMED = 4  # memories that a note names
LAYER_COLUMNS = ("layer", "op", "MH", "MW", "form", "PE", "SIMD", "cycles", "tiles", "adders", "additions", "LUTs")
CHOICE_COLUMNS = ("layer", "form", "PE", "SIMD", "cycles", "LUTs", "")
SYNTHESIS_COLUMNS = ("options", "LUTs", "estimate", "flip-flops", "estimate", "block RAMs", "estimate", "Fmax, MHz")
POINT_COLUMNS = ("model", "options", "forms", "cycles", "frames/s", "LUTs", "flip-flops", "block RAMs", "accuracy")
SYNTHESIS_COLUMNS = ("layer", "op", "LUTs", "estimate", "FFs", "estimate", "BRAMs", "estimate")
PLAN_COLUMNS = ("layer", "MH", "MW", "form", "PE", "SIMD", "cycles", "tiles", "adders", "LUTs")


def show_check(
    screen: Screen, compiled: Compiled, plans: Mapping[str, Plan], luts: Mapping[str, int], *, explain: bool = False
) -> None:
    """What becomes of each node, and of each layer with weights."""
    rows = node_rows(compiled)
    report = compiled.report
    if screen.as_json:
        keys = {key: report[key] for key in ("model", "exactness", "notes")}
        screen.json({**keys, "nodes": rows, "layers": [_plan(p, luts) for p in plans.values()]})
        return
    shown = [[_short(r["node"]), r["operator"], r["where"], r["becomes"], r["bits"], r["exactness"]] for r in rows]
    screen.table(f"{_short(report['model']['file'])} ({report['model']['format']})", NODE_COLUMNS, shown)
    if plans:
        cells = [
            [
                _short(str(p["name"])),
                p["MH"],
                p["MW"],
                _form(p),
                p["PE"],
                p["SIMD"],
                p["cycles_predicted"],
                _tiles(p),
                p["adders"],
                p["lut_estimate"],
            ]
            for p in (_plan(plan, luts) for plan in plans.values())
        ]
        screen.table("layers with weights", PLAN_COLUMNS, cells)
    _exactness(screen, report)
    _notes(screen, report, explain=explain)


def _plan(plan: Plan, luts: Mapping[str, int]) -> dict[str, object]:
    """A plan as a row; cycles are those of the layer alone, per frame."""
    row = {"name": plan.label, "MH": plan.layer.MH, "MW": plan.layer.MW} | dict.fromkeys(PLANNED) | hardware(plan)
    return {**row, "lut_estimate": luts[plan.label]}


def _form(row: Report) -> str | None:
    """The form of a layer, with its digit where it has one, or how its weights are kept."""
    more = "coded" if row.get("coded") else row["digit"]
    return f"{row['form']}:{more}" if more else row["form"]


def _tiles(row: Report) -> str | None:
    """Tiles kept of all."""
    return None if row["tiles"] is None else f"{row['tiles_kept']}/{row['tiles']}"


def show_build(screen: Screen, built: Built, directory: Path, *, explain: bool = False) -> None:
    """What was built."""
    report = built.report
    if screen.as_json:
        screen.json(report)
        return
    show_layers(screen, report)
    _exactness(screen, report)
    _notes(screen, report, explain=explain)
    if explain:
        _choices(screen, report)
    if any(p["changed"] and p["name"] in COMPRESSIONS for p in report["passes"]):
        screen.say(
            "weights were changed without training: accuracy is what 'tcompile verify' measures, and falls with few"
            " terms or digits, or train under compression: 'tcompile compress'"
        )
    name = str(directory)
    again = shlex.quote(name) if name.isprintable() else "DIR"
    if built.board is not None and built.mapped.recipe.relays:
        screen.say(
            f"{built.board.name}: {report['performance']['clock_mhz']:g} MHz is more than most networks with block RAMs reach on it;"
            f" 'make -C {again}/synth {built.board.name}.bit' fails where static timing misses the clock"
        )
    screen.say(f"wrote {printable(name)}; next: tcompile verify {again} --inputs X.npz")


def show_layers(screen: Screen, report: Report) -> None:
    """Layers with their lanes, cycles, tiles and additions, and what comes of them."""
    rows = [
        [
            _short(r["name"]), r["op"], r["MH"], r["MW"], _form(r), r["PE"], r["SIMD"], r["cycles_predicted"], _tiles(r),
            r["adders"], r["additions_done"], r["lut_estimate"],
        ]
        for r in report["layers"]
    ]  # fmt: skip
    screen.table(f"{_short(report['model']['file'])} ({report['model']['format']})", LAYER_COLUMNS, rows)
    weights, speed = report["weights"], report["performance"]
    if weights["count"]:
        lanes = sum(r["PE"] * r["SIMD"] for r in report["layers"] if r["form"] == "engine")
        adders = sum(r["adders"] or 0 for r in report["layers"])
        done, dense = (sum(r[f"additions_{k}"] or 0 for r in report["layers"]) for k in ("done", "dense"))
        screen.say(
            f"weights: {weights['count']}, {weights['nonzero'] / weights['count']:.0%} not zero, {weights['bits_stored']} bits"
            f" stored{_compression(weights)}"
        )
        made = " and ".join([f"{lanes} lanes"] * (lanes > 0) + [f"{adders} adders of graphs"] * (adders > 0))
        screen.say(f"additions: {done} per frame, {done / dense:.0%} of dense; {made}")
    screen.say(
        f"cycles: a frame every {speed['ii_cycles']}, the first after {speed['latency_cycles']};"
        f" {speed['fps']:,.0f} frames per second at {speed['clock_mhz']:g} MHz"
    )


def _choices(screen: Screen, report: Report) -> None:
    """What each layer could have been."""
    rows = []
    for layer in report["layers"]:
        for choice in layer["choices"] or ():
            lut = f"about {choice['lut_estimate']}" if choice["guess"] else choice["lut_estimate"]
            chosen = "chosen" if choice == layer["choices"][0] else None
            cells = [_form(choice), choice["PE"], choice["SIMD"], choice["cycles"], lut, chosen]
            rows.append([_short(layer["name"]), *cells])
    if rows:
        screen.table("the least of each form that keeps up", CHOICE_COLUMNS, rows)


def _compression(weights: Report) -> str:
    """What memories save; nothing where there are none."""
    ratio = weights["compression_whole_model"]
    return f" ({ratio:.1f}x smaller than 32-bit floats, schedules included)" if ratio else ": all weights are wires"


def _exactness(screen: Screen, report: Report) -> None:
    exact = report["exactness"]
    screen.say(
        f"exactness: {exact['verdict']} against onnxruntime ({exact['reference']}); {exact['steps_at_risk']} of"
        f" {exact['steps']} steps at risk"
    )
    for risk in exact["risks"][:3]:
        screen.say(
            f"  at risk: {_short(risk['layer'])} channel {risk['channel']}, sum {risk['accumulator']}: code"
            f" {risk['codes'][0]} or {risk['codes'][1]}; the step is {risk['margin']:.2g} away, rounding reaches {risk['bound']:.2g}"
        )


def _notes(screen: Screen, report: Report, *, explain: bool) -> None:
    for note in report["notes"]:
        screen.note(note)
    for step in report["passes"]:
        for note in step["notes"]:
            asked_in_vain = step["name"] in COMPRESSIONS and not step["changed"]
            (screen.note if explain or asked_in_vain else screen.detail)(f"{step['name']}: {note}")
    if explain:
        for row in report["exactness"]["layers"]:
            screen.note(f"{_short(row['layer'])}: {row['steps']} steps, {row['at_risk']} at risk, by {row['method']}")


def show_verification(screen: Screen, report: Report, found: Verification) -> None:
    """What a verification found."""
    if screen.as_json:
        screen.json(report)
        return
    word = {1: "frame"}.get(found.samples, "frames")
    screen.say(
        f"{found.mismatches} mismatches in {found.integers} output integers of {found.samples} {word}"
        f" (reference: onnxruntime, {found.reference}; verdict: {'refuted' if found.mismatches else report['exactness']['verdict']})"
    )
    screen.say(
        f"final outputs behind the host's part are bit-equal to onnxruntime's on {found.identical_outputs} of {found.samples} {word}"
    )
    _other_reference(screen, found)
    if found.latency is not None:
        _cycles(screen, report, found)
    for d in found.located:
        screen.say(
            f"  differs: {_short(d.node)} {list(d.position)} in frame {d.frame}: {d.accelerator}, reference {d.reference};"
            f" {d.integers} integers in {d.frames} of the frames run again"
        )
    if found.accuracy is not None and found.accuracy_reference is not None and found.agreement is not None:
        screen.say(
            f"accuracy: {found.accuracy:.2%} (reference {found.accuracy_reference:.2%}, agreement {found.agreement:.2%})"
        )
        if found.accuracy_original is not None:
            screen.say(f"accuracy of the original file: {found.accuracy_original:.2%}")
        elif any(p["changed"] and p["name"] in COMPRESSIONS for p in report["passes"]):
            screen.say(
                "the reference is the compressed network, model.lowered.onnx; give --original MODEL.onnx to see what the float file"
                " loses by that"
            )
    for note in found.notes:
        screen.note(note)


def _cycles(screen: Screen, report: Report, found: Verification) -> None:
    """Cycles of the simulation beside the predicted ones."""
    if found.stall != "none":
        screen.say(f"simulated by {found.simulator} with random pauses ({found.stall})")
        return
    speed = report["performance"]
    pairs = [("latency", found.latency, speed["latency_cycles"]), ("interval", found.interval, speed["ii_cycles"])]
    told = ", ".join(
        f"{name} {mine} cycles ({'as predicted' if mine == said else f'predicted {said}'})"
        for name, mine, said in pairs
        if mine is not None
    )
    screen.say(f"simulated by {found.simulator}: {told}")


def _other_reference(screen: Screen, found: Verification) -> None:
    other = "plain" if found.reference == "fused" else "fused"
    if found.differences_other_reference is None:
        screen.detail(f"the {other} reference has no tensor to compare integers with")
        return
    text = f"{found.differences_other_reference} integers differ from the other reference ({other}; not a failure)"
    if found.located_other:
        text += f", from {_short(found.located_other[0].node)} on"
    screen.say(text)


def show_synthesis(screen: Screen, report: Report, directory: Path) -> None:
    """What a synthesis found, layer by layer beside the estimates."""
    if screen.as_json:
        screen.json(report)
        return
    found = report["synthesis"]
    if not found["flattened"]:
        _synthesized_layers(screen, report)
    where = found["device"] or found["family"]
    screen.say(
        f"{found['flow']} on {where}: {found['lut']} LUTs, {found['ff']} flip-flops, {found['bram']} block RAMs of"
        f" {found['bram_kbit']} kbit, {found['dsp']} multipliers{_estimated(found['estimate'])}"
    )
    if found["used"]:
        shares = (
            f"{n['used']} of {n['available']} {name.upper()} ({n['used'] / n['available']:.0%})"
            for name, n in found["used"].items()
        )
        screen.say("used of the device: " + ", ".join(shares))
    if found["seeds"]:
        _timing(screen, report, directory)
    elsewhere = [f"{m['memory']} ({m['found']}, estimate {m['estimated']})" for m in found["memories_elsewhere"]]
    _named(screen, "in block RAMs, or not, against the estimate", elsewhere)
    _named(screen, "became registers", [_short(name) for name in found["memories_in_registers"]])
    screen.detail(", ".join(f"{tool} {_short(version)}" for tool, version in found["tools"].items()))


def _named(screen: Screen, what: str, names: Sequence[str]) -> None:
    """How many memories, and the first of them."""
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        screen.note(f"memories {what}: {', '.join(names[:NAMED])}{more}")


def _synthesized_layers(screen: Screen, report: Report) -> None:
    modelled = report["synthesis"]["estimate"] is not None
    rows = [
        [_short(r["name"]), r["op"], *(r[f"{kind}_{side}"] if side == "synthesis" or modelled else None
         for kind in ("lut", "ff", "bram") for side in ("synthesis", "estimate"))]
        for r in report["layers"]
    ]  # fmt: skip
    screen.table(_short(report["model"]["file"]), SYNTHESIS_COLUMNS, rows)


def _estimated(estimate: Report | None) -> str:
    return "" if estimate is None else f" (estimate: {estimate['lut']}, {estimate['ff']}, {estimate['bram']})"


def _timing(screen: Screen, report: Report, directory: Path) -> None:
    found, speed = report["synthesis"], report["performance"]
    seeds = found["seeds"]
    clocks = ", ".join(f"{s['fmax_mhz']:.1f}" for s in seeds)
    told = f" (median of {len(seeds)} seeds: {clocks})" if len(seeds) > 1 else f" (seed {seeds[0]['seed']})"
    screen.say(f"clock: {found['fmax_mhz']:.1f} MHz{told}, by static timing, not measured on a board")
    if found["fps"] is not None:
        screen.say(f"{found['fps']:,.0f} frames per second at that clock, a frame every {speed['ii_cycles']} cycles")
    best = max(seeds, key=lambda s: s["fmax_mhz"])
    if best["critical_path"]:
        screen.say(f"longest path (seed {best['seed']}): {' -> '.join(best['critical_path'])}")
    screen.say(f"bitstream: {printable(str(directory / best['bitstream']))}, {best['bytes']} bytes")


def _short(name: str) -> str:
    return printable(name)[1:-1]


def show_epoch(screen: Screen, record: Report) -> None:
    """One line of a training's progress."""
    loss = "" if record["loss"] is None else f"  loss {record['loss']:.4f}"
    screen.progress_line(
        f"epoch {record['epoch']:3}/{record['epochs']}{loss}  validation {record['validation']:.2%}"
        f"  zero tiles {record['tile_sparsity']:.1%}  zeros {record['zeros']:.1%}  {record['rate_model']:.1f}x smaller"
        f"  {record['cycles']} cycles{'  pruned' if record['pruned'] else ''}{' *' if record['best'] else ''}"
    )


def _hardware_words(recipe: Report, hardware: Report) -> str:
    """What the mapping makes of a compressed network."""
    if "forms" not in hardware:
        return f"no hardware for {recipe['fps']:g} frames per second: " + "; ".join(hardware["problems"])
    forms = Counter(hardware["forms"].values())
    words = (
        f"hardware for {recipe['fps']:g} frames per second ({hardware['family']}, model): {hardware['lut']} LUTs,"
        f" {hardware['ff']} flip-flops, {hardware['bram']} block RAMs; "
        + ", ".join(f"{n} {form}" for form, n in sorted(forms.items()))
    )
    return "; ".join([words, *hardware["problems"]])


def show_compression(screen: Screen, report: Report, output: Path) -> None:
    """What training made of a network."""
    if screen.as_json:
        screen.json(report)
        return
    rows = [
        [_short(x["name"]), x["weights"], x["bits"], f"{1 - x['nonzero'] / x['weights']:.0%}",
         f"{x['kept']}/{x['tiles']}", x["cycles"]]
        for x in report["layers"]
    ]  # fmt: skip
    screen.table(_short(report["model"]["file"]), ("layer", "weights", "bits", "zeros", "tiles", "cycles"), rows)
    weights, accuracy = report["weights"], report["accuracy"]
    rate = weights["rate_layers"]
    layers = "no layer of 2 bits" if rate is None else f"{rate:.1f}x smaller in layers of 2 bits"
    screen.say(
        f"tiles: {weights['tile_sparsity']:.1%} zero; weights: {weights['zeros']:.1%} zero; "
        f"{weights['rate_model']:.1f}x smaller as a whole, {layers}"
    )
    drop = 100 * (accuracy["test_float"] - accuracy["test"])
    screen.say(
        f"accuracy: {accuracy['test']:.2%} on {report['frames']['test']} test frames, "
        f"float {accuracy['test_float']:.2%}, drop {drop:.2f} points (epoch {report['epoch']}, chosen by validation)"
    )
    if report["recipe"]["group"] == "form":
        groups = (f"{_short(k)} {p['zero']}/{p['groups']} {GROUPS[p['group']]}" for k, p in report["pruned"].items())
        screen.say("zero: " + ", ".join(groups))
    if report["hardware"] is not None:
        screen.say(_hardware_words(report["recipe"], report["hardware"]))
    screen.say(f"torch's scores are onnxruntime's, bit for bit, on all {report['onnxruntime']['frames']} test frames")
    for note in report["notes"]:
        screen.note(note)
    if report["ranks"]:
        screen.say("low rank: " + ", ".join(f"{_short(name)} {rank}" for name, rank in report["ranks"].items()))
    hardware = ("fps", "clock_mhz", "target") if report["hardware"] is not None else ()
    asked = {k: report["recipe"][k] for k in hardware if report["recipe"][k] is not None}
    options = "".join(f" --{k.replace('_', '-')} {str(v).removesuffix('.0')}" for k, v in asked.items())
    screen.say(
        f"wrote {output}, with .json and .svg beside it; next: tcompile build {shlex.quote(str(output))} -o DIR{options}"
    )


def show_exploration(screen: Screen, document: Report, folder: Path) -> None:
    """The designs that no other beats, and how many there are."""
    if screen.as_json:
        screen.json(document)
        return
    points = document["points"]
    best = sorted((p for p in points if p["front"]), key=lambda p: p["interval"])
    rows = [
        [
            _short(p["model"]), _options(p["options"]), "+".join(p["forms"]), p["interval"], round(p["fps"]), p["lut"], p["ff"],
            p["bram"], None if p["accuracy"] is None else f"{p['accuracy']:.2%}",
        ]
        for p in best
    ]  # fmt: skip
    screen.table(f"designs that no other beats in {', '.join(document['objectives'])}", POINT_COLUMNS, rows)
    _synthesized(screen, best)
    refused = [p for p in points if p["refused"]]
    made = len(points) - len(refused)
    screen.say(f"{made} designs and {len(refused)} that cannot be; resources are estimates, cycles exact")
    for reason, count in Counter(p["refused"][0] for p in refused).most_common():
        screen.detail(f"{count} times: {reason}")
    screen.say(f"wrote {printable(str(folder))}: explore.csv, explore.json, explore.svg")


def _synthesized(screen: Screen, points: Sequence[Report]) -> None:
    """Points that were synthesized, beside their estimates."""
    found = [(p, p["synthesis"]) for p in points if p["synthesis"] and not p["synthesis"]["refused"]]
    rows = [
        [_options(p["options"]), s["lut"], p["lut"], s["ff"], p["ff"], s["bram"], p["bram"], s["fmax_mhz"]]
        for p, s in found
    ]
    if rows:
        flow, device = found[0][1]["flow"], found[0][1]["device"]
        screen.table(
            f"synthesized by {flow} for {device or 'the family'}; clocks by static timing, not measured on a board",
            SYNTHESIS_COLUMNS,
            rows,
        )
    for point in points:
        if point["synthesis"] and point["synthesis"]["refused"]:
            screen.note(f"{_options(point['options'])}: {point['synthesis']['refused'][0]}")


def show_point(screen: Screen, row: Report, done: int, total: int) -> None:
    """A line of progress."""
    found = "refused" if row["refused"] else f"{row['lut']} LUTs, {row['bram']} block RAMs"
    before = f"{row['flow']}: " if "flow" in row else "" if row["refused"] else f"{row['interval']} cycles, "
    screen.progress_line(f"point {done:3}/{total}  {row['title']}: {before}{found}")


def _options(options: Report) -> str:
    return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in options.items())
