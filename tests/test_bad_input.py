"""Bad input through the command: the message says what must hold, the exit code is 2, and nothing is written."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tcompile import bundle, pipeline
from tests.command import DIGITS, Result, process, refused, tcompile, tree
from tests.models import Net, typed

KEYWORDS = ["module", "wire", "endmodule", "always", "assign", "1st", "_", "x y"]
HOSTILE = [
    "a'b\"c",
    "line\nbreak\r",
    "../../etc/passwd",
    "n" * 10_000,
    "\x1b[31mred",
    "[bold]markup[/bold]",
    "[/]",
    "\u202egnp",
]


def layer(x: str = "x", y: str = "y", nodes: tuple[str, str, str, str] = ("xq", "conv", "act", "out")) -> ModelProto:
    """A ternary convolution from floats to floats, with names to be chosen."""
    weight = np.random.default_rng(0).integers(-1, 2, (4, 2, 3, 3))
    constants = [
        helper.make_tensor("w", TensorProto.INT8, weight.shape, weight.ravel().tolist()),
        numpy_helper.from_array(np.array(0.25, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.uint8), "z"),
        numpy_helper.from_array(np.array(0, np.int8), "wz"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", [x, "s", "z"], ["xc"], nodes[0]),
            helper.make_node("DequantizeLinear", ["xc", "s", "z"], ["xr"], nodes[0] + "d"),
            helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wr"], nodes[1] + "w"),
            helper.make_node("Conv", ["xr", "wr"], ["c"], nodes[1]),
            helper.make_node("Relu", ["c"], ["r"], nodes[2]),
            helper.make_node("QuantizeLinear", ["r", "s", "z"], ["yc"], nodes[3]),
            helper.make_node("DequantizeLinear", ["yc", "s", "z"], [y], nodes[3] + "d"),
        ],
        "layer",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 2, 5, 5])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 4, 3, 3])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(name="build")
def _build(tmp_path: Path) -> Callable[..., Result]:
    """Write a model and build it; it must be refused."""

    def run(model: ModelProto | bytes, *options: object) -> Result:
        data = model if isinstance(model, bytes) else model.SerializeToString()
        (tmp_path / "model.onnx").write_bytes(data)
        return refused(tmp_path, ["build", tmp_path / "model.onnx", "-o", tmp_path / "new" / "build", *options])

    return run


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "build"
    assert tcompile("build", DIGITS, "-o", folder, "-q") == Result(0, "", "")
    return folder


@pytest.fixture(name="copy")
def _copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "build"))


# the model file


def test_the_small_layer_is_sound(tmp_path):
    (tmp_path / "model.onnx").write_bytes(layer().SerializeToString())
    assert tcompile("build", tmp_path / "model.onnx", "-o", tmp_path / "build").code == 0
    assert "0 mismatches" in tcompile("verify", tmp_path / "build").out


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file(build, share):
    data = DIGITS.read_bytes()
    assert "model.onnx" in build(data[: int(len(data) * share)]).err


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"# a network\n", b"\xff" * 1000, b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_no_onnx_file(build, data):
    result = build(data)
    assert result.codes == ["not-onnx"]
    assert "try   " in result.err


def test_a_missing_file_and_a_folder(tmp_path):
    assert refused(tmp_path, ["check", tmp_path / "none.onnx"]).codes == ["unreadable"]
    assert refused(tmp_path, ["check", tmp_path]).codes == ["not-a-file"]


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def forbidden(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "model.onnx"
    path.write_bytes(layer().SerializeToString())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", forbidden)
        result = tcompile("check", path)
    assert (result.code, result.codes) == (2, ["unreadable"])
    assert "Permission denied" in result.err


def test_dynamic_shapes_and_their_cure(build, tmp_path):
    model = layer()
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    model.graph.output[0].type.tensor_type.ClearField("shape")
    result = build(model)
    assert result.codes == ["dynamic-shape"]
    assert "'x'" in result.err
    assert "--shape x=1,2,32,32" in result.err
    assert tcompile("check", tmp_path / "model.onnx", "--shape", "x=1,2,5,5").code == 0
    assert build(model, "--shape", "x=1,3,5,5").codes == ["wrong-shape"]
    assert "did you mean" in build(model, "--shape", "xx=1,2,5,5").err


def test_all_unsupported_operators_are_listed(build):
    net = Net()
    x = net.input((1, 2, 4, 4), "float32")
    for op in ("Sinh", "Cosh", "Sinh", "Tan"):
        x = net.op(op, x)
    result = build(typed(net.model(x)))
    assert all(name in result.err for name in ("'Sinh'", "'Cosh'", "'Tan'", "sinh_0", "cosh_1", "sinh_2", "tan_3"))
    assert set(result.codes) == {"unsupported-op"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(build, value):
    model = layer()
    next(t for t in model.graph.initializer if t.name == "s").CopyFrom(
        numpy_helper.from_array(np.array(value, np.float32), "s")
    )
    assert build(model).codes == ["not-finite"]


@pytest.mark.parametrize("scale", [0.0, -0.25])
def test_scales_that_are_not_positive(build, scale):
    model = layer()
    next(t for t in model.graph.initializer if t.name == "s").CopyFrom(
        numpy_helper.from_array(np.array(scale, np.float32), "s")
    )
    build(model)


def external(model: ModelProto, location: str) -> ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == "s")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return model


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../secret", "a/../../secret", "link", "C:\\secret", "", "none.bin"]
)
def test_external_data_outside_the_folder(tmp_path, location):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(np.array(0.25, "<f4").tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "model.onnx").write_bytes(external(layer(), location).SerializeToString())
    result = refused(tmp_path, ["build", folder / "model.onnx", "-o", tmp_path / "build"])
    assert result.codes == ["external-data"]


def test_external_data_beside_the_model(tmp_path):
    (tmp_path / "data.bin").write_bytes(np.array(0.25, "<f4").tobytes())
    (tmp_path / "model.onnx").write_bytes(external(layer(), "data.bin").SerializeToString())
    assert tcompile("check", tmp_path / "model.onnx").code == 0


@pytest.mark.parametrize("dims", [[10**12], [10**6, 10**6], [2**40, 2**40]])
def test_a_shape_of_a_million_millions(build, dims):
    model = layer()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    assert build(model).codes == ["too-large"]
    model = layer()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))
    assert "too-large" in build(model).codes


def test_duplicate_names(build):
    model = layer()
    model.graph.node.append(helper.make_node("Relu", ["c"], ["r"], "again"))
    result = build(model)
    assert result.codes == ["duplicate-name"]
    assert "again" in result.err


def test_a_cycle(build):
    model = layer()
    model.graph.node[4].input[0] = "yc"
    model.graph.node[3].input[0] = "r"
    model.graph.node[5].input[0] = "c"
    result = build(model)
    assert result.codes == ["cycle"]
    assert "conv" in result.err


def test_an_empty_graph(build):
    model = layer()
    del model.graph.node[:]
    assert "empty-graph" in build(model).codes
    model = layer()
    del model.graph.output[:]
    assert "empty-graph" in build(model).codes


def test_an_output_that_is_constant(build):
    model = layer()
    model.graph.output.append(helper.make_tensor_value_info("wr", TensorProto.FLOAT, [4, 2, 3, 3]))
    assert build(model).codes == ["constant-output"]


def test_an_output_that_python_cannot_take(build):
    assert build(DIGITS.read_bytes(), "--until", "conv1_quantize").codes == ["packed-port"]


def with_an_lstm_behind(model: ModelProto) -> ModelProto:
    """A network whose end no accelerator can be made of."""
    model.graph.node.append(helper.make_node("LSTM", ["y", "y", "y"], ["late"], "memory", hidden_size=2))
    model.graph.output[0].name = "late"
    return model


def test_what_lies_behind_the_end_is_not_looked_at(tmp_path):
    onnx.save(with_an_lstm_behind(layer()), tmp_path / "model.onnx")
    for end in ("outd", "y"):  # the node, and the tensor that it gives
        result = tcompile("build", tmp_path / "model.onnx", "-o", tmp_path / end, "--until", end)
        assert result.code == 0, result.err
    onnx.save(layer(), tmp_path / "whole.onnx")
    assert tcompile("build", tmp_path / "whole.onnx", "-o", tmp_path / "whole").code == 0
    assert (tmp_path / "y" / "network.ir").read_bytes() == (tmp_path / "whole" / "network.ir").read_bytes()


@pytest.mark.parametrize("options", [(), ("--until", "memory"), ("--until", "late"), ("--until", "nowhere")])
def test_what_lies_before_the_end_is_refused_wrong(build, options):
    assert "invalid-shape" in build(with_an_lstm_behind(layer()), *options).codes


def test_sums_beyond_floating_point(build):
    model = layer()
    next(t for t in model.graph.initializer if t.name == "s").CopyFrom(
        numpy_helper.from_array(np.array(1e37, np.float32), "s")
    )
    result = build(model)
    assert result.codes == ["overflow"]
    assert "conv" in result.err


def test_a_type_that_the_files_operator_set_does_not_know(build):
    model = onnx.load(DIGITS)
    model.opset_import[0].version = 23
    assert build(model).codes[0] in ("reference-refused", "invalid-onnx", "invalid-graph")


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_window_larger_than_its_input(build, op):
    net = Net()
    x = net.qdq(net.input((1, 2, 4, 4), "float32"), 0.5)
    model = typed(net.model(net.qdq(net.op(op, x, kernel_shape=[2, 2]), 0.5)))
    node = next(n for n in model.graph.node if n.op_type == op)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("kernel_shape", [2, 5]))
    result = build(model)
    assert result.codes == ["invalid-shape"]
    assert "axis 3" in result.err


# names


@pytest.mark.parametrize("name", [*KEYWORDS, *HOSTILE], ids=lambda n: ascii(n)[:20])
def test_any_name_compiles_and_is_shown_harmless(tmp_path, name):
    model = layer(name, name + "2", (name + "3", name, name, name + "4"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    checked = tcompile("check", tmp_path / "model.onnx", "--explain")
    built = tcompile("build", tmp_path / "model.onnx", "-o", tmp_path / "build")
    assert (checked.code, built.code) == (0, 0), built.err
    verified = tcompile("verify", tmp_path / "build", "-v")
    assert verified.code == 0
    assert "0 mismatches" in verified.out
    shown = "".join((checked.out, checked.err, built.out, built.err, verified.out, verified.err))
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert max(map(len, shown.splitlines())) < 2000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["build", "model.onnx"]


def test_a_hostile_name_in_a_refusal(build):
    model = layer(nodes=("x", "\x1b[31m[red]'\n" + "n" * 10_000, "act", "out"))
    next(n for n in model.graph.node if n.op_type == "Conv").op_type = "Nonsense"
    err = build(model).err
    assert all(c.isprintable() or c == "\n" for c in err)
    assert max(map(len, err.splitlines())) < 1000


# inputs of verify


def saved(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


FRAMES = np.zeros((3, 1, 8, 8), np.float32)
BAD_DATA = {
    "wrong key": ("missing-input", {"images": FRAMES}),
    "wrong shape": ("input-shape", {"x": np.zeros((3, 8, 9), np.float32)}),
    "scalar": ("input-shape", {"x": np.float32(1)}),
    "NaN": ("input-values", {"x": np.full_like(FRAMES, np.nan)}),
    "infinity": ("input-values", {"x": np.full_like(FRAMES, np.inf)}),
    "beyond float32": ("input-values", {"x": np.full(FRAMES.shape, 1e300)}),
    "text": ("input-values", {"x": np.full(FRAMES.shape, "one")}),
    "no frames": ("no-frames", {"x": FRAMES[:0]}),
    "label count": ("labels", {"x": FRAMES, "y": np.zeros(4, np.int64)}),
    "label type": ("labels", {"x": FRAMES, "y": np.zeros(3, np.float32)}),
    "objects": ("not-npz", {"x": np.array([object()] * 3, dtype=object)}),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_wrong_arrays(copy, tmp_path, kind):
    code, arrays = BAD_DATA[kind]
    path = saved(tmp_path / "data.npz", **arrays)
    assert refused(tmp_path, ["verify", copy, "--inputs", path]).codes == [code]


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, FRAMES)


def huge(path: Path) -> None:
    """An array whose header claims a million millions of elements."""
    import zipfile

    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1, 8, 8), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)


def truncated(path: Path) -> None:
    saved(path, x=FRAMES)
    path.write_bytes(path.read_bytes()[:300])


def damaged(path: Path) -> None:
    saved(path, x=FRAMES)
    data = bytearray(path.read_bytes())
    data[250] ^= 0xFF
    path.write_bytes(data)


WRONG_FILES = {
    "text": lambda p: p.write_text("x = 1"), "empty": lambda p: p.write_bytes(b""), "zip": lambda p: p.write_bytes(b"PK\x03\x04"),
    "folder": lambda p: p.mkdir(), "npy": npy, "huge": huge, "truncated": truncated, "damaged": damaged,
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_files_that_are_no_archives(copy, tmp_path, kind):
    WRONG_FILES[kind](tmp_path / "data.npz")
    result = refused(tmp_path, ["verify", copy, "--inputs", tmp_path / "data.npz"])
    assert result.codes == ["not-npz"]
    assert "numpy.savez" in result.err


def test_a_data_file_that_is_not_there(copy, tmp_path):
    assert refused(tmp_path, ["verify", copy, "--inputs", tmp_path / "none.npz"]).codes == ["no-file"]


def test_the_same_reader_takes_calibration_data(build, tmp_path):
    (tmp_path / "calib.npz").write_bytes(b"PK\x03\x04")
    assert build(layer(), "--calib", tmp_path / "calib.npz").codes == ["not-npz"]


# damaged build directories


def test_no_build_directory(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        assert refused(tmp_path, ["verify", place]).codes == ["no-build"]
    (tmp_path / "file").touch()
    assert refused(tmp_path, ["verify", tmp_path / "file"]).codes == ["no-build"]


FILES = [
    "report.json",
    "network.ir",
    "model.lowered.onnx",
    "host/host_pre.onnx",
    "host/host_post.onnx",
    "host/ports.json",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "half", "other", "bytes"])
def test_a_damaged_build_directory(copy, tmp_path, name, how):
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(
            {"empty": b"", "half": data[: len(data) // 2], "other": b"[]\n", "bytes": b"\xff\xfe\x00"}[how]
        )
    result = refused(tmp_path, ["verify", copy])
    assert result.codes[0] in ("no-build", "build-version", "reference-refused")


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("report.json", '"schema": 1', '"schema": 2'),
        ("report.json", '"exactness"', '"exactnes"'),
        ("report.json", '"verdict"', '"verdic"'),
        ("host/ports.json", '"plain"', '"quick"'),
        ("host/ports.json", '"value": "linear', '"value": "ghost"'),
        ("host/ports.json", '"outputs"', '"outs"'),
        ("host/ports.json", '"kind"', '"sort"'),
        ("network.ir", " integer ", " real "),
        ("network.ir", "= Dense(", "= Dance("),
        ("network.ir", "{0..15}", "{0..14}"),
        ("network.ir", "{0..15}", "{0..15"),
    ],
)
def test_files_of_a_build_that_do_not_fit(copy, tmp_path, name, old, new):
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    assert refused(tmp_path, ["verify", copy]).codes[0] in ("no-build", "build-version")


@pytest.mark.parametrize(
    "part, key, value",
    [
        (None, "layers", 5), (None, "layers", []), (None, "layers", [{}]), (None, "weights", "x"), ("weights", "compression_whole_model", "x"),
        ("weights", "compression_whole_model", 10**400), ("performance", "ii_cycles", "x"), ("verification", "located", [1]),
    ],
    ids=["number", "none", "nameless", "text", "share", "huge", "cycles", "differences"],
)  # fmt: skip
def test_a_report_that_cannot_be_drawn(copy, tmp_path, part, key, value):
    report = json.loads((copy / "report.json").read_text())
    (report[part] if part else report)[key] = value
    (copy / "report.json").write_text(json.dumps(report))
    assert refused(tmp_path, ["report", copy]).codes == ["no-build"]


@pytest.mark.parametrize("command", ["verify", "report"])
def test_a_build_directory_of_another_schema_or_none(copy, tmp_path, command):
    assert refused(tmp_path, [command, tmp_path / "ghost"]).codes == ["no-build"]
    text = (copy / "report.json").read_text()
    (copy / "report.json").write_text(text.replace('"schema": 1', '"schema": 2'))
    assert refused(tmp_path, [command, copy]).codes == ["build-version"]


# output directories


def test_a_directory_that_exists_is_kept(build, tmp_path):
    (tmp_path / "new" / "build").mkdir(parents=True)
    (tmp_path / "new" / "build" / "mine.txt").write_text("mine")
    result = build(layer())
    assert result.codes == ["output-exists"]
    assert "-f" in result.err
    assert build(layer(), "-f").codes == ["output-exists"]


def test_a_report_of_another_program_makes_no_build_directory(build, tmp_path):
    folder = tmp_path / "new" / "build"
    folder.mkdir(parents=True)
    for text in ("{}", "[]", "none", '{"schema": 1, "tools": {}}'):
        (folder / "report.json").write_text(text)
        assert build(layer(), "-f").codes == ["output-exists"]


def test_a_build_directory_is_replaced_whole_with_force(copy):
    (copy / "stray.txt").touch()
    assert tcompile("build", DIGITS, "-o", copy).code == 2
    assert tcompile("build", DIGITS, "-o", copy, "-f").code == 0
    assert not (copy / "stray.txt").exists()
    assert [p.name for p in copy.parent.iterdir()] == ["build"]


def test_a_file_or_a_link_is_no_directory(build, tmp_path, built):
    (tmp_path / "new").mkdir()
    target = tmp_path / "new" / "build"
    target.write_text("mine")
    assert build(layer(), "-f").codes == ["output-exists"]
    target.unlink()
    target.symlink_to(built)
    assert build(layer(), "-f").codes == ["output-exists"]
    target.unlink()
    target.symlink_to(tmp_path / "nowhere")
    assert build(layer(), "-f").codes == ["output-exists"]


def test_a_target_below_a_file_or_with_a_name_too_long(tmp_path):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "build", tmp_path / ("n" * 300)):
        assert refused(tmp_path, ["build", DIGITS, "-o", target]).codes == ["cannot-write"]


# a full disk


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["mkdir", "write_bytes", "chmod", "rename"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_full_disk_leaves_everything_as_it_was(copy, tmp_path, monkeypatch, what, replaced):
    target = copy if replaced else tmp_path / "a" / "b" / "build"
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, what, full)
        result = tcompile("build", DIGITS, "-o", target, "-f")
    assert (result.code, result.codes) == (2, ["cannot-write"])
    assert "No space left" in result.err
    assert tree(tmp_path) == before


def test_a_disk_that_fills_between_two_files(copy, tmp_path, monkeypatch):
    before, real, count = tree(tmp_path), Path.write_bytes, iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda p, b: real(p, b) if next(count) < 3 else full())
        assert tcompile("build", DIGITS, "-o", copy, "-f").code == 2
    assert tree(tmp_path) == before


def test_a_directory_comes_back_if_the_new_one_cannot_take_its_place(copy, tmp_path, monkeypatch):
    before, real, count = tree(tmp_path), Path.rename, iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda p, to: full() if next(count) == 1 else real(p, to))
        assert tcompile("build", DIGITS, "-o", copy, "-f").code == 2
    assert tree(tmp_path) == before


@pytest.mark.parametrize("what", ["chmod", "replace"])
def test_a_full_disk_during_verify(copy, tmp_path, monkeypatch, what):
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, what, full)
        result = tcompile("verify", copy)
    assert (result.code, result.codes) == (2, ["cannot-write"])
    assert tree(tmp_path) == before


@pytest.fixture(name="tiny_disk")
def _tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root mounts a small disk")
    if subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_of_16_kilobytes(tiny_disk):
    assert refused(tiny_disk, ["build", DIGITS, "-o", tiny_disk / "deep" / "build"]).codes == ["cannot-write"]


def test_a_standard_output_that_is_full():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as sink:
        done = subprocess.run(
            [sys.executable, "-m", "tcompile", "check", str(DIGITS), "--json"], stdout=sink, stderr=subprocess.PIPE, text=True, check=False
        )  # fmt: skip
    assert done.returncode == 2
    assert "error[system]" in done.stderr
    assert "Traceback" not in done.stderr


# Ctrl-C


@pytest.mark.parametrize("where", ["load", "lower", "host_models"])
def test_an_interruption_while_compiling(tmp_path, monkeypatch, where):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, where, stop)
        result = tcompile("build", DIGITS, "-o", tmp_path / "build")
    assert result.code == 130
    assert "interrupted" in result.err
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("what, owner", [("write_bytes", Path), ("rename", Path), ("rmtree", shutil)])
def test_an_interruption_while_writing(copy, tmp_path, monkeypatch, what, owner):
    before, count, real = tree(tmp_path), iter(range(100)), getattr(owner, what)

    def stop(*arguments: object, **options: object) -> object:
        if next(count) == 1:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, what, stop)
        result = tcompile("build", DIGITS, "-o", copy, "-f")
    assert result.code == 130
    assert [p for p in tree(tmp_path) if p.startswith("build")] == [p for p in before if p.startswith("build")]
    if owner is Path:
        assert tree(tmp_path) == before


def test_an_interruption_of_verify_leaves_the_report(copy, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = tree(tmp_path)
    for owner, what in ((Path, "replace"), (pipeline, "verify"), (bundle, "tempfile")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, what, stop)
            assert tcompile("verify", copy).code == (130 if owner is not bundle else 70)
        assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["build", "verify"])
def test_ctrl_c_in_a_process_of_its_own(copy, tmp_path, command):
    """The process says when it is at work, then gets the signal that a terminal sends."""
    script = (
        "import signal, sys, time, numpy as np; from tcompile import pipeline; from tcompile.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a parent in the background has it ignored
        "name = 'lower' if sys.argv[1] == 'build' else 'verify'\n"
        "def slow(*a, **k): print('at work', flush=True); time.sleep(60)\n"
        "setattr(pipeline, name, slow)\nmain()\n"
    )
    options = ["build", str(DIGITS), "-o", str(tmp_path / "other")] if command == "build" else ["verify", str(copy)]
    before = tree(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", script, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "at work\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert tree(tmp_path) == before


def test_ctrl_c_at_any_time_leaves_nothing_half(tmp_path):
    """Signals at several moments of a real build: the directory is there whole or not at all."""
    for delay in (0.15, 0.4, 0.55, 0.7):
        target = tmp_path / f"d{delay}"
        with subprocess.Popen(
            [sys.executable, "-m", "tcompile", "build", str(DIGITS), "-o", str(target), "-q"], stderr=subprocess.DEVNULL
        ) as child:
            time.sleep(delay)
            child.send_signal(signal.SIGINT)
        if target.exists():
            assert tcompile("verify", target).code == 0
        assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


# options


@pytest.mark.parametrize(
    "options, said",
    [
        (["--ternary", "foo"], "must be sws"),
        (["--ternary", "sws:0"], "must be sws"),
        (["--weights", "csd:9"], "must be csd:N"),
        (["--weights", "csd"], "must be csd:N"),
        (["--prune", "tile:2"], "tile:RATIO"),
        (["--prune", "tile:1"], "tile:RATIO"),
        (["--prune", "row:0.5"], "tile:RATIO"),
        (["--act-bits", "0"], "greater than or equal to 1"),
        (["--act-bits", "9"], "less than or equal to 8"),
        (["--act-bits", "many"], "valid integer"),
        (["--pe", "0"], "greater than or equal to 1"),
        (["--reference", "exact"], "'plain'"),
        (["--ternary", "sws", "--weights", "csd:2"], "contradict"),
        (["--shape", "x"], "--shape must look like"),
        (["--shape", "=1,2"], "--shape must look like"),
        (["--shape", "x=a,b"], "--shape must look like"),
        (["--shape", "x=0,1"], "greater than or equal to 1"),
        (["-q", "-v"], "contradict"),
        (["--until", "nowhere"], "unknown-node"),
        (["--from", "nowhere"], "unknown-node"),
        (["--ternry", "sws"], "--ternary"),
        (["surplus"], "surplus"),
        (["--config", "none.toml"], "No such file"),
    ],
)
def test_wrong_options(build, options, said):
    assert said in build(layer(), *options).err


def test_all_wrong_options_are_listed(build):
    result = build(layer(), "--ternary", "foo", "--weights", "bar", "--prune", "baz", "--act-bits", 0)
    assert result.codes == ["bad-option"] * 4


@pytest.mark.parametrize(
    "text, said",
    [
        ("ternry = 'sws'", "ternary"),
        ("until = 'x'", "until_node"),
        ("act_bits = 'many'", "act_bits"),
        ("calib = 3", "calib"),
        ("[[[", "TOML"),
        ("shape = 'x=1'", "shape"),
        ("shape = {x = [0]}", "shape"),
        ("ternary = 'sws'\nweights = 'csd:2'", "contradict"),
    ],
)
def test_wrong_configuration_files(build, tmp_path, text, said):
    (tmp_path / "options.toml").write_text(text)
    assert said in build(layer(), "--config", tmp_path / "options.toml").err


def test_the_command_line_goes_before_the_configuration(tmp_path):
    (tmp_path / "model.onnx").write_bytes(layer().SerializeToString())
    (tmp_path / "options.toml").write_text("prune = 'tile:0.5'\nreference = 'nonsense'\n")
    result = tcompile("check", tmp_path / "model.onnx", "--config", tmp_path / "options.toml", "--reference", "plain")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    "options",
    [
        ["--samples", "0"],
        ["--seed", "-1"],
        ["--simulator", "magic"],
        ["--reference", "x"],
        ["--samples", "x"],
        ["-q", "-v"],
    ],
)
def test_wrong_options_of_verify(copy, tmp_path, options):
    refused(tmp_path, ["verify", copy, *options])


def test_no_command_and_an_unknown_one(tmp_path):
    assert tcompile().code == 2
    assert "check" in refused(tmp_path, ["chek", "x"]).err
    assert tcompile("--version").code == 0


def test_a_fault_of_our_own_is_said_as_such(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("planted")

    monkeypatch.setattr(pipeline, "lower", broken)
    result = tcompile("build", DIGITS, "-o", tmp_path / "build")
    assert result.code == 70
    assert "planted" in result.err
    assert "report it" in result.err
    assert tree(tmp_path) == {}


def test_the_same_refusal_in_a_process_of_its_own(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no network")
    result = process("build", "model.onnx", "-o", "build", cwd=tmp_path)
    assert (result.code, result.out, result.codes) == (2, "", ["not-onnx"])
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


# mutations


def damaged_bytes(generator: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 4])):
        place = generator.randrange(len(changed))
        match generator.randrange(3):
            case 0:
                changed[place] ^= 1 << generator.randrange(8)
            case 1:
                del changed[place : place + generator.choice([1, 2, 8])]
            case _:
                changed[place:place] = generator.randbytes(2)
    return bytes(changed)


def damaged_graph(generator: random.Random, data: bytes) -> bytes:
    model = onnx.load_model_from_string(data)
    graph = model.graph
    node, tensor = generator.choice(list(graph.node)), generator.choice(list(graph.initializer))
    names = [name for n in graph.node for name in (*n.input, *n.output)]
    match generator.randrange(8):
        case 0:
            graph.node.remove(node)
        case 1:
            node.op_type = generator.choice(["Relu", "Conv", "MatMul", "Add", "Softmax", "Flatten", "QuantizeLinear"])
        case 2:
            node.input[generator.randrange(len(node.input))] = generator.choice([*names, "", "ghost"])
        case 3:
            node.input.append(generator.choice(names))
        case 4 if tensor.data_type == TensorProto.FLOAT:
            value = generator.choice([0.0, -1.0, 1e-45, 1e38, np.nan, np.inf, 0.3])
            tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), value, np.float32), tensor.name))
        case 5 if tensor.data_type == TensorProto.FLOAT:
            shape = generator.choice([(), (1,), (2,), (0,), (16,), (1, 16, 1, 1), (1, 1)])
            tensor.CopyFrom(numpy_helper.from_array(np.full(shape, 0.5, np.float32), tensor.name))
        case 6:
            tensor.data_type = generator.choice(
                [TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT, TensorProto.STRING]
            )
        case _:
            graph.input[0].type.tensor_type.shape.dim[generator.randrange(4)].dim_value = generator.choice(
                [0, 3, 10**12]
            )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("seed", range(40))
def test_a_mutated_file_is_refused_or_exact(tmp_path, seed):
    generator = random.Random(seed)
    mutate = damaged_bytes if seed % 3 == 0 else damaged_graph
    (tmp_path / "model.onnx").write_bytes(mutate(generator, DIGITS.read_bytes()))
    result = tcompile("build", tmp_path / "model.onnx", "-o", tmp_path / "build", "-q")
    assert result.code in (0, 2), result.err
    if result.code == 0:
        verified = tcompile("verify", tmp_path / "build", "--samples", 2)
        assert verified.code == 0, verified.err
    else:
        assert "Traceback" not in result.err
        assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
