"""What keeps a run from being sealed, what its log says, and where a container's data come from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.plugin import host, sealed_run
from rdagent_sota_patch.plugin.sealed_run import Seal, record_seal, require_sealed_source, stages_of
from rdagent_sota_patch.plugin.template import read_template
from rdagent_sota_patch.sealing.seal_record import SealRecord, read_seal, write_seal
from rdagent_sota_patch.sealing.sealed_folder import SealedData

DAY = date(2020, 3, 2)
LATEST = date(2020, 2, 27)


@pytest.fixture
def in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seal]:
    """A seal, without anything of RD-Agent's changed."""
    copy = tmp_path / "sealed" / "2020-03-02-key"
    data = SealedData(copy, copy / "qlib", {Path("/q"): copy / "qlib" / "q"}, {Path("/d"): copy / "d"}, ())
    seal = Seal(DAY, data, wall=True)
    monkeypatch.setattr(sealed_run._InForce, "seal", seal)
    yield seal


@pytest.mark.parametrize(
    ("given", "edge", "words"),
    [
        ("2020-02-27", "test_end", ""),
        ("2020-02-28", "test_end", "no later trading day is left before 2020-03-02"),
        ("2020-03-02", "test_end", "ends on 2020-03-02, which is sealed"),
        ("2020-03-02", "test_start", "starts on 2020-03-02, which is sealed"),
        ("2020-02-28", "valid_end", ""),
        ("2021-01-01 00:00:00", "train_end", "ends on 2021-01-01, which is sealed"),
        (None, "test_end", "gives no day"),
        ("null", "test_end", "gives no day"),
        (None, "train_end", ""),
        ("soon", "test_end", "is not a date"),
    ],
)
def test_a_segment_has_to_end_before_the_seal(given: str | None, edge: str, words: str) -> None:
    """With a day left for Qlib's executor; the hint names what to set, and to which day."""
    problems = list(sealed_run._judge(given, edge, (DAY, LATEST), "QLIB_MODEL_X", "model"))
    assert [words in problem.message for problem in problems] == [True] * bool(words)
    if words and "date" not in words:
        assert "Set QLIB_MODEL_X to 2020-02-27 or an earlier day" in problems[0].hint


def test_a_template_is_led_to_the_copy() -> None:
    """The rest of it is as it was."""
    text = 'qlib_init:\n    provider_uri: "~/.qlib/qlib_data/cn_data"  # here\n    region: cn\n'
    edited = read_template(text, "conf.yaml").with_scalar("provider_uri", '"/sealed"')
    assert edited == 'qlib_init:\n    provider_uri: "/sealed"  # here\n    region: cn\n'


def test_a_container_gets_the_copy_as_its_qlib_folder(in_force: Seal) -> None:
    """First, read-only, in place of the user's; other folders stay."""
    conf = SimpleNamespace(
        extra_volumes={"/home/u/.qlib": {"bind": "/root/.qlib/", "mode": "rw"}, "/more": "/more"}
    )

    class Environment:
        def __init__(self, conf: Any = conf) -> None:
            self.conf = conf

    sealed_run._change_volumes(Environment, in_force)
    assert list(Environment().conf.extra_volumes.items()) == [
        (str(in_force.data.qlib_home), {"bind": "/root/.qlib/", "mode": "ro"}),
        ("/more", "/more"),
    ]


def test_the_log_says_that_the_run_was_sealed(in_force: Seal, tmp_path: Path) -> None:
    """Once; a resumed run is held to it, also one without a seal."""
    log = tmp_path / "log"
    record_seal(log, resumed=False)
    record = read_seal(log)
    assert record is not None
    assert (record.sealed_from, record.key, record.wall) == (DAY, "2020-03-02-key", True)
    record_seal(log, resumed=True)
    assert read_seal(log) == record
    sealed_run._InForce.seal = None
    with pytest.raises(SotaError, match="begun sealed from 2020-03-02 on") as caught:
        record_seal(log, resumed=True)
    assert caught.value.slug == "seal-changed"


def test_a_run_that_was_begun_open_cannot_be_sealed(in_force: Seal, tmp_path: Path) -> None:
    """Its history knows the days."""
    with pytest.raises(SotaError, match="begun without a seal"):
        record_seal(tmp_path / "log", resumed=True)


def test_nothing_is_written_without_a_seal(tmp_path: Path) -> None:
    """A log has no file more."""
    (tmp_path / "log").mkdir()
    record_seal(tmp_path / "log", resumed=False)
    assert list((tmp_path / "log").iterdir()) == []


def source(log: Path | None, *, gone: bool) -> Any:
    """A source of SOTA factors."""
    session = None if log is None else SimpleNamespace(log=log)
    return SimpleNamespace(path=log or Path("table"), table=None if gone else Path("table"), session=session)


def test_factors_that_were_chosen_by_sealed_days_are_refused(tmp_path: Path) -> None:
    """By the table's last day; where the table is gone, by what the log says of its run."""
    late, early = SimpleNamespace(end=DAY), SimpleNamespace(end=LATEST)
    require_sealed_source(source(tmp_path, gone=False), early, DAY)  # type: ignore[arg-type]
    with pytest.raises(SotaError, match="days up to 2020-03-02"):
        require_sealed_source(source(tmp_path, gone=False), late, DAY)  # type: ignore[arg-type]
    with pytest.raises(SotaError, match="its log does not say"):
        require_sealed_source(source(tmp_path, gone=True), None, DAY)
    record = SealRecord(sealed_from=DAY, key="k", wall=True, written_at=datetime.now(timezone.utc))
    write_seal(tmp_path, record)
    require_sealed_source(source(tmp_path, gone=True), None, DAY)
    with pytest.raises(SotaError, match="its log does not say"):
        require_sealed_source(source(tmp_path, gone=True), None, LATEST)


def test_only_loops_on_qlib_are_sealed() -> None:
    """By their names, since a script's class lives in __main__."""

    class QuantRDLoop:
        pass

    class Own(QuantRDLoop):
        pass

    assert stages_of(Own) == ("factor", "model", "quant")
    assert stages_of(object) == ()


@pytest.mark.parametrize("log", ["log/run", "git_ignore_folder/run"])
def test_what_the_run_needs_is_not_covered(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_force: Seal
) -> None:
    """Logs and caches of other runs are, unless they lie in a folder with something of this run's."""
    ignored = tmp_path / "git_ignore_folder"
    workspaces, store = ignored / "RD-Agent_workspace", ignored / "sota_sealed"
    data = SealedData(store / "2020-03-02-key", store / "2020-03-02-key" / "qlib", {}, {}, ())
    own = workspaces / "sealed-2020-03-02"
    for folder in (tmp_path / log, tmp_path / "pickle_cache", own, data.folder):
        folder.mkdir(parents=True)
    monkeypatch.setattr(host, "own_log", lambda: tmp_path / log)
    path = sealed_run._write_covers(Seal(DAY, data, wall=True), tmp_path / "pickle_cache", workspaces, own)
    covered = [Path(target) for _, target in json.loads(path.read_text())]
    logs = [tmp_path / "log"] if log == "log/run" else []
    assert covered == [tmp_path / "pickle_cache", *logs, workspaces, own, store, data.folder]


def test_without_a_seal_the_sandbox_is_not_imported() -> None:
    """Each start of RD-Agent imports this module, and most have no seal: the sandbox would take a tenth of a second."""
    code = "import sys, rdagent_sota_patch.plugin.sealed_run; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "rdagent_sota_patch.plugin.sealed_run" in loaded
    assert [name for name in loaded if name.startswith("rdagent_sota_patch.sandbox")] == []
