"""How a checkout's own code reads ``USE_ALPHA_FACTORS``, found in written sources."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch import alpha_switch
from rdagent_sota_patch.alpha_switch import ALPHA, find_alpha_reading, settle_alpha, unset_alpha
from rdagent_sota_patch.host_source import HostSource

RUNNER = "scenarios/qlib/developer/model_runner.py"


def host_with(folder: Path, source: str, file: str = RUNNER) -> HostSource:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.replace("\n", "\r\n").encode())
    return HostSource(folder)


def test_a_release_does_not_read_it(tmp_path: Path) -> None:
    """Where no code names the variable, it is this package's alone."""
    assert find_alpha_reading(host_with(tmp_path, "import os\n")) is None


@pytest.mark.parametrize(
    ("source", "unset", "on", "off"),
    [
        ('use = os.getenv("USE_ALPHA_FACTORS", "true") == "true"', True, ["true"], ["True", "1", "false"]),
        (
            'use = os.environ.get("USE_ALPHA_FACTORS", "false").lower() in ("1", "true")',
            False,
            ["TRUE", "1"],
            ["yes"],
        ),
        ('if os.getenv("USE_ALPHA_FACTORS") == "1":\n    pass', False, ["1"], ["true", "0"]),
        ('if os.getenv("USE_ALPHA_FACTORS"):\n    pass', False, ["no"], [""]),
        ('if os.getenv("USE_ALPHA_FACTORS", "yes") != "yes":\n    skip()', True, ["yes"], ["true", "no"]),
        ('if not os.getenv("USE_ALPHA_FACTORS", "on").strip() == "on":\n    skip()', True, ["on "], ["off"]),
        ('text = getenv("USE_ALPHA_FACTORS", "true")\nuse = text.lower() == "true"', True, ["True"], ["1"]),
        ('use = (os.getenv("USE_ALPHA_FACTORS") or "1") not in ("0", "false")', True, ["true", "x"], ["0"]),
        ('use = parse(os.getenv("USE_ALPHA_FACTORS", "true"))', None, [], []),
        ('use = os.environ["USE_ALPHA_FACTORS"] == "true"', None, ["true"], ["1"]),
    ],
)
def test_default_and_spellings(
    source: str, unset: bool | None, on: list[str], off: list[str], tmp_path: Path
) -> None:
    """Unset means the default there, and each text what the comparison makes of it; the rest cannot be told."""
    reading = find_alpha_reading(host_with(tmp_path, f"import os\n{source}\n"))
    assert reading is not None
    assert reading.place == f"{RUNNER}:2"
    assert reading.takes(None) is unset
    assert [reading.takes(text) for text in on] == [True] * len(on)
    assert [reading.takes(text) for text in off] == [False] * len(off)


def test_a_spelling_for_all_who_read_it(tmp_path: Path) -> None:
    """Two places that spell it differently are both told the same, and the model runner's is the one that is named."""
    host_with(tmp_path, 'a = getenv("USE_ALPHA_FACTORS") in ("1", "true")\n', "app/qlib_rd_loop/conf.py")
    reading = find_alpha_reading(host_with(tmp_path, 'b = getenv("USE_ALPHA_FACTORS", "1") == "1"\n'))
    assert reading is not None
    assert reading.place == f"{RUNNER}:1"
    assert (reading.spelling(True), reading.spelling(False)) == ("1", "false")


def test_the_run_is_told_one_thing(
    tmp_path: Path, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this package reads as on is put into the environment as that code spells it; other hosts see no change."""
    monkeypatch.setenv(ALPHA, "True")
    mocker.patch.object(alpha_switch, "find_host_if_any", return_value=None)
    settle_alpha(True)
    assert os.environ[ALPHA] == "True" and unset_alpha() is False
    host = host_with(tmp_path, 'use = os.getenv("USE_ALPHA_FACTORS", "true") == "true"\n')
    mocker.patch.object(alpha_switch, "find_host_if_any", return_value=host)
    assert unset_alpha() is True
    settle_alpha(True)
    assert os.environ[ALPHA] == "true"
    settle_alpha(False)
    assert os.environ[ALPHA] == "false"
