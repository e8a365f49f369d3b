"""The work of ``tcompile compress`` between two graphs: data, preparation, training, what came out in numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from tcompile.compress.census import counter, totals
from tcompile.compress.data import split
from tcompile.compress.methods import hardware_for, low_rank_for, prepared_for, pruner_for
from tcompile.compress.prepare import Prepared, scores_of
from tcompile.compress.recipe import Recipe
from tcompile.compress.team import ALONE, Team
from tcompile.compress.train import Store, Tell, Trained, device_of, evaluate, predict, settings, train
from tcompile.errors import Problem, UsageError
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
    if hardware is not None:
        hardware.mapped(fitting=False)  # a rate out of reach is refused before training
    pruner = pruner_for(prepared, recipe, data)
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
    report = {
        "recipe": recipe.model_dump(mode="json"),
        "notes": list(prepared.notes),
        "ranks": ranks,
        "frames": {"train": len(data.y_train), "validation": len(data.y_validation), "test": len(data.y_test)},
        "epoch": trained.epoch,
        "accuracy": {**floats, "validation": _validation(trained), "test": found},
        "weights": dict(totals(layers)),
        "layers": [asdict(layer) for layer in layers],
        "activations": _activations(prepared),
        "hardware": hardware.facts() if hardware is not None and team.leads else None,
        "history": [dict(record) for record in trained.history],
    }
    return Result(trained.graph, prepared.scores, x_test, predicted, report)


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
