"""Spoilt files of fixed seeds: none may fail; and the runner finds faults that are planted."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import pytest

from tcompile.errors import InternalError, ModelError, Problem
from tests.fuzz.draft import Dice
from tests.mutated import __main__ as command
from tests.mutated import run
from tests.mutated.__main__ import main, summary
from tests.mutated.bases import bases
from tests.mutated.run import FAILED, PASSED, REFUSED, Outcome, examined, file_of
from tests.mutated.spoil import CHANGES, spoilt
from tests.mutated.worker import Worker

SEED = 5000
COUNT = 60


@pytest.fixture(autouse=True)
def _sound(monkeypatch):
    """Seed -1 is a sound file; the others are as they are."""
    genuine = run.file_of
    data = bases()["moved"].SerializeToString()

    def file(seed: int) -> tuple[bytes, Outcome]:
        return genuine(seed) if seed >= 0 else (data, Outcome(seed, "moved", (), WAYS[seed], FAILED))

    monkeypatch.setattr(run, "file_of", file)


WAYS = {-1: "check", -2: "command", -3: "build"}


def planted(monkeypatch, what) -> Outcome:
    """What the runner says where compiling a sound file does something else."""
    monkeypatch.setattr(run, "compile_file", what)
    return examined(-1)


@pytest.mark.long
def test_spoilt_files_are_compiled_or_refused():
    found = [examined(seed) for seed in range(SEED, SEED + COUNT)]
    assert [f"seed {o.seed}: {o.codes} {o.text}" for o in found if o.status == FAILED] == []
    counts = Counter(o.status for o in found)
    assert min(counts[PASSED], counts[REFUSED]) >= 0.1 * COUNT
    assert len({code for o in found for code in o.codes}) >= 10


def test_files_are_spoilt_in_all_ways_and_the_same_again():
    made = [file_of(seed) for seed in range(400)]
    done = {change for _, outcome in made for change in outcome.changes}
    assert done == {c.__name__.strip("_") for c in CHANGES} | {"bytes"}
    assert {o.base for _, o in made} == set(bases())
    assert made[:40] == [file_of(seed) for seed in range(40)]
    assert len({data for data, _ in made}) > 380


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__.strip("_"))
def test_a_change_changes_any_model_and_never_fails(change):
    model, kept = onnx.ModelProto(), bases()["old"].SerializeToString()
    changed = 0
    for seed in range(20):
        model.ParseFromString(kept)
        dice = Dice(seed)
        for _ in range(3):
            change(model, dice)
        changed += model.SerializeToString() != kept
        empty = onnx.ModelProto(ir_version=10)
        empty.graph.name = "empty"
        change(empty, Dice(seed))
    assert changed > 3


@pytest.mark.long
def test_bases_are_sound_and_stay_so(tmp_path):
    for name, model in bases().items():
        data = model.SerializeToString()
        spoilt(model, Dice(0))
        assert model.SerializeToString() == data
        if "-" not in name:  # tests of `tests.fuzz` see to the others
            (tmp_path / f"{name}.onnx").write_bytes(data)
            run.compile_file(tmp_path / f"{name}.onnx", run.BuildOptions())


@pytest.mark.parametrize("seed", WAYS)
def test_a_sound_file_passes(seed):
    assert examined(seed).status == PASSED


# planted faults


def test_a_crash_is_a_failure_wrong(monkeypatch):
    found = planted(monkeypatch, lambda path, options: {}["oh"])
    assert (found.status, found.codes) == (FAILED, ("KeyError",))
    assert "oh" in found.text


def test_a_fault_of_the_tool_is_a_failure_wrong(monkeypatch):
    def fault(path, options):
        raise InternalError(Problem("internal", "oh"))

    assert planted(monkeypatch, fault).codes == ("InternalError",)


def test_a_refusal_is_none(monkeypatch):
    def refusal(path, options):
        raise ModelError([Problem("a", "oh"), Problem("b", "no"), Problem("a", "dear")])

    found = planted(monkeypatch, refusal)
    assert (found.status, found.codes) == (REFUSED, ("a", "b"))


def test_a_warning_is_a_failure_wrong(monkeypatch):
    genuine = run.compile_file

    def warned(path, options):
        warnings.warn("oh", RuntimeWarning)
        return genuine(path, options)

    found = planted(monkeypatch, warned)
    assert found.codes == ("warning",)
    assert "test_mutated.py" in found.text


def test_a_hang_is_a_failure_wrong(monkeypatch):
    def slow(path, options):
        with suppress(Exception):  # which must not keep it
            time.sleep(60)

    monkeypatch.setattr(run, "SECONDS", 0.1)
    assert planted(monkeypatch, slow).codes == ("hang",)


def test_much_memory_is_a_failure_wrong(monkeypatch):
    def large(path, options):
        np.ones(1 << 25)
        raise ModelError(Problem("a", "oh"))

    monkeypatch.setattr(run, "MEMORY", 1 << 20)
    assert planted(monkeypatch, large).codes == ("memory",)


def test_other_integers_are_a_failure_wrong(monkeypatch):
    genuine = run.compile_file

    def spoiled(path, options):
        compiled = genuine(path, options)
        other = onnx.ModelProto()
        other.CopyFrom(compiled.network.reference)
        for constant in other.graph.initializer:
            if len(constant.dims) == 4:
                array = -onnx.numpy_helper.to_array(constant)
                constant.CopyFrom(onnx.numpy_helper.from_array(array, constant.name))
        return replace(compiled, network=replace(compiled.network, reference=other))

    assert planted(monkeypatch, spoiled).codes == ("mismatch",)


@pytest.mark.parametrize("seed", [-2, -3])
def test_a_crash_of_the_command_is_a_failure_wrong(monkeypatch, seed):
    monkeypatch.setattr("tcompile.pipeline.load", lambda path, shape, until: 1 / 0)
    found = examined(seed)
    assert found.codes == ("exit code 70", "traceback")
    assert "ZeroDivisionError" in found.text


def test_files_left_behind_are_a_failure_wrong(monkeypatch):
    def half(path, shape, until):
        (path.parent.parent / "out").mkdir()
        raise ModelError(Problem("a", "oh"))

    monkeypatch.setattr("tcompile.pipeline.load", half)
    assert examined(-3).codes == ("files left",)


def test_files_beside_the_model_are_a_failure_wrong(monkeypatch):
    def beside(path, options):
        path.with_suffix(".tmp").write_bytes(b"")
        raise ModelError(Problem("a", "oh"))

    assert planted(monkeypatch, beside).codes == ("input folder",)


# the process and the command


def dying(seed: int) -> Outcome:
    """Die or hang on some seeds."""
    if seed == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if seed == 2:
        time.sleep(60)
    return replace(file_of(seed)[1], status=PASSED)


@pytest.mark.long
def test_a_process_that_dies_or_hangs_is_a_failure_wrong():
    worker = Worker(dying, patience=5)
    try:
        assert worker(0).status == PASSED
        died = worker(1)
        assert (died.status, died.codes, died.text) == (FAILED, ("died",), "the process ended with -11")
        assert worker(3).status == PASSED
        worker.patience = 0.5
        assert worker(2).codes == ("hang",)
    finally:
        worker.close()


class Here:
    """A worker in this process."""

    def __call__(self, seed: int) -> Outcome:
        return examined(seed)

    def close(self) -> None:
        pass


def test_the_command_writes_what_fails_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "Worker", Here)
    monkeypatch.setattr(run, "compile_file", lambda path, options: 1 / 0)
    seed = next(s for s in range(100) if file_of(s)[1].way == "check")
    arguments = ["--count", "1", "--seed", str(seed), "--keep", str(tmp_path)]
    assert main(arguments) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{seed}.onnx", f"{seed}.txt"]
    assert (tmp_path / f"{seed}.onnx").read_bytes() == file_of(seed)[0]


def test_the_command_counts(monkeypatch, capsys):
    monkeypatch.setattr(command, "Worker", Here)
    assert main(["--count", "3", "--seed", str(SEED)]) == 0
    assert "3 files in" in capsys.readouterr().out


def test_the_summary_counts():
    found = [
        Outcome(0, "old", (), "check", PASSED),
        Outcome(1, "old", (), "build", REFUSED, ("a", "b")),
        Outcome(2, "sums", (), "check", FAILED, ("c",), seconds=3.0),
    ]
    lines = [line.split() for line in summary(found).splitlines()]
    assert ["old", "1", "1", "0"] in lines
    assert ["check", "1", "0", "1"] in lines
    assert ["all", "1", "1", "1"] in lines
    assert ["refused", "b:", "1"] in lines
    assert ["slowest:", "seed", "2,", "3.0", "s"] in lines
