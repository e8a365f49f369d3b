"""Names of ONNX nodes and tensors are other people's text: none of it reaches files that tools read, and all works."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

from tcompile.accelerator import Accelerator
from tcompile.accelerator import compile as compiled
from tcompile.bundle import Bundle
from tcompile.simulate.netlist import KEYWORDS
from tests.command import tcompile
from tests.models import Net, typed

HOSTILE = [
    "module", "reg", "always", "wire", "tcompile_top", "tc_rom", "control", "reset", "ap_clk", "s_axis_0", "Module",
    'say "hi"', "it's", "two\nlines\r\n", "$(rm -rf zqx)", "`touch zqx`", "; rm zqx #", "../../zqx", "/etc/zqx", "a/../b",
    "zqx\\", "*/ zqx /*", "// zqx", "`define zqx", "{{ zqx }}", "{% zqx %}", "%s%n{0}", "<script>zqx</script>", "$display",
    "\x1b[31mzqx", "größe", "卷积", "\u202ezqx", "🙂", "0", "9lives", "a.b", "a-b", "a_b", "A_B", "a b", "_", "__", "-rf",
    "zqx" * 100, " ", "conv\t1", "<script>", "$(rm)", "`", "{{7*7}}", "[exec rm zqx]", "${zqx}", "$zqx", "]]> zqx", "--> zqx",
    "&zqx;", "' or zqx", "- zqx: {", "#zqx", "zqx */", "CON", "aux.v", "end", "endmodule", "int", "nan", "None", "x" * 41, "x" * 40 + "y",
]  # fmt: skip
CLEAN = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
WORDS = re.compile(r"\"[^\"\n]*\"|//[^\n]*|/\*.*?\*/|\\\S+|\$?[^\W\d][\w$]*", re.DOTALL)  # no numbers
TOLD = ("sim/", "host/", "synth/")
DATA = (".json", ".onnx", ".npz", ".bin", ".ir", ".html")  # where the names stand, each in its own quotes


def network() -> tuple[Net, list[str]]:
    """A small residual network with two inputs and two outputs, whose values have memories, probes and host parts."""
    rng = np.random.default_rng(3)
    net = Net()
    x = net.dq(net.input((1, 2, 4, 4)), 0.5, 3)
    z = net.qdq(net.dq(net.input((1, 2, 4, 4)), 0.25, 7), 0.5, 0, "uint4")
    a = net.qdq(net.op("Relu", net.op("Conv", net.qdq(x, 0.5, 0, "uint4"), conv_weight(net, rng), pads=[1] * 4)), 2.0)
    b = net.qdq(net.op("Conv", z, conv_weight(net, rng), pads=[1] * 4), 1.3, 90)
    c = net.qdq(net.op("Add", a, b), 3.1, 20)
    c = net.op("MaxPool", c, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("MatMul", net.op("Reshape", c, net.const([1, 8], "int64")), net.weight(rng.integers(-1, 2, (8, 3)), 0.5))
    return net, [net.q(y, 1.7, 100), net.op("ArgMax", y, axis=1)]


def conv_weight(net: Net, rng: np.random.Generator) -> str:
    return net.weight(rng.integers(-1, 2, (2, 2, 3, 3)), 0.5, "int2")


def renamed(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with other names for nodes and tensors, in turn, and without some names of nodes."""
    graph = model.graph
    ends = [*(i.name for i in graph.input), *(o.name for o in graph.output)]
    inner = dict.fromkeys([*ends, *(o for n in graph.node for o in n.output), *(t.name for t in graph.initializer)])
    unique = [*names, *(f"{n} {n}" for n in names)]
    new = dict(zip(inner, unique, strict=False))
    assert len(new) == len(inner)
    for node, name in zip(graph.node, [*names[::-1], *names], strict=False):
        node.name = name if len(node.output[0]) % 7 else ""
        node.input[:] = [new[i] if i else "" for i in node.input]
        node.output[:] = [new[o] for o in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new[value.name]
    graph.name = '"; $(rm zqx)\n'
    model.producer_name = "`zqx`"
    return model


def saved(folder: Path, rotation: int | None) -> Path:
    """The model under its own names, or under hostile ones beginning with another of the list."""
    net, outputs = network()
    model = typed(net.model(*outputs))
    if rotation is not None:
        model = renamed(model, HOSTILE[rotation:] + HOSTILE[:rotation])
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def bundle(accelerator: Accelerator) -> Bundle:
    return accelerator._built.bundle()


@pytest.fixture(name="harmless", scope="module")
def _harmless(tmp_path_factory):
    return bundle(compiled(saved(tmp_path_factory.mktemp("harmless"), None), pe=2, simd=2))


@pytest.fixture(name="hostile", scope="module", params=[0, 11, 22, 33, 44, 55])
def _hostile(request, tmp_path_factory):
    return bundle(compiled(saved(tmp_path_factory.mktemp("hostile"), request.param), pe=2, simd=2))


def texts(found: Bundle) -> dict[str, str]:
    """Files that tools and compilers read."""
    return {n: c.decode() for n, c in found.files.items() if not n.endswith(DATA)}


def test_file_names_are_clean(hostile):
    assert [n for n in hostile.files if not all(map(CLEAN.fullmatch, n.split("/")))] == []
    assert len({n.lower() for n in hostile.files}) == len(hostile.files)
    assert max(len(n.split("/")[-1]) for n in hostile.files) < 120


def test_identifiers_of_the_top_are_plain(hostile):
    """Lower-case words, none of them with a meaning but those of the template."""
    assert strange(hostile) == set()


def strange(found: Bundle) -> set[str]:
    words = set(WORDS.findall(found.files["rtl/tcompile_top.v"].decode()))
    words = {w for w in words if not w.startswith(("//", "/*")) and not re.fullmatch(r"\"[\w./]*\"", w)}
    template = {
        "module",
        "endmodule",
        "input",
        "output",
        "wire",
        "parameter",
        "MEM_DIR",
        "WIDTH",
        "DEPTH",
        "ADDR",
        "FILE",
    }
    return {w for w in words - template if not re.fullmatch(r"[a-z_][a-z0-9_]*", w) or w in KEYWORDS}


@pytest.mark.parametrize("name", ["reg", "\\esc ", "Upper", "$display", "u_größe"])
def test_strange_identifiers_are_found_wrong(harmless, name):
    top = harmless.files["rtl/tcompile_top.v"].decode()
    assert strange(harmless) == set()
    assert len(strange(Bundle({"rtl/tcompile_top.v": top.replace("u_control ", f"{name} ").encode()}))) == 1


def test_blocks_do_not_know_the_names(hostile, harmless):
    """All modules but the top are the same files."""
    kinds = [{n: c for n, c in b.files.items() if re.match(r"rtl/tc_\w+\.v", n)} for b in (hostile, harmless)]
    assert kinds[0] == kinds[1]
    assert len(kinds[0]) > 10


def test_memories_and_golden_frames_do_not_know_the_names(hostile, harmless):
    contents = [sorted(c for n, c in b.files.items() if n.endswith((".mem", ".bin"))) for b in (hostile, harmless)]
    assert contents[0] == contents[1]


def test_benches_do_not_know_the_names(hostile, harmless):
    """Programs, scripts and rules for make are the same files; the names of values are in JSON."""
    kinds = [
        {n: t for n, t in texts(b).items() if n.startswith(TOLD) and not n.endswith((".h", ".tcl", "layers.ys"))}
        for b in (hostile, harmless)
    ]
    assert kinds[0] == kinds[1]
    assert {
        "synth/Makefile",
        "synth/ecp5.ys",
        "sim/Makefile",
        "sim/bench.cpp",
        "sim/probe.vlt",
        "sim/test_bench.py",
        "host/pack.py",
        "host/driver.py",
    } <= set(kinds[0])


def test_scripts_of_synthesis_name_plain_cells_of_the_top(hostile):
    """Layers by number, cells by the identifiers of the Verilog."""
    script = hostile.files["synth/layers.ys"].decode()
    named = set(re.findall(r"tcompile_top/([um]_[a-z0-9_]+)\b", script))
    assert (
        named
        == set(re.findall(r"^    (?:\) |tc_\w+ )([um]_\w+) \(", hostile.files["rtl/tcompile_top.v"].decode(), re.M))
        & named
    )
    rest = re.sub(r" tcompile_top/[um]_[a-z0-9_]+\b", "", script)
    assert len(named) > 10 and re.sub(r"layer_\d+", "layer", rest).count('submod "layer"\n') == rest.count(
        "setattr -set"
    )


INTEGRATION = ["component.xml", "tcompile_top.core", "synth/vivado.tcl", "host/tcompile.h"]


@pytest.mark.parametrize("name", INTEGRATION)
def test_files_for_other_flows_know_only_the_names_of_memories(hostile, harmless, name):
    """Apart from those and from the identity, which depends on them, they are the same files."""
    found, usual = (neutral(b.files[name].decode()) for b in (hostile, harmless))
    assert found == usual


def neutral(text: str) -> list[str]:
    """The words of a text in any order, but not memories and constants of 32 bits."""
    return sorted(w for w in re.split(r"\s+", re.sub(r"\w+\.mem\b|0x[0-9A-F]{8}u|'h[0-9A-F]{5,8}\b", "@", text)))


def test_xml_is_well_formed_and_its_elements_are_the_usual_ones(hostile, harmless):
    trees = [[e.tag for e in ET.fromstring(b.files["component.xml"]).iter()] for b in (hostile, harmless)]
    assert trees[0] == trees[1]


def test_tcl_is_complete_and_runs_no_command_in_a_name(hostile):
    tcl = pytest.importorskip("tkinter", reason="this Python has no Tcl").Tcl()
    called = []
    for word in ("exec", "open", "source", "file"):
        tcl.eval(f"rename {word} {{}}")
    tcl.createcommand("unknown", lambda *words: called.append(words[0]) or "")
    script = hostile.files["synth/vivado.tcl"].decode()
    assert tcl.call("info", "complete", script)
    tcl.eval(script.split("proc ")[0])
    assert set(called) == {"file"}
    assert len(tcl.splitlist(tcl.getvar("memories"))) == sum(n.endswith(".mem") for n in hostile.files)


def test_core_is_yaml_that_names_files_only(hostile):
    yaml = pytest.importorskip("yaml", reason="there is no reader of YAML: pip install fusesoc")
    core = yaml.safe_load(hostile.files["tcompile_top.core"].decode().split("\n", 1)[1])
    named = {
        n
        for f in core["filesets"].values()
        for entry in f["files"]
        for n in ([entry] if isinstance(entry, str) else entry)
    }
    assert named <= set(hostile.files)


@pytest.mark.parametrize("name", ["host/tcompile.h", "sim/bench.cpp"])
def test_comments_of_c_end_where_they_should(hostile, harmless, name):
    found, usual = (
        re.sub(r"/\*.*?\*/|//[^\n]*|0x[0-9A-F]{8}u", "", b.files[name].decode(), flags=re.DOTALL)
        for b in (hostile, harmless)
    )
    assert found == usual


class Tags(HTMLParser):
    """What a browser sees of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_page_has_no_elements_from_names(hostile, harmless):
    found, usual = (Tags(b.files["report.html"].decode()) for b in (hostile, harmless))
    assert {t for t, _ in found.tags} <= {t for t, _ in usual.tags} | {"abbr"}
    assert not {a for _, attrs in found.tags for a in attrs if a.startswith("on")}
    assert "script" not in {t for t, _ in found.tags}


def test_names_in_data_are_read_back_as_they_are(hostile):
    """JSON and the text of the network quote them; nothing in them is computed or cut."""
    ports = json.loads(hostile.files["host/ports.json"])
    names = [p["tensor"] for kind in ("inputs", "outputs") for p in ports[kind]]
    assert set(names) <= set(HOSTILE) | {f"{n} {n}" for n in HOSTILE}
    assert all(json.loads(c) for n, c in hostile.files.items() if n.endswith(".json"))
    assert b"{{49}}" not in hostile.files["report.html"]


def test_tools_read_no_text_of_the_names(hostile, harmless):
    wild = [n for n in HOSTILE if not re.fullmatch(r"[\w ]*", n, re.ASCII)]
    found, usual = "\0".join(texts(hostile).values()), "\0".join(texts(harmless).values())
    assert len(wild) > 25
    assert [n for n in wild if n in found and n not in usual] == []
    assert found.isascii()


def test_page_does_not_run_the_names(hostile):
    assert b"<script>zqx" not in hostile.files["report.html"]


@pytest.mark.long
def test_hostile_network_is_built_and_verified(tmp_path):
    """By the command, in Verilator, against onnxruntime."""
    model = saved(tmp_path, 0)
    built = tcompile("build", model, "-o", tmp_path / "out", "--pe", 2, "--simd", 2)
    assert built.code == 0, built.err
    before = sorted(tmp_path.iterdir())
    done = tcompile("verify", tmp_path / "out", "--samples", 8, "--simulator", "verilator", "--json")
    assert done.code == 0, done.err
    assert done.json["verification"]["mismatches"] == 0
    assert sorted(tmp_path.iterdir()) == before
    assert "\x1b[31mzqx" not in built.out + built.err + done.out + done.err
