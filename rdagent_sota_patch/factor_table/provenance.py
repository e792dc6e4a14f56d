"""Where a saved factor table comes from, kept as JSON in the parquet footer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from rdagent_sota_patch import __version__
from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.canonical import rewrite_table
from rdagent_sota_patch.factor_table.reading import open_parquet
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 1
_KEY = b"rdagent_sota_patch"
# A factor's code is a few kB. The file may be a stranger's: what is larger is not parsed.
_LARGEST = 16 << 20


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class FactorOrigin:
    """One factor of a saved table.

    Attributes:
        name: Its column.
        code: Text of ``factor.py``; None when it is not known.
        loop: The loop that proposed it; None when it is not known.
        task_id: The run that mined it; None in the table of a single run, which says so itself.
        workspace: That loop's workspace, as the run recorded it; likewise.
        code_sha256: Of ``code`` in UTF-8; likewise.
        renamed_from: What it is called in its run, where another factor of the table has that name.
    """

    name: str
    description: str = ""
    formulation: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None
    loop: int | None = None
    task_id: str | None = None
    workspace: str | None = None
    code_sha256: str | None = None
    renamed_from: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a factor table comes from.

    Attributes:
        task_id: The run: name of its log folder; empty for a table of several, where each factor has its own.
        loop: Loop of the experiment that the table is of; None for a table of several runs.
        snapshot: The session snapshot it was read from; empty when the run itself wrote the table.
        factors: The factors, with what is known of each.
        metrics: Qlib's metrics of that experiment by name.
        fingerprint: Fingerprint of the content; ``save_table`` fills it in.
        written_at: Time of writing, UTC.
        package_version: Version of this package that wrote it.
        schema_version: Version of this record.
    """

    task_id: str
    loop: int | None
    snapshot: str = ""
    factors: tuple[FactorOrigin, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    written_at: AwareDatetime = field(default_factory=_now)
    package_version: str = __version__
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Write as JSON, as in the parquet footer."""
        return json.dumps(
            {
                "schema_version": self.schema_version,
                "task_id": self.task_id,
                "loop": self.loop,
                "snapshot": self.snapshot,
                "factors": [_factor_to_plain(factor) for factor in self.factors],
                "metrics": {name: _number_to_plain(value) for name, value in self.metrics.items()},
                "fingerprint": self.fingerprint,
                "written_at": self.written_at.astimezone(timezone.utc).isoformat(),
                "package_version": self.package_version,
            }
        )


def save_table(source: Path | FactorTable, target: Path, provenance: Provenance) -> FactorTable:
    """Write a factor table with its provenance to ``target``, atomically and in RD-Agent's layout.

    The values are read back and compared before the new file takes the target's place.

    Args:
        source: A usable factor table in any layout, or one that was read already; it is only read, and may be
            the target itself.
        target: The file to write.
        provenance: Its ``fingerprint`` is replaced by the table's.

    Returns:
        The table at ``target``.

    Raises:
        TableError: The source is unusable or was changed meanwhile; ``provenance-too-large``.
        SotaError: ``cannot-write``.
    """
    table = source if isinstance(source, FactorTable) else read_factor_table(source)
    return rewrite_table(
        table, target, as_metadata(replace(provenance, fingerprint=table.fingerprint), target)
    )


def as_metadata(provenance: Provenance, target: Path) -> Mapping[bytes, bytes]:
    """A provenance as it is in the footer of ``target``.

    Raises:
        TableError: ``provenance-too-large``.
    """
    data = provenance.to_json().encode("utf-8")
    if len(data) > _LARGEST:
        raise TableError(
            "provenance-too-large",
            f"The provenance of {target} has {len(data) >> 20} MB; {_LARGEST >> 20} MB is the limit.",
            "Look for a factor whose code holds data.",
        )
    return {_KEY: data}


def read_provenance(path: Path) -> Provenance | None:
    """Read the provenance of a saved table; None for a parquet file that has none, such as RD-Agent's own.

    Raises:
        TableError: ``provenance-unreadable``, ``table-not-found`` or ``table-unreadable``.
    """
    with open_parquet(path) as file:
        data: bytes | None = (file.metadata.metadata or {}).get(_KEY)
    if data is None:
        return None
    if len(data) > _LARGEST:
        raise _unreadable(path, f"it has {len(data) >> 20} MB, and {_LARGEST >> 20} MB is the limit")
    version_reader, reader = _readers()
    try:
        version = version_reader.validate_json(data).schema_version
        if version != SCHEMA_VERSION:
            raise _unreadable(
                path, f"its version is {version}, and this package reads version {SCHEMA_VERSION}"
            )
        return reader.validate_json(data)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise _unreadable(path, f"{where}: {detail['msg']}" if where else detail["msg"]) from None


@dataclass(frozen=True)
class _Version:
    schema_version: int


@cache
def _readers() -> tuple[TypeAdapter[_Version], TypeAdapter[Provenance]]:
    return TypeAdapter(_Version), TypeAdapter(Provenance)


_OF_SEVERAL = ("task_id", "workspace", "code_sha256", "renamed_from")


def _factor_to_plain(factor: FactorOrigin) -> dict[str, Any]:
    given = {name: getattr(factor, name) for name in _OF_SEVERAL}
    return {
        "name": factor.name,
        "description": factor.description,
        "formulation": factor.formulation,
        "variables": dict(factor.variables),
        "code": factor.code,
        "loop": factor.loop,
        **{name: value for name, value in given.items() if value is not None},
    }


def _number_to_plain(value: float) -> float | str:
    # JSON has no NaN; pydantic reads these spellings as numbers.
    return value if math.isfinite(value) else str(value)


def _unreadable(path: Path, reason: str) -> TableError:
    return TableError(
        "provenance-unreadable",
        f"{path}: the record of where the factors come from cannot be read: {reason}.",
        "The factors themselves may be fine; save them again from their log to renew the record.",
    )
