"""The commands around bundles: what they take. Each one's work is imported when it is run."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rdagent_sota_patch.cli.output import JsonOption, find_market_data, reports_errors
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.lookahead import LEAST_CUTS, THOROUGH_CUTS
from rdagent_sota_patch.sandbox.limits import Limits

_DEFAULTS = Limits()

BundleArgument = Annotated[Path, typer.Argument(help="The bundle's folder.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="What factor code reads: its data folder, or the daily_pv.h5 alone."),
]
QlibOption = Annotated[
    Path,
    typer.Option("--qlib-dir", help="Qlib's data: calendars, instruments, features."),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key-file", help="The key, at least 32 bytes, that the bundle is signed with."),
]
ThoroughOption = Annotated[
    bool,
    typer.Option(
        "--thorough",
        help=f"Audit with --cuts {THOROUGH_CUTS}: finds rarer looks ahead, and takes some five times as long.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run its code, though this system may not keep it in, and unpickle weights that have no other form.",
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds for each factor's code.", show_default=True)
]
MemoryOption = Annotated[int, typer.Option("--memory", min=64, help="MiB of memory for each factor's code.")]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Factors at a time; as many as there are cores if not given."),
]

QLIB_DIR = Path("~/.qlib/qlib_data/cn_data")
"""Where RD-Agent's templates look (``provider_uri``)."""


class LayoutChoice(str, Enum):
    """How a bundle's folder is laid out."""

    BUNDLE = "bundle"
    NOTES = "notes"


LayoutOption = Annotated[
    LayoutChoice,
    typer.Option(
        "--layout",
        help="With 'notes', the folder also holds what readers of RD-Agent forks' exports look for.",
    ),
]


class StageChoice(str, Enum):
    """Which model of a log."""

    FACTOR = "factor"
    MODEL = "model"


@reports_errors
def export(
    log: Annotated[
        Path, typer.Argument(help="A run's log folder, its __session__, one snapshot file, or 'latest'.")
    ],
    target: Annotated[Path, typer.Option("--out", help="The bundle's folder, which must not exist yet.")],
    *,
    stage: Annotated[
        StageChoice | None,
        typer.Option(
            "--stage",
            help="The model of the last accepted factor experiment's back-test, or of the last accepted model "
            "experiment; by the kind of log if not given.",
        ),
    ] = None,
    loop: Annotated[
        int | None,
        typer.Option("--loop", min=0, help="The accepted experiment of this loop, not the last one."),
    ] = None,
    best: Annotated[
        str | None,
        typer.Option(
            "--best",
            metavar="METRIC",
            help="The accepted experiment that is the best by IC, ICIR, 'Rank IC', 'Rank ICIR', annualized_return, "
            "information_ratio or max_drawdown.",
        ),
    ] = None,
    layout: LayoutOption = LayoutChoice.BUNDLE,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an old bundle, once the new one is whole.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay/--no-replay", help="Ship the evidence (back-test data), or not.")
    ] = True,
    factors_only: Annotated[
        bool, typer.Option("--factors-only", help="The factors alone, without a model.")
    ] = False,
    qlib_dir: Annotated[
        Path | None,
        typer.Option(
            "--qlib-dir", help="Qlib's data for the evidence; where the training had it if not given."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Audit the factors, too, on this data folder or daily_pv.h5. Without it, an earlier audit's verdicts "
            "on what FACTOR_CoSTEER_DATA_FOLDER names are taken over.",
        ),
    ] = None,
    thorough: ThoroughOption = False,
    sign: Annotated[bool, typer.Option("--sign", help="Sign the bundle with the key of --key-file.")] = False,
    key_file: KeyOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write what won as a bundle: weights, factors, the order of the inputs, and the evidence."""
    from rdagent_sota_patch.cli.export import ExportFiles, run_export
    from rdagent_sota_patch.export.choice import Pick
    from rdagent_sota_patch.export.export_run import ExportOptions

    if loop is not None and best is not None:
        raise typer.BadParameter("--loop and --best each name one; give one of them.", param_hint="--best")
    options = ExportOptions(
        pick=Pick(loop, best),
        stage=None if stage is None else stage.value,
        layout=layout.value,
        force=force,
        replay=replay,
        factors_only=factors_only,
        trust=trust,
        qlib_dir=None if qlib_dir is None else qlib_dir.expanduser(),
    )
    run_export(ExportFiles(log, target, data, key_file, thorough=thorough), options, sign, as_json)


@reports_errors
def verify(
    bundle: BundleArgument,
    *,
    data: DataOption = None,
    qlib_dir: Annotated[
        Path | None,
        typer.Option("--qlib-dir", help=f"With it or --data: Qlib's data; {QLIB_DIR} if not given."),
    ] = None,
    trust: TrustOption = False,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _DEFAULTS.seconds,
    memory: MemoryOption = _DEFAULTS.memory_mb,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every hash, then replay the back-test's scores: from the bundle, and with --data from market data."""
    from rdagent_sota_patch.cli.verify import VerifyOptions, run_verify
    from rdagent_sota_patch.scoring.market_days import MarketFiles

    market = None
    if data is not None or qlib_dir is not None:
        market = MarketFiles(data or find_market_data(), (qlib_dir or QLIB_DIR).expanduser())
    limits = Limits(seconds=timeout, memory_mb=memory)
    run_verify(bundle, VerifyOptions(market, trust, key_file, limits, jobs), as_json)


