"""``report.html``: the report as one page that stands alone, without scripts and without network.

Names come from the model and are not trusted: the template escapes all text, and characters that cannot be seen
or that turn the direction of writing are shown as escapes. Every number carries its exact value beside its text.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

from tcompile.templates import render

__all__ = ["page"]

Row = Mapping[str, Any]
LONGEST = 120  # characters of a name in running text and tables
ACROSS = 4  # boxes in a row of the picture
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 244, 138, 34, 40
NAME_CELLS = 27  # columns of a fixed-width font that fit into a box
BAR_CELLS = 20  # the same beside a bar
BAR_PITCH = 26
TONES = {"proved": "good", "tested": "fair", "untested": "open", "refuted": "bad"}


@dataclass(frozen=True)
class Cell:
    """What stands at one place.

    Parameters
    ----------
    text : str
        As shown.
    value : str
        The exact number behind it; empty where it is no number.
    full : str
        All of a text that was cut; empty where it was not.
    """

    text: str
    value: str = ""
    full: str = ""


NONE = Cell("–")


@dataclass(frozen=True)
class Column:
    """A column of a table: its key in the rows and how a value is shown; `total` asks for the sum in the last line."""

    name: str
    key: str
    show: Callable[[Any], Cell]
    group: str = ""
    total: bool = False

    @property
    def right(self) -> bool:
        """Whether figures stand in it."""
        return self.show not in (_text, _prose)


@dataclass(frozen=True)
class Head:
    """A heading of one column, or of a group of `span` columns, over `lines` lines."""

    name: str
    span: int = 1
    lines: int = 1
    right: bool = False


@dataclass(frozen=True)
class Table:
    """A table as the template draws it: lines of headings, lines, and a line of sums."""

    caption: str
    heads: tuple[tuple[Head, ...], ...]
    right: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Fact:
    """A labelled value with its unit and remarks."""

    label: str
    cell: Cell
    unit: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Box:
    """A layer in the picture, with its place and size in pixels; `fill` is the length of its bar."""

    x: int
    y: int
    name: Cell
    kind: str
    matrix: str
    lanes: str
    size: str
    cycles: Cell
    fill: float
    bottleneck: bool
    nodes: str


@dataclass(frozen=True)
class Picture:
    """The layers in order and the arrows between them."""

    label: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    links: tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """One bar: `share` of the full length, between 0 and 1."""

    y: int
    name: Cell
    share: float
    text: str
    marked: bool


@dataclass(frozen=True)
class Bars:
    """A bar for each layer."""

    title: str
    label: str
    width: int
    height: int
    track: bool
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Passage:
    """What a pass did."""

    name: Cell
    changed: Cell
    notes: tuple[Cell, ...]


@dataclass(frozen=True)
class Context:
    """All that the template knows."""

    title: str
    model: Cell
    format: Cell
    sha256: Cell
    version: Cell
    verdict: str
    tone: str
    reference: Cell
    sentences: tuple[str, ...]
    cards: tuple[Fact, ...]
    picture: Picture
    charts: tuple[Bars, ...]
    layers: Table
    choices: tuple[Table, ...]
    weights: tuple[Fact, ...]
    exactness: tuple[Fact, ...]
    certificate: tuple[Table, ...]
    doubts: tuple[Cell, ...]
    verified: bool
    verification: tuple[Fact, ...]
    differences: tuple[Table, ...]
    verification_notes: tuple[Cell, ...]
    synthesis: tuple[Fact, ...]
    synthesized: tuple[Table, ...]
    passes: tuple[Passage, ...]
    notes: tuple[Cell, ...]
    interface: tuple[Table, ...]
    tools: Table
    commands: tuple[Fact, ...]


def page(report: Row) -> bytes:
    """The page of a report; equal reports give equal bytes.

    Parameters
    ----------
    report : mapping
        Content of ``report.json``; what is missing is shown like ``null``, by a dash.
    """
    return render("report.html.j2", _context(report), escape=True)


def _context(report: Row) -> Context:
    layers, verification, exactness = _rows(report, "layers"), _part(report, "verification"), _part(report, "exactness")
    model, tools, verdict = _part(report, "model"), _part(report, "tools"), _verdict(report)
    name = _text(model.get("file"))
    return Context(
        title=name.text,
        model=name,
        format=_text(model.get("format")),
        sha256=_text(model.get("sha256")),
        version=_text(tools.get("tcompile")),
        verdict=verdict,
        tone=TONES.get(verdict, "open"),
        reference=_text(exactness.get("reference")),
        sentences=_sentences(report),
        cards=_cards(report),
        picture=_picture(layers),
        charts=tuple(c for c in (_cycle_bars(layers), *_share_bars(layers)) if c.bars),
        layers=_table("Layers, per frame", LAYERS, layers, "All layers"),
        choices=_tables({"choices": _choices(layers)}, ("choices", CHOSEN, CHOICES)),
        weights=_facts(_part(report, "weights"), WEIGHTS),
        exactness=_facts(exactness, EXACTNESS),
        certificate=_tables(
            exactness,
            ("layers", "Steps of the requantizers, by layer", CERTIFICATE),
            ("risks", "Steps that a sum in another order could miss, the nearest first", RISKS),
        ),
        doubts=_texts(exactness.get("doubts")),
        verified=verification.get("samples") is not None,
        verification=_facts(verification, VERIFICATION),
        differences=_tables(
            verification,
            ("located", "First differences from the reference", LOCATED),
            ("located_other", "First differences from the other reference (not a failure)", LOCATED),
        ),
        verification_notes=_texts(verification.get("notes")),
        synthesis=_facts(_part(report, "synthesis"), SYNTHESIS) if _part(report, "synthesis").get("flow") else (),
        synthesized=_synthesized(report),
        passes=tuple(
            Passage(_text(p.get("name")), _truth(p.get("changed")), _texts(p.get("notes")))
            for p in _rows(report, "passes")
        ),
        notes=_texts(report.get("notes")),
        interface=_interface(report),
        tools=_table("Versions", TOOLS, [{"tool": k, "version": v} for k, v in tools.items()]),
        commands=_commands(report),
    )


# Values


def _visible(text: str) -> str:
    """A text in which nothing is hidden: what is not printable becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cells(character: str) -> int:
    """Columns that a character takes in a fixed-width font."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(cell: Cell, columns: int) -> Cell:
    """The same text in at most so many columns."""
    text = cell.full or cell.text
    if sum(map(_cells, text)) <= columns:
        return replace(cell, text=text, full="")
    taken, end = 0, 0
    while taken + _cells(text[end]) < columns:
        taken, end = taken + _cells(text[end]), end + 1
    return replace(cell, text=text[:end] + "…", full=text)


def _text(value: Any) -> Cell:
    if value is None:
        return NONE
    text = _visible(str(value))
    return _cut(Cell(text), LONGEST)


def _prose(value: Any) -> Cell:
    return NONE if value is None else Cell(_visible(str(value)))


def _texts(values: Any) -> tuple[Cell, ...]:
    return tuple(_prose(v) for v in values or ())


def _truth(value: Any) -> Cell:
    return {True: Cell("yes"), False: Cell("no")}.get(value, NONE)


def _figure(value: Any) -> Cell:
    """A count, or a number in four significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _text(value)
    whole = isinstance(value, int) or value.is_integer() or abs(value) >= 1000
    return _number(f"{value:,.0f}" if whole else f"{value:.4g}", value)


