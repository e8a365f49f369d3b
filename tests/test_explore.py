"""Explorations: the points, the front, and that no finished work is done twice or lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tcompile.errors import InternalError, ToolError, UsageError
from tcompile.explore.evaluate import FAILED, FAULT, Task, evaluate, key, synthesize
from tcompile.explore.front import OBJECTIVES, front, spread
from tcompile.explore.plot import drawing
from tcompile.explore.run import Exploration, explore
from tcompile.explore.space import Point, points, read_grids, usual_grids
from tcompile.explore.workers import Work, on_cluster, on_processes
from tcompile.process import running
from tests.command import DIGITS, DIGITS_DATA, tcompile
from tests.conftest import ROOT

SMALL = '[[grid]]\nform = "engine"\npe = [1, 2]\nsimd = [1, 4]\n[[grid]]\nform = ["parallel"]\n'


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that compiles in no time: four ternary sums of codes."""
    weight = numpy_helper.from_array(
        np.array([[1, -1, 0, 1], [0, 1, 1, -1], [1, 0, -1, 0], [1, 1, 1, 1]], np.int8), "w"
    )
    zero = numpy_helper.from_array(np.array(0, np.uint8), "z")
    node = helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"], "sums")
    ends = [
        helper.make_tensor_value_info(n, t, [1, 4]) for n, t in (("x", TensorProto.UINT8), ("y", TensorProto.INT32))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight, zero])
    path = tmp_path_factory.mktemp("model") / "sums.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(name="space")
def _space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(SMALL)
    return path


def tasks_of(model: Path, space: Path) -> list[Task]:
    return [Task(p) for p in points([str(model)], read_grids(space), {})]


# Points


def test_points_are_the_product_of_each_grid(space):
    made = [p.options for p in points(["m.onnx"], read_grids(space), {"clock_mhz": 50.0})]
    engines = [{"form": "engine", "pe": p, "simd": s, "clock_mhz": 50.0} for p in (1, 2) for s in (1, 4)]
    assert made == [*engines, {"form": "parallel", "clock_mhz": 50.0}]


def test_the_usual_points_are_at_least_thirty():
    assert len(points(["m.onnx"], usual_grids(100.0), {})) >= 30


def test_points_of_two_grids_that_are_alike_are_one():
    assert len(points(["m.onnx"], [{"pe": [1, 2]}, {"pe": [2, 4]}], {})) == 3


def test_a_title_is_what_build_takes():
    point = Point.of("m.onnx", {"permute": False, "fps": 1000.0, "act_bits": 4})
    assert point.title == "--act-bits 4 --fps 1000 --no-permute"


def test_every_wrong_option_of_a_grid_is_told_wrong():
    with pytest.raises(UsageError) as error:
        points(["m.onnx"], [{"pe": [0, 4], "forms": ["engine"]}], {})
    assert {p.code for p in error.value.problems} == {"bad-option", "unknown-option"}


@pytest.mark.parametrize("text", ["", "[[grid]]\npe = []", "pe = 4", "[[grid]\n", "grid = 3"])
def test_a_space_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match=r"s\.toml"):
        read_grids(tmp_path / "s.toml")


# Front


def beats(one: dict, other: dict, names: list[str]) -> bool:
    return all(OBJECTIVES[n] * one[n] <= OBJECTIVES[n] * other[n] for n in names)


NAMES = ["interval", "lut", "accuracy"]
ROWS = st.lists(st.fixed_dictionaries({n: st.integers(0, 5) for n in NAMES}), max_size=12)


@given(ROWS)
def test_the_front_is_what_no_other_beats(rows):
    best = front(rows, NAMES)
    for k, row in enumerate(rows):
        others = [r for j, r in enumerate(rows) if j != k and r != row]
        assert any(r in [rows[b] for b in best] for r in [row]) == (not any(beats(o, row, NAMES) for o in others))


@given(ROWS)
def test_the_front_holds_no_two_that_are_alike(rows):
    values = [tuple(rows[k].values()) for k in front(rows, NAMES)]
    assert len(values) == len(set(values))


@given(ROWS)
def test_the_front_in_two_objectives_falls(rows):
    best = [rows[k] for k in front(rows, ["interval", "lut"])]
    assert all(a["interval"] < b["interval"] and a["lut"] > b["lut"] for a, b in pairwise(best))


