"""A factor's code with its syntax coloured by classes: the page's policy allows no inline styles."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from rdagent_sota_patch.pages.visible import split_hidden

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pygments.token import _TokenType

LONGEST = 16 * 1024
"""Characters up to which code is coloured; what is longer stands plain, so that no page takes long."""

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
    # Neither end is stripped, and no line end is added: what stands here is what the run has.
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
