"""The command: what it prints where, its JSON and exit codes, the report's contract, and how fast it starts."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tcompile import reference
from tcompile.ir.graph import Tensor
from tcompile.ir.text import dump, parse
from tests.command import DIGITS, DIGITS_DATA, process, refused, tcompile, tree
from tests.conftest import ROOT
from tests.models import Net, typed

KEYS = {
    "": "schema model options passes exactness weights layers performance verification synthesis ports registers tools notes",
    "model": "file sha256 format",
    "exactness": "verdict reference steps steps_at_risk risks layers doubts",
    "weights": "count nonzero bits_original bits_stored compression_whole_model compression_compressed_layers",
    "performance": "ii_cycles ii_cycles_simulated latency_cycles latency_cycles_simulated clock_mhz fps",
    "verification": "simulator samples mismatches reference differences_other_reference stall accuracy accuracy_reference"
    " accuracy_original agreement integers identical_outputs located located_other notes",
    "synthesis": "flow lut ff bram dsp fmax_mhz fps family device flattened clock_mhz seeds used estimate bram_kbit"
    " memories_elsewhere memories_in_registers tools",
    "tools": "tcompile onnxruntime onnx numpy python",
}
LAYER_KEYS = (
    "name op onnx_nodes MH MW PE SIMD form coded digit adders planes tiles tiles_kept positions cycles_predicted cycles_simulated"
    " additions_dense additions_done lut_estimate ff_estimate bram_estimate lut_synthesis ff_synthesis bram_synthesis choices"
)


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "build"
    assert tcompile("build", DIGITS, "-o", folder, "-q").code == 0
    return folder


@pytest.fixture(name="copy")
def _copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "build"))


def has_contract(report: dict) -> bool:
    keys = all(set(report[part] if part else report) == set(names.split()) for part, names in KEYS.items())
    layers = all(set(layer) == set(LAYER_KEYS.split()) for layer in report["layers"])
    passes = all(set(step) == {"name", "changed", "notes"} for step in report["passes"])
    return keys and layers and passes


# check


def test_check_names_every_node_and_writes_nothing(tmp_path):
    model = shutil.copy(DIGITS, tmp_path)
    before = tree(tmp_path)
    result = tcompile("check", model)
    assert (result.code, result.err) == (0, "")
    names = [n.name for n in onnx.load(DIGITS).graph.node if not n.name.endswith("weight_dequantize")]
    assert all(name in result.out for name in names)
    assert "proved" in result.out
    assert tree(tmp_path) == before


def test_check_as_json():
    result = tcompile("check", DIGITS, "--json")
    assert result.err == ""
    assert set(result.json) == {"model", "nodes", "layers", "exactness", "notes"}
    assert {"node", "operator", "where", "becomes", "bits", "exactness"} == set(result.json["nodes"][0])
    assert {row["where"] for row in result.json["nodes"]} == {"host before", "accelerator", "host after"}


def test_part_of_a_network():
    rows = tcompile("check", DIGITS, "--json", "--from", "conv2", "--until", "conv3_dequantize").json["nodes"]
    names = [row["node"] for row in rows if row["operator"] == "Conv"]
    assert names == ["conv2", "conv3"]


def test_quiet_and_verbose():
    quiet, explained = tcompile("check", DIGITS, "-q"), tcompile("check", DIGITS, "--explain")
    assert (quiet.out, quiet.err) == ("", "")
    assert "steps at risk" in explained.out
    assert "note conv1: " in explained.err


def test_both_levels_are_dumped():
    result = tcompile("check", DIGITS, "--dump-ir", "-q")
    assert [line.split()[2] for line in result.out.splitlines() if line.startswith("graph ")] == ["real", "integer"]
    result = tcompile("check", DIGITS, "--dump-ir", "--json")
    assert result.json["nodes"]
    assert result.err.count("graph ") == 2


# build


def test_build_writes_the_documented_files(built):
    names = [name for name in tree(built) if not (built / name).is_dir()]
    assert all(name.endswith((".v", ".mem")) for name in names if name.startswith("rtl/"))
    assert "rtl/tcompile_top.v" in names
    assert sorted(n for n in names if not n.startswith("rtl/")) == sorted(
        [
            "README.md",
            "component.xml",
            "host/driver.py",
            "host/golden.npz",
            "host/host_post.onnx",
            "host/host_pre.onnx",
            "host/layout.json",
            "host/pack.py",
            "host/ports.json",
            "host/registers.json",
            "host/tcompile.h",
            "mapping.json",
            "model.lowered.onnx",
            "network.ir",
            "report.html",
            "report.json",
            "sim/Makefile",
            "sim/bench.cpp",
            "sim/cocotb_runner.py",
            "sim/golden/m_axis_0.bin",
            "sim/golden/s_axis_0.bin",
            "sim/probe.vlt",
            "sim/streams.json",
            "sim/test_bench.py",
            "synth/Makefile",
            "synth/ecp5.ys",
            "synth/gowin.ys",
            "synth/ice40.ys",
            "synth/layers.ys",
            "synth/output_registers.py",
            "synth/read.ys",
            "synth/shell.v",
            "synth/whole.ys",
            "synth/xc7.ys",
            "synth/xcup.ys",
            "synth/vivado.tcl",
            "tcompile_top.core",
        ]
    )
    for name in names:
        if name.endswith(".onnx"):
            onnx.checker.check_model(onnx.load(built / name), full_check=True)


def test_build_prints_the_report_as_json(tmp_path):
    result = tcompile("build", DIGITS, "-o", tmp_path / "build", "--json")
    assert result.err == ""
    assert has_contract(result.json)
    assert result.json == json.loads((tmp_path / "build" / "report.json").read_text())


@pytest.mark.parametrize("clock, told", [(100, False), (150, True)])
def test_a_clock_that_a_board_may_not_reach_is_said(tmp_path, clock, told):
    done = tcompile("build", DIGITS, "-o", tmp_path / "made", "--board", "ulx3s", "--clock-mhz", clock)
    assert done.code == 0
    assert ("fails where static timing misses the clock" in " ".join(done.out.split())) == told


def test_a_missing_key_breaks_the_contract_wrong(built):
    report = json.loads((built / "report.json").read_text())
    assert has_contract(report)
    del report["layers"][0]["planes"]
    assert not has_contract(report)


def test_build_twice_gives_the_same_bytes_in_processes_of_their_own(built, tmp_path):
    assert process("build", DIGITS, "-o", "a b", "-q", cwd=tmp_path) == process(
        "build", DIGITS, "-o", "c", "-q", cwd=tmp_path
    )
    assert tree(tmp_path / "a b") == tree(tmp_path / "c") == tree(built)


def weight_arrays() -> dict[str, np.ndarray]:
    return {
        t.name.removesuffix("_weight"): numpy_helper.to_array(t).astype(np.int64)
        for t in onnx.load(DIGITS).graph.initializer
        if t.name.endswith("_weight")
    }


def test_the_reports_numbers_are_the_models(built):
    report = json.loads((built / "report.json").read_text())
    weights = weight_arrays()
    assert report["weights"]["count"] == sum(w.size for w in weights.values())
    assert report["weights"]["nonzero"] == sum(int((w != 0).sum()) for w in weights.values())
    assert report["weights"]["bits_original"] == 32 * report["weights"]["count"]
    positions = {"conv1": 64, "conv2": 64, "conv3": 16, "linear": 1}
    rows = {r["name"]: r for r in report["layers"] if r["name"] in weights}
    assert set(rows) == set(weights)
    for name, w in weights.items():
        w = w.T if name == "linear" else w
        row = rows[name]
        assert (row["MH"], row["MW"]) == (w.shape[0], w.size // w.shape[0])
        assert row["positions"] == positions[name]
        assert row["additions_done"] == int((w != 0).sum()) * positions[name]
        assert row["additions_dense"] == w.size * positions[name]
        taps = {"conv1": 3, "linear": 4}.get(name, int(np.prod(w.shape[2:])))  # conv1 takes rows, linear an image
        channels = w.size // w.shape[0] // taps
        assert row["tiles"] == -(-w.shape[0] // row["PE"]) * -(-channels // row["SIMD"]) * taps
        assert row["cycles_predicted"] == row["positions"] * row["tiles_kept"] * row["planes"]
        assert row["tiles_kept"] <= row["tiles"]
    assert report["model"]["sha256"] == hashlib.sha256(DIGITS.read_bytes()).hexdigest()


def float_layers(folder: Path) -> list[object]:
    """A float network with sample inputs: the arguments that name both."""
    generator = np.random.default_rng(0)
    net = Net()
    x = net.op(
        "Relu", net.op("Conv", net.input((1, 16, 6, 6), "float32"), net.const(generator.normal(size=(32, 16, 3, 3))))
    )
    net.op("Gemm", net.op("Flatten", x), net.const(generator.normal(size=(512, 16))))
    (folder / "float.onnx").write_bytes(typed(net.model("v3")).SerializeToString())
    np.savez(folder / "calib.npz", x=generator.normal(size=(16, 16, 6, 6)).astype(np.float32))
    return [folder / "float.onnx", "--calib", folder / "calib.npz"]


def test_pruned_tiles_are_counted(tmp_path):
    options = ["--prune", "tile:0.5", "--ternary", "sws", "--json", "-o", tmp_path / "build"]
    report = tcompile("build", *float_layers(tmp_path), *options).json
    rows = [r for r in report["layers"] if r["tiles"]]
    kept, tiles = sum(r["tiles_kept"] for r in rows), sum(r["tiles"] for r in rows)
    assert (kept, tiles) == (100, 200)
    assert [p["changed"] for p in report["passes"] if p["name"] == "prune-tiles"] == [True]
    assert "0 mismatches" in tcompile("verify", tmp_path / "build", "--inputs", tmp_path / "calib.npz").out


def test_layers_of_a_changed_file_go_by_their_names_there(tmp_path):
    """Of several nodes that stand for one of the file, that of its operator keeps the name; folding files know it."""
    fold = {"conv_0": {"PE": 4, "SIMD": 2}, "gemm_3": {"PE": 2, "SIMD": 8}}
    (tmp_path / "fold.json").write_text(json.dumps(fold))
    options = ["--weights", "csd:2", "--fold", tmp_path / "fold.json", "--json"]
    report = tcompile("build", *(network := float_layers(tmp_path)), *options, "-o", tmp_path / "build").json
    layers = {r["name"]: r for r in report["layers"]}
    assert {name: {"PE": layers[name]["PE"], "SIMD": layers[name]["SIMD"]} for name in fold} == fold
    assert [layers[name]["onnx_nodes"] for name in fold] == [["conv_0"], ["gemm_3"]]
    rows = tcompile("check", *network, *options).json["nodes"]
    assert [r["node"] for r in rows][3:8] == ["conv_0", "conv_0_Mul", "conv_0_Add", "relu_1", "relu_1_QuantizeLinear"]


def test_accuracy_after_compression_without_training_is_put_right(tmp_path):
    argv = ["build", *float_layers(tmp_path), "-o", tmp_path / "build", "--weights", "csd:2"]
    assert "without training" in tcompile(*argv).out


def with_labels(folder: Path) -> tuple[Path, list[object]]:
    """A compressed build, and a data file in which the original is right on all frames but one."""
    network = float_layers(folder)
    assert tcompile("build", *network, "-o", folder / "build", "--weights", "csd:1", "--act-bits", "3").code == 0
    frames = np.load(folder / "calib.npz")["x"]
    session = reference.Session(onnx.load(folder / "float.onnx"))
    labels = session.frames({"in0": frames[:, None]})["v3"].reshape(16, 16).argmax(axis=1)
    labels[0] = (labels[0] + 1) % 16
    np.savez(folder / "test.npz", x=frames, y=labels)
    return folder / "build", ["--inputs", folder / "test.npz", "--simulator", "model"]


def test_the_original_is_told_beside_the_compressed_network(tmp_path):
    build, options = with_labels(tmp_path)
    found = tcompile("verify", build, *options, "--original", tmp_path / "float.onnx", "--json").json["verification"]
    assert found["accuracy_original"] == 15 / 16 > found["accuracy"] == found["accuracy_reference"]
    again = tcompile("verify", build, *options)
    assert "give --original MODEL.onnx" in again.out
    assert json.loads((build / "report.json").read_text())["verification"]["accuracy_original"] is None


def test_an_original_that_is_another_file_or_has_no_labels_is_refused_wrong(tmp_path):
    build, options = with_labels(tmp_path)
    other = tcompile("verify", build, *options, "--original", DIGITS)
    assert (other.code, "error[other-original]" in other.err) == (2, True)
    bare = tcompile("verify", build, "--simulator", "model", "--original", tmp_path / "float.onnx")
    assert (bare.code, "error[no-labels]" in bare.err) == (2, True)


def test_a_part_of_the_original_has_no_accuracy_wrong(tmp_path):
    np.savez(tmp_path / "part.npz", x=np.zeros((2, 256), np.float32), y=np.zeros(2, np.int64))
    first = next(n for n in onnx.load(DIGITS).graph.node if n.op_type == "MaxPool")
    assert tcompile("build", DIGITS, "-o", tmp_path / "build", "--from", first.name, "-q").code == 0
    shape = reference.Session(onnx.load(tmp_path / "build/model.lowered.onnx"))._session.get_inputs()[0].shape
    np.savez(tmp_path / "part.npz", x=np.zeros((2, *shape[1:]), np.float32), y=np.zeros(2, np.int64))
    found = tcompile("verify", tmp_path / "build", "--inputs", tmp_path / "part.npz", "--original", DIGITS)
    assert (found.code, "error[cut-original]" in found.err) == (2, True)


def test_ranges_and_equalization_are_chosen(tmp_path):
    options = ["--weights", "csd:2", "--ranges", "percentile:99", "--equalize", "--json", "-o", tmp_path / "build"]
    passes = tcompile("build", *float_layers(tmp_path), *options).json["passes"]
    assert [p["name"] for p in passes[:2]] == ["scale-inputs", "equalize"]


def test_a_compression_that_changes_nothing_is_said():
    result = tcompile("check", DIGITS, "--prune", "tile:0.5")
    assert "'conv1' left alone" in result.err


def test_activation_bits_are_listed_where_they_are_asked_for(tmp_path):
    passes = tcompile("build", DIGITS, "-o", tmp_path / "build", "--act-bits", "4", "--json").json["passes"]
    assert [p["name"] for p in passes if p["name"] == "quantize-activations"] == ["quantize-activations"]


# verify


def test_verify_enters_its_results_into_the_report(copy):
    result = tcompile("verify", copy, "--inputs", DIGITS_DATA, "--json")
    assert result.code == 0
    assert has_contract(result.json)
    assert result.json == json.loads((copy / "report.json").read_text())
    found = result.json["verification"]
    assert (found["simulator"], found["reference"], found["mismatches"]) == ("model", "plain", 0)
    assert found["samples"] == len(np.load(DIGITS_DATA)["x_test"])
    assert found["accuracy"] == found["accuracy_reference"] >= 0.95
    assert found["agreement"] == 1.0


def test_verify_takes_as_many_frames_as_asked(copy):
    assert tcompile("verify", copy, "--json").json["verification"]["samples"] == 16
    assert tcompile("verify", copy, "--samples", 3, "--json").json["verification"]["samples"] == 3
    argv = ["verify", copy, "--inputs", DIGITS_DATA, "--samples", 5, "--json"]
    assert tcompile(*argv).json["verification"]["samples"] == 5


def test_verify_is_repeatable(copy, tmp_path):
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    assert tcompile("verify", copy, "--seed", 1, "--json").out == tcompile("verify", other, "--seed", 1, "--json").out


@pytest.mark.parametrize("reference", ["plain", "fused"])
def test_verify_against_either_reference(copy, reference):
    result = tcompile("verify", copy, "--reference", reference, "--json")
    assert (result.code, result.json["verification"]["reference"]) == (0, reference)


def test_quiet_verify_says_nothing(copy):
    result = tcompile("verify", copy, "-q")
    assert (result.code, result.out, result.err) == (0, "", "")


def planted(folder: Path) -> None:
    """Negate the weights of conv2's first input channel."""
    graph = parse((folder / "network.ir").read_text())
    node = graph["conv2"]
    weight = node.weight.array.copy()
    weight[:, 0] = -weight[:, 0]
    changed = replace(node, weight=Tensor(weight, node.weight.dtype))
    widest = replace(changed.type, lo=-(1 << 12), hi=1 << 12)
    changed = replace(changed, type=widest)
    (folder / "network.ir").write_text(dump(graph.with_nodes([changed if n is node else n for n in graph])))


