"""Run one factor's code on several market data files, in the jail."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.audit.panel import Panel, UnusableValues, read_panel
from rdagent_sota_patch.confinement.jail import Attempt, Jail, over_limit
from rdagent_sota_patch.confinement.supervision import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rdagent_sota_patch.confinement.limits import Limits

_PROGRAM = Path(__file__).with_name("trials_in_jail.py").read_text(encoding="utf-8")
_OUTCOMES = "outcomes.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a factor's code.

    Attributes:
        data: The market data that it is given.
        start: First day of it, ISO; None for all.
    """

    data: Path
    start: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A run without values; ``reason`` goes on from "It fails: "."""

    reason: str


@contextmanager
def run_trials(
    code: str, trials: Sequence[Trial], limits: Limits, *, first_decides: bool = False
) -> Iterator[Callable[[int], Panel | Failure]]:
    """Run ``code`` once for each trial, and give what reads the result of the one at a place.

    All runs share one jail and one imported pandas; each has a fork and a folder of its own, and begins with nothing
    that another left in memory. That keeps mistakes apart. Code that sets out to deceive could look
    for the other runs' data; it could as well have the future written into it, which no audit finds.

    Args:
        code: Text of ``factor.py``.
        trials: What to run it on, in this order.
        limits: Of one run.
        first_decides: Whether to leave it at the first, if that fails: endless code takes its time but once.

    Raises:
        BundleError: ``confinement-failed``.
    """
    with tempfile.TemporaryDirectory(prefix="rdagent-sota-trials-") as name, Jail() as jail:
        folder = Path(name)
        data = {path: f"data-{place}.h5" for place, path in enumerate({trial.data for trial in trials})}
        plan = {
            "seconds": limits.seconds,
            "first_decides": first_decides,
            "trials": [
                {"name": str(place), "data": data[trial.data], "start": trial.start}
                for place, trial in enumerate(trials)
            ],
        }
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        (folder / "factor.py").write_bytes(code.encode("utf-8", errors="surrogatepass"))
        attempt = jail.attempt(
            _PROGRAM,
            inputs={
                "plan.json": folder / "plan.json",
                "factor.py": folder / "factor.py",
                **{name: path for path, name in data.items()},
            },
            outputs=[_OUTCOMES, *(f"{place}.parquet" for place in range(len(trials)))],
            # Each trial is three steps at most, each ended by itself; this is for what escapes that.
            limits=replace(
                limits,
                seconds=30 + 3 * limits.seconds * len(trials),
                output_mb=limits.output_mb * len(trials),
            ),
        )
        failures = _failures(attempt, len(trials), limits)
        # Read when asked for: two panels of a large market are held at a time, not a dozen.
        yield lambda place: _result(attempt, place, failures)


def _failures(attempt: Attempt, count: int, limits: Limits) -> Mapping[str, str | None]:
    ended = attempt.ended
    if ended.ending is Ending.FINISHED and _OUTCOMES in attempt.outputs:
        try:
            outcomes = json.loads(attempt.outputs[_OUTCOMES].read_bytes())
        except (ValueError, RecursionError):
            outcomes = None
        names = {str(place) for place in range(count)}
        if isinstance(outcomes, dict) and outcomes.keys() == names:
            return {name: None if why is None else str(why) for name, why in outcomes.items()}
    reason = (
        f"its run was ended with code {ended.code}: {ended.last_words()}"
        if ended.ending in {Ending.FINISHED, Ending.FAILED}
        else f"its runs need {over_limit(ended.ending, limits)}"
    )
    return {str(place): reason for place in range(count)}


def _result(attempt: Attempt, place: int, failures: Mapping[str, str | None]) -> Panel | Failure:
    reason = failures[str(place)]
    if reason is not None:
        return Failure(reason)
    values = attempt.outputs.get(f"{place}.parquet")
    if values is None:
        return Failure("it leaves no values")
    try:
        return read_panel(values)
    except UnusableValues as error:
        return Failure(str(error))
