"""Settings: one frozen object from the environment and ``.env``, all that is wrong reported at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from rdagent_sota_patch import alpha_switch, environment
from rdagent_sota_patch.errors import SettingsError
from rdagent_sota_patch.host_source import HostSource
from rdagent_sota_patch.settings import Settings, SourceKind, load_settings, parse_switch


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's own gets in."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", ["true", "1", "yes", "on", "TRUE", "Yes", "oN", " true "])
def test_switch_on(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every documented spelling of "on" works, in any case."""
    monkeypatch.setenv("USE_ALPHA_FACTORS", text)
    assert load_settings().use_alpha_factors is True


@pytest.mark.parametrize("text", ["false", "0", "no", "off", "", "False"])
def test_switch_off(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every spelling of "off" works, the empty one included."""
    monkeypatch.setenv("SOTA_STRICT", text)
    assert load_settings().sota_strict is False


@given(st.text(max_size=8))
def test_any_other_text_is_no_switch(text: str) -> None:
    """A switch is read as on or off, or refused; it never means something by accident."""
    known = {"true", "1", "yes", "on", "t", "y", "false", "0", "no", "off", "f", "n", ""}
    if text.strip().lower() in known:
        assert parse_switch(text) in (True, False)
    else:
        with pytest.raises(ValueError, match="not a switch"):
            parse_switch(text)


def test_all_problems_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bad values and a missing path are reported together."""
    monkeypatch.setenv("SOTA_STRICT", "maybe")
    monkeypatch.setenv("SOTA_EMBED_WEIGHTS_MB", "-1")
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "true")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [problem.slug for problem in caught.value.problems] == [
        "bad-setting",
        "bad-setting",
        "switch-without-path",
    ]
    assert "SOTA_STRICT" in str(caught.value) and "SOTA_EMBED_WEIGHTS_MB" in str(caught.value)


def test_environment_beats_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``.env`` is read, and the environment wins, as in RD-Agent itself."""
    (tmp_path / ".env").write_text("SOTA_LOG_PATH=from-file\nUSE_ALPHA_FACTORS=yes\n", encoding="utf-8")
    monkeypatch.setenv("SOTA_LOG_PATH", "from-environment")
    settings = load_settings()
    assert (settings.sota_log_path, settings.use_alpha_factors) == (Path("from-environment"), True)


def test_log_before_workspace_before_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first source switched on is the one, and the others are named in a notice."""
    monkeypatch.setenv("LOAD_SOTA_FACTORS", "1")
    assert load_settings().source is SourceKind.FILE
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "1")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", "w")
    assert load_settings().source is SourceKind.WORKSPACE
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "1")
    monkeypatch.setenv("SOTA_LOG_PATH", "latest")
    settings = load_settings()
    assert settings.source is SourceKind.LOG
    assert [notice.slug for notice in settings.notices()] == ["several-sources"]


def test_missing_path_of_the_source_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch without its path is a problem; a lower source's missing path is none."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "1")
    assert [problem.slug for problem in load_settings().missing_paths()] == ["switch-without-path"]
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "1")
    monkeypatch.setenv("SOTA_LOG_PATH", "latest")
    assert load_settings().missing_paths() == ()


def test_path_without_switch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path whose switch is off does nothing, and a notice says so."""
    monkeypatch.setenv("SOTA_LOG_PATH", "latest")
    settings = load_settings()
    assert settings.source is None
    assert [notice.slug for notice in settings.notices()] == ["path-without-switch"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SOTA_LOGPATH", "SOTA_LOG_PATH"),
        ("LOAD_SOTA_FROM_LOGS", "LOAD_SOTA_FROM_LOG"),
        ("load_sota_from_logs", "LOAD_SOTA_FROM_LOG"),
        ("LOAD_SOTA_FACTOR", "LOAD_SOTA_FACTORS"),
        ("USE_ALPHA_FACTOR", "USE_ALPHA_FACTORS"),
        ("SOTA_STRICKT", "SOTA_STRICT"),
    ],
)
def test_a_misspelt_setting_is_said(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    """It has no effect, and a run without SOTA factors is not what was meant."""
    monkeypatch.setenv(name, "true")
    (notice,) = load_settings().notices()
    assert notice.slug == "unknown-setting"
    assert notice.message.startswith(f"{name} is set")
    assert meant in notice.message


def test_other_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other programs, and of RD-Agent."""
    for name in (
        "SOTA_URL",
        "LOG_PATH",
        "LOG_TRACE_PATH",
        "WORKSPACE_PATH",
        "FACTORS_PATH",
        "USE_ALPHA",
        "SOTA",
    ):
        monkeypatch.setenv(name, "x")
    assert load_settings().notices() == ()


