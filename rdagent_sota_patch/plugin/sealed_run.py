"""`SOTA_SEAL_FROM`: before a run's loop is made, everything of this RD-Agent is led to data that end before that day.

The loop's scenario describes the data folder to the LLM when the loop is made, so that this comes before it. What is
changed, all of it in this process: the folders of factor data, the folders of caches and workspaces, the template's
``provider_uri``, the folder that a container gets as ``~/.qlib``, and how programs are started (`sealing.wall`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import HostError, Problem, SettingsError, SotaError, SourceError, TableError
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.plugin.template import EDGES, Variable, read_template
from rdagent_sota_patch.sealing.seal_record import ROW, SealRecord, read_seal, write_seal
from rdagent_sota_patch.sealing.wall import can_wall, wall_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.factor_table.table import FactorTable
    from rdagent_sota_patch.sealing.sealed_folder import SealedData
    from rdagent_sota_patch.settings import Settings

SEAL = "SOTA_SEAL_FROM"
_CONFIG = "rdagent.app.qlib_rd_loop.conf"
_STAGES = {
    "FactorRDLoop": ("factor",),
    "ModelRDLoop": ("model",),
    "QuantRDLoop": ("factor", "model", "quant"),
}
_DATA_FOLDERS = ("data_folder", "data_folder_debug")
_IN_CONTAINER = "/root/.qlib"
TABLE_STORE = "sota_tables"
"""Where tables that were made here are kept, beside RD-Agent's workspaces."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The seal in force in this process.

    Attributes:
        day: The first day that is nowhere.
        wall: Whether the programs of the run cannot reach the originals.
    """

    day: date
    data: SealedData
    wall: bool

    @property
    def folders(self) -> dict[Path, Path]:
        """Each original with its copy."""
        return {**self.data.providers, **self.data.data_folders}


class _InForce:
    seal: Seal | None = None


def seal_in_force() -> Seal | None:
    """The seal of this process; None where nothing is sealed."""
    return _InForce.seal


def sealed_place(provider: Path) -> Path:
    """The sealed copy of a Qlib provider folder, where one is in force; else the folder itself."""
    seal = seal_in_force()
    return provider if seal is None else seal.data.providers.get(provider.resolve(), provider)


def seal_run(stages: tuple[str, ...], settings: Settings) -> None:
    """Lead this process, and all that it starts, to data without the days from ``SOTA_SEAL_FROM`` on; once.

    Args:
        stages: What the run does: ``factor``, ``model``, ``quant``.

    Raises:
        SotaError: A segment reaches into the sealed days, data that cannot be sealed, or no wall under ``SOTA_STRICT``.
    """
    day = settings.sota_seal_from
    if day is None:
        return
    present = seal_in_force()
    if present is not None:
        if present.day != day:
            raise SettingsError(
                "seal-changed",
                f"This process is sealed from {present.day} on, and {SEAL} is now {day}.",
                "Start the run in a process of its own.",
            )
        return
    from rdagent.log import rdagent_logger as logger

    if problems := find_seal_problems(stages, settings):
        if settings.sota_strict or any(problem.slug != "seal-without-wall" for problem in problems):
            raise SotaError.of(problems)
        for problem in problems:
            logger.warning(str(problem))
    seal = _make_seal(stages, day)
    _InForce.seal = seal
    _lead_to(seal)
    for notice in seal.data.notices:
        logger.warning(f"[seal-left-out] {notice}")
    logger.info(
        f"Sealed: no day from {day} on is in this run's data. Sealed copies: {seal.data.folder}"
        f"{'' if seal.wall else ' (programs of the run could still open the originals)'}"
    )


def stages_of(loop_class: type) -> tuple[str, ...]:
    """What a loop of RD-Agent's does; empty for one of another scenario."""
    # By name: run as a script, the class lives in __main__.
    return next((_STAGES[cls.__name__] for cls in loop_class.__mro__ if cls.__name__ in _STAGES), ())


