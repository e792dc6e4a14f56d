"""Weights of accepted experiments: recorded when they are made, and kept in each snapshot."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.sessions.records import ExperimentRecord
from rdagent_sota_patch.sessions.signature import MAGIC, find_key
from rdagent_sota_patch.sessions.snapshots import read_session

Factory = Callable[..., Any]

LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def nothing_held(rdagent: Path, mocker: MockerFixture) -> Any:
    """A process that has not kept any weights yet; its log."""
    from rdagent_sota_patch.plugin import embedding
    from rdagent_sota_patch.plugin import embedding as artifacts

    mocker.patch.object(embedding, "_held", {})
    mocker.patch.object(embedding, "_told", set())
    log = mocker.patch.object(artifacts, "logger")
    mocker.patch.object(embedding, "logger", log)
    return log


@pytest.fixture
def make_factor(rdagent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
    """Make a real, back-tested ``QlibFactorExperiment`` of one factor, with Qlib's recorder in its workspace."""
    from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
    from rdagent.core.conf import RD_AGENT_SETTINGS
    from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

    from rdagent_sota_patch.plugin.synthetic import coder_feedback

    monkeypatch.setattr(RD_AGENT_SETTINGS, "workspace_path", tmp_path / "work spaces")

    def make(name: str, weights: bytes | None) -> QlibFactorExperiment:
        task = FactorTask(factor_name=name, factor_description="", factor_formulation="")
        experiment = QlibFactorExperiment(sub_tasks=[task])
        space = FactorFBWorkspace(target_task=task)
        space.inject_files(**{"factor.py": f"# {name}\n"})
        experiment.sub_workspace_list = [space]
        experiment.prop_dev_feedback = coder_feedback([True])
        experiment.result = pd.Series({"IC": 0.05})
        if weights is not None:
            write_recorder(experiment.experiment_workspace.workspace_path, name, weights)
        return experiment

    return make


def write_recorder(workspace: Path, run: str, weights: bytes) -> Path:
    """A finished run, as MLflow's file store keeps it."""
    folder = workspace / "mlruns" / "7" / run
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / "params.pkl").write_bytes(weights)
    lines = ("end_time: 1795247850796", "experiment_id: '7'", "lifecycle_stage: active", f"run_id: {run}")
    (folder / "meta.yaml").write_text("\n".join((*lines, "status: 3", "")), encoding="utf-8")
    return folder


class Run:
    """A run of RD-Agent's own loop class, as far as its snapshots go."""

    def __init__(self, folder: Path) -> None:
        from rdagent.app.qlib_rd_loop.factor import FactorRDLoop

        self.folder = folder
        self.loop = object.__new__(FactorRDLoop)
        self.loop.trace = SimpleNamespace(hist=[])
        self.loop.loop_prev_out = {}
        self.loop.session_folder = folder / "__session__"

    def finish(self, experiment: Any, decision: bool, limit: int = LIMIT) -> Path:
        """One loop from the end of its back-test on; its last snapshot."""
        number = len(self.loop.trace.hist)
        self.loop.loop_prev_out[number] = {"running": experiment}
        self.dump(number, "2_running", limit)
        self.loop.trace.hist.append((experiment, SimpleNamespace(decision=decision)))
        return self.dump(number, "4_record", limit)

    def dump(self, number: int, step: str, limit: int = LIMIT) -> Path:
        from rdagent.utils.workflow import LoopBase

        from rdagent_sota_patch.plugin.embedding import keeping_weights

        path = Path(self.loop.session_folder, str(number), step)
        upstream = getattr(LoopBase.dump, "__wrapped__", LoopBase.dump)
        with keeping_weights(self.loop, path, limit):
            upstream(self.loop, path)
        return path

    def records(self) -> tuple[ExperimentRecord, ...]:
        """What the log says, to a reader that imports nothing of RD-Agent."""
        key = find_key(
            {"ARTIFACT_SIGNING_KEY_PATH": str(self.folder.parents[1] / "key")}, self.folder / ".env"
        )
        return read_session(self.folder, key=key).experiments

    def resume(self, snapshot: Path) -> None:
        """Go on from a snapshot, as in a new process."""
        from rdagent_sota_patch.plugin import embedding

        embedding._held.clear()
        self.loop = load(snapshot)
        embedding.adopt_history(self.loop)


