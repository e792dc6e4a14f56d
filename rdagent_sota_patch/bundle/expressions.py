"""Qlib's expression language, limited to what is harmless: Qlib hands the text to Python's `eval`.

What passes is ``$fields``, numbers, arithmetic, comparisons and Qlib's own operators (``qlib/data/ops.py``,
``qlib/data/pit.py``), called by name with positional arguments. The text is parsed here, never run.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import BundleError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 20_000
"""Characters. RD-Agent's longest expression has some hundred; a parser's memory has an end."""

OPERATORS = frozenset({
    "Ref", "Max", "Min", "Sum", "Mean", "Std", "Var", "Skew", "Kurt", "Med", "Mad", "Slope", "Rsquare",
    "Resi", "Rank", "Quantile", "Count", "EMA", "WMA", "Corr", "Cov", "Delta", "Abs", "Sign", "Log",
    "Power", "Add", "Sub", "Mul", "Div", "Greater", "Less", "And", "Or", "Not", "Gt", "Ge", "Lt", "Le",
    "Eq", "Ne", "Mask", "IdxMax", "IdxMin", "If", "P", "PRef",
})  # fmt: skip
"""Of Qlib's operators, those that take expressions and numbers alone.

``ChangeInstrument``, ``Rolling``, ``TResample``, ``Feature`` and ``PFeature`` take text; Qlib looks a method of
that name up on pandas objects in two of them.
"""

FIELD, REPORTED_FIELD = "field_", "reported_"
"""How ``$close`` and ``$$roe_q`` begin as names in the tree that `parse` gives."""

# In this order: a number such as 1e-12 must not be cut at its sign, nor a name be found inside a field.
_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
      | (?P<field>\$\$?[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?(?![\w.]))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)(?=[ \t]*\()
      | (?P<sign>\*\*|[<>=!]=|[-+*/<>&|(),])""",
    re.VERBOSE | re.ASCII,
)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitAnd, ast.BitOr)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


def require_harmless(expression: str) -> None:
    """Make sure that Qlib can be given ``expression``.

    Raises:
        BundleError: ``expression-refused``.
    """
    if reason := find_harm(expression):
        raise BundleError.of([_refused(expression, "", reason)])


def parse(expression: str) -> ast.expr:
    """An expression as a tree of Python: fields are names (`FIELD`), operators are calls by name.

    Raises:
        BundleError: ``expression-refused``.
    """
    tree, reason = _read(expression)
    if tree is None:
        raise BundleError.of([_refused(expression, "", reason)])
    return tree


def find_harm(expression: str) -> str:
    """Why an expression is not given to Qlib; empty for a harmless one."""
    return _read(expression)[1]


def _read(expression: str) -> tuple[ast.expr | None, str]:
    """The tree of a harmless expression, or why it is none."""
    if len(expression) > LONGEST:
        return None, f"it has {len(expression):,} characters, and {LONGEST:,} is the limit"
    python: list[str] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            return (
                None,
                f"character {position + 1} begins nothing that is known: {expression[position:][:20]!r}",
            )
        text = match.group()
        if match.lastgroup == "name" and text not in OPERATORS:
            return None, f"{text} is not an operator that takes expressions and numbers alone"
        if match.lastgroup == "field":
            text = f"{REPORTED_FIELD}{text[2:]}" if text.startswith("$$") else f"{FIELD}{text[1:]}"
        python.append(text)
        position = match.end()
    try:
        tree = ast.parse("".join(python).strip(), mode="eval").body
        reason = next(_judge([tree]), "")
    except SyntaxError as error:
        reason = f"it is not well formed ({error.msg})"
    except (MemoryError, RecursionError):
        reason = "it nests too deep"
    return (None, reason) if reason else (tree, "")


def _judge(open_nodes: list[ast.expr]) -> Iterator[str]:
    """What is wrong, node by node; a plain loop, since nesting is the writer's choice."""
    while open_nodes:
        match open_nodes.pop():
            case (
                ast.Constant(value=int() | float()) | ast.Name()
            ):  # Of a field; an operator's is looked at as part of its call.
                pass
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
                open_nodes.append(operand)
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
                if isinstance(op, ast.Pow) and not (_has_field(left) or _has_field(right)):
                    # 9**9**9 is computed by Python before Qlib sees it, and takes all memory.
                    yield "it raises a number to a power"
                open_nodes += [left, right]
            case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(op, _COMPARISONS):
                open_nodes += [left, right]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in OPERATORS:
                open_nodes += arguments
            case node:
                yield f"{type(node).__name__} is not a part of the language"


def _has_field(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id not in OPERATORS for part in ast.walk(node))


def _refused(expression: str, name: str, reason: str) -> Problem:
    feature = f" of {name}" if name else ""
    return Problem(
        "expression-refused",
        f"The expression{feature} is not given to Qlib, which would run it as Python: {reason}. "
        f"It reads {expression[:200]!r}.",
        "Only $fields, numbers, arithmetic, comparisons and Qlib's operators on them are let through.",
    )
