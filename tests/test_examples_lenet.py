"""The committed LeNet: ternary, half of its tiles zero, and proved exact."""

from __future__ import annotations

import numpy as np

from tcompile.accelerator import build_options
from tcompile.ir import integer as I
from tcompile.pipeline import compile_file, plan
from tests.conftest import ROOT

MODEL = ROOT / "examples" / "lenet" / "lenet.int2.onnx"


def test_it_is_ternary_half_empty_and_proved() -> None:
    options = build_options({"pe": 8, "simd": 8})
    compiled = compile_file(MODEL, options)
    layers = [n for n in compiled.lowered.graph if isinstance(n, I.Conv | I.Dense)]
    assert {int(v) for n in layers for v in np.unique(n.weight.array)} == {-1, 0, 1}
    assert all(entry.proved for entry in compiled.lowered.certificate)
    plans = plan(compiled, options).values()
    assert sum(p.kept for p in plans) * 2 == sum(p.tiles for p in plans)
    assert max(p.cycles for p in plans) == 9472
