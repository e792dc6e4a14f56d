"""Where the data of a sealed run come from, and what its programs cannot reach."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdagent_sota_patch.errors import HostError, SotaError
from rdagent_sota_patch.plugin import sealed_run
from rdagent_sota_patch.plugin.seal import Seal, seal_in_force
from rdagent_sota_patch.plugin.sealed_run import seal_run, stages_of
from rdagent_sota_patch.plugin.template import read_template
from rdagent_sota_patch.sealing.sealed_folder import SealedData
from rdagent_sota_patch.settings import Settings

DAY = date(2020, 3, 2)


@pytest.fixture
def in_force(tmp_path: Path) -> Seal:
    """A seal, without anything of RD-Agent's changed."""
    copy = tmp_path / "sealed" / "2020-03-02-key"
    data = SealedData(copy, copy / "qlib", {Path("/q"): copy / "qlib" / "q"}, {Path("/d"): copy / "d"}, ())
    return Seal(DAY, data, wall=True)


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


def test_a_release_whose_programs_cannot_be_walled_in_is_refused(in_force: Seal) -> None:
    """With a next step, as where its containers cannot be led."""

    class Environment:
        def __init__(self, conf: object) -> None: ...

    with pytest.raises(SotaError, match="LocalEnv has no _run") as walled:
        sealed_run._wall_in(Environment, "wall")
    with pytest.raises(SotaError, match="no default configuration") as led:
        sealed_run._change_volumes(Environment, in_force)
    assert (walled.value.slug, led.value.slug) == ("host-changed", "host-changed")


def test_a_seal_that_could_not_be_put_on_is_not_in_force(
    rdagent: Path, in_force: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second try in this process would take it for done."""

    def fail(_: Seal) -> None:
        raise HostError("host-changed", "no such method")

    monkeypatch.setattr(sealed_run, "find_seal_problems", lambda *_: ())
    monkeypatch.setattr(sealed_run, "_make_seal", lambda *_: in_force)
    monkeypatch.setattr(sealed_run, "_lead_to", fail)
    for _ in range(2):
        with pytest.raises(HostError):
            seal_run(("factor",), Settings(sota_seal_from=DAY))
    assert seal_in_force() is None


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
    monkeypatch.setattr(sealed_run, "own_log", lambda: tmp_path / log)
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
