"""Characters that hide, or that turn the text around them, shown by their number instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """The text in pieces, each with whether it is a name of such a character or stands as it is."""
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
