"""A library's folder may be a stranger's: nothing in it leads anywhere else, and what is damaged is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_library import entries
from rdagent_sota_patch.factor_library.entries import (
    LibraryFactor,
    default_library,
    document_path,
    find_factor,
    open_values,
    read_library,
    values_path,
)

from .made_library import add


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """With the factors A and B of one run."""
    add(tmp_path)
    return tmp_path / "library"


def a_factor(library: Path) -> LibraryFactor:
    return find_factor(library, "A")


def test_default_place() -> None:
    """As the XDG Base Directory Specification has it; a relative value counts for nothing."""
    assert default_library({"XDG_DATA_HOME": "/data"}) == Path("/data/rdagent-sota/library")
    assert default_library({"XDG_DATA_HOME": "data"}) == Path.home() / ".local/share/rdagent-sota/library"


def test_a_factor_is_found_by_hash_and_name(library: Path) -> None:
    """Six letters are enough; fewer are a name."""
    factor = a_factor(library)
    assert find_factor(library, factor.id) == find_factor(library, factor.id[:6]) == factor
    for wanted in (factor.id[:5], "Nothing", "../../etc/passwd", ""):
        with pytest.raises(SotaError) as caught:
            find_factor(library, wanted)
        assert caught.value.slug == "library-no-such-factor"


def test_no_library(tmp_path: Path) -> None:
    """A folder that is not there is not an empty library."""
    with pytest.raises(SotaError) as caught:
        read_library(tmp_path / "nowhere")
    assert caught.value.slug == "library-not-found"


def test_several_names_read_the_library_once(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: each document is parsed once for all of them."""
    read, calls = entries.read_factor, []

    def count(folder: Path, factor_id: str) -> LibraryFactor:
        calls.append(factor_id)
        return read(folder, factor_id)

    monkeypatch.setattr(entries, "read_factor", count)
    assert [factor.name for factor in entries.find_factors(library, ["B", "A", "B"])] == ["B", "A", "B"]
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"code": "import os\n"},
        {"code_sha256": "0" * 64},
        {"fingerprint": "sha256:" + "0" * 64},
        {"id": "0" * 64},
        {"schema_version": 2},
        {"lineage": []},
        {"path": "/etc/passwd"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_document_that_was_changed_is_refused(library: Path, change: dict[str, Any]) -> None:
    """The others are listed all the same."""
    path = document_path(library, a_factor(library).id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    factors, problems = read_library(library)
    assert [factor.name for factor in factors] == ["B"]
    assert [problem.slug for problem in problems] == ["library-damaged"]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "large", "deep", "binary"])
def test_what_is_no_document(library: Path, tmp_path: Path, kind: str) -> None:
    """Neither followed nor waited for, and read up to a limit."""
    path = document_path(library, a_factor(library).id)
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        (tmp_path / "outside.json").write_bytes(content)
        path.symlink_to(tmp_path / "outside.json")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(5 << 30)
    else:
        path.write_bytes(b"[" * 100_000 if kind == "deep" else b"\xff\xfe\0")
    factors, problems = read_library(library)
    assert [factor.name for factor in factors] == ["B"]
    assert [problem.slug for problem in problems] == ["library-damaged"]
    with pytest.raises(SotaError) as caught:
        add(tmp_path)
    assert caught.value.slug == "library-damaged"


def test_values_behind_a_link_are_refused(library: Path, tmp_path: Path) -> None:
    """Also where they are the right ones."""
    factor = a_factor(library)
    path = values_path(library, factor.id)
    path.rename(tmp_path / "outside.parquet")
    path.symlink_to(tmp_path / "outside.parquet")
    with pytest.raises(SotaError) as caught:
        open_values(library, factor)
    assert caught.value.slug == "library-damaged"


def test_a_lock_that_is_a_link_is_not_followed(library: Path, tmp_path: Path) -> None:
    """Nothing is made where it leads."""
    (library / ".lock").unlink()
    (library / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SotaError) as caught:
        add(tmp_path)
    assert caught.value.slug == "cannot-write" and not (tmp_path / "elsewhere").exists()


def test_other_names_are_nobodys(library: Path) -> None:
    """Files that are called otherwise are not looked at."""
    for name in ("notes.txt", "A.json", "g" * 64 + ".json", ".0123.tmp"):
        (library / name).write_text("{")
    factors, problems = read_library(library)
    assert len(factors) == 2 and problems == []
