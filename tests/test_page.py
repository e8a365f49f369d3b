"""The page shows the figures of the report, all of them and no others, and names cannot become anything but text."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tcompile.options import BuildOptions
from tcompile.page import page
from tcompile.pipeline import compile_file

DIGITS = Path(__file__).parent.parent / "examples" / "digits" / "digits.int2.onnx"
VOID = {"meta", "link", "path", "rect"}
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
            "accuracy_reference": 0.9758, "agreement": 0.998, "located": [], "located_other": [difference],
            "notes": [name],
        },
        "synthesis": {"flow": "nextpnr-ecp5", "lut": 71001, "ff": 72001, "bram": 731, "dsp": 0, "fmax_mhz": 151.2, "fps": 1072.5,
            "family": "ecp5", "device": name, "flattened": False, "estimate": None,
            "seeds": [{"seed": 21, "fmax_mhz": 151.2, "bitstream": name, "bytes": 654321}],
            "used": {"lut": {"used": 71011, "available": 83640}},
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


def boxes(content: bytes) -> list[tuple[float, ...]]:
    """Left, top, width and height of the boxes in the picture."""
    found = re.findall(f"<svg x{NUMBER} y{NUMBER} width{NUMBER} height{NUMBER}", content.decode())
    return [tuple(map(float, box)) for box in found]


def test_every_figure_of_the_report_is_on_the_page():
    seen = Seen(page(report()))
    exact = {value for value, _ in seen.numbers}
    missing = [n for n in numbers(report()) if repr(n) not in exact and f"{n:,}".replace("-", "−") not in seen.text]
    assert not missing


def test_no_figure_on_the_page_is_another():
    known = report()
    rows = [r for r in known["layers"] if r["PE"]]
    summed = (
        "tiles",
        "tiles_kept",
        "additions_dense",
        "additions_done",
        "lut_estimate",
        "ff_estimate",
        "bram_estimate",
        "lut_synthesis",
        "ff_synthesis",
        "bram_synthesis",
    )
    derived = {sum(r["PE"] * r["SIMD"] for r in rows)} | {sum(r[key] for r in rows) for key in summed}
    allowed = {repr(n) for n in {*numbers(known), *derived}}
    assert {value for value, _ in Seen(page(known)).numbers} <= allowed


def test_each_column_shows_its_key():
    row = layer("conv_1", 0, digit=2, adders=7401)
    body = page({"layers": [row]}).decode().split('aria-label="Layers, per frame"')[1].split("<tbody>")[1]
    shown = [read(figure) for figure in re.findall(r"<data[^>]*>([^<]*)</data>", body.split("</tbody>")[0])]
    keys = (
        "MH MW PE SIMD planes digit adders tiles_kept tiles positions cycles_predicted cycles_simulated additions_done additions_dense"
        " lut_estimate ff_estimate bram_estimate"
    )
    assert shown == [row[key] for key in keys.split()]


def test_a_graph_shows_its_adders_where_an_engine_shows_its_planes():
    def words(row: dict[str, Any]) -> list[str]:
        picture = page({"layers": [row]}).decode().split("<svg", 1)[1].split("</svg>")[0]
        return re.findall(r'text-anchor="end">([^<]*)</text>', picture)

    assert "111 planes" in words(layer("conv_1", 0))
    assert "7,401 adders" in words(layer("conv_1", 0, form="serial", adders=7401))
    assert "1 adder" in words(layer("conv_1", 0, form="serial", adders=1))


def test_each_choice_has_a_line_with_its_figures():
    choices = [
        {"form": form, "digit": digit, "PE": 71 + k, "SIMD": 81 + k, "cycles": 91 + k, "lut_estimate": 61 + k, "guess": k == 1}
        for k, (form, digit) in enumerate([("engine", None), ("serial", 2)])
    ]  # fmt: skip
    text = page({"layers": [layer("conv_1", 0, choices=choices)]}).decode()
    table = text.split('aria-label="The best of each form')[1].split("<tbody>")[1].split("</tbody>")[0]
    cells = [re.sub(r"<[^>]*>", " ", line).split() for line in table.split("</tr>")[:-1]]
    assert cells[0] == ["conv_1", "engine", "yes", "71", "81", "–", "91", "61", "yes"]
    assert cells[1] == ["conv_1", "serial", "no", "72", "82", "2", "92", "62", "no"]
    assert "The best of each form" not in page({"layers": [layer("conv_1", 0)]}).decode()


@pytest.mark.parametrize(
    "label, shown",
    [
        ("Accuracy", "97.38%"), ("Throughput", "890.6"), ("Interval between frames", "140,910"), ("Latency", "281,720"),
        ("Lanes", "796"), ("Weight bits stored", "30,496"), ("Mismatches", "0"), ("Steps", "1,190"),
        ("Steps at risk", "37"), ("Frames", "497"), ("Integers compared", "4,970"), ("Agreement", "99.80%"),
        ("Compression, whole model", "16.5×"), ("Accuracy of the reference", "97.58%"), ("DSP", "0"), ("LUT", "71,001"),
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
    assert any(title.startswith(name) for title in hostile.texts if "(ONNX: " in title)


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
    assert any(t.startswith(f"{name} (ONNX: ") for t in seen.texts)
    assert f"{name[:26]}…" in seen.texts


def test_prose_is_not_cut():
    known = report()
    known["notes"] = known["passes"][0]["notes"] = ["a remark " * 40]
    known["registers"][0]["description"] = "a meaning " * 40
    texts = Seen(page(known)).texts
    assert texts.count("a remark " * 40) == 2 and "a meaning " * 40 in texts


def test_wide_characters_count_twice():
    assert f"{'層' * 13}…" in Seen(page(report("層" * 40))).texts


@pytest.mark.parametrize("count", [1, 4, 5, 60])
def test_boxes_lie_apart_and_inside(count):
    content = page({"layers": [layer(f"conv_{k}", k) for k in range(count)]})
    found = boxes(content)
    width, height = map(float, re.search(r'class="pipeline" viewBox="0 0 (\d+) (\d+)"', content.decode()).groups())
    assert len(found) == count
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in found)
    for (x, y, w, h), (u, v, _, _) in combinations(found, 2):
        assert abs(x - u) >= w or abs(y - v) >= h


def test_bars_are_as_long_as_their_values():
    rows = [layer("half", 0, cycles_simulated=500), layer("slow", 0, cycles_simulated=1000)]
    chart = page({"layers": rows}).decode().split("<figcaption>Cycles per frame")[1].split("</svg>")[0]
    half, slow = (float(w) for w in re.findall(f'class="bar[^"]*" x="172" y="\\d+" width{NUMBER}', chart))
    assert half == slow / 2


def test_the_slowest_layer_is_the_bottleneck():
    rows = [layer("first", 0), layer("slow", 0, cycles_simulated=999999), layer("last", 0)]
    content = page({"layers": rows}).decode()
    marked = [part for part in content.split("<svg x=")[1:] if "bottleneck</text>" in part]
    assert len(marked) == 1 and "<title>slow" in marked[0]
    assert "bottleneck slow" in content


def test_without_cycles_nothing_is_the_bottleneck():
    assert b"bottleneck</text>" not in page({"layers": [layer("a", 0, cycles_simulated=None, cycles_predicted=None)]})


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
    assert all("aria-label" in names or "x" in names for tag, names in seen.elements if tag == "svg")
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
