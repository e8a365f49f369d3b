"""How-to pages and the tutorial are run from top to bottom; they print what the pages say.

``--update-golden`` writes what is printed into the pages instead of comparing.
"""

from __future__ import annotations

import re
import shutil

import pytest

from tests.conftest import ROOT
from tests.pages import SECONDS, agrees, masked, replayed, without_speed

DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
HOWTO = [
    pytest.param(
        p, id=p.stem, marks=[pytest.mark.exhaustive] if "tcompile build" in p.read_text(encoding="utf-8") else []
    )
    for p in sorted((DOCS / "howto").glob("*.md"))
    if p.name != "README.md"
]
PAGE = """```python
# said.py
print(1, 2.5)
```

```console
$ python said.py
1 2.5
$ printf 'a\\nb\\nc\\n'
a
...
c
```

```python
print("0 mismatches")
```

```text
0 mismatches
```
"""


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("page", HOWTO)
def test_howto_prints_what_it_says(page, folder, request):
    if "$ iverilog" in page.read_text(encoding="utf-8") and shutil.which("iverilog") is None:
        pytest.skip("needs Icarus Verilog")
    compare(page, folder, request, without_speed)


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("make") is None, reason="needs g++ and make")
def test_tutorial_prints_what_it_says(tmp_path, request):
    """Numbers apart, which depend on the processor that trains."""
    for package in ("torch", "sklearn", "onnxscript"):
        pytest.importorskip(package)
    compare(TUTORIAL, tmp_path, request, masked, seconds=1800)


def compare(page, folder, request, same, seconds=SECONDS):
    text = page.read_text(encoding="utf-8")
    assert "```console" in text or "```text" in text
    found = replayed(text, folder, same, seconds)
    if request.config.getoption("--update-golden"):
        page.write_text(found, encoding="utf-8")
    assert found == page.read_text(encoding="utf-8")


def test_problem_of_floats_is_what_the_page_says(folder, request):
    compare(DOCS / "exactness.md", folder, request, str)


def test_codes_of_refusals_are_those_of_the_compiler():
    """Every kind of error that a page explains exists."""
    text = (DOCS / "howto" / "refused.md").read_text(encoding="utf-8")
    codes = [code for row in re.findall(r"^\| (`.*?) \|", text, re.M) for code in re.findall(r"`([a-z-]+)`", row)]
    sources = "".join(p.read_text(encoding="utf-8") for p in ROOT.glob("tcompile/**/*.py"))
    assert codes
    assert [code for code in codes if f'"{code}"' not in sources] == []


def test_page_that_is_right_stays(tmp_path):
    assert replayed(PAGE, tmp_path) == PAGE


@pytest.mark.parametrize(
    "right, false", [("\n1 2.5", "\n1 2.6"), ("```text\n0 mis", "```text\n1 mis"), ("\nc\n```", "\nd\n```")]
)
def test_page_that_is_right_stays_wrong(right, false, tmp_path):
    page = PAGE.replace(right, false)
    assert page != replayed(page, tmp_path)


@pytest.mark.parametrize("text", ["0 mismatches of 450", "accuracy 97.33%   x"])
def test_numbers_may_differ_but_mismatches_may_not(text):
    other = "1 mismatches of 450" if "mismatches" in text else "accuracy 8.1%  x"
    assert agrees(masked(text), masked(other)) is ("mismatches" not in text)
