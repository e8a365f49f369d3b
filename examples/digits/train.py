"""Train a ternary network on scikit-learn's digits and write it as an ONNX file with INT2 weights.

::

    python examples/digits/train.py            # writes digits.int2.onnx and digits.npz beside this file

Every layer computes ``q(relu(scale * (w @ x) + bias))``: ``w`` holds only -1, 0 and +1, ``x`` unsigned 4-bit codes
times a power of two, and the per-channel float32 ``scale`` and ``bias`` come after the sum. So each sum is exact in
float32, in whatever order it is added up, and every reader of the file finds the same integers.

Needs torch and scikit-learn. On one machine the same seed gives the same file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional

OPSET = 25  # the first with INT2 tensors
IR_VERSION = 13
SIZE = 8  # height and width of an image
CLASSES = 10
WIDTHS = (16, 32, 32)  # output channels of the three convolutions
POOLED = ("conv2", "conv3")  # layers with a 2x2 MaxPool behind them
TOP_CODE = 15  # of an unsigned 4-bit activation
INPUT_STEP = 1.0  # pixels are 0 .. 16; the brightest saturates
ACTIVATION_STEP = 0.25
TERNARY_THRESHOLD = 0.05  # share of the largest weight below which a weight becomes zero
NORM_STATE = ("weight", "bias", "running_mean", "running_var")
NORM_EPSILON = 1e-5
SPLIT_SEED = 0  # the data split does not depend on --seed
TEST_IMAGES = 450
VALIDATION_IMAGES = 200
BATCH = 64
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Digits:
    """Images of shape (n, 1, 8, 8), float32, 0 to 16, and labels of shape (n,), int64, in three disjoint parts."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_validation: NDArray[np.float32]
    y_validation: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def load_data() -> Digits:
    """Split scikit-learn's 1797 digits, stratified by class: 450 to test, 200 to validate, the others to train."""
    digits = load_digits()
    x = digits.images.astype(np.float32).reshape(-1, 1, SIZE, SIZE)
    y = digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(x, y, test_size=TEST_IMAGES, random_state=SPLIT_SEED, stratify=y)
    x_train, x_validation, y_train, y_validation = train_test_split(
        x, y, test_size=VALIDATION_IMAGES, random_state=SPLIT_SEED, stratify=y
    )
    return Digits(x_train, y_train, x_validation, y_validation, x_test, y_test)


def ternarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Statistical weight scaling (He, Gong, Fan, WACV 2019): -1, 0 or +1 per weight, and the survivors' mean size."""
    size = weight.abs()
    kept = size >= TERNARY_THRESHOLD * size.max()
    return weight.sign() * kept, size[kept].mean()


class _Ternary(torch.autograd.Function):
    """Ternary weights forward; backward the gradient passes straight through where ``-1 < w < 1``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        signs, size = ternarize(weight)
        return signs * size

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight: Tensor
        (weight,) = ctx.saved_tensors
        return gradient * (weight.abs() < 1)


class _Round(torch.autograd.Function):
    """Round half to even, as QuantizeLinear does; backward the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def quantize(x: Tensor, step: float) -> Tensor:
    """Snap to ``step * (0 .. 15)``: what Relu, QuantizeLinear and DequantizeLinear do together."""
    rounded: Tensor = _Round.apply(torch.clamp(x / step, 0, TOP_CODE))  # type: ignore[no-untyped-call]
    return rounded * step


