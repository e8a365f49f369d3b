"""The claim behind Weight Penalty Clipping, tested: accuracy against tile sparsity, with and without ternary weights.

Two networks on MNIST and Fashion-MNIST, with batch normalization behind every layer and activations left in floats so
that weights alone make the difference: ``mlp`` with two hidden layers, and ``lenet`` as LeNet-5 (conv 5x5 - pool - conv 5x5 -
pool - dense - dense; its first layer stays whole). Per seed one float network is trained. Every method starts from it and
trains with its penalty; then, for each share, tiles are pruned to exactly that share, and the survivors trained. Settings
of a method are chosen by validation on the first seed, of as many for group lasso as for clipping. ``none`` is pruning by
magnitude, without any penalty before.

``python -m benchmarks.compression`` reads ``../shared/data`` (``--data``) and writes ``benchmarks/compression.md``,
``.json`` and a picture of the network that it ran. What is in the ``.json`` already is not done again, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.compression_plot import Point, picture
from benchmarks.exactness import DATA, ROOT, mnist
from tcompile.compress.goals import Ratio
from tcompile.compress.groups import Groups, groups_of
from tcompile.compress.penalties import Threshold
from tcompile.compress.pruners import Pruner, pruner
from tcompile.compress.ternarizers import ternarizer
from tcompile.ir.graph import Graph
from tcompile.ir.requantizers import Shift
from tcompile.mapping.network import plan_layers
from tcompile.mapping.plan import Choice
from tests.networks import Builder

FILE = Path(__file__).with_suffix(".json")
PICTURES = ROOT / "docs" / "pictures"
CLASSES = 10
FILTERS, HIDDEN, SIDE = (8, 16), 64, 4  # of lenet; the side of the image in front of its dense layers
WIDTHS = (128, 64)  # of mlp
LANES = 4  # PE and SIMD
FRAMES, VALIDATION = 4096, 2048  # of the training set; training uses the first, validation the next
BATCH, RATE = 64, 2e-3
START, DRAWN, RETRAINED = 6, 4, 2  # epochs: of the float network, with the penalty, after pruning
SHARES = (0.25, 0.5, 0.75)
SETS = {"MNIST": "mnist", "Fashion-MNIST": "fashion-mnist"}
WEIGHTS = ("ternary", "float")
Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """What a method draws with."""

    method: str
    strength: float = 0.0
    kind: Threshold = "mean"
    a: float = 1.0

    @property
    def label(self) -> str:
        """For the table."""
        clip = f", δ {self.kind} a={self.a}" if self.method == "wpc" else ""
        return f"λ={self.strength}{clip}" if self.strength else "-"


SETTINGS = {
    "none": (Setting("none"),),
    "lasso": (Setting("lasso", 1e-3), Setting("lasso", 3e-3)),
    "wpc": (Setting("wpc", 3e-3, "rank", 0.75), Setting("wpc", 3e-3, "mean", 1.0)),
}


@dataclass(frozen=True)
class Job:
    """A training with a penalty, and what follows it for each share."""

    network: str
    data: str
    weights: str  # float or ternary
    setting: Setting
    seed: int

    @property
    def key(self) -> str:
        return "/".join(map(str, (self.network, self.data, self.weights, *asdict(self.setting).values(), self.seed)))

    @property
    def shares(self) -> tuple[float, ...]:
        """Without a penalty also what comes of no pruning at all."""
        return (0.0, *SHARES) if self.setting.method == "none" else SHARES


@dataclass(frozen=True, eq=False)
class Frames:
    """Images (N, 1, 28, 28) from 0 to 1, and labels."""

    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], part: slice) -> Frames:
        return cls(torch.from_numpy(arrays["x"][part] / 255), torch.from_numpy(arrays["y"][part]))


class Layer(nn.Module):
    """A linear layer with shadow weights, and its normalization."""

    mask: Tensor

    def __init__(self, name: str, shape: tuple[int, ...], image: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.name, self.image = name, image
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.ternarizer: nn.Module = ternarizer("none", self.weight)
        self.norm: nn.Module = nn.BatchNorm2d(shape[0]) if len(shape) > 2 else nn.BatchNorm1d(shape[0])
        self.register_buffer("mask", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ternarizer(self.weight * self.mask) * self.mask
        y = F.conv2d(x, weight) if weight.ndim > 2 else F.linear(x.flatten(1), weight)
        result: Tensor = self.norm(y)
        return result

    @torch.no_grad()
    def codes(self) -> np.ndarray:
        """Ternary weights as integers."""
        codes = self.ternarizer.codes(self.weight * self.mask)[0] * self.mask  # type: ignore[operator]
        return np.asarray(codes.numpy().round().astype(np.int64))

    def groups(self, shape: str) -> Groups:
        size = tuple(self.weight.shape)
        return groups_of(shape, size, pe=LANES, simd=LANES, image=self.image)  # type: ignore[arg-type]


class Network(nn.Module):
    """Layers one after the other, and which of them are pruned."""

    def __init__(self, layers: list[Layer], pruned: slice) -> None:
        super().__init__()
        self.layers, self.pruned = nn.ModuleList(layers), pruned

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
            x = F.max_pool2d(x, 2) if x.ndim > 2 else x
        result: Tensor = self.layers[-1](x)
        return result

    def prunable(self, shape: str) -> list[tuple[Any, Groups]]:
        return [(layer, layer.groups(shape)) for layer in list(self.layers)[self.pruned]]  # type: ignore[operator, misc]


def lenet() -> Network:
    first, second = FILTERS
    image = (second, SIDE, SIDE)
    layers = [
        Layer("conv1", (first, 1, 5, 5)),
        Layer("conv2", (second, first, 5, 5)),
        Layer("dense1", (HIDDEN, second * SIDE * SIDE), image),
        Layer("dense2", (CLASSES, HIDDEN)),
    ]
    return Network(layers, slice(1, None))


def mlp() -> Network:
    first, second = WIDTHS
    layers = [
        Layer("dense1", (first, 28 * 28), (1, 28, 28)),
        Layer("dense2", (second, first)),
        Layer("dense3", (CLASSES, second)),
    ]
    return Network(layers, slice(None))


NETWORKS = {"mlp": mlp, "lenet": lenet}


def trained(net: Network, data: Frames, epochs: int, seed: int, rate: float, prune: Pruner | None) -> None:
    """Adam with a falling rate."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for epoch in range(1, epochs + 1):
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - (epoch - 1) / epochs)
        for batch in torch.randperm(len(data.y), generator=order).split(BATCH):
            loss = F.cross_entropy(net(data.x[batch]), data.y[batch])
            if prune is not None:
                loss = loss + prune.penalty()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if prune is not None:
                prune.after_step()
        if prune is not None:
            prune.after_epoch(epoch)


