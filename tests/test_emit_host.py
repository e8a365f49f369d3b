"""What users copy to their host says the same as the benches."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from hw.block import Bus
from tcompile.emit import emit
from tcompile.emit.host import golden_npz, host_files, port_layout
from tcompile.mapping.design import Edge
from tcompile.mapping.layout import Layout, channels_last
from tcompile.simulate.packing import to_bytes
from tests.designs import SHAPE, design

FRAMES = np.random.default_rng(3).integers(-16, 16, (3, *SHAPE))


@pytest.fixture(name="packer")
def _packer(tmp_path):
    """The functions of pack.py."""

    def make(found):
        files = host_files(found, {})
        (tmp_path / "layout.json").write_bytes(files["host/layout.json"])
        names: dict = {}
        exec(compile(files["host/pack.py"], "pack.py", "exec"), names)
        return names["pack"], names["unpack"], names["load"](tmp_path / "layout.json")

    return make


def ports(bus, layout):
    return design(bus=bus, layout=layout)


SNAKE = Layout(SHAPE, (4, 5), 3, np.roll(channels_last(SHAPE, 1).order, 7))


@pytest.mark.parametrize("layout", [channels_last(SHAPE, 1), channels_last(SHAPE, 3), SNAKE], ids=["c", "w", "other"])
@pytest.mark.parametrize("bus", [Bus(1, 5, True), Bus(2, 5, True), Bus(3, 8, True), Bus(5, 11, True)], ids=str)
def test_packer_is_that_of_the_benches(packer, bus, layout):
    pack, unpack, found = packer(ports(bus, layout))
    data = pack(FRAMES, found["s_axis_0"])
    assert data == to_bytes(layout.to_beats(FRAMES, bus), bus)
    assert np.array_equal(unpack(data, found["m_axis_0"]), FRAMES)


def test_order_is_told_by_axes_where_it_can_be():
    usual = port_layout(ports(Bus(1, 5), channels_last(SHAPE, 1)), "s_axis", Edge(0, "a", "x", channels_last(SHAPE, 1)))
    other = port_layout(ports(Bus(1, 5), SNAKE), "s_axis", Edge(0, "a", "x", SNAKE))
    assert (usual["axes"], usual["order"]) == ([0, 2, 3, 1], None)
    assert (other["axes"], other["order"]) == (None, SNAKE.order.tolist())


@pytest.mark.parametrize(
    "frames, reason",
    [(FRAMES * 2, "lie in -16 .. 15"), (FRAMES[:, :, :2], "shape"), (FRAMES * 0.5, "integers")],
)
def test_packer_refuses_wrong(packer, frames, reason):
    pack, _, found = packer(design())
    with pytest.raises(ValueError, match=reason):
        pack(frames, found["s_axis_0"])


def test_golden_frames_load_and_are_the_same_bytes():
    arrays = {"s_axis_0": FRAMES, "m_axis_0": FRAMES + 1}
    data = golden_npz(arrays)
    assert data == golden_npz(dict(reversed(arrays.items())))
    with np.load(io.BytesIO(data)) as found:
        assert all(np.array_equal(found[n], arrays[n]) for n in arrays)


def test_all_files_of_a_design():
    golden = {"s_axis_0": FRAMES, "m_axis_0": FRAMES}
    files = emit(design(), golden, patience=99)
    assert {n.split("/")[0] for n in files} == {"rtl", "sim", "host", "synth", "component.xml", "tiny.core"}
    assert json.loads(files["sim/streams.json"])["patience"] == 99
    assert len(files["sim/golden/s_axis_0.bin"]) == 3 * 40 * 2


def test_bench_knows_what_verilator_calls_a_stream():
    text = emit(with_stream("c", "c__2_"), {"s_axis_0": FRAMES, "m_axis_0": FRAMES})["sim/bench.cpp"].decode()
    assert "root->tiny__DOT__st_c___05F2___05Fvalid" in text


def with_stream(name, other):
    """The design with one stream called otherwise."""
    whole = design()

    def renamed(names):
        return tuple(other if n == name else n for n in names)

    instances = tuple(replace(i, inputs=renamed(i.inputs), outputs=renamed(i.outputs)) for i in whole.instances)
    streams = {s.name: s for s in (replace(s, name=renamed([s.name])[0]) for s in whole.streams.values())}
    return replace(whole, instances=instances, streams=streams)


def test_renaming_the_top_changes_no_block():
    first, second = (emit(replace(design(), name=n), {"s_axis_0": FRAMES, "m_axis_0": FRAMES}) for n in ("one", "two"))
    assert {n for n in first if first[n] == second.get(n)} >= {n for n in first if n.startswith("rtl/tc_fifo")}