class DigitsNet(nn.Module):
    """Conv, Conv, MaxPool, Conv, MaxPool, linear; ternary weights everywhere, 4-bit activations between.

    Parameters
    ----------
    widths : tuple of int
        Output channels of the three convolutions.
    """

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        convolutions = [(c_out, c_in, 3, 3) for c_in, c_out in zip((1, *widths[:-1]), widths, strict=True)]
        shapes = [*convolutions, (CLASSES, widths[-1] * (SIZE // 4) ** 2)]  # two poolings halve the image twice
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(shape)) for shape in shapes])
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight)
        norms = [nn.BatchNorm2d(width, eps=NORM_EPSILON) for width in widths]
        self.norms = nn.ModuleList([*norms, nn.BatchNorm1d(CLASSES, eps=NORM_EPSILON)])

    def forward(self, x: Tensor) -> Tensor:
        conv1, conv2, conv3, linear = (_Ternary.apply(weight) for weight in self.weights)  # type: ignore[no-untyped-call]
        norm1, norm2, norm3, norm4 = self.norms
        x = quantize(x, INPUT_STEP)
        x = quantize(norm1(functional.conv2d(x, conv1, padding=1)), ACTIVATION_STEP)
        x = quantize(norm2(functional.conv2d(x, conv2, padding=1)), ACTIVATION_STEP)
        x = functional.max_pool2d(x, 2)
        x = quantize(norm3(functional.conv2d(x, conv3, padding=1)), ACTIVATION_STEP)
        x = functional.max_pool2d(x, 2)
        logits: Tensor = norm4(x.flatten(1) @ linear.T)
        return logits


@dataclass(frozen=True)
class Layer:
    """One layer as the file holds it: ``scale * sum + bias`` per output channel, in that order, in float32.

    Parameters
    ----------
    name : str
        Becomes the name of the layer's Conv or MatMul.
    weight : ndarray of int8
        -1, 0 or +1; (C_out, C_in, 3, 3), or (C_out, C_in) for the last layer.
    scale, bias : ndarray of float32
        (C_out,) each.
    """

    name: str
    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


@torch.no_grad()
def fold(network: DigitsNet) -> list[Layer]:
    """Merge weight scale and BatchNormalization: ``gamma * (S*sum - mean) / sqrt(variance + eps) + beta``."""
    layers = []
    for name, weight, norm in zip(("conv1", "conv2", "conv3", "linear"), network.weights, network.norms, strict=True):
        signs, size = ternarize(weight)
        gamma, beta, mean, variance = (norm.state_dict()[key].double() for key in NORM_STATE)
        gain = gamma / (variance + NORM_EPSILON).sqrt()
        scale, bias = gain * size.double(), beta - mean * gain
        layers.append(Layer(name, signs.numpy().astype(np.int8), scale.float().numpy(), bias.float().numpy()))
    return layers


