"""Both stages with a stand-in for ``rdagent``: begun, gone on with, failed, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch import settings
from rdagent_sota_patch.errors import SettingsError, SotaError
from rdagent_sota_patch.stages import both
from rdagent_sota_patch.stages.both import Outcome, best_model, run_both
from rdagent_sota_patch.stages.progress import Progress
from rdagent_sota_patch.stages.state import StageName, Wishes, read_state
from tests.stages.conftest import Standin, begin


def fail(folder: Path, wishes: Wishes | None = None) -> SotaError:
    with pytest.raises(SotaError) as raised:
        run_both(folder, wishes=wishes)
    return raised.value


def loops_of(outcome: Outcome) -> list[int]:
    return [one.loop for one in outcome.model.experiments]


def test_model_stage_runs_on_exactly_the_factor_log(standin: Standin) -> None:
    """Both logs are fixed beforehand; the second stage is told the first one's, and the switch."""
    folder = begin(alpha=False, duration="8h")
    seen: list[Progress] = []
    outcome = run_both(folder, observe=seen.append)
    factor, model = standin.calls
    assert factor["arguments"] == ["fin_factor", "--loop-n", "3", "--all-duration", "8h"]
    assert model["arguments"] == ["fin_model", "--loop-n", "2"]
    assert factor["LOAD_SOTA_FROM_LOG"] is None
    assert (model["LOAD_SOTA_FROM_LOG"], model["USE_ALPHA_FACTORS"], model["SOTA_STRICT"]) == (
        "true",
        "false",
        "true",
    )
    assert model["SOTA_LOG_PATH"] == factor["LOG_TRACE_PATH"] == str(outcome.factor.session.log)
    assert model["LOG_TRACE_PATH"] == str(outcome.model.session.log) != factor["LOG_TRACE_PATH"]
    assert (outcome.sota.loop, loops_of(outcome), best_model(outcome).loop) == (2, [0, 1], 0)
    assert read_state(folder).done
    last = {one.stage: one for one in seen}
    assert (last[StageName.FACTOR].finished, last[StageName.FACTOR].accepted) == (3, 2)
    assert [one.step.loop for one in seen if one.step and one.stage is StageName.MODEL] == [0] * 5 + [1] * 5
    assert "Start Loop 2, Step 4: record" in (folder / "factor.txt").read_text()


