from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.factor_table.canonical import copy_table

CONTENT = os.urandom(3 << 20)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file under a path with spaces and non-ASCII characters."""
    folder = tmp_path / "工作 区"
    folder.mkdir()
    path = folder / "因子.parquet"
    path.write_bytes(CONTENT)
    return path


def test_copies_every_byte_into_a_file_of_its_own(source: Path, tmp_path: Path) -> None:
    """The copy can be truncated without the source noticing."""
    target = tmp_path / "copy"
    copy_table(source, target)
    assert target.read_bytes() == CONTENT
    assert not target.is_symlink()
    assert target.stat().st_ino != source.stat().st_ino
    target.write_bytes(b"")
    assert source.read_bytes() == CONTENT


@pytest.mark.parametrize("make_link", [Path.symlink_to, Path.hardlink_to])
def test_a_target_that_aliases_the_source_stops_doing_so(
    source: Path, tmp_path: Path, make_link: object
) -> None:
    """A link left by an earlier tool becomes a real copy."""
    target = tmp_path / "linked"
    make_link(target, source)  # type: ignore[operator]
    copy_table(source, target)
    target.write_bytes(b"")
    assert source.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_copy_file_range(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Where the kernel refuses half-way, the rest is copied plainly."""
    original = os.copy_file_range
    calls = []

    def refuse_later(reader: int, writer: int, count: int) -> int:
        calls.append(count)
        if len(calls) > 1:
            raise OSError(code, os.strerror(code))
        return original(reader, writer, 1 << 20)

    monkeypatch.setattr(os, "copy_file_range", refuse_later)
    copy_table(source, tmp_path / "copy")
    assert len(calls) == 2
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_a_platform_without_copy_file_range(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems copy as well."""
    monkeypatch.delattr(os, "copy_file_range")
    copy_table(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_onto_itself(source: Path) -> None:
    """Source and target may not be one file."""
    with pytest.raises(SotaError, match="cannot-write"):
        copy_table(source, source.parent / ".." / source.parent.name / source.name)
    assert source.read_bytes() == CONTENT


def test_no_source(tmp_path: Path) -> None:
    """A missing source is reported, and a target of old stays."""
    (tmp_path / "copy").write_text("old")
    with pytest.raises(TableError, match="SOTA factors file not found"):
        copy_table(tmp_path / "missing", tmp_path / "copy")
    with pytest.raises(TableError, match="is a folder"):
        copy_table(tmp_path, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "old"


def test_a_full_disk(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old target survives a disk that fills up, and no half file is left."""
    target = tmp_path / "copy"
    target.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr("shutil.copyfileobj", refuse)
    with pytest.raises(SotaError, match="No space left"):
        copy_table(source, target)
    assert target.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == sorted([target, source.parent])
