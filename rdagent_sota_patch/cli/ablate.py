"""``rdagent-sota ablate``: which factors earn their place."""

from __future__ import annotations

import importlib.util
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.bundle.documents import MANIFEST_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli.output import (
    EXIT_PROBLEM,
    clean,
    count,
    err,
    find_market_data,
    out,
    print_json,
    print_problems,
    problem_to_plain,
)
from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.factor_table.saving import require_writable
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdagent_sota_patch.ablation.ablating import AblateOptions, Ablation, Earned
    from rdagent_sota_patch.ablation.subject import CodeOptions, Subject
    from rdagent_sota_patch.export.choice import Stage
    from rdagent_sota_patch.scoring.mined import Report

_NEEDED = ("joblib", "lightgbm", "qlib", "scipy", "statsmodels")
_WORK = "ablation-work-"
_COLOURS = {"helps": "green", "does not": "red", "cannot be told": "yellow"}
_STEPS = {
    "factors": "the factors' code",
    "alpha": "Alpha features",
    "features": "features",
    "windows": "windows",
    "trials": "trials",
    "smallest set": "smallest set",
}
_SETS = {
    "all": "all factors",
    "distinct": "one of each group",
    "alpha": "Alpha alone",
    "mined": "mined alone",
}


@dataclass(frozen=True, slots=True)
class AblateFiles:
    """What is read and written.

    Attributes:
        target: A run's log, or a bundle.
        data: What factor code reads; only a bundle's is run.
        qlib_dir: Qlib's data; where the training had it by default.
        stage: Of a log with both.
        outcomes: The folder that keeps what was tried; None for none.
        save: The factor file for the smallest set.
    """

    target: Path
    data: Path | None
    qlib_dir: Path | None
    default_qlib: Path
    stage: Stage | None
    outcomes: Path | None
    save: Path | None


def run_ablate(files: AblateFiles, options: AblateOptions, code: CodeOptions, as_json: bool) -> None:
    """Ablate, print the answers or give them as JSON, and save the smallest set."""
    _require_libraries()
    if files.save is not None:
        require_writable(files.save, "Name a file in a folder of yours with --save.")
    from rdagent_sota_patch.ablation.ablating import ablate
    from rdagent_sota_patch.ablation.recipe import read_recipe
    from rdagent_sota_patch.ablation.subject import load_subject, save_factors

    with _workplace(files.outcomes) as (folder, work), _progress() as report:
        subject = _find_subject(files, work, code, report)
        recipe = read_recipe(subject.meta)
        arrays = load_subject(subject, work, options.jobs, report)
        record = {"task_id": subject.task_id, "loop": subject.loop, "factor table": subject.table.fingerprint}
        found = ablate(arrays, subject.mined, recipe, folder, options=options, report=report, record=record)
        if files.save is not None and found.smallest:
            save_factors(subject, found.smallest, files.save)
    problems = list(found.problems)
    if files.save is not None and not found.smallest:
        problems.append(_nothing_saved(found, files.save))
    if as_json:
        print_json(_to_plain(subject, found, files, problems))
    else:
        _show(subject, found)
        if files.save is not None and found.smallest:
            out.print(f"smallest set: {clean(files.save)}", markup=False, soft_wrap=True)
        print_problems(problems, style="yellow", mark="!")
    if files.save is not None and not found.smallest:
        raise typer.Exit(EXIT_PROBLEM)


def _nothing_saved(found: Ablation, target: Path) -> Problem:
    why = (
        "no smallest set was found"
        if found.smallest is None
        else "without any mined factor the models are as good"
    )
    return Problem(
        "nothing-saved",
        f"{target} was not written: {why}.",
        "Look at the factors' verdicts; more --windows and --seeds tell more.",
    )


def _require_libraries() -> None:
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise SotaError(
            "extra-missing",
            f"`rdagent-sota ablate` needs {', '.join(missing)}.",
            "pip install 'rdagent-sota-patch[evidence,live]'",
        )


