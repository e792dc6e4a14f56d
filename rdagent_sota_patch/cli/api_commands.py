"""The commands around the results API: what they take. Each one's work is imported when it is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rdagent_sota_patch.cli.bundle_commands import LayoutChoice, LayoutOption, StageChoice
from rdagent_sota_patch.cli.output import DataOption, JsonOption, reports_errors

TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="A file with the token: one line of 16 characters or more."),
]


@reports_errors
def serve(
    *,
    log_root: Annotated[
        Path | None,
        typer.Option(
            "--log-root",
            help="The folder that holds the runs' log folders; beside LOG_TRACE_PATH, else ./log, if not given.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; any but the loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for one that is free.")] = 8900,
    token_file: TokenOption = None,
    qlib_dir: Annotated[
        Path | None,
        typer.Option(
            "--qlib-dir",
            help="Qlib's data for a bundle's evidence; where the training had it if not given.",
        ),
    ] = None,
    data: DataOption = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir", help="Where bundles are kept; rdagent-sota/api in the user's cache if not given."
        ),
    ] = None,
    cache_gb: Annotated[
        float,
        typer.Option(
            "--cache-gb", min=0, help="How much of them, in GiB; those not used for longest go first."
        ),
    ] = 20.0,
    origins: Annotated[
        list[str] | None,
        typer.Option(
            "--cors",
            help="A website whose scripts may read the answers, such as https://desk.example; repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve what runs produced over HTTP, read-only: a page for people, an API for programs."""
    from rdagent_sota_patch.cli.serve import ServeOptions, run_serve
    from rdagent_sota_patch.sessions.logs import log_root as find_log_root

    options = ServeOptions(
        log_root=log_root or find_log_root(os.environ),
        host=host,
        port=port,
        token_file=token_file,
        qlib_dir=None if qlib_dir is None else qlib_dir.expanduser(),
        data=data,
        cache=cache,
        cache_gb=cache_gb,
        origins=tuple(origins or ()),
    )
    run_serve(options, as_json)


@reports_errors
def sync(
    *,
    api: Annotated[
        str, typer.Option("--api", metavar="URL", help="Of the results API, such as http://127.0.0.1:8900.")
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task", metavar="ID", help="The run's id, or 'latest': the newest that accepted some."
        ),
    ],
    target: Annotated[
        Path, typer.Option("--out", help="The folder to make; an earlier sync there is brought up to date.")
    ],
    stage: Annotated[
        StageChoice, typer.Option(help="The last accepted factors' model, or the last accepted model.")
    ] = StageChoice.FACTOR,
    layout: LayoutOption = LayoutChoice.BUNDLE,
    token_file: TokenOption = None,
    with_replay: Annotated[
        bool, typer.Option("--with-replay", help="Fetch the evidence, too, which is back-test data.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a run's model, factors and input order from a results API, every byte checked against its hash."""
    from rdagent_sota_patch.cli.serve import require_api

    if stage is StageChoice.MODEL and layout is not LayoutChoice.BUNDLE:
        raise typer.BadParameter(
            "it is of the factor stage; leave it out with --stage model", param_hint="--layout"
        )
    require_api()
    from rdagent_sota_patch.cli.sync import SyncRequest, run_sync
    from rdagent_sota_patch.sync.syncing import SyncOptions

    options = SyncOptions(task, target, layout.value, with_replay, stage=stage.value)
    run_sync(SyncRequest(api, token_file, options), as_json)
