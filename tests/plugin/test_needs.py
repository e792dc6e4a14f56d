"""What is told before a run where RD-Agent could not work at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_patch.host_source import MODEL_TEMPLATE, HostSource
from rdagent_sota_patch.plugin.needs import find_missing

_CONF = "components/coder/model_coder/conf.py"


@pytest.fixture
def host(tmp_path: Path) -> HostSource:
    folder = tmp_path / "rdagent"
    for file, text in (
        (_CONF, 'class ModelCoSTEERSettings:\n    env_type: str = "conda"\n'),
        (
            MODEL_TEMPLATE,
            'qlib_init:\n    provider_uri: "~/.qlib/qlib_data/cn_data" # where it is\n    region: cn\n',
        ),
    ):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return HostSource(folder)


@pytest.fixture
def furnished(tmp_path: Path) -> dict[str, str]:
    """An environment with all that is needed, with docker beside conda."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    for name in ("conda", "docker"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    calendar = home / ".qlib/qlib_data/cn_data/calendars/day.txt"
    calendar.parent.mkdir(parents=True)
    calendar.write_text("2020-01-02\n")
    return {"PATH": str(programs), "HOME": str(home), "OPENAI_API_KEY": "sk-1"}


def slugs(host: HostSource, environ: dict[str, str]) -> list[str]:
    return [problem.slug for problem in find_missing(host, environ)]


def test_nothing_is_said_where_all_is_there(host: HostSource, furnished: dict[str, str]) -> None:
    assert slugs(host, furnished) == []


def test_everything_is_said_at_once(host: HostSource, tmp_path: Path) -> None:
    problems = find_missing(host, {"PATH": str(tmp_path), "HOME": str(tmp_path / "nobody")})
    assert [problem.slug for problem in problems] == [
        "environment-missing",
        "llm-key-missing",
        "qlib-data-missing",
    ]
    assert "in conda" in problems[0].message
    assert str(tmp_path / "nobody" / ".qlib/qlib_data/cn_data") in problems[2].message
    assert all(problem.hint for problem in problems)


@pytest.mark.parametrize("name", ["MODEL_CoSTEER_ENV_TYPE", "MODEL_COSTEER_ENV_TYPE"])
def test_docker_needs_no_data_of_its_own(
    host: HostSource, furnished: dict[str, str], tmp_path: Path, name: str
) -> None:
    """RD-Agent downloads them then."""
    chosen = {**furnished, name: "docker", "HOME": str(tmp_path / "nobody")}
    assert slugs(host, chosen) == []
    assert slugs(host, {**chosen, "PATH": str(tmp_path)}) == ["environment-missing"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"OPENAI_API_KEY": ""}, ["llm-key-missing"]),
        ({"OPENAI_API_KEY": "", "CHAT_MODEL": "ollama/qwen3"}, []),
        ({"OPENAI_API_KEY": "", "DEEPSEEK_API_KEY": "x", "CHAT_MODEL": "deepseek/deepseek-chat"}, []),
    ],
)
def test_a_key(
    host: HostSource, furnished: dict[str, str], more: dict[str, str], expected: list[str]
) -> None:
    assert slugs(host, {**furnished, **more}) == expected


def test_what_cannot_be_told_is_not_said(tmp_path: Path, furnished: dict[str, str]) -> None:
    """A fork may choose environment and data in a way of its own."""
    assert slugs(HostSource(tmp_path / "empty"), {**furnished, "PATH": ""}) == []
