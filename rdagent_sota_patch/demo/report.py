"""The demonstration for people: progress while it runs, one table when it is done."""

from __future__ import annotations

import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.demo.stages import ALPHA_ALONE, SOTA_AND_ALPHA, Phase
from rdagent_sota_patch.stages.program import scripts_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.progress import TaskID

    from rdagent_sota_patch.demo.stages import DemoResult, Observer
    from rdagent_sota_patch.stages.output import Step

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


def list_places(result: DemoResult) -> str:
    """Where everything is, and how to look closer; to be printed unwrapped, so that paths can be copied."""
    # The demonstration has a signing key of its own; with the user's, its logs would count as altered.
    key = result.folder / "home" / ".rdagent" / "artifact_signing.key"
    lines = [f"factor stage: log {result.factor_log}"]
    lines += [f"{run.stage}: log {run.log}, workspace {run.workspace}" for run in result.back_tests]
    lines += ["", "To look closer:"]
    lines += [
        f"ARTIFACT_SIGNING_KEY_PATH={shlex.quote(str(key))} {_program()} inspect {shlex.quote(str(log))}"
        for log in (result.factor_log, result.back_tests[-1].log)
    ]
    return "\n".join(lines)
