"""The ``tcompile`` command: parses, calls the pipeline, prints.

Exit codes: 0 done; 1 the integers differ from the reference; 2 bad usage or a model that cannot be compiled; 3 an
outside tool is missing or failed; 70 a fault of tcompile; 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tcompile.errors import InternalError, MismatchError, Problem, TcompileError, ToolError, UsageError, printable
from tcompile.version import __version__

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="tcompile",
    help="Compiles ONNX networks to FPGA accelerators that multiply nothing, equal to onnxruntime integer by integer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The trained network.", show_default=False)]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A build directory.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Result as JSON on stdout, all else on stderr.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="All notes.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE.toml", help="Options from a file.")]
Shape = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="x=1,3,32,32", help="Shape of an input with dynamic dimensions; may be repeated."),
]
InputType = Annotated[
    list[str] | None,
    typer.Option("--input-type", metavar="x=uint8", help="Type of a float input that holds integers; may be repeated."),
]
FromNode = Annotated[str | None, typer.Option("--from", metavar="NODE", help="Compile from this ONNX node on.")]
UntilNode = Annotated[str | None, typer.Option("--until", metavar="NODE", help="Compile up to this ONNX node.")]
Ternary = Annotated[
    str | None, typer.Option(metavar="sws[:TERMS]", help="Weights to ternary, or to a sum of ternary terms.")
]
Weights = Annotated[str | None, typer.Option(metavar="csd:N", help="Weights to integers of at most N signed digits.")]
Prune = Annotated[str | None, typer.Option(metavar="tile:RATIO", help="Zero this share of PE x SIMD tiles.")]
ActBits = Annotated[int | None, typer.Option(metavar="B", help="Bits of unquantized activations, 1 to 8 [default: 8].")]
Ranges = Annotated[
    str | None,
    typer.Option(metavar="mse|minmax|percentile[:P]", help="How ranges come from sample inputs [default: mse]."),
]
Equalize = Annotated[
    bool | None,
    typer.Option("--equalize/--no-equalize", help="Channels that share a grid to like ranges [default: not]."),
]
Calib = Annotated[Path | None, typer.Option(metavar="X.npz", help="Sample inputs for the ranges of activations.")]
Reference = Annotated[
    str | None,
    typer.Option(metavar="auto|plain|fused", help="Which of onnxruntime's results to reproduce [default: auto]."),
]
Pe = Annotated[int | None, typer.Option(metavar="P", help="Output channels at a time, rows of a tile [default: 8].")]
Simd = Annotated[
    int | None, typer.Option(metavar="S", help="Input channels at a time, columns of a tile [default: 8].")
]
Fold = Annotated[
    str | None, typer.Option(metavar="FOLD.json", help="Lanes of single layers: {'conv1': {'PE': 8, 'SIMD': 9}}.")
]
Fps = Annotated[float | None, typer.Option(metavar="N", help="Frames per second, with as little hardware as possible.")]
Clock = Annotated[
    float | None,
    typer.Option(
        "--clock-mhz", metavar="M", help="Clock that --fps counts with; above 125 also more registers [default: 100]."
    ),
]
Form = Annotated[
    str | None, typer.Option(metavar="auto|engine|serial|parallel", help="Kind of hardware of layers [default: auto].")
]
Target = Annotated[
    str | None, typer.Option(metavar="PART", help="Device: the fastest design that fits it, or with --fps a check.")
]
Permute = Annotated[
    bool | None,
    typer.Option(
        "--permute/--no-permute",
        help="Reorder inner channels so that zeros gather in tiles [default: where lanes are given].",
    ),
]
Board = Annotated[
    str | None,
    typer.Option(metavar="ulx3s", help="Also write a design for this board, with a serial line to the host."),
]
Baud = Annotated[
    int | None, typer.Option(metavar="N", help="Bits per second on the board's serial line [default: 1000000].")
]
Loadable = Annotated[
    bool | None, typer.Option("--loadable", help="Other weights can be loaded at run time, over the control port.")
]
Like = Annotated[
    str | None,
    typer.Option(metavar="BUILD", help="For the hardware of this --loadable build: other contents of its memories."),
]
DumpIr = Annotated[bool, typer.Option("--dump-ir", help="Print both levels of the IR (stderr with --json).")]
Explain = Annotated[bool, typer.Option(help="Say for each layer how it was decided.")]


def _version(show: bool) -> None:
    if show:
        typer.echo(f"tcompile {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def check(
    model: Model,
    shape: Shape = None,
    input_type: InputType = None,
    from_node: FromNode = None,
    until_node: UntilNode = None,
    ternary: Ternary = None,
    weights: Weights = None,
    prune: Prune = None,
    act_bits: ActBits = None,
    ranges: Ranges = None,
    equalize: Equalize = None,
    calib: Calib = None,
    reference: Reference = None,
    pe: Pe = None,
    simd: Simd = None,
    fold: Fold = None,
    fps: Fps = None,
    clock_mhz: Clock = None,
    form: Form = None,
    target: Target = None,
    loadable: Loadable = None,
    config: Config = None,
    dump_ir: DumpIr = False,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What will happen to each node; every problem at once; nothing is written."""
    screen = _screen(as_json, quiet, verbose)
    given = _given(locals())
    compiled, options = _compile(model, given, calib, config)
    from tcompile.pipeline import plan, planned_luts
    from tcompile.show import show_check

    plans = plan(compiled, options)
    show_check(screen, compiled, plans, planned_luts(compiled, options, plans), explain=explain)
    _dump_ir(screen, compiled, dump_ir)


