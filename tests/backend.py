"""ONNX's own node tests, quantized and compiled: ``python -m tests.backend`` says what passes, what is refused, and why.

The package onnx carries a few small models with data for each operator. What an exporter would have as constants (weights,
scales, axes, shapes, slopes) becomes an initializer here, with the test's own data; the other inputs stay inputs. Float
operators get a quantizer and a dequantizer in front and behind, and codes as weights; integer operators are taken as they are.
What compiles is compared with onnxruntime, integer by integer, on the test's own inputs and on random ones.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as node_tests
from onnx.backend.test.case.test_case import TestCase

from tcompile import reference
from tcompile.errors import ModelError, UserError
from tcompile.options import BuildOptions
from tcompile.pipeline import Compiled, compile_file, node_rows
from tcompile.verify import Network, Verification, input_types, random_inputs, verify

__all__ = ["OPERATORS", "Case", "Outcome", "cases", "network_of", "page", "run", "table"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "backend.md"
SAMPLES = 20  # random frames of a case, besides its own data
NODE = "node"  # name of the node that is tested
OPSET, IR_VERSION = (
    25,
    13,
)  # the newest for which onnxruntime has all kernels; tests of newer ones are taken down to them

INTEGER = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger",
)  # fmt: skip
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
POOLS = (
    "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "ArgMax",
    "TopK",
)  # fmt: skip
MOVES = (
    "Concat", "Split", "Slice", "Pad", "Gather", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze",
    "DepthToSpace", "SpaceToDepth", "Resize", "Upsample", "Identity", "Dropout",
)  # fmt: skip
PAIRS = ("Add", "Sub", "Mul", "Div", "Min", "Max")
CURVES = (
    "Clip", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu",
    "Mish", "Softplus", "Softsign", "ThresholdedRelu", "Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Sqrt", "Exp",
    "Log", "Erf", "Where", "BatchNormalization",
)  # fmt: skip
ENDS = ("Softmax", "LogSoftmax")
OPERATORS = (*LINEAR, *INTEGER, *POOLS, *MOVES, *PAIRS, *CURVES, *ENDS)

ACTIVATIONS = {"Where": (1,)}  # positions of inputs that stay inputs; the first where nothing is said
ALL = ("Concat", *PAIRS)  # operators all of whose inputs stay
WEIGHT_AXES = {
    "Conv": 0,
    "ConvTranspose": None,
    "Gemm": None,
    "MatMul": None,
}  # of the weights' scales, if they have one

Form = Literal["", "constants", "float output"]
State = Literal["passed", "at risk", "refused", "failed"]


@dataclass(frozen=True, eq=False)
class Case:
    """A node test in the form that is compiled.

    Parameters
    ----------
    test, operator : str
        Name of the node test in the package onnx, and its operator.
    model : ModelProto
        The node alone, all inputs being inputs.
    inputs, outputs : tuple
        The test's data: arrays, packed tensors or lists, without those left out.
    form : {"", "constants", "float output"}
        ``constants``: all inputs but the first are constants, where otherwise all would stay. ``float output``: no
        quantizer behind the node.
    """

    test: str
    operator: str
    model: ModelProto
    inputs: tuple[object, ...]
    outputs: tuple[object, ...]
    form: Form = ""

    @property
    def name(self) -> str:
        """Name of the test and form."""
        return f"{self.test} ({self.form})" if self.form else self.test


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Parameters
    ----------
    case, operator : str
        Its name and its operator.
    state : {"passed", "at risk", "refused", "failed"}
        ``at risk``: integers differ, and the certificate lists steps at risk. ``failed``: they differ without, an
        exception that is no refusal, or one that blames onnxruntime for what it runs.
    reasons : tuple of (str, str)
        Code and message: of each problem, or of what failed; of a node left to the host, why it must be, if known.
    proved : bool
        Whether the equality was proved at compile time, besides being tested.
    host : bool
        Whether the node itself is left to the host.
    """

    case: str
    operator: str
    state: State
    reasons: tuple[tuple[str, str], ...] = ()
    proved: bool = False
    host: bool = False


