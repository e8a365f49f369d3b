"""What hardware each layer gets: lanes of an engine, PE rows by SIMD columns of its matrix, or a graph of adders."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tcompile.errors import Problem, UsageError, printable

__all__ = ["DIGITS", "FORMS", "Fold", "Folding", "Form", "Wish", "read_folding"]

Form = Literal["engine", "serial", "parallel"]
FORMS: tuple[Form, ...] = ("engine", "serial", "parallel")
DIGITS = (1, 2, 4)
DEFAULTS = "Defaults"


@dataclass(frozen=True)
class Fold:
    """Hardware of one layer.

    Parameters
    ----------
    pe, simd : int
        Of an engine: output and input channels computed at the same time. Of a graph, which computes all of them:
        output channels that leave, and input channels that come, at the same time.
    form : {"engine", "serial", "parallel"}
        Lanes with weights in memory, or a graph of adders for digits or for whole words.
    digit : int
        Bits of a digit of a serial graph.
    spacing : int
        Levels of adders between registers of a parallel graph.
    out : int
        Output channels that leave an engine at the same time; 0 for all `pe` of them.
    coded : bool
        Whether an engine's memory holds weights as digits, pass by pass: smaller lanes, more memory.
    tree : int
        Levels of adders between registers of an engine.
    """

    pe: int
    simd: int
    form: Form = "engine"
    digit: int = 1
    spacing: int = 1
    out: int = 0
    coded: bool = False
    tree: int = 2

    @property
    def leaving(self) -> int:
        """Output channels that leave at the same time."""
        return self.out or self.pe

    @property
    def lanes(self) -> int:
        """Adders of an engine's array; 0 for graphs."""
        return self.pe * self.simd if self.form == "engine" else 0


@dataclass(frozen=True)
class Wish:
    """What a folding file says of one layer; None where it says nothing."""

    pe: int | None = None
    simd: int | None = None
    form: Form | None = None
    digit: int | None = None
    spacing: int | None = None
    coded: bool | None = None


@dataclass(frozen=True)
class Folding:
    """A folding file: wishes for single layers by name, and for all others."""

    layers: Mapping[str, Wish] = field(default_factory=dict)
    defaults: Wish = Wish()


def read_folding(text: str, layers: Iterable[str]) -> Folding:
    """Read a folding file of FINN's shape: ``{"Defaults": {"PE": 8}, "conv1": {"PE": 16, "SIMD": 9}}``.

    Parameters
    ----------
    text : str
        JSON.
    layers : iterable of str
        Names of the layers that have a folding.

    Raises
    ------
    UsageError
        No JSON object, or layers, keys or values that are unknown; all of them at once.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            Problem("bad-folding", f"the folding file must be JSON: {printable(str(error))[1:-1]}")
        ) from error
    if not isinstance(data, dict):
        raise UsageError(Problem("bad-folding", 'the folding file must hold an object such as {"conv1": {"PE": 8}}'))
    known, problems, wishes = list(layers), [], {}
    for name, entry in data.items():
        if name != DEFAULTS and name not in known:
            problems.append(_unknown("layer", name, known))
            continue
        if not isinstance(entry, dict):
            problems.append(Problem("bad-folding", 'must be an object such as {"PE": 8, "SIMD": 8}', (name,)))
            continue
        wishes[name] = Wish(**{key.lower(): value for key, value in _checked(name, entry, problems)})
    if problems:
        raise UsageError(problems)
    return Folding({n: w for n, w in wishes.items() if n != DEFAULTS}, wishes.get(DEFAULTS, Wish()))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"{twice} stands there twice")
    return dict(pairs)


def _count(value: object) -> bool:
    return type(value) is int and value >= 1


KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "PE": (_count, "must be a positive integer"),
    "SIMD": (_count, "must be a positive integer"),
    "form": (lambda value: value in FORMS, f"must be one of {', '.join(FORMS)}"),
    "digit": (lambda value: type(value) is int and value in DIGITS, f"must be one of {', '.join(map(str, DIGITS))}"),
    "spacing": (_count, "must be a positive integer"),
    "coded": (lambda value: type(value) is bool, "must be true or false"),
}


def _checked(name: str, entry: dict[str, Any], problems: list[Problem]) -> list[tuple[str, Any]]:
    """The good entries of a layer."""
    good = []
    for key, value in entry.items():
        if key not in KEYS:
            problems.append(_unknown("key", key, list(KEYS), name))
        elif not KEYS[key][0](value):
            problems.append(
                Problem("bad-folding", f"{key} {KEYS[key][1]}, not {printable(json.dumps(value))}", (name,))
            )
        else:
            good.append((key, value))
    return good


def _unknown(what: str, name: str, known: list[str], where: str = "") -> Problem:
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"is {printable(folded[close[0]])} meant?" if close else f"there are {', '.join(map(printable, known[:12]))}"
    return Problem(
        f"unknown-{what}",
        f"the folding file names a {what} that does not exist: {printable(name)}",
        (where,) if where else (),
        hint,
    )
