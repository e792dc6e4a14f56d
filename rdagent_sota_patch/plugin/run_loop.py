"""Attach to RD-Agent's loop: check before a run's first LLM call, record weights, and save factors when accepted.

Both new and resumed runs pass through ``LoopBase.run`` with their base features already chosen
(``rdagent/app/qlib_rd_loop/model.py``), and nothing before it calls the LLM. Each step that was done ends in
``LoopBase.dump``, in the run's own process; after the last step of a loop, the history has grown, be that step
1.0.0's ``record`` or 0.8.0's ``feedback`` (which loops override, so that it is not a place to attach to).
"""

from __future__ import annotations

import functools
import sys
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rdagent_sota_patch.errors import HostError, SotaError
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import ModuleType

_QLIB_LOOPS = frozenset({"FactorRDLoop", "ModelRDLoop", "QuantRDLoop"})

_MEGABYTE = 1 << 20

_IN_RUN: ContextVar[bool] = ContextVar("_IN_RUN", default=False)


def attach_loop(module: ModuleType) -> None:
    """Wrap ``run`` and ``dump`` of ``RDLoop``, the base of ``fin_factor``, ``fin_model`` and ``fin_quant``.

    Raises:
        HostError: ``RDLoop`` lacks one of them.
    """
    loop_class = getattr(module, "RDLoop", None)
    if loop_class is None or not all(callable(getattr(loop_class, name, None)) for name in ("run", "dump")):
        raise HostError("host-changed", f"{module.__name__}.RDLoop has no run or dump method.")
    run, dump = loop_class.run, loop_class.dump

    @functools.wraps(run)
    async def run_checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _IN_RUN.set(True)
        try:
            _prepare(self)
            _adopt(self)
            return await run(self, *args, **kwargs)
        except SotaError as error:
            _stop(error)
        finally:
            _IN_RUN.reset(token)

    @functools.wraps(dump)
    def dump_and_save(self: Any, path: Path | str) -> None:
        try:
            with _keeping(self, Path(path)):
                dump(self, path)
            _save(self, Path(path))
        except SotaError as error:
            _stop(error)

    loop_class.run = run_checked
    loop_class.dump = dump_and_save
    # Before a loop is made, or loaded: its scenario describes the data to the LLM at once.
    loop_class.__new__ = _sealing_first(loop_class)


# RDLoop is the base of other scenarios' loops, too: what they never need is not imported for them.


def _sealing_first(loop_class: Any) -> Any:
    """How a loop of this class is made, after the data were sealed, if that is asked for."""
    own = vars(loop_class).get("__new__")

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        try:
            _seal(cls)
        except SotaError as error:
            _stop(error)
        upstream = own or super(loop_class, cls).__new__
        # object's takes no arguments where a class has its own.
        return upstream(cls) if upstream is object.__new__ else upstream(cls, *args, **kwargs)

    return staticmethod(make)


def _seal(loop_class: type) -> None:
    # A copy that RD-Agent makes of a running loop belongs to that run, whatever a .env says by now.
    if _IN_RUN.get() or not _is_qlib(loop_class):
        return
    settings = load_settings()
    if settings.sota_seal_from is not None:
        from rdagent_sota_patch.plugin.sealed_run import seal_run, stages_of

        seal_run(stages_of(loop_class), settings)


def _prepare(loop: Any) -> None:
    settings = load_settings()
    for notice in settings.notices():
        _log().warning(str(notice))
    if _is_qlib(type(loop)):
        from rdagent_sota_patch.plugin.own_log import own_log
        from rdagent_sota_patch.sealing.seal_record import SEAL_NAME

        log = own_log()
        if settings.sota_seal_from is not None or (log / SEAL_NAME).exists():
            from rdagent_sota_patch.plugin.seal import record_seal

            # Its history is empty until a whole loop is done; its first steps have seen the data.
            resumed = bool(loop.loop_trace or loop.trace.hist)
            record_seal(log, asked=settings.sota_seal_from, resumed=resumed)
    if (
        settings.source is not None
        or settings.save_sota_factors
        or (settings.sota_accept_seeds is not None and _is_qlib(type(loop)))
    ):
        from rdagent_sota_patch.plugin.host_check import require_known_host

        try:
            require_known_host()
        except SotaError as error:
            if settings.sota_strict:
                raise
            _log().warning(f"SOTA_STRICT is off, so this run goes on.\n{error}")
            return
        from rdagent_sota_patch.plugin.preflight import prepare_run

        prepare_run(loop, settings)


def _adopt(loop: Any) -> None:
    if _is_qlib(type(loop)) and _weights_limit() is not None:
        from rdagent_sota_patch.plugin.embedding import adopt_history

        adopt_history(loop)


def _keeping(loop: Any, snapshot: Path) -> AbstractContextManager[None]:
    if not _is_qlib(type(loop)) or (limit := _weights_limit()) is None:
        return nullcontext()
    from rdagent_sota_patch.plugin.embedding import keeping_weights

    return keeping_weights(loop, snapshot, limit)


def _is_qlib(loop_class: type) -> bool:
    # By name: run as a script (`python rdagent/app/qlib_rd_loop/factor.py`), the class lives in __main__.
    return not {cls.__name__ for cls in loop_class.__mro__}.isdisjoint(_QLIB_LOOPS)


@functools.cache
def _weights_limit() -> int | None:
    """Largest weights that the session keeps, in bytes; None where nothing can be recorded.

    Settled once: a snapshot must not be lost to a ``.env`` that is edited during the run.
    """
    from rdagent_sota_patch.plugin.host_check import require_known_host

    settings = load_settings()
    try:
        require_known_host()
    except SotaError as error:
        _log().warning(f"Weights are neither recorded with experiments nor kept in the session.\n{error}")
        return None
    return int(settings.sota_embed_weights_mb * _MEGABYTE)


def _save(loop: Any, snapshot: Path) -> None:
    if snapshot.name != f"{len(loop.steps) - 1}_{loop.steps[-1]}":
        return
    settings = load_settings()
    if settings.save_sota_factors:
        from rdagent_sota_patch.plugin.autosave import save_accepted

        save_accepted(loop, snapshot, settings)


def _log() -> Any:
    from rdagent.log import rdagent_logger

    return rdagent_logger


def _stop(error: SotaError) -> NoReturn:
    _log().error(f"rdagent-sota-patch stopped this run.\n{error}")
    print(f"rdagent-sota-patch stopped this run.\n{error}", file=sys.stderr)
    raise SystemExit(1) from None
