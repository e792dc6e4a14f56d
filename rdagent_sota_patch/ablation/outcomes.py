"""Outcomes on the disk: parquet files beside each other, each written whole, so that a killed ablation goes on."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_patch.ablation.fitting import Outcome
from rdagent_sota_patch.atomic import hold, replace_atomically, write_text_atomically
from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

RECORD = "ablation.json"
LOCK = "ablation.lock"
_PARTS = "outcomes-*.parquet"
_SCHEMA = pa.schema([
    ("key", pa.string()), ("ic", pa.float64()), ("rank_ic", pa.float64()), ("top_excess", pa.float64()),
    ("days", pa.int32()), ("rounds", pa.int32()), ("seconds", pa.float64()),
])  # fmt: skip


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make a folder for outcomes, if it is not there, and keep other ablations out of it; a killed one holds nothing.

    Raises:
        SotaError: ``ablation-running``, ``cannot-write``.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot write {path}: {error.strerror or error}.",
            "Name another folder with --out.",
        ) from error
    try:
        if not hold(path, descriptor):
            raise SotaError(
                "ablation-running",
                f"Another ablation is writing to {folder}.",
                "Wait for it, or name another folder with --out.",
            )
        yield
    finally:
        os.close(descriptor)


class OutcomeFolder:
    """The outcomes of one ablation.

    Attributes:
        folder: Must exist.
        known: By key, what is there.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Open it, or begin it with a record of what is ablated.

        Raises:
            SotaError: ``ablation-changed``: its outcomes are of something else; ``outcomes-unreadable``,
                ``cannot-write``.
        """
        self.folder = folder
        self._require_same(record)
        self.known = {outcome.key: outcome for path in sorted(folder.glob(_PARTS)) for outcome in _read(path)}

    def _require_same(self, record: Mapping[str, Any]) -> None:
        path = self.folder / RECORD
        wanted = json.loads(json.dumps(record))
        if not path.exists():
            write_text_atomically(path, f"{json.dumps(wanted, indent=2, ensure_ascii=False)}\n")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise _unreadable(path, error) from error
        if differing:
            raise SotaError(
                "ablation-changed",
                f"{self.folder} holds the outcomes of an ablation of something else: other {', '.join(differing)}. The "
                "factor table, the market data or the run have changed since.",
                "Name another folder with --out; nothing in this one was changed.",
            )

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Keep some more, in a file of their own.

        Raises:
            SotaError: ``cannot-write``.
        """
        if not outcomes:
            return
        name = hashlib.sha256("".join(sorted(outcome.key for outcome in outcomes)).encode()).hexdigest()[:16]
        table = pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=_SCHEMA)
        with replace_atomically(self.folder / f"outcomes-{name}.parquet", durable=False) as temporary:
            pq.write_table(table, str(temporary))
        self.known.update({outcome.key: outcome for outcome in outcomes})


def _read(path: Path) -> Iterable[Outcome]:
    try:
        table = pq.read_table(str(path))
        if not table.schema.equals(_SCHEMA):
            raise ValueError(f"its columns are {', '.join(table.schema.names)}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return (Outcome(**row) for row in table.to_pylist())


def _unreadable(path: Path, error: Exception) -> SotaError:
    return SotaError(
        "outcomes-unreadable",
        f"{path} cannot be read as what an ablation left: {error}.",
        "Delete that file: what it held is computed again. Or name another folder with --out.",
    )