@reports_errors
def predict(
    bundle: BundleArgument,
    *,
    day: Annotated[
        str,
        typer.Option(
            "--date",
            metavar="DAY|latest|A..B",
            help="The trading day whose data the scores are made of: 2026-11-20, 20261120, 'latest', or every one of a "
            "range such as 2026-11-02..latest.",
        ),
    ],
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="How many of the best stocks; all if not given.")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The scores: a .csv or .parquet file; of a range with a column date, or a folder for a CSV of each "
            "day.",
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option("--names", help="A CSV with the columns instrument, name and, if wanted, industry."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="What factor code reads: a folder, or daily_pv.h5; FACTOR_CoSTEER_DATA_FOLDER if not given.",
        ),
    ] = None,
    qlib_dir: QlibOption = QLIB_DIR,
    explain: Annotated[bool, typer.Option("--explain", help="Give the feature values, too.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write a page to look at, of the last day; with the change in rank since the day before, which is "
            "scored as well.",
        ),
    ] = None,
    allow_lookahead: Annotated[
        bool,
        typer.Option(
            "--allow-lookahead", help="Go on with factors that see the future, or that could not be judged."
        ),
    ] = False,
    trust: TrustOption = False,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _DEFAULTS.seconds,
    memory: MemoryOption = _DEFAULTS.memory_mb,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score the stocks of a day, or of each day of a range, with a bundle."""
    from rdagent_sota_patch.cli.predict import PredictFiles, run_predict
    from rdagent_sota_patch.scoring.market_days import MarketFiles
    from rdagent_sota_patch.scoring.prediction import PredictOptions
    from rdagent_sota_patch.scoring.requested_day import parse_days

    try:
        days = parse_days(day)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--date") from None
    options = partial(
        PredictOptions,
        top=top,
        explain=explain,
        allow_lookahead=allow_lookahead,
        trust=trust,
        limits=Limits(seconds=timeout, memory_mb=memory),
    )
    if jobs is not None:
        options = partial(options, jobs=jobs)
    market = MarketFiles(data or find_market_data(), qlib_dir.expanduser())
    run_predict(PredictFiles(bundle, market, target, page, key_file, names), days, options, as_json)


@reports_errors
def audit(
    target: Annotated[
        Path,
        typer.Argument(help="A run's log folder or 'latest', or a bundle's folder.", metavar="LOG|BUNDLE"),
    ],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="What factor code reads, in full length: a folder, or daily_pv.h5; FACTOR_CoSTEER_DATA_FOLDER if not "
            "given.",
        ),
    ] = None,
    verdicts: Annotated[
        Path | None, typer.Option("--out", help="Write the verdicts to this file, too.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option("--picture", help="Folder for a picture (SVG) of each factor that sees the future."),
    ] = None,
    cuts: Annotated[
        int,
        typer.Option(
            "--cuts",
            min=LEAST_CUTS,
            help="On how many days spread over the time to cut the data off; the other cuts grow with it.",
        ),
    ] = LEAST_CUTS,
    thorough: ThoroughOption = False,
    timeout: TimeoutOption = _DEFAULTS.seconds,
    memory: MemoryOption = _DEFAULTS.memory_mb,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, help="Factors at a time; half as many as there are cores if not given."
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run factor code where this system cannot keep it in, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which mined factors see the future, and how much history each needs."""
    from rdagent_sota_patch.cli.audit import AuditRequest, run_audit
    from rdagent_sota_patch.lookahead.auditing import AuditOptions

    limits = Limits(seconds=timeout, memory_mb=memory)
    options = AuditOptions(cuts=max(cuts, THOROUGH_CUTS) if thorough else cuts, limits=limits, trust=trust)
    if jobs is not None:
        options = replace(options, jobs=jobs)
    found = data or find_market_data()
    if found is None:
        raise BundleError(
            "market-data-needed",
            "An audit runs factor code, which reads market data.",
            "Name its folder with --data, or in FACTOR_CoSTEER_DATA_FOLDER.",
        )
    run_audit(AuditRequest(target, found, verdicts, pictures, options), as_json)


