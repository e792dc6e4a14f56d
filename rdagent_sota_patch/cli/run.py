"""``rdagent-sota run``: both stages, from wherever they are."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from rdagent_sota_patch.cli.output import err, out, print_json, print_problems, problem_to_plain
from rdagent_sota_patch.cli.run_report import outcome_to_plain, render_outcome, show_progress
from rdagent_sota_patch.errors import HostError, Problem
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.plugin.activation import find_activation, runner_problems
from rdagent_sota_patch.plugin.hand_edits import find_hand_edits, hand_edit_problems
from rdagent_sota_patch.plugin.needs import find_missing
from rdagent_sota_patch.sessions.locate import locate_sota
from rdagent_sota_patch.sessions.logs import LATEST, find_log, log_roots
from rdagent_sota_patch.settings import load_settings
from rdagent_sota_patch.stages.both import run_both
from rdagent_sota_patch.stages.state import Plan, Wishes, begin_run, find_unfinished

if TYPE_CHECKING:
    from types import FrameType

# As RD-Agent's timer reads it (``rdagent/log/timer.py``), which takes anything else for "no limit".
_DURATION = re.compile(r"\s*(\d*\.?\d+)\s*([smhd]?)\s*")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command's options as they were given; None for one that was not."""

    folder: Path | None
    resume: bool
    log_root: Path | None
    wishes: Wishes


def run_run(options: RunOptions, as_json: bool) -> None:
    """Begin a run or go on with one; progress goes to stderr, the table or the JSON object to stdout."""
    _check_usage(options)
    _require_ready()
    wishes = options.wishes
    root = options.log_root or log_roots(os.environ)[0]
    if options.resume and str(wishes.factor_log) == LATEST:
        # Settled when the run began; by now it may mean another.
        wishes = replace(wishes, factor_log=None)
    if wishes.factor_log is not None:
        wishes = _find_factor_log(wishes, root)
    if options.resume:
        folder = options.folder or find_unfinished(root)
    else:
        folder = begin_run(_plan(wishes), root)
        wishes = Wishes()
    # Without this, a SIGTERM would end this process at once, and its child only afterwards.
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        err.print(f"Working in {folder}", style="dim", markup=False, soft_wrap=True)
        with show_progress(err) as observe:
            outcome = run_both(folder, wishes=wishes, observe=observe)
    except KeyboardInterrupt:
        _say_interrupted(folder, as_json, 128 + signal.SIGINT)
    except _Terminated:
        _say_interrupted(folder, as_json, 128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        print_json(outcome_to_plain(outcome))
    else:
        out.print(render_outcome(outcome), soft_wrap=False)


class _Terminated(BaseException):
    """SIGTERM came; not an ``Exception``, so that nothing on the way takes it for a failure."""


def _stop(_: int, __: FrameType | None) -> NoReturn:
    raise _Terminated


def _check_usage(options: RunOptions) -> None:
    wishes = options.wishes
    if wishes.duration is not None and not _DURATION.fullmatch(wishes.duration):
        raise typer.BadParameter("a number and s, m, h or d, such as 8h", param_hint="--duration")
    if wishes.factor_log is not None and (wishes.factor_loops or wishes.duration):
        raise typer.BadParameter(
            "it replaces the factor stage; leave out --factor-loops and --duration",
            param_hint="--factor-log",
        )
    if options.resume:
        return
    if options.folder is not None:
        raise typer.BadParameter("a folder is named only to go on with: --resume FOLDER", param_hint="FOLDER")
    if wishes.model_loops is None:
        raise typer.BadParameter("how many loops of fin_model?", param_hint="--model-loops")
    if wishes.factor_log is None and wishes.factor_loops is None:
        raise typer.BadParameter(
            "how many loops of fin_factor? Or name a finished one's log with --factor-log",
            param_hint="--factor-loops",
        )


def _require_ready() -> None:
    """Said now, not after a night of mining: what RD-Agent lacks, and whether the model stage would have the plugin."""
    find_activation()
    host = find_host()
    # Of the sources, the model stage gets its log alone.
    switches = {"LOAD_SOTA_FROM_LOG": "true", "SAVE_SOTA_FACTORS": os.environ.get("SAVE_SOTA_FACTORS", "")}
    edits = hand_edit_problems(find_hand_edits(host.folder), switches)
    if problems := (*find_missing(host, os.environ), *runner_problems(host, os.environ), *edits):
        raise HostError.of(problems)


def _find_factor_log(wishes: Wishes, root: Path) -> Wishes:
    """``latest`` and relative paths settled for good: a resumed run must not mean another log."""
    assert wishes.factor_log is not None
    session = find_log(wishes.factor_log, (root, *log_roots(os.environ)))
    locate_sota(session)
    pinned = wishes.factor_log if wishes.factor_log.is_file() else session.log
    return replace(wishes, factor_log=pinned.absolute())


def _plan(wishes: Wishes) -> Plan:
    assert wishes.model_loops is not None
    return Plan(
        factor_loops=wishes.factor_loops,
        model_loops=wishes.model_loops,
        alpha=load_settings().use_alpha_factors if wishes.alpha is None else wishes.alpha,
        factor_log=wishes.factor_log,
        duration=wishes.duration,
    )


def _say_interrupted(folder: Path, as_json: bool, exit_code: int) -> NoReturn:
    problem = Problem(
        "run-interrupted",
        f"The run in {folder} was stopped; what its finished steps did is kept.",
        f"To go on: rdagent-sota run --resume {folder}",
    )
    if as_json:
        document: dict[str, Any] = {"problems": [problem_to_plain(problem)]}
        print_json(document)
    else:
        print_problems([problem], style="yellow", mark="!")
    raise typer.Exit(exit_code) from None