def test_rows_without_an_objective_take_no_part():
    assert front(
        [{"interval": None, "lut": 1}, {"interval": 5, "lut": 9}, {"refused": ["x"]}], ["interval", "lut"]
    ) == [1]


@given(st.integers(1, 20), st.integers(0, 25))
def test_some_of_a_front_hold_its_ends(size, count):
    chosen = spread(range(size), count)
    assert len(set(chosen)) == len(chosen) == min(size, count)
    assert count < 2 or {0, size - 1} <= set(chosen)


# One point


def test_a_point_is_what_build_gives(model, tmp_path):
    row = evaluate(Task(Point.of(str(model), {"form": "engine", "pe": 2, "simd": 4})))
    assert tcompile("build", model, "-o", tmp_path / "d", "--form", "engine", "--pe", 2, "--simd", 4).code == 0
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert (row["interval"], row["latency"]) == tuple(report["performance"][k] for k in ("ii_cycles", "latency_cycles"))
    assert row["bits"] == report["weights"]["bits_stored"]
    assert row["verdict"] == report["exactness"]["verdict"]


def test_accuracy_is_that_of_verify():
    row = evaluate(Task(Point.of(str(DIGITS), {"pe": 4}), inputs=str(DIGITS_DATA), samples=50))
    assert row["accuracy"] == 1.0 and row["mismatches"] == 0


def test_what_cannot_be_says_why(model):
    row = evaluate(Task(Point.of(str(model), {"fps": 1e9})))
    assert "cycle" in row["refused"][0]


@pytest.mark.parametrize("change", [{"point": Point("other", "{}")}, {"samples": 3}, {"calibration": "data"}])
def test_results_of_other_work_are_not_taken_for_it(tmp_path, change):
    for name, content in (("model", b"1"), ("other", b"2"), ("data", b"3")):
        (tmp_path / name).write_bytes(content)
    paths = {k: str(tmp_path / v) if k == "calibration" else v for k, v in change.items()}
    if "point" in paths:
        paths["point"] = Point(str(tmp_path / "other"), "{}")
    one = Task(Point(str(tmp_path / "model"), "{}"))
    assert key(one) == key(Task(one.point))
    assert key(one) != key(Task(**{"point": one.point, **paths}))


# A folder of points


def test_an_exploration_writes_tables_and_a_picture(model, space, tmp_path):
    result = tcompile("explore", model, "-o", tmp_path / "e", "--space", space, "--jobs", 1)
    assert result.code == 0, result.err
    document = json.loads((tmp_path / "e" / "explore.json").read_text())
    rows = list(csv.DictReader((tmp_path / "e" / "explore.csv").read_text().splitlines()))
    assert len(rows) == len(document["points"]) == 5
    assert [r["interval"] for r in rows] == [str(p["interval"]) for p in document["points"]]
    assert sum(r["front"] == "True" for r in rows) == sum(p["front"] for p in document["points"]) >= 1
    picture = ET.parse(tmp_path / "e" / "explore.svg")
    assert len(picture.findall(".//{*}circle/{*}title")) == 5
    assert "point   5/5" in result.err and "wrote" in result.out


def test_finished_points_are_not_made_again(model, space, tmp_path):
    tasks, exploration = tasks_of(model, space), Exploration(tmp_path / "e", ("interval", "lut"), jobs=1)
    document = explore(exploration, tasks)
    told: list[object] = []
    (exploration.points / f"{key(tasks[2])}.json").unlink()
    again = explore(exploration, tasks, lambda row, done, total: told.append(row["options"]))
    assert told == [tasks[2].point.options]
    assert again == document


def test_a_result_that_was_tampered_with_is_refused(model, space, tmp_path):
    tasks, exploration = tasks_of(model, space), Exploration(tmp_path / "e", ("interval", "lut"), jobs=1)
    explore(exploration, tasks)
    (exploration.points / f"{key(tasks[0])}.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        explore(exploration, tasks)


def test_a_folder_of_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "precious").write_text("mine")
    result = tcompile("explore", model, "-o", tmp_path)
    assert (result.code, result.codes) == (2, ["output-exists"])
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "options",
    [("--jobs", 0), ("--objectives", "speed"), ("--space", "none.toml"), ("--inputs", "none.npz"), ("--samples", 0)],
)
def test_wrong_options_are_refused(model, tmp_path, options):
    result = tcompile("explore", model, "-o", tmp_path / "e", *options)
    assert result.code == 2 and result.codes
    assert not (tmp_path / "e").exists()


