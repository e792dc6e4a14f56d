"""The environment as RD-Agent sees it: where ``.env`` comes in, and what a run has fixed for its child processes.

RD-Agent's command line loads ``.env`` from the current folder (``rdagent/app/cli.py``). The releases leave what is set
in the environment as it is; a checkout may let the file win. Which of the two is here is read from the source as text.
"""

from __future__ import annotations

import ast
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import SettingsError
from rdagent_sota_patch.host_source import HostSource, bare_name, find_host_if_any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

ENV_FILE = Path(".env")

FIXED = "RDAGENT_SOTA_SETTINGS"
"""Settings that a run has decided on for its child processes, as JSON: neither environment nor ``.env`` change them."""

_LOADING = ("app/cli.py", "app/qlib_rd_loop")
"""Where RD-Agent loads ``.env``: its command line, and the modules of the commands that it imports."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A variable that the environment and ``.env`` give different values.

    Attributes:
        name: In upper case.
        file_wins: Whether the file's value is the one in force.
    """

    name: str
    environment: str
    file: str
    file_wins: bool


def file_wins() -> bool:
    """Whether ``.env`` beats the environment in the RD-Agent of this Python; False where there is none."""
    host = find_host_if_any()
    return host is not None and find_override(host) is not None


@functools.cache
def find_override(host: HostSource) -> str | None:
    """``file:line`` where ``host`` loads ``.env`` over the environment; None if it does not."""
    command_line, folder = _LOADING
    for file in (command_line, *host.modules(folder)):
        for node in ast.walk(host.parse(file)):
            if isinstance(node, ast.Call) and bare_name(node.func) == "load_dotenv" and _overrides(node):
                return f"{file}:{node.lineno}"
    return None


def load_env_file(path: Path = ENV_FILE) -> tuple[Difference, ...]:
    """Put ``.env`` into this process's environment as RD-Agent would; returns where the two differed before.

    Raises:
        UnicodeDecodeError: The file is not UTF-8.
    """
    from dotenv import load_dotenv

    found = find_differences(path)
    load_dotenv(path, override=file_wins())
    return found


def find_differences(path: Path = ENV_FILE) -> tuple[Difference, ...]:
    """The variables to which the environment and ``.env`` give different values, in the file's order."""
    wins = file_wins()
    environment = {name.upper(): value for name, value in os.environ.items()}
    return tuple(
        Difference(name.upper(), environment[name.upper()], value, wins)
        for name, value in read_env_file(path).items()
        if value is not None and environment.get(name.upper(), value) != value
    )


def fix_settings(environ: MutableMapping[str, str], **values: Any) -> None:
    """Have the settings of child processes that are given ``environ`` be ``values``, beside what was fixed before."""
    environ[FIXED] = json.dumps({**fixed_settings(environ), **values})


def fixed_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """What `fix_settings` put into ``environ``.

    Raises:
        SettingsError: The variable holds something else.
    """
    try:
        values = json.loads(environ.get(FIXED) or "{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise SettingsError(
            "bad-setting",
            f"{FIXED} is {environ[FIXED]!r}, which is not what a run sets it to.",
            "Unset it; it is made for child processes alone.",
        )
    return values


def _overrides(call: ast.Call) -> bool:
    # load_dotenv(dotenv_path, stream, verbose, override, …)
    given: Iterable[ast.expr] = [
        *call.args[3:4],
        *(keyword.value for keyword in call.keywords if keyword.arg == "override"),
    ]
    return any(isinstance(value, ast.Constant) and bool(value.value) for value in given)


def read_env_file(path: Path = ENV_FILE) -> Mapping[str, str | None]:
    """The variables in ``.env``; none where it is not there."""
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return dotenv_values(path, encoding="utf-8")
