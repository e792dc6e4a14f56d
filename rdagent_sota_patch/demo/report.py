"""The demonstration for people: progress while it runs, one table when it is done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.demo.stages import ALPHA_ALONE, FACTOR_LOOPS, SOTA_AND_ALPHA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.progress import TaskID

    from rdagent_sota_patch.demo.runs import Step
    from rdagent_sota_patch.demo.stages import DemoResult

_DOING = {
    "direct_exp_gen": "asking the scripted LLM for a proposal",
    "coding": "writing and checking the code",
    "running": "back-testing with Qlib",
    "feedback": "judging the result",
    "record": "recording",
}


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str, Step | None], None]]:
    """Show one line for each stage while it runs; yields what ``run_demo`` takes as ``on_step``."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def on_step(stage: str, step: Step | None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1, doing="")
            if step is None:
                progress.update(tasks[stage], completed=1, doing="")
            else:
                doing = _DOING.get(step.name, step.name)
                progress.update(tasks[stage], doing=f"loop {step.loop}: {doing}")

        yield on_step


def render(result: DemoResult) -> RenderableType:
    """The comparison table, what it is about above it, where everything is below it."""
    decisions = ", ".join("accepted" if decision else "rejected" for decision in result.decisions)
    title = Text(
        f"Factor stage, {FACTOR_LOOPS} loops ({decisions}) in {result.factor_seconds:.0f} s: "
        f"{len(result.factors)} factors: {', '.join(result.factors)}"
    )
    table = Table(title="The same model on three sets of features, back-tested by Qlib", title_justify="left")
    table.add_column("model stage")
    for name in ("features", "IC", "ICIR", "Rank IC", "annualized return", "max drawdown", "seconds"):
        table.add_column(name, justify="right")
    for run in result.back_tests:
        table.add_row(
            run.stage,
            str(run.features),
            f"{run.ic:.4f}",
            f"{run.icir:.3f}",
            f"{run.rank_ic:.4f}",
            f"{run.annualized_return:.2%}",
            f"{run.max_drawdown:.2%}",
            f"{run.seconds:.0f}",
        )
    both, alpha = result.back_test(SOTA_AND_ALPHA), result.back_test(ALPHA_ALONE)
    gain = Text(
        f"With the mined factors beside Alpha's, the IC is {both.ic:.4f} instead of {alpha.ic:.4f}. "
        "Returns are in excess of the benchmark, with costs. The market is synthetic and the LLM scripted."
    )
    return Group(title, Text(), table, gain, Text(), _places(result))


def _places(result: DemoResult) -> RenderableType:
    places = Table(show_header=False, box=None, pad_edge=False)
    places.add_column()
    places.add_column(overflow="fold")
    places.add_row("factor log", str(result.factor_log))
    for run in result.back_tests:
        places.add_row(f"{run.stage}: log", str(run.log))
        places.add_row(f"{run.stage}: workspace", str(run.workspace))
    return places
