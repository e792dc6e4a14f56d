"""The application and its commands; each command's work is imported when it is run."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rdagent_sota_patch import __version__
from rdagent_sota_patch.cli import api_commands, bundle_commands
from rdagent_sota_patch.cli.bundle_commands import QLIB_DIR, KeyOption, QlibOption, TrustOption
from rdagent_sota_patch.cli.factor_library import library
from rdagent_sota_patch.cli.interruption import watch_for_interrupt
from rdagent_sota_patch.cli.output import DataOption, JsonOption, reports_errors
from rdagent_sota_patch.cli.patch import patch
from rdagent_sota_patch.environment import load_env_file
from rdagent_sota_patch.errors import SettingsError

app = typer.Typer(
    no_args_is_help=True,
    # `-h` on every command: Click hands it down.
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="SOTA factors of one RD-Agent run inside the next.",
)

app.add_typer(patch, name="patch")
app.add_typer(library, name="library")
for command in (
    bundle_commands.export,
    bundle_commands.verify,
    bundle_commands.audit,
    bundle_commands.predict,
    bundle_commands.ablate,
    api_commands.serve,
    api_commands.sync,
):
    app.command()(command)

LogArgument = Annotated[
    Path, typer.Argument(help="A run's log folder, its __session__, one snapshot file, or 'latest'.")
]

LogsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOG...",
        help="A run's log folder, its __session__, one snapshot file, or 'latest'; one or more.",
    ),
]


class RunSort(str, Enum):
    """The columns of ``runs``; a test holds them to those of the results API."""

    ENDED = "ended"
    NAME = "name"
    KIND = "kind"
    LOOPS = "loops"
    ACCEPTED = "accepted"
    IC = "ic"
    RETURN = "return"
    FACTORS = "factors"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rdagent-sota {__version__}")
        raise typer.Exit


@app.callback()
@reports_errors
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """SOTA factors of one RD-Agent run inside the next."""
    context.call_on_close(watch_for_interrupt(context.invoked_subcommand or ""))
    # As `rdagent` itself does (rdagent/app/cli.py), so that both see the same dates, folders and keys.
    try:
        context.obj = load_env_file()
    except UnicodeDecodeError as error:
        raise SettingsError(
            "bad-setting",
            f"{Path('.env').absolute()} is not UTF-8: {error}.",
            "Save it as UTF-8. Windows PowerShell 5 writes UTF-16 with `>`; `rdagent` cannot read that either.",
        ) from None


@app.command()
@reports_errors
def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Say what a model run started here and now would load, and whether it will work."""
    from rdagent_sota_patch.cli.doctor import run_doctor

    run_doctor(as_json, context.obj)


@app.command()
@reports_errors
def inspect(
    log: LogArgument,
    metrics: Annotated[
        bool,
        typer.Option(
            "--metrics",
            help="Compute figures of each SOTA factor, too: IC, decay, turnover, returns by fifth.",
        ),
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run's loops: kind, accepted or not, factors, metrics, workspace; the SOTA marked."""
    from rdagent_sota_patch.cli.inspect import run_inspect

    if data is not None and not metrics:
        raise typer.BadParameter("It is for --metrics.", param_hint="--data")
    run_inspect(log, as_json, metrics=metrics, data=data)


@app.command()
@reports_errors
def evidence(
    logs: Annotated[
        list[Path],
        typer.Argument(
            help="A run's log, the winner's last; the run that its factors come from is found by itself. With "
            "--unseal a bundle.",
            metavar="LOG…|BUNDLE",
        ),
    ],
    *,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page to look at.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=2,
            help="Train the winner and the SOTA before it again with so many seeds; less where it is clear sooner.",
        ),
    ] = None,
    opens: Annotated[
        bool,
        typer.Option("--unseal", help="Score the days that the bundle's run was sealed from, and record it."),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="With --unseal, what factor code reads; FACTOR_CoSTEER_DATA_FOLDER if not given."
        ),
    ] = None,
    qlib_dir: QlibOption = QLIB_DIR,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger", help="Where openings are recorded; ~/.rdagent/sota_unsealed.jsonl if not given."
        ),
    ] = None,
    trust: TrustOption = False,
    key_file: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how sure a run's winner is: all trials counted, chance and overfitting weighed; or open its sealed days."""
    for name, given, wanted in (
        ("--html", page is not None, not opens),
        ("--seeds", seeds is not None, not opens),
        ("--data", data is not None, opens),
        ("--qlib-dir", qlib_dir != QLIB_DIR, opens),
        ("--ledger", ledger is not None, opens),
        ("--key-file", key_file is not None, opens),
        ("--trust", trust, opens or seeds is not None),
    ):
        if given and not wanted:
            which = "not for --unseal" if opens else f"for --unseal{' and --seeds' * (name == '--trust')}"
            raise typer.BadParameter(f"It is {which}.", param_hint=name)
    if opens:
        from rdagent_sota_patch.cli.unseal import run_unseal
        from rdagent_sota_patch.scoring.market_days import MarketFiles

        market = MarketFiles(data, qlib_dir.expanduser())
        run_unseal(logs, market, ledger, trust=trust, key_file=key_file, as_json=as_json)
        return
    from rdagent_sota_patch.cli.evidence import run_evidence

    run_evidence(logs, page, as_json, seeds=seeds, trust=trust)


