"""The faults: each is one changed node of a module's syntax tree.

A module is parsed once per mutant, the node is found again by its position in the walk, changed, and the tree is
written back as text; so comments and layout of the mutated text differ from the original, line numbers in the list of
mutants do not. Not mutated, because no test should care: annotations, decorators, ``assert``, ``__all__``, texts
(f-strings included), ``zip(strict=...)``, timeouts, and what runs only for type checkers or as a script.

In gateware the same operators make the faults: a term of ``valid`` or ``ready`` inverted, ``&`` for ``|``, a constant of
a width or a count one off, the arms of a ``Mux`` exchanged, a signed shape unsigned, a register that is none.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["ExemptionError", "Mutant", "enumerate_mutants", "exempt_lines", "mutated_source"]

SHOWN = 90  # characters of an expression that a list of mutants shows

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "floor": "ceil",
    "ceil": "floor",
    "rint": "floor",
    "trunc": "floor",
    "argmin": "argmax",
    "argmax": "argmin",
    "as_signed": "as_unsigned",
    "as_unsigned": "as_signed",
}
SHAPES = {"signed": "unsigned", "unsigned": "signed"}  # functions; fields of these names hold truth values
DOMAINS = {"comb": "sync", "sync": "comb"}  # of m.d in gateware
QUIET_KEYWORDS = re.compile(r"timeout|^strict$")

Change = Callable[[ast.AST], ast.AST]


class ExemptionError(ValueError):
    """A ``# mutate: no`` comment gives no reason."""


@dataclass(frozen=True, order=True)
class Mutant:
    """One fault.

    Parameters
    ----------
    path : str
        The module, relative to the root of the project.
    line : int
        Where the fault is.
    index : int
        Number of the mutant within its module; with ``path`` its identity.
    kind : str
        The operator that made it, such as ``compare``.
    before, after : str
        The expression as it is and as it becomes.
    node : int
        Position of the changed node in the walk over the module.
    choice : int
        Which of the changes that the node admits.
    column : int
        Where the changed expression starts in its line, from 0.
    exempt : str
        Reason of the ``# mutate: no`` comment on the line; empty without one.
    """

    path: str
    line: int
    index: int
    kind: str
    before: str
    after: str
    node: int
    choice: int
    column: int = 0
    exempt: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column + 1}: {self.before} -> {self.after}"


def enumerate_mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of the walk over its syntax tree."""
    tree, exempt = ast.parse(source), exempt_lines(path, source)
    mutants: list[Mutant] = []
    for position, node in enumerate(_mutable_nodes(tree)):
        for choice, (kind, line, change) in enumerate(_changes(node)):
            before, after = _shown(ast.unparse(node), ast.unparse(change(_copy(node))))
            place = getattr(node, "col_offset", 0)
            why = exempt.get(line, "")
            mutants.append(Mutant(path, line, len(mutants), kind, before, after, position, choice, place, why))
    return mutants


def mutated_source(mutant: Mutant, source: str) -> str:
    """The text of the module with this one fault in it."""
    return _mutate(source, mutant.node, mutant.choice)


def exempt_lines(path: str, source: str) -> dict[int, str]:
    """Lines with a comment ``# mutate: no (reason)``, and the reasons.

    Raises
    ------
    ExemptionError
        A comment gives no reason.
    """
    lines: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (found := re.search(r"#\s*mutate:\s*no\b(.*)", token.string)):
            reason = found[1].strip(" ():,-")
            if not reason:
                raise ExemptionError(
                    f"{path}:{token.start[0]}: '# mutate: no' must give its reason: # mutate: no (why)"
                )
            lines[token.start[0]] = reason
    return lines


def _mutate(source: str, position: int, choice: int) -> str:
    tree = ast.parse(source)
    for here, node in enumerate(_mutable_nodes(tree)):
        if here == position:
            _, _, change = _changes(node)[choice]
            return ast.unparse(ast.fix_missing_locations(_Replace(node, change(_copy(node))).visit(tree))) + "\n"
    raise LookupError(f"no node {position} in this source")


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _copy(node: ast.AST) -> ast.AST:
    """A copy of the node itself; its children are shared."""
    return type(node)(**{name: list(v) if isinstance(v, list) else v for name, v in ast.iter_fields(node)})


def _shown(before: str, after: str) -> tuple[str, str]:
    """Both texts on one line each; of long ones the part around the first difference."""
    texts = [" ".join(text.split()) for text in (before, after)]
    same = next((i for i, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1), min(map(len, texts)))
    start = max(0, same - SHOWN // 2)
    one, two = (
        ("…" if start else "") + text[start : start + SHOWN] + ("…" if len(text) > start + SHOWN else "")
        for text in texts
    )
    return one, two


def _mutable_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may change, parents before children, in the order of the text."""
    if isinstance(node, ast.JoinedStr | ast.Assert):
        return
    if isinstance(node, ast.If) and _is_guard(node.test):
        for child in node.orelse:
            yield from _mutable_nodes(child)
        return
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
        return
    if isinstance(node, ast.keyword) and node.arg and QUIET_KEYWORDS.search(node.arg):
        return
    if isinstance(node, ast.Assign | ast.AnnAssign) and _names_timeout(node):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params", "ctx"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_timeout_default(node, child):
                yield from _mutable_nodes(child)


