"""Sessions, workspaces and folders that lie: they are served as what they are, or refused, and nothing fails."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from rdagent_sota_patch.results.describing import describe_time
from tests.export.made_run import EXPERIMENT, RUN
from tests.results.log_root import CANARY, run_of_factors, with_attributes, with_weights, write_run
from tests.sessions.forged import Made, feedback, forge, put, saved_loop
from tests.sessions.generated_log import KEY

from .served import Answer, Served, serving

ANSWERS = ("", "/summary", "/loops", "/session_anchor", "/sota_factor_anchor")
HUGE = 10**5000
NAMES = (
    "../../x",
    "/etc/passwd",
    "..",
    "",
    "a\0b",
    "\x1b[31mred",
    "new\r\nSet-Cookie: owned=1",
    "\ud800lone",
    "\udcff",
    "\u202egnp.exe",
    "model.pkl",
    "factor",
    "FACTOR",
    "manifest.json",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "same",
    "same",
    "same",
    "n" * 1_000_000,
)


def experiment(**attributes: object) -> Made:
    return with_attributes(run_of_factors("ZMom"), **attributes)


def hypothesis(text: object) -> Made:
    return Made("rdagent.core.proposal", "Hypothesis", state={"hypothesis": text})


def nested(depth: int) -> object:
    value: object = "deep"
    for _ in range(depth):
        value = [value]
    return value


def of_task(**parts: object) -> Made:
    made = run_of_factors("ZMom")
    made.state["sub_tasks"][0].state |= parts
    return made


def of_code(code: object) -> Made:
    made = run_of_factors("ZMom")
    made.state["sub_workspace_list"][0].state["file_dict"] = {"factor.py": code}
    return made


LIES: dict[str, Callable[[], Made]] = {
    "names": lambda: run_of_factors(*NAMES),
    "two thousand of one name": lambda: run_of_factors(*["same"] * 2000),
    "no factors": lambda: experiment(sub_tasks=[], sub_workspace_list=[]),
    "numbers that JSON has no form for": lambda: experiment(
        result={"IC": math.nan, "ICIR": math.inf, "Rank IC": -math.inf, "": 1.0, "\ud800": 1, "a\0": True}
    ),
    "huge number": lambda: experiment(result={"IC": HUGE}),
    "metrics of junk": lambda: experiment(result={"IC": nested(40), "x": b"\xff", 3: 4}),
    "result of junk": lambda: experiment(result=nested(40)),
    "hypothesis of junk": lambda: experiment(hypothesis=hypothesis(nested(20))),
    "hypothesis of a huge number": lambda: experiment(hypothesis=hypothesis(HUGE)),
    "hypothesis of a megabyte": lambda: experiment(hypothesis=hypothesis("\ud800\0<b>" * 300_000)),
    "variables of junk": lambda: of_task(variables={nested(5).__repr__(): nested(20), 3: b"\xff"}),
    "variables of huge numbers": lambda: of_task(variables={"a": HUGE}),
    "formula of junk": lambda: of_task(factor_formulation="\\frac{" * 20_000 + "\ud800"),
    "description of junk": lambda: of_task(description=nested(20)),
    "code of lone surrogates": lambda: of_code("x = '\ud800\udfff'\r\n\0"),
    "code of a megabyte": lambda: of_code("# \u202e\n" * 200_000),
    "code of bytes": lambda: of_code(b"\xff"),
    "huge counts": lambda: experiment(sota_source={"sota_factor_count": HUGE, "num_features": -HUGE}),
    "counts of junk": lambda: experiment(sota_source={"sota_factor_count": True, "num_features": "x"}),
    "inherited from a huge loop": lambda: experiment(inherited_from={"task_id": "\ud800", "loop": -HUGE}),
    "inherited from junk": lambda: experiment(inherited_from={"task_id": 3, "loop": None}),
    "artifacts of junk": lambda: experiment(model_artifacts={"schema_version": HUGE, "weights": nested(20)}),
    "artifacts elsewhere": lambda: experiment(
        model_artifacts={
            "schema_version": 1,
            "experiment_id": "../../..",
            "run_id": "..",
            "weights": {"size": -1, "sha256": "0" * 64},
        }
    ),
    "weights of text": lambda: with_weights(experiment(), "no bytes"),  # type: ignore[arg-type]
    "weights of nothing": lambda: with_weights(experiment(), b""),
    **{
        f"workspace {number}": lambda place=place: run_of_factors("ZMom", place=place)  # type: ignore[misc]
        for number, place in enumerate(
            [
                "/etc", "/", "/proc/self", "/proc/self/root", "/dev/fd", "", ".", "..", "../..", "~", "a\0b",
                "/\ud800", "/\udcff", "/" + "a" * 300, "/a" * 5000, "C:\\Windows", "\\\\server\\share",
                "/mnt/c/Windows",
                "file:///etc", "\n", "/nowhere/..", "//", "$HOME",
            ]
        )
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a project whose log root holds all the lies, and of the canary."""
    folder = tmp_path_factory.mktemp("lying")
    (folder / "canary.txt").write_text(CANARY)
    for name, make in LIES.items():
        write_run(folder / "log" / name, [(make(), True)])
    loops: dict[str, Any] = {"huge loop": HUGE, "negative loop": -(10**30), "very negative": -HUGE}
    for name, loop in loops.items():
        saved = saved_loop((run_of_factors("ZMom"), feedback(True)), idx2loop_id={0: loop})
        put(folder / "log" / name, 0, "4_record", forge(saved))
    return folder


