"""What is ablated, from a log: read, and saved in part; nothing of it is run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.ablation.recipe import read_recipe
from rdagent_sota_patch.ablation.subject import Subject, load_subject, save_factors, subject_of_log
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.provenance import read_provenance
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.scoring.alpha import AlphaRequest
from tests.export.made_run import ORDER, TABLE, MadeRun, make_run


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path / "project")


@pytest.fixture
def subject(run: MadeRun, tmp_path: Path) -> Subject:
    return subject_of_log(run.session, None, (), tmp_path / "qlib", tmp_path / "default")


def test_the_log(run: MadeRun, subject: Subject, tmp_path: Path) -> None:
    """The table of the last accepted experiment, what is known of its factors, and where Qlib's data are."""
    assert (subject.task_id, subject.loop, subject.mined) == ("mined", 2, TABLE)
    assert subject.order.factor_order == ORDER
    assert {origin.name: origin.loop for origin in subject.origins} == {"ZMom": 0, "GapA": 2, "Extra": 2}
    assert subject.provider == tmp_path / "qlib"
    named = subject_of_log(run.session, None, (), None, tmp_path)
    assert named.provider == Path("~/.qlib/qlib_data/cn_data").expanduser()


def test_some_factors_as_a_factor_file(run: MadeRun, subject: Subject, tmp_path: Path) -> None:
    """In RD-Agent's layout and the table's order, values as they were, with code and formula of each."""
    target = tmp_path / "fewer.parquet"
    saved = save_factors(subject, ["Extra", "ZMom"], target)
    assert saved.canonical
    assert saved.names == ("ZMom", "Extra")
    whole = pd.read_parquet(run.workspace / "combined_factors_df.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(target), whole[[("feature", "ZMom"), ("feature", "Extra")]])
    provenance = read_provenance(target)
    assert provenance is not None
    assert (provenance.task_id, provenance.loop, len(provenance.factors)) == ("mined", 2, 2)
    assert all(origin.code and origin.formulation == "a/b" for origin in provenance.factors)
    assert read_factor_table(target).fingerprint == provenance.fingerprint


def test_a_table_that_was_changed_meanwhile(run: MadeRun, subject: Subject, tmp_path: Path) -> None:
    """It is not saved as what was ablated, and an old file stays."""
    target = tmp_path / "fewer.parquet"
    target.write_text("old")
    os.utime(run.workspace / "combined_factors_df.parquet", ns=(1, 1))
    with pytest.raises(SotaError) as error:
        save_factors(subject, ["ZMom"], target)
    assert error.value.slug == "table-changed"
    assert target.read_text() == "old"


def test_qlibs_data_is_not_there(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(SotaError, match="--qlib-dir") as error:
        load_subject(subject, tmp_path, 1, lambda *_: None)
    assert error.value.slug == "bad-market-data"


class _Asked(Exception):
    """Instead of Qlib."""


def test_what_qlib_is_asked_for(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training's region, and its data from the day on which they began: running sums carry on from there."""
    handler = {**subject.meta.handler, "kwargs": {"start_time": "2001-02-03"}}
    meta = subject.meta.model_copy(update={"region": "us", "handler": handler})
    (tmp_path / "qlib" / "calendars").mkdir(parents=True)
    asked = []

    def compute(request: AlphaRequest) -> None:
        asked.append(request)
        raise _Asked

    monkeypatch.setattr("rdagent_sota_patch.ablation.subject.compute_alpha", compute)
    with pytest.raises(_Asked):
        load_subject(replace(subject, meta=meta), tmp_path, 1, lambda *_: None)
    (request,) = asked
    assert (request.region, request.start) == ("us", "2001-02-03")
    assert request.keep_from == meta.segments["train"][0]
    assert set(meta.label.values()) <= set(request.expressions.values())


def test_processors_that_only_the_pickle_knows(subject: Subject) -> None:
    """This task does not say them: training without them would be another model."""
    with pytest.raises(SotaError) as error:
        read_recipe(subject.meta)
    assert error.value.slug == "model-not-ablated"
