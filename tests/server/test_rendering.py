"""The pages as HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from rdagent_sota_patch.mlruns.backtest import Backtest
from rdagent_sota_patch.results.curves import sum_up
from rdagent_sota_patch.results.schemas import ProblemDocument, ProblemItem
from rdagent_sota_patch.server import rendering
from rdagent_sota_patch.server.day_charts import draw_curves
from rdagent_sota_patch.server.numbers import format_figure
from rdagent_sota_patch.server.rendering import (
    CONTENT_SECURITY_POLICY,
    LIST_POLICY,
    render_comparison,
    render_problem,
    render_run,
    render_runs,
)
from tests.server.examples import (
    BAD,
    hostile_run,
    inheriting_run,
    long_run,
    make_backtest,
    make_comparison,
    make_listing,
    make_loop,
    make_run,
    model_run,
)

VOID = {"meta", "link", "input"}
PROBLEM = ProblemDocument(
    type="urn:rdagent-sota:task-not-found",
    title="task not found",
    status=404,
    detail=BAD,
    instance=f"/runs/{BAD}",
    slug="task-not-found",
    hint="",
    problems=(ProblemItem(slug="task-not-found", message=BAD, hint=BAD),),
)
PAGES = {
    "one loop": lambda: long_run(1).page,
    "three loops": lambda: long_run(3).page,
    "hundred loops": lambda: long_run(100).page,
    "no loop": lambda: make_run(()).page,
    "nothing accepted": lambda: make_run((make_loop(0, decision=False, metrics={}),)).page,
    "inheriting": lambda: inheriting_run().page,
    "models": lambda: model_run().page,
    "hostile": lambda: hostile_run().page,
    "runs": lambda: render_runs(make_listing(5)),
    "middle": lambda: render_runs(make_listing(5, total=99, offset=40)),
    "no runs": lambda: render_runs(make_listing(0)),
    "beyond": lambda: render_runs(make_listing(0, total=3, offset=20)),
    "sorted": lambda: render_runs(make_listing(5, total=99, offset=40), order="ic", reverse=True),
    "compared": lambda: render_comparison(make_comparison()),
    "nothing compared": lambda: render_comparison(()),
    "problem": lambda: render_problem(PROBLEM),
}


class Reader(HTMLParser):
    """Keeps what a page is made of, and fails on a tag that closes another one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.headings: list[int] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open = self.open[:-1] if tag not in VOID else self.open

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(params=PAGES, scope="module")
def page(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]()


def test_a_page_is_sound(page: str) -> None:
    """Tags match, ids are single, in-page links lead somewhere, headings follow each other without a gap."""
    read = Reader(page)
    assert page.startswith("<!doctype html>")
    assert len(set(read.ids)) == len(read.ids)
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert read.headings[0] == 1
    assert read.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(read.headings, read.headings[1:], strict=False))


def test_a_page_loads_and_runs_nothing(page: str) -> None:
    """No script, no inline style, no handler, and no address but paths of the server itself."""
    read = Reader(page)
    assert not {"script", "img", "iframe", "object", "embed", "base"} & set(read.tags)
    assert not {name for name in read.attributes if name.startswith("on") or name == "style"}
    assert all(re.match("#|/(?!/)|data:image/svg", link) for link in read.links)


def test_forms_ask_this_server_alone(page: str) -> None:
    """There is one at the most, the list's; it asks by GET, and the list's policy allows just that."""
    forms = re.findall("<form[^>]*>", page)
    assert forms in ([], ['<form action="/compare" method="get">'])
    assert LIST_POLICY.replace("form-action 'self'", "form-action 'none'") == CONTENT_SECURITY_POLICY


def test_hostile_names_stay_text() -> None:
    """What looks like markup, like a template, or turns text around is shown as what it is."""
    page = hostile_run().page
    text = Reader(page).text
    assert '<script>alert(1)</script>"><img src=x onerror=alert(2)> {{ 7*7 }}' in text
    assert "⟨U+202E⟩gnihtyna⟨U+202C⟩⟨U+0007⟩" in text
    assert "</code></pre><script>alert(3)</script>" in text
    assert not re.search("[\u202e\u202c\x07]", page)


def test_the_policy_allows_the_pages_own_style_alone() -> None:
    """The hash in the policy is that of the style in the page."""
    page = render_runs(make_listing(1))
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none';")
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "</" not in style
    assert "url(" not in style


def test_a_run_shows_its_story() -> None:
    """Decisions, metrics, hypotheses, the SOTA's factors with formula and code, and those before it."""
    run = long_run(10)
    page = run.page
    text = re.sub(r"\s+", " ", Reader(page).text)
    assert "10 loops: 4 accepted, 6 not" in text
    assert "written 2026-03-04 05:06 UTC" in text
    assert "Hypothesis 7" in text
    assert "accepted · SOTA" in text
    assert text.index("Added by this loop Factor9") < text.index(
        "3 factors that it was built on, oldest first"
    )
    assert page.count("<math ") == 4
    assert page.count('<span class="f">calculate_gap</span>') == 4
    assert 'href="/tasks/2026-03-04_05-06-07-890123/asset_bytes?key=based_factor_0%2Ffactor.py"' in page
    assert "rdagent-sota sync --api ADDRESS --task 2026-03-04_05-06-07-890123 --out DIR" in text


def test_a_run_without_sota_says_why() -> None:
    """The reason of the anchor stands where the factors would, and at each button."""
    page = make_run((make_loop(0, decision=False),)).page
    assert page.count("The run accepted no factor experiment of its own.") == 6
    assert page.count("disabled>") == 5
    assert "sync --api" not in page


