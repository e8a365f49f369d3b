"""Runs the accelerator and onnxruntime on the same frames and compares every output integer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx

from tcompile.errors import ModelError, Problem, UsageError, printable
from tcompile.hosts import Port
from tcompile.ir.graph import Graph, TensorType
from tcompile.ir.integer import Input
from tcompile.ir.interpret import interpret
from tcompile.reference import Mode, Session, Wanted, Watch

__all__ = [
    "Computed", "Difference", "Interpreter", "Machine", "Network", "Verification", "classes", "frames_of", "input_types", "labels_of",
    "random_inputs", "verify",
]  # fmt: skip

LOCATED = 8  # frames with differences that are run again to find the layer
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Network:
    """All that a verification needs; a build directory holds the same."""

    graph: Graph
    pre: onnx.ModelProto
    post: onnx.ModelProto
    reference: onnx.ModelProto
    mode: Mode
    outputs: tuple[Port, ...]
    probes: tuple[Port, ...]


@dataclass(frozen=True, eq=False)
class Computed:
    """What a machine computed.

    Parameters
    ----------
    integers : mapping of str to ndarray (frames, *shape)
        Integers by value of the network.
    latency : int or None
        Cycles from the first input beat to the first frame's last output beat; None where there are no cycles.
    ends : tuple of int
        Cycle of the last output beat of each frame.
    """

    integers: Mapping[str, np.ndarray]
    latency: int | None = None
    ends: tuple[int, ...] = ()

    @property
    def interval(self) -> int | None:
        """Cycles between the last output beats of the third and the fourth frame; None for fewer frames."""
        return self.ends[3] - self.ends[2] if len(self.ends) > 3 else None


class Machine(Protocol):
    """What computes an integer network: the interpreter, or hardware in a simulator."""

    @property
    def name(self) -> str:
        """Name of the simulator."""

    @property
    def stall(self) -> str:
        """``none`` or ``random:SEED``."""

    def run(self, codes: Mapping[str, np.ndarray], progress: Callable[[int], None]) -> Computed:
        """Outputs for frames of integers by input value."""

    def probe(self, codes: Mapping[str, np.ndarray], values: Collection[str]) -> Mapping[str, np.ndarray]:
        """Inner values for a few frames; those that the machine cannot show are left out."""


@dataclass(frozen=True)
class Interpreter:
    """The integer network itself, in numpy."""

    graph: Graph
    name: str = "model"
    stall: str = "none"

    def run(self, codes: Mapping[str, np.ndarray], progress: Callable[[int], None]) -> Computed:
        return Computed(interpret(self.graph, codes, progress=progress))

    def probe(self, codes: Mapping[str, np.ndarray], values: Collection[str]) -> Mapping[str, np.ndarray]:
        return interpret(self.graph, codes, keep=lambda n: n.name in values)


@dataclass(frozen=True)
class Difference:
    """Where integers differ: a layer, how often, and the first place.

    `position` is the index within a frame; `accelerator` and `reference` are the two integers there.
    """

    value: str
    node: str
    integers: int
    frames: int
    frame: int
    position: tuple[int, ...]
    accelerator: int
    reference: int


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Parameters
    ----------
    simulator, reference : str
        What computed the integers, and what they were compared with.
    samples : int
        Frames.
    integers : int
        Output integers compared.
    mismatches : int
        Unequal ones against the chosen reference.
    differences_other_reference : int or None
        Unequal ones against the other reference; None if it has no comparable tensor.
    located, located_other : tuple of Difference
        Layers in the order of computation that differ on the frames with unequal outputs.
    identical_outputs : int
        Frames whose final outputs (behind the host's part) are bit-equal to onnxruntime's on the whole file.
    accuracy, accuracy_reference, accuracy_original, agreement : float or None
        Shares of frames, where the final output has classes; of the original file, where it was run.
    stall : str
        ``none`` or ``random:SEED``.
    latency, interval, ends
        Cycles, as in `Computed`.
    """

    simulator: str
    reference: Mode
    samples: int
    integers: int
    mismatches: int
    identical_outputs: int
    differences_other_reference: int | None = None
    located: tuple[Difference, ...] = ()
    located_other: tuple[Difference, ...] = ()
    accuracy: float | None = None
    accuracy_reference: float | None = None
    accuracy_original: float | None = None
    agreement: float | None = None
    notes: tuple[str, ...] = field(default=())
    stall: str = "none"
    latency: int | None = None
    interval: int | None = None
    ends: tuple[int, ...] = ()


