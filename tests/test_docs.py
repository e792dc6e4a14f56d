"""The documents against the code: messages, settings, commands, make targets and links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from rdagent_sota_patch import __version__, errors
from rdagent_sota_patch.cli import app
from rdagent_sota_patch.settings import Settings

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "rdagent_sota_patch"
README = (PROJECT / "README.md").read_text(encoding="utf-8")
GUIDE = (PROJECT / "docs" / "guide.md").read_text(encoding="utf-8")
MESSAGES = (PROJECT / "docs" / "messages.md").read_text(encoding="utf-8")
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]

CARRIERS = {name for name, value in vars(errors).items() if isinstance(value, type)} - {"Path"}
"""``Problem``, ``SotaError`` and its subclasses: what carries a slug as its first argument."""


def calls_with_slugs(source: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CARRIERS:
            yield node


def raised_slugs() -> dict[str, str]:
    """Every slug that the package writes out, with one place that does."""
    found = {}
    for source in sorted(PACKAGE.rglob("*.py")):
        for call in calls_with_slugs(source):
            if call.args and isinstance(call.args[0], ast.Constant):
                found[str(call.args[0].value)] = f"{source.relative_to(PROJECT)}:{call.lineno}"
    return found


def headings(page: str) -> list[str]:
    """Second- and third-level headings, code blocks left out."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#{2,3} (.+?)\s*$", text, re.MULTILINE)


def documented_slugs() -> list[str]:
    return [heading.strip("`") for heading in headings(MESSAGES) if heading.startswith("`")]


def commands() -> dict[str, Any]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return dict(group.commands)


def test_every_slug_is_explained() -> None:
    """Whoever meets a message finds it in docs/messages.md by its slug."""
    raised = raised_slugs()
    assert len(raised) > 40
    assert {slug: raised[slug] for slug in raised.keys() - set(documented_slugs())} == {}


def test_no_explanation_is_left_over() -> None:
    """A slug that nothing raises any more goes from the page; none stands there twice."""
    documented = documented_slugs()
    assert set(documented) - raised_slugs().keys() == set()
    assert len(documented) == len(set(documented))


def test_every_explanation_says_what_to_do() -> None:
    """Below each heading stand what it means and a next step."""
    for slug in documented_slugs():
        section = MESSAGES.split(f"### `{slug}`\n", 1)[1].split("\n#", 1)[0]
        assert "**Do:**" in section, slug
        assert len(section.split("**Do:**")[0].split()) > 4, slug


def test_slugs_are_kebab_case() -> None:
    """A slug is an anchor and a word for grep."""
    assert [slug for slug in raised_slugs() if not re.fullmatch(r"[a-z]+(-[a-z]+)+", slug)] == []


def test_slugs_can_be_seen_in_the_source() -> None:
    """A slug is written out where it is raised, or handed on from another problem."""
    hidden = [
        f"{source.relative_to(PROJECT)}:{call.lineno}"
        for source in sorted(PACKAGE.rglob("*.py"))
        for call in calls_with_slugs(source)
        if source.name != "errors.py"
        and not (
            call.args
            and (
                isinstance(call.args[0], ast.Constant)
                or (isinstance(call.args[0], ast.Attribute) and call.args[0].attr == "slug")
            )
        )
    ]
    assert hidden == []


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_is_documented(name: str) -> None:
    """Each command has a help text, and stands in README and guide."""
    assert commands()[name].help
    assert f"rdagent-sota {name}" in README
    assert f"rdagent-sota {name}" in GUIDE


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_has_help(name: str) -> None:
    """`--help` explains each option and argument."""
    silent = [
        parameter.name
        for parameter in commands()[name].params
        if parameter.name != "help" and not getattr(parameter, "help", None)
    ]
    assert silent == []


def test_no_command_is_promised_that_is_not_there() -> None:
    """What the documents tell people to type exists."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    promised = set(re.findall(r"(?<![\w-])rdagent-sota ([a-z]+)\b", text))
    assert promised <= commands().keys()


def test_settings_table_is_the_settings() -> None:
    """The README names every setting, and nothing else as one."""
    table = README.split("\n## Settings\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_defaults_in_the_table_are_those_of_the_code(name: str) -> None:
    """The README's word for a default is what the code does."""
    (default,) = re.findall(rf"^\| `{name.upper()}` \| *(.*?) *\|", README, re.MULTILINE)
    value = Settings.model_fields[name].default
    if name == "sota_factors_path":
        assert default == f"`./{Settings.model_construct().factor_file}`"
    elif isinstance(value, bool):
        assert default == ("on" if value else "off")
    elif value in (None, ()):
        assert default == ""
    else:
        assert float(default) == value


def test_first_commands_are_make_targets() -> None:
    """The README begins with `make demo` and `make test`, and both are targets."""
    typed = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[0].splitlines()
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    first = [line.split("#")[0].split() for line in typed[:2]]
    assert first == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test"} <= set(targets)


def test_ci_uses_targets_that_exist() -> None:
    """What CI runs can be run by anyone with make."""
    script = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    used = re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)
    assert "test" in used
    assert set(used) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    """Every relative link leads to a file of the project, and to a heading if it names one."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        anchors = (
            {anchor_of(heading) for heading in headings(target.read_text(encoding="utf-8"))}
            if target.is_file() and anchor
            else {""}
        )
        if not target.is_relative_to(PROJECT) or not target.exists() or anchor not in anchors:
            broken.append(link)
    assert broken == []


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_changelog_and_readme_name_this_version() -> None:
    """The version is the same wherever it stands."""
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__} " in changelog or "## Unreleased" in changelog
    assert f"Version {__version__};" in README
