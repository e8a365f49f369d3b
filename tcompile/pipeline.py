"""The order of the stages, and nothing else: file, real numbers, passes or training, integers, hardware, files, verification."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from tcompile import reference
from tcompile.bundle import Bundle, check_target, replace_file
from tcompile.data import read_npz, read_text, test_split
from tcompile.directory import Directory, contents, read_build
from tcompile.emit.board import BoardPlan, plan_board
from tcompile.emit.top import rtl
from tcompile.errors import InternalError, ModelError, Problem, UsageError, printable
from tcompile.frontend import Loaded, load, normalize
from tcompile.frontend.export import export
from tcompile.frontend.importer import import_model
from tcompile.hosts import host_models, ports
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import NARROW, Graph, IntType, TensorType
from tcompile.ir.legality import check as check_legal
from tcompile.lowering.branches import parted
from tcompile.lowering.lifted import AccumulatorStart
from tcompile.lowering.lower import Lowered, lower
from tcompile.machine import machine_of
from tcompile.mapping.cost import cost, cost_behind
from tcompile.mapping.devices import room
from tcompile.mapping.folding import Folding as LayerFolds
from tcompile.mapping.folding import read_folding
from tcompile.mapping.loadable import check_memories, loadable, mapped_like
from tcompile.mapping.network import Mapped, map_network, plan_layers
from tcompile.mapping.plan import Choice, Plan, budget_of, labels, spacing_of, tasks
from tcompile.options import BuildOptions, Simulator
from tcompile.original import Original
from tcompile.passes import (
    DeclareInputs,
    Equalize,
    MatchOutputs,
    Pass,
    PassRecord,
    PruneTiles,
    QuantizeActivations,
    ReluBeforeMaxPool,
    ScaleInputs,
    SignedDigits,
    Ternarize,
    apply,
)
from tcompile.reference import Kernel, Mode
from tcompile.report import build_report, layer_rows, with_hardware, with_synthesis, with_verification
from tcompile.report import dump as dump_report
from tcompile.synthesis import find_programs, job, results
from tcompile.synthesis import run as run_flow
from tcompile.verify import Network, Progress, Verification, frames_of, input_types, labels_of, random_inputs, verify
from tcompile.version import __version__

if TYPE_CHECKING:  # torch takes a second to import
    from tcompile.compress.job import Result
    from tcompile.compress.recipe import Recipe

__all__ = [
    "Built",
    "Compiled",
    "CompressTargets",
    "build",
    "compile_file",
    "compress",
    "compressed",
    "node_rows",
    "plan",
    "planned_luts",
    "verify_build",
]  # fmt: skip


SAMPLES = 256  # calibration frames that are used; more change ranges little
SUMS = ("ConvInteger", "MatMulInteger")  # kernels that give integer sums as they are
LARGEST = 2.0**120  # of a linear layer's real values, and of their inverses; well inside float32


@dataclass(frozen=True, eq=False)
class Compiled:
    """A network in integers, with all that verification and emission need."""

    loaded: Loaded
    real: Graph
    lowered: Lowered
    network: Network
    passes: tuple[PassRecord, ...]
    report: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Built:
    """A network on hardware, with its report."""

    compiled: Compiled
    mapped: Mapped
    report: Mapping[str, Any]
    board: BoardPlan | None = None

    def bundle(self) -> Bundle:
        """The files of the build directory."""
        lowered = self.compiled.lowered
        tensors = {value: self.compiled.real[t].origin.tensor for value, t in lowered.inputs.items()}
        return contents(self.compiled.network, tensors, self.mapped, self.report, self.board)

    def write(self, directory: Path, *, force: bool = False) -> None:
        """Write the build directory; see `Bundle.write`."""
        check_target(directory, force=force)
        self.bundle().write(directory, force=force)


def compile_file(path: Path, options: BuildOptions, calibration: Mapping[str, np.ndarray] | None = None) -> Compiled:
    """Compile an ONNX file to integers.

    Parameters
    ----------
    path : Path
        ONNX file.
    options : BuildOptions
        What to do.
    calibration : mapping of str to ndarray, optional
        Sample inputs (N, ...) by input name (or ``x``), for the ranges of activations.

    Raises
    ------
    ModelError
        Every reason why the network cannot be compiled.
    """
    loaded = load(path, options.shape, options.until_node)
    real = import_model(loaded.model)
    _refuse_illegal(real)
    source = loaded.reference
    real, cut = _cut(real, options)
    if cut:
        source = export(real)
    real, records = _compress(real, options, calibration)
    if any(r.changed for r in records):
        source = export(real)
        real = import_model(normalize(source))
        check_legal(real)
    _refuse_ends(real)
    real = parted(real)
    mode, kernels = _mode(source, real, options)
    if mode == "plain":  # fused has run
        _refuse_unrunnable(source, mode)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        lowered = lower(real, mode, kernels)
    check_legal(lowered.graph)
    _refuse_unreadable(lowered)
    asked = options.given | ({} if calibration is None else {"calib": True})
    return _compiled(loaded, real, lowered, source, mode, kernels, records, asked)


def _compiled(
    loaded: Loaded,
    real: Graph,
    lowered: Lowered,
    source: onnx.ModelProto,
    mode: Mode,
    kernels: Mapping[str, Kernel],
    records: tuple[PassRecord, ...],
    asked: Mapping[str, Any],
) -> Compiled:
    own = kernels if mode == "plain" else reference.kernels(source, "plain")
    hosts = host_models(lowered, real, own)
    network = Network(
        lowered.graph, hosts.pre, hosts.post, source, mode,
        ports(lowered, real, lowered.outputs), ports(lowered, real, lowered.probes),
    )  # fmt: skip
    report = build_report(
        model={"file": loaded.file, "sha256": loaded.sha256, "format": loaded.format},
        passes=records,
        graph=lowered.graph,
        certificate=lowered.certificate,
        doubts=_doubts(real, lowered, mode, kernels),
        mode=mode,
        notes=(*loaded.notes, *lowered.notes),
        options=asked,
    )
    return Compiled(loaded, real, lowered, network, records, report)


def _refuse_illegal(real: Graph) -> None:
    """What the importer takes from a file and the rules of the real level forbid is a fault of the file."""
    try:
        check_legal(real)
    except InternalError as error:
        raise ModelError(
            [replace(p, code="invalid-graph", where=p.where[1:] or p.where) for p in error.problems]
        ) from error
    quantizers = (*real.all(R.QuantizeLinear), *real.all(R.DequantizeLinear))
    computed = [n for n in quantizers if not all(isinstance(real[i], R.Const) for i in n.inputs[1:] if i)]
    if computed:
        name = printable(computed[0].origin.names[-1])
        message = f"scales and zero points must be constant; {name} has one that is computed or an input"
        where = tuple(n.origin.names[-1] for n in computed)
        raise ModelError(Problem("not-constant", message, where, "quantize statically"))
    scales = [(n, real[n.inputs[1]]) for n in real.all(R.QuantizeLinear)]
    wrong = [n.origin.names[-1] for n, s in scales if isinstance(s, R.Const) and not (s.value.array > 0).all()]
    if wrong:
        message = f"scales must be positive; {printable(wrong[0])} has others"
        raise ModelError(Problem("bad-scale", message, tuple(wrong), "is the file damaged?"))


def _refuse_ends(real: Graph) -> None:
    """Inputs and outputs must be something that a host can give and take."""
    problems = []
    for node in (*real.all(R.Input), *(real[o] for o in dict.fromkeys(real.outputs))):
        assert isinstance(node.type, TensorType)
        name, end = printable(node.origin.tensor), "input" if isinstance(node, R.Input) else "output"
        if node.type.dtype in NARROW:
            message = f"{end} {name} must have elements of 8 bits or more, not {node.type.dtype}"
            hint = (
                "onnxruntime hands no packed tensors to Python; let the network begin or end with floats or 8-bit codes"
            )
            problems.append(Problem("packed-port", message, (node.origin.tensor,), hint))
        if end == "output" and not _depends(real, node.name):
            message = f"output {name} must depend on an input, and is constant"
            problems.append(Problem("constant-output", message, (node.origin.tensor,), "remove it from the outputs"))
    if problems:
        raise ModelError(problems)


def _unknown_node(name: str, known: Mapping[str, object]) -> Problem:
    close = difflib.get_close_matches(name[:100], list(known), 1)
    hint = f"is {printable(close[0])} meant?" if close else "tcompile check lists the nodes"
    return Problem(
        "unknown-node", f"the model must have a node {printable(name)}, and has none of that name", hint=hint
    )


def _depends(real: Graph, value: str, source: str | None = None) -> bool:
    """Whether a value is computed from an input, or from a given value."""
    seen, stack = set[str](), [value]
    while stack:
        name = stack.pop()
        if name == source or (source is None and isinstance(real[name], R.Input)):
            return True
        if name not in seen:
            seen.add(name)
            stack.extend(real[name].uses)
    return False


def _refuse_unrunnable(source: onnx.ModelProto, mode: Mode) -> None:
    """Let the reference run one frame before any work: it must load, and have kernels for every node."""
    ones = {  # by which anything may be divided
        i.name: np.ones(
            tuple(d.dim_value for d in i.type.tensor_type.shape.dim),
            onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type),
        )
        for i in source.graph.input
    }
    reference.run(source, ones, mode)


def _refuse_unreadable(lowered: Lowered) -> None:
    """Sums must stay finite in floating point, and at the outputs not vanish, or no integer stands for them."""
    problems: dict[str, Problem] = {}
    inner, ends = lowered.probes.values(), lowered.outputs.values()
    for lifted, is_end in (*((p, False) for p in inner), *((p, True) for p in ends)):
        start = lifted.start
        if isinstance(start, AccumulatorStart):
            largest = float((np.abs(start.scale) * start.magnitude + np.abs(start.bias)).max(initial=0.0))
            if not largest < LARGEST:
                message = f"the sums of {printable(start.node)} must stay below 2^120, and reach {largest:.3g}"
                hint = "look at the scales of its inputs and weights"
                problems[start.node] = Problem("overflow", message, (start.node,), hint)
            if is_end and not np.abs(start.scale).min(initial=1.0) > 1 / LARGEST:
                message = f"the scales of {printable(start.node)} must not be zero: nobody could read its sums back"
                problems[start.node] = Problem("zero-scale", message, (start.node,), "is the file damaged?")
    if problems:
        raise ModelError(problems.values())


def _cut(real: Graph, options: BuildOptions) -> tuple[Graph, bool]:
    """The part between two nodes."""
    if options.until_node is None and options.from_node is None:
        return real, False
    by_node = {n.origin.tensor: n for n in real if n.origin.nodes}  # what a node gives names it, too
    by_node |= {name: n for n in real for name in n.origin.names}
    missing = [n for n in (options.from_node, options.until_node) if n is not None and n not in by_node]
    if missing:
        raise UsageError([_unknown_node(n, by_node) for n in missing])
    nodes = list(real.nodes)
    if options.from_node is not None:
        first = by_node[options.from_node]
        entry = real[first.uses[0]]
        assert isinstance(entry.type, TensorType)
        origin = replace(entry.origin, nodes=())
        put = R.Input(name=entry.name, type=entry.type, origin=origin)
        nodes = [put if n.name == entry.name else n for n in nodes]
    outputs = (by_node[options.until_node].name,) if options.until_node is not None else real.outputs
    graph = real.with_nodes(nodes, outputs)
    if options.from_node is not None and not any(_depends(graph, o, entry.name) for o in outputs):
        message = f"the part to compile must begin before it ends, and {printable(options.from_node)} lies behind what it ends with"
        raise UsageError(Problem("bad-cut", message, hint="exchange --from and --until, or give one of them"))
    needed = {i for n in graph for i in n.uses} | set(outputs)
    return replace(graph, nodes=tuple(n for n in graph if n.name in needed)), True


def _compress(
    real: Graph, options: BuildOptions, calibration: Mapping[str, np.ndarray] | None
) -> tuple[Graph, tuple[PassRecord, ...]]:
    if not options.compresses and calibration is None:
        return apply(real, _declared(options))
    return compressed(real, options, _samples(real, calibration))


def compressed(
    real: Graph, options: BuildOptions, samples: Mapping[str, np.ndarray]
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """A float network compressed without training, and what was done.

    Parameters
    ----------
    samples : mapping of str to array (N, ...)
        Calibration frames by the name of the input's ONNX tensor; may be empty.
    """
    scaling = _declared(options)
    if samples:
        scaling.append(ScaleInputs(samples))
    if options.equalize:
        scaling.append(Equalize(samples))
    scaled, records = apply(real, scaling)  # computes the same; what follows does not
    graph, more = apply(scaled, _lossy(scaled, options, samples))
    return graph, records + more


def _declared(options: BuildOptions) -> list[Pass]:
    return [DeclareInputs(options.input_type)] if options.input_type else []


def _lossy(scaled: Graph, options: BuildOptions, samples: Mapping[str, np.ndarray]) -> list[Pass]:
    passes: list[Pass] = []
    if options.prune:
        passes.append(PruneTiles(ratio=options.ratio, pe=options.pe, simd=options.simd))
    if options.ternary:
        passes.append(Ternarize(terms=options.terms, thresholds="statistical" if options.terms == 1 else "fitted"))
    elif options.weights:
        passes.append(SignedDigits(digits=options.digits, samples=samples))
    if samples and (options.ternary or options.weights):
        passes.append(MatchOutputs(reference=scaled, samples=samples))
    ranges = QuantizeActivations(
        bits=options.act_bits, samples=samples, method=options.range_method, percentile=options.percentile
    )
    return [*passes, ReluBeforeMaxPool(), ranges]


def _samples(real: Graph, calibration: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Calibration frames by input tensor, at most `SAMPLES` of them, checked."""
    if calibration is None:
        return {}
    inputs = {n.origin.tensor: n.type for n in real.all(R.Input)}
    frames = frames_of(inputs, calibration)
    return {name: x[:SAMPLES] for name, x in frames.items()}


