"""Train a float network like LeNet-5 on MNIST (or Fashion-MNIST) and write it as an ONNX file, with the data beside it.

::

    python examples/lenet/train_float.py FOLDER -o build/lenet    # writes lenet.onnx and data.npz
    tcompile compress build/lenet/lenet.onnx --data build/lenet/data.npz -o build/lenet/lenet.int2.onnx --config wpc

FOLDER holds the four gzipped files of the data set. The data are not part of this project.
Needs torch. On one machine the same seed gives the same file.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

FILES = {
    "x_train": ("train-images-idx3-ubyte.gz", 16),
    "y_train": ("train-labels-idx1-ubyte.gz", 8),
    "x_test": ("t10k-images-idx3-ubyte.gz", 16),
    "y_test": ("t10k-labels-idx1-ubyte.gz", 8),
}
SIZE = 28
CLASSES = 10
CHANNELS = (16, 32)  # output channels of the two convolutions, at width 1
HIDDEN = 128
POSITIONS = 4 * 4  # behind the second pool
BATCH = 128
RATE = 2e-3


def load(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Images (N, 1, 28, 28) float32 from 0 to 255/256, and labels (N,) int64."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, (file, offset) in FILES.items():
        raw = np.frombuffer(gzip.decompress((folder / file).read_bytes()), np.uint8, offset=offset)
        if name.startswith("x"):
            arrays[name] = raw.reshape(-1, 1, SIZE, SIZE).astype(np.float32) / 256
        else:
            arrays[name] = raw.astype(np.int64)
    return arrays


def network(width: int = 1) -> nn.Sequential:
    """Conv, MaxPool, Conv, MaxPool, linear, linear, with BatchNormalization behind all but the last."""
    first, second, hidden = (width * n for n in (*CHANNELS, HIDDEN))
    return nn.Sequential(
        nn.Conv2d(1, first, 5, bias=False), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, bias=False), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(second * POSITIONS, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, CLASSES),
    )  # fmt: skip


def train(arrays: dict[str, NDArray[np.generic]], *, width: int, epochs: int, seed: int, threads: int) -> nn.Sequential:
    """Adam with a cosine schedule; the last epoch is kept."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    net = network(width)
    x, y = torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"])
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for index in torch.split(torch.randperm(len(x)), BATCH):
            loss = functional.cross_entropy(net(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(index)
        schedule.step()
        print(f"epoch {epoch}/{epochs}  loss {total / len(x):.4f}", flush=True)
    return net.eval()


def export(net: nn.Sequential) -> onnx.ModelProto:
    """The network as float ONNX: ``image`` (1, 1, 28, 28) to ``logits`` (1, 10)."""
    constants = {k: v.detach().numpy() for k, v in net.state_dict().items() if "num_batches" not in k}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}

    def norm(index: int) -> list[str]:
        return [f"{index}.{k}" for k in ("weight", "bias", "running_mean", "running_var")]

    nodes = [
        helper.make_node("Conv", ["image", "0.weight"], ["a1"], "conv1"),
        helper.make_node("BatchNormalization", ["a1", *norm(1)], ["b1"], "norm1"),
        helper.make_node("Relu", ["b1"], ["c1"], "relu1"),
        helper.make_node("MaxPool", ["c1"], ["d1"], "pool1", **pool),
        helper.make_node("Conv", ["d1", "4.weight"], ["a2"], "conv2"),
        helper.make_node("BatchNormalization", ["a2", *norm(5)], ["b2"], "norm2"),
        helper.make_node("Relu", ["b2"], ["c2"], "relu2"),
        helper.make_node("MaxPool", ["c2"], ["d2"], "pool2", **pool),
        helper.make_node("Flatten", ["d2"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "9.weight"], ["a3"], "linear1", transB=1),
        helper.make_node("BatchNormalization", ["a3", *norm(10)], ["b3"], "norm3"),
        helper.make_node("Relu", ["b3"], ["c3"], "relu3"),
        helper.make_node("Gemm", ["c3", "12.weight", "12.bias"], ["logits"], "linear2", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@torch.no_grad()
def accuracy(net: nn.Sequential, x: NDArray[np.generic], y: NDArray[np.generic]) -> float:
    scores = torch.cat([net(part) for part in torch.split(torch.from_numpy(x), 256)])
    return float((scores.argmax(1).numpy() == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a float network like LeNet-5 on MNIST and write it as ONNX.")
    parser.add_argument("folder", type=Path, help="of the four gzipped files of the data set")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="made if it is not there")
    parser.add_argument("--width", type=int, default=1, help="factor of all channels (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of torch; results depend on it (default: %(default)s)")
    options = parser.parse_args()
    arrays = load(options.folder)
    net = train(arrays, width=options.width, epochs=options.epochs, seed=options.seed, threads=options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "lenet.onnx").write_bytes(export(net).SerializeToString())
    np.savez(options.output / "data.npz", **arrays)
    print(f"accuracy: {accuracy(net, arrays['x_test'], arrays['y_test']):.2%} on {len(arrays['y_test'])} test images")


if __name__ == "__main__":
    main()
