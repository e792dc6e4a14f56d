"""MathML built again from what a converter made: elements and attributes of a list, and nothing else.

The converter's own text output is not safe to show: it leaves ``<`` of the source as it is. Here its tree is taken
apart, each piece held to the list, and a new tree is made and written by the standard library.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

from rdagent_sota_patch.pages.visible import show_hidden

if TYPE_CHECKING:
    from collections.abc import Mapping

DEEPEST = 80
"""Elements inside each other."""

# Token elements hold text and no element: a browser reads HTML inside them. The others hold elements and no text.
_TOKENS = frozenset({"mi", "mn", "mo", "mtext"})
# How many children an element must have; None for any number. MathML draws nothing sensible with another count.
_ELEMENTS: dict[str, int | None] = {
    "math": None,
    "mfrac": 2,
    "mover": 2,
    "mpadded": None,
    "mphantom": None,
    "mroot": 2,
    "mrow": None,
    "mspace": 0,
    "msqrt": None,
    "mstyle": None,
    "msub": 2,
    "msubsup": 3,
    "msup": 2,
    "mtable": None,
    "mtd": None,
    "mtr": None,
    "munder": 2,
    "munderover": 3,
}
_LENGTH = re.compile(r"[+-]?\d{0,3}(\.\d{1,4})?(em|ex|pt|px|width)?")
_LENGTHS = re.compile(rf"{_LENGTH.pattern}( {_LENGTH.pattern}){{0,99}}")
_TRUTH = re.compile("true|false")
_ALIGNMENT = re.compile("left|right|center")
_ATTRIBUTES: dict[str, re.Pattern[str]] = {
    "accent": _TRUTH,
    "columnalign": _ALIGNMENT,
    "columnlines": re.compile("(none|solid)( (none|solid)){0,99}"),
    "columnspacing": _LENGTHS,
    "depth": _LENGTH,
    "display": re.compile("block|inline"),
    "displaystyle": _TRUTH,
    "fence": _TRUTH,
    "form": re.compile("prefix|infix|postfix"),
    "height": _LENGTH,
    "largeop": _TRUTH,
    "linebreak": re.compile("newline"),
    "linethickness": _LENGTH,
    "lspace": _LENGTH,
    "mathvariant": re.compile("[a-z-]{1,30}"),
    "maxsize": _LENGTH,
    "minsize": _LENGTH,
    "movablelimits": _TRUTH,
    "rowlines": re.compile("(none|solid|dashed)( (none|solid|dashed)){0,99}"),
    "rowspacing": _LENGTH,
    "rspace": _LENGTH,
    "scriptlevel": re.compile("[0-2]"),
    "separator": _TRUTH,
    "stretchy": _TRUTH,
    "voffset": _LENGTH,
    "width": _LENGTH,
}
# Names of spaces, which browsers no longer know.
_SPACES = {
    "negativethinmathspace": "-0.167em",
    "negativemediummathspace": "-0.222em",
    "negativethickmathspace": "-0.278em",
    "thinmathspace": "0.167em",
    "thickmathspace": "0.278em",
}
_CHARACTER = re.compile("&#x([0-9A-Fa-f]{1,6});")


class UnknownMathError(Exception):
    """The tree holds something that the list does not have."""


def build_mathml(tree: Element, stand_ins: Mapping[str, str]) -> str:
    """MathML for an HTML page.

    Args:
        tree: As ``latex2mathml`` makes it, with characters of its own as references (``&#x2211;``) in the texts.
        stand_ins: For single characters of the texts, what they stand for.

    Raises:
        UnknownMathError: For an element, attribute, value or shape that is not on the list.
    """
    if tree.tag != "math" or tree.attrib.pop("xmlns", None) is None:
        raise UnknownMathError("no math element")
    # No element is written as one tag: within HTML, not every reader takes <mi/> for a whole element.
    return tostring(_build(tree, stand_ins, DEEPEST), encoding="unicode", short_empty_elements=False)


def _build(old: Element, stand_ins: Mapping[str, str], depth: int) -> Element:
    if depth == 0:
        raise UnknownMathError("too deep")
    new = Element(old.tag, dict(_attribute(name, value) for name, value in old.attrib.items()))
    if (old.tail or "").strip():
        raise UnknownMathError("text between elements")
    if old.tag in _TOKENS:
        if len(old):
            raise UnknownMathError(f"{old.tag} with elements in it")
        new.text = _text(old.text or "", stand_ins)
        return new
    if old.tag not in _ELEMENTS:
        raise UnknownMathError(f"element {old.tag}")
    expected = _ELEMENTS[old.tag]
    if (old.text or "").strip() or (expected is not None and len(old) != expected):
        raise UnknownMathError(f"{old.tag} of another shape")
    new.extend([_build(child, stand_ins, depth - 1) for child in old])
    return new


def _attribute(name: str, value: str) -> tuple[str, str]:
    value = _SPACES.get(value, value)
    pattern = _ATTRIBUTES.get(name)
    if pattern is None or not value or not pattern.fullmatch(value):
        raise UnknownMathError(f"attribute {name}")
    return name, value


def _text(text: str, stand_ins: Mapping[str, str]) -> str:
    decoded = _CHARACTER.sub(_decode, text)
    return "".join(show_hidden(stand_ins.get(character, character)) for character in decoded)


def _decode(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    if number > 0x10FFFF:
        raise UnknownMathError("no such character")
    return chr(number)
