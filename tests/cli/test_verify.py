"""`rdagent-sota verify`: what it prints, as text and as JSON, and its exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from pytest_mock import MockerFixture

from rdagent_sota_patch.bundle.documents import (
    BOOSTER_NAME,
    CODE_NAME,
    META_NAME,
    ORDER_NAME,
    PREDICTIONS_NAME,
    REPLAY_NAME,
    SLICE_NAME,
)
from rdagent_sota_patch.bundle.signing import sign_manifest
from rdagent_sota_patch.cli.output import reports_errors
from rdagent_sota_patch.cli.verify import VerifyOptions, run_verify
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.scoring.market_days import MarketFiles
from rdagent_sota_patch.scoring.replay import Replayed
from tests.bundle.made import ALPHA, Kind, edit_document, make_bundle, nested_folders, replace_file

MARKET = MarketFiles(Path("daily_pv.h5"), Path("qlib"))


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("pattern") / "bundle").folder


@pytest.fixture
def folder(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "bundle")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no row is broken."""
    monkeypatch.setenv("COLUMNS", "140")


def verify(folder: Path, *, as_json: bool = False, **options: Any) -> int:
    """Its exit code."""
    chosen = {"market": None, "trust": False, "key_file": None, "limits": Limits(), "jobs": None, **options}

    @reports_errors
    def command(as_json: bool) -> None:
        run_verify(folder, VerifyOptions(**chosen), as_json)

    try:
        command(as_json=as_json)
    except typer.Exit as ending:
        return ending.exit_code
    return 0


