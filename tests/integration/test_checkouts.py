"""The whole job on RD-Agent as people change it: factor stage, model stage, bundles, audit, predict, serve and sync."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.demo.synthetic_market import Segments
from rdagent_sota_patch.plugin.host_check import host_problems
from rdagent_sota_patch.sessions.records import Session
from tests.integration import checkouts
from tests.integration.checkouts import Trait
from tests.integration.conftest import CheckoutRuns
from tests.integration.evidence import look_at_training, run_tool, usage_of
from tests.integration.test_serving import serving

ALPHA_COUNT = 20
FORK_MINED = ("OvernightGap10", "VolumeLevel20")
MINED = {"fork": FORK_MINED, "between": FORK_MINED[:1], "signed": FORK_MINED[:1]}

TRAITS: dict[str, tuple[Trait, ...]] = {
    "one loader, unsorted": (checkouts.loads_unsorted,),
    ".env wins": (checkouts.env_file_wins,),
    "reads USE_ALPHA_FACTORS": (checkouts.reads_use_alpha_factors,),
    "one experiment is enough": (checkouts.one_experiment_is_enough,),
    "weights in file_dict": (checkouts.weights_in_file_dict,),
    "ret.pkl": (checkouts.returns_as_pickle,),
    "unsigned": (checkouts.unsigned_sessions,),
    "ret.pkl, unsigned": (checkouts.returns_as_pickle, checkouts.unsigned_sessions),
    "features in templates": (checkouts.features_in_templates,),
    "dates in templates": (checkouts.dates_in_templates(Segments()),),
    "a second market file": (checkouts.describes_parquet,),
    "MLFLOW_TRACKING_URI": (checkouts.tracking_uri_of_the_workspace,),
    "000001.SZ": (checkouts.exchange_at_the_end,),
    "CRLF": (checkouts.windows_line_ends,),
    "between the releases": checkouts.BETWEEN,
    "the fork": checkouts.FORK,
}

on_1_0 = pytest.mark.skipif(not checkouts.is_editable(), reason="the edits are made on RD-Agent 1.0.0")
real = [pytest.mark.real, on_1_0]


@on_1_0
@pytest.mark.parametrize("traits", TRAITS.values(), ids=TRAITS)
def test_each_trait_is_understood(traits: tuple[Trait, ...], tmp_path: Path) -> None:
    """A host that was edited is like any other: nothing is wrong with it, and the patch says the same."""
    tree = checkouts.copy_of_rdagent(tmp_path, traits)
    assert host_problems(tree) == ()


@dataclass(frozen=True, slots=True)
class Job:
    """One checkout's runs, and what was made of them.

    Attributes:
        bundles: By stage.
        said: What `export` said of each.
    """

    name: str
    sandbox: Sandbox
    factor: Session
    model: Session | None
    bundles: dict[str, Path]
    said: dict[str, dict[str, Any]]

    def tool(self, *arguments: str, code: int = 0, **settings: str) -> dict[str, Any]:
        """A command with ``--json``: what it printed, after checking its exit code."""
        done = run_tool(self.sandbox, *arguments, "--json", **settings)
        assert done.returncode == code, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def document(self, stage: str, name: str) -> dict[str, Any]:
        """One of a bundle's JSON documents."""
        return dict(json.loads((self.bundles[stage] / name).read_text(encoding="utf-8")))

    @property
    def market(self) -> tuple[str, ...]:
        """The options that name market data: the whole folder."""
        return ("--data", str(self.sandbox.factor_data), "--qlib-dir", str(self.sandbox.qlib_data))


@pytest.fixture(scope="session")
def job_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, CheckoutRuns], Job]:
    """Exports each checkout's runs once."""
    done: dict[str, Job] = {}

    def once(name: str, runs: CheckoutRuns) -> Job:
        if name not in done:
            folder = tmp_path_factory.mktemp(f"{name}-bundles")
            model = runs.model.session if runs.model else None
            job = Job(name, runs.sandbox, runs.factor.session, model, {}, {})
            logs = {
                "factor": runs.factor.result.log,
                **({"model": runs.model.result.log} if runs.model else {}),
            }
            for stage, log in logs.items():
                job.bundles[stage] = folder / stage
                job.said[stage] = job.tool("export", str(log), "--out", str(folder / stage), *job.market)
            done[name] = job
        return done[name]

    return once


@pytest.fixture
def job(request: pytest.FixtureRequest, job_of: Callable[[str, CheckoutRuns], Job]) -> Job:
    return job_of(request.param, request.getfixturevalue(request.param))


