"""Ctrl-C at real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdagent_sota_patch.bundle.opening import open_bundle
from tests.bundle.made import make_bundle, replace_file
from tests.lookahead.factor_zoo import write_market

_PROGRAM = str(Path(sys.executable).parent / "rdagent-sota")
_MOST_SECONDS = 2.0


def _descendants(pid: int) -> set[int]:
    """Processes that a process started, and that these started."""
    found: set[int] = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in listed.read_text().split()]
        except OSError:
            continue
        for child in children:
            found |= {child, *_descendants(child)}
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _interrupt(arguments: list[str], folder: Path, after: float) -> tuple[float, int, str, set[int]]:
    """Send Ctrl-C some seconds after the first child is up.

    Returns:
        Seconds from the signal to the end, the exit code, what was said, and the processes that are left.
    """
    process = subprocess.Popen(
        [_PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not _descendants(process.pid):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(after)
        children = _descendants(process.pid)
        sent = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        took = time.monotonic() - sent
        time.sleep(0.3)
        return took, process.returncode, said, {child for child in children if _runs(child)}
    finally:
        process.kill()


@pytest.mark.parametrize("after", [0.2, 8.0])
def test_audit_ends_while_factor_code_sleeps(tmp_path: Path, after: float) -> None:
    """The factor would sleep for minutes, and the threads with it; the confined process ends with the command."""
    data = tmp_path / "daily_pv.h5"
    write_market(data, stocks=8, days=80)
    bundle = tmp_path / "bundle"
    make_bundle(bundle, factors_only=True)
    for factor in open_bundle(bundle).factors.factors:
        replace_file(bundle, str(factor.code_relpath), b"import time\ntime.sleep(600)\n")
    took, code, said, left = _interrupt(["audit", str(bundle), "--data", str(data)], tmp_path, after)
    assert took < _MOST_SECONDS
    assert code == 130
    assert "[command-interrupted]" in said and "No verdict was kept." in said
    assert left == set()
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.json"))