def test_a_good_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows, maximum difference and rank correlation; nothing was unpickled."""
    assert verify(folder) == 0
    printed = capsys.readouterr().out
    assert "all as the manifest says; signature not checked" in printed
    assert "nothing was unpickled" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("the bundle's slice")]
    assert row.split()[3:7] == ["4", "48", "0", "1.000000"]


def test_a_good_bundle_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object with the same."""
    assert verify(folder, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["replay"] == {
        "rows": 48,
        "days": 4,
        "max_difference": 0.0,
        "rank_correlation": pytest.approx(1.0),
        "limit": 0.0,
        "same": True,
    }
    assert (document["model"], document["signed"], document["recomputed"]) == ("lightgbm", False, None)
    assert document["problems"] == []


def in_table_order(order: dict[str, Any]) -> None:
    order["factor_order"] = [*ALPHA, *order["dynamic_factor_order"]]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_order_exits_1(folder: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """The comparison is shown all the same, and what is wrong after it."""
    edit_document(folder, ORDER_NAME, in_table_order)
    assert verify(folder, as_json=as_json) == 1
    printed = capsys.readouterr()
    if as_json:
        document = json.loads(printed.out)
        assert document["replay"]["same"] is False
        assert [problem["slug"] for problem in document["problems"]] == ["replay-differs"]
    else:
        assert "the bundle's slice" in printed.out
        assert "replay-differs" in printed.err


def test_all_altered_files_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is replayed."""
    (folder / PREDICTIONS_NAME).unlink()
    (folder / BOOSTER_NAME).write_bytes(b"")
    assert verify(folder) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("bundle-altered") == 2


def test_factors_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their files are checked; a back-test that is asked for is not there."""
    folder = make_bundle(tmp_path / "bundle", factors_only=True).folder
    assert verify(folder) == 0
    assert "no model to replay" in capsys.readouterr().out
    assert verify(folder, market=MARKET) == 1
    assert "bundle-without-model" in capsys.readouterr().err


def test_a_signature_is_checked_with_its_key(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And told when it holds."""
    key_file = tmp_path / "bundle.key"
    key_file.write_bytes(bytes(range(32)))
    assert verify(folder, key_file=key_file) == 1
    assert "bundle-not-signed" in capsys.readouterr().err
    sign_manifest(folder, key_file.read_bytes())
    assert verify(folder, key_file=key_file) == 0
    assert "signed with this key" in capsys.readouterr().out


def test_what_trust_meant_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network's code ran unconfined."""
    folder = make_bundle(tmp_path / "bundle", "tabular").folder
    assert verify(folder, trust=True) == 0
    assert "model.py ran unconfined, since you trust it" in capsys.readouterr().out


def test_a_pickle_needs_trust(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is asked for before it is touched."""
    edit_document(folder, META_NAME, lambda meta: meta.update(kind="other"))
    assert verify(folder) == 1
    assert "trust-needed" in capsys.readouterr().err


def test_the_whole_back_test_is_compared_as_well(
    folder: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    """With market data; a difference there alone exits 1, too."""
    recompute = mocker.patch("rdagent_sota_patch.scoring.recomputation.recompute")
    recompute.return_value = Replayed(500, 50, 0.25, 0.5, exact_required=True)
    assert verify(folder, market=MARKET, jobs=3, as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["replay"]["same"] and not document["recomputed"]["same"]
    assert recompute.call_args.args[1] == MARKET
    assert recompute.call_args.args[3].jobs == 3
    recompute.return_value = Replayed(500, 50, 0.0, 1.0, exact_required=True)
    assert verify(folder, market=MARKET) == 0
    assert "the whole back-test" in capsys.readouterr().out


# Bundles that somebody crafted: whole, with every hash right, and with something in them that no export writes.

SCORES_AS_ZIP = """import json, os, zipfile
with zipfile.ZipFile("scores.npy", "w") as file:
    file.writestr("a.npy", b"x")
with open("outcome.json", "w") as file:
    file.write(json.dumps({"error": None, "mismatch": False}))
os._exit(0)
"""


def _in_processors(**kwargs: Any) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        for processor in meta["processors"]:
            processor["kwargs"].update(kwargs)

    return change


def _by_day(**kwargs: Any) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        meta["processors"][1].update(name="CSZScoreNorm", kwargs={"fields_group": "feature", **kwargs})

    return change


def _in_model(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta["model"].update(changes)


def _in_kwargs(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta["model"]["kwargs"].update(changes)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("tabular", _in_model(kwargs=None)),
        ("tabular", _in_model(kwargs=[])),
        ("tabular", _in_kwargs(pt_model_kwargs=None)),
        ("tabular", _in_kwargs(pt_model_kwargs=[1])),
        ("tabular", _in_kwargs(batch_size="x")),
        ("tabular", _in_kwargs(batch_size=0)),
        ("tabular", _in_kwargs(batch_size=10**30)),
        ("lightgbm", lambda meta: meta["handler"].update(kwargs="x")),
        ("lightgbm", _in_processors(fill_value=[1])),
        ("lightgbm", _in_processors(fill_value="x")),
        ("lightgbm", _in_processors(fill_value=None)),
        ("lightgbm", _in_processors(fill_value=10**400)),
        ("lightgbm", _in_processors(fields_group={"a": 1})),
        ("lightgbm", _by_day(method=["x"])),
        ("lightgbm", _by_day(method="x")),
    ],
)
def test_settings_of_another_type_are_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind, change: Callable[[dict[str, Any]], None]
) -> None:
    """Whatever a model, a handler or a processor is said to be configured with."""
    folder = make_bundle(tmp_path / "bundle", kind).folder
    edit_document(folder, META_NAME, change)
    assert verify(folder) == 1
    assert "bundle-damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "days",
    [
        ["1500-01-01"],
        ["9999-12-31"],
        ["2020-10-05T00:00:00+01:00", "2020-10-06"],
        ["2020-13-01"],
        ["20201005"],
        [""],
        [],
    ],
)
def test_days_that_are_none_are_damage(
    folder: Path, capsys: pytest.CaptureFixture[str], days: list[str]
) -> None:
    """Of the evidence: outside of what can be reckoned with, in some zone, in another form."""
    edit_document(folder, REPLAY_NAME, lambda notes: notes.update(days=days))
    assert verify(folder) == 1
    assert "replay-damaged" in capsys.readouterr().err


def _with_zone(frame: pd.DataFrame) -> pd.DataFrame:
    changed: pd.DataFrame = frame.reset_index().assign(
        datetime=lambda all_: all_["datetime"].dt.tz_localize("Asia/Shanghai")
    )
    return changed


def _of_1500(frame: pd.DataFrame) -> pd.DataFrame:
    changed: pd.DataFrame = frame.reset_index().assign(datetime=np.datetime64("1500-01-01", "us"))
    return changed


def _of_lists(frame: pd.DataFrame) -> pd.DataFrame:
    changed: pd.DataFrame = frame.reset_index().assign(instrument=[["a"]] * len(frame))
    return changed


def _without_days(frame: pd.DataFrame) -> pd.DataFrame:
    changed: pd.DataFrame = frame.reset_index(drop=True)
    return changed


@pytest.mark.parametrize("change", [_with_zone, _of_1500, _of_lists, _without_days])
@pytest.mark.parametrize("name", [PREDICTIONS_NAME, SLICE_NAME])
def test_evidence_of_other_columns_is_damage(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[pd.DataFrame], pd.DataFrame],
) -> None:
    """Its days are trading days without a zone, its stocks are text."""
    change(pd.read_parquet(folder / name)).to_parquet(tmp_path / "changed.parquet", index=False)
    replace_file(folder, name, (tmp_path / "changed.parquet").read_bytes())
    assert verify(folder) == 1
    assert "replay-damaged" in capsys.readouterr().err


def test_scores_in_another_format_are_no_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a network leaves is its scores' bytes, or nothing."""
    folder = make_bundle(tmp_path / "bundle", "tabular").folder
    replace_file(folder, CODE_NAME, SCORES_AS_ZIP.encode())
    assert verify(folder) == 1
    assert "network-failed" in capsys.readouterr().err


@pytest.mark.parametrize(("letters", "depth"), [(1, 1200), (255, 25), (1, 2)])
def test_folders_in_folders_are_not_the_bundles(
    folder: Path, capsys: pytest.CaptureFixture[str], letters: int, depth: int
) -> None:
    """However deep, also beyond the length of a path that the system takes: nothing goes down into them."""
    with nested_folders(folder, "d" * letters, depth):
        assert verify(folder) == 1
    printed = capsys.readouterr().err
    assert "bundle-altered" in printed
    assert f"not in the manifest: '{'d' * letters}/'" in printed.replace("\n", "")
