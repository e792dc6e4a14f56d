"""A history made again from what was read of a log: RD-Agent's own code works on it."""

from __future__ import annotations

import json
import pickle
import pickletools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture
from typer.testing import CliRunner

from rdagent_sota_patch.cli.main import app
from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.factor_table.sources import Source, source_of
from rdagent_sota_patch.sessions.inert import read_inert
from rdagent_sota_patch.sessions.logs import find_log
from rdagent_sota_patch.sessions.records import (
    ExperimentKind,
    ExperimentRecord,
    Factor,
    Session,
    Signature,
)
from rdagent_sota_patch.sessions.snapshots import read_session
from rdagent_sota_patch.sessions.trace import read_experiments
from rdagent_sota_patch.settings import SourceKind

Factory = Callable[..., Any]

METRICS = MappingProxyType(
    {
        "IC": 0.05,
        "1day.excess_return_with_cost.annualized_return": 0.12,
        "1day.excess_return_with_cost.max_drawdown": -0.03,
        "1day.excess_return_without_cost.annualized_return": 0.15,
        "1day.excess_return_without_cost.max_drawdown": -0.02,
    }
)


def make_record(loop: int, decision: bool, name: str, **more: Any) -> ExperimentRecord:
    """A factor experiment as it is read from a log."""
    return ExperimentRecord(
        **{
            "loop": loop,
            "kind": ExperimentKind.FACTOR,
            "decision": decision,
            "hypothesis": f"{name} predicts returns",
            "reason": f"{name} was tried",
            "factors": (
                Factor(name, f"about {name}", r"\frac{a}{b}", MappingProxyType({"a": "price"}), "print(1)\n"),
            ),
            "metrics": METRICS,
            "workspace": PurePosixPath(f"/elsewhere/{name}"),
            "base_features": MappingProxyType({"KLEN": "$high-$low"}),
            "base_feature_codes": MappingProxyType({"own.py": "print(2)\n"}),
            "proposal": MappingProxyType({"reason": "prices move", "concise_knowledge": "known"}),
            "verdict": MappingProxyType(
                {"observations": f"saw {name}", "hypothesis_evaluation": "holds", "new_hypothesis": "go on"}
            ),
            "stdout": "epoch 1",
            **more,
        }
    )


@pytest.fixture
def source(rdagent: Path, tmp_path: Path) -> Source:
    """Accepted, rejected, accepted; beside them a model and a loop without an experiment."""
    first = make_record(0, True, "Gap")
    rejected = make_record(1, False, "Volume", metrics=MappingProxyType({}), based_on=(first,))
    last = make_record(3, True, "Momentum", based_on=(first,))
    others = (
        ExperimentRecord(2, ExperimentKind.OTHER, False),
        ExperimentRecord(4, ExperimentKind.MODEL, True),
    )
    session = Session(
        tmp_path / "factor-log",
        tmp_path / "factor-log" / "__session__" / "4" / "4_record",
        Signature.VERIFIED,
        "FactorRDLoop",
        (first, rejected, others[0], last, others[1]),
    )
    return Source(SourceKind.LOG, session.log, tmp_path / "moved" / "t.parquet", session, last, METRICS)


def make_loop(scenario: Any = None) -> Any:
    """A new run's loop as far as its history goes, with a real trace."""
    from rdagent.core.proposal import Trace

    return SimpleNamespace(trace=Trace(scen=scenario), loop_trace=defaultdict(list))