def on(*names: str) -> Callable[..., Any]:
    """Run a test on these checkouts; named as fixtures too, so that their runs are begun with all others."""

    def mark(test: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in (
            pytest.mark.parametrize("job", names, indirect=True),
            pytest.mark.usefixtures(*names),
        ):
            test = decorator(test)
        for one in real:
            test = one(test)
        return test

    return mark


@on("fork", "between")
def test_the_model_was_trained_on_what_the_record_says(job: Job, sandbox: Sandbox) -> None:
    """Weights, fitted processors and ``sota_source.json`` agree; where Alpha is on by default there, it is in."""
    assert job.model is not None
    alpha = ALPHA_COUNT if job.name == "fork" else 0
    mined = MINED[job.name]
    trained, usage = look_at_training(sandbox, job.model), usage_of(job.model)
    assert [factor["name"] for factor in usage["factors"]] == list(mined)
    assert usage["num_features"] == trained.num_features == trained.input_size == alpha + len(mined)
    assert set(mined) <= set(trained.fitted) and len(trained.fitted) == alpha + len(mined)


@on("fork", "between", "signed")
def test_bundles_replay_exactly(job: Job) -> None:
    """The shipped model gives each of the back-test's scores, from the bundle alone and from market data."""
    for stage, bundle in job.bundles.items():
        replay = job.tool("verify", str(bundle))["replay"]
        assert replay["rows"] > 0 and replay["max_difference"] == 0.0, (stage, replay)
    recomputed = job.tool("verify", str(job.bundles["factor"]), *job.market)["recomputed"]
    assert recomputed["rows"] > 1000 and recomputed["max_difference"] == 0.0


@on("fork")
def test_the_loader_s_order_is_proven(job: Job) -> None:
    """Alpha as it is configured, then the table: the document has it so, and says how that was found."""
    order = job.document("factor", "factor_order.json")
    assert order["factor_order"] == [*checkouts.alpha_names(), *FORK_MINED]
    assert order["factor_order"] != sorted(order["factor_order"])


@on("fork", "between", "signed")
def test_no_factor_is_accused(job: Job) -> None:
    """Each mined factor is found causal, on every file of the data folder."""
    said = job.tool("audit", str(job.factor.log), "--data", str(job.sandbox.factor_data))
    assert {factor["name"]: factor["causal"] for factor in said["factors"]} == dict.fromkeys(
        MINED[job.name], True
    )


@on("fork", "between")
def test_a_day_of_the_back_test_gives_its_scores(job: Job, tmp_path: Path) -> None:
    """`predict` on the data folder gives exactly the scores that the day had in the back-test, for both stages."""
    for stage, bundle in job.bundles.items():
        evidence = pd.read_parquet(bundle / "replay" / "predictions.parquet")["score"]
        days = evidence.index.get_level_values("datetime").unique().sort_values()
        day, target = days[len(days) // 2], tmp_path / f"{stage}.parquet"
        job.tool("predict", str(bundle), "--date", f"{day:%Y-%m-%d}", *job.market, "--out", str(target))
        scores = pd.read_parquet(target).set_index("instrument")["score"].sort_index()
        expected = evidence.xs(day, level="datetime").sort_index()
        assert list(scores.index) == list(expected.index)
        assert (scores - expected).abs().max() == 0.0, stage


@on("fork", "between")
def test_is_served_and_synced(job: Job, tmp_path: Path) -> None:
    """A plain client gets factors and weights; what is synced replays as exactly."""
    mined = MINED[job.name]
    with serving(job.sandbox) as url:

        def get(path: str) -> bytes:
            with urllib.request.urlopen(f"{url}{path}", timeout=60) as answer:
                assert answer.status == 200
                return bytes(answer.read())

        anchor = json.loads(get("/tasks/factor/sota_factor_anchor"))
        assert anchor["ok"] is True
        aligned = json.loads(get("/api/extractors/sota_factors/v2/factor/aligned"))
        assert aligned["success"] is True and set(aligned["aligned_factors"]) == set(mined)
        preview = json.loads(get("/tasks/factor/v2_alignment_preview"))
        assert preview["ok"] is True and preview["sota_factors_count"] == len(mined)
        complete = json.loads(get("/tasks/factor/complete_assets"))
        assert complete["ok"] is True
        assert len(json.loads(get("/tasks/factor/loops"))["loops"]) == len(job.factor.experiments)
        assert b"result.h5" in get("/tasks/factor/factor.py")
        assert get("/tasks/factor/model.pkl")
        live = tmp_path / "live"
        job.tool("sync", "--api", url, "--task", "factor", "--out", str(live), "--with-replay")
    replay = job.tool("verify", str(live))["replay"]
    assert replay["rows"] > 0 and replay["max_difference"] == 0.0


@on("fork")
def test_doctor_says_what_the_run_did(job: Job) -> None:
    """Where ``.env`` wins, `doctor` goes by it, whatever the environment says; Alpha is counted as the host has it."""
    said = job.tool("doctor", LOAD_SOTA_FROM_LOG="false")
    assert said["problems"] == []
    assert said["source"]["factors"] == list(FORK_MINED)
    assert said["num_features"] == ALPHA_COUNT + len(FORK_MINED)


@on("fork")
def test_the_patch_comes_and_goes(job: Job, tmp_path: Path) -> None:
    """The fork's source is patched, and put back byte for byte, with its line ends."""
    tree = checkouts.copy_of_rdagent(tmp_path, checkouts.FORK)
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    for action in ("check", "apply", "revert"):
        done = run_tool(job.sandbox, "patch", action, "--source", str(tree))
        assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before
