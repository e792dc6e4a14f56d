"""Real runs, shared by all integration tests, and made two at a time: each takes half a minute or more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.demo.llm import Prompt, Screenplay
from rdagent_sota_patch.demo.sandbox import RunResult, Sandbox
from rdagent_sota_patch.demo.script import ModelType
from rdagent_sota_patch.demo.stages import FACTOR_LOOPS
from rdagent_sota_patch.demo.synthetic_market import MarketSpec
from rdagent_sota_patch.sessions.records import Session
from tests.integration import checkouts
from tests.integration.evidence import readers
from tests.integration.warm_sandbox import COLD_COMMAND, COLD_START, WarmSandbox


@dataclass(frozen=True, slots=True)
class RealRun:
    """A run of the real ``rdagent``, with what its log says.

    Attributes:
        cache: The run cache of its own; runs that share one are never made at the same time.
    """

    result: RunResult
    session: Session
    cache: Mapping[str, str]


class BriefTraining(Screenplay):
    """The script with models that are trained for one epoch: what a model is fed, it is fed from the first on.

    An epoch is what a back-test takes longest for: Qlib starts 60 worker processes in each. Only where it is asked how
    well models do, `off` and `both`, they learn as long as the script has it.
    """

    def answer(self, prompt: Prompt) -> str:
        """The script's answer, with another number of epochs where it tells one."""
        return re.sub(r'"n_epochs": "\d+"', '"n_epochs": "1"', super().answer(prompt))


class OneModel(BriefTraining):
    """The script with the same network in every loop but for its name, and without a seed of its own."""

    def answer(self, prompt: Prompt) -> str:
        """The script's answer, with one width of the hidden layer."""
        said = re.sub(r"(Linear\(num_features, )\d+", r"\g<1>24", super().answer(prompt))
        return re.sub(r"(Linear\()\d+(, 1\))", r"\g<1>24\2", said).replace("torch.manual_seed(7)", "pass")


class TwoFiles(BriefTraining):
    """The script with factors that read a second market file as well."""

    def answer(self, prompt: Prompt) -> str:
        """The script's answer, with the second file in a factor's code."""
        said = super().answer(prompt)
        if "result = factor.rename" not in said:
            return said
        reads = f'static = pd.read_parquet("{checkouts.SECOND_FILE}").sort_index()\nby_stock ='
        adds = (
            'flow = 0.001 * (static["mf_a"] + static["db_b"])\n'
            "factor = factor + flow.reindex(factor.index)\nresult ="
        )
        changed = said.replace("by_stock =", json.dumps(reads)[1:-1], 1)
        return changed.replace("result =", json.dumps(adds)[1:-1], 1)


FactorStage = Callable[[], RealRun]


