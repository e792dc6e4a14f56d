"""`SOTA_SEAL_FROM` in real runs of both stages: no sealed day is anywhere, and code that looks finds none."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.demo.llm import Prompt
from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.demo.synthetic_market import simulate_market, write_factor_data, write_qlib_data
from rdagent_sota_patch.evidence.unsealing import read_bundle_seal
from rdagent_sota_patch.scoring.days_backtest import back_test, read_portfolio
from rdagent_sota_patch.scoring.replay import read_shipped_scores
from rdagent_sota_patch.sealing.opening_ledger import read_openings
from rdagent_sota_patch.sealing.seal_record import SEAL_NAME, read_seal
from tests.integration.conftest import BriefTraining, RealRun, from_log

pytestmark = pytest.mark.real

PRICE, VOLUME = 98765.4321, 7654321.0
"""What every price and every volume of a sealed day is, and nothing else."""

DAYS_LEFT = 3
"""Trading days between the test segment's last and the first sealed one, counted with the latter."""

LOOK = """
def _look():
    import json, os
    import numpy as np
    import pandas as pd
    # Backwards, so that this code is not found itself.
    values = [float({price!r}[::-1]), float({volume!r}[::-1])]
    marks = [np.asarray(values, dtype=kind) for kind in ("<f4", "<f8")]
    marks = [mark[place : place + 1].tobytes() for mark in marks for place in (0, 1)]
    found, opened = [], 0
    for root, _, files in os.walk({top!r}, followlinks=True):
        for name in files:
            path = os.path.join(root, name)
            if "/output/" in path or not name.endswith((".bin", ".h5", ".parquet", ".txt", ".pkl")):
                continue
            try:
                with open(path, "rb") as file:
                    content = file.read()
                opened += 1
            except OSError:
                continue
            if any(mark in content for mark in marks):
                found.append(path)
            if name == "daily_pv.h5":
                days = pd.read_hdf(path).index.get_level_values("datetime")
                if days.max() >= pd.Timestamp({day!r}):
                    found.append(path + ": its days")
    calendar = os.path.expanduser("~/.qlib/qlib_data/cn_data/calendars/day.txt")
    # In the jail, where a bundle runs it, there is none.
    last = open(calendar).read().split()[-1] if os.path.exists(calendar) else ""
    with open("looked.json", "w") as file:
        json.dump({{"found": found, "opened": opened, "last": last}}, file)
"""


@dataclass(frozen=True, slots=True)
class Looking:
    """What generated code does before anything else: it opens whatever it can reach."""

    top: Path
    day: date

    @property
    def source(self) -> str:
        """The code."""
        return (
            LOOK.format(
                top=str(self.top), price=str(PRICE)[::-1], volume=str(VOLUME)[::-1], day=str(self.day)
            )
            + "\n_look()\n"
        )


class Curious(BriefTraining):
    """The script with factor and model code that looks for the sealed days."""

    looking: Looking

    def answer(self, prompt: Prompt) -> str:
        """The script's answer; code in it looks first."""
        said = super().answer(prompt)
        look = json.dumps(self.looking.source)[1:-1]
        for start in ("import numpy as np\\nimport pandas as pd", "import torch\\nfrom torch import nn"):
            said = said.replace(start, look + start, 1)
        return said


class MarkedSandbox(Sandbox):
    """A sandbox whose market has one price and one volume on all sealed days."""

    @property
    def sealed_from(self) -> date:
        """The third trading day after the test segment."""
        days = (self.qlib_data / "calendars" / "day.txt").read_text(encoding="utf-8").split()
        after = [each for each in days if each > str(self.segments.test[1])]
        return date.fromisoformat(after[DAYS_LEFT - 1])

    def _furnish(self) -> None:
        Sandbox._furnish(self)
        days = (self.qlib_data / "calendars" / "day.txt").read_text(encoding="utf-8").split()
        first = days.index(str(self.sealed_from))
        for file in (self.qlib_data / "features").rglob("*.bin"):
            field = file.name.partition(".")[0]
            if field in ("open", "close", "high", "low", "vwap", "volume"):
                values = np.fromfile(file, dtype="<f4")
                values[1 + first :] = VOLUME if field == "volume" else PRICE
                values.tofile(file)
        for folder in (self.factor_data, self.folder / "data" / "debug"):
            frame = pd.read_hdf(folder / "daily_pv.h5", key="data")
            late = frame.index.get_level_values("datetime") >= pd.Timestamp(self.sealed_from)
            frame.loc[late, ["$open", "$close", "$high", "$low"]] = PRICE
            frame.loc[late, "$volume"] = VOLUME
            frame.astype("float32").to_hdf(folder / "daily_pv.h5", key="data", mode="w")


