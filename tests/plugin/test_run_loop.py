"""What is attached to the loop: a check before the run, saving after a loop's last step."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import HostError, SettingsError
from rdagent_sota_patch.plugin import run_loop

STEPS = {"1.0.0": ["direct_exp_gen", "coding", "running", "feedback", "record"]}
STEPS["0.8.0"] = STEPS["1.0.0"][:-1]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    monkeypatch.chdir(tmp_path)
    mocker.patch.object(run_loop, "_log")
    run_loop._weights_limit.cache_clear()
    mocker.patch("rdagent_sota_patch.plugin.host_check.require_known_host")
    mocker.patch.dict("sys.modules", {"rdagent_sota_patch.plugin.embedding": mocker.MagicMock()})


def make_loop(release: str, name: str = "QuantRDLoop") -> Any:
    """A loop as RD-Agent builds them: its own step overrides the base's, saving is the base's."""
    written: list[str] = []

    class RDLoop:
        steps = STEPS[release]

        async def run(self) -> str:
            return "done"

        def dump(self, path: Path | str) -> None:
            written.append(Path(path).name)

    module = ModuleType("rdagent.components.workflow.rd_loop")
    module.RDLoop = RDLoop  # type: ignore[attr-defined]
    run_loop.attach_loop(module)
    loop = type(name, (RDLoop,), {})()
    loop.written = written
    return loop


@pytest.mark.parametrize("release", list(STEPS))
def test_saves_after_the_last_step(
    release: str, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    """Whichever step is the last one, and after RD-Agent's own snapshot; its other steps save nothing."""
    monkeypatch.setenv("SAVE_SOTA_FACTORS", "true")
    save = mocker.Mock()
    mocker.patch.dict("sys.modules", {"rdagent_sota_patch.plugin.autosave": mocker.Mock(save_accepted=save)})
    loop = make_loop(release)
    paths = [Path("s", "4", f"{index}_{name}") for index, name in enumerate(loop.steps)]
    for path in paths:
        save.side_effect = lambda *_, name=path.name: loop.written.index(name)
        loop.dump(str(path))
    (call,) = save.call_args_list
    assert call.args[:2] == (loop, paths[-1])


def test_off_saves_nothing(monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    """Without SAVE_SOTA_FACTORS a snapshot is only a snapshot."""
    monkeypatch.delenv("SAVE_SOTA_FACTORS", raising=False)
    saving = mocker.Mock()
    mocker.patch.dict("sys.modules", {"rdagent_sota_patch.plugin.autosave": saving})
    make_loop("1.0.0").dump("s/0/4_record")
    saving.save_accepted.assert_not_called()


def test_failed_saving_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be written stops the run with one message, when the loop is on disk already."""
    monkeypatch.setenv("SAVE_SOTA_FACTORS", "true")
    saving = mocker.Mock()
    saving.save_accepted.side_effect = SettingsError("cannot-write", "no room")
    mocker.patch.dict("sys.modules", {"rdagent_sota_patch.plugin.autosave": saving})
    loop = make_loop("0.8.0")
    with pytest.raises(SystemExit) as stopped:
        loop.dump("s/0/3_feedback")
    assert stopped.value.code == 1
    assert loop.written == ["3_feedback"]
    assert "[cannot-write] no room" in capsys.readouterr().err


@pytest.mark.parametrize("strict", ["true", "false"])
def test_changed_host_is_told_before_the_run(
    strict: str, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """An RD-Agent that is built otherwise stops a run that asks for factors; SOTA_STRICT off, it is plain RD-Agent."""
    monkeypatch.setenv("LOAD_SOTA_FACTORS", "true")
    monkeypatch.setenv("SOTA_STRICT", strict)
    changed = HostError("host-changed", "core/utils.py: cache_with_pickle is gone.")
    mocker.patch("rdagent_sota_patch.plugin.host_check.require_known_host", side_effect=changed)
    preflight = mocker.Mock()
    mocker.patch.dict("sys.modules", {"rdagent_sota_patch.plugin.preflight": preflight})
    run: Callable[[], Any] = make_loop("1.0.0").run
    if strict == "true":
        with pytest.raises(SystemExit):
            asyncio.run(run())
        assert "cache_with_pickle is gone" in capsys.readouterr().err
    else:
        assert asyncio.run(run()) == "done"
        assert "cache_with_pickle is gone" in str(run_loop._log().warning.call_args)
    preflight.prepare_run.assert_not_called()


def test_loop_without_snapshots_is_refused() -> None:
    """A loop class that lacks what is wrapped is an error, not half an attachment."""
    module = ModuleType("rdagent.components.workflow.rd_loop")
    module.RDLoop = type("RDLoop", (), {"run": lambda self: None})  # type: ignore[attr-defined]
    with pytest.raises(HostError, match="dump"):
        run_loop.attach_loop(module)


@pytest.mark.parametrize(("text", "limit"), [(None, 16 << 20), ("0", 0), ("0.5", 1 << 19)])
def test_weights_are_kept_while_a_snapshot_is_written(
    text: str | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around each snapshot, with the limit that the settings name; and taken out of a loaded loop before it runs."""
    if text is not None:
        monkeypatch.setenv("SOTA_EMBED_WEIGHTS_MB", text)
    embedding: Any = sys.modules["rdagent_sota_patch.plugin.embedding"]
    loop = make_loop("1.0.0")
    asyncio.run(loop.run())
    embedding.adopt_history.assert_called_once_with(loop)
    seen: list[int] = []
    entered = embedding.keeping_weights.return_value
    entered.__enter__.side_effect = lambda: seen.append(len(loop.written))
    entered.__exit__.side_effect = lambda *_: seen.append(len(loop.written))
    loop.dump("s/0/2_running")
    assert seen == [0, 1]
    assert embedding.keeping_weights.call_args.args == (loop, Path("s/0/2_running"), limit)


def test_settings_of_weights_are_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env that is broken while the run goes on costs no snapshot."""
    loop = make_loop("1.0.0")
    asyncio.run(loop.run())
    monkeypatch.setenv("SOTA_EMBED_WEIGHTS_MB", "many")
    loop.dump("s/0/2_running")
    assert loop.written == ["2_running"]


def test_changed_host_records_nothing(mocker: MockerFixture) -> None:
    """With nothing set, an RD-Agent that is built otherwise runs as ever, and it is said what is not done."""
    changed = HostError("host-changed", "core/experiment.py has no FBWorkspace.")
    mocker.patch("rdagent_sota_patch.plugin.host_check.require_known_host", side_effect=changed)
    embedding: Any = sys.modules["rdagent_sota_patch.plugin.embedding"]
    loop = make_loop("1.0.0")
    assert asyncio.run(loop.run()) == "done"
    loop.dump("s/0/2_running")
    assert loop.written == ["2_running"]
    embedding.keeping_weights.assert_not_called()
    (warning,) = run_loop._log().warning.call_args_list
    assert "Weights are neither recorded" in str(warning)


def test_other_scenarios_are_left_alone() -> None:
    """Only Qlib's loops have weights to record."""
    embedding: Any = sys.modules["rdagent_sota_patch.plugin.embedding"]
    loop = make_loop("1.0.0", "KaggleRDLoop")
    asyncio.run(loop.run())
    loop.dump("s/0/2_running")
    assert loop.written == ["2_running"]
    embedding.adopt_history.assert_not_called()
    embedding.keeping_weights.assert_not_called()
