"""A sync against a real server: whole, gone on with, repeated, and with everything that goes wrong on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.bundle.documents import (
    COMPANION_NAME,
    FACTORS_NAME,
    MANIFEST_NAME,
    ORDER_NAME,
    REPORT_NAME,
    WEIGHTS_NAME,
)
from rdagent_sota_patch.bundle.folder import NEW_NAME, OLD_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.bundle.signing import sign_manifest
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sync.assembly import hold_staging, staging_of
from rdagent_sota_patch.sync.client import ApiClient, Timeouts
from rdagent_sota_patch.sync.companion import read_companion, require_companion
from rdagent_sota_patch.sync.downloading import Patience
from rdagent_sota_patch.sync.syncing import SyncOptions, SyncResult, sync_task
from tests.bundle.made import edit_document, make_bundle, replace_file
from tests.sync.contract_server import PIECE, ContractServer, running

WEIGHTS = os.urandom(20 * PIECE + 17)
KEY = bytes(range(32))
QUICK = Patience(attempts=4, first_wait=0.01, window=5.0)


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without evidence and one with it, of the same weights and code."""
    folder = tmp_path_factory.mktemp("patterns")
    for name, replay in (("plain", False), ("evidence", True)):
        make_bundle(folder / name, replay=replay)
        replace_file(folder / name, WEIGHTS_NAME, WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def listening() -> Iterator[ContractServer]:
    with running(ContractServer()) as server:
        yield server


@pytest.fixture
def server(listening: ContractServer, patterns: Path, tmp_path: Path) -> ContractServer:
    served = shutil.copytree(patterns, tmp_path / "served")
    listening.serve(served / "plain", served / "evidence")
    return listening


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "bundle"


def sync(
    server: ContractServer, target: Path, task: str = "latest", silence: float = 2.0, **options: Any
) -> SyncResult:
    with ApiClient(server.url, timeouts=Timeouts(connect=2, silence=silence)) as client:
        return sync_task(client, SyncOptions(task, target, **{"patience": QUICK, **options}), lambda *_: None)


def refused(server: ContractServer, target: Path, slug: str, **options: Any) -> str:
    """Why a sync ends; it must leave everything at the target as it was."""
    before = facts(target)
    with pytest.raises(SotaError) as caught:
        sync(server, target, **options)
    assert caught.value.slug == slug
    assert facts(target) == before
    return str(caught.value)


def facts(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, time and inode of each file."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Content of each file."""
    return {name: content for name, (content, _, _) in facts(folder).items()}


def accept_another(server: ContractServer) -> None:
    """The run moves on: other weights, and documents that say so."""
    for folder in (server.folder, server.evidence):
        assert folder is not None
        replace_file(folder, WEIGHTS_NAME, (folder / WEIGHTS_NAME).read_bytes()[::-1])
        edit_document(folder, MANIFEST_NAME, lambda manifest: manifest.update(loop=2))


def test_a_sync_brings_the_bundle_and_its_companion(server: ContractServer, target: Path) -> None:
    """All files as they are served, nothing beside the target, and `latest` by its real id."""
    result = sync(server, target)
    served = {
        path.relative_to(server.folder).as_posix(): path.read_bytes()
        for path in server.folder.rglob("*")
        if path.is_file()
    }
    found = {name: content for name, (content, _, _) in facts(target).items()}
    assert found.keys() - served.keys() == {COMPANION_NAME}
    assert {name: found[name] for name in served} == served
    assert list(target.parent.iterdir()) == [target]
    assert result.companion.task_id == "made" and result.changed
    assert result.received == sum(file.size for file in result.manifest.files.values())
    assert open_bundle(target).model


def test_the_companion_has_the_fields_that_its_readers_look_for(server: ContractServer, target: Path) -> None:
    """By their names, in JSON."""
    result = sync(server, target)
    document = json.loads((target / COMPANION_NAME).read_text())
    assert (document["source"], document["schema_version"]) == ("aistock_task_sync_log_only", 1)
    assert document["task_id"] == document["task_run_id"] == "made"
    assert document["loop_id"] == result.manifest.loop
    assert document["task_only"]["mode"] == "log_only"
    assert document["task_only"]["session"]["chosen_session_file"] == "__session__/1/4_record"
    assert document["task_only"]["sota_factor"]["last_sota_factor_index"] == 1
    assert document["task_only"]["workspace"] is None
    assert document["task_only"]["factor_source"] == "factor.py"
    assert document["task_only"]["model_weight_source"] == "factor_exp"
    assert document["primary_assets"] == {
        "factor_entry_relpath": "factors/factor_2_GapA.py",
        "model_weight_relpath": "model.pkl",
        "config_relpath": "config.json",
        "combined_factors_relpath": None,
        "model_meta_relpath": "model_meta.json",
        "factor_order_relpath": "factor_order.json",
    }
    assert document["diagnostics"]["factor_order"] == {
        "mode": "synced",
        "source": "combined_factors_df.parquet",
        "factor_count": 4,
        "alpha158_count": 2,
        "dynamic_factor_count": 2,
    }
    skipped = {"mode": "skipped", "reason": "backtest_artifact_not_synced"}
    assert document["diagnostics"]["combined_factors"] == document["diagnostics"]["replay"] == skipped
    assert document["diagnostics"]["model_weight"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert document["files"].keys() == {*result.manifest.files, MANIFEST_NAME}


def test_a_second_sync_transfers_nothing_and_touches_nothing(server: ContractServer, target: Path) -> None:
    """Not even the manifest's bytes come again."""
    sync(server, target)
    server.transferred()
    before, seen = facts(target), target.parent.stat().st_mtime_ns
    result = sync(server, target, task="made")
    assert not result.changed and result.transferred == ()
    assert server.transferred() == []
    assert facts(target) == before
    assert target.parent.stat().st_mtime_ns == seen


def test_a_new_loop_without_a_new_sota_changes_the_companion_alone(
    server: ContractServer, target: Path
) -> None:
    """The anchor says something new, and no file of the bundle does."""
    sync(server, target)
    server.transferred()
    before = facts(target)
    server.anchor_changes = {"hist_len": 3, "chosen_session_file": "__session__/2/4_record"}
    result = sync(server, target)
    assert result.changed and result.transferred == ()
    assert server.transferred() == []
    after = facts(target)
    assert before.pop(COMPANION_NAME) != after.pop(COMPANION_NAME)
    assert after == before
    companion = read_companion(target)
    assert companion is not None and companion.task_only.session.hist_len == 3


@pytest.mark.parametrize(
    "name", [WEIGHTS_NAME, ORDER_NAME, "factors/factor_1_ZMom.py", MANIFEST_NAME, COMPANION_NAME]
)
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_file_is_fetched_again_and_no_other(
    server: ContractServer, target: Path, name: str, damage: str
) -> None:
    """Also where it is the manifest or the companion; all others stay the very same files."""
    sync(server, target)
    server.transferred()
    before = facts(target)
    if damage == "changed":
        content = bytearray((target / name).read_bytes())
        content[len(content) // 2] ^= 1
        (target / name).write_bytes(content)
    else:
        (target / name).unlink()
    assert sync(server, target).changed
    assert server.transferred() == ([] if name == COMPANION_NAME else [name])
    after = facts(target)
    if name != COMPANION_NAME:
        assert after[name][0] == before[name][0]
        del before[name], after[name]
    del before[COMPANION_NAME], after[COMPANION_NAME]
    assert after == before
    assert open_bundle(target).model


def test_the_next_sota_replaces_an_old_sync(server: ContractServer, target: Path) -> None:
    """What both have is not transferred, and keeps its time."""
    sync(server, target)
    server.transferred()
    before = facts(target)
    accept_another(server)
    result = sync(server, target)
    assert set(server.transferred()) == {MANIFEST_NAME, WEIGHTS_NAME}
    assert result.companion.loop_id == 2
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS[::-1]
    assert facts(target)[ORDER_NAME] == before[ORDER_NAME]
    assert list(target.parent.iterdir()) == [target]


def test_evidence_comes_when_it_is_asked_for_and_goes_again(server: ContractServer, target: Path) -> None:
    """The weights are transferred once."""
    sync(server, target)
    server.transferred()
    result = sync(server, target, with_replay=True)
    assert set(server.transferred()) == {MANIFEST_NAME, *(n for n in result.manifest.files if "replay" in n)}
    assert result.companion.diagnostics.replay.mode == "synced"
    assert not sync(server, target, with_replay=True).changed
    sync(server, target)
    assert not (target / "replay").exists()


def test_evidence_that_is_not_there_is_missed(server: ContractServer, target: Path) -> None:
    """Less than was asked for is an error."""
    server.evidence = None
    refused(server, target, "no-replay", with_replay=True)


def test_back_test_data_that_was_not_asked_for_is_refused(server: ContractServer, target: Path) -> None:
    """Even where the server sends it anyway."""
    assert server.evidence is not None
    server.folder = server.evidence
    assert "not asked for" in refused(server, target, "unusable-answer")


def test_a_signature_of_ones_own_stays(server: ContractServer, target: Path) -> None:
    """It is of the manifest, and that did not change."""
    sync(server, target)
    sign_manifest(target, KEY)
    assert not sync(server, target).changed
    (target / WEIGHTS_NAME).unlink()
    sync(server, target)
    assert open_bundle(target, key=KEY).signed


# The notes' layout.


def test_the_notes_layout_is_made_of_what_came(server: ContractServer, target: Path) -> None:
    """Nothing more is transferred, and it is a bundle whose companion lists every file."""
    result = sync(server, target, layout="notes")
    assert set(server.transferred()) == {MANIFEST_NAME, *sync(server, target.parent / "usual").manifest.files}
    factors = json.loads((target / FACTORS_NAME).read_text())
    assert [factor["name"] for factor in factors] == ["ZMom", "GapA"]
    assert (target / "model_weights.pkl").read_bytes() == WEIGHTS
    metadata = json.loads((target / "metadata.json").read_text())
    assert metadata == {
        "last_sota_factor_index": 1,
        "sota_factors_count": 2,
        "model_weight_size": len(WEIGHTS),
    }
    entry = (target / "factor_entry.py").read_bytes()
    assert result.companion.primary_assets.factor_entry_relpath == "factor_entry.py"
    assert entry == (target / "factors" / "factor_2_GapA.py").read_bytes()
    bundle = open_bundle(target)
    assert bundle.manifest == result.manifest
    assert require_companion(bundle)
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert there == {*result.companion.files, COMPANION_NAME}


def test_a_second_sync_in_the_notes_layout_touches_nothing(server: ContractServer, target: Path) -> None:
    """Also where the user has signed its manifest."""
    sync(server, target, layout="notes")
    sign_manifest(target, KEY)
    server.transferred()
    before = facts(target)
    assert not sync(server, target, layout="notes").changed
    assert server.transferred() == []
    assert facts(target) == before
    assert open_bundle(target, key=KEY).signed


def test_the_layout_changes_without_a_transfer(server: ContractServer, target: Path) -> None:
    """Back and forth; in the usual one nothing is left of the other."""
    sync(server, target)
    usual = {name: content for name, content in contents(target).items() if name != COMPANION_NAME}
    server.transferred()
    assert sync(server, target, layout="notes").changed
    assert open_bundle(target).model
    assert sync(server, target).changed
    assert server.transferred() == []
    assert {name: content for name, content in contents(target).items() if name != COMPANION_NAME} == usual


@pytest.mark.parametrize(
    "name", ["metadata.json", "model_weights.pkl", MANIFEST_NAME, FACTORS_NAME, "factor_0_ZMom.py"]
)
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_what_the_layout_added_is_mended(
    server: ContractServer, target: Path, name: str, damage: str
) -> None:
    """Of the files that are there: nothing is transferred, and a signature of before is good again."""
    sync(server, target, layout="notes")
    sign_manifest(target, KEY)
    before = contents(target)
    server.transferred()
    if damage == "changed":
        (target / name).write_bytes(before[name] + b" ")
    else:
        (target / name).unlink()
    assert sync(server, target, layout="notes").changed
    assert server.transferred() == []
    after = contents(target)
    del before[COMPANION_NAME], after[COMPANION_NAME]
    if name == MANIFEST_NAME:
        del before["manifest.json.hmac"]
    assert after == before


def test_a_served_document_is_fetched_again_in_the_notes_layout(server: ContractServer, target: Path) -> None:
    """It alone."""
    sync(server, target, layout="notes")
    (target / "served" / FACTORS_NAME).unlink()
    server.transferred()
    assert sync(server, target, layout="notes").changed
    assert server.transferred() == [FACTORS_NAME]
    assert open_bundle(target).model


@pytest.mark.parametrize("name", ["metadata.json", "served/manifest.json"])
def test_a_server_that_sends_a_file_of_the_layout(server: ContractServer, target: Path, name: str) -> None:
    """Nothing is put in place of another."""
    (server.folder / "served").mkdir()
    replace_file(server.folder, name, b"{}")
    refused(server, target, "unusable-answer", layout="notes")


# What is refused before anything is transferred.


def test_weights_of_another_source_are_refused(server: ContractServer, target: Path) -> None:
    """With what the server says about it; nothing of them is asked for."""
    server.anchor_changes = {
        "ok": False,
        "resolved_model_weight_source": None,
        "resolved_model_weight_source_error": "The workspace is gone. [workspace-not-found]",
    }
    assert "The workspace is gone" in refused(server, target, "weights-not-factor-exp")
    assert server.asked == []


@pytest.fixture
def with_model(server: ContractServer, tmp_path: Path) -> ContractServer:
    """The run has accepted a torch model as well."""
    model = make_bundle(tmp_path / "model", "time_series", replay=False).folder
    edit_document(model, MANIFEST_NAME, lambda manifest: manifest.update(stage="model", loop=3))
    server.serve(server.folder, server.evidence, model)
    return server


@pytest.mark.parametrize("task", ["made", "latest"])
def test_the_model_stage_is_synced_too(with_model: ContractServer, target: Path, task: str) -> None:
    """A bundle as it was exported, without the companion of the factor stage; a second time, nothing comes."""
    done = sync(with_model, target, task, stage="model")
    assert with_model.model is not None
    assert contents(target) == contents(with_model.model)
    assert (done.manifest.stage, done.manifest.loop, done.companion) == ("model", 3, None)
    open_bundle(target, replay=False)
    with_model.transferred()
    before = facts(target)
    again = sync(with_model, target, task, stage="model")
    assert (again.changed, again.transferred, with_model.transferred()) == (False, (), [])
    assert facts(target) == before


def test_a_damaged_file_of_the_model_stage_is_fetched_again(with_model: ContractServer, target: Path) -> None:
    sync(with_model, target, stage="model")
    (target / ORDER_NAME).write_text("{}", encoding="utf-8")
    with_model.transferred()
    assert sync(with_model, target, stage="model").transferred == (ORDER_NAME,)
    assert with_model.transferred() == [ORDER_NAME]


def test_a_run_without_an_accepted_model(server: ContractServer, target: Path) -> None:
    assert "no model experiment" in refused(server, target, "no-accepted-run", stage="model")


def test_a_factor_bundle_in_place_of_the_model_s_is_refused(with_model: ContractServer, target: Path) -> None:
    """As a server of an earlier release answers, which does not know the stage."""
    assert with_model.model is not None
    edit_document(with_model.model, MANIFEST_NAME, lambda manifest: manifest.update(stage="factor"))
    assert "no accepted model" in refused(with_model, target, "unusable-answer", stage="model")


def test_another_bundle_is_not_replaced_by_the_model_stage(with_model: ContractServer, target: Path) -> None:
    """Nothing in a bundle of the model stage says whether a sync or an export wrote it."""
    assert with_model.model is not None
    shutil.copytree(with_model.model, target)
    edit_document(target, MANIFEST_NAME, lambda manifest: manifest.update(loop=2))
    refused(with_model, target, "target-exists", stage="model")


def test_foreign_files_at_the_target_stay(server: ContractServer, target: Path) -> None:
    """Notes beside a sync, a folder of something else, a file, a link: untouched, and the server is not asked."""
    sync(server, target)
    (target / "notes.md").write_text("mine")
    server.paths.clear()
    refused(server, target, "target-not-a-bundle")
    home = target.parent / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    refused(server, home, "target-not-a-bundle")
    file = target.parent / "file"
    file.write_text("text")
    link = target.parent / "link"
    link.symlink_to(target)
    for path in (file, link):
        refused(server, path, "target-not-a-bundle")
    assert server.paths == []
    assert link.is_symlink() and file.read_text() == "text"


def test_an_exported_bundle_is_not_replaced(server: ContractServer, target: Path) -> None:
    """It may be the only one of its kind; the very bundle that is served becomes a sync without any transfer."""
    make_bundle(target)
    refused(server, target, "target-exists")
    shutil.rmtree(target)
    shutil.copytree(server.folder, target)
    assert sync(server, target).transferred == ()
    assert (target / COMPANION_NAME).is_file()


HOSTILE_NAMES = {
    "../evil": "cannot be a file",
    "/etc/evil": "cannot be a file",
    "a/../../evil": "cannot be a file",
    "a\\b": "cannot be a file",
    "C:evil": "cannot be a file",
    "new\nline": "cannot be a file",
    "x" * 300: "cannot be a file",
    MANIFEST_NAME: "cannot be a file",
    COMPANION_NAME: "cannot be a file",
    "MODEL.PKL": "beside",
    "Manifest.json": "beside",
    f"{WEIGHTS_NAME}/evil": "as a file and as a folder",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_leads_elsewhere_is_refused(server: ContractServer, target: Path, name: str) -> None:
    """Before anything is asked for or written."""

    def add(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"][REPORT_NAME]

    edit_document(server.folder, MANIFEST_NAME, add)
    assert HOSTILE_NAMES[name] in refused(server, target, "unusable-answer")
    assert set(server.transferred()) == {MANIFEST_NAME}
    assert list(target.parent.iterdir()) == []


def many(manifest: dict[str, Any]) -> None:
    entry = manifest["files"][REPORT_NAME]
    manifest["files"] |= {f"{number}.json": entry for number in range(10_001)}


def huge(manifest: dict[str, Any]) -> None:
    manifest["files"][REPORT_NAME]["size"] = 1 << 50


MANIFEST_CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another run's": (lambda manifest: manifest.update(task_id="other"), "unusable-answer"),
    "a model stage's": (lambda manifest: manifest.update(stage="model"), "unusable-answer"),
    "without order": (lambda manifest: manifest["files"].pop(ORDER_NAME), "unusable-answer"),
    "a newer format": (lambda manifest: manifest.update(schema_version=2), "bundle-version"),
    "an unknown field": (lambda manifest: manifest.update(more=1), "unusable-answer"),
    "too many files": (many, "unusable-answer"),
    "a petabyte": (huge, "unusable-answer"),
}


@pytest.mark.parametrize("name", MANIFEST_CHANGES)
def test_a_manifest_that_cannot_be_is_refused(server: ContractServer, target: Path, name: str) -> None:
    """With nothing written."""
    change, slug = MANIFEST_CHANGES[name]
    edit_document(server.folder, MANIFEST_NAME, change)
    refused(server, target, slug)
    assert list(target.parent.iterdir()) == []


def test_documents_that_contradict_each_other_are_not_put_in_place(
    server: ContractServer, target: Path
) -> None:
    """Every hash is right, and the order names a feature that the model's description lacks."""

    def rename(order: dict[str, Any]) -> None:
        order["factor_order"] = ["KLEN2" if name == "KLEN" else name for name in order["factor_order"]]

    edit_document(server.folder, ORDER_NAME, rename)
    assert "Alpha features" in refused(server, target, "unusable-answer")


def test_code_that_the_anchor_names_must_be_in_the_bundle(server: ContractServer, target: Path) -> None:
    """By its hash."""
    task = server.task()
    assets = [with_changes(asset, sha256="0" * 64) for asset in task.assets]
    answer = task.model_copy(update={"assets": tuple(assets)}).model_dump_json().encode()
    server.faults.raw["/tasks/made"] = (200, {}, answer)
    assert "factor.py" in refused(server, target, "unusable-answer")


def with_changes(asset: Any, **changes: Any) -> Any:
    return asset.model_copy(update=changes) if asset.role == "factor_code" else asset


# What goes wrong on the way.


def test_a_broken_connection_is_gone_on_with(server: ContractServer, target: Path) -> None:
    """By a range, from the last byte that came, and no byte twice."""
    server.faults.cuts[WEIGHTS_NAME] = [3 * PIECE + 100, 5 * PIECE]
    result = sync(server, target)
    asked = [asked for asked in server.asked if asked.key == WEIGHTS_NAME]
    assert [one.status for one in asked] == [200, 206, 206]
    assert sum(one.sent for one in asked) == len(WEIGHTS)
    assert [one.start for one in asked][1:] == [3 * PIECE + 100, 8 * PIECE + 100]
    assert result.received == sum(file.size for file in result.manifest.files.values())


def test_a_server_that_breaks_off_each_time_is_given_up(server: ContractServer, target: Path) -> None:
    """After some attempts without much progress; what came is kept for the next sync."""
    server.faults.cuts[WEIGHTS_NAME] = [1000] * 10
    assert "Sync again" in refused(server, target, "transfer-interrupted")
    assert len(server.faults.cuts[WEIGHTS_NAME]) == 10 - QUICK.attempts
    assert staging_of(target).is_dir()
    server.faults.cuts.clear()
    server.transferred()
    sync(server, target)
    assert MANIFEST_NAME in server.transferred()
    assert list(target.parent.iterdir()) == [target]


def test_what_cannot_be_tidied_up_is_left_to_the_next_sync(
    server: ContractServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new bundle is in its place, and it is not said that it could not be written."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.parent == staging_of(target):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", refuse)
        assert sync(server, target).changed
    assert open_bundle(target).model
    assert staging_of(target).is_dir()
    assert not sync(server, target).changed
    assert list(target.parent.iterdir()) == [target]


def test_a_server_without_ranges_is_asked_for_the_whole(server: ContractServer, target: Path) -> None:
    """And what came before is not put in front of it."""
    server.faults.cuts[WEIGHTS_NAME] = [3 * PIECE]
    server.faults.no_range = True
    sync(server, target)
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", [WEIGHTS_NAME, FACTORS_NAME, "factors/factor_1_ZMom.py", MANIFEST_NAME])
def test_a_changed_byte_is_noticed(server: ContractServer, target: Path, name: str) -> None:
    """Nothing of that file is kept, and a later sync brings the right one."""
    server.faults.flips[name] = 40
    assert name in refused(server, target, "transfer-altered")
    staged = staging_of(target)
    digest = json.loads((server.folder / MANIFEST_NAME).read_text())["files"].get(name, {}).get("sha256")
    assert not staged.exists() or not list(staged.glob(f"{digest}*"))
    server.faults.flips.clear()
    sync(server, target)
    assert open_bundle(target).model


def test_a_file_that_is_longer_than_listed_is_refused(server: ContractServer, target: Path) -> None:
    """By its length, before its bytes."""
    with (server.folder / ORDER_NAME).open("ab") as file:
        file.write(b"more")
    assert "bytes in place of" in refused(server, target, "transfer-altered")


def test_a_wrong_half_from_before_is_thrown_away(server: ContractServer, target: Path) -> None:
    """What is found beside the target proves nothing: the whole is held to the hash, and fetched once more."""
    staging = staging_of(target)
    staging.mkdir(mode=0o700)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (staging / f"{digest}.part").write_bytes(b"\0" * 5 * PIECE)
    sync(server, target)
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS
    shutil.rmtree(target)
    staging.mkdir(mode=0o700)
    (staging / digest).write_bytes(WEIGHTS[:-1] + b"?")
    sync(server, target)
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS


def test_a_run_that_moves_on_in_the_middle_is_begun_again(server: ContractServer, target: Path) -> None:
    """With a new anchor: the files are of one experiment, never of two."""

    def move_on(key: str) -> None:
        if key == WEIGHTS_NAME:
            server.faults.on_asset = None
            accept_another(server)

    server.faults.on_asset = move_on
    result = sync(server, target)
    assert result.companion.loop_id == 2
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS[::-1]
    assert server.paths.count("/tasks/latest/sota_factor_anchor") == 2
    assert open_bundle(target).model


def test_a_run_that_never_stands_still_is_given_up(server: ContractServer, target: Path) -> None:
    """After three anchors."""
    server.faults.problems[ORDER_NAME] = [(412, "asset-changed")] * 9
    refused(server, target, "run-moved-on")
    assert server.paths.count("/tasks/latest/sota_factor_anchor") == 3


def test_an_anchor_that_is_of_other_weights_is_not_believed(server: ContractServer, target: Path) -> None:
    """The bundle's weights must be those that it names."""
    server.anchor_changes = {"resolved_model_weight_sha256": "0" * 64}
    assert "not those that the anchor names" in refused(server, target, "run-moved-on")


def test_a_server_that_is_being_started_is_waited_for(server: ContractServer, target: Path) -> None:
    """What a proxy answers for it meanwhile is not an answer."""
    server.faults.problems[WEIGHTS_NAME] = [(502, "bad-gateway"), (503, "unavailable")]
    sync(server, target)
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS


def test_the_servers_own_problem_comes_through(server: ContractServer, target: Path) -> None:
    """With its slug, its message and its hint."""
    server.faults.problems[WEIGHTS_NAME] = [(409, "weights-changed")]
    assert "Do something else." in refused(server, target, "weights-changed")
    refused(server, target, "task-not-found", task="unknown")


def test_a_silent_server_is_given_up(server: ContractServer, target: Path) -> None:
    """It is asked again some times."""
    server.faults.seconds = 0.5
    refused(server, target, "transfer-interrupted", silence=0.2)
    assert len([asked for asked in server.asked if asked.key != MANIFEST_NAME]) == QUICK.attempts


def test_a_server_that_trickles_is_given_up(server: ContractServer, target: Path) -> None:
    """Each byte comes in time, and the whole never would."""

    def trickle(key: str) -> None:
        if key == WEIGHTS_NAME:
            server.faults.seconds, server.faults.piece = 0.1, 10

    server.faults.on_asset = trickle
    patience = Patience(attempts=2, first_wait=0.01, window=0.3)
    assert "less than" in refused(server, target, "transfer-interrupted", patience=patience)


def test_a_killed_server_is_waited_for(server: ContractServer, target: Path) -> None:
    """It goes down in the middle of a file, comes up again, and the sync goes on where it was."""

    def restart() -> None:
        time.sleep(0.2)
        server.stop()
        server.faults.seconds = 0.0
        time.sleep(0.3)
        server.start()

    def kill(key: str) -> None:
        if key == WEIGHTS_NAME:
            server.faults.on_asset, server.faults.seconds = None, 0.05
            killer.start()

    killer = threading.Thread(target=restart)
    server.faults.on_asset = kill
    sync(server, target, patience=Patience(attempts=9, first_wait=0.02, window=5.0))
    killer.join()
    assert [asked.start > 0 for asked in server.asked if asked.key == WEIGHTS_NAME] == [False, True]
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS


CLIENT = """
import sys
from pathlib import Path
from rdagent_sota_patch.sync.client import ApiClient
from rdagent_sota_patch.sync.syncing import SyncOptions, sync_task

with ApiClient(sys.argv[1]) as client:
    sync_task(client, SyncOptions("latest", Path(sys.argv[2])), lambda *_: None)
"""


def test_a_killed_sync_is_gone_on_with(server: ContractServer, target: Path) -> None:
    """By the next one: what came before the kill does not come again, and the target was never half."""
    server.faults.seconds = 0.05
    with subprocess.Popen([sys.executable, "-c", CLIENT, server.url, str(target)]) as process:
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        part = staging_of(target) / f"{digest}.part"
        while not part.exists() or part.stat().st_size < 4 * PIECE:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    have = part.stat().st_size
    server.faults.seconds = 0.0
    server.transferred()
    result = sync(server, target)
    assert result.received <= sum(file.size for file in result.manifest.files.values()) - have
    assert (target / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("state", ["being filled", "between the renames", "not cleaned up"])
def test_a_sync_that_was_killed_at_its_end(server: ContractServer, target: Path, state: str) -> None:
    """Its folders are tidied up by the next one; the bundle that was put aside is put back, and its files serve."""
    sync(server, target)
    accept_another(server)
    server.transferred()
    staging = staging_of(target)
    staging.mkdir(mode=0o700)
    (staging / NEW_NAME).mkdir()
    (staging / NEW_NAME / "half").write_text("half")
    if state == "between the renames":
        target.rename(staging / OLD_NAME)
    elif state == "not cleaned up":
        shutil.copytree(target, staging / OLD_NAME)
    sync(server, target)
    assert set(server.transferred()) == {MANIFEST_NAME, WEIGHTS_NAME}
    assert list(target.parent.iterdir()) == [target]


def test_a_sync_that_is_killed_at_any_moment(server: ContractServer, target: Path) -> None:
    """Whenever it ends, the target is the old bundle or the new one, and the next sync leaves nothing beside it."""
    sync(server, target)
    for number in range(4):
        accept_another(server)
        with subprocess.Popen([sys.executable, "-c", CLIENT, server.url, str(target)]) as process:
            while not staging_of(target).exists() and process.poll() is None:
                time.sleep(0.001)
            time.sleep(0.012 * number)
            process.kill()
        assert open_bundle(target).model
        sync(server, target)
        assert list(target.parent.iterdir()) == [target]


def test_one_sync_at_a_time(server: ContractServer, target: Path) -> None:
    """The second says so, and a lock that was left behind is none."""
    with hold_staging(target):
        refused(server, target, "sync-in-use")
    staging = staging_of(target)
    staging.mkdir(mode=0o700)
    (staging / "lock").touch()
    sync(server, target)
    assert list(target.parent.iterdir()) == [target]


def test_a_strangers_folder_where_files_would_wait_is_refused(server: ContractServer, target: Path) -> None:
    """Somebody's files, a link to elsewhere: nothing is written into it."""
    staging = staging_of(target)
    staging.mkdir()
    (staging / "thesis.tex").write_text("years of work")
    refused(server, target, "target-not-a-bundle")
    (staging / "thesis.tex").unlink()
    staging.rmdir()
    elsewhere = target.parent.parent / "elsewhere"
    elsewhere.mkdir()
    staging.symlink_to(elsewhere)
    refused(server, target, "target-not-a-bundle")
    assert list(elsewhere.iterdir()) == []


def test_a_missing_folder_is_told(server: ContractServer, tmp_path: Path) -> None:
    """The folder that the target is to be in must be there."""
    refused(server, tmp_path / "none" / "bundle", "cannot-write")


def test_a_full_disk_is_told_before_anything_comes(
    server: ContractServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how much is needed."""
    usage = shutil.disk_usage(target.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "bytes" in refused(server, target, "cannot-write")
    assert set(server.transferred()) == {MANIFEST_NAME}


def test_two_factors_of_the_same_code_are_two_files(server: ContractServer, target: Path) -> None:
    """Transferred once; a change of one is not a change of the other."""
    code = (server.folder / "factors/factor_1_ZMom.py").read_bytes()
    replace_file(server.folder, "factors/factor_2_GapA.py", code)
    sync(server, target)
    keys = server.transferred()
    assert sum(key.startswith("factors/") for key in keys) == 1
    inodes = {(target / "factors" / name).stat().st_ino for name in ("factor_1_ZMom.py", "factor_2_GapA.py")}
    assert len(inodes) == 2


def test_where_files_cannot_be_linked_they_are_copied(
    server: ContractServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no hard links."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    sync(server, target)
    accept_another(server)
    sync(server, target)
    assert open_bundle(target).model