def make_run(
    sandbox: Sandbox,
    command: str,
    name: str,
    loops: int,
    settings: Mapping[str, str],
    screenplay: Screenplay | None = None,
) -> RealRun:
    """Run one stage under its own name, with a run cache of that name; trained briefly if no script is given."""
    cache = {"PICKLE_CACHE_FOLDER_PATH_STR": str(sandbox.project / f"cache-{name}")}
    result = sandbox.run(
        command,  # type: ignore[arg-type]
        loops=loops,
        name=name,
        environment={**settings, **cache},
        screenplay=screenplay or BriefTraining(),
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
    return make_run(sandbox, "fin_model", "off", 1, COLD_START, Screenplay())


def make_both(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage on SOTA and Alpha, with switches in words and the newest accepted run."""
    factor_stage()
    settings = {"LOAD_SOTA_FROM_LOG": "YES", "SOTA_LOG_PATH": "latest", "USE_ALPHA_FACTORS": "On"}
    return make_run(sandbox, "fin_model", "both", 1, settings, Screenplay())


def make_alone(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage on the SOTA factors alone."""
    return make_run(sandbox, "fin_model", "alone", 1, from_log(factor_stage()))


def make_time_series(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage whose model is a TimeSeries one."""
    script = BriefTraining(model_types=(ModelType.TIME_SERIES,))
    return make_run(sandbox, "fin_model", "time-series", 1, from_log(factor_stage()), script)


def make_parallel(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """Two loops at a time, each step in a process of its own, and a process pool for factors."""
    settings = from_log(factor_stage(), MULTI_PROC_N="2", STEP_SEMAPHORE="2")
    return make_run(sandbox, "fin_model", "parallel", 2, settings)


def make_seeds(sandbox: Sandbox, _: FactorStage) -> RealRun:
    """Two loops of one model, each accepted by the script; an acceptance has to beat the noise of two seeds."""
    return make_run(sandbox, "fin_model", "seeds", 2, {"SOTA_ACCEPT_SEEDS": "2"}, OneModel())


def make_quant(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """``fin_quant``: a factor action, then a model action."""
    settings = from_log(factor_stage(), QLIB_QUANT_ACTION_SELECTION="llm", USE_ALPHA_FACTORS="true")
    return make_run(sandbox, "fin_quant", "quant", 2, {**settings, **COLD_COMMAND})


def make_informed(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """A model stage that inherits the factor stage's history."""
    return make_run(sandbox, "fin_model", "informed", 1, from_log(factor_stage(), SOTA_INHERIT_TRACE="true"))


def make_quant_on_top(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """``fin_quant`` whose factor loops are accepted, too: factor, model, factor."""
    settings = from_log(factor_stage(), QLIB_QUANT_ACTION_SELECTION="llm", USE_ALPHA_FACTORS="true")
    return make_run(sandbox, "fin_quant", "quant-on-top", 3, settings, BriefTraining(accept_factors=True))


def make_quant_informed(sandbox: Sandbox, factor_stage: FactorStage) -> RealRun:
    """``fin_quant`` that inherits the history: three trials are before it, so its first action is a model."""
    settings = from_log(factor_stage(), QLIB_QUANT_ACTION_SELECTION="llm", SOTA_INHERIT_TRACE="true")
    return make_run(sandbox, "fin_quant", "quant-informed", 2, settings, BriefTraining(accept_factors=True))


@dataclass(frozen=True, slots=True)
class CheckoutRuns:
    """Both stages on an edited RD-Agent; one of them has no model stage."""

    sandbox: checkouts.CheckoutSandbox
    factor: RealRun
    model: RealRun | None


def make_fork(sandbox: WarmSandbox, _: FactorStage) -> CheckoutRuns:
    """Every trait of the fork that has its own loader; what its user sets is in ``.env``, which wins there."""
    market = MarketSpec(stocks=54, spelling="000001.SZ")
    with checkouts.make_sandbox(
        sandbox.folder / "fork", sandbox.warm, checkouts.FORK, market=market
    ) as opened:
        checkouts.write_second_file(opened)
        factor = make_run(opened, "fin_factor", "factor", 2, {}, TwoFiles(accept_factors=True))
        lines = (f"{name}={value}\n" for name, value in from_log(factor).items())
        (opened.project / ".env").write_text("".join(lines), encoding="utf-8")
        off = {"LOAD_SOTA_FROM_LOG": "false"}
        return CheckoutRuns(opened, factor, make_run(opened, "fin_model", "model", 1, off))


def make_between(sandbox: WarmSandbox, _: FactorStage) -> CheckoutRuns:
    """A tree from between the releases: dates as variables, features as lists, results and sessions of before."""
    with checkouts.make_sandbox(sandbox.folder / "between", sandbox.warm, checkouts.BETWEEN) as opened:
        factor = make_run(opened, "fin_factor", "factor", 1, {})
        return CheckoutRuns(opened, factor, make_run(opened, "fin_model", "model", 1, from_log(factor)))


def make_signed(sandbox: WarmSandbox, _: FactorStage) -> CheckoutRuns:
    """Results of before, and sessions that are signed."""
    with checkouts.make_sandbox(sandbox.folder / "signed", sandbox.warm, checkouts.SIGNED) as opened:
        return CheckoutRuns(opened, make_run(opened, "fin_factor", "factor", 1, {}), None)


# In the order in which they are begun. The first needs no factors, and runs beside the factor stage; then those that
# tests go on with, so that these have something to do meanwhile; then the longest first.
STAGES: dict[str, Callable[[WarmSandbox, FactorStage], Any]] = {
    "off": make_off,
    "both": make_both,
    "alone": make_alone,
    "seeds": make_seeds,
    "fork": make_fork,
    "between": make_between,
    "signed": make_signed,
    "informed": make_informed,
    "quant_on_top": make_quant_on_top,
    "quant_informed": make_quant_informed,
    "quant": make_quant,
    "parallel": make_parallel,
    "time_series": make_time_series,
}
_TURNS = {name: turn for turn, name in enumerate(["off", "factor_run", *list(STAGES)[1:]])}


def _turn(item: pytest.Item) -> float:
    """The later a test's last run is begun, the later the test's turn; first of all are those that begin the runs."""
    asked = set(getattr(item, "fixturenames", ()))
    if "nothing_else_runs" in asked:
        return len(_TURNS)
    return max((_TURNS[name] for name in asked & set(_TURNS)), default=-1 if "runs" in asked else -0.5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests on real runs in the order of these, so that no core idles while a test waits for a late one.

    Each takes the place of another; all other tests stay where they are.
    """
    places = [place for place, item in enumerate(items) if item.get_closest_marker("real")]
    real = [items[place] for place in places]
    real.sort(key=_turn)
    for place, item in zip(places, real, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmSandbox]:
    """The folder in which all real runs take place."""
    with WarmSandbox(tmp_path_factory.mktemp("sandbox")) as opened, readers():
        yield opened


@pytest.fixture(scope="session")
def runs(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[Any]]]:
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
def factor_run(runs: Mapping[str, Future[Any]]) -> RealRun:
    """Three loops of ``fin_factor``: accepted, rejected, accepted; the accepted set is saved to a file."""
    return runs["factor_run"].result()


@pytest.fixture
def nothing_else_runs(runs: Mapping[str, Future[Any]]) -> None:
    """For a test that changes what all runs share: it waits until all are done, and comes last."""
    wait(runs.values())


def _stage_fixture(stage: str) -> Callable[..., Any]:
    @pytest.fixture(scope="session", name=stage)
    def result(runs: Mapping[str, Future[Any]]) -> Any:
        return runs[stage].result()

    result.__doc__ = STAGES[stage].__doc__
    return result


off, both, alone = _stage_fixture("off"), _stage_fixture("both"), _stage_fixture("alone")
time_series, parallel, quant = (_stage_fixture(name) for name in ("time_series", "parallel", "quant"))
seeds = _stage_fixture("seeds")
informed, quant_on_top = _stage_fixture("informed"), _stage_fixture("quant_on_top")
quant_informed = _stage_fixture("quant_informed")
fork, between, signed = _stage_fixture("fork"), _stage_fixture("between"), _stage_fixture("signed")
