"""Every problem at once: what later stages would find is told beside the problems of the stage that failed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from onnx import parser

from tcompile.errors import ModelError
from tcompile.frontend import load
from tests.command import tcompile

HEADER = '<ir_version: 10, opset_import: ["": 18]>'
BOTH = """g (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,7,7] z)
    { [other] y = Bar(x) [pool] z = MaxPool <kernel_shape = [2, 2], storage = 1>(x) }"""


def problems(folder: Path, body: str) -> dict[str, str]:
    """Messages by the first node that each names."""
    (folder / "m.onnx").write_bytes(parser.parse_model(HEADER + body).SerializeToString())
    with pytest.raises(ModelError) as caught:
        load(folder / "m.onnx")
    assert len(set(caught.value.problems)) == len(caught.value.problems)
    return {(p.where or ("",))[0]: p.message for p in caught.value.problems}


def test_an_unknown_operator_and_an_attribute_of_another_node(tmp_path):
    found = problems(tmp_path, BOTH)
    assert "Bar" in found["other"]
    assert "storage" in found[""]


def test_stages_stop_at_the_first_that_fails_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("tcompile.frontend.load"), "further", lambda *_: ())
    assert list(problems(tmp_path, BOTH)) == ["other"]


def test_an_operator_without_form_behind_one_that_is_not_known(tmp_path):
    found = problems(tmp_path, "g (float[1,4] x) => (float[1,4] y) { [one] a = Bar(x) [two] y = Sinh(a) }")
    assert found == {
        "one": "'Bar' of operator set 18 (node 'one') is not supported",
        "two": "'Sinh' has no integer form here",
    }


def test_a_rule_that_refuses_and_an_operator_without_form(tmp_path):
    body = """g (float[1,4,8,8] x) => (float[1,4,16,16] y, float[1,4,8,8] z)
        <float[4] s = {1.0, 1.0, 2.0, 2.0}>
        { [large] y = Resize <mode = "linear">(x, , s) [last] z = Sinh(x) }"""
    assert list(problems(tmp_path, body)) == ["large", "last"]


def test_what_depends_on_shapes_alone_needs_no_form(tmp_path):
    """It is a constant in the end, which the stage that would find this out is not there to say."""
    body = """g (float[1,4] x) => (float[1,4] y, float[1,4] z) <int64[1] k = {100}>
        { [one] y = Bar(x) s = Shape(x) t = Mod(s, k) z = Reshape(x, t) }"""
    assert list(problems(tmp_path, body)) == ["one"]


def test_nodes_behind_a_problem_have_none_of_their_own(tmp_path):
    body = "g (float[1,4] x) => (float[1,4] y, float[1,4] z) { [one] a = Bar(x) y = Relu(a) z = Relu(x) }"
    assert list(problems(tmp_path, body)) == ["one"]


def test_a_cycle_beside_an_unknown_operator(tmp_path):
    body = "g (float[1,4] x) => (float[1,4] y, float[1,4] z) { [one] y = Bar(x) [two] a = Add(x, z) z = Relu(a) }"
    assert "cycle" in " ".join(problems(tmp_path, body).values())


def test_the_command_lists_all(tmp_path):
    (tmp_path / "m.onnx").write_bytes(parser.parse_model(HEADER + BOTH).SerializeToString())
    found = tcompile("check", tmp_path / "m.onnx")
    assert found.code == 2
    assert "Bar" in found.err
    assert "storage" in found.err
    assert "2 problems" in found.err
