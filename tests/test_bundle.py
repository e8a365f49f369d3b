"""Build directories: whole or not at all, and the same bytes for the same input."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tcompile.bundle import Bundle, check_target, replace_file
from tcompile.errors import UsageError
from tcompile.options import BuildOptions
from tcompile.pipeline import build, compile_file
from tests.command import DIGITS, tree

REPORT = json.dumps({"schema": 1, "tools": {"tcompile": "0"}}).encode()
FILES = {"report.json": REPORT, "host/a.bin": b"\x00\x01", "deep/er/b.txt": "µ\n".encode()}


def test_files_are_written_as_they_are(tmp_path):
    Bundle(FILES).write(tmp_path / "new" / "build")
    written = {k: v for k, v in tree(tmp_path / "new" / "build").items() if v}
    assert written == FILES
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["build"]


def test_a_relative_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Bundle(FILES).write(Path("build"))
    assert (tmp_path / "build" / "report.json").read_bytes() == REPORT


def test_the_directory_may_be_entered_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        Bundle(FILES).write(tmp_path / "build")
        replace_file(tmp_path / "build" / "report.json", b"{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "build").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "build" / "report.json").stat().st_mode) == 0o640


def test_an_empty_directory_is_filled(tmp_path):
    Bundle(FILES).write(tmp_path)
    assert (tmp_path / "report.json").read_bytes() == REPORT


def test_a_name_of_the_greatest_length(tmp_path):
    Bundle(FILES).write(tmp_path / ("n" * 255))
    assert [p.name for p in tmp_path.iterdir()] == ["n" * 255]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_build_directory_is_never_replaced(tmp_path, force):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="build directory" if force else "must not exist"):
        Bundle(FILES).write(tmp_path, force=force)
    assert list(tree(tmp_path)) == ["notes.txt"]


def test_a_build_directory_is_replaced_only_when_asked(tmp_path):
    Bundle(FILES).write(tmp_path / "build")
    with pytest.raises(UsageError, match="must not exist"):
        check_target(tmp_path / "build", force=False)
    Bundle({"report.json": REPORT}).write(tmp_path / "build", force=True)
    assert list(tree(tmp_path)) == ["build", "build/report.json"]


def test_digest_tells_names_contents_and_borders_apart():
    digests = [
        Bundle(files).digest
        for files in ({}, {"a": b""}, {"a": b"b"}, {"ab": b""}, {"a": b"", "b": b""}, {"b": b"", "a": b"b"})
    ]
    assert len(set(digests)) == len(digests)


def test_digest_does_not_depend_on_the_order():
    assert Bundle(dict(sorted(FILES.items()))).digest == Bundle(dict(sorted(FILES.items(), reverse=True))).digest


def bundle(**given):
    options = BuildOptions(**given)
    return build(compile_file(DIGITS, options), options).bundle()


@pytest.mark.parametrize("options", [{}, {"prune": "tile:0.5", "weights": "csd:1"}])
def test_the_same_input_gives_the_same_bytes(options):
    first, second = (bundle(**options) for _ in range(2))
    assert first.digest == second.digest
    assert first.files == second.files


def test_another_input_gives_other_bytes_wrong():
    first, second = (bundle(pe=pe) for pe in (4, 8))
    assert first.digest != second.digest
