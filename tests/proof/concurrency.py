"""Crowds: runs, servers and exports at the same time, on the same source, cache and folders.

python -m tests.proof.concurrency FOLDER CROWD
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.proof.faults import digest
from tests.proof.report import Row, judge, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdagent_sota_patch.demo.sandbox import Sandbox
    from tests.integration.conftest import RealRun

PART = "concurrency"
_MODEL_RUNS = 4
_BACK_TESTS = 4
"""About one in ten fails in MLflow, and RD-Agent then skips the loop."""
_EXPORTS = 40
_CLIENTS = 8
_REQUESTS = 30
_LOGS = 4
_SECONDS = 60.0


def measure(folder: Path) -> list[Row]:
    """Each crowd in a process of its own."""
    folder.mkdir(parents=True)
    return [row for name in CROWDS for row in _in_a_process(name, folder / name)]


def _in_a_process(name: str, folder: Path) -> list[Row]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.proof.concurrency", str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [Row(PART, name, 0, False, f"broke off: {done.stderr.strip()[-600:]}")]
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


# -- runs of the real rdagent ---------------------------------------------------------------------------------------


def try_runs(folder: Path) -> list[Row]:
    """Four model runs on one log, one more on a factor file that a factor run keeps replacing meanwhile."""
    from rdagent_sota_patch.demo.sandbox import Sandbox
    from tests.integration.evidence import readers

    with Sandbox(folder) as sandbox, readers():
        # One cache for all, as RD-Agent has it where nobody sets another.
        shared = {"PICKLE_CACHE_FOLDER_PATH_STR": str(sandbox.project / "pickle_cache")}
        saving = {
            **shared,
            "SAVE_SOTA_FACTORS": "true",
            "SOTA_FACTORS_PATH": str(sandbox.project / "saved.parquet"),
        }
        mined = _run(sandbox, "fin_factor", "mined", 1, saving)
        before = digest(mined.result.log)
        from_log = {**shared, "LOAD_SOTA_FROM_LOG": "true", "SOTA_LOG_PATH": str(mined.result.log)}
        from_file = {**saving, "SAVE_SOTA_FACTORS": "false", "LOAD_SOTA_FACTORS": "true"}
        start = time.perf_counter()
        with ThreadPoolExecutor(_MODEL_RUNS + 2) as pool:
            models = [
                pool.submit(_run, sandbox, "fin_model", f"model{number}", 1, from_log)
                for number in range(_MODEL_RUNS)
            ]
            accepting = pool.submit(_run, sandbox, "fin_factor", "accepting", 2, saving)
            loading = pool.submit(_run, sandbox, "fin_model", "loading", 1, from_file)
        wanted = set(_accepted(mined))
        failures = [said for model in models if (said := _judge_model(model.result, [wanted]))]
        if digest(mined.result.log) != before:
            failures.append("the source's log has changed")
        seconds = time.perf_counter() - start
        sets = [wanted, *_accepted_sets(accepting.result())]
        other = _judge_model(loading.result, sets)
        from rdagent_sota_patch.factor_table.table import read_factor_table

        saved = set(read_factor_table(sandbox.project / "saved.parquet").names)
        if saved != sets[-1]:
            other = other or f"the file has {sorted(saved)} in place of {sorted(sets[-1])}"
        left = [path.name for path in sandbox.project.glob(".*.tmp")]
        return [
            judge(
                PART,
                "four fin_model on one source, cache and log root",
                _MODEL_RUNS,
                failures,
                f"{seconds:.0f} s",
            ),
            judge(
                *(PART, "a factor run accepting while a model run loads", 2),
                [*([other] if other else []), *([f"left behind: {left}"] if left else [])],
            ),
        ]


def _run(sandbox: Sandbox, command: str, name: str, loops: int, settings: dict[str, str]) -> RealRun:
    from rdagent_sota_patch.errors import SotaError
    from tests.integration.conftest import BriefTraining, RealRun

    said = ""
    for attempt in range(_BACK_TESTS):
        script = BriefTraining(accept_factors=True)
        try:
            result = sandbox.run(
                command,  # type: ignore[arg-type]
                loops=loops,
                name=f"{name}-{attempt}",
                environment=settings,
                screenplay=script,
            )
        except SotaError as error:
            said = str(error)
            continue
        return RealRun(result, sandbox.session(result.log), {})
    raise RuntimeError(f"{name}: {said[-1500:]}")


def _accepted(run: RealRun) -> list[str]:
    return list(_accepted_sets(run)[-1])


def _accepted_sets(run: RealRun) -> list[set[str]]:
    """What was accepted after each acceptance."""
    from rdagent_sota_patch.factor_table.schema import read_names

    tables = [
        Path(str(each.workspace)) / "combined_factors_df.parquet"
        for each in run.session.experiments
        if each.decision
    ]
    return [set(read_names(table)) for table in tables if table.is_file()]


def _judge_model(run: Callable[[], RealRun], wanted: list[set[str]]) -> str:
    from tests.integration.evidence import usage_of

    try:
        session = run().session
    except RuntimeError as error:
        return str(error)
    used = {factor["name"] for factor in usage_of(session)["factors"]}
    return "" if used in wanted else f"{session.log.name} was trained on {sorted(used)}"


# -- servers --------------------------------------------------------------------------------------------------------


def try_servers(folder: Path) -> list[Row]:
    """Two servers on one log root and one cache, asked for bundles that neither has made yet."""
    from tests.export.made_run import make_run
    from tests.sessions.forged import factor_experiment, feedback, put, saved_loop, workspace

    run = make_run(folder / "project")
    last = factor_experiment("GapA", "Extra", experiment_workspace=workspace(str(run.workspace)))
    loop = saved_loop((factor_experiment("ZMom"), feedback(True)), (last, feedback(True)))
    names = [f"mined{number}" for number in range(_LOGS)]
    for name in names:
        put(run.session.log.with_name(name), 1, "4_record", loop)
    environ = {**os.environ, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "200"}
    program = str(Path(sys.executable).with_name("rdagent-sota"))
    with ExitStack() as stack:
        urls = []
        for _ in range(2):
            command = [program, "serve", "--log-root", str(run.session.log.parent), "--port", "0"]
            started = subprocess.Popen(
                command,
                cwd=folder / "project",
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(started)
            stack.callback(started.kill)
            urls.append(_wait_for_url(started))
        with ThreadPoolExecutor(_CLIENTS) as pool:
            asked = [(urls[number % 2], names[number // 2 % _LOGS]) for number in range(_REQUESTS * 2)]
            failures = [said for said in pool.map(lambda each: _ask(*each), asked) if said]
    left = [path.name for path in (folder / "cache").rglob(".*.tmp")]
    return [
        judge(
            PART,
            "two servers on one cache",
            len(asked),
            [*failures, *left],
            f"{_CLIENTS} clients, {_LOGS} runs",
        )
    ]


def _wait_for_url(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    said = ""
    for line in started.stdout:
        said += line
        if "http://" in line:
            return "http://" + line.partition("http://")[2].split()[0].rstrip("/.,")
    raise RuntimeError(said)


def _ask(url: str, task: str) -> str:
    """A bundle's manifest, and a file that it lists: what is served must be what was hashed."""
    try:
        manifest = json.loads(_get(f"{url}/tasks/{task}/asset_bytes?key=manifest.json"))
        name, file = next((name, file) for name, file in manifest["files"].items() if name.endswith(".pkl"))
        content = _get(f"{url}/tasks/{task}/asset_bytes?key={name}")
    except (OSError, ValueError) as error:
        return f"{task}: {error}"
    return "" if hashlib.sha256(content).hexdigest() == file["sha256"] else f"{task}: {name} is another file"


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        raise OSError(f"{error.code} {error.read()[:300]!r}") from error
    return body