def load(snapshot: Path) -> Any:
    """A snapshot as RD-Agent loads it; without looking at its signature."""
    data = snapshot.read_bytes()
    return pickle.loads(data[len(MAGIC) + 32 :] if data.startswith(MAGIC) else data)


def readers_way(snapshot: Path) -> bytes | None:
    """Weights of the last accepted factor experiment, as programs that read sessions look for them."""
    accepted = [
        experiment
        for experiment, feedback in load(snapshot).trace.hist
        if feedback.decision and "Factor" in type(experiment).__name__
    ]
    for space in accepted[-1].sub_workspace_list:
        if space and "model.pkl" in space.file_dict:
            weights: bytes = space.file_dict["model.pkl"]
            return weights
    return None


@pytest.fixture
def run(tmp_path: Path, rdagent: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    from rdagent.core.conf import RD_AGENT_SETTINGS

    if hasattr(RD_AGENT_SETTINGS, "artifact_signing_key_path"):
        # Another test's key, if RD-Agent was first imported there, would win.
        monkeypatch.setattr(RD_AGENT_SETTINGS, "artifact_signing_key", "")
        monkeypatch.setattr(RD_AGENT_SETTINGS, "artifact_signing_key_path", tmp_path / "key")
    return Run(tmp_path / "log" / "run")


def test_accepted_weights_are_in_every_snapshot(run: Run, make_factor: Factory) -> None:
    """The snapshot has the bytes and the record; the experiment in memory has the record alone."""
    first = make_factor("First", b"weights of the first")
    run.finish(first, True)
    second = make_factor("Second", b"rejected weights")
    last = run.finish(second, False)
    for snapshot in (last, last.with_name("2_running")):
        assert readers_way(snapshot) == b"weights of the first"
    assert len(first.sub_workspace_list) == len(second.sub_workspace_list) == 1
    workspace = first.experiment_workspace.workspace_path
    assert first.model_artifacts == {
        "schema_version": 1,
        "experiment_id": "7",
        "run_id": "First",
        "path": str(workspace / "mlruns" / "7" / "First"),
        "weights": {
            "name": "params.pkl",
            "size": 20,
            "sha256": hashlib.sha256(b"weights of the first").hexdigest(),
        },
        "embedded": True,
    }
    assert second.model_artifacts["embedded"] is False
    records = run.records()
    assert [record.artifacts["run_id"] for record in records if record.artifacts] == ["First", "Second"]
    assert [record.embedded_weights for record in records] == [b"weights of the first", None]
    assert [len(record.factors) for record in records] == [1, 1]


def test_newer_accepted_weights_replace_older_ones(run: Run, make_factor: Factory) -> None:
    """A session holds one set of weights for factors, however many were accepted."""
    first = make_factor("First", b"one")
    run.finish(first, True)
    snapshot = run.finish(make_factor("Second", b"two"), True)
    assert readers_way(snapshot) == b"two"
    assert [record.embedded_weights for record in run.records()] == [None, b"two"]
    assert first.model_artifacts["embedded"] is False


def test_model_and_factor_weights_are_both_kept(
    run: Run, make_factor: Factory, make_experiment: Factory
) -> None:
    """In fin_quant, a model accepted after a factor does not take its weights away."""
    run.finish(make_factor("First", b"of the factor"), True)
    model = make_experiment()
    model.result = pd.Series({"IC": 0.06})
    write_recorder(model.experiment_workspace.workspace_path, "Net", b"of the model")
    run.finish(model, True)
    records = run.records()
    assert [record.embedded_weights for record in records] == [b"of the factor", b"of the model"]
    assert records[1].model is not None and (records[1].model.code or "").startswith("model_cls")


@pytest.mark.parametrize("result", [None, "cached"])
def test_no_weights_no_record(result: str | None, run: Run, make_factor: Factory, nothing_held: Any) -> None:
    """A failed back-test gets no record; a result from the run cache gets none either, and that is said."""
    experiment = make_factor("Cached", None)
    if result is None:
        experiment.result = None
        write_recorder(experiment.experiment_workspace.workspace_path, "Half", b"half-trained")
    run.finish(experiment, result is not None)
    assert not hasattr(experiment, "model_artifacts")
    assert run.records()[0].artifacts is None
    warnings = [str(call.args[0]) for call in nothing_held.warning.call_args_list]
    assert [warning[:22] for warning in warnings] == (["[weights-not-recorded]"] if result else [])


def test_skipped_loop_is_no_experiment(run: Run, make_factor: Factory) -> None:
    """A loop that was skipped before its back-test leaves None, in the step and in the history."""
    run.finish(make_factor("First", b"one"), True)
    snapshot = run.finish(None, False)
    assert readers_way(snapshot) == b"one"


@pytest.mark.parametrize(("limit", "told"), [(7, 0), (6, 1), (0, 0)])
def test_size_limit(limit: int, told: int, run: Run, make_factor: Factory, nothing_held: Any) -> None:
    """Larger weights are recorded and not kept, which is said once; with 0 none are wanted."""
    experiment = make_factor("First", b"seven b")
    run.finish(experiment, True, limit)
    snapshot = run.finish(make_factor("Second", b"x"), False, limit)
    assert readers_way(snapshot) == (b"seven b" if limit == 7 else None)
    assert experiment.model_artifacts["embedded"] is (limit == 7)
    warnings = [str(call.args[0]) for call in nothing_held.warning.call_args_list]
    assert len(warnings) == told
    assert all("[weights-not-kept]" in warning and "7 bytes" in warning for warning in warnings)


def test_changed_weights_are_not_kept(run: Run, make_factor: Factory, nothing_held: Any) -> None:
    """What lies in the workspace when it is accepted must be what was recorded when it was trained."""
    experiment = make_factor("First", b"trained")
    run.loop.loop_prev_out[0] = {"running": experiment}
    run.dump(0, "2_running")
    folder = experiment.experiment_workspace.workspace_path / "mlruns" / "7" / "First"
    (folder / "artifacts" / "params.pkl").write_bytes(b"altered")
    assert readers_way(run.finish(experiment, True)) is None
    assert "was changed since the back-test" in str(nothing_held.warning.call_args)
    assert experiment.model_artifacts["weights"]["sha256"] == hashlib.sha256(b"trained").hexdigest()


def test_resumed_run_keeps_the_weights(run: Run, make_factor: Factory) -> None:
    """Also when the workspace is gone: they come from the session, and go into the next snapshot."""
    experiment = make_factor("First", b"one")
    snapshot = run.finish(experiment, True)
    shutil.rmtree(experiment.experiment_workspace.workspace_path)
    run.resume(snapshot)
    ((loaded, _),) = run.loop.trace.hist
    assert len(loaded.sub_workspace_list) == 1
    assert readers_way(run.finish(make_factor("Second", b"two"), False)) == b"one"


def test_what_was_accepted_without_the_plugin_is_recorded(run: Run, make_factor: Factory) -> None:
    """A run that is resumed with the plugin has the record of what an RD-Agent without it accepted last."""
    first, second = make_factor("First", b"one"), make_factor("Second", b"two")
    snapshot = run.finish(first, True)
    run.loop = load(snapshot)
    run.loop.trace.hist.append((second, SimpleNamespace(decision=True)))
    run.resume(run.dump(1, "4_record"))
    assert readers_way(run.dump(2, "0_direct_exp_gen")) == b"two"


def test_inherited_experiments_are_another_runs(run: Run, make_factor: Factory) -> None:
    """Neither recorded nor kept: their weights are in the log that they come from."""
    inherited = make_factor("Old", b"old")
    inherited.inherited_from = {"task_id": "other", "loop": 3}
    run.loop.trace.hist.append((inherited, SimpleNamespace(decision=True)))
    run.resume(run.dump(0, "0_direct_exp_gen"))
    run.dump(0, "1_coding")
    assert run.records()[0].embedded_weights is None
    assert not hasattr(run.loop.trace.hist[0][0], "model_artifacts")


def test_failed_dump_leaves_no_weights_behind(run: Run, make_factor: Factory, mocker: MockerFixture) -> None:
    """A full disk ends the run as it would without the plugin, and memory is as it was."""
    from rdagent_sota_patch.plugin.embedding import keeping_weights

    experiment = make_factor("First", b"one")
    run.finish(experiment, True)
    with pytest.raises(OSError, match="full"), keeping_weights(run.loop, Path("s", "1", "1_coding"), LIMIT):
        assert len(experiment.sub_workspace_list) == 2
        raise OSError("disk full")
    assert len(experiment.sub_workspace_list) == 1


def test_rdagent_runs_the_factor_again(run: Run, make_factor: Factory, mocker: MockerFixture) -> None:
    """Upstream's own code executes a loaded accepted experiment, weights and all, without ever seeing the plugin."""
    from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace
    from rdagent.scenarios.qlib.developer.utils import process_factor_data

    snapshot = run.finish(make_factor("First", b"\x80weights that are no text"), True)
    ((loaded, _),) = load(snapshot).trace.hist
    assert len(loaded.sub_workspace_list) == 2
    loaded.hypothesis = SimpleNamespace(concise_justification="")
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=2), ["SH600000"]], names=["datetime", "instrument"]
    )
    frame = pd.DataFrame({"First": [1.0, 2.0]}, index=index)
    executed: list[Any] = []

    def execute(self: Any, data_type: str) -> tuple[str, pd.DataFrame]:
        # What upstream's own does first, and what fails for bytes.
        self.before_execute()
        executed.append(self)
        return "", frame

    mocker.patch.object(FactorFBWorkspace, "execute", execute)
    pd.testing.assert_frame_equal(process_factor_data(loaded), frame)
    assert executed == loaded.sub_workspace_list[:1]
    # Nor does it hurt what upstream does with all of an experiment's sub-workspaces.
    loaded.create_ws_ckp()
    loaded.recover_ws_ckp()
    assert "model.pkl" in str(loaded.sub_workspace_list[1])


