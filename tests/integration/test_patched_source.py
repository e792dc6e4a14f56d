"""The source patch on the real RD-Agent: unpacked, patched, run without the start-up hook, put back."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_patch._startup import LOOP_MODULE, RUNNER_MODULE
from rdagent_sota_patch.demo.sandbox import RunResult, Sandbox, follow
from tests.integration.conftest import BriefTraining, RealRun, from_log
from tests.integration.evidence import look_at_training, run_tool

pytestmark = pytest.mark.real

MINED_COUNT = 3

# A Python whose start-up hook did not run, as far as RD-Agent can tell: nobody waits for its modules.
WITHOUT_HOOK = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "AttachFinder" not in str(finder)]
"""
LOOK = f"""{WITHOUT_HOOK}
from rdagent.app.qlib_rd_loop import model
from rdagent.scenarios.qlib.developer import model_runner
loop, runner = sys.modules[{LOOP_MODULE!r}], sys.modules[{RUNNER_MODULE!r}]
print(loop.__file__)
print([bool(getattr(module, "__rdagent_sota_patch__", False)) for module in (loop, runner)])
print(any("AttachFinder" in str(finder) for finder in sys.meta_path))
"""
DOCTOR = f"""{WITHOUT_HOOK}
from rdagent_sota_patch.cli import app
app(["doctor", "--json"])
"""
RUN = f"""{WITHOUT_HOOK}
from rdagent.app.cli import app
app()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed RD-Agent, unpacked into a folder of its own."""
    package = importlib.util.find_spec("rdagent")
    assert package is not None and package.submodule_search_locations
    root = tmp_path_factory.mktemp("checkout")
    installed = package.submodule_search_locations[0]
    shutil.copytree(installed, root / "rdagent", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def contents(source: Path) -> dict[str, bytes]:
    """Every file but those that Python makes by itself."""
    files = (path for path in source.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {str(path): path.read_bytes() for path in files}


def look_at_modules(sandbox: Sandbox, source: Path) -> list[str]:
    """Where RD-Agent's loop comes from, which of the two modules are attached to, and whether anybody waits."""
    output = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=sandbox.project,
        env=sandbox.environment("look", {"PYTHONPATH": str(source)}),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return output.splitlines()[-3:]


def ask_doctor(sandbox: Sandbox, source: Path) -> tuple[bool, list[str]]:
    """Whether ``doctor`` calls the plugin active without the hook, and its problems."""
    done = subprocess.run(
        [sys.executable, "-c", DOCTOR],
        cwd=sandbox.project,
        env=sandbox.environment("doctor", {"PYTHONPATH": str(source)}),
        check=False,
        capture_output=True,
        text=True,
    )
    document = json.loads(done.stdout)
    return document["active"], [problem["slug"] for problem in document["problems"]]


def run_model_stage(sandbox: Sandbox, source: Path, settings: dict[str, str]) -> RunResult:
    """``rdagent fin_model --loop-n 1`` from ``source``, as ``Sandbox.run`` does with the installed program."""
    name = "patched-source"
    cache = {"PICKLE_CACHE_FOLDER_PATH_STR": str(sandbox.project / f"cache-{name}")}
    sandbox.llm.direct(name, BriefTraining())
    return follow(
        [sys.executable, "-c", RUN, "fin_model", "--loop-n", "1"],
        cwd=sandbox.project,
        variables=sandbox.environment(name, {**settings, **cache, "PYTHONPATH": str(source)}),
        log=sandbox.logs / name,
        output_file=sandbox.folder / "output" / f"{name}.txt",
        on_step=None,
        timeout=900,
    )


def test_a_patched_source_feeds_the_model(sandbox: Sandbox, factor_run: RealRun, source: Path) -> None:
    """Before the patch nothing is attached; with it a model stage has the factors; after it no byte differs."""
    originals = contents(source)
    loop_file = str(source / (LOOP_MODULE.replace(".", "/") + ".py"))
    assert look_at_modules(sandbox, source) == [loop_file, "[False, False]", "False"]
    assert ask_doctor(sandbox, source) == (False, ["not-active"])

    applied = run_tool(sandbox, "patch", "apply", "--source", str(source))
    assert applied.returncode == 0, applied.stderr
    assert look_at_modules(sandbox, source) == [loop_file, "[True, True]", "False"]
    assert ask_doctor(sandbox, source) == (True, [])

    result = run_model_stage(sandbox, source, from_log(factor_run))
    assert result.failure == "", result.tail()
    assert "SOTA factor experiment added to based_experiments" in result.output
    trained = look_at_training(sandbox, sandbox.session(result.log))
    assert (trained.num_features, trained.input_size, len(trained.fitted)) == (MINED_COUNT,) * 3

    reverted = run_tool(sandbox, "patch", "revert", "--source", str(source))
    assert reverted.returncode == 0, reverted.stderr
    assert contents(source) == originals
