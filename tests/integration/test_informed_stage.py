"""A model stage that knows what it is fed, one with the factor stage's history, and both halves of fin_quant."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.demo.llm import ChatRecord
from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.sources import source_of
from rdagent_sota_patch.host_source import find_host
from tests.integration.conftest import RealRun, from_log, table_of
from tests.integration.evidence import (
    global_names,
    load_snapshot,
    look_at_training,
    plain_reader,
    run_tool,
)

pytestmark = pytest.mark.real

PROMPTS = Path(__file__).resolve().parents[2] / "docs" / "prompts"

MINED = {"OvernightGap10", "SkippedMomentum60", "GapVolumeCorr20"}
HEADING = "The features that the model is fed:"

PROPOSAL = "is working on generating new hypotheses"
EXPERIMENT = "based on the hypothesis generated in the previous step"
CODE = "User is trying to implement some pytorch models"
FEEDBACK = "Current Round Information"

_READERS = """
import json, sys
from pathlib import Path
logs, name = Path(sys.argv[1]), sys.argv[2]
import streamlit
# What the page's own widgets would put there.
streamlit.session_state.update(excluded_tags=["llm_messages"], excluded_types=["str"], log_path=name)
from rdagent.log.server import app as server
server.read_trace(logs / name, id=name)
if hasattr(server, "_get_or_create_task"):
    messages = server._get_or_create_task(name).messages
else:
    messages = server.msgs_for_frontend[name]
sys.argv = ["app.py", "--log_dir", str(logs)]
from rdagent.log.ui import app as ui
ui.refresh()
ui.get_msgs_until(lambda message: False)
print(json.dumps({
    "scenario": type(ui.state.scenario).__name__,
    "rounds": ui.state.lround,
    "metrics": [[str(series.name), float(series["IC"])] for series in ui.state.metric_series],
    "server": [message["tag"] for message in messages],
}))
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What RD-Agent's two user interfaces read of a log."""

    scenario: str
    rounds: int
    metrics: list[tuple[str, float]]
    server: list[str]


def show(sandbox: Sandbox, log: Path) -> Shown:
    """Have the loading code of ``rdagent ui`` and ``rdagent server_ui`` read a log."""
    answer = plain_reader(sandbox).read(_READERS, str(log.parent), log.name, folder=sandbox.project)
    found: dict[str, Any] = json.loads(answer)
    return Shown(
        found["scenario"],
        found["rounds"],
        [(name, value) for name, value in found["metrics"]],
        found["server"],
    )


def prompts(sandbox: Sandbox, run: RealRun, sentence: str) -> list[ChatRecord]:
    """The requests of a run whose system or user prompt holds a sentence of RD-Agent's templates."""
    return [
        record
        for record in sandbox.llm.records
        if record.run == run.result.log.name
        and (sentence in record.prompt.system or sentence in record.prompt.user)
    ]


@pytest.mark.parametrize("sentence", [PROPOSAL, EXPERIMENT, CODE, FEEDBACK])
def test_every_prompt_names_the_features(sandbox: Sandbox, both: RealRun, sentence: str) -> None:
    """Proposal, experiment, code and feedback are told what the model is fed."""
    found = prompts(sandbox, both, sentence)
    assert found
    for record in found:
        assert record.prompt.system.count(HEADING) == 1


def test_features_are_those_of_the_back_test(sandbox: Sandbox, both: RealRun, factor_run: RealRun) -> None:
    """Names, formulas, count, order and metrics in the prompt are those that the model was trained on."""
    text = prompts(sandbox, both, PROPOSAL)[0].prompt.system
    usage = both.session.experiments[0].sota_source
    assert usage is not None
    assert f"Each sample has {usage['num_features']} features" in text
    assert f"lexicographic by name: {', '.join(usage['feature_order'])}\n" in text
    for factor in usage["factors"]:
        assert f"- {factor['name']}: {factor['description']}\n  Formula: {factor['formulation']}\n" in text
    for name, expression in usage["alpha_factors"].items():
        assert f"- {name}: {expression}\n" in text
    assert f"IC {factor_run.session.experiments[2].metrics['IC']:.6f}" in text


def test_sota_alone_names_no_alpha(sandbox: Sandbox, alone: RealRun) -> None:
    """Without Alpha, the prompts name none."""
    text = prompts(sandbox, alone, PROPOSAL)[0].prompt.system
    assert "Each sample has 3 features" in text
    assert "Qlib expressions" not in text


