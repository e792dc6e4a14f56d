"""``rdagent-sota predict``: score the stocks of a day with a bundle."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.bundle.signing import read_key
from rdagent_sota_patch.cli.output import (
    clean,
    err,
    out,
    print_json,
    print_problems,
    problem_to_plain,
    tell_of_open_ways,
)
from rdagent_sota_patch.prediction.market_days import MarketFiles
from rdagent_sota_patch.prediction.page import render_page
from rdagent_sota_patch.prediction.prediction import Prediction, PredictOptions, predict_day
from rdagent_sota_patch.prediction.scores_file import require_suffix, write_scores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.prediction.mined import Report

_STAGES = {
    "market": "reading the market data",
    "factors": "mined factors",
    "alpha": "Alpha features",
    "scores": "scores",
}
_LISTED = 10
_BESIDE_THE_LIST = "market-day-partial"
"""The notice that is printed with the list of the best stocks, on stdout as that is: it is about the list."""


@dataclass(frozen=True, slots=True)
class PredictFiles:
    """What ``predict`` reads and writes.

    Attributes:
        target: Of the scores, CSV or parquet by its name; None to print them alone.
        page: Of the HTML page, if one is wanted.
        key_file: With which the bundle must be signed, if given.
    """

    bundle: Path
    market: MarketFiles
    target: Path | None
    page: Path | None
    key_file: Path | None


def run_predict(files: PredictFiles, options: PredictOptions, as_json: bool) -> None:
    """Predict, write what was asked for, and print a summary."""
    if files.target is not None:
        require_suffix(files.target)
    key = read_key(files.key_file) if files.key_file is not None else None
    bundle = open_bundle(files.bundle, key=key, replay=False)
    tell_of_open_ways()
    with show_report() as report:
        prediction = predict_day(bundle, files.market, options, report)
    if files.target is not None:
        write_scores(prediction, files.target)
    if files.page is not None:
        write_text_atomically(files.page, render_page(prediction, bundle))
    if as_json:
        print_json(_to_plain(prediction, files))
        return
    print_problems(
        [notice for notice in prediction.notices if notice.slug != _BESIDE_THE_LIST], style="yellow", mark="!"
    )
    _show(prediction, files)


@contextmanager
def show_report() -> Iterator[Report]:
    """A progress bar on stderr for what `predict_day` and `recompute` tell."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(_STAGES.get(stage, stage), total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


def _to_plain(prediction: Prediction, files: PredictFiles) -> dict[str, Any]:
    return {
        "day": f"{prediction.day:%Y-%m-%d}",
        "scored": len(prediction.scores),
        "out": str(files.target) if files.target is not None else None,
        "html": str(files.page) if files.page is not None else None,
        "top": prediction.frame.to_dict(orient="records"),
        "left_out": [{"instrument": name, "reason": why} for name, why in prediction.left_out.items()],
        "incomplete": {name: list(missing) for name, missing in prediction.incomplete.items()},
        "coverage": dict(prediction.coverage),
        "notices": [problem_to_plain(notice) for notice in prediction.notices],
        "alpha_by_qlib": list(prediction.alpha_by_qlib),
        "seconds": dict(prediction.seconds),
    }


def _by_qlib(prediction: Prediction) -> str:
    return f", {len(prediction.alpha_by_qlib)} of them by Qlib" if prediction.alpha_by_qlib else ""


def _show(prediction: Prediction, files: PredictFiles) -> None:
    everyone = len(prediction.scores) + len(prediction.left_out)
    seconds = prediction.seconds
    out.print(
        f"[bold]{prediction.day:%Y-%m-%d}[/]  {len(prediction.scores):,} of {everyone:,} stocks scored in "
        f"{seconds['all']:.0f} s (factors {seconds['factors']:.0f} s, Alpha {seconds['alpha']:.0f} s"
        f"{_by_qlib(prediction)})"
    )
    for notice in prediction.notices:
        if notice.slug == _BESIDE_THE_LIST:
            text = clean(f"! {notice.message} {notice.hint}  [{notice.slug}]")
            out.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rank", "instrument", "score"):
        table.add_column(name, justify="left" if name == "instrument" else "right")
    frame = prediction.frame
    for name, score, rank in frame[["instrument", "score", "rank"]].head(_LISTED).itertuples(index=False):
        table.add_row(str(rank), escape(clean(name)), f"{score:.6g}")
    out.print(table)
    if len(frame) > _LISTED:
        where = "" if files.target is not None else "; --out FILE writes them"
        out.print(f"… and {len(frame) - _LISTED:,} more{where}", style="dim")
    _show_gaps(prediction)
    for what, path in (("scores", files.target), ("page", files.page)):
        if path is not None:
            out.print(f"{what}: {clean(path)}", markup=False, highlight=False, soft_wrap=True)


def _show_gaps(prediction: Prediction) -> None:
    if prediction.left_out:
        listed = [f"{name} ({why})" for name, why in list(prediction.left_out.items())[:_LISTED]]
        more = len(prediction.left_out) - len(listed)
        rest = f", and {more} more (--json lists all)" if more else ""
        out.print(
            f"left out: {escape(clean('; '.join(listed)))}{rest}",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    if prediction.incomplete:
        out.print(
            f"{len(prediction.incomplete):,} stocks lack some features, which the model takes as missing, as in its "
            "back-test (--json lists them)",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
