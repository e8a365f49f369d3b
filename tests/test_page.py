"""The page shows the figures of the report, all of them and no others, and names cannot become anything but text."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tcompile
from tcompile.options import BuildOptions
from tcompile.page import Stage, markdown, stages
from tcompile.page import page as page_of
from tcompile.page.cells import figure
from tcompile.page.facts import commands
from tcompile.page.flow import flow
from tcompile.page.maps import gathered
from tcompile.page.stages import Kept
from tcompile.pipeline import Built, compile_file
from tests.models import RESIDUAL_FOLDS, residual_network

DIGITS = Path(__file__).parent.parent / "examples" / "digits" / "digits.int2.onnx"
VOID = {"meta", "link", "path", "rect", "line", "circle", "br"}
NUMBER = r'="([\d.]+)"'
HOSTILE = [
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</title></svg></style><b>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;&amp;&#60;",
    "<!-- -->]]>",
    "$(rm -rf x) `id`",
]


def page(known: Any) -> bytes:
    """The page of a report without its network."""
    return page_of(known, ())


def layer(name: str, k: int, **values: Any) -> dict[str, Any]:
    """A row with figures that occur nowhere else."""
    row = {
        "name": name, "op": "Conv", "form": "engine", "onnx_nodes": [name, f"{name}_relu"], "MH": 1611 + k,
        "MW": 1711 + k, "PE": 3 + k, "SIMD": 17 + k, "planes": 111 + k, "tiles": 3300 + 10 * k,
        "tiles_kept": 2200 + 10 * k, "positions": 6400 + k, "cycles_predicted": 140801 + k,
        "cycles_simulated": 140901 + k, "additions_dense": 902101 + k, "additions_done": 801201 + k,
        "lut_estimate": 5101 + k, "ff_estimate": 5201 + k, "bram_estimate": 531 + k, "digit": None, "adders": None,
        "lut_synthesis": 6101 + k, "ff_synthesis": 6201 + k, "bram_synthesis": 631 + k,
    }  # fmt: skip
    return row | values


def report(name: str = "conv_1") -> dict[str, Any]:
    """A report in which all is known."""
    pool = dict.fromkeys(layer("", 0)) | {"name": "pool_1", "op": "MaxPool", "onnx_nodes": [], "positions": 6501}
    difference = {
        "value": name, "node": name, "integers": 311, "frames": 312, "frame": 313, "position": [314, 315],
        "accelerator": -316, "reference": 317,
    }  # fmt: skip
    return {
        "model": {"file": name, "sha256": "0123456789abcdef", "format": "qdq"},
        "passes": [{"name": "ternarize", "changed": True, "notes": [name]}],
        "exactness": {
            "verdict": "tested", "reference": "fused", "steps": 1190, "steps_at_risk": 37, "doubts": [name],
            "layers": [{"layer": name, "method": "bounded", "steps": 1190, "at_risk": 37}],
            "risks": [
                {"layer": name, "channel": 41, "accumulator": -4242, "codes": [-43, 44], "margin": 0.25, "bound": 1e-4}
            ],
        },
        "weights": {
            "count": 15248, "nonzero": 12028, "bits_original": 487936, "bits_stored": 30496,
            "compression_whole_model": 16.5, "compression_compressed_layers": 17.5,
        },
        "layers": [layer(name, 0), pool, *(layer(f"conv_{k}", k) for k in range(2, 7))],
        "performance": {
            "ii_cycles": 140810, "ii_cycles_simulated": 140910, "latency_cycles": 281620,
            "latency_cycles_simulated": 281720, "clock_mhz": 125.5, "fps": 890.6,
        },
        "verification": {
            "simulator": "verilator", "samples": 497, "integers": 4970, "mismatches": 0, "reference": "fused",
            "differences_other_reference": 311, "identical_outputs": 496, "stall": "random:1", "accuracy": 0.9738,
            "accuracy_reference": 0.9758, "accuracy_original": 0.9811, "agreement": 0.998, "located": [], "located_other": [difference],
            "notes": [name],
        },
        "synthesis": {
            "flow": "nextpnr-ecp5", "lut": 71001, "ff": 72001, "bram": 731, "dsp": 0, "fmax_mhz": 151.2, "fps": 1073.02,
            "family": "ecp5", "device": "ecp5-85", "flattened": False, "clock_mhz": 125.5, "bram_kbit": 18, "tools": {},
            "seeds": [{"seed": 7, "fmax_mhz": 151.2, "bitstream": "seed-7.bit", "bytes": 1934521}],
            "used": {"lut": {"used": 71101, "available": 83641}, "ff": {"used": 72101, "available": 83642}},
            "estimate": {"lut": 70901, "ff": 71901, "bram": 730},
            "memories_elsewhere": [{"memory": name, "estimated": 19, "found": 23}], "memories_in_registers": [name],
        },
        "ports": [{"name": "s_axis_x", "value": name, "tdata_bits": 640, "signed": True, "beats": 6411}],
        "registers": [{"name": "control", "offset": 264, "access": "w1", "description": "bit 0: counters to zero"}],
        "tools": {"tcompile": "0.1.0"},
        "notes": [name],
    }  # fmt: skip


class Seen(HTMLParser):
    """What a browser would see: elements with the names of their attributes, texts, numbers."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.numbers: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(content.decode())
        self.close()
        assert not self.open, "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or not data.strip():
            return
        self.texts.append(data)
        if self.open[-1] == "data":
            self.numbers.append((self.attributes[-1][2], data))

    def values(self, attribute: str) -> list[str]:
        """Values of all attributes of a name."""
        return [value for _, name, value in self.attributes if name == attribute]

    @property
    def text(self) -> str:
        """All text."""
        return "\n".join(self.texts)


