"""Real level to real level: compression without training."""

from __future__ import annotations

from tcompile.passes.base import Pass, PassRecord, PassResult, apply
from tcompile.passes.calibration import Observed, calibrate
from tcompile.passes.declare_inputs import DeclareInputs
from tcompile.passes.equalize import Equalize
from tcompile.passes.match_outputs import MatchOutputs
from tcompile.passes.prune_tiles import PruneTiles, tile_counts, tiles
from tcompile.passes.quantize_activations import QuantizeActivations
from tcompile.passes.relu_before_max_pool import ReluBeforeMaxPool
from tcompile.passes.scale_inputs import ScaleInputs
from tcompile.passes.signed_digits import SignedDigits, csd, nearest_with_digits
from tcompile.passes.ternarize import Ternarize

__all__ = [
    "PASSES",
    "DeclareInputs",
    "Equalize",
    "MatchOutputs",
    "Observed",
    "Pass",
    "PassRecord",
    "PassResult",
    "PruneTiles",
    "QuantizeActivations",
    "ReluBeforeMaxPool",
    "ScaleInputs",
    "SignedDigits",
    "Ternarize",
    "apply",
    "calibrate",
    "csd",
    "nearest_with_digits",
    "tile_counts",
    "tiles",
]

PASSES: tuple[type[Pass], ...] = (  # in the order in which they make sense
    DeclareInputs,
    PruneTiles,
    ScaleInputs,
    Equalize,
    Ternarize,
    SignedDigits,
    MatchOutputs,
    ReluBeforeMaxPool,
    QuantizeActivations,
)
