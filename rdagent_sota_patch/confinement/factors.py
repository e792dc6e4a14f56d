"""Run a factor's code on market data, confined, and take over its values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rdagent_sota_patch.confinement.frames import Unreadable, read_frame
from rdagent_sota_patch.confinement.jail import Jail, over_limit
from rdagent_sota_patch.confinement.limits import Limits
from rdagent_sota_patch.confinement.supervision import Ended, Ending
from rdagent_sota_patch.errors import BundleError

DATA_NAME = "daily_pv.h5"
_CODE_NAME = "factor.py"
_RESULT_NAME = "result.h5"
_VALUES_NAME = "result.values"

# These open a file for writing unless told otherwise; `pandas.read_hdf` does not.
_OPENS_FOR_WRITING = re.compile(r"\bHDFStore\b|\bh5py\b|\bopen_file\b|\bread_hdf\([^)]*\bmode\b")


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
    """Run a factor as RD-Agent does, ``python factor.py`` beside ``daily_pv.h5``, and read its ``result.h5``.

    The result is read in the jail as well, after the code has ended: reading HDF5 can unpickle. What comes
    out of the jail is numbers. Several threads may call this at a time, with one jail too.

    Args:
        code: The text of ``factor.py``.
        data: The market data; read in place, or copied where the code would open it for writing.
        limits: For the code and the reading of its result together.
        name: The factor's, for messages.
        jail: Where to run; a new one for this run if None.

    Raises:
        BundleError: ``factor-failed``, ``factor-over-limit``, ``factor-bad-result``, ``confinement-failed``.
    """
    if jail is None:
        with Jail() as own:
            return run_factor(code, data, limits, name=name, jail=own)
    bounds = limits or Limits()
    copied = _OPENS_FOR_WRITING.search(code) is not None
    attempt = jail.attempt(
        inside_program(f"run_factor({_CODE_NAME!r}, {_RESULT_NAME!r}, {_VALUES_NAME!r})"),
        texts={_CODE_NAME: code},
        inputs={} if copied else {DATA_NAME: data},
        own_copies={DATA_NAME: data} if copied else {},
        outputs=[_VALUES_NAME],
        limits=bounds,
    )
    require_finished(attempt.ended, bounds, name)
    if attempt.unfit:
        raise _bad_result(name, attempt.unfit[_VALUES_NAME])
    values = attempt.outputs[_VALUES_NAME]
    try:
        frame = read_frame(values)
    except Unreadable as error:
        raise _bad_result(name, str(error)) from error
    finally:
        values.unlink()
    if len(frame.columns) != 1:
        raise _bad_result(name, f"it has {len(frame.columns)} columns, not one")
    return FactorOutcome(frame, attempt.ended.log, attempt.ended.seconds)


def require_finished(ended: Ended, limits: Limits, name: str) -> None:
    """Raise what a factor's run came to, unless it finished.

    Raises:
        BundleError: ``factor-failed``, ``factor-over-limit``.
    """
    if ended.ending is Ending.FINISHED:
        return
    if ended.ending is Ending.FAILED:
        raise BundleError(
            "factor-failed",
            f"The code of factor {name} failed with exit code {ended.code}: {ended.last_words()}",
            "It ran confined: no network, no files but its own and the market data. Check that the data has "
            "the columns and the history that the code asks for.",
        )
    raise BundleError(
        "factor-over-limit",
        f"The code of factor {name} was ended: {over_limit(ended.ending, limits)}.",
        "Raise --timeout or --memory if it is meant to need that.",
    )


def inside_program(call: str) -> str:
    """The source of `inside`, ending with one call of its functions."""
    source = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
    return f"{source}\n\n{call}\n"


def _bad_result(name: str, fault: str) -> BundleError:
    return BundleError(
        "factor-bad-result",
        f"The result of factor {name} is not usable: {fault}.",
        "Its code has to write result.h5 with one column of numbers by datetime and instrument.",
    )
