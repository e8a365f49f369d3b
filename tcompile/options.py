"""What a user can ask for, checked before any work: command line, configuration files and the Python API alike."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["BuildOptions", "Simulator"]


PERCENTILE = 99.99  # where none is given
IntegerType = Literal["uint2", "int2", "uint4", "int4", "uint8", "int8", "uint16", "int16"]
Simulator = Literal["verilator", "amaranth", "model"]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BuildOptions(_Options):
    """Options of ``check`` and ``build``.

    Parameters
    ----------
    shape : dict of str to tuple of int
        Shapes of inputs with dynamic dimensions.
    input_type : dict of str to str
        Integer types of float inputs that hold integers: ``{"x": "uint8"}``.
    from_node, until_node : str or None
        ONNX nodes that the compiled part begins and ends with.
    ternary : str or None
        ``sws[:TERMS]``: weights become ternary, or a sum of TERMS ternary terms.
    weights : str or None
        ``csd:N``: weights become integers of at most N signed digits.
    prune : str or None
        ``tile:RATIO``: this share of PE x SIMD tiles becomes zero.
    act_bits : int
        Bits of activations that nothing quantizes yet.
    ranges : str
        ``mse``, ``minmax`` or ``percentile[:P]``: how ranges of activations come from calibration data.
    equalize : bool
        Whether channels are scaled by powers of two so that those that share a grid are alike in range.
    reference : {"auto", "plain", "fused"}
        Which of onnxruntime's results to reproduce.
    pe, simd : int
        Lanes of a layer, output channels by input channels, where nothing else decides; also the size of tiles.
    fold : str, dict or None
        Folding file (JSON of FINN's shape), or its content.
    fps : float or None
        Frames per second to reach with as few lanes as possible.
    clock_mhz : float
        Clock for which `fps` counts.
    target : str or None
        Device, or what it holds: without `fps` the fastest design that fits is made.
    board : {"ulx3s"} or None
        Board for which a design around the accelerator is written, with its clock made from `clock_mhz`.
    baud : int
        Bits per second on the board's serial line.
    permute : bool or None
        Whether channels between layers may be reordered so that zeros gather in tiles that engines skip; by default
        where lanes are given, not where `fps` or `target` choose them.
    form : {"auto", "engine", "serial", "parallel"}
        Kind of hardware of linear layers: lanes with weights in memory, or graphs of adders for digits or for whole
        words. ``auto``: with `fps` or `target` what costs least, else engines.
    loadable : bool
        Whether other weights can be loaded at run time: all layers are engines, and memories can be written.
    like : str or None
        Build directory with `loadable` whose hardware this network is for: the same Verilog, other contents of memories.
    """

    shape: dict[str, tuple[Annotated[int, Field(ge=1)], ...]] = Field(default_factory=dict)
    input_type: dict[str, IntegerType] = Field(default_factory=dict)
    from_node: str | None = None
    until_node: str | None = None
    ternary: str | None = None
    weights: str | None = None
    prune: str | None = None
    act_bits: Annotated[int, Field(ge=1, le=8)] = 8
    ranges: str = "mse"
    equalize: bool = False
    reference: Literal["auto", "plain", "fused"] = "auto"
    pe: Annotated[int, Field(ge=1, le=1024)] = 8
    simd: Annotated[int, Field(ge=1, le=4096)] = 8
    fold: str | dict[str, Any] | None = None
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    clock_mhz: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] = 100.0
    target: str | None = None
    board: Literal["ulx3s"] | None = None
    baud: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    permute: bool | None = None
    form: Literal["auto", "engine", "serial", "parallel"] = "auto"
    loadable: bool = False
    like: str | None = None

    @field_validator("ternary")
    @classmethod
    def _ternary(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"sws(:[1-4])?", value):
            raise ValueError("must be sws or sws:TERMS with 1 to 4 terms")
        return value

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"csd:[1-4]", value):
            raise ValueError("must be csd:N with 1 to 4 digits")
        return value

    @field_validator("ranges")
    @classmethod
    def _ranges(cls, value: str) -> str:
        match = re.fullmatch(r"mse|minmax|percentile(?::(\d+(?:\.\d+)?))?", value)
        if match is None or not 50 < float(match[1] or 100) <= 100:
            raise ValueError("must be mse, minmax, or percentile:P with 50 < P <= 100")
        return value

    @field_validator("prune")
    @classmethod
    def _prune(cls, value: str | None) -> str | None:
        match = re.fullmatch(r"tile:(0?\.\d+|0|1|0\.0|1\.0)", value) if value is not None else None
        if value is not None and (match is None or not 0 <= float(match[1]) < 1):
            raise ValueError("must be tile:RATIO with 0 <= RATIO < 1")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> BuildOptions:
        if self.ternary is not None and self.weights is not None:
            raise ValueError("ternary and weights contradict each other; give one of them")
        if self.fps is not None and {"pe", "simd"} & self.model_fields_set and not self.prune:
            raise ValueError("fps chooses pe and simd; give either, or single layers in a folding file")
        if self.target is not None and {"pe", "simd"} & self.model_fields_set and not self.prune:
            raise ValueError("target chooses pe and simd; give either, or single layers in a folding file")
        if self.loadable and self.form not in ("auto", "engine"):
            raise ValueError(f"weights of a {self.form} graph are its structure, and cannot be loaded; leave form open")
        if self.loadable and self.permute:
            raise ValueError("an order of channels that fits these weights is of no use for others; leave permute out")
        if (self.loadable or self.like) and self.board:
            raise ValueError("a board's serial line carries frames only, and loads no weights; leave board out")
        fixed = self.model_fields_set & {"fold", "fps", "target", "form", "permute", "loadable", "clock_mhz"}
        fixed |= set() if self.prune else self.model_fields_set & {"pe", "simd"}
        if self.like is not None and fixed:
            raise ValueError(f"like takes the hardware as it was built; leave out {', '.join(sorted(fixed))}")
        if self.board is None and "baud" in self.model_fields_set:
            raise ValueError("baud is the speed of a board's serial line; give a board too")
        return self

    @property
    def terms(self) -> int:
        """Ternary terms per weight."""
        return int(self.ternary.partition(":")[2] or 1) if self.ternary else 0

    @property
    def digits(self) -> int:
        """Signed digits per weight."""
        return int(self.weights.partition(":")[2]) if self.weights else 0

    @property
    def ratio(self) -> float:
        """Share of tiles to prune."""
        return float(self.prune.partition(":")[2]) if self.prune else 0.0

    @property
    def range_method(self) -> Literal["minmax", "percentile", "mse"]:
        """How ranges come from calibration data."""
        return cast(Literal["minmax", "percentile", "mse"], self.ranges.partition(":")[0])

    @property
    def percentile(self) -> float:
        """Percentile at the upper end of a range, where ranges are percentiles."""
        return float(self.ranges.partition(":")[2] or PERCENTILE)

    @property
    def compresses(self) -> bool:
        """Whether weights or activations are to be changed."""
        return bool(
            self.ternary or self.weights or self.prune or {"act_bits", "ranges", "equalize"} & self.model_fields_set
        )

    @property
    def given(self) -> dict[str, Any]:
        """What was asked for, as JSON; of a folding file its name."""
        found = self.model_dump(mode="json", exclude_unset=True)
        if isinstance(self.fold, str):
            found["fold"] = PurePath(self.fold).name
        if self.like is not None:
            found["like"] = PurePath(self.like).name
        return {key: value for key, value in found.items() if value not in (None, {})}
