"""What `tcompile compress` is asked to do: options of the command and of TOML recipes, checked before any work."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from math import cos, pi
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tcompile.errors import Problem, UsageError, printable

__all__ = ["Recipe", "read_recipe", "shipped"]

FOLDER = Path(__file__).parent / "recipes"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Recipe(BaseModel):
    """Options of ``compress``.

    Parameters
    ----------
    method : {"none", "lasso", "wpc", "admm", "slr", "magnitude"}
        How weights are pruned.
    ternary : {"sws", "twn", "gaussian", "bcgd"}
        How weights are ternarized.
    terms : int
        Ternary planes of a weight (``sws``).
    first_terms, last_terms : int or None
        The same for the first and the last layer; None as for all.
    per : {"layer", "channel"}
        What shares one scale.
    act_bits, input_bits : int
        Bits of activations, and of the network's input.
    quantizer : {"lsq", "bcgd"}
        How steps of activations are trained.
    pe, simd : int
        Rows and columns of a tile.
    low_rank : {"none", "search"} or float
        Convolutions become three smaller ones before training (Tucker-2): at ranks that a search chooses, or at the ranks
        that are closest to a share of their channels.
    rank_epochs : int
        Of the search.
    rank_strength : float
        λ of the search: what all cycles of a layer are worth in cross entropy.
    group : str
        What is pruned together; ``form``: what the hardware of each layer skips, tiles in engines and single weights in
        graphs of adders.
    sparsity : float
        Share of all layers' groups to prune.
    cycles : int or None
        Cycles per frame to reach by pruning, in place of a share.
    target : str or None
        Device to fit at `fps` by pruning, in place of a share: the same share of each layer.
    fps, clock_mhz : float or None, float
        Rate for which hardware is chosen, and the clock that it counts with.
    skip_first : bool
        Whether the first layer, which is small and sees the input, is not pruned.
    strength : float
        λ of a penalty.
    threshold : {"mean", "rank", "mixed"}
        δ of ``wpc``.
    a : float or None
        Its parameter; None for what the pruning needs: as many of the smallest groups as are to go, and one lane's more.
    attached : bool
        Whether the gradient of ``wpc`` also goes through δ.
    epochs : int
        In all; 0 writes what calibration alone gives.
    retrain : int or None
        Epochs of these that follow the pruning; None for a third.
    batch : int
        Frames of a step.
    optimizer : {"sgd", "adam"}
    rate : float
        Learning rate.
    schedule : {"constant", "cosine", "steps"}
        How the rate falls, epoch by epoch.
    milestones : tuple of float
        Of ``steps``: shares of the epochs after which the rate falls.
    factors : tuple of float
        Of ``steps``: by which factor, each.
    momentum, decay : float
        Of ``sgd``; weight decay of the layers' weights.
    distill : float
        Share of the loss that compares with the float network's scores.
    temperature : float
        Of that comparison.
    flip : bool
        Mirror images at random, left and right.
    shift : int
        Move images at random, by up to so many pixels.
    validation : float
        Share of the training frames that validate.
    patience : int or None
        Epochs without a better validation after which training ends.
    seed, threads : int
        Of all random numbers; threads of torch (results depend on their number).
    device : {"auto", "cpu", "cuda"}
        Where to train.
    precision : {"float32", "bfloat16"}
        Of products and sums in training steps; quantizers, losses and all that is written are float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["none", "lasso", "wpc", "admm", "slr", "magnitude"] = "none"
    ternary: Literal["sws", "twn", "gaussian", "bcgd"] = "sws"
    terms: Annotated[int, Field(ge=1, le=7)] = 1
    first_terms: Annotated[int, Field(ge=1, le=7)] | None = None
    last_terms: Annotated[int, Field(ge=1, le=7)] | None = None
    per: Literal["layer", "channel"] = "channel"
    act_bits: Annotated[int, Field(ge=1, le=8)] = 4
    input_bits: Annotated[int, Field(ge=1, le=16)] = 8
    quantizer: Literal["lsq", "bcgd"] = "lsq"
    pe: Annotated[int, Field(ge=1, le=1024)] = 8
    simd: Annotated[int, Field(ge=1, le=4096)] = 8
    low_rank: Literal["none", "search"] | float = "none"
    rank_epochs: Count = 2
    rank_strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    group: Literal["tile", "tile-over-taps", "slice", "filter", "channel", "column", "weight", "form"] = "tile"
    sparsity: Share = 0.0
    cycles: Count | None = None
    target: str | None = None
    fps: Positive | None = None
    clock_mhz: Annotated[float, Field(gt=0, le=10_000)] = 100.0
    skip_first: bool = True
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3
    threshold: Literal["mean", "rank", "mixed"] = "rank"
    a: Annotated[float, Field(gt=0, le=1)] | None = None
    attached: bool = False
    epochs: Annotated[int, Field(ge=0, le=100_000)] = 20
    retrain: Annotated[int, Field(ge=0)] | None = None
    batch: Annotated[int, Field(ge=2)] = 64
    optimizer: Literal["sgd", "adam"] = "adam"
    rate: Positive = 2e-3
    schedule: Literal["constant", "cosine", "steps"] = "cosine"
    milestones: tuple[Share, ...] = (0.4, 0.6, 0.8)
    factors: tuple[Positive, ...] = (0.1, 0.1, 0.5)
    momentum: Share = 0.9
    decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Positive = 4.0
    flip: bool = False
    shift: Annotated[int, Field(ge=0, le=1024)] = 0
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Count | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"

    @field_validator("low_rank", mode="before")
    @classmethod
    def _share(cls, given: object) -> object:
        if given in ("none", "search"):
            return given
        try:
            share = float(str(given))
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise ValueError("must be a share above 0 and below 1, or 'search'")
        return share

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        several = max(self.terms, self.first_terms or 1, self.last_terms or 1) > 1
        if several and self.ternary != "sws":
            raise ValueError(f"several terms are for ternary = 'sws', and not for {self.ternary!r}")
        goals = (self.sparsity > 0) + (self.cycles is not None) + (self.target is not None)
        if goals and self.method == "none":
            raise ValueError("sparsity, cycles and target need a method that prunes, such as method = 'wpc'")
        if self.method != "none" and not goals:
            raise ValueError(f"method {self.method!r} needs a sparsity above 0, cycles, or a target")
        if goals > 1:
            raise ValueError("sparsity, cycles and target contradict each other; give one of them")
        if self.group == "form" and self.method == "none":
            raise ValueError("group = 'form' needs a method that prunes, such as method = 'wpc'")
        if (self.target is not None or self.group == "form") and self.fps is None:
            raise ValueError("a target, and group = 'form', need the rate that hardware is chosen for: fps")
        if self.target is not None and self.method in ("admm", "slr"):
            raise ValueError(f"method {self.method!r} asks for its groups at every update, and a target takes too long")
        if self.cycles is not None and self.group == "form":
            raise ValueError("cycles count what engines take; with group = 'form' give sparsity, or target and fps")
        if len(self.milestones) != len(self.factors):
            raise ValueError("milestones and factors must be as many")
        if self.retrain is not None and self.retrain > self.epochs:
            raise ValueError(f"retrain must be at most epochs, {self.epochs}, not {self.retrain}")
        return self

    @property
    def prunes(self) -> bool:
        """Whether groups are pruned."""
        return self.method != "none"

    @property
    def after(self) -> int:
        """Epochs after the pruning; all of them without any."""
        if not self.prunes:
            return self.epochs
        return self.retrain if self.retrain is not None else -(-self.epochs // 3)

    def terms_of(self, index: int, count: int) -> int:
        """Planes of the layer of a number among so many; a single layer is the last."""
        if index == count - 1 and self.last_terms is not None:
            return self.last_terms
        if index == 0 and self.first_terms is not None:
            return self.first_terms
        return self.terms

    def rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1."""
        done = (epoch - 1) / max(self.epochs, 1)
        if self.schedule == "cosine":
            return self.rate * (1 + cos(pi * done)) / 2
        rate = self.rate
        if self.schedule == "steps":
            for milestone, factor in zip(self.milestones, self.factors, strict=True):
                rate *= factor if done >= milestone else 1.0
        return rate


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with tcompile."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.toml")))


def read_recipe(config: str | Path | None, given: Mapping[str, Any]) -> Recipe:
    """A recipe of a file and of options that go before it.

    Parameters
    ----------
    config : str, Path or None
        A TOML file, or the name of a recipe that comes with tcompile.
    given : mapping of str to object
        Options by field.

    Raises
    ------
    UsageError
        The file cannot be read, or options are unknown or wrong; all of them.
    """
    options = {**({} if config is None else _read(Path(config))), **given}
    try:
        return Recipe(**options)
    except ValidationError as error:
        raise UsageError([_problem(e["loc"], e["type"], e["msg"], e["input"]) for e in error.errors()]) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.exists() and path.name in shipped() and path.parent == Path():
        path = FOLDER / f"{path.name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"there is no recipe {printable(str(path))}"
        raise UsageError(Problem("no-file", message, hint=f"a TOML file, or one of {', '.join(shipped())}")) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        message = f"{printable(str(path))} must be a TOML file: {printable(reason)[1:-1]}"
        raise UsageError(Problem("bad-config", message, hint="such as: method = 'wpc'")) from error


def _problem(place: tuple[int | str, ...], kind: str, reason: str, found: object) -> Problem:
    name = ".".join(map(str, place))
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(name[:100], Recipe.model_fields, 1)
        hint = f"is {close[0]} meant?" if close else f"the options are {', '.join(Recipe.model_fields)}"
        return Problem("unknown-option", f"there is no option {printable(name)}", hint=hint)
    reason = reason.removeprefix("Value error, ")
    if not place:
        return Problem("bad-option", reason)
    shown = f"{printable(name)[1:-1]}: {reason[:1].lower() + reason[1:]}, not {printable(str(found))}"
    return Problem("bad-option", shown)
