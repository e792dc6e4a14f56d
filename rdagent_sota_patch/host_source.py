"""RD-Agent's source, looked at as text: importing it takes seconds, and says less of what it will do."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG_NAME = "conf_sota_factors_model.yaml"
"""RD-Agent's template for models on mined factors."""

_RUNNER_FILE = "scenarios/qlib/developer/model_runner.py"

MODEL_TEMPLATE = f"scenarios/qlib/experiment/model_template/{CONFIG_NAME}"


@dataclass(frozen=True, slots=True)
class HostSource:
    """The files of one RD-Agent.

    Attributes:
        folder: The package's folder, ``…/rdagent``.
        version: As its distribution says; empty where it is run from a folder and not installed. For messages alone:
            a checkout may have any number.
    """

    folder: Path
    version: str = ""

    def __str__(self) -> str:
        return f"RD-Agent {self.version or 'of unknown version'} ({self.folder})"

    def read(self, file: str) -> str:
        """Text of ``file``, a path below the package, with ``\\n`` as line end; empty if it is not there."""
        path = self.folder / file
        return path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""

    def parse(self, file: str) -> ast.Module:
        """Syntax tree of ``file``; an empty one if it is not there or not Python of this version."""
        return parse_python(self.read(file))

    def modules(self, *folders: str) -> Iterator[str]:
        """The Python files below ``folders``, as paths below the package, sorted."""
        for folder in folders:
            for path in sorted((self.folder / folder).rglob("*.py")):
                yield path.relative_to(self.folder).as_posix()


def parse_python(text: str) -> ast.Module:
    """Syntax tree of ``text``; an empty one if it is not Python of this version."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def find_host() -> HostSource:
    """The RD-Agent that this Python would import.

    Raises:
        HostError: There is none.
    """
    package = importlib.util.find_spec("rdagent")
    if package is None or not package.submodule_search_locations:
        raise HostError(
            "host-missing",
            "rdagent is not installed in this Python environment.",
            "Install rdagent-sota-patch into the environment that runs `rdagent`.",
        )
    folders = [Path(folder) for folder in package.submodule_search_locations]
    # A namespace package: an uninstalled release leaves folders that Python finds first and has nothing to take from.
    return HostSource(
        next((folder for folder in folders if (folder / _RUNNER_FILE).is_file()), folders[0]), _version()
    )


def find_host_if_any() -> HostSource | None:
    """The RD-Agent that this Python would import; None where there is none."""
    try:
        return find_host()
    except HostError:
        return None


def bare_name(node: ast.AST) -> str:
    """``Name`` in ``Name``, ``module.Name``, ``Name[…]`` and ``Name(…)``."""
    if isinstance(node, ast.Call):
        return bare_name(node.func)
    if isinstance(node, ast.Subscript):
        return bare_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("rdagent")
    except importlib.metadata.PackageNotFoundError:
        return ""
