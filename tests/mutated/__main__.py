"""python -m tests.mutated: spoil ONNX files at random and see that the tool compiles or refuses each."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from tests.mutated.run import FAILED, PASSED, REFUSED, Outcome, file_of
from tests.mutated.worker import Worker

STEP = 50  # files between two lines of progress


def main(arguments: Sequence[str] | None = None) -> int:
    """0: none failed; 1: some did."""
    options = parser().parse_args(arguments)
    start, found, worker = time.monotonic(), list[Outcome](), Worker()
    try:
        for seed in range(options.seed, options.seed + options.count):
            found.append(worker(seed))
            tell(found, options.count)
            if found[-1].status == FAILED and options.keep is not None:
                keep(found[-1], options.keep)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        worker.close()
    print(summary(found))
    print(f"{len(found)} files in {time.monotonic() - start:.0f} s")
    return 1 if any(o.status == FAILED for o in found) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tests.mutated", description=__doc__)
    p.add_argument("--count", type=int, default=200, help="how many files (default %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the first file (default %(default)s)")
    p.add_argument("--keep", type=Path, metavar="DIR", help="where files that fail are written")
    return p


def tell(found: Sequence[Outcome], count: int) -> None:
    """Say how far it is, and what failed."""
    last = found[-1]
    if last.status == FAILED:
        end = last.text.strip().splitlines()[-1] if last.text.strip() else ""
        what = f"seed {last.seed} ({last.base}; {', '.join(last.changes)}; {last.way})"
        print(f"{what} failed: {', '.join(last.codes)}: {end[:300]}", flush=True)
    if len(found) % STEP == 0 or len(found) == count:
        print(f"[{len(found)}/{count}]", file=sys.stderr, flush=True)


def keep(found: Outcome, folder: Path) -> None:
    """Write a file that fails and what was said."""
    folder.mkdir(parents=True, exist_ok=True)
    data, _ = file_of(found.seed)
    (folder / f"{found.seed}.onnx").write_bytes(data)
    text = f"seed {found.seed} ({found.base}; {', '.join(found.changes)}; {found.way}): {', '.join(found.codes)}\n"
    (folder / f"{found.seed}.txt").write_text(text + found.text + "\n", encoding="utf-8", errors="backslashreplace")


def summary(found: Sequence[Outcome]) -> str:
    """Counts by outcome, by base, and by reason of refusal and failure."""
    lines = [f"{'':14}{PASSED:>9}{REFUSED:>9}{FAILED:>9}"]
    counts = Counter((o.base, o.status) for o in found)
    counts.update((o.way, o.status) for o in found)
    counts.update(("all", o.status) for o in found)
    for row in (*sorted({o.base for o in found}), *sorted({o.way for o in found}), "all"):
        lines += [f"{row:14}" + "".join(f"{counts[row, s]:9}" for s in (PASSED, REFUSED, FAILED))]
    slowest = max(found, key=lambda o: o.seconds, default=None)
    lines += [f"slowest: seed {slowest.seed}, {slowest.seconds:.1f} s"] if slowest else []
    for status in (REFUSED, FAILED):
        reasons = Counter(chain.from_iterable(o.codes for o in found if o.status == status))
        lines += [f"{status} {reason}: {n}" for reason, n in reasons.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
