"""What attaches the plugin, and which runner it would have to feed, told from the source alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rdagent_sota_patch._startup import AttachFinder
from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.host_source import HostSource, find_host
from rdagent_sota_patch.patching.source import apply_patch, inspect_source
from rdagent_sota_patch.plugin import activation
from rdagent_sota_patch.plugin.activation import (
    RUNNER,
    find_activation,
    runner_notices,
    runner_problems,
)
from tests.patching.released import LOOP, write_source
from tests.patching.released import RUNNER as RUNNER_FILE


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RDAGENT_SOTA_DISABLE", raising=False)
    monkeypatch.setattr(sys, "meta_path", [AttachFinder, *_without_hook()])


@pytest.fixture
def unhooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RDAGENT_SOTA_DISABLE", raising=False)
    monkeypatch.setattr(sys, "meta_path", _without_hook())


def _without_hook() -> list[object]:
    return [finder for finder in sys.meta_path if finder is not AttachFinder]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up RD-Agent that this Python would import; its root."""
    write_source(tmp_path)
    monkeypatch.setattr(activation, "find_host", lambda: HostSource(tmp_path / "rdagent", ""))
    return tmp_path


@pytest.mark.usefixtures("hooked")
def test_by_hook(host: Path) -> None:
    """The start-up hook is enough, also beside a patch that is in one file only."""
    assert find_activation() == "start-up hook"
    content = (host / LOOP).read_bytes()
    apply_patch(inspect_source(host))
    assert find_activation() == "start-up hook and source patch"
    (host / LOOP).write_bytes(content)
    assert find_activation() == "start-up hook"


@pytest.mark.usefixtures("unhooked")
def test_by_patch(host: Path) -> None:
    """Without the hook, a source that is patched in both files is enough; in one it is not."""
    with pytest.raises(HostError, match=r"not-active.*is not patched"):
        find_activation()
    content = (host / RUNNER_FILE).read_bytes()
    apply_patch(inspect_source(host))
    assert find_activation() == "source patch"
    (host / RUNNER_FILE).write_bytes(content)
    with pytest.raises(HostError, match="patch-half-applied"):
        find_activation()


@pytest.mark.usefixtures("hooked")
def test_switched_off(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill switch keeps both out."""
    apply_patch(inspect_source(host))
    monkeypatch.setenv("RDAGENT_SOTA_DISABLE", "yes")
    with pytest.raises(HostError, match=r"not-active.*RDAGENT_SOTA_DISABLE is on"):
        find_activation()


RUNNERS = f"""
from rdagent.core.developer import Developer
from {RUNNER.rpartition(".")[0]} import QlibModelRunner as Base
from somewhere import Mixin
import elsewhere

class Other(Developer[int]): ...
class Mine(Base): ...
class Deeper(Mixin, Mine): ...
class Foreign(Mixin): ...
class Dotted(elsewhere.Base): ...
"""


@pytest.fixture
def fork(tmp_path: Path) -> HostSource:
    """A source with runners of its own, and a configuration that names one of them."""
    for name, text in {
        "core/developer.py": "from abc import ABC\nfrom typing import Generic\nclass Developer(ABC, Generic): ...\n",
        "mine/__init__.py": "from rdagent.mine.runners import Other as Exported\n",
        "mine/runners.py": RUNNERS,
        "app/qlib_rd_loop/conf.py": (
            'class ModelBasePropSetting:\n    runner: str = "rdagent.mine.runners.Other"\n'
            f'class QuantBasePropSetting:\n    model_runner: str = "{RUNNER}"\n'
        ),
    }.items():
        (tmp_path / "rdagent" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rdagent" / name).write_text(text, encoding="utf-8")
    return HostSource(tmp_path / "rdagent", "")


@pytest.mark.parametrize(
    ("runner", "problem", "notice"),
    [
        (RUNNER, False, False),
        ("rdagent.mine.runners.Mine", False, True),
        ("rdagent.mine.runners.Deeper", False, True),
        ("rdagent.mine.runners.Other", True, False),
        ("rdagent.mine.Exported", True, False),
        ("rdagent.mine.runners.Foreign", False, True),
        ("rdagent.mine.runners.Dotted", False, True),
        ("rdagent.mine.runners.Missing", False, True),
        ("my_own.Runner", False, True),
    ],
)
def test_runner_is_judged_by_its_source(fork: HostSource, runner: str, problem: bool, notice: bool) -> None:
    """Only a runner that is seen not to derive from RD-Agent's is a problem; what cannot be seen is a notice."""
    variables = {"QLIB_MODEL_RUNNER": runner}
    assert [one.slug for one in runner_problems(fork, variables)] == ["runner-without-sota"] * problem
    notices = list(runner_notices(fork, variables))
    assert [one.slug for one in notices] == ["own-runner"] * notice
    assert all(runner in one.message for one in notices)


def test_a_forks_default_runner_is_judged(fork: HostSource) -> None:
    """A fork whose configuration resolves to another class needs no variable; the file is named."""
    (problem,) = runner_problems(fork, {})
    assert "app/qlib_rd_loop/conf.py names rdagent.mine.runners.Other for fin_model" in problem.message


def test_fin_quant_is_a_notice(fork: HostSource) -> None:
    """What only `fin_quant` would stop at does not make `doctor` say that a model stage fails."""
    variables = {"QLIB_MODEL_RUNNER": RUNNER, "QLIB_QUANT_MODEL_RUNNER": "rdagent.mine.runners.Other"}
    assert list(runner_problems(fork, variables)) == []
    (notice,) = runner_notices(fork, variables)
    assert "for fin_quant" in notice.message and "does not derive" in notice.message


def test_the_installed_release_is_fed() -> None:
    """RD-Agent as it is has nothing to tell."""
    pytest.importorskip("rdagent")
    assert [*runner_problems(find_host(), {}), *runner_notices(find_host(), {})] == []