def _mode(source: onnx.ModelProto, real: Graph, options: BuildOptions) -> tuple[Mode, Mapping[str, Kernel]]:
    """The reference to reproduce: fused where most linear layers become integer kernels, else plain.

    One layer that onnxruntime leaves in floating point costs one layer of proof; the other reference costs all.
    """
    own = reference.kernels(source, "plain")
    if options.reference == "plain":
        return "plain", own
    try:
        kernels = reference.kernels(source, "fused")
        _refuse_unrunnable(source, "fused")
    except ModelError:  # onnxruntime's optimizations make of some types what it cannot load or run
        if options.reference == "fused":
            raise
        return "plain", own
    linear = [n.origin.names[-1] for n in real if isinstance(n, R.Linear)]
    integer = [name for name in linear if name in kernels and kernels[name].integer]
    fused = options.reference == "fused" or 2 * len(integer) > len(linear)
    if fused and reference.saturates():
        raise ModelError(
            Problem(
                "saturating-kernels",
                "onnxruntime's integer kernels on this processor saturate pairs of products (no VNNI), so that their sums are not exact",
                hint="give --reference plain, or run on another machine",
            )
        )
    return ("fused", kernels) if fused else ("plain", own)


def _doubts(real: Graph, lowered: Lowered, mode: Mode, kernels: Mapping[str, Kernel]) -> tuple[str, ...]:
    """Integer kernels that are not reproduced; in fused mode also operations of float layers that the optimizations replaced."""
    if mode == "plain":
        return tuple(
            f"onnxruntime's integer kernel for {printable(n)} may round in another way" for n in lowered.doubts
        )
    host = [n for n in real if isinstance(n, R.Linear) and _where(lowered, n) == "host before"]
    owner: dict[str, str] = {}  # linear layer that onnxruntime leaves in floating point, by value
    moved = []
    for node in real:
        place = lowered.placements.get(node.name)
        if place is None or place.where != "accelerator" or not isinstance(node, R.RealNode) or not node.origin.nodes:
            continue
        name = node.origin.names[-1]
        kernel = kernels.get(name)
        if isinstance(node, R.Linear):
            if kernel is None or not (kernel.integer or kernel.op in SUMS):
                owner[node.name] = name
        elif isinstance(node, R.Elementwise) and not isinstance(node, R.DequantizeLinear):
            owner.update((node.name, owner[i]) for i in node.uses if i in owner)
        if node.name in owner and not _is_kept(kernel, node, real) and not _needless(node, real):
            moved.append(name)
    moved += [n.origin.names[-1] for n in host]
    moved += [name for name in lowered.doubts if name not in moved]
    return tuple(
        f"onnxruntime's defaults may replace or remove {printable(n)}, a floating-point operation" for n in moved
    )


