"""Writing a bundle from a run's log: chosen, read, written beside its place, replayed, and only then put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rdagent_sota_patch.bundle.documents import (
    BOOSTER_NAME,
    CODE_NAME,
    CONFIG_NAME,
    EVIDENCE_NAME,
    META_NAME,
    NOT_AUDITED,
    ORDER_NAME,
    REPORT_NAME,
    TENSORS_NAME,
    WEIGHTS_NAME,
    FactorOrder,
    Manifest,
    ModelMeta,
    PrimaryAssets,
    ShippedFactors,
)
from rdagent_sota_patch.bundle.folder import make_folder, require_free
from rdagent_sota_patch.bundle.manifest import describe_versions, utc_now, write_manifest
from rdagent_sota_patch.bundle.notes_layout import ENTRY_NAME, Layout, NotesContent, lay_out_notes
from rdagent_sota_patch.bundle.opening import Bundle
from rdagent_sota_patch.bundle.signing import sign_manifest
from rdagent_sota_patch.bundle.writing import BundleWriter
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.export.choice import Choice, Pick, Stage, choose_experiment, find_workspace_of
from rdagent_sota_patch.export.description import (
    describe_export,
    describe_model,
    describe_order,
    find_model_code,
    finite,
    has_gaps,
)
from rdagent_sota_patch.export.market_slice import Evidence, take_back_test, take_evidence, write_replay
from rdagent_sota_patch.export.proving import first_possible, prove_order
from rdagent_sota_patch.export.shipped_factors import codes_of, list_factors, write_factors
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.mlruns.recorder import find_recorder, parse_hint
from rdagent_sota_patch.mlruns.trained import TrainedModel, read_trained
from rdagent_sota_patch.scoring.features import GAPS_KEY
from rdagent_sota_patch.scoring.replay import Replayed, replay_slice
from rdagent_sota_patch.scoring.scoring import load_scorer
from rdagent_sota_patch.scoring.tensors import write_tensors
from rdagent_sota_patch.sealing.seal_record import SEAL_NAME, read_seal
from rdagent_sota_patch.sessions.workspaces import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.lookahead.verdicts import Audit
    from rdagent_sota_patch.sessions.records import Session

Report = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to export.

    Attributes:
        stage, pick: See `choose_experiment`.
        layout: Whether what the notes' readers look for is written as well; see `lay_out_notes`.
        force: Replace an old bundle.
        replay: Ship the evidence, and replay it.
        factors_only: Ship no model.
        trust: Unpickle the weights for the replay, where there is no other form of them.
        qlib_dir: Qlib's data, for the Alpha features in the evidence; where the training had it, by default.
        roots: Where to look for workspaces that were moved.
        audit: Of the factors; goes into the manifest.
        key: Signs the manifest.
        evidence: Of the experiment that is shipped, as `rdagent-sota evidence --json` gives it; or why there is none.
    """

    stage: Stage | None = None
    layout: Layout = "bundle"
    force: bool = False
    replay: bool = True
    factors_only: bool = False
    trust: bool = False
    qlib_dir: Path | None = None
    roots: tuple[Path, ...] = ()
    audit: Audit | None = None
    key: bytes | None = None
    pick: Pick = field(default_factory=Pick)
    evidence: Mapping[str, Any] | str = "not weighed where this bundle was made"

    @property
    def chosen_stage(self) -> Stage | None:
        """The stage to choose: the notes' layout has one alone.

        Raises:
            BundleError: ``notes-of-a-model``.
        """
        if self.layout == "bundle":
            return self.stage
        if self.stage == "model":
            raise BundleError(
                "notes-of-a-model",
                "The notes' layout is for the model of a factor experiment's back-test, and --stage model asks for a "
                "model experiment's.",
                "Leave out --layout notes, or --stage model.",
            )
        return "factor"


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written.

    Attributes:
        order, meta: None in a bundle of factors alone.
        replayed: None without evidence.
    """

    folder: Path
    manifest: Manifest
    factors: ShippedFactors
    order: FactorOrder | None
    meta: ModelMeta | None
    replayed: Replayed | None


def export_bundle(session: Session, target: Path, options: ExportOptions, report: Report) -> Exported:
    """Write a bundle of what a run accepted last to ``target``: all of it, or nothing.

    Args:
        session: The run.
        target: The bundle's folder.
        options: How.
        report: Told what is being done.

    Raises:
        BundleError: ``target-exists``, ``weights-missing``, ``replay-differs``, ``notes-of-a-model`` and many more.
        SotaError: ``cannot-write``, or the factor table or the log cannot be used.
    """
    require_free(target, force=options.force)
    choice = choose_experiment(session, options.chosen_stage, options.pick)
    with make_folder(target, force=options.force) as folder:
        export = _Export(choice, target, options, report, BundleWriter(folder))
        try:
            return export.write_factors_alone() if options.factors_only else export.write_model()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BundleError(
                "artifact-unreadable",
                f"What the recorder of loop {choice.experiment.loop} of {session.log} says of its training fits no "
                f"{error.title}: {place}: {first['msg']}.",
                "Restore the workspace from a backup, or run the experiment again.",
            ) from error


def factor_codes(
    session: Session, stage: Stage | None, roots: Sequence[Path], pick: Pick | None = None
) -> dict[str, str]:
    """Code by name of the factors that an export would ship as the model's: what an audit before it looks at."""
    choice = choose_experiment(session, stage, pick)
    return codes_of(list_factors(choice, _table_columns(choice, roots)))


