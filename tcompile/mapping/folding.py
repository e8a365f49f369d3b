"""How many lanes each layer gets: PE rows by SIMD columns of its matrix at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Fold", "Form"]

Form = Literal["engine"]


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
