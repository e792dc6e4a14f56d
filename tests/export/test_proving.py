"""The order of a model's input where the loader is not one of Qlib's: proven on real trainings by Qlib, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import ORDER_NAME, FactorOrder
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.demo.synthetic_market import Market
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.export.export_run import Exported, ExportOptions, export_bundle
from rdagent_sota_patch.scoring.market_days import MarketFiles
from rdagent_sota_patch.scoring.prediction import PredictOptions, predict_day
from rdagent_sota_patch.scoring.recomputation import recompute
from rdagent_sota_patch.sessions.records import Session, Signature
from tests.export.made_run import factor_experiment
from tests.export.trained_workspaces import ALPHA, DAYS, MEMBERS, SEGMENTS, SHARED, TABLE, make_workspaces

pytestmark = pytest.mark.real

CONFIGURED, MINED = tuple(ALPHA), tuple(DAYS)


@dataclass(frozen=True)
class Trained:
    """Workspaces and market, and what was exported of them, each once."""

    folder: Path
    market: Market
    exported: dict[str, Exported] = field(default_factory=dict)

    @property
    def files(self) -> MarketFiles:
        return MarketFiles(self.folder / "daily_pv.h5", self.folder / "qlib")

    def export(self, name: str) -> Exported:
        if name not in self.exported:
            self.exported[name] = export(self.folder / name, self.folder / f"bundle-{name}")
        return self.exported[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    return Trained(folder, make_workspaces(folder))


def export(workspace: Path, target: Path, **options: Any) -> Exported:
    log = workspace.parent / "log"
    experiment = replace(factor_experiment(0, (*MINED, SHARED)), workspace=workspace)
    session = Session(
        log=log,
        snapshot=log / "__session__" / "0" / "4_record",
        signature=Signature.VERIFIED,
        loop_class="FactorRDLoop",
        experiments=(experiment,),
    )
    return export_bundle(session, target, ExportOptions(**options), lambda _: None)


def without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(each for each in names if each != name)


@pytest.mark.parametrize(
    ("name", "columns", "mined", "join"),
    [
        ("left", (*CONFIGURED, *MINED), MINED, "left"),
        ("outer", (*CONFIGURED, *MINED), MINED, "outer"),
        ("fitted", (*CONFIGURED, *MINED), MINED, "left"),
        ("network", (*CONFIGURED, *MINED), MINED, "left"),
        ("keeps_first", (*CONFIGURED, *MINED), MINED, "left"),
        ("keeps_last", (*without(CONFIGURED, SHARED), *MINED, SHARED), (*MINED, SHARED), "left"),
        ("replaces", (*CONFIGURED, *MINED), (*MINED, SHARED), "left"),
        ("table_first", (*MINED, *CONFIGURED), MINED, "inner"),
        ("sorted", tuple(sorted((*CONFIGURED, *MINED))), MINED, "outer"),
    ],
)
def test_proven_on_the_back_tests_predictions(
    name: str, columns: tuple[str, ...], mined: tuple[str, ...], join: str, trained: Trained
) -> None:
    """Order, join and values of shared names are the loader's, whose code nobody looks at; the replay is exact."""
    exported = trained.export(name)
    order = exported.order
    assert order is not None and exported.replayed is not None
    assert (order.factor_order, order.dynamic_factor_order, order.join) == (columns, mined, join)
    assert order.found == "proven"
    assert [each.taken for each in order.tried].count(True) == 1
    limit = 1e-6 if name == "network" else 0.0
    assert exported.replayed.max_difference <= limit
    # What a wrong order would have given is written down, and is not a rounding.
    others = [
        each.max_difference for each in order.tried if not each.taken and each.max_difference is not None
    ]
    assert all(difference > 1e-4 for difference in others)
    assert FactorOrder.model_validate_json((exported.folder / ORDER_NAME).read_bytes()) == order


@pytest.mark.parametrize(
    ("name", "columns", "join"),
    [
        ("nested_outer", tuple(sorted((*CONFIGURED, *MINED))), "outer"),
        ("nested_table_first", tuple(sorted((*CONFIGURED, *MINED))), "right"),
        ("alpha_alone", CONFIGURED, "left"),
        ("table_alone", MINED, "right"),
    ],
)
def test_qlibs_own_loaders_are_known(
    name: str, columns: tuple[str, ...], join: str, trained: Trained
) -> None:
    """Nested with any join, or one alone: nothing needs to be tried, and the replay is exact."""
    exported = trained.export(name)
    order = exported.order
    assert order is not None and exported.replayed is not None
    assert (order.factor_order, order.join, order.found, order.tried) == (columns, join, "loader", ())
    assert exported.replayed.max_difference == 0.0


def test_no_order_that_is_not_proven(trained: Trained, tmp_path: Path) -> None:
    """A loader that gives other values than it is told: refused, with the difference of each way that was tried."""
    with pytest.raises(SotaError, match="Shifts") as caught:
        export(trained.folder / "shifts", tmp_path / "bundle")
    assert caught.value.slug == "input-order-unproven"
    text = caught.value.problems[0].message
    assert (
        "Alpha features as configured, then the table's; Alpha's rows (left): largest difference 0.0" in text
    )
    assert "sorted by name; Alpha's rows (left): largest difference 0.0" in text
    assert not (tmp_path / "bundle").exists()