def test_a_mismatch_is_exit_code_1_and_is_located(copy):
    planted(copy)
    result = tcompile("verify", copy, "--inputs", DIGITS_DATA, "--samples", 20)
    assert result.code == 1, result.err
    assert result.codes == ["mismatch"]
    assert "'conv2" in result.err
    report = json.loads((copy / "report.json").read_text())
    assert report["verification"]["mismatches"] > 0
    assert report["verification"]["located"][0]["value"] == "conv2"


def test_a_mismatch_as_json_is_the_report(copy):
    planted(copy)
    result = tcompile("verify", copy, "--inputs", DIGITS_DATA, "--samples", 20, "--json")
    assert result.code == 1
    assert has_contract(result.json)
    assert result.json["verification"]["mismatches"] > 0


# report


def test_report_writes_the_page_that_build_wrote(copy):
    kept = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    result = tcompile("report", copy)
    assert (result.code, result.out) == (0, f"wrote {copy / 'report.html'}\n")
    assert (copy / "report.html").read_bytes() == kept


def test_report_shows_what_verify_found(copy, tmp_path):
    assert b"No frames were compared yet." in (copy / "report.html").read_bytes()
    assert tcompile("verify", copy, "--inputs", DIGITS_DATA).code == 0
    page = (copy / "report.html").read_bytes()
    assert b"No frames were compared yet." not in page and b'class="map"' in page
    assert tcompile("report", copy, "-o", tmp_path / "again.html").code == 0
    assert (tmp_path / "again.html").read_bytes() == page


