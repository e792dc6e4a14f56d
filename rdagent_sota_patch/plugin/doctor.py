"""What a run would load right now, and whether it will work; every problem at once, nothing started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from rdagent_sota_patch._startup import AttachFinder, is_disabled
from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.factors.checks import check_segments
from rdagent_sota_patch.factors.features import FeatureSet, combine_features
from rdagent_sota_patch.factors.saving import require_writable
from rdagent_sota_patch.factors.sources import Source, find_source
from rdagent_sota_patch.factors.table import FactorTable, read_factor_table
from rdagent_sota_patch.plugin.causal import require_causal
from rdagent_sota_patch.plugin.host import alpha_features, model_segments, rdagent_version
from rdagent_sota_patch.plugin.host_check import require_known_host
from rdagent_sota_patch.plugin.market import check_market
from rdagent_sota_patch.plugin.rebuildable import require_rebuildable
from rdagent_sota_patch.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """The findings.

    Attributes:
        active: Whether the start-up hook is in this Python.
        rdagent: Version of RD-Agent; None without it.
        source: The source in force; None when none is on, or it was not found.
        table: Its table; None when there is none or it has to be rebuilt.
        alpha: Number of Alpha features beside the SOTA factors.
        features: What the model would be fed.
        problems: What would stop the run.
        notices: What is worth knowing and stops nothing.
    """

    active: bool
    rdagent: str | None
    settings: Settings | None
    source: Source | None
    table: FactorTable | None
    alpha: int
    features: FeatureSet | None
    problems: tuple[Problem, ...]
    notices: tuple[Problem, ...]


def diagnose() -> Diagnosis:
    """Look at everything that a model run of this environment and folder would use."""
    problems: list[Problem] = []
    notices: list[Problem] = []

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except SotaError as error:
            problems.extend(error.problems)
            return None

    active = AttachFinder in sys.meta_path and not is_disabled()
    if not active:
        problems.append(
            Problem(
                "not-active",
                "The start-up hook is not in this Python, so RD-Agent would run without the plugin.",
                "Unset RDAGENT_SOTA_DISABLE, or install rdagent-sota-patch again (pip install -e .).",
            )
        )
    version = attempt(rdagent_version)
    if version is not None:
        attempt(require_known_host)
    settings = attempt(load_settings)
    source = table = features = None
    alpha: dict[str, str] = {}
    if settings is not None:
        notices.extend(settings.notices())
        if settings.save_sota_factors:
            attempt(lambda: require_writable(settings.factor_file))
        if settings.source is not None:
            problems.extend(settings.unsupported())
            notices.extend(_own_runner())
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
        active, version, settings, source, table, len(alpha), features, tuple(problems), tuple(notices)
    )


def _own_runner() -> Iterator[Problem]:
    for name in ("QLIB_MODEL_RUNNER", "QLIB_QUANT_MODEL_RUNNER"):
        if runner := os.environ.get(name):
            yield Problem(
                "own-runner",
                f"{name} names a runner of your own, {runner}; it is fed if it derives from QlibModelRunner.",
                "The run checks it before the first LLM call.",
            )
