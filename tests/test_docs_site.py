"""The site: every page is in it, every link leads somewhere, and nothing comes from other hosts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

for package in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(package, reason="needs pip install 'tcompile[docs]'")

LOADED = re.compile(
    r"""<(?:script|img|link rel="(?:stylesheet|icon|preload)")[^>]*(?:src|href)="([^"]*)"|url\(["']?([^"')]*)"""
)


def built(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does it."""
    argv = ["-q", "-W", "--keep-going", "-c", ROOT / "docs", "-d", out / "doctrees", source, out / "site"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    done = built(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out / "site"


@pytest.mark.long
def test_every_page_is_in_the_site(site):
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
    assert [p for p in pages if not (site / p.relative_to(ROOT)).with_suffix(".html").is_file()] == []


@pytest.mark.long
def test_nothing_comes_from_other_hosts(site):
    texts = [p.read_text(encoding="utf-8") for p in site.rglob("*") if p.suffix in (".html", ".css")]
    loaded = {a or b for text in texts for a, b in LOADED.findall(text)}
    assert any("furo" in link for link in loaded)
    assert {link for link in loaded if re.match(r"(https?:)?//", link)} == set()


@pytest.mark.long
def test_root_leads_to_the_first_page(site):
    (target,) = re.findall(r'href="([^"]*)"', (site / "index.html").read_text(encoding="utf-8"))
    assert (site / target).is_file()


def test_links_that_lead_nowhere_fail_wrong(tmp_path):
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    page = source / "docs" / "index.md"
    page.write_text("# Title\n\n[x](index.md#title) [y](../LICENSE)\n")
    shutil.copy(ROOT / "LICENSE", source)
    assert built(source, tmp_path / "right").returncode == 0
    links = ["[x](nowhere.md)", "[x](../LICENCE)", "[x](index.md#nowhere)", "![x](nowhere.svg)"]
    page.write_text(page.read_text() + "\n".join(links) + "\n")
    done = built(source, tmp_path / "false")
    assert done.returncode != 0
    assert done.stderr.count("WARNING") == len(links)


def test_page_that_no_list_names_fails_wrong(tmp_path):
    (tmp_path / "source" / "docs").mkdir(parents=True)
    for name in ("index", "other"):
        (tmp_path / "source" / "docs" / f"{name}.md").write_text("# Title\n")
    done = built(tmp_path / "source", tmp_path)
    assert done.returncode != 0
    assert "isn't included in any toctree" in done.stderr
