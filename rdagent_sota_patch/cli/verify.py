"""``rdagent-sota verify``: a bundle's files against its manifest, and its scores against its back-test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.bundle.signing import read_key
from rdagent_sota_patch.cli.output import (
    EXIT_PROBLEM,
    clean,
    out,
    print_json,
    print_problems,
    problem_to_plain,
    tell_of_open_ways,
)
from rdagent_sota_patch.errors import Problem
from rdagent_sota_patch.scoring.replay import replay_slice
from rdagent_sota_patch.scoring.scoring import load_scorer
from rdagent_sota_patch.sync.companion import has_evidence, require_companion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.sandbox.limits import Limits
    from rdagent_sota_patch.scoring.market_days import MarketFiles
    from rdagent_sota_patch.scoring.replay import Replayed
    from rdagent_sota_patch.scoring.scoring import Scorer

_SLICE = "the bundle's slice"
_WHOLE = "the whole back-test"


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify.

    Attributes:
        market: Market data to compute the whole back-test from again; None to replay the bundle's own slice alone.
        trust: Whether the bundle's code may run unconfined, and its weights be unpickled.
        key_file: With which the bundle must be signed, if given.
        limits: Of each factor's and the network's code.
        jobs: Factors at a time; None for as many as there are cores.
    """

    market: MarketFiles | None
    trust: bool
    key_file: Path | None
    limits: Limits
    jobs: int | None


def run_verify(folder: Path, options: VerifyOptions, as_json: bool) -> None:
    """Check a bundle, and leave with 1 if its scores are not its back-test's.

    One that was synced without its evidence has none to replay, and that is said.
    """
    key = None if options.key_file is None else read_key(options.key_file)
    bundle = open_bundle(folder, key=key)
    runs: dict[str, Replayed] = {}
    notices: list[Problem] = []
    # Asked for a back-test, a bundle of factors alone is told to have none.
    if not bundle.manifest.factors_only or options.market is not None:
        scorer = load_scorer(bundle, trust=options.trust, limits=options.limits)
        if has_evidence(bundle.manifest) or not require_companion(bundle):
            runs[_SLICE] = replay_slice(bundle, scorer=scorer)
        else:
            _score_blanks(bundle, scorer)
            notices.append(_not_replayed(bundle))
        if options.market is not None:
            tell_of_open_ways()
            runs[_WHOLE] = _recompute(bundle, options.market, options, notices.append)
    problems = [_differs(bundle, name, replayed) for name, replayed in runs.items() if not replayed.within]
    if as_json:
        notes = [problem_to_plain(notice) for notice in notices]
        print_json({**_to_plain(bundle, runs, problems), "notices": notes})
    else:
        _show(bundle, runs, options.trust)
        print_problems(notices, style="yellow", mark="!")
        print_problems(problems)
    if problems:
        raise typer.Exit(EXIT_PROBLEM)


def _score_blanks(bundle: Bundle, scorer: Scorer) -> None:
    """Where there is nothing to compare with: weights or code that do not fit the order fail at any sample."""
    order, meta = bundle.model
    steps = () if meta.step_len is None else (meta.step_len,)
    scorer.predict(np.zeros((2, *steps, len(order.factor_order))))


def _not_replayed(bundle: Bundle) -> Problem:
    return Problem(
        "not-replayed",
        f"{bundle.folder} was synced without its evidence: its files are as the manifest says and the model scores "
        "samples of these features; whether its scores are the back-test's was not replayed here.",
        "`rdagent-sota sync --with-replay` brings the evidence, which is back-test data.",
    )


def _recompute(
    bundle: Bundle, market: MarketFiles, options: VerifyOptions, tell: Callable[[Problem], None]
) -> Replayed:
    from rdagent_sota_patch.cli.predict import show_report
    from rdagent_sota_patch.scoring.recomputation import RecomputeOptions, recompute

    jobs = {} if options.jobs is None else {"jobs": options.jobs}
    with show_report() as report:
        chosen = RecomputeOptions(trust=options.trust, limits=options.limits, **jobs)
        return recompute(bundle, market, report, chosen, tell)


def _differs(bundle: Bundle, name: str, replayed: Replayed) -> Problem:
    if name == _WHOLE:
        hint = "If the slice replays, the market data, or a factor's code, is not that of the back-test."
    else:
        hint = (
            "This model in this order did not make these predictions: do not use the bundle. Export it again."
        )
    return Problem(
        "replay-differs",
        f"{bundle.folder}: the scores of {name} are not the back-test's: {_difference(replayed)} over "
        f"{replayed.rows:,} rows, where {replayed.limit:g} is allowed.",
        hint,
    )


def _difference(replayed: Replayed) -> str:
    correlation = replayed.rank_correlation
    ranks = "" if correlation is None else f", rank correlation {correlation:.4f}"
    return f"maximum difference {replayed.max_difference:.3g}{ranks}"


def _to_plain(bundle: Bundle, runs: dict[str, Replayed], problems: list[Problem]) -> dict[str, Any]:
    meta = bundle.meta
    return {
        "bundle": str(bundle.folder),
        "task_id": bundle.manifest.task_id,
        "stage": bundle.manifest.stage,
        "files": len(bundle.manifest.files),
        "bytes": sum(file.size for file in bundle.manifest.files.values()),
        "signed": bundle.signed,
        "factors_only": bundle.manifest.factors_only,
        "model": None if meta is None else meta.kind,
        "replay": _run_to_plain(runs.get(_SLICE)),
        "recomputed": _run_to_plain(runs.get(_WHOLE)),
        "problems": [problem_to_plain(problem) for problem in problems],
    }


def _run_to_plain(replayed: Replayed | None) -> dict[str, Any] | None:
    if replayed is None:
        return None
    return {
        "rows": replayed.rows,
        "days": replayed.days,
        "max_difference": replayed.max_difference,
        "rank_correlation": replayed.rank_correlation,
        "limit": replayed.limit,
        "same": replayed.within,
    }


def _show(bundle: Bundle, runs: dict[str, Replayed], trust: bool) -> None:
    manifest = bundle.manifest
    size = sum(file.size for file in manifest.files.values()) / 1e6
    signature = "signed with this key" if bundle.signed else "signature not checked"
    out.print(
        f"[bold]{escape(clean(manifest.task_id))}[/]  {manifest.stage} stage, loop {manifest.loop}: "
        f"{len(manifest.files)} files, {size:.1f} MB, all as the manifest says; {signature}",
        highlight=False,
        soft_wrap=True,
    )
    if bundle.meta is None:
        out.print("The bundle holds only factors: no model to replay.", style="yellow")
        return
    out.print(_how_it_ran(bundle.meta.kind, trust or bundle.signed), style="dim", soft_wrap=True)
    if not runs:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("replayed")
    for name in ("days", "rows", "max. difference", "rank correlation"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name, replayed in runs.items():
        correlation = replayed.rank_correlation
        table.add_row(
            name,
            f"{replayed.days:,}",
            f"{replayed.rows:,}",
            f"{replayed.max_difference:.3g}",
            "" if correlation is None else f"{correlation:.6f}",
            "[green]✓ the back-test's[/]" if replayed.within else "[red]✗ different[/]",
        )
    out.print(table)


def _how_it_ran(kind: str, trusted: bool) -> str:
    if kind == "lightgbm":
        return "LightGBM, read from its text: nothing was unpickled."
    if kind == "torch":
        where = "unconfined, since you trust it" if trusted else "confined: no files but its own, no network"
        return f"Torch, its weights read from safetensors: nothing was unpickled; model.py ran {where}."
    return "The model was unpickled, since you trust it."
