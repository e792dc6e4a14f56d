"""Hostile inputs by kind, each read in a fork of its own: nothing runs, nothing is imported, all is bounded.

    python -m tests.proof.hostile FOLDER READER CASES

The inputs are good ones that were changed: bytes, lengths, cuts, repetitions, halves of two put together. Which ones,
the seed fixes. Jail programs and HTTP requests are the ordinary tests' own, run here once more and counted.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tests.proof.injecting import Outcome, import_like, run_forked
from tests.proof.readers import CANARY, READERS, TRAP, Reader
from tests.proof.report import Row, judge, timed

PART = "hostile"
_SEED = 20
_CASES = {"session": 4000, "table": 3000, "bundle": 1500, "recorder": 1500}
_FEWER = 1000
_AT_ONCE = 2
_SECONDS = 10.0
"""Of the processor, for one input of some kilobytes."""
_GROWTH = 512
"""MB, above what the process has before it reads."""

_FORBIDDEN = (
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "os.spawn",
        "subprocess.",
        "socket.",
        "pty.",
        "ctypes.",
    ),
    *("exec", "compile", "pickle.find_class", "webbrowser.", "urllib.", "shutil.", "os.remove", "os.rename"),
)
_OF_THE_HARNESS = (
    "shutil.copytree",
    "shutil.rmtree",
    "shutil.copyfile",
    "shutil.copymode",
    "shutil.copystat",
)
"""Its copies of a bundle."""
_TESTS = {
    "sessions that act, once more": ("tests/hostile", "tests/sessions/test_opcodes.py"),
    "tables that unpack to gigabytes": ("tests/factor_table/test_pages.py",),
    "jail programs": ("tests/sandbox/test_hostile.py", "tests/sandbox/test_inside.py"),
    "requests and lying sessions": (
        "tests/server/test_hostile.py",
        "tests/server/test_hostile_http.py",
        "tests/server/test_lying_sessions.py",
    ),
}


def measure(folder: Path) -> list[Row]:
    """All readers, two at a time, each in a process of its own; then the tests."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = list(pool.map(lambda name: _in_a_process(name, folder / name), READERS))
    return [
        timed(lambda: try_watch(folder)),
        *rows,
        *(timed(lambda kind=kind: run_tests(kind, _TESTS[kind])) for kind in _TESTS),
    ]