def test_alpha_without_source_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """USE_ALPHA_FACTORS alone has no effect, and a notice says so."""
    monkeypatch.setenv("USE_ALPHA_FACTORS", "1")
    assert [notice.slug for notice in load_settings().notices()] == ["alpha-without-source"]


def test_nothing_set_says_nothing() -> None:
    """Without any setting there is no source, no notice, no problem."""
    settings = load_settings()
    assert (settings.source, settings.notices(), settings.missing_paths(), settings.unsupported()) == (
        None,
        (),
        (),
        (),
    )


def test_several_workspace_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots are separated as PATH is, and may hold spaces."""
    monkeypatch.setenv("SOTA_WORKSPACE_ROOT", os.pathsep.join(["/a b", "", "~/c"]))
    assert load_settings().sota_workspace_root == (Path("/a b"), Path("~/c").expanduser())


def test_causal_factors_need_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """SOTA_REQUIRE_CAUSAL is about the SOTA factors: without any it has no effect, and that is said."""
    monkeypatch.setenv("SOTA_REQUIRE_CAUSAL", "true")
    assert [notice.slug for notice in load_settings().notices()] == ["causal-without-source"]
    monkeypatch.setenv("LOAD_SOTA_FACTORS", "true")
    settings = load_settings()
    assert (settings.sota_require_causal, settings.notices(), settings.unsupported()) == (True, (), ())


@pytest.mark.parametrize(("text", "megabytes"), [("0", 0.0), ("0.5", 0.5), ("256", 256.0)])
def test_weights_limit_is_read(text: str, megabytes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOTA_EMBED_WEIGHTS_MB is a number of megabytes, and setting it is nothing worth a notice."""
    monkeypatch.setenv("SOTA_EMBED_WEIGHTS_MB", text)
    settings = load_settings()
    assert (settings.sota_embed_weights_mb, settings.notices()) == (megabytes, ())


@pytest.mark.parametrize("text", ["-1", "257", "inf", "nan", "many"])
def test_unusable_weights_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not a size, or more than a session that can be read back has room for, is an error."""
    monkeypatch.setenv("SOTA_EMBED_WEIGHTS_MB", text)
    with pytest.raises(SettingsError, match="SOTA_EMBED_WEIGHTS_MB"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "seeds"), [("5", 5), (" 2 ", 2), ("50", 50), ("", None), ("0", None), ("Off", None)]
)
def test_seeds_are_read(text: str, seeds: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOTA_ACCEPT_SEEDS is a number of trainings, and off where it says no."""
    monkeypatch.setenv("SOTA_ACCEPT_SEEDS", text)
    assert load_settings().sota_accept_seeds == seeds


@pytest.mark.parametrize("text", ["1", "51", "-3", "2.5", "true", "five"])
def test_unusable_seeds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed has no noise, and a number that cannot be meant is an error, not a guess."""
    monkeypatch.setenv("SOTA_ACCEPT_SEEDS", text)
    with pytest.raises(SettingsError, match=r"SOTA_ACCEPT_SEEDS: .* is not a number of seeds"):
        load_settings()


@pytest.mark.parametrize(
    ("switch", "unsupported", "noticed"),
    [
        ("LOAD_SOTA_FROM_LOG", [], []),
        ("LOAD_SOTA_FROM_WORKSPACE", ["inherit-without-log"], []),
        ("LOAD_SOTA_FACTORS", ["inherit-without-log"], []),
        (None, [], ["inherit-without-log"]),
    ],
)
def test_history_needs_a_log(
    switch: str | None, unsupported: list[str], noticed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a log has a history to inherit: an error with another source, a notice with none."""
    monkeypatch.setenv("SOTA_INHERIT_TRACE", "true")
    if switch:
        monkeypatch.setenv(switch, "true")
    settings = load_settings()
    assert [problem.slug for problem in settings.unsupported()] == unsupported
    assert [problem.slug for problem in settings.notices()] == noticed


def checkout(folder: Path, command_line: str = "", runner: str = "") -> HostSource:
    """A source of RD-Agent with what matters to the settings."""
    for file, text in (
        ("app/cli.py", command_line),
        ("scenarios/qlib/developer/model_runner.py", runner),
    ):
        path = folder / "checkout" / "rdagent" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return HostSource(folder / "checkout" / "rdagent")


OVERRIDES = 'load_dotenv(".env", override=True)\n'
READS = 'use = os.getenv("USE_ALPHA_FACTORS", "true") == "true"\n'


@pytest.fixture
def be_host(mocker: MockerFixture) -> Callable[[HostSource | None], None]:
    """Have another RD-Agent be the one of this Python; the environment is as before afterwards."""
    mocker.patch.dict(os.environ)

    def be(host: HostSource | None) -> None:
        for module in (environment, alpha_switch):
            mocker.patch.object(module, "find_host_if_any", return_value=host)

    return be


