"""Before a run's first LLM call: make sure that it will do what the settings ask, say so, or stop it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rdagent.log import rdagent_logger as logger

from rdagent_sota_patch.errors import HostError, SettingsError, SotaError, SourceError
from rdagent_sota_patch.factor_table.combining import summarize
from rdagent_sota_patch.factor_table.saving import require_writable
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.plugin.active import ActiveSota, active_sota
from rdagent_sota_patch.plugin.hand_edits import find_hand_edits, hand_edit_notices, hand_edit_problems
from rdagent_sota_patch.plugin.inheritance import inherit_history, is_inherited
from rdagent_sota_patch.plugin.scenario import announce_features
from rdagent_sota_patch.plugin.traits import installed_traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdagent_sota_patch.settings import Settings


def prepare_run(loop: Any, settings: Settings) -> None:
    """Check what ``loop`` (an ``RDLoop``, new or resumed) will need, and log a summary.

    Raises:
        SotaError: Under ``SOTA_STRICT``, anything that keeps the run from doing what was asked.
    """
    try:
        _check(loop, settings)
    except SotaError as error:
        if settings.sota_strict:
            raise
        logger.warning(f"SOTA_STRICT is off, so this run goes on.\n{error}")


def _check(loop: Any, settings: Settings) -> None:
    runner = getattr(loop, "model_runner", None) or getattr(loop, "runner", None)
    _check_hand_edits(loop)
    if settings.save_sota_factors:
        # Hours of mining are not to end at a folder that cannot be written to.
        require_writable(settings.factor_file)
    if settings.sota_accept_seeds is not None and not _is_model_stage(loop):
        logger.info("SOTA_ACCEPT_SEEDS is set, and has no effect on a factor stage.")
    elif settings.sota_accept_seeds is not None:
        from rdagent_sota_patch.plugin.seed_acceptance import require_seed_acceptance

        require_seed_acceptance(loop, quant=_is_quant(loop))
        logger.info(
            "SOTA_ACCEPT_SEEDS: an acceptance holds only if the improvement is larger than the noise of "
            f"{settings.sota_accept_seeds} seeds."
        )
    if settings.source is None:
        return
    if not _is_model_stage(loop):
        logger.info("LOAD_SOTA_* is on, and has no effect on a factor stage.")
        return
    if settings.unsupported():
        raise SettingsError.of(settings.unsupported())
    from rdagent_sota_patch.plugin.model_runner import SotaModelRunner

    if not isinstance(runner, SotaModelRunner):
        raise HostError(
            "runner-without-sota",
            f"The model runner {type(runner).__module__}.{type(runner).__qualname__} is not a QlibModelRunner, "
            "so it cannot be fed SOTA factors.",
            "Derive it from rdagent.scenarios.qlib.developer.model_runner.QlibModelRunner, or switch LOAD_SOTA_* off.",
        )
    if _is_quant(loop):
        from rdagent_sota_patch.plugin.factor_runner import require_factor_runner

        require_factor_runner(getattr(loop, "factor_runner", None))
    sota = active_sota()
    if sota is None:
        return
    _check_resumed(loop, sota)
    if settings.sota_require_causal:
        from rdagent_sota_patch.plugin.causal import require_causal

        require_causal(sota.source, sota.table.names)
    base_features = installed_traits().features_of_run(loop)
    _report(sota, base_features)
    announce_features(sota, base_features, grows=_is_quant(loop))
    if settings.sota_inherit_trace:
        inherit_history(loop, sota.source, quant=_is_quant(loop))


def _check_hand_edits(loop: Any) -> None:
    runners = {"model": _is_model_stage(loop), "factor": _is_quant(loop) or not _is_model_stage(loop)}
    used = [f"{kind}_runner.py" for kind, is_used in runners.items() if is_used]
    edits = tuple(edit for edit in find_hand_edits(find_host().folder) if edit.file.name in used)
    for notice in hand_edit_notices(edits, os.environ):
        logger.warning(str(notice))
    if problems := hand_edit_problems(edits, os.environ):
        raise HostError.of(problems)


def _is_model_stage(loop: Any) -> bool:
    # By name: run as a script (`python rdagent/app/qlib_rd_loop/model.py`), the class lives in __main__.
    return not {cls.__name__ for cls in type(loop).__mro__}.isdisjoint({"ModelRDLoop", "QuantRDLoop"})


def _is_quant(loop: Any) -> bool:
    return any(cls.__name__ == "QuantRDLoop" for cls in type(loop).__mro__)


def _check_resumed(loop: Any, sota: ActiveSota) -> None:
    """A resumed run keeps its factors; models judged against each other must have been fed the same."""
    for experiment, _ in loop.trace.hist:
        used = getattr(experiment, "sota_source", None)
        if is_inherited(experiment):
            continue
        if used is not None and used["fingerprint"] != sota.table.fingerprint:
            raise SourceError(
                "source-changed",
                f"This run began on the SOTA factors of {used['source']['path']} "
                f"({', '.join(factor['name'] for factor in used['factors'])}; {used['fingerprint']}), and the "
                f"settings now name those of {sota.source.path} ({sota.table.fingerprint}).",
                "Name the first source again, or start a new run.",
            )


def _report(sota: ActiveSota, base_features: Mapping[str, str]) -> None:
    source, table = sota.source, sota.table
    if source.session is not None and source.workspace is not None:
        logger.info(f"Found workspace from QlibFactorExperiment: {source.workspace}")
        logger.info(f"Found workspace from log: {source.workspace}")
    # A table that was rebuilt or saved lies in no workspace.
    origin = f"workspace: {source.table}" if source.workspace else source.table or table.path
    logger.info(f"SOTA factors loaded from {origin}")
    logger.info(f"SOTA factors shape: ({table.rows}, {len(table.names)})")
    features = sota.features(base_features)
    if features.shared:
        logger.info(f"The mined factor replaces the Alpha feature of its name: {', '.join(features.shared)}")
    loop = f", loop {source.loop}" if source.loop is not None else ""
    logger.info(
        f"SOTA factors of {source.kind.value} {source.path}{loop}, IC {source.metrics.get('IC', 'unknown')}: "
        f"{', '.join(table.names)}\n{summarize(features)}, {table.start}…{table.end}, {table.instruments} instruments, "
        f"{table.fingerprint}"
    )
