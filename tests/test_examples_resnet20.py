"""Data and recipe of the ResNet-20 example."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tcompile.accelerator import build_options
from tcompile.compress.recipe import read_recipe
from tcompile.frontend.importer import import_model
from tcompile.ir import integer as I
from tcompile.pipeline import compile_file, plan
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "resnet20"


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    return imported("prepare")


def write(file: Path, colors: list[tuple[int, int, int]]) -> np.ndarray:
    """One-colored images and their numbers as classes; the pixels that JPEG makes of them (N, 3, 32, 32)."""
    parts = []
    for color in colors:
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), color).save(stream, "JPEG", quality=95)
        parts.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, parts)])
    np.savez(file, jpeg=np.frombuffer(b"".join(parts), np.uint8), offset=offsets, label=np.arange(len(colors)))
    return np.stack([np.asarray(Image.open(io.BytesIO(p))).transpose(2, 0, 1) for p in parts])


def test_images_are_normalized_as_the_authors_did(prepare):
    pixels = np.array([124, 116, 104], np.uint8).reshape(1, 3, 1, 1)
    f = np.float32
    wanted = [
        (f(124) / f(255) - f(0.485)) / f(0.229),
        (f(116) / f(255) - f(0.456)) / f(0.224),
        (f(104) / f(255) - f(0.406)) / f(0.225),
    ]
    assert prepare.normalized(pixels).dtype == np.float32
    np.testing.assert_array_equal(prepare.normalized(pixels).ravel(), wanted)


def test_images_are_shares_of_255_where_the_network_takes_these(prepare):
    pixels = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1)
    assert prepare.normalized(pixels, shares=True).ravel().tolist() == [0, np.float32(0.2), 1]


def test_all_parts_come_in_their_order(tmp_path, prepare):
    train = [write(tmp_path / f"train_{k}.npz", [(40 * k, 0, 0), (0, 40 * k, 0)]) for k in range(1, 6)]
    test = write(tmp_path / "test.npz", [(0, 0, 255)])
    command = [sys.executable, str(FOLDER / "prepare.py"), str(tmp_path), "-o", str(tmp_path / "out")]
    subprocess.run(command, check=True)
    with np.load(tmp_path / "out" / "data.npz") as data:
        assert data["x_train"].shape == (10, 3, 32, 32) and data["x_test"].shape == (1, 3, 32, 32)
        assert data["y_train"].tolist() == [0, 1] * 5 and data["y_test"].tolist() == [0]
        np.testing.assert_array_equal(data["x_train"], prepare.normalized(np.concatenate(train)))
        np.testing.assert_array_equal(data["x_test"], prepare.normalized(test))


def test_the_recipe_is_one():
    recipe = read_recipe(FOLDER / "resnet20.toml", {})
    assert (recipe.method, recipe.sparsity, recipe.terms, recipe.act_bits) == ("wpc", 0.25, 1, 4)


@pytest.mark.parametrize(
    "name, kept, cycles", [("resnet20", 3153, 35840), ("resnet20.a8", 3153, 30720), ("resnet20.a8.dense", 4204, 36864)]
)
def test_the_committed_networks_are_ternary_and_proved_with_so_many_tiles_kept(name, kept, cycles):
    options = build_options({"pe": 8, "simd": 8, "permute": False})
    compiled = compile_file(FOLDER / f"{name}.int2.onnx", options)
    layers = [n for n in compiled.lowered.graph if isinstance(n, I.Conv | I.Dense)]
    assert {int(v) for n in layers for v in np.unique(n.weight.array)} == {-1, 0, 1}
    assert all(entry.proved for entry in compiled.lowered.certificate)
    plans = plan(compiled, options).values()
    assert (sum(p.kept for p in plans), sum(p.tiles for p in plans)) == (kept, 4204)
    assert max(p.cycles for p in plans) == cycles


def test_the_sparse_network_is_ternary_seven_eighths_empty_and_proved():
    compiled = compile_file(FOLDER / "resnet20.sparse.int2.onnx", build_options({}))
    weights = [n.weight.array for n in compiled.lowered.graph if isinstance(n, I.Conv | I.Dense)]
    assert {int(v) for w in weights for v in np.unique(w)} == {-1, 0, 1}
    assert (sum(map(np.count_nonzero, weights)), sum(w.size for w in weights)) == (35678, 268336)
    assert all(entry.proved for entry in compiled.lowered.certificate)


def test_a_network_takes_inputs_in_units(tmp_path):
    finetune = imported("finetune")
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "linear")], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])], [weight],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    whole = import_model(finetune.load(tmp_path / "net.onnx").model)
    units = finetune.in_units(whole, 256.0)
    x = np.array([[3.0, 7.0]], np.float32)
    assert np.array_equal(finetune.predict(units, units.outputs[0], x / 256), x @ numpy_helper.to_array(weight))


def test_finetuning_starts_from_the_file_and_writes_what_it_trained(tmp_path):
    """The same seed gives the same file; its weights are others, its nodes the same."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["c"], "relu"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["e"], "flatten"),
        helper.make_node("Gemm", ["e", "v"], ["y"], "linear", transB=1),
    ]
    arrays = {"w": rng.normal(size=(8, 3, 3, 3)), "b": np.zeros(8), "v": rng.normal(size=(3, 8))}
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    labels = np.arange(60) % 3
    frames = rng.normal(size=(60, 3, 32, 32)).astype(np.float32) + labels[:, None, None, None]
    np.savez(tmp_path / "data.npz", x_train=frames, y_train=labels, x_test=frames[:12], y_test=labels[:12])
    made = []
    for name in ("one.onnx", "two.onnx"):
        command = [
            sys.executable,
            FOLDER / "finetune.py",
            "net.onnx",
            "--data",
            "data.npz",
            "-o",
            name,
            "--epochs",
            "1",
        ]
        told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1] and "test:" in told and "after" in told
    result = onnx.load_model_from_string(made[0])
    assert [n.op_type for n in result.graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]
    trained = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    assert not np.array_equal(trained["w"], arrays["w"].astype(np.float32))
