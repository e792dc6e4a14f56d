"""What RD-Agent needs to run at all, looked at before a run begins: a back-test's environment, a model to ask, data."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import HostError, Problem
from rdagent_sota_patch.plugin.traits import traits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.host_source import HostSource

_MODEL_CONF = "components/coder/model_coder/conf.py"
_ENV_TYPE = "MODEL_COSTEER_ENV_TYPE"
_CHAT_MODEL = "CHAT_MODEL"
_KEYLESS = (
    "ollama/",
    "ollama_chat/",
    "lm_studio/",
    "hosted_vllm/",
    "llamafile/",
    "github_copilot/",
    "bedrock/",
)
"""Providers of LiteLLM that need no key in the environment."""
_CREDENTIALS = (
    "API_KEY",
    "API_BASE",
    "AUTH_TOKEN",
    "TOKEN_PROVIDER",
    "ACCESS_KEY",
    "USE_LLAMA2",
    "USE_GCR_ENDPOINT",
)
"""In a variable's name: RD-Agent has some way to a model, which only asking it could judge."""


def find_missing(host: HostSource, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """What is not there that RD-Agent needs for its Qlib scenarios; nothing is started to find out.

    What cannot be told from the host's source is not looked at.

    Args:
        host: The RD-Agent that will run.
        environ: The variables that it will be started with.
    """
    given = {name.upper(): value for name, value in environ.items() if value}
    kind = given.get(_ENV_TYPE) or _default_environment(host)
    problems = [*_missing_program(kind, given), *_missing_key(given)]
    if kind == "conda":
        # In docker, RD-Agent downloads the data itself.
        problems += _missing_data(host, given)
    return tuple(problems)


def _default_environment(host: HostSource) -> str | None:
    """What ``env_type`` is where nothing sets it (``ModelCoSTEERSettings``)."""
    for node in ast.walk(host.parse(_MODEL_CONF)):
        match node:
            case ast.AnnAssign(target=ast.Name(id="env_type"), value=ast.Constant(value=str() as default)):
                return default
    return None


def _missing_program(kind: str | None, given: Mapping[str, str]) -> Iterator[Problem]:
    if kind in ("conda", "docker") and shutil.which(kind, path=given.get("PATH")) is None:
        other = "docker" if kind == "conda" else "conda"
        yield Problem(
            "environment-missing",
            f"RD-Agent back-tests in {kind}, and there is no program {kind} on the PATH.",
            f"Install {kind}, or set MODEL_CoSTEER_ENV_TYPE={other}.",
        )


def _missing_key(given: Mapping[str, str]) -> Iterator[Problem]:
    model = given.get(_CHAT_MODEL, "")
    if model.startswith(_KEYLESS) or any(part in name for name in given for part in _CREDENTIALS):
        return
    yield Problem(
        "llm-key-missing",
        f"No API key is set, and {model or 'the chat model that RD-Agent takes by default'} needs one.",
        "Set CHAT_MODEL and the key of its provider, such as OPENAI_API_KEY, in the environment or in .env.",
    )


def _missing_data(host: HostSource, given: Mapping[str, str]) -> Iterator[Problem]:
    try:
        template = traits_of(host).template
        uri, region = template.scalar("provider_uri"), template.scalar("region") or "cn"
    except HostError:
        return
    folder = _folder(uri, given)
    if folder is not None and not (folder / "calendars" / "day.txt").is_file():
        yield Problem(
            "qlib-data-missing",
            f"RD-Agent back-tests on Qlib's data in {folder}, which has no calendars/day.txt.",
            f"Download them: python -m qlib.run.get_data qlib_data --target_dir {folder} --region {region}",
        )


def _folder(uri: str | None, given: Mapping[str, str]) -> Path | None:
    if uri is None:
        return None
    home = given.get("HOME")
    return Path(home, uri[2:]) if uri.startswith("~/") and home else Path(uri).expanduser()
