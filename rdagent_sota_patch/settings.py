"""The user's settings, read once from the environment and ``.env`` into a frozen object.

RD-Agent's command line loads ``.env`` from the current folder; which of the two wins there wins here
(`rdagent_sota_patch.environment`). What a run has fixed for its child processes comes before both.
"""

from __future__ import annotations

import os
from datetime import date
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, SettingsConfigDict

from rdagent_sota_patch.alpha_switch import ALPHA, alpha_reading, alpha_text, unset_alpha
from rdagent_sota_patch.environment import file_wins, fixed_settings
from rdagent_sota_patch.errors import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_settings import PydanticBaseSettingsSource

DEFAULT_FACTOR_FILE = Path("sota_factors.parquet")

LARGEST_EMBEDDED_MB = 256
"""A session may hold a factor's and a model's weights, and is read up to 1,024 MB."""

MOST_SEEDS = 50
"""More trainings than that of each model are a mistyped number."""

_ALIKE = 0.88
"""How like a setting's name a variable's must be to be taken for it misspelt (`difflib`): a letter or two."""

_TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE = frozenset({"0", "false", "no", "off", "f", "n", ""})


def parse_switch(value: object) -> bool:
    """Read a switch: true/1/yes/on or false/0/no/off in any case; empty is off.

    Raises:
        ValueError: The value is neither.
    """
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{value!r} is not a switch: use true or false")


def _parse_path(value: object) -> Path | None:
    text = str(value).strip() if value is not None else ""
    return Path(text).expanduser() if text else None


def _parse_day(value: object) -> date | None:
    text = str(value).strip() if value is not None else ""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise ValueError(f"{text!r} is not a day: write it like 2020-01-31") from None


def _parse_seeds(value: object) -> int | None:
    text = str(value).strip().lower() if value is not None else ""
    if text in _FALSE:
        return None
    if text.isdecimal() and 2 <= int(text) <= MOST_SEEDS:
        return int(text)
    raise ValueError(f"{value!r} is not a number of seeds: use 2 to {MOST_SEEDS}, or 0 for none")


def _split_paths(value: object) -> object:
    if isinstance(value, str):
        return tuple(Path(part).expanduser() for part in value.split(os.pathsep) if part.strip())
    return value


Switch = Annotated[bool, BeforeValidator(parse_switch)]
OptionalSeeds = Annotated[int | None, BeforeValidator(_parse_seeds)]
OptionalPath = Annotated[Path | None, BeforeValidator(_parse_path)]
OptionalDay = Annotated[date | None, BeforeValidator(_parse_day)]


class SourceKind(str, Enum):
    """Where SOTA factors come from, in order of priority."""

    LOG = "log"
    WORKSPACE = "workspace"
    FILE = "file"


