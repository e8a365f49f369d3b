"""ONNX's own node tests: none differs from onnxruntime or ends in a traceback, and what is refused says why."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tcompile.errors import ModelError, Problem
from tests import backend
from tests.backend import OPERATORS, Case, Outcome, cases, network_of, page, run, table

SLOW = ("AveragePool", "MaxPool")  # operators whose tests onnx makes in seconds
SAMPLE = 40

AT_RISK = (  # the certificate lists their steps: floats are summed in another order, or branches meet in ties
    "test_averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True",
    "test_convtranspose_dilations",
    "test_sub_example",
)

KNOWN = {  # cases that must pass on the accelerator
    "Conv": (
        "test_basic_conv_with_padding", "test_basic_conv_without_padding", "test_conv_with_autopad_same",
        "test_conv_with_strides_and_asymmetric_padding",
    ),
    "Gemm": ("test_gemm_transposeB", "test_gemm_default_vector_bias"),
    "MatMul": ("test_matmul_2d",),
    "GlobalAveragePool": ("test_globalaveragepool",),
    "GlobalMaxPool": ("test_globalmaxpool",),
    "ArgMax": ("test_argmax_keepdims_random",),
    "Concat": ("test_concat_3d_axis_1",),
    "Split": ("test_split_variable_parts_2d_opset18",),
    "Slice": ("test_slice_neg_steps",),
    "Reshape": ("test_reshape_zero_and_negative_dim",),
    "Flatten": ("test_flatten_axis1",),
    "Transpose": ("test_transpose_all_permutations_3",),
    "Add": ("test_add",),
    "Sub": ("test_sub",),
    "Clip": ("test_clip",),
    "Relu": ("test_relu",),
    "PRelu": ("test_prelu_broadcast",),
    "HardSwish": ("test_hardswish",),
    "BatchNormalization": ("test_batchnorm_epsilon",),
    "MaxPool": ("test_maxpool_2d_default", "test_maxpool_2d_same_lower", "test_maxpool_2d_dilations"),
}  # fmt: skip


def drawn(seed: int) -> list[Case]:
    """A sample of all cases but those that take long to make."""
    return random.Random(seed).sample(cases([o for o in OPERATORS if o not in SLOW]), SAMPLE)


def one(operator: str, name: str) -> Case:
    (case,) = (c for c in cases([operator]) if c.name == name)
    return case


def network(case: Case) -> dict[str, list[str]]:
    """Operators, inputs and constants of a case's network."""
    graph = network_of(case).graph
    return {
        "operators": [n.op_type for n in graph.node],
        "inputs": [i.name for i in graph.input],
        "constants": [t.name for t in graph.initializer if not t.name.endswith(("_scale", "_zero"))],
    }


# What becomes of them


def test_no_case_of_a_sample_fails():
    outcomes = [run(case) for case in drawn(0)]
    assert {o.case: o.reasons for o in outcomes if o.state == "failed"} == {}
    assert {o.case for o in outcomes if o.state == "at risk"} <= set(AT_RISK)
    assert sum(o.state == "passed" for o in outcomes) > SAMPLE // 4


@pytest.mark.parametrize("operator", [pytest.param(o, marks=[pytest.mark.long] * (o in SLOW)) for o in KNOWN])
def test_well_known_cases_pass_on_the_accelerator(operator):
    outcomes = [run(one(operator, name)) for name in KNOWN[operator]]
    assert {o.case: (o.state, o.reasons, o.host) for o in outcomes if o.state != "passed" or o.host} == {}


@pytest.mark.long
@pytest.mark.exhaustive
def test_no_case_fails_and_the_page_says_what_becomes_of_each():
    outcomes = [run(case) for case in cases()]
    assert {o.case: o.reasons for o in outcomes if o.state == "failed"} == {}
    assert {o.case for o in outcomes if o.state == "at risk"} == set(AT_RISK)
    assert all(o.reasons for o in outcomes if o.state != "passed")
    assert page(outcomes) == backend.PAGE.read_text(encoding="utf-8"), "run: python -m tests.backend --update"


# What the runner makes of them


def test_weights_become_codes_and_the_node_stands_between_quantizers():
    found = network(one("Conv", "test_basic_conv_with_padding"))
    assert found == {
        "operators": [
            "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv", "QuantizeLinear", "DequantizeLinear",
        ],
        "inputs": ["x"],
        "constants": ["W_codes"],
    }  # fmt: skip


def test_weights_of_a_convolution_have_a_scale_per_channel():
    case = one("Conv", "test_basic_conv_with_padding")
    wide = replace(case, inputs=(case.inputs[0], np.stack([np.full((1, 3, 3), s, np.float32) for s in (1, 0, -3)])))
    constants = {t.name: numpy_helper.to_array(t) for t in network_of(wide).graph.initializer}
    assert constants["W_in_scale"].tolist() == np.float32([1 / 127, 1, 3 / 127]).tolist()
    assert constants["W_codes"][:, 0, 0, 0].tolist() == [127, 0, -127]


def test_integer_operators_are_taken_as_they_are():
    found = network(one("QLinearMatMul", "test_qlinearmatmul_2D_uint8_float32"))
    assert (found["operators"], found["inputs"]) == (["QLinearMatMul"], ["a"])


def test_what_an_exporter_would_know_is_constant():
    assert network(one("Slice", "test_slice"))["constants"] == ["starts", "ends", "axes", "steps"]
    assert network(one("Clip", "test_clip"))["constants"] == ["min", "max"]


def test_two_branches_stay_or_one_becomes_constant():
    assert network(one("Add", "test_add"))["inputs"] == ["x", "y"]
    assert network(one("Add", "test_add (constants)"))["inputs"] == ["x"]