def numbers(value: Any) -> Iterator[int | float]:
    """All numbers in a report."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def read(text: str) -> float:
    """A figure as a reader takes it."""
    plain = text.replace(",", "").replace("−", "-")
    if plain.startswith("0x"):
        return int(plain, 16)
    return float(plain.rstrip("%×")) / (100 if plain.endswith("%") else 1)


def test_every_figure_of_the_report_is_on_the_page():
    seen = Seen(page(report()))
    exact = {value for value, _ in seen.numbers}
    missing = [n for n in numbers(report()) if repr(n) not in exact and f"{n:,}".replace("-", "−") not in seen.text]
    assert not missing


def test_no_figure_on_the_page_is_another():
    known = report()
    summed = [k for k in layer("", 0) if k.split("_")[0] in ("tiles", "additions", "lut", "ff", "bram")]
    derived = {sum(r[key] for r in known["layers"] if r["PE"]) for key in summed} | {71101 / 83641, 72101 / 83642}
    allowed = {repr(n) for n in {*numbers(known), *derived}}
    assert {value for value, _ in Seen(page(known)).numbers} <= allowed


def shown_in(caption: str, row: dict[str, Any]) -> list[float]:
    """Figures in the only line of a table."""
    body = page({"layers": [row]}).decode().split(f"<caption>{caption}")[1].split("<tbody>")[1]
    return [read(figure) for figure in re.findall(r"<data[^>]*>([^<]*)</data>", body.split("</tbody>")[0])]


def test_each_column_shows_its_key():
    row = layer("conv_1", 0, digit=2, adders=7401)
    keys = "MH MW PE SIMD planes digit adders tiles_kept tiles positions cycles_predicted cycles_simulated additions_done additions_dense"
    assert shown_in("Layers, per frame", row) == [row[key] for key in keys.split()]
    keys = "lut_estimate lut_synthesis ff_estimate ff_synthesis bram_estimate bram_synthesis"
    assert shown_in("Resources by layer", row) == [row[key] for key in keys.split()]


def test_a_column_of_which_nothing_is_known_is_left_out():
    row = layer("conv_1", 0, lut_synthesis=None, ff_synthesis=None, bram_synthesis=None)
    assert shown_in("Resources by layer", row) == [row[key] for key in ("lut_estimate", "ff_estimate", "bram_estimate")]


def test_what_was_not_synthesized_says_so():
    known = report()
    assert "Not synthesized yet" not in Seen(page(known)).text
    known["synthesis"] = dict.fromkeys(known["synthesis"])
    text = Seen(page(known)).text
    assert "Not synthesized yet" in text and "at 125.5 MHz, assumed" in text and "static timing" not in text


def test_throughput_is_that_of_the_clock_that_was_reached():
    texts = Seen(page(report())).texts
    assert "at 151.2 MHz: static timing, not measured on a board" in texts
    assert "1.863 ms at 151.2 MHz" in " ".join(texts)


def test_a_graph_shows_its_adders_where_an_engine_shows_its_planes():
    def words(row: dict[str, Any]) -> str:
        return page({"layers": [row]}).decode().split('<ol class="flow"', 1)[1].split("</ol>")[0]

    assert "111 planes" in words(layer("conv_1", 0))
    assert "7,401 adders" in words(layer("conv_1", 0, form="serial", adders=7401))
    assert "1 adder<" in words(layer("conv_1", 0, form="serial", adders=1))


def test_each_choice_has_a_line_with_its_figures():
    choices = [
        {"form": form, "digit": digit, "PE": 71 + k, "SIMD": 81 + k, "cycles": 91 + k, "lut_estimate": 61 + k, "guess": k == 1}
        for k, (form, digit) in enumerate([("engine", None), ("serial", 2)])
    ]  # fmt: skip
    text = page({"layers": [layer("conv_1", 0, choices=choices)]}).decode()
    table = text.split("<caption>The best of each form")[1].split("<tbody>")[1].split("</tbody>")[0]
    cells = [re.sub(r"<[^>]*>", " ", line).split() for line in table.split("</tr>")[:-1]]
    assert cells[0] == ["conv_1", "engine", "yes", "71", "81", "–", "91", "61", "yes"]
    assert cells[1] == ["conv_1", "serial", "no", "72", "82", "2", "92", "62", "no"]
    assert "The best of each form" not in page({"layers": [layer("conv_1", 0)]}).decode()


@pytest.mark.parametrize(
    "label, shown",
    [
        ("Accuracy", "97.38%"), ("Throughput", "1,073"), ("Interval between frames", "140,910"), ("Latency", "281,720"),
        ("LUTs", "71,001"), ("Frames per second at that clock", "890.6"), ("Weight bits stored", "30,496"), ("Mismatches", "0"), ("Steps", "1,190"),
        ("Steps at risk", "37"), ("Frames", "497"), ("Integers compared", "4,970"), ("Agreement", "99.80%"),
        ("Compression, whole model", "16.5×"), ("Accuracy of the reference", "97.58%"), ("DSP", "0"),
    ],
)  # fmt: skip
def test_each_label_has_its_figure(label, shown):
    facts = re.findall(r"<dt>([^<]*)</dt><dd[^>]*><data[^>]*>([^<]*)</data>", page(report()).decode())
    assert dict(facts)[label] == shown


def test_a_figure_reads_as_its_value():
    for value, text in Seen(page(report())).numbers:
        assert read(text) == pytest.approx(float(value), rel=4e-3), text


def test_figures_of_a_real_build():
    found = compile_file(DIGITS, BuildOptions()).report
    seen = Seen(page(found))
    exact = {value for value, _ in seen.numbers}
    rows = [r | {"digit": None} for r in found["layers"]]
    assert {repr(n) for part in (rows, found["weights"]) for n in numbers(part)} <= exact
    assert [r["name"] for r in found["layers"] if r["name"] not in seen.texts] == []


@pytest.mark.parametrize("bare", [{}, {"layers": [{}], "passes": [{}], "verification": None}], ids=["empty", "keys"])
def test_what_is_missing_is_a_dash(bare):
    seen = Seen(page(bare))
    assert not seen.numbers
    assert seen.texts.count("–") > 20
    assert "None" not in seen.text


def test_null_is_a_dash():
    known = report()
    known["verification"] = dict.fromkeys(known["verification"])
    seen = Seen(page(known))
    assert "0.9738" not in dict(seen.numbers)
    assert "No frames were compared yet." in seen.text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_and_nothing_else(name):
    plain, hostile = Seen(page(report("n" * len(name)))), Seen(page(report(name)))
    assert hostile.elements == plain.elements
    assert hostile.texts.count(name) == plain.texts.count("n" * len(name)) > 6
    assert f"ONNX: {name}, {name}_relu" in hostile.values("title")


@pytest.mark.parametrize(
    "name, shown",
    [
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("two\nlines\r\0", r"two\nlines\r\x00"),
        ("\u2066x\u2069\u200b", r"\u2066x\u2069\u200b"),
        ("\ud800", r"\ud800"),
    ],
    ids=["override", "lines", "isolates", "surrogate"],
)
def test_what_cannot_be_seen_is_an_escape(name, shown):
    content = page(report(name))
    assert Seen(content).texts.count(shown) > 6
    assert not any(c in content.decode() for c in "\u202e\r\0\u2066\u2069\u200b")


def test_long_names_are_cut_and_whole_in_the_title():
    name = "resnet/block_3/conv_" * 12
    seen = Seen(page(report(name)))
    assert name in seen.values("title")
    assert f"{name[:39]}…" in seen.texts


def test_prose_is_not_cut():
    known = report()
    known["notes"] = known["passes"][0]["notes"] = ["a remark " * 40]
    known["registers"][0]["description"] = "a meaning " * 40
    texts = Seen(page(known)).texts
    assert texts.count("a remark " * 40) == 2 and "a meaning " * 40 in texts


def test_wide_characters_count_twice():
    assert f"{'層' * 19}…" in Seen(page(report("層" * 40))).texts


def flow_of(known: Any, listed: Sequence[Stage] = ()) -> list[str]:
    """Boxes of the picture."""
    return page_of(known, listed).decode().split('<ol class="flow"')[1].split("</ol>")[0].split("<li ")[1:]


def test_bars_are_as_long_as_their_share_of_the_interval():
    rows = [layer("half", 0, cycles_simulated=500), layer("slow", 0, cycles_simulated=1000)]
    boxes = flow_of({"layers": rows, "performance": {"ii_cycles": 1000}})
    assert [re.findall(f'class="done" width{NUMBER}', box) for box in boxes] == [["50.0"], ["100.0"]]
    assert ["50% of the interval" in box for box in boxes] == [True, False]


def test_the_slowest_layer_is_the_bottleneck():
    rows = [layer("first", 0), layer("slow", 0, cycles_simulated=999999), layer("last", 0)]
    assert ["bottleneck</em>" in box and "hot" in box for box in flow_of({"layers": rows})] == [False, True, False]
    assert "bottleneck: slow" in page({"layers": rows}).decode()


FORK = (  # a value that two branches take, one of them at once, and a longer wire around both
    Stage("in", "input"),
    Stage("a", "layer", (0,)),
    Stage("b", "layer", (1,)),
    Stage("c", "layer", (1, 2)),
    Stage("d", "layer", (0, 3)),
    Stage("out", "output", (4,)),
)


def forked(listed: Sequence[Stage] = FORK) -> list[str]:
    return flow_of({"layers": [layer(s.name, 0) for s in listed if s.kind == "layer"]}, listed)


def test_what_goes_to_the_next_box_is_an_arrow():
    assert ["follows" in box.split(">")[0] for box in forked()] == [False, True, True, True, True, True]
    apart = tuple(replace(s, sources=(0,)) if s.name == "b" else s for s in FORK)
    assert ["follows" in box.split(">")[0] for box in forked(apart)] == [False, True, False, True, True, True]


def test_what_goes_further_runs_in_a_lane():
    kinds = [sorted(w.kind for w in b.wires) for b in flow({"layers": [{"name": n} for n in "abcd"]}, FORK).boxes]
    assert kinds == [["leave"], ["leave", "pass"], ["pass", "pass"], ["end", "pass"], ["end"], []]


def test_wires_at_the_same_box_never_share_a_lane():
    for box in flow({"layers": [{"name": n} for n in "abcd"]}, FORK).boxes:
        assert len({w.x for w in box.wires}) == len(box.wires)


def test_a_wire_within_another_is_nearer_to_the_boxes():
    boxes = flow({"layers": [{"name": n} for n in "abcd"]}, FORK).boxes
    inner = next(w.x for w in boxes[1].wires if w.kind == "leave")
    assert boxes[0].wires[0].x < inner


def test_where_a_box_takes_another_than_the_one_above_everyone_reads_it():
    told = [re.search(r'class="([^"]*)"> from <bdi>([^<]*)', box) for box in forked()]
    assert [t and t.groups() for t in told] == [
        None, ("hidden", "in"), ("hidden", "a"), ("note from", "a and b"), ("note from", "in and c"), ("hidden", "d"),
    ]  # fmt: skip


def test_layers_of_another_network_are_refused_wrong():
    with pytest.raises(ValueError, match=r"not those of network\.ir"):
        page_of({"layers": [layer("x", 0)]}, FORK)


@pytest.fixture(scope="module", name="residual")
def _residual(tmp_path_factory: pytest.TempPathFactory) -> Built:
    path = tmp_path_factory.mktemp("page") / "residual.onnx"
    onnx.save(residual_network(), path)
    return tcompile.compile(path, fold=RESIDUAL_FOLDS)._built


def test_stages_of_a_residual_network(residual):
    found = stages(residual.mapped.graph, residual.mapped.recipe)
    first, second, add = (r["name"] for r in residual.report["layers"])
    assert [(s.name, s.kind, s.sources) for s in found] == [
        ("s_axis_0", "input", ()), (first, "layer", (0,)), (second, "layer", (1,)), (add, "layer", (1, 2)),
        ("m_axis_0", "output", (3,)),
    ]  # fmt: skip
    assert [s.bits_in for s in found] == [(), (8,), (4,), (4,), (4,)]
    assert [s.bits_out for s in found] == [(8,), (4,), (4,), (4,), ()]
    assert [s.bits_weight for s in found] == [None, 2, 2, None, None]


def test_maps_are_the_tiles_that_the_report_counts(residual):
    kept = {s.name: s.kept for s in stages(residual.mapped.graph, residual.mapped.recipe) if s.kept}
    engine, graph = residual.report["layers"][:2]
    cells = kept[engine["name"]].cells
    assert (cells.size, cells.sum()) == (engine["tiles"], engine["tiles_kept"]) and engine["tiles_kept"] < engine[
        "tiles"
    ]
    assert kept[graph["name"]].unit == "weight"
    assert kept[graph["name"]].cells.shape == (graph["MH"], graph["MW"])


def test_a_page_of_a_real_network_has_a_map_for_each_layer_with_weights(residual):
    text = page_of(residual.report, stages(residual.mapped.graph, residual.mapped.recipe)).decode()
    labels = re.findall(r'class="map"[^>]*aria-label="([^"]*)"', text)
    engine, graph = residual.report["layers"][:2]
    assert f"{engine['tiles_kept']} of {engine['tiles']} tiles are kept" in labels[0]
    assert f"of {graph['MH'] * graph['MW']} weights are kept" in labels[1]


@given(st.integers(1, 100), st.integers(1, 300), st.integers(0, 9))
def test_a_gathered_map_keeps_all_that_is_there(height, width, seed):
    cells = np.random.default_rng(seed).random((height, width)) < 0.3
    shares, tall, broad = gathered(cells)
    assert shares.shape[0] <= 24 and shares.shape[1] <= 64
    blocks = [cells[y : y + tall, x : x + broad] for y in range(0, height, tall) for x in range(0, width, broad)]
    assert shares.ravel().tolist() == [block.mean() for block in blocks]


def drawn(cells: np.ndarray) -> np.ndarray:
    """Shades of a map as its paths draw them."""
    stage = Stage("a", "layer", kept=Kept(cells, "tile"))
    svg = page_of({"layers": [layer("a", 0)]}, [stage]).decode().split('class="map"')[1].split("</svg>")[0]
    _, _, columns, rows = map(int, re.match(r' viewBox="(0) (-0).5 (\d+) (\d+)"', svg).groups())
    found = np.zeros((rows, columns), int)
    for shade, path in re.findall(r'class="shade(\d)" d="([^"]*)"', svg):
        for x, y, length in (map(int, stroke) for stroke in re.findall(r"M(\d+) (\d+)h(\d+)", path)):
            assert not found[y, x : x + length].any()
            found[y, x : x + length] = int(shade)
    return found


def test_cells_are_drawn_where_tiles_are_kept():
    cells = np.random.default_rng(3).random((7, 30)) < 0.4
    assert np.array_equal(drawn(cells), 4 * cells)


def test_large_maps_are_drawn_in_shades_of_the_share_that_is_kept():
    cells = np.zeros((24, 256), bool)
    cells[:, ::4] = cells[:12, 1::4] = True
    assert np.array_equal(drawn(cells), np.repeat([[2] * 64, [1] * 64], 12, axis=0))


def test_without_cycles_nothing_is_the_bottleneck():
    assert b"bottleneck</em>" not in page({"layers": [layer("a", 0, cycles_simulated=None, cycles_predicted=None)]})


@pytest.mark.parametrize(
    "verdict, mismatches, shown",
    [
        ("proved", None, "proved"), ("tested", 0, "tested"), ("untested", None, "untested"),
        ("untested", 3, "refuted"), ("proved", 3, "refuted"),
    ],
)  # fmt: skip
def test_verdict(verdict, mismatches, shown):
    known = report()
    known["exactness"]["verdict"], known["verification"]["mismatches"] = verdict, mismatches
    assert re.findall(r'class="badge \w+">(\w+)<', page(known).decode()) == [shown]


@pytest.mark.parametrize(
    "file, word",
    [
        ("net.onnx", "net.onnx"), ("my net.onnx", "'my net.onnx'"), ("$(rm).onnx", "'$(rm).onnx'"),
        ("-o", "./-o"), ("a\nb", "MODEL.onnx"), ("it's", "'it'\"'\"'s'"),
    ],
)  # fmt: skip
def test_commands_can_be_typed(file, word):
    texts = Seen(page(report(file))).texts
    assert f"tcompile build {word} -o DIR" in texts
    assert "tcompile verify DIR --inputs X.npz --stall random:1" in texts


@pytest.mark.parametrize(
    "options, typed",
    [
        ({"ternary": "sws:2", "prune": "tile:0.25", "act_bits": 4}, "--ternary sws:2 --prune tile:0.25 --act-bits 4"),
        ({"fps": 2000.0, "target": "ecp5-85", "permute": False}, "--fps 2000 --target ecp5-85 --no-permute"),
        ({"shape": {"x y": (1, 3)}, "input_type": {"`x`": "uint8"}}, "--shape 'x y=1,3' --input-type '`x`=uint8'"),
        ({"from_node": "$(rm)", "until_node": "a\nb"}, "--from '$(rm)' --until ..."),
        ({"fold": {"a": {"PE": 2}}, "equalize": True}, "--equalize --fold FOLD.json"),
        ({"fold": "there/my fold.json", "pe": 8}, "--pe 8 --fold 'my fold.json'"),
        ({}, ""),
    ],
)
def test_the_build_can_be_repeated(options, typed):
    known = report("net.onnx") | {"options": BuildOptions(**options).given}
    assert f"tcompile build net.onnx -o DIR {typed}".strip() in Seen(page(known)).texts


def test_the_options_typed_are_those_that_were_given():
    given = ["--ternary", "sws:2", "--permute", "--shape", "x=1,3", "--until", "a b", "--fps", "2000"]
    options = BuildOptions(ternary="sws:2", permute=True, shape={"x": (1, 3)}, until_node="a b", fps=2000)
    (line,) = [
        c.cell.text for c in commands({"options": options.given, "model": {"file": "m"}}) if " build " in c.cell.text
    ]
    assert sorted(shlex.split(line)[5:]) == sorted(given)


def test_equal_reports_give_equal_bytes():
    assert page(report()) == page(copy.deepcopy(report())) == page(json.loads(json.dumps(report())))


def test_the_page_stands_alone():
    content = page(report())
    seen = Seen(content)
    names = seen.values("id")
    assert len(names) == len(set(names))
    assert not {tag for tag, _ in seen.elements} & {"script", "img", "iframe", "object", "form", "base"}
    assert all(h == "data:," or h.removeprefix("#") in names for h in seen.values("href"))
    assert not re.search(rb"https?://|@import|url\((?!#head\))", content)
    assert not [n for _, n, _ in seen.attributes if n.startswith("on") or n in ("src", "style")]


def test_structure_for_those_who_do_not_see_it():
    seen = Seen(page(report()))
    tags = [tag for tag, _ in seen.elements]
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(b <= a + 1 for a, b in zip([0, *levels], levels, strict=False))
    assert tags.count("table") == tags.count("caption") > 5
    assert all("scope" in names for tag, names in seen.elements if tag == "th")
    assert all(
        {"role", "aria-label"} <= {*names} or "aria-hidden" in names for tag, names in seen.elements if tag == "svg"
    )
    assert all({"role", "tabindex", "aria-label"} <= {*names} for tag, names in seen.elements if "tabindex" in names)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_contrast(scheme):
    rules = re.findall(r":root \{(.*?)\}", page({}).decode(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", rules[scheme]))
    for ink in ("ink", "soft", "accent", "hot", "good", "fair", "open", "bad"):
        for paper in ("page", "card", "hot-card"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def contrast(a: str, b: str) -> float:
    """Contrast of two colours as WCAG 2 defines it."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rgb`` or ``#rrggbb``."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# Markdown