def random_inputs(network: Network, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Frames whose codes are uniform: real inputs that the host quantizes to random codes.

    Where the host does no more than quantize, inputs are uniform over all codes, rounding included; integer inputs are
    uniform over their codes; elsewhere inputs are uniform in [-2, 2).
    """
    generator = np.random.default_rng(seed)
    quantizers = {n.input[0]: n for n in network.pre.graph.node if n.op_type == "QuantizeLinear"}
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in network.pre.graph.initializer}
    return {
        name: _random(generator, (samples, *kind.shape), np.dtype(kind.dtype), quantizers.get(name), constants)
        for name, kind in input_types(network).items()
    }


def _random(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype,
    quantizer: onnx.NodeProto | None,
    constants: Mapping[str, np.ndarray],
) -> np.ndarray:
    if dtype.kind in "iub":
        low, high = (0, 1) if dtype.kind == "b" else (max(np.iinfo(dtype).min, -(1 << 15)), np.iinfo(dtype).max)
        return generator.integers(low, min(int(high), (1 << 16) - 1), shape, endpoint=True).astype(dtype)
    if quantizer is None:
        return generator.uniform(-2.0, 2.0, shape).astype(dtype)
    axis = next((a.i for a in quantizer.attribute if a.name == "axis"), 1)
    along = [-1 if k == axis % (len(shape) - 1) else 1 for k in range(len(shape) - 1)]
    given = [constants[name].astype(np.float64) for name in quantizer.input[1:] if name]
    scale, zero = (p.reshape(along if p.size > 1 else ()) for p in (*given, np.zeros(()))[:2])
    low, high = _codes(quantizer, constants)
    drawn = generator.uniform((low - zero - 0.5) * scale, (high - zero + 0.5) * scale, shape)
    limit = float(np.finfo(dtype).max)  # a large scale reaches further
    return np.asarray(drawn.clip(-limit, limit), dtype)


def _codes(quantizer: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Smallest and largest code of a quantizer."""
    kind = next((a.i for a in quantizer.attribute if a.name == "output_dtype" and a.i), onnx.TensorProto.UINT8)
    name = onnx.TensorProto.DataType.Name(kind).lower()
    if len(quantizer.input) > 2 and quantizer.input[2]:
        name = str(constants[quantizer.input[2]].dtype)
    bits = int("".join(c for c in name if c.isdigit()))
    return (0, (1 << bits) - 1) if name.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)


def input_types(network: Network) -> dict[str, TensorType]:
    """Types of the file's inputs by name."""
    return {
        info.name: TensorType(
            str(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)),
            tuple(d.dim_value for d in info.type.tensor_type.shape.dim),
        )
        for info in network.reference.graph.input
    }


