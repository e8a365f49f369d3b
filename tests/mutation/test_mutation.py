"""The mutation tool: which faults it makes, which it leaves out, and that weak tests are found out."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.mutation.__main__ import find_mutants, main, sample
from tests.mutation.mutants import ExemptionError, enumerate_mutants, mutated_source
from tests.mutation.targets import files_for

MODULE = '''
def clip(x, low, high):
    """Clip 1 number."""
    if x < low:
        return low
    return min(x, high)
'''
STRONG = """
from tcompile.clip import clip

def test_clip():
    assert [clip(x, -1, 2) for x in (-2, -1, 0, 2, 3)] == [-1, -1, 0, 2, 2]
"""
WEAK = """
from tcompile.clip import clip

def test_clip():
    clip(0, -1, 2)
"""


def changes(source: str) -> set[str]:
    return {f"{m.before} -> {m.after}" for m in enumerate_mutants("m.py", source)}


def project(root: Path, test: str) -> Path:
    for name, text in {
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
        "tcompile/__init__.py": "",
        "tcompile/clip.py": MODULE,
        "tests/test_clip.py": test,
        "tests/mutation/tests.toml": "[tests]\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "source, expected",
    [
        ("a < b", {"a < b -> a <= b", "a < b -> a >= b"}),
        ("a == b", {"a == b -> a != b"}),
        ("a in b", {"a in b -> a not in b"}),
        ("a < b == c", {"a < b == c -> a <= b == c", "a < b == c -> a >= b == c", "a < b == c -> a < b != c"}),
        ("a + b", {"a + b -> a - b"}),
        ("a * b", {"a * b -> a + b"}),
        ("a // b", {"a // b -> a % b"}),
        ("a << b", {"a << b -> a >> b"}),
        ("a -= b", {"a -= b -> a += b"}),
        ("7", {"7 -> 8", "7 -> 6"}),
        ("0", {"0 -> 1", "0 -> -1"}),
        ("True", {"True -> False"}),
        ("-a", {"-a -> a"}),
        ("not a", {"not a -> a"}),
        ("a and b", {"a and b -> a or b"}),
        ("min(a, b)", {"min(a, b) -> max(a, b)"}),
        ("a & b", {"a & b -> a | b"}),
        ("a | b", {"a | b -> a & b"}),
        ("a ^ b", {"a ^ b -> a | b"}),
        ("~a", {"~a -> a"}),
        ("Mux(a, b, c)", {"Mux(a, b, c) -> Mux(a, c, b)"}),
        ("m.d.comb += a.eq(b)", {"m.d.comb -> m.d.sync"}),
        ("m.d.sync += a.eq(b)", {"m.d.sync -> m.d.comb"}),
        ("signed(n)", {"signed(n) -> unsigned(n)"}),
        ("unsigned(n)", {"unsigned(n) -> signed(n)"}),
        ("a.as_signed()", {"a.as_signed -> a.as_unsigned"}),
        ("np.floor(a)", {"np.floor -> np.ceil"}),
        ("np.rint(a)", {"np.rint -> np.floor"}),
        ("a.max()", {"a.max -> a.min"}),
        ("a[b:c]", {"b:c -> b + 1:c", "b:c -> b:c - 1"}),
        ("a[1:]", {"1 -> 2", "1 -> 0"}),
    ],
)
def test_operator_makes(source: str, expected: set[str]):
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""Doc with 1 number."""',
        "x: Literal[1, 2]",
        "def f(x: A[1] = None) -> B[2]: ...",
        "@cache(maxsize=1)\ndef f(): ...",
        "__all__ = ['a'] + ['b']",
        "raise E(f'{a + 1} is wrong')",
        "'a' + b",
        "a += [b, c]",
        "'%d' % a",
        "[None] * n",
        "assert a < 1",
        "isinstance(a, b.A | C | None)",
        "a.signed",
        "d.comb",
        "f(x, timeout=30)",
        "TIMEOUT = 30",
        "def f(a, timeout=30, *, b_timeout=3): ...",
        "zip(a, b, strict=True)",
        "if TYPE_CHECKING:\n    x = 1",
        "if __name__ == '__main__':\n    f(1)",
    ],
)
def test_no_fault_is_made_in(source: str):
    assert changes(source) == set()


def test_default_beside_a_timeout_is_mutated():
    assert changes("def f(a=5, timeout=30): ...") == {"5 -> 6", "5 -> 4"}


def test_mutant_differs_in_the_one_place():
    (less_equal, *_) = enumerate_mutants("m.py", MODULE)
    assert ast.unparse(ast.parse(MODULE)).replace("x < low", "x <= low") == mutated_source(less_equal, MODULE).rstrip()
    assert str(less_equal) == "m.py:4:8: x < low -> x <= low"


