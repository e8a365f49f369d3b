"""Weights that are loaded at run time: equal networks, the same Verilog, and hardware that computes what it was given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tcompile
from hw.axi_lite import LOAD_BUS, Control, Registers
from tcompile.errors import UsageError
from tcompile.explore.evaluate import Task, evaluate
from tcompile.explore.space import Point
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph
from tcompile.ir.interpret import interpret
from tcompile.ir.legality import check
from tcompile.ir.requantizers import Comparators, Division, Shift, Table
from tcompile.mapping.loadable import loadable
from tcompile.mapping.requantize import is_identity
from tests.command import tcompile as command
from tests.networks import Builder, RandomNetwork, frames_of

DIGITS = Path(__file__).parents[1] / "examples/digits/digits.int2.onnx"


def other_weights(path: Path, seed: int, zeros: float = 0.0) -> Path:
    """The demo network with its weights and steps shuffled, some signs turned and some weights taken away."""
    model, random = onnx.load(DIGITS), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.endswith("_weight"):
            shuffled = random.permutation(values.astype(np.int8).ravel())
            shuffled[: int(zeros * shuffled.size)] = 0
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, shuffled.tolist()))
        elif tensor.name.endswith(("_scale_factor", "_bias_offset")):
            moved = random.permutation(values.ravel()).reshape(values.shape)
            turned = random.choice([-1, 1], values.shape) if tensor.name.startswith("conv") else 1
            tensor.CopyFrom(numpy_helper.from_array((moved * turned).astype(values.dtype), tensor.name))
    onnx.save(model, path)
    return path


@pytest.fixture(name="build", scope="module")
def _build(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loadable") / "build"
    tcompile.compile(DIGITS, loadable=True).write(folder)
    return folder


@pytest.fixture(name="other", scope="module")
def _other(build, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    model = other_weights(folder / "other.onnx", 1, zeros=0.6)
    tcompile.compile(model, like=str(build)).write(folder / "build")
    return folder / "build"


# --- equal networks ------------------------------------------------------------------------------------------------------


def has_steps(graph: Graph, node: I.Requantize) -> bool:
    """Whether the function rises or falls throughout over all that can come, by fewer than 256, or is the identity."""
    source, form = graph[node.inputs[0]].type, node.form
    if is_identity(node, source):
        return True
    for c in range(form.channels):
        low, high = source.lo, source.hi
        if isinstance(form, Table):
            low, high = max(low, int(form.base[c])), min(high, int(form.base[c]) + len(form.values[c]) - 1)
        base = np.arange(low, high + 1)
        own = form.base if isinstance(form, Table) else np.full(form.channels, low)
        x = np.array([base if k == c else np.full(len(base), own[k]) for k in range(form.channels)])
        change = np.diff(form(x, 0)[c])
        if ((change > 0).any() and (change < 0).any()) or abs(change.sum()) >= 256:
            return False
    return True


@pytest.mark.parametrize("seed", range(40))
def test_a_network_of_steps_is_loadable_and_computes_the_same_and_no_other_is(seed):
    graph = RandomNetwork(seed).graph()
    if not all(has_steps(graph, node) for node in graph.all(I.Requantize)):
        with pytest.raises(UsageError, match="to be loaded"):
            loadable(graph)
        return
    open_ = loadable(graph)
    check(open_)
    frames = frames_of(graph, 3, seed)
    wanted, found = interpret(graph, frames), interpret(open_, frames)
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)


FORMS = {
    "division": Division(np.array([False, True]), 3, np.array([5, -70]), "even", np.array([0]), np.array([15]), np.array([7, 19])),
    "exceptions": Division(
        np.array([False]), 1, np.array([0]), "up", np.array([0]), np.array([15]), np.array([8]),
        exceptions=(np.array([7, 40]),), corrections=(np.array([1, -1]),),
    ),
    "shift": Shift(np.array([False]), 1, np.array([3]), "odd", np.array([-8]), np.array([7]), np.array([4, 5])),
    "comparators": Comparators((np.array([-3, 0, 0, 9]), np.array([1])), (np.array([4, 3, 1, 0, 0]), np.array([2, 2]))),
    "table": Table(np.array([-64]), (np.arange(-64, 129) // 16,)),
}  # fmt: skip


def one_form(form, channels: int = 2) -> Graph:
    b = Builder()
    x = b.input((1, channels, 4, 4), 0, 15)
    weights = np.array([[[[1, 1], [1, -1]]] * channels, [[[-1, 1], [1, 1]]] * channels])
    return b.graph(b.requantize(b.conv(x, weights), form))


@pytest.mark.parametrize("name", FORMS)
def test_steps_of_any_form_become_comparisons(name):
    graph = one_form(FORMS[name])
    open_ = loadable(graph)
    (node,) = open_.all(I.Requantize)
    frames = frames_of(graph, 20)
    assert isinstance(node.form, Comparators) and node.form.channels == 2
    assert node.levels == 1 << node.type.width and node.type.width in (1, 2, 4, 8)
    assert np.array_equal(interpret(open_, frames)[node.name], interpret(graph, frames)[node.name])


def test_steps_up_and_down_are_refused_wrong():
    hat = Comparators((np.array([0, 8]),), (np.array([0, 3, 1]),))
    with pytest.raises(UsageError, match="rise or fall throughout"):
        loadable(one_form(hat))


def test_more_than_256_values_are_refused_wrong():
    wide = Shift(np.array([False]), 16, np.array([0]), "up", np.array([-2000]), np.array([2000]), np.array([0]))
    with pytest.raises(UsageError, match="at most 256 values"):
        loadable(one_form(wide))


def test_intervals_hold_any_weights_of_as_many_bits():
    graph = one_form(FORMS["shift"])
    (conv,) = loadable(graph).all(I.Conv)
    assert (conv.bits, conv.type.lo, conv.type.hi) == (2, -8 * 15, 8 * 15)
    heavy = replace(conv, weight=replace(conv.weight, array=conv.weight.array * 0 - 1))
    check(graph.with_nodes([graph.nodes[0], heavy], [heavy.name]))


def test_the_border_that_a_pad_has_not_may_have_any_code():
    b = Builder()
    x = b.input((1, 2, 4, 4), 0, 15)
    graph = b.graph(b.conv(b.pad(x, (0,) * 8, -3), np.ones((2, 2, 1, 1), int)))
    check(loadable(graph))


def dense(largest: int) -> Graph:
    """Fifteen ternary weights a row over codes of seven bits up to a largest one."""
    b = Builder()
    return b.graph(b.dense(b.input((1, 15), 0, largest), np.ones((2, 15), int)))


def test_an_interval_of_hardware_is_taken_only_where_it_holds_what_comes():
    narrow, wide = loadable(dense(64)), dense(127)
    held, other = loadable(dense(64), narrow), loadable(wide, narrow)
    check(held), check(other)
    (mine,), (known,) = other.all(I.Dense), narrow.all(I.Dense)
    assert held.all(I.Dense)[0].type == known.type
    assert mine.type.hi >= 15 * 127


# --- the same hardware ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "rtl").iterdir())}


def test_other_weights_are_other_contents_of_memories_and_nothing_else(build, other):
    first, second = contents(build), contents(other)
    differing = {name for name in first if first[name] != second[name]}
    assert first.keys() == second.keys()
    assert "conv2_engine_weights.mem" in differing and "conv2_engine_schedule.mem" in differing
    assert all(name.endswith(".mem") for name in differing)


def test_without_loadable_other_weights_are_other_verilog_wrong(tmp_path):
    for name, model in (("a", DIGITS), ("b", other_weights(tmp_path / "other.onnx", 1))):
        tcompile.compile(model, permute=False).write(tmp_path / name)
    assert contents(tmp_path / "a")["tcompile_top.v"] != contents(tmp_path / "b")["tcompile_top.v"]


@pytest.mark.parametrize("stall", [None, 5])
def test_a_build_for_other_hardware_verifies(build, tmp_path, stall):
    found = tcompile.compile(other_weights(tmp_path / "m.onnx", 2), like=str(build)).verify(samples=3, stall=stall)
    assert found.mismatches == 0


def simulated(build: Path, *words: str) -> str:
    quiet = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    run = subprocess.run(
        ["make", "-s", "-C", str(build / "sim"), f"PYTHON={sys.executable}", *words],
        env=quiet,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return run.stdout + run.stderr


def test_verilog_computes_what_is_loaded_into_it(build, other):
    golden = f"GOLDEN={other}/sim/golden"
    assert "PASS: 4 frames" in simulated(build)
    assert "FAIL: 4 frames" in simulated(build, golden)
    assert "PASS: 4 frames" in simulated(build, golden, f"LOAD={other}/host/weights.bin")
    assert "PASS: 4 frames" in simulated(build, golden, f"LOAD={other}/host/weights.bin", "STALL=3")


def test_weights_that_end_early_are_not_those_of_the_network_wrong(build, other, tmp_path):
    whole = (other / "host/weights.bin").read_bytes()
    (tmp_path / "half.bin").write_bytes(whole[: len(whole) // 16 * 8] + whole[-8:])
    assert "FAIL: 4 frames" in simulated(build, f"GOLDEN={other}/sim/golden", f"LOAD={tmp_path}/half.bin")


def test_a_build_without_loadable_refuses_to_be_loaded_wrong(other, tmp_path):
    tcompile.compile(DIGITS).write(tmp_path / "build")
    assert "refuses a write" in simulated(tmp_path / "build", f"LOAD={other}/host/weights.bin")


def test_what_is_written_is_what_the_memories_hold(other):
    model = Registers(Control(1, 1, 100))
    for offset, value in np.fromfile(other / "host/weights.bin", "<u4").reshape(-1, 2).tolist():
        assert model.write(offset, value) == 0
        model.tick({})
    files = sorted((other / "rtl").glob("*.mem"), key=lambda p: p.name)
    held = sorted(int(p) for p in {m for m, *_ in model.loaded})
    assert held == list(range(len(files)))
    words: dict[tuple[int, int], int] = {}
    for memory, word, piece, value in model.loaded:
        words[memory, word] = words.get((memory, word), 0) | value << 32 * piece
    by_memory = sorted(tuple(words[k, w] for w in range(1 << 20) if (k, w) in words) for k in held)
    assert by_memory == sorted(tuple(int(line, 16) for line in p.read_text().split()) for p in files)


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_a_network_with_wider_weights_is_refused_wrong(build, tmp_path):
    model = onnx.load(DIGITS)
    for tensor in model.graph.initializer:
        if tensor.name == "conv2_weight":
            values = numpy_helper.to_array(tensor).astype(np.int8)
            values.flat[0] = 5
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, onnx.TensorProto.INT4, tensor.dims, values.ravel().tolist())
            )
    onnx.save(model, tmp_path / "wide.onnx")
    with pytest.raises(UsageError, match="weight_width is 4, not 2"):
        tcompile.compile(tmp_path / "wide.onnx", like=str(build))


def test_another_network_is_refused_wrong(build):
    with pytest.raises(UsageError, match="the build has nodes that the network lacks"):
        tcompile.compile(DIGITS, like=str(build), until_node="conv3")


def test_hardware_that_was_changed_by_hand_is_refused_wrong(build, tmp_path):
    shutil.copytree(build, tmp_path / "build", ignore=shutil.ignore_patterns("obj*"))
    file = next((tmp_path / "build/rtl").glob("tc_engine_*.v"))
    file.write_text(file.read_text().replace("posedge", "negedge", 1))
    with pytest.raises(UsageError, match="must be what this tcompile makes of it"):
        tcompile.compile(DIGITS, like=str(tmp_path / "build"))


@pytest.mark.parametrize("name, limit", [("load_word", 3), ("load_piece", 1)])
def test_memories_that_the_load_bus_does_not_reach_are_refused_wrong(monkeypatch, name, limit):
    monkeypatch.setitem(LOAD_BUS, name, limit)
    with pytest.raises(UsageError, match="must have memories of at most"):
        tcompile.compile(DIGITS, loadable=True)


def test_more_memories_than_the_load_bus_can_name_are_refused_wrong(monkeypatch):
    monkeypatch.setattr("tcompile.mapping.loadable.MOST_MEMORIES", 20)
    with pytest.raises(UsageError, match="at most 20 memories"):
        tcompile.compile(DIGITS, loadable=True)


def test_a_file_that_does_not_let_go_is_refused_wrong(build, other, tmp_path):
    (tmp_path / "cut.bin").write_bytes((other / "host/weights.bin").read_bytes()[:-8])
    (tmp_path / "empty.bin").write_bytes(b"")
    for name in ("cut.bin", "empty.bin"):
        assert "is not whole" in simulated(build, f"LOAD={tmp_path}/{name}")


def test_cocotb_says_that_it_loads_nothing_wrong(build, other):
    assert "cocotb loads no weights" in simulated(build, "cocotb", f"LOAD={other}/host/weights.bin")


def test_hardware_that_cannot_be_loaded_is_refused_wrong(tmp_path):
    tcompile.compile(DIGITS).write(tmp_path / "build")
    with pytest.raises(UsageError, match="whose weights can be loaded"):
        tcompile.compile(DIGITS, like=str(tmp_path / "build"))


def test_check_plans_engines_for_weights_to_be_loaded(tmp_path):
    (tmp_path / "fold.json").write_text('{"conv1": {"form": "serial"}}')
    result = command("check", DIGITS, "--loadable", "--json")
    assert result.code == 0 and {row["form"] for row in json.loads(result.out)["layers"]} == {"engine"}
    refused = command("check", DIGITS, "--loadable", "--fold", tmp_path / "fold.json")
    assert refused.code != 0 and "must be engines for their weights to be loaded" in refused.err


def test_a_point_of_an_exploration_may_be_loadable():
    fixed, other = (evaluate(Task(Point.of(str(DIGITS), {"loadable": value}))) for value in (False, True))
    assert fixed["interval"] == other["interval"] and fixed["lut"] < other["lut"]


@pytest.mark.parametrize(
    "options, why",
    [
        ({"loadable": True, "form": "serial"}, "weights of a serial graph are its structure"),
        ({"loadable": True, "permute": True}, "an order of channels"),
        ({"loadable": True, "board": "ulx3s"}, "carries frames only"),
        ({"like": "build", "pe": 4, "clock_mhz": 90.0}, "leave out clock_mhz, pe"),
        ({"loadable": True, "fold": {"conv1": {"form": "serial"}}}, "must be engines"),
    ],
)
def test_options_that_contradict_each_other_are_refused_wrong(options, why):
    with pytest.raises(UsageError, match=why):
        tcompile.compile(DIGITS, **options)