@dataclass(frozen=True, slots=True)
class SealedRuns:
    """Both stages under one seal, the second on the first's factors, after a run without one."""

    sandbox: MarkedSandbox
    day: date
    factor: RealRun
    model: RealRun
    before: frozenset[Path]
    """What was there before the sealed runs."""

    @property
    def files(self) -> list[Path]:
        """Every file that the sealed runs left."""
        whole = [path for path in self.sandbox.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return [path for path in whole if path not in self.before]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedRuns]:
    """Two loops of ``fin_factor``, and one of ``fin_model`` on their log."""
    with MarkedSandbox(tmp_path_factory.mktemp("sealed")) as sandbox:
        script = Curious()
        script.looking = Looking(sandbox.folder, sandbox.sealed_from)
        open_run = sandbox.run("fin_factor", loops=1, name="open", screenplay=BriefTraining())
        assert open_run.exit_code == 0
        before = frozenset(path for path in sandbox.folder.rglob("*") if path.is_file())
        seal = {"SOTA_SEAL_FROM": str(sandbox.sealed_from)}

        def stage(command: str, name: str, more: dict[str, str]) -> RealRun:
            own = Curious()
            own.looking = script.looking
            # The cache of the run before, which has the same factors.
            result = sandbox.run(
                command,  # type: ignore[arg-type]
                loops=1,
                name=name,
                environment={**seal, **more},
                screenplay=own,
            )
            return RealRun(result, sandbox.session(result.log), {})

        factor = stage("fin_factor", "sealed-factor", {})
        model = stage("fin_model", "sealed-model", from_log(factor))
        yield SealedRuns(sandbox, sandbox.sealed_from, factor, model, before)


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and those of what is packed in it."""
    whole = path.read_bytes()
    yield whole
    if whole[:2] == b"\x1f\x8b":
        yield gzip.decompress(whole)
    if zipfile.is_zipfile(io.BytesIO(whole)):
        with zipfile.ZipFile(io.BytesIO(whole)) as packed:
            yield from (packed.read(name) for name in packed.namelist())


def marks() -> list[bytes]:
    """The sealed days' values as floats, in either byte order, and as text."""
    numbers = [
        np.asarray([value], dtype=kind).tobytes()
        for value in (PRICE, VOLUME)
        for kind in ("<f4", "<f8", ">f4", ">f8")
    ]
    return [*numbers, b"98765.4", b"7654321"]


def table_days(path: Path) -> Iterator[pd.Timestamp]:
    """The days that a table has in its index."""
    frames: list[object] = []
    if path.suffix == ".parquet":
        frames = [pd.read_parquet(path)]
    elif path.suffix == ".h5":
        with pd.HDFStore(str(path), mode="r") as store:
            frames = [store[key] for key in list(store.keys())]
    elif path.name in ("pred.pkl", "label.pkl") or path.name.startswith(("report_", "positions_")):
        frames = [pickle.loads(path.read_bytes())]
    for frame in frames:
        if isinstance(frame, dict):
            yield from map(pd.Timestamp, frame)
        elif isinstance(frame, (pd.DataFrame, pd.Series)):
            index = frame.index
            level = index.get_level_values("datetime") if "datetime" in index.names else index
            if isinstance(level, pd.DatetimeIndex):
                yield from level


def test_no_value_of_a_sealed_day_is_in_any_file(sealed: SealedRuns) -> None:
    """Workspaces, caches, logs, sessions, output and the sealed copies themselves."""
    assert len(sealed.files) > 100
    wanted = marks()
    found = [
        str(path)
        for path in sealed.files
        for content in contents(path)
        if any(mark in content for mark in wanted)
    ]
    assert found == []


def test_no_table_has_a_sealed_day(sealed: SealedRuns) -> None:
    """Factor tables, factors' results, market data, predictions, labels, reports and positions."""
    tables = {path: max(table_days(path), default=None) for path in sealed.files}
    known = {path: last for path, last in tables.items() if last is not None}
    assert len(known) > 10
    assert {str(path): last for path, last in known.items() if last >= pd.Timestamp(sealed.day)} == {}


def test_code_of_the_run_that_looks_for_them_finds_nothing(sealed: SealedRuns) -> None:
    """Factor code and the model's code opened every file that they could reach."""
    reports = [json.loads(path.read_text()) for path in sealed.files if path.name == "looked.json"]
    assert len(reports) >= 3
    assert {tuple(report["found"]) for report in reports} == {()}
    assert all(report["last"] < str(sealed.day) and report["opened"] > 100 for report in reports)