def _number(text: str, value: float) -> Cell:
    return Cell(text.replace("-", "−"), repr(value))


def _percent(value: Any) -> Cell:
    return NONE if value is None else _number(f"{value:.2%}", value)


def _times(value: Any) -> Cell:
    return NONE if value is None else _number(f"{value:,.1f}×", value)


def _small(value: Any) -> Cell:
    return NONE if value is None else _number(f"{value:.2g}", value)


def _offset(value: Any) -> Cell:
    return Cell(f"0x{value:02X}", repr(value)) if isinstance(value, int) else _text(value)


def _any(value: Any) -> Cell:
    if isinstance(value, bool):
        return _truth(value)
    if isinstance(value, (list, tuple)):
        return _text(", ".join(_any(v).text for v in value) or None)
    return _figure(value)


def _part(report: Row, key: str) -> Row:
    return report.get(key) or {}


def _rows(report: Row, key: str) -> Sequence[Row]:
    return report.get(key) or []


def _sum(rows: Sequence[Row], key: str) -> Any:
    known = [r[key] for r in rows if r.get(key) is not None]
    return sum(known) if known else None


def _cycles(row: Row) -> Any:
    """Cycles of a layer: counted, else predicted, else None."""
    counted = row.get("cycles_simulated")
    return row.get("cycles_predicted") if counted is None else counted


