"""The work of ``tcompile compress`` between two graphs: data, preparation, training, what came out in numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from tcompile.compress.census import counter, totals
from tcompile.compress.data import split
from tcompile.compress.groups import Shape
from tcompile.compress.methods import hardware_for, low_rank_for, prepared_for, pruner_for, shapes_for
from tcompile.compress.prepare import Prepared, scores_of
from tcompile.compress.pruners import Pruner
from tcompile.compress.recipe import Recipe
from tcompile.compress.team import ALONE, Team
from tcompile.compress.train import Store, Tell, Trained, device_of, evaluate, predict, settings, train
from tcompile.errors import Problem, UsageError, printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, TensorType

__all__ = ["Result", "run"]


@dataclass(frozen=True, eq=False)
class Result:
    """A compressed network.

    Parameters
    ----------
    graph : Graph
        As it is written.
    scores : str
        Value with a number per class.
    x_test : array (N, *shape of the input)
        Test frames, as floats.
    predicted : float32 array (N, classes)
        Scores of the test frames, computed by torch.
    report : mapping
        History, accuracies, rates, layers.
    """

    graph: Graph
    scores: str
    x_test: np.ndarray
    predicted: np.ndarray
    report: Mapping[str, Any]


def run(
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    recipe: Recipe,
    *,
    store: Store | None = None,
    key: Mapping[str, str] | None = None,
    tell: Tell | None = None,
    team: Team = ALONE,
) -> Result:
    """Compress a float graph; arguments as `tcompile.compress.train.train`.

    Raises
    ------
    UsageError
        The data, the goal or the checkpoint is wrong; every reason of the stage that failed.
    ModelError
        The network cannot be trained, or not be written exactly.
    """
    kind = graph.all(R.Input)[0].type
    data = split(arrays, kind, _classes(graph), validation=recipe.validation, seed=recipe.seed)
    with settings(recipe):
        whole, ranks = team.agreed(lambda: low_rank_for(graph, recipe, data, team.device(device_of(recipe).type)))
    prepared = prepared_for(whole, data.x_train, recipe, teacher=graph)
    hardware = hardware_for(prepared, recipe)
    if hardware is not None and recipe.group != "form":  # which asks the mapping anyway
        hardware.mapped(fitting=False)  # a rate out of reach is refused before training
    shapes = shapes_for(prepared, recipe) if recipe.prunes else {}
    pruner = pruner_for(prepared, recipe, data, shapes)
    count = counter(prepared, recipe.pe, recipe.simd)
    trained = train(
        prepared, data, recipe, pruner=pruner, store=store, key={**(key or {}), "ranks": json.dumps(ranks)}, tell=tell,
        measure=lambda _: totals(count()), team=team,
    )  # fmt: skip
    prepared.network.cpu()
    x_test = data.x_test.astype(np.float32)
    predicted = predict(trained.graph, prepared.scores, x_test)
    float_graph = prepared.teacher.cpu().graph
    floats = {
        "validation_float": evaluate(predict(float_graph, prepared.scores, data.x_validation), data.y_validation)[0],
        "test_float": evaluate(predict(float_graph, prepared.scores, x_test), data.y_test)[0],
    }
    found = evaluate(predicted, data.y_test)[0]
    layers = count()
    made = hardware.facts() if hardware is not None and team.leads else None
    pruned = _pruned(pruner, shapes)
    notes = (*prepared.notes, *_casts(arrays, kind), *_misplaced(recipe, pruned, made))
    report = {
        "recipe": recipe.model_dump(mode="json"),
        "notes": list(notes),
        "processes": team.size,
        "ranks": ranks,
        "frames": {"train": len(data.y_train), "validation": len(data.y_validation), "test": len(data.y_test)},
        "epoch": trained.epoch,
        "accuracy": {**floats, "validation": _validation(trained), "test": found},
        "weights": dict(totals(layers)),
        "layers": [asdict(layer) for layer in layers],
        "activations": _activations(prepared),
        "pruned": pruned,
        "hardware": made,
        "history": [dict(record) for record in trained.history],
    }
    return Result(trained.graph, prepared.scores, x_test, predicted, report)


def _pruned(pruner: Pruner | None, shapes: Mapping[str, Shape]) -> dict[str, dict[str, Any]]:
    """For each layer that was pruned what its groups are, how many there are, and how many are zero."""
    zeros = {} if pruner is None else pruner.zeros()
    return {name: {"group": shapes[name], "groups": count, "zero": zero} for name, (zero, count) in zeros.items()}


def _casts(arrays: Mapping[str, np.ndarray], kind: TensorType) -> Iterator[str]:
    """Frames of another kind of number than the model takes: what they mean is not known."""
    found = {str(arrays[name].dtype) for name in ("x_train", "x_test") if arrays[name].dtype.kind in "iu"}
    if found and kind.dtype.startswith("float"):
        yield f"frames are {' and '.join(sorted(found))}, and the model takes {kind.dtype}: they are taken as they are, without a scale"


def _misplaced(recipe: Recipe, pruned: Mapping[str, Any], made: Mapping[str, Any] | None) -> Iterator[str]:
    """Layers that were pruned for other hardware than the mapping gives them in the end."""
    if recipe.group != "form" or made is None:
        return
    forms = made.get("forms", {})
    for name, layer in pruned.items():
        form, tiles = forms.get(name), layer["group"] == "tile"
        if form is not None and (form == "engine") != tiles:
            groups = "tiles" if tiles else "single weights"
            yield f"{printable(name)} was pruned by {groups}, and its hardware is of form {form} in the end"


def _classes(graph: Graph) -> int:
    """Numbers per frame that are compared for the largest."""
    kind = graph[scores_of(graph)].type
    assert isinstance(kind, TensorType)
    count = prod(kind.shape)
    if max(kind.shape, default=1) != count or count < 2:
        message = f"the network must give a score for each of two classes or more, and gives shape {list(kind.shape)}"
        raise UsageError(Problem("no-classes", message, hint="only classifiers can be trained by the command"))
    return count


def _validation(trained: Trained) -> float:
    chosen = next(r for r in trained.history if r["epoch"] == trained.epoch and r["best"])
    return float(chosen["validation"])


def _activations(prepared: Prepared) -> list[dict[str, Any]]:
    steps = {value: q.step for value, q in prepared.quantizers.items()}
    return [{"value": v, "low": s.lo, "high": s.hi, "exponent": s.exponent} for v, s in steps.items()]
