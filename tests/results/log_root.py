"""A log root with runs of every kind in it, written by hand in a moment, and a secret beside it."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_patch.sessions.signature import MAGIC
from tests.bundle.made import FACTOR_CODE, FACTOR_DAYS
from tests.export.made_run import EXPERIMENT, RUN, write_workspace
from tests.sessions.forged import (
    Made,
    factor_experiment,
    feedback,
    forge,
    model_experiment,
    put,
    saved_loop,
    workspace,
)
from tests.sessions.generated_log import KEY, METRICS

MODEL_CODE = "model_cls = None\n"

CANARY = "CANARY-9f3a-of-a-file-outside"
EMBEDDED = b"weights that the session itself holds"
ODD_NAMES = (
    "run with spaces",
    "100%25 of %2e%2e%2f",
    "ünï-日本",
    "quo\"te's",
    ".hidden",
    "...",
    "semi;colon",
    "ques?tion",
    "ha#sh",
    "plus+and&more=1",
    "back\\..\\slash",
    "new\r\nSet-Cookie: line",
    "<img src=x onerror=alert(1)>",
    "-dash",
    "CON",
    "\u202egnp.exe",
    "e\u0301",
    "x" * 255,
)


@dataclass(frozen=True)
class Project:
    """A folder in which RD-Agent could have been run.

    Attributes:
        log: The log root.
        workspace: Of the run ``accepted``, which can be exported.
    """

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def workspace(self) -> Path:
        return self.folder / "git_ignore_folder" / "RD-Agent_workspace" / "5a5ecb0e174e72a8e5f029f20bca9100"

    @property
    def weights(self) -> Path:
        return self.workspace / "mlruns" / EXPERIMENT / RUN / "artifacts" / "params.pkl"


def make_project(folder: Path) -> Project:
    """Write runs and all that is none; ``accepted`` is the newest, so that ``latest`` means it."""
    project = Project(folder)
    project.workspace.mkdir(parents=True)
    write_workspace(project.workspace)
    root = project.log
    write_run(root / "inheriting", [*_accepted_loops(None)][:1], inherited=True)
    write_run(root / "rejected", [(run_of_factors("ZMom"), False)])
    write_run(root / "model", [(_model("Net"), True), (_model("Worse"), False)], loop_class="ModelRDLoop")
    write_run(root / "embedded", [(with_weights(run_of_factors("ZMom"), EMBEDDED), True)])
    write_run(root / "gone", [(run_of_factors("ZMom", place="/nowhere/at/all"), True)])
    whole = signed(forge(saved_loop((run_of_factors("ZMom"), feedback(True)))))
    put(root / "torn", 0, "4_record", whole[: len(whole) // 2])
    put(root / "altered", 0, "4_record", whole.replace(b"tells", b"sells"))
    put(root / "foreign", 0, "4_record", b"no pickle at all, but " + CANARY.encode())
    (root / "empty").mkdir()
    (root / "nolog").mkdir()
    (root / "nolog" / "notes.txt").write_text(CANARY)
    (root / "nosnapshots" / "__session__").mkdir(parents=True)
    (root / "plain.txt").write_text(CANARY)
    for name in ODD_NAMES:
        write_run(root / name, [(run_of_factors("ZMom"), False)])
    _lead_out(project)
    for entry in os.scandir(root):
        if entry.is_dir() and "elsewhere" not in entry.name:
            age(Path(entry.path), 1_700_000_000)
    write_run(root / "accepted", _accepted_loops(project.workspace))
    age(root / "accepted", 1_700_000_100)
    return project


def write_run(
    log: Path,
    loops: list[tuple[Made, bool]],
    *,
    loop_class: str = "FactorRDLoop",
    inherited: bool = False,
) -> Path:
    """Write a run as RD-Agent would sign it, one snapshot for each loop, each with all the history before it."""
    if inherited:
        for experiment, _ in loops:
            experiment.state["inherited_from"] = {"task_id": "another", "loop": 3}
    for number in range(len(loops)):
        history = [(experiment, feedback(decision)) for experiment, decision in loops[: number + 1]]
        saved = saved_loop(*history, idx2loop_id={place: place for place in range(number + 1)})
        saved.name = loop_class
        put(log, number, "4_record", signed(forge(saved)))
    return log


def run_of_factors(*names: str, place: Path | str | None = None, based_on: tuple[Made, ...] = ()) -> Made:
    """A factor experiment whose factors are code that could be run; one named ``Broken`` was not implemented."""
    made = factor_experiment(*names, based_experiments=list(based_on), result=dict(METRICS))
    made.state["hypothesis"] = Made(
        "rdagent.core.proposal", "Hypothesis", state={"hypothesis": f"that {names[0]} tells something"}
    )
    for name, space, verdict in zip(
        names,
        made.state["sub_workspace_list"],
        made.state["prop_dev_feedback"].state["feedback_list"],
        strict=True,
    ):
        code = FACTOR_CODE.format(name=name, days=FACTOR_DAYS.get(name, 2))
        space.state["file_dict"] = {"factor.py": code}
        verdict.state["final_decision"] = name != "Broken"
    for task in made.state["sub_tasks"]:
        task.state |= {"description": "what it measures", "factor_formulation": r"\frac{a}{b}"}
    if place is not None:
        made.state["experiment_workspace"] = workspace(str(place))
    return made


def with_weights(experiment: Made, content: bytes) -> Made:
    """Weights in the session, as the plugin keeps them."""
    kept = workspace("/ws/weights")
    kept.state["file_dict"] = {"model.pkl": content}
    experiment.state["sub_workspace_list"].append(kept)
    return experiment


def signed(payload: bytes) -> bytes:
    """A snapshot as RD-Agent writes it with the tests' key."""
    return MAGIC + hmac.digest(hashlib.sha256(KEY.encode()).digest(), payload, "sha256") + payload


def age(log: Path, seconds: float) -> None:
    """Have every file of a log be of that time."""
    for path in log.rglob("*"):
        os.utime(path, (seconds, seconds))


def _accepted_loops(place: Path | None) -> list[tuple[Made, bool]]:
    first = run_of_factors("ZMom")
    last = run_of_factors("GapA", "Extra", "Broken", place=place, based_on=(first,))
    return [(first, True), (run_of_factors("Rejected"), False), (last, True)]


def _model(name: str) -> Made:
    made = model_experiment(result=dict(METRICS))
    made.state["sub_tasks"][0].state = {
        "name": name,
        "model_type": "Tabular",
        "architecture": "one layer",
        "hyperparameters": {"width": 16},
    }
    space = workspace(f"/ws/{name}")
    space.state["file_dict"] = {"model.py": MODEL_CODE}
    made.state["sub_workspace_list"] = [space]
    return made


def _lead_out(project: Project) -> None:
    """A secret beside the log root, and links to it."""
    outside = project.folder / "outside"
    outside.mkdir()
    (outside / "canary.txt").write_text(CANARY)
    (project.folder / "canary.txt").write_text(CANARY)
    (project.log / "link-to-file").symlink_to(outside / "canary.txt")
    (project.log / "link-to-folder").symlink_to(outside)
    linked = project.log / "snapshot-elsewhere" / "__session__" / "0"
    linked.mkdir(parents=True)
    (linked / "4_record").symlink_to(outside / "canary.txt")


def with_attributes(experiment: Made, **attributes: Any) -> Made:
    """The experiment with more of a state."""
    experiment.state |= attributes
    return experiment
