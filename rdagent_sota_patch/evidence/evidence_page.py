"""The evidence as a page to look at: the verdict first, then trials, equity, IC and overfitting as drawings."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.evidence.weighing import p_value, percent
from rdagent_sota_patch.standalone_page import render_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from rdagent_sota_patch.evidence.seed_band import SeedBand
    from rdagent_sota_patch.evidence.sharpe import Overfitting
    from rdagent_sota_patch.evidence.weighing import Evidence, WinnerFigures

_HEIGHT = 160
_WIDTH = 600
_BINS = 30
_SHOWN = 200
"""Rows of the ledger at most; --json has all."""


def render_evidence(evidence: Evidence) -> str:
    """One HTML document; names from logs are escaped as text."""
    return render_document("Evidence", _parts(evidence))


def _parts(evidence: Evidence) -> Iterator[str]:
    yield f'<p class="soft">{escape(_of_what(evidence))}</p><h1>{escape(evidence.sentence)}</h1>'
    yield _facts(evidence)
    if evidence.problems:
        lines = "".join(f"<li>{escape(each.message)}</li>" for each in evidence.problems)
        yield f'<section><h2 class="warn">What is missing</h2><ul>{lines}</ul></section>'
    if len(evidence.ratios):
        yield _section(
            "Trials",
            "Daily Sharpe ratio of each trial with returns, in the order they were tried; the winner is marked.",
            _cloud(evidence),
        )
    if evidence.winner is not None:
        yield from _of_winner(evidence.winner)
    if evidence.seeds is not None:
        yield _section("Seeds", escape(evidence.seeds.sentence), _seeds(evidence.seeds))
    if evidence.overfitting is not None:
        yield _section(
            "Overfitting",
            f"In {percent(evidence.overfitting.probability)} of {len(evidence.overfitting.logits):,} ways to halve the "
            "days, the best trial of one half is in the lower half of the other (left of 0).",
            _logits(evidence.overfitting),
        )
    yield _ledger(evidence)


def _of_what(evidence: Evidence) -> str:
    if evidence.winner is None:
        return "no winner"
    trial = evidence.winner.trial
    return f"{trial.run}, loop {trial.loop}: {trial.name}"


def _section(title: str, text: str, drawing: str) -> str:
    return f'<section><h2>{title}</h2><p class="soft">{text}</p>{drawing}</section>'


def _facts(evidence: Evidence) -> str:
    effective = "" if evidence.effective is None else f", {evidence.effective:.1f} effective"
    facts = {
        "trials": f"{len(evidence.trials)}, {len(evidence.with_returns)} with returns{effective}",
        "days": f"{evidence.days}",
    }
    winner = evidence.winner
    if winner is not None and winner.sharpe is not None:
        facts["daily Sharpe ratio"] = f"{winner.sharpe.value:.3f} ± {winner.sharpe.error:.3f}"
    if winner is not None:
        for name, share in (("above 0", winner.psr), ("deflated", winner.dsr_all)):
            if share is not None:
                facts[name] = percent(share)
        if winner.ic is not None:
            facts["IC"] = f"{winner.ic.mean:.4f}" + ("" if winner.ic.t is None else f" (t {winner.ic.t:.1f})")
    if evidence.best is not None:
        facts["SPA"] = f"p {p_value(evidence.best.spa_p)}"
    return (
        "<dl>"
        + "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items())
        + "</dl>"
    )


def _of_winner(winner: WinnerFigures) -> Iterator[str]:
    excess = winner.trial.excess
    if winner.paths is not None and excess is not None:
        path = excess.to_numpy(dtype=np.float64).cumsum()
        yield _section(
            "Equity",
            f"Strategy less benchmark less cost, summed, {excess.index[0]:%Y-%m-%d} to {excess.index[-1]:%Y-%m-%d}; "
            "the band holds 90 % of the same days in another order, in blocks of "
            f"{winner.paths.block} days on average. "
            f"Largest fall {winner.paths.drawdown:.1%}.",
            _equity(path, winner.paths.low, winner.paths.high),
        )
    if winner.ic is not None:
        yield _section("IC by month", "Mean daily IC of the winner.", _months(winner.ic.by_month))


def _cloud(evidence: Evidence) -> str:
    ratios = evidence.ratios
    low, high = min(0.0, float(ratios.min())), max(0.0, float(ratios.max()))
    won = None if evidence.winner is None else evidence.winner.trial
    dots = []
    for place, (trial, ratio) in enumerate(zip(evidence.with_returns, ratios, strict=True)):
        x = 2 + 96 * (place + 0.5) / len(ratios)
        kind, radius = ("best", 6) if trial is won else ("bar", 4)
        title = escape(f"{trial.run}, loop {trial.loop}, {trial.status}: {trial.name}, {ratio:.3f}")
        dots.append(
            f'<circle class="{kind}" cx="{x:.2f}%" cy="{_y(ratio, low, high):.1f}" r="{radius}">'
            f"<title>{title}</title></circle>"
        )
    rule = f'<line class="rule" x1="0" x2="100%" y1="{_y(0, low, high):.1f}" y2="{_y(0, low, high):.1f}"/>'
    return _svg(
        f"Sharpe ratios of {len(ratios)} trials from {ratios.min():.3f} to {ratios.max():.3f}", rule, *dots
    ) + _ticks(f"{low:.3f} to {high:.3f}; the line is 0")


def _equity(path: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
    bottom, top = min(0.0, float(min(path.min(), low.min()))), max(0.0, float(max(path.max(), high.max())))

    def points(values: NDArray[np.float64]) -> list[str]:
        return [
            f"{place * _WIDTH / max(1, len(values) - 1):.1f},{_y(value, bottom, top):.1f}"
            for place, value in enumerate(values)
        ]

    band = " ".join(points(high) + points(low)[::-1])
    zero = _y(0, bottom, top)
    drawing = (
        f'<svg height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Summed excess return, in the end {path[-1]:.1%}">'
        f'<polygon class="bar" opacity=".45" points="{band}"/>'
        f'<line class="rule" x1="0" x2="{_WIDTH}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
        f'<polyline fill="none" stroke="var(--best)" stroke-width="2" vector-effect="non-scaling-stroke" '
        f'points="{" ".join(points(path))}"/></svg>'
    )
    return drawing + _ticks(f"{bottom:.1%} to {top:.1%}; in the end {path[-1]:.1%}")


def _months(months: Mapping[str, float]) -> str:
    low, high = min(0.0, *months.values()), max(0.0, *months.values())
    bars, width = [], 100 / len(months)
    for place, (month, value) in enumerate(months.items()):
        edges = sorted((_y(0, low, high), _y(value, low, high)))
        bars.append(
            f'<rect class="{"best" if value > 0 else "bar"}" x="{place * width:.2f}%" y="{edges[0]:.1f}" '
            f'width="{0.85 * width:.2f}%" height="{max(1.0, edges[1] - edges[0]):.1f}">'
            f"<title>{escape(month)}: {value:.4f}</title></rect>"
        )
    names = list(months)
    return _svg(f"IC of {len(months)} months from {low:.3f} to {high:.3f}", *bars) + _ticks(
        names[0], names[-1]
    )


def _seeds(band: SeedBand) -> str:
    rows = [each for each in (band.winner, band.sota) if each is not None]
    values = [value for row in rows for value in (*row.values, row.recorded) if value is not None]
    low, high = min(values), max(values)
    dots = []
    for place, row in enumerate(rows):
        y = _HEIGHT * (place + 0.5) / len(rows)
        for value, kind, what in (
            *((value, "bar", f"seed {seed}") for seed, value in enumerate(row.values, start=1)),
            *(() if row.recorded is None else ((row.recorded, "best", "in the run"),)),
        ):
            x = 2 + 96 * (value - low) / ((high - low) or 1.0)
            title = escape(f"loop {row.loop}, {row.name}, {what}: {value:.4f}")
            dots.append(
                f'<circle class="{kind}" cx="{x:.2f}%" cy="{y:.1f}" r="5"><title>{title}</title></circle>'
            )
    return _svg("Annualized returns with cost by seed: winner above, SOTA below", *dots) + _ticks(
        f"{low:.4f}", "winner above, SOTA below; the run's own marked", f"{high:.4f}"
    )


def _logits(overfitting: Overfitting) -> str:
    edge = float(np.abs(overfitting.logits).max()) or 1.0
    counts, edges = np.histogram(overfitting.logits, bins=_BINS, range=(-edge, edge))
    bars = []
    for count, left in zip(counts, edges[:-1], strict=True):
        height = (_HEIGHT - 10) * count / max(1, counts.max())
        x = 100 * (left + edge) / (2 * edge)
        bars.append(
            f'<rect class="{"best" if left >= 0 else "bar"}" x="{x:.2f}%" y="{_HEIGHT - height:.1f}" '
            f'width="{90 / _BINS:.2f}%" height="{height:.1f}"/>'
        )
    rule = f'<line class="rule" x1="50%" x2="50%" y1="0" y2="{_HEIGHT}"/>'
    return _svg("Logits of the best trial's rank in the other half", *bars, rule) + _ticks(
        f"{-edge:.1f}: worst", "0", f"{edge:.1f}: best"
    )


def _ledger(evidence: Evidence) -> str:
    ratios = {id(trial): ratio for trial, ratio in zip(evidence.with_returns, evidence.ratios, strict=True)}
    rows = []
    for trial in evidence.trials[:_SHOWN]:
        ratio = ratios.get(id(trial))
        said = escape(trial.why_without_returns or "") if ratio is None else f"{ratio:.3f}"
        cells = (trial.run, str(trial.loop), trial.kind, trial.status, trial.name)
        rows.append(
            "<tr>"
            + "".join(f'<td class="name">{escape(cell)}</td>' for cell in cells)
            + f'<td class="number">{said}</td></tr>'
        )
    more = len(evidence.trials) - len(rows)
    rest = f'<p class="soft">and {more:,} more</p>' if more > 0 else ""
    return (
        '<section><h2>Every trial</h2><div class="scroll"><table><tr><th>run<th>loop<th>kind<th>status<th>trial'
        '<th class="number">daily Sharpe</tr>' + "".join(rows) + f"</table></div>{rest}</section>"
    )


def _svg(label: str, *parts: str) -> str:
    return f'<svg height="{_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _ticks(*texts: str) -> str:
    return '<div class="ticks soft">' + "".join(f"<span>{escape(text)}</span>" for text in texts) + "</div>"


def _y(value: float, low: float, high: float) -> float:
    """Where a value is drawn, the largest on top."""
    return 8 + (_HEIGHT - 16) * (high - float(value)) / ((high - low) or 1.0)
