"""The proof: ``python -m tests.proof [--only PART …] [--folder FOLDER] [--json]``; exit code 1 if something fails."""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from tests.proof.report import Row, render

PARTS = ("zoo", "mutation", "faults", "hostile", "fuzz", "concurrency", "scale")
_AT_ONCE = 2
"""Parts: the two longest are begun first, and the others follow as these end."""
_ON_DISK = frozenset({"scale", "concurrency"})
"""Too large for memory, or of programs that are at home on a disk."""
_MEMORY = Path("/dev/shm")


def main() -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    parser.add_argument("--folder", type=Path, help="where to work; the scale part needs 20 GB of disk")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the table")
    options = parser.parse_args()
    if len(options.only) == 1:
        rows = _run(options.only[0], options.folder)
    else:
        start = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rows = [
                row
                for found in pool.map(lambda part: _in_a_process(part, options), options.only)
                for row in found
            ]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        _say(
            f"all: {(time.perf_counter() - start) / 60:.1f} min, "
            f"{(used.ru_utime + used.ru_stime) / 60:.1f} min of processors"
        )
    if options.json:
        print(json.dumps([row.to_plain() for row in rows], indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 150).print(render(rows))
    return 1 if any(row.passed is False for row in rows) else 0


def _in_a_process(part: str, options: argparse.Namespace) -> list[Row]:
    start = time.perf_counter()
    where = [] if options.folder is None else ["--folder", str(options.folder)]
    command = [sys.executable, "-m", "tests.proof", "--only", part, "--json", *where]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    _say(f"{part}: {time.perf_counter() - start:.0f} s")
    try:
        return [Row(**row) for row in json.loads(done.stdout)]
    except ValueError:
        return [Row(part, "the part itself", 0, False, f"ended with {done.returncode}")]


def _say(text: str) -> None:
    Console(stderr=True).print(text)


def _run(part: str, folder: Path | None) -> list[Row]:
    where = folder
    # Where nothing waits for a disk, faults and inputs are tried ten times as fast; the calls are the same.
    if where is None and part not in _ON_DISK and _MEMORY.is_dir():
        where = _MEMORY
    module = importlib.import_module(f"tests.proof.{part}")
    with tempfile.TemporaryDirectory(prefix=f"proof-{part}-", dir=where) as place:
        try:
            found: list[Row] = module.measure(Path(place).resolve() / "work")
        except Exception as error:  # noqa: BLE001 - one part that breaks off does not take the others with it
            return [Row(part, "the part itself", 0, False, f"{type(error).__name__}: {error}"[:600])]
    return found


if __name__ == "__main__":
    sys.exit(main())
