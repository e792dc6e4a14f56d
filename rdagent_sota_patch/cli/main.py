"""The application and its commands; each command's work is imported when it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from dotenv import load_dotenv

from rdagent_sota_patch import __version__
from rdagent_sota_patch.cli.output import JsonOption, reports_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="SOTA factors of one RD-Agent run inside the next.",
)

LogArgument = Annotated[
    Path, typer.Argument(help="A run's log folder, its __session__, one snapshot file, or 'latest'.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rdagent-sota {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """SOTA factors of one RD-Agent run inside the next."""
    # As `rdagent` itself does (rdagent/app/cli.py), so that both see the same dates, folders and keys.
    load_dotenv(".env")


@app.command()
@reports_errors
def doctor(as_json: JsonOption = False) -> None:
    """Say what a model run started here and now would load, and whether it will work."""
    from rdagent_sota_patch.cli.doctor import run_doctor

    run_doctor(as_json)


@app.command()
@reports_errors
def inspect(log: LogArgument, as_json: JsonOption = False) -> None:
    """Show a run's loops: kind, accepted or not, factors, metrics, workspace; the SOTA marked."""
    from rdagent_sota_patch.cli.inspect import run_inspect

    run_inspect(log, as_json)


@app.command()
@reports_errors
def save(
    log: LogArgument,
    target: Annotated[Path, typer.Option("--out", help="The factor file to write; replaced if it exists.")],
    as_json: JsonOption = False,
) -> None:
    """Write the accepted factors of a run to a factor file, with formulas, code and metrics."""
    from rdagent_sota_patch.cli.save import run_save

    run_save(log, target, as_json)


@app.command()
@reports_errors
def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where to work: new, empty or an earlier demo's.")
    ] = Path("rdagent-sota-demo"),
    as_json: JsonOption = False,
) -> None:
    """Run the whole job offline on a synthetic market: factor stage, then the model stage three ways."""
    from rdagent_sota_patch.cli.demo import run_demo_command

    run_demo_command(folder, as_json)