def test_without_a_source_prompts_are_as_before(sandbox: Sandbox, off: RealRun, both: RealRun) -> None:
    """What is added is one block; without it, the prompts of both runs are the same, to the letter."""
    plain = prompts(sandbox, off, PROPOSAL)[0].prompt.system
    assert HEADING not in plain
    text = prompts(sandbox, both, PROPOSAL)[0].prompt.system
    start = text.index(f"\n{HEADING}")
    order = text.index("lexicographic by name", start)
    end = text.index("\n", order) + 1
    assert text[:start] + text[end:] == plain


@pytest.mark.parametrize("moment", ["before", "after"])
def test_prompts_in_the_documents_are_the_real_ones(
    sandbox: Sandbox, off: RealRun, both: RealRun, tmp_path: Path, moment: str
) -> None:
    """docs/prompts shows what the LLM really received, save for measured numbers."""
    if find_host().version != "1.0.0":
        pytest.skip("the page shows the newest release's prompts")
    run = {"before": off, "after": both}[moment]
    received = tmp_path / f"model-stage-{moment}.txt"
    received.write_text(prompts(sandbox, run, PROPOSAL)[0].prompt.system, encoding="utf-8")
    shown = PROMPTS / received.name
    assert without_measurements(shown.read_text(encoding="utf-8")) == without_measurements(
        received.read_text(encoding="utf-8")
    ), f"if that is meant: cp {received} {shown}"


def without_measurements(text: str) -> str:
    """Metrics may differ in the last digits between kinds of processors; and the LLM is told of the machine."""
    text = re.sub(r'("(?:python_version|os_release)": )"[^"]*"', r'\1"#"', text)
    return re.sub(r"-?\d\.\d{4,}", "#", text)


def test_history_is_inherited_in_order(informed: RealRun, factor_run: RealRun) -> None:
    """The session begins with the factor stage's experiments, each as its own log tells it."""
    inherited, own = informed.session.experiments[:3], informed.session.experiments[3:]
    for record, original in zip(inherited, factor_run.session.experiments, strict=True):
        assert record.inherited_from == {"task_id": "factor", "loop": original.loop}
        assert record.decision == original.decision
        assert record.factors == original.factors
        assert dict(record.verdict) == dict(original.verdict)
        assert {name: record.metrics[name] for name in original.metrics} == dict(original.metrics)
    assert [record.loop for record in own] == [0]
    assert own[0].kind.value == "model"


def test_proposals_build_on_the_history(sandbox: Sandbox, informed: RealRun) -> None:
    """The first proposal is told the factor stage's three trials."""
    text = prompts(sandbox, informed, PROPOSAL)[0].prompt.user
    assert "# Trial 3" in text
    assert "VolumeLevel20" in text


def test_first_model_is_judged_against_the_factors(
    sandbox: Sandbox, informed: RealRun, alone: RealRun, factor_run: RealRun
) -> None:
    """Without the history, anything goes; with it, the factor stage's SOTA result is there to beat."""
    before = prompts(sandbox, alone, FEEDBACK)[0].prompt.user
    after = prompts(sandbox, informed, FEEDBACK)[0].prompt.user
    assert "This is the first round" in before
    assert "This is the first round" not in after
    sota = factor_run.session.sota
    assert sota is not None
    assert f"Hypothesis: {sota.hypothesis}" in after
    assert f"{sota.metrics['IC']:.6f}" in after


def test_features_are_the_same_with_a_history(
    sandbox: Sandbox, informed: RealRun, factor_run: RealRun
) -> None:
    """The inherited factors' code is not run again: the model is fed the SOTA table, byte for byte."""
    trained = look_at_training(sandbox, informed.session)
    assert trained.num_features == trained.input_size == 3
    assert (trained.workspace / "combined_factors_df.parquet").read_bytes() == table_of(
        factor_run
    ).read_bytes()


def test_session_with_a_history_is_rdagents_own(sandbox: Sandbox, informed: RealRun) -> None:
    """It names no class of ours, and loads in an RD-Agent that has never heard of the plugin."""
    for snapshot in informed.session.log.glob("__session__/*/*"):
        assert not {name for name in global_names(snapshot) if name.startswith("rdagent_sota_patch")}
    assert load_snapshot(sandbox, informed.session.snapshot, plugin=False).endswith("False")


def test_log_with_a_history_is_a_source(sandbox: Sandbox, informed: RealRun, factor_run: RealRun) -> None:
    """The SOTA of such a log is the factor stage's, table and all; ``latest`` means the run that mined it."""
    assert source_of(informed.session).table == table_of(factor_run)
    inspected = json.loads(run_tool(sandbox, "inspect", str(informed.result.log), "--json").stdout)
    assert set(inspected["sota"]["factors"]) == MINED
    assert [loop["inherited_from"] is not None for loop in inspected["loops"]] == [True] * 3 + [False]
    latest = json.loads(run_tool(sandbox, "inspect", "latest", "--json").stdout)
    assert latest["task_id"] != informed.session.task_id


