"""A day's prediction as a page to look at: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from rdagent_sota_patch.prediction.listing import Listing
from rdagent_sota_patch.prediction.page_charts import coverage_bar, histogram, range_axis, range_strip
from rdagent_sota_patch.prediction.ranges import TodaysRange, TrainedScale, hold_against_training, scale_of
from rdagent_sota_patch.standalone_page import render_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.prediction.prediction import Prediction

_SHOWN = 100
"""Rows of the top list at most; the file has all."""


def render_page(prediction: Prediction, bundle: Bundle, listing: Listing | None = None) -> str:
    """The page: best stocks, distribution of the scores, each feature's coverage and its range against the training.

    Args:
        prediction: The day.
        bundle: It was made with.
        listing: Names, and ranks of the day before, where there are any.

    Returns:
        One HTML document. Names from the bundle and the market data stand in it as text.
    """
    day = f"{prediction.day:%Y-%m-%d}"
    return render_document(f"Scores of {day}", _parts(prediction, bundle, day, listing or Listing()))


def _parts(prediction: Prediction, bundle: Bundle, day: str, listing: Listing) -> Iterator[str]:
    order, meta = bundle.model
    manifest = bundle.manifest
    yield f'<p class="soft">{escape(manifest.task_id)}, loop {manifest.loop}</p>'
    yield f"<h1>Scores of {day}</h1>"
    facts = {
        "scored": f"{len(prediction.scores):,} of {len(prediction.scores) + len(prediction.left_out):,} stocks",
        "features": f"{len(prediction.features.columns)}",
        "model": f"{escape(str(meta.model.get('class', meta.kind)))}"
        + (f", {meta.step_len} days" if meta.step_len else ""),
        "market": escape(meta.instruments),
    }
    yield (
        "<dl>"
        + "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts.items())
        + "</dl>"
    )
    if prediction.notices:
        lines = "".join(f"<li>{escape(notice.message)}</li>" for notice in prediction.notices)
        yield f'<section><h2 class="warn">To know before using them</h2><ul>{lines}</ul></section>'
    yield _scores(prediction)
    yield _best(prediction, listing)
    scale = scale_of(bundle)
    ranges = hold_against_training(prediction.features, scale)
    yield _features(prediction.coverage, order.dynamic_factor_order, ranges, scale)
    yield _left_out(prediction.left_out)


def _scores(prediction: Prediction) -> str:
    top = len(prediction.frame)
    whole = top == len(prediction.scores)
    note = "" if whole else f" The best {top} are marked."
    return (
        f'<section><h2>All scores</h2><p class="soft">How many stocks have which score.{note}</p>'
        f"{histogram(prediction.scores['score'].to_numpy(), 0 if whole else top)}</section>"
    )


def _best(prediction: Prediction, listing: Listing) -> str:
    frame = prediction.frame.head(_SHOWN)
    more = len(prediction.frame) - len(frame)
    # Among the listed alone: between the market's worst and best, those at the top would look all the same.
    low, high = float(frame["score"].min()), float(frame["score"].max())
    named, compared = listing.stocks is not None, listing.before is not None
    rows = "".join(
        f'<tr><td class="number">{rank}</td><td class="name">{escape(str(name))}'
        f"{_mark(prediction.incomplete.get(str(name), ()))}</td>"
        + (
            f"<td>{escape(listing.of(str(name)).name)}</td><td>{escape(listing.of(str(name)).industry)}</td>"
            if named
            else ""
        )
        + (f'<td class="number">{listing.change(str(name), int(rank))}</td>' if compared else "")
        + f'<td class="number">{score:.6g}</td><td class="wide">{coverage_bar(_between(score, low, high))}</td></tr>'
        for name, score, rank in zip(frame["instrument"], frame["score"], frame["rank"], strict=True)
    )
    note = f'<p class="soft">And {more} more in the file.</p>' if more else ""
    return (
        '<section><h2>Best first</h2><table><thead><tr><th class="number">rank</th><th>stock</th>'
        + ("<th>name</th><th>industry</th>" if named else "")
        + (f'<th class="number">since {listing.before}</th>' if compared else "")
        + '<th class="number">score</th><th>lowest to highest of the list</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{note}</section>"
    )


def _features(
    coverage: Mapping[str, float],
    mined: tuple[str, ...],
    ranges: Mapping[str, TodaysRange],
    scale: TrainedScale,
) -> str:
    if ranges:
        note = (
            "Shaded: from the lowest value of the training, at -3, to the highest, at 3. "
            if scale.observed
            else "Each value as the model sees it: 0 and 1 are the middle and the spread of its training. Shaded: "
            "within 3 either way. "
        ) + "Line: 5 % to 95 % of the stocks; box: the middle half; dot: the median."
        head = f'<th class="wide">against the training{range_axis()}</th>'
    else:
        note = "This model takes raw values and brings no ranges of its training to hold today's against."
        head = ""
    rows = "".join(
        _feature(name, coverage[name], ranges, mined=name in mined)
        for name in (*mined, *(name for name in coverage if name not in mined))
    )
    return (
        f'<section><h2>Features</h2><p class="soft">{note}</p><div class="scroll"><table><thead><tr><th>feature</th>'
        f'<th class="number">have a value</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _feature(name: str, share: float, ranges: Mapping[str, TodaysRange], *, mined: bool) -> str:
    today = ranges.get(name)
    unusual = today is not None and today.unusual
    warning = ' <span class="warn">unusual</span>' if unusual else ""
    origin = ' <span class="soft">mined</span>' if mined else ""
    cells = f'<td class="name">{escape(name)}{origin}{warning}</td>'
    low = ' class="number warn"' if share < 0.9 else ' class="number"'
    cells += f"<td{low}>{100 * share:.1f} %</td>"
    if ranges:
        cells += f'<td class="wide">{range_strip(today) if today is not None else ""}</td>'
    return f"<tr>{cells}</tr>"


def _left_out(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return (
            '<section><h2>Left out</h2><p class="soft">No stock of the market: all were scored.</p></section>'
        )
    rows = "".join(
        f'<tr><td class="name">{escape(name)}</td><td>{escape(reason)}</td></tr>'
        for name, reason in left_out.items()
    )
    return (
        f'<section><h2>Left out</h2><p class="soft">{len(left_out)} stocks of the market lack data.</p>'
        f"<details><summary>Which, and why</summary><table><tbody>{rows}</tbody></table></details></section>"
    )


def _mark(missing: tuple[str, ...]) -> str:
    if not missing:
        return ""
    return f' <span class="warn" title="{escape(", ".join(missing))}">lacks {len(missing)}</span>'


def _between(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 1.0
