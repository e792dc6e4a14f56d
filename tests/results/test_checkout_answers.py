"""Answers for programs of RD-Agent checkouts: each field is derived from what is known, or says that it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.results.reader import Reader
from rdagent_sota_patch.results.schemas import INFORMATION_RATIO, FactorItem, LoopItem
from rdagent_sota_patch.results.service import Folders, Service
from tests.export.made_run import write_recorder, write_workspace
from tests.results.log_root import Project, run_of_factors, with_attributes, write_run
from tests.sessions.generated_log import KEY

ALPHA = {"KLEN": "($high-$low)/$open"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One run whose second loop has a workspace."""
    made = Project(tmp_path)
    made.workspace.mkdir(parents=True)
    write_workspace(made.workspace)
    first = run_of_factors("ZMom")
    last = run_of_factors("GapA", "Extra", place=made.workspace, based_on=(first,))
    base_features = {"ROC5": "Ref($close, 5)/$close", "GapA": "$open/$close"}
    with_attributes(last, base_features=base_features)
    write_run(made.log / "mined", [(first, True), (last, True)])
    return made


def ask(project: Project, question: Any) -> Any:
    """The answer of a service of its own."""

    async def run() -> Any:
        service = Service(Folders(project.log, project.folder / "cache"))
        try:
            return await question(service)
        finally:
            await service.close()

    return asyncio.run(run())


def test_the_anchor_promises_no_description_that_an_export_refuses(project: Project) -> None:
    """Where the model cannot be carried, it is not ok, and says the export's own reason."""
    whole = ask(project, lambda service: service.anchor("mined"))
    assert b'"ok":true' in whole.content and b'"resolved_model_meta_key":"model_meta.json"' in whole.content
    (project.weights.parent / "dataset").write_bytes(b"no dataset")
    broken = ask(project, lambda service: service.anchor("mined"))
    assert b'"ok":false' in broken.content and b'"resolved_model_meta_key":null' in broken.content
    assert b"artifact-unreadable" in broken.content
    assert b'"resolved_model_weight_key":"model.pkl"' in broken.content


def test_alpha_features_are_those_of_the_model(project: Project) -> None:
    """With their expressions; one whose name a mined factor bears is not an Alpha feature of the model."""
    write_recorder(project.workspace, alpha={"Extra": ALPHA["KLEN"]}, table=("ZMom", "GapA"))
    preview = ask(project, lambda service: service.preview_alignment("mined"))
    assert preview.ok and preview.is_aligned
    assert (preview.alpha_factors, preview.alpha_source) == (("Extra",), "model_meta.json")
    assert preview.sota_factors == ("ZMom", "GapA")
    assert preview.factor_order == ("Extra", "GapA", "ZMom")
    meta = ask(project, lambda service: service.describe_alpha())
    assert [(each.name, each.expression) for each in meta.factors] == [("Extra", ALPHA["KLEN"])]


def test_without_a_model_the_session_is_asked(project: Project) -> None:
    """Names from table and session are given, the order is not, and nothing is ok."""
    (project.weights.parent / "dataset").write_bytes(b"no dataset")
    preview = ask(project, lambda service: service.preview_alignment("mined"))
    assert (preview.ok, preview.is_aligned, preview.factor_order) == (False, False, ())
    assert preview.sota_factors == ("ZMom", "GapA", "Extra")
    # A mined factor bears the other one's name.
    assert (preview.alpha_factors, preview.alpha_source) == (("ROC5",), "session")
    assert "artifact-unreadable" in preview.error
    assets = ask(project, lambda service: service.list_complete_assets("mined"))
    assert (assets.ok, len(assets.factor_codes), assets.model_weight.found) == (False, 3, True)


def test_a_damaged_table_is_no_table(project: Project) -> None:
    """The session's factors are given, and not as the table's."""
    (project.workspace / "combined_factors_df.parquet").write_bytes(b"no parquet")
    preview = ask(project, lambda service: service.preview_alignment("mined"))
    assert (preview.ok, preview.sota_source) == (False, "session")
    aligned = ask(project, lambda service: service.align_factors("mined"))
    assert (aligned.success, aligned.factor_names) == (False, ("ZMom", "GapA", "Extra"))
    assert "table-unreadable" in aligned.error


def test_a_slow_log_does_not_hold_up_the_list(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed as being read; the others as they are."""
    write_run(project.log / "slow", [(run_of_factors("ZMom"), True)])
    read = Reader.outline

    def outline(self: Reader, logs: Sequence[Path]) -> Iterator[Any]:
        for place, found in read(self, logs):
            if logs[place].name == "slow":
                time.sleep(4)
            yield place, found

    monkeypatch.setattr(Reader, "outline", outline)
    listed = ask(project, lambda service: service.list_tasks(10, 0, 2.0))
    problems = {each.task_id: each.problem and each.problem.slug for each in listed.tasks}
    assert problems == {"mined": None, "slow": "reading-took-too-long"}


def test_fields_of_a_loop_are_its_own() -> None:
    """Returns after costs, by Qlib's names; what was tested is what was implemented."""
    factor = FactorItem(name="A", description="", formulation="", variables={}, implemented=True, key=None)
    loop = LoopItem(
        loop=4,
        kind="factor",
        decision=False,
        is_last_sota=False,
        hypothesis="",
        reason="",
        factors=(factor, factor.model_copy(update={"name": "B", "implemented": False})),
        model=None,
        metrics={
            INFORMATION_RATIO: 1.5,
            "1day.excess_return_with_cost.annualized_return": 0.1,
            "1day.excess_return_without_cost.annualized_return": 0.2,
            "1day.excess_return_with_cost.max_drawdown": -0.3,
        },
        sota_factor_count=None,
        num_features=None,
        inherited_from=None,
    ).model_dump()
    wanted = {
        "loop_id": 4, "feedback": False, "is_sota": False, "exp_type": "QlibFactorExperiment", "valid_score": None,
        "model_name": None, "model_type_tag": None, "model_architecture": None, "model_description": None,
        "annualized_return": 0.1, "max_drawdown": -0.3, "information_ratio": 1.5,
        "tested_factors": ("A",), "all_factors": ("A", "B"), "tested_count": 1, "total_count": 2,
    }  # fmt: skip
    assert {name: loop[name] for name in wanted} == wanted
