"""`sota_seal.json` in a run's log: from which day on the run was to see nothing."""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import SotaError

SEAL_NAME = "sota_seal.json"
ROW = re.compile(
    # A day, at midnight or without a time; perhaps a name; a number. That is a row of a table that was printed.
    r"^[ \t|>(\[]*(\d{4}-\d{2}-\d{2})(?:[ T]00:00:00(?:\.0+)?)?(?![ T]?\d{0,2}:\d\d)[ \t|,;]+"
    r"(?:[^\s|,;]+[ \t|,;]+)?-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?=[ \t|,;\]]|$)",
    re.MULTILINE,
)
"""A row of a printed table in a text, by its day."""
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
        example_rows: Rows of made-up tables with such days in RD-Agent's own prompts.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = _SCHEMA_VERSION
    sealed_from: date
    key: str
    folders: dict[str, str] = {}
    wall: bool
    notices: tuple[str, ...] = ()
    example_rows: tuple[str, ...] = ()
    written_at: datetime


def write_seal(log: Path, record: SealRecord) -> None:
    """Write a run's seal into its log folder.

    Raises:
        SotaError: ``cannot-write``.
    """
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