# Tables

CHOSEN = "The best of each form for each layer alone, within the cycles that a frame may take"
LAYERS = (
    Column("Layer", "name", _text),
    Column("Op", "op", _text),
    Column("Form", "form", _text),
    Column("MH", "MH", _figure, "Matrix"),
    Column("MW", "MW", _figure, "Matrix"),
    Column("PE", "PE", _figure, "Lanes"),
    Column("SIMD", "SIMD", _figure, "Lanes"),
    Column("Planes", "planes", _figure),
    Column("Digit", "digit", _figure, "Graph"),
    Column("Adders", "adders", _figure, "Graph", total=True),
    Column("Kept", "tiles_kept", _figure, "Tiles", total=True),
    Column("All", "tiles", _figure, "Tiles", total=True),
    Column("Positions", "positions", _figure),
    Column("Predicted", "cycles_predicted", _figure, "Cycles"),
    Column("Simulated", "cycles_simulated", _figure, "Cycles"),
    Column("Done", "additions_done", _figure, "Additions", total=True),
    Column("Dense", "additions_dense", _figure, "Additions", total=True),
    Column("LUT", "lut_estimate", _figure, "Estimate", total=True),
    Column("FF", "ff_estimate", _figure, "Estimate", total=True),
    Column("BRAM", "bram_estimate", _figure, "Estimate", total=True),
)
SYNTHESIZED = (
    Column("Layer", "name", _text),
    *(
        Column(title, f"{kind}_{key}", _figure, kind.upper(), total=True)
        for kind in ("lut", "ff", "bram")
        for title, key in (("Synthesis", "synthesis"), ("Estimate", "estimate"))
    ),
)
SEEDS = (
    Column("Seed", "seed", _figure),
    Column("Fmax, MHz", "fmax_mhz", _figure),
    Column("Bitstream", "bitstream", _text),
    Column("Bytes", "bytes", _figure),
    Column("Longest path through", "critical_path", _any),
)
USED = (Column("Resource", "name", _text), Column("Used", "used", _figure), Column("There are", "available", _figure))
CHOICES = (
    Column("Layer", "name", _text),
    Column("Form", "form", _text),
    Column("Chosen", "chosen", _truth),
    Column("PE", "PE", _figure, "Lanes"),
    Column("SIMD", "SIMD", _figure, "Lanes"),
    Column("Digit", "digit", _figure),
    Column("Cycles", "cycles", _figure),
    Column("LUT, estimate", "lut_estimate", _figure),
    Column("Graph searched", "searched", _truth),
)
CERTIFICATE = (
    Column("Layer", "layer", _text),
    Column("Method", "method", _text),
    Column("Steps", "steps", _figure, total=True),
    Column("At risk", "at_risk", _figure, total=True),
)
RISKS = (
    Column("Layer", "layer", _text),
    Column("Channel", "channel", _figure),
    Column("Sum", "accumulator", _figure),
    Column("Codes", "codes", _any),
    Column("Distance of the step", "margin", _small),
    Column("Rounding reaches", "bound", _small),
)
LOCATED = (
    Column("ONNX node", "node", _text),
    Column("Value", "value", _text),
    Column("Integers", "integers", _figure, "Differ"),
    Column("Frames", "frames", _figure, "Differ"),
    Column("Frame", "frame", _figure, "First"),
    Column("Position", "position", _any, "First"),
    Column("Accelerator", "accelerator", _figure, "First"),
    Column("Reference", "reference", _figure, "First"),
)
REGISTERS = (
    Column("Register", "name", _text),
    Column("Offset", "offset", _offset),
    Column("Access", "access", _text),
    Column("Meaning", "description", _prose),
)
TOOLS = (Column("Tool", "tool", _text), Column("Version", "version", _text))


