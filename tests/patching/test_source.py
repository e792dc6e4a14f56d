"""What is told apart in a folder: where RD-Agent is, which release, patched or edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.patching.source import SourceReport, SourceState, inspect_source
from tests.patching.released import ADDED, LOOP, RUNNER, made_up_patches, write_source


def inspect(folder: Path) -> SourceReport:
    return inspect_source(folder, made_up_patches())


@pytest.mark.parametrize("release", ["1.0.0", "0.8.0"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_release_is_found_by_content(tmp_path: Path, release: str, newline: bytes) -> None:
    """Whatever its line ends, and without any word about its version."""
    write_source(tmp_path, release, newline)
    report = inspect(tmp_path)
    assert (report.release, report.state, report.problems) == (release, SourceState.APPLIES, ())


def test_content_outweighs_the_stated_version(tmp_path: Path) -> None:
    """Metadata of a release that is not the one in the folder does not mislead."""
    write_source(tmp_path, "0.8.0")
    metadata = tmp_path / "rdagent-1.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: rdagent\nVersion: 1.0.0\n", encoding="utf-8")
    report = inspect(tmp_path)
    assert (report.version, report.release, report.state) == ("1.0.0", "0.8.0", SourceState.APPLIES)


@pytest.mark.parametrize("place", [".", "rdagent", "rdagent/../rdagent"])
def test_checkout_and_package_are_the_same_source(tmp_path: Path, place: str) -> None:
    """Either folder may be named."""
    write_source(tmp_path)
    assert inspect(tmp_path / place).root == tmp_path.resolve()


def test_patched_is_told(tmp_path: Path) -> None:
    """All files with the patch in: applied."""
    for path, content in write_source(tmp_path).items():
        (tmp_path / path).write_bytes(content + ADDED)
    assert inspect(tmp_path).state is SourceState.APPLIED


@pytest.mark.parametrize("patched", [LOOP, RUNNER])
def test_half_patched_is_told(tmp_path: Path, patched: str) -> None:
    """One file with, one without the patch; the message says which."""
    (tmp_path / patched).parent.mkdir(parents=True)
    (tmp_path / patched).write_bytes(write_source(tmp_path)[patched] + ADDED)
    report = inspect(tmp_path)
    assert (report.state, report.problems[0].slug) == (SourceState.HALF_APPLIED, "patch-half-applied")
    assert report.problems[0].message.startswith(f"The patch is in {patched} and not in ")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            lambda text: text.replace(b"asyncio", b"os"),
            "the patch's hunks fit, and the file differs elsewhere",
        ),
        (
            lambda text: text.replace(b"asyncio", b"os") + ADDED,
            "the patch is in it, and it differs elsewhere",
        ),
        (lambda text: text.replace(b"three = 3", b"three = 4"), "hunk 1 (line 5) does not fit"),
        (lambda text: text + b"attach()\n", "the patch's hunks fit, and the file differs elsewhere"),
        (lambda text: text.replace(b"\n", b"\r\n", 3), "it has mixed line ends"),
        (lambda text: text.replace(b"\n", b"\r"), "it has mixed line ends"),
        (lambda text: b"\xef\xbb\xbf" + text, "the patch's hunks fit, and the file differs elsewhere"),
        (lambda text: b"", "hunk 1 (line 5) does not fit"),
    ],
    ids=["above", "patched and above", "in the hunk", "below", "mixed", "CR", "BOM", "empty"],
)
def test_an_edited_file_is_told(tmp_path: Path, edit: object, reason: str) -> None:
    """Which file, which hunk, or that the edit is elsewhere."""
    assert callable(edit)
    content = write_source(tmp_path)[LOOP]
    (tmp_path / LOOP).write_bytes(edit(content))
    report = inspect(tmp_path)
    assert (report.state, report.release) == (SourceState.CHANGED, "1.0.0")
    (problem,) = report.problems
    assert problem.slug == "patch-source-changed"
    assert problem.message == f"{tmp_path.resolve() / LOOP} is not the file of RD-Agent 1.0.0: {reason}."


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A source without one of the files is not patched in the other."""
    write_source(tmp_path)
    (tmp_path / RUNNER).unlink()
    report = inspect(tmp_path)
    assert report.state is SourceState.CHANGED
    assert "it is missing" in report.problems[0].message


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Some installers link to one copy for all environments, which is not this source's to change."""
    content = write_source(tmp_path)[LOOP]
    (tmp_path / "shared.py").write_bytes(content)
    (tmp_path / LOOP).unlink()
    (tmp_path / LOOP).symlink_to(tmp_path / "shared.py")
    assert "it is a link" in inspect(tmp_path).problems[0].message


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (
            "rdagent.egg-info/PKG-INFO",
            "Version: 0.7.0",
            "RD-Agent 0.7.0; releases below 0.8.0 are not supported",
        ),
        ("CHANGELOG.md", "# Changelog\n\n## [0.7.0](https://…)", "releases below 0.8.0 are not supported"),
        ("PKG-INFO", "Version: 1.1.0.dev3", "RD-Agent 1.1.0.dev3; there are patches for 1.0.0 and 0.8.0"),
        ("CHANGELOG.md", "# Changelog\n\n## [0.8.0](https://…)", "does not say what it is"),
        ("README.md", "", "does not say what it is"),
    ],
)
def test_another_release_is_told(tmp_path: Path, file: str, text: str, words: str) -> None:
    """Its number is read where it can be; the change log ends before newer releases."""
    for path in write_source(tmp_path):
        (tmp_path / path).write_bytes(b"class Other:\n    pass\n")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    report = inspect(tmp_path)
    assert (report.state, report.release) == (SourceState.OTHER_RELEASE, None)
    assert report.problems[0].slug == "patch-other-release"
    assert words in report.problems[0].message


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "other"])
def test_a_folder_without_rdagent_is_told(tmp_path: Path, make: str) -> None:
    """A folder that happens to be called rdagent is not it."""
    target = tmp_path / "rdagent"
    if make == "file":
        target.touch()
    elif make == "empty":
        target.mkdir()
    elif make == "other":
        (target / "rdagent").mkdir(parents=True)
    with pytest.raises(HostError, match="patch-source-not-found"):
        inspect(target)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission is not a change."""
    write_source(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        HostError, match=r"patch-source-unreadable.*rd_loop.py cannot be read: Permission denied"
    ):
        inspect(tmp_path)
