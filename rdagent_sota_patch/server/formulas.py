"""LaTeX to MathML, built again from a list of what is harmless; what cannot be converted stays as it was written.

The converter's own text output is not safe to show: it leaves ``<`` of the source as it is. Here its tree is taken
apart, each piece checked against the list, and a new tree is made and written by the standard library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

from latex2mathml import commands, exceptions
from latex2mathml.converter import Converter
from latex2mathml.symbols_parser import convert_symbol
from markupsafe import Markup

from rdagent_sota_patch.server.code import show_hidden

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


LONGEST = 2000
"""Characters of a formula that is converted."""

# Commands with arguments, and those that stand for themselves. Others are converted only when they are a symbol or a
# function's name. Left out on purpose: what defines macros (a few lines can ask for more than memory holds), \sideset
# (the converter writes its argument twice, at each level), and what sets classes, styles, colours or addresses.
_NAMES = """
frac dfrac tfrac cfrac binom dbinom tbinom sqrt over choose overset underset stackrel substack
acute bar breve check dot ddot dddot grave hat mathring tilde vec widehat widetilde
overbrace underbrace overline underline overrightarrow overleftarrow
left middle right big Big bigg Bigg bigl bigr bigm Bigl Bigr Bigm biggl biggr biggm Biggl Biggr Biggm
limits nolimits lim sup inf max min argmax argmin det gcd liminf limsup Pr mod pmod bmod not prime
quad qquad enspace thinspace thickspace negthinspace space phantom hphantom vphantom
mathbb mathbf mathcal mathfrak mathit mathnormal mathrm mathscr mathsf mathtt boldsymbol bm pmb
displaystyle textstyle scriptstyle
"""
_COMMANDS = frozenset(rf"\{name}" for name in _NAMES.split())
_ENVIRONMENTS = frozenset(
    {
        "align",
        "align*",
        "aligned",
        "array",
        "bmatrix",
        "Bmatrix",
        "cases",
        "matrix",
        "pmatrix",
        "smallmatrix",
        "split",
        "vmatrix",
        "Vmatrix",
    }
)
_RENAMED = {"aligned": "split"}
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"))
# What is looked at in the source, in this order. A word is what is meant as one name: a run of
# letters, and a name like close_price, whose letters LaTeX would take apart.
_PIECES = re.compile(
    r"""\\(?P<box>text(?:bf|it|md|normal|rm|sf|tt|up)?|mbox|emph)\s*\{(?P<said>[^{}]*)\}
    |\\(?P<edge>begin|end)\s*\{(?P<environment>[A-Za-z]+\*?)\}(?P<columns>\s*\{[lcr|\s]*\})?
    |\\operatorname\s*\{\s*(?P<operator>[A-Za-z][A-Za-z0-9 ]*?)\s*\}
    |\\(?P<font>math(?:bf|it|normal|rm|sf|tt))\s*\{\s*(?P<styled>[A-Za-z]{2,}(?:\\?_[A-Za-z0-9]+)*)\s*\}
    |(?P<command>\\[A-Za-z]+)
    |\\[^A-Za-z]
    |(?P<word>[A-Za-z]{2,}(?:\\?_[A-Za-z0-9]{2,})+|[A-Za-z]{3,})""",
    re.VERBOSE,
)
_NO_BREAK = "\u00a0"
_STAND_INS = range(0xE000, 0xF900)
"""Characters of no meaning of their own (Unicode's private use area), which the converter hands through."""
# A name and what follows it: LaTeX would leave no space, which is well for letters and not for names. A name right
# after a command is that command's argument.
_NEIGHBOURS = re.compile(
    r"(?P<before>\\[A-Za-z]+\s*)?(?P<name>[\ue000-\uf8ff])\s+(?=[A-Za-z0-9\ue000-\uf8ff])"
    r"|(?P<function>\\(?:log|ln|lg|exp|sin|cos|tan|tanh))\s*(?=[A-Za-z0-9\ue000-\uf8ff])"
)

# All that the converter raises at LaTeX that it cannot read; found by tests with generated sources.
_REFUSALS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,  # RecursionError among them, and a StopIteration inside a generator.
    StopIteration,
    TypeError,
    UnknownMathError,
    ValueError,
    *(
        error
        for error in vars(exceptions).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ),
)


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula to show.

    Attributes:
        source: The LaTeX.
        mathml: Of it, safe to put into a page; None where the source has to be shown.
        why: It has to; None where it has not.
    """

    source: str
    mathml: Markup | None
    why: str | None


@lru_cache(maxsize=512)
def convert_formula(source: str) -> Formula:
    """Convert a formula; what cannot be converted comes back as its source, with the reason."""
    latex = _unwrap(source.strip())
    if len(latex) > LONGEST:
        return Formula(source[:LONGEST] + " …", None, f"longer than {LONGEST} characters")
    if any(ord(character) in _STAND_INS for character in latex):
        return Formula(source, None, "it has characters of no known meaning")
    try:
        prepared, stand_ins = _prepare(latex)
        tree = Converter(display="block").convert_to_element(prepared)
        return Formula(source, Markup(build_mathml(tree, stand_ins)), None)
    except _UnknownCommandError as error:
        return Formula(source, None, f"{error} is not converted here")
    except _REFUSALS:
        return Formula(source, None, "it is not LaTeX that can be read")


class _UnknownCommandError(Exception):
    """A command or environment that is not converted."""


def _unwrap(latex: str) -> str:
    for before, after in _WRAPPERS:
        if len(latex) > len(before + after) and latex.startswith(before) and latex.endswith(after):
            return latex[len(before) : -len(after)].strip()
    return latex


def _prepare(latex: str) -> tuple[str, dict[str, str]]:
    """Hold the source to what is converted; words and texts are handed through as one character each."""
    kept: dict[str, str] = {}

    def keep(text: str) -> str:
        character = chr(_STAND_INS[len(kept)])
        kept[character] = text
        return character

    def replace(found: re.Match[str]) -> str:
        if found["said"] is not None:
            # Spaces at the ends count, and a browser would drop them.
            return rf"\{found['box']}{{{keep(found['said'].replace(' ', _NO_BREAK))}}}"
        if found["environment"]:
            name = found["environment"]
            if name not in _ENVIRONMENTS:
                raise _UnknownCommandError(rf"\begin{{{name}}}")
            return rf"\{found['edge']}{{{_RENAMED.get(name, name)}}}{found['columns'] or ''}"
        if found["operator"]:
            return f"{{{keep(found['operator'])}}}"
        if found["styled"]:
            return rf"\{found['font']}{{{keep(_plain(found['styled']))}}}"
        if found["word"]:
            return keep(_plain(found["word"]))
        if found["command"]:
            _check_command(found["command"])
        return found[0]

    def space(found: re.Match[str]) -> str:
        if found["function"]:
            return rf"{found['function']}\, "
        names = found["before"] is None or found["before"].strip() in commands.FUNCTIONS
        return rf"{found['before'] or ''}{found['name']}\, " if names else found[0]

    # A comment would hide what follows it on the line, which was hardly meant by who wrote a lone %.
    prepared = _PIECES.sub(replace, re.sub(r"(?<!\\)%", r"\\%", latex))
    return _NEIGHBOURS.sub(space, prepared), kept


def _plain(name: str) -> str:
    r"""A name without the backslashes of ``close\_price``."""
    return name.replace("\\", "")


def _check_command(command: str) -> None:
    if command not in _COMMANDS and command not in commands.FUNCTIONS and convert_symbol(command) is None:
        raise _UnknownCommandError(command)
