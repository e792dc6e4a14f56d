"""Opening a bundle: a whole one is read, and everything that is wrong with another is told at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.bundle.contents import is_inside
from rdagent_sota_patch.bundle.documents import (
    BOOSTER_NAME,
    COMPANION_NAME,
    FACTORS_NAME,
    MANIFEST_NAME,
    META_NAME,
    ORDER_NAME,
    REPLAY_FOLDER,
    SLICE_NAME,
)
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.bundle.signing import sign_manifest
from rdagent_sota_patch.errors import BundleError
from tests.bundle.made import ORDER, edit_document, make_bundle

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("pattern") / "bundle").folder


@pytest.fixture
def folder(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "bundle")


def problems_of(folder: Path, slug: str, **options: Any) -> list[str]:
    """What opening it complains of; every problem must have ``slug``."""
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, **options)
    assert {problem.slug for problem in caught.value.problems} == {slug}
    return [problem.message for problem in caught.value.problems]


def test_a_whole_bundle_is_read(folder: Path) -> None:
    """All documents are parsed; without a key nothing is signed."""
    bundle = open_bundle(folder)
    order, meta = bundle.model
    assert order.factor_order == ORDER
    assert meta.kind == "lightgbm"
    assert [factor.name for factor in bundle.factors.factors] == ["ZMom", "GapA"]
    assert not bundle.signed
    assert bundle.read(BOOSTER_NAME) == (folder / BOOSTER_NAME).read_bytes()


def test_a_bundle_of_factors_alone_has_no_model(tmp_path: Path) -> None:
    """It is opened, and asking for its model is an error."""
    bundle = open_bundle(make_bundle(tmp_path / "bundle", factors_only=True).folder)
    assert bundle.order is None and bundle.meta is None
    with pytest.raises(BundleError) as caught:
        _ = bundle.model
    assert caught.value.slug == "bundle-without-model"


def test_a_signed_bundle(folder: Path) -> None:
    """Signed is what was checked with a key, and a changed manifest is not."""
    sign_manifest(folder, KEY)
    assert open_bundle(folder, key=KEY).signed
    assert not open_bundle(folder).signed
    edit_document(folder, MANIFEST_NAME, lambda manifest: manifest.update(task_id="another"))
    problems_of(folder, "signature-wrong", key=KEY)


def test_no_bundle(tmp_path: Path) -> None:
    """A missing folder, an empty one and a file are told apart from a broken bundle."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path, tmp_path / "file"):
        problems_of(path, "not-a-bundle")


def test_all_that_is_wrong_with_the_files_is_told_at_once(folder: Path) -> None:
    """Missing, changed, longer and additional files, each by its name."""
    (folder / SLICE_NAME).unlink()
    content = (folder / BOOSTER_NAME).read_bytes()
    (folder / BOOSTER_NAME).write_bytes(content.replace(b"regression", b"regressioN"))
    with (folder / "model.pkl").open("ab") as file:
        file.write(b" ")
    (folder / "factors" / "extra.py").write_text("")
    messages = problems_of(folder, "bundle-altered")
    assert len(messages) == 4
    text = "\n".join(messages)
    assert f"missing: '{SLICE_NAME}'" in text
    assert f"{BOOSTER_NAME!r} was changed" in text
    assert "'model.pkl' has " in text
    assert "not in the manifest: 'factors/extra.py'" in text


def test_without_the_evidence_that_folder_is_not_looked_at(folder: Path) -> None:
    """Live selection needs no back-test data: it may be gone, or be anything."""
    (folder / SLICE_NAME).write_bytes(b"other")
    os.mkfifo(folder / REPLAY_FOLDER / "fifo")
    assert len(problems_of(folder, "bundle-altered")) == 2
    assert open_bundle(folder, replay=False).meta is not None
    shutil.rmtree(folder / REPLAY_FOLDER)
    assert open_bundle(folder, replay=False).meta is not None
    problems_of(folder, "bundle-altered")


def test_a_companion_of_a_sync_is_no_foreign_file(folder: Path) -> None:
    """By its one name beside the manifest, and nowhere else."""
    (folder / COMPANION_NAME).write_text("{}")
    assert open_bundle(folder).meta is not None
    (folder / "factors" / COMPANION_NAME).write_text("{}")
    (message,) = problems_of(folder, "bundle-altered")
    assert f"'factors/{COMPANION_NAME}'" in message


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """Neither to a file with the right content, nor to a folder, nor as the manifest."""
    moved = tmp_path / "moved"
    (folder / BOOSTER_NAME).rename(moved)
    (folder / BOOSTER_NAME).symlink_to(moved)
    assert problems_of(folder, "bundle-altered") == [f"{folder}: {BOOSTER_NAME!r} is not a plain file."]
    moved.replace(folder / BOOSTER_NAME)
    (folder / "factors").rename(tmp_path / "factors")
    (folder / "factors").symlink_to(tmp_path / "factors")
    assert problems_of(folder, "bundle-altered")[-1] == f"{folder}: not in the manifest: 'factors'."
    (folder / MANIFEST_NAME).rename(tmp_path / MANIFEST_NAME)
    (folder / MANIFEST_NAME).symlink_to(tmp_path / MANIFEST_NAME)
    problems_of(folder, "not-a-bundle")


