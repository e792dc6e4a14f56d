"""What `doctor` announces is what a run then does: pairwise over the settings, with good, missing and bad values."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.plugin.diagnosis import Diagnosis, diagnose
from rdagent_sota_patch.plugin.traits import installed_traits
from rdagent_sota_patch.settings import Settings, load_settings
from tests.sessions.generated_log import KEY, PlannedLoop, generate_log

Factory = Callable[..., Any]
Row = Mapping[str, str]

UNSET = ""
LATER = "2023-01-01"
VALUES: dict[str, tuple[str, ...]] = {
    "LOAD_SOTA_FROM_LOG": ("true", UNSET),
    "SOTA_LOG_PATH": ("latest", "log/run", "log/nowhere", UNSET),
    "LOAD_SOTA_FROM_WORKSPACE": (UNSET, "1"),
    "SOTA_WORKSPACE_PATH": ("good", "empty", "broken", UNSET),
    "LOAD_SOTA_FACTORS": (UNSET, "Yes"),
    "SOTA_FACTORS_PATH": ("plain.parquet", "missing.parquet", "no folder/f.parquet", UNSET),
    "SAVE_SOTA_FACTORS": (UNSET, "on"),
    "USE_ALPHA_FACTORS": (UNSET, "true", "off"),
    "SOTA_STRICT": (UNSET, "false"),
    "SOTA_REQUIRE_CAUSAL": (UNSET, "true"),
    "SOTA_INHERIT_TRACE": (UNSET, "true"),
    "SOTA_EMBED_WEIGHTS_MB": (UNSET, "0"),
    "SOTA_WORKSPACE_ROOT": ("moved", UNSET),
    "QLIB_MODEL_TEST_START": (UNSET, LATER),
}
BAD = {
    "LOAD_SOTA_FROM_LOG": "perhaps",
    "USE_ALPHA_FACTORS": "2",
    "SOTA_STRICT": "strict",
    "SOTA_EMBED_WEIGHTS_MB": "-1",
}


def covering_rows(values: Mapping[str, Sequence[str]], together: int) -> list[dict[str, str]]:
    """Rows in which every combination of values of any ``together`` settings occurs; few of them, found greedily."""
    left = {
        frozenset(zip(names, chosen, strict=True))
        for names in itertools.combinations(values, together)
        for chosen in itertools.product(*(values[name] for name in names))
    }
    rows = []
    while left:
        row = dict(sorted(min(left, key=sorted)))
        for name in values:
            if name not in row:
                row[name] = max(
                    values[name],
                    key=lambda value, name=name: sum(  # type: ignore[misc]
                        1 for combination in left if combination <= (row | {name: value}).items()
                    ),
                )
        left = {combination for combination in left if not combination <= row.items()}
        rows.append({name: row[name] for name in values})
    return rows


def rows() -> list[dict[str, str]]:
    """Pairwise, for each kind of source by itself as well: one that comes first hides the others."""
    alone = [
        dict.fromkeys(("LOAD_SOTA_FROM_LOG", "LOAD_SOTA_FROM_WORKSPACE", "LOAD_SOTA_FACTORS"), (UNSET,))
        | {switch: ("true",)}
        for switch in ("LOAD_SOTA_FROM_LOG", "LOAD_SOTA_FROM_WORKSPACE", "LOAD_SOTA_FACTORS")
    ]
    found = [row for fixed in ({}, *alone) for row in covering_rows({**VALUES, **fixed}, 2)]
    first = {name: values[0] for name, values in VALUES.items()}
    return [
        *found,
        *({**first, "SOTA_STRICT": "off", name: value} for name, value in BAD.items()),
    ]


ROWS = rows()


def test_every_pair_of_values_occurs() -> None:
    """The rows are what they are called."""
    for (first, ones), (second, others) in itertools.combinations(VALUES.items(), 2):
        for one, other in itertools.product(ones, others):
            assert any(row[first] == one and row[second] == other for row in ROWS)
    assert len(ROWS) < 150


def table(names: Sequence[str]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", "2020-01-31", freq="B"), ["SH600000", "SZ000001"]],
        names=["datetime", "instrument"],
    )
    return pd.DataFrame(0.5, index=index, columns=pd.MultiIndex.from_product([["feature"], names]))


@pytest.fixture(scope="module")
def pattern(rdagent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a log, its moved workspaces, workspaces of other kinds, and a factor file of another layout."""
    pytest.importorskip("rdagent.utils.qlib", reason="the log is made with the newest release's classes")
    project = tmp_path_factory.mktemp("agreement") / "project"
    loops = [PlannedLoop(factors=("Rev5",)), PlannedLoop(factors=("Gap3", "KLEN"))]
    log = generate_log(project / "log" / "run", loops)
    os.environ["ARTIFACT_SIGNING_KEY"] = KEY
    from rdagent_sota_patch.sessions.logs import find_log

    session = find_log(log, ())
    assert session.sota is not None and session.sota.workspace is not None
    moved = project / "moved" / Path(str(session.sota.workspace)).name
    for folder, names in ((moved, ("Rev5", "Gap3", "KLEN")), (project / "good", ("Mom60", "Vol10"))):
        folder.mkdir(parents=True)
        table(names).to_parquet(folder / "combined_factors_df.parquet")
    (project / "empty").mkdir()
    (project / "broken").mkdir()
    (project / "broken" / "combined_factors_df.parquet").write_bytes(b"no parquet")
    plain = table(("Skew", "KLEN", "Turn"))
    plain.columns = plain.columns.get_level_values(1)
    plain.to_parquet(project / "plain.parquet")
    return project


