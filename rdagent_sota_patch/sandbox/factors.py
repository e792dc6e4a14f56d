"""Run a factor's code on folders of data files, confined, and take over its values."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.sandbox.asked import DATA_SUFFIXES
from rdagent_sota_patch.sandbox.data_folder import look_into
from rdagent_sota_patch.sandbox.jail import Attempt, Jail, over_limit
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.outputs import Unreadable, read_frame
from rdagent_sota_patch.sandbox.probe import what_confines
from rdagent_sota_patch.sandbox.supervision import Ending, which_limit

_HERE = Path(__file__).parent
_RESULT = "result.h5"
_PLAN, _OUTCOMES, _CODE = "plan.json", "outcomes.json", "code.txt"

_PREPARATION = 30.0
"""Seconds for what is done around the runs; a run's own limit is its code's."""

# A result has three numbers by row where the data has as many and more; compressed data is a fifth of that.
_RESULT_SHARE, _RESULT_BYTES = 4, 256 * 1024 * 1024

_FAILURES = {
    failure.slug: failure
    for failure in (
        Problem(
            "factor-failed",
            "The code of factor {} failed",
            "It ran confined: no network, no files but its own and the market data. Check that the data has the "
            "columns and the history that the code asks for.",
        ),
        Problem(
            "factor-over-limit",
            "The code of factor {} was ended",
            "Raise --timeout or --memory if it is meant to need that.",
        ),
        Problem(
            "factor-bad-result",
            "The result of factor {} is not usable",
            "Its code has to write result.h5 with one column of numbers by datetime and instrument.",
        ),
    )
}
"""What a failed run comes to, by its slug; the message goes on with the reason."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a factor's code.

    Attributes:
        data: The folder of data files that it is given, or a ``daily_pv.h5``.
        start: First day of the data, ISO; None for all.
        dated: With ``start`` or ``end``: the names of the files that have dates to be cut at.
        end: Last day of the data, ISO; None for all.
    """

    data: Path
    start: str | None = None
    dated: tuple[str, ...] = ()
    end: str | None = None


class _Failure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["failed", "over time", "bad result"]
    reason: str


class _Outcome(BaseModel):
    """What the program in the jail says of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failure: _Failure | None
    opened: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a factor's code came to.

    Attributes:
        slug: Of its failure; empty for a run that left values.
        reason: Of its failure, without a full stop.
        asked: The given files that the code opened, or asked about.
        missing: The files that it asked for and that were not given.
        listed: Whether it looked through its folder: any file there may matter to it.
        log: What the code printed, bounded; with several runs, of all of them.
        seconds: How long all runs took.
    """

    slug: str
    reason: str
    asked: frozenset[str]
    missing: tuple[str, ...]
    listed: bool
    log: str
    seconds: float
    _values: Path | None = None
    _most: int = 0

    def values(self) -> pd.DataFrame:
        """One numeric column, index datetime and instrument; rows and dtype as the code wrote them.

        Raises:
            Unreadable: They are not of the form that was asked for.
        """
        if self._values is None:
            raise Unreadable("it is missing")
        frame = read_frame(self._values, most=self._most)
        if len(frame.columns) != 1:
            raise Unreadable(f"it has {len(frame.columns)} columns, not one")
        return frame


@dataclass(frozen=True, slots=True)
class FactorOutcome:
    """What a factor's code came to.

    Attributes:
        values: One numeric column, index datetime and instrument; rows and dtype as the code wrote them.
        log: What it printed, bounded.
        seconds: How long that took, pandas' import included.
    """

    values: pd.DataFrame
    log: str
    seconds: float


def run_factor(
    code: str,
    data: Path,
    limits: Limits | None = None,
    *,
    name: str = "without a name",
    jail: Jail | None = None,
) -> FactorOutcome:
    """Run a factor as RD-Agent does, ``python factor.py`` beside its data files, and read its ``result.h5``.

    The result is read in the jail as well, after the code has ended: reading HDF5 can unpickle. What comes
    out of the jail is numbers. Several threads may call this at a time, with one jail too.

    Args:
        code: The text of ``factor.py``.
        data: The folder of data files, or a ``daily_pv.h5``; read in place. What the code opens for writing is copied.
        limits: For the code.
        name: The factor's, for messages.
        jail: Where to run; a new one for this run if None.

    Raises:
        BundleError: ``factor-file-missing``: it asks for a file that was not given, whatever it does without it;
            ``factor-failed``, ``factor-over-limit``, ``factor-bad-result``, and what `run_trials` raises.
    """
    with run_trials(code, [Trial(data)], limits or Limits(), jail=jail) as (ran,):
        if ran.missing:
            raise _file_missing(name, ran)
        if ran.slug:
            raise _failed(ran.slug, name, ran.reason)
        try:
            return FactorOutcome(ran.values(), ran.log, ran.seconds)
        except Unreadable as error:
            raise _failed("factor-bad-result", name, str(error)) from error


def _failed(slug: str, name: str, reason: str) -> BundleError:
    failure = _FAILURES[slug]
    return BundleError.of([replace(failure, message=f"{failure.message.format(name)}: {reason}.")])


def _file_missing(name: str, ran: Run) -> BundleError:
    """The error for code that asks for files that it was not given."""
    failed = (
        f" Without it, it fails: {ran.reason}." if ran.slug else " What it does without it is not the factor."
    )
    return BundleError(
        "factor-file-missing",
        f"The code of factor {name} asks for {', '.join(ran.missing)}, which the data folder does not have.{failed}",
        "Put the file into the folder of daily_pv.h5, and name that folder with --data.",
    )


def require_factor_confinement(*, trusted: bool) -> None:
    """Before factor code is run: refuse to, where this system cannot keep it in and the user does not vouch for it.

    Raises:
        BundleError: ``trust-needed``.
    """
    if not trusted:
        what_confines().require_trust("Factor code is Python, written by a language model or a stranger.")


@contextmanager
def run_trials(
    code: str, trials: Sequence[Trial], limits: Limits, *, jail: Jail | None = None
) -> Iterator[tuple[Run, ...]]:
    """Run ``code`` once for each trial, one after the other; their values can be read until the context ends.

    All runs share one jail and one imported pandas; each has a fork and a folder of its own, and begins with nothing
    that another left in memory. That keeps mistakes apart. Code that sets out to deceive could look
    for the other runs' data; it could as well have the future written into it, which no audit finds.

    Args:
        code: Text of ``factor.py``.
        trials: What to run it on, in this order.
        limits: Of one run.
        jail: Where to run; a new one if None.

    Raises:
        BundleError: ``trust-needed`` where this system cannot keep the code in and the jail's user does not vouch for
            it; ``confinement-failed``, ``market-data-unreadable``.
    """
    require_factor_confinement(trusted=jail is not None and jail.trusted)
    folders = [look_into(trial.data).files for trial in trials]
    places: dict[Path, str] = {}
    for folder in folders:
        for path in folder.values():
            places.setdefault(path.resolve(), f"data-{len(places)}")
    plan = {
        "seconds": limits.seconds,
        "trials": [
            {
                "name": str(number),
                "files": {name: places[path.resolve()] for name, path in folder.items()},
                "start": trial.start,
                "end": trial.end,
                "dated": trial.dated,
            }
            for number, (trial, folder) in enumerate(zip(trials, folders, strict=True))
        ],
    }
    with nullcontext(jail) if jail is not None else Jail() as place:
        attempt = place.attempt(
            (_HERE / "running.py").read_text(encoding="utf-8"),
            texts={
                _PLAN: json.dumps(plan),
                _CODE: code,
                **{
                    name: (_HERE / name).read_text(encoding="utf-8")
                    for name in ("inside.py", "asked.py", "locks.py")
                },
            },
            inputs={name: path for path, name in places.items()},
            outputs=[_OUTCOMES, *(f"{number}.values" for number in range(len(trials)))],
            # Each run is three steps at most, each ended by itself; this is for what escapes that.
            limits=replace(
                limits,
                seconds=_PREPARATION + 3 * limits.seconds * len(trials),
                output_mb=limits.output_mb * len(trials),
            ),
        )
        try:
            yield _read_runs(attempt, code, folders, limits)
        finally:
            for path in attempt.outputs.values():
                path.unlink(missing_ok=True)


def _read_runs(
    attempt: Attempt, code: str, folders: Sequence[Mapping[str, Path]], limits: Limits
) -> tuple[Run, ...]:
    ended = attempt.ended
    outcomes = _read_outcomes(attempt, len(folders))
    if outcomes is None:
        slug, reason = "factor-over-limit", ""
        if ended.ending in {Ending.FINISHED, Ending.FAILED}:
            slug, reason = "factor-failed", f"its run was ended with code {ended.code}: {ended.last_words()}"
        else:
            reason = over_limit(ended.ending, limits)
        failed = Run(slug, reason, frozenset(), (), False, ended.log, ended.seconds)
        return (failed,) * len(folders)
    runs = []
    for number, (outcome, folder) in enumerate(zip(outcomes, folders, strict=True)):
        slug, reason = _judge(outcome.failure, limits)
        runs.append(
            Run(
                slug,
                reason,
                frozenset(outcome.asked),
                _missing(outcome, code, folder),
                bool(outcome.listed),
                ended.log,
                ended.seconds,
                attempt.outputs.get(f"{number}.values"),
                _RESULT_BYTES + _RESULT_SHARE * sum(path.stat().st_size for path in folder.values()),
            )
        )
    return tuple(runs)


def _read_outcomes(attempt: Attempt, count: int) -> list[_Outcome] | None:
    if attempt.ended.ending is not Ending.FINISHED or _OUTCOMES not in attempt.outputs:
        return None
    try:
        found = json.loads(attempt.outputs[_OUTCOMES].read_bytes())
        return [_Outcome.model_validate(found[str(number)]) for number in range(count)]
    except (ValueError, RecursionError, KeyError, TypeError, ValidationError):
        return None


def _missing(outcome: _Outcome, code: str, folder: Collection[str]) -> tuple[str, ...]:
    missing = set(outcome.missing)
    if outcome.listed or outcome.blind:  # What it would open then shows in its text alone.
        named = {text for text in texts_in(code) if text.lower().endswith(DATA_SUFFIXES) and "*" not in text}
        # A run that failed before it wrote its result does not lack it.
        missing |= named - set(folder) - set(outcome.left) - {_RESULT}
    return tuple(sorted(missing))


def _judge(failure: _Failure | None, limits: Limits) -> tuple[str, str]:
    if failure is None:
        return "", ""
    if failure.kind == "over time":
        return "factor-over-limit", failure.reason
    if failure.kind == "bad result":
        return "factor-bad-result", failure.reason
    limit = which_limit(failure.reason)
    if limit is not Ending.FAILED:
        return "factor-over-limit", over_limit(limit, limits)
    return "factor-failed", failure.reason


def texts_in(code: str) -> frozenset[str]:
    """Every text literal in the code; none where it does not parse."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    nodes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return frozenset(value for value in nodes if isinstance(value, str))
