"""The top level: names, memories and their files, the identity in the control registers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hw.block import Memory
from tcompile.emit.memories import hex_text, memory_files
from tcompile.emit.top import identity_of, rtl_files
from tcompile.errors import InternalError
from tcompile.mapping.design import Edge
from tcompile.simulate.netlist import Rom, netlist
from tests.designs import LAYOUT, TERMS, design

ZERO = (0,) * 8


def changed(position, **fields):
    """The design with other fields of one instance."""
    whole = design()
    instances = list(whole.instances)
    instances[position] = replace(instances[position], **fields)
    return replace(whole, instances=tuple(instances))


def test_same_design_same_bytes():
    assert rtl_files(design()) == rtl_files(design())


def test_equal_memories_share_a_file():
    assert [n for n in rtl_files(design()) if n.endswith(".mem")] == ["rtl/add_terms.mem"]


def test_different_memories_have_files_of_their_own():
    files, names = memory_files([rom("a", (1, 2)), rom("b", (1, 3)), rom("c", (1, 2))])
    assert names == {"a": "a.mem", "b": "b.mem", "c": "a.mem"}
    assert files == {"a.mem": b"01\n02\n", "b.mem": b"01\n03\n"}


def rom(name, words):
    return Rom(name, Memory(2, 5), words, "address", "data")


@pytest.mark.parametrize("width, digits", [(1, 1), (4, 1), (5, 2), (130, 33)])
def test_words_have_as_many_digits_as_bits_need(width, digits):
    assert hex_text([1], width) == b"1".rjust(digits, b"0") + b"\n"


def test_identity_depends_on_what_memories_hold():
    plain, other = (rtl_files(design(terms=t)) for t in (TERMS, (0, *TERMS[1:])))
    assert identity(plain) != identity(other)


def identity(files):
    (top,) = (text for name, text in files.items() if b"build_identity = " in text)
    return top.split(b"build_identity = ")[1].split(b";")[0]


def test_identity_depends_on_names_and_contents():
    identities = {identity_of(f) for f in ({"a": b"bc"}, {"ab": b"c"}, {"a": b"b", "c": b""}, {})}
    assert len(identities) == 4
    assert all(len(i) == 8 and max(i) < 1 << 32 for i in identities)


def test_ports_are_named_after_the_edges():
    moved = replace(design(), outputs=(Edge(3, "d", "z", LAYOUT),))
    pins = {p.name for p in netlist(moved, ZERO).pins}
    assert {"s_axis_0_tdata", "m_axis_3_tlast", "s_axi_control_araddr"} <= pins


@pytest.mark.parametrize("name", ["module", "small", "Top", "2nd", "a b", 'x"; $(rm)', "../up", "tc_rom", ""])
def test_top_needs_a_plain_name_wrong(name):
    with pytest.raises(InternalError, match="name"):
        netlist(design(name), ZERO)


@pytest.mark.parametrize(
    "fields, reason",
    [
        (dict(name="take"), "distinct"),
        (dict(name="no good"), "identifiers"),
        (dict(memories={}), "must have the memories"),
        (dict(memories={"terms": TERMS[1:]}), "words"),
        (dict(memories={"terms": (1 << 10, *TERMS[1:])}), "words"),
        (dict(inputs=("b",)), "streams without end|distinct"),
    ],
)
def test_instance_that_does_not_fit_wrong(fields, reason):
    with pytest.raises(InternalError, match=reason):
        netlist(changed(1, **fields), ZERO)


def test_stream_of_other_width_wrong():
    whole = design()
    narrow = replace(whole.streams["b"], bus=replace(whole.streams["b"].bus, width=4))
    with pytest.raises(InternalError, match="bits"):
        netlist(replace(whole, streams={**whole.streams, "b": narrow}), ZERO)
