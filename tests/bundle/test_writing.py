"""Filling a bundle: every file is listed with the size and hash of what was written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rdagent_sota_patch.bundle.writing import BundleWriter
from rdagent_sota_patch.errors import BundleError


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1, 5 << 20])
@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_copy_is_hashed_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, in_kernel: bool
) -> None:
    """Bytes, size and hash agree, whether the kernel copies or we do."""
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    content = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(content)
    writer = BundleWriter(tmp_path / "bundle")
    writer.copy("deep/file", source)
    assert (tmp_path / "bundle" / "deep" / "file").read_bytes() == content
    assert writer.files["deep/file"].model_dump() == {
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_a_kernel_that_refuses_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may copy a part and then no more."""
    calls: list[int] = []
    copy = os.copy_file_range

    def copy_some(source: int, target: int, count: int, *offsets: int) -> int:
        calls.append(count)
        if len(calls) > 1:
            raise OSError("not here")
        return copy(source, target, 1000, *offsets)

    monkeypatch.setattr(os, "copy_file_range", copy_some)
    content = os.urandom(3 << 20)
    (tmp_path / "source").write_bytes(content)
    writer = BundleWriter(tmp_path / "bundle")
    writer.copy("file", tmp_path / "source")
    assert (tmp_path / "bundle" / "file").read_bytes() == content
    assert writer.files["file"].sha256 == hashlib.sha256(content).hexdigest()


def test_a_source_that_cannot_be_read_is_no_writing_error(tmp_path: Path) -> None:
    """What is wrong is at the source's place, and the message names it."""
    with pytest.raises(BundleError, match="source") as caught:
        BundleWriter(tmp_path / "bundle").copy("file", tmp_path / "source")
    assert caught.value.slug == "artifact-unreadable"


def test_what_others_write_is_listed(tmp_path: Path) -> None:
    """A file written by a library is hashed where it lies."""
    writer = BundleWriter(tmp_path / "bundle")
    writer.reserve("replay/file").write_bytes(b"theirs")
    writer.adopt("replay/file")
    writer.add_text("text", "größe\r\n")
    writer.add_json("plain.json", {"a": [1, None]})
    assert writer.files["replay/file"].sha256 == hashlib.sha256(b"theirs").hexdigest()
    assert (tmp_path / "bundle" / "text").read_bytes() == "größe\r\n".encode()
    assert {name: file.size for name, file in writer.files.items()} == {
        name: (tmp_path / "bundle" / name).stat().st_size for name in writer.files
    }


def test_no_file_is_written_twice(tmp_path: Path) -> None:
    """A second one would leave the first one's hash behind, or the other way round."""
    writer = BundleWriter(tmp_path / "bundle")
    writer.add_text("text", "one")
    with pytest.raises(AssertionError):
        writer.add_text("text", "two")
