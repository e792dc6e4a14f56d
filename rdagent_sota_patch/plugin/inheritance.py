"""``SOTA_INHERIT_TRACE``: a model stage that starts with the factor stage's history.

Hypotheses then build on what was mined, and the first model is judged against the factor stage's SOTA result
(``rdagent/scenarios/qlib/proposal/model_proposal.py``, ``developer/feedback.py``). The history is made again, of
RD-Agent's own classes, from what was read of the log; nothing of the log is unpickled.

An inherited experiment bears one attribute more, ``inherited_from``, of plain data. RD-Agent builds each experiment on
every accepted one before it, and would run the inherited factors' code again; by that mark the runners leave them out,
and feed the SOTA table instead.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
from rdagent.core.proposal import Hypothesis, HypothesisFeedback
from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from rdagent_sota_patch.errors import Problem
from rdagent_sota_patch.plugin.rebuildable import is_trusted
from rdagent_sota_patch.plugin.synthetic import coder_feedback, metrics_series
from rdagent_sota_patch.sessions.records import ExperimentKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.sessions.records import ExperimentRecord, Factor, Session

MARK = "inherited_from"

_FIRST_LOOP = -2
"""Loop id of the last inherited experiment, those before it count down: the run's own start at 0, and -1 is what
records call an experiment outside the history."""

# What RD-Agent's prompts, feedback and user interface take from a result without asking whether it is there.
_EXPECTED_METRICS = (
    "IC",
    "ICIR",
    "Rank IC",
    "Rank ICIR",
    *(
        f"1day.excess_return_{cost}_cost.{metric}"
        for cost in ("with", "without")
        for metric in ("annualized_return", "information_ratio", "max_drawdown")
    ),
)


def is_inherited(experiment: object) -> bool:
    """Whether an experiment is of a history that was inherited."""
    return getattr(experiment, MARK, None) is not None


def without_inherited(experiments: Iterable[Any]) -> list[Any]:
    """The experiments of the run itself."""
    return [experiment for experiment in experiments if not is_inherited(experiment)]


def complete_result(metrics: Mapping[str, float]) -> pd.Series[float]:
    """Metrics as a runner leaves them in ``exp.result``, with NaN for those that RD-Agent relies on."""
    return metrics_series({**dict.fromkeys(_EXPECTED_METRICS, math.nan), **metrics})


def inherit_history(loop: Any, source: Source, *, quant: bool) -> None:
    """Put the factor experiments of ``source``, accepted and rejected, at the start of a new run's history.

    A resumed run keeps the history that it has.

    Args:
        loop: The ``RDLoop``, before its first step.
        source: The log that the run's SOTA factors come from.
        quant: Whether hypotheses say which action they are of (``fin_quant``).
    """
    trace = loop.trace
    if trace.hist or loop.loop_trace:
        if not any(is_inherited(experiment) for experiment, _ in trace.hist):
            logger.warning(
                str(
                    Problem(
                        "history-not-inherited",
                        "SOTA_INHERIT_TRACE is on, but this run was begun without it, and goes on with the history it "
                        "has.",
                        "Start a new run to have the factor stage's history in it.",
                    )
                )
            )
        return
    assert source.session is not None
    history = restore_history(source, quant=quant)
    for position, entry in enumerate(history):
        # As Trace.sync_dag_parent_and_hist does it in 1.0.0; 0.8.0 has the attributes alone.
        trace.dag_parent.append((position - 1,) if position else trace.NEW_ROOT)
        trace.hist.append(entry)
        trace.idx2loop_id[position] = _FIRST_LOOP - len(history) + 1 + position
    accepted = sum(bool(feedback) for _, feedback in history)
    left_out = len(source.session.experiments) - len(history)
    logger.info(
        f"History inherited from {source.path}: {len(history)} factor experiments, {accepted} of them accepted"
        + (f"; {left_out} other entries are left out." if left_out else ".")
    )


def restore_history(source: Source, *, quant: bool) -> list[tuple[QlibFactorExperiment, HypothesisFeedback]]:
    """The factor experiments of a log with their feedback, live and oldest first."""
    session = source.session
    assert session is not None
    restorer = _Restorer(session, source, quant)
    return [
        (restorer.experiment(record), _restore_feedback(record))
        for record in session.experiments
        if record.kind is ExperimentKind.FACTOR
    ]


class _Restorer:
    """Restores experiments once each, however often they are built on."""

    def __init__(self, session: Session, source: Source, quant: bool) -> None:
        self._session = session
        self._source = source
        self._quant = quant
        # What a stranger wrote is shown to the LLM and never run: not even by an RD-Agent without this plugin, which
        # would take an inherited experiment for one of the run's own.
        self._with_code = is_trusted(session)
        self._done: dict[int, QlibFactorExperiment] = {}

    def experiment(self, record: ExperimentRecord) -> QlibFactorExperiment:
        if id(record) not in self._done:
            self._done[id(record)] = self._restore(record)
        return self._done[id(record)]

    def _restore(self, record: ExperimentRecord) -> QlibFactorExperiment:
        tasks = [_restore_task(factor) for factor in record.factors]
        experiment = QlibFactorExperiment(sub_tasks=tasks, hypothesis=self._hypothesis(record))
        experiment.sub_workspace_list = [
            self._workspace(task, factor) for task, factor in zip(tasks, record.factors, strict=True)
        ]
        experiment.prop_dev_feedback = coder_feedback(
            factor.implemented and self._with_code for factor in record.factors
        )
        experiment.based_experiments = [self.experiment(other) for other in record.based_on]
        experiment.stdout = record.stdout
        # RD-Agent develops an accepted experiment without a result again, and cannot in this stage.
        experiment.result = complete_result(record.metrics) if record.metrics or record.decision else None
        experiment.base_features = dict(record.base_features)
        experiment.base_feature_codes = dict(record.base_feature_codes)
        if record.sota_source is not None:
            experiment.sota_source = dict(record.sota_source)
        # Every experiment is born with a folder of templates. This one has a folder already.
        experiment.experiment_workspace.clear()
        if (place := self._place(record)) is not None:
            experiment.experiment_workspace.workspace_path = place
        setattr(experiment, MARK, self._origin(record))
        return experiment

    def _hypothesis(self, record: ExperimentRecord) -> Hypothesis:
        texts: dict[str, Any] = {
            name: record.proposal.get(name)
            for name in (
                "reason",
                "concise_reason",
                "concise_observation",
                "concise_justification",
                "concise_knowledge",
            )
        }
        if self._quant:
            from rdagent.scenarios.qlib.proposal.quant_proposal import QlibQuantHypothesis

            return QlibQuantHypothesis(hypothesis=record.hypothesis, **texts, action="factor")
        return Hypothesis(hypothesis=record.hypothesis, **texts)

    def _workspace(self, task: FactorTask, factor: Factor) -> FactorFBWorkspace:
        workspace = FactorFBWorkspace(target_task=task)
        if factor.code is not None and self._with_code:
            # Not injected: that would write a file for each factor of each run.
            workspace.file_dict["factor.py"] = factor.code
        return workspace

    def _place(self, record: ExperimentRecord) -> Path | None:
        if record is self._source.experiment and self._source.workspace is not None:
            return self._source.workspace
        return Path(str(record.workspace)) if record.workspace is not None else None

    def _origin(self, record: ExperimentRecord) -> dict[str, Any]:
        """Where it comes from; and its base features, which RD-Agent overwrites with the run's own."""
        first = record.inherited_from or {"task_id": self._session.task_id, "loop": record.loop}
        return {
            "task_id": first["task_id"],
            "loop": first["loop"],
            "base_features": dict(record.base_features),
            "base_feature_codes": dict(record.base_feature_codes),
        }


def _restore_task(factor: Factor) -> FactorTask:
    return FactorTask(
        factor_name=factor.name,
        factor_description=factor.description,
        factor_formulation=factor.formulation,
        variables=dict(factor.variables),
    )


def _restore_feedback(record: ExperimentRecord) -> HypothesisFeedback:
    return HypothesisFeedback(
        observations=record.verdict.get("observations"),
        hypothesis_evaluation=record.verdict.get("hypothesis_evaluation"),
        new_hypothesis=record.verdict.get("new_hypothesis"),
        reason=record.reason,
        decision=bool(record.decision),
    )
