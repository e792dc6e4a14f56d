"""``rdagent-sota evidence``."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.cli.output import clean, err, out, print_json, print_problems
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rdagent_sota_patch.evidence.weighing import Evidence, WinnerFigures
    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

_NEEDED = ("arch", "scipy", "statsmodels")
_COLOURS = {"pass": "green", "fail": "yellow", "not judged": "yellow"}
_DAYS_A_YEAR = 238
"""As Qlib annualizes (``qlib.contrib.evaluate.risk_analysis``)."""


def run_evidence(
    logs: Sequence[Path], page: Path | None, as_json: bool, *, seeds: int | None = None, trust: bool = False
) -> None:
    """Weigh the winner of the last of some runs, and print, write or give it as JSON.

    Args:
        logs: The winner's last.
        page: File to write the page to.
        as_json: As one object.
        seeds: With how many the winner and the SOTA before it are trained again.
        trust: Whether their code may be run although it is not signed.

    Raises:
        SotaError: ``extra-missing``, ``runs-not-comparable``, ``seeds-need-trust``, or a log that cannot be read.
    """
    if missing := find_missing_libraries():
        raise SotaError(
            "extra-missing",
            f"`rdagent-sota evidence` needs {', '.join(missing)}.",
            "pip install 'rdagent-sota-patch[evidence]'",
        )
    from rdagent_sota_patch.evidence.trials import gather_trials
    from rdagent_sota_patch.evidence.weighing import to_plain, weigh

    roots = log_roots(os.environ)
    sessions = [find_log(log, roots) for log in logs]
    workspaces = load_settings().sota_workspace_root
    if seeds is not None:
        from rdagent_sota_patch.evidence.seed_band import require_trust

        require_trust(sessions[-1], trust=trust)
    evidence = weigh(gather_trials(sessions, workspaces))
    if seeds is not None:
        evidence = _with_seeds(evidence, sessions[-1], workspaces, seeds)
    if page is not None:
        from rdagent_sota_patch.atomic import write_text_atomically
        from rdagent_sota_patch.evidence.evidence_page import render_evidence

        write_text_atomically(page, render_evidence(evidence))
    if as_json:
        print_json(to_plain(evidence))
        return
    _show(evidence)
    if page is not None:
        out.print(f"page: {clean(page)}", markup=False, soft_wrap=True)
    print_problems(evidence.problems, style="yellow", mark="!")


def weigh_experiment(
    session: Session, experiment: ExperimentRecord, roots: Sequence[Path]
) -> dict[str, Any] | str:
    """The evidence for one experiment of a run, as ``--json`` gives it; or why there is none.

    Args:
        session: The run.
        experiment: One of its own, whether or not it is the last accepted.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
    """
    if missing := find_missing_libraries():
        return f"{', '.join(missing)} not installed: pip install 'rdagent-sota-patch[evidence]'"
    from rdagent_sota_patch.evidence.trials import gather_trials
    from rdagent_sota_patch.evidence.weighing import to_plain, weigh

    wanted = (session.task_id, experiment.kind.value, experiment.loop)
    try:
        ledger = gather_trials([session], roots)
        own = [each for each in ledger.trials if (each.run, each.kind, each.loop) == wanted]
        return to_plain(weigh(replace(ledger, winner=own[0]))) if own else "its trial is not in the log"
    except SotaError as error:
        return error.problems[0].message


def _with_seeds(evidence: Evidence, session: Session, roots: Sequence[Path], seeds: int) -> Evidence:
    """The evidence with a band, or with the reason why there is none."""
    from rdagent_sota_patch.evidence.seed_band import measure_seeds

    try:
        band = measure_seeds(
            session,
            roots,
            seeds,
            lambda text: err.print(clean(text), style="dim", markup=False, soft_wrap=True),
        )
    except SotaError as error:
        return replace(evidence, problems=(*evidence.problems, *error.problems))
    return replace(evidence, seeds=band, problems=(*evidence.problems, *band.problems))


def find_missing_libraries() -> list[str]:
    """Which of the extra's libraries are not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def _show(evidence: Evidence) -> None:
    out.print(Text(evidence.sentence, style=f"bold {_COLOURS[evidence.verdict]}"))
    out.print()
    table = Table(box=None, pad_edge=False)
    for column in ("run", "loop", "kind", "status", "trial"):
        table.add_column(column, overflow="fold")
    table.add_column("Sharpe, a year", justify="right")
    ratios = {id(trial): ratio for trial, ratio in zip(evidence.with_returns, evidence.ratios, strict=True)}
    for trial in evidence.trials:
        ratio = ratios.get(id(trial))
        won = evidence.winner is not None and trial is evidence.winner.trial
        table.add_row(
            clean(trial.run),
            str(trial.loop),
            trial.kind,
            trial.status,
            clean(trial.name),
            "–" if ratio is None else f"{ratio * _DAYS_A_YEAR**0.5:.2f}",
            style="bold" if won else None,
        )
    out.print(table)
    out.print()
    figures = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _figures(evidence):
        figures.add_row(name, value)
    out.print(figures)


def _figures(evidence: Evidence) -> list[tuple[str, str]]:
    from rdagent_sota_patch.evidence.weighing import p_value

    effective = "" if evidence.effective is None else f", {evidence.effective:.1f} effective"
    lines = [
        (
            "trials",
            f"{len(evidence.trials)}, {len(evidence.with_returns)} with returns{effective}; {evidence.days} days",
        )
    ]
    if evidence.winner is not None:
        lines += _of_winner(evidence.winner)
    if evidence.seeds is not None:
        lines.append(("seeds", clean(evidence.seeds.sentence)))
    if evidence.overfitting is not None:
        lines.append(("overfitting (PBO)", f"{evidence.overfitting.probability:.0%}"))
    if evidence.best is not None:
        lines.append(
            (
                "best against none",
                f"SPA p {p_value(evidence.best.spa_p)}, reality check p {p_value(evidence.best.reality_check_p)}",
            )
        )
    return lines


def _of_winner(winner: WinnerFigures) -> list[tuple[str, str]]:
    from rdagent_sota_patch.evidence.weighing import percent

    lines = []
    if winner.sharpe is not None:
        value, error = winner.sharpe.value, winner.sharpe.error
        lines.append(("Sharpe, daily", f"{value:.4f} ± {error:.4f}"))
    shares = (
        ("above 0", winner.psr),
        ("deflated", winner.dsr),
        ("deflated, effective", winner.dsr_effective),
    )
    lines += [(name, percent(share)) for name, share in shares if share is not None]
    if winner.trial.seed_test is not None:
        lines.append(("seeds, in the run", clean(str(winner.trial.seed_test.get("sentence", "?")))))
    if winner.track_record is not None:
        lines.append(("days needed", f"{winner.track_record:.0f} for 95 %, with nothing else tried"))
    lines += [(f"haircut, {each.method}", f"{each.share:.0%} (p {each.p:.3g})") for each in winner.haircuts]
    for name, figures in (("IC", winner.ic), ("Rank IC", winner.rank_ic)):
        if figures is not None:
            t = "" if figures.t is None else f", t {figures.t:.1f}"
            lines.append((name, f"{figures.mean:.4f}{t}, {figures.days} days"))
    if winner.paths is not None:
        worst = float(winner.paths.drawdowns[int(0.95 * len(winner.paths.drawdowns))])
        lines.append(("drawdown", f"{winner.paths.drawdown:.1%}; in 5 % of resampled paths over {worst:.1%}"))
    return lines