def integer_logits(layers: Sequence[Layer], images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evaluate folded layers on images (n, 1, 8, 8): exact integer sums, then float32 Mul and Add. Gives (n, 10)."""
    codes, step = torch.from_numpy(images).div(INPUT_STEP).round().clamp(0, TOP_CODE).double(), INPUT_STEP
    for layer in layers[:-1]:
        # Integers below 2**53 are exact in float64, whichever way the convolution is computed.
        sums = functional.conv2d(codes, torch.from_numpy(layer.weight).double(), padding=1).round()
        scale, bias = (torch.from_numpy(array)[:, None, None] for array in (layer.scale, layer.bias))
        y = (sums * step).float() * scale + bias
        codes, step = y.div(ACTIVATION_STEP).round().clamp(0, TOP_CODE).double(), ACTIVATION_STEP
        if layer.name in POOLED:
            codes = functional.max_pool2d(codes, 2)
    last = layers[-1]
    sums = codes.flatten(1) @ torch.from_numpy(last.weight).double().T
    return ((sums * step).float() * torch.from_numpy(last.scale) + torch.from_numpy(last.bias)).numpy()


class _Graph:
    """Nodes and initializers of the file, gathered in order; each method returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, name: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{name}_out"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        return output

    def quantize(self, x: str, name: str, step: float) -> str:
        # No zero points: with them onnxruntime 1.32's defaults turn MaxPool into one of UINT4, which it does not know.
        scale = self.constant(f"{name}_step", np.array(step, np.float32))
        codes = self.node("QuantizeLinear", f"{name}_quantize", [x, scale], output_dtype=TensorProto.UINT4)
        return self.node("DequantizeLinear", f"{name}_dequantize", [codes, scale])

    def layer(self, x: str, layer: Layer, output: str = "") -> str:
        """Conv or MatMul, Mul, Add; never a quantizer right behind the Conv or MatMul."""
        name, linear = layer.name, layer.weight.ndim == 2
        weight = layer.weight.T if linear else layer.weight
        codes = self.constant(f"{name}_weight", np.ascontiguousarray(weight).astype(ml_dtypes.int2))
        one = self.constant(f"{name}_weight_scale", np.array(1, np.float32))
        values = self.node("DequantizeLinear", f"{name}_weight_dequantize", [codes, one])
        if linear:
            sums = self.node("MatMul", name, [x, values])
        else:
            sums = self.node("Conv", name, [x, values], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        per_channel = (1, -1) if linear else (1, -1, 1, 1)
        factor = self.constant(f"{name}_scale_factor", layer.scale.reshape(per_channel))
        offset = self.constant(f"{name}_bias_offset", layer.bias.reshape(per_channel))
        scaled = self.node("Mul", f"{name}_scale", [sums, factor])
        return self.node("Add", f"{name}_bias", [scaled, offset], output)


def export(layers: Sequence[Layer]) -> onnx.ModelProto:
    """Write folded layers as an ONNX model: ``image`` (1, 1, 8, 8) float32 to ``logits`` (1, 10) float32.

    Raises
    ------
    onnx.checker.ValidationError
        If the model is not valid ONNX.
    """
    graph = _Graph()
    x = graph.quantize("image", "input", INPUT_STEP)
    for layer in layers[:-1]:
        x = graph.node("Relu", f"{layer.name}_relu", [graph.layer(x, layer)])
        x = graph.quantize(x, layer.name, ACTIVATION_STEP)
        if layer.name in POOLED:
            x = graph.node("MaxPool", f"{layer.name}_pool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = graph.node("Flatten", "flatten", [x], axis=1)
    graph.layer(x, layers[-1], "logits")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="examples/digits/train.py",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run_onnx(model: onnx.ModelProto, images: NDArray[np.float32], *, optimize: bool) -> NDArray[np.float32]:
    """Run the file in onnxruntime, one image at a time, with its default optimizations or none. Gives (n, 10)."""
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float(np.mean(logits.argmax(1) == labels))


def train(data: Digits, *, epochs: int, seed: int) -> list[Layer]:
    """Train from scratch and return the folded layers of the epoch that does best on the validation images.

    Equal accuracies are decided by the cross entropy. The test images are not looked at.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # float sums depend on the number of threads
    torch.use_deterministic_algorithms(True)
    network = DigitsNet()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    y_validation = torch.from_numpy(data.y_validation)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best = (-1.0, 0.0)
    chosen: list[Layer] = []
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for batch in torch.split(torch.randperm(len(x)), BATCH):
            loss = functional.cross_entropy(network(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        layers = fold(network)
        logits = integer_logits(layers, data.x_validation)
        score = (
            accuracy(logits, data.y_validation),
            -functional.cross_entropy(torch.from_numpy(logits), y_validation).item(),
        )
        if score > best:
            best, chosen = score, layers
        mark = " *" if chosen is layers else ""
        print(f"epoch {epoch:3}/{epochs}  loss {total / len(x):.4f}  validation {score[0]:.2%}{mark}", flush=True)
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the digits example and write digits.int2.onnx and digits.npz.")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="default: beside this file"
    )
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, not {options.epochs}")

    started = time.monotonic()
    data = load_data()
    layers = train(data, epochs=options.epochs, seed=options.seed)
    model = export(layers)
    expected = integer_logits(layers, data.x_test)
    for optimize in (False, True):
        if not np.array_equal(run_onnx(model, data.x_test, optimize=optimize), expected):
            parser.exit(1, f"onnxruntime ({optimize=}) and the trained network differ; nothing written\n")

    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "digits.int2.onnx").write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(
        options.output / "digits.npz",
        x_train=np.concatenate([data.x_train, data.x_validation]),
        y_train=np.concatenate([data.y_train, data.y_validation]),
        x_test=data.x_test,
        y_test=data.y_test,
    )
    for layer in layers:
        print(f"{layer.name:7} {layer.weight.size:6} weights, {np.mean(layer.weight == 0):.1%} zero")
    print(f"test accuracy {accuracy(expected, data.y_test):.2%} of {len(expected)} images, onnxruntime bit-identical")
    print(f"wrote digits.int2.onnx and digits.npz to {options.output} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
