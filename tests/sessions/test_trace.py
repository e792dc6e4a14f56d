from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest

from rdagent_sota_patch.errors import SnapshotError
from rdagent_sota_patch.sessions.inert import read_inert
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord, Signature
from rdagent_sota_patch.sessions.snapshots import read_session
from rdagent_sota_patch.sessions.trace import last_moment, read_experiments

from .forged import Made, factor_experiment, feedback, forge, model_experiment, saved_loop
from .generated_log import METRICS

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
STEP = Made("rdagent.utils.workflow.loop", "LoopTrace", state={"end": AT})
LATER = Made("rdagent.utils.workflow.loop", "LoopTrace", state={"end": AT + timedelta(hours=1)})


def read(loop: object) -> tuple[ExperimentRecord, ...]:
    return read_experiments(read_inert(forge(loop)))


def read_one(experiment: object, decision: object = True) -> ExperimentRecord:
    return read(saved_loop((experiment, feedback(decision))))[0]


@pytest.mark.usefixtures("key_here")
def test_a_real_session(real_log: Path) -> None:
    """Kinds, decisions, factors, code, metrics and texts of a session RD-Agent wrote."""
    session = read_session(real_log)
    assert session.signature is Signature.VERIFIED
    assert session.loop_class == "FactorRDLoop"
    assert [(e.loop, e.kind.value, e.decision) for e in session.experiments] == [
        (0, "factor", True),
        (1, "factor", False),
        (2, "factor", True),
        (3, "model", True),
    ]
    assert session.ended is not None
    assert session.ended <= datetime.now(timezone.utc)
    first, _, third, model = session.experiments
    assert dict(first.metrics) == METRICS
    assert (first.hypothesis, first.reason) == ("hypothesis 0", "because of its metrics")
    assert [(f.name, f.implemented) for f in third.factors] == [("Gap3", True), ("Bad", False)]
    assert third.factors[0].description == "what Gap3 measures"
    assert third.factors[0].formulation == r"\frac{close}{open} - 2"
    assert third.factors[0].variables == {"close": "the closing price"}
    assert (third.factors[0].code or "").startswith("# Gap3\n")
    assert len(third.base_features) == 20
    assert third.base_features["RESI5"] == "Resi($close, 5)/$close"
    assert third.workspace is not None and third.workspace.parent.name == "RD-Agent_workspace"
    assert model.model is not None
    assert (model.model.name, model.model.model_type) == ("Net3", "Tabular")
    assert model.model.training_hyperparameters == {"n_epochs": "2", "lr": "1e-3"}
    assert (model.model.code or "").startswith("# Net3\n")
    assert all(not e.unread for e in session.experiments)


@pytest.mark.usefixtures("key_here")
def test_an_experiment_met_twice_is_one_record(real_log: Path) -> None:
    """What a later experiment builds on is the record in the history; the placeholder is left out."""
    first, second, third, model = read_session(real_log).experiments
    assert first.based_on == ()
    assert second.based_on == (first,)
    assert third.based_on == (first,)
    assert model.based_on == (first, third)


def test_a_legacy_session(legacy_log: Path) -> None:
    """A plain 0.8.0 session without loop ids and base features reads, unsigned."""
    session = read_session(legacy_log)
    assert session.signature is Signature.UNSIGNED
    assert [(e.loop, e.decision) for e in session.experiments] == [(0, True), (1, False)]
    assert session.experiments[0].base_features == {}
    assert dict(session.experiments[0].metrics) == METRICS


def test_loop_ids_follow_the_trace() -> None:
    """In parallel runs history order is not loop order; idx2loop_id tells which is which."""
    entries = [(factor_experiment("A"), feedback(True)), (factor_experiment("B"), feedback(True))]
    assert [e.loop for e in read(saved_loop(*entries, idx2loop_id={0: 1, 1: 0}))] == [1, 0]
    assert [e.loop for e in read(saved_loop(*entries, idx2loop_id={0: 4}))] == [4, 1]


def test_kind_is_by_exact_class() -> None:
    """A user's own class is OTHER, with its name; nothing is guessed from its shape."""
    experiment = factor_experiment("A")
    experiment.module = "mine"
    record = read_one(experiment)
    assert (record.kind, record.class_path) == (ExperimentKind.OTHER, "mine:QlibFactorExperiment")
    assert record.factors == ()


