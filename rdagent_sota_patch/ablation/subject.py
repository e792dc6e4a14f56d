"""What is ablated: the model that a run's log or a bundle has, its factor table, and its features on all days."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rdagent_sota_patch.ablation.arrays import write_arrays
from rdagent_sota_patch.errors import BundleError, SotaError, TableError
from rdagent_sota_patch.export.choice import choose_experiment, find_workspace_of
from rdagent_sota_patch.export.description import describe_model, describe_order
from rdagent_sota_patch.export.market_slice import find_provider, read_days
from rdagent_sota_patch.export.shipped_factors import list_factors
from rdagent_sota_patch.factor_table.alignment import Part
from rdagent_sota_patch.factor_table.merging import merge_tables
from rdagent_sota_patch.factor_table.provenance import FactorOrigin, Provenance
from rdagent_sota_patch.factor_table.table import read_factor_table, unchanged
from rdagent_sota_patch.mlruns.recorder import find_recorder, parse_hint
from rdagent_sota_patch.mlruns.trained import read_trained
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.scoring.alpha import alpha_request, compute_alpha
from rdagent_sota_patch.scoring.features import drops_incomplete_rows, join_features, order_columns
from rdagent_sota_patch.scoring.market_days import MarketFiles, open_market
from rdagent_sota_patch.scoring.mined import list_mined, run_mined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.ablation.arrays import Arrays
    from rdagent_sota_patch.bundle.documents import FactorOrder, ModelMeta, ShippedFactor
    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.export.choice import Stage
    from rdagent_sota_patch.export.shipped_factors import AcceptedFactor
    from rdagent_sota_patch.factor_table.table import FactorTable
    from rdagent_sota_patch.scoring.mined import Report
    from rdagent_sota_patch.sessions.records import Session


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is ablated.

    Attributes:
        task_id, loop, snapshot: Of the run whose factors they are.
        table: Its factor table; it must stay as it is while it is ablated.
        origins: What is known of each mined factor.
        provider: Folder of Qlib's data.
    """

    task_id: str
    loop: int
    snapshot: str
    meta: ModelMeta
    order: FactorOrder
    table: FactorTable
    origins: tuple[FactorOrigin, ...]
    provider: Path

    @property
    def mined(self) -> tuple[str, ...]:
        """The mined factors of the model, as the table has them."""
        return self.order.dynamic_factor_order


@dataclass(frozen=True, slots=True)
class CodeOptions:
    """How a bundle's factor code is run.

    Attributes:
        trust: Whether it may run where this system cannot keep it in.
        limits: Of each factor.
        jobs: Factors at a time.
    """

    trust: bool = False
    limits: Limits = field(default_factory=Limits)
    jobs: int = 1


def subject_of_log(
    session: Session, stage: Stage | None, roots: Sequence[Path], qlib_dir: Path | None, default: Path
) -> Subject:
    """The model that an export of the run would ship.

    Args:
        session: The run.
        stage: See `choose_experiment`.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
        qlib_dir: Qlib's data; the folder that the training used by default.
        default: The folder where the training does not say.

    Raises:
        BundleError: As an export; ``nothing-to-ablate`` for a model without mined factors.
        TableError: The factor table cannot be used.
    """
    choice = choose_experiment(session, stage)
    workspace = find_workspace_of(choice, roots)
    record = choice.experiment.artifacts
    trained = read_trained(
        find_recorder(workspace, None if record is None else parse_hint(record)), whole=False
    )
    if trained.table is None:
        raise _no_mined(session.log)
    return Subject(
        session.task_id,
        choice.experiment.loop,
        str(session.snapshot),
        describe_model(trained, has_code=False),
        describe_order(choice, trained),
        read_factor_table(trained.table),
        tuple(_origin(one, one.code) for one in list_factors(choice, trained.mined) if one.in_table),
        qlib_dir or find_provider(trained) or default,
    )