@app.command()
def build(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Build directory.", show_default=False)],
    shape: Shape = None,
    input_type: InputType = None,
    from_node: FromNode = None,
    until_node: UntilNode = None,
    ternary: Ternary = None,
    weights: Weights = None,
    prune: Prune = None,
    act_bits: ActBits = None,
    ranges: Ranges = None,
    equalize: Equalize = None,
    calib: Calib = None,
    reference: Reference = None,
    pe: Pe = None,
    simd: Simd = None,
    fold: Fold = None,
    fps: Fps = None,
    clock_mhz: Clock = None,
    form: Form = None,
    target: Target = None,
    board: Board = None,
    baud: Baud = None,
    permute: Permute = None,
    loadable: Loadable = None,
    like: Like = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace the build directory.")] = False,
    config: Config = None,
    dump_ir: DumpIr = False,
    explain: Explain = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Verilog and everything around it: benches, host models and packers, certificate, report."""
    from tcompile.bundle import check_target

    screen = _screen(as_json, quiet, verbose)
    given = _given(locals())
    check_target(output, force=force)
    with screen.stage("finding the integers"):
        compiled, options = _compile(model, given, calib, config)
    from tcompile.pipeline import build as build_hardware
    from tcompile.show import show_build

    with screen.stage("mapping to hardware"):
        built = build_hardware(compiled, options)
    with screen.stage("writing Verilog"):
        built.write(output, force=force)
    show_build(screen, built, output, explain=explain)
    _dump_ir(screen, compiled, dump_ir)


@app.command()
def compress(
    model: Model,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="File to write.", show_default=False)
    ],
    data: Annotated[
        Path, typer.Option(metavar="D.npz", help="x_train, y_train, x_test and y_test.", show_default=False)
    ],
    config: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="A TOML file, or the name of a recipe that comes with tcompile."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="wpc|lasso|admm|slr|magnitude|none", help="How weights are pruned.")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(metavar="SHARE", help="Share of the groups to prune.")] = None,
    cycles: Annotated[int | None, typer.Option(metavar="N", help="Instead: cycles per frame to reach.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="PART", help="Instead: device to fit at --fps, the same share of each layer.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(metavar="N", help="Frames per second for which hardware is chosen.")
    ] = None,
    clock_mhz: Clock = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="tile|tile-over-taps|slice|filter|channel|column|weight|form",
            help="What is pruned together [default: tile].",
        ),
    ] = None,
    pe: Pe = None,
    simd: Simd = None,
    ternary: Annotated[
        str | None, typer.Option(metavar="sws|twn|gaussian|bcgd", help="How weights are ternarized [default: sws].")
    ] = None,
    terms: Annotated[int | None, typer.Option(metavar="N", help="Ternary terms per weight (sws) [default: 1].")] = None,
    act_bits: Annotated[int | None, typer.Option(metavar="B", help="Bits of activations, 1 to 8 [default: 4].")] = None,
    low_rank: Annotated[
        str | None, typer.Option(metavar="SHARE|search", help="Convolutions as three of low rank, before training.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the training frames.")] = None,
    retrain: Annotated[
        int | None, typer.Option(metavar="N", help="Of these, after the pruning [default: a third].")
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Frames of a step [default: 64].")] = None,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Learning rate [default: 0.002].")] = None,
    distill: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the loss that follows the float network.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Of all random numbers [default: 0].")] = None,
    device: Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", help="Where to train.")] = None,
    shape: Shape = None,
    resume: Annotated[bool, typer.Option(help="Continue from the checkpoint, if there is one.")] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace the output; start anew.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prune, ternarize and train a float network: from ONNX and data to ONNX with 2-bit weights."""
    screen = _screen(as_json, quiet, verbose)
    given = {k: v for k, v in locals().items() if k in RECIPE_NAMES and v is not None}
    from tcompile.data import read_npz
    from tcompile.pipeline import CompressTargets
    from tcompile.pipeline import compress as run
    from tcompile.show import show_compression, show_epoch

    targets = CompressTargets(output, resume, force)
    targets.check()
    recipe = _recipe(config, given)
    report = run(
        model, read_npz(data), targets, recipe, shape=dict(_shape(text) for text in shape or ()),
        tell=lambda record: show_epoch(screen, record),
    )  # fmt: skip
    if report:
        show_compression(screen, report, output)


@app.command()
def verify(
    directory: Directory,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", metavar="X.npz", help="Frames x (and labels y); random without.")
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option("--original", metavar="MODEL.onnx", help="The file that was built: its accuracy is told, too."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Frames to run [default: 16, or all inputs].")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of random frames.")] = 0,
    simulator: Annotated[
        str, typer.Option(metavar="verilator|amaranth|model", help="What computes the accelerator's integers.")
    ] = "verilator",
    stall: Annotated[
        str, typer.Option(metavar="none|random:SEED", help="Pauses at all ports of the hardware.")
    ] = "none",
    jobs: Annotated[int, typer.Option(metavar="N", help="Compilers that run at the same time.")] = 2,
    reference: Reference = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare every output integer with onnxruntime's."""
    from tcompile.pipeline import verify_build
    from tcompile.show import show_verification

    screen = _screen(as_json, quiet, verbose)
    _one_of("--simulator", simulator, ("verilator", "amaranth", "model"))
    pauses = _pauses(stall)
    if pauses is not None and simulator == "model":
        raise UsageError(Problem("bad-option", "--stall is for hardware, and --simulator model has no cycles"))
    if reference is not None:
        _one_of("--reference", reference, ("auto", "plain", "fused"))
    if samples is not None and samples < 1:
        raise UsageError(Problem("bad-option", f"--samples must be at least 1, not {samples}"))
    if jobs < 1:
        raise UsageError(Problem("bad-option", f"--jobs must be at least 1, not {jobs}"))
    if seed < 0:
        raise UsageError(Problem("bad-option", f"--seed must not be negative, and is {seed}"))
    with screen.progress() as tell:
        report, found = verify_build(
            directory, inputs, original=original, samples=samples, seed=seed, mode=cast(Any, reference or "auto"),
            simulator=cast(Any, simulator), stall=pauses, jobs=jobs, progress=tell,
        )  # fmt: skip
    show_verification(screen, report, found)
    if found.mismatches:
        raise MismatchError(
            Problem(
                "mismatch",
                f"{found.mismatches} of {found.integers} output integers differ from onnxruntime ({found.reference})",
                tuple(d.node for d in found.located[:1]),
                "see 'located' in report.json; steps at risk are listed under 'exactness'",
            )
        )


@app.command()
def explore(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL.onnx...", help="The network; or it several times, compressed differently."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of results.", show_default=False)
    ],
    space: Annotated[
        Path | None, typer.Option(metavar="SPACE.toml", help="Tables [[grid]] of options with lists of values.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(metavar="X.npz", help="Frames x and labels y, for the accuracy of each network.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Frames of --inputs that are used [default: all].")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="What the front is about [default: interval,lut, and accuracy with --inputs]."
        ),
    ] = None,
    shape: Shape = None,
    ternary: Ternary = None,
    weights: Weights = None,
    prune: Prune = None,
    act_bits: ActBits = None,
    calib: Calib = None,
    clock_mhz: Clock = None,
    target: Target = None,
    synthesized: Annotated[
        int, typer.Option("--synth", metavar="N", help="Synthesize so many designs of the front.")
    ] = 0,
    flow: Annotated[str, typer.Option(metavar="NAME", help="As of synth.")] = "yosys-ecp5",
    device: Annotated[str | None, typer.Option(metavar="PART", help="As of synth.")] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes of this machine.")] = 2,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="Instead: workers of a Dask cluster.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Many designs of one network, and those that no other beats; the same command goes on where it was ended."""
    from tcompile.explore.run import Exploration
    from tcompile.explore.run import explore as run
    from tcompile.explore.space import read_grids, usual_grids
    from tcompile.show import show_exploration, show_point

    screen = _screen(as_json, quiet, verbose)
    for option, value, least in (("--jobs", jobs, 1), ("--samples", samples, 1), ("--synth", synthesized, 0)):
        if value is not None and value < least:
            raise UsageError(Problem("bad-option", f"{option} must be at least {least}, not {value}"))
    common = {**_config(config), **_given(locals())}
    names = objectives.split(",") if objectives else ["interval", "lut", *["accuracy"] * (inputs is not None)]
    grids = read_grids(space) if space else usual_grids(common.get("clock_mhz", 100.0))
    exploration = Exploration(output, tuple(names), jobs, scheduler, synthesized, flow, device)
    tasks = _tasks(models, grids, common, calib, inputs, samples)
    document = run(
        exploration, tasks, lambda row, done, total: show_point(screen, row, done, total), screen.progress_line
    )
    show_exploration(screen, document, output)


def _tasks(
    models: list[Path],
    grids: list[Any],
    common: dict[str, Any],
    calib: Path | None,
    inputs: Path | None,
    samples: int | None,
) -> list[Any]:
    """The points, with files by their absolute paths."""
    from tcompile.explore.evaluate import Task
    from tcompile.explore.space import points

    files = [*models, *(f for f in (calib, inputs) if f is not None)]
    missing = [
        Problem("no-file", f"{printable(str(f))} does not exist, or is no file") for f in files if not f.is_file()
    ]
    if missing:
        raise UsageError(missing)
    ranges, frames = (None if f is None else str(f.resolve()) for f in (calib, inputs))
    return [Task(p, ranges, frames, samples) for p in points([str(m.resolve()) for m in models], grids, common)]


@app.command()
def synth(
    directory: Directory,
    flow: Annotated[
        str,
        typer.Option(
            metavar="nextpnr-ecp5|yosys-ecp5|yosys-xilinx|yosys-ice40|yosys-gowin",
            help="nextpnr-ecp5 places, routes, times and packs a bitstream; the others count resources.",
        ),
    ] = "nextpnr-ecp5",
    device: Annotated[
        str | None,
        typer.Option(
            metavar="PART", help="As of build --target, or xc7 or xcup for a family [default: ecp5-85, xc7z020]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the placer.")] = 1,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds from S on; the clock told is their median.")] = 1,
    clock_mhz: Annotated[
        float | None, typer.Option("--clock-mhz", metavar="M", help="Clock to aim at [default: that of the build].")
    ] = None,
    flatten: Annotated[
        bool,
        typer.Option(
            "--flatten/--keep-hierarchy",
            help="Optimize over the borders of layers; without, each is counted by itself.",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Resources and clock from yosys and nextpnr; clocks are static timing, not measured on a board."""
    from tcompile.pipeline import synth_build
    from tcompile.show import show_synthesis

    screen = _screen(as_json, quiet, verbose)
    with screen.stages() as tell:
        report = synth_build(
            directory, tell=tell, flow=flow, target=device, clock_mhz=clock_mhz, seed=seed, seeds=seeds, flatten=flatten
        )
    show_synthesis(screen, report, directory)


