"""The page of a day's scores, with its drawings."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.scoring.ranges import (
    CLIPPED,
    TodaysRange,
    TrainedScale,
    hold_against_training,
    scale_of,
)
from rdagent_sota_patch.scoring.top_list import Listing
from rdagent_sota_patch.standalone_page import render_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.scoring.prediction import Prediction

_BINS = 40
_HEIGHT = 150
_STRIP_HEIGHT = 18
_SEEN = 4.0
"""How far the strip of a feature reaches, on either side of the training's middle."""

# Widths are in percent and heights in pixels: on a phone a drawing gets narrower, and its marks and text no smaller.


def histogram(scores: NDArray[Any], top: int) -> str:
    """How many stocks have which score.

    Args:
        scores: Best first.
        top: How many of them to mark.
    """
    values = scores[np.isfinite(scores)].astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high == low:
        return f"<p>All {len(values)} stocks have the same score, {low:.6g}.</p>"
    # A few bins more than stocks would only draw single stocks.
    count = max(5, min(_BINS, len(values) // 2))
    everyone, _ = np.histogram(values, bins=count, range=(low, high))
    marked, _ = np.histogram(values[:top], bins=count, range=(low, high))
    scale, width = _HEIGHT / float(everyone.max()), 100 / count
    bars = []
    for position, (every, best) in enumerate(zip(everyone, marked, strict=True)):
        x = position * width
        for number, name in ((int(every), "bar"), (int(best), "best")):
            if number:
                height = number * scale
                bars.append(
                    f'<rect class="{name}" x="{x:.2f}%" y="{_HEIGHT - height:.1f}" '
                    f'width="{0.9 * width:.2f}%" height="{height:.1f}" rx="1"/>'
                )
    ticks = "".join(f"<span>{edge:.4g}</span>" for edge in (low, (low + high) / 2, high))
    return (
        f'<svg height="{_HEIGHT}" role="img" aria-label="Histogram of {len(values)} scores from '
        f'{low:.4g} to {high:.4g}">{"".join(bars)}</svg><div class="ticks soft">{ticks}</div>'
    )


def coverage_bar(share: float) -> str:
    """A bar of a length between 0 and 1."""
    length = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return (
        '<svg height="8" aria-hidden="true"><rect class="band" width="100%" height="8" rx="2"/>'
        f'<rect class="best" width="{100 * length:.1f}%" height="8" rx="2"/></svg>'
    )


def range_axis() -> str:
    """The scale above the strips."""
    marks = "".join(
        f'<span style="left:{_x(mark):.1f}%">{mark:.0f}</span>' for mark in (-CLIPPED, 0.0, CLIPPED)
    )
    return f'<div class="axis">{marks}</div>'


def range_strip(today: TodaysRange) -> str:
    """One feature's day: line, box and dot over the range of the training."""
    middle = _STRIP_HEIGHT // 2
    kind = ' class="out"' if today.unusual else ""
    return (
        f'<svg height="{_STRIP_HEIGHT}" role="img" aria-label="median {today.middle:.2f}, '
        f'5 % {today.low:.2f}, 95 % {today.high:.2f}"><g{kind}>'
        f'<rect class="band" x="{_x(-CLIPPED):.1f}%" width="{_x(CLIPPED) - _x(-CLIPPED):.1f}%" '
        f'height="{_STRIP_HEIGHT}"/>'
        f'<line class="rule" x1="{_x(0.0):.1f}%" x2="{_x(0.0):.1f}%" y1="0" y2="{_STRIP_HEIGHT}"/>'
        f'<line class="whisker" x1="{_x(today.low):.1f}%" x2="{_x(today.high):.1f}%" y1="{middle}" y2="{middle}"/>'
        f'<rect class="box" x="{_x(today.lower):.1f}%" width="{max(0.5, _x(today.upper) - _x(today.lower)):.1f}%" '
        f'y="{middle - 4}" height="8" rx="1"/>'
        f'<circle class="middle" cx="{_x(today.middle):.1f}%" cy="{middle}" r="3.5"/></g></svg>'
    )


def _x(value: float) -> float:
    """Where a value is in a strip, in percent; what lies beyond its ends is drawn at the end."""
    return (min(max(value, -_SEEN), _SEEN) + _SEEN) / (2 * _SEEN) * 100


_SHOWN = 100
"""Rows of the top list at most; the file has all."""


def render_page(prediction: Prediction, bundle: Bundle, listing: Listing | None = None) -> str:
    """The page: best stocks, distribution of the scores, each feature's coverage and its range against the training.

    Args:
        prediction: The day.
        bundle: It was made with.
        listing: Names, and ranks of the day before, where there are any.

    Returns:
        One HTML document. Names from the bundle and the market data are escaped as text.
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
