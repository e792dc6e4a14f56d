"""A library's folder: what is known of each factor as a JSON document, and its values as a parquet file beside it.

Both are called by the factor's hash and by nothing else; no name or path in a document is ever opened, and no link is
followed. A factor is there if its document is: it is written last.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from rdagent_sota_patch.bundle.contents import read_bounded
from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.factor_table.metrics import FactorFigures
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table
from rdagent_sota_patch.hashing import hash_text
from rdagent_sota_patch.lookahead.verdicts import Audit, Sha256

VALUE = "value"
"""The column of a factor's file; its name is in the document, so that values are one under any name."""

SHORT = 12
"""Letters of a hash, as it is shown; as few as six are taken."""

_FEWEST = 6
_HASH = frozenset("0123456789abcdef")
_LARGEST = 4 << 20
"""Bytes of a document; a factor's code has a few thousand."""
_MOST = 100_000


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lineage(_Document):
    """A run that mined a factor.

    Attributes:
        name: What the factor is called there.
        loop: The loop that proposed it.
        accepted_loop: The accepted loop whose table it was taken from.
        ended_utc: When the run's last step before its snapshot ended; ISO 8601.
    """

    log: str
    task_id: str
    snapshot: str
    name: str
    loop: int | None
    accepted_loop: int
    accepted: Literal[True] = True
    workspace: str | None
    ended_utc: str | None
    added_utc: str


_ANSWERS: dict[bool | None, str] = {None: "not judged", True: "causal", False: "sees the future"}
"""The later outweighs the one before it, as in `find_unproven`."""


def weigh(audit: Audit) -> int:
    """How much an audit of one factor says: one that found it to see the future outweighs all others."""
    return list(_ANSWERS).index(audit.factors[0].causal)


def _require_verdict(audit: Audit | None) -> Audit | None:
    if audit is not None and len(audit.factors) != 1:
        raise ValueError("an audit of one factor has one verdict")
    return audit


class LibraryFactor(_Document):
    """One factor of a library.

    Attributes:
        id: Its hash, see `make_id`.
        fingerprint: Of its values, as a table of the one column ``value``.
        figures: IC, Rank IC, coverage and the rest; None where they could not be computed.
        figures_from: Where the returns for them are from, or why there are none.
        audit: The look-ahead audit of its code, with one verdict; None for no audit.
        lineage: The runs that it comes from, the first to be added first; its name is that one's.
    """

    schema_version: Literal[1] = 1
    id: Sha256
    name: str
    description: str
    formulation: str
    variables: Mapping[str, str]
    code: str | None
    code_sha256: Sha256 | None
    fingerprint: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    rows: int
    instruments: int
    start: str
    end: str
    figures: FactorFigures | None
    figures_from: str
    audit: Annotated[Audit | None, AfterValidator(_require_verdict)]
    lineage: Annotated[tuple[Lineage, ...], Field(min_length=1)]

    @property
    def verdict(self) -> str:
        """The audit's answer in a word or two."""
        return "not audited" if self.audit is None else _ANSWERS[self.audit.factors[0].causal]


def make_id(code_sha256: str | None, fingerprint: str) -> str:
    """The hash of a factor: of its code's and of its values', whatever it is called."""
    return hash_text(f"rdagent-sota-factor-1\n{code_sha256 or ''}\n{fingerprint}")


def default_library(environ: Mapping[str, str] | None = None) -> Path:
    """The library of this user: ``$XDG_DATA_HOME/rdagent-sota/library``, ``~/.local/share`` without the variable."""
    variables = os.environ if environ is None else environ
    # An empty or relative value is to be ignored (XDG Base Directory Specification).
    data = Path(variables.get("XDG_DATA_HOME") or "")
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "rdagent-sota" / "library"


def document_path(folder: Path, factor_id: str) -> Path:
    """Where a factor's document is."""
    return folder / f"{factor_id}.json"


def values_path(folder: Path, factor_id: str) -> Path:
    """Where a factor's values are."""
    return folder / f"{factor_id}.parquet"


