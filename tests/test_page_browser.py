"""The page in a browser: Debian's Chromium without a window, driven by playwright; nothing is downloaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest

import tcompile
from tests.models import RESIDUAL_FOLDS, residual_network

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = {
    "conv_3": "<script>window.x = 1</script>", "conv_9": "{{7*7}}", "add_13": "$(rm) `id`", "relu_5": "\" onload='window.x = 1'",
    "quantizelinear_0": "</title><img src=x onerror=window.x=1>",
}  # fmt: skip
SCHEMES = ("light", "dark")


@dataclass
class View:
    """An open page, and what it said and asked for."""

    page: Any
    messages: list[str]
    requests: list[str]

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(expression)


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on PATH; Debian has it: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'tcompile[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build directory of a residual network whose names are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    onnx.save(residual_network(NAMES), folder / "$(rm).onnx")
    folds = {NAMES.get(name, name): fold for name, fold in RESIDUAL_FOLDS.items()}
    tcompile.compile(folder / "$(rm).onnx", fold=folds).write(folder / "build")
    return folder / "build"


def look(browser: Any, file: Path, **options: Any) -> View:
    """Open a file in a tab of its own."""
    page = browser.new_context(**options).new_page()
    view = View(page, [], [])
    page.on("console", lambda message: view.messages.append(message.text))
    page.on("pageerror", lambda error: view.messages.append(str(error)))
    page.on("request", lambda request: view.requests.append(request.url))
    page.goto(file.as_uri())
    return view


@pytest.fixture(name="view", params=SCHEMES)
def _view(request: pytest.FixtureRequest, browser: Any, built: Path) -> Iterator[View]:
    view = look(browser, built / "report.html", color_scheme=request.param)
    yield view
    view.page.context.close()


def planted(browser: Any, built: Path, tmp_path: Path, *faults: tuple[str, str]) -> View:
    """The page with faults in it: texts that become others."""
    text = (built / "report.html").read_text()
    for old, new in faults:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "planted.html").write_text(text)
    return look(browser, tmp_path / "planted.html")


def test_the_page_says_nothing_and_asks_for_nothing(view, built):
    assert view.messages == []
    assert [url for url in view.requests if not url.startswith("data:")] == [(built / "report.html").as_uri()]


def test_a_script_that_got_through_would_be_seen_wrong(browser, built, tmp_path):
    view = planted(browser, built, tmp_path, (escape(NAMES["conv_3"]), NAMES["conv_3"]))
    assert any("Content Security Policy" in message for message in view.messages)
    assert view.ask("typeof window.x") == "undefined", "the page's own policy must stop it"


def test_names_of_the_model_are_text(view):
    assert view.ask("typeof window.x") == "undefined"
    names = view.page.locator(".flow .layer .head strong").all_inner_texts()
    assert names[:2] == [NAMES["conv_3"], NAMES["conv_9"]]
    assert NAMES["add_13"] in names[2]
    assert view.page.title().startswith("$(rm).onnx")


def test_no_other_file_of_the_build_has_these_names(built):
    marks = (b"<script", b"{{7*7}}", b"$(rm)", b"onload=", b"<img")
    told = {"report.json", "report.html", "network.ir", "ports.json", "README.md"}
    others = [f for f in built.rglob("*") if f.is_file() and f.suffix != ".onnx" and f.name not in told]
    assert [f.name for f in others if any(mark in f.read_bytes() for mark in marks)] == []
    assert any(f.suffix == ".v" for f in others)


def test_the_table_shows_the_layers_of_the_report(view, built):
    layers = json.loads((built / "report.json").read_text())["layers"]
    for table, keys in (
        ("#layers", "MH MW PE SIMD tiles_kept tiles positions cycles_predicted additions_done additions_dense"),
        ("#synthesis", "lut_estimate ff_estimate bram_estimate"),
    ):
        rows = view.page.locator(f"{table} tbody tr").all_inner_texts()
        for row, text in zip(layers, rows, strict=True):
            assert {f"{row[k]:,}" for k in keys.split() if row[k] is not None} <= set(text.split())


def test_the_picture_shows_cycles_and_lanes_of_the_report(view, built):
    report = json.loads((built / "report.json").read_text())
    boxes = view.page.locator(".flow .layer").all_inner_texts()
    for row, text in zip(report["layers"], boxes, strict=True):
        if row["cycles_predicted"] is not None:
            share = f"{row['cycles_predicted'] / report['performance']['ii_cycles']:.0%} of the interval"
            assert f"{row['cycles_predicted']:,}" in text.split() and share in text
            assert f"{row['PE']} × {row['SIMD']}" in text and f"{row['MH']} × {row['MW']}" in text


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out(browser, built, width):
    view = look(browser, built / "report.html", viewport={"width": width, "height": 800})
    assert view.ask("document.documentElement.scrollWidth") <= width
    boxes = [box.bounding_box() for box in view.page.locator(".flow .box").all()]
    assert all(above["y"] + above["height"] < below["y"] for above, below in pairwise(boxes))
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)


def test_wires_are_whole_and_end_at_boxes(view):
    items = [item.bounding_box() for item in view.page.locator(".flow > li").all()]
    assert all(above["y"] + above["height"] == pytest.approx(below["y"], abs=0.1) for above, below in pairwise(items))
    kinds = view.ask(
        """[...document.querySelectorAll('.flow > li')].map(li => {
        const svg = li.querySelector('.wires'), head = svg?.querySelector('.head')?.getBoundingClientRect()
        const box = li.querySelector('.box').getBoundingClientRect()
        return svg && [Math.abs(svg.getBoundingClientRect().height - li.getBoundingClientRect().height) < 0.1,
                       head ? Math.abs(head.right - box.left) < 1.5 : null]})"""
    )
    assert kinds == [None, [True, None], [True, None], [True, True], None]


def test_the_keyboard_reaches_everything_and_shows_where_it_is(view):
    seen = []
    for _ in range(60):
        view.page.keyboard.press("Tab")
        where = view.ask(
            """(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect()
            return e === document.body ? null : [e.tagName, e.getAttribute('href') ?? e.getAttribute('aria-label') ?? e.innerText,
                    s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1, r.width > 0 && r.right > 0] })()"""
        )
        if where is None:
            break
        seen.append(where)
    assert seen[0][:2] == ["A", "#content"]
    links = view.ask("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert [name for tag, name, *_ in seen if tag == "A"][1:] == links
    assert len({name for tag, name, *_ in seen if tag == "SUMMARY"}) == view.page.locator("details").count() > 0
    assert all(outlined and shown for *_, outlined, shown in seen)


def test_the_keyboard_opens_what_is_folded_away(view):
    details = view.page.locator("details").first
    assert details.get_attribute("open") is None
    details.locator("summary").press("Enter")
    assert details.get_attribute("open") is not None


def test_both_schemes_are_drawn(browser, built):
    papers = {
        look(browser, built / "report.html", color_scheme=scheme).ask("getComputedStyle(document.body).backgroundColor")
        for scheme in SCHEMES
    }
    assert len(papers) == 2


def test_print_shows_what_is_folded_away(browser, built):
    view = look(browser, built / "report.html")
    height = "document.querySelector('details table').getBoundingClientRect().height"
    shown = "document.querySelector('details table').checkVisibility()"
    assert not view.ask(shown)
    view.page.emulate_media(media="print")
    assert view.ask(shown) and view.ask(height) > 50
    assert view.ask("document.documentElement.scrollWidth") <= view.ask("innerWidth")
    assert view.page.pdf().startswith(b"%PDF")


def violations(page: Any) -> list[str]:
    """What axe-core finds, by its rules for WCAG 2 A and AA and good practice."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="axe-playwright-python is not installed: pip install 'tcompile[dev]'",
    )
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in axe.Axe().run(page).response["violations"]]


def test_axe_finds_nothing(view):
    for item in view.page.locator("details").all():
        item.evaluate("e => { e.open = true }")
    assert violations(view.page) == []


FAULTS = {
    "color-contrast": ("--soft: #565d64", "--soft: #a0a0a0"),
    "html-has-lang": ('<html lang="en">', "<html>"),
    "svg-img-alt": ('role="img" aria-label="Map', 'role="img" lang="Map'),
}


def test_axe_finds_planted_faults_wrong(browser, built, tmp_path):
    found = violations(planted(browser, built, tmp_path, *FAULTS.values()).page)
    assert {v.split(":")[0] for v in found} == {*FAULTS}
