"""Faults at every write, rename and sync: what is there afterwards is the old or the new, and the next call tidies up.

    python -m tests.proof.faults FOLDER OPERATION …

Each operation is done once and its system calls on the user's files are listed. Then it is done again in a fork for
each of these calls and each fault: killed there, or the call fails with ENOSPC, EIO or EACCES.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from rdagent_sota_patch.bundle.documents import COMPANION_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli import app
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.stages.state import Plan, StageName, StageState, begin_run, read_state, write_state
from tests.proof.injecting import (
    ERRORS,
    Outcome,
    Point,
    find_points,
    import_like,
    inject,
    run_forked,
    strace_reason,
)
from tests.proof.report import Row, judge, timed

PART = "faults"
_AT_ONCE = 2
_BACK_TESTS = 3
"""About one in ten fails in MLflow, and RD-Agent then skips the loop."""
_CONFIRMED_TOO_LATE = "not-confirmed"


@dataclass
class Case:
    """The folder of one operation: what it reads, and what it writes."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def out(self) -> Path:
        return self.folder / "out"


@dataclass(frozen=True)
class Operation:
    """One way in which the project writes.

    Attributes:
        prepare: Furnishes a case with what is read, and with what is there from before.
        act: The work; its errors are `SotaError`.
        check: Raises where what was written is not whole; called only if it is not what was there before.
        around: Entered before all cases, in the process that forks.
        watched: Which of the files below the case's folder are the project's to write.
        steps: Whether it writes files one after the other, each of them whole, into a folder that is not read yet.
    """

    prepare: Callable[[Case], None]
    act: Callable[[Case], None]
    check: Callable[[Case], None]
    around: Callable[[Case], Any] = lambda _: nullcontext()
    watched: str = "/out"
    steps: bool = False


def measure(folder: Path) -> list[Row]:
    """All operations, two at a time, each in a process of its own."""
    reason = strace_reason()
    if reason:
        return [Row(PART, name, 0, None, reason) for name in OPERATIONS]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda name: _in_a_process(name, folder), OPERATIONS))