@pytest.fixture
def inherit(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
    """Inherit ``source``; workspaces that RD-Agent would make are under ``tmp_path``."""
    from rdagent.core.conf import RD_AGENT_SETTINGS

    from rdagent_sota_patch.plugin.inheritance import inherit_history

    monkeypatch.setattr(RD_AGENT_SETTINGS, "workspace_path", tmp_path / "workspaces")

    def run(loop: Any = None, *, quant: bool = False, **changes: Any) -> Any:
        loop = loop or make_loop()
        inherit_history(loop, replace(source, **changes), quant=quant)
        return loop

    return run


def test_order_graph_and_loops(inherit: Factory) -> None:
    """The factor experiments come in their order, one after another, with loop ids that no loop has."""
    trace = inherit().trace
    assert [exp.sub_tasks[0].factor_name for exp, _ in trace.hist] == ["Gap", "Volume", "Momentum"]
    assert [bool(feedback) for _, feedback in trace.hist] == [True, False, True]
    assert trace.dag_parent == [(), (0,), (1,)]
    assert trace.idx2loop_id == {0: -4, 1: -3, 2: -2}
    assert trace.get_parents(2) == [0, 1, 2]
    assert trace.get_sota_hypothesis_and_experiment()[1] is trace.hist[2][0]


def test_own_loops_follow(inherit: Factory, make_experiment: Factory) -> None:
    """What the run records itself is a child of the last inherited experiment, under its own loop's id."""
    trace = inherit().trace
    if not hasattr(trace, "sync_dag_parent_and_hist"):
        pytest.skip("this release appends to the history alone")
    trace.sync_dag_parent_and_hist((make_experiment(), trace.hist[0][1]), 0)
    assert trace.dag_parent[3] == (2,)
    assert trace.idx2loop_id[3] == 0


def test_says_what_the_log_says(inherit: Factory, source: Source) -> None:
    """Texts, metrics, verdicts and what each was built on survive the way through a session."""
    assert source.session is not None
    loop = inherit()
    read = read_experiments(read_inert(pickle.dumps(_as_saved(loop)), trusted=True))
    wanted = [record for record in source.session.experiments if record.kind is ExperimentKind.FACTOR]
    for record, original in zip(read, wanted, strict=True):
        assert record.inherited_from == {"task_id": "factor-log", "loop": original.loop}
        assert (record.hypothesis, record.reason, record.decision, record.stdout) == (
            original.hypothesis,
            original.reason,
            original.decision,
            original.stdout,
        )
        assert record.factors == original.factors
        assert (dict(record.proposal), dict(record.verdict)) == (
            dict(original.proposal),
            dict(original.verdict),
        )
        assert {name: record.metrics[name] for name in original.metrics} == dict(original.metrics)
        assert [base.hypothesis for base in record.based_on] == [
            base.hypothesis for base in original.based_on
        ]
        assert dict(record.base_features) == dict(original.base_features)
        assert record.unread == ()
    assert [str(record.workspace) for record in read] == [
        "/elsewhere/Gap",
        "/elsewhere/Volume",
        # Where the table was found, which may be elsewhere by now.
        str(source.workspace),
    ]


def test_overwritten_base_features_are_remembered(inherit: Factory) -> None:
    """RD-Agent writes the run's own base features into the last experiment; the reader tells the original's."""
    loop = inherit()
    last = loop.trace.hist[-1][0]
    last.base_features, last.base_feature_codes = {"OTHER": "$close"}, {}
    record = read_experiments(read_inert(pickle.dumps(_as_saved(loop)), trusted=True))[-1]
    assert dict(record.base_features) == {"KLEN": "$high-$low"}
    assert dict(record.base_feature_codes) == {"own.py": "print(2)\n"}


def test_inherited_again_names_the_first(inherit: Factory, source: Source) -> None:
    """A history that was inherited itself is traced back to the run that mined it."""
    assert source.session is not None
    again = replace(
        source.session,
        experiments=(make_record(-2, True, "Gap", inherited_from={"task_id": "first", "loop": 7}),),
    )
    trace = inherit(session=again).trace
    assert trace.hist[0][0].inherited_from["task_id"] == "first"
    assert trace.hist[0][0].inherited_from["loop"] == 7


def test_nothing_of_ours_is_pickled(inherit: Factory) -> None:
    """Every class in the pickled history is RD-Agent's, or of a library it uses."""
    payload = pickle.dumps(_as_saved(inherit(quant=True)))
    texts = {str(argument) for _, argument, _ in pickletools.genops(payload) if isinstance(argument, str)}
    assert not {text for text in texts if text.startswith("rdagent_sota_patch")}
    assert "rdagent.scenarios.qlib.experiment.factor_experiment" in texts


def test_no_folder_is_left(inherit: Factory, tmp_path: Path) -> None:
    """Restoring a long history fills no disk."""
    inherit()
    assert not list((tmp_path / "workspaces").glob("*"))


def test_code_of_a_strangers_log_is_left_out(
    inherit: Factory, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody vouches for it, so no RD-Agent is to run it, with or without the plugin."""
    assert source.session is not None
    monkeypatch.delenv("ALLOW_UNSAFE_LEGACY_PICKLE", raising=False)
    trace = inherit(session=replace(source.session, signature=Signature.KEY_NOT_HERE)).trace
    for experiment, _ in trace.hist:
        assert all(not workspace.file_dict for workspace in experiment.sub_workspace_list)
        assert not any(experiment.prop_dev_feedback)


def test_resumed_run_keeps_its_history(inherit: Factory, mocker: MockerFixture) -> None:
    """A second start adds nothing; a run begun without the setting is told so."""
    from rdagent_sota_patch.plugin import inheritance

    log = mocker.patch.object(inheritance, "logger")
    loop = inherit()
    before = list(loop.trace.hist)
    inherit(loop)
    assert loop.trace.hist == before
    log.warning.assert_not_called()
    begun = make_loop()
    begun.loop_trace[0].append("step")
    inherit(begun)
    assert begun.trace.hist == []
    assert "[history-not-inherited]" in log.warning.call_args.args[0]


class PlainScenario:
    """A scenario whose description is one word; RD-Agent pickles it into its log."""

    def get_scenario_all_desc(self, *args: Any, **kwargs: Any) -> str:
        return "scenario"


@pytest.fixture
def model_scenario(rdagent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A scenario for RD-Agent's prompts, which it logs."""
    from rdagent.log import rdagent_logger

    monkeypatch.setattr(rdagent_logger, "storage", type(rdagent_logger.storage)(tmp_path / "log"))
    return PlainScenario()


def test_model_proposals_build_on_it(inherit: Factory, model_scenario: Any) -> None:
    """Upstream's prompts of the model stage tell the factor trials, the last and the SOTA."""
    from rdagent.scenarios.qlib.proposal.model_proposal import (
        QlibModelHypothesis2Experiment,
        QlibModelHypothesisGen,
    )

    trace = inherit(make_loop(model_scenario)).trace
    context, _ = QlibModelHypothesisGen(model_scenario).prepare_context(trace)
    assert "# Trial 3" in context["hypothesis_and_feedback"]
    assert "Volume predicts returns" in context["hypothesis_and_feedback"]
    assert "Momentum predicts returns" in context["SOTA_hypothesis_and_feedback"]
    assert "saw Momentum" in context["last_hypothesis_and_feedback"]
    assert "0.15" in context["SOTA_hypothesis_and_feedback"]
    context, _ = QlibModelHypothesis2Experiment().prepare_context(trace.hist[0][0].hypothesis, trace)
    assert "Momentum predicts returns" in context["SOTA_hypothesis_and_feedback"]


def test_first_model_is_judged_against_the_factors(
    inherit: Factory, model_scenario: Any, make_experiment: Factory, mocker: MockerFixture
) -> None:
    """Upstream's feedback compares with the factor stage's SOTA, and does not say that anything goes."""
    from rdagent.scenarios.qlib.developer import feedback

    from rdagent_sota_patch.plugin.inheritance import complete_result

    backend = mocker.patch.object(feedback, "APIBackend")
    ask = backend.return_value.build_messages_and_create_chat_completion
    ask.return_value = json.dumps({"Decision": True})
    trace = inherit(make_loop(model_scenario)).trace
    model = make_experiment()
    model.hypothesis = trace.hist[0][0].hypothesis
    model.result = complete_result({**METRICS, "IC": 0.07})
    feedback.QlibModelExperiment2Feedback(model_scenario).generate_feedback(model, trace)
    prompt = ask.call_args.kwargs["user_prompt"]
    assert "This is the first round" not in prompt
    assert "Hypothesis: Momentum predicts returns" in prompt
    assert "0.12" in prompt


@pytest.mark.parametrize("selection", ["bandit", "llm"])
@pytest.mark.parametrize("action", ["factor", "model"])
def test_quant_proposals_build_on_it(
    selection: str,
    action: str,
    inherit: Factory,
    mocker: MockerFixture,
    model_scenario: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fin_quant asks each hypothesis for its action, and finds one, however it selects the next."""
    from rdagent.scenarios.qlib.proposal import quant_proposal

    loop = make_loop()
    loop.trace = quant_proposal.QuantTrace(model_scenario)
    trace = inherit(loop, quant=True).trace
    monkeypatch.setattr(quant_proposal.QUANT_PROP_SETTING, "action_selection", selection)
    mocker.patch.object(type(trace.controller), "decide", return_value=action)
    backend = mocker.patch.object(quant_proposal, "APIBackend")
    ask = backend.return_value.build_messages_and_create_chat_completion
    ask.return_value = json.dumps({"action": action})
    context, _ = quant_proposal.QlibQuantHypothesisGen(model_scenario).prepare_context(trace)
    assert "Momentum predicts returns" in context["hypothesis_and_feedback"]
    assert ("Volume predicts returns" in context["hypothesis_and_feedback"]) == (action == "factor")


def test_inherited_factors_are_not_run_again(
    inherit: Factory, make_experiment: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """A model that RD-Agent bases on the inherited experiments is fed the SOTA table, byte for byte."""
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    from rdagent_sota_patch.plugin.feeding import feeding
    from rdagent_sota_patch.plugin.model_runner import _develop_upstream

    trace = inherit().trace
    model = make_experiment()
    based = [experiment for experiment, feedback in trace.hist if feedback]
    model.based_experiments = list(based)
    sota = make_sota()

    with feeding(model, sota):
        _develop_upstream(QlibModelRunner(None), model)
    (call,) = backtest
    assert call["table"] == sota.table.path.read_bytes()
    assert model.based_experiments == based
    assert model.sota_source["sota_factor_count"] == 2


def save(log: Path, place: str, loop: Any, own: int) -> None:
    """Write a snapshot of ``loop`` whose history ends with ``own`` rejected loops of its own."""
    trace = loop.trace
    inherited = [entry for entry in trace.hist if hasattr(entry[0], "inherited_from")]
    verdict = type(trace.hist[0][1])(
        observations="", hypothesis_evaluation="", new_hypothesis="", reason="", decision=False
    )
    trace.hist = [*inherited, *((None, verdict) for _ in range(own))]
    begin = len(inherited)
    trace.idx2loop_id = {
        position: position - begin - (position < begin) for position in range(len(trace.hist))
    }
    snapshot = log / "__session__" / place
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    snapshot.write_bytes(pickle.dumps(_as_saved(loop)))


def test_longest_history_is_found(inherit: Factory, tmp_path: Path) -> None:
    """Inherited experiments do not make a shorter history pass for the longest."""
    loop = inherit()
    save(tmp_path / "model", "0/4_record", loop, own=1)
    save(tmp_path / "model", "1/4_record", loop, own=2)
    save(tmp_path / "model", "2/0_direct_exp_gen", loop, own=1)
    session = read_session(tmp_path / "model")
    assert session.snapshot.parts[-2:] == ("1", "4_record")
    assert len(session.experiments) == 5
    assert session.experiments[-1].loop == 1


def test_loops_without_an_index(inherit: Factory, tmp_path: Path) -> None:
    """0.8.0 indexes no loop of its own: they are counted from where the inherited ones end."""
    loop = inherit()
    save(tmp_path / "model", "1/3_feedback", loop, own=2)
    loop.trace.idx2loop_id = {0: -4, 1: -3, 2: -2}
    read = read_experiments(read_inert(pickle.dumps(_as_saved(loop)), trusted=True))
    assert [record.loop for record in read] == [-4, -3, -2, 0, 1]


def test_model_log_names_the_right_sota(
    inherit: Factory, table: Path, source: Source, tmp_path: Path
) -> None:
    """Named as a source itself, such a log leads to the factor stage's table."""
    loop = inherit(table=table)
    save(tmp_path / "model", "0/4_record", loop, own=1)
    found = source_of(read_session(tmp_path / "model"))
    assert found.table == table
    assert [origin.name for origin in found.origins] == ["Gap", "Momentum"]
    assert {name: found.metrics[name] for name in METRICS} == dict(METRICS)


def test_latest_means_the_run_that_mined(inherit: Factory, tmp_path: Path) -> None:
    """`latest` passes over a run that only inherited its factors, and says so where there is no other."""
    save(tmp_path / "log" / "model", "0/4_record", inherit(), own=1)
    with pytest.raises(SourceError, match="its factors are inherited from factor-log"):
        find_log("latest", [tmp_path / "log"])


def test_inspect_marks_the_inherited(inherit: Factory, tmp_path: Path) -> None:
    """`inspect` tells of which run and loop an experiment is."""
    save(tmp_path / "model", "0/4_record", inherit(), own=1)
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "model")])
    assert result.exit_code == 0
    assert "loop -2: Momentum (inherited: loop 3 of factor-log)" in result.output
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "model"), "--json"])
    loops = json.loads(result.stdout)["loops"]
    assert [loop["inherited_from"] and loop["inherited_from"]["loop"] for loop in loops] == [0, 1, 3, None]


def _as_saved(loop: Any) -> Any:
    """A loop of RD-Agent's own class that holds the history."""
    from rdagent.components.workflow.rd_loop import RDLoop

    saved = object.__new__(RDLoop)
    saved.__dict__.update(trace=loop.trace)
    saved.trace.scen = None
    return saved
