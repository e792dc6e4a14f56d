"""A run of both stages for people and programs: progress while it goes on, a table and JSON at its end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.cli.output import clean
from rdagent_sota_patch.stages.both import best_model
from rdagent_sota_patch.stages.state import StageName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.progress import TaskID

    from rdagent_sota_patch.sessions.records import ExperimentRecord
    from rdagent_sota_patch.stages.both import Outcome, StageOutcome
    from rdagent_sota_patch.stages.progress import Progress as StageProgress

    Observer = Callable[[StageProgress], None]

_TITLES = {StageName.FACTOR: "factor stage", StageName.MODEL: "model stage"}
_DOING = {
    "direct_exp_gen": "proposing",
    "coding": "writing code",
    "running": "back-testing",
    "feedback": "judging",
    "record": "recording",
}
_METRICS = (
    ("IC", "IC", "{:.4f}"),
    ("ICIR", "ICIR", "{:.3f}"),
    ("Rank IC", "Rank IC", "{:.4f}"),
    ("annualized\nreturn", "1day.excess_return_with_cost.annualized_return", "{:.2%}"),
    ("max\ndrawdown", "1day.excess_return_with_cost.max_drawdown", "{:.2%}"),
)


@contextmanager
def show_progress(console: Console) -> Iterator[Observer]:
    """Show a line for each stage while it runs; where that is not a terminal, a line for each step."""
    if not console.is_terminal:
        yield lambda seen: console.print(
            f"{_TITLES[seen.stage]}: {describe(seen)}", markup=False, soft_wrap=True
        )
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[StageName, TaskID] = {}

        def observe(seen: StageProgress) -> None:
            if seen.stage not in tasks:
                tasks[seen.stage] = progress.add_task(_TITLES[seen.stage], total=seen.loops, doing="")
            total = max(seen.finished, 1) if seen.done else seen.loops
            completed = total if seen.done else min(seen.finished, seen.loops)
            progress.update(tasks[seen.stage], total=total, completed=completed, doing=describe(seen))

        yield observe


def describe(seen: StageProgress) -> str:
    """A look at a stage in words: "loop 2 of 10, back-testing; 1 accepted, best IC 0.0312"."""
    if seen.done:
        where = f"{seen.finished} loops done"
    elif seen.step is None:
        where = f"{seen.finished} of {seen.loops} loops done, starting RD-Agent"
    else:
        where = f"loop {seen.step.loop + 1} of {seen.loops}, {_DOING.get(seen.step.name, seen.step.name)}"
    counts = f"; {seen.accepted} accepted"
    if seen.skipped:
        counts += f", {seen.skipped} skipped"
    if seen.best_ic is not None:
        counts += f", best IC {seen.best_ic:.4f}"
    return where + counts


def render_outcome(outcome: Outcome) -> RenderableType:
    """The models against the factor stage's own result, where all is below."""
    best = best_model(outcome)
    features = "SOTA and Alpha factors" if outcome.state.plan.alpha else "SOTA factors alone"
    table = Table(title=f"Models on {features}, against the factor stage's own result", box=box.SIMPLE_HEAD)
    table.add_column("loop", justify="right")
    table.add_column("model", overflow="fold")
    table.add_column("type")
    table.add_column("decision")
    for title, _, _ in _METRICS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row(
        str(outcome.sota.loop), "factor stage", "", "accepted", *_figures(outcome.sota), end_section=True
    )
    for one in outcome.model.experiments:
        model = one.model
        table.add_row(
            str(one.loop),
            Text(clean(model.name if model else "")),
            Text(clean(model.model_type if model else "")),
            "accepted" if one.decision else "rejected",
            *_figures(one),
            style="bold" if one is best else None,
        )
    return Group(table, _skipped(outcome), _places(outcome))


def outcome_to_plain(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data for ``json.dumps``."""
    sota, plan = outcome.sota, outcome.state.plan
    return {
        "folder": str(outcome.folder),
        "alpha": plan.alpha,
        "factor": {
            **_stage_to_plain(outcome.factor),
            "sota": {
                "loop": sota.loop,
                "factors": [factor.name for factor in sota.factors if factor.implemented],
                "metrics": dict(sota.metrics),
                "workspace": _path(sota),
            },
        },
        "model": {**_stage_to_plain(outcome.model), "best_loop": best_model(outcome).loop},
    }


def _stage_to_plain(stage: StageOutcome) -> dict[str, Any]:
    return {
        "log": str(stage.session.log),
        "loops": [
            {
                "loop": one.loop,
                "name": one.model.name if one.model else None,
                "model_type": one.model.model_type if one.model else None,
                "factors": [factor.name for factor in one.factors if factor.implemented],
                "decision": one.decision,
                "metrics": dict(one.metrics),
                "workspace": _path(one),
            }
            for one in stage.experiments
        ],
        "skipped": [{"loop": loop, "reason": reason} for loop, reason in stage.skipped],
    }


def _figures(one: ExperimentRecord) -> list[str]:
    return [
        "" if (value := one.metrics.get(key)) is None else form.format(value) for _, key, form in _METRICS
    ]


def _skipped(outcome: Outcome) -> Text:
    lines = [
        f"{_TITLES[name]}: loop {loop} was skipped and has no result: {clean(reason)}"
        for name, stage in ((StageName.FACTOR, outcome.factor), (StageName.MODEL, outcome.model))
        for loop, reason in stage.skipped
    ]
    return Text("\n".join([*lines, ""]) if lines else "", style="yellow", end="")


def _places(outcome: Outcome) -> RenderableType:
    places = Table(show_header=False, box=None, pad_edge=False)
    places.add_column()
    places.add_column(overflow="fold")
    places.add_row("factor log", Text(clean(outcome.factor.session.log)))
    places.add_row("model log", Text(clean(outcome.model.session.log)))
    places.add_row("output", Text(clean(outcome.folder)))
    for title, one in (
        ("factor stage", outcome.sota),
        *((f"loop {one.loop}", one) for one in outcome.model.experiments),
    ):
        places.add_row(f"{title}: workspace", Text(clean(one.workspace or "not recorded")))
    return places


def _path(one: ExperimentRecord) -> str | None:
    return str(one.workspace) if one.workspace else None
