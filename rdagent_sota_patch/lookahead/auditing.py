"""Audit factors: run each one's code in the jail on data that ends earlier, several factors side by side."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.lookahead import LEAST_CUTS
from rdagent_sota_patch.lookahead.judging import Finding, judge
from rdagent_sota_patch.lookahead.market_cuts import AuditMarket, prepare_market
from rdagent_sota_patch.lookahead.verdicts import Audit
from rdagent_sota_patch.sandbox.factors import require_factor_confinement
from rdagent_sota_patch.sandbox.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rdagent_sota_patch.errors import Problem


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """How to audit.

    Attributes:
        cuts: On how many days to cut the data off, beside the last but one of all; 8 at least.
        limits: Of one run of one factor's code.
        jobs: How many factors are run at a time; each holds the market data in memory.
        lookback: Whether to measure how much history each causal factor needs.
        trust: Whether factor code may run where this system cannot keep it in.
    """

    cuts: int = LEAST_CUTS
    limits: Limits = field(default_factory=Limits)
    jobs: int = field(default_factory=lambda: max(1, (os.cpu_count() or 1) // 2))
    lookback: bool = True
    trust: bool = False

    def __post_init__(self) -> None:
        if self.cuts < LEAST_CUTS or self.jobs < 1:
            raise ValueError(f"an audit has {LEAST_CUTS} cuts and one job at least")


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """An audit and what it rests on.

    Attributes:
        findings: By factor, in the order that was asked for.
        days: The market data's trading days, ``datetime64[ns]``.
        notices: What is odd about the files of the data folder.
    """

    audit: Audit
    findings: Mapping[str, Finding]
    days: np.typing.NDArray[np.datetime64]
    notices: tuple[Problem, ...]


def audit_factors(
    codes: Mapping[str, str],
    data: Path,
    options: AuditOptions | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Audit:
    """Find out of each factor whether its past changes when the data's future is cut off.

    Args:
        codes: Factor name to the text of its ``factor.py``.
        data: The data folder that it reads, or its ``daily_pv.h5``: key ``data``, index (datetime, instrument).
        report: Told the factor that was just done, how many are, and of how many.

    Raises:
        BundleError: ``nothing-to-audit``, ``trust-needed``, ``market-data-unreadable``,
            ``market-data-too-short``, ``confinement-failed``.
            A factor that fails is not an error: its verdict says so.
    """
    return examine_factors(codes, data, options, report).audit


def examine_factors(
    codes: Mapping[str, str],
    data: Path,
    options: AuditOptions | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Audited:
    """As `audit_factors`, with the changes by day and cut that the verdicts rest on.

    Raises:
        BundleError: As `audit_factors`.
    """
    options = options or AuditOptions()
    if not codes:
        raise BundleError("nothing-to-audit", "There is no factor with code to audit.")
    require_factor_confinement(trusted=options.trust)
    with prepare_market(data, options.cuts, trusted=options.trust) as market:
        audited_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        findings = _judge_all(codes, market, options, report)
        audit = Audit(
            audited_at_utc=audited_at,
            data_start=_iso(market.days[0]),
            data_end=_iso(market.days[-1]),
            cuts=tuple(map(_iso, market.cuts)),
            factors=tuple(finding.verdict for finding in findings.values()),
        )
        return Audited(audit, findings, market.days, market.table.find_notices())


def _judge_all(
    codes: Mapping[str, str],
    market: AuditMarket,
    options: AuditOptions,
    report: Callable[[str, int, int], None] | None,
) -> dict[str, Finding]:
    findings: dict[str, Finding] = {}
    # The threads wait for the jails' processes, and hold two runs against each other in numpy.
    with ThreadPoolExecutor(options.jobs) as pool:
        tasks = {
            pool.submit(judge, name, code, market, options.limits, lookback=options.lookback): name
            for name, code in codes.items()
        }
        try:
            for task in as_completed(tasks):
                findings[tasks[task]] = task.result()
                if report is not None:
                    report(tasks[task], len(findings), len(tasks))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: findings[name] for name in codes}


def _iso(day: np.datetime64) -> str:
    return str(day.astype("datetime64[D]"))