@app.command()
@reports_errors
def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="The folder that holds the runs' log folders; beside LOG_TRACE_PATH, else ./log, if not given.",
        ),
    ] = None,
    *,
    sort: Annotated[
        RunSort, typer.Option("--sort", help="The column: the newest, the most or the best come first.")
    ] = RunSort.ENDED,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="How many of the newest runs to read; 0 for all.")
    ] = 2000,
    as_json: JsonOption = False,
) -> None:
    """List the runs in a folder: kind, loops, accepted, best IC and return, SOTA; one that cannot be read says why."""
    from rdagent_sota_patch.cli.runs import run_runs

    run_runs(folder, as_json, order=sort.value, reverse=reverse, limit=limit)


@app.command()
@reports_errors
def save(
    logs: LogsArgument,
    target: Annotated[Path, typer.Option("--out", help="The factor file to write; replaced if it exists.")],
    as_json: JsonOption = False,
) -> None:
    """Write the accepted factors of a run, or of several as one set, to a factor file, with formulas and code."""
    from rdagent_sota_patch.cli.save import run_save

    run_save(logs, target, as_json)


@app.command()
@reports_errors
def run(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="With --resume: the folder of the run to go on with; else the newest unfinished."
        ),
    ] = None,
    *,
    factor_loops: Annotated[
        int | None, typer.Option("--factor-loops", min=1, help="Loops of fin_factor.")
    ] = None,
    model_loops: Annotated[
        int | None, typer.Option("--model-loops", min=1, help="Loops of fin_model.")
    ] = None,
    alpha: Annotated[
        bool | None,
        typer.Option(
            "--alpha/--no-alpha",
            help="Alpha features beside the mined factors, or not; USE_ALPHA_FACTORS if not given.",
        ),
    ] = None,
    factor_log: Annotated[
        Path | None,
        typer.Option(
            "--factor-log", help="A finished factor run's log, or 'latest', in place of the factor stage."
        ),
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", help="Time for the factor stage, such as 90m or 8h.")
    ] = None,
    log_root: Annotated[
        Path | None,
        typer.Option("--log-root", help="Where the logs and the run's folder go; log/ if not given."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run both stages, the second on exactly the first's log, with a table of the models at the end."""
    from rdagent_sota_patch.cli.run import RunOptions, run_run
    from rdagent_sota_patch.stages.state import Wishes

    wishes = Wishes(factor_loops, model_loops, alpha, factor_log, duration)
    run_run(RunOptions(folder, resume, log_root, wishes), as_json)


@app.command()
@reports_errors
def demo(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Where to work: new or empty; rdagent-sota-demo, or the next that is free, if not given.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the logs of an earlier demo there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole job offline on a synthetic market, in some minutes: the factor stage, then the model three ways."""
    from rdagent_sota_patch.cli.demo import run_demo_command

    run_demo_command(folder, as_json, force=force)