def _is_guard(test: ast.expr) -> bool:
    """Whether an ``if`` asks for type checking or for being the script."""
    return any(isinstance(n, ast.Name) and n.id in {"TYPE_CHECKING", "__name__"} for n in ast.walk(test))


def _names_timeout(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(t, ast.Name) and "timeout" in t.id.lower() for t in targets)


def _is_timeout_default(node: ast.AST, child: ast.AST) -> bool:
    if not isinstance(node, ast.arguments):
        return False
    positional = [*node.posonlyargs, *node.args]
    pairs = [
        *zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True),
        *zip(node.kwonlyargs, node.kw_defaults, strict=True),
    ]
    return any(default is child and "timeout" in argument.arg for argument, default in pairs)


def _changes(node: ast.AST) -> list[tuple[str, int, Change]]:
    """Kind, line and change of every mutant of one node, always in the same order."""
    match node:
        case ast.Compare():
            return _comparison_changes(node)
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _joins_text(node) and not _joins_types(node):
            return [("arithmetic", node.right.lineno, _with(op=ARITHMETIC[type(node.op)]()))]
        case ast.AugAssign() if type(node.op) in ARITHMETIC and not _gathers(node):
            return [("arithmetic", node.lineno, _with(op=ARITHMETIC[type(node.op)]()))]
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            return [("boolean", node.values[1].lineno, _with(op=other))]
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            kind = "sign" if isinstance(node.op, ast.USub) else "boolean"
            return [(kind, node.lineno, lambda copy: copy.operand)]
        case ast.Constant(value=bool()):
            return [("constant", node.lineno, _with(value=not node.value))]
        case ast.Constant(value=int()):
            return [("constant", node.lineno, _constant(node.value + step)) for step in (1, -1)]
        case ast.Call(func=ast.Name(id=name) as func) if name in NAMES:
            renamed = ast.Name(id=NAMES[name], ctx=ast.Load())
            return [("function", func.lineno, _with(func=renamed))]
        case ast.Attribute(attr=name) if name in NAMES:
            return [("function", node.end_lineno or node.lineno, _with(attr=NAMES[name]))]
        case ast.Slice():
            return _slice_changes(node)
    return _gateware_changes(node)


def _gateware_changes(node: ast.AST) -> list[tuple[str, int, Change]]:
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in SHAPES:
            return [("sign", node.func.lineno, _with(func=ast.Name(id=SHAPES[name], ctx=ast.Load())))]
        case ast.Call(func=ast.Name(id="Mux"), args=[condition, yes, no]):
            return [("gateware", node.func.lineno, _with(args=[condition, no, yes]))]
        case ast.Attribute(attr=name, value=ast.Attribute(attr="d")) if name in DOMAINS:
            return [("gateware", node.lineno, _with(attr=DOMAINS[name]))]
    return []


def _comparison_changes(node: ast.Compare) -> list[tuple[str, int, Change]]:
    return [
        ("compare", right.lineno, _with(ops=[*node.ops[:place], other(), *node.ops[place + 1 :]]))
        for place, (op, right) in enumerate(zip(node.ops, node.comparators, strict=True))
        for other in COMPARISONS[type(op)]
    ]


def _slice_changes(node: ast.Slice) -> list[tuple[str, int, Change]]:
    """Bounds one further in; those that are numbers are constants and change there."""
    found: list[tuple[str, int, Change]] = []
    for side, op in (("lower", ast.Add()), ("upper", ast.Sub())):
        bound = getattr(node, side)
        if bound is not None and not _is_number(bound):
            shifted = ast.BinOp(left=bound, op=op, right=ast.Constant(value=1))
            found.append(("slice", bound.lineno, _with(**{side: shifted})))
    return found


def _with(**fields: object) -> Change:
    def change(copy: ast.AST) -> ast.AST:
        for name, value in fields.items():
            setattr(copy, name, value)
        return copy

    return change


def _constant(value: int) -> Change:
    magnitude = ast.Constant(value=abs(value))
    return lambda _: magnitude if value >= 0 else ast.UnaryOp(op=ast.USub(), operand=magnitude)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _gathers(node: ast.AugAssign) -> bool:
    """Whether ``+=`` adds to a text, a list or a domain: the fault would be a type error."""
    to_domain = isinstance(node.target, ast.Attribute) and node.target.attr in DOMAINS
    return to_domain or _is_text(node.value) or isinstance(node.value, ast.List | ast.ListComp)


def _joins_types(node: ast.expr) -> bool:
    """Whether ``|`` joins types, as in ``isinstance(x, A | B)``: the fault would be a type error."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _joins_types(node.left) and _joins_types(node.right)
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name[:1].isupper() or (isinstance(node, ast.Constant) and node.value is None)


def _joins_text(node: ast.BinOp) -> bool:
    """Whether an operator visibly joins or formats text, or repeats a list: the fault would be a type error."""
    sides = (node.left, node.right)
    return any(_is_text(side) or isinstance(side, ast.List | ast.Tuple) for side in sides) or any(
        isinstance(side, ast.BinOp) and _joins_text(side) for side in sides
    )
