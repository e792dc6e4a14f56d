"""The factor stage, then three model stages; their progress, and the table."""

from __future__ import annotations

import csv
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.demo.synthetic_market import Segments, host_market, host_segments
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages.both import scripts_folder
from rdagent_sota_patch.stages.progress import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType
    from rich.progress import TaskID

    from rdagent_sota_patch.demo.synthetic_market import MarketSpec
    from rdagent_sota_patch.sessions.records import Session

FACTOR_LOOPS = 3
FACTOR_STAGE = "factor stage"
ALPHA_ALONE, SOTA_ALONE, SOTA_AND_ALPHA = "Alpha alone", "SOTA alone", "SOTA and Alpha"

_MARKER = "rdagent-sota-demo.txt"


class Phase(Enum):
    """The two ends of a stage."""

    STARTED = "started"
    DONE = "done"


Observer = Callable[[str, Step | Phase], None]


@dataclass(frozen=True, slots=True)
class BackTest:
    """One model's back-test.

    Attributes:
        features: Number of features that the trained model takes.
        workspace: Folder with the rendered configuration, the model and its predictions.
    """

    stage: str
    features: int
    ic: float
    icir: float
    rank_ic: float
    annualized_return: float
    max_drawdown: float
    seconds: float
    log: Path
    workspace: Path


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration found.

    Attributes:
        decisions: Of the factor stage's loops, in order.
        factors: Names of the accepted factors.
    """

    folder: Path
    factor_log: Path
    factor_seconds: float
    decisions: tuple[bool, ...]
    factors: tuple[str, ...]
    back_tests: tuple[BackTest, ...]

    def back_test(self, stage: str) -> BackTest:
        """The back-test of one model stage."""
        return next(result for result in self.back_tests if result.stage == stage)

    def as_json(self) -> dict[str, Any]:
        """The result as plain data for ``json.dumps``."""
        plain: dict[str, Any] = asdict(self)
        plain.update(folder=str(self.folder), factor_log=str(self.factor_log))
        for result in plain["back_tests"]:
            result.update(log=str(result["log"]), workspace=str(result["workspace"]))
        return plain


def model_settings(factor_log: Path) -> dict[str, dict[str, str]]:
    """The settings of the three model stages, by stage; the first has none: plain RD-Agent."""
    from_log = {"LOAD_SOTA_FROM_LOG": "true", "SOTA_LOG_PATH": str(factor_log)}
    return {
        ALPHA_ALONE: {},
        SOTA_ALONE: from_log,
        SOTA_AND_ALPHA: {**from_log, "USE_ALPHA_FACTORS": "true"},
    }


def run_demo(
    folder: Path,
    *,
    market: MarketSpec | None = None,
    segments: Segments | None = None,
    observe: Observer | None = None,
    force: bool = False,
) -> DemoResult:
    """Run the factor stage and the three model stages in ``folder``, with the real ``rdagent`` and Qlib.

    Args:
        folder: New, empty, or an earlier demonstration's.
        observe: Called with a stage's name and what happens in it, as it happens.
        force: Whether the logs of an earlier demonstration in ``folder`` may go.

    Raises:
        SotaError: ``folder`` holds something else, a stage failed, or SOTA factors beside Alpha did not beat
            Alpha alone.
    """
    _claim(folder, force=force)
    with Sandbox(folder, market=market or host_market(), segments=segments or host_segments()) as sandbox:
        with _observed(observe, FACTOR_STAGE) as on_step:
            mined = sandbox.run("fin_factor", loops=FACTOR_LOOPS, name="factor", on_step=on_step)
        session = sandbox.session(mined.log)
        decisions = tuple(bool(experiment.decision) for experiment in session.experiments)
        if decisions != (True, False, True):
            raise SotaError(
                "demo-failed",
                f"The factor stage's script accepts, rejects and accepts; the run's log says {decisions}.",
                f"Its output is in {mined.output_file}, its log in {mined.log}.",
            )
        back_tests = tuple(
            _run_model_stage(sandbox, stage, settings, observe)
            for stage, settings in model_settings(mined.log).items()
        )
    result = DemoResult(
        folder=sandbox.folder,
        factor_log=mined.log,
        factor_seconds=mined.seconds,
        decisions=decisions,
        factors=_accepted_factors(session),
        back_tests=back_tests,
    )
    _check_gain(result)
    return result


def free_folder(base: Path) -> Path:
    """``base``, or the first of ``base-2``, ``base-3`` and so on, without the logs of an earlier demonstration."""
    folder, number = base, 1
    while _has_logs(folder):
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _has_logs(folder: Path) -> bool:
    logs = folder / "project" / "log"
    return (folder / _MARKER).is_file() and logs.is_dir() and any(logs.iterdir())


def _claim(folder: Path, *, force: bool = False) -> None:
    """Make ``folder`` ready; what an earlier demonstration left in it goes if wanted, and nothing else ever does."""
    if folder.exists() and not folder.is_dir():
        raise SotaError("demo-folder-in-use", f"{folder} is a file.", "Name a new or an empty folder.")
    if _has_logs(folder) and not force:
        raise SotaError(
            "demo-folder-in-use",
            f"{folder} holds the logs of an earlier demonstration.",
            "Name another folder with --folder, or give --force to replace them.",
        )
    if (folder / _MARKER).is_file():
        for name in ("home", "project", "output", "data", "tmp"):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder / name)
    elif folder.is_dir() and any(folder.iterdir()):
        raise SotaError(
            "demo-folder-in-use",
            f"{folder} holds files that no demonstration wrote.",
            "Name a new or an empty folder.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).write_text("Written by rdagent-sota demo, which may overwrite this folder.\n", "utf-8")


def _run_model_stage(
    sandbox: Sandbox, stage: str, settings: Mapping[str, str], observe: Observer | None
) -> BackTest:
    name = f"model-{stage.lower().replace(' ', '-')}"
    with _observed(observe, stage) as on_step:
        run = sandbox.run("fin_model", loops=1, name=name, environment=settings, on_step=on_step)
    return read_back_test(stage, sandbox.session(run.log), run.seconds)


def read_back_test(stage: str, session: Session, seconds: float = 0.0) -> BackTest:
    """Read the back-test of the last experiment in ``session`` from its workspace.

    Raises:
        SotaError: There is none.
    """
    recorded = session.experiments[-1].workspace if session.experiments else None
    if recorded is None or not (workspace := Path(recorded)).joinpath("qlib_res.csv").is_file():
        raise SotaError(
            "demo-failed",
            f"{stage}: no back-test result (qlib_res.csv) in the workspace {recorded}.",
            f"The run's log is {session.log}.",
        )
    with (workspace / "qlib_res.csv").open(encoding="utf-8", newline="") as lines:
        metrics = {row[0]: float(row[1]) for row in csv.reader(lines) if row[0]}
    return BackTest(
        stage=stage,
        features=read_num_features(workspace),
        ic=metrics["IC"],
        icir=metrics["ICIR"],
        rank_ic=metrics["Rank IC"],
        annualized_return=metrics["1day.excess_return_with_cost.annualized_return"],
        max_drawdown=metrics["1day.excess_return_with_cost.max_drawdown"],
        seconds=seconds,
        log=session.log,
        workspace=workspace,
    )


def read_num_features(workspace: Path) -> int:
    """The input size that Qlib's recorder in ``workspace`` noted for the trained model.

    Qlib's trainer logs the rendered task as MLflow parameters, one text file each
    (``qlib/model/trainer.py``: ``_log_task_info``).
    """
    noted = sorted(
        workspace.glob("mlruns/*/*/params/model.kwargs.pt_model_kwargs.num_features"),
        key=lambda path: path.stat().st_mtime,
    )
    if not noted:
        raise SotaError(
            "demo-failed", f"No recorder in {workspace / 'mlruns'} noted the model's number of features."
        )
    return int(noted[-1].read_text(encoding="utf-8"))


def _accepted_factors(session: Session) -> tuple[str, ...]:
    return tuple(
        factor.name
        for experiment in session.experiments
        if experiment.decision
        for factor in experiment.factors
        if factor.implemented
    )


def _check_gain(result: DemoResult) -> None:
    both, alpha = result.back_test(SOTA_AND_ALPHA), result.back_test(ALPHA_ALONE)
    if not both.ic > alpha.ic:
        raise SotaError(
            "demo-failed",
            f"SOTA and Alpha factors together reached an IC of {both.ic:.4f} with {both.features} features, "
            f"Alpha alone {alpha.ic:.4f} with {alpha.features}: the SOTA factors did not reach the model.",
            f"Compare the logs {both.log} and {alpha.log}.",
        )


@contextmanager
def _observed(observe: Observer | None, stage: str) -> Iterator[Callable[[Step], None] | None]:
    """Tell ``observe`` that ``stage`` starts and ends; yields what passes its steps on."""
    if observe is None:
        yield None
        return
    observe(stage, Phase.STARTED)
    yield lambda step: observe(stage, step)
    observe(stage, Phase.DONE)


_DOING = {
    "direct_exp_gen": "asking the scripted LLM for a proposal",
    "coding": "writing and checking the code",
    "running": "back-testing with Qlib",
    "feedback": "judging the result",
    "record": "recording",
}


@contextmanager
def show_progress(console: Console) -> Iterator[Observer]:
    """Show one line for each stage while it runs; yields what ``run_demo`` takes as ``observe``."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def observe(stage: str, event: Step | Phase) -> None:
            if event is Phase.STARTED:
                tasks[stage] = progress.add_task(stage, total=1, doing="starting RD-Agent")
            elif event is Phase.DONE:
                progress.update(tasks[stage], completed=1, doing="")
            else:
                doing = _DOING.get(event.name, event.name)
                progress.update(tasks[stage], doing=f"loop {event.loop}: {doing}")

        yield observe