def test_a_file_exchanged_after_opening_is_noticed(folder: Path) -> None:
    """What was checked is what is used."""
    bundle = open_bundle(folder)
    content = (folder / BOOSTER_NAME).read_bytes()
    (folder / BOOSTER_NAME).write_bytes(content[::-1])
    for name in (BOOSTER_NAME, "unlisted", "../outside"):
        with pytest.raises(BundleError) as caught:
            bundle.read(name)
        assert caught.value.slug == "bundle-altered"


@pytest.mark.parametrize(
    "name",
    ["../model.txt", "a/../b", "/etc/passwd", "a//b", "./a", "a/", "", ".", "..", "a\\b", "C:a", "a\0b"],
    ids=repr,
)
def test_paths_that_lead_out_are_refused(folder: Path, name: str) -> None:
    """Also where they come back in: a file has one name."""
    assert not is_inside(name)

    def add(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = {"size": 0, "sha256": "0" * 64}

    edit_document(folder, MANIFEST_NAME, add)
    (message,) = problems_of(folder, "bundle-altered")
    assert "lead out of the bundle" in message


@pytest.mark.parametrize("version", [0, 2, "1", None, {"a": 1}])
def test_another_schema_version_is_refused(folder: Path, version: object) -> None:
    """Before its fields are looked at, which may be others."""
    (folder / MANIFEST_NAME).write_text(json.dumps({"schema_version": version, "new_field": 1}))
    problems_of(folder, "bundle-version")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1}', b"{}"]
)
def test_a_broken_manifest_is_refused(folder: Path, content: bytes) -> None:
    """Whatever it is, with an error of ours."""
    (folder / MANIFEST_NAME).write_bytes(content)
    problems_of(folder, "bundle-damaged")


def drop_a_feature(order: dict[str, Any]) -> None:
    order["factor_order"] = order["factor_order"][:-1]


def swap_alpha(meta: dict[str, Any]) -> None:
    meta["alpha"] = meta["alpha"][::-1]


def lose_a_number(meta: dict[str, Any]) -> None:
    meta["processors"][0]["mean"].pop()


def fit_another_column(meta: dict[str, Any]) -> None:
    meta["processors"][0]["columns"][0] = "Other"


def lose_the_text(meta: dict[str, Any]) -> None:
    meta["weights"]["booster_relpath"] = None


def name_another_file(meta: dict[str, Any]) -> None:
    meta["weights"]["pickle_relpath"] = "../model.pkl"


def leave_out_a_factor(factors: dict[str, Any]) -> None:
    factors["factors"][0]["in_table"] = False


def lose_the_code(factors: dict[str, Any]) -> None:
    factors["factors"][0]["code_relpath"] = None


def add_a_field(factors: dict[str, Any]) -> None:
    factors["surprise"] = 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (ORDER_NAME, drop_a_feature),
        (META_NAME, swap_alpha),
        (META_NAME, lose_a_number),
        (META_NAME, fit_another_column),
        (META_NAME, lose_the_text),
        (META_NAME, name_another_file),
        (FACTORS_NAME, leave_out_a_factor),
        (FACTORS_NAME, lose_the_code),
        (FACTORS_NAME, add_a_field),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_documents_that_contradict_each_other(
    folder: Path, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    """A feature too few, numbers for other columns, files that are not there: damaged."""
    edit_document(folder, name, change)
    assert problems_of(folder, "bundle-damaged")


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("/".join("a" * 16), True),
        ("/".join("a" * 17), False),
        ("a" * 1024, True),
        ("a" * 1025, False),
        ("a" * 9000, False),
    ],
    ids=["16 parts", "17 parts", "1024 characters", "1025", "9000"],
)
def test_names_are_of_bounded_length_and_depth(name: str, inside: bool) -> None:
    """No file of a bundle is deeper, or has a longer name."""
    assert is_inside(name) is inside


@pytest.mark.parametrize(("step_len", "wrong"), [(0, True), (-1, True), (1, False), (20, False)])
def test_a_window_has_a_day_at_least(folder: Path, step_len: int, wrong: bool) -> None:
    """A model looks at one day or at several."""
    edit_document(folder, META_NAME, lambda meta: meta.update(step_len=step_len))
    if wrong:
        (message,) = problems_of(folder, "bundle-damaged")
        assert f"a step_len of {step_len} days" in message
    else:
        open_bundle(folder)


@pytest.mark.parametrize("change", [-1, 1])
def test_counts_of_features_add_up(folder: Path, change: int) -> None:
    """One Alpha feature more or less than there are is a contradiction."""

    def miscount(order: dict[str, Any]) -> None:
        order["alpha_count"] += change

    edit_document(folder, ORDER_NAME, miscount)
    (message,) = problems_of(folder, "bundle-damaged")
    assert "do not add up to factor_order" in message
