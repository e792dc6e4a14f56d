"""The winner and the SOTA that it beat, trained again with several seeds: the band that a single result lies in.

Outside of RD-Agent: Qlib's own ``qrun`` on the configuration that the run's recorder keeps, in a temporary copy of what
it needs. That runs the model's code and whatever the configuration names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rdagent_sota_patch.errors import BundleError, Problem, SotaError
from rdagent_sota_patch.evidence.seed_test import METRIC, SeedTest, compare_seeds, is_constant
from rdagent_sota_patch.evidence.seeded_model import (
    ATTEMPTS,
    TrainingFailedError,
    repeat_training,
    seeded_files,
)
from rdagent_sota_patch.evidence.trials import RECORDERS, shipped_kind
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.mlruns.backtest import read_backtest
from rdagent_sota_patch.mlruns.recorder import TASK, find_recorder, parse_hint, read_artifact
from rdagent_sota_patch.scoring.days_backtest import DAYS_A_YEAR
from rdagent_sota_patch.sessions.records import Signature
from rdagent_sota_patch.sessions.thaw import Unthawable, thaw_plain
from rdagent_sota_patch.sessions.workspaces import find_workspace_holding
from rdagent_sota_patch.work_folder import make_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

_CONFIG = "config"
"""The recorder's artifact with the whole configuration, rendered (``qlib/cli/run.py``, ``workflow``).

It is written after the training, which has put the model itself into its task; the artifact `TASK` is as it was before.
"""
_KEPT = ("qlib_init", "sys", "experiment_name")
_ALPHA = 0.05
_SAID = 300


@dataclass(frozen=True, slots=True)
class Trained:
    """One experiment's annualized returns with cost.

    Attributes:
        recorded: What the run got.
        values: For seed 1, 2, …
    """

    loop: int
    kind: str
    name: str
    recorded: float | None
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of `values`."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True, slots=True)
class SeedBand:
    """What the seeds say.

    Attributes:
        sota: None where the run had accepted nothing before the winner, or its SOTA cannot be trained.
        test: Of the winner against the SOTA; None without one.
        sentence: The same in words.
    """

    winner: Trained
    sota: Trained | None
    test: SeedTest | None
    sentence: str
    problems: tuple[Problem, ...] = field(default=())


def require_trust(session: Session, *, trust: bool) -> None:
    """Make sure that this run's code may be run here.

    Raises:
        SotaError: ``seeds-need-trust``: another machine wrote the log, or it is not signed.
    """
    if session.signature is not Signature.VERIFIED and not trust:
        raise SotaError(
            "seeds-need-trust",
            f"Training again runs the code of {session.log}, unconfined, and its snapshot is "
            f"{session.signature.value}.",
            "Read the code; give --trust to run it, or set ARTIFACT_SIGNING_KEY_PATH to the key of the machine that "
            "wrote it.",
        )


def measure_seeds(
    session: Session, roots: Sequence[Path], seeds: int, report: Callable[[str], None]
) -> SeedBand:
    """Train the winner of ``session`` and the SOTA that it beat with up to ``seeds`` seeds each.

    Args:
        session: The winner's run, as `require_trust` let it through.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
        seeds: At least two. It ends early where the comparison is clear.
        report: Told of each training.

    Raises:
        SotaError: ``seeds-not-trainable``: the winner cannot be trained as the run trained it, or each attempt failed.
    """
    kind = shipped_kind(session)
    accepted = [each for each in session.experiments if each.decision]
    winners = [each for each in accepted if each.accepted_here and each.kind is kind]
    if not winners:
        raise _refuse(session, "it accepted nothing")
    winner = winners[-1]
    before = accepted[: accepted.index(winner)]
    problems: list[Problem] = []
    new, sota = _Training(session, winner, roots, report), None
    if before:
        try:
            sota = _Training(session, before[-1], roots, report)
        except SotaError as error:
            problems.extend(error.problems)
    try:
        if sota is None:
            for seed in range(1, seeds + 1):
                new.train(seed)
            test = None
        else:
            test = compare_seeds(new.train, sota.train, seeds, _ALPHA)
    except TrainingFailedError as error:
        raise _refuse(session, f"a training failed {ATTEMPTS} times: {error}") from error
    first, second = new.result(), None if sota is None else sota.result()
    sentence = _describe(first, second, test, lost=bool(problems))
    return SeedBand(first, second, test, sentence, tuple(problems))


def band_to_plain(band: SeedBand) -> dict[str, Any]:
    """The band in JSON's types; docs/evidence.md says what each figure is."""
    test = band.test
    return {
        "metric": METRIC,
        "winner": _trained_to_plain(band.winner),
        "sota": None if band.sota is None else _trained_to_plain(band.sota),
        "outcome": test.outcome if test else None,
        "deterministic": is_constant(band.winner.values),
        "mean_difference": test.mean if test else None,
        "standard_error": test.error if test else None,
        "p": test.p if test else None,
        "level": test.level if test else None,
        "sentence": band.sentence,
    }


def _trained_to_plain(trained: Trained) -> dict[str, Any]:
    return {
        "loop": trained.loop,
        "kind": trained.kind,
        "name": trained.name,
        "recorded": trained.recorded,
        "values": list(trained.values),
        "low": min(trained.values),
        "mean": trained.mean,
        "high": max(trained.values),
    }


