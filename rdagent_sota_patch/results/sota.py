"""The last accepted factor experiment of a run: the keys of its code, and its weights."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.bundle.documents import CODE_NAME
from rdagent_sota_patch.errors import BundleError, SotaError
from rdagent_sota_patch.export.choice import RECORDERS, choose_experiment, find_workspace_of
from rdagent_sota_patch.mlruns.recorder import Recorder, find_recorder, parse_hint, unreadable
from rdagent_sota_patch.results.assets import Asset, asset_of_bytes, asset_of_file
from rdagent_sota_patch.results.cache_folder import make_room, mark_used
from rdagent_sota_patch.sessions.records import ExperimentKind
from rdagent_sota_patch.sessions.workspaces import workspace_candidates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rdagent_sota_patch.export.choice import Choice
    from rdagent_sota_patch.sessions.records import ExperimentRecord, Factor, Session

WEIGHT_KEYS = ("model.pkl", "params.pkl")
"""Of the same bytes: as readers of sessions call them, and as MLflow does."""

ENTRY = "factor.py"
"""Of an experiment's first implemented factor, as its sub-workspace calls it (RD-Agent's ``FactorFBWorkspace``)."""

_PYTHON = "text/x-python"
_BYTES = "application/octet-stream"
_UNSAFE = re.compile(r"[^\w.-]")
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, eq=False)
class KeyedExperiment:
    """An accepted factor experiment with the keys of its factors' code.

    Attributes:
        prefix: ``based_factor_{i}/`` for an earlier one; empty for the SOTA.
        keys: One for each factor, in their order; None for one without code.
        entry: Of the first implemented factor that has code; None without any.
    """

    experiment: ExperimentRecord
    prefix: str
    keys: tuple[str | None, ...]
    entry: str | None


@dataclass(frozen=True, slots=True)
class Spool:
    """A folder of the server's own for weights that sessions hold, so that they do not stay in memory.

    Attributes:
        limit: Bytes; what was not used for longest goes when there is more.
    """

    folder: Path
    limit: int

    def keep(self, sha256: str, content: bytes) -> Path:
        """The file with these bytes, written unless it is there.

        Raises:
            SotaError: ``cannot-write``.
        """
        path = self.folder / sha256
        if path.is_file() and path.stat().st_size == len(content):
            mark_used(path)
            return path
        make_room(self.folder, self.limit)
        with replace_atomically(path, durable=False) as temporary:
            temporary.write_bytes(content)
        return path


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The weights that were trained in the SOTA's back-test.

    Attributes:
        asset: None where they cannot be had.
        error: Why not.
    """

    asset: Asset | None
    error: str | None


@dataclass(frozen=True, eq=False)
class Sota:
    """What a run's last accepted factor experiment left.

    Attributes:
        index: Its position in the history.
        experiments: The accepted ones before it, oldest first, and itself at the end.
        recorder_error: Why the rest of its model (processors, configuration) cannot be had; None when it can.
        watched: Files and folders outside the log that all this depends on.
    """

    index: int
    experiments: tuple[KeyedExperiment, ...]
    weights: Weights
    recorder_error: str | None
    watched: tuple[Path, ...]

    @property
    def own(self) -> KeyedExperiment:
        """The SOTA itself."""
        return self.experiments[-1]

    @cached_property
    def codes(self) -> dict[str, Asset]:
        """Assets of factor code, by key; made when they are first asked for, since the anchor goes without."""
        return dict(found for experiment in self.experiments for found in _codes(experiment))


def own_sota(session: Session) -> ExperimentRecord | None:
    """The last accepted factor experiment that the run made itself; an inherited one is another run's."""
    sota = session.sota
    return sota if sota is not None and sota.accepted_here else None


def take_out_weights(session: Session) -> tuple[Session, bytes | None]:
    """The session without the weights that it may hold, and those of its own SOTA: megabytes that need not be kept."""
    if all(each.embedded_weights is None for each in session.experiments):
        return session, None
    sota = own_sota(session)
    lighter: dict[int, ExperimentRecord] = {}

    def lighten(record: ExperimentRecord) -> ExperimentRecord:
        if id(record) not in lighter:
            based = tuple(map(lighten, record.based_on))
            lighter[id(record)] = replace(record, embedded_weights=None, based_on=based)
        return lighter[id(record)]

    light = replace(session, experiments=tuple(map(lighten, session.experiments)))
    return light, None if sota is None else sota.embedded_weights