def _table(caption: str, columns: Sequence[Column], rows: Sequence[Row], total: str = "") -> Table:
    foot: tuple[Cell, ...] = ()
    if total and len(rows) > 1 and any(c.total for c in columns):
        sums = [_figure(_sum(rows, c.key)) if c.total else Cell("") for c in columns[1:]]
        foot = (Cell(total), *sums)
    body = tuple(tuple(c.show(r.get(c.key)) for c in columns) for r in rows)
    return Table(caption, _heads(columns), tuple(c.right for c in columns), body, foot)


def _heads(columns: Sequence[Column]) -> tuple[tuple[Head, ...], ...]:
    """Headings in one line, or in two where some columns form groups."""
    if not any(c.group for c in columns):
        return (tuple(Head(c.name, right=c.right) for c in columns),)
    first: list[Head] = []
    for group, members in groupby(columns, key=lambda c: c.group):
        inside = list(members)
        first += [Head(group, len(inside))] if group else [Head(c.name, lines=2, right=c.right) for c in inside]
    return (tuple(first), tuple(Head(c.name, right=c.right) for c in columns if c.group))


def _choices(layers: Sequence[Row]) -> list[Row]:
    """The best of each form for each layer, where there was a choice."""
    return [
        {**c, "name": row.get("name"), "chosen": c.get("form") == row.get("form"), "searched": not c.get("guess")}
        for row in layers
        for c in _rows(row, "choices")
    ]


def _tables(part: Row, *wanted: tuple[str, str, Sequence[Column]]) -> tuple[Table, ...]:
    """Those of the tables that have rows."""
    found = ((caption, columns, _rows(part, key)) for key, caption, columns in wanted)
    return tuple(_table(caption, columns, rows, "All layers") for caption, columns, rows in found if rows)


def _synthesized(report: Row) -> tuple[Table, ...]:
    """Synthesis beside the estimates, clocks of the seeds, and what is used of the device."""
    found, layers = _part(report, "synthesis"), _rows(report, "layers")
    kept = [row for row in layers if row.get("lut_synthesis") is not None]
    used = [{"name": name.upper(), **part} for name, part in _part(found, "used").items() if isinstance(part, Mapping)]
    return _tables(
        {"layers": kept, "seeds": found.get("seeds"), "used": used},
        ("layers", "Layers, synthesis beside estimate", SYNTHESIZED),
        ("seeds", "Place and route; clocks by static timing, not measured on a board", SEEDS),
        ("used", "Of the device, the registers around the accelerator included", USED),
    )


def _interface(report: Row) -> tuple[Table, ...]:
    """Ports and registers, where the report has them."""
    ports = _rows(report, "ports")
    words = {k: all(isinstance(p.get(k), str) for p in ports) for p in ports for k in p}
    columns = [Column(k.replace("_", " ").capitalize(), k, _text if words[k] else _any) for k in words]
    tables = [_table("Ports", columns, ports)] if ports else []
    return (*tables, *_tables(report, ("registers", "Registers of the AXI4-Lite port, offsets in bytes", REGISTERS)))


# Facts