def subject_of_bundle(
    bundle: Bundle, market: MarketFiles, folder: Path, options: CodeOptions, report: Report
) -> Subject:
    """A bundle's model; its factors' code is run, confined, to make their table again.

    Args:
        bundle: With a model.
        market: What the code reads, and Qlib's data.
        folder: For the table.
        options: How the code is run.
        report: Told how far it is.

    Raises:
        BundleError: ``bundle-without-model``, ``nothing-to-ablate``, ``market-data-needed``, and all that is wrong with
            the factors' code.
    """
    order, meta = bundle.model
    factors = list_mined(bundle)
    if not factors:
        raise _no_mined(bundle.folder)
    start, end = _span(meta)
    with open_market(market, factors) as table:
        # Factors were asked for, so that there is one.
        assert table is not None
        days = table.days[(table.days >= start) & (table.days <= end)]
        frame = run_mined(
            dict.fromkeys(factors, table.as_one()),
            days,
            limits=options.limits,
            jobs=options.jobs,
            report=report,
            trusted=options.trust or bundle.signed,
        )
    if drops_incomplete_rows(bundle):
        frame = frame.dropna()
    path = folder / "table.parquet"
    _write_table(frame, path)
    return Subject(
        bundle.manifest.task_id,
        bundle.manifest.loop,
        bundle.manifest.session.get("snapshot", ""),
        meta,
        order,
        read_factor_table(path),
        tuple(
            _origin(one, None if one.code_relpath is None else bundle.read(one.code_relpath).decode("utf-8"))
            for one in bundle.factors.factors
            if one.in_table
        ),
        market.qlib_dir,
    )


def load_subject(subject: Subject, folder: Path, jobs: int, report: Report) -> Arrays:
    """Every feature and the label on all of the run's days, raw, as Qlib's loader gave them for its training.

    Args:
        subject: Of what.
        folder: Where the arrays go.
        jobs: Processes of Qlib's.
        report: Told how far it is.

    Raises:
        BundleError: ``alpha-failed``, ``bad-market-data``, ``model-input-mismatch``.
        TableError: ``table-changed``.
        SotaError: ``cannot-write``, ``nothing-to-ablate``.
    """
    report("features", 0, 1)
    ((label, expression),) = subject.meta.label.items()
    label = f"label {label}"
    if not (subject.provider / "calendars").is_dir():
        raise BundleError(
            "bad-market-data",
            f"{subject.provider}: the folder of Qlib's data, which has the label, is not there.",
            "Name it with --qlib-dir: the one with calendars, instruments and features in it.",
        )
    span = pd.DatetimeIndex(_span(subject.meta))
    request = alpha_request(subject.meta, subject.provider, span, as_trained=True, jobs=jobs)
    alpha = compute_alpha(
        replace(request, expressions=request.expressions | {label: expression}, row_expressions=())
    )
    days = alpha.index.get_level_values("datetime").unique()
    mined = read_days(subject.table.path, pd.DatetimeIndex(days).as_unit("ns"), subject.mined)
    _require_unchanged(subject)
    frame = join_features(alpha, mined, complete_rows=False, join=subject.order.join)
    arrays = write_arrays(
        folder, order_columns(frame.drop(columns=label), subject.order.factor_order), frame[label]
    )
    report("features", 1, 1)
    return arrays


def save_factors(subject: Subject, names: Sequence[str], target: Path) -> FactorTable:
    """Write some of the factors to a factor file, with what is known of them; ``LOAD_SOTA_FACTORS`` takes it.

    Raises:
        TableError: ``table-changed``.
        SotaError: ``cannot-write``.
    """
    _require_unchanged(subject)
    chosen = tuple(name for name in subject.table.names if name in names)
    known = {origin.name: origin for origin in subject.origins}
    origins = tuple(known.get(name) or FactorOrigin(name) for name in chosen)
    run = Provenance(subject.task_id, subject.loop, subject.snapshot)
    return merge_tables([Part(subject.table, chosen, origins, subject.task_id, "")], target, run=run).table


def _span(meta: ModelMeta) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First day of training and last of the test."""
    start, end = meta.segments["train"][0], meta.segments["test"][1]
    return pd.Timestamp(start or "1990-01-01"), pd.Timestamp(end or "2100-01-01")


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    """In RD-Agent's layout."""
    named = frame.set_axis(pd.MultiIndex.from_product([["feature"], frame.columns]), axis=1)
    try:
        named.to_parquet(path)
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot write {path}: {error.strerror or error}.",
            "Check that its folder is writable and has room, or choose another place.",
        ) from error


def _require_unchanged(subject: Subject) -> None:
    if not unchanged(subject.table):
        raise TableError(
            "table-changed",
            f"{subject.table.path} was changed while it was ablated.",
            "What was found is of the table as it was. Ablate again, with another folder for --out.",
        )


def _origin(factor: AcceptedFactor | ShippedFactor, code: str | None) -> FactorOrigin:
    loop = factor.loop if factor.loop >= 0 else None
    return FactorOrigin(factor.name, factor.description, factor.formulation, factor.variables, code, loop)


def _no_mined(where: Path) -> BundleError:
    return BundleError(
        "nothing-to-ablate",
        f"The model of {where} has no mined factors: there is nothing to be ablated.",
        "Name the log of a run whose model was trained on mined factors.",
    )