# -- an export ------------------------------------------------------------------------------------------------------


def try_exports(folder: Path) -> list[Row]:
    """A workspace whose table and weights are rewritten all the time, without care, while it is exported."""
    from rdagent_sota_patch.bundle.opening import open_bundle
    from rdagent_sota_patch.errors import SotaError
    from rdagent_sota_patch.export.export_run import ExportOptions, export_bundle
    from rdagent_sota_patch.scoring.replay import replay_slice
    from tests.export.made_run import make_run

    run = make_run(folder / "project")
    other = make_run(folder / "other")
    pairs = [
        (path, other.workspace / path.relative_to(run.workspace)) for path in sorted(run.workspace.rglob("*"))
    ]
    pairs = [(here, there) for here, there in pairs if here.is_file() and here.suffix in {".parquet", ".pkl"}]
    contents = [(path, path.read_bytes(), _other(path, there)) for path, there in pairs]
    done = threading.Event()

    def rewrite() -> None:
        turn = 0
        while not done.is_set():
            for path, one, two in contents:
                path.write_bytes((one, two)[turn % 2])
            turn += 1
            time.sleep(0.2)

    writer = threading.Thread(target=rewrite)
    writer.start()
    failures, whole, refused = [], 0, []
    for number in range(_EXPORTS):
        target = folder / f"bundle{number}"
        try:
            export_bundle(run.session, target, ExportOptions(), lambda _: None)
        except SotaError as error:
            refused.append(error.slug)
            if target.exists():
                failures.append(f"refused with {error.slug}, and something is there")
            continue
        replayed = replay_slice(open_bundle(target))
        whole += replayed.max_difference == 0.0
        if replayed.max_difference != 0.0:
            failures.append(f"a bundle that is {replayed.max_difference} off")
    done.set()
    writer.join()
    left = [path.name for path in folder.glob(".rdagent-sota*")]
    failures += [f"left behind: {left}"] if left else []
    found = f"{whole} whole and exact, {len(refused)} refused ({', '.join(sorted(set(refused)))})"
    return [judge(PART, "export while the workspace is rewritten", _EXPORTS, failures, found)]


def _other(path: Path, there: Path) -> bytes:
    """Another content of the same kind: another table, or half of a file as one that is being written has it."""
    content = there.read_bytes()
    if path.suffix != ".parquet":
        return content[: len(content) // 2]
    import io

    import pandas as pd

    changed = io.BytesIO()
    (pd.read_parquet(there) * 1.5).to_parquet(changed)
    return changed.getvalue()


CROWDS: dict[str, Callable[[Path], list[Row]]] = {
    "servers": try_servers,
    "exports": try_exports,
    "runs": try_runs,
}


def _main(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    rows: list[Row] = []

    def first() -> Row:
        rows.extend(CROWDS[name](folder.resolve()))
        return rows[0]

    rows[0] = timed(first)
    print(json.dumps([row.to_plain() for row in rows]))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