@dataclass(frozen=True, slots=True)
class _Export:
    """One export on its way."""

    choice: Choice
    target: Path
    options: ExportOptions
    report: Report
    writer: BundleWriter

    def write_factors_alone(self) -> Exported:
        factors = self._write_factors(_table_columns(self.choice, self.options.roots))
        if not factors.factors:
            raise BundleError(
                "no-accepted-factors",
                f"{self.choice.session.log} has no mined factor to export.",
                "Leave out --factors-only to export the model.",
            )
        self._lay_out(factors, None, None)
        manifest = self._finish(factors, trained=None)
        return Exported(self.target, manifest, factors, None, None, None)

    def write_model(self) -> Exported:
        trained, code = self._read_model()
        self._write_weights(trained, code)
        evidence = None
        if trained.candidates:
            trained, evidence = self._prove(trained, code)
        order = describe_order(self.choice, trained)
        meta = describe_model(trained, has_code=code is not None)
        factors = self._write_factors(trained.mined)
        self.writer.add_document(ORDER_NAME, order)
        self.writer.add_document(META_NAME, meta)
        self.writer.add_json(CONFIG_NAME, dict(trained.config))
        if self.options.replay:
            self.report("taking evidence for the replay")
            write_replay(
                self.writer, evidence or take_evidence(trained, meta, self.options.qlib_dir), trained
            )
        self._lay_out(factors, order, meta)
        manifest = self._finish(factors, trained)
        replayed = self._replay() if self.options.replay else None
        return Exported(self.target, manifest, factors, order, meta, replayed)

    def _read_model(self) -> tuple[TrainedModel, str | None]:
        self.report("reading the model")
        workspace = find_workspace_of(self.choice, self.options.roots)
        record = self.choice.experiment.artifacts
        recorder = find_recorder(workspace, None if record is None else parse_hint(record))
        trained = read_trained(recorder)
        return trained, find_model_code(self.choice, workspace) if trained.kind == "torch" else None

    def _prove(self, trained: TrainedModel, code: str | None) -> tuple[TrainedModel, Evidence]:
        """The model with the input that gives its back-test's scores, and what showed it."""
        self.report("proving the order of the inputs")
        has_code = code is not None
        meta = describe_model(first_possible(trained), has_code=has_code)
        meta = meta.model_copy(update={"alpha": trained.alpha})
        back_test = take_back_test(trained, meta, self.options.qlib_dir)
        no_factors = ShippedFactors(schema_version=1, task_id=self.choice.session.task_id, factors=())

        def as_bundle(candidate: TrainedModel) -> Bundle:
            return Bundle(
                folder=self.writer.folder,
                manifest=self._describe(no_factors, candidate),
                order=describe_order(self.choice, candidate),
                meta=describe_model(candidate, has_code=has_code),
                factors=no_factors,
                signed=False,
            )

        return prove_order(
            trained, back_test, as_bundle, lambda bundle: load_scorer(bundle, trust=self.options.trust)
        )

    def _write_factors(self, table: Sequence[str] | None) -> ShippedFactors:
        return write_factors(self.writer, self.choice.session.task_id, list_factors(self.choice, table))

    def _write_weights(self, trained: TrainedModel, code: str | None) -> None:
        self.report("copying the weights")
        self.writer.copy(WEIGHTS_NAME, trained.recorder.weights)
        if trained.booster_text is not None:
            self.writer.add_text(BOOSTER_NAME, trained.booster_text)
        if trained.tensors is not None:
            write_tensors(self.writer.reserve(TENSORS_NAME), trained.tensors)
            self.writer.adopt(TENSORS_NAME)
        if code is not None:
            self.writer.add_text(CODE_NAME, code)

    def _lay_out(self, factors: ShippedFactors, order: FactorOrder | None, meta: ModelMeta | None) -> None:
        if self.options.layout != "notes":
            return
        session, experiment = self.choice.session, self.choice.experiment
        index = next(number for number, one in enumerate(session.experiments) if one is experiment)
        entry = _factor_entry(factors)
        content = NotesContent(
            session.task_id, experiment.loop, index, entry, utc_now(), factors.factors, order, meta
        )
        lay_out_notes(self.writer, content)

    def _write_seal(self) -> None:
        """From which day on the run saw nothing, and how it did before: for who opens these days."""
        seal = read_seal(self.choice.session.log)
        if seal is not None:
            metrics = finite(dict(self.choice.experiment.metrics))
            sealed = {"schema_version": 1, "sealed_from": str(seal.sealed_from), "metrics": metrics}
            self.writer.add_json(SEAL_NAME, sealed)

    def _finish(self, factors: ShippedFactors, trained: TrainedModel | None) -> Manifest:
        self._write_seal()
        if not isinstance(self.options.evidence, str):
            self.writer.add_json(EVIDENCE_NAME, finite(dict(self.options.evidence)))
        self.writer.add_json(
            REPORT_NAME, describe_export(self.choice, self.target, factors, trained, set(self.writer.files))
        )
        manifest = self._describe(factors, trained)
        write_manifest(self.writer.folder, manifest)
        if self.options.key is not None:
            sign_manifest(self.writer.folder, self.options.key)
        return manifest

    def _describe(self, factors: ShippedFactors, trained: TrainedModel | None) -> Manifest:
        session, files = self.choice.session, self.writer.files
        source = self.choice.experiment.sota_source
        return Manifest(
            schema_version=1,
            kind="rdagent-sota-bundle",
            stage=self.choice.stage,
            factors_only=trained is None,
            task_id=session.task_id,
            loop=self.choice.experiment.loop,
            session={
                "log": str(session.log),
                "snapshot": str(session.snapshot),
                "signature": session.signature.value,
            },
            times={
                "exported_at_utc": utc_now(),
                "trained_at_utc": trained.recorder.ended_at.isoformat() if trained else None,
                "segments": finite(trained.segments) if trained else None,
            },
            versions=describe_versions(),
            primary_assets=PrimaryAssets(
                factor_entry_relpath=_listed(ENTRY_NAME, files) or _factor_entry(factors),
                model_weight_relpath=_listed(WEIGHTS_NAME, files),
                config_relpath=_listed(CONFIG_NAME, files),
                model_meta_relpath=_listed(META_NAME, files),
                factor_order_relpath=_listed(ORDER_NAME, files),
            ),
            provenance=None if source is None else _provenance(source),
            audit=self.options.audit or NOT_AUDITED,
            diagnostics={
                **_diagnose(factors, trained),
                "evidence": {"mode": "skipped", "reason": self.options.evidence}
                if isinstance(self.options.evidence, str)
                else {"mode": "written"},
            },
            files=dict(files),
        )

    def _replay(self) -> Replayed:
        self.report("replaying the evidence")
        replayed = replay_slice(self.writer.folder, trust=self.options.trust)
        if not replayed.within:
            raise BundleError(
                "replay-differs",
                f"The model that would be shipped does not give its back-test's scores: of {replayed.rows} scores on "
                f"{replayed.days} days the largest difference is {replayed.max_difference:.3g}, and "
                f"{replayed.limit:g} is the limit. Nothing was written.",
                "Qlib's data may have changed since the training: name the data of then with --qlib-dir. Without "
                "evidence (--no-replay) it is not known what this model would score.",
            )
        return replayed