def test_report_in_markdown_goes_to_stdout_or_to_a_file(copy, tmp_path):
    before = tree(copy)
    result = tcompile("report", copy, "--format", "md")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("# digits.int2.onnx\n") and "| conv2 **bottleneck** |" in result.out
    assert tcompile("report", copy, "-o", tmp_path / "report.md", "-q").out == ""
    assert (tmp_path / "report.md").read_text() == result.out
    assert tree(copy) == before


def test_report_replaces_other_files_with_force_only(copy, tmp_path):
    target = tmp_path / "mine.html"
    target.write_text("mine")
    assert refused(tmp_path, ["report", copy, "-o", target]).codes == ["output-exists"]
    assert refused(tmp_path, ["report", copy, "-f", "-o", tmp_path]).codes == ["output-exists"]
    assert refused(tmp_path, ["report", copy, "-o", tmp_path / "no" / "where.html"]).codes == ["cannot-write"]
    assert tcompile("report", copy, "-o", target, "-f").code == 0
    assert target.read_bytes() == (copy / "report.html").read_bytes()


def test_report_as_json_is_the_report(copy):
    assert tcompile("report", copy, "--json").json == json.loads((copy / "report.json").read_text())


@pytest.mark.parametrize(
    "options, code",
    [(["--format", "pdf"], "bad-option"), (["--format", "md", "--json"], "bad-option"), (["-q", "-v"], "bad-option")],
)
def test_wrong_options_of_report(copy, tmp_path, options, code):
    assert code in refused(tmp_path, ["report", copy, *options]).err


