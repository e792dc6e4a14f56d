"""What the start-up hook adds to every start of Python, and how soon ``rdagent-sota --help`` is there."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import venv
from typing import TYPE_CHECKING

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare, differences
from tests.benchmarks.processes import PROJECT, time_process

if TYPE_CHECKING:
    from pathlib import Path

_ROUNDS = 100
_HELPS = 10
_HELP_SECONDS = 0.5
_BARE = """
import typer
app = typer.Typer()
@app.command()
def main(): pass
app(['--help'])
"""
_HOOK = PROJECT / "patches" / "startup.pth.in"


def measure(folder: Path) -> list[Comparison]:
    """Measure in two empty environments that know the package; the hook's line is all they differ in."""
    with_hook = _make_environment(folder / "with-hook")
    without = _make_environment(folder / "without-hook")
    site = next((folder / "with-hook").rglob("site-packages"))
    shutil.copyfile(_HOOK, site / "rdagent_sota_patch.pth")
    hooked = "import sys; assert 'AttachFinder' in str(sys.meta_path)"
    time_process([str(with_hook), "-c", hooked], folder)
    time_process([str(without), "-c", hooked.replace(" in ", " not in ")], folder)
    took: dict[Path, list[tuple[float, float]]] = {with_hook: [], without: []}
    for _ in range(_ROUNDS):
        for python, values in took.items():
            usage = time_process([str(python), "-c", "pass"], folder)
            values.append((usage.wall * 1e3, usage.cpu * 1e3))
    lines = []
    for name, position in (("on the clock", 0), ("of the processor", 1)):
        bare = [values[position] for values in took[without]]
        added = differences([values[position] for values in took[with_hook]], bare)
        lines.append(
            compare(
                f"added by the hook to a start of Python, {name} / a bare start",
                "ms",
                added,
                bare,
                Limit(Bound.AMOUNT, 2.0),
            )
        )
    return [*lines, *_measure_help(folder)]


def _measure_help(folder: Path) -> list[Comparison]:
    """Of the application and of a command with many options, beside a Typer application that does nothing."""
    lines = []
    for arguments in ("--help", "export --help"):
        code = f"from rdagent_sota_patch.cli import app; app({arguments.split()!r})"
        ours, bare = [], []
        for _ in range(_HELPS):
            ours.append(time_process([sys.executable, "-c", code], folder).wall)
            bare.append(time_process([sys.executable, "-c", _BARE], folder).wall)
        limit = Limit(Bound.AMOUNT, _HELP_SECONDS)
        lines.append(compare(f"rdagent-sota {arguments} / --help of an empty Typer", "s", ours, bare, limit))
    return lines


def _make_environment(folder: Path) -> Path:
    """A new environment whose one line of configuration names the project, as an editable installation does."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.rglob("site-packages"))
    (site / "_editable_impl_rdagent_sota_patch.pth").write_text(f"{PROJECT}\n", encoding="utf-8")
    return folder / ("Scripts" if sysconfig.get_platform().startswith("win") else "bin") / "python"
