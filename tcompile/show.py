"""What the commands print: the report as tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tcompile.console import Screen
from tcompile.errors import printable
from tcompile.pipeline import Compiled, node_rows
from tcompile.verify import Verification

__all__ = ["show_build", "show_check", "show_verification"]

Report = Mapping[str, Any]
NODE_COLUMNS = ("node", "operator", "where", "becomes", "bits", "exactness")
COMPRESSIONS = ("ternarize", "signed-digits", "prune-tiles")
LAYER_COLUMNS = ("layer", "op", "MH", "MW", "positions", "tiles", "kept", "additions", "of dense")


def show_check(screen: Screen, compiled: Compiled, *, explain: bool = False) -> None:
    """What becomes of each node."""
    rows = node_rows(compiled)
    report = compiled.report
    if screen.as_json:
        screen.json(
            {"model": report["model"], "nodes": rows, "exactness": report["exactness"], "notes": report["notes"]}
        )
        return
    shown = [[_short(r["node"]), r["operator"], r["where"], r["becomes"], r["bits"], r["exactness"]] for r in rows]
    screen.table(f"{_short(report['model']['file'])} ({report['model']['format']})", NODE_COLUMNS, shown)
    _exactness(screen, report)
    _notes(screen, report, explain=explain)


def show_build(screen: Screen, compiled: Compiled, directory: Path, *, explain: bool = False) -> None:
    """What was built."""
    report = compiled.report
    if screen.as_json:
        screen.json(report)
        return
    layers(screen, report)
    _exactness(screen, report)
    _notes(screen, report, explain=explain)
    if any(p["changed"] and p["name"] in COMPRESSIONS for p in report["passes"]):
        screen.say(
            "weights were changed without training: accuracy is what 'tcompile verify' measures, and falls with few"
            " terms or digits; training under compression ('tcompile compress') is planned"
        )
    name = str(directory)
    again = shlex.quote(name) if name.isprintable() else "DIR"
    screen.say(f"wrote {printable(name)}; next: tcompile verify {again} --inputs X.npz")


def layers(screen: Screen, report: Report) -> None:
    """Layers with their tiles and additions."""
    rows = [
        [
            _short(r["name"]), r["op"], r["MH"], r["MW"], r["positions"], r["tiles"], r["tiles_kept"], r["additions_done"],
            f"{r['additions_done'] / r['additions_dense']:.0%}" if r["additions_dense"] else None,
        ]
        for r in report["layers"]
    ]  # fmt: skip
    screen.table(f"{_short(report['model']['file'])} ({report['model']['format']})", LAYER_COLUMNS, rows)
    weights = report["weights"]
    if weights["count"]:
        screen.say(
            f"weights: {weights['count']}, {weights['nonzero'] / weights['count']:.0%} not zero, {weights['bits_stored']} bits"
            f" stored ({weights['compression_whole_model']:.1f}x smaller than 32-bit floats, tile map included)"
        )


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
    for d in found.located:
        screen.say(
            f"  differs: {_short(d.node)} {list(d.position)} in frame {d.frame}: {d.accelerator}, reference {d.reference};"
            f" {d.integers} integers in {d.frames} of the frames run again"
        )
    if found.accuracy is not None and found.accuracy_reference is not None and found.agreement is not None:
        screen.say(
            f"accuracy: {found.accuracy:.2%} (reference {found.accuracy_reference:.2%}, agreement {found.agreement:.2%})"
        )
    for note in found.notes:
        screen.note(note)


def _other_reference(screen: Screen, found: Verification) -> None:
    other = "plain" if found.reference == "fused" else "fused"
    if found.differences_other_reference is None:
        screen.detail(f"the {other} reference has no tensor to compare integers with")
        return
    text = f"{found.differences_other_reference} integers differ from the other reference ({other}; not a failure)"
    if found.located_other:
        text += f", from {_short(found.located_other[0].node)} on"
    screen.say(text)


def _short(name: str) -> str:
    return printable(name)[1:-1]
