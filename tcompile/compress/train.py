"""The training loop: epochs, distillation, pruning and what follows it, validation, checkpoints.

Accuracies are those of the network as it would be written (`tcompile.compress.export`): integers and float32 in the
order of the file. The epoch with the best validation is kept, of equal ones that with the smaller cross entropy; with
a pruner only epochs after the pruning count. Test frames are never looked at here.

A checkpoint holds all that decides what follows: parameters, optimizer, pruner, random numbers, history, the best so
far. On one machine, with one number of threads, training that was ended and taken up again gives the same weights.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tcompile.compress.data import Data
from tcompile.compress.export import exported
from tcompile.compress.network import Network
from tcompile.compress.prepare import MOMENTUM, Prepared, Site
from tcompile.compress.pruners import Pruner
from tcompile.compress.recipe import Recipe
from tcompile.compress.team import ALONE, Team
from tcompile.compress.ternarizers import blend
from tcompile.errors import Problem, UsageError, printable
from tcompile.ir.graph import Graph

__all__ = ["Record", "Store", "Trained", "augmented", "device_of", "evaluate", "predict", "settings", "train"]

FORMAT = 1  # of checkpoints
EVALUATED = 256  # frames at a time
SETTLING = 32  # batches that normalization statistics are taken of
SPREAD = 8.0  # of scores in the loss, at most; networks of other scales are trained like those of usual ones
IMAGE_AXES = 5  # frames, 1, channels, rows, columns

Record = Mapping[str, Any]
"""What is known of an epoch; numbers, texts and None."""
Tell = Callable[[Record], None]
Measure = Callable[[Graph], Mapping[str, Any]]
"""What else to know of the network of an epoch."""


class Store(Protocol):
    """Where a checkpoint lies."""

    def load(self) -> bytes | None: ...

    def save(self, content: bytes) -> None: ...


@dataclass(frozen=True, eq=False)
class Trained:
    """What came out: the network holds the parameters of the best epoch.

    Parameters
    ----------
    graph : Graph
        As it is written.
    epoch : int
        The one that was chosen; 0 is the start.
    history : tuple of Record
        Of all epochs.
    """

    graph: Graph
    epoch: int
    history: tuple[Record, ...]


def train(
    prepared: Prepared,
    data: Data,
    recipe: Recipe,
    *,
    pruner: Pruner | None = None,
    store: Store | None = None,
    key: Mapping[str, str] | None = None,
    tell: Tell | None = None,
    measure: Measure | None = None,
    team: Team = ALONE,
) -> Trained:
    """Train a prepared network in place.

    Parameters
    ----------
    pruner : Pruner, optional
        Called with every step and epoch, and finished before the last epochs.
    store : Store, optional
        Where a checkpoint is read, if there is one, and written after every epoch.
    key : mapping of str to str, optional
        What a checkpoint must fit: digests of model and data.
    tell : callable, optional
        Told every epoch.
    measure : callable, optional
        Adds to what is known of an epoch.
    team : Team
        Processes that train together; the first alone writes checkpoints and tells.

    Raises
    ------
    UsageError
        The checkpoint belongs to other work, is damaged, or cannot be written.
    ModelError
        A layer's sums may not be exact.
    """
    with settings(recipe):
        run = _Run(prepared, data, recipe, pruner, measure, team)
        wanted = {**(key or {}), "recipe": recipe.model_dump_json()}
        content = team.agreed(store.load) if store is not None else None
        if content is None:
            run.begin()
            run.keep(store, wanted, tell)
        else:
            run.restore(_opened(content, wanted))
        while not run.is_done:
            run.advance()
            run.keep(store, wanted, tell)
        return run.result()


@contextmanager
def settings(recipe: Recipe) -> Iterator[None]:
    """Torch's global settings, for the time of a training."""
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    random, coarse = torch.get_rng_state(), torch.backends.cudnn.allow_tf32
    memory: Any = torch.utils.deterministic  # its setting is no attribute that types know
    filled = memory.fill_uninitialized_memory
    torch.set_num_threads(recipe.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    torch.use_deterministic_algorithms(device_of(recipe).type == "cpu")  # a graphics card has not all of them
    memory.fill_uninitialized_memory = False  # nothing reads it before it is written
    torch.manual_seed(recipe.seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = coarse
        torch.use_deterministic_algorithms(exact)
        memory.fill_uninitialized_memory = filled
        torch.set_rng_state(random)


class _Run:
    """A training on its way."""

    def __init__(
        self, prepared: Prepared, data: Data, recipe: Recipe, pruner: Pruner | None, measure: Measure | None, team: Team
    ) -> None:
        self.prepared, self.data, self.recipe, self.pruner, self.measure = prepared, data, recipe, pruner, measure
        self.team, self.device = team, team.device(device_of(recipe).type)
        self.network, self.teacher = prepared.network.to(self.device), prepared.teacher.to(self.device).eval()
        self.scores = team.scores(self.network, prepared.scores)
        self.optimizer = _optimizer(prepared, recipe)
        self.thresholds = _thresholds(prepared.sites, recipe)
        self.unit = self._spread()
        if recipe.ternary == "bcgd":
            blend(self.optimizer, prepared.sites)
        self.random = torch.Generator().manual_seed(recipe.seed)
        self.epoch = 0
        self.finished = pruner is None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.stale = 0

    # epochs

    def begin(self) -> None:
        """The start: statistics of the sums that ternary weights give, and what the network does untrained."""
        if self.pruner is not None:
            self.pruner.check()
        self._prune_in_time()
        self._record({"loss": None})

    @property
    def is_done(self) -> bool:
        patience = self.recipe.patience
        return self.epoch >= self.recipe.epochs or (patience is not None and self.stale >= patience)

    def advance(self) -> None:
        """One epoch."""
        self.epoch += 1
        rate = self.recipe.rate_at(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._epoch()
        if self.pruner is not None and not self.finished:
            self.pruner.after_epoch(self.epoch)
            self._prune_in_time()
        self._record({"loss": loss, "rate": rate})

    def _prune_in_time(self) -> None:
        if self.pruner is not None and not self.finished and self.epoch >= self.recipe.epochs - self.recipe.after:
            self.pruner.finish()
            for site in self.prepared.sites:  # on graphics cards sums may differ in their last bits
                site.mask.copy_(self.team.agreed(site.mask.cpu))
            self.finished = True

    def _epoch(self) -> float:
        self.network.train()
        x, y = self.data.x_train, torch.from_numpy(self.data.y_train)
        total = 0.0
        for index in torch.split(torch.randperm(len(y), generator=self.random), self.recipe.batch):
            frames = self.team.share(augmented(_frames(x, index), self.recipe, self.random)).to(self.device)
            total += self._step(frames, self.team.share(y[index]).to(self.device)) * len(index)
        return self.team.mean(total / len(y))

    def _step(self, frames: Tensor, labels: Tensor) -> float:
        if self.thresholds is not None:  # a step of the thresholds alone goes before
            self.thresholds.zero_grad()
            self._loss(frames, labels).backward()  # type: ignore[no-untyped-call]
            self.thresholds.step()
        self.optimizer.zero_grad()
        loss = self._loss(frames, labels)
        whole = loss if self.pruner is None or self.finished else loss + self.pruner.penalty()
        whole.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.after_step()
        return float(loss.detach())

    def _loss(self, frames: Tensor, labels: Tensor) -> Tensor:
        share, name = self.recipe.distill, self.prepared.scores
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            scores = self.scores(frames)
        scores = scores.float() / self.unit
        loss = F.cross_entropy(scores, labels)
        if not share:
            return loss
        heat = self.recipe.temperature
        with torch.no_grad():
            wanted = torch.log_softmax(self.teacher.scores(frames, name) / (heat * self.unit), 1)
        distance = F.kl_div(torch.log_softmax(scores / heat, 1), wanted, reduction="batchmean", log_target=True)
        return (1 - share) * loss + share * heat**2 * distance

    @torch.no_grad()
    def _spread(self) -> float:
        """By what scores are divided in the loss, so that those of the float network spread by `SPREAD` at most."""
        frames = _frames(self.data.x_train, torch.arange(min(EVALUATED, len(self.data.x_train)))).to(self.device)
        scores = self.teacher.scores(frames, self.prepared.scores)
        return max(1.0, float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt()) / SPREAD)

    @torch.no_grad()
    def _settle(self) -> None:
        """Take the normalizations' statistics of some training frames anew.

        Running means lag behind ternary weights, which jump (Nagel et al., ICML 2022): those of these weights count.
        """
        self.network.train()
        order = torch.randperm(len(self.data.y_train), generator=self.random)
        for count, index in enumerate(torch.split(order, self.recipe.batch)[:SETTLING]):
            for site in self.prepared.sites:
                site.norm.momentum = 1 / (count + 1)
            self.network(_frames(self.data.x_train, index).to(self.device))
        for site in self.prepared.sites:
            site.norm.momentum = MOMENTUM

    def _record(self, facts: dict[str, Any]) -> None:
        """Validate, note it, and keep the network if it is the best."""
        self._settle()
        graph = exported(self.prepared)
        scores = predict(graph, self.prepared.scores, self.data.x_validation, self.device)
        accuracy, entropy = self.team.agreed(lambda: evaluate(scores / self.unit, self.data.y_validation))
        more = dict(self.measure(graph)) if self.measure is not None else {}
        record = {"epoch": self.epoch, "validation": accuracy, "validation_loss": entropy, **facts, **more}
        record["pruned"] = self.pruner is not None and self.finished
        if not self.finished:
            self.history.append({**record, "best": False})
            return
        better = not self.best or (accuracy, -entropy) > (self.best["accuracy"], -self.best["entropy"])
        self.stale = 0 if better else self.stale + 1
        if better:
            state = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
            self.best = {"accuracy": accuracy, "entropy": entropy, "epoch": self.epoch, "network": state}
        self.history.append({**record, "best": better})

    # checkpoints

    def keep(self, store: Store | None, key: Mapping[str, str], tell: Tell | None) -> None:
        """Write a checkpoint, then tell of the epoch."""
        if store is not None and self.team.leads:
            buffer = io.BytesIO()
            torch.save({"format": FORMAT, "key": dict(key), **self._state()}, buffer)
            store.save(buffer.getvalue())
        if tell is not None and self.team.leads:
            tell({**self.history[-1], "epochs": self.recipe.epochs})

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "finished": self.finished,
            "stale": self.stale,
            "history": self.history,
            "best": self.best,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "thresholds": None if self.thresholds is None else self.thresholds.state_dict(),
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            "random": self.random.get_state(),
            "global": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `keep` wrote."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.thresholds is not None:
            self.thresholds.load_state_dict(state["thresholds"])
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])
        self.random.set_state(state["random"])
        torch.set_rng_state(state["global"])
        self.epoch, self.finished, self.stale = state["epoch"], state["finished"], state["stale"]
        self.history, self.best = state["history"], state["best"]

    def result(self) -> Trained:
        self.network.load_state_dict(self.best["network"])
        return Trained(exported(self.prepared), self.best["epoch"], tuple(self.history))


