"""Before the first LLM call: what a run will need is there, or the run stops."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import HostError, SettingsError, SourceError
from rdagent_sota_patch.plugin.traits import installed_traits
from rdagent_sota_patch.settings import Settings

Factory = Callable[..., Any]


def make_loop(name: str, runner: Any, hist: tuple[Any, ...] = ()) -> Any:
    """A loop of a class of that name, as far as the pre-flight looks at it."""
    loop = type(name, (), {})()
    loop.runner = runner
    if name == "QuantRDLoop":
        from rdagent.scenarios.qlib.developer.factor_runner import QlibFactorRunner

        loop.factor_runner = QlibFactorRunner(None)
    loop.plan = {
        "features": {"ROC60": "Ref($close, 60)/$close"}
    }  # 0.8.0 has none, and looks into its template
    loop.trace = SimpleNamespace(hist=list(hist))
    return loop


@pytest.fixture
def prepare(rdagent: Path, mocker: MockerFixture) -> Factory:
    """Run the pre-flight with the given SOTA factors in force."""
    from rdagent_sota_patch.plugin import preflight

    def run(loop: Any, sota: Any = None, **settings: Any) -> list[str]:
        mocker.patch.dict(os.environ)
        mocker.patch.object(preflight, "active_sota", return_value=sota)
        log = mocker.patch.object(preflight, "logger")
        preflight.prepare_run(loop, Settings(**settings))
        return [str(call.args[0]) for call in log.method_calls]

    return run


@pytest.fixture
def runner(rdagent: Path) -> Any:
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    return QlibModelRunner(None)


@pytest.mark.parametrize("name", ["ModelRDLoop", "QuantRDLoop"])
def test_summary_of_a_model_stage(name: str, prepare: Factory, runner: Any, make_sota: Factory) -> None:
    """A good source is summed up, wherever the loop's class was defined."""
    lines = prepare(make_loop(name, runner), make_sota(), load_sota_factors=True)
    alpha = len(installed_traits().features_of_run(make_loop(name, runner)))
    expected = {1: "2 SOTA + 1 Alpha → 3 features", 20: "2 SOTA + 20 Alpha, 1 name shared → 21 features"}
    assert any(expected[alpha] in line for line in lines)
    assert "SOTA factors shape: (120, 2)" in lines


def test_factor_stage_is_left_alone(prepare: Factory) -> None:
    """LOAD_SOTA_* has no effect on a factor stage, and is said to have none."""
    (line,) = prepare(make_loop("FactorRDLoop", object()), load_sota_factors=True)
    assert "no effect on a factor stage" in line


def test_foreign_runner_is_refused(prepare: Factory) -> None:
    """A runner that cannot be fed stops the run, unless strictness is off."""
    with pytest.raises(HostError, match="runner-without-sota"):
        prepare(make_loop("ModelRDLoop", object()), load_sota_factors=True)
    (line,) = prepare(make_loop("ModelRDLoop", object()), load_sota_factors=True, sota_strict=False)
    assert "runner-without-sota" in line


def test_unproven_factors_stop(
    prepare: Factory, runner: Any, make_sota: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SOTA_REQUIRE_CAUSAL asks for a clean audit of every factor in the table; without it nobody asks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loop, sota = make_loop("ModelRDLoop", runner), make_sota()
    prepare(loop, sota, load_sota_factors=True)
    with pytest.raises(SourceError) as caught:
        prepare(loop, sota, load_sota_factors=True, sota_require_causal=True)
    assert [problem.slug for problem in caught.value.problems] == ["factor-not-audited"] * 2
    lines = prepare(loop, sota, load_sota_factors=True, sota_require_causal=True, sota_strict=False)
    assert "SOTA_STRICT is off" in lines[-1] and "factor-not-audited" in lines[-1]


def test_resumed_run_with_other_factors_stops(prepare: Factory, runner: Any, make_sota: Factory) -> None:
    """Models of one run are judged against each other, so they stand on one table."""
    used = {"fingerprint": "sha256:00", "source": {"path": "log/old"}, "factors": [{"name": "Old"}]}
    done = (SimpleNamespace(sota_source=used), SimpleNamespace(decision=True))
    with pytest.raises(SourceError, match="source-changed") as caught:
        prepare(make_loop("ModelRDLoop", runner, (done,)), make_sota(), load_sota_factors=True)
    assert "log/old" in str(caught.value)


def test_unwritable_factor_file_stops_the_factor_stage(prepare: Factory, tmp_path: Path) -> None:
    """Hours of mining do not end at a folder that is not there."""
    target = tmp_path / "no folder" / "f.parquet"
    with pytest.raises(SettingsError, match="cannot-write"):
        prepare(make_loop("FactorRDLoop", object()), save_sota_factors=True, sota_factors_path=target)


def test_foreign_factor_runner_is_refused(prepare: Factory, runner: Any, make_sota: Factory) -> None:
    """In fin_quant, factors that could not be judged on top of the SOTA factors stop the run."""
    loop = make_loop("QuantRDLoop", runner)
    loop.factor_runner = object()
    with pytest.raises(HostError, match="runner-without-sota"):
        prepare(loop, make_sota(), load_sota_factors=True)


def test_history_is_inherited_when_asked(
    prepare: Factory, runner: Any, make_sota: Factory, mocker: MockerFixture
) -> None:
    """SOTA_INHERIT_TRACE, and nothing else, puts the factor stage's history into the run."""
    from rdagent_sota_patch.plugin import preflight

    inherit = mocker.patch.object(preflight, "inherit_history")
    loop, sota = make_loop("ModelRDLoop", runner), make_sota()
    prepare(loop, sota, load_sota_from_log=True)
    inherit.assert_not_called()
    prepare(loop, sota, load_sota_from_log=True, sota_inherit_trace=True)
    inherit.assert_called_once_with(loop, sota.source, quant=False)


def test_only_a_log_has_a_history(prepare: Factory, runner: Any, make_sota: Factory) -> None:
    """SOTA_INHERIT_TRACE with a file or workspace is an error, not a run without history."""
    with pytest.raises(SettingsError, match="inherit-without-log"):
        prepare(
            make_loop("ModelRDLoop", runner), make_sota(), load_sota_factors=True, sota_inherit_trace=True
        )


def test_acceptances_over_seeds_are_announced_or_refused(prepare: Factory, runner: Any) -> None:
    """SOTA_ACCEPT_SEEDS needs no source; fin_quant refuses it, a factor stage says that it has no effect."""
    from rdagent.scenarios.qlib.developer.feedback import QlibModelExperiment2Feedback

    from rdagent_sota_patch.plugin.seed_acceptance import attach_seed_acceptance

    attach_seed_acceptance()
    loop = make_loop("ModelRDLoop", runner)
    loop.summarizer = QlibModelExperiment2Feedback(None)
    assert any("noise of 5 seeds" in line for line in prepare(loop, sota_accept_seeds=5))
    assert not any("SEEDS" in line for line in prepare(loop))
    loop.summarizer = object()
    with pytest.raises(HostError, match="summarizer-without-seeds"):
        prepare(loop, sota_accept_seeds=5)
    with pytest.raises(SettingsError, match="seeds-in-quant"):
        prepare(make_loop("QuantRDLoop", runner), sota_accept_seeds=5)
    (line,) = prepare(make_loop("FactorRDLoop", object()), sota_accept_seeds=5)
    assert "no effect on a factor stage" in line
