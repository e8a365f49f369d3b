"""Make the training data of a CIFAR-10 network: ``data.npz``, normalized as the network's authors did.

::

    python examples/resnet20/prepare.py FOLDER -o build/resnet20
    tcompile compress resnet20.onnx --data build/resnet20/data.npz -o build/resnet20/resnet20.int2.onnx \
        --config examples/resnet20/resnet20.toml --resume

FOLDER holds ``train_1.npz`` to ``train_5.npz`` and ``test.npz``, each with a stream of JPEG images (``jpeg``, uint8), where each
begins (``offset``, one more than there are images) and the classes (``label``). Pixels of JPEG images are not CIFAR-10's own:
compare accuracies with that of the float network on the same pixels only. The data are not part of this project.
Needs pillow.
"""

from __future__ import annotations

import argparse
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

MEAN = (0.485, 0.456, 0.406)  # of the three channels, in shares of 255
DEVIATION = (0.229, 0.224, 0.225)
PARTS = 5


def images(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8, and classes (N,) int64."""
    with np.load(file) as data:
        stream, offsets, labels = data["jpeg"].tobytes(), data["offset"], data["label"]
    parts = [stream[a:b] for a, b in pairwise(offsets)]
    pixels = [np.asarray(Image.open(io.BytesIO(part)).convert("RGB")) for part in parts]
    return np.stack(pixels).transpose(0, 3, 1, 2), labels.astype(np.int64)


def normalized(pixels: np.ndarray, *, shares: bool = False) -> np.ndarray:
    """What the network takes: float32, shares of 255 or these normalized."""
    mean, deviation = (np.array(c, np.float32).reshape(3, 1, 1) for c in (MEAN, DEVIATION))
    found = pixels.astype(np.float32) / 255
    return np.asarray(found if shares else (found - mean) / deviation)


def main() -> None:
    """Read, normalize, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--shares", action="store_true", help="pixels as shares of 255, not normalized")
    options = parser.parse_args()
    parts = [images(options.folder / f"train_{k}.npz") for k in range(1, PARTS + 1)]
    x_test, y_test = images(options.folder / "test.npz")
    options.output.mkdir(parents=True, exist_ok=True)
    new = options.output / "data.new.npz"
    np.savez(
        new,
        x_train=normalized(np.concatenate([x for x, _ in parts]), shares=options.shares),
        y_train=np.concatenate([y for _, y in parts]),
        x_test=normalized(x_test, shares=options.shares),
        y_test=y_test,
    )
    new.replace(options.output / "data.npz")


if __name__ == "__main__":
    main()
