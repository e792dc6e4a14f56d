"""``rdagent-sota patch``: the plugin as a patch of a checkout's source."""

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

if TYPE_CHECKING:
    from rdagent_sota_patch.patching.source import SourceReport

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
    "applies": "the patch for RD-Agent {release} applies",
    "applied": "the patch for RD-Agent {release} is applied",
    "half-applied": "the patch for RD-Agent {release} is in some of its files only",
    "changed": "changed: the patch for RD-Agent {release} does not fit",
    "other-release": "no patch fits",
}


@patch.command()
@reports_errors
def show(source: SourceOption, as_json: JsonOption = False) -> None:
    """Print the patch for this source; the output can be piped into `git apply`."""
    report = _inspect(source)
    if as_json:
        print_json(_to_plain(report) | {"patch": report.patch.text if report.patch else None})
    else:
        err.print(clean(_verdict(report)), style="dim", markup=False, soft_wrap=True)
        if report.patch is not None:
            typer.echo(report.patch.text, nl=False)
    _finish(report, as_json)


@patch.command()
@reports_errors
def check(source: SourceOption, as_json: JsonOption = False) -> None:
    """Say whether the patch applies, is applied, or does not fit; changes nothing."""
    report = _inspect(source)
    if as_json:
        print_json(_to_plain(report))
    else:
        out.print(clean(_verdict(report)), markup=False, soft_wrap=True)
    _finish(report, as_json)


@patch.command()
@reports_errors
def apply(source: SourceOption, as_json: JsonOption = False) -> None:
    """Put the patch into this source: all of its files, or none."""
    from rdagent_sota_patch.patching.application import apply_patch

    _tell_changes(source, apply_patch(_inspect(source)), as_json)


@patch.command()
@reports_errors
def revert(source: SourceOption, as_json: JsonOption = False) -> None:
    """Take the patch out, so that the files are byte for byte what they were."""
    from rdagent_sota_patch.patching.application import revert_patch

    _tell_changes(source, revert_patch(_inspect(source)), as_json)


def _inspect(source: Path) -> SourceReport:
    from rdagent_sota_patch.patching.releases import shipped_patches
    from rdagent_sota_patch.patching.source import inspect_source

    return inspect_source(source, shipped_patches())


def _tell_changes(source: Path, changed: tuple[Path, ...], as_json: bool) -> None:
    report = _inspect(source)
    if as_json:
        print_json(_to_plain(report) | {"written": [str(path) for path in changed]})
        return
    for path in changed:
        out.print(f"written {clean(path)}", style="dim", markup=False, soft_wrap=True)
    note = "" if changed else "; nothing to do"
    out.print(f"{clean(_verdict(report))}{note}", markup=False, soft_wrap=True)


def _verdict(report: SourceReport) -> str:
    return f"{report.root}: {_VERDICTS[report.state.value].format(release=report.release)}"


def _finish(report: SourceReport, as_json: bool) -> None:
    if not as_json:
        print_problems(report.problems)
    if report.problems:
        raise typer.Exit(EXIT_PROBLEM)


def _to_plain(report: SourceReport) -> dict[str, Any]:
    return {
        "source": str(report.root),
        "release": report.release,
        "version": report.version,
        "state": report.state.value,
        "files": [
            {"path": str(file.patch.path), "state": file.state.value, "reason": file.reason}
            for file in report.files
        ],
        "problems": [problem_to_plain(problem) for problem in report.problems],
    }