def _table_columns(choice: Choice, roots: Sequence[Path]) -> tuple[str, ...] | None:
    experiment = choice.experiment
    if experiment.workspace is None:
        return None
    workspace, _ = find_workspace(experiment.workspace, choice.session.log, roots, holding=TABLE_NAME)
    return None if workspace is None else read_names(workspace / TABLE_NAME)


def _factor_entry(factors: ShippedFactors) -> str | None:
    """Code of the newest experiment's first factor: what readers of one factor alone take for the SOTA."""
    with_code = [factor for factor in factors.factors if factor.code_relpath is not None]
    newest = max((factor.loop for factor in with_code), default=None)
    return next((factor.code_relpath for factor in with_code if factor.loop == newest), None)


def _listed(name: str, files: Mapping[str, Any]) -> str | None:
    return name if name in files else None


def _provenance(source: Mapping[str, Any]) -> dict[str, Any]:
    """What the plugin recorded, the factors by name: what they are, ``sota_factors.json`` says."""
    kept: dict[str, Any] = finite(dict(source))
    factors = kept.get("factors")
    if isinstance(factors, list):
        kept["factors"] = [factor.get("name") for factor in factors if isinstance(factor, dict)]
    return kept


def _diagnose(factors: ShippedFactors, trained: TrainedModel | None) -> dict[str, Any]:
    common = {
        "missing_factors": {
            factor.name: factor.missing_reason for factor in factors.factors if factor.missing_reason
        },
        "combined_factors": {"mode": "skipped", "reason": "backtest_artifact_not_synced"},
    }
    if trained is None:
        return common
    return {
        **common,
        "factor_order": {
            "mode": "fitted_processors_and_parquet_footer"
            if trained.unknown_loader is None
            else "proven_on_backtest_predictions",
            "source": None if trained.table is None else str(trained.table),
            "factor_count": len(trained.columns),
            "dynamic_factor_count": len(trained.mined),
        },
        "experiment_id": trained.recorder.experiment_id,
        "run_id": trained.recorder.run_id,
        "workspace": str(trained.recorder.workspace),
        GAPS_KEY: None if trained.table is None else has_gaps(trained.table),
    }
