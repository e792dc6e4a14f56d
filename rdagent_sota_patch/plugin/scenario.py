"""Tell the LLM what its models are fed: the scenario text of the model stage names the features really used.

RD-Agent describes its scenario to the LLM with ``get_scenario_all_desc``
(``rdagent/scenarios/qlib/experiment/model_experiment.py`` and ``quant_experiment.py``): in proposals, in coding and in
feedback. The classes' method is wrapped; the scenario objects, which RD-Agent pickles, stay as they are.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.plugin.active import ActiveSota, active_sota

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rdagent_sota_patch.factor_table.provenance import FactorOrigin

# In the environment, because steps that run in processes of their own (several loops at a time) describe the
# scenario, too. One variable may have 128 KiB on Linux: the limits below keep the texts under it.
_FOR_MODELS = "RDAGENT_SOTA_FEATURES_FOR_MODELS"
_FOR_FACTORS = "RDAGENT_SOTA_FEATURES_FOR_FACTORS"

_DESCRIBED = 30
"""Features of a kind that are described; the names of more are in the input's order."""

_NAMED = 100
_NAME_LENGTH = 60
_DESCRIPTION_LENGTH = 200
_FORMULA_LENGTH = 300

_METRICS = (
    ("IC", "IC"),
    ("ICIR", "ICIR"),
    ("Rank IC", "Rank IC"),
    ("Rank ICIR", "Rank ICIR"),
    ("annualized excess return with cost", "1day.excess_return_with_cost.annualized_return"),
    ("information ratio with cost", "1day.excess_return_with_cost.information_ratio"),
    ("max drawdown with cost", "1day.excess_return_with_cost.max_drawdown"),
)

_MODEL_TAGS = frozenset({"model", "model tuning"})
_FACTOR_TAGS = frozenset({"factor", "factors"})


def attach_scenarios() -> None:
    """Have the scenarios of ``fin_model`` and ``fin_quant`` add what `announce_features` was told, if anything.

    Raises:
        HostError: This RD-Agent describes its scenario in another way.
    """
    from rdagent.scenarios.qlib.experiment.model_experiment import QlibModelScenario
    from rdagent.scenarios.qlib.experiment.quant_experiment import QlibQuantScenario

    _wrap(QlibModelScenario, lambda _: _FOR_MODELS)
    _wrap(QlibQuantScenario, _variable_of_quant)


def announce_features(sota: ActiveSota, base_features: Mapping[str, str], *, grows: bool) -> None:
    """Make the features of this run known to its scenario, in this process and its children.

    Args:
        sota: The SOTA factors in force.
        base_features: The run's Alpha features, name to Qlib expression.
        grows: Whether the run may add factors of its own (``fin_quant``).
    """
    os.environ[_FOR_MODELS] = describe_for_models(sota, base_features, grows=grows)
    if grows:
        os.environ[_FOR_FACTORS] = describe_for_factors(sota)
    else:
        os.environ.pop(_FOR_FACTORS, None)


def describe_for_models(sota: ActiveSota, base_features: Mapping[str, str], *, grows: bool) -> str:
    """What a model is fed, for the language model that designs it."""
    features = sota.features(base_features)
    lines = [
        "The features that the model is fed:",
        f"Each sample has {features.count} features: {len(features.sota)} SOTA factors, mined and accepted earlier, "
        f"and {len(features.alpha)} Alpha features. They are given; design the model for them.",
        *_describe_sota(sota),
    ]
    if features.alpha:
        lines.append("The Alpha features, as Qlib expressions:")
        lines.extend(
            f"- {_cut(name, _NAME_LENGTH)}: {_cut(base_features[name], _DESCRIPTION_LENGTH)}"
            for name in features.alpha[:_DESCRIBED]
        )
        lines.extend(_rest(len(features.alpha)))
    order = ", ".join(_cut(name, _NAME_LENGTH) for name in features.order[:_NAMED])
    more = f", and {features.count - _NAMED} more" if features.count > _NAMED else ""
    lines.append(f"The order of the features in the input is lexicographic by name: {order}{more}")
    if grows:
        lines.append("Factors that this run accepts itself are added to them.")
    return "\n".join(lines) + "\n"


def describe_for_factors(sota: ActiveSota) -> str:
    """Which factors there are already, for the language model that mines more in ``fin_quant``."""
    lines = [
        "The SOTA factors that there are already:",
        f"{len(sota.table.names)} factors were mined and accepted earlier. New factors are back-tested together with "
        "them; do not propose them again.",
        *_describe_sota(sota),
    ]
    return "\n".join(lines) + "\n"


def _describe_sota(sota: ActiveSota) -> Iterator[str]:
    yield "The SOTA factors:"
    for origin in sota.source.describe_factors(sota.table.names)[:_DESCRIBED]:
        yield _describe_factor(origin)
    yield from _rest(len(sota.table.names))
    metrics = ", ".join(
        f"{label} {value:.6f}"
        for label, name in _METRICS
        if math.isfinite(value := sota.source.metrics.get(name, math.nan))
    )
    if metrics:
        yield f"Back-test of the factor stage that they come from: {metrics}"


def _describe_factor(origin: FactorOrigin) -> str:
    text = f"- {_cut(origin.name, _NAME_LENGTH)}"
    if origin.description:
        text += f": {_cut(origin.description, _DESCRIPTION_LENGTH)}"
    if origin.formulation:
        text += f"\n  Formula: {_cut(origin.formulation, _FORMULA_LENGTH)}"
    return text


def _rest(count: int) -> Iterator[str]:
    if count > _DESCRIBED:
        yield f"- and {count - _DESCRIBED} more"


def _cut(text: str, length: int) -> str:
    """On one line: what a factor's author wrote must not look like another part of the prompt."""
    # Not only white space: a NUL cannot be in the environment.
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _variable_of_quant(arguments: Mapping[str, Any]) -> str | None:
    # In the order in which QlibQuantScenario decides.
    if arguments.get("simple_background"):
        return None
    tag = arguments.get("filtered_tag") or arguments.get("action")
    if tag in _MODEL_TAGS:
        return _FOR_MODELS
    return _FOR_FACTORS if tag in _FACTOR_TAGS else None


def _wrap(scenario: Any, variable_of: Callable[[Mapping[str, Any]], str | None]) -> None:
    describe = scenario.__dict__.get("get_scenario_all_desc")
    if not callable(describe):
        raise HostError("host-changed", f"{scenario.__qualname__} has no get_scenario_all_desc.")
    if getattr(describe, "__module__", None) == __name__:
        return
    signature = inspect.signature(describe)

    def describe_with_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        text = describe(self, *args, **kwargs)
        variable = variable_of(signature.bind(self, *args, **kwargs).arguments)
        features = os.environ.get(variable) if variable else None
        # No text at all is what QlibQuantScenario answers to a tag it does not know.
        if not features or text is None or active_sota() is None:
            return text
        return f"{text}\n{features}"

    functools.update_wrapper(
        describe_with_features, describe, assigned=("__name__", "__qualname__", "__doc__", "__annotations__")
    )
    scenario.get_scenario_all_desc = describe_with_features
