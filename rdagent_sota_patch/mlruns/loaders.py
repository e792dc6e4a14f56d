"""Which features Qlib loaded for a model, and how it put them together, from its pickled data loaders and its task.

Qlib's own loaders are known: what they load, in which order, and whose rows they keep. A loader of another class says
what it loads by its configuration (expressions and their names, a parquet file), and not how it puts these together.
For it there are several arrangements, of which the back-test's own predictions show the one that it used.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal, get_args

from rdagent_sota_patch.bundle.documents import AlphaFeature, Join
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe, thaw_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
_JOINS: tuple[Join, ...] = get_args(Join)

_DEEPEST = 16
_MOST_PARTS = 100_000

Order = Literal["alpha_then_table", "table_then_alpha", "sorted", "told_by_model"]
Shared = Literal["first", "last", "replaced"]
_SHARED: tuple[Shared, ...] = ("last", "first", "replaced")


@dataclass(frozen=True, slots=True)
class Arrangement:
    """One way of putting Alpha features and a factor table together.

    Attributes:
        order: Of the columns; ``told_by_model`` is that of ``told``.
        shared: Of a name that both have: the column that comes ``first`` is kept, or the ``last``; or the first place
            with the last values (``replaced``). The table's is the last unless it goes first.
        join: Whose rows are kept: Alpha's (``left``), the table's (``right``), those of both (``inner``) or of either
            (``outer``).
        told: All names in the order that fitted processors or the weights say.
    """

    order: Order
    shared: Shared = "last"
    join: Join = "left"
    told: tuple[str, ...] = ()

    @property
    def table_wins(self) -> bool:
        """Whether a name that both have is the table's column."""
        return (self.order == "table_then_alpha") == (self.shared == "first")

    def arrange(self, alpha: Sequence[str], table: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """All columns in their order, and those of them that are the table's, as the table has them."""
        first, second = (table, alpha) if self.order == "table_then_alpha" else (alpha, table)
        last = self.shared == "last"
        columns = (*_without(first, second), *second) if last else (*first, *_without(second, first))
        if self.order == "sorted":
            columns = tuple(sorted(columns))
        if self.order == "told_by_model":
            columns = (*self.told, *_without(columns, self.told))
        return columns, tuple(table) if self.table_wins else _without(table, alpha)


def _without(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    left_out = set(others)
    return tuple(name for name in names if name not in left_out)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What Qlib loaded.

    Attributes:
        alpha: Features by Qlib expression, in the loader's order.
        label: Column to Qlib expression.
        table: The factor table's path relative to the workspace; None for Alpha alone, or where nothing names one.
        arrangements: How these may have been put together; a single one for a loader that is known.
        unknown: The class of a loader that is not; None for Qlib's own.
    """

    alpha: tuple[AlphaFeature, ...]
    label: dict[str, str]
    table: PurePosixPath | None
    arrangements: tuple[Arrangement, ...]
    unknown: str | None = None


def thaw_loaders(handler: Inert, kwargs: Mapping[str, Any]) -> Loaded:
    """What a handler loads.

    Args:
        handler: The pickled handler.
        kwargs: The handler's ``kwargs`` in the task, which alone have the table's path.

    Raises:
        Unthawable: A loader has options that nothing here knows, such as a filter; or it is of an unknown class, and
            its configuration does not say what it loads.
    """
    loader = handler.attributes.get("data_loader")
    config = kwargs.get("data_loader", kwargs)
    if not isinstance(loader, Inert):
        raise Unthawable(f"an unknown data loader: {describe(loader)}")
    if loader.origin in _EXPRESSIONS:
        alpha, label = _thaw_expressions(loader)
        return Loaded(alpha, label, None, (Arrangement("alpha_then_table"),))
    if loader.origin == _TABLE:
        return Loaded((), {}, _table_path(config), (Arrangement("alpha_then_table", join="right"),))
    if loader.origin == _NESTED and not any(map(_is_unknown, _nested(loader))):
        return _thaw_nested(loader, config)
    return _search(loader, config)


def _nested(loader: Inert) -> list[Any]:
    loaders = loader.attributes.get("data_loader_l")
    if not isinstance(loaders, list) or loader.attributes.get("join") not in _JOINS:
        raise Unthawable("a NestedDataLoader in an unknown form")
    return loaders


def _is_unknown(loader: object) -> bool:
    return not isinstance(loader, Inert) or loader.origin not in {*_EXPRESSIONS, _TABLE}


def _thaw_nested(loader: Inert, config: object) -> Loaded:
    """As ``NestedDataLoader.load`` does it: of two columns of one name the later loader's, all sorted by name."""
    loaders = _nested(loader)
    features: dict[str, AlphaFeature] = {}
    labels: dict[str, str] = {}
    tables: list[int] = []
    last_alpha = -1
    for place, part in enumerate(loaders):
        if part.origin == _TABLE:
            tables.append(place)
            continue
        alpha, label = _thaw_expressions(part)
        features.update((feature.name, feature) for feature in alpha)
        labels.update(label)
        last_alpha = place if alpha else last_alpha
    if len(tables) > 1:
        raise Unthawable("more than one factor table")
    if not tables:
        return Loaded(tuple(features.values()), labels, None, (Arrangement("sorted"),))
    join: Join = loader.attributes["join"]
    if join in ("left", "right"):
        leading = 0 if join == "left" else len(loaders) - 1
        join = "right" if leading in tables else "left"
    match config:
        case {"kwargs": {"dataloader_l": [*configs]}} if len(configs) > tables[0]:
            table = _table_path(configs[tables[0]])
        case _:
            raise Unthawable("a task that does not name the factor table")
    shared: Shared = "last" if tables[0] > last_alpha else "first"
    return Loaded(tuple(features.values()), labels, table, (Arrangement("sorted", shared, join),))


def _search(loader: Inert, config: object) -> Loaded:
    """What a loader of an unknown class loads, by the expressions and the parquet file that its configuration names."""
    found = _Found()
    found.walk(loader.attributes)
    configured = _Found()
    configured.walk(config)
    # What the loader made of its configuration goes first: Qlib's own have more in them than they were told.
    features, labels = (found if found.features or found.labels else configured).expressions()
    if not features and not labels and not found.tables and not configured.tables:
        raise Unthawable(
            f"an unknown data loader, {describe(loader)}, whose configuration names neither expressions nor a table"
        )
    tables = found.tables | configured.tables
    if len(tables) > 1:
        raise Unthawable(f"more than one factor table: {', '.join(sorted(tables))}")
    table = _relative(next(iter(tables))) if tables else None
    orders: tuple[Order, ...] = ("alpha_then_table", "table_then_alpha", "sorted")
    joins = _joins(loader, config)
    if loader.origin == _NESTED:
        orders, joins = ("sorted",), _JOINS
    arrangements = tuple(
        Arrangement(order, shared, join) for join, order, shared in product(joins, orders, _SHARED)
    )
    return Loaded(features, labels, table, arrangements, describe(loader))


def _joins(loader: Inert, config: object) -> tuple[Join, ...]:
    """The join that the loader itself is told, or else all that there are."""
    configured = config.get("kwargs", config) if isinstance(config, dict) else {}
    for told in (loader.attributes, configured):
        if isinstance(told, dict) and told.get("join") in _JOINS:
            return (told["join"],)
    return _JOINS


class _Found:
    """One walk over a loader or its configuration, bounded in what it looks at."""

    def __init__(self) -> None:
        self.features: list[list[tuple[str, str]]] = []
        self.labels: list[list[tuple[str, str]]] = []
        self.tables: set[str] = set()
        self._parts = 0

    def walk(self, value: object, depth: int = 0) -> None:
        self._parts += 1
        if depth > _DEEPEST or self._parts > _MOST_PARTS:
            raise Unthawable("a data loader with too much in it")
        if isinstance(value, Inert) and value.origin in _EXPRESSIONS:
            alpha, label = _thaw_expressions(value)
            self.features.append([(feature.name, feature.expression) for feature in alpha])
            self.labels.append(list(label.items()))
        elif type(value) is str:
            if value.strip().endswith(".parquet"):
                self.tables.add(value.strip())
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.walk(item, depth + 1)
        else:
            for key, item in _entries(value):
                pairs = _pairs_or_none(item) if key in _GROUPS else None
                if pairs is None:
                    self.walk(item, depth + 1)
                else:
                    (self.features if key == "feature" else self.labels).append(pairs)

    def expressions(self) -> tuple[tuple[AlphaFeature, ...], dict[str, str]]:
        """Features in the order in which they were found, and labels.

        Raises:
            Unthawable: A name has two expressions.
        """
        merged: list[dict[str, str]] = []
        for groups in (self.features, self.labels):
            names: dict[str, str] = {}
            for name, expression in (pair for group in groups for pair in group):
                if names.setdefault(name, expression) != expression:
                    raise Unthawable(f"{name} with two expressions")
            merged.append(names)
        features = tuple(AlphaFeature(name=name, expression=text) for name, text in merged[0].items())
        return features, merged[1]


def _entries(value: object) -> Iterator[tuple[object, object]]:
    entries = value.attributes if isinstance(value, Inert) else value
    if isinstance(entries, dict):
        yield from entries.items()


def _thaw_expressions(loader: Inert) -> tuple[tuple[AlphaFeature, ...], dict[str, str]]:
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


def _pairs_or_none(field: object) -> list[tuple[str, str]] | None:
    if (
        isinstance(field, (list, tuple))
        and field
        and all(type(text) is str and "$" in text for text in field)
    ):
        # Qlib takes expressions without names for their own names.
        field = (field, field)
    try:
        return _pairs(field)
    except (Unthawable, TypeError):
        # Such as names that are lists.
        return None


def _table_path(config: object) -> PurePosixPath:
    """The path that the task gives a ``StaticDataLoader``, which forgets it when it is pickled."""
    match config:
        case {"class": str() as name, "kwargs": {"config": str() as text}} if name.endswith(
            "StaticDataLoader"
        ):
            return _relative(text)
    raise Unthawable("a task that does not name the factor table")


def _relative(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if not path.is_absolute() and not PureWindowsPath(text).drive and ".." not in path.parts:
        return path
    raise Unthawable("a factor table outside the workspace")
