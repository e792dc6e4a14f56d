"""Bundles of real runs: audited, exported, verified and predicted with, by the commands that a user types."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from tests.integration.conftest import RealRun, from_log
from tests.integration.evidence import run_tool

pytestmark = pytest.mark.real

MINED = ("OvernightGap10", "SkippedMomentum60", "GapVolumeCorr20")

LIMITS = {"lightgbm": 0.0, "torch": 1e-6}
"""How far a replayed score may be from the back-test's."""

Run = Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shipped:
    """A bundle of a real run, with what `export` said of it."""

    folder: Path
    said: dict[str, Any]

    def document(self, name: str) -> dict[str, Any]:
        """One of the bundle's JSON documents."""
        return dict(json.loads((self.folder / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def data(sandbox: Sandbox) -> Path:
    """The market data that factor code reads."""
    return sandbox.factor_data / "daily_pv.h5"


@pytest.fixture(scope="session")
def tool(sandbox: Sandbox) -> Run:
    """A command in the sandbox with ``--json``: what it printed, after checking its exit code."""

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        done = run_tool(sandbox, *arguments, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    return run


def ship(tool: Run, run: RealRun, target: Path, *options: str) -> Shipped:
    said = tool("export", str(run.result.log), "--out", str(target), *options)
    return Shipped(target, said)


@pytest.fixture(scope="session")
def factor_bundle(
    tool: Run, factor_run: RealRun, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Shipped:
    """The factor stage's LightGBM, its factors audited."""
    return ship(tool, factor_run, tmp_path_factory.mktemp("bundles") / "factor", "--data", str(data))


@pytest.fixture(scope="session")
def both_bundle(tool: Run, both: RealRun, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A tabular network on SOTA and Alpha."""
    return ship(tool, both, tmp_path_factory.mktemp("bundles") / "both")


@pytest.fixture(scope="session")
def series_bundle(tool: Run, time_series: RealRun, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A TimeSeries network on the SOTA factors alone."""
    return ship(tool, time_series, tmp_path_factory.mktemp("bundles") / "series")


BUNDLES = ("factor_bundle", "both_bundle", "series_bundle")

# By name, so that the shared runs are begun together.
on_every_bundle = pytest.mark.usefixtures("factor_run", "both", "time_series")


@on_every_bundle
@pytest.mark.parametrize("name", BUNDLES)
def test_replays_from_the_bundle_alone(name: str, tool: Run, request: pytest.FixtureRequest) -> None:
    """The shipped model gives the back-test's scores: LightGBM each of them exactly, torch within 1e-6."""
    bundle: Shipped = request.getfixturevalue(name)
    said = tool("verify", str(bundle.folder))
    replay = said["replay"]
    assert replay["rows"] > 0
    assert replay["max_difference"] <= LIMITS[said["model"]]
    assert replay["rank_correlation"] > 0.999999


@on_every_bundle
@pytest.mark.parametrize("name", BUNDLES)
def test_recomputes_the_whole_back_test(
    name: str, tool: Run, sandbox: Sandbox, data: Path, request: pytest.FixtureRequest
) -> None:
    """From market data, factor code included, every score of the back-test comes out again."""
    bundle: Shipped = request.getfixturevalue(name)
    options = ("--data", str(data), "--qlib-dir", str(sandbox.qlib_data))
    said = tool("verify", str(bundle.folder), *options)
    shipped = pd.read_parquet(bundle.folder / "replay" / "predictions.parquet")
    assert said["recomputed"]["rows"] == len(shipped) > 1000
    assert said["recomputed"]["max_difference"] <= LIMITS[said["model"]]


def test_order_is_the_true_one(factor_bundle: Shipped) -> None:
    """Lexicographic over Alpha and mined together, with the table's own order beside it."""
    order = factor_bundle.document("factor_order.json")
    assert order["factor_order"] == sorted(order["factor_order"])
    assert set(MINED) < set(order["factor_order"])
    assert order["dynamic_factor_order"] == list(MINED)
    assert (order["alpha_count"], order["dynamic_factor_count"]) == (20, 3)


def test_nothing_but_the_evidence_is_back_test_data(factor_bundle: Shipped) -> None:
    """No table outside replay/, and no reference to one."""
    tables = [path for path in factor_bundle.folder.rglob("*.parquet") if path.parent.name != "replay"]
    assert tables == []
    assert factor_bundle.document("manifest.json")["primary_assets"]["combined_factors_relpath"] is None


def test_the_trials_are_counted_in_the_bundle(factor_bundle: Shipped, factor_run: RealRun, tool: Run) -> None:
    """`evidence.json` is what `evidence --json` says of the log, with figures of real returns."""
    weighed = factor_bundle.document("evidence.json")
    assert weighed == tool("evidence", str(factor_run.result.log))
    assert (weighed["trials"], weighed["trials_with_returns"], weighed["winner"]["loop"]) == (3, 3, 2)
    assert weighed["winner"]["dsr"] is not None and weighed["winner"]["ic_mean"] > 0
    assert factor_bundle.document("manifest.json")["diagnostics"]["evidence"] == {"mode": "written"}


def test_a_wrong_order_is_caught(factor_bundle: Shipped, tool: Run, tmp_path: Path) -> None:
    """The order that looks natural, Alpha and then the factor table, raises nothing in LightGBM: verify does."""
    copy = tmp_path / "bundle"
    shutil.copytree(factor_bundle.folder, copy)
    order = factor_bundle.document("factor_order.json")
    mined = order["dynamic_factor_order"]
    order["factor_order"] = [name for name in order["factor_order"] if name not in mined] + mined
    rewrite(copy, "factor_order.json", order)
    said = tool("verify", str(copy), code=1)
    assert [problem["slug"] for problem in said["problems"]] == ["replay-differs"]
    assert abs(said["replay"]["rank_correlation"]) < 0.5


def test_a_changed_file_is_caught(factor_bundle: Shipped, tool: Run, tmp_path: Path) -> None:
    """A changed, a missing and an additional file, all three at once."""
    copy = tmp_path / "bundle"
    shutil.copytree(factor_bundle.folder, copy)
    (copy / "model.txt").write_text("tree\n", encoding="utf-8")
    (copy / "config.json").unlink()
    (copy / "more.txt").write_text("?", encoding="utf-8")
    (problem, *others) = tool("verify", str(copy), code=1)["problems"]
    text = json.dumps([problem, *others])
    assert problem["slug"] == "bundle-altered"
    assert all(name in text for name in ("model.txt", "config.json", "more.txt"))


@on_every_bundle
@pytest.mark.parametrize("name", BUNDLES)
def test_a_day_of_the_back_test_gives_its_scores(
    name: str,
    sandbox: Sandbox,
    tool: Run,
    data: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Predicting a day that was back-tested gives exactly the scores that it had there, without the evidence."""
    bundle: Shipped = request.getfixturevalue(name)
    evidence = pd.read_parquet(bundle.folder / "replay" / "predictions.parquet")["score"]
    days = evidence.index.get_level_values("datetime").unique().sort_values()
    day = days[len(days) // 2]
    said, scores = predict(tool, bundle, day, sandbox, data, tmp_path)
    expected = evidence.xs(day, level="datetime").sort_index()
    actual = scores.set_index("instrument")["score"].sort_index()
    assert list(actual.index) == list(expected.index)
    kind = "lightgbm" if name == "factor_bundle" else "torch"
    assert (actual - expected).abs().max() <= LIMITS[kind]
    assert list(scores["rank"]) == list(range(1, len(scores) + 1))
    assert said["scored"] == len(scores)


def test_a_day_after_the_back_test(
    factor_bundle: Shipped, sandbox: Sandbox, tool: Run, data: Path, tmp_path: Path
) -> None:
    """The market data's newest day, which no back-test has seen, is scored like any other, with a page to look at."""
    newest = pd.Timestamp(
        (sandbox.qlib_data / "calendars" / "day.txt").read_text(encoding="utf-8").split()[-1]
    )
    evidence = pd.read_parquet(factor_bundle.folder / "replay" / "predictions.parquet")
    if newest <= evidence.index.get_level_values("datetime").max():
        pytest.skip("this release back-tests to the last day of the market")
    page = tmp_path / "page.html"
    _, scores = predict(
        tool, factor_bundle, newest, sandbox, data, tmp_path, "--explain", "--html", str(page)
    )
    assert len(scores) > 50
    assert set(MINED) < set(scores.columns)
    assert scores["score"].notna().all()
    assert "<svg" in page.read_text(encoding="utf-8")


def test_a_holiday_is_refused(
    factor_bundle: Shipped, sandbox: Sandbox, tool: Run, data: Path, tmp_path: Path
) -> None:
    """A Sunday has no scores, and no file comes of it."""
    target = tmp_path / "scores.csv"
    options = ("--data", str(data), "--qlib-dir", str(sandbox.qlib_data), "--out", str(target))
    said = tool("predict", str(factor_bundle.folder), "--date", "2020-03-15", *options, code=1)
    assert [problem["slug"] for problem in said["problems"]] == ["not-a-trading-day"]
    assert not target.exists()


def test_verdicts_are_shipped(factor_bundle: Shipped) -> None:
    """The demonstration's factors are honest; how much history each needs is kept for `predict`."""
    audit = factor_bundle.document("manifest.json")["audit"]
    assert {factor["name"]: factor["causal"] for factor in audit["factors"]} == dict.fromkeys(MINED, True)
    needed = {factor["name"]: factor["lookback_days"] for factor in audit["factors"]}
    # A gap needs the close before it; the momentum is that of the 60 days that ended 65 days ago.
    assert needed == {"OvernightGap10": 11, "SkippedMomentum60": 126, "GapVolumeCorr20": 21}


def test_audit_of_a_bundle(factor_bundle: Shipped, tool: Run, data: Path) -> None:
    """The same factors from the bundle, with the documented object and nothing else."""
    said = tool("audit", str(factor_bundle.folder), "--data", str(data))
    assert set(said) == {"factors", "notices"}
    assert {factor["name"] for factor in said["factors"]} == set(MINED)
    for factor in said["factors"]:
        assert set(factor) == {
            *("name", "causal", "changed_share", "max_change", "lookback_days", "reason", "reads", "power")
        }
        assert factor["causal"] is True and factor["changed_share"] == 0


def test_causal_factors_can_be_required(
    factor_bundle: Shipped, factor_run: RealRun, sandbox: Sandbox, tmp_path: Path
) -> None:
    """SOTA_REQUIRE_CAUSAL takes the verdicts of the export's audit; where none are kept, each factor is named."""
    settings = from_log(factor_run, SOTA_REQUIRE_CAUSAL="true")
    audited = run_tool(sandbox, "doctor", "--json", **settings)
    assert audited.returncode == 0, audited.stdout
    elsewhere = run_tool(sandbox, "doctor", "--json", **settings, XDG_CACHE_HOME=str(tmp_path))
    assert elsewhere.returncode == 1
    problems = json.loads(elsewhere.stdout)["problems"]
    assert [problem["slug"] for problem in problems] == ["factor-not-audited"] * 3
    assert all(any(name in problem["message"] for problem in problems) for name in MINED)


def predict(
    tool: Run, bundle: Shipped, day: pd.Timestamp, sandbox: Sandbox, data: Path, folder: Path, *more: str
) -> tuple[dict[str, Any], pd.DataFrame]:
    """What `predict` says, and the scores it wrote."""
    target = folder / "scores.parquet"
    said = tool(
        "predict",
        str(bundle.folder),
        "--date",
        f"{day:%Y-%m-%d}",
        "--data",
        str(data),
        "--qlib-dir",
        str(sandbox.qlib_data),
        "--out",
        str(target),
        *more,
    )
    return said, pd.read_parquet(target)


def rewrite(bundle: Path, name: str, document: dict[str, Any]) -> None:
    """Replace a document, and its hash in the manifest with it, so that no hash gives it away."""
    data = json.dumps(document).encode()
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"size": len(data), "sha256": sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
