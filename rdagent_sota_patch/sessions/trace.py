"""From the stand-in of a saved loop to the experiments of its history.

Attribute names are those of ``rdagent/core/experiment.py``, ``core/proposal.py`` and
``components/coder`` in RD-Agent 0.8.0 and 1.0.0; where the two differ, both are known.
"""

from __future__ import annotations

from datetime import datetime, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import SnapshotError
from rdagent_sota_patch.sessions.budget import budget_of_session
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord, Factor, Model
from rdagent_sota_patch.sessions.thaw import (
    Unthawable,
    describe,
    is_number,
    thaw_bool,
    thaw_json,
    thaw_metrics,
    thaw_path,
    thaw_plain,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import PurePath

    from rdagent_sota_patch.sessions.budget import Budget

_FACTOR_EXPERIMENT = ("rdagent.scenarios.qlib.experiment.factor_experiment", "QlibFactorExperiment")
_MODEL_EXPERIMENT = ("rdagent.scenarios.qlib.experiment.model_experiment", "QlibModelExperiment")
# Exact: FactorExperiment and ModelExperiment are one class upstream, and tell nothing apart.
_KINDS = {_FACTOR_EXPERIMENT: ExperimentKind.FACTOR, _MODEL_EXPERIMENT: ExperimentKind.MODEL}

_OUTSIDE_HISTORY = -1

# What each takes beside its texts, at the least: a list of them may be shared by any number of experiments.
_VALUES_OF_A_FACTOR = 6
_VALUES_OF_A_RECORD = 20

EMBEDDED_NAMES = ("model.pkl", "params.pkl")
"""Names in a sub-workspace's ``file_dict`` under which a session keeps weights."""

# Attributes of Hypothesis and HypothesisFeedback, beside those that every record has (``rdagent/core/proposal.py``).
_PROPOSAL = ("reason", "concise_reason", "concise_observation", "concise_justification", "concise_knowledge")
_VERDICT = ("observations", "hypothesis_evaluation", "new_hypothesis")


def _history_of(loop: object) -> list[tuple[Any, Inert]]:
    """The loop's ``trace.hist`` as (experiment, feedback) pairs of stand-ins, oldest first.

    Raises:
        SnapshotError: ``snapshot-foreign`` when this is not a saved loop of RD-Agent.
    """
    trace = _attributes(loop).get("trace")
    history = _attributes(trace).get("hist")
    if not isinstance(history, list):
        raise _foreign(f"it holds {describe(loop)}, without a trace.hist")
    for entry in history:
        if type(entry) is not tuple or len(entry) != 2 or not isinstance(entry[1], Inert):
            raise _foreign("an entry of its history is not an (experiment, feedback) pair")
    return history


def read_experiments(loop: object, budget: Budget | None = None) -> tuple[ExperimentRecord, ...]:
    """The records of the loop's history, oldest first; an experiment met twice is one record.

    Args:
        loop: The saved loop's stand-in.
        budget: What it may be written out to; that of a session of this machine, when not given.

    Raises:
        SnapshotError: ``snapshot-foreign`` when something needed is missing or of another form,
            ``snapshot-too-large`` when it exceeds the budget.
    """
    history = _history_of(loop)
    trace = _attributes(_attributes(loop).get("trace"))
    # 0.8.0 may lack it: there, experiments are recorded in the order of their loops.
    loops = trace.get("idx2loop_id", {})
    reader = _Reader(budget or budget_of_session(own=True))
    records: list[ExperimentRecord] = []
    inherited = 0
    for position, (experiment, feedback) in enumerate(history):
        loop_index = loops.get(position, position - inherited) if isinstance(loops, dict) else None
        if not is_number(loop_index):
            raise _foreign("its trace.idx2loop_id does not map positions to loops")
        records.append(reader.read(experiment, loop_index, feedback))
        reader.budget.spend_values(_VALUES_OF_A_RECORD)
        inherited += records[-1].inherited_from is not None
    return tuple(records)


def loop_class(loop: object) -> str:
    """Name of the saved loop's class, such as ``FactorRDLoop``."""
    return describe(loop).rpartition(":")[2]


def last_moment(loop: object) -> datetime | None:
    """When the last of the loop's steps ended, in UTC (``loop_trace`` in ``rdagent/utils/workflow/loop.py``)."""
    traces = _attributes(loop).get("loop_trace")
    steps = traces.entries if isinstance(traces, Inert) else traces
    ends = []
    for steps_of_loop in steps.values() if isinstance(steps, dict) else ():
        # Steps of a loop follow each other; loops run side by side.
        last = steps_of_loop[-1] if isinstance(steps_of_loop, list) and steps_of_loop else None
        try:
            end = thaw_plain(_attributes(last).get("end"))
            if isinstance(end, datetime) and end.tzinfo is not None:
                ends.append(end.astimezone(timezone.utc))
        except (Unthawable, OverflowError):
            continue
    return max(ends, default=None)


class _Reader:
    """Reads experiments once each, however often they are referred to."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._done: dict[int, ExperimentRecord] = {}
        self._open: set[int] = set()
        self._bases: dict[int, ExperimentRecord | None] = {}
        self._mappings: dict[int, tuple[Mapping[str, str], int]] = {}

    def read(self, experiment: object, loop_index: int, feedback: Inert | None) -> ExperimentRecord:
        # Stand-ins stay alive as long as the loop does, so that their ids stay theirs.
        key = id(experiment)
        if key in self._done:
            return self._done[key]
        if key in self._open:
            raise _foreign("an experiment is based on itself")
        self._open.add(key)
        record = self._read(experiment, loop_index, feedback)
        self._open.discard(key)
        if experiment is not None:
            self._done[key] = record
        return record

    def _read(self, experiment: object, loop_index: int, feedback: Inert | None) -> ExperimentRecord:
        # A loop that was skipped before it had an experiment is recorded with None.
        if experiment is not None and not isinstance(experiment, Inert):
            raise _foreign(f"its history holds {describe(experiment)} as an experiment")
        origin = experiment.origin if experiment is not None else ("", "")
        kind = _KINDS.get(origin, ExperimentKind.OTHER)
        attributes = _attributes(experiment)
        notes = _Notes(self.budget)
        verdict = _attributes(feedback)
        if feedback is not None and "decision" not in verdict:
            raise _foreign(f"a {describe(feedback)} in its history has no decision")
        hypothesis = _attributes(attributes.get("hypothesis"))
        inherited = attributes.get("inherited_from")
        # RD-Agent overwrites an inherited experiment's base features with those of the run it is in.
        base = inherited if isinstance(inherited, dict) else attributes
        return ExperimentRecord(
            loop=loop_index,
            kind=kind,
            decision=None if feedback is None else _decision(verdict["decision"]),
            hypothesis=_text(hypothesis.get("hypothesis"), "hypothesis", notes),
            reason=_text(verdict.get("reason"), "reason", notes),
            factors=self._factors(attributes, notes) if kind is ExperimentKind.FACTOR else (),
            model=self._model(attributes, notes) if kind is ExperimentKind.MODEL else None,
            metrics=MappingProxyType(notes.take("metrics", thaw_metrics, _result(attributes), {})),
            workspace=_workspace(attributes, notes),
            based_on=self._based_on(attributes),
            base_features=self._texts(base.get("base_features"), "base_features", notes),
            base_feature_codes=self._texts(base.get("base_feature_codes"), "base_feature_codes", notes),
            sota_source=_recorded(attributes, "sota_source", notes),
            artifacts=_recorded(attributes, "model_artifacts", notes) or None,
            embedded_weights=_embedded(attributes),
            class_path=experiment.title if experiment is not None else "",
            proposal=_chosen_texts(hypothesis, _PROPOSAL, notes),
            verdict=_chosen_texts(verdict, _VERDICT, notes),
            stdout=_text(attributes.get("stdout"), "stdout", notes),
            inherited_from=_inherited_from(inherited, notes),
            # Where steps had processes of their own, it came back with the feedback alone.
            seed_test=_recorded(attributes if "seed_test" in attributes else verdict, "seed_test", notes)
            or None,
            unread=tuple(notes),
        )

    def _based_on(self, attributes: Mapping[str, Any]) -> tuple[ExperimentRecord, ...]:
        """What ``process_factor_data`` would run (``rdagent/scenarios/qlib/developer/utils.py``)."""
        based = _sequence(attributes.get("based_experiments"), "based_experiments")
        self.budget.spend_values(len(based))
        for experiment in based:
            if id(experiment) not in self._bases:
                self._bases[id(experiment)] = self._base(experiment)
        # A hundred loops refer to each other some thousands of times.
        return tuple(record for record in map(self._bases.__getitem__, map(id, based)) if record is not None)

    def _base(self, experiment: object) -> ExperimentRecord | None:
        record = self._done.get(id(experiment))
        if record is None:
            if not isinstance(experiment, Inert) or experiment.origin != _FACTOR_EXPERIMENT:
                return None
            if not experiment.attributes.get("sub_tasks") and not experiment.attributes.get(
                "base_feature_codes"
            ):
                return None
            record = self.read(experiment, _OUTSIDE_HISTORY, None)
        built_upon = record.kind is ExperimentKind.FACTOR and (record.factors or record.base_feature_codes)
        return record if built_upon else None

    def _factors(self, attributes: Mapping[str, Any], notes: _Notes) -> tuple[Factor, ...]:
        tasks = _sequence(attributes.get("sub_tasks"), "sub_tasks")
        spaces = _padded(attributes.get("sub_workspace_list"), "sub_workspace_list", len(tasks))
        development = _attributes(attributes.get("prop_dev_feedback"))
        verdicts = _padded(development.get("feedback_list"), "feedback_list", len(tasks))
        factors = []
        for task, space, verdict in zip(tasks, spaces, verdicts, strict=True):
            parts = _attributes(task)
            name = parts.get("factor_name", parts.get("name"))
            if type(name) is not str:
                raise _foreign(f"a factor task ({describe(task)}) has no name")
            self.budget.characters -= len(name)
            self.budget.spend_values(_VALUES_OF_A_FACTOR)
            description = parts.get("description", parts.get("factor_description"))
            factors.append(
                Factor(
                    name=name,
                    description=_text(description, f"description of {name}", notes),
                    formulation=_text(parts.get("factor_formulation"), f"formulation of {name}", notes),
                    variables=self._texts(parts.get("variables"), f"variables of {name}", notes),
                    code=_code(space, "factor.py", notes),
                    implemented=space is not None and _finally_decided(verdict, name, notes),
                )
            )
        return tuple(factors)

    def _model(self, attributes: Mapping[str, Any], notes: _Notes) -> Model | None:
        tasks = _sequence(attributes.get("sub_tasks"), "sub_tasks")
        if not tasks:
            return None
        parts = _attributes(tasks[0])
        if type(parts.get("name")) is not str:
            raise _foreign(f"a model task ({describe(tasks[0])}) has no name")
        spaces = _padded(attributes.get("sub_workspace_list"), "sub_workspace_list", len(tasks))
        return Model(
            name=parts["name"],
            model_type=_text(parts.get("model_type"), "model_type", notes),
            description=_text(parts.get("description"), "model description", notes),
            formulation=_text(parts.get("formulation"), "model formulation", notes),
            architecture=_text(parts.get("architecture"), "model architecture", notes),
            hyperparameters=self._texts(parts.get("hyperparameters"), "hyperparameters", notes),
            training_hyperparameters=self._texts(
                parts.get("training_hyperparameters"), "training_hyperparameters", notes
            ),
            code=_code(spaces[0], "model.py", notes),
        )

    def _texts(self, value: object, what: str, notes: _Notes) -> Mapping[str, str]:
        """A mapping of texts; one that many experiments share is read once."""
        if value is None or (isinstance(value, dict) and not value):
            return MappingProxyType({})
        if id(value) not in self._mappings:
            plain = notes.take(what, thaw_plain, value, {})
            if not isinstance(plain, dict):
                notes.add(what, f"not a mapping: {describe(plain)}")
                plain = {}
            texts = {str(key): item if isinstance(item, str) else str(item) for key, item in plain.items()}
            size = sum(map(len, texts)) + sum(map(len, texts.values()))
            self._mappings[id(value)] = MappingProxyType(texts), size
        texts_of_it, size = self._mappings[id(value)]
        self.budget.characters -= size
        self.budget.spend_values(2 * len(texts_of_it))
        return texts_of_it


class _Notes(list[str]):
    """What of one experiment could not be read; all that is read of it is counted."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def add(self, what: str, why: str) -> None:
        self.budget.spend(what)
        self.append(f"{what}: {why}")

    def take(self, what: str, thaw: Callable[[object], Any], value: object, otherwise: Any) -> Any:
        try:
            taken = thaw(value)
        except Unthawable as error:
            self.add(what, str(error))
            return otherwise
        if isinstance(taken, (dict, list, tuple)):
            self.budget.spend(taken)
        elif isinstance(taken, (str, bytes)):
            self.budget.characters -= len(taken)
        return taken


def _attributes(value: object) -> Mapping[str, Any]:
    return value.attributes if isinstance(value, Inert) else {}


def _sequence(value: object, what: str) -> list[Any] | tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return value
    raise _foreign(f"an experiment's {what} is not a list but {describe(value)}")


def _padded(value: object, what: str, length: int) -> list[Any]:
    """Exactly ``length`` items: upstream pairs them with `zip`, which leaves out the missing."""
    items = list(_sequence(value, what))[:length]
    return items + [None] * (length - len(items))


def _text(value: object, what: str, notes: _Notes) -> str:
    """A text as upstream prints it: a language model may have given another JSON value for it."""
    if value is None:
        return ""
    if isinstance(value, str):
        notes.budget.characters -= len(value)
        return value
    plain = notes.take(what, thaw_plain, value, "")
    return plain if isinstance(plain, str) else str(plain)


def _chosen_texts(parts: Mapping[str, Any], names: tuple[str, ...], notes: _Notes) -> Mapping[str, str]:
    return MappingProxyType(
        {name: _text(parts[name], name, notes) for name in names if parts.get(name) is not None}
    )


def _recorded(attributes: Mapping[str, Any], name: str, notes: _Notes) -> Mapping[str, Any] | None:
    """A mapping that the plugin left on an experiment, in JSON's types; empty where it is there and cannot be read."""
    if attributes.get(name) is None:
        return None
    value = notes.take(name, thaw_json, attributes[name], {})
    if not isinstance(value, dict):
        notes.add(name, f"not a mapping: {describe(value)}")
        value = {}
    return MappingProxyType(value)


def _embedded(attributes: Mapping[str, Any]) -> bytes | None:
    """Weights in any of the sub-workspaces: the plugin's own is one more than there are tasks."""
    for space in _sequence(attributes.get("sub_workspace_list"), "sub_workspace_list"):
        files = _attributes(space).get("file_dict")
        for name in EMBEDDED_NAMES:
            kept = files.get(name) if isinstance(files, dict) else None
            if isinstance(kept, bytes):
                return kept
    return None


def _inherited_from(value: object, notes: _Notes) -> Mapping[str, Any] | None:
    """Task and loop, as ``plugin/inheritance.py`` records them."""
    if value is None:
        return None
    task_id, loop = (value.get("task_id"), value.get("loop")) if isinstance(value, dict) else (None, None)
    if type(task_id) is not str or not is_number(loop):
        notes.add("inherited_from", f"no task and loop: {describe(value)}")
        return None
    return MappingProxyType({"task_id": task_id, "loop": loop})


def _decision(value: object) -> bool:
    if value is None:
        return False
    try:
        return thaw_bool(value)
    except Unthawable as error:
        raise _foreign(f"a decision in its history is {error}") from None


def _finally_decided(verdict: object, factor: str, notes: _Notes) -> bool:
    # CoSTEERSingleFeedback.__bool__ (components/coder/CoSTEER/evaluators.py); None is a skipped task.
    final = _attributes(verdict).get("final_decision")
    return final is not None and bool(notes.take(f"final decision on {factor}", thaw_bool, final, False))


def _result(attributes: Mapping[str, Any]) -> object:
    return _attributes(attributes.get("running_info")).get("result", attributes.get("result"))


def _workspace(attributes: Mapping[str, Any], notes: _Notes) -> PurePath | None:
    path = _attributes(attributes.get("experiment_workspace")).get("workspace_path")
    if path is None:
        return None
    taken: PurePath | None = notes.take("workspace", thaw_path, path, None)
    return taken


def _code(space: object, file: str, notes: _Notes) -> str | None:
    files = _attributes(space).get("file_dict")
    code = files.get(file) if isinstance(files, dict) else None
    if not isinstance(code, str):
        return None
    notes.budget.characters -= len(code)
    return code


def _foreign(what: str) -> SnapshotError:
    return SnapshotError(
        "snapshot-foreign",
        f"{what}.",
        "Snapshots of RD-Agent 0.8.0 and 1.0.0 (fin_factor, fin_model, fin_quant) can be read.",
    )
