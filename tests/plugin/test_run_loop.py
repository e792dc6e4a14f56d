"""What is attached to the loop: a check before the run, saving after a loop's last step."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import HostError, SettingsError
from rdagent_sota_patch.plugin import run_loop
from rdagent_sota_patch.plugin.seal import _InForce

STEPS = {"1.0.0": ["direct_exp_gen", "coding", "running", "feedback", "record"]}
STEPS["0.8.0"] = STEPS["1.0.0"][:-1]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    monkeypatch.chdir(tmp_path)
    mocker.patch.object(run_loop, "_log")
    mocker.patch("rdagent_sota_patch.plugin.own_log.own_log", return_value=tmp_path)
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


LOOK = """
import copy, inspect, json, os, pickle, sys
before = dict(os.environ)
from rdagent.app.qlib_rd_loop.factor import FactorRDLoop
from rdagent.app.qlib_rd_loop.model import ModelRDLoop
from rdagent.app.qlib_rd_loop.quant import QuantRDLoop
from rdagent.components.coder.CoSTEER.config import CoSTEER_SETTINGS
from rdagent.components.coder.factor_coder.config import FACTOR_COSTEER_SETTINGS
from rdagent.components.workflow.rd_loop import RDLoop
from rdagent.core.conf import RD_AGENT_SETTINGS
from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace
from rdagent.utils.env import LocalEnv, QTDockerEnv
loops = []
for kind in (FactorRDLoop, ModelRDLoop, QuantRDLoop):
    loop = kind.__new__(kind)
    loop.__setstate__({"loop_idx": 3})
    for made in (loop, pickle.loads(pickle.dumps(loop)), copy.deepcopy(loop)):
        loops.append([type(made) is kind, sorted(made.__dict__), made.loop_idx])
same = {
    "loops": loops,
    "settings": [
        each.model_dump_json() for each in (CoSTEER_SETTINGS, FACTOR_COSTEER_SETTINGS, RD_AGENT_SETTINGS)
    ],
    "volumes": str(inspect.signature(QTDockerEnv).parameters["conf"].default.extra_volumes),
    "methods": [method.__qualname__ for method in (QlibFBWorkspace.execute, LocalEnv._run, QTDockerEnv._run)],
    "environment": sorted(name for name in os.environ if os.environ[name] != before.get(name)),
}
sealing = sorted(name for name in sys.modules if name.startswith("rdagent_sota_patch.") and "seal" in name)
print(json.dumps({"same": same, "attached": hasattr(RDLoop.run, "__wrapped__"), "sealing": sealing}))
"""


def test_with_nothing_set_the_real_loops_are_made_and_loaded_as_without_us(tmp_path: Path) -> None:
    """Made, unpickled and copied; settings, containers and programs are RD-Agent's, and no sealing is imported."""
    if find_spec("rdagent") is None:
        pytest.skip("there is no RD-Agent")
    seen = []
    for disabled in ({}, {"RDAGENT_SOTA_DISABLE": "1"}):
        environment = {name: value for name, value in os.environ.items() if "SOTA" not in name.upper()}
        environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", **disabled}
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOOK],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        seen.append(json.loads(ran.stdout.splitlines()[-1]))
    ours, plain = seen
    assert (ours["attached"], plain["attached"]) == (True, False)
    assert ours["same"] == plain["same"]
    assert ours["sealing"] == []


def test_a_run_with_nothing_set_imports_no_sealing(mocker: MockerFixture) -> None:
    """The check before the run, too: what copies data costs a second to import."""
    for name in ("rdagent_sota_patch.plugin.host", "rdagent_sota_patch.plugin.sealed_run"):
        # An import of it fails.
        mocker.patch.dict("sys.modules", {name: None})
    assert asyncio.run(make_loop("1.0.0").run()) == "done"


def test_a_run_that_did_a_step_without_a_seal_cannot_go_on_with_one(
    monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its history is empty until a loop is whole; its first prompts showed the data all the same."""
    day = date(2020, 3, 2)
    mocker.patch.object(_InForce, "seal", SimpleNamespace(day=day))
    monkeypatch.setenv("SOTA_SEAL_FROM", str(day))
    loop = make_loop("1.0.0")
    loop.loop_trace, loop.trace = {0: [object()]}, SimpleNamespace(hist=[])
    with pytest.raises(SystemExit):
        asyncio.run(loop.run())
    assert "begun without a seal" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_copy_in_a_run_is_of_that_run(monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    """RD-Agent copies its loop for each step in a process of its own: a .env written meanwhile is for the next run."""
    sealing = mocker.Mock()
    mocker.patch.dict("sys.modules", {"rdagent_sota_patch.plugin.sealed_run": sealing})
    copies: list[Any] = []
    module = ModuleType("rdagent.components.workflow.rd_loop")

    class RDLoop:
        async def run(self) -> None:
            monkeypatch.setenv("SOTA_SEAL_FROM", "2020-03-02")
            copies.append(await asyncio.create_task(self.copied()))

        async def copied(self) -> Any:
            return copy.deepcopy(self)

        def dump(self, path: Path | str) -> None: ...

    module.RDLoop = RDLoop  # type: ignore[attr-defined]
    run_loop.attach_loop(module)
    loop = type("FactorRDLoop", (RDLoop,), {})()
    asyncio.run(loop.run())
    assert [type(each) for each in copies] == [type(loop)]
    sealing.seal_run.assert_not_called()
    # The next one is sealed.
    type(loop)()
    sealing.seal_run.assert_called_once()


def test_a_loop_that_is_made_in_its_own_way_still_is() -> None:
    """A fork's ``__new__``, of the loop or of a class beside it, gets its arguments."""

    class RDLoop:
        def __init__(self, name: str) -> None: ...

        async def run(self) -> None: ...

        def dump(self, path: Path | str) -> None: ...

    class Named:
        name: str

        def __new__(cls, name: str) -> Any:
            made = object.__new__(cls)
            made.name = name
            return made

    class OwnLoop(RDLoop):
        __new__ = Named.__new__

    for base, beside in ((RDLoop, (Named,)), (OwnLoop, ())):
        module = ModuleType("rdagent.components.workflow.rd_loop")
        module.RDLoop = base  # type: ignore[attr-defined]
        run_loop.attach_loop(module)
        assert type("FactorRDLoop", (base, *beside), {})("x").name == "x"
