"""The band of seeds: which experiments are trained again, from what, and what is said of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.evidence.evidence_page import render_evidence
from rdagent_sota_patch.evidence.seed_band import band_to_plain, measure_seeds, require_trust
from rdagent_sota_patch.evidence.seed_test import METRIC
from rdagent_sota_patch.evidence.weighing import to_plain, weigh
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.sessions.records import Model, Session, Signature
from tests.evidence.made_trials import make_ledger
from tests.evidence.test_trials import back_tested, experiment, model, session
from tests.evidence.test_weighing import TRIALS
from tests.export.made_run import forge
from tests.sessions.forged import Made

PROJECT = Path(__file__).resolve().parents[2]

# In the place of Qlib's alone: what it trains on is written down, and its result is made of the seed and the code.
QRUN = """#!{python}
import os, re, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {project!r})
import numpy as np, pandas as pd, yaml
from tests.mlruns.forged_recorder import write_backtest, write_recorder
here = Path.cwd()
config = yaml.safe_load((here / sys.argv[1]).read_text())["task"]
if config["fails"] == "kill":
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit(1)
count = len(list(Path({seen!r}).iterdir()))
shutil.copytree(here, Path({seen!r}) / str(count))
seed = re.search(r"with seed (\\d+)", (here / "model.py").read_text()) if (here / "model.py").exists() else None
if config["fails"]:
    sys.exit("no memory left")
noise = float(np.random.default_rng(int(seed[1]) + 7 * int(config["mean"])).normal()) if seed else 0.0
days = pd.bdate_range("2020-01-01", periods=40, name="datetime")
returns = (config["mean"] + 0.1 * noise) / 238
report = pd.DataFrame([[returns, 0.0, 0.1, 0.0]] * 40, days, ["return", "cost", "turnover", "bench"])
daily = pd.Series(0.1, index=days)
write_backtest(write_recorder(here, dict(Close="$close")), report, daily, daily)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders as the trainings found them, in order."""
    programs, folder = tmp_path / "programs", tmp_path / "seen"
    programs.mkdir()
    folder.mkdir()
    program = programs / "qrun"
    text = QRUN.replace("\\\\", "\\").format(python=sys.executable, project=str(PROJECT), seen=str(folder))
    program.write_text(text, encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", os.pathsep.join((str(programs), os.environ["PATH"])))
    return folder


def trained(folder: Path, mean: float, *, fails: bool | str = False) -> Path:
    """A workspace whose recorder keeps the configuration that it was trained by."""
    (run,) = back_tested(folder).glob("mlruns/*/*")
    # Qlib puts the trained model into the task of the configuration, and keeps a task without it.
    config = {"qlib_init": {"region": "cn"}, "task": {"model": Made("qlib.contrib.model.gbdt", "LGBModel")}}
    (run / "artifacts" / "config").write_bytes(forge(config))
    (run / "artifacts" / "task").write_bytes(forge({"mean": mean, "fails": fails}))
    return folder


def models(tmp_path: Path, *means: float, **more: Any) -> Session:
    """A run that accepted a model of each mean."""
    loops = [
        model(
            loop,
            True,
            trained(tmp_path / f"w{loop}", mean, **more),
            metrics=MappingProxyType({METRIC: mean}),
            model=Model(f"M{loop}", code=f"model_cls = {loop}\n"),
        )
        for loop, mean in enumerate(means)
    ]
    return session(tmp_path / "log", *loops)


def silent(_: str) -> None:
    """Take no notice of progress."""


def test_the_winner_and_the_sota_it_beat(tmp_path: Path, seen: Path) -> None:
    """Of three accepted models the last two are trained, alternately, each with its own code and both with one seed."""
    band = measure_seeds(models(tmp_path, 9.0, 1.0, 1.0), (), 3, silent)
    assert (band.winner.loop, band.sota and band.sota.loop) == (2, 1)
    places = [seen / str(number) for number in range(4)]
    assert [(place / "model_of_run.py").read_text() for place in places] == [
        f"model_cls = {loop}\n" for loop in (2, 1, 2, 1)
    ]
    assert ["with seed 1" in (place / "model.py").read_text() for place in places] == [
        True,
        True,
        False,
        False,
    ]
    assert band.test is not None and band.test.outcome == "not better"
    assert "within the noise of seeds" in band.sentence
    assert (band.winner.recorded, len(band.winner.values)) == (1.0, 2)


def test_a_better_winner(tmp_path: Path, seen: Path) -> None:
    """An improvement far larger than the noise is called so, and JSON has every figure."""
    band = measure_seeds(models(tmp_path, 0.0, 50.0), (), 5, silent)
    plain = band_to_plain(band)
    assert plain["outcome"] == "better" and "larger than the noise" in plain["sentence"]
    assert plain["winner"]["low"] <= plain["winner"]["mean"] <= plain["winner"]["high"]
    assert plain["p"] <= plain["level"] and not plain["deterministic"]


def test_seeds_that_change_nothing(tmp_path: Path, seen: Path) -> None:
    """Factor experiments have no model.py: two trainings of each are equal, which is said."""
    loops = [experiment(loop, True, trained(tmp_path / f"w{loop}", float(loop))) for loop in (0, 1)]
    band = measure_seeds(session(tmp_path / "log", *loops), (), 5, silent)
    assert band_to_plain(band)["deterministic"] and "deterministic" in band.sentence
    assert (band.winner.values, band.test and band.test.outcome) == (pytest.approx((1.0, 1.0)), "better")
    assert len(list(seen.iterdir())) == 4


def test_the_first_accepted_has_a_band_alone(tmp_path: Path, seen: Path) -> None:
    """With no SOTA before it, or with one whose workspace is gone, the winner's band is still given."""
    run = models(tmp_path, 1.0)
    band = measure_seeds(run, (), 3, silent)
    assert (band.sota, band.test, len(band.winner.values)) == (None, None, 3)
    assert "there is no SOTA before it" in band.sentence
    gone = model(0, True, tmp_path / "gone")
    with_gone = replace(run, experiments=(gone, replace(run.experiments[0], loop=1)))
    band = measure_seeds(with_gone, (), 2, silent)
    assert band.sota is None and "could not be trained again" in band.sentence
    assert [problem.slug for problem in band.problems] == ["seeds-not-trainable"]