def find_seal_problems(stages: tuple[str, ...], settings: Settings) -> tuple[Problem, ...]:
    """What keeps a run from being sealed; looked at without copying anything."""
    day = settings.sota_seal_from
    assert day is not None
    problems: list[Problem] = []
    providers = _providers(stages)
    for provider in providers:
        try:
            latest = _latest_test_end(provider, day)
        except SotaError as error:
            problems += error.problems
            continue
        problems += _reaching(stages, day, latest)
    for name, folder in _original_data_folders().items():
        if not folder.is_dir():
            problems.append(
                Problem(
                    "seal-no-data",
                    f"{folder}, RD-Agent's {name}, is not there, so that there is nothing to seal.",
                    "RD-Agent makes it in its first run without a seal; or set FACTOR_CoSTEER_DATA_FOLDER and "
                    "FACTOR_CoSTEER_DATA_FOLDER_DEBUG.",
                )
            )
    if not can_wall():
        problems.append(
            Problem(
                "seal-without-wall",
                "This system lets no program have mounts of its own, so that code which opens the original data by "
                "its whole path would find the sealed days there.",
                "Run on Linux where users may make namespaces (`unshare -Urm true`), or set SOTA_STRICT=false to do "
                "without: the data that RD-Agent hands out are sealed anyway.",
            )
        )
    return tuple(dict.fromkeys(problems))


def record_seal(log: Path, *, resumed: bool) -> None:
    """Write the seal in force into a run's log; hold a resumed run to the seal that it began with.

    Raises:
        SourceError: ``seal-changed``.
        SotaError: ``cannot-write``, ``seal-record-unreadable``.
    """
    seal, begun = seal_in_force(), read_seal(log)
    day = None if seal is None else seal.day
    was = None if begun is None else begun.sealed_from
    if day != was and (begun is not None or resumed):
        raise SourceError(
            "seal-changed",
            f"The run of {log} was begun {f'sealed from {was} on' if was else 'without a seal'}, and would go on "
            f"{f'sealed from {day} on' if day else 'without one'}.",
            f"Set {SEAL}={was}, or start a new run." if was else f"Unset {SEAL}, or start a new run.",
        )
    if seal is not None and begun is None:
        record = SealRecord(
            sealed_from=seal.day,
            key=seal.data.key,
            folders={str(source): str(copy) for source, copy in seal.folders.items()},
            wall=seal.wall,
            notices=seal.data.notices,
            example_rows=tuple(_example_rows(seal.day)),
            written_at=datetime.now(timezone.utc),
        )
        write_seal(log, record)


def _example_rows(day: date) -> Iterator[str]:
    """Rows of tables with sealed days in RD-Agent's own prompts, which show the LLM the form of a factor's values."""
    for file in sorted((find_host().folder / "scenarios" / "qlib").rglob("*.yaml")):
        for row in ROW.finditer(file.read_text(encoding="utf-8", errors="replace")):
            if row[1] >= str(day):
                yield row[0].strip()


def announce_seal(day: date) -> Problem:
    """What `doctor` says of a seal."""
    return Problem(
        "seal-in-force",
        f"Days from {day} on are sealed: a run sees copies of Qlib's and the factors' data that end before.",
        "docs/evidence.md tells what a seal covers, and how the days are opened.",
    )


def require_sealed_source(source: Source, table: FactorTable | None, day: date) -> None:
    """Refuse SOTA factors that were chosen with sealed days in view.

    A table is not cut: its factors would still be those that did well on these days.

    Args:
        source: Where they come from.
        table: Their table; None where it is gone and will be rebuilt, on sealed data.
        day: The first sealed day.

    Raises:
        TableError: ``seal-table-reaches``.
    """
    hint = f"Run the factor stage with {SEAL}={day} as well, and name its log."
    if table is not None and table.end >= day:
        raise TableError(
            "seal-table-reaches",
            f"The SOTA factors of {source.path} have days up to {table.end}; this run is sealed from {day} on. They "
            "were chosen with these days in view.",
            hint,
        )
    if source.table is None and source.session is not None:
        record = read_seal(source.session.log)
        if record is None or record.sealed_from > day:
            raise TableError(
                "seal-table-reaches",
                f"The table of {source.path} is gone, and its log does not say that the run was sealed from {day} on: "
                "its factors may have been chosen with sealed days in view.",
                hint,
            )


