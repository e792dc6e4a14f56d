"""Which sealed days were opened, for what, when and how often: a line of JSON for each opening, only ever added to."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rdagent_sota_patch.atomic import sync_folder
from rdagent_sota_patch.errors import SotaError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Sequence


class Opening(BaseModel):
    """One opening of sealed days.

    Attributes:
        opened_at: In ISO 8601, UTC.
        bundle: Its folder then.
        manifest_sha256: What the bundle was, by its manifest, which lists the hash of each of its files.
        sealed_from, first_day, last_day, days: The seal, and the days that were scored.
        market, benchmark: Of the days.
        figures: On the sealed days.
        backtest: The same figures of the run's own back-test, as far as they are known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    opened_at: str
    bundle: str
    manifest_sha256: str
    task_id: str
    loop: int
    sealed_from: str
    first_day: str
    last_day: str
    days: int
    market: str
    benchmark: str
    figures: dict[str, Any]
    backtest: dict[str, float]

    def overlaps(self, other: Opening) -> bool:
        """Whether both saw a day of one market."""
        return (
            self.market == other.market
            and self.first_day <= other.last_day
            and other.first_day <= self.last_day
        )


def default_ledger() -> Path:
    """Where openings are written if nothing else is said: beside RD-Agent's signing key, one for all bundles."""
    return Path.home() / ".rdagent" / "sota_unsealed.jsonl"


def read_openings(ledger: Path) -> tuple[Opening, ...]:
    """All openings, in their order; none where there is no ledger yet.

    Raises:
        SotaError: ``ledger-unreadable``: a line that is no opening might be one.
    """
    try:
        lines = ledger.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise _unreadable(ledger, str(error)) from error
    openings = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            openings.append(Opening.model_validate(json.loads(line)))
        except (ValueError, RecursionError, ValidationError):
            raise _unreadable(ledger, f"line {number} is no opening") from None
    return tuple(openings)


def add_opening(ledger: Path, opening: Opening) -> tuple[Opening, ...]:
    """Add a line, and wait until the disk has it.

    Returns:
        The openings before it.

    Raises:
        SotaError: ``ledger-unreadable``, ``cannot-write``.
    """
    # In ASCII: some characters of a folder's name end a line for some readers, or are no text at all.
    line = f"{json.dumps(opening.model_dump())}\n".encode("ascii")
    try:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise _cannot_write(ledger, error) from error
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        before = read_openings(ledger)
        size = os.fstat(descriptor).st_size
        # A line that a full disk cut off would hide the next one.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            raise _unreadable(ledger, "its last line is not whole")
        if os.write(descriptor, line) != len(line):
            os.ftruncate(descriptor, size)
            raise SotaError("cannot-write", f"Cannot write {ledger}: the disk is full.", "Make room.")
        os.fsync(descriptor)
        if not size:
            sync_folder(ledger.parent)
    except OSError as error:
        raise _cannot_write(ledger, error) from error
    finally:
        os.close(descriptor)
    return before


def count_openings(before: Sequence[Opening], opening: Opening) -> tuple[int, int]:
    """How often days of this one were opened before: with this very bundle, and with any."""
    same_days = [each for each in before if each.overlaps(opening)]
    same = [each for each in same_days if each.manifest_sha256 == opening.manifest_sha256]
    return len(same), len(same_days)


def _unreadable(ledger: Path, why: str) -> SotaError:
    return SotaError(
        "ledger-unreadable",
        f"{ledger}, the ledger of opened days, cannot be read: {why}.",
        "Repair it, or move it away and keep it; --ledger names another one.",
    )


def _cannot_write(ledger: Path, error: OSError) -> SotaError:
    return SotaError(
        "cannot-write",
        f"Cannot write {ledger}: {error.strerror or error}.",
        "Sealed days are opened only where that can be written down. --ledger names another place.",
    )
