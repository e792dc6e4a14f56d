"""`sota_seal.json` in a run's log: from which day on the run was to see nothing."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Mapping

SEAL_NAME = "sota_seal.json"
_SCHEMA_VERSION = 1
_LARGEST = 1 << 20


class SealRecord(BaseModel):
    """What a run's log says of its seal.

    Attributes:
        sealed_from: The first day that the run was not to see.
        key: Of the sealed copy: the day and the state of the data.
        folders: Each folder that was sealed, with its copy.
        wall: Whether the run's programs could not reach the originals either.
        notices: What was left out of the copy, or is in it whole.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = _SCHEMA_VERSION
    sealed_from: date
    key: str
    folders: dict[str, str] = {}
    wall: bool
    notices: tuple[str, ...] = ()
    written_at: datetime


def write_seal(
    log: Path, day: date, key: str, folders: Mapping[Path, Path], notices: tuple[str, ...], *, wall: bool
) -> None:
    """Write a run's seal into its log folder.

    Raises:
        SotaError: ``cannot-write``.
    """
    record = SealRecord(
        sealed_from=day,
        key=key,
        folders={str(source): str(copy) for source, copy in folders.items()},
        wall=wall,
        notices=notices,
        written_at=datetime.now(timezone.utc),
    )
    log.mkdir(parents=True, exist_ok=True)
    write_text_atomically(log / SEAL_NAME, record.model_dump_json(indent=2) + "\n")


def read_seal(log: Path) -> SealRecord | None:
    """A run's seal; None where its log has none.

    Raises:
        SotaError: ``seal-record-unreadable``.
    """
    path = log / SEAL_NAME
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError("it is far larger than such a record")
        return SealRecord.model_validate(json.loads(content))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        reason = "it is no record of a seal" if isinstance(error, ValidationError) else str(error)
        raise SotaError(
            "seal-record-unreadable",
            f"{path} cannot be read: {reason.splitlines()[0]}.",
            "It says from which day on the run's data were sealed. Copy it again from where the log was written.",
        ) from error
