"""Random networks of fixed seeds: none may fail, and most must be worth the time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tcompile import reference
from tests.fuzz import run as fuzz_run
from tests.fuzz.__main__ import main, summary
from tests.fuzz.draft import Draft, Skip
from tests.fuzz.generate import generate
from tests.fuzz.run import FAILED, PASSED, REFUSED, Outcome, run
from tests.fuzz.shrink import shrunk

SEED = 100
COUNT = 40
HARDWARE = (1001, 1003, 1008)
SHARE = 0.8  # of the networks that must not be refused


def failures(found: list[Outcome]) -> list[str]:
    return [f"seed {o.seed}: {o.codes} {o.text}" for o in found if o.status == FAILED]


@pytest.mark.long
def test_random_networks_equal_onnxruntime():
    found = [run(generate(seed, small=seed % 4 > 0)) for seed in range(SEED, SEED + COUNT)]
    assert failures(found) == []
    assert sum(o.status == PASSED for o in found) >= SHARE * COUNT


@pytest.mark.long
def test_random_hardware_equals_onnxruntime():
    found = [run(generate(seed, small=True), hardware=True) for seed in HARDWARE]
    assert failures(found) == []
    assert [o.status for o in found] == [PASSED] * len(HARDWARE)


@pytest.mark.parametrize("small", [False, True])
def test_a_seed_makes_the_same_network_and_frames(small: bool):
    first, second = generate(7, small=small), generate(7, small=small)
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert all(np.array_equal(first.frames[name], second.frames[name]) for name in first.frames)


def test_networks_are_valid_and_of_all_dialects():
    cases = [generate(seed, small=True) for seed in range(40)]
    assert len({case.dialect for case in cases}) == 5
    for case in cases:
        onnx.checker.check_model(case.model)
        if case.dialect != "qonnx":
            reference.run(case.model, {name: x[0] for name, x in case.frames.items()})


def test_what_is_to_be_avoided_is():
    for seed in range(12):
        case = generate(seed, avoid=("Conv", "qoperator"))
        assert case.dialect != "qoperator"
        assert "Conv" not in {n.op_type for n in case.model.graph.node}


def test_other_weights_are_a_failure_wrong(monkeypatch):
    """The reference runs a network whose weights have the other sign."""
    genuine = fuzz_run.compile_file

    def spoiled(path, options):
        compiled = genuine(path, options)
        other = onnx.ModelProto()
        other.CopyFrom(compiled.network.reference)
        for constant in other.graph.initializer:
            if len(constant.dims) > 1 and constant.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT):
                turned = -numpy_helper.to_array(constant)
                constant.CopyFrom(numpy_helper.from_array(turned, constant.name))
        return replace(compiled, network=replace(compiled.network, reference=other))

    monkeypatch.setattr(fuzz_run, "compile_file", spoiled)
    found = [run(generate(seed, small=True)) for seed in range(SEED, SEED + 8)]
    assert "mismatch" in {code for o in found for code in o.codes}


def test_a_crash_is_a_failure_wrong(monkeypatch):
    def crash(path, options):
        raise KeyError("oh")

    monkeypatch.setattr(fuzz_run, "compile_file", crash)
    found = run(generate(0, small=True))
    assert (found.status, found.codes) == (FAILED, ("KeyError",))
    assert "oh" in found.text


def test_shrinking_keeps_what_makes_it_fail():
    models = (generate(seed).model for seed in range(50))
    model = next(m for m in models if any(n.op_type == "Conv" for n in m.graph.node[6:]))
    small = shrunk(model, lambda m: any(n.op_type == "Conv" for n in m.graph.node))
    onnx.checker.check_model(small)
    assert sum(n.op_type == "Conv" for n in small.graph.node) == 1
    assert len(small.graph.node) < len(model.graph.node)


def test_the_summary_counts():
    found = [
        Outcome(0, "qdq", PASSED, verdict="proved"),
        Outcome(1, "qdq", REFUSED, ("a", "b")),
        Outcome(2, "qonnx", FAILED, ("c",)),
    ]
    lines = [line.split() for line in summary(found).splitlines()]
    assert ["qdq", "1", "1", "0"] in lines
    assert ["all", "1", "1", "1"] in lines
    assert Counter(map(tuple, lines))["refused", "b:", "1"] == 1


def test_the_command_writes_what_fails_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fuzz_run, "compile_file", lambda path, options: 1 / 0)
    assert main(["--count", "1", "--seed", "3", "--keep", str(tmp_path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3-small.onnx", "3-small.txt", "3.onnx", "3.txt"]


def test_what_onnxruntime_does_not_load_is_skipped_wrong():
    """Its shape inference counts 3 columns behind the pool, its kernel 2."""
    draft = Draft(13)
    x = draft.input(np.ones((2, 1, 1, 2, 5), np.float32))
    pool = draft.op("MaxPool", x, kernel_shape=[1, 1], strides=[1, 3], ceil_mode=1)
    flat = draft.op("Flatten", pool, axis=1)
    draft.check([flat])
    total = draft.op("Gemm", flat, draft.const(np.ones((4, 2))))
    with pytest.raises(Skip, match="does not load"):
        draft.check([total])
