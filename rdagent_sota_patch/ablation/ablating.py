"""An ablation from features to answers: groups, trials, verdicts, and the smallest set that is as good."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.ablation.earning import (
    Change,
    Verdict,
    compare,
    correct,
    judge,
    overlap_of,
    standard_error,
)
from rdagent_sota_patch.ablation.grouping import Group, find_dead, find_groups
from rdagent_sota_patch.ablation.outcomes import OutcomeFolder
from rdagent_sota_patch.ablation.specs import Features, Spec, make_specs
from rdagent_sota_patch.ablation.trying import Laboratory
from rdagent_sota_patch.ablation.walk import Walk, lay_windows
from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.factor_table.duplicates import DUPLICATE_FROM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.arrays import Arrays
    from rdagent_sota_patch.ablation.recipe import Recipe
    from rdagent_sota_patch.ablation.walk import Window
    from rdagent_sota_patch.scoring.mined import Report


@dataclass(frozen=True, slots=True)
class AblateOptions:
    """How to ablate.

    Attributes:
        seeds: Trainings of each set of features in each window.
        windows, embargo, rolling, valid_share: See `Walk`.
        correlation: From which on two factors say the same.
        one_by_one: Whether factors are added one at a time, too.
        smallest: Whether the smallest set is looked for.
        jobs: Trainings at a time.
    """

    seeds: int = 5
    windows: int = 8
    embargo: int = 0
    rolling: bool = False
    valid_share: float = 0.2
    correlation: float = DUPLICATE_FROM
    one_by_one: bool = True
    smallest: bool = True
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Earned:
    """What is known of a group of factors.

    Attributes:
        change: Of the IC without it; None where it was not tried.
        corrected: ``change.p`` after Holm's correction.
    """

    group: Group
    change: Change | None
    corrected: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Measured:
    """A set of features, and how well models on it do: means over windows and seeds."""

    spec: Spec
    ic: float
    rank_ic: float
    top_excess: float


@dataclass(frozen=True, slots=True, eq=False)
class Ablation:
    """The answers.

    Attributes:
        windows: With the days in `days`.
        sets: All sets that were tried on purpose; those on the way to the smallest are left out.
        factors: In order.
        smallest: Factors of the smallest set that is as good; None where it was not looked for.
        shortfall: By how much that set is worse than the best that was seen.
        trials: How many models were trained for all this.
    """

    windows: tuple[Window, ...]
    days: tuple[str, ...]
    seeds: int
    sets: tuple[Measured, ...]
    factors: tuple[Earned, ...]
    smallest: tuple[str, ...] | None
    shortfall: Change | None
    trials: int
    problems: tuple[Problem, ...]


def ablate(
    arrays: Arrays,
    mined: Sequence[str],
    recipe: Recipe,
    out: Path,
    *,
    options: AblateOptions,
    report: Report,
    record: Mapping[str, Any] | None = None,
) -> Ablation:
    """Find out which mined factors earn their place.

    Args:
        arrays: Raw features.
        mined: Which of them are mined, in the order in which they were accepted; the others are Alpha features.
        recipe: How models are trained.
        out: The folder for the outcomes.
        options: How.
        report: Told how far it is.
        record: What else decides the outcomes, kept with them.

    Raises:
        SotaError: ``nothing-to-ablate``, ``too-few-days-for-windows``, ``ablation-changed``, ``worker-died``,
            ``cannot-write`` and more.
    """
    walk = Walk(options.windows, recipe.horizon, options.embargo, options.valid_share, options.rolling)
    windows = lay_windows(len(arrays.days), walk)
    features, problems = _find_features(arrays, mined, options.correlation)
    what = {**(record or {}), "features": arrays.digest, "recipe": recipe.plain}
    root = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    laboratory = Laboratory(
        arrays, recipe, windows, options.seeds, root, OutcomeFolder(out, what), options.jobs, report
    )
    specs = make_specs(features, one_by_one=options.one_by_one)
    ics = dict(zip(specs, laboratory.measure(specs, "trials"), strict=True))
    _require_labels(ics.values())
    overlap = overlap_of(windows)
    if len(windows) < 2:
        problems.append(
            Problem(
                "one-window",
                "With a single window, no factor's worth can be told from chance.",
                "Name more with --windows.",
            )
        )
    factors = _judge(features, ics, overlap)
    smallest, shortfall = None, None
    if options.smallest and len(windows) > 1:
        kept, shortfall = _find_smallest(laboratory, features, factors, ics, overlap)
        smallest = tuple(group.name for group in kept)
    return Ablation(
        windows,
        tuple(f"{day:%Y-%m-%d}" for day in arrays.days),
        options.seeds,
        tuple(_measured(laboratory, spec) for spec in specs),
        factors,
        smallest,
        shortfall,
        len(laboratory.used),
        tuple(problems),
    )


def _find_features(
    arrays: Arrays, mined: Sequence[str], correlation: float
) -> tuple[Features, list[Problem]]:
    dead = find_dead(arrays, arrays.names)
    order = tuple(name for name in arrays.names if name not in dead)
    alpha = tuple(name for name in order if name not in mined)
    living = [name for name in mined if name in order]
    problems = [
        Problem(
            "factor-constant",
            f"{name} has one value everywhere, or none: no model can use it, and it is left out.",
        )
        for name in dead
    ]
    if not living:
        raise SotaError(
            "nothing-to-ablate",
            "No mined factor is left to be ablated: each has one value everywhere, or none.",
            "rdagent-sota inspect LOG shows which factors a log holds.",
        )
    return Features(order, alpha, find_groups(arrays, living, alpha, correlation)), problems


def _require_labels(ics: Iterable[NDArray[np.float64]]) -> None:
    if not all(np.isfinite(ic).all() for ic in ics):
        raise SotaError(
            "no-labels",
            "In one of the windows, no day has five stocks with labels that differ: nothing can be told there.",
            "Check Qlib's data for these days and this market (--qlib-dir), or take fewer --windows.",
        )


def _judge(features: Features, ics: Mapping[Spec, NDArray[np.float64]], overlap: float) -> tuple[Earned, ...]:
    by_kind = {(spec.kind, spec.name): ic for spec, ic in ics.items()}
    whole = by_kind["distinct", ""]
    tried = features.distinct
    changes = [compare(whole, by_kind["without", group.name], overlap) for group in tried]
    corrected = correct([change.p for change in changes])
    earned = {
        group: Earned(group, change, p, judge(change, p))
        for group, change, p in zip(tried, changes, corrected, strict=True)
    }
    # What an Alpha feature says already, no model misses.
    return tuple(earned.get(group) or Earned(group, None, 1.0, "does not") for group in features.groups)


def _find_smallest(
    laboratory: Laboratory,
    features: Features,
    factors: Sequence[Earned],
    ics: Mapping[Spec, NDArray[np.float64]],
    overlap: float,
) -> tuple[tuple[Group, ...], Change]:
    """Leave out one after the other, the least missed first, as long as the set is as good as the best that was seen.

    As good: its IC is lower by no more than one standard error of the best's (Breiman et al. 1984), both over windows.
    A factor that is shown to help stays, however little it adds.
    """
    tried = [(one.change.mean, one) for one in factors if one.change is not None]
    kept = [earned.group for _, earned in tried]
    best = current = next(ic for spec, ic in ics.items() if spec.kind == "distinct")
    for _, earned in sorted(tried, key=lambda pair: pair[0]):
        if earned.verdict == "helps":
            continue
        rest = [group for group in kept if group is not earned.group]
        (found,) = laboratory.measure(
            [Spec("tried", earned.group.name, features.choose(rest))], "smallest set"
        )
        if best.mean() - found.mean() <= standard_error(best):
            kept, current = rest, found
        if found.mean() > best.mean():
            best = found
    return tuple(kept), compare(best, current, overlap)


def _measured(laboratory: Laboratory, spec: Spec) -> Measured:
    outcomes = laboratory.outcomes_of(spec)
    ic, rank_ic, excess = (
        float(np.nanmean([getattr(outcome, name) for outcome in outcomes]))
        for name in ("ic", "rank_ic", "top_excess")
    )
    return Measured(spec, ic, rank_ic, excess)
