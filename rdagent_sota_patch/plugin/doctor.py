"""What a run would load right now, and whether it will work; every problem at once, nothing started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from rdagent_sota_patch.environment import Difference, find_differences
from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.factors.checks import check_segments
from rdagent_sota_patch.factors.features import FeatureSet, combine_features
from rdagent_sota_patch.factors.saving import require_writable
from rdagent_sota_patch.factors.sources import Source, find_source
from rdagent_sota_patch.factors.table import FactorTable, read_factor_table
from rdagent_sota_patch.host_source import CONFIG_NAME, find_host
from rdagent_sota_patch.plugin.activation import find_activation, runner_notices, runner_problems
from rdagent_sota_patch.plugin.causal import require_causal
from rdagent_sota_patch.plugin.hand_edits import find_hand_edits, hand_edit_notices, hand_edit_problems
from rdagent_sota_patch.plugin.host import alpha_features, model_segments, rdagent_version
from rdagent_sota_patch.plugin.host_check import require_known_host
from rdagent_sota_patch.plugin.market import check_market
from rdagent_sota_patch.plugin.rebuildable import require_rebuildable
from rdagent_sota_patch.plugin.traits import Traits, installed_traits
from rdagent_sota_patch.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """The findings.

    Attributes:
        active: What attaches the plugin: the start-up hook, the source patch, or both; None where nothing does.
        rdagent: Version of RD-Agent; None without it.
        traits: What that RD-Agent does; None without it.
        differences: The settings that environment and ``.env`` give different values.
        source: The source in force; None when none is on, or it was not found.
        table: Its table; None when there is none or it has to be rebuilt.
        alpha: Number of Alpha features beside the SOTA factors.
        features: What the model would be fed.
        problems: What would stop the run.
        notices: What is worth knowing and stops nothing.
    """

    active: str | None
    rdagent: str | None
    traits: Traits | None
    differences: tuple[Difference, ...]
    settings: Settings | None
    source: Source | None
    table: FactorTable | None
    alpha: int
    features: FeatureSet | None
    problems: tuple[Problem, ...]
    notices: tuple[Problem, ...]


def diagnose(differences: tuple[Difference, ...] = ()) -> Diagnosis:
    """Look at everything that a model run of this environment and folder would use.

    Args:
        differences: Where environment and ``.env`` differed, if the file has been loaded into the one since.
    """
    problems: list[Problem] = []
    notices: list[Problem] = []
    differences = tuple(filter(_is_setting, differences or find_differences()))

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except SotaError as error:
            problems.extend(error.problems)
            return None

    active = attempt(find_activation)
    version = attempt(rdagent_version)
    traits = installed_traits() if version is not None else None
    if version is not None:
        attempt(require_known_host)
    notices.extend(_in_both(differences, traits))
    settings = attempt(load_settings)
    source, table, features, alpha = None, None, None, dict[str, str]()
    if settings is not None:
        notices.extend(settings.notices())
        if settings.save_sota_factors:
            attempt(lambda: require_writable(settings.factor_file))
        if version is not None and (settings.source is not None or settings.save_sota_factors):
            edits = find_hand_edits(find_host().folder)
            problems.extend(hand_edit_problems(edits, os.environ))
            notices.extend(hand_edit_notices(edits, os.environ))
        if settings.source is not None:
            problems.extend(settings.unsupported())
            if version is not None:
                problems.extend(runner_problems(find_host(), os.environ))
                notices.extend((*runner_notices(find_host(), os.environ), *_other_templates(traits)))
            source = attempt(lambda: find_source(settings))
            if version is not None and settings.use_alpha_factors:
                alpha = attempt(alpha_features) or {}
    notices.extend(source.notices() if source is not None else ())
    if source is not None and source.table is None:
        attempt(lambda: require_rebuildable(source))
        notices.append(
            Problem(
                "table-rebuild",
                f"The factor table is gone; the run will rebuild it from the code of {len(source.origins)} factors.",
                "Set SOTA_WORKSPACE_ROOT if the workspaces were only moved.",
            )
        )
        features = combine_features(alpha, (origin.name for origin in source.origins), bool(alpha))
    elif source is not None and source.table is not None:
        path = source.table
        table = attempt(lambda: read_factor_table(path))
    if table is not None:
        features = combine_features(alpha, table.names, bool(alpha))
        segments = attempt(model_segments) if version is not None else None
        if segments is not None:
            findings = check_segments(table, segments) + check_market(table, segments)
            problems.extend(findings.errors)
            notices.extend(findings.notices)
    if settings is not None and settings.sota_require_causal and source is not None:
        causal = source, table.names if table else [origin.name for origin in source.origins]
        attempt(lambda: require_causal(*causal))
    return Diagnosis(
        active=active,
        rdagent=version,
        traits=traits,
        differences=differences,
        settings=settings,
        source=source,
        table=table,
        alpha=len(alpha),
        features=features,
        problems=tuple(problems),
        notices=tuple(notices),
    )


def _is_setting(difference: Difference) -> bool:
    # Others may be secrets, and are not this package's to tell; dates it reads as well.
    return difference.name.lower() in Settings.model_fields or difference.name.startswith("QLIB_")


def _in_both(differences: tuple[Difference, ...], traits: Traits | None) -> Iterator[Problem]:
    for difference in differences:
        winner, where = (
            (
                "the file's",
                f"this RD-Agent loads it over the environment ({traits.override if traits else ''})",
            )
            if difference.file_wins
            else ("the environment's", "RD-Agent leaves what is set there as it is")
        )
        yield Problem(
            "two-values",
            f"{difference.name} is {difference.environment!r} in the environment and {difference.file!r} in .env. "
            f"In force is {winner} value: {where}.",
            "Set it in one of the two places.",
        )


def _other_templates(traits: Traits | None) -> Iterator[Problem]:
    if traits is not None and traits.other_templates:
        yield Problem(
            "other-template",
            f"This RD-Agent's model runner may choose another template, {', '.join(traits.other_templates)}. The "
            f"dates and Alpha features told here are those of {CONFIG_NAME}.",
            "A run that chooses another one is stopped at its first back-test, unless both have the same dates.",
        )
