"""Which features Qlib loaded for a model, from its pickled data loaders and its task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.bundle.documents import AlphaFeature
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe, thaw_plain

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOADERS = "qlib.data.dataset.loader"
_NESTED = (_LOADERS, "NestedDataLoader")
_TABLE = (_LOADERS, "StaticDataLoader")
_EXPRESSIONS = frozenset(
    {
        (_LOADERS, "QlibDataLoader"),
        ("qlib.contrib.data.loader", "Alpha158DL"),
        ("qlib.contrib.data.loader", "Alpha360DL"),
    }
)
_GROUPS = frozenset({"feature", "label"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """What Qlib loaded.

    Attributes:
        alpha: Features by Qlib expression, in the loader's order.
        label: Column to Qlib expression.
        table: The factor table's path relative to the workspace; None for Alpha alone.
        table_last: Whether the table's factors replace Alpha features of the same name, or are replaced by them.
        sorts: Whether Qlib sorted all columns by name afterwards (``NestedDataLoader.load``).
    """

    alpha: tuple[AlphaFeature, ...]
    label: dict[str, str]
    table: PurePosixPath | None
    table_last: bool
    sorts: bool


def thaw_loaders(handler: Inert, kwargs: Mapping[str, Any]) -> Loaded:
    """What a handler loads.

    Args:
        handler: The pickled handler.
        kwargs: The handler's ``kwargs`` in the task, which alone have the table's path.

    Raises:
        Unthawable: A loader is unknown, or has options that nothing here knows, such as a filter.
    """
    loader = handler.attributes.get("data_loader")
    if not isinstance(loader, Inert) or loader.origin != _NESTED:
        alpha, label = _thaw_expressions(loader)
        return Loaded(alpha, label, None, True, False)
    loaders = loader.attributes.get("data_loader_l")
    if not isinstance(loaders, list) or loader.attributes.get("join") != "left":
        raise Unthawable("a NestedDataLoader that does not keep the rows of its first loader")
    features: dict[str, AlphaFeature] = {}
    labels: dict[str, str] = {}
    tables: list[int] = []
    last_alpha = -1
    for place, part in enumerate(loaders):
        if isinstance(part, Inert) and part.origin == _TABLE:
            tables.append(place)
            continue
        alpha, label = _thaw_expressions(part)
        features.update((feature.name, feature) for feature in alpha)
        labels.update(label)
        last_alpha = place if alpha else last_alpha
    if len(tables) > 1 or tables == [0]:
        raise Unthawable("more than one factor table, or one whose rows lead")
    table = _table_path(kwargs, tables[0]) if tables else None
    return Loaded(tuple(features.values()), labels, table, not tables or tables[0] > last_alpha, True)


def _thaw_expressions(loader: object) -> tuple[tuple[AlphaFeature, ...], dict[str, str]]:
    if not isinstance(loader, Inert) or loader.origin not in _EXPRESSIONS:
        raise Unthawable(f"an unknown data loader: {describe(loader)}")
    options = loader.attributes
    plain = (
        options.get("is_group"),
        options.get("filter_pipe"),
        options.get("freq"),
        options.get("swap_level"),
    )
    if plain != (True, None, "day", True) or options.get("inst_processors"):
        raise Unthawable(f"{loader.origin[1]} with options that are not Qlib's defaults")
    fields = thaw_plain(options.get("fields"))
    if not isinstance(fields, dict) or not fields.keys() <= _GROUPS:
        raise Unthawable(f"{loader.origin[1]} with unknown groups of fields")
    groups = {name: _pairs(field) for name, field in fields.items()}
    alpha = tuple(
        AlphaFeature(name=name, expression=expression) for name, expression in groups.get("feature", [])
    )
    return alpha, dict(groups.get("label", []))


def _pairs(field: object) -> list[tuple[str, str]]:
    match field:
        case ([*expressions], [*names]) if (
            len(expressions) == len(names)
            and len(set(names)) == len(names)
            and all(type(text) is str for text in (*expressions, *names))
        ):
            return [(str(name), str(text)) for name, text in zip(names, expressions, strict=True)]
    raise Unthawable("fields that are not expressions and their names")


def _table_path(kwargs: Mapping[str, Any], place: int) -> PurePosixPath:
    """The path that the task gives a ``StaticDataLoader``, which forgets it when it is pickled."""
    match kwargs.get("data_loader"):
        case {"kwargs": {"dataloader_l": [*loaders]}} if len(loaders) > place:
            match loaders[place]:
                case {"class": str() as name, "kwargs": {"config": str() as text}} if name.endswith(
                    "StaticDataLoader"
                ):
                    path = PurePosixPath(text)
                    if not path.is_absolute() and not PureWindowsPath(text).drive and ".." not in path.parts:
                        return path
                    raise Unthawable("a factor table outside the workspace")
    raise Unthawable("a task that does not name the factor table")