def test_every_score_of_the_back_test_counts(trained: Trained, tmp_path: Path) -> None:
    """A loader that gives other values on one day alone, which is none of those that are compared first."""
    with pytest.raises(SotaError, match="on all of its days") as caught:
        export(trained.folder / "slips_once", tmp_path / "bundle")
    assert caught.value.slug == "input-order-unproven"


def test_rows_that_are_the_same_in_each_way(trained: Trained, tmp_path: Path) -> None:
    """They do no harm where a stock's score depends on nothing but its own row; else nobody knows whose were kept."""
    order = trained.export("alike").order
    assert order is not None
    assert (order.factor_order, order.join) == (tuple(sorted((*CONFIGURED, *MINED))), "left")
    outcomes = {each.join: each.outcome for each in order.tried if each.order == "sorted"}
    assert outcomes == dict.fromkeys(("left", "outer", "inner", "right"), "every score exactly")
    with pytest.raises(SotaError, match="does not show whose rows were kept") as caught:
        export(trained.folder / "alike_across", tmp_path / "bundle")
    assert caught.value.slug == "input-order-unproven"


def test_several_orders_are_none(trained: Trained, tmp_path: Path) -> None:
    """A model whose scores do not depend on its input shows no order."""
    with pytest.raises(SotaError, match="more than one of them gives") as caught:
        export(trained.folder / "blind", tmp_path / "bundle")
    assert caught.value.slug == "input-order-unproven"
    assert caught.value.problems[0].message.count("every score exactly") == 3


def test_two_columns_of_one_name(trained: Trained, tmp_path: Path) -> None:
    """A bundle names each input once."""
    with pytest.raises(SotaError, match="two columns of one name") as caught:
        export(trained.folder / "keeps_both", tmp_path / "bundle")
    assert caught.value.slug == "input-order-unproven"
    assert "the weights are for 6 columns, and there are 5" in caught.value.problems[0].message


def test_a_loader_that_failed_left_no_model(trained: Trained, tmp_path: Path) -> None:
    """The back-test had no result, so there is nothing to export."""
    with pytest.raises(SotaError) as caught:
        export(trained.folder / "fails", tmp_path / "bundle")
    assert caught.value.slug == "weights-missing"


def test_a_table_that_is_gone(trained: Trained, tmp_path: Path) -> None:
    """Named by the configuration, and not there."""
    workspace = Path(shutil.copytree(trained.folder / "left", tmp_path / "left"))
    (workspace / TABLE).unlink()
    with pytest.raises(SotaError) as caught:
        export(workspace, tmp_path / "bundle")
    assert caught.value.slug == "model-table-missing"


def test_without_evidence_it_is_proven_all_the_same(trained: Trained, tmp_path: Path) -> None:
    """--no-replay leaves replay/ out, not the proof."""
    exported = export(trained.folder / "left", tmp_path / "bundle", replay=False)
    assert exported.order is not None and exported.order.found == "proven"
    assert not (tmp_path / "bundle" / "replay").exists()


def test_a_bundle_of_before_is_one_of_qlibs_loaders(trained: Trained) -> None:
    """Its order says neither how it was found nor whose rows."""
    written = json.loads((trained.export("alpha_alone").folder / ORDER_NAME).read_text())
    for name in ("found", "join", "tried"):
        del written[name]
    order = FactorOrder.model_validate(written)
    assert (order.found, order.join, order.tried) == ("loader", "left", ())


@pytest.mark.parametrize("name", ["left", "outer", "table_first", "table_alone"])
def test_computed_anew_from_market_data(name: str, trained: Trained) -> None:
    """Factor code, Qlib, join and order give the very scores of the back-test, for stocks written 000001.SZ."""
    replayed = recompute(open_bundle(trained.export(name).folder), trained.files, lambda *_: None)
    assert replayed.max_difference == 0.0
    assert replayed.days == len(pd.bdate_range(*SEGMENTS["test"]))


@pytest.mark.parametrize("name", ["left", "outer"])
def test_a_new_day_of_stocks_with_the_exchange_at_the_end(
    name: str, trained: Trained, tmp_path: Path
) -> None:
    """Scored are the market's stocks, as Qlib's instruments file writes them."""
    bundle = open_bundle(trained.export(name).folder)
    options = PredictOptions(date(2020, 12, 21))
    with pytest.raises(SotaError, match="3 stocks"):  # Which lack days in the data that it was trained on.
        predict_day(bundle, trained.files, options, lambda *_: None)
    trained.market.frame().sort_index().to_hdf(tmp_path / "daily_pv.h5", key="data")
    files = MarketFiles(tmp_path / "daily_pv.h5", trained.files.qlib_dir)
    prediction = predict_day(bundle, files, options, lambda *_: None)
    assert sorted(prediction.scores.index) == sorted(trained.market.instruments[:MEMBERS])
    assert prediction.left_out == {}
