from __future__ import annotations

import io
import json
from pathlib import Path, PurePosixPath

import pytest
from rich.console import Console

from rdagent_sota_patch.demo import stages
from rdagent_sota_patch.demo.sandbox import Step
from rdagent_sota_patch.demo.stages import (
    ALPHA_ALONE,
    SOTA_ALONE,
    SOTA_AND_ALPHA,
    BackTest,
    DemoResult,
    Phase,
    list_places,
    model_settings,
    read_back_test,
    render,
    run_demo,
    show_progress,
)
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord, Session, Signature

METRICS = """,0
IC,0.12
ICIR,1.5
Rank IC,0.11
1day.excess_return_with_cost.annualized_return,0.25
1day.excess_return_with_cost.max_drawdown,-0.01
"""


def make_session(workspace: Path | None) -> Session:
    """A session of one model experiment."""
    recorded = None if workspace is None else PurePosixPath(workspace)
    experiment = ExperimentRecord(loop=0, kind=ExperimentKind.MODEL, decision=True, workspace=recorded)
    return Session(Path("log"), Path("log/0"), Signature.VERIFIED, "ModelRDLoop", (experiment,))


def make_result(ics: dict[str, float]) -> DemoResult:
    """A result with the given ICs."""
    tests = tuple(
        BackTest(stage, 23, ic, 1.0, 0.1, 0.2, -0.01, 30.0, Path("log"), Path("workspace"))
        for stage, ic in ics.items()
    )
    return DemoResult(Path("demo"), Path("factor"), 60.0, (True, False, True), ("A", "B", "C"), tests)


def test_back_test_is_read_from_the_workspace(tmp_path: Path) -> None:
    """Metrics come from Qlib's result file, the number of features from its recorder."""
    noted = tmp_path / "mlruns" / "1" / "abc" / "params" / "model.kwargs.pt_model_kwargs.num_features"
    noted.parent.mkdir(parents=True)
    noted.write_text("23", encoding="utf-8")
    (tmp_path / "qlib_res.csv").write_text(METRICS, encoding="utf-8")
    result = read_back_test(SOTA_AND_ALPHA, make_session(tmp_path))

    assert (result.features, result.ic, result.max_drawdown) == (23, 0.12, -0.01)


@pytest.mark.parametrize("recorded", [True, False])
def test_missing_back_test_is_an_error(recorded: bool, tmp_path: Path) -> None:
    """A workspace without a result, or none at all, is an error that names the log."""
    with pytest.raises(SotaError, match=r"no back-test result") as missing:
        read_back_test(ALPHA_ALONE, make_session(tmp_path if recorded else None))

    assert "log" in missing.value.problems[0].hint


def test_missing_recorder_is_an_error(tmp_path: Path) -> None:
    """Metrics whose training left no record are not reported."""
    (tmp_path / "qlib_res.csv").write_text(METRICS, encoding="utf-8")

    with pytest.raises(SotaError, match="number of features"):
        read_back_test(ALPHA_ALONE, make_session(tmp_path))


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder that holds other files is refused, and they stay."""
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(SotaError, match="no demonstration wrote") as refused:
        run_demo(tmp_path)

    assert refused.value.slug == "demo-folder-in-use"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_earlier_demonstration_is_replaced_with_force_alone(tmp_path: Path) -> None:
    """Its logs stay unless they may go; a file that a user put beside them stays in any case."""
    stages._claim(tmp_path / "demo")
    log = tmp_path / "demo" / "project" / "log" / "factor"
    log.mkdir(parents=True)
    (tmp_path / "demo" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SotaError, match="earlier demonstration") as refused:
        stages._claim(tmp_path / "demo")
    assert refused.value.slug == "demo-folder-in-use" and log.is_dir()
    assert stages.free_folder(tmp_path / "demo") == tmp_path / "demo-2"
    assert stages.free_folder(tmp_path / "new") == tmp_path / "new"
    stages._claim(tmp_path / "demo", force=True)

    assert not (tmp_path / "demo" / "project").exists()
    assert (tmp_path / "demo" / "notes.txt").exists()


def test_only_the_sota_stages_have_settings() -> None:
    """Alpha alone is plain RD-Agent, and Alpha is layered in the last stage only."""
    settings = model_settings(Path("/log"))

    assert settings[ALPHA_ALONE] == {}
    assert settings[SOTA_ALONE] == {"LOAD_SOTA_FROM_LOG": "true", "SOTA_LOG_PATH": "/log"}
    assert settings[SOTA_AND_ALPHA]["USE_ALPHA_FACTORS"] == "true"


def test_factors_that_do_not_help_are_an_error() -> None:
    """The same IC with and without SOTA factors means that they did not reach the model."""
    equal = make_result({ALPHA_ALONE: 0.05, SOTA_ALONE: 0.1, SOTA_AND_ALPHA: 0.05})

    with pytest.raises(SotaError, match="did not reach the model"):
        stages._check_gain(equal)


def test_table_shows_every_stage() -> None:
    """The table has a row for each stage; below it stands where the logs are."""
    result = make_result({ALPHA_ALONE: 0.0321, SOTA_ALONE: 0.1412, SOTA_AND_ALPHA: 0.1501})
    console = Console(file=io.StringIO(), width=80)
    console.print(render(result))
    text = console.file.getvalue()  # type: ignore[attr-defined]

    assert all(word in text for word in ("Alpha alone", "SOTA alone", "0.0321", "0.1412", "0.1501"))
    assert "accepted, rejected, accepted" in text
    places = list_places(result)
    assert f"factor stage: log {result.factor_log}" in places
    assert "rdagent-sota inspect" in places


def test_progress_shows_what_a_stage_is_doing() -> None:
    """A stage's line says what its current step does, and is ticked off at the end."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with show_progress(console) as observe:
        observe("factor stage", Phase.STARTED)
        observe("factor stage", Step(1, 2, "running"))
        observe("factor stage", Phase.DONE)
    text = console.file.getvalue()  # type: ignore[attr-defined]

    assert "✓ factor stage" in text


def test_result_is_plain_data() -> None:
    """The result survives JSON with its numbers and its paths as text."""
    result = make_result({ALPHA_ALONE: 0.03, SOTA_ALONE: 0.14, SOTA_AND_ALPHA: 0.15})
    plain = json.loads(json.dumps(result.as_json()))

    assert plain["back_tests"][2]["ic"] == 0.15
    assert plain["factor_log"] == "factor"
