"""The whole ablation: resumed, in several processes, and on what is hardly enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.ablation import trying
from rdagent_sota_patch.ablation.ablating import AblateOptions, Ablation, ablate
from rdagent_sota_patch.ablation.arrays import Arrays, write_arrays
from rdagent_sota_patch.ablation.fitting import run_trial
from rdagent_sota_patch.errors import SotaError
from tests.ablation.made_worlds import RECIPE, make_index

OPTIONS = AblateOptions(seeds=2, windows=3)
MINED = ("good", "bad", "copy")


def make_arrays(folder: Path, **columns: np.ndarray) -> Arrays:
    """A strong factor, its copy, noise, and an Alpha feature that is weaker; or other columns."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(2)
    index = make_index(160, 30)
    good, alpha, bad, noise = random.normal(size=(4, len(index)))
    label = pd.Series(0.3 * good + 0.1 * alpha + noise, index=index)
    made = columns or {"ALPHA": alpha, "bad": bad, "copy": 2 * good, "good": good}
    made = {name: values(good) if callable(values) else values for name, values in made.items()}
    return write_arrays(folder, pd.DataFrame(made, index=index), label)


def run(arrays: Arrays, out: Path, mined: tuple[str, ...] = MINED, **options: Any) -> Ablation:
    out.mkdir(exist_ok=True)
    chosen = {**{name: getattr(OPTIONS, name) for name in ("seeds", "windows")}, **options}
    return ablate(
        arrays,
        mined,
        RECIPE,
        out,
        options=AblateOptions(**chosen),
        report=lambda *_: None,
        record={"run": "r"},
    )


def answers(found: Ablation) -> Any:
    """All that is told."""
    return found.sets, found.factors, found.smallest, found.shortfall, found.trials


def test_the_answers(tmp_path: Path) -> None:
    """The strong factor stays, its copy is one with it, noise goes, and the sets are in their order."""
    found = run(make_arrays(tmp_path / "work"), tmp_path / "out")
    assert [earned.group.members for earned in found.factors] == [("good", "copy"), ("bad",)]
    good, bad = found.factors
    assert good.change is not None
    assert good.change.windows == 3
    assert good.change.mean > 0.1
    assert bad.verdict != "helps"
    assert found.smallest == ("good",)
    ics = {(one.spec.kind, one.spec.name): one.ic for one in found.sets}
    assert ics["mined", ""] > ics["alpha", ""] > 0
    assert ics["first", "good"] > ics["alpha", ""]
    assert ics["distinct", ""] == ics["first", "bad"]
    # 8 sets, of which three are the same, and one on the way to the smallest: each in 3 windows with 2 seeds.
    assert found.trials == len({one.spec.features for one in found.sets}) * 6
    assert found.problems == ()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """To the last bit."""
    one = run(make_arrays(tmp_path / "one"), tmp_path / "out-one")
    two = run(make_arrays(tmp_path / "two"), tmp_path / "out-two", jobs=2)
    assert answers(one) == answers(two)


def test_it_goes_on_after_kill_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept is not tried again, and the answers are those of an ablation in one go."""
    out = tmp_path / "out"
    program = (
        "from pathlib import Path; from rdagent_sota_patch.ablation import trying; trying._EVERY = 0.0; "
        f"from tests.ablation.test_ablating import make_arrays, run; run(make_arrays(Path({str(tmp_path / 'a')!r})), "
        f"Path({str(out)!r}))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", program], env=environ)
    while len(list(out.glob("*.parquet"))) < 5 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = len(list(out.glob("*.parquet")))
    tried = []

    def count(*arguments: Any) -> Any:
        tried.append(arguments)
        return run_trial(*arguments)

    monkeypatch.setattr(trying, "run_trial", count)
    found = run(make_arrays(tmp_path / "b"), out)
    assert 0 < len(tried) == found.trials - kept
    assert answers(found) == answers(run(make_arrays(tmp_path / "c"), tmp_path / "fresh"))


def die(*_: object) -> None:
    """In place of a trial: what the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do; then it goes on."""
    arrays = make_arrays(tmp_path / "work")
    with monkeypatch.context() as patch:
        patch.setattr(trying, "run_trial", die)
        with pytest.raises(SotaError, match="with --out it goes on") as error:
            run(arrays, tmp_path / "out", jobs=2)
    assert error.value.slug == "worker-died"
    assert run(arrays, tmp_path / "out", jobs=2).smallest == ("good",)


def test_one_factor_alone(tmp_path: Path) -> None:
    """Without it there is nothing: its IC is held against 0."""
    arrays = make_arrays(tmp_path / "work", only=lambda good: good)  # type: ignore[arg-type]
    found = run(arrays, tmp_path / "out", ("only",))
    (earned,) = found.factors
    assert earned.change is not None
    assert earned.change.mean == pytest.approx(found.sets[0].ic)
    assert found.smallest == ("only",)


def test_constants_and_gaps(tmp_path: Path) -> None:
    """What no model can use is left out, and said."""
    gaps = np.full(160 * 30, np.nan)
    arrays = make_arrays(tmp_path / "work", flat=np.ones(160 * 30), good=lambda good: good, none=gaps)  # type: ignore[arg-type]
    found = run(arrays, tmp_path / "out", ("good", "flat", "none"))
    assert [earned.group.name for earned in found.factors] == ["good"]
    assert [(problem.slug, problem.message.split()[0]) for problem in found.problems] == [
        ("factor-constant", "flat"),
        ("factor-constant", "none"),
    ]


def test_nothing_to_ablate(tmp_path: Path) -> None:
    arrays = make_arrays(tmp_path / "work", flat=np.ones(160 * 30))
    with pytest.raises(SotaError) as error:
        run(arrays, tmp_path / "out", ("flat",))
    assert error.value.slug == "nothing-to-ablate"


@pytest.mark.parametrize("days", [30, 60])
def test_a_window_without_labels(tmp_path: Path, days: int) -> None:
    """Nothing is told where one of the windows has nothing to test or to learn from."""
    (tmp_path / "work").mkdir()
    index = make_index(160, 30)
    values = np.random.default_rng(0).normal(size=(2, len(index)))
    label = pd.Series(values[1], index=index)
    label.iloc[-days * 30 :] = np.nan
    arrays = write_arrays(tmp_path / "work", pd.DataFrame({"a": values[0]}, index=index), label)
    with pytest.raises(SotaError) as error:
        run(arrays, tmp_path / "out", ("a",), jobs=2)
    assert error.value.slug == "no-labels"


def test_a_single_window_says_that_it_tells_nothing(tmp_path: Path) -> None:
    found = run(make_arrays(tmp_path / "work"), tmp_path / "out", windows=1)
    assert {earned.verdict for earned in found.factors} == {"cannot be told"}
    assert [problem.slug for problem in found.problems] == ["one-window"]
    # Any set would be as good.
    assert found.smallest is None