def test_a_model_run_shows_its_models() -> None:
    """Architecture and hyper-parameters of each loop's model, and the last accepted one apart."""
    text = re.sub(r"\s+", " ", Reader(model_run().page).text)
    assert text.count("two GRU layers of 32 units") == 4
    assert text.count("hidden_size32") == 4
    assert text.index("Factors of another run") < text.index("Last accepted model")


def test_code_that_is_not_there_is_missed() -> None:
    """A factor whose code the log lacks says so, and has no button."""
    run = long_run(1)
    page = render_run(run.manifest, run.summary, run.loops, run.anchor, {})
    assert "The log does not hold its code." in page
    assert "key=factor.py" not in page


def test_the_list_leads_on() -> None:
    """Newer and older runs are one link away, and neither leads beyond the ends."""
    first = Reader(render_runs(make_listing(5, total=30))).links
    assert "/?offset=20" in first
    assert not any("offset=0" in link for link in first)
    last = Reader(render_runs(make_listing(5, total=30, offset=25))).links
    assert "/?offset=5" in last
    assert not any("offset=45" in link for link in last)


def test_a_run_that_cannot_be_read_is_listed_with_its_problem() -> None:
    """The list does not hide it."""
    listing = make_listing(1)
    problem = ProblemItem(slug="snapshot-unreadable", message=BAD, hint="Restore it.")
    broken = listing.tasks[0].model_copy(update={"problem": problem, "kind": None})
    text = Reader(render_runs(listing.model_copy(update={"tasks": (broken,)}))).text
    assert f"Cannot be read: {BAD[:30]}" in text
    assert "Restore it." in text


def test_a_template_cannot_show_what_is_not_there() -> None:
    """A misspelled or empty value fails in the tests instead of standing in a page."""
    environment = rendering._environment()
    with pytest.raises(UndefinedError):
        environment.from_string("{{ nothing }}").render()
    with pytest.raises(TypeError):
        environment.from_string("{{ nothing }}").render(nothing=None)


def test_the_templates_are_part_of_the_package() -> None:
    """They lie beside the modules, where the wheel takes them along."""
    folder = Path(rendering.__file__).parent / "templates"
    assert {"base.html", "run.html", "runs.html", "problem.html", "style.css"} <= {
        p.name for p in folder.iterdir()
    }


def test_figures_of_each_factor_stand_in_a_table() -> None:
    """Once they were computed; before, a link that has them computed; or why they cannot be."""
    run = long_run(3)
    assert "0.0312" in run.page and "31.2 %" in run.page and "−0.0222" in run.page
    assert 'title="There are too few days."' in run.page
    without = replace(run, figures=None)
    assert f'href="/runs/{run.manifest.task_id}?figures=true#figures"' in without.page
    assert BAD not in replace(without, no_figures=BAD).page
    assert "?figures=true" not in replace(without, no_figures="no table").page
    assert 'id="figures"' not in make_run((make_loop(0, decision=False),)).page


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(0.0312, ".4f", "0.0312"), (-0.5, ".1%", "−50.0 %"), (None, ".2f", "–"), (0.00113, ".2%", "0.11 %")],
)
def test_figures_are_written_for_people(value: float | None, form: str, text: str) -> None:
    """With a true minus, a space before percent, and a dash where there is none."""
    assert format_figure(value, form) == text


def test_a_heading_sorts_and_keeps_the_place() -> None:
    """A second time the other way round; what leads on keeps the order."""
    links = Reader(PAGES["sorted"]()).links
    assert {"/?sort=name", "/?sort=ic", "/?sort=return"} <= set(links)
    assert "/?sort=ic&reverse=true&offset=60" in links
    assert "/?sort=ic&reverse=true" in Reader(render_runs(make_listing(5), order="ic")).links


def test_a_model_run_names_the_factors_that_it_was_given() -> None:
    """With the run that they come from; nothing says that it had none."""
    page = model_run().page
    text = re.sub(r"\s+", " ", Reader(page).text)
    assert "2 SOTA factors, those of loop 2 of 2026-01-01: 2026-01-01 Gap loop 0Rev" in text
    assert 'href="/runs/2026-01-01"' in page
    assert "SOTA factors</h2>" not in page


def test_a_comparison_puts_runs_side_by_side() -> None:
    """The best of a row is marked, factors tell who mined and who was given them, what cannot be read says so."""
    page = render_comparison(make_comparison())
    text = re.sub(r"\s+", " ", Reader(page).text)
    assert page.count('class="won"') == 1
    assert "Factor0mined––" in text and "Rev–given–" in text
    assert BAD[:30] in text
    assert "No run was chosen" in render_comparison(())


def test_a_backtest_is_drawn_with_what_there_is() -> None:
    """Five panels, the extremes of long lines among them, a gap as a gap, and what is missing in words."""
    curves = sum_up(make_backtest())
    days = make_backtest().excess
    assert days is not None
    total = days.cumsum()
    (drawdown,) = curves.drawdown
    assert min(drawdown.values) == (total - total.cummax()).min()
    assert len(drawdown.values) <= 602
    drawing = draw_curves(curves)
    assert drawing is not None
    assert [len(panel.curves) for panel in drawing.panels] == [3, 1, 2, 1, 1]
    assert drawing.panels[2].curves[0].path.count("M") == 2
    assert "mlruns has no ric.pkl" in model_run().page
    assert draw_curves(sum_up(Backtest())) is None
