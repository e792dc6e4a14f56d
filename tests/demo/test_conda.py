from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from rdagent_sota_patch.demo.sandbox import QLIB_ENVIRONMENT, write_conda


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the stand-ins; its name has a space, as a user's may."""
    home = tmp_path / "a sandbox"
    write_conda(home / "bin", home / "env")
    return home


def conda(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the stand-in."""
    return subprocess.run([folder / "bin" / "conda", *arguments], capture_output=True, text=True, check=False)


def test_environment_is_listed(folder: Path) -> None:
    """``conda env list`` names the environment that RD-Agent looks for."""
    assert QLIB_ENVIRONMENT in conda(folder, "env", "list").stdout


@pytest.mark.parametrize("options", [[], ["--no-capture-output"]])
def test_command_runs_in_the_environment(folder: Path, options: list[str]) -> None:
    """``conda run`` puts the environment's programs first and passes the exit code on."""
    program = "import shutil, sys; print(shutil.which('qrun')); print(sys.prefix); sys.exit(3)"
    done = conda(folder, "run", "-n", QLIB_ENVIRONMENT, *options, "python", "-c", program)

    assert done.returncode == 3
    assert done.stdout.splitlines() == [str(folder / "env" / "bin" / "qrun"), sys.prefix]


def test_unknown_environment_is_refused(folder: Path) -> None:
    """Another environment's name is an error, as it is with conda."""
    done = conda(folder, "run", "-n", "base", "true")

    assert done.returncode == 1
    assert "base" in done.stderr


def test_unknown_command_is_refused(folder: Path) -> None:
    """The stand-in does not pretend to have created an environment."""
    assert conda(folder, "create", "-y", "-n", "x").returncode == 2


_RACE = """
    import importlib.util, sys, threading, time
    import mlflow.store.tracking.file_store as file_store
    from mlflow.entities import Metric

    def append_slowly(path, data):
        with open(path, "a") as handle:
            time.sleep(0.05)
            handle.write(data)

    file_store.append_to = append_slowly
    if sys.argv[2] == "guarded":
        spec = importlib.util.spec_from_file_location("guarded_qrun", sys.argv[1])
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    store = file_store.FileStore(sys.argv[3])
    run = store.create_run("0", "someone", 0, [], "run").info.run_id
    names = [f"metric {number}" for number in range(8)]
    writer = threading.Thread(
        target=lambda: [store.log_metric(run, Metric(name, 1.0, 0, 0)) for name in names]
    )
    writer.start()
    while writer.is_alive():
        store.get_run(run)
    writer.join()
    assert sorted(store.get_run(run).data.metrics) == names
    """


@pytest.mark.real
def test_qrun_is_immune_to_half_written_metrics(folder: Path, tmp_path: Path) -> None:
    """A run read while a metric is being written fails in MLflow as it is, and not under this ``qrun``."""
    outcomes = {}
    for mode in ("plain", "guarded"):
        outcomes[mode] = subprocess.run(
            [sys.executable, "-c", dedent(_RACE), folder / "env" / "lib" / "qrun.py", mode, tmp_path / mode],
            capture_output=True,
            text=True,
            check=False,
            env={"MLFLOW_ALLOW_FILE_STORE": "true"},
        )

    assert "is malformed. No data found" in outcomes["plain"].stderr
    assert outcomes["guarded"].returncode == 0, outcomes["guarded"].stderr


_BATCHES = """
    import importlib.util, os, sys
    import torch
    from torch.utils.data import DataLoader

    spec = importlib.util.spec_from_file_location("few_processes", sys.argv[1])
    if sys.argv[2] == "few":
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    torch.manual_seed(7)
    batches = DataLoader(torch.arange(100.0), batch_size=7, shuffle=True, num_workers=20, drop_last=True)
    print([batch.tolist() for _ in range(2) for batch in batches], torch.rand(3).tolist())
    print(batches.num_workers, os.cpu_count())
    """


@pytest.mark.real
def test_qrun_takes_the_same_batches_from_few_processes(folder: Path) -> None:
    """Over two passes, shuffled: the batches and what is drawn after them are those that 20 processes give."""
    said = {
        mode: subprocess.run(
            [sys.executable, "-c", dedent(_BATCHES), folder / "env" / "lib" / "qrun.py", mode],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for mode in ("many", "few")
    }
    assert said["few"][-2] == said["many"][-2]
    (many, _), (few, cores) = (said[mode][-1].split() for mode in ("many", "few"))
    assert int(many) == 20 and int(few) == min(20, int(cores))
