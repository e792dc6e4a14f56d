"""``rdagent-sota predict``: score the stocks of a day with a bundle."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
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
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.scoring.day_page import render_page
from rdagent_sota_patch.scoring.market_days import MarketFiles
from rdagent_sota_patch.scoring.prediction import Prediction, PredictOptions, predict_day
from rdagent_sota_patch.scoring.requested_day import DaysAsked, day_before, days_of
from rdagent_sota_patch.scoring.scores_file import require_suffix, write_frame
from rdagent_sota_patch.scoring.top_list import Listing, bars, read_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date
    from pathlib import Path

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.scoring.mined import Report

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
        target: Of the scores, CSV or parquet by its name, or a folder for a file of each day; None to print alone.
        page: Of the HTML page, if one is wanted.
        key_file: With which the bundle must be signed, if given.
    """

    bundle: Path
    market: MarketFiles
    target: Path | None
    page: Path | None
    key_file: Path | None
    names: Path | None = None


def run_predict(
    files: PredictFiles, asked: DaysAsked, options_of: Callable[[date], PredictOptions], as_json: bool
) -> None:
    """Predict each day that was asked for, write what was asked for, and print a summary."""
    folder = _find_folder(files.target, asked)
    if files.target is not None and folder is None:
        require_suffix(files.target)
    key = read_key(files.key_file) if files.key_file is not None else None
    listing = Listing(None if files.names is None else read_names(files.names))
    bundle = open_bundle(files.bundle, key=key, replay=False)
    days = days_of(asked, files.market.qlib_dir)
    tell_of_open_ways()
    frames, predictions = list[pd.DataFrame](), list[Prediction]()
    for day in days:
        with show_report() as report:
            prediction = predict_day(bundle, files.market, options_of(day), report)
            if files.page is not None and day == days[-1]:
                listing, notice = _compare(bundle, files, listing, options_of, day)
                if notice is not None:
                    prediction = replace(prediction, notices=(*prediction.notices, notice))
        frame = listing.name_in(prediction.frame)
        if folder is not None:
            write_frame(frame, folder / f"{day:%Y-%m-%d}.csv")
        frames.append(frame)
        predictions.append(prediction)
    # All files before the first line: who reads the lines may go away in the middle.
    if files.target is not None and folder is None:
        write_frame(_together(frames, days) if asked.is_range else frames[0], files.target)
    if files.page is not None:
        write_text_atomically(files.page, render_page(predictions[-1], bundle, listing))
    if as_json:
        documents = [_to_plain(each, files, frame) for each, frame in zip(predictions, frames, strict=True)]
        print_json({"days": documents} if asked.is_range else documents[0])
        return
    for each in predictions:
        notices = [notice for notice in each.notices if notice.slug != _BESIDE_THE_LIST]
        print_problems(notices, style="yellow", mark="!")
        _show(each, files, listing)
    _show_places(files)


def _show_places(files: PredictFiles) -> None:
    for what, path in (("scores", files.target), ("page", files.page)):
        if path is not None:
            out.print(f"{what}: {clean(path)}", markup=False, highlight=False, soft_wrap=True)


def _find_folder(target: Path | None, asked: DaysAsked) -> Path | None:
    """The folder for a file of each day: one that exists, or for a range one without an ending; None for a file."""
    if target is None or not (target.is_dir() or (asked.is_range and not target.suffix)):
        return None
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(
            "cannot-write",
            f"Cannot make the folder {target}: {error.strerror or error}.",
            "Name another one with --out.",
        ) from error
    return target


def _together(frames: list[pd.DataFrame], days: tuple[date, ...]) -> pd.DataFrame:
    """The days' lists one after the other, with a first column date."""
    dated = []
    for frame, day in zip(frames, days, strict=True):
        frame.insert(0, "date", pd.Timestamp(day))
        dated.append(frame)
    return pd.concat(dated, ignore_index=True)


def _compare(
    bundle: Bundle,
    files: PredictFiles,
    listing: Listing,
    options_of: Callable[[date], PredictOptions],
    day: date,
) -> tuple[Listing, Problem | None]:
    """The ranks of the trading day before, from the same data; where these cannot be had, why not."""
    before = day_before(day, files.market.qlib_dir)
    if before is None:
        return listing, None
    try:
        earlier = predict_day(bundle, files.market, options_of(before), lambda *_: None)
    except BundleError as error:
        return listing, Problem(
            "no-day-before",
            f"The page has no change in rank: {before} cannot be scored. {error.problems[0].message}",
            "The day's own scores are not touched by it.",
        )
    ranks = {str(name): int(rank) for name, rank in earlier.scores["rank"].items()}
    return replace(listing, before=before, ranks_before=ranks), None


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


def _to_plain(prediction: Prediction, files: PredictFiles, frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "day": f"{prediction.day:%Y-%m-%d}",
        "scored": len(prediction.scores),
        "out": str(files.target) if files.target is not None else None,
        "html": str(files.page) if files.page is not None else None,
        "top": frame.to_dict(orient="records"),
        "left_out": [{"instrument": name, "reason": why} for name, why in prediction.left_out.items()],
        "incomplete": {name: list(missing) for name, missing in prediction.incomplete.items()},
        "coverage": dict(prediction.coverage),
        "notices": [problem_to_plain(notice) for notice in prediction.notices],
        "alpha_by_qlib": list(prediction.alpha_by_qlib),
        "seconds": dict(prediction.seconds),
    }


def _by_qlib(prediction: Prediction) -> str:
    return f", {len(prediction.alpha_by_qlib)} of them by Qlib" if prediction.alpha_by_qlib else ""


def _show(prediction: Prediction, files: PredictFiles, listing: Listing) -> None:
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
    more = ["name", "industry"] if listing.stocks is not None else []
    since = [f"since {listing.before}"] if listing.before is not None else []
    for heading in ("rank", *since, "instrument", *more, "score", ""):
        right = heading in ("rank", "score", *since)
        table.add_column(heading, justify="right" if right else "left")
    frame = prediction.frame
    listed = frame[["instrument", "score", "rank"]].head(_LISTED)
    drawn = bars(listed["score"].tolist())
    for (name, score, rank), bar in zip(listed.itertuples(index=False), drawn, strict=True):
        stock = listing.of(str(name))
        table.add_row(
            str(rank),
            *([listing.change(str(name), int(rank))] if since else []),
            escape(clean(name)),
            *([escape(clean(stock.name)), escape(clean(stock.industry))] if more else []),
            f"{score:.6g}",
            bar,
        )
    out.print(table)
    if len(frame) > _LISTED:
        where = "" if files.target is not None else "; --out FILE writes them"
        out.print(f"… and {len(frame) - _LISTED:,} more{where}", style="dim")
    _show_gaps(prediction)


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
