"""Trials, several at a time in processes of their own, with what is done already left out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.ablation.fitting import Trial, run_trial
from rdagent_sota_patch.ablation.preparing import prepare_window
from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.arrays import Arrays
    from rdagent_sota_patch.ablation.fitting import Outcome
    from rdagent_sota_patch.ablation.outcomes import OutcomeFolder
    from rdagent_sota_patch.ablation.recipe import Recipe
    from rdagent_sota_patch.ablation.specs import Spec
    from rdagent_sota_patch.ablation.walk import Window
    from rdagent_sota_patch.scoring.mined import Report

_EVERY = 2.0
"""Seconds between two files of outcomes: what a kill costs at most."""


@dataclass(slots=True)
class Laboratory:
    """Where trials are run.

    Attributes:
        arrays: Raw features; the windows are prepared beside them.
        root: Hash of arrays and recipe, of which every trial is.
        outcomes: What is done; kept up to date.
        jobs: Trials at a time.
        used: Keys of all trials that were asked for.
    """

    arrays: Arrays
    recipe: Recipe
    windows: tuple[Window, ...]
    seeds: int
    root: str
    outcomes: OutcomeFolder
    jobs: int
    report: Report
    used: set[str] = field(default_factory=set)
    _prepared: set[int] = field(default_factory=set)

    def measure(self, specs: Sequence[Spec], what: str) -> NDArray[np.float64]:
        """The IC of every spec, window and seed, shape (specs, windows, seeds); what is not known yet is tried.

        Raises:
            SotaError: ``worker-died``, ``cannot-write``.
        """
        grid = [
            [[self._trial(spec, window, seed) for seed in range(self.seeds)] for window in self.windows]
            for spec in specs
        ]
        wanted = {trial.key: trial for rows in grid for row in rows for trial in row}
        self.used |= wanted.keys()
        self._run([trial for key, trial in wanted.items() if key not in self.outcomes.known], what)
        known = self.outcomes.known
        return np.array([[[known[trial.key].ic for trial in row] for row in rows] for rows in grid])

    def outcomes_of(self, spec: Spec) -> list[Outcome]:
        """Of a spec that was measured."""
        return [
            self.outcomes.known[self._trial(spec, window, seed).key]
            for window in self.windows
            for seed in range(self.seeds)
        ]

    def _trial(self, spec: Spec, window: Window, seed: int) -> Trial:
        return Trial(self.root, spec.features, seed, window)

    def _run(self, trials: Sequence[Trial], what: str) -> None:
        if not trials:
            return
        places = {window: number for number, window in enumerate(self.windows)}
        needed = sorted({places[trial.window] for trial in trials} - self._prepared)
        folder = self.arrays.folder
        self._work(
            "windows",
            [
                (
                    prepare_window,
                    (self.arrays, self.windows[number], self.recipe, folder / f"window-{number}"),
                )
                for number in needed
            ],
            lambda _: None,
        )
        self._prepared.update(needed)
        tasks = [
            (
                run_trial,
                (trial, self.arrays.names, self.recipe.boosting, folder / f"window-{places[trial.window]}"),
            )
            for trial in trials
        ]
        self._work(what, tasks, self.outcomes.add)

    def _work(
        self,
        what: str,
        tasks: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]],
        keep: Callable[[list[Any]], None],
    ) -> None:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import BrokenProcessPool

        self.report(what, 0, len(tasks))
        calls = (delayed(function)(*arguments) for function, arguments in tasks)
        results = Parallel(n_jobs=self.jobs, return_as="generator_unordered")(calls)
        try:
            for done, group in _in_groups(results):
                keep(group)
                self.report(what, done, len(tasks))
        except BrokenProcessPool as error:
            raise SotaError(
                "worker-died",
                "A process that trained a model was ended from outside, as the system does when memory runs out: "
                f"{str(error).splitlines()[0]}",
                "Run the same command again: with --out it goes on from what is done. With fewer --jobs it needs less "
                "memory.",
            ) from error


def _in_groups(results: Iterable[Any]) -> Iterable[tuple[int, list[Any]]]:
    """Results that came within a short time, together, with the number of all up to them."""
    group: list[Any] = []
    done, since = 0, time.monotonic()
    for result in results:
        group.append(result)
        done += 1
        if time.monotonic() - since >= _EVERY:
            yield done, group
            group, since = [], time.monotonic()
    yield done, group
