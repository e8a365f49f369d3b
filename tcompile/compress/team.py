"""Processes that train one network together, as ``torchrun`` starts them; one process alone is a team too.

Each process takes its share of every batch, gradients are averaged (DistributedDataParallel), and parameters stay the
same in all. Normalizations see their own share only. The first process decides what rounding could make others see otherwise
(ranks, what is pruned, which epoch is best), reads the checkpoint, and alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tcompile.compress.network import Network
from tcompile.errors import Problem, TcompileError, UsageError

__all__ = ["ALONE", "Team", "gathered"]

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """Where this process stands.

    Parameters
    ----------
    rank : int
        Its number, from 0 on.
    size : int
        Processes in all.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it writes and tells."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """Its frames of a batch; all of them if there are too few for two each."""
        return batch if len(batch) < 2 * self.size else batch[self.rank :: self.size]

    def device(self, kind: str) -> torch.device:
        """Its own graphics card, or the processor."""
        return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)

    def scores(self, network: Network, name: str) -> Callable[[Tensor], Tensor]:
        """What gives the scores (frames, classes) of frames, its gradients averaged over the team."""
        module = _Scores(network, name)
        return module if self.size == 1 else DistributedDataParallel(module)

    def agreed(self, decide: Callable[[], T]) -> T:
        """What the first process decides; an error of it is everyone's."""
        if self.size == 1:
            return decide()
        told: list[Any] = [None, None]
        if self.leads:
            try:
                told[0] = decide()
            except TcompileError as error:
                told[1] = error
        distributed.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return cast("T", told[0])

    def mean(self, value: float) -> float:
        """A number, averaged over the team."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            total = total.cuda()
        distributed.all_reduce(total)
        return float(total) / self.size


ALONE = Team()


class _Scores(nn.Module):
    def __init__(self, network: Network, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, frames: Tensor) -> Tensor:
        return self.network.scores(frames, self.name)


@contextmanager
def gathered(kind: str) -> Iterator[Team]:
    """The team that ``torchrun`` started this process for; alone without it.

    Parameters
    ----------
    kind : {"cpu", "cuda"}
        Of the devices.
    """
    if not distributed.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    if kind == "cuda":
        card, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if card >= cards:
            message = f"each process must have a graphics card of its own, and there are {cards}"
            raise UsageError(Problem("no-device", message, hint="fewer processes (--nproc-per-node), or --device cpu"))
        torch.cuda.set_device(card)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
