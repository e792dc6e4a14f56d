"""The block in a file's bytes: put in at the end, found, and taken out to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.patching.source import BLOCK, BlockState, find_block
from tests.patching.released import FILES, LOOP, OLDER

TEXT = FILES[LOOP]

CONTENTS = {
    "LF": TEXT,
    "CRLF": TEXT.replace(b"\n", b"\r\n"),
    "CR": TEXT.replace(b"\n", b"\r"),
    "no line end": TEXT.rstrip(b"\n"),
    "CRLF, no line end": TEXT.rstrip(b"\n").replace(b"\n", b"\r\n"),
    "blank lines": TEXT + b"\n\n",
    "mixed, CRLF last": TEXT.rstrip(b"\n") + b"\r\n",
    "mixed, LF last": TEXT.replace(b"\n", b"\r\n", 3),
    "CR before the end": TEXT + b"\r",
    "BOM": b"\xef\xbb\xbf" + TEXT,
    "GBK": "# 因子\n".encode("gbk") + TEXT,
    "empty": b"",
    "one line end": b"\r\n",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_round_trip(content: bytes) -> None:
    """Whatever the file, the block is in it once, and all other bytes come back."""
    before = find_block(content)
    assert (before.state, before.plain) == (BlockState.ABSENT, content)
    after = find_block(before.patched)
    assert (after.state, after.plain) == (BlockState.PRESENT, content)
    assert after.patched == before.patched
    assert before.patched.replace(b"\r\n", b"\n").count(BLOCK) == 1


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"# <<<", b"\\", b"\x00", b"\xff"])))
def test_any_bytes_round_trip(parts: list[bytes]) -> None:
    """Also where line ends of all kinds meet the block's own."""
    content = b"".join(parts)
    assert find_block(find_block(content).patched).plain == content


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("LF", b"<<<\n"),
        ("CRLF", b"<<<\r\n"),
        ("no line end", b"<<<"),
        ("CRLF, no line end", b"<<<"),
        ("mixed, LF last", b"<<<\r\n" if CONTENTS["mixed, LF last"].endswith(b"\r\n") else b"<<<\n"),
    ],
)
def test_the_file_keeps_its_end(name: str, end: bytes) -> None:
    """A file without a line end at its end has none afterwards; the block's lines end as most of the file's."""
    patched = find_block(CONTENTS[name]).patched
    assert patched.endswith(b"# <<< rdagent-sota-patch " + end)
    most_are_crlf = CONTENTS[name].count(b"\r\n") * 2 > CONTENTS[name].count(b"\n")
    assert (b"attach_patched(__name__)\r\n" in patched) is most_are_crlf


@pytest.mark.parametrize("name", ["LF", "CRLF", "BOM"])
def test_an_edit_around_the_block_is_kept(name: str) -> None:
    """Lines that were added above or below after the patch stay when it is taken out."""
    content = CONTENTS[name]
    patched = find_block(content).patched
    edited = patched.replace(b"two = 2", b"two = 3") + b"more = 1\n"
    found = find_block(edited)
    assert found.state is BlockState.PRESENT
    assert found.patched == edited
    assert found.plain == content.replace(b"two = 2", b"two = 3") + b"more = 1\n"


def test_line_ends_that_git_changed_later() -> None:
    """Checked out again with CRLF, block and all, it is found and leaves nothing."""
    patched = find_block(TEXT).patched.replace(b"\n", b"\r\n")
    assert find_block(patched).plain == TEXT.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_an_older_versions_lines_are_known(newline: bytes) -> None:
    """They are taken out to the byte; the block of this version stands in their place."""
    content = TEXT.replace(b"\n", newline)
    found = find_block(content + OLDER.replace(b"\n", newline))
    assert (found.state, found.plain) == (BlockState.OLDER, content)
    assert found.patched == find_block(content).patched


def test_an_older_patch_applied_by_git_to_crlf() -> None:
    """`git apply --ignore-whitespace` leaves LF lines at the end of a CRLF file."""
    content = TEXT.replace(b"\n", b"\r\n")
    assert find_block(content + OLDER).plain == content


PATCHED = find_block(TEXT).patched


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (PATCHED.replace(b"attach_patched(__name__)", b"attach_patched('other')"), 9),
        (PATCHED.replace(b"# <<< rdagent-sota-patch <<<", b""), 9),
        (PATCHED.replace(b"# >>> rdagent-sota-patch >>>\n", b""), 10),
        (PATCHED.replace(b"\n\n\n# >>>", b"\n# >>>"), 7),
        (PATCHED + PATCHED, 9),
        (PATCHED.replace(b"\nattach", b"\r\nattach"), 9),
        (TEXT + OLDER.replace(b"attach_patched(__name__)", b"# attach_patched(__name__)"), 10),
    ],
    ids=["edited", "no end", "no beginning", "moved up", "twice", "one line end", "older, edited"],
)
def test_a_damaged_block_is_told(content: bytes, line: int) -> None:
    """What is not exactly ours is not taken out; its first line is named."""
    found = find_block(content)
    assert (found.state, found.trace) == (BlockState.DAMAGED, line)
    assert found.plain == content


def test_what_the_block_does() -> None:
    """It parses by itself, and calls the hook with the module's name."""
    called: list[str] = []
    code = BLOCK.replace(b"from rdagent_sota_patch.patching.hook import attach_patched", b"pass")
    exec(compile(code, "block", "exec"), {"__name__": "me", "attach_patched": called.append})
    assert called == ["me"]