class _Training:
    """An experiment with all that it takes to train it as the run did."""

    def __init__(
        self,
        session: Session,
        experiment: ExperimentRecord,
        roots: Sequence[Path],
        report: Callable[[str], None],
    ) -> None:
        self.experiment, self._report = experiment, report
        self._values: list[float] = []
        place = f"{session.task_id}, loop {experiment.loop}"
        workspace = None
        if experiment.workspace is not None:
            workspace = find_workspace_holding(experiment.workspace, session.log, roots, RECORDERS)
        if workspace is None:
            raise _refuse(session, f"the workspace of loop {experiment.loop} is gone")
        self._place, self._workspace = place, workspace
        self._config = _read_config(session, experiment, workspace)
        self._qrun = _find_qrun(session)
        table = workspace / TABLE_NAME
        self._table = table if table.is_file() else None
        used = (experiment.sota_source or {}).get("fingerprint")
        if used is not None and (self._table is None or read_factor_table(table).fingerprint != used):
            raise _refuse(session, f"{table} is not the table of loop {experiment.loop} any more")

    def train(self, seed: int) -> float:
        """The annualized return with cost.

        Raises:
            TrainingFailedError: Each attempt failed.
        """
        value = repeat_training(lambda: self._train_once(seed))
        self._values.append(value)
        return value

    def result(self) -> Trained:
        """What came of it."""
        experiment = self.experiment
        name = (
            experiment.model.name
            if experiment.model is not None
            else ", ".join(factor.name for factor in experiment.factors)
        )
        return Trained(
            experiment.loop, experiment.kind.value, name, experiment.metrics.get(METRIC), tuple(self._values)
        )

    def _train_once(self, seed: int) -> float:
        self._report(f"{self._place}: training with seed {seed}")
        # The inner one is for this user alone, wherever temporary files go.
        with make_aside(Path(tempfile.gettempdir())) as work, tempfile.TemporaryDirectory(dir=work) as name:
            return self._train_in(Path(name), seed)

    def _train_in(self, folder: Path, seed: int) -> float:
        model = self.experiment.model
        files = seeded_files(model.code, seed) if model is not None and model.code is not None else {}
        files["conf.yaml"] = yaml.safe_dump(dict(self._config), sort_keys=False, allow_unicode=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        if self._table is not None:
            shutil.copyfile(self._table, folder / TABLE_NAME)
        done = subprocess.run(
            [str(self._qrun), "conf.yaml"],
            cwd=folder,
            # As RD-Agent's runner gives it; MLflow 3 refuses the file store, which Qlib uses, unless told.
            env={**os.environ, "PYTHONPATH": "./", "MLFLOW_ALLOW_FILE_STORE": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        excess = read_backtest(folder).excess if done.returncode == 0 else None
        if excess is None or excess.empty or excess.hasnans:
            lines = done.stdout.strip().splitlines()
            raise TrainingFailedError((lines[-1] if lines else "it left no returns")[:_SAID])
        return float(excess.mean()) * DAYS_A_YEAR


def _read_config(session: Session, experiment: ExperimentRecord, workspace: Path) -> Mapping[str, Any]:
    try:
        hint = None if experiment.artifacts is None else parse_hint(experiment.artifacts)
        recorder = find_recorder(workspace, hint)
        whole = read_artifact(recorder, _CONFIG)
        task = thaw_plain(read_artifact(recorder, TASK))
        kept = (
            {name: thaw_plain(whole[name]) for name in _KEPT if name in whole}
            if isinstance(whole, dict)
            else {}
        )
    except (BundleError, Unthawable) as error:
        why = error.problems[0].message if isinstance(error, BundleError) else f"{_CONFIG}: {error}"
        raise _refuse(session, f"the configuration of loop {experiment.loop} cannot be read: {why}") from None
    if not isinstance(task, dict) or "qlib_init" not in kept:
        raise _refuse(session, f"the configuration of loop {experiment.loop} is in a form that is not known")
    return {**kept, "task": task}


def _find_qrun(session: Session) -> Path:
    places = (os.environ.get("PATH", ""), str(Path(sys.executable).parent))
    found = shutil.which("qrun", path=os.pathsep.join(places))
    if found is None:
        raise _refuse(session, "Qlib's qrun is not installed here (pip install 'rdagent-sota-patch[live]')")
    return Path(found)


def _refuse(session: Session, why: str) -> SotaError:
    return SotaError(
        "seeds-not-trainable",
        f"{session.log}: nothing is trained again: {why}.",
        "SOTA_WORKSPACE_ROOT names where workspaces went; the market data have to be those of the run.",
    )


def _describe(winner: Trained, sota: Trained | None, test: SeedTest | None, *, lost: bool) -> str:
    values = winner.values
    spread = " each time" if is_constant(values) else f", from {min(values):.4f} to {max(values):.4f}"
    said = (
        f"Trained again with {len(values)} seeds, the winner's annualized return with cost is "
        f"{winner.mean:.4f}{spread}"
    )
    if winner.recorded is not None:
        said += f" (in the run {winner.recorded:.4f})"
    if sota is None or test is None:
        why = "the SOTA before it could not be trained again" if lost else "there is no SOTA before it"
        return f"{said}; {why}, so that it is not compared."
    said += f", and that of the SOTA before it (loop {sota.loop}) {sota.mean:.4f}"
    if test.p is None:
        better = "better" if test.outcome == "better" else "not better"
        return f"{said}: deterministic, seeds change neither, and the winner is {better}."
    verdict = "larger than the noise of seeds" if test.outcome == "better" else "within the noise of seeds"
    return f"{said}: the improvement is {verdict} (p {test.p:.2g}, needed {test.level:.2g})."
