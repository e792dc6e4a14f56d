"""``rdagent-sota evidence BUNDLE --unseal``: the sealed days, opened and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.bundle.signing import read_key
from rdagent_sota_patch.cli.output import (
    clean,
    find_market_data,
    out,
    print_json,
    print_problems,
    tell_of_open_ways,
)
from rdagent_sota_patch.cli.predict import show_report
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.evidence.unsealing import Unsealed, UnsealOptions, unseal
from rdagent_sota_patch.scoring.market_days import MarketFiles
from rdagent_sota_patch.scoring.recomputation import RecomputeOptions
from rdagent_sota_patch.sealing.opening_ledger import default_ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LABELS = {
    "annualized_return": ("return, a year", "{:.2%}"),
    "information_ratio": ("information ratio", "{:.3f}"),
    "max_drawdown": ("largest drawdown", "{:.2%}"),
    "ic": ("IC", "{:.4f}"),
    "icir": ("ICIR", "{:.3f}"),
    "rank_ic": ("Rank IC", "{:.4f}"),
    "rank_icir": ("Rank ICIR", "{:.3f}"),
}


def run_unseal(
    bundles: Sequence[Path],
    market: MarketFiles,
    ledger: Path | None,
    *,
    trust: bool,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Open one bundle's sealed days, and print the figures beside the back-test's.

    Raises:
        SotaError: ``several-bundles``, or what `unseal` raises.
    """
    if len(bundles) != 1:
        raise BundleError(
            "several-bundles",
            f"--unseal opens the sealed days for one bundle, and {len(bundles)} were named.",
            "Choose one before you look: the best of several on these days is no proof.",
        )
    bundle = open_bundle(bundles[0], key=None if key_file is None else read_key(key_file))
    tell_of_open_ways()
    files = MarketFiles(market.data or find_market_data(), market.qlib_dir)
    options = UnsealOptions(ledger or default_ledger(), RecomputeOptions(trust=trust))
    with show_report() as report:
        opened = unseal(bundle, files, options, report)
    if as_json:
        print_json(opened.to_plain())
    else:
        _show(opened, options.ledger)
    print_problems(opened.notices, style="bold red" if opened.before[1] else "yellow", mark="!")


def _show(opened: Unsealed, ledger: Path) -> None:
    opening = opened.opening
    out.print(
        Text(f"{opening.days} sealed days, {opening.first_day} to {opening.last_day}, opened", style="bold")
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("excess of the benchmark, after costs")
    table.add_column("sealed days", justify="right")
    table.add_column("the run's back-test", justify="right")
    for name, (label, form) in _LABELS.items():
        values = opening.figures.get(name), opening.backtest.get(name)
        table.add_row(label, *("–" if value is None else form.format(value) for value in values))
    out.print(table)
    out.print(f"recorded in {clean(ledger)}", markup=False, soft_wrap=True)
