"""What keeps a run from being sealed: segments that reach into the sealed days, data that are not there, no wall."""

from __future__ import annotations

from datetime import date, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import HostError, Problem, SotaError
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.plugin.seal import SEAL
from rdagent_sota_patch.plugin.template import EDGES, Variable, read_template
from rdagent_sota_patch.sealing.wall import can_wall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.settings import Settings

_CONFIG = "rdagent.app.qlib_rd_loop.conf"
_DATA_FOLDERS = ("data_folder", "data_folder_debug")


def find_seal_problems(stages: tuple[str, ...], settings: Settings) -> tuple[Problem, ...]:
    """What keeps a run from being sealed; looked at without copying anything."""
    day = settings.sota_seal_from
    assert day is not None
    problems: list[Problem] = []
    providers = provider_folders(stages)
    for provider in providers:
        try:
            latest = _latest_test_end(provider, day)
        except SotaError as error:
            problems += error.problems
            continue
        problems += _reaching(stages, day, latest)
    for name, folder in original_data_folders().items():
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


def announce_seal(day: date) -> Problem:
    """What `doctor` says of a seal."""
    return Problem(
        "seal-in-force",
        f"Days from {day} on are sealed: a run sees copies of Qlib's and the factors' data that end before.",
        "docs/evidence.md tells what a seal covers, and how the days are opened.",
    )


def _templates(stages: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Stage and file of each of RD-Agent's templates for these stages."""
    folder = find_host().folder / "scenarios/qlib/experiment"
    for stage in stages:
        for file in sorted((folder / f"{stage}_template").glob("*.yaml")):
            yield stage, file


def provider_folders(stages: tuple[str, ...]) -> list[Path]:
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


def original_data_folders() -> dict[str, Path]:
    """RD-Agent's folders of factor data, by the name of the setting."""
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
    settings = getattr(import_module(_CONFIG), f"{stage.title()}BasePropSetting")()
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
