"""docs/architecture.md and docs/files.md against the package: its files, and the arrows between them."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.file_tree import PAGE as PAGE_OF_FILES
from tests.file_tree import render_tree

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "rdagent_sota_patch"
PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")


def _table() -> dict[str, tuple[str, ...]]:
    """The last column of the page's table of rooms, by room."""
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \|$", PAGE, re.MULTILINE)
    return {room: tuple(re.findall(r"`(\w+)`", known)) for room, known in rows}


MAY_KNOW: dict[str, set[str]] = {
    "sessions": set(),
    "factor_table": {"sessions"},
    "sandbox": set(),
    "lookahead": {"sessions", "factor_table", "sandbox"},
    "bundle": {"lookahead"},
    "scoring": {"bundle", "sandbox", "lookahead", "factor_table", "sessions"},
    "mlruns": {"sessions", "factor_table", "bundle", "scoring"},
    "factor_library": {"sessions", "factor_table", "bundle", "lookahead"},
    "sealing": {"sessions", "sandbox"},
    "evidence": {"sessions", "mlruns", "sealing", "bundle", "scoring", "factor_table"},
    "export": {"sessions", "factor_table", "bundle", "scoring", "mlruns", "lookahead", "sandbox", "sealing"},
    "ablation": {"sessions", "factor_table", "bundle", "scoring", "mlruns", "lookahead", "sandbox", "export"},
    "plugin": {
        "sessions",
        "factor_table",
        "sandbox",
        "lookahead",
        "mlruns",
        "patching",
        "sealing",
        "evidence",
    },
    "results": {"sessions", "factor_table", "bundle", "mlruns", "export", "sandbox"},
    "server": {"results", "bundle"},
    "sync": {"results", "bundle"},
    "stages": {"sessions"},
    "demo": {"sessions", "stages"},
    "patching": set(),
}
"""Who may import whom, beside the modules at the top and itself; `cli` may import all."""
MAY_KNOW["cli"] = set(MAY_KNOW)

# On the way into RD-Agent's process the hook imports the plugin, once RD-Agent itself is being loaded.
STARTUP = "_startup.py"


def imported_modules(source: str, name: str, *, top: bool = False) -> Iterator[str]:
    """Every module that a file imports, anywhere in it or at its top alone."""
    tree = ast.parse(source)
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide the arrow"
            yield node.module or ""


def modules() -> dict[str, Path]:
    return {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_the_list_of_files_is_that_of_the_docstrings() -> None:
    """`make files` writes it."""
    assert PAGE_OF_FILES.read_text(encoding="utf-8") == render_tree()


def test_every_module_says_what_it_is_for() -> None:
    assert [
        name for name, path in modules().items() if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


def test_no_two_modules_have_one_name() -> None:
    """A command's module is called like the command."""
    names = Counter(path.stem for name, path in modules().items() if not name.startswith("cli/"))
    assert [name for name, count in names.items() if count > 1 and name != "__init__"] == []


def test_the_page_has_every_room() -> None:
    assert set(_table()) == set(MAY_KNOW)
    assert len(PAGE.split()) < 1500


def test_the_walks_name_what_there_is() -> None:
    """`module.name` on the page is defined in a module of that name."""
    walks = PAGE.split("## Three walks", 1)[1].split("\n## ", 1)[0]
    text = {path.stem: path.read_text(encoding="utf-8") for path in modules().values()}
    wrong = [
        f"{module}.{name}"
        for module, name in re.findall(r"`(?:\w+\.)?(\w+)\.(\w+)`", walks)
        if module in text
        and not re.search(rf"^ *(async def|def|class) {name}\b", text[module], re.MULTILINE)
        and name not in text
    ]
    assert wrong == []


def test_arrows_point_one_way() -> None:
    """Packages know those below them and nobody above."""
    wrong = []
    for name, path in modules().items():
        own = name.split("/", maxsplit=1)[0] if "/" in name else ""
        for module in imported_modules(path.read_text(encoding="utf-8"), name):
            package, _, rest = module.partition(".")
            known = rest.split(".", maxsplit=1)[0]
            allowed = MAY_KNOW.get(own, set()) | {own}
            if package == PACKAGE.name and known in MAY_KNOW.keys() - allowed and name != STARTUP:
                wrong.append(f"{name}: {module}")
    assert wrong == []


def test_only_the_plugin_imports_rdagent() -> None:
    """`inspect` works where RD-Agent is not installed, and the demonstration runs it as a user does."""
    wrong = [
        f"{name}: {module}"
        for name, path in modules().items()
        for module in imported_modules(path.read_text(encoding="utf-8"), name)
        if module.partition(".")[0] in {"rdagent", "mlflow"} and not name.startswith("plugin/")
    ]
    assert wrong == []


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    """Bundles are written, opened and listed without Qlib, torch and LightGBM, which take seconds to import."""
    heavy = {"qlib", "torch", "lightgbm", "safetensors", "tables"}
    at_the_top, elsewhere = [], []
    for name, path in modules().items():
        source = path.read_text(encoding="utf-8")
        used = {module.partition(".")[0] for module in imported_modules(source, name)} & heavy
        if used and not name.startswith(("plugin/", "scoring/", "ablation/")):
            elsewhere.append(name)
        top = {module.partition(".")[0] for module in imported_modules(source, name, top=True)} & heavy
        if top and not name.startswith("plugin/"):
            at_the_top.append(name)
    assert (at_the_top, elsewhere) == ([], [])


def test_every_dependency_is_accounted_for() -> None:
    """The page says why each dependency is there, and names none that is not."""
    project = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    table = PAGE.split("\n## Dependencies\n", 1)[1]
    named = [
        name for row in re.findall(r"^\| ([a-z][^|]*) \|", table, re.MULTILINE) for name in row.split(", ")
    ]
    assert sorted(named) == sorted(re.findall(r'"([\w-]+)', listed))
