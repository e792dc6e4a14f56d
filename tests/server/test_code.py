"""Code with its syntax coloured."""

from __future__ import annotations

import re
import time
from html import unescape

import pytest

from rdagent_sota_patch.server.code import LONGEST, highlight_code
from tests.server.examples import CODE


def plain(html: str) -> str:
    """What a browser shows of it."""
    return unescape(re.sub(r"<[^>]*>", "", html))


@pytest.mark.parametrize(
    "code", [CODE, "", "\n\n  x = 1\n\n", "x = 1", "a\tb", "if x <\n", 'def f(:\n  """open', "é = '中'\n"]
)
def test_all_of_the_code_is_there(code: str) -> None:
    """Blank lines at the ends, tabs, and code that is not Python stand as they are."""
    assert plain(highlight_code(code)) == code


def test_syntax_has_classes() -> None:
    """Words, texts, numbers and comments are told apart by classes, which the page's policy allows."""
    html = highlight_code(CODE)
    assert '<span class="k">import</span>' in html
    assert '<span class="c"># the day before</span>' in html
    assert '<span class="f">calculate_gap</span>' in html
    assert '<span class="m">10</span>' in html
    assert "style=" not in html


def test_code_cannot_leave_its_element() -> None:
    """Tags in code are text, and a mark of direction is shown: code must not look like other code."""
    html = highlight_code("x = '</code><script>alert(1)</script>'  # \u202e } \u2066if admin\n")
    assert "<script" not in html
    assert '<b class="hidden">⟨U+202E⟩</b>' in html
    assert "\u202e" not in html


@pytest.mark.parametrize("piece", ['f"\\N{', "(", '"', "\u202e", "`"])
def test_no_code_takes_long(piece: str) -> None:
    """Sources that are slow to take apart are bounded in length, and longer ones stand plain."""
    start = time.process_time()
    highlight_code((piece * LONGEST)[:LONGEST])
    assert time.process_time() - start < 3
    assert plain(highlight_code("x = 1\n" * LONGEST)) == "x = 1\n" * LONGEST