def test_the_run_s_own_table_goes_along(tmp_path: Path, seen: Path) -> None:
    """A model is trained on the table that was recorded for it, and not on one that was changed since."""
    run = models(tmp_path, 1.0)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=4, freq="B"), ["SH600000"]], names=["datetime", "instrument"]
    )
    frame = pd.DataFrame({("feature", "Gap"): np.arange(4.0)}, index=index)
    table = tmp_path / "w0" / "combined_factors_df.parquet"
    frame.to_parquet(table)
    fed = {"fingerprint": read_factor_table(table).fingerprint}
    run = replace(run, experiments=(replace(run.experiments[0], sota_source=fed),))
    measure_seeds(run, (), 2, silent)
    assert (seen / "0" / table.name).read_bytes() == table.read_bytes()
    (frame * 2).to_parquet(table)
    with pytest.raises(SotaError, match="not the table of loop 0"):
        measure_seeds(run, (), 2, silent)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: next(path.glob("mlruns/*/*/artifacts/config")).unlink(), "cannot be read"),
        (lambda path: next(path.glob("mlruns/*/*/artifacts/config")).write_bytes(forge([1])), "not known"),
    ],
)
def test_what_cannot_be_trained_says_why(
    spoil: Callable[[Path], object], why: str, tmp_path: Path, seen: Path
) -> None:
    """Without the run's configuration nothing is trained on a guess."""
    run = models(tmp_path, 1.0)
    spoil(tmp_path / "w0")
    with pytest.raises(SotaError, match=why) as caught:
        measure_seeds(run, (), 2, silent)
    assert caught.value.problems[0].slug == "seeds-not-trainable"
    assert list(seen.iterdir()) == []


def test_a_training_that_fails_is_tried_three_times(tmp_path: Path, seen: Path) -> None:
    """Then its last line is told."""
    with pytest.raises(SotaError, match="failed 3 times: no memory left"):
        measure_seeds(models(tmp_path, 1.0, fails=True), (), 2, silent)
    assert len(list(seen.iterdir())) == 3


def test_what_a_killed_call_left_is_removed_by_the_next(
    tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the run's table may be large: it stays no longer than that, and no other user may read it."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    killed = multiprocessing.get_context("fork").Process(
        target=measure_seeds, args=(models(tmp_path / "killed", 1.0, fails="kill"), (), 2, silent)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert len(list(temporary.iterdir())) == 1
    measure_seeds(models(tmp_path, 1.0), (), 2, silent)
    assert list(temporary.iterdir()) == []
    assert stat.S_IMODE((seen / "0").stat().st_mode) == 0o700


@pytest.mark.parametrize("signature", Signature)
def test_a_stranger_s_code_needs_trust(signature: Signature, tmp_path: Path) -> None:
    """Only what this machine signed is run without being told to."""
    run = replace(models(tmp_path, 1.0), signature=signature)
    require_trust(run, trust=True)
    if signature is Signature.VERIFIED:
        require_trust(run, trust=False)
    else:
        with pytest.raises(SotaError, match="seeds-need-trust"):
            require_trust(run, trust=False)


def test_json_and_page_have_the_band(tmp_path: Path, seen: Path) -> None:
    """`seed_band` is null unless it was asked for; the page draws each seed and the run's own result."""
    evidence = weigh(make_ledger(*TRIALS, winner=3))
    assert to_plain(evidence)["seed_band"] is None
    asked = replace(evidence, seeds=measure_seeds(models(tmp_path, 1.0, 1.0), (), 2, silent))
    assert to_plain(asked)["seed_band"]["winner"]["loop"] == 1
    page, before = render_evidence(asked), render_evidence(evidence)
    assert "<h2>Seeds</h2>" in page
    assert page.count("<circle") == before.count("<circle") + 6
