"""What a run would load right now, and whether it will work; every problem at once, nothing started."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from rdagent_sota_patch.environment import Difference, find_differences
from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.evidence.seed_test import require_scipy
from rdagent_sota_patch.factor_table.checks import check_segments
from rdagent_sota_patch.factor_table.combining import FeatureSet, combine_features
from rdagent_sota_patch.factor_table.saving import require_writable
from rdagent_sota_patch.factor_table.sources import Source, find_source
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table
from rdagent_sota_patch.host_source import CONFIG_NAME, find_host
from rdagent_sota_patch.plugin.activation import (
    find_activation,
    runner_notices,
    runner_problems,
    summarizer_notices,
)
from rdagent_sota_patch.plugin.causal import require_causal
from rdagent_sota_patch.plugin.hand_edits import find_hand_edits, hand_edit_notices, hand_edit_problems
from rdagent_sota_patch.plugin.host import alpha_features, check_market, model_segments, rdagent_version
from rdagent_sota_patch.plugin.host_check import require_known_host
from rdagent_sota_patch.plugin.needs import find_missing
from rdagent_sota_patch.plugin.rebuildable import require_rebuildable
from rdagent_sota_patch.plugin.seal import require_sealed_source
from rdagent_sota_patch.plugin.seal_check import announce_seal, find_seal_problems
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
        feeds: Whether a model run will be fed these factors, if it is not stopped.
        problems: What would stop the run; with ``SOTA_STRICT`` off it is said and the run goes on.
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
    feeds: bool
    problems: tuple[Problem, ...]
    notices: tuple[Problem, ...]

    @property
    def stops(self) -> bool:
        """Whether a run ends before its first LLM call; settings that cannot be read have no strictness."""
        return bool(self.problems) and (self.settings is None or self.settings.sota_strict)


def diagnose(differences: tuple[Difference, ...] = ()) -> Diagnosis:
    """Look at everything that a model run of this environment and folder would use.

    Args:
        differences: Where environment and ``.env`` differed, if the file has been loaded into the one since.
    """
    found = _Found()
    differences = tuple(filter(_is_setting, differences or find_differences()))
    active = found.attempt(find_activation)
    version = found.attempt(rdagent_version)
    traits = installed_traits() if version is not None else None
    if version is not None:
        # RD-Agent itself would end on what is missing; `rdagent-sota run` does before it begins.
        found.notices.extend(found.attempt(_find_missing) or ())
    found.notices.extend(_in_both(differences, traits))
    settings = found.attempt(load_settings)
    used = _Used()
    if settings is not None:
        found.notices.extend(settings.notices())
        _check_settings(settings, version, found)
        if settings.source is not None:
            unusable = _Found()
            used = _look_at_source(settings, traits, unusable)
            found.problems.extend(unusable.problems)
            found.notices.extend(unusable.notices)
            used = replace(used, feeds=used.features is not None and not unusable.problems)
        if settings.sota_require_causal and used.source is not None:
            causal = used.source, used.names
            found.attempt(lambda: require_causal(*causal))
        if found.problems and not settings.sota_strict:
            found.notices.append(_goes_on(feeds=used.feeds))
    return Diagnosis(
        active=active,
        rdagent=version,
        traits=traits,
        differences=differences,
        settings=settings,
        source=used.source,
        table=used.table,
        alpha=used.alpha,
        features=used.features,
        feeds=used.feeds,
        problems=tuple(found.problems),
        notices=tuple(found.notices),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)

    def attempt(self, step: Callable[[], T]) -> T | None:
        """What a step gives; None where it raises, with the problems kept."""
        try:
            return step()
        except SotaError as error:
            self.problems.extend(error.problems)
            return None


@dataclass(frozen=True, slots=True, eq=False)
class _Used:
    """What a run would use of a source; names as `Diagnosis` has them."""

    source: Source | None = None
    table: FactorTable | None = None
    alpha: int = 0
    features: FeatureSet | None = None
    feeds: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        if self.table is not None:
            return self.table.names
        return () if self.source is None else tuple(origin.name for origin in self.source.origins)


def _check_settings(settings: Settings, version: str | None, found: _Found) -> None:
    """What stops a run, or is said, before its source is looked at."""
    if settings.save_sota_factors:
        found.attempt(lambda: require_writable(settings.factor_file))
    if version is not None and (settings.source is not None or settings.save_sota_factors):
        edits = find_hand_edits(find_host().folder)
        found.problems.extend(hand_edit_problems(edits, os.environ))
        found.notices.extend(hand_edit_notices(edits, os.environ))
    if settings.sota_seal_from is not None and version is not None:
        found.notices.append(announce_seal(settings.sota_seal_from))
        found.problems.extend(found.attempt(lambda: find_seal_problems(("factor", "model"), settings)) or ())
    if settings.source is not None:
        found.problems.extend(settings.unsupported())
    if settings.sota_accept_seeds is not None:
        found.attempt(require_scipy)
        found.notices.extend(summarizer_notices(os.environ))


def _look_at_source(settings: Settings, traits: Traits | None, found: _Found) -> _Used:
    """The source in force, up to what a model would be fed; every problem found here keeps it from being fed.

    Args:
        traits: None where there is no RD-Agent.
    """
    if traits is not None:
        found.problems.extend(runner_problems(find_host(), os.environ))
        found.notices.extend((*runner_notices(find_host(), os.environ), *_other_templates(traits)))
    source = found.attempt(lambda: find_source(settings))
    alpha = dict[str, str]()
    if traits is not None and settings.use_alpha_factors:
        alpha = found.attempt(alpha_features) or {}
    if source is None:
        return _Used(alpha=len(alpha))
    found.notices.extend(source.notices())
    path = source.table
    if settings.sota_seal_from is not None:
        day = settings.sota_seal_from
        found.attempt(
            lambda: require_sealed_source(source, None if path is None else read_factor_table(path), day)
        )
    if path is None:
        found.attempt(lambda: require_rebuildable(source))
        found.notices.append(
            Problem(
                "table-rebuild",
                f"The factor table is gone; the run will rebuild it from the code of {len(source.origins)} factors.",
                "Set SOTA_WORKSPACE_ROOT if the workspaces were only moved.",
            )
        )
        return _Used(
            source,
            alpha=len(alpha),
            features=combine_features(alpha, (origin.name for origin in source.origins), bool(alpha)),
        )
    table = found.attempt(lambda: read_factor_table(path))
    if table is None:
        return _Used(source, alpha=len(alpha))
    segments = found.attempt(model_segments) if traits is not None else None
    if segments is not None:
        findings = check_segments(table, segments) + check_market(table, segments)
        found.problems.extend(findings.errors)
        found.notices.extend(findings.notices)
    return _Used(source, table, len(alpha), combine_features(alpha, table.names, bool(alpha)))


def _goes_on(*, feeds: bool) -> Problem:
    how = "on the SOTA factors" if feeds else "as plain RD-Agent, without SOTA factors"
    return Problem(
        "strict-off",
        f"SOTA_STRICT is off, so that a run says what is wrong and goes on {how}.",
        "Unset SOTA_STRICT to have it stop instead.",
    )


def _find_missing() -> tuple[Problem, ...]:
    require_known_host()
    return find_missing(find_host(), os.environ)


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
