"""Put a run's factors into a library, and take some of them out as a factor file."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_library.entries import (
    SHORT,
    VALUE,
    LibraryFactor,
    Lineage,
    document_path,
    is_plain_file,
    make_id,
    open_values,
    read_factor,
    values_path,
    weigh,
)
from rdagent_sota_patch.factor_table.alignment import Part
from rdagent_sota_patch.factor_table.canonical import as_canonical
from rdagent_sota_patch.factor_table.merging import Merged, merge_tables
from rdagent_sota_patch.factor_table.provenance import FactorOrigin
from rdagent_sota_patch.factor_table.saving import require_log, trace_factors
from rdagent_sota_patch.factor_table.table import fingerprint_factors, read_factor_table

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rdagent_sota_patch.factor_table.metrics import FactorFigures
    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.factor_table.table import FactorTable
    from rdagent_sota_patch.lookahead.verdicts import Audit

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of a run's factors beside the log.

    Attributes:
        figures: By column of the table.
        figures_from: Where the returns for them are from, or why there are no figures.
        audits: By column, each with one verdict.
    """

    figures: Mapping[str, FactorFigures]
    figures_from: str
    audits: Mapping[str, Audit]


@dataclass(frozen=True, slots=True)
class Added:
    """A factor of a run as it is in the library now; ``change`` is ``new``, ``updated`` or ``there``."""

    factor: LibraryFactor
    change: str


def add_factors(folder: Path, source: Source, path: Path, findings: Findings) -> list[Added]:
    """Add the accepted factors of a run; what is there already stays, and gets what was not known of it.

    Several processes may add at a time. One that is killed leaves each factor as it was or as it was to be.

    Args:
        folder: The library; made if it is not there.
        source: The run's factors.
        path: Their table, which is only read.
        findings: What is known of them.

    Raises:
        SotaError: The table cannot be used, ``library-damaged``, ``cannot-write``.
    """
    added = []
    with as_canonical(read_factor_table(path)) as table:
        fingerprints = fingerprint_factors(table, VALUE)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        for column, origin in zip(table.names, trace_factors(source, table.names), strict=True):
            factor = _describe(source, table, origin, fingerprints[column], findings)
            with _locked(folder):
                added.append(_add(folder, factor, Part(table, (column,), (FactorOrigin(VALUE),), column, "")))
    return added


def use_factors(folder: Path, factors: Sequence[LibraryFactor], target: Path) -> Merged:
    """Write factors of a library to a factor file; see `merge_tables`, to which each is a run of its own.

    Raises:
        SotaError: ``library-damaged``, ``tables-do-not-overlap``, ``cannot-write``.
    """
    parts = []
    for factor in factors:
        first = factor.lineage[0]
        origin = FactorOrigin(
            name=factor.name,
            description=factor.description,
            formulation=factor.formulation,
            variables=dict(factor.variables),
            code=factor.code,
            loop=first.loop,
            task_id=first.task_id,
            workspace=first.workspace,
            code_sha256=factor.code_sha256,
        )
        short = factor.id[:SHORT]
        parts.append(
            Part(open_values(folder, factor), (VALUE,), (origin,), f"{factor.name} ({short})", short)
        )
    return merge_tables(parts, target)


def _add(folder: Path, factor: LibraryFactor, part: Part) -> Added:
    known = None
    # Whatever has this name, a link that leads nowhere too, is read or refused.
    if os.path.lexists(document_path(folder, factor.id)):
        known = read_factor(folder, factor.id)
        factor = _join(known, factor)
    values = values_path(folder, factor.id)
    complete = is_plain_file(values)
    if not complete:
        merge_tables([part], values, described=False)
    if factor != known:
        write_text_atomically(document_path(folder, factor.id), factor.model_dump_json(indent=2) + "\n")
    if known is None:
        return Added(factor, "new")
    return Added(factor, "there" if complete and factor == known else "updated")


def _join(known: LibraryFactor, factor: LibraryFactor) -> LibraryFactor:
    """What was known of a factor, with what is known now."""
    (added,) = factor.lineage
    same = [each for each in known.lineage if _is_same_run(each, added)]
    more: dict[str, object] = {} if same else {"lineage": (*known.lineage, added)}
    if factor.figures is not None:
        more |= {"figures": factor.figures, "figures_from": factor.figures_from}
    if factor.audit is not None and (known.audit is None or weigh(factor.audit) >= weigh(known.audit)):
        more["audit"] = factor.audit
    return known.model_copy(update=more)


def _is_same_run(one: Lineage, other: Lineage) -> bool:
    return (one.log, one.name, one.loop) == (other.log, other.name, other.loop)


def _describe(
    source: Source, table: FactorTable, origin: FactorOrigin, fingerprint: str, findings: Findings
) -> LibraryFactor:
    session, experiment = require_log(source)
    # Code that is no text (lone surrogates) has a hash, and no JSON can hold it.
    code = origin.code if origin.code is None or _plain(origin.code) == origin.code else None
    lineage = Lineage(
        log=_plain(session.log.absolute()),
        task_id=_plain(session.task_id),
        snapshot=_plain(session.snapshot),
        name=_plain(origin.name),
        loop=origin.loop,
        accepted_loop=experiment.loop,
        workspace=None if origin.workspace is None else _plain(origin.workspace),
        ended_utc=None if session.ended is None else session.ended.isoformat(),
        added_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    figures = findings.figures.get(origin.name)
    return LibraryFactor(
        id=make_id(origin.code_sha256, fingerprint),
        name=_plain(origin.name),
        description=_plain(origin.description),
        formulation=_plain(origin.formulation),
        variables={_plain(name): _plain(text) for name, text in origin.variables.items()},
        code=code,
        code_sha256=origin.code_sha256,
        fingerprint=fingerprint,
        rows=table.rows,
        instruments=table.instruments,
        start=table.start.isoformat(),
        end=table.end.isoformat(),
        figures=figures,
        figures_from=_plain(findings.figures_from),
        audit=findings.audits.get(origin.name),
        lineage=(lineage,),
    )


def _plain(text: object) -> str:
    """Text that UTF-8 can hold."""
    return str(text).encode("utf-8", errors="backslashreplace").decode("utf-8")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time writes; the kernel's lock goes with the process."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise _cannot_write(folder / _LOCK, error) from error
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> SotaError:
    return SotaError(
        "cannot-write",
        f"Cannot write {path}: {error.strerror or error}.",
        "Name another folder with --library.",
    )