class Settings(BaseSettings):
    """The settings table of the README; field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, case_sensitive=False
    )

    load_sota_from_log: Switch = False
    sota_log_path: OptionalPath = None
    load_sota_from_workspace: Switch = False
    sota_workspace_path: OptionalPath = None
    load_sota_factors: Switch = False
    sota_factors_path: OptionalPath = None
    save_sota_factors: Switch = False
    use_alpha_factors: Switch = Field(default_factory=unset_alpha)
    sota_strict: Switch = True
    sota_require_causal: Switch = False
    sota_embed_weights_mb: Annotated[float, Field(ge=0, le=LARGEST_EMBEDDED_MB)] = 16.0
    sota_inherit_trace: Switch = False
    sota_accept_seeds: OptionalSeeds = None
    sota_seal_from: OptionalDay = None
    sota_workspace_root: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split_paths)] = ()
    rdagent_sota_disable: Switch = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, what the run has fixed, then environment and ``.env`` in RD-Agent's own order."""
        fixed = InitSettingsSource(settings_cls, fixed_settings(os.environ))
        last = (dotenv_settings, env_settings) if file_wins() else (env_settings, dotenv_settings)
        return init_settings, fixed, *last

    @property
    def source(self) -> SourceKind | None:
        """The one source in force: the first that is switched on, log before workspace before file."""
        if self.load_sota_from_log:
            return SourceKind.LOG
        if self.load_sota_from_workspace:
            return SourceKind.WORKSPACE
        if self.load_sota_factors:
            return SourceKind.FILE
        return None

    @property
    def factor_file(self) -> Path:
        """The factor file that ``LOAD_SOTA_FACTORS`` reads and ``SAVE_SOTA_FACTORS`` writes."""
        return self.sota_factors_path or DEFAULT_FACTOR_FILE

    def missing_paths(self) -> tuple[Problem, ...]:
        """The path that the source in force needs and does not have."""
        if self.source is SourceKind.LOG and self.sota_log_path is None:
            return (
                Problem(
                    "switch-without-path",
                    "LOAD_SOTA_FROM_LOG is on but SOTA_LOG_PATH is not set.",
                    "Set SOTA_LOG_PATH to a run's log folder, or to 'latest'.",
                ),
            )
        if self.source is SourceKind.WORKSPACE and self.sota_workspace_path is None:
            return (
                Problem(
                    "switch-without-path",
                    "LOAD_SOTA_FROM_WORKSPACE is on but SOTA_WORKSPACE_PATH is not set.",
                    "Set SOTA_WORKSPACE_PATH to a workspace that holds combined_factors_df.parquet.",
                ),
            )
        return ()

    def unsupported(self) -> tuple[Problem, ...]:
        """What is switched on and cannot be done; going on without it would be silent."""
        problems = []
        if self.sota_inherit_trace and self.source in (SourceKind.WORKSPACE, SourceKind.FILE):
            problems.append(
                Problem(
                    "inherit-without-log",
                    f"SOTA_INHERIT_TRACE is on, but a {self.source.value} has no history.",
                    "Name the factor stage's log (LOAD_SOTA_FROM_LOG), or unset SOTA_INHERIT_TRACE.",
                )
            )
        reading = alpha_reading()
        if self._alpha_is_unset and reading is not None and reading.takes(None) is None:
            problems.append(
                Problem(
                    "alpha-unclear",
                    f"{ALPHA} is not set. This RD-Agent's own code reads it ({reading.place}), in a way that does not "
                    "tell what it then means there.",
                    f"Set {ALPHA} to true or to false.",
                )
            )
        return tuple(problems)

    @property
    def _alpha_is_unset(self) -> bool:
        return "use_alpha_factors" not in self.model_fields_set

    def notices(self) -> tuple[Problem, ...]:
        """What is set and has no effect; worth saying once, never an error."""
        return tuple(self._notices())

    def _notices(self) -> Iterable[Problem]:
        pairs = (
            ("SOTA_LOG_PATH", self.sota_log_path, "LOAD_SOTA_FROM_LOG", self.load_sota_from_log),
            (
                "SOTA_WORKSPACE_PATH",
                self.sota_workspace_path,
                "LOAD_SOTA_FROM_WORKSPACE",
                self.load_sota_from_workspace,
            ),
            (
                "SOTA_FACTORS_PATH",
                self.sota_factors_path,
                "LOAD_SOTA_FACTORS or SAVE_SOTA_FACTORS",
                self.load_sota_factors or self.save_sota_factors,
            ),
        )
        for path_name, path, switch_name, switched_on in pairs:
            if path is not None and not switched_on:
                yield Problem(
                    "path-without-switch",
                    f"{path_name} is set to {path} but {switch_name} is off, so it has no effect.",
                    f"Set {switch_name.split(' or ', maxsplit=1)[0]}=true to use it.",
                )
        switched = [
            name
            for name, on in (
                ("LOAD_SOTA_FROM_LOG", self.load_sota_from_log),
                ("LOAD_SOTA_FROM_WORKSPACE", self.load_sota_from_workspace),
                ("LOAD_SOTA_FACTORS", self.load_sota_factors),
            )
            if on
        ]
        if len(switched) > 1:
            yield Problem(
                "several-sources",
                f"{' and '.join(switched)} are all on; {switched[0]} comes first and is the one used.",
                f"Switch off {' and '.join(switched[1:])} to silence this.",
            )
        if self.source is None and self.sota_inherit_trace:
            yield Problem(
                "inherit-without-log",
                "SOTA_INHERIT_TRACE is on but LOAD_SOTA_FROM_LOG is not, so it has no effect.",
                "Set LOAD_SOTA_FROM_LOG and SOTA_LOG_PATH to inherit that run's history.",
            )
        if self.source is None and self.sota_require_causal:
            yield Problem(
                "causal-without-source",
                "SOTA_REQUIRE_CAUSAL is on but no LOAD_SOTA_* is, so it has no effect.",
                "Name the SOTA factors that a model stage is to use, or unset it.",
            )
        if self.source is None and self.use_alpha_factors and alpha_reading() is None:
            yield Problem(
                "alpha-without-source",
                "USE_ALPHA_FACTORS is on but no LOAD_SOTA_* is, so it has no effect.",
                "RD-Agent without SOTA factors uses its Alpha features anyway.",
            )
        if self.source is not None:
            yield from self._alpha_notices()
        yield from _misspelt()

    def _alpha_notices(self) -> Iterable[Problem]:
        """What RD-Agent's own reading of ``USE_ALPHA_FACTORS`` does to this run."""
        reading = alpha_reading()
        if reading is None:
            return
        state = "on" if self.use_alpha_factors else "off"
        if self._alpha_is_unset:
            if self.use_alpha_factors:
                yield Problem(
                    "alpha-from-host",
                    f"{ALPHA} is not set. This RD-Agent's own code ({reading.place}) takes that for on, and so does "
                    "the plugin: the Alpha features are layered beside the SOTA factors.",
                    f"Set {ALPHA}=false for SOTA factors alone.",
                )
            return
        text = alpha_text()
        if reading.takes(text) is (not self.use_alpha_factors):
            given = "is not set in upper case" if text is None else f"is {text!r}"
            yield Problem(
                "alpha-spelling",
                f"{ALPHA} {given}, which means {state} here and is read otherwise by RD-Agent's own code "
                f"({reading.place}). It is {state} for this run: the plugin gives that code "
                f"{reading.spelling(self.use_alpha_factors)!r}.",
                f"Write {ALPHA}={reading.spelling(self.use_alpha_factors)}, which both read alike.",
            )


def _misspelt() -> Iterable[Problem]:
    """Variables that no setting is called like, and nearly: a run would go on without what was meant."""
    known = [name.upper() for name in Settings.model_fields]
    for name in sorted(name for name in os.environ if name.upper() not in known):
        for meant in get_close_matches(name.upper(), known, n=1, cutoff=_ALIKE):
            yield Problem(
                "unknown-setting",
                f"{name} is set, and no setting is called so: it has no effect. {meant} is one.",
                f"Write {meant}, in the environment or in .env, if that was meant.",
            )


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; keyword arguments take precedence over the environment and ``.env``.

    Raises:
        SettingsError: One or more values cannot be read; reports all of them, and a path that is missing.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = [
            Problem(
                "bad-setting",
                f"{str(detail['loc'][0]).upper()}: {detail['msg'].removeprefix('Value error, ')}",
                "Correct it in the environment or in .env.",
            )
            for detail in error.errors()
        ]
        defaults = {
            name: Settings.model_fields[name].get_default(call_default_factory=True)
            for name in (str(detail["loc"][0]) for detail in error.errors())
        }
    problems.extend(Settings(**{**overrides, **defaults}).missing_paths())
    raise SettingsError.of(problems)
