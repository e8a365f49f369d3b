"""Several processes, and half the bits: the same loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tcompile.compress.activations import Quantizer
from tcompile.compress.job import run
from tcompile.compress.recipe import read_recipe
from tcompile.compress.team import ALONE, Team
from tcompile.frontend.importer import import_model
from tcompile.frontend.normalize import normalize
from tcompile.passes.quantize_activations import Step
from tests.compression import digits, model, write
from tests.conftest import ROOT


def test_shares_are_the_batch() -> None:
    batch = torch.arange(11)
    parts = [Team(rank, 3).share(batch) for rank in range(3)]
    assert sorted(torch.cat(parts).tolist()) == batch.tolist() and min(map(len, parts)) == 3


@pytest.mark.parametrize("count", [1, 5])
def test_a_batch_too_small_to_share_is_everyones(count: int) -> None:
    batch = torch.arange(count)
    assert Team(1, 3).share(batch).tolist() == batch.tolist()


def test_the_first_leads() -> None:
    assert ALONE.leads and Team(0, 2).leads and not Team(1, 2).leads


def test_alone_a_mean_is_the_number() -> None:
    assert ALONE.mean(0.25) == 0.25


def together(folder: Path, out: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python"]
    command = [
        sys.executable,
        "-m",
        "tcompile",
        "compress",
        str(folder / "model.onnx"),
        "--data",
        str(folder / "d.npz"),
    ]
    options = ["-o", str(folder / out), "--epochs", "3", "--method", "wpc", "--sparsity", "0.3", "--batch", "32"]
    subprocess.run(launcher + command + options, check=True, cwd=ROOT, capture_output=True, timeout=300)


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """One report of a network that learned, and that onnxruntime computes as torch does."""
    write(tmp_path)
    together(tmp_path, "a.onnx")
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["onnxruntime"]["mismatches"] == 0
    assert [r["epoch"] for r in report["history"]] == [0, 1, 2, 3]
    assert report["accuracy"]["validation"] > max(0.6, report["history"][0]["validation"])
    assert not (tmp_path / "a.checkpoint").exists()


@pytest.mark.long
def test_two_processes_give_the_same_bytes_again(tmp_path: Path) -> None:
    write(tmp_path)
    together(tmp_path, "a.onnx")
    together(tmp_path, "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_half_the_bits_train_too() -> None:
    recipe = read_recipe(None, {"precision": "bfloat16", "epochs": 3})
    result = run(import_model(normalize(model())), digits(), recipe)
    assert result.predicted.dtype == "float32"
    assert result.report["accuracy"]["test"] > 0.8


def test_codes_are_exact_wrong_if_quantizers_kept_half_the_bits() -> None:
    """257 steps need nine bits, and a bfloat16 has eight."""
    quantizer = Quantizer(Step(0, 0, 300), learned=False)
    assert quantizer(torch.tensor([257.0])).item() == 257.0
    assert torch.tensor([257.0]).bfloat16().item() != 257.0
    assert quantizer(torch.tensor([256.0]).bfloat16()).dtype == torch.float32
