"""Faults of the hardware are found, and the layer that has them is named; damage is told before anything runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tcompile.simulate import verilator
from tests.command import DIGITS, tcompile


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "build"
    assert tcompile("build", DIGITS, "-o", folder, "-q").code == 0
    return folder


@pytest.fixture(name="copy")
def _copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "build"))


@pytest.mark.long
def test_the_first_faulty_layer_is_named(copy):
    memory = copy / "rtl" / "conv3_engine_weights.mem"
    lines = memory.read_text().splitlines()
    memory.write_text("\n".join("5" * len(line) for line in lines) + "\n")  # every ternary weight is 0
    result = tcompile("verify", copy, "--samples", 2, "--simulator", "verilator", "--json")
    assert result.code == 1
    found = result.json["verification"]
    first = found["located"][0]
    assert (first["node"], first["accelerator"]) == ("conv3", 0)
    assert first["reference"] != 0 and len(first["position"]) == 4
    assert any("its own integer network" in note for note in found["notes"])
    assert "from  'conv3'" in result.err


@pytest.mark.parametrize("name", ["rtl/conv3_engine_weights.mem", "rtl/tcompile_top.v", "sim/streams.json"])
def test_a_missing_file_is_named_before_anything_runs(copy, name):
    (copy / name).unlink()
    result = tcompile("verify", copy, "--simulator", "verilator")
    assert (result.code, result.codes) == (2, ["no-build"])
    assert "damaged" in result.err


def test_damaged_stream_descriptions_are_told(copy):
    (copy / "sim" / "streams.json").write_text(json.dumps({"top": 1})[:-1])
    result = tcompile("verify", copy, "--simulator", "verilator")
    assert (result.code, result.codes) == (2, ["no-build"])


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_being_told_to_end_leaves_nothing_behind(copy, tmp_path, number):
    place = tmp_path / "temporary"
    place.mkdir()
    script = (
        "import signal; from tcompile.cli import main; signal.signal(signal.SIGINT, signal.default_int_handler); main()"
    )
    command = [sys.executable, "-c", script, "verify", str(copy), "--samples", "2"]
    process = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(place)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 60
    while not list(place.glob("tcompile-*/log")):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert list(place.glob("tcompile-*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_begins_while_we_are_told_to_end_is_ended(monkeypatch, tmp_path, number):
    begun = []

    class Told(subprocess.Popen):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            begun.append(self)
            signal.raise_signal(number)  # what the caller has not got yet, it cannot end

    def told(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, told)
    monkeypatch.setattr(verilator.subprocess, "Popen", Told)
    try:
        with pytest.raises(KeyboardInterrupt):
            verilator._call(["sleep", "60"], tmp_path, os.environ, subprocess.DEVNULL)
        assert begun[0].returncode == -signal.SIGKILL
        assert signal.getsignal(number) is told
    finally:
        signal.signal(number, before)
