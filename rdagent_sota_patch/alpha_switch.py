"""How RD-Agent's own code reads ``USE_ALPHA_FACTORS``: what unset means there, and which spellings mean on.

The releases do not know the variable. A checkout whose model runner reads it has a default and a spelling of its own;
both are found in the source as text, so that the variable means one thing in a run.
"""

from __future__ import annotations

import ast
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.environment import file_wins, read_env_file
from rdagent_sota_patch.host_source import HostSource, bare_name, find_host_if_any, parse_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ALPHA = "USE_ALPHA_FACTORS"

_SPELLINGS = (("true", "false"), ("1", "0"), ("True", "False"), ("yes", "no"), ("on", "off"), ("true", ""))
"""Pairs that this package takes for on and off, the plainest first."""

_READING = ("scenarios/qlib", "app/qlib_rd_loop", "components/runner", "components/workflow")


class AlphaReading:
    """How RD-Agent's own code reads ``USE_ALPHA_FACTORS``.

    Attributes:
        place: ``file:line`` of the first place that reads it.
    """

    def __init__(self, place: str, tests: tuple[_Test, ...]) -> None:
        self.place = place
        self._tests = tests

    def takes(self, text: str | None) -> bool | None:
        """Whether ``text``, or nothing where it is not set, means on there; None where that cannot be told."""
        return self._tests[0].means_on(text) if self._tests else None

    def spelling(self, on: bool) -> str:
        """A text that this package and all of that code take for ``on``; the plainest where none is known."""
        texts = [pair[0 if on else 1] for pair in _SPELLINGS]
        fitting = (text for text in texts if all(test.means_on(text) is on for test in self._tests))
        return next(fitting, texts[0])


def alpha_reading() -> AlphaReading | None:
    """How the RD-Agent of this Python reads ``USE_ALPHA_FACTORS`` itself; None where it does not."""
    host = find_host_if_any()
    return None if host is None else find_alpha_reading(host)


@functools.cache
def find_alpha_reading(host: HostSource) -> AlphaReading | None:
    """How ``host`` reads ``USE_ALPHA_FACTORS`` itself; None where it does not."""
    # The model runner's comes first: it is about the same models.
    files = sorted(host.modules(*_READING), key=lambda file: not file.endswith("/model_runner.py"))
    places: list[str] = []
    tests: list[_Test] = []
    for file in files:
        text = host.read(file)
        if ALPHA not in text:
            continue
        tree = parse_python(text)
        for call in filter(_reads_alpha, ast.walk(tree)):
            assert isinstance(call, ast.expr)
            places.append(f"{file}:{call.lineno}")
            tests.extend(_tests_of(tree, call))
    return AlphaReading(places[0], tuple(tests)) if places else None


def unset_alpha() -> bool:
    """What ``USE_ALPHA_FACTORS`` means where it is not set: off, unless RD-Agent's own code says on."""
    reading = alpha_reading()
    return reading is not None and reading.takes(None) is True


def alpha_text() -> str | None:
    """The text of ``USE_ALPHA_FACTORS`` that RD-Agent's own code would read: in this very case; None if not set."""
    in_file = read_env_file().get(ALPHA)
    set_already = os.environ.get(ALPHA)
    first, second = (in_file, set_already) if file_wins() else (set_already, in_file)
    return first if first is not None else second


def settle_alpha(on: bool) -> None:
    """Have RD-Agent's own code in this process read ``USE_ALPHA_FACTORS`` as this package does."""
    reading = alpha_reading()
    if reading is not None:
        os.environ[ALPHA] = reading.spelling(on)


class _NotUnderstood(Exception):
    """An expression does more than is followed here."""


