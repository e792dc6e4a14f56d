"""RD-Agent imported into the test process, once, with its workspaces in a temporary folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.factor_table.table import read_factor_table
from tests.mlruns.forged_recorder import alpha_of, write_recorder

Factory = Callable[..., Any]


@pytest.fixture(scope="session")
def rdagent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Import what the plugin needs of RD-Agent; the folder in which it works."""
    folder = tmp_path_factory.mktemp("rdagent")
    before = Path.cwd()
    os.chdir(folder)
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    with warnings.catch_warnings():
        # Its dependencies warn on import, of deprecations of their own.
        warnings.simplefilter("ignore")
        pytest.importorskip("rdagent.scenarios.qlib.developer.model_runner")
        import rdagent.scenarios.qlib.developer.factor_runner  # noqa: F401

        import rdagent_sota_patch.plugin.model_runner  # noqa: F401
    yield folder
    os.chdir(before)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A factor table as RD-Agent writes it: 2 factors, 40 days, 3 stocks."""
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=40, freq="B"), ["SH600000", "SH600001", "SZ000001"]],
        names=["datetime", "instrument"],
    )
    frame = pd.DataFrame({"Gap": range(len(index)), "KLEN": 1.5}, index=index, dtype=float)
    frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    path = tmp_path / "combined_factors_df.parquet"
    frame.to_parquet(path, engine="pyarrow")
    return path


@pytest.fixture
def make_sota(table: Path) -> Factory:
    """Make the SOTA factors in force from ``table``."""
    from datetime import date
    from types import MappingProxyType

    from rdagent_sota_patch.factor_table.segments import Segments
    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.plugin.active import ActiveSota
    from rdagent_sota_patch.settings import SourceKind

    def make(
        use_alpha: bool = True, path: Path = table, metrics: dict[str, float] | None = None
    ) -> ActiveSota:
        day = date(2020, 1, 10)
        return ActiveSota(
            Source(
                SourceKind.WORKSPACE, path.parent, path, metrics=MappingProxyType(metrics or {"IC": 0.05})
            ),
            read_factor_table(path),
            Segments(day, day, day, day, day),
            use_alpha,
        )

    return make


@pytest.fixture
def make_experiment(rdagent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
    """Make a real ``QlibModelExperiment`` with code, ready for the runner."""
    from rdagent.components.coder.model_coder.model import ModelFBWorkspace, ModelTask
    from rdagent.core.conf import RD_AGENT_SETTINGS
    from rdagent.scenarios.qlib.experiment.model_experiment import QlibModelExperiment

    from rdagent_sota_patch.plugin.traits import installed_traits

    monkeypatch.setattr(RD_AGENT_SETTINGS, "workspace_path", tmp_path / "work spaces")
    monkeypatch.setattr(RD_AGENT_SETTINGS, "pickle_cache_folder_path_str", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    if hasattr(RD_AGENT_SETTINGS, "artifact_signing_key_path"):
        monkeypatch.setattr(RD_AGENT_SETTINGS, "artifact_signing_key_path", tmp_path / "key")

    def make(code: str = "model_cls = 1\n", **task: Any) -> QlibModelExperiment:
        described = {
            "name": "Net",
            "description": "",
            "architecture": "",
            "hyperparameters": {},
            "training_hyperparameters": {"n_epochs": "2"},
            "formulation": "",
            "variables": {},
            "model_type": "Tabular",
            **task,
        }
        model = ModelTask(**described)
        experiment = QlibModelExperiment(sub_tasks=[model])
        workspace = ModelFBWorkspace(target_task=model)
        workspace.inject_files(**{"model.py": code})
        experiment.sub_workspace_list = [workspace]
        # As RDLoop does from its plan; 0.8.0 knows no such attribute, and has the same features in its template.
        experiment.base_features = installed_traits().alpha_features()
        return experiment

    return make


@pytest.fixture
def backtest(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the back-test alone: Qlib's part is proven by the integration tests. Records its calls.

    It leaves the recorder of a training on what it was asked for.
    """
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    from rdagent_sota_patch.plugin.traits import installed_traits

    calls: list[dict[str, Any]] = []

    def execute(
        self: Any, qlib_config_name: str, run_env: dict[str, Any] | None = None
    ) -> tuple[pd.Series, str]:
        table = self.workspace_path / "combined_factors_df.parquet"
        config = self.workspace_path / qlib_config_name
        calls.append(
            {
                "config": config.read_text(encoding="utf-8") if config.exists() else None,
                "name": qlib_config_name,
                "env": run_env or {},
                "table": table.read_bytes() if table.exists() else None,
            }
        )
        for name in (installed_traits().returns_names[0], "qlib_res.csv"):
            (self.workspace_path / name).write_text("", encoding="utf-8")
        usage = self.workspace_path / "sota_source.json"
        write_recorder(self.workspace_path, alpha_of(self.workspace_path) if usage.exists() else {})
        return pd.Series({"IC": 0.1}), "out"

    monkeypatch.setattr(QlibFBWorkspace, "execute", execute)
    return calls
