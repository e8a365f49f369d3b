"""Tables of the page: which keys of the report are their columns, and how values are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from tcompile.page.cells import (
    Cell,
    Row,
    Show,
    anything,
    figure,
    offset,
    part,
    percent,
    prose,
    rows_of,
    small,
    total,
    truth,
    word,
)

__all__ = ["Table", "certificate_tables", "choices_table", "difference_tables", "interface_tables", "layer_table", "resource_table", "synthesis_tables", "tools_table"]  # fmt: skip

WIDE = 6  # columns above which a table may need to be scrolled on a screen
LONG = 12  # rows above which a table of details is folded away
ALL = "All layers"


@dataclass(frozen=True)
class Column:
    """A column of a table: its key in the rows and how a value is shown; `total` asks for the sum in the last line."""

    name: str
    key: str
    show: Show
    group: str = ""
    total: bool = False

    @property
    def right(self) -> bool:
        """Whether figures stand in it."""
        return self.show not in (word, prose)


@dataclass(frozen=True)
class Head:
    """A heading of one column over `lines` lines, or, `over` theirs, of a group of `span` columns."""

    name: str
    span: int = 1
    lines: int = 1
    right: bool = False
    over: bool = False


@dataclass(frozen=True)
class Table:
    """A table as the templates draw it: lines of headings, lines, and a line of sums; `folded` away until it is wanted."""

    caption: str
    heads: tuple[tuple[Head, ...], ...]
    right: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[Cell, ...] = ()
    folded: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Headings of the columns in one line, those of groups behind their own."""
        first, below = self.heads[0], iter(self.heads[-1])
        return tuple(
            f"{next(below).name} ({head.name})" if head.over else head.name for head in first for _ in range(head.span)
        )

    @property
    def wide(self) -> bool:
        """Whether it may need to be scrolled."""
        return len(self.right) > WIDE


LAYERS = (
    Column("Layer", "name", word),
    Column("Op", "op", word),
    Column("Form", "form", word),
    Column("MH", "MH", figure, "Matrix"),
    Column("MW", "MW", figure, "Matrix"),
    Column("PE", "PE", figure, "Lanes"),
    Column("SIMD", "SIMD", figure, "Lanes"),
    Column("Planes", "planes", figure),
    Column("Digit", "digit", figure, "Graph"),
    Column("Adders", "adders", figure, "Graph", total=True),
    Column("Kept", "tiles_kept", figure, "Tiles", total=True),
    Column("All", "tiles", figure, "Tiles", total=True),
    Column("Positions", "positions", figure),
    Column("Predicted", "cycles_predicted", figure, "Cycles"),
    Column("Simulated", "cycles_simulated", figure, "Cycles"),
    Column("Done", "additions_done", figure, "Additions", total=True),
    Column("Dense", "additions_dense", figure, "Additions", total=True),
)
KINDS = (("LUT", "lut"), ("Flip-flops", "ff"), ("Block RAM", "bram"))
RESOURCES = (
    Column("Layer", "name", word),
    Column("Form", "form", word),
    *(
        Column(source, key + suffix, figure, name, total=True)
        for name, key in KINDS
        for source, suffix in (("Estimate", "_estimate"), ("Synthesized", "_synthesis"))
    ),
)
SEEDS = (
    Column("Seed", "seed", word),
    Column("Fmax, MHz", "fmax_mhz", figure),
    Column("Bitstream", "bitstream", word),
    Column("Bytes", "bytes", figure),
    Column("Longest path through", "critical_path", anything),
)
DEVICE = (
    Column("Resource", "name", word),
    Column("Accelerator, estimate", "estimate", figure),
    Column("Accelerator, synthesized", "found", figure),
    Column("Used of the device", "used", figure),
    Column("There are", "available", figure),
    Column("Share", "share", percent),
)
ELSEWHERE = (
    Column("Memory", "memory", word),
    Column("Estimated", "estimated", figure, "Block RAMs"),
    Column("Found", "found", figure, "Block RAMs"),
)
CHOICES = (
    Column("Layer", "name", word),
    Column("Form", "form", word),
    Column("Chosen", "chosen", truth),
    Column("PE", "PE", figure, "Lanes"),
    Column("SIMD", "SIMD", figure, "Lanes"),
    Column("Digit", "digit", figure),
    Column("Cycles", "cycles", figure),
    Column("LUT, estimate", "lut_estimate", figure),
    Column("Graph searched", "searched", truth),
)
CERTIFICATE = (
    Column("Layer", "layer", word),
    Column("Method", "method", word),
    Column("Steps", "steps", figure, total=True),
    Column("At risk", "at_risk", figure, total=True),
)
RISKS = (
    Column("Layer", "layer", word),
    Column("Channel", "channel", figure),
    Column("Sum", "accumulator", figure),
    Column("Codes", "codes", anything),
    Column("Distance of the step", "margin", small),
    Column("Rounding reaches", "bound", small),
)
LOCATED = (
    Column("ONNX node", "node", word),
    Column("Value", "value", word),
    Column("Integers", "integers", figure, "Differ"),
    Column("Frames", "frames", figure, "Differ"),
    Column("Frame", "frame", figure, "First"),
    Column("Position", "position", anything, "First"),
    Column("Accelerator", "accelerator", figure, "First"),
    Column("Reference", "reference", figure, "First"),
)
REGISTERS = (
    Column("Register", "name", word),
    Column("Offset", "offset", offset),
    Column("Access", "access", word),
    Column("Meaning", "description", prose),
)
TOOLS = (Column("Tool", "tool", word), Column("Version", "version", word))


