"""A table that is gone is made again from its factors' code: confined, on every file of the data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import Problem, SourceError
from rdagent_sota_patch.factor_table.sources import Source
from rdagent_sota_patch.sandbox.probe import Confinement
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord, Factor, Session, Signature
from rdagent_sota_patch.settings import SourceKind

DAYS = pd.date_range("2020-01-01", periods=40, freq="B")
STOCKS = ["SH600000", "SH600001", "SZ000001"]

CODE = """
import pandas as pd
try:
    open({canary!r}, "w").write("out")
except OSError:
    pass
data = pd.read_hdf("daily_pv.h5", key="data")
flow = pd.read_parquet("flow.parquet")["mf_net"]
({expression}).rename({name!r}).to_frame().to_hdf("result.h5", key="data")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a second market file that reaches one day further."""
    folder = tmp_path / "data"
    folder.mkdir()
    index = pd.MultiIndex.from_product([DAYS, STOCKS], names=["datetime", "instrument"])
    rng = np.random.default_rng(0)
    pd.DataFrame({"$close": rng.random(len(index))}, index=index).to_hdf(folder / "daily_pv.h5", key="data")
    later = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=41, freq="B"), STOCKS], names=["datetime", "instrument"]
    )
    pd.DataFrame({"mf_net": rng.random(len(later))}, index=later).to_parquet(folder / "flow.parquet")
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(folder))
    return folder


def lost(*factors: Factor, base_codes: dict[str, str] | None = None) -> Source:
    experiment = ExperimentRecord(
        loop=0,
        kind=ExperimentKind.FACTOR,
        decision=True,
        factors=factors,
        base_feature_codes=base_codes or {},
    )
    log = Path("log/run")
    session = Session(log, log / "0", Signature.VERIFIED, "FactorRDLoop", (experiment,))
    return Source(SourceKind.LOG, log, None, session=session, experiment=experiment)


def rebuild(source: Source, store: Path, mocker: Any) -> pd.DataFrame:
    from rdagent_sota_patch.plugin import rebuild as module

    store.mkdir()
    mocker.patch.object(module, "table_store", return_value=store)
    frame: pd.DataFrame = pd.read_parquet(module.rebuild_table(source))
    return frame["feature"]


@pytest.mark.usefixtures("rdagent")
def test_the_code_runs_confined_on_the_whole_data_folder(folder: Path, tmp_path: Path, mocker: Any) -> None:
    """It finds each file under its own name, none with a later day than daily_pv.h5, and writes nowhere else."""
    canary = tmp_path / "canary"

    def code(name: str, expression: str) -> str:
        return CODE.format(canary=str(canary), name=name, expression=expression)

    from rdagent_sota_patch.plugin.traits import installed_traits

    # An older release knows no base features as code, and is refused such a table.
    own = {"own.py": code("Own", "-data['$close']")} if installed_traits().runs_feature_codes else {}
    source = lost(
        Factor("Flow", code=code("Flow", "flow")),
        Factor("Unused", code="1 / 0", implemented=False),
        Factor("Both", code=code("Both", "data['$close'] * flow")),
        base_codes=own,
    )
    table = rebuild(source, tmp_path / "tables", mocker)
    assert list(table.columns) == ["Flow", "Both", *(["Own"] if own else [])]
    close = pd.read_hdf(folder / "daily_pv.h5", key="data")["$close"]
    flow = pd.read_parquet(folder / "flow.parquet")["mf_net"].reindex(close.index)
    assert table.index.get_level_values("datetime").max() == DAYS[-1]
    pd.testing.assert_series_equal(table["Flow"], flow, check_names=False)
    pd.testing.assert_series_equal(table["Both"], close * flow, check_names=False)
    if own:
        pd.testing.assert_series_equal(table["Own"], -close, check_names=False)
    assert not canary.exists()


@pytest.mark.usefixtures("rdagent", "folder")
def test_whose_log_is_vouched_for_needs_no_more_trust(tmp_path: Path, mocker: Any) -> None:
    """Where the system keeps nothing in, it is rebuilt all the same: a model run has no --trust to give."""
    mocker.patch.object(Confinement, "notice", return_value=Problem("not-confined", "Nothing confines it."))
    source = lost(
        Factor("Flow", code=CODE.format(canary=str(tmp_path / "c"), name="Flow", expression="flow"))
    )
    assert list(rebuild(source, tmp_path / "tables", mocker).columns) == ["Flow"]


@pytest.mark.usefixtures("rdagent")
def test_a_file_that_is_not_there_is_named(folder: Path, tmp_path: Path, mocker: Any) -> None:
    """Whatever the code does without it: that is another factor."""
    (folder / "flow.parquet").unlink()
    source = lost(Factor("Flow", code=CODE.format(canary="/x", name="Flow", expression="flow")))
    with pytest.raises(SourceError, match=r"rebuild-failed") as caught:
        rebuild(source, tmp_path / "tables", mocker)
    assert "factor Flow asks for flow.parquet, which the data folder does not have" in str(caught.value)