def test_implemented_follows_upstreams_zip() -> None:
    """A factor without workspace, without verdict or with a false one was not implemented."""
    verdicts = [Made("m", "F", state={"final_decision": value}) for value in (True, True, False, None)]
    record = read_one(
        factor_experiment(
            *"ABCDE",
            sub_workspace_list=[Made("m", "W"), None, Made("m", "W"), Made("m", "W"), Made("m", "W")],
            prop_dev_feedback=Made("m", "Multi", state={"feedback_list": verdicts}),
        )
    )
    assert [f.implemented for f in record.factors] == [True, False, False, False, False]


def test_no_feedback_of_the_coder_implements_nothing() -> None:
    """Without prop_dev_feedback upstream runs none of the factors."""
    record = read_one(factor_experiment("A", prop_dev_feedback=None))
    assert [f.implemented for f in record.factors] == [False]


def test_placeholders_count_when_they_carry_code() -> None:
    """An empty placeholder is left out; one with base feature code is kept, as upstream runs it."""
    empty = factor_experiment()
    coded = factor_experiment(base_feature_codes={"mine.py": "code"})
    model = model_experiment()
    record = read_one(factor_experiment("A", based_experiments=[empty, coded, model]))
    assert [dict(e.base_feature_codes) for e in record.based_on] == [{"mine.py": "code"}]
    assert (record.based_on[0].loop, record.based_on[0].decision) == (-1, None)


def test_metrics_that_cannot_be_read_are_reported() -> None:
    """A result of unknown form leaves no metrics and a note, never a number."""
    info = Made("m", "RunningInfo", state={"result": Made("pandas.core.frame", "DataFrame")})
    record = read_one(factor_experiment("A", running_info=info))
    assert record.metrics == {}
    assert record.unread == ("metrics: metrics in an unknown form: pandas.core.frame:DataFrame",)


def test_what_the_plugin_recorded_comes_back() -> None:
    """sota_source is plain data; anything else in it is reported."""
    assert read_one(model_experiment(sota_source={"loop": 2, "factors": ["A"]})).sota_source == {
        "loop": 2,
        "factors": ["A"],
    }
    assert read_one(model_experiment(seed_test={"outcome": "better"})).seed_test == {"outcome": "better"}
    assert read_one(model_experiment()).seed_test is None
    hidden = read_one(model_experiment(sota_source={"x": Made("os", "system", ("true",))}))
    assert hidden.sota_source == {}
    assert hidden.unread == ("sota_source: not plain data: os:system",)
    assert read_one(model_experiment(sota_source=[1])).unread == ("sota_source: not a mapping: list",)


def test_texts_in_other_json_types() -> None:
    """A language model may answer with a list or a number where a text belongs."""
    task = Made(
        "m", "FactorTask", state={"factor_name": "A", "description": ["x", 1], "factor_formulation": 3}
    )
    (factor,) = read_one(factor_experiment("A", sub_tasks=[task])).factors
    assert (factor.description, factor.formulation) == ("['x', 1]", "3")


def test_variables_of_another_form_are_reported() -> None:
    """Variables that are no mapping are left out and noted."""
    task = Made("m", "FactorTask", state={"factor_name": "A", "variables": "none"})
    record = read_one(factor_experiment("A", sub_tasks=[task]))
    assert record.factors[0].variables == {}
    assert record.unread == ("variables of A: not a mapping: str",)


def test_paths_stay_pure() -> None:
    """A workspace is a pure path in its writer's spelling."""
    assert read_one(factor_experiment("A")).workspace == PurePosixPath("/ws/main")


def test_a_loop_without_an_experiment() -> None:
    """RD-Agent may record None for a loop that failed before it had an experiment."""
    record = read_one(None, False)
    assert (record.kind, record.class_path, record.decision) == (ExperimentKind.OTHER, "", False)


def _endless() -> Made:
    experiment = factor_experiment("A")
    experiment.state["based_experiments"].append(experiment)
    return experiment


