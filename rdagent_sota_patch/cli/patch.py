"""``rdagent-sota patch``: the plugin as a marked block in a checkout's source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdagent_sota_patch.cli.output import (
    EXIT_PROBLEM,
    JsonOption,
    clean,
    err,
    out,
    print_json,
    print_problems,
    problem_to_plain,
    reports_errors,
)
from rdagent_sota_patch.errors import HostError, Problem

if TYPE_CHECKING:
    from rdagent_sota_patch.patching.source import Source

patch = typer.Typer(
    no_args_is_help=True, help="Hook the plugin into a checkout of RD-Agent, by a source patch."
)

SourceOption = Annotated[
    Path,
    typer.Option(
        "--source",
        help="A checkout of RD-Agent, a folder of installed packages, or the folder rdagent itself.",
    ),
]

_VERDICTS = {
    "unpatched": "not patched; the patch applies",
    "patched": "patched",
    "half-patched": "the patch is in one of its two files only",
    "unusable": "the patch can be neither put in nor taken out",
}
_REFUSED = "not as the plugin needs RD-Agent, so that a patch would be of no use"


@patch.command()
@reports_errors
def show(source: SourceOption, as_json: JsonOption = False) -> None:
    """Print the patch for this source; the output can be piped into `git apply`."""
    found = _inspect(source)
    problems = _problems(found)
    diff = found.diff() if not problems else b""
    if as_json:
        print_json(_to_plain(found, problems) | {"patch": diff.decode("utf-8", errors="replace") or None})
    else:
        err.print(clean(_verdict(found, problems)), style="dim", markup=False, soft_wrap=True)
        typer.echo(diff, nl=False)
    _finish(problems, as_json)


@patch.command()
@reports_errors
def check(source: SourceOption, as_json: JsonOption = False) -> None:
    """Say whether the source is patched or can be, and whether the plugin will work there; changes nothing."""
    found = _inspect(source)
    problems = _problems(found)
    if as_json:
        print_json(_to_plain(found, problems))
    else:
        out.print(clean(_verdict(found, problems)), markup=False, soft_wrap=True)
        print_problems(found.notices, style="yellow", mark="!")
    _finish(problems, as_json)


@patch.command()
@reports_errors
def apply(source: SourceOption, as_json: JsonOption = False) -> None:
    """Put the patch into this source: into both of its files, or none."""
    from rdagent_sota_patch.patching.source import apply_patch

    found = _inspect(source)
    if problems := _host_problems(found.root):
        raise HostError.of(problems)
    _tell_changes(source, apply_patch(found), as_json)


@patch.command()
@reports_errors
def revert(source: SourceOption, as_json: JsonOption = False) -> None:
    """Take the patch out, so that the files are byte for byte what they were."""
    from rdagent_sota_patch.patching.source import revert_patch

    _tell_changes(source, revert_patch(_inspect(source)), as_json)


def _inspect(source: Path) -> Source:
    from rdagent_sota_patch.patching.source import inspect_source

    return inspect_source(source)


def _problems(found: Source) -> tuple[Problem, ...]:
    return (*found.problems, *_host_problems(found.root))


def _host_problems(source: Path) -> tuple[Problem, ...]:
    """Why the plugin would not work in this source: what ``doctor`` and a run say of it."""
    from rdagent_sota_patch.plugin.host_check import host_problems

    return host_problems(source)


def _tell_changes(source: Path, changed: tuple[Path, ...], as_json: bool) -> None:
    found = _inspect(source)
    if as_json:
        print_json(_to_plain(found, found.problems) | {"written": [str(path) for path in changed]})
        return
    for path in changed:
        out.print(f"written {clean(path)}", style="dim", markup=False, soft_wrap=True)
    note = "" if changed else "; nothing to do"
    out.print(f"{clean(_verdict(found, found.problems))}{note}", markup=False, soft_wrap=True)


def _verdict(found: Source, problems: tuple[Problem, ...]) -> str:
    refused = len(problems) > len(found.problems)
    return f"{found.root}: {_REFUSED if refused else _VERDICTS[found.state.value]}"


def _finish(problems: tuple[Problem, ...], as_json: bool) -> None:
    if not as_json:
        print_problems(problems)
    if problems:
        raise typer.Exit(EXIT_PROBLEM)


def _to_plain(found: Source, problems: tuple[Problem, ...]) -> dict[str, Any]:
    return {
        "source": str(found.root),
        "state": found.state.value,
        "files": [
            {"path": file.name, "state": file.text.state.value if file.text else "missing"}
            for file in found.files
        ],
        "problems": [problem_to_plain(problem) for problem in problems],
        "notices": [problem_to_plain(notice) for notice in found.notices],
    }
