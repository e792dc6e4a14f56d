"""The documents against the code: messages, settings, commands, make targets and links."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
from collections import Counter
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
SETUPS = (PROJECT / "docs" / "setups.md").read_text(encoding="utf-8")
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]

TRANSLATIONS = {
    PROJECT / page: PROJECT / "docs" / "zh" / Path(page).name
    for page in (
        "README.md",
        "docs/guide.md",
        "docs/setups.md",
        "docs/checkouts.md",
        "docs/evidence.md",
        "docs/library.md",
    )
}
"""Each page that is there in Chinese, and where."""

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


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```.*?^```", page, re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """The page with its code blocks left out."""
    return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


def headings(page: str) -> list[str]:
    """Second- and third-level headings, code blocks left out."""
    return re.findall(r"^#{2,3} (.+?)\s*$", prose(page), re.MULTILINE)


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
    value = Settings.model_fields[name].get_default(call_default_factory=True)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_resolve(page: Path) -> None:
    """Every relative link leads to a file of the project, and to a heading if it names one."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for link, target, anchor in relative_links(page, text):
        anchors = (
            {anchor_of(heading) for heading in headings(target.read_text(encoding="utf-8"))}
            if target.is_file() and anchor
            else {""}
        )
        if not target.is_relative_to(PROJECT) or not target.exists() or anchor not in anchors:
            broken.append(link)
    assert broken == []


def relative_links(page: Path, text: str) -> Iterator[tuple[str, Path, str]]:
    """Each link into the project as it is written, the file it leads to, and the heading it names, if any."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            place, _, anchor = link.partition("#")
            yield link, (page.parent / place).resolve() if place else page, anchor


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_changelog_and_readme_name_this_version() -> None:
    """The version is the same wherever it stands."""
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__} " in changelog or "## Unreleased" in changelog
    assert f"Version {__version__};" in README


def inline_code(page: str) -> set[str]:
    """What stands between backticks: settings, commands, options, file names."""
    return {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))}


def shape(page: str) -> dict[str, int]:
    """How many headings of each level there are, and how many list items and table rows."""
    return Counter(re.findall(r"^(#+|-|\d+\.|\|)(?=[ -])", prose(page), re.MULTILINE))


def destinations(page: Path) -> list[tuple[Path, str | bool]]:
    """Where the page's links lead, the same for an original and its translation."""
    originals = {translation: original for original, translation in TRANSLATIONS.items()}
    text = prose(page.read_text(encoding="utf-8"))
    inside = []
    for _, target, anchor in relative_links(page, text):
        original = originals.get(target, target)
        # A translated heading has another anchor; that it exists is checked with all links.
        inside.append((original, bool(anchor) if original in TRANSLATIONS else anchor))
    outside = [(Path(url), "") for url in re.findall(r"\]\((https?:[^)\s]+)\)", text)]
    return sorted([*inside, *outside], key=str)


@pytest.mark.parametrize("original", TRANSLATIONS, ids=lambda page: page.stem)
def test_translation_says_to_type_the_same(original: Path) -> None:
    """Code blocks are the original's to the byte, and prose names the same settings, commands and options."""
    english, chinese = (page.read_text(encoding="utf-8") for page in (original, TRANSLATIONS[original]))
    assert code_blocks(chinese) == code_blocks(english)
    assert inline_code(chinese) == inline_code(english)


@pytest.mark.parametrize("original", TRANSLATIONS, ids=lambda page: page.stem)
def test_translation_is_complete(original: Path) -> None:
    """The translation has the original's headings, list items, table rows and links, and is in Chinese."""
    english, chinese = (page.read_text(encoding="utf-8") for page in (original, TRANSLATIONS[original]))
    assert shape(chinese) == shape(english)
    assert destinations(TRANSLATIONS[original]) == destinations(original)
    untranslated = [
        heading
        for heading in headings(chinese)
        if not re.search(r"[\u4e00-\u9fff]", heading) and heading not in headings(english)
    ]
    assert untranslated == []
    assert len(re.findall(r"[\u4e00-\u9fff]", prose(chinese))) > len(prose(english).split())


@pytest.mark.parametrize("original", TRANSLATIONS, ids=lambda page: page.stem)
def test_languages_link_to_each_other(original: Path) -> None:
    """Below the title, each page names the other language's."""
    for page, label, other in (
        (original, "简体中文", TRANSLATIONS[original]),
        (TRANSLATIONS[original], "English", original),
    ):
        below_title = page.read_text(encoding="utf-8").split("\n\n")[1]
        ((_, target, _),) = relative_links(page, below_title)
        assert (below_title.startswith(f"[{label}]("), target) == (True, other), page


def test_setups_are_linked_and_proven() -> None:
    """The README leads to the page, and each of its sections ends in the command that shows that it works."""
    assert "(docs/setups.md)" in README.split("\n## Read on\n", 1)[1]
    for section in SETUPS.split("\n## ")[1:]:
        title = section.splitlines()[0]
        assert section.rstrip().endswith("```"), title
        assert "rdagent-sota doctor" in code_blocks(section)[-1], title


def test_edit_for_docker_fits_the_installed_release(tmp_path: Path) -> None:
    """The two lines of RD-Agent that docs/setups.md changes are there, and the command changes just these."""
    spec = importlib.util.find_spec("rdagent")
    assert spec is not None and spec.submodule_search_locations
    name = "components/coder/model_coder/conf.py"
    copy = tmp_path / name
    copy.parent.mkdir(parents=True)
    shutil.copy(Path(spec.submodule_search_locations[0]) / name, copy)
    before = copy.read_text(encoding="utf-8").splitlines()

    (block,) = [block for block in code_blocks(SETUPS) if "sed -i.orig" in block]
    command = block[block.index("sed -i.orig") : block.rindex("```")]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)

    text = copy.read_text(encoding="utf-8")
    compile(text, name, "exec")
    changed = [
        (old.strip(), new.strip()) for old, new in zip(before, text.splitlines(), strict=True) if old != new
    ]
    assert changed == [
        ("env = QTDockerEnv()", "env = QTDockerEnv(conf=QTDockerEnv().conf.model_copy(deep=True))"),
        ("env.conf.extra_volumes = extra_volumes.copy()", "env.conf.extra_volumes.update(extra_volumes)"),
    ]
    assert copy.with_name("conf.py.orig").read_text(encoding="utf-8").splitlines() == before
