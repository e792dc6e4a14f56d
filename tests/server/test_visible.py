"""Characters that hide."""

from __future__ import annotations

import pytest

from rdagent_sota_patch.server.code import show_hidden, split_hidden


@pytest.mark.parametrize(
    "character",
    [
        "\x00",
        "\x1b",
        "\x7f",
        "\x85",
        "\u200b",
        "\u200f",
        "\u202e",
        "\u2066",
        "\ufeff",
        "\ud800",
        "\U000e0041",
    ],
)
def test_what_hides_is_shown_by_its_number(character: str) -> None:
    """Controls, marks of direction, invisible letters and halves of surrogate pairs cannot act in a page."""
    shown = show_hidden(f"a{character}b")
    assert shown == f"a⟨U+{ord(character):04X}⟩b"
    shown.encode("utf-8")


def test_other_text_stays() -> None:
    """Line ends of every system, tabs, accents, other scripts and pictures are no hidden characters."""
    text = "a\tb\nc\r\nd é 动量因子 سعر 📈"
    assert show_hidden(text) == text


def test_pieces_make_the_text() -> None:
    """A text in pieces is the text with its hidden characters named."""
    text = "\u202eab\x00\x00c"
    pieces = list(split_hidden(text))
    assert [hidden for _, hidden in pieces] == [True, False, True, True, False]
    assert "".join(piece for piece, _ in pieces) == show_hidden(text)
