"""Build the wheel and try it in a new environment that has no RD-Agent; run by ``make wheel``.

A script, not a test: it installs from the package registry, and pytest is not there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HOOK = "rdagent_sota_patch.pth"

FORGE = """
import sys
from pathlib import Path
from forged import history, put
put(Path("log", "run"), 0, "4_record", history(2))
"""

LISTING = """
import json, sys, sysconfig
from pathlib import Path
left = sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*sota*"))
print(json.dumps([left, [str(entry) for entry in sys.meta_path if "sota" in str(entry)]]))
"""

SHOW = """
from pathlib import Path
from rdagent_sota_patch.server.access import decide_access
from rdagent_sota_patch.server.app import create_app
from rdagent_sota_patch.server.rendering import render_runs
from rdagent_sota_patch.results.schemas import TaskList
from rdagent_sota_patch.results.service import Folders
from rdagent_sota_patch.sync.syncing import sync_task
create_app(Folders(Path("log"), Path("cache")), decide_access("127.0.0.1", None)).openapi()
assert "<style" in render_runs(TaskList(tasks=(), total=0, limit=20, offset=0))
"""
"""The API's parts that need more than modules: templates, style and the extra's packages."""


class Environment:
    """A virtual environment, and an empty folder to run its programs in."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.work = folder / "work"
        self.work.mkdir()
        self._bin = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")

    def run(self, program: str, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment and require its exit code."""
        done = subprocess.run(
            [str(self._bin / program), *arguments], cwd=self.work, capture_output=True, text=True, check=False
        )
        if done.returncode != expect:
            raise SystemExit(
                f"{program} {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def pip(self, *arguments: str) -> None:
        """Run pip."""
        self.run("python", "-m", "pip", "--disable-pip-version-check", *arguments)

    def listing(self) -> tuple[list[str], list[str]]:
        """What of the package lies in site-packages, and what of it is among Python's finders."""
        done = self.run("python", "-c", LISTING)
        require(not done.stderr, f"a Python start printed: {done.stderr}")
        left, finders = json.loads(done.stdout)
        return left, finders


def require(condition: object, complaint: str) -> None:
    """Stop with ``complaint`` unless the condition holds."""
    if not condition:
        raise SystemExit(complaint)


def check(environment: Environment, wheel: Path) -> None:
    """Install the wheel, use it, and take it away."""
    names = zipfile.ZipFile(wheel).namelist()
    require(HOOK in names, f"{wheel.name} lacks {HOOK}")
    foreign = [name for name in names if name != HOOK and not name.startswith("rdagent_sota_patch")]
    require(not foreign, f"{wheel.name} holds {foreign}")

    environment.pip("install", str(wheel))
    _, finders = environment.listing()
    require(len(finders) == 1, f"the start-up hook is not in place: {finders}")

    version = wheel.name.split("-")[1]
    printed = environment.run("rdagent-sota", "--version").stdout.strip()
    require(printed == f"rdagent-sota {version}", f"--version says {printed!r}, the wheel {version}")

    environment.run(
        "python",
        "-c",
        f"import sys; sys.path.insert(0, {str(PROJECT / 'tests' / 'sessions')!r}){FORGE}",
    )
    found = json.loads(environment.run("rdagent-sota", "inspect", "log/run", "--json").stdout)
    require(found["sota"]["loop"] == 1, f"inspect says {found}")

    diagnosis = json.loads(environment.run("rdagent-sota", "doctor", "--json", expect=1).stdout)
    slugs = [problem["slug"] for problem in diagnosis["problems"]]
    require(diagnosis["active"], "doctor says that the plugin is not active")
    require(slugs == ["host-missing"], f"doctor without RD-Agent says {slugs}")

    bare = environment.run("rdagent-sota", "serve", "--log-root", "log", "--json", expect=1).stdout
    require("api-extra-missing" in bare, f"serve without its extra says {bare}")
    environment.pip("install", f"{wheel}[api]")
    environment.run("python", "-c", SHOW)

    environment.pip("uninstall", "--yes", "rdagent-sota-patch")
    remains = environment.listing()
    require(remains == ([], []), f"left after uninstalling: {remains}")


def main() -> None:
    """Build into ``dist/`` and check what was built."""
    dist = PROJECT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = Environment(Path(scratch))
        environment.pip("wheel", str(PROJECT), "--no-deps", "--wheel-dir", str(dist))
        (wheel,) = dist.glob("*.whl")
        check(environment, wheel)
    print(f"{wheel.relative_to(PROJECT)}: installed, used and uninstalled without a trace")


if __name__ == "__main__":
    main()
