"""Real runs, shared by all integration tests, and made two at a time: each takes half a minute or more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdagent_sota_patch.demo.replies import Screenplay
from rdagent_sota_patch.demo.runs import RunResult
from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.demo.script import ModelType
from rdagent_sota_patch.demo.stages import FACTOR_LOOPS
from rdagent_sota_patch.sessions.records import Session


@dataclass(frozen=True, slots=True)
class RealRun:
    """A run of the real ``rdagent``, with what its log says.

    Attributes:
        cache: The run cache of its own; runs that share one are never made at the same time.
    """

    result: RunResult
    session: Session
    cache: Mapping[str, str]


FactorStage = Callable[[], RealRun]


def make_run(
    sandbox: Sandbox,
    command: str,
    name: str,
    loops: int,
    settings: Mapping[str, str],
    screenplay: Screenplay | None = None,
) -> RealRun:
    """Run one stage under its own name, with a run cache of that name."""
    cache = {"PICKLE_CACHE_FOLDER_PATH_STR": str(sandbox.project / f"cache-{name}")}
    result = sandbox.run(
        command,  # type: ignore[arg-type]
        loops=loops,
        name=name,
        environment={**settings, **cache},
        screenplay=screenplay,
    )
    return RealRun(result, sandbox.session(result.log), cache)


def from_log(factor_run: RealRun, **more: str) -> dict[str, str]:
    """The settings of a user who names the factor run's log."""
    return {"LOAD_SOTA_FROM_LOG": "true", "SOTA_LOG_PATH": str(factor_run.result.log), **more}


def table_of(factor_run: RealRun) -> Path:
    """The table of the factor run's last accepted experiment."""
    sota = factor_run.session.sota
    assert sota is not None
    return Path(str(sota.workspace)) / "combined_factors_df.parquet"


def make_off(sandbox: Sandbox, _: FactorStage) -> RealRun:
    """A model stage with nothing set."""
    return make_run(sandbox, "fin_model", "off", 1, {})


def make_both(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage on SOTA and Alpha, with switches in words and the newest accepted run."""
    factor_stage()
    settings = {"LOAD_SOTA_FROM_LOG": "YES", "SOTA_LOG_PATH": "latest", "USE_ALPHA_FACTORS": "On"}
    return make_run(sandbox, "fin_model", "both", 1, settings)


def make_alone(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage on the SOTA factors alone."""
    return make_run(sandbox, "fin_model", "alone", 1, from_log(factor_stage()))


def make_time_series(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage whose model is a TimeSeries one."""
    script = Screenplay(model_types=(ModelType.TIME_SERIES,))
    return make_run(sandbox, "fin_model", "time-series", 1, from_log(factor_stage()), script)


def make_parallel(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """Two loops at a time, each step in a process of its own, and a process pool for factors."""
    settings = from_log(factor_stage(), MULTI_PROC_N="2", STEP_SEMAPHORE="2")
    return make_run(sandbox, "fin_model", "parallel", 2, settings)


def make_quant(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """``fin_quant``: a factor action, then a model action."""
    settings = from_log(factor_stage(), QLIB_QUANT_ACTION_SELECTION="llm", USE_ALPHA_FACTORS="true")
    return make_run(sandbox, "fin_quant", "quant", 2, settings)


def make_informed(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage that inherits the factor stage's history."""
    return make_run(sandbox, "fin_model", "informed", 1, from_log(factor_stage(), SOTA_INHERIT_TRACE="true"))


def make_quant_on_top(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """``fin_quant`` whose factor loops are accepted, too: factor, model, factor."""
    settings = from_log(factor_stage(), QLIB_QUANT_ACTION_SELECTION="llm", USE_ALPHA_FACTORS="true")
    return make_run(sandbox, "fin_quant", "quant-on-top", 3, settings, Screenplay(accept_factors=True))


def make_quant_informed(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """``fin_quant`` that inherits the history: three trials are before it, so its first action is a model."""
    settings = from_log(factor_stage(), QLIB_QUANT_ACTION_SELECTION="llm", SOTA_INHERIT_TRACE="true")
    return make_run(sandbox, "fin_quant", "quant-informed", 2, settings, Screenplay(accept_factors=True))


# In the order in which they are begun: the first needs no factors, and runs beside the factor stage.
STAGES: dict[str, Callable[[Sandbox, FactorStage], RealRun]] = {
    "off": make_off,
    "both": make_both,
    "alone": make_alone,
    "time_series": make_time_series,
    "parallel": make_parallel,
    "quant": make_quant,
    "informed": make_informed,
    "quant_on_top": make_quant_on_top,
    "quant_informed": make_quant_informed,
}


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The folder in which all real runs take place."""
    with Sandbox(tmp_path_factory.mktemp("sandbox")) as opened:
        yield opened


@pytest.fixture(scope="session")
def runs(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[RealRun]]]:
    """The runs that the collected tests ask for by name, begun at once."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    pool = ThreadPoolExecutor(max_workers=2)
    factor = pool.submit(
        make_run, sandbox, "fin_factor", "factor", FACTOR_LOOPS, {"SAVE_SOTA_FACTORS": "true"}
    )
    stages = {
        name: pool.submit(make, sandbox, factor.result) for name, make in STAGES.items() if name in wanted
    }
    yield {"factor_run": factor, **stages}
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def factor_run(runs: Mapping[str, Future[RealRun]]) -> RealRun:
    """Three loops of ``fin_factor``: accepted, rejected, accepted; the accepted set is saved to a file."""
    return runs["factor_run"].result()


def _stage_fixture(stage: str) -> Callable[..., RealRun]:
    @pytest.fixture(scope="session", name=stage)
    def result(runs: Mapping[str, Future[RealRun]]) -> RealRun:
        return runs[stage].result()

    result.__doc__ = STAGES[stage].__doc__
    return result


off, both, alone = _stage_fixture("off"), _stage_fixture("both"), _stage_fixture("alone")
time_series, parallel, quant = (_stage_fixture(name) for name in ("time_series", "parallel", "quant"))
informed, quant_on_top = _stage_fixture("informed"), _stage_fixture("quant_on_top")
quant_informed = _stage_fixture("quant_informed")
