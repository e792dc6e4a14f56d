"""``SOTA_ACCEPT_SEEDS`` in a real run: one model proposed twice, whose second acceptance is turned down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from tests.integration.conftest import RealRun
from tests.integration.evidence import global_names, load_snapshot, run_tool

pytestmark = pytest.mark.real


def test_the_second_acceptance_does_not_hold(seeds: RealRun) -> None:
    """The language model accepts both; trained again with the same seeds, they are the same."""
    first, second = seeds.session.experiments
    assert (first.decision, second.decision) == (True, False)
    assert first.seed_test is not None and first.seed_test["outcome"] == "first"
    found = second.seed_test
    assert found is not None
    assert (found["outcome"], found["sota_loop"], found["trained"]) == ("not better", 0, 4)
    assert found["new"] == pytest.approx(found["sota"], abs=1e-9)
    assert abs(found["new"][0] - found["new"][1]) > 1e-4
    assert "the improvement is within the noise of seeds" in second.reason
    assert "the improvement is within the noise of seeds" in second.verdict["observations"]


def test_the_run_varies_as_seeds_do(seeds: RealRun) -> None:
    """Without seeds, as RD-Agent trains it, one model has two results."""
    returns = {
        each.metrics["1day.excess_return_with_cost.annualized_return"] for each in seeds.session.experiments
    }
    assert len(returns) == 2


def test_nothing_is_left_behind(sandbox: Sandbox, seeds: RealRun) -> None:
    """The trainings' workspaces are gone, and the sessions load in an RD-Agent without the plugin."""
    assert list(sandbox.project.rglob("model_of_run.py")) == []
    snapshot = seeds.session.snapshot
    assert not {name for name in global_names(snapshot) if name.startswith("rdagent_sota_patch")}
    assert load_snapshot(sandbox, snapshot, plugin=False).endswith("False")


def test_the_log_tells_it(sandbox: Sandbox, seeds: RealRun) -> None:
    """Both commands that read the log say what became of the acceptance."""
    log = str(seeds.result.log)
    loops = json.loads(run_tool(sandbox, "inspect", log, "--json").stdout)["loops"]
    ledger = json.loads(run_tool(sandbox, "evidence", log, "--json").stdout)["ledger"]
    for entries in (loops, ledger):
        assert [entry["seed_test"]["outcome"] for entry in entries] == ["first", "not better"]
    assert "within the noise of seeds" in run_tool(sandbox, "inspect", log).stdout


def band_of(sandbox: Sandbox, log: str) -> Any:
    """What `evidence --seeds 2` says of the seeds; trusted, since older releases sign no session."""
    done = run_tool(sandbox, "evidence", log, "--seeds", "2", "--trust", "--json")
    answer = json.loads(done.stdout)
    assert answer["seed_band"] is not None, (answer["problems"], done.stderr[-2000:])
    return answer["seed_band"]


def test_the_band_afterwards_is_what_the_run_saw(sandbox: Sandbox, seeds: RealRun) -> None:
    """Trained again outside of RD-Agent, the same seeds give the run's own figures."""
    found = seeds.session.experiments[1].seed_test
    assert found is not None
    band = band_of(sandbox, str(seeds.result.log))
    assert band["sota"] is None and band["winner"]["loop"] == 0
    assert band["winner"]["values"] == pytest.approx(found["sota"], abs=1e-9)


def test_factors_have_no_noise_of_seeds(sandbox: Sandbox, factor_run: RealRun) -> None:
    """RD-Agent's LightGBM gives what it gave in the run, and the answer says that seeds change nothing."""
    band = band_of(sandbox, str(factor_run.result.log))
    assert band["deterministic"] and "seeds change neither" in band["sentence"]
    for trained in (band["winner"], band["sota"]):
        assert trained["values"] == pytest.approx([trained["recorded"]] * 2, abs=1e-9)
