"""Coverage-guided fuzzing: one target for each reader of what strangers may have written.

    python -m tests.proof.fuzz READER [SECONDS] [--folder FOLDER]

It needs atheris (the extra ``proof``), which has wheels for CPython 3.11 to 3.13 on Linux. What breaks a reader is kept
in the folder, and given to the reader again by ``python -m tests.proof.fuzz READER FILE``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.proof.report import Row, timed

PART = "fuzz"
_SECONDS = 30
_MEMORY_MB = 2048
_AT_ONCE = 2
_LONGEST_INPUT = 1 << 16


def measure(folder: Path) -> list[Row]:
    """Every reader for some seconds, two at a time."""
    from tests.proof.readers import READERS

    if importlib.util.find_spec("atheris") is None:
        why = "atheris is missing: pip install 'rdagent-sota-patch[proof]'"
        return [Row(PART, name, 0, None, why) for name in READERS]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda name: timed(lambda: _in_a_process(name, folder / name)), READERS))


def _in_a_process(name: str, folder: Path) -> Row:
    folder.mkdir(parents=True)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.proof.fuzz",
        name,
        str(_SECONDS),
        "--folder",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    runs = re.search(r"Done (\d+) runs in", done.stderr)
    reached = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode or runs is None:
        return Row(PART, name, 1, False, f"{folder}: {done.stderr.strip()[-400:]}")
    found = f"{reached[0]} branches reached by good inputs, {reached[-1]} in the end" if reached else ""
    return Row(PART, name, int(runs[1]), True, found)


def fuzz(name: str, seconds: str, folder: Path) -> None:
    """One target, in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["rdagent_sota_patch"]):
        from tests.proof.readers import READERS

        reader = READERS[name]
        os.environ.update(HOME=str(folder), COLUMNS="200")
        os.chdir(folder)
        corpus = folder / "corpus"
        corpus.mkdir()
        seeds = reader.seeds(folder)
        for number, seed in enumerate(seeds):
            (corpus / f"{number:03}").write_bytes(seed)
            # What the reader imports when it reads is to be instrumented, too.
            with suppress(*reader.refusals):
                reader.read(folder, seed)

    def read(data: bytes) -> None:
        with suppress(*reader.refusals):
            reader.read(folder, data)

    if Path(seconds).is_file():
        return read(Path(seconds).read_bytes())
    options = [
        *(f"-max_total_time={seconds}", "-seed=20", f"-rss_limit_mb={_MEMORY_MB}", "-timeout=20"),
        *(f"-max_len={_LONGEST_INPUT}", f"-artifact_prefix={folder}/", "-print_final_stats=1"),
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], read)
    atheris.Fuzz()
    return None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.fuzz")
    parser.add_argument("reader")
    parser.add_argument("seconds", nargs="?", default=str(_SECONDS), help="or a file to read once")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    what = str(Path(options.seconds).absolute()) if Path(options.seconds).is_file() else options.seconds
    fuzz(options.reader, what, (options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))).absolute())


if __name__ == "__main__":
    main()
