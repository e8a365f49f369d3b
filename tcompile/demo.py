"""The demo: a ternary network trained on handwritten digits, from the ONNX file to verified Verilog."""

from __future__ import annotations

from pathlib import Path

from tcompile.console import Screen
from tcompile.errors import InternalError, Problem
from tcompile.options import BuildOptions
from tcompile.pipeline import build, compile_file, verify_build
from tcompile.show import show_layers, show_verification

__all__ = ["demo_file", "run_demo"]

PACKAGE = Path(__file__).parent
PLACES = (PACKAGE / "_examples", PACKAGE.parent / "examples" / "digits")  # an installed wheel, a checkout


def demo_file(name: str) -> Path:
    """A file of the demo network."""
    for place in PLACES:
        if (place / name).is_file():
            return place / name
    raise InternalError(Problem("no-demo", f"the demo's file {name} is not installed"))


def run_demo(screen: Screen, directory: Path) -> None:
    """Compile, write and verify the digits network; the test images are real and were not trained on."""
    model = demo_file("digits.int2.onnx")
    options = BuildOptions()
    built = build(compile_file(model, options), options)
    built.write(directory, force=True)
    if not screen.as_json:
        show_layers(screen, built.report)
    screen.say(f"wrote {directory}; building the cycle simulation")
    data = demo_file("digits.npz")
    with screen.progress() as tell:
        report, found = verify_build(directory, data, progress=tell)
    show_verification(screen, report, found)
    screen.say(f"the whole report: {directory / 'report.html'}")