@pytest.mark.parametrize("data", [b"", b"\x00" * LIMIT])
def test_any_bytes_are_weights(data: bytes, run: Run, make_factor: Factory) -> None:
    """Nothing looks into the weights."""
    assert readers_way(run.finish(make_factor("First", data), True)) == data


def test_what_rdagent_keeps_itself_is_not_kept_twice(run: Run, make_factor: Factory) -> None:
    """A checkout whose runner puts the weights into a sub-workspace gets no second copy, and they count as kept."""
    experiment = make_factor("First", b"weights of the first")
    experiment.sub_workspace_list[0].file_dict["params.pkl"] = b"weights of the first"
    snapshot = run.finish(experiment, True)
    (space,) = load(snapshot).trace.hist[0][0].sub_workspace_list
    assert space.file_dict["params.pkl"] == b"weights of the first"
    assert experiment.model_artifacts["embedded"] is True
    assert run.records()[0].embedded_weights == b"weights of the first"


def test_other_bytes_of_rdagent_are_no_weights_of_this_back_test(run: Run, make_factor: Factory) -> None:
    """Bytes left from elsewhere do not count: the back-test's own weights are kept beside them."""
    experiment = make_factor("First", b"weights of the first")
    experiment.sub_workspace_list[0].file_dict["params.pkl"] = b"of another run"
    snapshot = run.finish(experiment, True)
    spaces = load(snapshot).trace.hist[0][0].sub_workspace_list
    assert [space.file_dict.get("model.pkl") for space in spaces] == [None, b"weights of the first"]
    assert len(experiment.sub_workspace_list) == 1
