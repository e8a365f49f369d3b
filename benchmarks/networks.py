"""Networks of the shapes that everybody knows, with random ternary weights: what they compute is of no use, what they cost is.

Scales are powers of two, as training under compression would leave them. ``python -m benchmarks.networks resnet20 F.onnx``
writes one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from tests.models import Net, typed

__all__ = ["NETWORKS", "mobilenet", "resnet18", "resnet20"]

STEP = 0.25  # of 4-bit activations
MEAN = 0.75  # of these, about


class Ternary:
    """Layers of a network with random ternary weights, zero with a given probability."""

    def __init__(self, sparsity: float, seed: int) -> None:
        self.net = Net()
        self.random = np.random.default_rng(seed)
        self.sparsity = sparsity

    def codes(self, *shape: int) -> np.ndarray:
        half = (1 - self.sparsity) / 2
        return self.random.choice(np.array([-1, 0, 1]), size=shape, p=[half, self.sparsity, half])

    def image(self, side: int) -> str:
        """An RGB image, quantized to eight bits."""
        return self.net.qdq(self.net.input((1, 3, side, side), "float32"), 2.0**-6, 128)

    def conv(
        self, x: str, channels: int, filters: int, *, size: int = 3, stride: int = 1, group: int = 1, mean: float = 0
    ) -> str:
        """A convolution, and a scale and a bias for each channel; inputs of that `mean` give sums around the bias."""
        net, fan = self.net, channels // group * size * size
        codes = self.codes(filters, channels // group, size, size)
        y = net.op(
            "Conv",
            x,
            net.weight(codes, np.float32(1), "int2"),
            pads=[size // 2] * 4,
            strides=[stride, stride],
            group=group,
        )
        gain = round(-0.5 * np.log2(max(1.0, fan * (1 - self.sparsity)))) + self.random.integers(-1, 1, (filters, 1, 1))
        y = net.op("Mul", y, net.const(2.0**gain))
        shift = 2.0**gain * mean * codes.sum(axis=(1, 2, 3)).reshape(filters, 1, 1)
        return net.op("Add", y, net.const((self.random.integers(-8, 9, (filters, 1, 1)) - np.round(16 * shift)) / 16))

    def active(self, x: str) -> str:
        """ReLU, and four bits."""
        return self.net.qdq(self.net.op("Relu", x), STEP, 0, "uint4")

    def signed(self, x: str) -> str:
        """Four bits, for one of two branches that meet: sums of hundreds of numbers are too many to add as they are."""
        return self.net.qdq(x, STEP, 0, "int4")

    def classes(self, x: str, channels: int, count: int) -> onnx.ModelProto:
        """Averages over the image, and a dense layer."""
        net = self.net
        x = net.qdq(net.op("GlobalAveragePool", x), STEP / 4)
        weight = net.weight(self.codes(count, channels), np.float32(1), "int2")
        return typed(net.model(net.op("Gemm", net.op("Flatten", x), weight, transB=1)))


def resnet20(sparsity: float = 0.85, seed: int = 0) -> onnx.ModelProto:
    """ResNet-20 for CIFAR: 32 x 32, three stages of 16, 32, 64 channels, shortcuts without weights (option A)."""
    t = Ternary(sparsity, seed)
    net = t.net
    x, width = t.active(t.conv(t.image(32), 3, 16)), 16
    for stage in range(3):
        for block in range(3):
            wide, stride = 16 << stage, 2 if stage and not block else 1
            y = t.conv(t.active(t.conv(x, width, wide, stride=stride)), wide, wide)
            if stride == 2:
                x = net.op("Slice", x, *(net.const(v, "int64") for v in ([0, 0], [32, 32], [2, 3], [2, 2])))
                border = [0, width // 2, 0, 0, 0, width // 2, 0, 0]
                x = net.op("Pad", x, net.const(border, "int64"))
            x, width = t.active(net.op("Add", y, x)), wide
    return t.classes(x, 64, 10)


def resnet18(sparsity: float = 0.9, seed: int = 0) -> onnx.ModelProto:
    """ResNet-18 for 224 x 224 images: 11.7 million weights, shortcuts by 1 x 1 convolutions."""
    t = Ternary(sparsity, seed)
    net = t.net
    x = t.active(t.conv(t.image(224), 3, 64, size=7, stride=2))
    x, width = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for stage in range(4):
        for block in range(2):
            wide, stride = 64 << stage, 2 if stage and not block else 1
            y = t.active(t.conv(x, width, wide, stride=stride, mean=MEAN))
            y = t.signed(t.conv(y, wide, wide, mean=MEAN))
            if stride == 2:
                x = t.signed(t.conv(x, width, wide, size=1, stride=2, mean=MEAN))
            x, width = t.active(net.op("Add", y, x)), wide
    return t.classes(x, 512, 1000)


def mobilenet(sparsity: float = 0.8, seed: int = 0) -> onnx.ModelProto:
    """MobileNet v1 with a quarter of its channels for 96 x 96 images, as in MLPerf Tiny's visual wake words."""
    t = Ternary(sparsity, seed)
    x, width = t.active(t.conv(t.image(96), 3, 8, stride=2)), 8
    for wide, stride in [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]:
        x = t.active(t.conv(x, width, width, stride=stride, group=width))
        x, width = t.active(t.conv(x, width, wide, size=1)), wide
    return t.classes(x, 256, 2)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet20": resnet20,
    "resnet18": resnet18,
    "mobilenet": mobilenet,
}


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(NETWORKS[sys.argv[1]]().SerializeToString())
