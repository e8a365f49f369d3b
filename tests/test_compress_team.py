"""Several processes, and half the bits: the same loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tcompile.compress.activations import Quantizer
from tcompile.compress.job import run
from tcompile.compress.prepare import Norm
from tcompile.compress.recipe import read_recipe
from tcompile.compress.team import ALONE, Team, gathered
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


@pytest.mark.long
def test_two_processes_train_one_network_and_give_the_same_bytes_again(tmp_path: Path) -> None:
    write(tmp_path)
    together(tmp_path, "a.onnx")
    together(tmp_path, "b.onnx")
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["onnxruntime"]["mismatches"] == 0
    assert [r["epoch"] for r in report["history"]] == [0, 1, 2, 3]
    assert not (tmp_path / "a.checkpoint").exists()
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


AVERAGED = """
import sys
import torch
from torch import distributed
from tcompile.compress import Compression
from tcompile.compress.team import ALONE, gathered
from tests.compression import few

torch.manual_seed(0)
net = Compression(sys.argv[1], few()["x_train"])
net.network.eval()  # normalizations with fixed statistics: a frame's gradient does not depend on the others
x, y = (torch.from_numpy(few()[k][:32]) for k in ("x_train", "y_train"))
frames = x.reshape(-1, *net.network.input.type.shape)
weight, loss = net._prepared.sites[0].weight, torch.nn.functional.cross_entropy

def gradient(team):
    net.zero_grad()
    scores = team.scores(net.network, net._prepared.scores)  # averages as long as it lives
    loss(scores(team.share(frames)), team.share(y)).backward()
    return weight.grad.clone()

whole = gradient(ALONE)
with gathered("cpu") as team:
    mine = gradient(team)
    both = [torch.empty_like(mine) for _ in range(team.size)]
    distributed.all_gather(both, mine)
    assert team.size == 2 and torch.equal(*both)
    torch.testing.assert_close(mine, whole)
    assert team.agreed(lambda: team.rank) == 0
    assert team.mean(team.rank) == 0.5
"""


@pytest.mark.long
@pytest.mark.exhaustive
def test_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "averaged.py").write_text(AVERAGED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python"]
    command = [sys.executable, str(tmp_path / "averaged.py"), str(tmp_path / "model.onnx")]
    done = subprocess.run(
        launcher + command,
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_a_cluster_that_did_not_use_torchrun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with gathered("cpu") as team:
        assert team == ALONE


def test_half_the_bits_train_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalizations see bfloat16 in steps; what is validated and written is float32."""
    seen = set()
    forward = Norm.forward
    monkeypatch.setattr(Norm, "forward", lambda norm, y: (seen.add((norm.training, y.dtype)), forward(norm, y))[1])
    recipe = read_recipe(None, {"precision": "bfloat16", "epochs": 3})
    result = run(import_model(normalize(model())), digits(), recipe)
    assert (True, torch.bfloat16) in seen
    assert result.predicted.dtype == "float32"
    assert result.report["accuracy"]["test"] > 0.8


def test_codes_are_exact_wrong_if_quantizers_kept_half_the_bits() -> None:
    """257 steps need nine bits, and a bfloat16 has eight."""
    quantizer = Quantizer(Step(0, 0, 300), learned=False)
    assert quantizer(torch.tensor([257.0])).item() == 257.0
    assert torch.tensor([257.0]).bfloat16().item() != 257.0
    assert quantizer(torch.tensor([256.0]).bfloat16()).dtype == torch.float32