def _templates(stages: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Stage and file of each of RD-Agent's templates for these stages."""
    folder = find_host().folder / "scenarios/qlib/experiment"
    for stage in stages:
        for file in sorted((folder / f"{stage}_template").glob("*.yaml")):
            yield stage, file


def _providers(stages: tuple[str, ...]) -> list[Path]:
    """The Qlib provider folders that the templates name."""
    found = []
    for _, file in _templates(stages):
        uri = read_template(file.read_text(encoding="utf-8"), file.name).scalar("provider_uri")
        if not isinstance(uri, str) or not uri:
            raise HostError(
                "host-changed",
                f"{file} names no provider_uri, so that it is not known which data a back-test with it would use.",
                f"Write the folder into it, or unset {SEAL}.",
            )
        found.append(Path(uri).expanduser().resolve())
    return list(dict.fromkeys(found))


def _original_data_folders() -> dict[str, Path]:
    from rdagent.components.coder.factor_coder.config import FACTOR_COSTEER_SETTINGS as FACTOR

    return {name: Path(getattr(FACTOR, name)).expanduser().resolve() for name in _DATA_FOLDERS}


def _latest_test_end(provider: Path, day: date) -> date:
    """The last day on which a back-test on the sealed data may end: Qlib's executor looks one trading day past it."""
    try:
        lines = (provider / "calendars" / "day.txt").read_text(encoding="utf-8").split()
        before = sorted(each for line in lines if (each := date.fromisoformat(line[:10])) < day)
    except (OSError, ValueError) as error:
        raise SotaError(
            "seal-no-data",
            f"Qlib's calendar in {provider} cannot be read: {error}.",
            "Download Qlib's data first; RD-Agent would download them whole.",
        ) from error
    if len(before) < 2:
        raise SotaError(
            "seal-no-data",
            f"Qlib's data in {provider} have no two trading days before {day}.",
            f"Set {SEAL} to a later day.",
        )
    return before[-2]


def _reaching(stages: tuple[str, ...], day: date, latest: date) -> Iterator[Problem]:
    """The dates of the stages' settings and templates that are in the sealed part, or too near to it."""
    for stage in stages:
        settings = _dates_of(stage)
        for edge in EDGES:
            if edge in settings:
                name = f"QLIB_{stage.upper()}_{edge.upper()}"
                yield from _judge(settings[edge], edge, (day, latest), name, stage)
    for stage, file in _templates(stages):
        settings = _dates_of(stage)
        for edge, given in read_template(file.read_text(encoding="utf-8"), file.name).dates().items():
            if isinstance(given, Variable) and given.name in settings:
                continue
            text = given if isinstance(given, str) else given.default
            yield from _judge(text, edge, (day, latest), str(file), stage)


def _dates_of(stage: str) -> Mapping[str, Any]:
    """A stage's settings that are dates, by field name; empty where its release has none."""
    __import__(_CONFIG)
    settings = getattr(sys.modules[_CONFIG], f"{stage.title()}BasePropSetting")()
    return {name: value for name, value in settings.model_dump().items() if name in EDGES}


def _judge(given: object, edge: str, bounds: tuple[date, date], where: str, stage: str) -> Iterator[Problem]:
    """Whether a date is before the seal; the test segment's end also before the last day that is left.

    Args:
        bounds: The first sealed day, and the last on which a back-test may end.
        where: The setting or the file that has the date.
    """
    day, latest = bounds
    segment, _, end = edge.partition("_")
    text = "" if given is None else str(given).strip()
    change = f"Set {where} to" if where.startswith("QLIB_") else f"Write into {where}"
    what = f"The {segment} segment of fin_{stage} {'ends' if end == 'end' else 'starts'}"
    hint = f"{change} {latest} or an earlier day; or set {SEAL} to a later one."
    if text in ("", "null", "None", "~"):
        if edge == "test_end":
            yield Problem(
                "seal-segment-reaches",
                f"{what} where the data end ({where} gives no day), and Qlib's back-test looks one trading day past "
                "its end.",
                hint,
            )
        return
    try:
        on = datetime.fromisoformat(text).date()
    except ValueError:
        yield Problem("bad-setting", f"{where}: {text!r} is not a date.", "Write it like 2020-01-31.")
        return
    if on >= day:
        yield Problem(
            "seal-segment-reaches", f"{what} on {on}, which is sealed: {SEAL} is {day} ({where}).", hint
        )
    elif edge == "test_end" and on > latest:
        yield Problem(
            "seal-segment-reaches",
            f"{what} on {on}, and no later trading day is left before {day} ({where}): Qlib's back-test looks one "
            "trading day past its end.",
            hint,
        )


def _make_seal(stages: tuple[str, ...], day: date) -> Seal:
    from rdagent.core.conf import RD_AGENT_SETTINGS

    from rdagent_sota_patch.sealing.sealed_folder import make_sealed

    home = Path("~/.qlib").expanduser().resolve()
    store = Path(RD_AGENT_SETTINGS.workspace_path).resolve().parent / "sota_sealed"
    data = make_sealed(store, day, _providers(stages), list(_original_data_folders().values()), home)
    return Seal(day, data, can_wall())


def _lead_to(seal: Seal) -> None:
    """Change what this process knows of folders and of starting programs."""
    from rdagent.components.coder.CoSTEER.config import CoSTEER_SETTINGS
    from rdagent.components.coder.factor_coder.config import FACTOR_COSTEER_SETTINGS as FACTOR
    from rdagent.core.conf import RD_AGENT_SETTINGS
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace
    from rdagent.utils.env import LocalEnv, QTDockerEnv

    caches, workspaces = (
        Path(folder).resolve()
        for folder in (RD_AGENT_SETTINGS.pickle_cache_folder_path_str, RD_AGENT_SETTINGS.workspace_path)
    )
    originals = _original_data_folders()
    for name, folder in originals.items():
        _set(FACTOR, name, str(seal.data.data_folders[folder]), f"FACTOR_CoSTEER_{name.upper()}")
    # RD-Agent's keys name no data: what an unsealed run computed would be taken for this one's.
    own_caches = caches / f"sealed-{seal.data.key}"
    _set(RD_AGENT_SETTINGS, "pickle_cache_folder_path_str", str(own_caches), "PICKLE_CACHE_FOLDER_PATH_STR")
    own_workspaces = workspaces / f"sealed-{seal.day}"
    own_workspaces.mkdir(parents=True, exist_ok=True)
    _set(RD_AGENT_SETTINGS, "workspace_path", own_workspaces, "WORKSPACE_PATH")
    # What coders learned from sealed days, and would tell the LLM.
    for settings, prefix in ((FACTOR, "FACTOR_CoSTEER"), (CoSTEER_SETTINGS, "CoSTEER")):
        for name in ("knowledge_base_path", "new_knowledge_base_path"):
            if given := getattr(settings, name, None):
                path = Path(given)
                own = path.with_name(f"{path.stem}.sealed-{seal.day}{path.suffix}")
                _set(settings, name, str(own), f"{prefix}_{name.upper()}")
    _edit_templates(QlibFBWorkspace, seal)
    _change_volumes(QTDockerEnv, seal)
    if seal.wall:
        command = wall_command(_write_covers(seal, caches, workspaces, own_workspaces))
        FACTOR.python_bin = f"{command} {FACTOR.python_bin}"
        _wall_in(LocalEnv, command)


def _set(settings: Any, name: str, value: object, variable: str) -> None:
    """Change a setting of RD-Agent's, here and for a process that reads it again."""
    setattr(settings, name, value)
    for other in [other for other in os.environ if other.upper() == variable.upper()]:
        del os.environ[other]
    os.environ[variable] = str(value)


def _edit_templates(workspace_class: Any, seal: Seal) -> None:
    from rdagent.components.coder.model_coder.conf import MODEL_COSTEER_SETTINGS

    execute = workspace_class.execute

    def execute_sealed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if MODEL_COSTEER_SETTINGS.env_type != "docker":
            for file in Path(self.workspace_path).glob("*.yaml"):
                text = file.read_text(encoding="utf-8")
                edited = _with_sealed_provider(text, file, seal)
                if edited != text:
                    write_text_atomically(file, edited, durable=False)
        return execute(self, *args, **kwargs)

    workspace_class.execute = execute_sealed


def _with_sealed_provider(text: str, file: Path, seal: Seal) -> str:
    template = read_template(text, file.name)
    uri = template.scalar("provider_uri")
    if not isinstance(uri, str):
        return text
    place = Path(uri).expanduser().resolve()
    if place in seal.data.providers.values():
        return text
    copy = seal.data.providers.get(place)
    if copy is None:
        raise HostError(
            "seal-other-data",
            f"{file} would be back-tested on {uri}, which is not among the data that were sealed.",
            "Start a new run; if the template was changed, with the new one in place.",
        )
    return template.with_scalar("provider_uri", json.dumps(str(copy)))


def _change_volumes(environment: Any, seal: Seal) -> None:
    """What a container gets as ``~/.qlib``: the default configuration of its class is one object for all."""
    conf: Any = next(iter(environment.__init__.__defaults__ or ()), None)
    if not isinstance(getattr(conf, "extra_volumes", None), dict):
        raise HostError(
            "host-changed",
            "RD-Agent's QTDockerEnv has no default configuration with extra_volumes, so that a container's data could "
            "not be sealed.",
            f"Unset {SEAL}, or use a release of RD-Agent.",
        )
    others = {
        source: where
        for source, where in conf.extra_volumes.items()
        if str(where["bind"] if isinstance(where, dict) else where).rstrip("/") != _IN_CONTAINER
    }
    # First, since RD-Agent takes the first for Qlib's.
    conf.extra_volumes = {
        str(seal.data.qlib_home): {"bind": f"{_IN_CONTAINER}/", "mode": "ro"},
        **others,
    }


def _wall_in(environment: Any, command: str) -> None:
    import shlex

    run = environment._run

    def run_walled_in(self: Any, entry: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return run(
            self, f"{command} /bin/sh -c {shlex.quote(entry or self.conf.default_entry)}", *args, **kwargs
        )

    environment._run = run_walled_in


def _write_covers(seal: Seal, caches: Path, workspaces: Path, own_workspaces: Path) -> Path:
    """Which folders are covered by which, for `sealing.wall`.

    Besides the originals: logs, caches, made tables and workspaces of runs without this seal, and copies with another.
    """
    # It asks this module for the seal.
    from rdagent_sota_patch.plugin.host import own_log

    folder, store = seal.data.folder, seal.data.folder.parent
    covers = [(copy, original) for original, copy in seal.folders.items()]
    private = folder.parent / f".covers-{seal.data.key}"
    places = (Path.cwd(), Path.home(), Path(sys.prefix), Path(tempfile.gettempdir()))
    needed = [*(place.resolve() for place in places), *seal.folders]
    others = [(caches, None), (own_log().parent.resolve(), None), (store.parent / TABLE_STORE, None)]
    for whole, kept in (*others, (workspaces, own_workspaces), (store, folder)):
        empty = private / whole.name
        (empty / kept.name if kept else empty).mkdir(parents=True, exist_ok=True)
        # A folder that holds more than its name says is left as it is.
        own = () if kept is not None else (own_workspaces, folder)
        if whole.is_dir() and not any(path.is_relative_to(whole) for path in (*needed, *own)):
            covers.append((empty, whole))
            if kept is not None:
                covers.append((kept, kept))
    path = folder.parent / f"{seal.data.key}.covers.json"
    write_text_atomically(path, json.dumps([[str(source), str(target)] for source, target in covers]))
    return path
