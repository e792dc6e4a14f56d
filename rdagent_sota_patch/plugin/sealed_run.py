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
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import HostError, SettingsError, SotaError
from rdagent_sota_patch.plugin.own_log import own_log
from rdagent_sota_patch.plugin.seal import SEAL, TABLE_STORE, Seal, put_in_force, seal_in_force
from rdagent_sota_patch.plugin.seal_check import find_seal_problems, original_data_folders, provider_folders
from rdagent_sota_patch.plugin.template import read_template
from rdagent_sota_patch.sealing.wall import can_wall, wall_command

if TYPE_CHECKING:
    from rdagent_sota_patch.settings import Settings

_STAGES = {
    "FactorRDLoop": ("factor",),
    "ModelRDLoop": ("model",),
    "QuantRDLoop": ("factor", "model", "quant"),
}
_IN_CONTAINER = "/root/.qlib"


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
    _lead_to(seal)
    put_in_force(seal)
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


def _make_seal(stages: tuple[str, ...], day: date) -> Seal:
    from rdagent.core.conf import RD_AGENT_SETTINGS

    from rdagent_sota_patch.sealing.sealed_folder import make_sealed

    home = Path("~/.qlib").expanduser().resolve()
    store = Path(RD_AGENT_SETTINGS.workspace_path).resolve().parent / "sota_sealed"
    data = make_sealed(store, day, provider_folders(stages), list(original_data_folders().values()), home)
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
    originals = original_data_folders()
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

    run = getattr(environment, "_run", None)
    if run is None:
        raise HostError(
            "host-changed",
            "RD-Agent's LocalEnv has no _run, so that programs could not be kept from the sealed days.",
            f"Unset {SEAL}, or use a release of RD-Agent.",
        )

    def run_walled_in(self: Any, entry: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return run(
            self, f"{command} /bin/sh -c {shlex.quote(entry or self.conf.default_entry)}", *args, **kwargs
        )

    environment._run = run_walled_in


def _write_covers(seal: Seal, caches: Path, workspaces: Path, own_workspaces: Path) -> Path:
    """Which folders are covered by which, for `sealing.wall`.

    Besides the originals: logs, caches, made tables and workspaces of runs without this seal, and copies with another.
    """
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