def describe_sota(
    session: Session, embedded: bytes | None, roots: Sequence[Path], spool: Spool
) -> Sota | None:
    """Find keys, code and weights of the run's SOTA; None where it has none of its own.

    Args:
        session: The run, and
        embedded: the weights that its session held; see `take_out_weights`.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
        spool: Takes the weights that the session holds.
    """
    sota = own_sota(session)
    if sota is None:
        return None
    based = [base for base in sota.based_on if base.kind is ExperimentKind.FACTOR and base.factors]
    keyed = [_give_keys(base, f"based_factor_{number}/") for number, base in enumerate(based)]
    keyed.append(_give_keys(sota, ""))
    choice = choose_experiment(session, "factor")
    recorder, recorder_error = _find_recorder(choice, roots)
    weights = _find_weights(sota, embedded, recorder, recorder_error, spool)
    watched = [] if sota.workspace is None else workspace_candidates(sota.workspace, session.log, roots)
    places = [place / RECORDERS for place in watched]
    if recorder is not None:
        places.append(recorder.weights)
    index = session.experiments.index(sota)
    return Sota(index, tuple(keyed), weights, recorder_error, tuple(places))


def _give_keys(experiment: ExperimentRecord, prefix: str) -> KeyedExperiment:
    usable = [factor for factor in experiment.factors if _is_usable(factor)]
    entry = f"{prefix}{ENTRY}" if usable else None
    if len(experiment.factors) == 1:
        return KeyedExperiment(experiment, prefix, (entry,), entry)
    # And none takes the place of the bundle's network.
    taken = {ENTRY, CODE_NAME}
    numbers: Counter[str] = Counter()
    keys = tuple(
        f"{prefix}{_name_key(factor, taken, numbers)}" if factor.code is not None else None
        for factor in experiment.factors
    )
    return KeyedExperiment(experiment, prefix, keys, entry)


def _is_usable(factor: Factor) -> bool:
    return factor.implemented and factor.code is not None


def _name_key(factor: Factor, taken: set[str], numbers: Counter[str]) -> str:
    """A key that no other factor has; ``numbers`` has the last one tried by stem: many may bear one name."""
    stem = _UNSAFE.sub("_", factor.name)[:_LONGEST_NAME]
    key = f"{stem}.py"
    while key in taken:
        numbers[stem] += 1
        key = f"{stem}_{numbers[stem] + 1}.py"
    taken.add(key)
    return key


def _codes(keyed: KeyedExperiment) -> Iterator[tuple[str, Asset]]:
    entry_given = False
    for factor, key in zip(keyed.experiment.factors, keyed.keys, strict=True):
        if factor.code is None:
            continue
        # As `bundle.writing` writes it: the same bytes, the same hash.
        content = factor.code.encode("utf-8", "surrogatepass")
        if key is not None:
            yield key, asset_of_bytes(key, content, _PYTHON)
        if keyed.entry is not None and not entry_given and factor.implemented:
            yield keyed.entry, asset_of_bytes(keyed.entry, content, _PYTHON)
            entry_given = True


def _find_recorder(choice: Choice, roots: Sequence[Path]) -> tuple[Recorder | None, str | None]:
    try:
        workspace = find_workspace_of(choice, roots)
        record = choice.experiment.artifacts
        return find_recorder(workspace, None if record is None else parse_hint(record)), None
    except BundleError as error:
        return None, in_words(error)


def _find_weights(
    sota: ExperimentRecord,
    embedded: bytes | None,
    recorder: Recorder | None,
    recorder_error: str | None,
    spool: Spool,
) -> Weights:
    """The session's own first: they are found in the log alone, whatever became of the workspace."""
    try:
        if embedded is not None:
            return Weights(_spool(sota, embedded, spool), None)
    except SotaError as error:
        return Weights(None, in_words(error))
    if recorder is None:
        return Weights(None, recorder_error)
    try:
        return Weights(asset_of_file(WEIGHT_KEYS[0], recorder.weights, _BYTES), None)
    except OSError as error:
        return Weights(None, in_words(unreadable(recorder.weights, error.strerror or str(error))))


def _spool(sota: ExperimentRecord, content: bytes, spool: Spool) -> Asset:
    sha256 = hashlib.sha256(content).hexdigest()
    if sota.artifacts is not None and parse_hint(sota.artifacts).sha256 != sha256:
        raise BundleError(
            "weights-changed",
            f"The weights that the session holds for loop {sota.loop} are not those that it recorded: their SHA-256 is "
            f"{sha256[:12]}….",
            "The log was altered; restore it from a copy.",
        )
    return Asset(WEIGHT_KEYS[0], _BYTES, len(content), sha256, path=spool.keep(sha256, content))


def in_words(error: SotaError) -> str:
    """All that is wrong, in one line, with the slugs that docs/messages.md explains."""
    return "; ".join(f"{problem.message} [{problem.slug}]" for problem in error.problems)
