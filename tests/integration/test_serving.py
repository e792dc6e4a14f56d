"""Real runs served and synced: while RD-Agent writes them, and as what live selection then predicts with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.results.curves import read_curves
from rdagent_sota_patch.results.schemas import MAX_DRAWDOWN
from tests.integration.conftest import RealRun
from tests.integration.evidence import run_tool

pytestmark = pytest.mark.real

Run = Callable[..., dict[str, Any]]


@contextmanager
def serving(sandbox: Sandbox) -> Iterator[str]:
    """`rdagent-sota serve` on the sandbox's logs; gives its URL."""
    program = Path(sys.executable).with_name("rdagent-sota")
    logs = sandbox.project / "log"
    logs.mkdir(exist_ok=True)
    qlib = ("--qlib-dir", str(sandbox.qlib_data))
    with subprocess.Popen(
        [str(program), "serve", "--log-root", str(logs), "--port", "0", *qlib, "--json"],
        cwd=sandbox.project,
        env=sandbox.environment("tool", {}),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = "".join(iter(process.stdout.readline, "}\n")) + "}"
            yield json.loads(said)["url"]
        finally:
            process.terminate()
        assert process.wait(30) == 0


def ask(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_log_is_served_while_rdagent_writes_it(
    runs: Mapping[str, Future[RealRun]], sandbox: Sandbox
) -> None:
    """From its first loop to its last: the history grows, the anchor moves on, and nothing fails."""
    seen: list[tuple[int, int | None]] = []
    with serving(sandbox) as url:
        done = False
        while not done:
            done = runs["factor_run"].done()
            status, anchor = ask(f"{url}/tasks/factor/sota_factor_anchor")
            # Before its first step is written there is no such run, or a log without a snapshot.
            assert status == 200 or (not seen and anchor["slug"] in {"task-not-found", "no-snapshots"}), (
                anchor
            )
            if status == 200:
                assert anchor["task_id"] == "factor"
                seen.append((anchor["hist_len"], anchor["last_sota_factor_index"]))
            time.sleep(0.3)
        weights = anchor["resolved_model_weight_sha256"]
        assert anchor["ok"] and anchor["resolved_model_weight_source"] == "factor_exp"
        assert ask(f"{url}/tasks/latest/sota_factor_anchor")[1]["resolved_model_weight_sha256"] is not None
    assert seen == sorted(seen, key=lambda moment: moment[0])
    # Accepted, rejected, accepted.
    assert seen[-1] == (3, 2)
    record = runs["factor_run"].result().session.experiments[2].artifacts
    assert record is not None and record["weights"]["sha256"] == weights


@pytest.fixture(scope="module")
def api(sandbox: Sandbox, factor_run: RealRun) -> Iterator[str]:
    with serving(sandbox) as url:
        yield url


@pytest.fixture
def tool(sandbox: Sandbox) -> Run:
    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        done = run_tool(sandbox, *arguments, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    return run


def test_what_is_synced_predicts_as_it_was_back_tested(
    api: str, tool: Run, sandbox: Sandbox, factor_run: RealRun, tmp_path: Path
) -> None:
    """Without any back-test data, a day of the back-test gets exactly the scores that it had there."""
    live = tmp_path / "live"
    said = tool("sync", "--api", api, "--task", "factor", "--out", str(live))
    assert not list(live.rglob("*.parquet"))
    assert said["aistock_manifest"]["task_only"]["mode"] == "log_only"
    checked = tool("verify", str(live))
    assert checked["replay"] is None
    assert not checked["problems"]

    proven = tmp_path / "proven"
    tool("sync", "--api", api, "--task", "factor", "--out", str(proven), "--with-replay")
    replay = tool("verify", str(proven))["replay"]
    assert replay["rows"] > 0 and replay["max_difference"] == 0

    evidence = pd.read_parquet(proven / "replay" / "predictions.parquet")["score"]
    day = evidence.index.get_level_values("datetime").unique().sort_values()[-30]
    target = tmp_path / "scores.parquet"
    market = ("--data", str(sandbox.factor_data / "daily_pv.h5"), "--qlib-dir", str(sandbox.qlib_data))
    tool("predict", str(live), "--date", f"{day:%Y-%m-%d}", *market, "--out", str(target))
    scores = pd.read_parquet(target).set_index("instrument")["score"].sort_index()
    expected = evidence.xs(day, level="datetime").sort_index()
    assert list(scores.index) == list(expected.index)
    assert (scores - expected).abs().max() == 0


def test_a_second_sync_transfers_nothing(api: str, tool: Run, tmp_path: Path) -> None:
    """And leaves every file as it is."""
    live = tmp_path / "live"
    tool("sync", "--api", api, "--task", "factor", "--out", str(live))
    before = {path: path.stat().st_mtime_ns for path in live.rglob("*")}
    said = tool("sync", "--api", api, "--task", "factor", "--out", str(live))
    assert (said["transferred"], said["changed"]) == ([], False)
    assert {path: path.stat().st_mtime_ns for path in live.rglob("*")} == before


def test_a_model_run_s_weights_are_not_taken_for_the_factors(
    api: str, alone: RealRun, tool: Run, tmp_path: Path
) -> None:
    """A model run has no factor experiment of its own: its anchor says so, and sync refuses."""
    _, anchor = ask(f"{api}/tasks/alone/sota_factor_anchor")
    assert not anchor["ok"] and anchor["resolved_model_weight_source"] is None
    said = tool("sync", "--api", api, "--task", "alone", "--out", str(tmp_path / "live"), code=1)
    assert said["problems"][0]["slug"] == "weights-not-factor-exp"
    assert not (tmp_path / "live").exists()


def test_the_model_s_bundle_is_served(api: str, alone: RealRun, tool: Run, tmp_path: Path) -> None:
    """As a zip, which unpacked replays the torch model's own back-test."""
    import zipfile

    packed = tmp_path / "bundle.zip"
    with urllib.request.urlopen(f"{api}/tasks/alone/bundle", timeout=300) as answer:
        packed.write_bytes(answer.read())
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    said = tool("verify", str(tmp_path / "alone-model"))
    assert said["stage"] == "model"
    assert said["replay"]["max_difference"] <= 1e-6

    synced = tmp_path / "synced"
    came = tool(
        "sync", "--api", api, "--task", "latest", "--stage", "model", "--with-replay", "--out", str(synced)
    )
    assert came["stage"] == "model"
    assert came["aistock_manifest"] is None
    assert tool("verify", str(synced))["replay"]["max_difference"] <= 1e-6


def test_runs_side_by_side_say_the_same_everywhere(
    api: str, factor_run: RealRun, alone: RealRun, informed: RealRun, tool: Run, sandbox: Sandbox
) -> None:
    """The table of ``runs`` has the server's figures, and RD-Agent's own; models' factors have a name and a run."""
    said = tool("runs")
    assert Path(said["log_root"]) == sandbox.project / "log"
    rows = {row["task_id"]: row for row in said["runs"]}
    _, listed = ask(f"{api}/tasks?sort=ended&limit=200")
    assert {row["task_id"]: row for row in listed["tasks"]} == rows
    factor = rows["factor"]
    assert (factor["kind"], factor["loops"], factor["accepted"], factor["sota_loop"]) == ("factor", 3, 2, 2)
    best = max(each.metrics["IC"] for each in factor_run.session.experiments if each.decision)
    assert factor["best"][0] == {"metric": "IC", "value": best, "loop": factor["best"][0]["loop"]}
    assert factor["ended_at_utc"] == factor_run.session.ended.isoformat(timespec="milliseconds")  # type: ignore[union-attr]
    for run in (alone, informed):
        name = run.session.task_id
        row = rows[name]
        assert (row["kind"], row["given_from"], row["sota_loop"]) == ("model", "factor", None)
        given = tool("inspect", str(run.result.log))["given"]
        assert (given["source"], given["loop"], len(given["factors"])) == ("factor", 2, row["given_factors"])
        with urllib.request.urlopen(f"{api}/runs/{name}", timeout=60) as answer:
            page = answer.read().decode()
        assert '<a href="/runs/factor"><bdi>factor</bdi></a>' in page
        assert all(f"<bdi>{factor}</bdi>" in page for factor, _ in given["factors"])
    pointed = tool("inspect", str(sandbox.project / "log"), code=1)["problems"][0]
    assert "rdagent-sota runs" in pointed["hint"]


def test_a_back_test_is_drawn_from_what_qlib_left(api: str, alone: RealRun, factor_run: RealRun) -> None:
    """All five panels; the lowest drawdown and the mean IC are the metrics that Qlib itself computed."""
    for run in (factor_run, alone):
        record = run.session.experiments[-1]
        curves = read_curves(Path(str(record.workspace)), None)
        assert curves.missing == ()
        assert min(curves.drawdown[0].values) == pytest.approx(record.metrics[MAX_DRAWDOWN], abs=1e-12)
        assert curves.ic[1].values[-1] == pytest.approx(record.metrics["IC"], abs=1e-12)
        assert curves.ic[2].values[-1] == pytest.approx(record.metrics["Rank IC"], abs=1e-12)
        address = f"{api}/runs/{run.session.task_id}?loop={record.loop}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            page = answer.read().decode()
        assert page.count('class="curve ') == 6 + 9  # In the legend, and in the panels.
