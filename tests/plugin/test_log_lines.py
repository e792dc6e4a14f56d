"""The log lines that the notes tell people to look for: each where its case happens, and only there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.checks import Findings
from rdagent_sota_patch.settings import Settings, load_settings
from tests.plugin.test_active import SEGMENTS
from tests.sessions.forged import (
    factor_experiment,
    feedback,
    forge,
    model_experiment,
    put,
    saved_loop,
    workspace,
)

Factory = Callable[..., Any]

LINES = (
    "Found workspace from log: ",
    "Found workspace from QlibFactorExperiment: ",
    "SOTA factors loaded from workspace: ",
    "SOTA factors loaded from ",
    "SOTA factors shape: (",
    "SOTA factor experiment added to based_experiments",
    "叠加Alpha因子: ",
    "Log path does not exist: ",
    "Session directory not found: ",
    "No loop directories found in session: ",
    "No session files found in loop directory: ",
    "Failed to load session file: ",
    "No QlibFactorExperiment found in session",
    "No workspace found in log path: ",
    "Failed to find workspace from log: ",
    "SOTA factors file not found: ",
    "SOTA workspace path not found: ",
    "Failed to load SOTA factors from workspace: ",
    "Failed to load SOTA factors from ",
)
LOADED = ["SOTA factors loaded from workspace: ", "SOTA factors loaded from ", "SOTA factors shape: ("]


@pytest.fixture
def said(
    rdagent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> Iterator[Factory]:
    """Run the pre-flight of a model stage on what is in the environment; all that goes to its log."""
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    from rdagent_sota_patch.plugin import active, host, preflight, rebuild

    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    mocker.patch.dict(os.environ)
    os.environ.pop("RDAGENT_SOTA_FINGERPRINT", None)
    monkeypatch.chdir(tmp_path)
    mocker.patch.object(host, "workspace_root", return_value=tmp_path / "RD-Agent_workspace")
    mocker.patch.object(active, "check_market", return_value=Findings())
    mocker.patch.object(active, "model_segments", return_value=SEGMENTS)
    # The rebuilding itself runs factor code; the integration tests do that.
    mocker.patch.object(rebuild, "rebuild_table", side_effect=lambda source: tmp_path / "rebuilt.parquet")
    logs = [mocker.patch.object(module, "logger") for module in (active, preflight)]
    active.active_sota.cache_clear()

    def prepare() -> list[str]:
        loop = type("ModelRDLoop", (), {})()
        loop.runner, loop.plan = QlibModelRunner(None), {"features": {"ROC60": "Ref($close, 60)/$close"}}
        loop.trace = SimpleNamespace(hist=[])
        try:
            preflight.prepare_run(loop, load_settings())
            end = ""
        except SotaError as error:
            end = str(error)  # `run_loop` puts it into the log.
        text = "\n".join([*(str(call.args[0]) for log in logs for call in log.method_calls), end])
        return [line for line in LINES if line in text]

    yield prepare
    active.active_sota.cache_clear()


@pytest.fixture
def log(said: Factory, tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose accepted experiment names the workspace with ``table``; it is the source."""
    path = tmp_path / "project" / "log" / "run"
    (tmp_path / "ws").mkdir()
    shutil.copy(table, tmp_path / "rebuilt.parquet")
    shutil.move(table, tmp_path / "ws" / "combined_factors_df.parquet")
    accepted(path, str(tmp_path / "ws"))
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "true")
    monkeypatch.setenv("SOTA_LOG_PATH", str(path))
    return path


def accepted(log: Path, place: str | None, **code: str) -> None:
    held = {"experiment_workspace": None if place is None else workspace(place)}
    put(log, 0, "4_record", saved_loop((factor_experiment("Gap", "KLEN", **held), feedback(True))))


def lose_workspace(log: Path) -> None:
    accepted(log, None)


def lose_code(log: Path) -> None:
    shutil.rmtree(log.parents[2] / "ws")
    experiment = factor_experiment(
        "Gap",
        experiment_workspace=workspace(str(log.parents[2] / "ws")),
        sub_workspace_list=[workspace("/x")],
    )
    put(log, 0, "4_record", saved_loop((experiment, feedback(True))))


def forbid(log: Path) -> None:
    """A folder that may not be listed; root may list any, so a link that leads to itself stands in."""
    shutil.rmtree(log)
    log.symlink_to(log)


def only_models(log: Path) -> None:
    put(log, 0, "4_record", saved_loop((model_experiment(), feedback(True))))


def spoil_table(log: Path) -> None:
    (log.parents[2] / "ws" / "combined_factors_df.parquet").write_bytes(b"PAR1 no parquet")