@contextmanager
def _workplace(folder: Path | None) -> Iterator[tuple[Path, Path]]:
    """The folder for the outcomes, and one for the arrays, which goes at the end."""
    from rdagent_sota_patch.ablation.outcomes import hold_folder

    if folder is None:
        with TemporaryDirectory(prefix=_WORK) as outcomes, TemporaryDirectory(prefix=_WORK) as work:
            yield Path(outcomes), Path(work)
        return
    with hold_folder(folder):
        for abandoned in folder.glob(f"{_WORK}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with TemporaryDirectory(prefix=_WORK, dir=folder) as work:
            yield folder, Path(work)


def _find_subject(files: AblateFiles, work: Path, code: CodeOptions, report: Report) -> Subject:
    from rdagent_sota_patch.ablation.recipe import read_recipe
    from rdagent_sota_patch.ablation.subject import subject_of_bundle, subject_of_log
    from rdagent_sota_patch.scoring.market_days import MarketFiles

    if (files.target / MANIFEST_NAME).is_file():
        bundle = open_bundle(files.target)
        # Before any code is run.
        read_recipe(bundle.model[1])
        market = MarketFiles(files.data or find_market_data(), files.qlib_dir or files.default_qlib)
        return subject_of_bundle(bundle, market, work, code, report)
    session = find_log(files.target, log_roots(os.environ))
    roots = tuple(load_settings().sota_workspace_root)
    return subject_of_log(session, files.stage, roots, files.qlib_dir, files.default_qlib)


@contextmanager
def _progress() -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("")

        def report(what: str, done: int, of: int) -> None:
            if done == 0:
                progress.reset(task, total=of, description=_STEPS[what])
            progress.update(task, completed=done, total=of)

        yield report


def _show(subject: Subject, found: Ablation) -> None:
    out.print(Text(_sentence(found), style="bold"), soft_wrap=True)
    first, last = found.windows[0].test[0], found.windows[-1].test[1] - 1
    out.print(
        f"{clean(subject.task_id)}, loop {subject.loop}: {count(found.trials, 'model')}, "
        f"{count(found.seeds, 'seed')}, {count(len(found.windows), 'window')}, "
        f"tested on {found.days[first]}…{found.days[last]}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    out.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("factor", overflow="fold")
    for name in ("IC lost without it", "windows", "p", "corrected"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for earned in found.factors:
        table.add_row(*_row(earned, len(found.windows)))
    out.print(table)
    out.print()
    out.print(_table_of_sets(found))


def _sentence(found: Ablation) -> str:
    helping = sum(earned.verdict == "helps" for earned in found.factors)
    factors = sum(len(earned.group.members) for earned in found.factors)
    said = f"Of {count(factors, 'mined factor')}, {helping} {_be(helping)} shown to help"
    if found.smallest is None:
        return f"{said}."
    if not found.smallest:
        return f"{said}; without any the models are as good."
    kept = len(found.smallest)
    return f"{said}; as good as all {_be(kept)} {kept}: {clean(', '.join(found.smallest))}."


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def _row(earned: Earned, windows: int) -> tuple[Text | str, ...]:
    group, change = earned.group, earned.change
    name = clean(group.name)
    if others := group.members[1:]:
        name += f" (as {clean(', '.join(others))})"
    verdict = Text(earned.verdict, style=_COLOURS[earned.verdict])
    if change is None:
        return (
            name,
            "",
            "",
            "",
            "",
            Text.assemble(verdict, f": says what the Alpha feature {clean(group.alpha)} says"),
        )
    lost = f"{change.mean:+.4f} ± {change.error:.4f}"
    return name, lost, f"{change.windows} of {windows}", f"{change.p:.3g}", f"{earned.corrected:.3g}", verdict


def _table_of_sets(found: Ablation) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("set")
    for name in ("features", "IC", "Rank IC", "top fifth's excess a day"):
        table.add_column(name, justify="right")
    for measured in found.sets:
        spec = measured.spec
        if spec.kind == "without":
            continue
        name = f"up to {clean(spec.name)}" if spec.kind == "first" else _SETS[spec.kind]
        table.add_row(
            name,
            str(len(spec.features)),
            f"{measured.ic:.4f}",
            f"{measured.rank_ic:.4f}",
            f"{measured.top_excess:.3%}",
        )
    return table


def _to_plain(
    subject: Subject, found: Ablation, files: AblateFiles, problems: list[Problem]
) -> dict[str, Any]:
    return {
        "task_id": subject.task_id,
        "loop": subject.loop,
        "fingerprint": subject.table.fingerprint,
        "seeds": found.seeds,
        "windows": [
            {name: [found.days[start], found.days[stop - 1]] for name, (start, stop) in
             (("train", window.train), ("valid", window.valid), ("test", window.test))}
            for window in found.windows
        ],
        "trials": found.trials,
        "factors": [_factor_to_plain(earned) for earned in found.factors],
        "sets": [
            {
                "kind": measured.spec.kind,
                "name": measured.spec.name or None,
                "features": list(measured.spec.features),
                "ic": measured.ic,
                "rank_ic": measured.rank_ic,
                "top_excess": measured.top_excess,
            }
            for measured in found.sets
        ],
        "smallest": None if found.smallest is None else list(found.smallest),
        "shortfall": None if found.shortfall is None else found.shortfall.mean,
        "saved": None if files.save is None or not found.smallest else str(files.save.absolute()),
        "problems": [problem_to_plain(problem) for problem in problems],
    }  # fmt: skip


def _factor_to_plain(earned: Earned) -> dict[str, Any]:
    change = earned.change
    plain: dict[str, Any] = {
        "name": earned.group.name,
        "members": list(earned.group.members),
        "alpha": earned.group.alpha,
        "verdict": earned.verdict,
    }
    if change is None:
        return plain | dict.fromkeys(("ic_lost", "error", "windows", "p", "p_corrected", "upper"))
    return plain | {
        "ic_lost": change.mean,
        "error": change.error,
        "windows": change.windows,
        "p": change.p,
        "p_corrected": earned.corrected,
        "upper": change.upper,
    }
