"""RD-Agent's template for models on mined factors: YAML with Jinja's variables in it, read and edited in place.

It is parsed as YAML, so that quotes, comments, line ends and the way that lists are written do not matter; each node
keeps its place in the text, so that an edit changes what it is about and nothing else.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from rdagent_sota_patch.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

EDGES = ("train_start", "train_end", "valid_start", "valid_end", "test_start", "test_end")

_ALPHA_LOADER = "Alpha158DL"
_LABEL_LOADER = "qlib.data.dataset.loader.QlibDataLoader"
_COLUMN_FILTER = "FilterCol"

_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_EXPRESSION = re.compile(r"\{\{-?\s*(?P<name>\w+)\s*(?:\|.*)?-?\}\}", re.DOTALL)
_DEFAULT = re.compile(r"""\|\s*default\(\s*(?P<quote>["'])(?P<text>.*?)(?P=quote)""", re.DOTALL)
_NAMES = re.compile(r"(?:\{\{-?|\{%-?\s*(?:el)?if)\s*(\w+)")
_HINT = "Run `rdagent-sota doctor`; docs/activation.md says what a source of RD-Agent has to have."


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the template, or a longer expression.

    Attributes:
        default: The text that Jinja's ``default`` puts there where it is not set.
    """

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class AlphaFeatures:
    """How the template names its Alpha features: two variables, or names and expressions written out.

    Attributes:
        names: The features' names, or the variable that brings them.
        expressions: Their Qlib expressions, or the variable that brings them.
    """

    names: tuple[str, ...] | Variable
    expressions: tuple[str, ...] | Variable


class Template:
    """A template's text and what it says.

    Raises:
        HostError: It is not YAML.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        try:
            self._plain, self._jinja, self._moved, self._nodes = _parse(text)
        except yaml.YAMLError as error:
            raise self._error(f"cannot be read as YAML: {' '.join(str(error).split())}") from error

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables."""
        return frozenset(_NAMES.findall(self.text))

    def names_file(self, file: str) -> bool:
        """Whether ``file`` is a value somewhere in it, as the table of a loader is."""
        return any(self._value(node) == file for node in self._nodes if isinstance(node, yaml.ScalarNode))

    def scalar(self, key: str) -> str | None:
        """The first value of ``key``, wherever it is; a variable's default, and None where there is neither."""
        for node in self._nodes:
            value = _child(node, key)
            text = self._value(value) if isinstance(value, yaml.ScalarNode) else None
            if text is not None:
                return text if isinstance(text, str) else text.default
        return None

    def with_scalar(self, key: str, value: str) -> str:
        """The text with ``value``, written as YAML, for each value of ``key``."""
        text = self.text
        nodes = [found for node in self._nodes if isinstance(found := _child(node, key), yaml.ScalarNode)]
        for start, end in sorted({self._place(node) for node in nodes}, reverse=True):
            text = text[:start] + value + text[end:]
        return text

    def alpha(self) -> AlphaFeatures:
        """How it names its Alpha features.

        Raises:
            HostError: There is not one Alpha loader with a feature group, or a filter would drop mined factors.
        """
        group = _child(self._config_of_alpha(), "feature")
        lines = [] if group is None else self._lists(group)
        if len(lines) != 2:
            raise self._error(
                f"does not give its loader {_ALPHA_LOADER} the features as expressions and names ('feature' under its "
                "'config'); without them it loads all that Qlib knows"
            )
        if filters := self._of_class(_COLUMN_FILTER):
            kept = _child(_child(filters[0], "kwargs"), "col_list")
            raise self._error(
                f"has a {_COLUMN_FILTER} (line {filters[0].start_mark.line + 1}) that keeps "
                f"{len(kept.value) if isinstance(kept, yaml.SequenceNode) else 'certain'} columns by name, so that a "
                "mined factor would not reach the model"
            )
        expressions, names = lines
        if not isinstance(names, Variable) and not isinstance(expressions, Variable):
            if len(names) != len(expressions):
                raise self._error(f"gives {len(expressions)} Alpha expressions and {len(names)} names")
        elif not all(isinstance(line, Variable) and line.name.isidentifier() for line in lines):
            raise self._error(
                "gives the Alpha features neither as two variables nor as two lists written out"
            )
        return AlphaFeatures(names, expressions)

    def dates(self) -> dict[str, str | Variable]:
        """The segments' first and last days by field name, as text or variable.

        Raises:
            HostError: One of the segments is not there, or not a first and a last day.
        """
        found: dict[str, str | Variable] = {}
        for node in self._nodes:
            segments = _child(node, "segments")
            for name in ("train", "valid", "test"):
                days = _child(segments, name)
                if isinstance(days, yaml.SequenceNode) and len(days.value) == 2:
                    for edge, day in zip(("start", "end"), days.value, strict=True):
                        found.setdefault(f"{name}_{edge}", self._value(day))
        if missing := [edge for edge in EDGES if edge not in found]:
            raise self._error(
                "does not give the train, valid and test segments as two dates each ('segments'): "
                f"no {', '.join(missing)}"
            )
        return found

    def drop_alpha(self) -> str:
        """The text with a loader of the label alone in the place of the Alpha features.

        An empty feature group is an error in Qlib, and ``Alpha158DL`` without one gives all 158 of its features, so
        that another loader has to take its place.
        """
        self.alpha()
        (loader,) = self._of_class(_ALPHA_LOADER)
        config = self._config_of_alpha()
        key, value = next(pair for pair in config.value if pair[0].value == "feature")
        name = _child(loader, "class")
        assert name is not None
        cuts = [(*self._place(name), _LABEL_LOADER), (*self._whole_entry(key, value, config.flow_style), "")]
        text = self.text
        for start, end, new in sorted(cuts, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def _config_of_alpha(self) -> yaml.MappingNode:
        loaders = self._of_class(_ALPHA_LOADER)
        if len(loaders) != 1:
            raise self._error(f"has {len(loaders)} loaders {_ALPHA_LOADER}, where one is expected")
        config = _child(_child(loaders[0], "kwargs"), "config")
        if not isinstance(config, yaml.MappingNode):
            raise self._error(f"gives its loader {_ALPHA_LOADER} no 'config' with features")
        return config

    def _of_class(self, name: str) -> list[yaml.MappingNode]:
        return [
            node
            for node in self._nodes
            if isinstance(node, yaml.MappingNode)
            and isinstance(cls := _child(node, "class"), yaml.ScalarNode)
            and cls.value.rpartition(".")[2] == name
        ]

    def _lists(self, group: yaml.Node) -> list[tuple[str, ...] | Variable]:
        """Expressions and names; Qlib takes one list for both."""
        if not isinstance(group, yaml.SequenceNode):
            return []
        lines = [self._line(node) for node in group.value]
        if lines and all(isinstance(line, str) for line in lines):
            return [tuple(map(str, lines))] * 2
        return [line for line in lines if not isinstance(line, str)]

    def _line(self, node: yaml.Node) -> tuple[str, ...] | Variable | str:
        if isinstance(node, yaml.SequenceNode):
            return tuple(str(self._value(element)) for element in node.value)
        return self._value(node)

    def _value(self, node: yaml.Node) -> str | Variable:
        """A scalar as text, or the variable that it is."""
        text = str(node.value).strip() if isinstance(node, yaml.ScalarNode) else ""
        expression = self._jinja.get(text)
        if expression is None:
            return text
        read, default = _EXPRESSION.fullmatch(expression), _DEFAULT.search(expression)
        return Variable(read["name"] if read else expression, default["text"] if default else None)

    def _place(self, node: yaml.Node) -> tuple[int, int]:
        return self._original(node.start_mark.index), self._original(node.end_mark.index)

    def _whole_entry(self, key: yaml.Node, value: yaml.Node, flow: bool | None) -> tuple[int, int]:
        """From the key to the end of its value; in block style, whole lines."""
        start, end = self._original(key.start_mark.index), self._original(_end_of(value))
        if flow:
            comma = re.compile(r"\s*,[ \t]*").match(self.text, end)
            return start, comma.end() if comma else end
        line = self.text.rfind("\n", 0, start) + 1
        newline = self.text.find("\n", end)
        return line, len(self.text) if newline < 0 else newline + 1

    def _original(self, index: int) -> int:
        """The place in the text of a place in what was parsed."""
        starts = [plain for plain, _ in self._moved]
        plain, original = self._moved[bisect_right(starts, index) - 1]
        return original + index - plain

    def _error(self, what: str) -> HostError:
        return HostError("host-changed", f"{self.name} {what}.", _HINT)


def read_template(text: str, name: str) -> Template:
    """The template in ``text``, which messages call ``name``.

    Raises:
        HostError: It is not YAML.
    """
    return Template(text, name)


@functools.lru_cache(maxsize=8)
def _parse(text: str) -> tuple[str, dict[str, str], list[tuple[int, int]], tuple[yaml.Node, ...]]:
    """What `_replace_jinja` returns, and every node; kept, since each loop's workspace has the same text."""
    plain, words, moved = _replace_jinja(text)
    root = yaml.compose(plain, Loader=yaml.SafeLoader)
    return plain, words, moved, tuple(_walk(root)) if root is not None else ()


def _replace_jinja(text: str) -> tuple[str, dict[str, str], list[tuple[int, int]]]:
    """``text`` with a word for each variable and without the rest of Jinja.

    Returns:
        That text, the words with the expressions that they are for, and where each piece of it begins in ``text``.
    """
    plain, words, moved = "", {}, [(0, 0)]
    last = 0
    for number, found in enumerate(_JINJA.finditer(text)):
        plain += text[last : found.start()]
        if found[0].startswith("{{"):
            word = f"jinja_{number}_"
            words[word] = found[0]
            moved.append((len(plain), found.start()))
            plain += word
        last = found.end()
        moved.append((len(plain), last))
    return plain + text[last:], words, moved


def _walk(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once; an alias is the node that it names."""
    seen: set[int] = set()
    open_nodes = [root]
    while open_nodes:
        node = open_nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            open_nodes.extend(part for pair in reversed(node.value) for part in reversed(pair))
        elif isinstance(node, yaml.SequenceNode):
            open_nodes.extend(reversed(node.value))


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _end_of(node: yaml.Node) -> int:
    """Where the last thing in ``node`` ends: a block's own end is where the next one starts."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end_of(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
