"""MathML held to a list."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import pytest

from rdagent_sota_patch.server.formulas import DEEPEST, UnknownMathError, build_mathml


def math(*children: Element) -> Element:
    root = Element("math", {"xmlns": "http://www.w3.org/1998/Math/MathML", "display": "block"})
    root.extend(children)
    return root


def element(tag: str, text: str | None = None, **attributes: str) -> Element:
    made = Element(tag, attributes)
    made.text = text
    return made


def test_what_is_on_the_list_is_built_again() -> None:
    """Elements, attributes and texts come out, with references as characters and no element as a single tag."""
    tree = math(
        element("mo", "&#x2211;", stretchy="false"),
        element("mspace", width="0.167em"),
        element("mi", "\ue000"),
    )
    assert build_mathml(tree, {"\ue000": "a<b"}) == (
        '<math display="block"><mo stretchy="false">∑</mo><mspace width="0.167em"></mspace><mi>a&lt;b</mi></math>'
    )


@pytest.mark.parametrize(
    "bad",
    [
        element("script", "alert(1)"),
        element("annotation-xml", encoding="text/html"),
        element("maction", actiontype="statusline"),
        element("mglyph", src="x"),
        element("mi", "x", onclick="alert(1)"),
        element("mi", "x", href="javascript:alert(1)"),
        element("mi", "x", style="color:red"),
        element("mi", "x", mathvariant='"><script>'),
        element("mspace", width="1em;color:red"),
        element("mspace", width="9999999999em"),
        element("mrow", "text"),
        element("mfrac"),
        element("mi", "&#x110000;"),
    ],
)
def test_what_is_not_on_the_list_is_refused(bad: Element) -> None:
    """Other elements, attributes, values, misplaced text and fractions without parts make no formula."""
    with pytest.raises(UnknownMathError):
        build_mathml(math(bad), {})


def test_text_elements_hold_text_alone() -> None:
    """A browser reads HTML inside a text element, so that nothing but text may stand there."""
    token = element("mtext", "x")
    SubElement(token, "mrow")
    with pytest.raises(UnknownMathError):
        build_mathml(math(token), {})
    tailed = element("mi", "x")
    tailed.tail = "<b>"
    with pytest.raises(UnknownMathError):
        build_mathml(math(tailed), {})


def test_depth_is_bounded() -> None:
    """Elements inside each other beyond a depth are refused before the interpreter's own limit."""
    deepest = root = element("mrow")
    for _ in range(DEEPEST):
        deepest = SubElement(deepest, "mrow")
    with pytest.raises(UnknownMathError, match="too deep"):
        build_mathml(math(root), {})


def test_a_character_that_stands_for_a_hidden_one_is_shown() -> None:
    """A reference to a mark of direction is named, as in any other text."""
    assert "⟨U+202E⟩" in build_mathml(math(element("mi", "&#x202E;")), {})