FROM_LOG: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "found": (lambda log: None, [*LINES[:2], *LOADED]),
    "no such log": (shutil.rmtree, ["Log path does not exist: ", "No workspace found in log path: "]),
    "no session": (
        lambda log: shutil.rmtree(log / "__session__"),
        ["Session directory not found: ", "No workspace found in log path: "],
    ),
    "no loops": (
        lambda log: shutil.rmtree(log / "__session__" / "0"),
        ["No loop directories found in session: ", "No workspace found in log path: "],
    ),
    "no snapshots": (
        lambda log: (log / "__session__" / "0" / "4_record").rename(log / "__session__" / "0" / "a.pkl"),
        ["No session files found in loop directory: ", "No workspace found in log path: "],
    ),
    "unreadable snapshot": (
        lambda log: put(log, 0, "4_record", b"junk"),
        ["Failed to load session file: ", "No workspace found in log path: "],
    ),
    "one unreadable snapshot": (
        lambda log: put(log, 1, "0_x", b"junk"),
        [*LINES[:2], *LOADED, "Failed to load session file: "],
    ),
    "not a session": (
        lambda log: put(log, 0, "4_record", forge([1])),
        ["Failed to load session file: ", "No workspace found in log path: "],
    ),
    "models alone": (
        only_models,
        ["No QlibFactorExperiment found in session", "No workspace found in log path: "],
    ),
    "not to be looked at": (forbid, ["Failed to find workspace from log: "]),
    "no workspace named": (
        lose_workspace,
        [*LOADED[1:], "No workspace found in log path: "],
    ),
    "table gone, rebuilt": (
        lambda log: shutil.rmtree(log.parents[2] / "ws"),
        [*LOADED[1:], "SOTA factors file not found: "],
    ),
    "table gone": (lose_code, ["SOTA factors file not found: "]),
    "damaged table": (
        spoil_table,
        ["Failed to load SOTA factors from workspace: ", "Failed to load SOTA factors from "],
    ),
}


@pytest.mark.parametrize(("make", "expected"), FROM_LOG.values(), ids=FROM_LOG)
def test_from_a_log(log: Path, said: Factory, make: Callable[[Path], object], expected: list[str]) -> None:
    """What a run says of `LOAD_SOTA_FROM_LOG`, in each of its situations."""
    make(log)
    assert sorted(said()) == sorted(expected)


@pytest.mark.parametrize("kind", ["workspace", "file"])
@pytest.mark.parametrize("state", ["there", "no table", "no folder", "damaged"])
def test_from_a_workspace_or_file(
    kind: str, state: str, table: Path, tmp_path: Path, said: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the other two sources; of a file, nothing is said of a workspace."""
    folder = tmp_path / "named"
    folder.mkdir()
    named = folder / "combined_factors_df.parquet"
    if state == "there":
        shutil.copy(table, named)
    elif state == "damaged":
        named.write_bytes(b"junk")
    elif state == "no folder":
        folder.rmdir()
    if kind == "workspace":
        monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
        monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(folder))
    else:
        monkeypatch.setenv("LOAD_SOTA_FACTORS", "true")
        monkeypatch.setenv("SOTA_FACTORS_PATH", str(named))
    expected = {
        "there": LOADED,
        "damaged": ["Failed to load SOTA factors from workspace: ", "Failed to load SOTA factors from "],
        "no table": ["SOTA factors file not found: "],
        "no folder": ["SOTA workspace path not found: "],
    }[state]
    if kind == "file":
        expected = [line for line in expected if not line.endswith("workspace: ")]
        expected = ["SOTA factors file not found: "] if state == "no folder" else expected
    assert sorted(said()) == sorted(expected)


def test_of_a_converted_table(
    log: Path,
    table: Path,
    tmp_path: Path,
    said: Factory,
    monkeypatch: pytest.MonkeyPatch,
    mocker: MockerFixture,
) -> None:
    """What was loaded is the workspace's own table, also where another layout of it is fed."""
    from rdagent_sota_patch.plugin import preflight

    path = tmp_path / "ws" / "combined_factors_df.parquet"
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    assert sorted(said()) == sorted([*LINES[:2], *LOADED])
    lines = [str(call.args[0]) for call in preflight.logger.info.call_args_list]  # type: ignore[attr-defined]
    assert f"SOTA factors loaded from workspace: {path}" in lines


@pytest.mark.parametrize("use_alpha", [True, False])
def test_of_a_loop(
    use_alpha: bool,
    rdagent: Path,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    mocker: MockerFixture,
) -> None:
    """Each loop says that the experiment was added, and how many Alpha features are beside it, if any."""
    from rdagent_sota_patch.plugin import feeding, model_runner

    log = mocker.patch.object(feeding, "logger")
    mocker.patch.object(model_runner, "active_sota", return_value=make_sota(use_alpha=use_alpha))
    model_runner.SotaModelRunner(None).develop(make_experiment())
    text = "\n".join(str(call.args[0]) for call in log.info.call_args_list)
    assert [line for line in LINES if line in text] == list(LINES[5 : 6 + use_alpha])