@pytest.fixture(scope="module")
def lying(folder: Path) -> Iterator[Served]:
    """A server on them."""
    with serving(folder / "log", key=KEY) as server:
        yield server


def ask(served: Served, task: str, path: str = "") -> Answer:
    """Ask for a run's answer, which is one or says why not, and gives away nothing."""
    answer = served.get(f"/tasks/{quote(task, safe='')}{path}")
    return judge(answer)


def judge(answer: Answer) -> Answer:
    assert answer.status < 500, answer.body[:1000]
    assert CANARY.encode() not in answer.body
    assert "set-cookie" not in answer.headers
    if answer.status >= 400:
        assert answer.document["slug"]
    return answer


def weights_of(served: Served, task: str) -> Answer:
    return judge(served.asset(task, "model.pkl"))


@pytest.mark.parametrize("task", [*LIES, "huge loop", "negative loop", "very negative"])
def test_lies_are_answered(lying: Served, task: str) -> None:
    """Every answer about such a run is one; every key that it names is one that gives what was promised."""
    for path in ANSWERS:
        answer = ask(lying, task, path)
        if answer.status == 200:
            json.loads(answer.body.decode("utf-8"), parse_constant=pytest.fail)
    manifest = ask(lying, task)
    for asset in manifest.document.get("assets", ())[:50]:
        key = asset["key"]
        assert "/" not in key.removeprefix("based_factor_0/")
        assert key.isprintable() and len(key) < 120
        got = judge(lying.asset(task, key))
        assert (got.status, len(got.body), got.headers["etag"]) == (
            200,
            asset["size"],
            f'"{asset["sha256"]}"',
        )
    for path in ("/bundle", "/factor_order", "/asset_bytes?key=manifest.json"):
        assert ask(lying, task, path).status in {200, 404, 409}
    page = lying.get(f"/runs/{quote(task, safe='')}", Accept="text/html")
    assert page.status < 500
    assert CANARY.encode() not in page.body
    assert b"<script" not in page.body
    assert b"\x1b" not in page.body


def test_the_list_with_lies_in_it(lying: Served) -> None:
    """One run that lies does not hide the others."""
    answer = judge(lying.get("/tasks?limit=100"))
    assert {each["task_id"] for each in answer.document["tasks"]} >= LIES.keys()
    assert judge(lying.get("/tasks/latest")).status == 200
    assert lying.get("/").status == 200


def test_a_factor_does_not_take_a_files_place(lying: Served, folder: Path) -> None:
    """A factor that is called as the bundle's model code is has another key."""
    write_run(folder / "log" / "namesake", [(run_of_factors("model", "factor"), True)])
    keys = ask_soon(lying, "namesake").document["assets"]
    assert {each["key"] for each in keys} & {"model.py"} == set()


def ask_soon(served: Served, task: str, path: str = "") -> Answer:
    """Ask for a run that was just written."""
    end = time.monotonic() + 5
    while (answer := ask(served, task, path)).status == 404 and time.monotonic() < end:
        time.sleep(0.05)
    return answer


def make_recorder(workspace: Path, weights: bytes = b"the weights of the run") -> Path:
    """A recorder in a workspace, and its weights."""
    run = workspace / "mlruns" / EXPERIMENT / RUN
    (run / "artifacts").mkdir(parents=True)
    (run / "meta.yaml").write_text(
        f"end_time: 1795247850796\nexperiment_id: '{EXPERIMENT}'\nlifecycle_stage: active\nrun_id: {RUN}\nstatus: 3\n"
    )
    file = run / "artifacts" / "params.pkl"
    file.write_bytes(weights)
    return file


