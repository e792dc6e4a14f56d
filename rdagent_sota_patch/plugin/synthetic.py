"""The synthetic ``QlibFactorExperiment`` that is put into ``based_experiments`` while a model is developed.

``QlibModelRunner.develop`` uses mined factors when ``based_experiments`` holds more than one
``QlibFactorExperiment``, the first being normally an empty placeholder, and takes their data from every
sub-workspace whose feedback is true (``process_factor_data`` in ``rdagent/scenarios/qlib/developer/utils.py``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from rdagent.components.coder.CoSTEER.evaluators import CoSTEERMultiFeedback, CoSTEERSingleFeedback
from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
from rdagent.core.experiment import Experiment
from rdagent.core.proposal import Hypothesis
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rdagent_sota_patch.plugin.active import ActiveSota

UNKNOWN_METRICS: Mapping[str, float] = dict.fromkeys(("IC", "ICIR", "Rank IC", "Rank ICIR"), math.nan)


class SotaFactorWorkspace(FactorFBWorkspace):
    """A factor implementation whose output is the SOTA factor table."""

    def __init__(self, task: FactorTask, sota: ActiveSota, whole: bool) -> None:
        super().__init__(target_task=task)
        self._path = sota.table.path
        self._names = sota.table.names
        self._first_day = sota.table.start
        self._whole = whole

    def execute(self, data_type: str = "Debug") -> tuple[str, pd.DataFrame]:
        """The table with plain column names, or its head alone.

        The head is one row with the table's columns: enough for RD-Agent to count the features by, where the
        table itself is copied into the workspace as a file.
        """
        if self._whole:
            # In RD-Agent's own process, long before its end.
            frame = pd.read_parquet(self._path, engine="pyarrow")  # noqa: TID251
            frame.columns = frame.columns.get_level_values(-1)
        else:
            row = pd.MultiIndex.from_tuples(
                [(pd.Timestamp(self._first_day), "")], names=["datetime", "instrument"]
            )
            frame = pd.DataFrame(0.0, index=row, columns=list(self._names))
        return self.FB_EXECUTION_SUCCEEDED + self.FB_OUTPUT_FILE_FOUND, frame


def coder_feedback(accepted: Iterable[bool]) -> CoSTEERMultiFeedback:
    """The coder's feedback on implementations; only the truth of each is looked at."""
    return CoSTEERMultiFeedback(
        [
            CoSTEERSingleFeedback(execution="", return_checking=None, code="", final_decision=decision)
            for decision in accepted
        ]
    )


def make_hypothesis(text: str) -> Hypothesis:
    """A hypothesis that says what it is about; 0.8.0 logs the one of each experiment whose factors it runs."""
    return Hypothesis(
        hypothesis=text,
        reason="",
        concise_reason="",
        concise_observation="",
        concise_justification=text,
        concise_knowledge="",
    )


def metrics_series(metrics: Mapping[str, float]) -> pd.Series[float]:
    """Metrics as a runner leaves them in ``exp.result``; NaN where none are known.

    Named like the one column of ``qlib_res.csv``, by which ``process_results`` looks for it
    (``rdagent/scenarios/qlib/developer/feedback.py``).
    """
    known = metrics or UNKNOWN_METRICS
    return pd.Series(list(known.values()), index=list(known), dtype=float, name="0")


def make_placeholder(metrics: Mapping[str, float]) -> QlibFactorExperiment:
    """The empty experiment that RD-Agent puts first; it brings a result so that no baseline is run for it."""
    placeholder = QlibFactorExperiment(sub_tasks=[])
    placeholder.result = metrics_series(metrics)
    return placeholder


def make_base() -> Experiment[Any, Any, Any]:
    """What an experiment is built on that has no factors before it: something with a result, and no factor experiment.

    RD-Agent takes new factors only into an experiment that is built on another. A placeholder would do where two
    factor experiments are needed for its table of older ones; a runner that takes one for enough would look for factors
    in it, and find none.
    """
    base: Experiment[Any, Any, Any] = Experiment(sub_tasks=[])
    base.result = metrics_series({})
    return base


def make_sota_experiment(sota: ActiveSota, whole: bool) -> QlibFactorExperiment:
    """The experiment that brings the SOTA factors.

    Args:
        sota: The factors.
        whole: Whether RD-Agent needs the values, or the columns alone.
    """
    task = FactorTask(
        factor_name="sota_factors",
        factor_description=f"SOTA factors of {sota.source.path}: {', '.join(sota.table.names)}",
        factor_formulation="",
    )
    experiment = QlibFactorExperiment(sub_tasks=[task], hypothesis=make_hypothesis(task.factor_description))
    experiment.sub_workspace_list = [SotaFactorWorkspace(task, sota, whole)]
    experiment.prop_dev_feedback = coder_feedback([True])
    experiment.result = metrics_series(sota.source.metrics)
    return experiment