@pytest.mark.parametrize(
    "loop",
    [
        [1, 2],
        Made("os", "system", ("true",)),
        Made("m", "Loop", state={"trace": Made("m", "Trace", state={"hist": {}})}),
        Made("m", "Loop", state={"trace": Made("m", "Trace", state={"hist": [1]})}),
        saved_loop((1, feedback(True))),
        saved_loop((factor_experiment("A"), Made("m", "F", state={}))),
        saved_loop((factor_experiment("A"), feedback("yes"))),
        saved_loop((factor_experiment("A"), feedback(True)), idx2loop_id=[0]),
        saved_loop((factor_experiment("A", sub_tasks=3), feedback(True))),
        saved_loop((factor_experiment("A", sub_tasks=[3]), feedback(True))),
        saved_loop((_endless(), feedback(True))),
    ],
)
def test_foreign_things_are_errors(loop: object) -> None:
    """What is not a session, or one with something needed in another form, is a SnapshotError."""
    with pytest.raises(SnapshotError) as caught:
        read(loop)
    assert caught.value.slug == "snapshot-foreign"


def test_recorded_and_embedded_weights() -> None:
    """The plugin's record is plain data, and the weights are bytes: those of one sub-workspace more than tasks."""
    record = {"schema_version": 1, "run_id": "ab", "weights": {"name": "params.pkl", "size": 3}}
    experiment = factor_experiment("A", model_artifacts=record)
    carrier = Made("rdagent.core.experiment", "FBWorkspace", state={"file_dict": {"model.pkl": b"\x80\x04."}})
    experiment.state["sub_workspace_list"].append(carrier)
    read = read_one(experiment)
    assert read.artifacts == record
    assert read.embedded_weights == b"\x80\x04."
    assert [factor.name for factor in read.factors] == ["A"]
    assert read.unread == ()
    assert "embedded_weights" not in repr(read)


@pytest.mark.parametrize("kept", ["text", Made("builtins", "bytearray"), None])
def test_weights_are_bytes_or_nothing(kept: object) -> None:
    """Whatever else bears the weights' name is not weights; and a record that is not a mapping is reported."""
    experiment = factor_experiment("A", model_artifacts=["no mapping"])
    experiment.state["sub_workspace_list"].append(
        Made("rdagent.core.experiment", "FBWorkspace", state={"file_dict": {"model.pkl": kept}})
    )
    read = read_one(experiment)
    assert (read.artifacts, read.embedded_weights) == (None, None)
    assert read.unread == ("model_artifacts: not a mapping: list",)


@pytest.mark.parametrize("trusted", [True, False])
def test_large_weights_are_read_quickly(trusted: bool) -> None:
    """Sixteen megabytes of weights are neither refused nor walked byte by byte."""
    weights = bytes(range(256)) * (1 << 16)
    experiment = factor_experiment("A")
    experiment.state["sub_workspace_list"].append(
        Made("rdagent.core.experiment", "FBWorkspace", state={"file_dict": {"model.pkl": weights}})
    )
    payload = forge(saved_loop((experiment, feedback(True))))
    start = time.perf_counter()
    (record,) = read_experiments(read_inert(payload, trusted=trusted))
    assert time.perf_counter() - start < 1.0
    assert record.embedded_weights == weights


def test_an_inherited_experiment() -> None:
    """Task and loop of an earlier run are read; anything else in their place is said, and read as none."""
    record = read_one(factor_experiment("A", inherited_from={"task_id": "run", "loop": 3}))
    assert record.inherited_from == {"task_id": "run", "loop": 3}
    assert not record.unread
    for wrong in ({"task_id": "run"}, {"task_id": 7, "loop": 3}, {"task_id": "run", "loop": "3"}, ["run", 3]):
        record = read_one(factor_experiment("A", inherited_from=wrong))
        assert record.inherited_from is None
        assert [part for part in record.unread if "inherited_from" in str(part)]


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        (None, None),
        ({0: [STEP], 1: [LATER, STEP]}, AT),
        ({0: [STEP, LATER], 1: [STEP], 2: []}, AT + timedelta(hours=1)),
        ({0: "junk", 1: [3], 2: [Made("m", "LoopTrace", state={"end": AT.replace(tzinfo=None)})]}, None),
        ([STEP], None),
        (
            {
                0: [
                    Made(
                        "m",
                        "LoopTrace",
                        state={"end": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))},
                    )
                ]
            },
            None,
        ),
    ],
)
def test_when_the_last_step_ended(traces: object, expected: datetime | None) -> None:
    """By the log itself: the latest of the loops' last steps, in UTC; what is not a time with an offset is left out."""
    loop = saved_loop((factor_experiment("A"), feedback(True)))
    loop.state["loop_trace"] = traces
    assert last_moment(read_inert(forge(loop))) == expected
