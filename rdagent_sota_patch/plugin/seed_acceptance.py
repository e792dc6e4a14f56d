"""``SOTA_ACCEPT_SEEDS``: an acceptance of ``fin_model`` holds only if it is larger than the noise of seeds.

RD-Agent's language model accepts a model whose one back-test has a larger annualized return than that of the SOTA
(``rdagent/scenarios/qlib/developer/feedback.py``). Here both are then trained again with the same seeds, and a paired
test decides. What came of it is said in the feedback, which the next proposal is made from, and kept as plain data:
the attribute ``seed_test`` of the experiment. Steps with processes of their own give the feedback back alone, so that
it has the attribute there, too.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdagent.app.qlib_rd_loop.conf import MODEL_PROP_SETTING
from rdagent.core.conf import RD_AGENT_SETTINGS
from rdagent.core.utils import import_class
from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.developer.feedback import QlibModelExperiment2Feedback
from rdagent.scenarios.qlib.experiment.quant_experiment import QlibQuantScenario

from rdagent_sota_patch import __version__
from rdagent_sota_patch.errors import HostError, SettingsError
from rdagent_sota_patch.evidence.seed_test import (
    FEWEST_PAIRS,
    METRIC,
    SeedTest,
    affordable_pairs,
    compare_seeds,
    level_of,
    require_scipy,
)
from rdagent_sota_patch.evidence.seeded_model import TrainingFailedError
from rdagent_sota_patch.plugin.retraining import is_trainable, train_with_seed
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RECORD = "seed_test"
"""The attribute of an experiment, or of its feedback."""

SCHEMA_VERSION = 1


def attach_seed_acceptance() -> None:
    """Wrap ``QlibModelExperiment2Feedback.generate_feedback``, once; with the setting off it is the original.

    Raises:
        HostError: There is no such method.
    """
    generate = QlibModelExperiment2Feedback.__dict__.get("generate_feedback")
    if not callable(generate):
        raise HostError("host-changed", "QlibModelExperiment2Feedback has no generate_feedback.")
    if _is_ours(generate):
        return

    def generate_and_test(self: Any, exp: Any, trace: Any, *args: Any, **kwargs: Any) -> Any:
        feedback = generate(self, exp, trace, *args, **kwargs)
        seeds = load_settings().sota_accept_seeds
        if seeds is not None and feedback.decision and not isinstance(self.scen, QlibQuantScenario):
            _hold_or_turn_down(self.scen, exp, trace, feedback, seeds)
        return feedback

    functools.update_wrapper(
        generate_and_test, generate, assigned=("__name__", "__qualname__", "__doc__", "__annotations__")
    )
    QlibModelExperiment2Feedback.generate_feedback = generate_and_test


def require_seed_acceptance(loop: Any, *, quant: bool) -> None:
    """Make sure that the acceptances of ``loop`` (a model stage's) will be tested.

    Raises:
        SettingsError: ``fin_quant``, whose SOTA may be factors or a model.
        HostError: A summarizer of the user's own, which may decide without RD-Agent's.
        SotaError: ``extra-missing``.
    """
    if quant:
        raise SettingsError(
            "seeds-in-quant",
            "SOTA_ACCEPT_SEEDS is set, and fin_quant compares models with factors, which have no seeds to train with.",
            "Unset it for fin_quant; it is for fin_model.",
        )
    summarizer = type(loop.summarizer)
    if not _is_ours(getattr(summarizer, "generate_feedback", None)):
        raise HostError(
            "summarizer-without-seeds",
            f"SOTA_ACCEPT_SEEDS is set, but {summarizer.__module__}.{summarizer.__qualname__} decides what is "
            "accepted, in a generate_feedback of its own.",
            "Use RD-Agent's QlibModelExperiment2Feedback (QLIB_MODEL_SUMMARIZER), or unset SOTA_ACCEPT_SEEDS.",
        )
    require_scipy()


@dataclass(frozen=True, slots=True, eq=False)
class _History:
    """What a run's trace says of earlier tests.

    Attributes:
        sota: The last accepted experiment; None before the first.
        loop: Its loop; negative for one of an inherited history.
        known: Its metric by the seeds that it is trained with already.
        trials: Loops so far, the one that is judged included.
        trained: Models that earlier tests trained.
        tests: How many there were.
    """

    sota: Any
    loop: int | None
    known: dict[int, float]
    trials: int
    trained: int
    tests: int


def _hold_or_turn_down(scen: Any, exp: Any, trace: Any, feedback: Any, seeds: int) -> None:
    history = _read_history(trace)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"rdagent-sota-patch {__version__}",
        "metric": METRIC,
        "seeds_asked": seeds,
        "sota_loop": history.loop,
        **_judge(scen, exp, history, seeds),
    }
    setattr(exp, RECORD, record)
    if RD_AGENT_SETTINGS.is_force_subproc():
        setattr(feedback, RECORD, record)
    feedback.decision = record["outcome"] in ("first", "better")
    sentence = f"SOTA_ACCEPT_SEEDS: {record['sentence']}"
    feedback.reason = f"{feedback.reason}\n{sentence}"
    # Proposals are shown the reason of the last trial alone, and the observations of all.
    feedback.observations = f"{feedback.observations}\n{sentence}"
    logger.info(sentence)


def _judge(scen: Any, exp: Any, history: _History, seeds: int) -> dict[str, Any]:
    if history.sota is None:
        return _answer(
            "first",
            "accepted as RD-Agent does: there is no SOTA before it, so that nothing was compared.",
        )
    own, constant = _metric_of(exp.result), _metric_of(history.sota.result)
    if own is None or constant is None:
        which = "this model" if own is None else "the SOTA"
        return _answer("not judged", f"not accepted, not judged: {which} has no {METRIC}.")
    known, trainable = history.known, is_trainable(history.sota)
    if len(known) >= FEWEST_PAIRS and own <= (mean := math.fsum(known.values()) / len(known)):
        return _answer(
            "not better",
            f"not accepted: its annualized return with cost, {own:.4f}, is not above {mean:.4f}, the mean of the "
            f"SOTA's {len(known)} seeds, so that it was not trained again.",
        )
    pairs = affordable_pairs(seeds, history.trials, history.trained, len(known) if trainable else seeds)
    if pairs < FEWEST_PAIRS:
        return _answer(
            "not judged",
            f"not accepted, not judged: {history.trained} models were trained again in {history.trials} loops, and "
            "more would be over twice the compute of the run.",
        )
    number = history.tests + 1
    trained: list[int] = []
    runner = import_class(MODEL_PROP_SETTING.runner)(scen)

    def train(experiment: Any, seed: int) -> float:
        trained.append(seed)
        value = _metric_of(train_with_seed(runner, experiment, seed))
        if value is None:
            raise TrainingFailedError(f"no {METRIC}")
        return value

    def train_sota(seed: int) -> float:
        if not trainable:
            return constant
        if seed not in known:
            known[seed] = train(history.sota, seed)
        return known[seed]

    try:
        test = compare_seeds(lambda seed: train(exp, seed), train_sota, pairs, level_of(number))
    except TrainingFailedError as error:
        return _answer(
            "not judged",
            f"not accepted, not judged: a training with seed {trained[-1]} failed ({error}).",
            trained=len(trained),
        ) | {"test": number}
    return {
        **_answer(test.outcome, _describe(test, history.loop, trainable), trained=len(trained)),
        "test": number,
        "new": list(test.new),
        "sota": list(test.sota),
        "sota_trained": trainable,
        "mean_difference": test.mean,
        "standard_error": test.error,
        "p": test.p,
        "level": test.level,
    }


def _answer(outcome: str, sentence: str, trained: int = 0) -> dict[str, Any]:
    return {"outcome": outcome, "sentence": sentence, "trained": trained}


def _describe(test: SeedTest, loop: int | None, trainable: bool) -> str:
    count = len(test.new)
    new, sota = (f"{math.fsum(values) / count:.4f}" for values in (test.new, test.sota))
    verdict = "accepted" if test.outcome == "better" else "not accepted"
    seeds = f"with {count} seeds each" if trainable else f"with {count} seeds (the SOTA as it was)"
    said = (
        f"{verdict}: trained again {seeds}, it has an annualized return with cost of {new}, and the SOTA "
        f"(loop {loop}) of {sota}"
    )
    if test.p is None:
        return f"{said}; seeds change neither."
    figures = f"{test.mean:+.4f} ± {test.error:.4f}, p {test.p:.2g}, needed {test.level:.2g}"
    if test.outcome == "better":
        return f"{said}: the improvement is larger than the noise of seeds ({figures})."
    return f"{said}: the improvement is within the noise of seeds ({figures})."


def _read_history(trace: Any) -> _History:
    accepted = [position for position, (_, feedback) in enumerate(trace.hist) if feedback.decision]
    records = [_record_of(*entry) for entry in trace.hist]
    kept = [record for record in records if record]
    position = accepted[-1] if accepted else None
    loop = None if position is None else trace.idx2loop_id.get(position, position)
    known: dict[int, float] = {}
    if position is not None:
        known.update(_by_seed(records[position], "new"))
        for record in kept:
            if record["sota_loop"] == loop and record.get("sota_trained"):
                known.update(_by_seed(record, "sota"))
    return _History(
        sota=None if position is None else trace.hist[position][0],
        loop=loop,
        known=known,
        trials=len(trace.hist) + 1,
        trained=sum(record["trained"] for record in kept),
        tests=sum("test" in record for record in kept),
    )


def _record_of(experiment: Any, feedback: Any) -> Mapping[str, Any]:
    return getattr(experiment, RECORD, None) or getattr(feedback, RECORD, None) or {}


def _by_seed(record: Mapping[str, Any], which: str) -> Iterator[tuple[int, float]]:
    return enumerate(record.get(which, ()), start=1)


def _metric_of(result: Any) -> float | None:
    value = None if result is None else result.get(METRIC)
    return float(value) if value is not None and math.isfinite(value) else None


def _is_ours(function: Any) -> bool:
    return getattr(function, "__module__", None) == __name__