def test_the_same_code_finds_them_outside(sealed: SealedRuns, tmp_path: Path) -> None:
    """The look is a good one: without a seal it finds the originals."""
    code = Looking(sealed.sandbox.folder, sealed.day).source
    environment = sealed.sandbox.environment("outside")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    report = json.loads((tmp_path / "looked.json").read_text())
    assert any(path.endswith("close.day.bin") for path in report["found"])
    assert any(path.endswith("daily_pv.h5: its days") for path in report["found"])


def test_no_prompt_has_a_sealed_day(sealed: SealedRuns) -> None:
    """Everything that the LLM was asked in both runs."""
    days = (sealed.sandbox.qlib_data / "calendars" / "day.txt").read_text(encoding="utf-8").split()
    late = [day for day in days if day >= str(sealed.day)]
    texts = [
        f"{record.prompt.system}\n{record.prompt.user}"
        for record in sealed.sandbox.llm.records
        if record.run.startswith("sealed-")
    ]
    assert len(texts) > 5
    # The day of the seal itself is in the code that looks.
    seen = [day for text in texts for day in late if day in text.replace(repr(str(sealed.day)), "")]
    assert seen == []


def test_the_run_before_and_its_cache_are_not_used(sealed: SealedRuns) -> None:
    """Caches and workspaces of a sealed run are its own; the model trained on what was asked for."""
    seal = read_seal(sealed.factor.result.log)
    assert seal is not None
    assert seal.sealed_from == sealed.day
    assert seal.wall
    assert (sealed.sandbox.project / "pickle_cache" / f"sealed-{seal.key}").is_dir()
    assert (sealed.model.result.log / SEAL_NAME).is_file()
    (model,) = sealed.model.session.experiments
    assert model.sota_source is not None
    assert model.sota_source["proof"]["status"] == "proven"
    assert model.sota_source["end"] < str(sealed.day)


def test_the_originals_are_as_they_were(sealed: SealedRuns) -> None:
    """Nothing of the user's was cut."""
    days = (sealed.sandbox.qlib_data / "calendars" / "day.txt").read_text(encoding="utf-8").split()
    assert days[-1] > str(sealed.day)
    values = np.fromfile(next((sealed.sandbox.qlib_data / "features").rglob("close.day.bin")), dtype="<f4")
    assert values[-1] == np.float32(PRICE)


def test_a_source_with_sealed_days_is_refused(sealed: SealedRuns) -> None:
    """The factors of the run before were chosen with these days in view."""
    result = sealed.sandbox.run(
        "fin_model",
        loops=1,
        name="refused",
        environment={
            "SOTA_SEAL_FROM": str(sealed.day),
            "LOAD_SOTA_FROM_LOG": "true",
            "SOTA_LOG_PATH": str(sealed.sandbox.logs / "open"),
        },
        check=False,
    )
    assert result.exit_code == 1
    assert "[seal-table-reaches]" in result.output


def test_a_segment_that_reaches_into_the_seal_is_refused_at_once(sealed: SealedRuns) -> None:
    """The message says which, and which setting or file to change."""
    inside = str(sealed.sandbox.segments.test[1])
    result = sealed.sandbox.run(
        "fin_factor", loops=1, name="reaching", environment={"SOTA_SEAL_FROM": inside}, check=False
    )
    assert result.exit_code == 1
    assert "[seal-segment-reaches] The test segment of fin_factor ends on" in result.output
    assert not [record for record in sealed.sandbox.llm.records if record.run == "reaching"]


def test_a_resumed_run_keeps_its_seal(sealed: SealedRuns) -> None:
    """Gone on with without one, it stops."""
    result = sealed.sandbox.run(
        "fin_factor",
        loops=2,
        name="sealed-factor",
        resume=sealed.factor.result.log / "__session__",
        check=False,
    )
    assert result.exit_code == 1
    assert "[seal-changed]" in result.output


def test_evidence_finds_nothing_until_something_is_there(sealed: SealedRuns) -> None:
    """The run's own files are clean; a table with a sealed day in a workspace is an error with file and day."""
    clean = tool(sealed, "evidence", str(sealed.model.result.log), "--json")
    slugs = {problem["slug"] for problem in json.loads(clean.stdout)["problems"]}
    assert "sealed-day-seen" not in slugs
    assert "seal-not-judged" not in slugs
    (model,) = sealed.model.session.experiments
    planted = Path(str(model.workspace)) / "notes.parquet"
    index = pd.MultiIndex.from_tuples(
        [(pd.Timestamp(sealed.day), "SH600000")], names=["datetime", "instrument"]
    )
    pd.DataFrame({"x": [1.0]}, index=index).to_parquet(planted)
    try:
        found = tool(sealed, "evidence", str(sealed.model.result.log), "--json")
    finally:
        planted.unlink()
    assert found.returncode == 1
    (problem,) = json.loads(found.stdout)["problems"]
    assert problem["slug"] == "sealed-day-seen"
    assert str(planted) in problem["message"]
    assert str(sealed.day) in problem["message"]