@dataclass(frozen=True, slots=True, eq=False)
class _Test:
    """A condition that hangs on the variable.

    Attributes:
        condition: The expression.
        call: The call within it, or behind one of its names, that reads the variable.
        names: What its names were assigned.
    """

    condition: ast.expr
    call: ast.expr
    names: Mapping[str, ast.expr]

    def means_on(self, text: str | None) -> bool | None:
        """Whether ``text`` has the condition come out as a plain "on" does; None where that cannot be told."""
        for on, off in _SPELLINGS:
            if self.outcome(on) is not self.outcome(off):
                outcome = self.outcome(text)
                return None if outcome is None else outcome is self.outcome(on)
        return None

    def outcome(self, text: str | None) -> bool | None:
        """Whether the condition holds with ``text`` as the variable; None where that cannot be told."""
        try:
            return bool(self._value(self.condition, text))
        except (_NotUnderstood, TypeError):
            return None

    def _value(self, node: ast.expr, text: str | None) -> Any:
        if node is self.call:
            return text if text is not None else _default_of(self.call)
        if isinstance(node, ast.Name) and node.id in self.names:
            return self._value(self.names[node.id], text)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return [self._value(element, text) for element in node.elts]
        return self._computed(node, text)

    def _computed(self, node: ast.expr, text: str | None) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not self._value(node.operand, text)
        if isinstance(node, ast.BoolOp):
            return self._combined(node, text)
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right = (self._value(side, text) for side in (node.left, node.comparators[0]))
            return _compare(node.ops[0], left, right)
        if isinstance(node, ast.Call):
            return self._called(node, text)
        raise _NotUnderstood

    def _combined(self, node: ast.BoolOp, text: str | None) -> Any:
        value: Any = None
        for operand in node.values:
            value = self._value(operand, text)
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def _called(self, node: ast.Call, text: str | None) -> Any:
        if isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            value = self._value(node.func.value, text)
            if isinstance(value, str) and node.func.attr in ("lower", "upper", "strip", "casefold", "title"):
                return getattr(value, node.func.attr)()
        if bare_name(node.func) in ("bool", "str") and len(node.args) == 1 and not node.keywords:
            value = self._value(node.args[0], text)
            return bool(value) if bare_name(node.func) == "bool" else str(value)
        raise _NotUnderstood


def _compare(operator: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(operator, (ast.Eq, ast.Is)):
        return bool(left == right)
    if isinstance(operator, (ast.NotEq, ast.IsNot)):
        return bool(left != right)
    if isinstance(operator, (ast.In, ast.NotIn)):
        return (left in right) is isinstance(operator, ast.In)
    raise _NotUnderstood


def _tests_of(tree: ast.Module, call: ast.expr) -> Iterator[_Test]:
    """The conditions in ``tree`` that hang on ``call``, itself or by a name that it was assigned to."""
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    test = _outermost(call, parents, _Test(call, call, {}))
    if _is_condition(test, parents):
        yield test
        return
    assigned = parents.get(test.condition)
    targets = assigned.targets if isinstance(assigned, ast.Assign) else [getattr(assigned, "target", None)]
    name = targets[0].id if isinstance(targets[0], ast.Name) else None
    if name is None:
        return
    names = {name: test.condition}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            used = _outermost(node, parents, _Test(node, call, names))
            if _is_condition(used, parents):
                yield used


def _outermost(start: ast.expr, parents: Mapping[ast.AST, ast.AST], test: _Test) -> _Test:
    """``test`` with the largest expression around ``start`` that can be followed."""
    node = parents.get(start)
    while isinstance(node, ast.expr):
        wider = _Test(node, test.call, test.names)
        # `text.lower` alone is nothing that can be followed; `text.lower()` around it is.
        test = wider if wider.outcome("true") is not None else test
        node = parents.get(node)
    return test


def _is_condition(test: _Test, parents: Mapping[ast.AST, ast.AST]) -> bool:
    if isinstance(test.condition, (ast.Compare, ast.UnaryOp)) or bare_name(test.condition) == "bool":
        return True
    parent = parents.get(test.condition)
    return isinstance(parent, (ast.If, ast.IfExp, ast.While)) and parent.test is test.condition


def _reads_alpha(node: ast.AST) -> bool:
    """``os.getenv(…)``, ``os.environ.get(…)`` or ``os.environ[…]`` of the variable."""
    if isinstance(node, ast.Call):
        function = ast.unparse(node.func)
        return function.endswith(("getenv", "environ.get")) and bool(node.args) and _is_alpha(node.args[0])
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Load)
        and bare_name(node.value) == "environ"
        and _is_alpha(node.slice)
    )


def _is_alpha(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == ALPHA


def _default_of(call: ast.expr) -> Any:
    if not isinstance(call, ast.Call):
        raise _NotUnderstood
    given = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg == "default")]
    default = given[0] if given else ast.Constant(None)
    if not isinstance(default, ast.Constant):
        raise _NotUnderstood
    return default.value
