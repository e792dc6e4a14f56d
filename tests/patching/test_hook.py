"""What a patched module calls on its last line."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from rdagent_sota_patch._startup import LOOP_MODULE, attach_after_load
from rdagent_sota_patch.patching import hook

NAME = "a_module_of_this_test"


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """The modules that were attached to; a module of this name is loaded."""
    seen: list[ModuleType] = []
    monkeypatch.setattr(hook, "attach_after_load", seen.append)
    monkeypatch.setitem(sys.modules, NAME, ModuleType(NAME))
    monkeypatch.delenv("RDAGENT_SOTA_DISABLE", raising=False)
    return seen


def test_it_attaches_as_the_startup_hook_does(attached: list[ModuleType]) -> None:
    """The calling module goes to the one function that holds the policy for errors."""
    hook.attach_patched(NAME)
    assert attached == [sys.modules[NAME]]


@pytest.mark.parametrize("value", ["1", "TRUE", "yes"])
def test_kill_switch(attached: list[ModuleType], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """RDAGENT_SOTA_DISABLE keeps the plugin out of a patched source, too."""
    monkeypatch.setenv("RDAGENT_SOTA_DISABLE", value)
    hook.attach_patched(NAME)
    assert attached == []


def test_an_error_in_attaching_is_treated_as_the_startup_hook_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and RD-Agent goes on: a module that the plugin has no part for is such an error."""
    monkeypatch.setitem(sys.modules, NAME, ModuleType(NAME))
    monkeypatch.delenv("RDAGENT_SOTA_DISABLE", raising=False)
    hook.attach_patched(NAME)
    assert capsys.readouterr().err.startswith(f"rdagent-sota-patch: not attached to {NAME}: HostError(")


@pytest.mark.parametrize("patch_first", [True, False])
def test_hook_and_patch_attach_once(monkeypatch: pytest.MonkeyPatch, patch_first: bool) -> None:
    """Whichever comes first, the loop's methods are wrapped once."""

    class RDLoop:
        def run(self) -> None: ...

        def dump(self) -> None: ...

    module = ModuleType(LOOP_MODULE)
    vars(module)["RDLoop"] = RDLoop
    monkeypatch.setitem(sys.modules, LOOP_MODULE, module)
    monkeypatch.delenv("RDAGENT_SOTA_DISABLE", raising=False)
    run, dump = RDLoop.run, RDLoop.dump
    steps = [lambda: hook.attach_patched(LOOP_MODULE), lambda: attach_after_load(module)]
    for step in steps if patch_first else reversed(steps):
        step()
    assert (vars(RDLoop.run)["__wrapped__"], vars(RDLoop.dump)["__wrapped__"]) == (run, dump)
