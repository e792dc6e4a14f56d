"""A project folder, a stand-in for ``rdagent`` with prepared logs of RD-Agent's own classes, and its orders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.settings import Settings
from rdagent_sota_patch.stages.state import Plan, begin_run
from tests.sessions.generated_log import KEY, PlannedLoop, generate_log


@dataclass(frozen=True)
class Standin:
    """The stand-in: what it is told to do, and what it was asked."""

    folder: Path
    prepared: Path

    @property
    def program(self) -> Path:
        return self.folder / "rdagent"

    def order(self, command: str, at: tuple[int, int], do: str) -> None:
        """Have the next ``command`` do that when it comes to that loop and step."""
        (self.folder / "orders.json").write_text(json.dumps({command: {"at": at, "do": do}}), "utf-8")

    def take(self, command: str, name: str) -> None:
        """Take another prepared log for a stage."""
        shutil.rmtree(self.folder / command)
        shutil.copytree(self.prepared / name / "log" / "run", self.folder / command)

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def wait_until_it_hangs(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 60
        while not (self.folder / "hanging").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "it never came to where it should hang"
            time.sleep(0.02)
        (self.folder / "hanging").unlink()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs that RD-Agent's own classes wrote."""
    pytest.importorskip("rdagent")
    folder = tmp_path_factory.mktemp("prepared")
    plans = {
        "factor": [
            PlannedLoop(factors=("Rev5",)),
            PlannedLoop(factors=("Vol10",), accepted=False),
            PlannedLoop(factors=("Gap3",)),
        ],
        "rejected": [
            PlannedLoop(accepted=False, skipped=True),
            PlannedLoop(accepted=False),
            PlannedLoop(factors=("Late",)),
        ],
        "model": [
            PlannedLoop(kind="model", fed=True),
            PlannedLoop(kind="model", fed=True, accepted=False),
            PlannedLoop(kind="model", accepted=False, skipped=True),
            PlannedLoop(kind="model"),
        ],
        "skipped": [PlannedLoop(kind="model", accepted=False, skipped=True)],
    }
    for name, loops in plans.items():
        generate_log(folder / name / "log" / "run", loops)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, without settings, with the key that the prepared logs are signed with."""
    for name in (*Settings.model_fields, "log_trace_path", "artifact_signing_key_path"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def furnish(home: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What RD-Agent needs to run: a conda on the PATH, a key, and Qlib's calendar."""
    conda = programs / "conda"
    conda.write_text("#!/bin/sh\n", encoding="utf-8")
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    calendar = home / ".qlib" / "qlib_data" / "cn_data" / "calendars" / "day.txt"
    calendar.parent.mkdir(parents=True)
    calendar.write_text("2020-01-02\n", encoding="utf-8")


@pytest.fixture
def standin(prepared: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """A program that stands in for ``rdagent`` in this test."""
    folder = tmp_path / "standin"
    for stage in ("factor", "model"):
        shutil.copytree(prepared / stage / "log" / "run", folder / f"fin_{stage}")
    made = Standin(folder, prepared)
    script = Path(__file__).with_name("standin.py")
    made.program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" "$@"\n', "utf-8")
    made.program.chmod(0o755)
    monkeypatch.setenv("STANDIN", str(folder))
    furnish(tmp_path / "home", folder, monkeypatch)
    monkeypatch.setattr("rdagent_sota_patch.stages.both.find_rdagent", lambda: made.program)
    return made


def begin(factor_loops: int | None = 3, model_loops: int = 2, **more: Any) -> Path:
    """A new run's folder, in ``log/`` of the current one."""
    plan = Plan(factor_loops=factor_loops, model_loops=model_loops, **{"alpha": True, **more})
    return begin_run(plan, Path("log"))


@contextmanager
def started(standin: Standin, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """``rdagent-sota run`` as a process of its own, in a group of its own, with the stand-in, until it hangs."""
    code = (
        # As at a terminal: a shell has what it starts in the background ignore SIGINT, tests included.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; from rdagent_sota_patch.stages import both\n"
        "program = Path(sys.argv.pop(1)); both.find_rdagent = lambda: program\n"
        "from rdagent_sota_patch.cli import app; app()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(standin.program), "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            standin.wait_until_it_hangs(process)
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str], number: signal.Signals, *, group: bool = False) -> tuple[str, str]:
    """Send a signal and wait; returns what was printed."""
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.communicate(timeout=30)


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} was left behind"
        time.sleep(0.02)
