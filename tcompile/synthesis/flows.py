"""What a synthesis is asked for: a flow, a device, a clock, seeds."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from tcompile.emit.synth import ROUTED
from tcompile.errors import Problem, UsageError, printable
from tcompile.mapping.devices import DEVICES, Device, device

__all__ = ["FLOWS", "Job", "job"]

FLOWS = {  # and the device where none is named
    "nextpnr-ecp5": "ecp5-85",
    "yosys-ecp5": "ecp5-85",
    "yosys-xilinx": "xc7z020",
    "yosys-ice40": None,
    "yosys-gowin": None,
}
XILINX = ("xc7", "xcup")  # families, and how names of 7-series devices begin
MOST_SEEDS = 100


@dataclass(frozen=True)
class Job:
    """One run of a flow.

    Parameters
    ----------
    flow : str
    family : str
        Key of `tcompile.yosys.TECHNOLOGIES`.
    device : Device or None
        None where cells are counted for a family as a whole.
    clock_mhz : float
        What place and route aim at.
    seeds : tuple of int
        Of the placer, one run each; empty for flows without place and route.
    flatten : bool
        Whether layers are optimized over their borders; resources of single layers are unknown then.
    """

    flow: str
    family: str
    device: Device | None
    clock_mhz: float
    seeds: tuple[int, ...]
    flatten: bool

    @property
    def is_routed(self) -> bool:
        """Whether the flow places and routes."""
        return bool(self.seeds)

    @property
    def netlist_folder(self) -> str:
        """Where yosys works, below ``synth``."""
        return f"build-{self.family}"

    @property
    def route_folder(self) -> str:
        """Where nextpnr works, below ``synth``."""
        assert self.device is not None
        return f"build-{self.device.name}"

    def variables(self) -> dict[str, str]:
        """What make is told."""
        told = {"FAMILY": self.family, "FLATTEN": "1" if self.flatten else ""}
        if self.is_routed:
            assert self.device is not None
            told |= {
                "DEVICE": self.device.name,
                "CLOCK_MHZ": f"{self.clock_mhz:g}",
                "SEEDS": " ".join(map(str, self.seeds)),
            }
        return told


def job(
    flow: str,
    target: str | None = None,
    *,
    clock_mhz: float = 100.0,
    seed: int = 1,
    seeds: int = 1,
    flatten: bool = False,
) -> Job:
    """A checked job.

    Parameters
    ----------
    target : str, optional
        A device as ``build --target`` knows it, or ``xc7`` or ``xcup`` for a family.
    seed, seeds : int
        The first seed of the placer, and how many there are.

    Raises
    ------
    UsageError
        Everything that is unknown or does not fit.
    """
    problems = []
    if flow not in FLOWS:
        message = f"the flow must be one of {', '.join(FLOWS)}, not {printable(flow)}"
        raise UsageError(Problem("unknown-flow", message))
    if not (isfinite(clock_mhz) and 0 < clock_mhz <= 10_000):
        problems.append(Problem("bad-option", f"the clock must lie between 0 and 10000 MHz, not {clock_mhz:g}"))
    if seed < 1 or not 1 <= seeds <= MOST_SEEDS:
        problems.append(
            Problem(
                "bad-option", f"the seed must be at least 1 and there may be 1 to {MOST_SEEDS}, not {seed} and {seeds}"
            )
        )
    if problems:
        raise UsageError(problems)
    family, part = _family(flow, target)
    routed = tuple(range(seed, seed + seeds)) if flow == "nextpnr-ecp5" else ()
    return Job(flow, family, part, clock_mhz, routed, flatten)


def _family(flow: str, target: str | None) -> tuple[str, Device | None]:
    """Family and device."""
    name = target if target is not None else FLOWS[flow]
    kind = flow.rpartition("-")[2]
    if FLOWS[flow] is None:
        if name is not None:
            raise UsageError(Problem("bad-option", f"{flow} counts cells, and knows no devices; leave --device out"))
        return kind, None
    assert name is not None
    if kind == "xilinx" and name in XILINX:
        return name, None
    part = device(name)
    known = [n for n, d in DEVICES.items() if (d.family == "ecp5") == (kind == "ecp5")]
    if (part.family == "ecp5") != (kind == "ecp5") or (flow == "nextpnr-ecp5" and part.name not in ROUTED):
        hint = f"there are {', '.join(known)}"
        raise UsageError(
            Problem("unknown-target", f"{flow} must be given a device that it knows, not {printable(name)}", hint=hint)
        )
    if kind == "ecp5":
        return "ecp5", part
    return "xc7" if name.startswith("xc7") else "xcup", part
