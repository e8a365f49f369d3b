"""The picture of a training shows what the report says."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tcompile.compress.plots import drawing

SVG = "{http://www.w3.org/2000/svg}"


def record(epoch: int, validation: float, sparsity: float, best: bool) -> dict[str, object]:
    return {"epoch": epoch, "validation": validation, "tile_sparsity": sparsity, "best": best}


def report(**changes: object) -> dict[str, object]:
    return {
        "model": {"file": "a<b>.onnx"},
        "accuracy": {"test": 0.9, "test_float": 0.95},
        "history": [record(0, 0.5, 0.0, False), record(1, 0.75, 0.0, False), record(2, 0.8, 0.5, True)],
        "layers": [
            {"name": "conv&1", "kept": 4, "tiles": 8, "map": ["1100", "0101"]},
            {"name": "all gone", "kept": 0, "tiles": 2, "map": ["00"]},
        ],
    } | changes


def parts(tag: str, kind: str, **changes: object) -> list[ET.Element]:
    root = ET.fromstring(drawing(report(**changes)))
    return [e for e in root.iter(SVG + tag) if e.get("class") == kind]


def test_kept_tiles_are_drawn_where_they_are():
    first, second = (e.get("d") for e in parts("path", "kept"))
    assert first == "M0 0h2v1h-2zM1 1h1v1h-1zM3 1h1v1h-1z"
    assert second == ""


def test_every_epoch_is_a_dot_and_the_best_a_ring():
    dots = [e.find(SVG + "title").text for e in (*parts("circle", "dot"), *parts("circle", "best"))]
    assert dots == [
        "epoch 0: 50.00%, 0.0% of tiles zero", "epoch 1: 75.00%, 0.0% of tiles zero",
        "epoch 2: 80.00%, 50.0% of tiles zero",
    ]  # fmt: skip


def test_dot_lies_at_its_share_of_the_axes():
    best = parts("circle", "best")[0]
    # accuracies from 0.4 to 1 on 200 pixels, sparsities from 0 to 1 on 380
    assert (float(best.get("cx")), float(best.get("cy"))) == (190.0, pytest.approx(200 * (1 - 0.4 / 0.6), abs=0.1))


def test_curves_join_all_epochs():
    assert parts("path", "curve sparsity")[0].get("d") == "M0.0 200.0L190.0 200.0L380.0 100.0"


def test_names_of_the_file_are_escaped():
    text = drawing(report()).decode()
    assert "a&lt;b&gt;.onnx" in text and "conv&amp;1" in text and "<b>" not in text


def test_training_without_epochs_has_a_picture_too():
    assert len(parts("circle", "best", history=[record(0, 0.97, 0.0, True)])) == 1