def _is_kept(kernel: Kernel | None, node: R.RealNode, real: Graph) -> bool:
    """Whether onnxruntime's defaults leave an operation as it is; they also quantize the bias of layers that stay in floats."""
    if kernel is None or kernel.op != node.op:
        return False
    bias = node.inputs[2] if isinstance(node, R.Linear) and len(node.inputs) > 2 else ""
    return not isinstance(real[bias], R.Const) or kernel.node.input[2] in kernel.constants if bias else True


def _where(lowered: Lowered, node: R.RealNode) -> str:
    place = lowered.placements.get(node.name)
    return "" if place is None else place.where


def _needless(node: R.RealNode, real: Graph) -> bool:
    """Whether a Relu may go because the quantizer behind it saturates at real 0."""
    users = real.consumers[node.name]
    if not isinstance(node, R.Relu) or len(users) != 1 or not isinstance(users[0], R.QuantizeLinear):
        return False
    zero = real.by_name.get(users[0].inputs[2]) if len(users[0].inputs) > 2 else None
    lowest = 0 if users[0].type.dtype.startswith("u") else -(1 << int(users[0].type.dtype.lstrip("int")) - 1)
    value = int(zero.value.array.ravel()[0]) if isinstance(zero, R.Const) else 0
    return value == lowest


