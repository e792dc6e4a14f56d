"""Unified diffs: read in git's form only, applied exactly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.patching.diff import FilePatch, git_hash, read_patch
from tests.patching.released import write_diff

BEFORE = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"
AFTER = b"zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\nEIGHT\nnine\nten\n"

WITHOUT_NEWLINE = b"""\
diff --git a/last.py b/last.py
index %s..%s 100644
--- a/last.py
+++ b/last.py
@@ -1,2 +1,3 @@
 one
-two
\\ No newline at end of file
+two
+three
\\ No newline at end of file
"""


def patch_of(before: bytes, after: bytes, path: str = "some/file.py") -> FilePatch:
    (patch,) = read_patch(write_diff(path, before, after))
    return patch


def test_round_trip() -> None:
    """Several hunks in one file lead there and back."""
    patch = patch_of(BEFORE, AFTER)
    assert patch.apply(BEFORE) == AFTER
    assert patch.reverse().apply(AFTER) == BEFORE


@given(
    st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"  c\n", b"-\n", b"+x\n"]), min_size=1),
    st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"  c\n", b"@@ -1 +1 @@\n", b"\\ x\n"]), min_size=1),
)
def test_any_change_of_lines_round_trips(before: list[bytes], after: list[bytes]) -> None:
    """Whatever the lines look like, a difference is applied and taken back byte for byte."""
    old, new = b"".join(before), b"".join(after)
    if old != new:
        patch = patch_of(old, new)
        assert patch.apply(old) == new
        assert patch.reverse().apply(new) == old


def test_a_last_line_without_line_feed() -> None:
    """git's remark about it is obeyed on either side."""
    old, new = b"one\ntwo", b"one\ntwo\nthree"
    (patch,) = read_patch(WITHOUT_NEWLINE % (git_hash(old).encode(), git_hash(new).encode()))
    assert patch.apply(old) == new
    assert patch.reverse().apply(new) == old


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BEFORE, AFTER),
        (AFTER, BEFORE),
        (b"one\ntwo", b"one\ntwo\nthree"),
        (b"a", b"a\n"),
        (b"", b"a\n"),
        (b"a\n", b""),
    ],
    ids=["added", "removed", "no line feed", "line feed", "filled", "emptied"],
)
def test_git_writes_what_is_read_here(tmp_path: Path, old: bytes, new: bytes, context: int) -> None:
    """A diff by git itself is understood, also one that names a place by the line before it."""
    git = ["git", "-C", str(tmp_path), "-c", "core.autocrlf=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file.txt").write_bytes(old)
    subprocess.run([*git, "add", "."], check=True)
    (tmp_path / "file.txt").write_bytes(new)
    made = subprocess.run(
        [*git, "diff", "--full-index", "--no-color", f"--unified={context}"], check=True, capture_output=True
    )
    (patch,) = read_patch(made.stdout)
    assert patch.apply(old) == new
    assert patch.reverse().apply(new) == old


def test_another_content_is_refused() -> None:
    """The hunks would fit, but an edit elsewhere makes it another file."""
    before = b"first\n" * 9 + BEFORE
    patch = patch_of(before, before + b"end\n")
    edited = b"FIRST\n" + before.removeprefix(b"first\n")
    assert patch.misfits(edited) == ()
    with pytest.raises(ValueError, match="for another content"):
        patch.apply(edited)


def test_hunks_are_not_moved() -> None:
    """A line more at the top moves all lines of context, and nothing fits."""
    patch = patch_of(BEFORE, AFTER)
    assert patch.misfits(b"above\n" + BEFORE) == tuple(range(1, len(patch.hunks) + 1))


def test_the_hunk_that_does_not_fit_is_named() -> None:
    """Counting from one, as people do."""
    before = b"".join(b"line %d\n" % number for number in range(40))
    patch = patch_of(before, before.replace(b"line 3\n", b"").replace(b"line 33\n", b"LINE\n"))
    assert patch.misfits(before.replace(b"line 34\n", b"other\n")) == (2,)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b"index ", b"similarity ", "no hashes"),
        (b"--- a/some/file.py", b"--- /dev/null", "more than a change of lines"),
        (b"@@ -1,", b"@@ -1,9", "does not count its lines"),
        (b"@@ -1,", b"@@ @@ -1,", "not a line to begin with"),
        (b"+ten", b"*ten", "not a line of a hunk"),
        (b"some/file.py", b"../file.py", "leads out"),
        (b"diff --git", b"From: somebody\ndiff --git", "not a line to begin with"),
    ],
    ids=["no hashes", "new file", "miscounted", "no hunk", "no sign", "outside", "mail"],
)
def test_another_form_is_refused(old: bytes, new: bytes, complaint: str) -> None:
    """What is not understood is not guessed at."""
    text = write_diff("some/file.py", BEFORE, AFTER)
    assert old in text
    with pytest.raises(ValueError, match=complaint):
        read_patch(text.replace(old, new))


@pytest.mark.parametrize("text", [b"", b"\n"])
def test_an_empty_patch_is_refused(text: bytes) -> None:
    """A file that was cut off is no patch that changes nothing."""
    with pytest.raises(ValueError):
        read_patch(text)


def test_a_patch_that_leads_elsewhere_is_refused() -> None:
    """An edit of the patch itself shows in the hash of what it makes."""
    (patch,) = read_patch(write_diff("f.py", BEFORE, AFTER).replace(b"+zero", b"+ZERO"))
    with pytest.raises(ValueError, match="does not lead where it says"):
        patch.apply(BEFORE)
