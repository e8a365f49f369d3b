"""What all tests share: hypothesis profiles and the way to models and data sets that are not part of the project."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; threads that wait for each other spin

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("repeatable"), derandomize=False, max_examples=1000)
settings.register_profile(  # to fail soon matters there, not on a small example
    "mutation", settings.get_profile("repeatable"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def shared_model(name: str) -> Path:
    """Path of a trained model that is not part of the project, such as ``mnist8_cntk.onnx``; skips without it."""
    return _shared("models", name)


def shared_data(name: str) -> Path:
    """Path of a data set that is not part of the project, such as ``mnist``; skips without it."""
    return _shared("datasets", name)


def _shared(kind: str, name: str) -> Path:
    path = SHARED / kind / name
    if not path.exists():
        pytest.skip(f"{kind}/{name} is not on this machine")
    return path


@pytest.fixture(name="shared_model")
def _shared_model() -> Callable[[str], Path]:
    return shared_model


@pytest.fixture(name="shared_data")
def _shared_data() -> Callable[[str], Path]:
    return shared_data


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """Kept text of tests/golden by file name; ``--update-golden`` first writes the text found."""

    def read(name: str, found: str) -> str:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(found, encoding="utf-8")
        return path.read_text(encoding="utf-8")

    return read
