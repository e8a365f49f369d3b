"""The command: from files to files, in one go or in two; refusals that leave everything as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tcompile.compress.recipe import FOLDER, Recipe, read_recipe, shipped
from tcompile.errors import UsageError
from tests.command import DIGITS, refused, tcompile, tree
from tests.compression import few, write
from tests.conftest import ROOT

OPTIONS = ("--epochs", 2, "--method", "wpc", "--sparsity", 0.3)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def compress(folder: Path, *options: object, out: str = "out.onnx") -> tuple[object, ...]:
    return ("compress", folder / "model.onnx", "--data", folder / "d.npz", "-o", folder / out, *options)


def test_network_and_report_are_written_and_the_checkpoint_removed(files):
    result = tcompile(*compress(files, *OPTIONS, "--json"))
    assert result.code == 0, result.err
    assert sorted(p.name for p in files.iterdir()) == ["d.npz", "model.onnx", "out.json", "out.onnx", "out.svg"]
    onnx.checker.check_model(onnx.load(files / "out.onnx"), full_check=True)
    report = json.loads((files / "out.json").read_text())
    assert report == result.json
    assert report["onnxruntime"] == {"frames": 100, "mismatches": 0}
    tiles, kept = (sum(layer[key] for layer in report["layers"]) for key in ("tiles", "kept"))
    assert tiles - kept == round(0.3 * tiles)
    assert report["weights"]["tile_sparsity"] == 1 - kept / tiles
    assert report["weights"]["rate_layers"] > 16 * 1.3
    assert [r["epoch"] for r in report["history"]] == [0, 1, 2]
    assert report["accuracy"]["test_float"] > 0.95


def test_epochs_and_results_are_shown(files):
    result = tcompile(*compress(files, "--epochs", 1))
    assert result.code == 0, result.err
    assert "epoch   1/1  loss " in result.err and "zero tiles" in result.err
    assert "torch's scores are onnxruntime's, bit for bit, on all 100 test frames" in result.out
    assert "as a whole" in result.out and "in layers of 2 bits" in result.out


def process(folder: Path, *options: object, out: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tcompile", *map(str, compress(folder, *options, out=out))]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)


@pytest.mark.long
def test_killed_and_resumed_gives_the_bytes_of_undisturbed_work(files):
    options = ("--epochs", 4, "--method", "wpc", "--sparsity", 0.3)
    assert tcompile(*compress(files, *options, out="whole.onnx")).code == 0
    with process(files, *options, out="killed.onnx") as killed:
        for line in killed.stderr:
            if "epoch   2/4" in line:
                os.kill(killed.pid, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (files / "killed.onnx").exists()
    with process(files, *options, "--resume", out="killed.onnx") as again:
        told = again.stderr.read()
    assert again.returncode == 0, told
    assert "epoch   4/4" in told and "epoch   1/4" not in told
    assert (files / "killed.onnx").read_bytes() == (files / "whole.onnx").read_bytes()
    assert (files / "killed.json").read_bytes() == (files / "whole.json").read_bytes()


def test_what_is_there_is_not_replaced(files):
    (files / "out.onnx").write_bytes(b"precious")
    (files / "out.checkpoint").write_bytes(b"work")
    result = refused(files, compress(files))
    assert result.codes == ["output-exists", "checkpoint-exists"]
    assert "--resume continues it" in result.err


def test_force_replaces_and_starts_anew(files):
    (files / "out.onnx").write_bytes(b"precious")
    (files / "out.checkpoint").write_bytes(b"work")
    assert tcompile(*compress(files, "--epochs", 0, "-f")).code == 0
    assert onnx.load(files / "out.onnx").graph.node
    assert not (files / "out.checkpoint").exists()


def test_force_with_bad_data_leaves_the_checkpoint(files):
    (files / "out.checkpoint").write_bytes(b"work")
    (files / "d.npz").write_bytes(b"nothing")
    assert refused(files, compress(files, "-f")).codes == ["not-npz"]


def test_resume_without_a_checkpoint_begins(files):
    assert tcompile(*compress(files, "--epochs", 0, "--resume")).code == 0


def test_checkpoint_of_something_else_is_refused_and_kept(files):
    (files / "out.checkpoint").write_bytes(b"work")
    assert refused(files, compress(files, "--resume")).codes == ["bad-checkpoint"]


def test_output_must_be_an_onnx_file_in_a_folder_that_is_there(files):
    assert refused(files, compress(files, out="nowhere/out.txt")).codes == ["output-name", "cannot-write"]


def test_bad_data_is_refused_whole(files):
    arrays = few()
    arrays["y_train"] = np.where(arrays["y_train"] == 3, 11, arrays["y_train"])
    arrays["x_test"] = arrays["x_test"][:, :, 1:]
    np.savez(files / "d.npz", **arrays)
    result = refused(files, compress(files))
    assert result.codes == ["label-range", "input-shape"]
    assert "holds 11" in result.err


def test_missing_data_file_is_refused(files):
    (files / "d.npz").unlink()
    assert refused(files, compress(files)).codes == ["no-file"]


def test_network_that_is_quantized_already_is_refused(files):
    argv = ("compress", DIGITS, "--data", files / "d.npz", "-o", files / "out.onnx")
    result = refused(files, argv)
    assert result.codes == ["nothing-to-train"]
    assert "its weights are quantized already" in result.err


def test_sparsity_that_cannot_be_reached_keeps_the_checkpoint(files):
    argv = compress(files, "--epochs", 1, "--method", "magnitude", "--group", "filter", "--sparsity", 0.75)
    before = tree(files)
    result = tcompile(*argv)
    assert result.code == 2
    assert result.codes == ["sparsity-unreachable"]
    assert set(tree(files)) - set(before) <= {"out.checkpoint"}


@pytest.mark.parametrize(
    "options, message",
    [
        (("--method", "wcp"), "method: input should be 'none'"),
        (("--method", "wpc"), "needs a sparsity above 0"),
        (("--sparsity", 0.5), "need a method that prunes"),
        (("--act-bits", 9), "act_bits: input should be less than or equal to 8"),
        (("--ternary", "twn", "--terms", 2), "several terms are for ternary = 'sws'"),
        (("--epochs", 2, "--retrain", 3), "retrain must be at most epochs, 2, not 3"),
        (("--config", "no-such"), "there is no recipe 'no-such'"),
    ],
)
def test_wrong_options_are_refused(files, options, message):
    assert message in refused(files, compress(files, *options)).err


def test_unknown_option_of_a_recipe_gets_a_suggestion(files):
    (files / "r.toml").write_text("epoch = 3\nmethod = 'wpc'\nsparsity = 2.0\n")
    result = refused(files, compress(files, "--config", files / "r.toml"))
    assert result.codes == ["bad-option", "unknown-option"]
    assert "is epochs meant?" in result.err


def test_command_line_goes_before_the_recipe(tmp_path):
    (tmp_path / "r.toml").write_text("epochs = 3\nact_bits = 2\n")
    recipe = read_recipe(tmp_path / "r.toml", {"epochs": 5})
    assert (recipe.epochs, recipe.act_bits) == (5, 2)


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.toml")))
def test_shipped_recipe_is_valid_and_says_where_it_is_from(name):
    assert isinstance(read_recipe(name, {}), Recipe)
    assert (FOLDER / f"{name}.toml").read_text().startswith("# ")


def test_there_is_a_recipe_for_every_paper():
    assert set(shipped()) >= {"sws", "wpc", "gaussian", "bcgd", "slr", "admm"}


def test_recipe_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "r.toml").write_text("epochs = = 3")
    with pytest.raises(UsageError, match="must be a TOML file"):
        read_recipe(tmp_path / "r.toml", {})


def test_help_of_the_command_needs_no_torch():
    code = "import sys; sys.argv = ['tcompile', 'compress', '--help']\nfrom tcompile.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
