"""What of Qlib's expression language is given to Qlib, which runs it as Python."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.bundle.expressions import (
    LONGEST,
    OPERATORS,
    find_harm,
    require_harmless,
)
from rdagent_sota_patch.errors import BundleError

ALPHA20 = [
    "Resi($close, 5)/$close",
    "Std(Abs($close/Ref($close, 1)-1)*$volume, 5)/(Mean(Abs($close/Ref($close, 1)-1)*$volume, 5)+1e-12)",
    "($high-$low)/$open",
    "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 60)",
    "Std($volume, 5)/($volume+1e-12)",
    "(Less($open, $close)-$low)/$open",
]
OTHERS = [
    "$close",
    "Ref($close, -2)/Ref($close, -1) - 1",
    "$close ** 2",
    "2 ** $close",
    "-$close",
    "If($close > Ref($close, 1), 1, -1)",
    "Mean(($close>$open)&($low<=$high), 5)",
    "P($$roewa_q)",
    "Quantile($close, 20, 0.8)/.5",
    "Mean ($close, 5)\t+ 1",
]
HARMFUL = [
    "__import__('os').system('true')",
    "$close.__class__",
    "$close.real",
    "Feature('close')",
    "Rolling($close, 5, 'mean')",
    "ChangeInstrument('SH000300', $close)",
    "TResample($close, 'M', 'last')",
    "Mean($close, N=5)",
    "Mean(*$close)",
    "Foo($close)",
    "exec($close)",
    "print(1)",
    "5($close)",
    "$close($open)",
    "Mean($close, 5)(1)",
    "($close, $open)",
    "[$close]",
    "{1: $close}",
    "$a if $b else $c",
    "not $a",
    "lambda: 1",
    "$a<$b<$c",
    "$a := 1",
    "f'{1}'",
    '"text"',
    "1_000",
    "0x10",
    "1j",
    "$close # comment",
    "$close\n+1",
    "$close; 1",
    "$收盘",
    "field_",
    "Mean",
    "$",
    "",
    "Mean($close",
    "$close $open",
    "$close + ",
    "9**9**9**9",
    "2**(10**9)",
    "(2+2)**$n**9**9",
    "~$close",
    "$close // 2",
    "$close @ 2",
    "1if 1else 2",
]


@pytest.mark.parametrize("expression", [*ALPHA20, *OTHERS])
def test_expressions_of_features_pass(expression: str) -> None:
    """RD-Agent's own Alpha features, and what else the language has."""
    require_harmless(expression)


@pytest.mark.parametrize("expression", HARMFUL)
def test_anything_else_is_refused(expression: str) -> None:
    """Names, attributes, text, keywords, calls of anything but operators, and numbers that explode."""
    with pytest.raises(BundleError, match="not given to Qlib") as caught:
        require_harmless(expression)
    assert caught.value.slug == "expression-refused"


@pytest.mark.parametrize(
    "expression", ["(" * 9000 + "1" + ")" * 9000, "-" * 9000 + "1", "1+" * 9000 + "1", "$a" * LONGEST]
)
def test_size_does_not_hurt(expression: str) -> None:
    """Deep or long text is judged, neither crashing the parser nor taking long."""
    find_harm(expression)


@given(st.text(alphabet="$aM(),.*+-<>=&| 1e_'\"[]{}:;#@\n\\Re" + "Ref", max_size=40))
def test_what_passes_has_no_names_but_operators(expression: str) -> None:
    """Whatever is let through, Python sees nothing in it but fields, numbers and Qlib's operators."""
    if find_harm(expression):
        return
    tree = ast.parse(expression.replace("$", "F_").strip(), mode="eval")
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.Attribute, ast.Subscript, ast.Lambda, ast.JoinedStr, ast.Starred))
        if isinstance(node, ast.Name):
            assert node.id in OPERATORS or node.id.startswith("F_")


def test_the_operators_are_qlibs() -> None:
    """Every operator that is let through is one of Qlib's; those left out are known by name."""
    spec = importlib.util.find_spec("qlib")
    if spec is None or spec.origin is None:
        pytest.skip("Qlib is not installed")
    tree = ast.parse((Path(spec.origin).parent / "data" / "ops.py").read_text(encoding="utf-8"))
    (listed,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OpsList"
    ]
    theirs = {name.id for name in ast.walk(listed) if isinstance(name, ast.Name)} - {"TOpsList"}
    takes_text = {"ChangeInstrument", "Rolling", "TResample", "Feature", "PFeature"}
    assert (theirs | {"P", "PRef"}) - takes_text == OPERATORS


def test_the_longest_expression() -> None:
    """20,000 characters are judged by what they say; one more is too many, whatever they say."""
    assert find_harm("1" + " " * 19_999) == ""
    assert "it has 20,001 characters, and 20,000 is the limit" in find_harm("1" + " " * 20_000)