@app.command()
def report(
    directory: Directory,
    kind: Annotated[
        str | None,
        typer.Option("--format", metavar="html|md", help="A page, or Markdown [default: as -o ends, else html]."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="File to write [default: DIR/report.html, or stdout]."),
    ] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace FILE.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The report of a build directory as one page, or as Markdown."""
    from tcompile.pipeline import report_build

    screen = _screen(as_json, quiet, verbose)
    kind = kind or ("md" if output is not None and output.suffix == ".md" else "html")
    _one_of("--format", kind, ("html", "md"))
    if as_json and kind == "md" and output is None:
        raise UsageError(Problem("bad-option", "stdout must hold either JSON or Markdown", hint="-o FILE.md"))
    found, content = report_build(directory, cast(Any, kind), output, force=force)
    if as_json:
        screen.json(found)
    elif output is None and kind == "md":
        screen.document(content.decode())
    else:
        screen.say(f"wrote {output or directory / 'report.html'}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Build directory.")] = Path(
        "build/demo"
    ),
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The whole way on a real trained network: Verilog, cycle simulation, comparison with onnxruntime."""
    from tcompile.demo import run_demo

    run_demo(_screen(as_json, quiet, verbose), output)


def _screen(as_json: bool, quiet: bool, verbose: bool) -> Any:
    from tcompile.console import Screen

    if quiet and verbose:
        raise UsageError(Problem("bad-option", "-q and -v contradict each other"))
    return Screen(as_json=as_json, verbosity=-1 if quiet else int(verbose))


OPTION_NAMES = (
    "shape", "input_type", "from_node", "until_node", "ternary", "weights", "prune", "act_bits", "ranges", "equalize",
    "reference", "pe", "simd", "fold", "fps", "clock_mhz", "form", "target", "board", "baud", "permute",
    "loadable", "like",
)  # fmt: skip


RECIPE_NAMES = (
    "method", "sparsity", "cycles", "target", "fps", "clock_mhz", "group", "pe", "simd", "ternary", "terms", "act_bits",
    "low_rank", "epochs", "retrain", "batch", "rate", "distill", "seed", "device",
)  # fmt: skip


def _recipe(config: str | None, given: dict[str, Any]) -> Any:
    """A checked recipe; without torch there is none."""
    try:
        from tcompile.compress import read_recipe
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        message = "training needs torch, and it is not installed"
        raise ToolError(Problem("no-torch", message, hint="pip install 'tcompile[train]'")) from error
    return read_recipe(config, given)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Options that were given on the command line."""
    given = {k: values[k] for k in OPTION_NAMES if values.get(k) is not None}
    if "shape" in given:
        given["shape"] = dict(_shape(text) for text in given["shape"])
    if "input_type" in given:
        given["input_type"] = dict(_named(text) for text in given["input_type"])
    return given


def _named(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name:
        raise UsageError(Problem("bad-option", f"--input-type must look like x=uint8, not {printable(text)}"))
    return name, kind


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, dims = text.rpartition("=")
    try:
        if not equals or not name:
            raise ValueError
        return name, tuple(int(d) for d in dims.split(","))
    except ValueError as error:
        raise UsageError(Problem("bad-option", f"--shape must look like x=1,3,32,32, not {printable(text)}")) from error


def _pauses(text: str) -> int | None:
    """Seed of random pauses."""
    kind, _, seed = text.partition(":")
    if text == "none":
        return None
    if kind != "random" or not seed.isdecimal() or not seed.isascii() or len(seed) > 9:
        message = f"--stall must be none or random:SEED with a number for a seed, not {printable(text)}"
        raise UsageError(Problem("bad-option", message))
    return int(seed)


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(Problem("bad-option", f"{option} must be one of {', '.join(choices)}, not {printable(value)}"))


def _config(path: Path | None) -> dict[str, Any]:
    """Options of a TOML file; keys are those of the command line with underscores."""
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        message = f"{printable(str(path))} must be a TOML file: {printable(reason)[1:-1]}"
        raise UsageError(Problem("bad-config", message, hint="such as: ternary = 'sws:2'")) from error


def _compile(model: Path, given: dict[str, Any], calib: Path | None, config: Path | None) -> tuple[Any, Any]:
    from tcompile.accelerator import build_options
    from tcompile.data import read_npz
    from tcompile.pipeline import compile_file

    options = {**_config(config), **given}
    configured = options.pop("calib", None)
    if not isinstance(configured, str | None):
        raise UsageError(Problem("bad-option", f"calib must be the path of an .npz file, not {configured!r}"))
    calib = calib or (None if configured is None else Path(configured))
    checked = build_options(options)
    return compile_file(model, checked, None if calib is None else read_npz(calib)), checked


def _dump_ir(screen: Any, compiled: Any, wanted: bool) -> None:
    if wanted:
        from tcompile.ir.text import dump

        for graph in (compiled.real, compiled.network.graph):
            print(dump(graph), end="", file=sys.stderr if screen.as_json else sys.stdout)


def main() -> None:
    """Entry point; turns errors into messages and exit codes."""
    flags = {a for a in sys.argv[1:] if a.startswith("-")}
    _end_on_signals()
    try:
        stopped = app(standalone_mode=False, prog_name="tcompile")  # a code where typer stopped by itself, else None
        sys.stdout.flush()
        if stopped == INTERRUPTED:
            raise KeyboardInterrupt
    except TcompileError as error:
        _report(error, flags)
        raise SystemExit(error.exit_code) from None
    except typer.Exit as stop:
        raise SystemExit(stop.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; nothing half written", file=sys.stderr)  # noqa: T201
        raise SystemExit(INTERRUPTED) from None
    except (OSError, MemoryError) as error:  # a full disk or memory, where no one could say more
        _detach_stdout()
        reason = "out of memory" if isinstance(error, MemoryError) else error.strerror or str(error)
        _report(UsageError(Problem("system", f"the system must go along, and says: {reason}")), flags - {"--json"})
        raise SystemExit(UsageError.exit_code) from None
    except Exception as error:  # noqa: BLE001  the last line of defence: a fault of ours, said as such
        if hasattr(error, "format_message"):  # typer's own usage errors
            _usage(error, flags)
            raise SystemExit(UsageError.exit_code) from None
        _fault(error, flags)
        raise SystemExit(InternalError.exit_code) from None


def _end_on_signals() -> None:
    """Being told to end unwinds like an interruption: children are ended and temporary folders removed."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _usage(error: Any, flags: set[str]) -> None:
    """A usage error of the parser, in our words; a command without arguments gets its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    reason = " ".join(str(error.format_message()).split())
    command = error.ctx.command_path if getattr(error, "ctx", None) else "tcompile"
    _report(UsageError(Problem("usage", reason[:1].lower() + reason[1:], hint=f"{command} --help")), flags)


def _detach_stdout() -> None:
    """Nothing more is to be written where writing failed, not even when Python ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: TcompileError, flags: set[str]) -> None:
    from tcompile.console import Screen

    Screen(as_json="--json" in flags).error(error)


def _fault(error: Exception, flags: set[str]) -> None:
    import traceback

    traceback.print_exception(error, file=sys.stderr)
    _report(InternalError(Problem("internal", f"{type(error).__name__}: {error}")), flags)
