"""Real runs, shared by all integration tests: each takes half a minute or more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """A run of the real ``rdagent``, with what its log says."""

    result: RunResult
    session: Session


ModelStage = Callable[..., RealRun]


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The folder in which all real runs take place."""
    with Sandbox(tmp_path_factory.mktemp("sandbox")) as opened:
        yield opened


@pytest.fixture(scope="session")
def factor_run(sandbox: Sandbox) -> RealRun:
    """Three loops of ``fin_factor``: accepted, rejected, accepted."""
    result = sandbox.run(
        "fin_factor", loops=FACTOR_LOOPS, name="factor", environment={"SAVE_SOTA_FACTORS": "true"}
    )
    return RealRun(result, sandbox.session(result.log))


@pytest.fixture(scope="session")
def run_model_stage(sandbox: Sandbox) -> ModelStage:
    """Run one loop of ``fin_model`` with the given settings; the same settings are run once.

    Each run has a cache of its own unless ``shared_cache``: RD-Agent's is by the text of the tasks, and the
    script proposes the same first model in each run.
    """
    done: dict[tuple[object, ...], RealRun] = {}

    def run(
        settings: Mapping[str, str] | None = None,
        *,
        model_type: ModelType = ModelType.TABULAR,
        shared_cache: bool = False,
    ) -> RealRun:
        key = (tuple(sorted((settings or {}).items())), model_type, shared_cache)
        if key not in done:
            name = f"model-{len(done)}"
            environment = dict(settings or {})
            if not shared_cache:
                environment["PICKLE_CACHE_FOLDER_PATH_STR"] = str(sandbox.project / f"cache-{name}")
            result = sandbox.run(
                "fin_model",
                loops=1,
                name=name,
                environment=environment,
                screenplay=Screenplay(model_types=(model_type,)),
            )
            done[key] = RealRun(result, sandbox.session(result.log))
        return done[key]

    return run


def from_log(factor_run: RealRun, **more: str) -> dict[str, str]:
    """The settings of a user who names the factor run's log."""
    return {"LOAD_SOTA_FROM_LOG": "true", "SOTA_LOG_PATH": str(factor_run.result.log), **more}


@pytest.fixture(scope="session")
def off(run_model_stage: ModelStage) -> RealRun:
    """A model stage with nothing set."""
    return run_model_stage({}, shared_cache=True)


@pytest.fixture(scope="session")
def alone(run_model_stage: ModelStage, factor_run: RealRun) -> RealRun:
    """A model stage on the SOTA factors alone."""
    return run_model_stage(from_log(factor_run), shared_cache=True)


@pytest.fixture(scope="session")
def both(run_model_stage: ModelStage, factor_run: RealRun) -> RealRun:
    """A model stage on SOTA and Alpha, with switches in words and the newest accepted run."""
    assert factor_run.session.sota is not None
    settings = {"LOAD_SOTA_FROM_LOG": "YES", "SOTA_LOG_PATH": "latest", "USE_ALPHA_FACTORS": "On"}
    return run_model_stage(settings, shared_cache=True)


def table_of(factor_run: RealRun) -> Path:
    """The table of the factor run's last accepted experiment."""
    sota = factor_run.session.sota
    assert sota is not None
    return Path(str(sota.workspace)) / "combined_factors_df.parquet"
