"""A server that is stopped while it exports: it ends, and what it started ends with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.export.made_run import write_workspace
from tests.results.log_root import Project, run_of_factors, write_run
from tests.sessions.generated_log import KEY

PROGRAM = """
import sys
from pathlib import Path
from rdagent_sota_patch.server.access import Access
from rdagent_sota_patch.server.app import create_app
from rdagent_sota_patch.server.server import Limits
from rdagent_sota_patch.server.server import ServerOptions, run_server
from rdagent_sota_patch.results import exporter
from rdagent_sota_patch.results.service import Folders

exporter._PROGRAM = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)"
app = create_app(Folders(Path(sys.argv[1]), Path(sys.argv[2])), Access(None, None))
run_server(app, ServerOptions(port=0, limits=Limits(stop_seconds=1)), lambda url: print(url, flush=True))
"""
ASKING = b"GET /tasks/mined/bundle HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def test_an_export_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    """Nor does it go on without it."""
    project = Project(tmp_path)
    project.workspace.mkdir(parents=True)
    write_workspace(project.workspace)
    write_run(project.log / "mined", [(run_of_factors("ZMom", place=project.workspace), True)])
    command = [sys.executable, "-c", PROGRAM, str(project.log), str(tmp_path / "cache")]
    environment = {**os.environ, "ARTIFACT_SIGNING_KEY": KEY}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(ASKING)
                exporting = _wait_for_number(tmp_path / "pid")
                server.send_signal(signal.SIGTERM)
                began = time.monotonic()
                _, errors = server.communicate(timeout=30)
            assert time.monotonic() - began < 10
            assert server.returncode == 0
            assert "Traceback" not in errors
            assert not _is_running(exporting)
            assert [path.name for path in (tmp_path / "cache" / "bundles").iterdir()] == []
        finally:
            server.kill()


def _wait_for_number(path: Path) -> int:
    for _ in range(400):
        if path.is_file() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError("no export was begun")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