def build(compiled: Compiled, options: BuildOptions) -> Built:
    """Map a compiled network to hardware.

    Raises
    ------
    UsageError
        A folding that cannot be, or a target out of reach; a board's clock or baud that cannot be had.
    """
    board = None if options.board is None else plan_board(options.board, options.clock_mhz, options.baud)
    graph, clock_mhz = compiled.lowered.graph, options.clock_mhz
    if options.like is not None:
        built = read_build(Path(options.like))
        mapped, clock_mhz = _like(graph, built), float(built.report["performance"]["clock_mhz"])
    elif options.loadable:
        mapped = _loadable(graph, options)
    else:
        mapped = map_network(graph, choice_of(graph, options))
    probes = tuple(replace(p, order=mapped.orders.get(p.value)) for p in compiled.network.probes)
    compiled = replace(compiled, network=replace(compiled.network, graph=mapped.graph, probes=probes))
    return Built(compiled, mapped, with_hardware(dict(compiled.report), mapped.graph, mapped, clock_mhz), board)


def _loadable(graph: Graph, options: BuildOptions) -> Mapped:
    """Hardware for a network's structure, with its weights as the first ones."""
    graph, choice = _asked(graph, options)
    mapped = map_network(graph, choice)
    _check_engines(mapped.plans)
    check_legal(mapped.graph)
    check_memories(mapped.design, mapped.graph)
    return mapped


