"""The market data as an audit needs it: whole, cut off on several days, and beginning later."""

from __future__ import annotations

import json
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.audit.windows import MarketDays, choose_cuts, choose_histories
from rdagent_sota_patch.confinement.jail import Jail
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.confinement.limits import Limits

_PROGRAM = Path(__file__).with_name("market_in_jail.py").read_text(encoding="utf-8")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class AuditMarket:
    """A ``daily_pv.h5`` and its copies, in a folder of its own.

    Attributes:
        whole: The file itself.
        days: Its trading days, ``datetime64[ns]``, rising.
        cuts: By last day, rising: a copy that ends there.
        tails: By number of trading days: a copy of the newest.
    """

    whole: Path
    days: np.typing.NDArray[np.datetime64]
    cuts: Mapping[np.datetime64, Path]
    tails: Mapping[int, Path]
    _folder: Path
    _limits: Limits
    _altered: dict[np.datetime64, Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def altered_after(self, day: np.datetime64) -> Path:
        """A copy with other prices after ``day``, and the same rows, gaps and types throughout."""
        with self._lock:
            if day not in self._altered:
                name = f"altered-{len(self._altered)}.h5"
                self._altered[day] = _write(
                    self.whole, [_copy(name, altered_after=day)], self._folder, self._limits
                )[name]
            return self._altered[day]


@contextmanager
def prepare_market(data: Path, cuts: int, limits: Limits) -> Iterator[AuditMarket]:
    """Survey the data and write its copies, which are gone afterwards.

    Raises:
        BundleError: ``market-data-unreadable``, ``market-data-too-short``, ``confinement-failed``, or
            ``program-over-limit`` where the limits are too tight to read and copy the data.
    """
    with tempfile.TemporaryDirectory(prefix="rdagent-sota-audit-") as folder_name:
        folder, whole = Path(folder_name), data.resolve()
        days = _survey(whole, folder, limits)
        chosen = choose_cuts(days, cuts)
        cut_names = {day: f"until-{place}.h5" for place, day in enumerate(chosen)}
        tail_names = {length: f"newest-{length}.h5" for length in choose_histories(len(days.days))}
        copies = [_copy(name, end=day) for day, name in cut_names.items()]
        copies += [_copy(name, start=days.days[-length]) for length, name in tail_names.items()]
        written = _write(whole, copies, folder, limits)
        yield AuditMarket(
            whole,
            days.days,
            {day: written[name] for day, name in cut_names.items()},
            {length: written[name] for length, name in tail_names.items()},
            folder,
            limits,
        )


def _copy(
    name: str,
    *,
    start: np.datetime64 | None = None,
    end: np.datetime64 | None = None,
    altered_after: np.datetime64 | None = None,
) -> dict[str, str | None]:
    moments = {"start": start, "end": end, "altered_after": altered_after}
    return {"name": name, **{key: None if day is None else str(day) for key, day in moments.items()}}


def _survey(whole: Path, folder: Path, limits: Limits) -> MarketDays:
    with Jail() as jail:
        try:
            ran = jail.run(
                _PROGRAM,
                inputs={"daily_pv.h5": whole, "plan.json": _plan(folder, survey=True, copies=[])},
                outputs=["days.npy", "lacking.npy"],
                limits=limits,
                subject=f"Reading {whole}",
            )
        except BundleError as error:
            if error.slug != "program-failed":
                raise
            raise BundleError(
                "market-data-unreadable",
                error.problems[0].message,
                "Give the daily_pv.h5 that RD-Agent's factors read: key 'data', index datetime and instrument.",
            ) from error
        return MarketDays(
            *(np.load(ran.outputs[name], allow_pickle=False) for name in ("days.npy", "lacking.npy"))
        )


def _write(whole: Path, copies: list[dict[str, str | None]], folder: Path, limits: Limits) -> dict[str, Path]:
    names = [str(copy["name"]) for copy in copies]
    # Ours, however many there are, and not what the user allows a factor.
    room = 64 + len(names) * (1 + 2 * whole.stat().st_size // _MIB)
    bounds = replace(limits, seconds=limits.seconds * len(names), output_mb=max(limits.output_mb, room))
    with Jail() as jail:
        ran = jail.run(
            _PROGRAM,
            inputs={"daily_pv.h5": whole, "plan.json": _plan(folder, survey=False, copies=copies)},
            outputs=names,
            limits=bounds,
            subject=f"Cutting {whole}",
        )
        return {name: path.rename(folder / name) for name, path in ran.outputs.items()}


def _plan(folder: Path, *, survey: bool, copies: list[dict[str, str | None]]) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps({"survey": survey, "copies": copies}), encoding="utf-8")
    return path
