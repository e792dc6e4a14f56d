"""The start-up hook: silent, light, harmless when broken, and off by one variable."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from rdagent_sota_patch import _startup
from rdagent_sota_patch._startup import LOOP_MODULE, RUNNER_MODULE, AttachFinder, attach_after_load
from rdagent_sota_patch.errors import HostError

PROJECT = Path(__file__).resolve().parents[2]
HOOK = PROJECT / "patches" / "startup.pth.in"

# What Python itself loads to run the hook; everything else would be paid for by every program.
LIGHT = {
    "__future__",
    "importlib",
    "importlib._bootstrap",
    "importlib._bootstrap_external",
    "importlib.machinery",
    "rdagent_sota_patch",
    "rdagent_sota_patch._startup",
    "warnings",
}
COUNT_FINDERS = "import sys; print(str(sys.meta_path).count('AttachFinder'))"
SWITCHES = ("LOAD_SOTA_FROM_LOG", "LOAD_SOTA_FROM_WORKSPACE", "LOAD_SOTA_FACTORS", "SOTA_STRICT")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SWITCHES, "RDAGENT_SOTA_DISABLE"):
        monkeypatch.delenv(name, raising=False)


def start_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, *arguments],
        # Not the project's folder, whose package `python -c` would find before any other.
        cwd=HOOK.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def start_with_site(folder: Path, code: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Start Python with ``folder`` as its only site-packages."""
    return start_python(
        "-S", "-c", f"import site, sys; site.addsitedir({str(folder)!r})\n{code}", **variables
    )


def make_site(folder: Path, startup: str | None) -> Path:
    """A site-packages with the hook, and behind it a package whose ``_startup`` is the given text."""
    (folder / "rdagent_sota_patch.pth").write_bytes(HOOK.read_bytes())
    if startup is not None:
        package = folder / "rdagent_sota_patch"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "_startup.py").write_text(startup, encoding="utf-8")
    return folder


def test_hook_is_one_line_that_starts_with_import() -> None:
    """Python runs only the lines of a .pth file that begin with import; the rest it takes for paths."""
    (line,) = HOOK.read_text(encoding="utf-8").splitlines()
    assert line.startswith("import ")


def test_installed_hook_is_the_one_in_the_repository() -> None:
    """The environment runs what can be read here, not what an older installation left."""
    installed = Path(sysconfig.get_path("purelib"), "rdagent_sota_patch.pth")
    assert installed.read_bytes() == HOOK.read_bytes()