def _asked(graph: Graph, options: BuildOptions) -> tuple[Graph, Choice]:
    """The network to map, and what the options ask of its mapping."""
    if not options.loadable:
        return graph, choice_of(graph, options)
    graph = loadable(graph)
    return graph, replace(choice_of(graph, options), form="engine", permute=False)


def _check_engines(plans: Mapping[str, Plan]) -> None:
    graphs = tuple(p.label for p in plans.values() if p.fold.form != "engine")
    if graphs:
        message = "must be engines for their weights to be loaded, and the folding file makes them graphs"
        raise UsageError(Problem("not-loadable", message, graphs, "leave their form out of the folding file"))


def _like(graph: Graph, built: Directory) -> Mapped:
    """A network on the hardware of a build, as other contents of its memories."""
    design = built.design()
    if not design.loadable:
        message = f"{printable(str(built.path))} must be a build whose weights can be loaded, and is not"
        raise UsageError(Problem("not-loadable", message, hint="build it again with --loadable"))
    mapped = mapped_like(loadable(graph, built.network.graph), built.recipe, design, built.network.graph)
    if rtl(mapped.design).identity != built.identity:
        message = f"the Verilog of {printable(str(built.path))} must be what this tcompile makes of it, and is not"
        hint = "it was changed by hand, or made by another version; build it again with --loadable"
        raise UsageError(Problem("other-hardware", message, hint=hint))
    return mapped