def test_a_softmax_comes_with_and_without_a_quantizer_behind():
    assert network(one("Softmax", "test_softmax_example"))["operators"][-1] == "DequantizeLinear"
    assert network(one("Softmax", "test_softmax_example (float output)"))["operators"][-1] == "Softmax"


def test_operator_sets_older_than_quantizers_take_those_of_onnxruntime():
    model = network_of(one("Upsample", "test_upsample_nearest"))
    assert [n.domain for n in model.graph.node] == ["com.microsoft"] * 2 + [""] + ["com.microsoft"] * 2
    assert {o.domain: o.version for o in model.opset_import} == {"": 9, "com.microsoft": 1}


@pytest.mark.parametrize("signed", [False, True])
def test_codes_hold_the_range_of_the_values_and_zero(signed):
    x = np.float32([-1.0, 0.0, 2.5, np.inf])
    scale, zero = backend._grid(x, signed=signed)
    codes = np.rint(x[:3] / scale) + zero
    assert np.iinfo(zero.dtype).min <= codes.min() <= codes.max() <= np.iinfo(zero.dtype).max
    assert codes[1] == zero


# What the runner would see


def test_a_refusal_is_told_with_its_codes(monkeypatch):
    def refuse(path, options):
        raise ModelError([Problem("one", "first"), Problem("two", "second")])

    monkeypatch.setattr(backend, "compile_file", refuse)
    assert run(one("Relu", "test_relu")) == Outcome(
        "test_relu", "Relu", "refused", (("one", "first"), ("two", "second"))
    )


def test_any_other_exception_is_a_failure_with_its_place(monkeypatch):
    def fail(path, options):
        raise IndexError("a fault")

    monkeypatch.setattr(backend, "compile_file", fail)
    outcome = run(one("Relu", "test_relu"))
    assert (outcome.state, outcome.reasons[0][0]) == ("failed", "IndexError")
    assert outcome.reasons[0][1] == "a fault (fail in test_onnx_backend.py)"


def test_a_warning_of_the_tool_is_a_failure(monkeypatch):
    monkeypatch.setattr(backend, "compile_file", lambda path, options: np.float32(1e30) * np.float32(1e30))
    assert run(one("Relu", "test_relu")).reasons[0][0] == "RuntimeWarning"


@pytest.mark.parametrize("runs, state", [(True, "failed"), (False, "refused")])
def test_to_blame_onnxruntime_for_what_it_runs_is_a_failure(monkeypatch, runs, state):
    def blame(path, options):
        raise ModelError(Problem("reference-failed", "onnxruntime fails"))

    def trial(model, feeds):
        assert feeds["x"].shape == (3, 4, 5)
        if not runs:
            raise ModelError(Problem("reference-failed", "onnxruntime fails"))

    monkeypatch.setattr(backend, "compile_file", blame)
    monkeypatch.setattr(backend.reference, "run", trial)
    assert run(one("Relu", "test_relu")).state == state


@pytest.mark.parametrize(
    "changes, state, code",
    [({}, "passed", None), ({"mismatches": 1}, "failed", "mismatch"), ({"identical_outputs": 0}, "failed", "outputs")],
    ids=["equal", "integers", "outputs"],
)
def test_a_difference_is_a_failure(monkeypatch, changes, state, code):
    real = backend.verify
    monkeypatch.setattr(backend, "verify", lambda *args, **more: replace(real(*args, **more), **changes))
    outcome = run(one("Relu", "test_relu"))
    assert (outcome.state, [c for c, _ in outcome.reasons]) == (state, [code] if code else [])


def test_a_difference_is_at_risk_only_where_the_certificate_says_so(monkeypatch):
    real = backend.verify
    monkeypatch.setattr(backend, "verify", lambda *args, **more: replace(real(*args, **more), mismatches=1))
    assert run(one("Elu", "test_elu")).state == "at risk"
    assert run(one("Tanh", "test_tanh")).state == "failed"


def test_a_node_left_to_the_host_is_told_with_the_reason():
    outcome = run(one("Softmax", "test_softmax_example"))
    assert (outcome.state, outcome.host) == ("passed", True)
    assert outcome.reasons[0][0] == "float-input"
    assert not run(one("Relu", "test_relu")).host


# What is printed


def test_counts_add_up():
    outcomes = [
        Outcome("a", "Conv", "passed", proved=True),
        Outcome("b", "Conv", "refused", (("no", "never"),)),
        Outcome("c", "Add", "passed", host=True),
    ]
    assert table(outcomes).splitlines()[2:] == [
        "| Conv | 2 | 1 | 1 |  |  | 1 |  |",
        "| Add | 1 | 1 |  | 1 |  |  |  |",
        "| all | 3 | 2 | 1 | 1 |  | 1 |  |",
    ]


def test_the_page_groups_cases_by_reason():
    text = page([Outcome(n, "Conv", "refused", (("no", "never"),)) for n in ("a", "b")])
    assert "## Refused\n\n### no\n\n- never: `a`, `b`\n" in text
    assert "## Failed" not in text


def test_the_command_tells_a_failure_by_its_exit_code(monkeypatch, capsys):
    arguments = ["--filter", "test_relu", "--list"]
    monkeypatch.setattr(backend, "cases", lambda substring: [one("Relu", substring)])
    assert backend.main(arguments) == 0
    assert "passed   test_relu: " in capsys.readouterr().out
    monkeypatch.setattr(backend, "network_of", lambda case: onnx.ModelProto.no_such_field)
    assert backend.main(arguments) == 1


def test_the_page_is_of_all_cases(capsys):
    with pytest.raises(SystemExit):
        backend.main(["--update", "--filter", "conv"])
    assert "leave out --filter" in capsys.readouterr().err