@torch.no_grad()
def accuracy(net: Network, data: Frames) -> float:
    net.eval()
    hits = [int((net(x).argmax(1) == y).sum()) for x, y in zip(data.x.split(500), data.y.split(500), strict=True)]
    return sum(hits) / len(data.y)


@torch.no_grad()
def settled(net: Network, data: Frames) -> None:
    """Statistics of the normalizations taken anew: pruning changes the sums."""
    net.train()
    for layer in net.layers:
        layer.norm.reset_running_stats()  # type: ignore[union-attr, operator]
        layer.norm.momentum = None  # type: ignore[assignment, union-attr]
    for batch in data.x[:2048].split(BATCH):
        net(batch)
    for layer in net.layers:
        layer.norm.momentum = 0.1  # type: ignore[assignment, union-attr]


class Bench:
    """Data and float networks, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sets: dict[str, tuple[Frames, Frames, Frames]] = {}
        self.starts: dict[tuple[str, str, int], dict[str, Tensor]] = {}

    def data(self, name: str) -> tuple[Frames, Frames, Frames]:
        """Frames to train, to validate, to test."""
        if name not in self.sets:
            train, test = (mnist(self.folder, part, SETS[name]) for part in ("train", "t10k"))
            parts = slice(FRAMES), slice(FRAMES, FRAMES + VALIDATION)
            self.sets[name] = (*(Frames.of(train, p) for p in parts), Frames.of(test, slice(None)))  # type: ignore[assignment]
        return self.sets[name]

    def start(self, job: Job) -> Network:
        """A copy of the float network."""
        torch.manual_seed(job.seed)
        net, key = NETWORKS[job.network](), (job.network, job.data, job.seed)
        if key not in self.starts:
            trained(net, self.data(job.data)[0], START, job.seed, RATE, None)
            self.starts[key] = {k: v.clone() for k, v in net.state_dict().items()}
        net.load_state_dict(self.starts[key])
        return net

    def drawn(self, job: Job) -> tuple[Network, Pruner]:
        """The network of a job before it is pruned."""
        net = self.start(job)
        if job.weights == "ternary":
            for layer in net.layers:
                layer.ternarizer = ternarizer("sws", layer.weight)  # type: ignore[arg-type]
        made = self.pruner(net, job, 0.0)
        trained(net, self.data(job.data)[0], DRAWN, job.seed + 1, RATE, made)
        return net, made

    def pruner(self, net: Network, job: Job, share: float, group: str = "tile") -> Pruner:
        setting, goal = job.setting, Ratio(share)
        method = "magnitude" if setting.method == "none" else setting.method
        options: dict[str, Any] = dict(strength=setting.strength, threshold=setting.kind, a=setting.a)
        return pruner(method, net.prunable(group), goal, lanes=LANES, **options)  # type: ignore[arg-type]

    def pruned(self, net: Network, job: Job, share: float, group: str = "tile") -> tuple[Network, dict[str, float]]:
        """A copy of a network, pruned and trained, and what it does."""
        train, validation, test = self.data(job.data)
        net = copy.deepcopy(net)
        made = self.pruner(net, job, share, group)
        made.finish()
        settled(net, train)
        seen = {"right after": accuracy(net, validation)}
        trained(net, train, RETRAINED, job.seed + 2, RATE / 2, made)
        settled(net, train)
        seen |= {"validation": accuracy(net, validation), "test": accuracy(net, test), "zero": zero_share(made)}
        if job.weights == "ternary":
            plans = plan_layers(integers(net), Choice(LANES, LANES))
            seen["cycles"] = sum(p.cycles for p in plans.values())
            seen["slowest"] = max(p.cycles for p in plans.values())
        return net, seen

    def result(self, job: Job) -> dict[str, Any]:
        """All that the table needs of a job."""
        net, made = self.drawn(job)
        shares = {str(s): rounded(self.pruned(net, job, s)[1]) for s in job.shares}
        return {"natural": round(zero_share(made), 5), "shares": shares}


def rounded(seen: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 5) for k, v in seen.items()}


def zero_share(made: Pruner) -> float:
    """Share of the tiles whose weights are all zero."""
    counts = made.zeros().values()
    return sum(z for z, _ in counts) / sum(n for _, n in counts)


@torch.no_grad()
def integers(net: Network) -> Graph:
    """An integer network with the ternary codes, for its cycles; the requantizers are all the same."""
    b, zero = Builder(), np.zeros(1, np.int64)
    four_bits = Shift(zero > 0, 1, zero, "up", zero, zero + 15, bits=zero + 4)
    x = b.input((1, 1, 28, 28), 0, 255)
    for k, layer in enumerate(net.layers):
        weight = layer.codes()  # type: ignore[operator]
        if weight.ndim > 2:
            x = b.pool(b.requantize(b.conv(x, weight), four_bits), (2, 2), (2, 2))
        else:
            size = int(np.prod(b.shape(x)))
            x = b.dense(b.reshape(x, (1, size)) if len(b.shape(x)) > 2 else x, weight)
            x = b.requantize(x, four_bits) if k < len(net.layers) - 1 else x
    return b.graph(x)


# What is done, and what is written


def jobs(network: str, found: Found, seeds: int) -> Iterator[Job]:
    """All settings on the first seed, the chosen ones on the others."""
    for weights in WEIGHTS:
        for data in SETS:
            for settings in SETTINGS.values():
                yield from (Job(network, data, weights, s, 0) for s in settings)
            for seed in range(1, seeds):
                yield from (chosen(found, Job(network, data, weights, s[0], seed)) for s in SETTINGS.values())


def chosen(found: Found, job: Job) -> Job:
    """The job with the setting of its method that validates best on the first seed, over all shares."""

    def score(setting: Setting) -> float:
        shares = found.get(replace(job, setting=setting, seed=0).key, {}).get("shares", {})
        return sum(shares[str(s)]["validation"] for s in SHARES) if shares else 0.0

    return replace(job, setting=max(SETTINGS[job.setting.method], key=score))


def done(bench: Bench, network: str, seeds: int, found: Found) -> None:
    """Do what is not in the results yet; the file is complete after each job."""
    for job in jobs(network, found, seeds):
        if job.key not in found:
            started = time.perf_counter()
            found[job.key] = bench.result(job)
            save(FILE, found)
            print(job.key, json.dumps(found[job.key]), f"{time.perf_counter() - started:.0f} s", flush=True)


def save(file: Path, found: object) -> None:
    """Write results, whole or not at all."""
    part = file.with_suffix(".json.part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(file)


HEAD = (
    "| network | data | weights | tiles zero | method | setting | seeds | test, % | drop | right after pruning, % |"
    " zero before | cycles, all layers | slowest |"
)


def text(found: Found, seeds: int) -> str:
    """The results as Markdown."""
    lines = [
        "# Group lasso and Weight Penalty Clipping, with float and with ternary weights",
        "",
        f"`python -m benchmarks.compression --network N`. *mlp*: {WIDTHS[0]} and {WIDTHS[1]} hidden units; *lenet*: {FILTERS[0]} and {FILTERS[1]} filters of",
        f"5 x 5, {HIDDEN} hidden units, its first layer whole. Tiles of {LANES} x {LANES} weights of one tap; {FRAMES} training frames, {START} epochs of",
        f"floats, {DRAWN} with the penalty, {RETRAINED} after pruning. Reduced budget: compare rows, not papers. Mean and sample standard",
        "deviation over seeds; *drop* against float weights without pruning after as many epochs, in points; *right after*:",
        "validation before the survivors are trained; *zero before*: tiles that the penalty alone made zero; cycles of a frame",
        f"on engines of {LANES} x {LANES} lanes, of all layers and of the slowest. Rows that are not here have not been run; the script goes on.",
        "",
        HEAD,
        "|" + "---|" * (HEAD.count("|") - 1),
    ]
    for network in NETWORKS:
        for data in SETS:
            base = _seen(found, Job(network, data, "float", Setting("none"), 0), 0.0, seeds)
            for weights in WEIGHTS:
                for share in (0.0, *SHARES):
                    for settings in SETTINGS.values() if share else [SETTINGS["none"]]:
                        job = chosen(found, Job(network, data, weights, settings[0], 0))
                        seen = _seen(found, job, share, seeds)
                        if seen:
                            lines.append(_row(job, share, seen, base))
    return "\n".join([*lines, ""])


def _seen(found: Found, job: Job, share: float, seeds: int) -> list[dict[str, float]]:
    """What was found with each seed."""
    results = [found.get(replace(job, seed=seed).key) for seed in range(seeds)]
    return [{**r["shares"][str(share)], "natural": r["natural"]} for r in results if r is not None]


def _row(job: Job, share: float, seen: list[dict[str, float]], base: list[dict[str, float]]) -> str:
    drop = f"{100 * (mean(s['test'] for s in base) - mean(s['test'] for s in seen)):.2f}" if base else "-"
    cycles = [f"{mean(s[k] for s in seen):.0f}" if k in seen[0] else "-" for k in ("cycles", "slowest")]
    return (
        f"| {job.network} | {job.data} | {job.weights} | {share:.0%} | {job.setting.method if share else '-'}"
        f" | {job.setting.label} | {len(seen)} | {_spread(seen, 'test')} | {drop} | {_spread(seen, 'right after')}"
        f" | {mean(s['natural'] for s in seen):.0%} | {cycles[0]} | {cycles[1]} |"
    )


def _spread(seen: list[dict[str, float]], key: str) -> str:
    values = [100 * s[key] for s in seen]
    return f"{mean(values):.2f} ± {stdev(values) if len(values) > 1 else 0:.2f}"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA, help="default: %(default)s")
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    missing = [f for f in SETS.values() if not (options.data / "datasets" / f).is_dir()]
    if missing:
        print(f"skipped: no {' and no '.join(missing)} below {options.data / 'datasets'}")
        return 0
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    done(Bench(options.data), options.network, options.seeds, found)
    FILE.with_suffix(".md").write_text(text(found, options.seeds))
    (PICTURES / f"compression-{options.network}.svg").write_text(drawing(found, options.network, options.seeds))
    return 0


def drawing(found: Found, network: str, seeds: int) -> str:
    """A network's picture."""
    return picture("Ternary weights, tiles of 4 x 4: mean and deviation over seeds", points(found, network, seeds))


def points(found: Found, network: str, seeds: int) -> dict[str, dict[str, list[Point]]]:
    """Accuracies of the network's ternary versions, by data set and method."""
    result: dict[str, dict[str, list[Point]]] = {}
    for data in SETS:
        for method, settings in SETTINGS.items():
            line = []
            for share in (0.0, *SHARES):
                none = Job(network, data, "ternary", SETTINGS["none"][0], 0)
                job = chosen(found, replace(none, setting=settings[0])) if share else none
                seen = _seen(found, job, share, seeds)
                if seen:
                    line.append(Point(share, tuple(s["test"] for s in seen)))
            result.setdefault(f"{network}, {data}", {})[method] = line
    return result


if __name__ == "__main__":
    sys.exit(main())