def plan(compiled: Compiled, options: BuildOptions) -> dict[str, Plan]:
    """What each linear layer is to become, without making the design.

    Raises
    ------
    UsageError
        A folding that cannot be, or a target out of reach; weights that are to be loaded, and cannot.
    """
    plans = plan_layers(*_asked(compiled.lowered.graph, options))
    if options.loadable:
        _check_engines(plans)
    return plans


def planned_luts(compiled: Compiled, options: BuildOptions, plans: Mapping[str, Plan]) -> dict[str, int]:
    """Estimate for each planned layer by its label: its own blocks, and what takes its lanes as they come."""
    graph, choice = _asked(compiled.lowered.graph, options)
    family, work = choice.family, tasks(graph)
    pace = max((p.cycles for p in plans.values()), default=1)
    return {
        plan.label: (cost(work[name], plan, family) + cost_behind(work[name], plan, pace, family)).lut
        for name, plan in plans.items()
    }


def choice_of(graph: Graph, options: BuildOptions) -> Choice:
    """What the options ask of the mapping."""
    names = labels(graph)
    layers = [names[n.name] for n in graph if isinstance(n, (I.Conv, I.Dense))]
    folding = LayerFolds()
    if options.fold is not None:
        text = json.dumps(options.fold) if isinstance(options.fold, dict) else read_text(options.fold)
        folding = read_folding(text, layers)
    budget = None if options.fps is None else budget_of(options.fps, options.clock_mhz)
    form = None if options.form == "auto" else options.form
    target = None if options.target is None else room(options.target)
    spacing = spacing_of(options.clock_mhz)
    return Choice(options.pe, options.simd, folding, budget, form, target, spacing, options.permute)


def verify_build(
    directory: Path,
    inputs: Path | None = None,
    *,
    original: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    mode: Literal["auto", "plain", "fused"] = "auto",
    simulator: Simulator = "verilator",
    stall: int | None = None,
    jobs: int = 2,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Verification]:
    """Verify a build directory and enter the results into its report.

    Parameters
    ----------
    inputs : Path, optional
        Data file with frames ``x`` (or ``x_test``) and labels ``y`` (or ``y_test``); random frames if left out.
    original : Path, optional
        The file that was built: its accuracy is told beside that of what passes made of it. Needs labels.
    samples : int, optional
        Frames to run; all of a data file, 16 random ones if left out.
    mode : {"auto", "plain", "fused"}
        Reference; the one that the build reproduces if ``auto``.
    simulator : {"verilator", "amaranth", "model"}
        What computes the accelerator's integers.
    stall : int, optional
        Seed of random stalls at all ports.
    jobs : int
        Compilers that run at the same time.
    """
    opened = read_build(directory)
    network, report = opened.network, opened.report
    if mode != "auto":
        network = replace(network, mode=mode)
    labels = None
    if inputs is None:
        frames = random_inputs(network, samples or 16, seed)
    else:
        arrays = test_split(read_npz(inputs))
        frames = frames_of(input_types(network), arrays)
        labels = labels_of(arrays, len(next(iter(frames.values()))))
        frames = {name: x[:samples] for name, x in frames.items()}
        labels = None if labels is None else labels[:samples]
    source = _original(original, report, network, labels)
    with machine_of(simulator, network.graph, opened.design, directory, stall=stall, jobs=jobs) as machine:
        found = verify(network, frames, labels, machine=machine, progress=progress)
    if source is not None and labels is not None:
        found = replace(found, accuracy_original=source.accuracy(frames, labels))
    report = with_verification(report, found)
    opened.save(report)
    return report, found


