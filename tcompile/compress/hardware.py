"""What the mapping makes of a network in training: the form of each layer at a rate, and LUTs of the whole accelerator.

An engine skips tiles of zeros, a graph of adders every zero. Which of the two a layer becomes is the mapping's choice,
and depends on the rate that is asked for and on the zeros themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from tcompile.compress.export import exported
from tcompile.compress.prepare import Prepared
from tcompile.errors import Problem, UsageError
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.lowering.lower import lower
from tcompile.mapping.devices import room
from tcompile.mapping.folding import Form
from tcompile.mapping.network import Mapped, map_network
from tcompile.mapping.plan import Choice, budget_of, spacing_of

__all__ = ["Hardware"]

ROOM = 1 << 40  # of each resource: more than any design takes
SPARE = Fraction(31, 32)  # of a device's LUTs; signs that training still changes may make a graph a little larger
TOO_LARGE = "too-large"  # code of the mapping's problem where a device does not hold a design


@dataclass(frozen=True, eq=False)
class Hardware:
    """The smallest accelerator of a network in training at a rate.

    Integer weights that are given, by the name of the layer, stand for those of now.

    Parameters
    ----------
    prepared : Prepared
        The network.
    choice : Choice
        What is asked of the mapping: a budget, and what the accelerator must fit, if anything.
    """

    prepared: Prepared
    choice: Choice

    @classmethod
    def at(cls, prepared: Prepared, fps: float, clock_mhz: float, target: str | None = None) -> Hardware:
        """For so many frames per second, and a device if one is named.

        Raises
        ------
        UsageError
            There is no such device.
        """
        chip = None if target is None else room(target)
        return cls(prepared, Choice(budget=budget_of(fps, clock_mhz), spacing=spacing_of(clock_mhz), target=chip))

    def mapped(self, codes: Mapping[str, np.ndarray] | None = None, *, fitting: bool = True) -> Mapped:
        """The accelerator, whether it fits or not if not `fitting`.

        Raises
        ------
        UsageError
            It does not fit, or a layer cannot be so fast.
        ModelError
            The network has no integer form.
        """
        chip = self.choice.target
        if chip is not None and not fitting:
            chip = replace(chip, lut=ROOM, ff=ROOM, bram=ROOM)
        elif chip is not None and codes is not None:
            chip = replace(chip, lut=int(chip.lut * SPARE))
        graph = lower(exported(self.prepared, codes), "plain", {}).graph
        return map_network(graph, replace(self.choice, target=chip))

    def misfit(self, codes: Mapping[str, np.ndarray] | None = None) -> Sequence[Problem]:
        """What does not fit the device; other errors as `mapped`."""
        try:
            self.mapped(codes)
        except UsageError as error:
            if any(p.code != TOO_LARGE for p in error.problems):
                raise
            return error.problems
        return ()

    def forms(self, codes: Mapping[str, np.ndarray] | None = None) -> dict[str, Form]:
        """What each layer becomes, whether all of it fits or not; errors as `mapped`."""
        return self._forms(self.mapped(codes, fitting=False))

    def facts(self) -> dict[str, Any]:
        """Forms, cycles per frame and resources (by the model) of the network as it is now, and what is in the way."""
        problems: tuple[str, ...] = ()
        try:
            mapped = self.mapped()
        except UsageError as error:
            problems = tuple(p.message for p in error.problems)
            if any(p.code != TOO_LARGE for p in error.problems):
                return {"problems": problems}
            mapped = self.mapped(fitting=False)
        return {
            "family": mapped.family,
            "interval": mapped.interval,
            **asdict(mapped.total()),
            "forms": self._forms(mapped),
            "problems": problems,
        }

    def _forms(self, mapped: Mapped) -> dict[str, Form]:
        """By the name of the site; linear layers that are none stand between them in the same order."""
        sites = {s.node.name: s.name for s in self.prepared.sites}
        real = [n.name for n in self.prepared.graph.all(R.Linear)]
        layers = [n.name for n in mapped.graph if isinstance(n, I.Conv | I.Dense)]
        return {sites[r]: mapped.plans[i].fold.form for r, i in zip(real, layers, strict=True) if r in sites}