Show = Callable[[Any], Cell]
WEIGHTS: tuple[tuple[str, str, Show], ...] = (
    ("Weights", "count", _figure),
    ("Not zero", "nonzero", _figure),
    ("Bits, as 32-bit floats", "bits_original", _figure),
    ("Bits stored", "bits_stored", _figure),
    ("Compression, whole model", "compression_whole_model", _times),
    ("Compression, layers of at most 2 bits", "compression_compressed_layers", _times),
)
EXACTNESS: tuple[tuple[str, str, Show], ...] = (
    ("Reference: onnxruntime", "reference", _text),
    ("Steps", "steps", _figure),
    ("Steps at risk", "steps_at_risk", _figure),
)
VERIFICATION: tuple[tuple[str, str, Show], ...] = (
    ("Simulator", "simulator", _text),
    ("Reference: onnxruntime", "reference", _text),
    ("Frames", "samples", _figure),
    ("Integers compared", "integers", _figure),
    ("Mismatches", "mismatches", _figure),
    ("Stalls", "stall", _text),
    ("Differences to the other reference", "differences_other_reference", _figure),
    ("Frames whose final outputs are bit-equal", "identical_outputs", _figure),
    ("Accuracy", "accuracy", _percent),
    ("Accuracy of the reference", "accuracy_reference", _percent),
    ("Agreement", "agreement", _percent),
)
SYNTHESIS: tuple[tuple[str, str, Show], ...] = (
    ("Flow", "flow", _text),
    ("LUT", "lut", _figure),
    ("FF", "ff", _figure),
    ("BRAM", "bram", _figure),
    ("DSP", "dsp", _figure),
    ("Device", "device", _text),
    ("Family", "family", _text),
    ("Layers optimized over their borders", "flattened", _truth),
    ("Fmax by static timing, MHz, not measured on a board", "fmax_mhz", _figure),
    ("Frames per second at that clock", "fps", _figure),
)


def _facts(part: Row, wanted: Sequence[tuple[str, str, Show]]) -> tuple[Fact, ...]:
    return tuple(Fact(label, show(part.get(key))) for label, key, show in wanted)


def _verdict(report: Row) -> str:
    if _part(report, "verification").get("mismatches"):
        return "refuted"
    found = _part(report, "exactness").get("verdict")
    return found if found in TONES else "untested"


def _sentences(report: Row) -> tuple[str, ...]:
    """The verdict in words."""
    exact, verification = _part(report, "exactness"), _part(report, "verification")
    risk, steps = _figure(exact.get("steps_at_risk")).text, _figure(exact.get("steps")).text
    proofs = {
        "proved": f"The integers are proved equal to onnxruntime's: {risk} of {steps} steps are at risk.",
        "tested": f"Equal on the frames below, not proved: {risk} of {steps} steps are at risk.",
        "refuted": "The integers differ from onnxruntime's; the first differences are listed below.",
    }
    first = proofs.get(_verdict(report), f"Neither proved nor compared yet: {risk} of {steps} steps are at risk.")
    if verification.get("samples") is None:
        return (first, "Not verified on frames yet.")
    mismatches, integers, frames = (_figure(verification.get(k)).text for k in ("mismatches", "integers", "samples"))
    return (first, f"Verification: {mismatches} mismatches in {integers} integers of {frames} frames.")


def _measured(part: Row, name: str) -> tuple[Cell, tuple[str, ...]]:
    """Cycles, and how they are known."""
    predicted, counted = part.get(name), part.get(f"{name}_simulated")
    if counted is None:
        return _figure(predicted), ("predicted",) if predicted is not None else ("not known yet",)
    if counted == predicted:
        return _figure(counted), ("predicted and simulated alike",)
    return _figure(counted), (f"simulated; predicted {_figure(predicted).text}",)


def _cards(report: Row) -> tuple[Fact, ...]:
    return (*_speed_cards(report), *_size_cards(report))


