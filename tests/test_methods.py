"""The page of methods says what was found: means, spreads, and drops against the better float network."""

from __future__ import annotations

from typing import Any

from benchmarks.methods import NETWORKS, ROWS, text
from tcompile.compress.recipe import Recipe, read_recipe


def result(test: float, *, test_float: float = 0.9, **more: Any) -> dict[str, Any]:
    weights = {"tile_sparsity": 0.5, "zeros": 0.6, "rate_model": 20.0, "rate_layers": None, "cycles": 7}
    accuracy = {"test": test, "test_float": test_float}
    return {"accuracy": accuracy, "weights": weights, "bytes": 100, "validation": [0.5, 0.75], **more}


def cells(page: str, title: str) -> list[str]:
    """The row of a method in the first table."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {title} |"))
    return [c.strip() for c in line.strip("|").split("|")]


def test_seeds_of_a_method_are_one_row():
    page = text({"lenet/sws/0": result(0.80), "lenet/sws/1": result(0.84)})
    assert cells(page, "statistical scaling")[3:6] == ["2", "**82.00 ± 2.83**", "8.00"]


def test_drops_are_against_the_better_float_network():
    found = {"lenet/sws/0": result(0.80), "lenet/float": {"epochs": 18, "test": 0.95}}
    assert cells(text(found), "statistical scaling")[5] == "15.00"
    found["lenet/float"]["test"] = 0.85
    assert cells(text(found), "statistical scaling")[5] == "10.00"


def test_hardware_is_beside_the_dense_one():
    def hardware(interval: int) -> dict[str, Any]:
        return {
            "verdict": "proved",
            "samples": 4,
            "mismatches": 0,
            "interval": interval,
            "interval_simulated": interval,
            "layers": {"a": 5},
        }

    def shown(**networks: dict[str, Any]) -> str:
        lines = text({f"lenet/{name}/0": network for name, network in networks.items()}).splitlines()
        return [s for s in lines if s.startswith("| clipping, half of the tiles |")][1]

    dense, half, wide = (
        result(0.8, hardware=hardware(interval), recipe={"act_bits": bits})
        for interval, bits in ((90, 4), (60, 4), (80, 8))
    )
    for network in (dense, wide):
        network["weights"]["tile_sparsity"] = 0.0
    line = "| clipping, half of the tiles | 50.0% | proved | 0 in 4 frames | 60 | 60 | {} | 5 |"
    assert shown(wpc50=half) == line.format("-")
    assert shown(sws=dense, wpc50=half) == line.format("1.50")
    assert shown(**{"sws-a8": wide}, wpc50=half) == line.format("-")  # activations of other bits


def test_networks_that_were_not_trained_are_not_there():
    assert NETWORKS[1].title not in text({"lenet/sws/0": result(0.8)})


def test_every_method_has_options_that_compress_takes(tmp_path):
    for row in ROWS:
        words = {
            k.removeprefix("--").replace("-", "_"): v for k, v in zip(row.options[::2], row.options[1::2], strict=True)
        }
        (tmp_path / "r.toml").write_text(row.config)
        assert isinstance(read_recipe(str(tmp_path / "r.toml"), words), Recipe)