def frames_of(inputs: Mapping[str, TensorType], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a data file as frames for every input: (N, *shape), the input's leading 1 put in.

    Raises
    ------
    UsageError
        An input is missing, or has another shape or another type.
    """
    problems: list[Problem] = []
    frames: dict[str, np.ndarray] = {}
    for name, kind in inputs.items():
        key = name if name in arrays else "x"
        if key not in arrays or (key != name and len(inputs) > 1):
            wanted = printable(name) if len(inputs) > 1 else f"'x' (or {printable(name)})"
            problems.append(
                Problem(
                    "missing-input",
                    f"the data file must hold {wanted}, not {[printable(a)[1:-1] for a in sorted(arrays)]}",
                )
            )
            continue
        problem = _bad_array(name, arrays[key], kind.shape, np.dtype(kind.dtype))
        if problem:
            problems.append(problem)
        else:
            array = arrays[key].astype(kind.dtype)
            frames[name] = array.reshape(len(array), *kind.shape)
    counts = {len(a) for a in frames.values()}
    if len(counts) > 1:
        problems.append(Problem("frame-count", f"all inputs must hold the same number of frames, not {sorted(counts)}"))
    if problems:
        raise UsageError(problems)
    return frames


def labels_of(arrays: Mapping[str, np.ndarray], count: int) -> np.ndarray | None:
    """Labels of a data file, if it has any.

    Raises
    ------
    UsageError
        There are not as many labels as frames, or they are not integers.
    """
    if "y" not in arrays:
        return None
    labels = arrays["y"].reshape(-1)
    if len(labels) != count or labels.dtype.kind not in "iu":
        raise UsageError(
            Problem(
                "labels",
                f"labels y must be {count} integers, one per frame, not {labels.dtype} of shape {arrays['y'].shape}",
            )
        )
    return labels


def _bad_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> Problem | None:
    frame = shape[1:] if shape[:1] == (1,) else shape
    if array.ndim == 0 or array.shape[1:] not in (frame, shape):
        return Problem(
            "input-shape",
            f"input {printable(name)} must have shape (N, {', '.join(map(str, frame))}), not {array.shape}",
        )
    if not len(array):
        return Problem("no-frames", f"input {printable(name)} must hold at least one frame")
    if array.dtype.kind not in "fiub" or not np.isfinite(array.astype(np.float64)).all():
        return Problem(
            "input-values",
            f"input {printable(name)} must hold finite numbers, not {array.dtype} with NaN or infinities",
        )
    if array.dtype.kind == "f" and dtype.kind in "iu":
        return Problem("input-type", f"input {printable(name)} must hold {dtype}, not {array.dtype}")
    with np.errstate(over="ignore"):
        kept = array.astype(dtype)
    if not (np.isfinite(kept).all() if dtype.kind == "f" else np.array_equal(kept, array)):
        return Problem("input-values", f"input {printable(name)} must hold {dtype}; some values are beyond it")
    return None


def verify(
    network: Network,
    frames: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
    *,
    machine: Machine | None = None,
    other: bool = True,
    progress: Progress | None = None,
) -> Verification:
    """Compare a machine's integers with onnxruntime's on every frame.

    Parameters
    ----------
    network : Network
        The compiled network.
    frames : mapping of str to ndarray (N, *shape)
        Inputs by the file's names.
    labels : int array (N,), optional
        Classes, for accuracy.
    machine : Machine, optional
        What computes the integers; the interpreter if left out.
    other : bool
        Whether to run the other reference too.
    """
    tell = progress or (lambda what, done, total: None)
    count = len(next(iter(frames.values())))
    before = Session(network.pre)
    made = before.frames({i: frames[i] for i in before.inputs}, progress=lambda k: tell("host", k, count))
    codes = dict(zip((n.name for n in network.graph if isinstance(n, Input)), made.values(), strict=True))
    machine = machine or Interpreter(network.graph)
    computed = machine.run(codes, lambda k: tell(machine.name, k, count))
    integers = computed.integers
    wanted = [_wanted(p) for p in network.outputs]
    watch = Watch(network.reference, network.mode, wanted)
    final, tensors = watch.frames(frames, progress=lambda k: tell(network.mode, k, count))
    unequal, compared = _compare(network.outputs, integers, tensors)
    behind = _host_session(network)
    mine = behind.frames(
        {name: _port_array(p, integers[p.value]) for name, p in zip(behind.inputs, network.outputs, strict=True)}
    )
    theirs = Session(network.reference, network.mode).frames(frames) if network.mode == "fused" else final
    missing = [p.tensor for p in network.outputs if p.value not in unequal and p.tensor not in frames]
    notes = [f"the reference has no tensor {printable(t)} to compare; its final outputs are compared" for t in missing]
    if behind.mode != network.mode:
        notes.append(f"onnxruntime's defaults do not load the host's last part by itself; it ran {behind.mode}")
    same = np.array([_frames_equal(mine, theirs, k) for k in range(count)])
    mismatches = int(sum(u.sum() for u in unequal.values())) + (int((~same).sum()) if missing else 0)
    if not mismatches and not same.all():
        notes.append(
            f"all integers are equal, and the final outputs of {int((~same).sum())} frames are not: onnxruntime computes the file"
            " as a whole in another way than part by part"
        )
    own = _own_faults(network, machine, unequal, integers, codes)
    notes += (
        ["the hardware differs from its own integer network; 'reference' are the network's integers"] if own else []
    )
    located = own or _locate(network, network.mode, frames, unequal, codes)
    different, located_other = _other(network, frames, integers, codes) if other else (None, ())
    return Verification(
        machine.name, network.mode, count, compared, mismatches, int(same.sum()), different, located, located_other,
        **_accuracy(mine, theirs, labels), notes=tuple(notes), stall=machine.stall,
        latency=computed.latency, interval=computed.interval, ends=computed.ends,
    )  # fmt: skip


def _host_session(network: Network) -> Session:
    """The host's last part in the reference's mode, or as it stands where onnxruntime's defaults trip over it."""
    try:
        return Session(network.post, network.mode)
    except ModelError:
        return Session(network.post, "plain")


def _wanted(port: Port) -> Wanted:
    return Wanted(port.tensor, port.nodes, port.kind == "codes", port.zero, port.dtype)


def _port_array(port: Port, values: np.ndarray) -> np.ndarray:
    if port.kind == "sums":
        return values.astype(np.int32)
    bits = int("".join(c for c in port.dtype if c.isdigit()) or "8")
    dtype = port.dtype if bits >= 8 else ("uint8" if port.dtype.startswith("u") else "int8")
    return values.astype(dtype)


def _compare(
    ports: tuple[Port, ...], integers: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], int]:
    """Unequal integers per value as a boolean array, and how many were compared."""
    unequal, compared = {}, 0
    for port in ports:
        if port.tensor in tensors and tensors[port.tensor].shape == integers[port.value].shape:
            wanted = port.decode(tensors[port.tensor])
            unequal[port.value] = integers[port.value] != wanted
            compared += wanted.size
    return unequal, compared


