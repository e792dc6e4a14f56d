"""docs/architecture.md against the package: its files, and the arrows between them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "rdagent_sota_patch"
PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")

MAY_KNOW: dict[str, set[str]] = {
    "sessions": set(),
    "factors": {"sessions"},
    "confinement": set(),
    "audit": {"sessions", "factors", "confinement"},
    "bundle": {"audit"},
    "scoring": {"bundle", "confinement", "sessions"},
    "recorders": {"sessions", "factors", "bundle", "scoring"},
    "evidence": {"sessions", "recorders"},
    "prediction": {"bundle", "scoring", "confinement", "audit", "factors"},
    "exporting": {"sessions", "factors", "bundle", "scoring", "recorders", "prediction", "audit"},
    "plugin": {"sessions", "factors", "confinement", "audit", "recorders", "patching"},
    "results": {"sessions", "factors", "bundle", "recorders", "exporting", "confinement"},
    "pages": {"results"},
    "api": {"results", "pages", "bundle"},
    "sync": {"results", "bundle"},
    "stages": {"sessions"},
    "demo": {"sessions", "stages"},
    "patching": set(),
    "cli": {
        "sessions",
        "factors",
        "confinement",
        "audit",
        "bundle",
        "scoring",
        "prediction",
        "exporting",
        "evidence",
        "results",
        "api",
        "sync",
        "plugin",
        "demo",
        "stages",
        "patching",
    },
}
"""Who may import whom, beside the modules at the top and itself."""

# On the way into RD-Agent's process the hook imports the plugin, once RD-Agent itself is being loaded.
STARTUP = "_startup.py"


def listed_modules() -> set[str]:
    """The modules in the page's tree."""
    (tree,) = re.findall(r"^```text\nrdagent_sota_patch/\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    listed, folder = set(), ""
    for line in tree.splitlines():
        name = line.split()[0]
        if name.endswith("/"):
            folder = name
        else:
            listed.add(f"{folder}{name}" if line.startswith("    ") else name)
    return listed


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


def test_the_tree_lists_every_module() -> None:
    """A new file is added to the page, a removed one goes."""
    assert listed_modules() == {name for name in modules() if not name.endswith("__init__.py")}


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
        if used and not name.startswith(("plugin/", "scoring/", "prediction/")):
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