def _speed_cards(report: Row) -> tuple[Fact, ...]:
    """Accuracy, throughput, interval, latency."""
    verification, performance = _part(report, "verification"), _part(report, "performance")
    clock = performance.get("clock_mhz")
    at = "clock not known yet" if clock is None else f"at {_figure(clock).text} MHz"
    interval, interval_notes = _measured(performance, "ii_cycles")
    latency, latency_notes = _measured(performance, "latency_cycles")
    if clock and latency.value:
        latency_notes = (*latency_notes, f"{_time(float(latency.value) / clock)} {at}")
    accuracy = _percent(verification.get("accuracy"))
    theirs = (
        f"reference {_percent(verification.get('accuracy_reference')).text}" if accuracy.value else "not measured yet"
    )
    return (
        Fact("Accuracy", accuracy, notes=(theirs,)),
        Fact("Throughput", _figure(performance.get("fps")), "frames/s", (at,)),
        Fact("Interval between frames", interval, "cycles", interval_notes),
        Fact("Latency", latency, "cycles", latency_notes),
    )


def _size_cards(report: Row) -> tuple[Fact, ...]:
    """Lanes, additions, bits, and whether the integers are right."""
    verification, weights, layers = _part(report, "verification"), _part(report, "weights"), _rows(report, "layers")
    linear = [r for r in layers if r.get("PE") is not None and r.get("SIMD") is not None]
    lanes = sum(r["PE"] * r["SIMD"] for r in linear) if linear else None
    done, dense = _sum(layers, "additions_done"), _sum(layers, "additions_dense")
    smaller, mismatches = weights.get("compression_whole_model"), verification.get("mismatches")
    integers, frames = (_figure(verification.get(k)).text for k in ("integers", "samples"))
    return (
        Fact("Lanes", _figure(lanes), notes=("PE × SIMD over all layers",)),
        Fact("Additions per frame", _figure(done), notes=(f"of {_figure(dense).text} dense{_of(done, dense)}",)),
        Fact(
            "Weight bits stored", _figure(weights.get("bits_stored")),
            notes=("not known yet" if smaller is None else f"{_times(smaller).text} smaller than 32-bit floats",),
        ),
        Fact(
            "Mismatches", _figure(mismatches),
            notes=("not verified yet" if mismatches is None else f"in {integers} integers of {frames} frames",),
        ),
    )  # fmt: skip


def _time(microseconds: float) -> str:
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= factor:
            return f"{microseconds / factor:.4g} {unit}"
    return f"{microseconds:.4g} µs"


def _of(part: Any, whole: Any) -> str:
    return f" ({part / whole:.0%})" if whole and part is not None else ""


def _commands(report: Row) -> tuple[Fact, ...]:
    model = _argument(_part(report, "model").get("file"), "MODEL.onnx")
    stall = _part(report, "verification").get("stall")
    stalled = "" if stall in (None, "none") else f" --stall {_argument(stall, 'none')}"
    commands = [
        ("The file is the one above", f"sha256sum {model}"),
        (
            "Build, with the options that were given; those that changed weights are under Passes",
            f"tcompile build {model} -o DIR",
        ),
        ("Compare with onnxruntime", f"tcompile verify DIR --inputs X.npz{stalled}"),
    ]
    if any(r.get("form") for r in _rows(report, "layers")):
        commands.append(("Simulate without tcompile", "make -C DIR/sim"))
    return tuple(Fact(label, Cell(text)) for label, text in commands)


def _argument(value: Any, otherwise: str) -> str:
    """A word of a shell command; another one if the value cannot be typed as it is."""
    text = str(value)
    if value is None or not text.isprintable():
        return otherwise
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


# Pictures


def _slowest(layers: Sequence[Row]) -> Any:
    return max((c for c in map(_cycles, layers) if c is not None), default=None)


def _pair(row: Row, *keys: str) -> str:
    return " × ".join(_figure(row.get(k)).text for k in keys) if row.get(keys[0]) is not None else NONE.text