# JSON and errors


@pytest.mark.parametrize(
    "argv",
    [
        ["check", "none.onnx", "--json"],
        ["build", "none.onnx", "-o", "nowhere", "--json"],
        ["verify", "nowhere", "--json"],
        ["check", DIGITS, "--json", "--ternary", "foo"],
        ["check", DIGITS, "--json", "--ranges", "percentile:40"],
        ["check", DIGITS, "--json", "--no-such-option"],
        ["check", "--json"],
    ],
)
def test_errors_as_json(argv):
    result = tcompile(*argv)
    assert result.code == result.json["exit_code"] == 2
    assert set(result.json) == {"error", "exit_code", "problems"}
    assert all(set(p) == {"code", "message", "where", "hint"} for p in result.json["problems"])
    assert result.codes == [p["code"] for p in result.json["problems"]]


def test_streams_in_a_process_of_its_own(tmp_path):
    result = process("build", DIGITS, "-o", "build", "--json", "-v", cwd=tmp_path)
    assert result.code == 0
    assert has_contract(result.json)
    result = process("verify", "build", "--json", "--samples", 2, "--simulator", "model", cwd=tmp_path)
    assert result.json["verification"]["samples"] == 2


# demo


@pytest.mark.long
@pytest.mark.exhaustive  # the README's demo is run by every `make test`
def test_the_demo_goes_all_the_way(tmp_path):
    result = tcompile("demo", "-o", tmp_path / "demo", "--json")  # the README's tests read what it prints without
    report = result.json
    found, speed = report["verification"], report["performance"]
    assert (result.code, found["simulator"], found["samples"], found["mismatches"]) == (0, "verilator", 450, 0)
    assert found["accuracy"] == found["accuracy_reference"] > 0.99
    for name in ("ii_cycles", "latency_cycles"):
        assert speed[name] == speed[f"{name}_simulated"]


