"""python -m tests.mutation: how many of the faults that could be made would the tests find?"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

from tests.mutation.mutants import ExemptionError, Mutant, enumerate_mutants
from tests.mutation.targets import files_for, load_table
from tests.mutation.trial import BaselineError, Result, Runner, time_limit

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: enough mutants were killed; 1: too few; 2: the run could not be made."""
    options = parser().parse_args(arguments)
    root = options.root.resolve()
    try:
        mutants = find_mutants(root, options.paths)
        tried = sample([m for m in mutants if not m.exempt], options.sample, options.seed)
        results = run(root, tried, options.tests, jobs=options.jobs)
    except (BaselineError, ExemptionError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was changed", file=sys.stderr)
        return 130
    exempt = [m for m in mutants if m.exempt]
    print(text_report(results, exempt, found=len(mutants), threshold=options.threshold))
    write_json(root / options.json, results, exempt, options)
    return 0 if share(results) >= Fraction(str(options.threshold)) else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    p.add_argument("--paths", nargs="+", required=True, metavar="PATH", help="modules or folders to plant faults in")
    p.add_argument("--sample", type=int, default=200, help="how many mutants to try (0: all; default %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the sample (default %(default)s)")
    p.add_argument("--tests", nargs="+", metavar="TEST", help="tests to run instead of those that belong to a module")
    p.add_argument("--jobs", type=int, default=2, help="test runs at a time (default %(default)s)")
    p.add_argument("--threshold", type=float, default=0.8, help="share to be killed (default %(default)s)")
    p.add_argument("--json", default="build/mutation.json", metavar="FILE", help="result file (default %(default)s)")
    p.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return p


def find_mutants(root: Path, paths: Sequence[str]) -> list[Mutant]:
    """All mutants of the modules named or below the folders named, in the order of their paths."""
    modules: set[Path] = set()
    for name in paths:
        path = root / name
        if not path.exists():
            raise FileNotFoundError(f"there is no {name!r} to plant faults in")
        modules.update(path.rglob("*.py") if path.is_dir() else [path])
    found: list[Mutant] = []
    for module in sorted(modules):
        found += enumerate_mutants(module.relative_to(root).as_posix(), module.read_text(encoding="utf-8"))
    return found


def sample(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """``size`` of the mutants (0: all), the same ones for the same seed, in the order of their paths."""
    if size == 0 or size >= len(mutants):
        return list(mutants)
    return sorted(random.Random(seed).sample(mutants, size))


def run(root: Path, mutants: Sequence[Mutant], tests: Sequence[str] | None, *, jobs: int) -> list[Result]:
    """Try the mutants, telling on stderr how each one ends."""
    table = load_table(root / "tests" / "mutation" / "tests.toml") if tests is None else {}
    lists = {m.path: tuple(tests or files_for(m.path, table, root)) for m in mutants}
    runner, lock, done = Runner(root, jobs=jobs), threading.Lock(), 0

    def report(result: Result) -> None:
        nonlocal done
        with lock:
            done += 1
            line = f"[{done:{len(str(len(mutants)))}}/{len(mutants)}] {result.outcome:8} {result.mutant}"
            print(f"{line} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)

    with runner.copies():
        needed = sorted({(test,) for tests in lists.values() for test in tests})
        print(f"{len(mutants)} mutants; first, {len(needed)} tests without a fault", file=sys.stderr)
        seconds = runner.baselines(needed)
        limits = {tests: time_limit(sum(seconds[test,] for test in tests)) for tests in lists.values()}
        work = [(m, lists[m.path], limits[lists[m.path]]) for m in mutants]
        return runner.run(work, report)


def share(results: Sequence[Result]) -> Fraction:
    """Killed among tried; 1 if nothing was tried."""
    return Fraction(sum(r.killed for r in results), len(results)) if results else Fraction(1)


def text_report(results: Sequence[Result], exempt: Sequence[Mutant], *, found: int, threshold: float) -> str:
    """Killed and survived per file, the survivors, the exempted, and the share."""
    files: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        files[result.mutant.path].append(result)
    width = max([len("file"), *map(len, files)])
    lines = [f"{'file':{width}}  killed  survived   share"]
    for path, of_file in sorted(files.items()):
        killed = sum(r.killed for r in of_file)
        lines.append(f"{path:{width}}  {killed:6}  {len(of_file) - killed:8}  {float(share(of_file)):6.1%}")
    survivors = [r for r in results if not r.killed]
    lines += ["", f"survivors: {len(survivors)}"]
    lines += [f"  {r.mutant}" + ("  (no tests belong to it)" if r.outcome == "untested" else "") for r in survivors]
    lines += [f"exempt: {len(exempt)}", *(f"  {m}  ({m.exempt})" for m in exempt)]
    killed = len(results) - len(survivors)
    verdict = "enough" if share(results) >= Fraction(str(threshold)) else "too few"
    share_text = f"{float(share(results)):.1%}"
    lines.append(
        f"{killed} of {len(results)} mutants killed, {share_text}: {verdict} (at least {threshold:.0%}; {found} exist)"
    )
    return "\n".join(lines)


def write_json(path: Path, results: Sequence[Result], exempt: Sequence[Mutant], options: argparse.Namespace) -> None:
    """The same as data; the same code, seed and options give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "schema": 1,
        "options": {key: getattr(options, key) for key in ("paths", "sample", "seed", "tests", "threshold")},
        "killed": sum(r.killed for r in results),
        "tried": len(results),
        "share": float(share(results)),
        "mutants": [asdict(r.mutant) | {"outcome": r.outcome} for r in results],
        "exempt": [asdict(m) for m in exempt],
    }
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _stop(signal_number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    raise SystemExit(main())
