"""Formulas: what language models write, and what nobody should."""

from __future__ import annotations

import re
import time
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latex2mathml import commands
from latex2mathml.converter import convert

from rdagent_sota_patch.server.formulas import LONGEST, convert_formula
from tests.server.examples import FORMULAS

KNOWN = sorted(
    {*commands.CONVERSION_MAP, *(v for v in vars(commands).values() if isinstance(v, str) and v[:1] == "\\")}
)
PIECES = [
    *KNOWN,
    *"{}{}[]()^_&%$#'<>|=+-a1",
    "word",
    " ",
    "{x}",
    r"\begin{cases}",
    r"\end{cases}",
    "&#x3c;",
    "\u202e",
]


def words(source: str) -> list[str]:
    """The texts of a formula's elements, in their order."""
    mathml = convert_formula(source).mathml
    assert mathml is not None, convert_formula(source).why
    return [node.text for node in ElementTree.fromstring(mathml).iter() if node.text]


@pytest.mark.parametrize("source", FORMULAS)
def test_ordinary_formulas_are_converted(source: str) -> None:
    """Fractions, sums, cases, correlation and rank, as runs have them."""
    assert convert_formula(source).mathml is not None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (r"\frac{close_t}{open}", ["close", "t", "open"]),
        ("close_price_t", ["close_price", "t"]),
        (r"close\_price_t", ["close_price", "t"]),
        (r"\mathrm{corr}(x)", ["corr", "(", "x", ")"]),
        (r"\operatorname{std} y", ["std", "y"]),
        ("20 index", ["20", "index"]),
        ("W x", ["W", "x"]),
        ("5% of", ["5", "%", "o", "f"]),
        (r"\text{ a < b }", ["\u00a0a\u00a0<\u00a0b\u00a0"]),
        (r"\text{&lt;&#x3c;}", ["&lt;&#x3c;"]),
        (r"$$\alpha$$", ["α"]),
        (r"\[ x \]", ["x"]),
        ("因子", ["因", "子"]),
    ],
)
def test_names_and_texts_stay_whole(source: str, expected: list[str]) -> None:
    """A name of several letters is one name, and a text is what it says."""
    assert words(source) == expected


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (r"\corr(x)", r"\corr is not converted here"),
        (r"\begin{tikzpicture}\end{tikzpicture}", r"\begin{tikzpicture} is not converted here"),
        (r"\frac{1}", "it is not LaTeX that can be read"),
        (r"\left( x", "it is not LaTeX that can be read"),
        ("x^", "it is not LaTeX that can be read"),
        ("\ue000", "it has characters of no known meaning"),
        ("x+" * LONGEST, f"longer than {LONGEST} characters"),
    ],
)
def test_what_cannot_be_converted_is_shown_as_it_is(source: str, why: str) -> None:
    """The source stays, and the reason is told."""
    formula = convert_formula(source)
    assert formula.mathml is None
    assert formula.why == why
    assert source.startswith(formula.source.removesuffix(" …"))


@pytest.mark.parametrize(
    "source",
    [
        r"\def\a{\b\b}\def\b{\c\c}\a",
        r"\newcommand{\a}{x}\a",
        r"\DeclareMathOperator{\a}{x}\a",
        r"\newenvironment{a}{x}{y}",
        r"\sideset{_a}{_b}{\sum}",
        r"\style{color:red}{x}",
        r"\class{evil}{x}",
        r"\color{red} x",
        r"\href{javascript:alert(1)}{x}",
        r"\unicode{x3c}",
        r"\rule{9em}{9em}",
        r"\hskip 9999em x",
    ],
)
def test_what_could_do_harm_is_never_converted(source: str) -> None:
    """Macros, doubled arguments, addresses, styles and sizes: none reaches the converter."""
    assert convert_formula(source).mathml is None


def test_markup_in_a_formula_stays_text() -> None:
    """The converter's own text would hold the tags as they are; ours holds none of them."""
    source = r"\text{<script>alert(1)</script>} < \mathrm{<img src=x onerror=alert(2)>}"
    assert "<script>" in convert(source)
    mathml = convert_formula(source).mathml
    assert mathml is not None
    assert not re.search(r"<(?!/?m)", mathml)
    assert "&lt;script&gt;" in mathml


@pytest.mark.parametrize(
    "source", ["{" * 900, r"\hat" * 400, "x^" * 900, r"\left(" * 300, r"\begin{cases}" * 140]
)
def test_depth_does_not_break_it(source: str) -> None:
    """Nesting that exhausts the interpreter's stack is shown as its source."""
    assert convert_formula(source).mathml is None


@pytest.mark.parametrize("command", KNOWN)
def test_no_command_grows(command: str) -> None:
    """Each command of the converter, as often as a formula can hold it, inside itself: quick, and of bounded size."""
    start = time.process_time()
    for source in (command * LONGEST, f"{command}{{" * LONGEST, f"{command}{{x}}{{y}}{{" * LONGEST):
        formula = convert_formula(source[:LONGEST])
        assert len(formula.mathml or "") < 100 * LONGEST
    assert time.process_time() - start < 3


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_anything_is_converted_or_shown(source: str) -> None:
    """Whatever stands in a session, a page is made of it, and only MathML that is well formed."""
    formula = convert_formula(source)
    if formula.mathml is None:
        assert formula.why
    else:
        assert all(
            re.fullmatch("m[a-z]+", node.tag) for node in ElementTree.fromstring(formula.mathml).iter()
        )
