"""What FPGAs hold: LUTs, flip-flops and block RAMs of 18 kbit, from the vendors' tables; and what of it a design can fill."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from fractions import Fraction

from tcompile.errors import Problem, UsageError, printable
from tcompile.mapping.estimate import Family, Resources

__all__ = ["DEVICES", "Device", "device", "room"]

# Of a device's LUTs: nextpnr makes 1.1 to 1.25 of one that is counted, and needs room to place and route.
FILL = Fraction(7, 10)


@dataclass(frozen=True)
class Device:
    """A target.

    Parameters
    ----------
    name : str
    family : {"ecp5", "xcup"}
        Whose resources are estimated.
    lut, ff, bram : int
        What it holds.
    """

    name: str
    family: Family
    lut: int
    ff: int
    bram: int

    def holds(self, need: Resources) -> bool:
        """Whether it is enough."""
        return need.lut <= self.lut and need.ff <= self.ff and need.bram <= self.bram


DEVICES = {
    d.name: d
    for d in (
        Device("ecp5-12", "ecp5", 12_144, 12_144, 32),
        Device("ecp5-25", "ecp5", 24_288, 24_288, 56),
        Device("ecp5-45", "ecp5", 43_848, 43_848, 108),
        Device("ecp5-85", "ecp5", 83_640, 83_640, 208),
        Device("xc7a35t", "xcup", 20_800, 41_600, 100),
        Device("xc7a100t", "xcup", 63_400, 126_800, 270),
        Device("xc7z020", "xcup", 53_200, 106_400, 280),
        Device("xczu3eg", "xcup", 70_560, 141_120, 432),
        Device("xczu7ev", "xcup", 230_400, 460_800, 624),
    )
}
OWN = re.compile(r"(?P<family>ecp5|xcup):(?P<lut>\d{1,9}),(?P<ff>\d{1,9}),(?P<bram>\d{1,9})")


def device(text: str) -> Device:
    """A device by name, or as ``FAMILY:LUT,FF,BRAM``.

    Raises
    ------
    UsageError
        Neither.
    """
    if text in DEVICES:
        return DEVICES[text]
    own = OWN.fullmatch(text)
    if own:
        family: Family = "ecp5" if own["family"] == "ecp5" else "xcup"
        return Device(text, family, int(own["lut"]), int(own["ff"]), int(own["bram"]))
    close = difflib.get_close_matches(text.lower(), DEVICES, n=1)
    hint = f"is {close[0]} meant? " if close else ""
    hint += f"there are {', '.join(DEVICES)}; or give what it holds, as ecp5:LUT,FF,BRAM or xcup:LUT,FF,BRAM"
    raise UsageError(
        Problem("unknown-target", f"the target must be a device that is known, not {printable(text)}", hint=hint)
    )


def room(text: str) -> Device:
    """What a design may take of a device: of a known one `FILL` of its LUTs, of one that is told by what it holds all.

    Raises
    ------
    UsageError
        No device; see `device`.
    """
    found = device(text)
    return replace(found, lut=int(found.lut * FILL)) if text in DEVICES else found