def test_the_sealed_days_are_opened_once_and_it_is_told_when_again(
    sealed: SealedRuns, tmp_path: Path
) -> None:
    """Scored with the bundle, traded as in the run, recorded; the second time says that it is the second."""
    # Code that looks around asks for files that no data folder has: such a bundle is refused before it is opened.
    plain = sealed.sandbox.run(
        "fin_factor",
        loops=1,
        name="sealed-plain",
        # The run before has the same task: its result would be taken over, without weights.
        environment={"SOTA_SEAL_FROM": str(sealed.day), "CACHE_WITH_PICKLE": "False"},
        screenplay=BriefTraining(),
    )
    exported = tool(sealed, "export", str(plain.log), "--out", str(tmp_path / "bundle"))
    assert exported.returncode == 0, exported.stderr
    # The market as it was before its sealed days were marked: on equal prices no feature has a value.
    market = simulate_market(sealed.sandbox.market)
    write_qlib_data(market, tmp_path / "qlib")
    write_factor_data(market, tmp_path / "data", tmp_path / "debug")
    require_the_runs_own_figures(tmp_path / "bundle", tmp_path / "qlib")
    ledger = tmp_path / "ledger.jsonl"
    data = ("--data", str(tmp_path / "data"), "--qlib-dir", str(tmp_path / "qlib"))
    asked = ("evidence", str(tmp_path / "bundle"), "--unseal", *data, "--ledger", str(ledger), "--json")
    first = tool(sealed, *asked)
    assert first.returncode == 0, first.stdout + first.stderr
    said = json.loads(first.stdout)
    assert said["opened_before"] == {"bundle": 0, "days": 0}
    assert said["first_day"] == str(sealed.day)
    assert said["days"] >= 5
    assert set(said["backtest"]) >= {"annualized_return", "information_ratio", "max_drawdown", "ic"}
    assert said["figures"]["annualized_return"] is not None
    second = tool(sealed, *asked)
    again = json.loads(second.stdout)
    assert again["opened_before"] == {"bundle": 1, "days": 1}
    # Two processes of Qlib's may sum in another order.
    assert again["figures"] == pytest.approx(said["figures"], rel=1e-9)
    assert "NOT THE FIRST OPENING" in second.stderr
    assert len(read_openings(ledger)) == 2


def require_the_runs_own_figures(folder: Path, qlib: Path) -> None:
    """On the days of the run's back-test, its scores give its figures: strategy, costs and sums are the run's."""
    bundle = open_bundle(folder)
    scores = read_shipped_scores(bundle)
    days = pd.DatetimeIndex(scores.index.get_level_values("datetime").unique()).sort_values()
    found, _ = back_test(bundle, read_portfolio(bundle), scores, qlib, days)
    _, metrics = read_bundle_seal(bundle)
    cost = "1day.excess_return_with_cost"
    assert found.annualized_return == pytest.approx(metrics[f"{cost}.annualized_return"], abs=1e-9)
    assert found.information_ratio == pytest.approx(metrics[f"{cost}.information_ratio"], abs=1e-9)
    assert found.max_drawdown == pytest.approx(metrics[f"{cost}.max_drawdown"], abs=1e-9)
    assert found.ic == pytest.approx(metrics["IC"], abs=1e-9)
    assert found.rank_icir == pytest.approx(metrics["Rank ICIR"], abs=1e-9)


def test_a_bundle_of_a_run_without_a_seal_has_nothing_to_open(sealed: SealedRuns, tmp_path: Path) -> None:
    """And nothing of a seal in it."""
    log = sealed.sandbox.logs / "open"
    assert tool(sealed, "export", str(log), "--out", str(tmp_path / "bundle")).returncode == 0
    assert not (tmp_path / "bundle" / SEAL_NAME).exists()
    refused = tool(sealed, "evidence", str(tmp_path / "bundle"), "--unseal")
    assert refused.returncode == 1
    assert "[bundle-not-sealed]" in refused.stderr


def tool(sealed: SealedRuns, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``rdagent-sota`` as the user of these runs has it."""
    environment = sealed.sandbox.environment("tool")
    program = Path(sys.executable).with_name("rdagent-sota")
    return subprocess.run(
        [program, *arguments],
        cwd=sealed.sandbox.project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
