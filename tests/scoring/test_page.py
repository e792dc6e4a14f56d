"""The page of a day's scores."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import MANIFEST_NAME
from rdagent_sota_patch.bundle.opening import Bundle, open_bundle
from rdagent_sota_patch.errors import Problem
from rdagent_sota_patch.scoring.day_page import histogram, render_page
from rdagent_sota_patch.scoring.prediction import Prediction, rank_scores
from rdagent_sota_patch.scoring.ranges import TrainedScale, fitted_units, hold_against_training, scale_of
from tests.bundle.made import ORDER, edit_document, fit_processors, make_bundle, make_raw

VOID = {"meta", "rect", "line", "circle"}


class Balance(HTMLParser):
    """Fails on a tag that closes another one, and keeps the attributes that could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.reaching: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.reaching += [
            (name, value) for name, value in attrs if name in ("src", "href") or name[:2] == "on"
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = make_bundle(tmp_path_factory.mktemp("page") / "bundle").folder
    edit_document(
        folder, MANIFEST_NAME, lambda document: document.update(task_id="<script>alert(1)</script>")
    )
    return open_bundle(folder)


@pytest.fixture
def prediction() -> Prediction:
    raw = make_raw(None)
    features = raw.xs(raw.index[-1][0], level="datetime")
    scores = rank_scores(pd.Series(np.linspace(-1, 1, len(features)), index=features.index))
    return Prediction(
        day=pd.Timestamp("2024-01-02"),
        scores=scores,
        features=features.loc[scores.index],
        top=3,
        explain=False,
        left_out={'SH1"><img src=x onerror=alert(1)>': "no data & no <hope>"},
        incomplete={str(scores.index[0]): ("GapA",)},
        coverage=dict.fromkeys(ORDER, 0.75),
        notices=(Problem("factors-not-audited", "The factors <were> never audited."),),
        alpha_by_qlib=(),
        seconds={},
    )


def parsed(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_stands_alone_and_runs_nothing(bundle: Bundle, prediction: Prediction) -> None:
    """No script, no link, nothing loaded; names out of bundles and data are text."""
    page = render_page(prediction, bundle)
    parser = parsed(page)
    assert not parser.tags & {"script", "img", "link", "iframe"}
    assert parser.reaching == []
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|url\(", page)


def test_shows_what_was_asked_for(bundle: Bundle, prediction: Prediction) -> None:
    """The best, who is left out and why, coverage, ranges, and what to know before using it."""
    page = render_page(prediction, bundle)
    best, worst = prediction.scores.index[0], prediction.scores.index[-1]
    assert f"{best} " in page
    assert str(worst) not in page
    assert "lacks 1" in page
    assert "no data &amp; no &lt;hope&gt;" in page
    assert page.count("75.0 %") == len(ORDER)
    assert page.count('class="middle"') == len(ORDER)
    assert "The factors &lt;were&gt; never audited." in page


def test_a_model_on_raw_values_has_its_own_ranges(tmp_path: Path, prediction: Prediction) -> None:
    """RD-Agent's LightGBM template fits no processor; the lowest and highest values stand in LightGBM's text."""
    opened = open_bundle(make_bundle(tmp_path / "bundle").folder)
    assert opened.meta is not None
    raw = replace(opened, meta=opened.meta.model_copy(update={"processors": ()}))
    page = render_page(prediction, raw)
    parsed(page)
    assert "from the lowest value of the training" in page
    assert page.count('class="middle"') == len(ORDER)
    scale = scale_of(raw)
    text = raw.read("model.txt").decode()
    low, high = (float(edge) for edge in text.split("feature_infos=[")[1].split("]")[0].split(":"))
    middle, unit = scale.units[ORDER[0]]
    assert (middle - 3 * unit, middle + 3 * unit) == pytest.approx((low, high))


def test_a_network_on_raw_values_has_no_ranges(tmp_path: Path, prediction: Prediction) -> None:
    """Without fitted numbers nothing is known of the training's values; the page says so and draws none."""
    opened = open_bundle(make_bundle(tmp_path / "bundle", "tabular").folder)
    assert opened.meta is not None
    raw = replace(opened, meta=opened.meta.model_copy(update={"processors": ()}))
    page = render_page(prediction, raw)
    parsed(page)
    assert "takes raw values" in page
    assert 'class="middle"' not in page


def test_ranges_are_in_units_of_the_training() -> None:
    """0 and 1 are its mean and spread; a day far from it is called unusual."""
    raw = make_raw(None)
    processors = fit_processors(raw)
    scale = TrainedScale(fitted_units(processors), observed=False)
    ranges = hold_against_training(raw, scale)
    assert list(ranges) == list(ORDER)
    assert all(abs(today.middle) < 1e-9 and not today.unusual for today in ranges.values())
    assert processors[0].std is not None
    shifted = hold_against_training(raw + 2 * np.array(processors[0].std), scale)
    assert all(today.middle == pytest.approx(2) and today.unusual for today in shifted.values())
    assert fitted_units(processors[1:]) == {}
    assert list(hold_against_training(raw.assign(GapA=np.nan), scale)) == list(ORDER[1:])


def test_histogram_counts_every_stock() -> None:
    """Bars add up to the stocks; equal scores are told in words."""
    drawn = histogram(np.linspace(1, 0, 100), 10)
    heights = [float(height) for height in re.findall(r'class="bar"[^>]* height="([\d.]+)"', drawn)]
    assert len(heights) == 40
    marked = re.findall(r'class="best"', drawn)
    assert len(marked) == 4
    assert "All 3 stocks have the same score" in histogram(np.ones(3), 0)