def render(result: DemoResult) -> RenderableType:
    """The comparison table, what it is about above it, where everything is below it."""
    decisions = ", ".join("accepted" if decision else "rejected" for decision in result.decisions)
    mined = Text(
        f"The factor stage ran {len(result.decisions)} loops ({decisions}) and mined "
        f"{len(result.factors)} factors: {', '.join(result.factors)}."
    )
    table = Table(title="One model on three sets of features, back-tested by Qlib", box=box.SIMPLE_HEAD)
    table.add_column("model stage", no_wrap=True)
    for name in ("features", "IC", "ICIR", "Rank IC", "annualized\nreturn", "max\ndrawdown"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in result.back_tests:
        table.add_row(
            run.stage,
            str(run.features),
            f"{run.ic:.4f}",
            f"{run.icir:.3f}",
            f"{run.rank_ic:.4f}",
            f"{run.annualized_return:.2%}",
            f"{run.max_drawdown:.2%}",
        )
    both, alpha = result.back_test(SOTA_AND_ALPHA), result.back_test(ALPHA_ALONE)
    gain = Text(
        f"With the mined factors beside Alpha's, the IC is {both.ic:.4f} instead of {alpha.ic:.4f}. "
        "Returns are in excess of the benchmark, after costs. The market is synthetic, the LLM scripted."
    )
    return Group(mined, Text(), table, gain)


def _program() -> str:
    """``rdagent-sota`` as the user's shell finds this one: by its name, or by its place where it is not on the path."""
    own = scripts_folder() / "rdagent-sota"
    found = shutil.which("rdagent-sota")
    if not own.is_file() or (found is not None and Path(found).resolve() == own.resolve()):
        return "rdagent-sota"
    return shlex.quote(str(own))


def find_signing_key(folder: Path) -> Path:
    """The demonstration's own signing key; with the user's, its logs would count as altered."""
    return folder / "home" / ".rdagent" / "artifact_signing.key"


def list_places(result: DemoResult) -> str:
    """Where everything is, and how to look closer; to be printed unwrapped, so that paths can be copied."""
    key = find_signing_key(result.folder)
    lines = [f"factor stage: log {result.factor_log}"]
    lines += [f"{run.stage}: log {run.log}, workspace {run.workspace}" for run in result.back_tests]
    lines += ["", "To look closer:"]
    lines += [
        f"ARTIFACT_SIGNING_KEY_PATH={shlex.quote(str(key))} {_program()} inspect {shlex.quote(str(log))}"
        for log in (result.factor_log, result.back_tests[-1].log)
    ]
    return "\n".join(lines)