def _box(index: int, row: Row, slowest: Any) -> Box:
    cycles = _cycles(row)
    kind = " · ".join(_cut(_text(row[k]), 16).text for k in ("op", "form") if row.get(k) is not None)
    return Box(
        x=1 + index % ACROSS * (BOX_WIDTH + GAP_X),
        y=1 + index // ACROSS * (BOX_HEIGHT + GAP_Y),
        name=_cut(_text(row.get("name")), NAME_CELLS),
        kind=kind or NONE.text,
        matrix=_pair(row, "MH", "MW"),
        lanes=_pair(row, "PE", "SIMD"),
        size=_size(row),
        cycles=_figure(cycles),
        fill=round(cycles / slowest, 4) if cycles is not None and slowest else 0,
        bottleneck=cycles is not None and cycles == slowest and slowest > 0,
        nodes=", ".join(_visible(str(n)) for n in row.get("onnx_nodes") or ()),
    )


def _size(row: Row) -> str:
    """What a layer is made of: planes of weights, or adders of a graph."""
    key, word = ("planes", "plane") if row.get("adders") is None else ("adders", "adder")
    count = row.get(key)
    return "" if count is None else f"{_figure(count).text} {word}" + ("" if count == 1 else "s")


def _link(a: Box, b: Box) -> str:
    """Path of an arrow from one box to the next, through the gap between lines where it wraps."""
    if a.y == b.y:
        return f"M{a.x + BOX_WIDTH + 3} {a.y + BOX_HEIGHT // 2}H{b.x - 5}"
    middle = BOX_WIDTH // 2
    return f"M{a.x + middle} {a.y + BOX_HEIGHT + 3}V{b.y - GAP_Y // 2}H{b.x + middle}V{b.y - 5}"


def _picture(layers: Sequence[Row]) -> Picture:
    slowest = _slowest(layers)
    boxes = tuple(_box(k, row, slowest) for k, row in enumerate(layers))
    late = [b for b in boxes if b.bottleneck]
    label = f"{len(boxes)} layers in order" + "".join(f"; bottleneck {b.name.full or b.name.text}" for b in late)
    links = tuple(_link(a, b) for a, b in pairwise(boxes))
    lines = -(-len(boxes) // ACROSS)
    width = ACROSS * (BOX_WIDTH + GAP_X) - GAP_X + 2
    return Picture(label, width, max(0, lines * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2), boxes, links)


def _bars(title: str, label: str, width: int, rows: Sequence[tuple[Row, float, str, bool]], track: bool) -> Bars:
    bars = tuple(
        Bar(k * BAR_PITCH, _cut(_text(row.get("name")), BAR_CELLS), round(share, 4), text, marked)
        for k, (row, share, text, marked) in enumerate(rows)
    )
    return Bars(title, label, width, len(bars) * BAR_PITCH, track, bars)


def _cycle_bars(layers: Sequence[Row]) -> Bars:
    slowest = _slowest(layers)
    known = [(row, _cycles(row)) for row in layers if _cycles(row) is not None]
    rows = [(row, c / slowest if slowest else 0.0, _figure(c).text, c == slowest) for row, c in known]
    return _bars("Cycles per frame", "Cycles per frame of each layer; numbers in the table", 1080, rows, track=False)


def _share_bars(layers: Sequence[Row]) -> tuple[Bars, Bars]:
    def shares(part: str, whole: str) -> list[tuple[Row, float, str, bool]]:
        return [
            (r, r[part] / r[whole], f"{r[part] / r[whole]:.0%} of {r[whole]:,}", False)
            for r in layers
            if r.get(part) is not None and r.get(whole)
        ]

    return (
        _bars("Tiles kept", "Kept share of each layer's tiles", 524, shares("tiles_kept", "tiles"), track=True),
        _bars(
            "Additions done", "Done share of each layer's dense additions", 524,
            shares("additions_done", "additions_dense"), track=True,
        ),
    )  # fmt: skip
