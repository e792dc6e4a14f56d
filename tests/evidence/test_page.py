"""The page: verdict first, drawings of plain numbers, text from logs as text."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from rdagent_sota_patch.evidence.evidence_page import render_evidence
from rdagent_sota_patch.evidence.trials import Ledger
from rdagent_sota_patch.evidence.weighing import weigh
from tests.evidence.made_trials import make_ledger, make_trial
from tests.evidence.test_weighing import GONE, TRIALS


def test_the_verdict_comes_first_and_each_drawing_is_there() -> None:
    evidence = weigh(make_ledger(*TRIALS, winner=3))
    page = render_evidence(evidence)
    assert page.index(evidence.sentence) < page.index("<svg")
    for heading in ("Trials", "Equity", "IC by month", "Overfitting", "Every trial"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<circle") == 4
    assert page.count('<circle class="best"') == 1
    assert "NaN" not in page
    assert "<script" not in page
    HTMLParser().feed(page)


def test_names_from_logs_are_text() -> None:
    odd = replace(TRIALS[3], name="<script>alert(1)</script>", run="<b>")
    page = render_evidence(weigh(make_ledger(*TRIALS[:3], odd)))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_smaller_answer_says_what_is_missing() -> None:
    page = render_evidence(weigh(make_ledger(make_trial(np.full(12, 0.01)), GONE)))
    assert "What is missing" in page
    assert "<h2>Trials</h2>" not in page
    assert "no winner" in render_evidence(weigh(Ledger((), None, ())))
