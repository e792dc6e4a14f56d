"""Factor code with its syntax coloured, and characters that hide, shown by their number."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pygments.token import _TokenType

# Controls, invisible marks, marks of direction (a name could read backwards with them, code could look like other
# code: CVE-2021-42574), halves of surrogate pairs (no UTF-8 has them), tags. What is left of C0 is tab and line ends.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffc\U000e0000-\U000e0fff]|\r(?!\n)"
)


def show_hidden(text: str) -> str:
    """The text with each such character as its number, like ``⟨U+202E⟩``."""
    return _HIDDEN.sub(lambda found: name_of(found[0]), text)


def split_hidden(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is a name of such a character or shown as it is."""
    done = 0
    for found in _HIDDEN.finditer(text):
        if found.start() > done:
            yield text[done : found.start()], False
        yield name_of(found[0]), True
        done = found.end()
    if done < len(text):
        yield text[done:], False


def name_of(character: str) -> str:
    """How such a character is shown."""
    return f"⟨U+{ord(character):04X}⟩"


LONGEST = 16 * 1024
"""Characters up to which code is coloured; what is longer stays plain, so that no page takes long."""

# The first that a token belongs to. The classes are those of style.css.
_CLASSES: tuple[tuple[_TokenType, str], ...] = (
    (Comment, "c"),
    (String.Doc, "c"),
    (String, "s"),
    (Number, "m"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (Name.Decorator, "d"),
    (Name.Function, "f"),
    (Name.Class, "f"),
    (Name.Builtin, "b"),
)


@lru_cache(maxsize=256)
def highlight_code(code: str) -> Markup:
    """Python code as HTML for a ``<code>`` element: every character of it, escaped, hidden ones by their number."""
    if len(code) > LONGEST:
        return Markup("").join(_shown(code))
    # Neither end is stripped, and no line end is added: the page shows what the run has.
    tokens = PythonLexer(stripnl=False, ensurenl=False).get_tokens(code)
    coloured = ((_class_of(kind), text) for kind, text in tokens)
    return Markup("").join(
        Markup('<span class="{}">{}</span>').format(css, text) if css else text
        for css, group in groupby(coloured, key=lambda pair: pair[0])
        for text in [Markup("").join(_shown("".join(text for _, text in group)))]
    )


def _class_of(kind: _TokenType) -> str:
    return next((css for family, css in _CLASSES if kind in family), "")


def _shown(text: str) -> Iterator[Markup]:
    for piece, hidden in split_hidden(text):
        yield Markup('<b class="hidden">{}</b>').format(piece) if hidden else escape(piece)