def _opened(content: bytes, key: Mapping[str, str]) -> dict[str, Any]:
    """A checkpoint's content, if it is ours and fits."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        found = dict(state["key"]) if state["format"] == FORMAT else None
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = printable(" ".join(str(error).split())[:100])[1:-1]
        message = f"the checkpoint must be one of tcompile, and cannot be read: {reason}"
        raise UsageError(Problem("bad-checkpoint", message, hint="-f starts anew")) from error
    if found is None:
        message = "the checkpoint must be of this version of tcompile"
        raise UsageError(Problem("bad-checkpoint", message, hint="-f starts anew"))
    other = [name for name in key if found.get(name) != key[name]]
    if other:
        message = f"the checkpoint must belong to this work, and is of another {' and '.join(other)}"
        hint = "give the model, data and options that it was begun with, or start anew with -f"
        raise UsageError(Problem("other-checkpoint", message, hint=hint))
    return dict(state)


# Parts


def device_of(recipe: Recipe) -> torch.device:
    """Where to train.

    Raises
    ------
    UsageError
        There is no such device.
    """
    if recipe.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(Problem("no-device", "device cuda must be there, and torch finds none", hint="--device cpu"))
    return torch.device(recipe.device)


def _optimizer(prepared: Prepared, recipe: Recipe) -> torch.optim.Optimizer:
    """All that is trained but thresholds that have steps of their own; only layers' weights decay."""
    weights = [s.weight for s in prepared.sites]
    own = {id(p) for s in prepared.sites for p in s.ternarizer.parameters()}
    known = own | {id(w) for w in weights}
    rest = [p for p in prepared.network.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": weights, "weight_decay": recipe.decay}, {"params": rest, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=nesterov)
    return torch.optim.Adam(groups, lr=recipe.rate)


def _thresholds(sites: tuple[Site, ...], recipe: Recipe) -> torch.optim.Optimizer | None:
    """Plain steps for parameters of ternarizers, if they have any."""
    own = [p for s in sites for p in s.ternarizer.parameters()]
    return torch.optim.SGD(own, lr=recipe.rate) if own else None


def _frames(x: np.ndarray, index: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x[index.numpy()])).float()


