"""Values of a report as text: what a reader sees, and the exact number or the whole text behind it.

Names come from the model and are not trusted: characters that cannot be seen or that turn the direction of writing are
shown as escapes. What markup would take as its own is escaped where the page is rendered.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = [
    "NONE",
    "Cell",
    "Row",
    "Show",
    "anything",
    "cut",
    "cycles_of",
    "figure",
    "offset",
    "pair",
    "part",
    "percent",
    "prose",
    "remarks",
    "rows_of",
    "share",
    "small",
    "times",
    "total",
    "truth",
    "visible",
    "word",
]  # fmt: skip

Row = Mapping[str, Any]
LONGEST = 120  # characters of a name in running text and tables


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


Show = Callable[[Any], Cell]
NONE = Cell("–")


def visible(text: str) -> str:
    """A text in which nothing is hidden: what is not printable becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _columns(character: str) -> int:
    """Columns that a character takes in a fixed-width font."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(cell: Cell, columns: int) -> Cell:
    """The same text in at most so many columns."""
    text = cell.full or cell.text
    if sum(map(_columns, text)) <= columns:
        return replace(cell, text=text, full="")
    taken, end = 0, 0
    while taken + _columns(text[end]) < columns:
        taken, end = taken + _columns(text[end]), end + 1
    return replace(cell, text=text[:end] + "…", full=text)


def word(value: Any) -> Cell:
    """A name, cut where it is very long."""
    return NONE if value is None else cut(Cell(visible(str(value))), LONGEST)


def prose(value: Any) -> Cell:
    """A sentence, never cut."""
    return NONE if value is None else Cell(visible(str(value)))


def remarks(values: Any) -> tuple[Cell, ...]:
    """Several sentences."""
    return tuple(prose(v) for v in values or ())


def truth(value: Any) -> Cell:
    """Yes or no."""
    return {True: Cell("yes"), False: Cell("no")}.get(value, NONE)


def figure(value: Any) -> Cell:
    """A count, or a number in four significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return word(value)
    if isinstance(value, int):
        return _number(f"{value:,d}", value)
    return _number(f"{value:,.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.4g}", value)


def _number(text: str, value: float) -> Cell:
    return Cell(text.replace("-", "−"), repr(value))


def percent(value: Any) -> Cell:
    """A share in hundredths of a per cent."""
    return NONE if value is None else _number(f"{value:.2%}", value)


def times(value: Any) -> Cell:
    """How many times smaller or larger."""
    return NONE if value is None else _number(f"{value:,.1f}×", value)


def small(value: Any) -> Cell:
    """A distance, in two significant digits."""
    return NONE if value is None else _number(f"{value:.2g}", value)


def offset(value: Any) -> Cell:
    """An address."""
    return Cell(f"0x{value:02X}", repr(value)) if isinstance(value, int) else word(value)


def anything(value: Any) -> Cell:
    """A value of whatever kind it is."""
    if isinstance(value, bool):
        return truth(value)
    if isinstance(value, (list, tuple)):
        return word(", ".join(anything(v).text for v in value) or None)
    return figure(value)


def share(part: Any, whole: Any) -> str:
    """Whole per cent; empty where one of the two is not known."""
    return f"{part / whole:.0%}" if whole and part is not None else ""


def pair(row: Row, *keys: str) -> str:
    """Counts with a cross between them; empty where they are not known."""
    return " × ".join(figure(row.get(k)).text for k in keys) if row.get(keys[0]) is not None else ""


def part(report: Row, key: str) -> Row:
    """A section of a report; empty where there is none."""
    return report.get(key) or {}


def rows_of(report: Row, key: str) -> Sequence[Row]:
    """A list of a report; empty where there is none."""
    return report.get(key) or []


def total(rows: Sequence[Row], key: str) -> Any:
    """Sum of what is known; None where nothing is."""
    known = [r[key] for r in rows if r.get(key) is not None]
    return sum(known) if known else None


def cycles_of(row: Row) -> Any:
    """Cycles of a layer: counted, else predicted, else None."""
    counted = row.get("cycles_simulated")
    return row.get("cycles_predicted") if counted is None else counted
