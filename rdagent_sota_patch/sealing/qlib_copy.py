"""A copy of a Qlib provider folder that ends before a day: calendars, instruments and features, each cut.

The format is that of ``qlib/data/storage/file_storage.py``: a calendar is a day or a minute a line; an instrument's
line is its name, its first and its last day; a ``.bin`` is little-endian float32, the place of its first value in the
calendar and then the values.
"""

from __future__ import annotations

import struct
from datetime import date
from pathlib import Path

from rdagent_sota_patch.errors import SotaError

_FUTURE = "_future"
_HINT = "Name a Qlib provider folder with calendars/day.txt, instruments and features."


def cut_provider(source: Path, target: Path, day: date) -> tuple[str, ...]:
    """Write what ``source`` has of the days before ``day`` to a new folder ``target``.

    Linear in the size of what is kept. Each value is copied as it is.

    Returns:
        Entries of ``source`` that are not in the copy, since nothing here can cut them: point-in-time data, caches.

    Raises:
        SotaError: ``seal-data-unreadable``: no such folder, a calendar out of order, or no day before ``day``.
    """
    try:
        counts = _cut_calendars(source / "calendars", target / "calendars", day)
        last = (target / "calendars" / "day.txt").read_text(encoding="utf-8").splitlines()[-1][:10]
        _cut_instruments(source / "instruments", target / "instruments", day, last)
        left_out = _cut_features(source / "features", target / "features", counts)
        known = {"calendars", "instruments", "features"}
        return (*sorted(each.name for each in source.iterdir() if each.name not in known), *left_out)
    except OSError as error:
        raise _unreadable(f"{error.filename or source}: {error.strerror or error}") from error


def _cut_calendars(source: Path, target: Path, day: date) -> dict[str, int]:
    """Number of entries kept, by frequency."""
    target.mkdir(parents=True)
    counts = {}
    for file in sorted(source.glob("*.txt")):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        before = [_day(line, file) < day for line in lines]
        kept = before.count(True)
        if not all(before[:kept]):
            raise _unreadable(f"{file} is not in the order of its days")
        # That a day is to come is no value of it; but nothing of it is to be in any file.
        _write(target / file.name, lines[:kept])
        if not file.stem.endswith(_FUTURE):
            counts[file.stem.lower()] = kept
    if not counts.get("day"):
        raise _unreadable(f"{source / 'day.txt'} has no day before {day}")
    return counts


def _cut_instruments(source: Path, target: Path, day: date, last: str) -> None:
    target.mkdir(parents=True)
    for file in sorted(source.glob("*.txt")):
        kept = []
        for line in file.read_text(encoding="utf-8").splitlines():
            fields = line.split("\t")
            if len(fields) < 3:
                if line.strip():
                    raise _unreadable(f"{file}: {line!r} is not a name, a first and a last day")
                continue
            if _day(fields[1], file) < day:
                end = fields[2] if _day(fields[2], file) < day else last
                kept.append("\t".join([*fields[:2], end, *fields[3:]]))
        _write(target / file.name, kept)


def _cut_features(source: Path, target: Path, counts: dict[str, int]) -> list[str]:
    target.mkdir(parents=True)
    left_out = []
    for folder in sorted(source.iterdir()):
        if not folder.is_dir():
            left_out.append(f"features/{folder.name}")
            continue
        copy = target / folder.name
        copy.mkdir()
        for file in sorted(folder.iterdir()):
            # close.day.bin: a field, the calendar that its values follow.
            frequency = Path(file.stem).suffix[1:].lower()
            if file.suffix == ".bin" and frequency in counts:
                _cut_values(file, copy / file.name, counts[frequency])
            else:
                left_out.append(f"features/{folder.name}/{file.name}")
    return left_out


def _cut_values(source: Path, target: Path, days: int) -> None:
    with source.open("rb") as file:
        header = file.read(4)
        if len(header) < 4:
            return
        (start,) = struct.unpack("<f", header)
        if not (start >= 0 and start == int(start)):
            raise _unreadable(f"{source} begins at {start}, which is no place in a calendar")
        count = days - int(start)
        if count > 0:
            target.write_bytes(header + file.read(4 * count))


def _day(text: str, file: Path) -> date:
    try:
        return date.fromisoformat(text.strip()[:10])
    except ValueError:
        raise _unreadable(f"{file}: {text!r} does not begin with a day like 2020-01-31") from None


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _unreadable(what: str) -> SotaError:
    return SotaError("seal-data-unreadable", f"Qlib's data cannot be sealed: {what}.", _HINT)
