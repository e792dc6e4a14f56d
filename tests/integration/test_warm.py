"""A program in a warm Python does what it does in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdagent_sota_patch.demo.synthetic_market import MarketSpec
from tests.integration.warm import warm_python
from tests.integration.warm_sandbox import COLD_COMMAND, COLD_START, Warm, WarmSandbox

_SHOW = """
import os, sys
print(__name__, sys.argv, sys.path[0], os.getcwd(), os.environ["NAME"], "json.tool" in sys.modules, file=sys.stdout)
print(sys.stdin.read(), file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("warm") / "said"
    with warm_python(["json.tool", "rdagent_sota_patch.errors"], os.environ, folder) as start:
        yield start


def ask(start: list[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NAME": "of this run", "PYTHONPATH": "beside"}
    return subprocess.run(
        [*start, *arguments],
        input="asked",
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_runs_as_it_does_cold(warm: list[str], tmp_path: Path) -> None:
    """Arguments, folder, environment, descriptors and exit code are its own; only the module is there already."""
    program = tmp_path / "program.py"
    program.write_text(_SHOW, encoding="utf-8")
    here, cold = (ask(start, tmp_path, str(program), "3", "two words") for start in (warm, [sys.executable]))
    assert (here.returncode, here.stderr) == (cold.returncode, cold.stderr) == (3, "asked\n")
    assert here.stdout == cold.stdout.replace("False", "True")


def test_two_programs_have_other_random_numbers(tmp_path: Path) -> None:
    """A fork with the numbers of its parent would make a model without a seed the same each time."""
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1).item())"
    with warm_python(["random", "numpy", "torch"], os.environ, tmp_path / "said") as start:
        one, other = (ask(start, tmp_path, "-c", code).stdout.split() for _ in range(2))
    assert len(one) == 3
    assert not set(one) & set(other)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(sys.argv, sys.path[:1])",
        "import sys; print(sys.path[1])",
        "raise SystemExit('why')",
        "import os; os.kill(os.getpid(), 15)",
        "import atexit, threading, time\natexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()",
        "import rdagent_sota_patch._startup as s, sys; print(s.AttachFinder in sys.meta_path)",
        "import multiprocessing\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n    print(pool.map(abs, [-1, 2]))",
    ],
)
def test_a_text_runs_as_it_does_cold(warm: list[str], tmp_path: Path, code: str) -> None:
    """Exits, signals, threads, what is done at the end, the start-up hook and pools."""
    here, cold = (ask(start, tmp_path, "-c", code, "argument") for start in (warm, [sys.executable]))
    assert (here.returncode, here.stdout, here.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_other_options_are_an_interpreters_own(warm: list[str], tmp_path: Path) -> None:
    """Such as ``-V``."""
    assert ask(warm, tmp_path, "-V").stdout == f"Python {sys.version.split()[0]}\n"


def test_an_error_is_told(warm: list[str], tmp_path: Path) -> None:
    """With the exit code of an interpreter."""
    failed = ask(warm, tmp_path, "-c", "1 / 0")
    assert failed.returncode == 1
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_it_ends_with_who_asked(warm: list[str], tmp_path: Path) -> None:
    """A killed command leaves nothing running, as a killed interpreter leaves nothing."""
    code = "import os, time; print(os.getpid(), flush=True); os.fork(); time.sleep(600)"
    with subprocess.Popen([*warm, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as asked:
        assert asked.stdout is not None
        process = Path("/proc", asked.stdout.readline().strip())
        assert process.exists()
        asked.kill()
        deadline = time.monotonic() + 30
        while process.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert asked.stdout.read() == ""


@pytest.mark.parametrize(
    "settings, warm_ones", [({}, (True, True)), (COLD_COMMAND, (False, True)), (COLD_START, (False, False))]
)
def test_a_run_says_what_starts_cold(
    warm: list[str], tmp_path: Path, settings: dict[str, str], warm_ones: tuple[bool, bool]
) -> None:
    """All of it, the command alone, or nothing."""
    program = tmp_path / "program.py"
    program.write_text("import sys; print('json.tool' in sys.modules)", encoding="utf-8")
    with WarmSandbox(tmp_path / "box", Warm(warm, warm), market=MarketSpec(stocks=54)) as sandbox:
        command = [sandbox.rdagent()[0], sys.executable, str(program)]
        if not settings:
            del command[1]
        back_test = [str(sandbox.folder / "env" / "bin" / "python"), str(program)]
        said = [
            subprocess.run(
                each, env=sandbox.environment("run", settings), capture_output=True, text=True, check=True
            ).stdout
            for each in (command, back_test)
        ]
    assert said == [f"{each}\n" for each in warm_ones]
