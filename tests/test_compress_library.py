"""The parts for those who write their own loop."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

import tcompile.compress
from tcompile.compress import Compression
from tcompile.errors import UsageError
from tcompile.frontend.importer import import_model
from tcompile.frontend.normalize import normalize
from tcompile.reference import Session
from tests.compression import digits, few, model


def compression(**options: object) -> Compression:
    return Compression(import_model(normalize(model())), digits()["x_train"][:64], **options)


def learn(net: Compression, steps: int, rate: float = 2e-3) -> list[float]:
    torch.manual_seed(0)
    x, y = (torch.from_numpy(few()[name]) for name in ("x_train", "y_train"))
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    losses = []
    for step in range(steps):
        index = torch.arange(64) + 64 * (step % 4)
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x[index]), y[index])
        (loss + net.penalty()).backward()
        optimizer.step()
        net.step()
        losses.append(float(loss.detach()))
    net.end_epoch()
    return losses


def test_public_names():
    assert sorted(tcompile.compress.__all__) == ["Compression", "Recipe", "read_recipe", "shipped"]


def test_own_loop_ends_in_a_file_with_the_scores_of_the_network(tmp_path):
    net = compression(method="wpc", sparsity=0.4, act_bits=4)
    before = net.facts["tile_sparsity"]
    losses = learn(net, 24)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    net.finish()
    learn(net, 4)
    assert before < 0.3 < net.facts["tile_sparsity"]
    net.export_onnx(tmp_path / "out.onnx")
    x = few()["x_test"][:32]
    found = Session(onnx.load(tmp_path / "out.onnx")).frames({"x": x[:, None]})["y"].reshape(32, 10)
    with torch.no_grad():
        kept = torch.softmax(net.eval()(torch.from_numpy(x)), 1).numpy()
    assert (found.argmax(1) == kept.argmax(1)).mean() > 0.9  # equal up to rounding of the folded normalization


def test_penalty_draws_and_ends_with_the_pruning():
    net = compression(method="lasso", sparsity=0.4, strength=0.1)
    net.penalty().backward()
    assert all(float(s.weight.grad.abs().sum()) > 0 for s in net._prepared.sites[1:])
    assert net._prepared.sites[0].weight.grad is None  # the first layer is not pruned
    net.finish()
    assert float(net.penalty()) == 0.0


def test_without_a_method_there_is_no_penalty():
    net = compression()
    assert float(net.penalty()) == 0.0
    net.step()
    net.end_epoch()
    net.finish()


def test_pruned_weights_stay_zero_in_training():
    net = compression(method="magnitude", sparsity=0.5)
    net.finish()
    kept = net.facts["tile_sparsity"]
    learn(net, 4, rate=0.1)
    assert net.facts["tile_sparsity"] >= kept


def test_wrong_option_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="no option 'sparcity'") as caught:
        compression(sparcity=0.5)
    assert caught.value.problems[0].hint == "is sparsity meant?"