# Cases


def cases(operators: Iterable[str] = OPERATORS, substring: str = "") -> list[Case]:
    """The node tests of operators in their forms, without those that only spell the operator out in others."""
    wanted = tuple(operators)
    _import(wanted)
    found = [_case(t) for t in node_tests._NodeTestCases if "_expanded" not in t.name and _operator(t) in wanted]
    ordered = sorted(found, key=lambda c: wanted.index(c.operator))
    return [c for case in ordered for c in _forms(case) if substring in c.name]


def _import(operators: Collection[str]) -> None:
    """Make the node tests of operators: onnx makes them when their modules are imported, in seconds for some."""
    modules = {m.name.replace("_", ""): m.name for m in pkgutil.iter_modules(node_tests.__path__)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in operators:
            importlib.import_module(f"{node_tests.__name__}.{modules[operator.lower()]}")


def _operator(test: TestCase) -> str:
    assert test.model is not None
    return str(test.model.graph.node[0].op_type)


def _case(test: TestCase) -> Case:
    assert test.model is not None
    assert test.data_sets is not None
    ((inputs, outputs),) = test.data_sets
    values = tuple(map(_value, inputs)), tuple(map(_value, outputs))
    return Case(test.name, _operator(test), test.model, *values)


def _value(value: object) -> object:
    """Data of a test; numbers as arrays without axes."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def _forms(case: Case) -> list[Case]:
    if case.operator in PAIRS and len(case.inputs) > 1:
        return [case, replace(case, form="constants")]
    return [case, replace(case, form="float output")] if case.operator in ENDS else [case]


# Networks


@dataclass
class _Net:
    """A network in the making around one node."""

    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def convert(self, kind: str, x: str, y: str, scale: np.ndarray, zero: np.ndarray, axis: int | None = None) -> None:
        """A QuantizeLinear or DequantizeLinear; of onnxruntime's own domain before ONNX had them."""
        parts = [self.constant(f"{y}_scale", scale), self.constant(f"{y}_zero", zero)]
        node = helper.make_node(kind, [x, *parts], [y], f"{kind}_{y}")
        node.domain = "" if self.opset >= 10 else "com.microsoft"
        node.attribute.extend([] if axis is None else [helper.make_attribute("axis", axis)])
        self.nodes.append(node)

    def quantized(self, x: str, y: str, scale: np.ndarray, zero: np.ndarray) -> None:
        self.convert("QuantizeLinear", x, f"{y}_codes", scale, zero)
        self.convert("DequantizeLinear", f"{y}_codes", y, scale, zero)

    def model(self, like: ModelProto) -> ModelProto:
        graph = helper.make_graph(self.nodes, "case", self.inputs, self.outputs, self.constants)
        versions = {o.domain: o.version for o in like.opset_import} | {"": self.opset}
        versions |= {n.domain: 1 for n in self.nodes if n.domain}
        opsets = [helper.make_operatorsetid(domain, version) for domain, version in versions.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=min(like.ir_version, IR_VERSION))


def network_of(case: Case) -> ModelProto:
    """The network of a case: its node, between quantizers where it computes with floats."""
    given = case.model.graph
    node = NodeProto()
    node.CopyFrom(given.node[0])
    node.name = NODE
    net = _Net(min(OPSET, max(o.version for o in case.model.opset_import if not o.domain)))
    names = [name for name in node.input if name]
    renamed = {
        name: _input(net, case, position, info)
        for position, (name, info) in enumerate(zip(names, given.input, strict=True))
    }
    node.input[:] = [renamed.get(name, "") for name in node.input]
    net.nodes.append(node)
    for info, value in zip(given.output, case.outputs, strict=True):
        _output(net, case, node, info, value)
    return net.model(case.model)


def _input(net: _Net, case: Case, position: int, info: onnx.ValueInfoProto) -> str:
    """Add an input of the node as an input, a constant or codes; return the value to read."""
    name, value = info.name, case.inputs[position]
    if _stays(case, position) or not isinstance(value, np.ndarray | TensorProto):
        net.inputs.append(info)
        if not _is_float(value) or case.operator in INTEGER:
            return name
        assert isinstance(value, np.ndarray)
        net.quantized(name, f"{name}_in", *_grid(value, signed=_signed(case)))
        return f"{name}_in"
    if isinstance(value, TensorProto):
        net.constants.append(value)
        net.constants[-1].name = name
        return name
    if position == 1 and case.operator in WEIGHT_AXES and _is_float(value):
        return _weight(net, name, value, WEIGHT_AXES[case.operator])
    return net.constant(name, value)


def _stays(case: Case, position: int) -> bool:
    """Whether an input of the node is an input of the network."""
    if case.operator in ALL and case.form != "constants":
        return True
    return position in ACTIVATIONS.get(case.operator, (0,))


def _weight(net: _Net, name: str, value: np.ndarray, axis: int | None) -> str:
    """Weights of 8 bits, one scale for all or one along an axis."""
    rest = tuple(k for k in range(value.ndim) if k != axis)
    largest = np.abs(value).max(axis=None if axis is None else rest, keepdims=axis is not None)
    scale = np.asarray(np.where(largest > 0, largest / 127, 1), np.float32)
    codes = np.clip(np.rint(value / scale), -127, 127).astype(np.int8)
    scale = scale if axis is None else scale.reshape(-1)
    codes_name = net.constant(f"{name}_codes", codes)
    net.convert("DequantizeLinear", codes_name, f"{name}_in", scale, np.zeros(scale.shape, np.int8), axis)
    return f"{name}_in"


def _output(net: _Net, case: Case, node: NodeProto, info: onnx.ValueInfoProto, value: object) -> None:
    """Add an output of the node, behind a quantizer if it is one of floats."""
    net.outputs.append(info)
    if not _is_float(value) or case.operator in INTEGER or case.form == "float output":
        return
    assert isinstance(value, np.ndarray)
    inner = f"{info.name}_out"
    node.output[:] = [inner if name == info.name else name for name in node.output]
    net.quantized(inner, info.name, *_grid(value, signed=_signed(case)))


def _before_a_layer(case: Case) -> ModelProto | None:
    """The network with a MatMul behind, which must be on the accelerator; None if the case cannot have one."""
    value = case.outputs[0]
    if len(case.outputs) != 1 or not isinstance(value, np.ndarray) or not _is_float(value) or value.ndim < 2:
        return None
    model = network_of(case)
    (info,) = model.graph.output
    net = _Net(model.opset_import[0].version)
    weight = _weight(net, "behind", np.eye(value.shape[-1], dtype=np.float32), None)
    net.nodes.append(helper.make_node("MatMul", [info.name, weight], ["behind_y"], "behind"))
    model.graph.node.extend(net.nodes)
    model.graph.initializer.extend(net.constants)
    info.name = "behind_y"
    return model


def _is_float(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32


def _signed(case: Case) -> bool:
    """Whether activations have signed codes: one half of the tests."""
    return zlib.crc32(case.test.encode()) % 2 == 1


def _grid(value: np.ndarray, *, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of 8 bits that hold the range of values: symmetric if signed, else with its own zero."""
    finite = value[np.isfinite(value)].astype(np.float64)
    low, high = min(0.0, float(finite.min(initial=0))), max(0.0, float(finite.max(initial=0)))
    if signed:
        return np.asarray(max(-low, high) / 127 or 1, np.float32), np.asarray(0, np.int8)
    scale = (high - low) / 255 or 1.0
    return np.asarray(scale, np.float32), np.asarray(round(-low / scale), np.uint8)


# Runs


def run(case: Case, samples: int = SAMPLES) -> Outcome:
    """Compile a case and compare all its integers; whatever goes wrong is an outcome."""
    bare = Outcome(case.name, case.operator, "failed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _tried(bare, case, samples)
    except Exception as error:  # noqa: BLE001  an exception that is no refusal is a fault, and what is looked for
        return replace(bare, reasons=((type(error).__name__, f"{error} ({_place(error)})"),))


def _tried(bare: Outcome, case: Case, samples: int) -> Outcome:
    model = network_of(case)
    try:
        compiled = _compiled(model)
    except UserError as error:
        return _refused(bare, error, case, model)
    found = verify(compiled.network, _frames(case, compiled.network, samples), other=False)
    outcome = replace(bare, **_judged(compiled, found))
    behind = _before_a_layer(case) if outcome.host and outcome.state == "passed" else None
    return outcome if behind is None else _left(outcome, case, behind)


def _compiled(model: ModelProto) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.onnx"
        onnx.save(model, path)
        return compile_file(path, BuildOptions())


def _refused(bare: Outcome, error: UserError, case: Case, model: ModelProto) -> Outcome:
    """A refusal; to blame onnxruntime for what it runs is a fault."""
    blamed = any(p.code.startswith("reference-") for p in error.problems)
    state: State = "failed" if blamed and _runs(case, model) else "refused"
    return replace(bare, state=state, reasons=tuple((p.code, p.message) for p in error.problems))


def _runs(case: Case, model: ModelProto) -> bool:
    """Whether onnxruntime runs a network on the test's own inputs."""
    own = dict(zip((i.name for i in case.model.graph.input), case.inputs, strict=True))
    try:
        reference.run(model, {i.name: np.asarray(own[i.name]) for i in model.graph.input})
    except ModelError:
        return False
    return True


def _left(outcome: Outcome, case: Case, behind: ModelProto) -> Outcome:
    """Why a node is left to the host: the refusal of a network that needs it on the accelerator."""
    try:
        _compiled(behind)
    except ModelError as error:
        refused = _refused(outcome, error, case, behind)
        return replace(outcome, reasons=refused.reasons, state="failed" if refused.state == "failed" else outcome.state)
    return outcome


def _judged(compiled: Compiled, found: Verification) -> dict[str, Any]:
    """State, reasons and the rest of what compiled."""
    exactness = compiled.report["exactness"]
    state: State = "passed"
    reasons: tuple[tuple[str, str], ...] = ()
    if found.mismatches:
        state = "at risk" if exactness["steps_at_risk"] else "failed"
        reasons = (("mismatch", f"{found.mismatches} of {found.integers} integers differ from onnxruntime's"),)
    elif found.identical_outputs < found.samples:
        state = "failed"
        reasons = (("outputs", "final outputs differ from onnxruntime's, though the accelerator's integers do not"),)
    places = {row["where"] for row in node_rows(compiled) if row["node"] == NODE}
    proved, host = exactness["verdict"] == "proved", any("host" in place for place in places)
    return {"state": state, "reasons": reasons, "proved": proved, "host": host}


def _place(error: BaseException) -> str:
    """File and function where an exception came from; no line, which moves."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.name} in {Path(last.filename).name}"


def _frames(case: Case, network: Network, samples: int) -> dict[str, np.ndarray]:
    """The test's own inputs and random ones, by input of the network."""
    types = input_types(network)
    names = [info.name for info in case.model.graph.input]
    own = {
        name: _as_frames(value, types[name].shape)
        for name, value in zip(names, case.inputs, strict=True)
        if name in types
    }
    count = max(map(len, own.values()))
    own = {name: np.broadcast_to(x, (count, *x.shape[1:])) if len(x) == 1 else x for name, x in own.items()}
    drawn = random_inputs(network, samples, zlib.crc32(case.name.encode()))
    return {name: np.concatenate([own[name], x]) for name, x in drawn.items()}


def _as_frames(value: object, shape: tuple[int, ...]) -> np.ndarray:
    """An input as frames of a shape: one, or several where the batch was fixed in the file."""
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
    return array[None] if array.shape == shape else array.reshape(-1, *shape)


# What is printed


def table(outcomes: Iterable[Outcome]) -> str:
    """Counts per operator, as text of Markdown."""
    rows: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts = rows.setdefault(outcome.operator, Counter())
        counts.update(["cases", outcome.state])
        if outcome.state == "passed":
            counts["proved"] += outcome.proved
            counts["on the host"] += outcome.host
    rows["all"] = sum(rows.values(), Counter())
    columns = ("cases", "passed", "proved", "on the host", "at risk", "refused", "failed")
    lines = [f"| operator | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(str(counts[c] or '') for c in columns)} |" for name, counts in rows.items()]
    return "\n".join(lines)


def reasons(outcomes: Iterable[Outcome]) -> str:
    """Why cases did not pass: messages under their codes, with the cases, as text of Markdown."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        for code, message in dict.fromkeys(outcome.reasons):
            groups[code][message].append(outcome.case)
    lines: list[str] = []
    for code, messages in sorted(groups.items()):
        lines += ["", f"### {code}", ""]
        lines += [f"- {m}: {', '.join(f'`{n}`' for n in names)}" for m, names in sorted(messages.items())]
    return "\n".join(lines).strip()


HEAD = f"""# ONNX's own node tests

What becomes of the node tests that come with the package onnx (`python -m tests.backend --update` writes this page).
Constants of an exporter are constants, float operators stand between quantizers of 8 bits and have codes as weights,
integer operators are taken as they are.

- *passed*: compiled, and every integer equal to onnxruntime's on the test's own inputs and on {SAMPLES} random frames
- *proved*: the report says so besides
- *on the host*: passed, and the node itself is left to the host, as nothing behind it needs the accelerator; where a MatMul
  does, it is refused for the reasons below
- *at risk*: integers differ, and the report lists steps at risk
- *refused*: with the reasons below
- *failed*: integers or final outputs differ, an exception is no refusal, or onnxruntime is blamed for what it runs
- *(constants)*: all inputs but the first are constants, where otherwise all are inputs
- *(float output)*: without a quantizer behind
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The page of the documentation."""
    parts = [HEAD.strip(), table(outcomes)]
    for title, state in (
        ("Failed", "failed"),
        ("At risk", "at risk"),
        ("On the host", "passed"),
        ("Refused", "refused"),
    ):
        chosen = [o for o in outcomes if o.state == state and o.reasons]
        parts += [f"## {title}", reasons(chosen)] if chosen else []
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing failed; 1: something did."""
    parser = argparse.ArgumentParser(prog="python -m tests.backend", description="ONNX's own node tests, compiled")
    parser.add_argument("--filter", default="", metavar="SUBSTRING", help="only cases whose names hold this")
    parser.add_argument("--list", action="store_true", help="every case with its outcome and reasons")
    parser.add_argument("--update", action="store_true", help=f"write docs/{PAGE.name}, of all cases")
    options = parser.parse_args(arguments)
    if options.update and options.filter:
        parser.error("the page is of all cases; leave out --filter")
    outcomes = []
    for case in cases(substring=options.filter):
        outcomes.append(run(case))
        if options.list:
            print(line(outcomes[-1]), flush=True)
    print(table(outcomes))
    failed = [o for o in outcomes if o.state == "failed"]
    for outcome in failed:
        print(line(outcome))
    if options.update:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    return 1 if failed else 0


def line(outcome: Outcome) -> str:
    """One case in one line."""
    return f"{outcome.state:8}{' (host)' if outcome.host else ''} {outcome.case}: " + "; ".join(
        f"{code}: {text}" for code, text in outcome.reasons
    )


if __name__ == "__main__":
    sys.exit(main())