def widths(text: str) -> list[int]:
    """Cells of the lines of tables, as GitHub splits them."""
    return [len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]


def test_markdown_has_every_figure_of_the_tables():
    text = markdown(report(), ()).decode()
    shown = {n: figure(n).text for part in ("layers", "weights", "synthesis") for n in numbers(report()[part])}
    missing = [n for n, figures in shown.items() if figures not in text]
    assert not missing


@pytest.mark.parametrize(
    "name", [*HOSTILE, "a|b", "www.a.com", "__x__", "*b*", "[x](http://y)", "#1 @who", "two\nlines"]
)
def test_a_name_is_text_in_markdown(name):
    plain, hostile = (markdown(report(n), ()).decode() for n in ("n" * len(name), name))
    assert widths(hostile) == widths(plain)
    outside = re.sub(r"^```\n.*?\n```$", "", hostile, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"<(?!!)|(?<!\\)(\\\\)*([`\[{$@]|://|www\.[a-z])", outside.replace("`tcompile synth DIR`", ""))


def test_markdown_of_a_fenced_name_stays_in_its_fence():
    lines = markdown(report("```\n# x"), ()).decode().splitlines()
    assert lines.count("```") == 2 * len(commands(report())) and "# x" not in lines


def test_markdown_of_nothing():
    assert "The network has no layers on the accelerator." in markdown({}, ()).decode()
