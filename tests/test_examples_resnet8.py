"""The ResNet-8 example: two ternary terms a weight, equality proved."""

from __future__ import annotations

import numpy as np

from tcompile.accelerator import build_options
from tcompile.compress.recipe import read_recipe
from tcompile.ir import integer as I
from tcompile.pipeline import compile_file
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "resnet8"


def test_the_recipe_is_one():
    recipe = read_recipe(FOLDER / "resnet8.toml", {})
    assert (recipe.terms, recipe.act_bits, recipe.epochs) == (2, 4, 7)


def test_the_committed_network_has_two_ternary_terms_and_is_proved():
    compiled = compile_file(FOLDER / "resnet8.int4.onnx", build_options({}))
    weights = [n.weight.array for n in compiled.lowered.graph if isinstance(n, I.Conv | I.Dense)]
    rows = [row for w in weights for row in np.abs(w.reshape(len(w), -1).astype(int))]
    assert all(len(np.unique(row)) <= 5 and row.max() <= 7 for row in rows)  # 0, a, b, a - b, a + b
    assert sum(w.size for w in weights) == 77360
    assert all(entry.proved for entry in compiled.lowered.certificate)