def test_users_own_spelling_does_not_win(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable in lower case, which the settings would read as well, does not stand beside ours."""
    monkeypatch.setenv("log_trace_path", "/elsewhere")
    monkeypatch.setenv("SOTA_STRICT", "false")
    run_both(begin(), observe=lambda _: None)
    assert standin.calls[1]["SOTA_STRICT"] == "true"


def test_env_file_that_wins_does_not_undo_the_stage(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    """Where RD-Agent loads `.env` over the environment, the model stage still is fed what the run asks for."""
    Path(".env").write_text("LOAD_SOTA_FROM_LOG=false\nUSE_ALPHA_FACTORS=false\n", encoding="utf-8")
    run_both(begin())
    model = standin.calls[1]
    monkeypatch.setenv("RDAGENT_SOTA_SETTINGS", model["RDAGENT_SOTA_SETTINGS"])
    mocker.patch.object(settings, "file_wins", return_value=True)
    fed = settings.load_settings()
    assert (fed.source, fed.sota_log_path) == (settings.SourceKind.LOG, Path(model["SOTA_LOG_PATH"]))
    assert (fed.use_alpha_factors, fed.sota_strict) == (model["USE_ALPHA_FACTORS"] == "true", True)


def test_log_folder_in_an_env_file_that_wins(standin: Standin, mocker: MockerFixture) -> None:
    """A log folder that RD-Agent would take from `.env` is told before anything is started."""
    Path(".env").write_text("LOG_TRACE_PATH=log/mine\n", encoding="utf-8")
    mocker.patch.object(both, "file_wins", return_value=True)
    with pytest.raises(SettingsError, match="env-file-wins"):
        run_both(begin())
    assert standin.calls == []


def test_finished_run_is_not_run_again(standin: Standin) -> None:
    """Its outcome is read from its logs."""
    folder = begin()
    first = run_both(folder)
    again = run_both(folder)
    assert len(standin.calls) == 2
    assert loops_of(again) == loops_of(first)


def test_failed_stage_says_how_to_go_on_and_does(standin: Standin) -> None:
    """The error has the output's end, log and next step; going on takes the loops first given, and no more."""
    standin.order("fin_factor", (1, 2), "fail")
    folder = begin()
    error = fail(folder)
    log = str(read_state(folder).factor.log)
    assert error.slug == "stage-failed"
    assert "exit code 1" in str(error) and "Incorrect API key" in str(error)
    assert log in str(error) and f"--resume {folder}" in str(error)
    outcome = run_both(folder)
    assert standin.calls[1]["arguments"] == [
        *("fin_factor", "--loop-n", "3", "--path", f"{log}/__session__/1/1_coding"),
    ]
    assert standin.calls[1]["LOG_TRACE_PATH"] == log
    assert len(outcome.factor.experiments) == 3
    assert "Incorrect API key" in (folder / "factor.txt").read_text()


def test_stage_without_snapshot_begins_afresh(standin: Standin) -> None:
    """In a log of its own: what is in the first one cannot be gone on with."""
    standin.order("fin_factor", (0, 0), "fail")
    folder = begin()
    fail(folder)
    first = read_state(folder).factor.log
    run_both(folder)
    assert "--path" not in standin.calls[1]["arguments"]
    assert standin.calls[1]["LOG_TRACE_PATH"] == str(read_state(folder).factor.log) == f"{first}-2"


def test_early_end_is_a_failure(standin: Standin) -> None:
    """Exit code 0 with loops missing is not taken for done."""
    standin.order("fin_model", (1, 3), "stop")
    error = fail(begin())
    assert error.slug == "stage-failed" and "after 1 of 2 loops" in str(error)


def test_early_end_is_expected_with_a_duration(standin: Standin) -> None:
    """Time is up: the model stage takes what there is."""
    standin.order("fin_factor", (1, 3), "stop")
    outcome = run_both(begin(duration="1s"))
    assert (outcome.sota.loop, len(outcome.factor.experiments)) == (0, 1)


def test_all_loops_done_needs_no_rdagent(standin: Standin) -> None:
    """Killed after its last loop, a stage has nothing left to do."""
    standin.order("fin_model", (2, 0), "fail")
    folder = begin(model_loops=3)
    fail(folder)
    outcome = run_both(folder, wishes=Wishes(model_loops=2))
    assert len(standin.calls) == 2
    assert loops_of(outcome) == [0, 1]


def test_more_models_later(standin: Standin) -> None:
    """A finished run asked for more goes on from its last loop; a skipped one is not a result."""
    folder = begin()
    log = run_both(folder).model.session.log
    standin.order("fin_model", (2, 2), "skip")
    outcome = run_both(folder, wishes=Wishes(model_loops=3))
    assert standin.calls[2]["arguments"][2:] == ["3", "--path", f"{log}/__session__/1/4_record"]
    assert loops_of(outcome) == [0, 1]
    assert outcome.model.skipped == ((2, "Metric 'Rank ICIR' is malformed"),)


def test_nothing_accepted_ends_there(standin: Standin) -> None:
    """No model stage; the reason, what the log holds, and that more loops may follow."""
    standin.take("fin_factor", "rejected")
    standin.order("fin_factor", (0, 2), "skip")
    folder = begin(factor_loops=2)
    error = fail(folder)
    assert error.slug == "no-accepted-factors"
    assert "2 rejected factor experiments" in str(error)
    assert "Loop 0 was skipped: Metric 'Rank ICIR' is malformed" in str(error)
    assert len(standin.calls) == 1
    assert run_both(folder, wishes=Wishes(factor_loops=3)).sota.loop == 2


def test_no_model_with_a_result(standin: Standin) -> None:
    """A model stage whose only loop was skipped has nothing to show, and says so."""
    standin.take("fin_model", "skipped")
    standin.order("fin_model", (0, 2), "skip")
    error = fail(begin(model_loops=1))
    assert error.slug == "no-model-result" and "Loop 0 was skipped: Metric" in str(error)


def test_models_without_the_factors_are_no_result(standin: Standin) -> None:
    """A loop that the plugin did not feed is an error, whatever its figures are."""
    error = fail(begin(model_loops=4))
    assert error.slug == "sota-not-used" and "loops 3 " in str(error)


def test_factor_log_stands_in_for_the_stage(standin: Standin, prepared: Path) -> None:
    """Only the model stage is run, on that log; it is the source that the models are told."""
    log = prepared / "factor" / "log" / "run"
    outcome = run_both(begin(factor_loops=None, factor_log=log))
    assert [call["arguments"][0] for call in standin.calls] == ["fin_model"]
    assert standin.calls[0]["SOTA_LOG_PATH"] == str(log)
    assert outcome.sota.loop == 2


def test_snapshot_pins_a_moment(standin: Standin, prepared: Path) -> None:
    """The experiment accepted by then is the SOTA."""
    snapshot = prepared / "factor" / "log" / "run" / "__session__" / "1" / "4_record"
    assert run_both(begin(factor_loops=None, factor_log=snapshot)).sota.loop == 0
    assert standin.calls[0]["SOTA_LOG_PATH"] == str(snapshot)


def test_strangers_folder_is_left_alone(standin: Standin, project: Path) -> None:
    """Nothing is started in a folder without a state, and nothing is left in it."""
    assert fail(project).slug == "not-a-run"
    assert standin.calls == [] and list(project.iterdir()) == []
