"""Templates are found in a checkout and in a wheel, and know no names but those of their context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from tcompile import templates


@dataclass(frozen=True)
class Context:
    text: str = "module x; endmodule\n"


def test_checkout():
    assert templates.template_folder() == Path(__file__).parent.parent / "templates"


def test_wheel(monkeypatch, tmp_path):
    (tmp_path / "_templates").mkdir()
    monkeypatch.setattr(templates, "__file__", str(tmp_path / "templates.py"))
    assert templates.template_folder() == tmp_path / "_templates"


def test_fields_of_the_context_are_rendered():
    assert b"module x; endmodule\n" in templates.render("rtl/block.v.j2", Context())


def test_other_names_are_errors_wrong():
    with pytest.raises(UndefinedError):
        templates.render("rtl/top.v.j2", Context())


@given(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=0xD7FF)))
def test_tcl_reads_the_text_of_a_word_back(text):
    tkinter = pytest.importorskip("tkinter", reason="this Python has no Tcl")
    tcl = tkinter.Tcl()
    tcl.eval("proc told {args} { global words; set words $args }")
    tcl.eval(f"told {templates.tcl_word(text)} end")
    assert tcl.splitlist(tcl.getvar("words")) == (text, "end")


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_yaml_reads_text_back(text):
    yaml = pytest.importorskip("yaml", reason="there is no reader of YAML: pip install fusesoc")
    assert yaml.safe_load(f"key: {templates.yaml_text(text)}") == {"key": text}