@pytest.mark.parametrize("linked", ["params.pkl", "artifacts", "run", "experiment", "mlruns"])
def test_weights_outside_of_the_workspace(lying: Served, folder: Path, tmp_path: Path, linked: str) -> None:
    """What a link in a workspace leads to outside of it is not weights of the run."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    make_recorder(outside, CANARY.encode())
    file = make_recorder(inside)
    parts = {
        "params.pkl": file,
        "artifacts": file.parent,
        "run": file.parent.parent,
        "experiment": file.parent.parent.parent,
        "mlruns": inside / "mlruns",
    }
    place = parts[linked]
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    place.symlink_to(outside / place.relative_to(inside))
    task = f"linked {linked}"
    write_run(folder / "log" / task, [(run_of_factors("ZMom", place=inside), True)])
    anchor = ask_soon(lying, task, "/sota_factor_anchor")
    assert anchor.status == 200
    assert anchor.document["resolved_model_weight_key"] is None
    assert anchor.document["resolved_model_weight_key_error"]
    assert weights_of(lying, task).status == 409
    assert ask(lying, task, "/bundle").status == 409


def test_a_workspace_that_was_moved_by_a_link(lying: Served, folder: Path, tmp_path: Path) -> None:
    """A link to the whole workspace is another name of it, which people make when a disk is full."""
    make_recorder(tmp_path / "elsewhere", b"weights that were moved")
    (tmp_path / "workspace").symlink_to(tmp_path / "elsewhere")
    write_run(folder / "log" / "moved", [(run_of_factors("ZMom", place=tmp_path / "workspace"), True)])
    assert ask_soon(lying, "moved").status == 200
    assert weights_of(lying, "moved").body == b"weights that were moved"


@pytest.mark.parametrize("swapped", ["params.pkl", "artifacts"])
def test_weights_swapped_for_a_link_after_they_were_read(
    lying: Served, folder: Path, tmp_path: Path, swapped: str
) -> None:
    """The file that was measured is the one that is sent: no other of the same size, at no moment."""
    file = make_recorder(tmp_path / "inside", b"w" * len(CANARY))
    other = make_recorder(tmp_path / "outside", CANARY.encode())
    task = f"swapped {swapped}"
    write_run(folder / "log" / task, [(run_of_factors("ZMom", place=tmp_path / "inside"), True)])
    assert ask_soon(lying, task).status == 200
    assert weights_of(lying, task).status == 200
    place, target = (file, other) if swapped == "params.pkl" else (file.parent, other.parent)
    place.rename(place.with_name("before"))
    place.symlink_to(target)
    for _ in range(30):
        assert weights_of(lying, task).status == 409
        time.sleep(0.01)


def test_a_pipe_in_place_of_weights(lying: Served, folder: Path, tmp_path: Path) -> None:
    """Neither a pipe nor a folder is waited for."""
    for number, make in enumerate((os.mkfifo, os.mkdir)):
        workspace = tmp_path / str(number)
        file = make_recorder(workspace)
        file.unlink()
        make(file)
        task = f"pipe {number}"
        write_run(folder / "log" / task, [(run_of_factors("ZMom", place=workspace), True)])
        assert ask_soon(lying, task).status == 200
        assert weights_of(lying, task).status == 409


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A log root with one good run."""
    write_run(tmp_path / "log" / "good", [(run_of_factors("ZMom"), True)])
    return tmp_path / "log"


def bad_loop_link(root: Path) -> None:
    (root / "bad").symlink_to(root / "bad")


def bad_dangling_link(root: Path) -> None:
    (root / "bad").symlink_to(root / "nowhere")


def bad_session_loop(root: Path) -> None:
    (root / "bad").mkdir()
    (root / "bad" / "__session__").symlink_to(root / "bad" / "__session__")


def bad_session_file(root: Path) -> None:
    (root / "bad").mkdir()
    (root / "bad" / "__session__").write_text(CANARY)


def bad_snapshot_pipe(root: Path) -> None:
    (root / "bad" / "__session__" / "0").mkdir(parents=True)
    os.mkfifo(root / "bad" / "__session__" / "0" / "4_record")


def bad_snapshot_folder(root: Path) -> None:
    (root / "bad" / "__session__" / "0" / "4_record").mkdir(parents=True)


def bad_snapshot_loop(root: Path) -> None:
    (root / "bad" / "__session__" / "0").mkdir(parents=True)
    (root / "bad" / "__session__" / "0" / "4_record").symlink_to("4_record")