def test_a_fault_loses_no_other_point(model, space, tmp_path, monkeypatch):
    tasks, exploration = tasks_of(model, space), Exploration(tmp_path / "e", ("interval", "lut"))
    broken = {"model": "m", "options": {}, FAULT: ["a fault"]}
    monkeypatch.setattr(
        Exploration, "work", lambda self, work, missing: ((t, broken if t is tasks[1] else work(t)) for t in missing)
    )
    with pytest.raises(InternalError, match="a fault"):
        explore(exploration, tasks)
    assert len(json.loads((exploration.folder / "explore.json").read_text())["points"]) == len(tasks) - 1
    assert exploration.kept(key(tasks[1])) is None


def test_names_of_the_file_are_escaped_in_the_picture():
    row = {"model": "<script>", "options": {"fps": 3.0}, "refused": None, "forms": ["engine"], "interval": 5, "lut": 7, "bram": 1,
           "accuracy": 0.5, "front": True}  # fmt: skip
    text = drawing([row]).decode()
    assert "<script>" not in text
    ET.fromstring(text)


# Synthesis of the front


def test_points_of_the_front_are_synthesized_once(model, space, tmp_path, monkeypatch):
    asked: list[str] = []

    def synth(task: Task, flow: str, device: str | None) -> dict[str, object]:
        asked.append(task.point.title)
        return {
            "flow": flow,
            "device": device,
            "lut": 71,
            "ff": 72,
            "bram": 0,
            "dsp": 0,
            "fmax_mhz": None,
            "fps": None,
            "refused": None,
        }

    monkeypatch.setattr("tcompile.explore.run.synthesize", synth)
    monkeypatch.setattr(Exploration, "work", lambda self, work, missing: ((t, work(t)) for t in missing))
    tasks = tasks_of(model, space)
    exploration = Exploration(tmp_path / "e", ("interval", "lut"), synthesized=1, flow="yosys-ice40")
    first = explore(exploration, tasks)
    assert explore(exploration, tasks) == first
    with_synthesis = [p for p in first["points"] if p["synthesis"]]
    assert len(with_synthesis) == len(asked) == 1
    assert with_synthesis[0]["front"] and with_synthesis[0]["synthesis"]["lut"] == 71
    rows = list(csv.DictReader((tmp_path / "e" / "explore.csv").read_text().splitlines()))
    assert sorted(r["synthesis_lut"] for r in rows) == ["", "", "", "", "71"]


@pytest.mark.long
def test_synthesis_is_that_of_the_command(model, tmp_path):
    point = Task(Point.of(str(model), {"form": "parallel"}))
    found = synthesize(point, "yosys-ice40", None)
    assert tcompile("build", model, "-o", tmp_path / "d", "--form", "parallel").code == 0
    result = tcompile("synth", tmp_path / "d", "--flow", "yosys-ice40", "--json")
    assert {k: result.json["synthesis"][k] for k in ("lut", "ff", "bram", "dsp")} == {
        k: found[k] for k in ("lut", "ff", "bram", "dsp")
    }
    assert found["lut"] > 0 and found["dsp"] == 0


def test_a_flow_that_is_not_there_is_refused_before_any_work(model, tmp_path):
    result = tcompile("explore", model, "-o", tmp_path / "e", "--synth", 2, "--flow", "yosys-x")
    assert result.code == 2 and "flow must be one of" in result.err
    assert not (tmp_path / "e").exists()


def test_a_tool_that_failed_loses_no_point(model, space, tmp_path, monkeypatch):
    said = {"refused": None, FAILED: [("synthesis-failed", "yosys said no", "")]}
    monkeypatch.setattr("tcompile.explore.run.synthesize", lambda task, flow, device: said)
    monkeypatch.setattr(Exploration, "work", lambda self, work, missing: ((t, work(t)) for t in missing))
    exploration = Exploration(tmp_path / "e", ("interval", "lut"), synthesized=1)
    with pytest.raises(ToolError, match="yosys said no"):
        explore(exploration, tasks_of(model, space))
    assert len(list(exploration.points.glob("*.json"))) == 5


# Workers that are lost


