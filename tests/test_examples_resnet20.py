"""Data and recipe of the ResNet-20 example."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tcompile.compress.recipe import read_recipe
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "resnet20"


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(file: Path, colors: list[tuple[int, int, int]]) -> None:
    """One-colored images, which JPEG keeps to a level or two, and their numbers as classes."""
    parts = []
    for color in colors:
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), color).save(stream, "JPEG", quality=95)
        parts.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, parts)])
    np.savez(file, jpeg=np.frombuffer(b"".join(parts), np.uint8), offset=offsets, label=np.arange(len(colors)))


def test_images_are_normalized_as_the_authors_did(prepare):
    pixels = np.array([124, 116, 104], np.uint8).reshape(1, 3, 1, 1)
    wanted = [(124 / 255 - 0.485) / 0.229, (116 / 255 - 0.456) / 0.224, (104 / 255 - 0.406) / 0.225]
    assert prepare.normalized(pixels).dtype == np.float32
    np.testing.assert_allclose(prepare.normalized(pixels).ravel(), wanted, atol=1e-6)


def test_all_parts_come_in_their_order(tmp_path):
    for k in range(1, 6):
        write(tmp_path / f"train_{k}.npz", [(40 * k, 0, 0), (0, 40 * k, 0)])
    write(tmp_path / "test.npz", [(0, 0, 255)])
    command = [sys.executable, str(FOLDER / "prepare.py"), str(tmp_path), "-o", str(tmp_path / "out")]
    subprocess.run(command, check=True)
    with np.load(tmp_path / "out" / "data.npz") as data:
        assert data["x_train"].shape == (10, 3, 32, 32) and data["x_test"].shape == (1, 3, 32, 32)
        assert data["y_train"].tolist() == [0, 1] * 5 and data["y_test"].tolist() == [0]
        red = data["x_train"][::2, 0].mean(axis=(1, 2)) * 0.229 + 0.485
    np.testing.assert_allclose(red * 255, [40, 80, 120, 160, 200], atol=3)


def test_the_recipe_is_one():
    recipe = read_recipe(FOLDER / "resnet20.toml", {})
    assert (recipe.method, recipe.sparsity, recipe.terms, recipe.act_bits) == ("wpc", 0.25, 1, 4)
