"""The dates of a run follow the installed RD-Agent, and the market covers them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.demo.synthetic_market import (
    FIXED_SEGMENTS,
    MarketSpec,
    Segments,
    host_market,
    host_segments,
    simulate_market,
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have an RD-Agent installed whose template has the given text for the first day."""

    def write(first_day: str) -> None:
        template = tmp_path / "scenarios/qlib/experiment/model_template/conf_sota_factors_model.yaml"
        template.parent.mkdir(parents=True)
        template.write_text(f"start_time: {first_day}\n", encoding="utf-8")
        spec = ModuleSpec("rdagent", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    return write


def test_dates_from_settings_are_few(install: Callable[[str], None]) -> None:
    """Where the templates have variables for the dates, the demonstration is short."""
    install('{{ train_start | default("2008-01-01", true) }}')
    assert (host_segments(), host_market()) == (Segments(), MarketSpec())


def test_dates_in_the_template_are_covered(install: Callable[[str], None]) -> None:
    """Where they are written out, as in 0.8.0, the market has those years and the windows before them."""
    install("2008-01-01")
    assert host_segments() == FIXED_SEGMENTS
    market = simulate_market(host_market())
    assert market.days[0] < pd.Timestamp(FIXED_SEGMENTS.train[0]) - pd.Timedelta(days=180)
    assert market.days[-1] > pd.Timestamp(FIXED_SEGMENTS.test[1])
    assert np.isfinite(market.fields["close"]).all()


def test_without_rdagent_the_demonstration_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox then says what is missing; the market is not a place for that."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert host_segments() == Segments()
