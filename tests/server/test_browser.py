"""The pages in a real browser: nothing is loaded, everything is reached by keyboard, and it fits a phone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from rdagent_sota_patch.server.rendering import (
    LIST_POLICY,
    render_comparison,
    render_problem,
    render_runs,
)
from tests.server.examples import (
    hostile_run,
    inheriting_run,
    long_run,
    make_comparison,
    make_listing,
    model_run,
)
from tests.server.test_rendering import PROBLEM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGES = {
    "/one": lambda: long_run(1).page,
    "/three": lambda: long_run(3).page,
    "/hundred": lambda: long_run(100).page,
    "/inheriting": lambda: inheriting_run().page,
    "/models": lambda: model_run().page,
    "/hostile": lambda: hostile_run().page,
    "/list": lambda: render_runs(make_listing(5, total=99, offset=40)),
    "/compare": lambda: render_comparison(make_comparison()),
    "/problem": lambda: render_problem(PROBLEM),
}
CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data]; };
    const linear = v => v <= 10.31 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
    const behind = each => { for (; each; each = each.parentElement) {
        const colour = rgb(getComputedStyle(each).backgroundColor); if (colour[3] === 255) return colour; }
        return [255, 255, 255, 255]; };
    const poor = new Set();
    const walker = document.createTreeWalker(document.querySelector('body'), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const each = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || each.closest('style, title, button:disabled')) continue;
        const style = getComputedStyle(each);
        const [a, b] = [light(rgb(each.closest('svg') ? style.fill : style.color)), light(behind(each))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) poor.add(`${ratio.toFixed(2)} ${walker.currentNode.textContent.slice(0, 40)}`);
    }
    return [...poor];
}"""
SIZES: dict[str, ViewportSize] = {
    "desk": {"width": 1100, "height": 800},
    "phone": {"width": 360, "height": 740},
}
# What is wider than the window must be inside a box that scrolls; the page itself never does.
TOO_WIDE = """() => [...document.querySelectorAll('html, body, main *')].filter(each =>
    each.tagName === 'HTML' ? each.scrollWidth > window.innerWidth
        : each.getBoundingClientRect().right > window.innerWidth + 1
            && !each.parentElement.closest('.scroll, .formula, pre, svg')
).map(each => each.outerHTML.slice(0, 200))"""

if CHROMIUM is None:
    pytest.skip("no chromium on the PATH", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright, which drives chromium, is missing"
)


@dataclass
class Site:
    """A server of the pages, and what was asked of it."""

    address: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            page = PAGES.get(self.path)
            body = (page() if page else "").encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Security-Policy", LIST_POLICY)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@contextmanager
def opened(browser: Browser, site: Site, path: str, size: str = "desk", **options: Any) -> Iterator[Page]:
    """A page in a window of its own, which must neither ask for more than itself nor complain."""
    context = browser.new_context(viewport=SIZES[size], **options)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    site.asked.clear()
    page.goto(site.address + path)
    yield page
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [site.address + path]
    assert site.asked == [path]


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_loaded_and_nothing_overflows(browser: Browser, site: Site, path: str) -> None:
    """One request, no complaint of the browser, and no sideways scrolling, with all that can be opened open."""
    with opened(browser, site, path) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for size in SIZES.values():
            page.set_viewport_size(size)
            assert page.evaluate(TOO_WIDE) == []


@pytest.mark.parametrize("path", ["/three", "/hundred", "/list"])
def test_the_keyboard_reaches_every_control(browser: Browser, site: Site, path: str) -> None:
    """Each link, button, box that scrolls and thing that opens gets the focus in order, and shows that it has it."""
    with opened(browser, site, path) as page:
        reached = []
        for _ in range(400):
            page.keyboard.press("Tab")
            state = page.evaluate(
                """() => {
                    const each = document.activeElement;
                    if (each === document.body) return null;
                    const strip = each.querySelector(':scope > .strip');
                    const style = getComputedStyle(strip ?? each);
                    const seen = strip ? style.strokeWidth !== '1px' && style.stroke !== 'none'
                        : style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
                    const all = [...document.querySelectorAll('*')];
                    return [all.indexOf(each), seen, each.outerHTML.slice(0, 120)];
                }"""
            )
            if state is None:
                break
            reached.append(state)
        places = [place for place, _, _ in reached]
        assert [text for _, seen, text in reached if not seen] == []
        assert places == sorted(places)
        wanted = page.evaluate(
            """() => { const all = [...document.querySelectorAll('*')];
                return [...document.querySelectorAll('a[href], button:not(:disabled), input, summary, pre, .scroll')]
                    .filter(each => each.checkVisibility({contentVisibilityAuto: true}))
                    .map(each => all.indexOf(each)); }"""
        )
        assert set(wanted) <= set(places)