def _in_a_process(name: str, folder: Path) -> Row:
    place = folder / name.replace(" ", "-").replace(",", "")
    command = [sys.executable, "-W", "ignore", "-m", "tests.proof.faults", str(place), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Row(PART, name, 0, False, f"broke off: {done.stderr.strip()[-600:]}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def try_all(name: str, folder: Path) -> Row:
    """Every fault at every call of one operation."""
    operation, case = OPERATIONS[name], Case(folder / "case")
    for part in (case.source, case.out):
        part.mkdir(parents=True)
    # In a fork: LightGBM's threads do not live on in the forks of the process that began them.
    prepared = run_forked(lambda: operation.prepare(case), seconds=600)
    if prepared != Outcome():
        raise RuntimeError(f"cannot be prepared: {prepared}")
    shutil.copytree(case.folder, folder / "pattern", symlinks=True)
    with operation.around(case):
        watched = re.compile(re.escape(str(case.folder)) + operation.watched)
        log = folder / "strace.txt"
        import_like(lambda: operation.act(case))
        restore(case, folder / "pattern")
        points = find_points(lambda: operation.act(case), watched, log)
        trial = _Trial(operation, case, folder / "pattern", log, watched)
        failures = [said for point in points for error in ERRORS if (said := trial.run(point, error))]
    (folder / "failures.txt").write_text("\n".join(failures), encoding="utf-8")
    calls: dict[str, int] = {}
    for point in points:
        calls[point.call] = calls.get(point.call, 0) + 1
    told = ", ".join(f"{count} {call}" for call, count in sorted(calls.items()))
    ends = f"{trial.killed} killed, {trial.refused} refused, {trial.done} done all the same"
    missed = f", {trial.missed} that did not come to pass" if trial.missed else ""
    return judge(PART, name, len(points) * len(ERRORS), failures, f"{told}; {ends}{missed}")


class _Trial:
    def __init__(
        self, operation: Operation, case: Case, pattern: Path, log: Path, watched: re.Pattern[str]
    ) -> None:
        self.operation, self.case, self.pattern, self.log = operation, case, pattern, log
        self.watched = watched
        self.clean = self._names()
        restore(case, pattern)
        self.source, self.untouched = digest(case.source), (self._digest(hidden=True), self._names())
        self.old = self._digest()
        self.killed = self.refused = self.done = self.missed = 0

    def _names(self) -> list[str]:
        return [str(path) for path in files_in(self.case.out, self.watched)]

    def _digest(self, *, hidden: bool = False) -> str:
        return digest(self.case.out, self.watched, hidden=hidden)

    def run(self, point: Point, error: str) -> str:
        """What is wrong after this fault; empty where nothing is."""
        restore(self.case, self.pattern)
        outcome = inject(lambda: self.operation.act(self.case), point, error, self.log)
        self.killed += outcome.killed
        self.refused += bool(outcome.slug)
        self.done += not (outcome.killed or outcome.slug)
        self.missed += not outcome.injected
        try:
            self._judge(outcome)
        except Exception as problem:  # noqa: BLE001 - whatever a check meets is what is wrong
            where = point.line.replace(str(self.case.folder), "")[:200]
            return f"{error} at {point.call} {point.number}: {type(problem).__name__}: {problem} ({where})"
        return ""

    def _judge(self, outcome: Outcome) -> None:
        if outcome.foreign or outcome.timed_out:
            raise AssertionError(f"ends in {outcome.foreign or 'nothing: it hangs'}")
        is_old = self._digest() == self.old
        if not is_old:
            self.operation.check(self.case)
        is_new_refused = outcome.slug and not is_old and not self.operation.steps
        if (is_new_refused and outcome.slug != _CONFIRMED_TOO_LATE) or (
            is_old and outcome.slug == _CONFIRMED_TOO_LATE
        ):
            raise AssertionError(
                f"says {outcome.slug}, and what is there is the {'old' if is_old else 'new'}"
            )
        if not outcome.killed and not outcome.slug and is_old:
            raise AssertionError("says nothing, and wrote nothing")
        # Where everything is as it was at first, the next call is what the first one was.
        if (self._digest(hidden=True), self._names()) != self.untouched:
            self._call_again()
        if digest(self.case.source) != self.source:
            raise AssertionError("what is only read has changed")

    def _call_again(self) -> None:
        again = run_forked(lambda: self.operation.act(self.case))
        if again != Outcome():
            raise AssertionError(f"the next call ends with {again}")
        self.operation.check(self.case)
        left = sorted(set(self._names()) ^ set(self.clean))
        if left:
            raise AssertionError(f"the next call leaves {left}")


def restore(case: Case, pattern: Path) -> None:
    """The case as it was before anything was done."""
    for part in (case.source, case.out):
        shutil.rmtree(part)
        shutil.copytree(pattern / part.name, part, symlinks=True)


def files_in(folder: Path, pattern: re.Pattern[str] = re.compile("")) -> list[Path]:
    """All that is below a folder and matches, folders included."""
    return sorted(path for path in folder.rglob("*") if pattern.search(str(path)))


def digest(
    folder: Path,
    pattern: re.Pattern[str] = re.compile(""),
    *,
    hidden: bool = True,
) -> str:
    """Names and bytes of the files; if asked, without those that begin with a dot, which no reader takes."""
    found = hashlib.sha256()
    for path in files_in(folder, pattern):
        name = path.relative_to(folder)
        if path.is_file() and (hidden or not any(part.startswith(".") for part in name.parts)):
            found.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()


def call(*arguments: object) -> None:
    """A command, its problem raised as the error that it was."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exit_code == 0:
        return
    if not isinstance(result.exception, SystemExit) and result.exception is not None:
        raise result.exception
    problem = json.loads(result.stdout)["problems"][0]
    raise SotaError(problem["slug"], problem["message"], problem.get("hint") or "")


# -- save and export ------------------------------------------------------------------------------------------------


def _prepare_log(case: Case) -> None:
    from tests.export.made_run import make_run
    from tests.sessions.forged import factor_experiment, feedback, put, saved_loop, workspace

    run = make_run(case.source)
    last = factor_experiment("GapA", "Extra", experiment_workspace=workspace(str(run.workspace)))
    history = ((factor_experiment("ZMom"), feedback(True)), (last, feedback(True)))
    put(run.session.log, 1, "4_record", saved_loop(*history))


@contextmanager
def _at_home(case: Case) -> Iterator[None]:
    os.environ.update(HOME=str(case.folder.parent), COLUMNS="200")
    os.chdir(case.folder)
    yield


def _log(case: Case) -> Path:
    return case.source / "log" / "mined"


def _prepare_save(case: Case) -> None:
    import pandas as pd

    _prepare_log(case)
    old = pd.DataFrame(
        {("feature", "Old"): [1.0]}, index=pd.MultiIndex.from_tuples([("2020-01-01", "SH600000")])
    )
    old.to_parquet(case.out / "factors.parquet")


def _act_save(case: Case) -> None:
    call("save", _log(case), "--out", case.out / "factors.parquet")


def _check_table(case: Case) -> None:
    table = read_factor_table(case.out / "factors.parquet")
    assert len(table.names) == 3 and table.rows > 1, table


def _prepare_export_over(case: Case) -> None:
    _prepare_log(case)
    with _at_home(case):
        _act_export(case)


def _act_export(case: Case) -> None:
    call("export", _log(case), "--out", case.out / "bundle", "--force")


def _check_bundle(case: Case) -> None:
    open_bundle(case.out / "bundle")


# -- sync -----------------------------------------------------------------------------------------------------------


def _prepare_sync(case: Case) -> None:
    from tests.bundle.made import make_bundle

    for name, replay in (("plain", False), ("evidence", True)):
        make_bundle(case.source / name, replay=replay)


def _prepare_sync_over(case: Case) -> None:
    from tests.bundle.made import edit_document, replace_file

    _prepare_sync(case)
    with _serving(case):
        _act_sync(case)
    from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, WEIGHTS_NAME

    for name in ("plain", "evidence"):
        weights = (case.source / name / WEIGHTS_NAME).read_bytes()
        replace_file(case.source / name, WEIGHTS_NAME, weights[::-1])
        edit_document(case.source / name, MANIFEST_NAME, lambda manifest: manifest.update(loop=2))


@contextmanager
def _serving(case: Case) -> Iterator[None]:
    from tests.sync.contract_server import ContractServer, running

    with running(ContractServer()) as server:
        server.serve(case.source / "plain", case.source / "evidence")
        case.facts["url"] = server.url
        yield


def _act_sync(case: Case) -> None:
    call("sync", "--api", case.facts["url"], "--task", "latest", "--out", case.out / "bundle")


def _check_sync(case: Case) -> None:
    _check_bundle(case)
    manifest = json.loads((case.out / "bundle" / COMPANION_NAME).read_text(encoding="utf-8"))
    assert manifest, "the companion is empty"


# -- the state of a run of both stages ------------------------------------------------------------------------------


def _prepare_state(case: Case) -> None:
    begin_run(Plan(factor_loops=2, model_loops=1, alpha=True), case.out)


def _act_state(case: Case) -> None:
    (folder,) = case.out.iterdir()
    later = StageState(log=case.out / "log", done=True)
    write_state(folder, read_state(folder).with_stage(StageName.FACTOR, later))


def _check_state(case: Case) -> None:
    (folder,) = case.out.iterdir()
    assert read_state(folder).factor.done


# -- inside RD-Agent ------------------------------------------------------------------------------------------------


def _prepare_factor_run(case: Case) -> None:
    """One loop of the real fin_factor, which accepts its factors."""
    from rdagent_sota_patch.demo.sandbox import Sandbox
    from tests.integration.conftest import BriefTraining

    with Sandbox(_sandbox_of(case)) as sandbox:
        for attempt in range(_BACK_TESTS):
            script = BriefTraining(accept_factors=True)
            run = sandbox.run("fin_factor", loops=1, name=f"mined{attempt}", screenplay=script, check=False)
            if not run.failure:
                break
        else:
            raise RuntimeError(run.tail())
    (case.source / "run").write_text(run.log.name, encoding="utf-8")
    (case.out / "factors.parquet").write_bytes(b"what was saved before")


def _sandbox_of(case: Case) -> Path:
    return case.folder.parent / "sandbox"


@contextmanager
def _resuming(case: Case) -> Iterator[None]:
    """RD-Agent, imported in the run's environment."""
    from rdagent_sota_patch.demo.sandbox import Sandbox

    with Sandbox(_sandbox_of(case)) as sandbox:
        name = (case.source / "run").read_text(encoding="utf-8")
        case.facts["log"] = sandbox.logs / name
        variables = {"SAVE_SOTA_FACTORS": "true", "SOTA_FACTORS_PATH": str(case.out / "factors.parquet")}
        os.environ.clear()
        os.environ.update(sandbox.environment(name, variables))
        os.chdir(sandbox.project)
        yield


def _act_record(case: Case) -> None:
    """The last step of the loop, by RD-Agent's own program: the plugin saves what it accepted."""
    from rdagent.app.qlib_rd_loop.factor import main

    said = StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            (step,) = case.facts["log"].glob("__session__/0/3_feedback")
            main(path=str(step), loop_n=1, checkout=False)
    except SystemExit as error:
        found = re.search(r"\[([a-z-]+)\]", said.getvalue())
        if error.code and found:
            raise SotaError(found[1], said.getvalue(), "") from error
        raise


def _check_saved(case: Case) -> None:
    assert read_factor_table(case.out / "factors.parquet").names


def _prepare_develop(case: Case) -> None:
    import numpy as np
    import pandas as pd

    days = pd.date_range("2015-01-05", periods=400, freq="B")
    index = pd.MultiIndex.from_product(
        [days, [f"SH6{number:05}" for number in range(100)]], names=["datetime", "instrument"]
    )
    values = np.random.default_rng(0).standard_normal((len(index), 5))
    columns = pd.MultiIndex.from_product([["feature"], [f"Mined{number}" for number in range(5)]])
    pd.DataFrame(values, index=index, columns=columns).to_parquet(case.source / "combined_factors_df.parquet")
    (case.out / "workspace").mkdir()


@contextmanager
def _develop_ready(case: Case) -> Iterator[None]:
    """The runner with RD-Agent's own code; the back-test alone is replaced by a fixed result."""
    # First, so that the start-up hook finds the plugin's runner whole.
    import rdagent.scenarios.qlib.developer.model_runner  # noqa: F401

    from tests.benchmarks import model_loop
    from tests.mlruns.forged_recorder import write_recorder

    os.environ.update(HOME=str(case.folder.parent), LITELLM_LOCAL_MODEL_COST_MAP="True")
    os.chdir(case.folder.parent)
    table = read_factor_table(case.source / "combined_factors_df.parquet")
    case.facts["sota"] = model_loop.in_force(table, alpha=False)
    model_loop.replace_back_test([], write_recorder)
    yield


def _act_develop(case: Case) -> None:
    from unittest.mock import patch

    from rdagent.core.conf import RD_AGENT_SETTINGS

    from rdagent_sota_patch.plugin import model_runner
    from tests.benchmarks import model_loop

    RD_AGENT_SETTINGS.cache_with_pickle = False
    experiment = model_loop.make_experiment()
    experiment.experiment_workspace.workspace_path = case.out / "workspace"
    with patch.object(model_runner, "active_sota", return_value=case.facts["sota"]):
        model_runner.SotaModelRunner(None).develop(experiment)
    assert _copy_of(case).read_bytes() == (case.source / _copy_of(case).name).read_bytes()


def _copy_of(case: Case) -> Path:
    return case.out / "workspace" / "combined_factors_df.parquet"


def _check_copied(case: Case) -> None:
    # RD-Agent's frame of one row, which names the columns, goes before the copy begins.
    if _copy_of(case).exists():
        assert read_factor_table(_copy_of(case)).rows in {1, 40_000}, "half a table"
    record = case.out / "workspace" / "sota_source.json"
    assert not record.exists() or json.loads(record.read_bytes())


OPERATIONS = {
    "save": Operation(_prepare_save, _act_save, _check_table, _at_home),
    "export, a new bundle": Operation(_prepare_log, _act_export, _check_bundle, _at_home),
    "export over a bundle": Operation(_prepare_export_over, _act_export, _check_bundle, _at_home),
    "sync, a new folder": Operation(_prepare_sync, _act_sync, _check_sync, _serving),
    "sync over a folder": Operation(_prepare_sync_over, _act_sync, _check_sync, _serving),
    "SAVE_SOTA_FACTORS in fin_factor": Operation(_prepare_factor_run, _act_record, _check_saved, _resuming),
    "the runner's copy": Operation(
        *(_prepare_develop, _act_develop, _check_copied, _develop_ready),
        # RD-Agent's own files in there are its own; what the plugin writes goes through these.
        watched=r"/out/workspace/(\.[0-9a-f]{16}-|sota_source|conf_sota_factors_only)",
        steps=True,
    ),
    "the run's state": Operation(_prepare_state, _act_state, _check_state),
}


if __name__ == "__main__":
    print(json.dumps(timed(lambda: try_all(sys.argv[2], Path(sys.argv[1]))).to_plain()))
