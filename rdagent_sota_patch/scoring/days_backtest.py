"""Qlib's own back-test on further days, with the strategy and the costs of a bundle's training."""

from __future__ import annotations

import json
import math
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq

from rdagent_sota_patch.bundle.documents import CONFIG_NAME
from rdagent_sota_patch.bundle.expressions import require_harmless
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.qlib_process import run_qlib

if TYPE_CHECKING:
    from rdagent_sota_patch.bundle.opening import Bundle

DAYS_A_YEAR = 238
"""As Qlib annualizes (``qlib.contrib.evaluate.risk_analysis``)."""

_STRATEGIES = {"TopkDropoutStrategy": ("qlib.contrib.strategy", "qlib.contrib.strategy.signal_strategy")}
_OPTIONS = frozenset({"account", "benchmark", "exchange_kwargs"})
_PLAIN = re.compile(r"[$A-Za-z0-9_.]{0,40}")
"""A text among the options: a price, a name. Some of Qlib's options are expressions, which it evaluates."""


@dataclass(frozen=True, slots=True)
class Portfolio:
    """What a bundle's training back-tested its scores with.

    Attributes:
        strategy: ``class``, ``module_path`` and ``kwargs``, without the scores.
        backtest: Account, benchmark and costs, without days.
    """

    strategy: dict[str, Any]
    backtest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """A back-test's figures, named as RD-Agent's metrics are; None: not computable.

    Attributes:
        annualized_return: Of strategy less benchmark less cost, summed, 238 days a year.
        information_ratio: Likewise, a year.
        max_drawdown: Of the summed returns; at most 0.
        ic, icir, rank_ic, rank_icir: Of scores and label, by day.
    """

    days: int
    annualized_return: float | None
    information_ratio: float | None
    max_drawdown: float | None
    ic: float | None
    icir: float | None
    rank_ic: float | None
    rank_icir: float | None

    def to_plain(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)


def read_portfolio(bundle: Bundle) -> Portfolio:
    """Strategy and costs from a bundle's configuration; nothing that could run code of the bundle's.

    Raises:
        BundleError: ``backtest-unknown``.
    """
    config = json.loads(bundle.read(CONFIG_NAME))
    records = config.get("record") if isinstance(config, dict) else None
    for record in records if isinstance(records, list) else [records]:
        match record:
            case {
                "class": "PortAnaRecord",
                "kwargs": {
                    "config": {
                        "strategy": {"class": str() as name, "kwargs": dict() as kwargs, **place},
                        "backtest": dict() as options,
                    }
                },
            }:
                break
    else:
        raise _unknown(bundle, "it names no strategy and costs (PortAnaRecord)")
    module = place.get("module_path")
    if module not in _STRATEGIES.get(name, ()):
        raise _unknown(bundle, f"its strategy {name} of {module} is not one of Qlib's that are known here")
    kept = {key: value for key, value in options.items() if key in _OPTIONS}
    own = {key: value for key, value in kwargs.items() if key != "signal"}
    if not (_is_plain(own) and _is_plain(kept)):
        raise _unknown(bundle, "its options are not plain numbers and names")
    return Portfolio({"class": name, "module_path": module, "kwargs": own}, kept)


def back_test(
    bundle: Bundle, portfolio: Portfolio, scores: pd.Series, provider: Path, days: pd.DatetimeIndex
) -> tuple[Figures, pd.DataFrame]:
    """Have Qlib trade on scores.

    Args:
        bundle: Whose label and market they are.
        portfolio: Strategy and costs.
        scores: Index (datetime, instrument).
        provider: Qlib's provider folder; its calendar goes at least a day beyond ``days``.
        days: The days to trade on.

    Returns:
        The figures, and Qlib's report by day.

    Raises:
        BundleError: ``backtest-failed``, ``expression-refused``.
    """
    _, meta = bundle.model
    (label,) = tuple(meta.label.values())[:1]
    require_harmless(label)
    with tempfile.TemporaryDirectory(prefix="back-test-") as folder:
        place = Path(folder).resolve()
        request = {
            "provider": str(provider.resolve()),
            "region": meta.region,
            "jobs": 1,
            "market": meta.instruments,
            "label": label,
            "start": f"{days[0]:%Y-%m-%d}",
            "end": f"{days[-1]:%Y-%m-%d}",
            "strategy": portfolio.strategy,
            "backtest": portfolio.backtest,
        }
        scores.rename("score").to_frame().to_parquet(place / "scores.parquet")
        failed = run_qlib("backtest_process", place, request)
        if failed is not None:
            raise BundleError(
                "backtest-failed",
                f"Qlib could not back-test {len(days)} days on {provider}. It ended with:\n{failed}",
                "Check that its data have the benchmark and all stocks of the market on these days.",
            )
        report: pd.DataFrame = pq.read_table(str(place / "report.parquet")).to_pandas()
        labels: pd.DataFrame = pq.read_table(str(place / "label.parquet")).to_pandas()
    return summarize(scores, labels["label"], report), report


def summarize(scores: pd.Series, label: pd.Series, report: pd.DataFrame) -> Figures:
    """The figures of a back-test, as Qlib computes them (``risk_analysis``, ``calc_ic``)."""
    excess = report["return"] - report["bench"] - report["cost"]
    both = pd.DataFrame({"score": scores, "label": label}).dropna()
    by_day = both.groupby(level="datetime")
    ic = by_day.apply(lambda rows: rows["score"].corr(rows["label"]))
    rank_ic = by_day.apply(lambda rows: rows["score"].corr(rows["label"], method="spearman"))
    summed = excess.cumsum()
    return Figures(
        days=len(report),
        annualized_return=_finite(excess.mean() * DAYS_A_YEAR),
        information_ratio=_finite(excess.mean() / excess.std(ddof=1) * DAYS_A_YEAR**0.5),
        max_drawdown=_finite((summed - summed.cummax()).min()),
        ic=_finite(ic.mean()) if len(ic) else None,
        icir=_finite(ic.mean() / ic.std()) if len(ic) > 1 else None,
        rank_ic=_finite(rank_ic.mean()) if len(rank_ic) else None,
        rank_icir=_finite(rank_ic.mean() / rank_ic.std()) if len(rank_ic) > 1 else None,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(
            isinstance(key, str) and key.isidentifier() and _is_plain(each) for key, each in value.items()
        )
    if isinstance(value, str):
        return _PLAIN.fullmatch(value) is not None
    return value is None or isinstance(value, (bool, int, float))


def _unknown(bundle: Bundle, why: str) -> BundleError:
    return BundleError(
        "backtest-unknown",
        f"{bundle.folder / CONFIG_NAME} does not say how its scores were traded: {why}.",
        "Only back-tests with Qlib's TopkDropoutStrategy, as RD-Agent's templates have it, can be run on other days.",
    )