@pytest.fixture
def project(
    pattern: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> Iterator[Path]:
    """The current folder, without a setting; what a run fixes for its children goes with the test."""
    from rdagent_sota_patch.plugin import active, host

    mocker.patch.dict(os.environ)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path / "nowhere"))
    for name, day in (
        ("TRAIN_START", "2020-01-01"),
        ("TRAIN_END", "2020-01-10"),
        ("VALID_START", "2020-01-13"),
        ("VALID_END", "2020-01-20"),
        ("TEST_START", "2020-01-21"),
        ("TEST_END", "2020-01-31"),
    ):
        monkeypatch.setenv(f"QLIB_MODEL_{name}", day)
    mocker.patch.object(host, "workspace_root", return_value=tmp_path / "made" / "workspaces")
    folder = shutil.copytree(pattern, tmp_path / "project")
    monkeypatch.chdir(folder)
    active.active_sota.cache_clear()
    yield folder
    active.active_sota.cache_clear()


def start_run() -> Any:
    """A new model run as far as the pre-flight looks at it, with RD-Agent's own runner and history."""
    from rdagent.core.proposal import Trace
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    from rdagent_sota_patch.plugin.preflight import prepare_run

    loop = type("ModelRDLoop", (), {})()
    loop.runner = QlibModelRunner(None)
    loop.plan = {"features": installed_traits().alpha_features()}
    loop.trace = Trace(scen=SimpleNamespace())  # type: ignore[arg-type]
    loop.loop_trace = {}
    prepare_run(loop, load_settings())
    return loop


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(value or "-" for value in row.values()))
def test_doctor_announces_what_the_run_does(
    row: Row,
    project: Path,
    make_experiment: Factory,
    backtest: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Source, factors, Alpha, number of features; or where it stops, and by which problem."""
    for name, value in row.items():
        if value:
            monkeypatch.setenv(name, value)
    if row["QLIB_MODEL_TEST_START"] == LATER:
        monkeypatch.setenv("QLIB_MODEL_TEST_END", "2023-12-31")
    announced = diagnose()
    slugs = {problem.slug for problem in announced.problems} - {"not-active"}
    try:
        loop = start_run()
    except SotaError as error:
        assert announced.stops
        assert {problem.slug for problem in error.problems} <= slugs
        return
    assert not (announced.stops and slugs), announced.problems
    experiment = make_experiment()
    loop.runner.develop(experiment)
    (call,) = backtest
    used = getattr(experiment, "sota_source", None)
    assert announced.feeds is (used is not None)
    if used is None:
        assert announced.source is None or slugs
        assert call["table"] is None
        return
    compare(announced, used, call)
    inherited = [one for one, _ in loop.trace.hist if getattr(one, "inherited_from", None)]
    lenient = announced.settings is not None and not announced.settings.sota_strict
    assert bool(inherited) is (row["SOTA_INHERIT_TRACE"] == "true" and not (lenient and slugs))


def compare(announced: Diagnosis, used: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    source, table, features = announced.source, announced.table, announced.features
    assert source is not None and table is not None and features is not None
    assert used["source"]["kind"] == source.kind.value
    assert used["source"]["path"] == str(source.path)
    assert used["fingerprint"] == table.fingerprint
    assert tuple(factor["name"] for factor in used["factors"]) == table.names == features.sota
    assert used["num_features"] == features.count == int(call["env"]["num_features"])
    assert set(used["alpha_factors"]) == set(features.alpha)
    assert announced.alpha == len(features.alpha) + len(features.shared)
    assert used["feature_order"] == sorted(features.order)
