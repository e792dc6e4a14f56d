"""How commands speak: rich for people on stdout, one JSON object with ``--json``, errors on stderr, exit codes."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console, ConsoleDimensions
from rich.text import Text

from rdagent_sota_patch.cli.interruption import EXIT_CODE, tell_interruption
from rdagent_sota_patch.errors import Problem, SotaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

P = ParamSpec("P")
R = TypeVar("R")

EXIT_PROBLEM = 1
"""A problem was found. 0 is well; 2 is bad usage, given by Typer."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Market data (daily_pv.h5, or its folder) for the factors' figures; what FACTOR_CoSTEER_DATA_FOLDER names "
        "if not given, and where there is none, the label of the back-test.",
    ),
]

_FACTOR_DATA = "git_ignore_folder/factor_implementation_source_data"
"""RD-Agent's own default of ``FACTOR_CoSTEER_DATA_FOLDER`` (``components/coder/factor_coder/config.py``)."""

_AS_WIDE_AS_NEEDED = 10_000
"""Columns, where no terminal bounds a line: a table takes what it needs of them."""

_NOT_FOR_A_TERMINAL = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")
"""Controls, marks of direction and lone surrogates, which JSON may have as they are and a terminal may not."""


class _Output(Console):
    """A console that cuts no word where its output goes into a pipe or a file; ``COLUMNS`` sets another width."""

    @property  # type: ignore[misc] # nothing here sets it
    def size(self) -> ConsoleDimensions:
        if self.is_terminal or os.environ.get("COLUMNS", "").isdigit():
            return super().size
        return ConsoleDimensions(_AS_WIDE_AS_NEEDED, 25)


out = _Output()
err = Console(stderr=True)


def clean(text: object) -> str:
    """Text from a log or a path as it may go to a terminal: no control characters, no lone surrogates."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(text))


def count(number: int, noun: str) -> str:
    """So many of them in words: ``1 factor``, ``1,200 factors``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def find_market_data() -> Path | None:
    """The data folder that this project's RD-Agent gives to factor code; None where it has no ``daily_pv.h5``."""
    folder = os.environ.get("FACTOR_CoSTEER_DATA_FOLDER")  # noqa: SIM112 - so RD-Agent spells it
    path = Path(folder or _FACTOR_DATA)
    return path if (path / "daily_pv.h5").is_file() else None


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a ``SotaError`` into its text on stderr (with ``--json``, an object on stdout) and exit code 1.

    Ctrl-C likewise, with what the command leaves behind and exit code 130.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SotaError as error:
            if kwargs.get("as_json"):
                print_json({"problems": [problem_to_plain(problem) for problem in error.problems]})
            else:
                print_problems(error.problems)
            raise typer.Exit(EXIT_PROBLEM) from None
        except KeyboardInterrupt:
            problem = tell_interruption(command.__name__.replace("_", " "))
            if kwargs.get("as_json"):
                print_json({"problems": [problem_to_plain(problem)]})
            else:
                print_problems([problem], style="yellow", mark="!")
            raise typer.Exit(EXIT_CODE) from None

    return run


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON object in UTF-8, whatever the locale; NaN and infinities, which JSON lacks, become null."""
    text = json.dumps(_finite(document), ensure_ascii=False, indent=2, allow_nan=False)
    text = _NOT_FOR_A_TERMINAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.flush()
    sys.stdout.buffer.write(f"{text}\n".encode())
    sys.stdout.buffer.flush()


def print_problems(problems: Iterable[Problem], *, style: str = "red", mark: str = "✗") -> None:
    """Print problems on stderr, each with its slug and what to do next."""
    for problem in problems:
        lines = "\n".join(map(clean, problem.message.splitlines()))
        err.print(Text.assemble((f"{mark} ", style), lines, (f"  [{problem.slug}]", "dim")), soft_wrap=True)
        if problem.hint:
            err.print(Text(f"  → {clean(problem.hint)}", style="cyan"), soft_wrap=True)


def tell_of_open_ways() -> None:
    """Before untrusted code is run: say so where this system cannot keep it in."""
    from rdagent_sota_patch.sandbox.probe import what_confines

    notice = what_confines().notice()
    if notice is not None:
        print_problems([notice], style="yellow", mark="!")


def problem_to_plain(problem: Problem) -> dict[str, str]:
    """A problem as JSON has it."""
    return {"slug": problem.slug, "message": problem.message, "hint": problem.hint}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
