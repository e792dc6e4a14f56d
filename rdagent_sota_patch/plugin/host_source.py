"""RD-Agent's source, looked at as text: importing it takes seconds, and says less of what it will do."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_patch.errors import HostError

CONFIG_NAME = "conf_sota_factors_model.yaml"
"""RD-Agent's template for models on mined factors."""

MODEL_TEMPLATE = f"scenarios/qlib/experiment/model_template/{CONFIG_NAME}"

_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_BUILD = re.compile(r"dev|\+")


@dataclass(frozen=True, slots=True)
class HostSource:
    """The files of one RD-Agent.

    Attributes:
        folder: The package's folder, ``…/rdagent``.
        version: As its distribution says; empty where it is run from a folder and not installed.
    """

    folder: Path
    version: str

    def __str__(self) -> str:
        return f"RD-Agent {self.version or 'of unknown version'} ({self.folder})"

    @property
    def release(self) -> tuple[int, int, int] | None:
        """The release's numbers; None for a build from a checkout, whose number may be anything.

        (RD-Agent takes its version from git tags, which a shallow clone does not have.)
        """
        numbers = _NUMBERS.match(self.version)
        if numbers is None or _BUILD.search(self.version):
            return None
        major, minor, patch = numbers.groups("0")
        return int(major), int(minor), int(patch)

    def read(self, file: str) -> str:
        """Text of ``file``, a path below the package; empty if it is not there."""
        path = self.folder / file
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def parse(self, file: str) -> ast.Module:
        """Syntax tree of ``file``; an empty one if it is not there or not Python of this version."""
        try:
            return ast.parse(self.read(file))
        except SyntaxError:
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
    return HostSource(Path(next(iter(package.submodule_search_locations))), _version())


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("rdagent")
    except importlib.metadata.PackageNotFoundError:
        return ""