def _in_a_process(name: str, folder: Path) -> Row:
    folder.mkdir(parents=True)
    cases = str(_CASES.get(name, _FEWER))
    command = [sys.executable, "-W", "ignore", "-m", "tests.proof.hostile", str(folder), name, cases]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Row(PART, name, 0, False, f"broke off: {done.stderr.strip()[-600:]}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def run_tests(kind: str, paths: tuple[str, ...], part: str = PART, marker: str = "") -> Row:
    """Some of the ordinary tests, as one row."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *paths,
        *(["-m", marker] if marker else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    counts = {
        name: int(number)
        for number, name in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)
    }
    if not counts and done.returncode == _NOTHING_COLLECTED:
        return Row(part, kind, 0, None, "there are none")
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)", done.stdout, re.MULTILINE)
    said = f"{counts.get('skipped', 0)} skipped" if counts.get("skipped") else ""
    if done.returncode and not failed:
        failed = [done.stdout.strip()[-300:]]
    return judge(part, kind, counts.get("passed", 0) + len(failed), failed, said)


_NOTHING_COLLECTED = 5


def try_reader(name: str, folder: Path, cases: int) -> Row:
    """One reader on so many changed inputs."""
    reader = READERS[name]
    (folder / f"{TRAP}.py").write_text(f"open({CANARY!r}, 'w')\n", encoding="utf-8")
    sys.path.insert(0, str(folder))
    os.environ.update(HOME=str(folder), COLUMNS="200")
    os.chdir(folder)
    seeds = _seeds(reader, folder)
    # With the imports done, whatever is imported later a file asked for.
    for seed in seeds:
        import_like(lambda seed=seed: _accept(reader, folder, seed))
    before = set(folder.iterdir())
    failures, read, seconds, memory = [], 0, 0.0, 0.0
    chance = random.Random(f"{_SEED} {name}")
    for number in range(cases):
        data = change(chance, seeds)
        outcome, used = _measured(lambda data=data: _watched(reader, folder, data))
        read += not outcome.foreign and not outcome.killed
        seconds, memory = max(seconds, used[0]), max(memory, used[1])
        if outcome != Outcome() or used[0] > _SECONDS or (folder / CANARY).exists():
            (folder / f"case-{number}").write_bytes(data)
            failures.append(f"case-{number}: {outcome}, {used[0]:.1f} s")
            (folder / CANARY).unlink(missing_ok=True)
            before.add(folder / f"case-{number}")
    if new := sorted(path.name for path in set(folder.iterdir()) - before):
        failures.append(f"left behind: {new[:3]}")
    (folder / "failures.txt").write_text("\n".join(failures), encoding="utf-8")
    return judge(PART, name, cases, failures, f"at most {seconds:.2f} s of the processor for one", memory)


def _acts(data: bytes) -> None:
    """What no reader may do, to see that it is noticed."""
    if data == b"import":
        __import__("antigravity")
    elif data == b"system":
        os.system("true")
    elif data == b"eval":
        eval("1 + 1")
    elif data == b"memory":
        bytearray(_GROWTH << 22)
    elif data == b"time":
        while True:
            pass
    else:
        raise KeyError(data)


def try_watch(folder: Path) -> Row:
    """That the watch is awake: each of these must fail."""
    reader = Reader(lambda _: [], lambda _, data: _acts(data))
    cases = (b"import", b"system", b"eval", b"memory", b"time", b"another exception")
    missed = [
        data.decode()
        for data in cases
        if _measured(lambda data=data: _watched(reader, folder, data))[0] == Outcome()
    ]
    return judge(PART, "what is forbidden is noticed", len(cases), missed)


def _seeds(reader: Reader, folder: Path) -> list[bytes]:
    """Made in a fork, since LightGBM's and torch's threads do not live on in forks of the process that began them."""
    place = folder / "seeds"
    place.mkdir()

    def make() -> None:
        for number, seed in enumerate(reader.seeds(folder)):
            (place / f"{number:03}").write_bytes(seed)

    outcome = run_forked(make)
    if outcome != Outcome():
        raise RuntimeError(f"no good inputs: {outcome}")
    seeds = [path.read_bytes() for path in sorted(place.iterdir())]
    shutil.rmtree(place)
    return seeds


def _accept(reader: Reader, folder: Path, data: bytes) -> None:
    with suppress(*reader.refusals):
        reader.read(folder, data)


def _watched(reader: Reader, folder: Path, data: bytes) -> None:
    """In a fork: read it under bounds, with every import that is not done yet and every act failing."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (_GROWTH << 20) * 2, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(_SECONDS) + 2, int(_SECONDS) + 2))
    acts: list[str] = []
    sys.meta_path.insert(0, _NoImports())
    sys.addaudithook(lambda event, _: acts.append(event) if event.startswith(_FORBIDDEN) else None)
    _accept(reader, folder, data)
    if strange := set(acts) - {*_OF_THE_HARNESS, *reader.parses}:
        raise AssertionError(f"reading it did {sorted(strange)}")


class _NoImports:
    def find_spec(self, name: str, path: object = None, target: object = None) -> NoReturn:
        raise AssertionError(f"reading it imported {name}")


def _measured(act: Callable[[], None]) -> tuple[Outcome, tuple[float, float]]:
    """How a fork ended, and what it took: seconds of the processor, MB at its peak."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = run_forked(act, seconds=_SECONDS * 6)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return outcome, (seconds, after.ru_maxrss / 1024)


_NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_TOKENS = (
    *(
        b"cos\nsystem\n(S'touch canary'\ntR",
        f"c{TRAP}\nTrap\n)R".encode(),
        b"\x93",
        b"R",
        b"b",
        b"\x94",
        b"(",
        b".",
    ),
    *(
        b"NaN",
        b"-1",
        b"1e999",
        b"null",
        b"[]",
        b"{}",
        b'"\\ud800"',
        b"../../x",
        b"9" * 400,
        b"\x00",
        b"\xff" * 9,
    ),
)


def change(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One of the inputs, changed in one to six ways."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 2, 4, 8, 64, 1024)))
        way = chance.randrange(8)
        if way == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif way == 1 and at < len(data):
            data[at] = chance.randrange(256)
        elif way == 2:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(_NUMBERS) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif way == 3:
            del data[at:end]
        elif way == 4:
            data[at:at] = data[at:end] * chance.choice((1, 2, 50))
        elif way == 5:
            del data[at:]
        elif way == 6:
            data[at:at] = chance.choice(_TOKENS)
        else:
            other = chance.choice(seeds)
            data[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data)


if __name__ == "__main__":
    print(json.dumps(timed(lambda: try_reader(sys.argv[2], Path(sys.argv[1]), int(sys.argv[3]))).to_plain()))
