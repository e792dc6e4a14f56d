"""The seal of this process: whether one is in force, what a run's log says of it, and which SOTA factors it admits.

Imports nothing heavy: it is asked at the start of every run, sealed or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SettingsError, SourceError, TableError
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.sealing.seal_record import ROW, SealRecord, read_seal, write_seal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.factor_table.table import FactorTable
    from rdagent_sota_patch.sealing.sealed_folder import SealedData

SEAL = "SOTA_SEAL_FROM"
TABLE_STORE = "sota_tables"
"""Where tables that were made here are kept, beside RD-Agent's workspaces."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The seal in force in this process.

    Attributes:
        day: The first day that is nowhere.
        wall: Whether the programs of the run cannot reach the originals.
    """

    day: date
    data: SealedData
    wall: bool

    @property
    def folders(self) -> dict[Path, Path]:
        """Each original with its copy."""
        return {**self.data.providers, **self.data.data_folders}


class _InForce:
    seal: Seal | None = None


def put_in_force(seal: Seal) -> None:
    """From now on this process is sealed."""
    _InForce.seal = seal


def seal_in_force() -> Seal | None:
    """The seal of this process; None where nothing is sealed."""
    return _InForce.seal


def sealed_place(provider: Path) -> Path:
    """The sealed copy of a Qlib provider folder, where one is in force; else the folder itself."""
    seal = seal_in_force()
    return provider if seal is None else seal.data.providers.get(provider.resolve(), provider)


def record_seal(log: Path, *, asked: date | None, resumed: bool) -> None:
    """Write the seal in force into a run's log; hold a resumed run to the seal that it began with.

    Args:
        log: The run's log folder.
        asked: ``SOTA_SEAL_FROM`` as it is now.
        resumed: Whether a step of the run was done before.

    Raises:
        SourceError: ``seal-changed``.
        SettingsError: ``seal-changed``: it was set after the run's loop was made, which saw all days.
        SotaError: ``cannot-write``, ``seal-record-unreadable``.
    """
    seal, begun = seal_in_force(), read_seal(log)
    day = None if seal is None else seal.day
    if asked is not None and day != asked:
        raise SettingsError(
            "seal-changed",
            f"{SEAL} is {asked}, and this run's loop was made {f'sealed from {day} on' if day else 'without a seal'}.",
            "Set it before the run's process starts.",
        )
    was = None if begun is None else begun.sealed_from
    if day != was and (begun is not None or resumed):
        raise SourceError(
            "seal-changed",
            f"The run of {log} was begun {f'sealed from {was} on' if was else 'without a seal'}, and would go on "
            f"{f'sealed from {day} on' if day else 'without one'}.",
            f"Set {SEAL}={was}, or start a new run." if was else f"Unset {SEAL}, or start a new run.",
        )
    if seal is not None and begun is None:
        record = SealRecord(
            sealed_from=seal.day,
            key=seal.data.key,
            folders={str(source): str(copy) for source, copy in seal.folders.items()},
            wall=seal.wall,
            notices=seal.data.notices,
            example_rows=tuple(_example_rows(seal.day)),
            written_at=datetime.now(timezone.utc),
        )
        write_seal(log, record)


def _example_rows(day: date) -> Iterator[str]:
    """Rows of tables with sealed days in RD-Agent's own prompts, which show the LLM the form of a factor's values."""
    for file in sorted((find_host().folder / "scenarios" / "qlib").rglob("*.yaml")):
        for row in ROW.finditer(file.read_text(encoding="utf-8", errors="replace")):
            if row[1] >= str(day):
                yield row[0].strip()


def require_sealed_source(source: Source, table: FactorTable | None, day: date) -> None:
    """Refuse SOTA factors that were chosen with sealed days in view.

    A table is not cut: its factors would still be those that did well on these days.

    Args:
        source: Where they come from.
        table: Their table; None where it is gone and will be rebuilt, on sealed data.
        day: The first sealed day.

    Raises:
        TableError: ``seal-table-reaches``.
    """
    hint = f"Run the factor stage with {SEAL}={day} as well, and name its log."
    if table is not None and table.end >= day:
        raise TableError(
            "seal-table-reaches",
            f"The SOTA factors of {source.path} have days up to {table.end}; this run is sealed from {day} on. They "
            "were chosen with these days in view.",
            hint,
        )
    if source.table is None and source.session is not None:
        record = read_seal(source.session.log)
        if record is None or record.sealed_from > day:
            raise TableError(
                "seal-table-reaches",
                f"The table of {source.path} is gone, and its log does not say that the run was sealed from {day} on: "
                "its factors may have been chosen with sealed days in view.",
                hint,
            )
