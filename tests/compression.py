"""A float network on scikit-learn's digits and its data, trained once for all tests of training."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

WIDTHS = (8, 16)
CLASSES = 10


@lru_cache(maxsize=1)
def digits() -> dict[str, np.ndarray]:
    """x_train (1347, 1, 8, 8) float32 in 0 .. 1, and so on."""
    data = load_digits()
    x = (data.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], data.target.astype(np.int64)[order]
    return {"x_train": x[:1347], "y_train": y[:1347], "x_test": x[1347:], "y_test": y[1347:]}


@lru_cache(maxsize=1)
def trained() -> nn.Sequential:
    """Conv, Relu, MaxPool, Conv, BatchNormalization, Relu, MaxPool, linear; a few epochs."""
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, WIDTHS[0], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(*WIDTHS, 3, padding=1), nn.BatchNorm2d(WIDTHS[1]), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * WIDTHS[1], CLASSES),
    )  # fmt: skip
    x, y = (torch.from_numpy(digits()[name]) for name in ("x_train", "y_train"))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(8):
        for index in torch.split(torch.randperm(len(x)), 64):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    torch.set_rng_state(random)
    return net.eval()


def model() -> onnx.ModelProto:
    """The network as another tool would write it: float, with a Softmax."""
    constants = {k: v.detach().numpy() for k, v in trained().state_dict().items() if "num_batches" not in k}
    norm = [f"4.{k}" for k in ("weight", "bias", "running_mean", "running_var")]
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("MaxPool", ["b"], ["c"], "pool1", **pool),
        helper.make_node("Conv", ["c", "3.weight", "3.bias"], ["d"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["d", *norm], ["e"], "norm2"),
        helper.make_node("Relu", ["e"], ["f"], "relu2"),
        helper.make_node("MaxPool", ["f"], ["g"], "pool2", **pool),
        helper.make_node("Flatten", ["g"], ["h"], "flatten"),
        helper.make_node("Gemm", ["h", "8.weight", "8.bias"], ["i"], "linear", transB=1),
        helper.make_node("Softmax", ["i"], ["y"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def few() -> dict[str, np.ndarray]:
    """300 training and 100 test frames."""
    return {name: x[: 300 if "train" in name else 100] for name, x in digits().items()}


def write(folder: Path) -> None:
    """model.onnx, and d.npz with few frames."""
    (folder / "model.onnx").write_bytes(model().SerializeToString())
    np.savez(folder / "d.npz", **few())