@reports_errors
def ablate(
    target: Annotated[
        Path, typer.Argument(help="A run's log, or 'latest', or a bundle.", metavar="BUNDLE|LOG")
    ],
    *,
    data: DataOption = None,
    qlib_dir: Annotated[
        Path | None,
        typer.Option(
            "--qlib-dir",
            help=f"Qlib's data; where the training had it if not given, for a bundle {QLIB_DIR}.",
        ),
    ] = None,
    stage: Annotated[
        StageChoice | None,
        typer.Option("--stage", help="Of a log with both stages; by its kind if not given."),
    ] = None,
    outcomes: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder that keeps what was tried: run it again and it goes on from there."
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write the smallest set that is as good as a factor file."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each set in each window.")] = 5,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Walk-forward windows.")] = 8,
    embargo: Annotated[
        int,
        typer.Option(
            "--embargo",
            min=0,
            help="Days left out before each test, besides those that the label looks ahead.",
        ),
    ] = 0,
    rolling: Annotated[
        bool,
        typer.Option("--rolling", help="Train every window on as many days as the first, not on all before."),
    ] = False,
    correlation: Annotated[
        float,
        typer.Option(
            "--correlation", min=0.5, max=1.0, help="From which on two factors, or their ranks, say the same."
        ),
    ] = 0.99,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one/--no-one-by-one", help="Add factors one at a time, too.")
    ] = True,
    smallest: Annotated[
        bool, typer.Option("--smallest/--no-smallest", help="Look for the smallest set that is as good.")
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Trainings at a time; as many as there are cores if not given."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run a bundle's factor code where this system cannot keep it in.")
    ] = False,
    timeout: TimeoutOption = _DEFAULTS.seconds,
    memory: MemoryOption = _DEFAULTS.memory_mb,
    as_json: JsonOption = False,
) -> None:
    """Say which factors earn their place: models trained without each, over seeds and walk-forward windows."""
    from rdagent_sota_patch.ablation.ablating import AblateOptions
    from rdagent_sota_patch.ablation.subject import CodeOptions
    from rdagent_sota_patch.cli.ablate import AblateFiles, run_ablate

    if save is not None and not smallest:
        raise typer.BadParameter("It is the smallest set that is written.", param_hint="--save")
    files = AblateFiles(
        target,
        data,
        None if qlib_dir is None else qlib_dir.expanduser(),
        QLIB_DIR.expanduser(),
        None if stage is None else stage.value,
        outcomes,
        save,
    )
    processes = jobs or os.cpu_count() or 1
    options = AblateOptions(
        seeds=seeds,
        windows=windows,
        embargo=embargo,
        rolling=rolling,
        correlation=correlation,
        one_by_one=one_by_one,
        smallest=smallest,
        jobs=processes,
    )
    code = CodeOptions(trust, Limits(seconds=timeout, memory_mb=memory), processes)
    run_ablate(files, options, code, as_json)