def _other(
    network: Network,
    frames: Mapping[str, np.ndarray],
    integers: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
) -> tuple[int | None, tuple[Difference, ...]]:
    mode: Mode = "plain" if network.mode == "fused" else "fused"
    try:
        watch = Watch(network.reference, mode, [_wanted(p) for p in network.outputs])
        if not watch.tensors:
            return None, ()
        _, tensors = watch.frames(frames)
    except ModelError:  # onnxruntime cannot run this one; the chosen reference has run
        return None, ()
    unequal, _ = _compare(network.outputs, integers, tensors)
    return int(sum(u.sum() for u in unequal.values())), _locate(network, mode, frames, unequal, codes)


def _bad(unequal: Mapping[str, np.ndarray]) -> np.ndarray:
    """Some frames with unequal outputs."""
    return np.unique(np.concatenate([np.nonzero(u)[0] for u in unequal.values()] or [np.zeros(0, np.int64)]))[:LOCATED]


def _own_faults(
    network: Network,
    machine: Machine,
    unequal: Mapping[str, np.ndarray],
    integers: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
) -> tuple[Difference, ...]:
    """Layers where a machine does not even compute the integer network; first differing layer first."""
    bad = _bad(unequal)
    if isinstance(machine, Interpreter) or not len(bad):
        return ()
    few = {k: v[bad] for k, v in codes.items()}
    meant = interpret(network.graph, few, keep=lambda n: True)
    if all(np.array_equal(meant[value], part[bad]) for value, part in integers.items()):
        return ()
    values = {**machine.probe(few, set(meant)), **{value: part[bad] for value, part in integers.items()}}
    found: list[Difference] = []
    for node in network.graph:
        if node.name in values and not isinstance(node, Input):
            names = node.origin.names[::-1] or (node.name,)
            port = Port(node.name, node.origin.tensor, names, "codes", "int64")
            found += _difference(port, values[node.name], meant[node.name], bad)
    return tuple(found)


def _locate(
    network: Network,
    mode: Mode,
    frames: Mapping[str, np.ndarray],
    unequal: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
) -> tuple[Difference, ...]:
    """Run the frames that differ again, watching every layer; first differing layer first.

    The inner values are those of the integer network: a machine that differs from it is `_own_faults`'s matter.
    """
    bad = _bad(unequal)
    if not len(bad):
        return ()
    names = {p.value for p in network.probes}
    values = interpret(network.graph, {k: v[bad] for k, v in codes.items()}, keep=lambda n: n.name in names)
    watch = Watch(network.reference, mode, [_wanted(p) for p in network.probes])
    _, tensors = watch.frames({k: v[bad] for k, v in frames.items()})
    found = []
    ports = {p.value: p for p in network.probes}
    for node in network.graph:
        port = ports.get(node.name)
        if port is None or port.tensor not in tensors or node.name not in values:
            continue
        if tensors[port.tensor].shape == values[node.name].shape:
            mine = port.in_place(values[node.name])
            found += _difference(port, mine, port.decode(tensors[port.tensor]), bad)
    return tuple(found)


def _difference(port: Port, mine: np.ndarray, theirs: np.ndarray, bad: np.ndarray) -> list[Difference]:
    places = np.argwhere(mine != theirs)
    if not len(places):
        return []
    first = tuple(int(i) for i in places[0])
    return [
        Difference(
            port.value, port.nodes[-1] if port.nodes else port.tensor, len(places), len(np.unique(places[:, 0])),
            int(bad[first[0]]), first[1:], int(mine[first]), int(theirs[first]),
        )
    ]  # fmt: skip


def _frames_equal(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], k: int) -> bool:
    return all(np.array_equal(a[name][k], b[name][k], equal_nan=a[name].dtype.kind == "f") for name in b)


def classes(outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Where the first output is largest, per frame; None if it has a single element."""
    first = next(iter(outputs.values()))
    return np.argmax(first.reshape(len(first), -1), axis=1) if first[0].size > 1 else None


def _accuracy(
    mine: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], labels: np.ndarray | None
) -> dict[str, float | None]:
    """Top-1 of the first output, if it has classes."""
    name = next(iter(theirs))
    a, b = classes({name: mine[name]}), classes(theirs)
    if a is None or b is None:
        return {}
    result: dict[str, float | None] = {"agreement": float((a == b).mean())}
    if labels is not None:
        result |= {"accuracy": float((a == labels).mean()), "accuracy_reference": float((b == labels).mean())}
    return result