def test_user_interfaces_show_a_log_with_a_history(
    sandbox: Sandbox, informed: RealRun, factor_run: RealRun
) -> None:
    """Both load it; the baseline that they show is the factor stage's result."""
    shown = show(sandbox, informed.result.log)
    sota = factor_run.session.sota
    assert sota is not None
    assert (shown.scenario, shown.rounds) == ("QlibModelScenario", 1)
    assert shown.metrics[0] == ("Baseline", pytest.approx(sota.metrics["IC"]))
    assert shown.metrics[1] == ("Round 1", pytest.approx(informed.session.experiments[3].metrics["IC"]))
    assert "feedback.metric" in shown.server


def test_resumed_run_keeps_its_history(sandbox: Sandbox, informed: RealRun, factor_run: RealRun) -> None:
    """One loop more: the history is not put in twice, and the features stay."""
    result = sandbox.run(
        "fin_model",
        loops=2,
        name="informed",
        resume=informed.result.log / "__session__",
        environment=from_log(factor_run, SOTA_INHERIT_TRACE="true", **informed.cache),
    )
    session = sandbox.session(result.log)
    assert [record.loop for record in session.experiments] == [-4, -3, -2, 0, 1]
    assert look_at_training(sandbox, session).num_features == 3
    assert source_of(session).table == table_of(factor_run)


def test_quant_factors_join_the_sota_table(
    sandbox: Sandbox, quant_on_top: RealRun, factor_run: RealRun
) -> None:
    """The factor loops' tables hold the SOTA factors and what this run accepted, each once."""
    first, model, last = quant_on_top.session.experiments
    assert [record.kind.value for record in (first, model, last)] == ["factor", "model", "factor"]
    own = {factor.name for factor in first.factors}
    assert not own & MINED
    tables = [Path(str(record.workspace)) / "combined_factors_df.parquet" for record in (first, last)]
    assert sorted(read_names(tables[0])) == sorted(MINED | own)
    assert sorted(read_names(tables[1])) == sorted(MINED | own | {factor.name for factor in last.factors})
    assert set(read_names(table_of(factor_run))) == MINED


def test_quant_factors_are_judged_against_the_sota(
    sandbox: Sandbox, quant_on_top: RealRun, factor_run: RealRun
) -> None:
    """The first feedback compares with the factor run's result, and the proposal names its factors."""
    sota = factor_run.session.sota
    assert sota is not None
    feedback = prompts(sandbox, quant_on_top, "Current Result is")[0].prompt.user
    assert f"IC of Current Result is {quant_on_top.session.experiments[0].metrics['IC']:.6f}, " in feedback
    assert f"of SOTA Result is {sota.metrics['IC']:.6f}" in feedback
    proposal = prompts(sandbox, quant_on_top, PROPOSAL)[0].prompt.system
    assert "The SOTA factors that there are already:" in proposal
    assert all(f"- {name}: " in proposal for name in MINED)


def test_quant_model_counts_nothing_twice(sandbox: Sandbox, quant_on_top: RealRun) -> None:
    """After an accepted factor loop, a model sees 20 Alpha features, 3 SOTA factors and the new one."""
    trained = look_at_training(sandbox, quant_on_top.session, 1)
    assert trained.num_features == trained.input_size == len(set(trained.fitted)) == 24


def test_quant_log_is_a_source(quant_on_top: RealRun) -> None:
    """The set that fin_quant ends with is found as any other, with the origin of every factor."""
    source = source_of(quant_on_top.session)
    assert source.table is not None
    described = source.describe_factors(read_names(source.table))
    assert len(described) == 5
    assert all(origin.formulation and origin.code for origin in described)


def test_user_interfaces_show_a_quant_log(sandbox: Sandbox, quant_on_top: RealRun) -> None:
    """Both load it, three rounds."""
    shown = show(sandbox, quant_on_top.result.log)
    assert (shown.scenario, shown.rounds) == ("QlibQuantScenario", 3)
    assert [name for name, _ in shown.metrics] == ["Baseline", "Round 1", "Round 2", "Round 3"]


def test_quant_with_a_history(sandbox: Sandbox, quant_informed: RealRun) -> None:
    """fin_quant, too, can start with the history: its hypotheses have the action that it asks them for."""
    session = quant_informed.session
    assert [record.kind.value for record in session.experiments] == ["factor"] * 3 + ["model", "factor"]
    assert look_at_training(sandbox, session, 3).num_features == 3
    last = session.experiments[-1]
    table = Path(str(last.workspace)) / "combined_factors_df.parquet"
    assert sorted(read_names(table)) == sorted(MINED | {factor.name for factor in last.factors})
    assert show(sandbox, quant_informed.result.log).rounds == 2