def test_a_python_start_prints_nothing_and_has_the_finder() -> None:
    """Any program of this environment starts as before, with one finder more."""
    done = start_python("-c", COUNT_FINDERS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_python_start_loads_nothing_heavy() -> None:
    """Beside the package's two files, the hook loads what Python's import system consists of."""
    code = f"""
import os, sys  # Python's own site loads os before any hook
before = set(sys.modules)
sys.path.append({str(PROJECT)!r})
exec({HOOK.read_text(encoding="utf-8")!r})
print(*(set(sys.modules) - before))
"""
    done = start_python("-S", "-c", code)
    assert done.stderr == ""
    loaded = set(done.stdout.split())
    assert {"rdagent_sota_patch", "rdagent_sota_patch._startup"} <= loaded <= LIGHT


@pytest.mark.parametrize(
    ("startup", "cause"),
    [
        (None, "No module named 'rdagent_sota_patch'"),
        ("raise RuntimeError('broken')", "broken"),
        ("def install(:", "invalid syntax"),
        ("import module_that_is_not_there", "module_that_is_not_there"),
    ],
    ids=["package gone", "raises", "does not parse", "import fails"],
)
def test_a_broken_package_costs_one_line(tmp_path: Path, startup: str | None, cause: str) -> None:
    """Python starts and ends well whatever is wrong behind the hook, and says so once."""
    done = start_with_site(make_site(tmp_path, startup), "print('still here')")
    assert (done.returncode, done.stdout) == (0, "still here\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("rdagent-sota-patch: start-up hook not loaded: ")
    assert cause in line


@pytest.mark.parametrize(
    ("value", "finders"), [("1", 0), ("TRUE", 0), ("yes", 0), ("0", 1), ("off", 1), ("", 1)]
)
def test_kill_switch_keeps_the_finder_out(value: str, finders: int) -> None:
    """RDAGENT_SOTA_DISABLE is read as the other switches are, in any case."""
    done = start_python("-c", COUNT_FINDERS, RDAGENT_SOTA_DISABLE=value)
    assert (done.stdout, done.stderr) == (f"{finders}\n", "")


def test_installing_twice_adds_one_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second site-packages with the hook, as in nested environments, changes nothing."""
    monkeypatch.setattr(sys, "meta_path", [])
    _startup.install()
    _startup.install()
    assert sys.meta_path == [AttachFinder]


def test_only_the_watched_modules_are_looked_for(tmp_path: Path) -> None:
    """Every other import goes past the finder, also one of the same last name."""
    (tmp_path / "rd_loop.py").touch()
    assert AttachFinder.find_spec("other.rd_loop", [str(tmp_path)]) is None
    assert AttachFinder.find_spec(LOOP_MODULE, [str(tmp_path / "elsewhere")]) is None


def test_a_watched_module_is_attached_once_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attaching comes after the module's own code, and its loader stays Python's."""
    attached = []
    monkeypatch.setattr(_startup, "attach_after_load", lambda module: attached.append(module.VALUE))
    (tmp_path / "rd_loop.py").write_text("VALUE = 'loaded'\n", encoding="utf-8")
    spec = AttachFinder.find_spec(LOOP_MODULE, [str(tmp_path)])
    assert spec is not None and spec.loader is not None
    assert type(spec.loader).__name__ == "SourceFileLoader"
    module = importlib.util.module_from_spec(spec)
    assert attached == []
    spec.loader.exec_module(module)
    assert attached == ["loaded"]


def test_kill_switch_works_after_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env that RD-Agent reads after Python started can still switch the plugin off."""
    (tmp_path / "rd_loop.py").touch()
    assert AttachFinder.find_spec(LOOP_MODULE, [str(tmp_path)]) is not None
    monkeypatch.setenv("RDAGENT_SOTA_DISABLE", "true")
    assert AttachFinder.find_spec(LOOP_MODULE, [str(tmp_path)]) is None


@pytest.fixture
def failing_attach(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: ModuleType) -> None:
        raise ValueError("does not fit")

    monkeypatch.setattr("rdagent_sota_patch.plugin.attach.attach", fail)


@pytest.mark.usefixtures("failing_attach")
@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (RUNNER_MODULE, {}),
        (RUNNER_MODULE, {"LOAD_SOTA_FROM_LOG": "false"}),
        (RUNNER_MODULE, {"LOAD_SOTA_FROM_LOG": "true", "SOTA_STRICT": "False"}),
        (LOOP_MODULE, {"LOAD_SOTA_FROM_LOG": "true"}),
    ],
    ids=["nothing asked", "switched off", "not strict", "loop"],
)
def test_an_error_in_attaching_leaves_rdagent_as_it_is(
    module: str,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One warning line, and RD-Agent goes on as without the plugin."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    attach_after_load(ModuleType(module))
    assert capsys.readouterr().err == (
        f"rdagent-sota-patch: not attached to {module}: ValueError('does not fit')\n"
    )


@pytest.mark.usefixtures("failing_attach")
@pytest.mark.parametrize("switch", ["LOAD_SOTA_FROM_LOG", "LOAD_SOTA_FROM_WORKSPACE", "LOAD_SOTA_FACTORS"])
def test_an_error_in_attaching_stops_a_run_that_asked_for_sota_factors(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on would train for hours on other features."""
    monkeypatch.setenv(switch, "Yes")
    with pytest.raises(ValueError, match="does not fit"):
        attach_after_load(ModuleType(RUNNER_MODULE))


def test_the_runner_is_not_attached_to_without_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner on SOTA factors without the check before the run would be half a plugin."""
    packages = {name: ModuleType(name) for name in _prefixes(LOOP_MODULE)}
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    workflow = packages[LOOP_MODULE.rpartition(".")[0]]
    monkeypatch.setattr(workflow, "rd_loop", packages[LOOP_MODULE], raising=False)
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "true")
    with pytest.raises(HostError, match="host-changed"):
        attach_after_load(ModuleType(RUNNER_MODULE))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