def test_skip_links_lead_on(browser: Browser, site: Site) -> None:
    """The first stop leads past the head of the page; another one past the chart's hundred loops."""
    with opened(browser, site, "/hundred") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.get_by_text("Skip the chart").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('table') !== null")


def test_a_loop_tells_its_values(browser: Browser, site: Site) -> None:
    """With the focus or the pointer on a loop of the chart its values stand there; Enter leads to its row."""
    with opened(browser, site, "/three") as page:
        values = page.locator(".loop .value")
        assert [each.is_visible() for each in values.all()] == [False] * 6
        page.locator(".loop").nth(1).focus()
        shown = [each.text_content() for each in values.all() if each.is_visible()]
        assert shown == ["loop 1: 0.0174", "loop 1: 1.67 %"]
        page.keyboard.press("Enter")
        assert page.url.endswith("#row-1")
        page.locator(".loop").nth(2).locator(".strip").first.hover()
        shown = [each.text_content() for each in values.all() if each.is_visible()]
        assert shown == ["loop 2: 0.0242", "loop 2: 2.88 %"]


def test_panels_stand_under_each_other(browser: Browser, site: Site) -> None:
    """A loop's two marks and its number share their place across; marks differ in shape."""
    with opened(browser, site, "/inheriting", "phone") as page:
        middles = page.evaluate(
            """() => [...document.querySelectorAll('.loop')].map(each =>
                [...each.querySelectorAll('.mark, .number')].map(part => {
                    const box = part.getBoundingClientRect(); return box.left + box.width / 2; }))"""
        )
        assert all(max(each) - min(each) < 1.5 for each in middles)
        shapes = page.evaluate(
            """() => ['sota', 'accepted', 'rejected', 'open'].map(mark => {
                const each = document.querySelector('.plot .mark.' + mark);
                return `${each.tagName} ${each.getAttribute('d')}`;
            })"""
        )
        assert len(set(shapes)) == 4


def test_formulas_are_laid_out(browser: Browser, site: Site) -> None:
    """A fraction's parts stand above each other: the browser reads it as MathML, not as letters in a row."""
    with opened(browser, site, "/hundred") as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        above = page.evaluate(
            """() => [...document.querySelectorAll('mfrac')].map(each => {
                const [top, bottom] = [...each.children].map(part => part.getBoundingClientRect());
                return top.bottom <= bottom.top + 1 && top.height > 4 && each instanceof MathMLElement; })"""
        )
        assert above
        assert all(above)


def test_hostile_names_make_no_elements(browser: Browser, site: Site) -> None:
    """Markup in names, formulas and code is text in the browser's own reading too."""
    with opened(browser, site, "/hostile") as page:
        assert page.evaluate("document.querySelectorAll('script, img, iframe, [onerror]').length") == 0
        assert page.title().startswith("<script>alert(1)</script>")
        assert "<script>alert(1)</script>" in page.locator("h1").inner_text()
        assert (page.locator("math").first.text_content() or "").startswith("<script>")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(browser: Browser, site: Site, scheme: str) -> None:
    """Every text's contrast with what is behind it is at least 4.5 to 1 (WCAG 2, level AA)."""
    with opened(browser, site, "/inheriting", color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate(CONTRAST) == []


def test_chosen_runs_are_compared_without_a_script(browser: Browser, site: Site) -> None:
    """Boxes are checked, the button pressed, and the browser asks for just these runs: the policy lets it."""
    context = browser.new_context(viewport=SIZES["phone"], java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.address}/list")
    for place in (1, 3):
        page.locator(".pick").nth(place).check()
    page.get_by_text("Compare the chosen runs").click()
    names = [make_listing(5).tasks[place].task_id for place in (1, 3)]
    assert site.asked[-1] == f"/compare?run={names[0]}&run={names[1]}"
    context.close()
