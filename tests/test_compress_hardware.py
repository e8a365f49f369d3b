"""Pruning that knows the hardware: tiles in engines, single weights in graphs, and as many as let a device hold it all."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tcompile.compress import Compression
from tcompile.compress.goals import STEPS, Candidate, Even, Fitting
from tcompile.compress.groups import groups_of_layer
from tcompile.compress.hardware import Hardware
from tcompile.compress.job import _misplaced, run
from tcompile.compress.methods import pruner_for, shapes_for
from tcompile.compress.recipe import Recipe, read_recipe
from tcompile.errors import Problem, UsageError
from tcompile.frontend.importer import import_model
from tcompile.frontend.normalize import normalize
from tests.compression import few, model

SLOW, FAST = 1e4, 9e5  # frames per second: engines suffice, and graphs are needed
TOO_LARGE = Problem("too-large", "the design must fit")


def network(**options: object) -> Compression:
    return Compression(import_model(normalize(model())), few()["x_train"], **options)


@lru_cache(maxsize=1)
def plain() -> Compression:
    return network()


def of(fps: float, target: str | None = None) -> Hardware:
    return Hardware.at(plain()._prepared, fps, 100.0, target)


def candidate(strengths: list[float], codes: list[int] | None = None, name: str = "layer") -> Candidate:
    kept = np.array(codes if codes is not None else [1] * len(strengths))
    return Candidate(name, np.array(strengths), kept != 0, np.arange(len(strengths)), kept)


# The same share of each layer


def test_every_layer_loses_its_share() -> None:
    layers = [candidate([1, 2, 3, 4]), candidate([9, 8])]
    assert [d.tolist() for d in Even(0.5).dropped(layers)] == [[True, True, False, False], [False, True]]


def test_a_group_stays_in_every_layer() -> None:
    assert [d.tolist() for d in Even(0.9).dropped([candidate([1, 2]), candidate([5])])] == [[True, False], [False]]


# A device


@pytest.mark.parametrize("wanted", [0, 1, 7, 20, STEPS - 1])
def test_the_smallest_share_that_fits_is_taken(wanted: int) -> None:
    layer = candidate([float(k + 1) for k in range(STEPS)])

    def misfit(codes: dict[str, np.ndarray]) -> list[Problem]:
        return [TOO_LARGE] if np.count_nonzero(codes["layer"]) > STEPS - wanted else []

    assert int(Fitting(misfit).dropped([layer])[0].sum()) == wanted


def test_weights_that_are_left_count_as_not_zero() -> None:
    layer = candidate([4, 3, 2, 1], [1, 0, -1, 0])
    assert layer.kept_without(np.array([False, False, False, True])).tolist() == [1, 1, -1, 0]


def test_a_device_that_is_too_small_is_refused_with_what_was_tried() -> None:
    with pytest.raises(UsageError, match="with 31 of 32 groups pruned the design must fit"):
        Fitting(lambda codes: [TOO_LARGE]).dropped([candidate([1, 2, 3])])


# What the mapping makes of it


def test_forms_follow_the_rate() -> None:
    assert set(of(SLOW).forms().values()) == {"engine"}
    assert of(FAST).forms() == {"conv1": "parallel", "conv2": "serial", "linear": "engine"}


def test_forms_are_by_layer() -> None:
    assert list(of(SLOW).forms()) == ["conv1", "conv2", "linear"]


def test_what_fits_is_said_by_the_mapping() -> None:
    lut = of(SLOW).mapped().total().lut
    assert of(SLOW, f"ecp5:{lut},100000,100").misfit() == ()
    assert [p.code for p in of(SLOW, f"ecp5:{lut - 1},100000,100").misfit()] == ["too-large"]


def test_a_rate_out_of_reach_is_no_misfit() -> None:
    with pytest.raises(UsageError, match="must take at most 1 cycles"):
        of(1e8, "ecp5:1,1,1").misfit()


def test_costs_are_those_of_the_devices_family_even_if_it_is_too_small() -> None:
    found = of(SLOW, "xcup:10,10,1").facts()
    assert (
        found["family"] == "xcup"
        and "must fit" in found["problems"][0]
        and set(found["forms"]) == set(of(SLOW).forms())
    )


def test_what_is_out_of_reach_is_refused_before_training() -> None:
    told: list[object] = []
    for options in (
        {"fps": 1e8},
        {"fps": FAST, "method": "magnitude", "target": "ecp5:10,10,1"},
        {"method": "lasso", "cycles": 1},
    ):
        with pytest.raises(UsageError, match="must"):
            run(import_model(normalize(model())), few(), read_recipe(None, {**options, "epochs": 3}), tell=told.append)
    assert told == []


def test_layers_that_are_quantized_already_are_no_sites() -> None:
    """conv1 of the digits network, its codes in the file."""
    proto = model()
    (weight,) = (w for w in proto.graph.initializer if w.name == "0.weight")
    codes = np.sign(numpy_helper.to_array(weight)).astype(np.int8)
    proto.graph.initializer.extend(
        [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(np.float32(0.25), "scale")]
    )
    proto.graph.initializer.remove(weight)
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "scale"], ["0.weight"], "dq"))
    net = Compression(import_model(normalize(proto)), few()["x_train"])
    found = Hardware.at(net._prepared, SLOW, 100.0)
    assert list(found.forms()) == ["conv2", "linear"] == [s.name for s in net._prepared.sites]


def test_given_weights_stand_for_those_of_now() -> None:
    none = {
        s.name: np.eye(1, s.weight.numel(), dtype=np.int64).reshape(s.weight.shape) for s in plain()._prepared.sites
    }
    assert of(FAST).mapped(none).total().lut < of(FAST).mapped().total().lut / 2


# The recipe


def test_layers_are_pruned_as_their_hardware_skips() -> None:
    recipe = read_recipe(None, {"method": "magnitude", "group": "form", "sparsity": 0.5, "fps": FAST})
    assert shapes_for(plain()._prepared, recipe) == {"conv1": "weight", "conv2": "weight", "linear": "tile"}


def test_other_groups_are_the_same_in_all_layers() -> None:
    recipe = read_recipe(None, {"method": "magnitude", "group": "slice", "sparsity": 0.5})
    assert set(shapes_for(plain()._prepared, recipe).values()) == {"slice"}


def test_form_prunes_the_same_share_of_each_layer() -> None:
    net = network(method="magnitude", group="form", sparsity=0.5, fps=FAST, skip_first=False)
    net.finish()
    conv1, conv2, linear = net._prepared.sites
    for site in (conv1, conv2):
        assert int(site.mask.sum()) == site.mask.numel() - round(0.5 * site.mask.numel())
    tiles = groups_of_layer("tile", net._prepared.graph, linear.layer)
    assert (tiles.count, int(tiles.alive(linear.mask).sum())) == (16, 8)


def test_a_device_is_fitted_by_pruning() -> None:
    """A quarter less than the whole needs; the first layer, which is small, stays as it is."""
    full = of(FAST).mapped().total()
    target = f"ecp5:{full.lut * 3 // 4},{full.ff},100"
    recipe = read_recipe(
        None,
        {"method": "magnitude", "group": "form", "fps": FAST, "target": target, "epochs": 1, "retrain": 1},
    )
    result = run(import_model(normalize(model())), few(), recipe)
    hardware = result.report["hardware"]
    assert not hardware["problems"]
    assert hardware["lut"] <= full.lut * 3 // 4
    pruned = result.report["pruned"]
    assert {name: p["group"] for name, p in pruned.items()} == {"conv2": "weight", "linear": "tile"}
    assert 0 < pruned["conv2"]["zero"] < pruned["conv2"]["groups"] == 16 * 8 * 9
    assert result.report["weights"]["zeros"] > 0.2


def test_what_was_pruned_for_other_hardware_is_said() -> None:
    pruned = {"a": {"group": "tile"}, "b": {"group": "weight"}, "c": {"group": "weight"}}
    made = {"forms": {"a": "serial", "b": "engine", "c": "parallel"}}
    notes = list(_misplaced(Recipe.model_construct(group="form"), pruned, made))
    assert notes == [
        "'a' was pruned by tiles, and its hardware is of form serial in the end",
        "'b' was pruned by single weights, and its hardware is of form engine in the end",
    ]


def test_hardware_is_reported_at_a_rate_only() -> None:
    recipe = {"epochs": 0}
    assert run(import_model(normalize(model())), few(), read_recipe(None, recipe)).report["hardware"] is None
    found = run(import_model(normalize(model())), few(), read_recipe(None, {**recipe, "fps": SLOW})).report["hardware"]
    assert found["interval"] <= 100e6 / SLOW and found["lut"] > 0 and found["family"] == "ecp5"


def test_admm_cannot_have_a_device() -> None:
    options = {"method": "admm", "target": "ecp5:1,1,1", "fps": 1.0}
    with pytest.raises(UsageError, match="a target takes too long"):
        read_recipe(None, options)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"group": "form", "sparsity": 0.5}, "need the rate"),
        ({"target": "ecp5:1,1,1"}, "need the rate"),
        ({"target": "ecp5:1,1,1", "fps": 1.0, "sparsity": 0.5}, "contradict"),
        ({"group": "form", "cycles": 5, "fps": 1.0}, "cycles count what engines take"),
        ({"target": "no-such-part", "fps": 1.0}, "device that is known"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        pruner_for(plain()._prepared, read_recipe(None, {"method": "magnitude", **options}))
