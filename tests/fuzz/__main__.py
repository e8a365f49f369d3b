"""python -m tests.fuzz: compile random networks and compare them with onnxruntime, in numbers and in hardware."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import onnx

from tests.fuzz.generate import Case, generate
from tests.fuzz.run import FAILED, PASSED, REFUSED, Outcome, run
from tests.fuzz.shrink import shrunk

CHUNK = 8  # networks that a process takes at a time


@dataclass(frozen=True)
class Job:
    """Seeds that one process runs."""

    seeds: range
    hardware: bool
    avoid: tuple[str, ...]
    keep: Path | None

    def __call__(self) -> list[Outcome]:
        return [self.one(seed) for seed in self.seeds]

    def one(self, seed: int) -> Outcome:
        case = generate(seed, small=self.hardware, avoid=self.avoid)
        found = run(case, hardware=self.hardware)
        if found.status == FAILED and self.keep is not None:
            keep(case, found, self.keep, hardware=self.hardware)
        return found


def keep(case: Case, found: Outcome, folder: Path, *, hardware: bool) -> None:
    """Write a network that fails: as it was made, a smaller one, and what was said."""

    def fails(model: onnx.ModelProto) -> bool:
        names = {i.name for i in model.graph.input}
        fewer = replace(case, model=model, frames={k: v for k, v in case.frames.items() if k in names})
        again = run(fewer, hardware=hardware) if names else found
        return bool(names) and (again.status, again.codes) == (FAILED, found.codes)

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{case.seed}{'-hardware' if hardware else ''}"
    onnx.save(case.model, folder / f"{name}.onnx")
    text = f"seed {case.seed} ({case.dialect}): {', '.join(found.codes)}\n{found.text}\n"
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    smaller = shrunk(case.model, fails)
    onnx.save(smaller, folder / f"{name}-small.onnx")
    (folder / f"{name}-small.txt").write_text(onnx.printer.to_text(smaller) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: none failed; 1: some did."""
    options = parser().parse_args(arguments)
    ends = range(options.seed, options.seed + options.count, CHUNK)
    last = options.seed + options.count
    avoid = tuple(options.avoid.split(",")) if options.avoid else ()
    jobs = [Job(range(k, min(k + CHUNK, last)), options.hardware, avoid, options.keep) for k in ends]
    start, found = time.monotonic(), list[Outcome]()
    try:
        for part in outcomes(jobs, options.jobs):
            found += part
            tell(part, len(found), options.count)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    print(summary(found))
    print(f"{len(found)} networks in {time.monotonic() - start:.0f} s")
    return 1 if any(o.status == FAILED for o in found) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    p.add_argument("--count", type=int, default=200, help="how many networks (default %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the first network (default %(default)s)")
    p.add_argument("--hardware", action="store_true", help="small networks, simulated cycle by cycle too")
    p.add_argument("--jobs", type=int, default=1, help="processes (default %(default)s)")
    p.add_argument("--keep", type=Path, metavar="DIR", help="where networks that fail are written")
    p.add_argument("--avoid", metavar="NAMES", help="operators and dialects to do without, such as Resize,qoperator")
    return p


def outcomes(jobs: Sequence[Callable[[], list[Outcome]]], processes: int) -> Iterator[list[Outcome]]:
    """What became of the networks, job by job; in any order with several processes."""
    if processes == 1:
        yield from (job() for job in jobs)
        return
    with ProcessPoolExecutor(processes) as pool:
        running: list[Future[list[Outcome]]] = [pool.submit(job) for job in jobs]
        try:
            yield from (done.result() for done in as_completed(running))
        finally:
            pool.shutdown(cancel_futures=True)


def tell(part: Sequence[Outcome], done: int, count: int) -> None:
    """Say how far it is, and what failed."""
    for each in part:
        if each.status == FAILED:
            last = each.text.strip().splitlines()[-1] if each.text.strip() else ""
            print(f"seed {each.seed} ({each.dialect}) failed: {', '.join(each.codes)}: {last[:300]}", flush=True)
    print(f"[{done}/{count}]", file=sys.stderr, flush=True)


def summary(found: Sequence[Outcome]) -> str:
    """Counts by outcome, by dialect, and by reason of refusal and failure."""
    lines = [f"{'':12}{PASSED:>9}{REFUSED:>9}{FAILED:>9}"]
    counts = Counter((o.dialect, o.status) for o in found)
    counts.update(("all", o.status) for o in found)
    for row in (*sorted({o.dialect for o in found}), "all"):
        lines += [f"{row:12}" + "".join(f"{counts[row, s]:9}" for s in (PASSED, REFUSED, FAILED))]
    passed = [o for o in found if o.status == PASSED]
    proved = sum(o.verdict == "proved" for o in passed)
    lines.append(f"proved: {proved} of those passed; {sum(o.differing > 0 for o in passed)} differ where they may")
    for status in (REFUSED, FAILED):
        reasons = Counter(chain.from_iterable(o.codes for o in found if o.status == status))
        lines += [f"{status} {reason}: {n}" for reason, n in reasons.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