@pytest.mark.parametrize(
    ("command_line", "alpha"),
    [
        ('load_dotenv(".env")\n', False),
        ('load_dotenv(".env", override=False)\n', False),
        (OVERRIDES, True),
        ('dotenv.load_dotenv(".env", None, False, True)\n', True),
    ],
)
def test_the_file_wins_where_it_wins_in_rdagent(
    command_line: str,
    alpha: bool,
    be_host: Callable[[HostSource | None], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command line that loads `.env` with override has the file's value be the one in force."""
    Path(".env").write_text("USE_ALPHA_FACTORS=true\nSOTA_STRICT=off\n", encoding="utf-8")
    monkeypatch.setenv("USE_ALPHA_FACTORS", "false")
    be_host(checkout(tmp_path, command_line))
    assert load_settings().use_alpha_factors is alpha
    assert load_settings().sota_strict is False
    (difference,) = environment.find_differences()
    assert (difference.name, difference.environment, difference.file) == (
        "USE_ALPHA_FACTORS",
        "false",
        "true",
    )
    assert difference.file_wins is alpha
    assert environment.load_env_file() == (difference,)
    assert os.environ["USE_ALPHA_FACTORS"] == ("true" if alpha else "false")
    assert load_settings().use_alpha_factors is alpha


def test_a_command_that_overrides(
    be_host: Callable[[HostSource | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules of the commands are imported by the command line, so that what they load counts as well."""
    host = checkout(tmp_path, 'load_dotenv(".env")\n')
    (host.folder / "app" / "qlib_rd_loop").mkdir()
    (host.folder / "app" / "qlib_rd_loop" / "model.py").write_text(OVERRIDES, encoding="utf-8")
    be_host(host)
    assert environment.file_wins() is True


def test_what_a_run_fixed_stays(
    be_host: Callable[[HostSource | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither environment nor file change what a run decided for its child processes."""
    Path(".env").write_text("SOTA_LOG_PATH=latest\n", encoding="utf-8")
    monkeypatch.setenv("SOTA_LOG_PATH", "elsewhere")
    be_host(checkout(tmp_path, OVERRIDES))
    variables: dict[str, str] = {}
    environment.fix_settings(variables, sota_log_path="here", load_sota_from_log=True)
    environment.fix_settings(variables, sota_log_path="there")
    monkeypatch.setenv(environment.FIXED, variables[environment.FIXED])
    settings = load_settings()
    assert (settings.sota_log_path, settings.load_sota_from_log) == (Path("there"), True)
    monkeypatch.setenv(environment.FIXED, "[")
    with pytest.raises(SettingsError, match="RDAGENT_SOTA_SETTINGS"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "used", "slugs", "given"),
    [
        (None, True, ["alpha-from-host"], "true"),
        ("true", True, [], "true"),
        ("True", True, ["alpha-spelling"], "true"),
        ("1", True, ["alpha-spelling"], "true"),
        ("false", False, [], "false"),
        ("off", False, [], "false"),
    ],
)
def test_rdagent_reads_the_switch_itself(
    text: str | None,
    used: bool,
    slugs: list[str],
    given: str,
    be_host: Callable[[HostSource | None], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unset means what it means there; what that code would read otherwise is told, and told to that code."""
    be_host(checkout(tmp_path, runner=READS))
    monkeypatch.setenv("LOAD_SOTA_FACTORS", "true")
    if text is not None:
        monkeypatch.setenv("USE_ALPHA_FACTORS", text)
    settings = load_settings()
    assert settings.use_alpha_factors is used
    assert [notice.slug for notice in settings.notices()] == slugs
    assert settings.unsupported() == ()
    monkeypatch.setenv("USE_ALPHA_FACTORS", text or "")
    alpha_switch.settle_alpha(settings.use_alpha_factors)
    assert os.environ["USE_ALPHA_FACTORS"] == given


def test_a_reading_that_cannot_be_told(
    be_host: Callable[[HostSource | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that is not understood is an error where the switch is not set, and none where it is."""
    be_host(checkout(tmp_path, runner='use = parse(os.getenv("USE_ALPHA_FACTORS"))\n'))
    monkeypatch.setenv("LOAD_SOTA_FACTORS", "true")
    (problem,) = load_settings().unsupported()
    assert problem.slug == "alpha-unclear" and "model_runner.py:1" in problem.message
    monkeypatch.setenv("USE_ALPHA_FACTORS", "true")
    assert load_settings().unsupported() == ()


def test_without_a_source_nothing_is_said(
    be_host: Callable[[HostSource | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no LOAD_SOTA_* on, the switch is RD-Agent's own business."""
    be_host(checkout(tmp_path, runner=READS))
    monkeypatch.setenv("USE_ALPHA_FACTORS", "True")
    assert load_settings().notices() == ()