def augmented(frames: Tensor, recipe: Recipe, random: torch.Generator) -> Tensor:
    """Frames mirrored and moved at random, as the recipe says; what comes in from outside is zero."""
    if frames.dim() != IMAGE_AXES or not (recipe.flip or recipe.shift):
        return frames
    count = len(frames)
    if recipe.flip:
        turned = torch.rand(count, generator=random) < 0.5
        frames = torch.where(turned.reshape(-1, 1, 1, 1, 1), frames.flip(-1), frames)
    if recipe.shift:
        reach = recipe.shift
        height, width = frames.shape[-2:]
        padded = F.pad(frames, (reach,) * 4)
        rows, columns = (torch.randint(0, 2 * reach + 1, (count, 1), generator=random) for _ in range(2))
        rows, columns = rows + torch.arange(height), columns + torch.arange(width)
        which = torch.arange(count)[:, None, None]
        moved = padded.permute(0, 3, 4, 1, 2)[which, rows[:, :, None], columns[:, None, :]]
        frames = moved.permute(0, 3, 4, 1, 2)
    return frames


@torch.no_grad()
def predict(graph: Graph, scores: str, x: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Scores (N, classes) that a graph gives for frames (N, ...)."""
    network = Network(graph.with_nodes(graph.nodes, (scores,))).to(device).eval()
    x = x.reshape(len(x), *network.input.type.shape)
    parts = [
        network.scores(_frames(x, index).to(device), scores).cpu()
        for index in torch.split(torch.arange(len(x)), EVALUATED)
    ]
    return np.asarray(torch.cat(parts).numpy())


def evaluate(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy, and mean cross entropy."""
    entropy = F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels))
    return float((scores.argmax(1) == labels).mean()), float(entropy)
