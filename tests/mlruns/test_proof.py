"""Features that are recorded, held against what a back-test left."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.mlruns.proof import Proof, prove_features
from tests.mlruns.forged_recorder import TABLE, write_recorder
from tests.mlruns.trained_runs import ALPHA, COLUMNS, MINED, make_runs

MADE = {"B": "$close/$open", "Shared": "$high/$low"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a table of two factors, one of an Alpha feature's name."""
    index = pd.MultiIndex.from_product([pd.bdate_range("2020-01-01", periods=3), ["SH600000"]])
    frame = pd.DataFrame(0.5, index=index.set_names(["datetime", "instrument"]), columns=["Z", "Shared"])
    frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    frame.to_parquet(tmp_path / TABLE)
    return tmp_path


def test_the_features_are_those_of_the_record(workspace: Path) -> None:
    run = write_recorder(workspace, MADE)
    proof = prove_features(workspace, ["Z", "B", "Shared"], {"B": MADE["B"]})
    assert proof == Proof("proven", run.name, ("B", "Shared", "Z"))


@pytest.mark.parametrize(
    ("features", "alpha", "reason"),
    [
        (["Z", "Shared"], {}, "the model has B as well"),
        (["Z", "B", "Shared", "New"], {"B": MADE["B"]}, "the model does not have New"),
        (["Z", "B", "Shared"], {"B": "$close"}, "the model's B is '$close/$open', and recorded is '$close'"),
        (["Z", "B", "Shared"], {}, "the model's B is '$close/$open', and recorded is a mined factor"),
        (
            ["Z", "B", "Shared"],
            MADE,
            "the model's Shared is the factor table's, and recorded is an Alpha feature",
        ),
    ],
)
def test_a_difference(features: list[str], alpha: dict[str, str], reason: str, workspace: Path) -> None:
    """A feature too many or too few, another expression, or another feature under the same name."""
    write_recorder(workspace, MADE)
    proof = prove_features(workspace, features, alpha)
    assert (proof.status, proof.reason) == ("differs", reason)


def test_weights_of_another_size(workspace: Path) -> None:
    """As many features as the configuration names, and a model that takes more: what was trained is another thing."""
    write_recorder(workspace, MADE, features=24)
    proof = prove_features(workspace, ["Z", "B", "Shared"], {"B": MADE["B"]})
    assert proof.status == "differs"
    assert proof.reason == "the weights are for 24 columns, and there are 3"


def test_mined_factors_alone(workspace: Path) -> None:
    """Where no Alpha features are recorded, the model may have any; the factors must be exactly those."""
    write_recorder(workspace, MADE)
    assert prove_features(workspace, ["Z", "Shared"], None).status == "proven"
    assert prove_features(workspace, ["Z"], None).reason == "the model has Shared as well"


def test_the_newest_of_several_trainings(workspace: Path) -> None:
    """A host may train more than once; what ended before this back-test began is another one's."""
    write_recorder(workspace, {**MADE, "Old": "$open"})
    time.sleep(0.01)
    began = datetime.now(timezone.utc)
    proof = prove_features(workspace, ["Z", "B", "Shared"], {"B": MADE["B"]}, began)
    assert (proof.status, proof.expected) == ("unjudged", True)
    assert proof.reason is not None and "no finished run of this back-test" in proof.reason
    time.sleep(0.01)
    newest = write_recorder(workspace, MADE)
    proof = prove_features(workspace, ["Z", "B", "Shared"], {"B": MADE["B"]}, began)
    assert (proof.status, proof.run_id) == ("proven", newest.name)
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    assert prove_features(workspace, ["Z"], {}, later).status == "unjudged"


def test_what_cannot_be_read_is_no_difference(workspace: Path) -> None:
    """Damage should not be; a form that no template of RD-Agent's has need not be known."""
    assert prove_features(workspace, ["Z"], {}).expected is True
    run = write_recorder(workspace, MADE)
    (run / "artifacts" / "dataset").write_bytes(b"no pickle")
    proof = prove_features(workspace, ["Z"], {})
    assert (proof.status, proof.run_id, proof.expected) == ("unjudged", run.name, True)
    (run / "artifacts" / "dataset").write_bytes((run / "artifacts" / "task").read_bytes())
    proof = prove_features(workspace, ["Z"], {})
    assert (proof.status, proof.expected) == ("unjudged", False)
    assert proof.reason is not None and "dataset in an unknown form" in proof.reason


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder)
    return folder


@pytest.mark.parametrize("name", ["boosted", "tabular", "time_series"])
def test_recorders_of_qlibs_own(name: str, runs: Path) -> None:
    """Processors, booster and network, pickled by Qlib."""
    alpha = {name: ALPHA[name] for name in ("KLEN", "ROC5")}
    assert prove_features(runs / name, COLUMNS, alpha).columns == COLUMNS
    assert prove_features(runs / name, MINED, {}).reason == "the model has KLEN, ROC5 as well"


def test_a_table_is_never_read(workspace: Path) -> None:
    """Of the table its footer alone: it may have gigabytes."""
    write_recorder(workspace, MADE)
    content = (workspace / TABLE).read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    # A hole of a gigabyte where the values were.
    with (workspace / TABLE).open("wb") as file:
        file.write(b"PAR1")
        file.seek(1 << 30, os.SEEK_CUR)
        file.write(content[-footer:])
    began = time.perf_counter()
    assert prove_features(workspace, ["Z", "B", "Shared"], {"B": MADE["B"]}).status == "proven"
    assert time.perf_counter() - began < 1.0