def layer_table(layers: Sequence[Row]) -> Table:
    """What each layer is and does."""
    return _table("Layers, per frame", _known(LAYERS, layers), layers)


def resource_table(layers: Sequence[Row]) -> Table:
    """What each layer costs, as estimated and as synthesized."""
    return _table("Resources by layer, requantizers included", _known(RESOURCES, layers), layers)


def synthesis_tables(report: Row) -> tuple[Table, ...]:
    """What is used of the device, clocks by seed, memories that are elsewhere than estimated."""
    found = part(report, "synthesis")
    return _tables(
        {**found, "device": [_device_row(found, *kind) for kind in KINDS] if found.get("flow") else []},
        ("device", "The whole accelerator, and the device with what is around it", DEVICE),
        ("seeds", "Place and route by seed of the placer; clocks by static timing, not measured on a board", SEEDS),
        ("memories_elsewhere", "Memories whose block RAMs are not those of the estimate", ELSEWHERE),
    )


def _device_row(found: Row, name: str, key: str) -> Row:
    used = part(part(found, "used"), key)
    share = used["used"] / used["available"] if used.get("available") else None
    return {"name": name, "found": found.get(key), "estimate": part(found, "estimate").get(key), "share": share, **used}


def choices_table(layers: Sequence[Row]) -> tuple[Table, ...]:
    """The best of each form for each layer, where there was a choice."""
    rows = [
        {**c, "name": row.get("name"), "chosen": c.get("form") == row.get("form"), "searched": not c.get("guess")}
        for row in layers
        for c in rows_of(row, "choices")
    ]
    caption = "The best of each form for each layer alone, within the cycles that a frame may take"
    return _tables({"choices": rows}, ("choices", caption, CHOICES))


def certificate_tables(report: Row) -> tuple[Table, ...]:
    """Why the integers are right, and where they might not be."""
    return _tables(
        part(report, "exactness"),
        ("risks", "Steps that a sum in another order could miss, the nearest first", RISKS),
        ("layers", "Steps of the requantizers, by layer", CERTIFICATE),
    )


def difference_tables(report: Row) -> tuple[Table, ...]:
    """Where integers differed on frames."""
    return _tables(
        part(report, "verification"),
        ("located", "First differences from the reference", LOCATED),
        ("located_other", "First differences from the other reference (not a failure)", LOCATED),
    )


def interface_tables(report: Row) -> tuple[Table, ...]:
    """Ports and registers, where the report has them."""
    ports = rows_of(report, "ports")
    words = {k: all(isinstance(p.get(k), str) for p in ports) for p in ports for k in p}
    columns = [Column(k.replace("_", " ").capitalize(), k, word if words[k] else anything) for k in words]
    tables = [_table("AXI4-Stream ports", columns, ports)] if ports else []
    return (*tables, *_tables(report, ("registers", "Registers of the AXI4-Lite port, offsets in bytes", REGISTERS)))


def tools_table(report: Row) -> Table:
    """Versions of what made the build."""
    return _table("Versions", TOOLS, [{"tool": k, "version": v} for k, v in part(report, "tools").items()])


def _known(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Columns of which something is known; all where there are no rows."""
    return [c for k, c in enumerate(columns) if not k or not rows or any(r.get(c.key) is not None for r in rows)]


def _table(caption: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    foot: tuple[Cell, ...] = ()
    if len(rows) > 1 and any(c.total for c in columns):
        foot = (Cell(ALL), *(figure(total(rows, c.key)) if c.total else Cell("") for c in columns[1:]))
    body = tuple(tuple(c.show(r.get(c.key)) for c in columns) for r in rows)
    return Table(caption, _heads(columns), tuple(c.right for c in columns), body, foot)


def _heads(columns: Sequence[Column]) -> tuple[tuple[Head, ...], ...]:
    """Headings in one line, or in two where some columns form groups."""
    if not any(c.group for c in columns):
        return (tuple(Head(c.name, right=c.right) for c in columns),)
    first: list[Head] = []
    for group, members in groupby(columns, key=lambda c: c.group):
        inside = list(members)
        first += (
            [Head(group, len(inside), over=True)] if group else [Head(c.name, lines=2, right=c.right) for c in inside]
        )
    return (tuple(first), tuple(Head(c.name, right=c.right) for c in columns if c.group))


def _tables(section: Row, *wanted: tuple[str, str, Sequence[Column]]) -> tuple[Table, ...]:
    """Those of the tables that have rows."""
    found = ((caption, columns, rows_of(section, key)) for key, caption, columns in wanted)
    tables = (_table(caption, _known(columns, rows), rows) for caption, columns, rows in found if rows)
    return tuple(replace(t, folded=len(t.rows) > LONG) for t in tables)