def synth_build(
    directory: Path,
    *,
    flow: str = "nextpnr-ecp5",
    target: str | None = None,
    clock_mhz: float | None = None,
    seed: int = 1,
    seeds: int = 1,
    flatten: bool = False,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Synthesize a build directory and enter the results into its report.

    Parameters
    ----------
    flow : str
        Key of `tcompile.synthesis.FLOWS`.
    target : str, optional
        A device, or a family of Xilinx.
    clock_mhz : float, optional
        Clock to aim at; the one that was built for if left out.
    seed, seeds : int
        The first seed of the placer, and how many there are.
    flatten : bool
        Whether layers are optimized over their borders.
    tell : callable, optional
        Is told the name of each stage when it begins.

    Raises
    ------
    UsageError
        It is no build directory, an option is wrong, or the device is too small.
    ToolError
        A tool is missing, or failed.
    InternalError
        The accelerator multiplies.
    """
    given = {} if clock_mhz is None else {"clock_mhz": clock_mhz}
    asked = job(flow, target, seed=seed, seeds=seeds, flatten=flatten, **given)
    opened = read_build(directory)
    if clock_mhz is None:
        asked = replace(asked, clock_mhz=float(opened.report["performance"]["clock_mhz"]))
    programs = find_programs(flow)
    run_flow(directory, asked, programs, tell)
    found = results(directory, asked, opened.design(), layer_rows(opened.network.graph), programs.versions())
    report = with_synthesis(opened.report, found)
    opened.save(report)
    return report


def report_build(
    directory: Path, kind: Literal["html", "md"] = "html", output: Path | None = None, *, force: bool = False
) -> tuple[dict[str, Any], bytes]:
    """Write the report of a build directory for people.

    Parameters
    ----------
    kind : {"html", "md"}
        A page, or Markdown.
    output : Path, optional
        File to write; without it a page replaces ``report.html``, and Markdown is not written.
    force : bool
        Whether `output` may replace a file.

    Returns
    -------
    report : dict
        Content of ``report.json``.
    content : bytes
        Of the page, or the Markdown.
    """
    opened = read_build(directory)
    content = opened.drawn(kind)
    if output is None and kind == "html":
        replace_file(directory / "report.html", content)
    elif output is not None:
        if output.exists() and (output.is_dir() or not force):
            hint = "give another" if output.is_dir() else "give another, or -f to replace it"
            raise UsageError(Problem("output-exists", f"{printable(str(output))} must not exist", hint=hint))
        replace_file(output, content)
    return opened.report, content


def _original(
    path: Path | None, report: Mapping[str, Any], network: Network, labels: np.ndarray | None
) -> Original | None:
    """The file that a build was made of, if its accuracy is asked for; refused before any work."""
    if path is None:
        return None
    if labels is None:
        message = "the original's accuracy needs labels, and there are none"
        raise UsageError(Problem("no-labels", message, hint="give --inputs X.npz with y"))
    return Original.read(path, report["model"], input_types(network))


@dataclass(frozen=True)
class CompressTargets:
    """What ``compress`` writes: the network, its report, a picture, and while it works a checkpoint beside them.

    Parameters
    ----------
    output : Path
        OUT.onnx.
    resume : bool
        Continue from the checkpoint, if there is one.
    force : bool
        Replace what is there; without `resume` an old checkpoint too, once there is a new one.
    """

    output: Path
    resume: bool = False
    force: bool = False

    @property
    def report(self) -> Path:
        return self.output.with_suffix(".json")

    @property
    def picture(self) -> Path:
        return self.output.with_suffix(".svg")

    @property
    def checkpoint(self) -> Path:
        return self.output.with_suffix(".checkpoint")

    def check(self) -> None:
        """Refuse targets before any work.

        Raises
        ------
        UsageError
            The output is no .onnx file in a folder that is there, or it would replace something.
        """
        name = printable(str(self.output))
        problems = []
        if self.output.suffix != ".onnx":
            problems.append(Problem("output-name", f"the output must be a file named *.onnx, not {name}"))
        if not self.output.parent.is_dir():
            problems.append(Problem("cannot-write", f"the folder of the output {name} must exist"))
        complete = self.resume and not self.checkpoint.exists()
        for path in (self.output, self.report, self.picture):
            if path.exists() and (path.is_dir() or not self.force):
                hint = "give another" if path.is_dir() else "give another, or -f to replace it"
                hint = "the work is complete, and there is nothing to resume; -f would start anew" if complete else hint
                problems.append(Problem("output-exists", f"{printable(str(path))} must not exist", hint=hint))
        if self.checkpoint.exists() and not (self.resume or self.force):
            message = f"{printable(str(self.checkpoint))} is the checkpoint of work that was ended"
            problems.append(Problem("checkpoint-exists", message, hint="--resume continues it, -f starts anew"))
        if problems:
            raise UsageError(problems)

    def load(self) -> bytes | None:
        """The checkpoint to continue from, if there is one."""
        return self.checkpoint.read_bytes() if self.resume and self.checkpoint.exists() else None

    def save(self, content: bytes) -> None:
        """Replace the checkpoint.

        Raises
        ------
        UsageError
            It cannot be written; that of the epoch before is still there.
        """
        try:
            replace_file(self.checkpoint, content)
        except UsageError as error:
            hint = "the checkpoint before it is kept: make room, and continue with --resume"
            raise UsageError([replace(p, hint=hint) for p in error.problems]) from error


def compress(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    targets: CompressTargets,
    recipe: Recipe,
    *,
    shape: Mapping[str, tuple[int, ...]] | None = None,
    tell: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Prune, ternarize and train a float network, and write it as a file that is proved exact.

    Parameters
    ----------
    path : Path
        ONNX file.
    arrays : mapping of str to ndarray
        ``x_train``, ``y_train``, ``x_test``, ``y_test``.
    targets : CompressTargets
        What is written.
    recipe : Recipe
        What to do.
    shape : mapping of str to tuple of int, optional
        Shapes of inputs with dynamic dimensions.
    tell : callable, optional
        Told every epoch.

    Returns
    -------
    dict
        What the report holds; nothing in processes of ``torchrun`` other than the first, which writes.

    Raises
    ------
    ModelError, UsageError
        Every reason of the stage that failed.
    InternalError
        onnxruntime computes other scores from the file than torch.
    """
    from tcompile.compress.export import to_onnx
    from tcompile.compress.job import run
    from tcompile.compress.plots import drawing
    from tcompile.compress.team import gathered
    from tcompile.compress.train import device_of

    targets.check()
    loaded = load(path, dict(shape or {}))
    real = import_model(loaded.model)
    _refuse_illegal(real)
    digest = _digest(arrays)
    key = {"model": loaded.sha256, "data": digest}
    with gathered(device_of(recipe).type) as team:
        result = run(real, arrays, recipe, store=targets, key=key, tell=tell, team=team)
    if not team.leads:
        return {}
    model = to_onnx(result.graph)
    mismatches = _differing(result)
    if mismatches:
        message = f"onnxruntime computes other scores than torch for {mismatches} of {len(result.predicted)} frames"
        raise InternalError(Problem("torch-differs", message, (loaded.file,)))
    report = {
        "schema": 1,
        "tcompile": __version__,
        "model": {"file": loaded.file, "sha256": loaded.sha256, "format": loaded.format},
        "data": {"sha256": digest},
        "onnxruntime": {"frames": len(result.predicted), "mismatches": mismatches},
        **result.report,
    }
    replace_file(targets.report, dump_report(report))
    replace_file(targets.picture, drawing(report))
    replace_file(targets.output, model.SerializeToString())
    targets.checkpoint.unlink(missing_ok=True)
    return report


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a data file's arrays."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _differing(result: Result) -> int:
    """Test frames whose scores are not bit for bit those of onnxruntime."""
    graph = result.graph.with_nodes(result.graph.nodes, (result.scores,))
    source = graph.all(R.Input)[0]
    session = reference.Session(export(graph))
    frames = result.x_test.astype(source.type.dtype)
    found = session.frames({source.origin.tensor: frames})[session.outputs[0]].reshape(result.predicted.shape)
    return int((found != result.predicted).any(axis=1).sum())


def node_rows(compiled: Compiled) -> list[dict[str, Any]]:
    """For each node of the file what becomes of it: operator, place, integer operation, bits, exactness."""
    bits: dict[str, int] = {}
    for node in compiled.network.graph:
        if isinstance(node.type, IntType):
            bits |= dict.fromkeys(node.origin.names, node.type.width)
    risk = {e.layer: e for e in compiled.lowered.certificate}
    rows = []
    for node in compiled.real:
        place = compiled.lowered.placements.get(node.name)
        if place is not None and node.origin.nodes:
            name, operator = node.origin.nodes[-1]
            entry = risk.get(name)
            exact = (
                ""
                if entry is None
                else ("exact" if entry.proved else f"{entry.at_risk} of {entry.steps} steps at risk")
            )
            inside = place.where == "accelerator"
            rows.append(
                {
                    "node": name, "operator": operator, "where": place.where, "becomes": place.becomes,
                    "bits": bits.get(name) if inside else None, "exactness": exact if inside else "",
                }
            )  # fmt: skip
    return rows
