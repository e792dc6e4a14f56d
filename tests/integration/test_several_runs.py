"""The factors of several real runs as one set, and in a library."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.factor_table.provenance import read_provenance
from rdagent_sota_patch.factor_table.table import read_factor_table

from .conftest import RealRun, table_of
from .evidence import run_tool

pytestmark = pytest.mark.real


def doctor(sandbox: Sandbox, file: Path) -> dict[str, object]:
    """What a model run would load from a factor file, by the plugin's own loader."""
    said = run_tool(
        sandbox,
        "doctor",
        "--json",
        LOAD_SOTA_FACTORS="true",
        SOTA_FACTORS_PATH=str(file),
    )
    return dict(json.loads(said.stdout))


def test_two_runs_are_one_set(
    sandbox: Sandbox, factor_run: RealRun, quant_on_top: RealRun, tmp_path: Path
) -> None:
    """A run on top of another has its factors: they are there once, and what it mined itself comes with it."""
    target = tmp_path / "set.parquet"
    logs = [str(run.result.log) for run in (factor_run, quant_on_top)]
    saved = run_tool(sandbox, "save", *logs, "--out", str(target), "--json")
    assert saved.returncode == 0, saved.stderr
    document = json.loads(saved.stdout)
    first, second = (pd.read_parquet(table_of(run))["feature"] for run in (factor_run, quant_on_top))
    left_out = {each["name"] for each in document["left_out"]}
    assert set(first) & set(second) <= left_out
    assert document["names"] == [*first, *(name for name in second if name not in left_out)]

    frame = pd.read_parquet(target)["feature"]
    for name in document["names"]:
        source = first if name in first else second
        pd.testing.assert_series_equal(
            frame[name].reindex(source.index), source[name], check_exact=True, check_freq=False
        )
    provenance = read_provenance(target)
    assert provenance is not None
    for factor in provenance.factors:
        run = factor_run if factor.name in first else quant_on_top
        assert (
            factor.task_id == run.session.task_id and factor.code and factor.code_sha256 and factor.workspace
        )

    report = doctor(sandbox, target)
    assert report["problems"] == []
    source_read = report["source"]
    assert isinstance(source_read, dict)
    assert source_read["factors"] == document["names"]
    assert source_read["fingerprint"] == document["fingerprint"] == read_factor_table(target).fingerprint


def test_a_library_of_real_factors(
    sandbox: Sandbox, factor_run: RealRun, quant_on_top: RealRun, tmp_path: Path
) -> None:
    """With figures on the real market data; what is used is what the run accepted, to the last bit."""
    library = ("--library", str(tmp_path / "library"))
    logs = [str(run.result.log) for run in (factor_run, quant_on_top)]
    added = run_tool(sandbox, "library", "add", *logs, *library, "--json")
    assert added.returncode == 0, added.stderr
    listed = run_tool(sandbox, "library", "list", *library, "--sort", "ic", "--json")
    factors = json.loads(listed.stdout)["factors"]
    sizes = [abs(factor["figures"]["ic_mean"]) for factor in factors]
    assert (
        sizes == sorted(sizes, reverse=True)
        and min(factor["figures"]["coverage"] for factor in factors) > 0.5
    )

    own = pd.read_parquet(table_of(factor_run))["feature"]
    of_first = {
        run["name"]: factor["id"]
        for factor in factors
        for run in factor["lineage"]
        if run["task_id"] == factor_run.session.task_id
    }
    assert set(of_first) == set(own)
    target = tmp_path / "set.parquet"
    ids = [of_first[name] for name in own]
    used = run_tool(sandbox, "library", "use", *ids, "--out", str(target), *library, "--json")
    assert used.returncode == 0, used.stderr
    frame = pd.read_parquet(target)["feature"]
    pd.testing.assert_frame_equal(frame, own[list(frame)], check_exact=True, check_freq=False)
    assert doctor(sandbox, target)["problems"] == []
