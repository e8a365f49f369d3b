"""How many lanes each layer gets: PE rows by SIMD columns of its matrix at a time."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tcompile.errors import Problem, UsageError, printable

__all__ = ["FORMS", "Fold", "Folding", "Form", "Wish", "read_folding"]

Form = Literal["engine"]
FORMS: tuple[Form, ...] = ("engine",)
DEFAULTS = "Defaults"


@dataclass(frozen=True)
class Fold:
    """Lanes of one layer.

    Parameters
    ----------
    pe : int
        Output channels computed at the same time.
    simd : int
        Input channels taken at the same time.
    form : {"engine"}
        Kind of hardware.
    """

    pe: int
    simd: int
    form: Form = "engine"

    @property
    def lanes(self) -> int:
        """Adders of the layer's array."""
        return self.pe * self.simd


@dataclass(frozen=True)
class Wish:
    """What a folding file says of one layer; None where it says nothing."""

    pe: int | None = None
    simd: int | None = None
    form: Form | None = None


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