def is_plain_file(path: Path) -> bool:
    """Whether there is a file, and not a link or anything else."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def read_factor(folder: Path, factor_id: str) -> LibraryFactor:
    """The document of a factor.

    Raises:
        SotaError: ``library-damaged``.
    """
    path = document_path(folder, factor_id)
    try:
        data = read_bounded(path, _LARGEST)
        if len(data) > _LARGEST:
            raise damaged(path, f"it has more than {_LARGEST >> 20} MB")
        factor = LibraryFactor.model_validate_json(data)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise damaged(path, f"{where}: {detail['msg']}" if where else detail["msg"]) from None
    if factor.id != factor_id or factor.id != make_id(factor.code_sha256, factor.fingerprint):
        raise damaged(path, "what it says of code and values does not give its name")
    if factor.code is not None and hash_text(factor.code) != factor.code_sha256:
        raise damaged(path, "its code is not the one of the hash")
    return factor


def read_library(folder: Path) -> tuple[list[LibraryFactor], list[Problem]]:
    """Every factor of a library, by hash, and what cannot be read.

    Raises:
        SotaError: ``library-not-found``, ``library-too-large``.
    """
    factors: list[LibraryFactor] = []
    problems: list[Problem] = []
    for factor_id in _list_ids(folder):
        try:
            factors.append(read_factor(folder, factor_id))
        except SotaError as error:
            problems += error.problems
    return factors, problems


def find_factor(folder: Path, wanted: str) -> LibraryFactor:
    """The factor of this hash (or its first letters, six at least) or of this name.

    Raises:
        SotaError: ``library-no-such-factor``, ``library-ambiguous``, ``library-not-found``, ``library-damaged``.
    """
    (found,) = find_factors(folder, [wanted])
    return found


def find_factors(folder: Path, wanted: Iterable[str]) -> list[LibraryFactor]:
    """Several such factors; for names every document is read, once for all of them.

    Raises:
        SotaError: As `find_factor`.
    """
    ids, read = _list_ids(folder), cache(partial(read_library, folder))
    return [_find(folder, each, ids, read) for each in wanted]


def _find(
    folder: Path,
    wanted: str,
    ids: Sequence[str],
    read: Callable[[], tuple[list[LibraryFactor], list[Problem]]],
) -> LibraryFactor:
    if len(wanted) >= _FEWEST and set(wanted) <= _HASH:
        found = [each for each in ids if each.startswith(wanted)]
        if len(found) == 1:
            return read_factor(folder, found[0])
    factors, problems = read()
    named = [factor for factor in factors if wanted in {each.name for each in factor.lineage}]
    named = named or [factor for factor in factors if len(wanted) >= _FEWEST and factor.id.startswith(wanted)]
    if len(named) == 1:
        return named[0]
    if named:
        listed = ", ".join(f"{factor.id[:SHORT]} of {factor.lineage[0].task_id}" for factor in named)
        raise SotaError(
            "library-ambiguous",
            f"{len(named)} factors of {folder} are called {wanted}: {listed}.",
            "Name the one that is meant by its hash.",
        )
    unread = f" Documents that cannot be read: {len(problems)}." if problems else ""
    raise SotaError(
        "library-no-such-factor",
        f"{folder} has no factor with the name or hash {wanted}.{unread}",
        f"See what there is: rdagent-sota library list --library {folder}",
    )


def open_values(folder: Path, factor: LibraryFactor) -> FactorTable:
    """The values of a factor, held to its hash.

    Raises:
        SotaError: ``library-damaged``.
        TableError: They cannot be read.
    """
    path = values_path(folder, factor.id)
    if not is_plain_file(path):
        raise damaged(path, "it is not there, or no plain file")
    table = read_factor_table(path)
    if table.names != (VALUE,) or table.fingerprint != factor.fingerprint:
        raise damaged(path, "its values are not those of its hash")
    return table


def damaged(path: Path, why: str) -> SotaError:
    """The error for a file of a library that is not as it was written."""
    return SotaError(
        "library-damaged",
        f"{path} cannot be used: {why}.",
        "Move it away, and add the factor's log again.",
    )


def _list_ids(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise SotaError(
            "library-not-found",
            f"{folder} is not a library of factors: {error.strerror or error}.",
            "Make one with `rdagent-sota library add LOG`, or name its folder with --library.",
        ) from None
    ids = sorted(
        name[:-5] for name in names if len(name) == 69 and name.endswith(".json") and set(name[:-5]) <= _HASH
    )
    if len(ids) > _MOST:
        raise SotaError(
            "library-too-large",
            f"{folder} has {len(ids):,} factors; {_MOST:,} is the limit.",
            "Keep several libraries, and name one with --library.",
        )
    return ids