def die(task: Task) -> dict[str, object]:
    """Work of a process that something ends."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def slow(task: Task) -> dict[str, object]:
    """Work that waits for a file, and says which process does it."""
    Path(f"{task.point.model}.{os.getpid()}").touch()
    while not Path(task.point.model).exists():
        time.sleep(0.02)
    return {"process": os.getpid()}


def nested(task: Task) -> dict[str, object]:
    """Work that runs a program in a folder of its own, and says which."""
    with TemporaryDirectory() as folder, running(["sleep", "100"]) as program:
        partial = Path(f"{task.point.model}.part")
        partial.write_text(f"{program.pid} {folder}")
        partial.rename(task.point.model)
        program.wait()
    return {}


def test_an_interruption_ends_the_programs_of_workers_and_removes_their_folders(tmp_path):
    place = tmp_path / "told"

    def interrupt() -> None:
        while not place.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(on_processes(nested, [Task(Point(str(place), "{}"))], 1))
    finally:
        signal.signal(signal.SIGINT, before)
    program, _, folder = place.read_text().partition(" ")
    until = time.monotonic() + 20
    while (Path(folder).exists() or Path(f"/proc/{program}").exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(folder).exists()
    assert not Path(f"/proc/{program}").exists()


def test_what_is_done_is_written_when_work_is_interrupted(model, space, tmp_path, monkeypatch):
    tasks, exploration = tasks_of(model, space), Exploration(tmp_path / "e", ("interval", "lut"))

    def two(self: Exploration, work: Work, missing: Sequence[Task]) -> Iterator[tuple[Task, dict[str, object]]]:
        yield from ((t, work(t)) for t in missing[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Exploration, "work", two)
    with pytest.raises(KeyboardInterrupt):
        explore(exploration, tasks)
    assert len(json.loads((exploration.folder / "explore.json").read_text())["points"]) == 2


def test_a_process_that_is_ended_from_outside_is_told():
    with pytest.raises(ToolError, match="ended from outside"):
        list(on_processes(die, [Task(Point("m", "{}"))], 1))


@pytest.mark.long
def test_killed_and_begun_again_makes_only_what_is_missing(model, space, tmp_path):
    command = [
        sys.executable,
        "-m",
        "tcompile",
        "explore",
        str(model),
        "-o",
        str(tmp_path / "e"),
        "--space",
        str(space),
        "--jobs",
        "1",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as killed:
        for line in killed.stderr:
            if line.startswith("point   2/5"):
                os.kill(killed.pid, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "e" / "points").glob("*.json")}
    assert 2 <= len(kept) < 5
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert again.stderr.count("point ") == 5 - len(kept)
    assert {n: (tmp_path / "e" / "points" / n).stat().st_mtime_ns for n in kept} == kept
    tasks = [Task(Point(str(model.resolve()), t.point.text)) for t in tasks_of(model, space)]
    whole = explore(Exploration(tmp_path / "whole", ("interval", "lut"), jobs=1), tasks)
    assert json.loads((tmp_path / "e" / "explore.json").read_text()) == whole


@pytest.mark.long
def test_a_cluster_that_loses_a_worker_loses_nothing(tmp_path):
    distributed = pytest.importorskip("distributed", reason="pip install 'tcompile[cluster]'")
    wanted = [Task(Point(str(tmp_path / f"go{k}"), "{}")) for k in range(4)]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        results = on_cluster(slow, wanted, cluster.scheduler_address)
        lost = None
        (tmp_path / "go0").touch()
        found = [next(results)]
        while lost is None:  # a worker that waits for a file that is not there yet
            lost = next((int(p.suffix[1:]) for p in tmp_path.glob("go[123].*")), None)
        os.kill(lost, signal.SIGKILL)
        for k in (1, 2, 3):
            (tmp_path / f"go{k}").touch()
        found += list(results)
    assert sorted(task.point.model for task, _ in found) == [t.point.model for t in wanted]
    assert len(found) == len(wanted)


def test_a_scheduler_that_is_not_there_is_told(model, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="pip install 'tcompile[cluster]'")
    monkeypatch.setattr("tcompile.explore.workers.WAIT", 1)
    result = tcompile("explore", model, "-o", tmp_path / "e", "--scheduler", "tcp://127.0.0.1:1")
    assert (result.code, result.codes) == (3, ["no-scheduler"])


def test_a_cluster_without_dask_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = tcompile("explore", model, "-o", tmp_path / "e", "--scheduler", "tcp://127.0.0.1:1")
    assert (result.code, result.codes) == (3, ["no-dask"])