# start-up and size


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["check", "--help"], ["build", "--help"], ["verify", "--help"], ["report", "--help"], ["--version"]],
)
def test_help_loads_no_heavy_library(argv):
    script = (
        "import json, sys\nfrom tcompile.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & {"torch", "amaranth", "onnxruntime", "onnx", "numpy"} == set()


def resnet20() -> onnx.ModelProto:
    """ResNet-20 for CIFAR with random ternary weights and 4-bit activations, shortcuts of option A."""
    generator = np.random.default_rng(0)
    net = Net()
    scale = 0.25

    def conv(x: str, channels: tuple[int, int], stride: int) -> str:
        weight = generator.integers(-1, 2, (channels[1], channels[0], 3, 3))
        w = net.weight(weight, np.float32(0.05), "int2")
        return net.op("Conv", x, w, pads=[1, 1, 1, 1], strides=[stride, stride])

    def activation(x: str) -> str:
        return net.qdq(net.op("Relu", x), scale, 0, "uint4")

    x = activation(conv(net.qdq(net.input((1, 3, 32, 32), "float32"), 0.015625, 128), (3, 16), 1))
    width = 16
    for stage in range(3):
        for block in range(3):
            wide, stride = 16 << stage, 2 if stage and not block else 1
            y = conv(activation(conv(x, (width, wide), stride)), (wide, wide), 1)
            if stride == 2:
                x = net.op("Slice", x, *(net.const(v, "int64") for v in ([0, 0], [32, 32], [2, 3], [2, 2])))
                border = [0, width // 2, 0, 0, 0, width // 2, 0, 0]
                x = net.op("Pad", x, net.const(border, "int64"))
            x, width = activation(net.op("Add", y, x)), wide
    x = net.qdq(net.op("GlobalAveragePool", x), 0.0625)
    weight = net.weight(generator.integers(-1, 2, (10, 64)), np.float32(0.05), "int2")
    return typed(net.model(net.op("Gemm", net.op("Flatten", x), weight, transB=1)))


def test_a_network_of_the_size_of_resnet20_is_checked(tmp_path):
    (tmp_path / "resnet20.onnx").write_bytes(resnet20().SerializeToString())
    begin = time.perf_counter()
    result = tcompile("check", tmp_path / "resnet20.onnx", "--json")
    print(f"checked in {time.perf_counter() - begin:.1f} s")
    assert result.code == 0, result.err
    assert sum(row["becomes"] == "Conv" for row in result.json["nodes"]) == 19
