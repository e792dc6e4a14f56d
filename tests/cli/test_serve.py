"""``rdagent-sota serve`` as it is typed: what it says, whom it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_patch.cli import app
from rdagent_sota_patch.cli import serve as module
from tests.export.made_run import write_workspace
from tests.results.log_root import Project, run_of_factors, write_run
from tests.scoring.made_market import make_market
from tests.sessions.generated_log import KEY


@pytest.mark.parametrize(
    ("options", "slug"),
    [
        (["--host", "0.0.0.0"], "token-needed"),
        (["--host", "example.org"], "token-needed"),
        (["--token-file", "missing"], "bad-token-file"),
        (["--log-root", "missing"], "log-root-not-found"),
        (["--cache-dir", "file/below"], "cannot-write"),
    ],
)
def test_refuses_to_start(
    options: list[str], slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than serve to anyone, nothing, or what it cannot keep."""
    monkeypatch.chdir(tmp_path)
    Path("log").mkdir()
    Path("file").write_text("")
    arguments = ["serve", "--log-root", "log", "--cache-dir", "cache", *options, "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert [problem["slug"] for problem in json.loads(done.stdout)["problems"]] == [slug]


def test_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both commands name the extra that brings it."""
    monkeypatch.setattr(module, "_EXTRA", ("fastapi", "not_there_at_all"))
    for arguments in (
        ["serve", "--log-root", str(tmp_path)],
        ["sync", "--api", "http://127.0.0.1:1", "--task", "latest", "--out", str(tmp_path / "out")],
    ):
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 1
        (problem,) = json.loads(done.stdout)["problems"]
        assert problem["slug"] == "api-extra-missing"
        assert "not_there_at_all" in problem["message"]
        assert "rdagent-sota-patch[api]" in problem["hint"]


@contextmanager
def serving(
    folder: Path, *options: str | Path, end: signal.Signals = signal.SIGTERM
) -> Iterator[dict[str, str]]:
    """``serve --json`` in a folder with a ``log``, as typed: what it says first; a signal ends it in good order."""
    code = "from rdagent_sota_patch.cli import app; app()"
    common = ["--log-root", "log", "--cache-dir", "cache", "--port", "0", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", code, "serve", *common, *map(str, options)],
        cwd=folder,
        env={**os.environ, "RDAGENT_SOTA_DISABLE": "true", "ARTIFACT_SIGNING_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            yield json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        finally:
            process.send_signal(end)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_it_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    """With --json it first prints where, as one object; a signal ends it in good order."""
    (tmp_path / "log").mkdir()
    with serving(tmp_path, end=number) as said:
        assert said["log_root"] == str(tmp_path / "log")
        with urllib.request.urlopen(f"{said['url']}/health", timeout=10) as answer:
            assert json.load(answer)["ok"]


def test_market_data_for_figures_is_named(tmp_path: Path) -> None:
    """A folder with ``daily_pv.h5``: returns over twenty days are known then."""
    project = Project(tmp_path)
    project.workspace.mkdir(parents=True)
    write_workspace(project.workspace)
    write_run(project.log / "mined", [(run_of_factors("ZMom", "GapA", place=project.workspace), True)])
    data = make_market(tmp_path / "market").files.data
    assert data is not None
    with serving(tmp_path, "--data", data.parent) as said:
        path = "/api/extractors/sota_factors/v2/mined/factor_metrics"
        with urllib.request.urlopen(f"{said['url']}{path}", timeout=120) as answer:
            found = json.load(answer)
    assert found["return_source"] == str(data)
    assert all(item["rank_ic_20d"] is not None for item in found["metrics"])


def test_nothing_heavy_is_imported() -> None:
    """A server that reads logs has no use for RD-Agent, Qlib, torch or LightGBM."""
    code = (
        "import sys, rdagent_sota_patch.server.app\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'rdagent', 'qlib', 'torch', 'lightgbm', 'mlflow'}))"
    )
    environ = {**os.environ, "RDAGENT_SOTA_DISABLE": "true"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.strip() == "[]"