def test_every_mutant_is_valid_and_new():
    source = (ROOT / "tests" / "mutation" / "mutants.py").read_text(encoding="utf-8")
    mutants = enumerate_mutants("m.py", source)
    texts = {mutated_source(mutant, source) for mutant in mutants[::7]}
    assert ast.unparse(ast.parse(source)) + "\n" not in texts
    assert len(texts) == len(mutants[::7]) > 10
    for text in texts:
        compile(text, "mutant", "exec")


def test_long_expressions_show_the_difference():
    (mutant,) = enumerate_mutants("m.py", f"f({'long_name, ' * 30}) + {'b' * 100}")
    assert "…" in mutant.before
    assert mutant.before != mutant.after


def test_exempt_line_is_marked_with_its_reason():
    mutants = enumerate_mutants("m.py", "a < b  # mutate: no (they are never equal)\nc == d\n")
    assert [m.exempt for m in mutants] == ["they are never equal", "they are never equal", ""]


def test_exemption_without_reason_is_refused():
    with pytest.raises(ExemptionError, match=r"m\.py:2: .* must give its reason"):
        enumerate_mutants("m.py", "\na < b  # mutate: no\n")


def test_sample_is_the_same_for_a_seed():
    mutants = enumerate_mutants("m.py", "\n".join(f"a{i} < b" for i in range(50)))
    assert sample(mutants, 10, 1) == sample(mutants, 10, 1) != sample(mutants, 10, 2)
    assert sample(mutants, 0, 1) == mutants


def test_tests_named_after_the_module_come_first(tmp_path: Path):
    for name in ("ir/test_clip.py", "ir/test_abc.py", "test_all.py"):
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table = {"tcompile/ir": ["tests/ir"], "tcompile": ["tests/test_all.py", "tests/absent"]}
    assert files_for("tcompile/ir/clip.py", table, tmp_path) == [
        "tests/ir/test_clip.py",
        "tests/ir/test_abc.py",
        "tests/test_all.py",
    ]


def test_tests_may_name_the_folder_too(tmp_path: Path):
    for name in ("test_ir_clip.py", "test_ir_clip_more.py", "test_pass_clip.py"):
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert files_for("tcompile/ir/clip.py", {}, tmp_path) == ["tests/test_ir_clip.py", "tests/test_ir_clip_more.py"]


def test_path_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        find_mutants(tmp_path, ["no_such_folder"])


def run(root: Path, *more: str) -> tuple[int, dict[str, str]]:
    status = main(["--root", str(root), "--paths", "tcompile", "--sample", "0", *more])
    mutants = json.loads((root / "build/mutation.json").read_text(encoding="utf-8"))["mutants"]
    return status, {f"{m['before']} -> {m['after']}": m["outcome"] for m in mutants}


def test_strong_test_kills_all_but_the_equivalent_mutant(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = project(tmp_path, STRONG)
    status, outcomes = run(root, "--threshold", "0.6")
    assert status == 0
    assert outcomes == {
        "x < low -> x <= low": "survived",
        "x < low -> x >= low": "killed",
        "min(x, high) -> max(x, high)": "killed",
    }
    assert "2 of 3 mutants killed, 66.7%: enough" in capsys.readouterr().out
    assert (root / "tcompile/clip.py").read_text(encoding="utf-8") == MODULE


def test_weak_test_yields_survivors(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, outcomes = run(project(tmp_path, WEAK))
    assert status == 1
    assert set(outcomes.values()) == {"survived"}
    assert "  tcompile/clip.py:6:12: min(x, high) -> max(x, high)\n" in capsys.readouterr().out


def test_module_without_tests_survives(tmp_path: Path):
    root = project(tmp_path, STRONG)
    (root / "tests/test_clip.py").rename(root / "tests/test_other.py")
    assert set(run(root)[1].values()) == {"untested"}


def test_mutant_that_never_ends_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.mutation.trial.SECONDS_AT_LEAST", 2.0)
    monkeypatch.setattr("tests.mutation.trial.SLOWDOWN", 0.0)
    root = project(tmp_path, "from tcompile.clip import down\n\ndef test_down():\n    assert down(3) == 0\n")
    (root / "tcompile/clip.py").write_text(
        "def down(n):\n    while n > 0:\n        n -= 1\n    return n\n", encoding="utf-8"
    )
    assert run(root)[1]["n -= 1 -> n += 1"] == "timeout"


def test_failing_tests_are_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = project(tmp_path, "def test_wrong():\n    assert False\n")
    assert main(["--root", str(root), "--paths", "tcompile"]) == 2
    assert "without any fault, pytest tests/test_clip.py ends with 1" in capsys.readouterr().err