def bad_numbers(root: Path) -> None:
    for number in ("9" * 9, "9" * 200, "0x1", "-1", "१"):
        (root / "bad" / "__session__" / number).mkdir(parents=True)
        (root / "bad" / "__session__" / number / ("9" * 200 + "_record")).write_bytes(b"x")


def bad_time(root: Path) -> None:
    log = write_run(root / "bad", [(run_of_factors("ZMom"), True)])
    os.utime(log / "__session__" / "0" / "4_record", (2**40, 2**40))


def bad_time_before(root: Path) -> None:
    log = write_run(root / "bad", [(run_of_factors("ZMom"), True)])
    os.utime(log / "__session__" / "0" / "4_record", (-(2**31), -(2**31)))


def bad_name(root: Path) -> None:
    write_run(Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")), [(run_of_factors("ZMom"), True)])


def bad_empty_files(root: Path) -> None:
    for loop in range(3):
        put(root / "bad", loop, "4_record", b"")


def bad_links_to_devices(root: Path) -> None:
    (root / "bad" / "__session__" / "0").mkdir(parents=True)
    for number, device in enumerate(("/dev/zero", "/dev/urandom", "/dev/tty")):
        (root / "bad" / "__session__" / "0" / f"{number}_record").symlink_to(device)


def bad_many_files(root: Path) -> None:
    (root / "bad" / "__session__" / "0").mkdir(parents=True)
    for number in range(2000):
        (root / "bad" / "__session__" / "0" / f"{number}_record").write_bytes(b"x")


BAD = (
    bad_loop_link, bad_dangling_link, bad_session_loop, bad_session_file, bad_snapshot_pipe, bad_snapshot_folder,
    bad_snapshot_loop, bad_numbers, bad_time, bad_time_before, bad_name, bad_empty_files, bad_links_to_devices,
    bad_many_files,
)  # fmt: skip


@pytest.mark.parametrize("make", BAD, ids=[each.__name__ for each in BAD])
def test_a_bad_folder_beside_a_good_run(root: Path, make: Callable[[Path], None]) -> None:
    """Whatever lies in the log root, the other runs are listed and given."""
    make(root)
    with serving(root, key=KEY) as server:
        listed = judge(server.get("/tasks"))
        assert listed.status == 200
        assert "good" in {each["task_id"] for each in listed.document["tasks"]}
        assert judge(server.get("/tasks/good/sota_factor_anchor")).status == 200
        assert judge(server.get("/tasks/latest")).status == 200
        for path in (*ANSWERS, "/bundle", "/asset_bytes?key=factor.py"):
            ask(server, "bad", path)
            judge(server.get("/tasks/caf%E9" + path))
            judge(server.get("/tasks/latest" + path))
        assert server.get("/").status == 200
        assert "Traceback" not in server.output


def test_a_folder_that_is_called_latest(root: Path) -> None:
    """The word keeps its meaning, and a run of that name is not mistaken for another."""
    write_run(root / "latest", [(run_of_factors("ZMom"), False)])
    with serving(root, key=KEY) as server:
        assert server.get("/tasks/latest").document["task_id"] == "good"
        listed = {each["task_id"]: each for each in server.get("/tasks").document["tasks"]}
        assert "latest" not in listed or listed["latest"]["problem"] is not None


def test_names_in_a_zip_file(tmp_path: Path) -> None:
    """What unpacks a bundle finds one folder of a plain name, however the run is called."""
    import io
    import zipfile

    from tests.results.log_root import make_project

    project = make_project(tmp_path / "project")
    for name in ("..\\..\\evil", "new\r\nSet-Cookie: x", "...", "C:\\x", os.fsdecode(b"caf\xe9")):
        shutil.copytree(project.log / "accepted", project.log / name, dirs_exist_ok=True)
    with serving(project.log, key=KEY) as server:
        for name in ("..\\..\\evil", "new\r\nSet-Cookie: x", "...", "C:\\x"):
            answer = ask_soon(server, name, "/bundle?replay=false")
            assert answer.status == 200
            with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
                tops = {each.partition("/")[0] for each in archive.namelist()}
            assert len(tops) == 1
            (top,) = tops
            assert not set(top) & set('\\/:*?"<>|\r\n')
            assert top.strip(".")
        os.utime(project.log / os.fsdecode(b"caf\xe9/__session__/2/4_record"))
        time.sleep(0.7)
        judge(server.get("/tasks/latest/bundle?replay=false"))


@pytest.mark.parametrize("seconds", [2.0**40, -(2.0**40), 2.0**62])
def test_times_that_no_calendar_has(seconds: float) -> None:
    """Some file systems keep any time that a file is given: the run is listed nevertheless."""
    assert describe_time(seconds)
