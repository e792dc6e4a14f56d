"""What the parquet footer says about a factor table: its index, its factors, its layout. No data is read."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from rdagent_sota_patch.errors import Problem
from rdagent_sota_patch.factor_table.reading import column_chunks, open_parquet, unreadable

if TYPE_CHECKING:
    from pathlib import Path

DATETIME = "datetime"
INSTRUMENT = "instrument"
GROUP = "feature"
INDEX = (DATETIME, INSTRUMENT)

# A longer column name is not a tuple that pandas wrote, and parsing it costs.
_LONGEST_TUPLE = 1000
# How nearly every column is spelled; the general way takes as long for twenty of them as reading the footer.
_PLAIN_START = f"('{GROUP}', '"
# pandas gives these back as they are; its own nullable types (Int64, Float64) reach Qlib as objects.
_NUMPY_TYPES = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    "float32",
    "float64",
}
# A column in one of these is not to be read as a dictionary: pyarrow cannot.
_NO_DICTIONARY = frozenset({"DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"})
# pandas' words for text as the type of column names.
_TEXT_TYPES = frozenset({"unicode", "string"})


class _Level(BaseModel):
    pandas_type: str = ""


class _Column(BaseModel):
    name: str | None = None
    field_name: str | None = None
    numpy_type: str = ""


class _PandasMetadata(BaseModel):
    """The part of pandas' parquet metadata that matters here; a dictionary describes a RangeIndex."""

    index_columns: list[str | dict[str, Any]] = []
    column_indexes: list[_Level] = []
    columns: list[_Column] = []


@dataclass(frozen=True, slots=True)
class FactorColumn:
    """One factor of a table.

    Attributes:
        name: The factor's name.
        field: The column's name in the parquet schema, such as ``('feature', 'Rev5D')``.
        type: Its arrow type.
    """

    name: str
    field: str
    type: Any


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Index, factors and layout of a table.

    Attributes:
        rows: Number of rows.
        datetime: Field of the dates; None when there is none.
        instrument: Field of the instruments; None when there is none.
        columns: The factors, in column order.
        canonical: Whether Qlib's ``StaticDataLoader`` can take the layout as it is, order of rows aside.
        dictionary: Fields to read as dictionaries, which spares a string for every row.
        problems: What makes the table unusable.
    """

    rows: int
    datetime: str | None
    instrument: str | None
    columns: tuple[FactorColumn, ...]
    canonical: bool
    dictionary: tuple[str, ...]
    problems: tuple[Problem, ...]


def parse_schema(file: Any, path: Path) -> TableSchema:
    """Read the schema of an open ``pyarrow.parquet.ParquetFile``; problems are collected.

    Raises:
        TableError: ``table-unreadable``: the footer's entries of the instruments are damaged.
    """
    schema = file.schema_arrow
    problems: list[Problem] = []
    _check_rows(file, path, problems)
    metadata = _parse_metadata(schema, path, problems)
    index = _find_index(schema, metadata, path, problems)
    columns = _find_columns(schema, metadata, set(index.values()), path, problems)
    datetime, instrument = index.get(DATETIME), index.get(INSTRUMENT)
    if datetime is not None and instrument is not None:
        problems.extend(_check_index_types(schema, metadata, index, path))
    return TableSchema(
        rows=file.metadata.num_rows,
        datetime=datetime,
        instrument=instrument,
        columns=columns,
        canonical=not problems and _is_canonical(schema, metadata, columns, index),
        dictionary=() if instrument is None else _read_as_dictionary(file, path, instrument),
        problems=tuple(problems),
    )


def read_names(path: Path) -> tuple[str, ...]:
    """The factors of a table in column order, from its footer alone.

    Raises:
        TableError: ``table-not-found`` or ``table-unreadable``.
    """
    with open_parquet(path) as file:
        schema = file.schema_arrow
        problems: list[Problem] = []
        metadata = _parse_metadata(schema, path, problems)
        index = _find_index(schema, metadata, path, problems)
        return tuple(
            column.name for column in _find_columns(schema, metadata, set(index.values()), path, problems)
        )


def is_numeric(arrow_type: Any) -> bool:
    """Whether a column of this type can be a feature; truth values and decimals cannot."""
    return bool(pa.types.is_floating(arrow_type) or pa.types.is_integer(arrow_type))


def _parse_metadata(schema: Any, path: Path, problems: list[Problem]) -> _PandasMetadata:
    raw = (schema.metadata or {}).get(b"pandas")
    if raw is None:
        return _PandasMetadata()
    try:
        return _PandasMetadata.model_validate_json(raw)
    except ValidationError as error:
        detail = error.errors()[0]
        problems.append(
            Problem(
                "table-unreadable",
                f"{path}: its pandas metadata is damaged ({detail['msg']}).",
                "Write the file again with DataFrame.to_parquet.",
            )
        )
        return _PandasMetadata()


def _find_index(
    schema: Any, metadata: _PandasMetadata, path: Path, problems: list[Problem]
) -> dict[str, str]:
    """Level name to field, in stored order; ordinary columns serve where no index is stored."""
    stored = [entry for entry in metadata.index_columns if isinstance(entry, str)]
    names = {column.field_name or column.name: column.name for column in metadata.columns}
    levels = [names.get(field) for field in stored]
    if not stored:
        plain = [name for name in schema.names if name in INDEX]
        if sorted(plain) == sorted(INDEX):
            return {name: name for name in plain}
    elif sorted(map(str, levels)) == sorted(INDEX) and all(
        schema.names.count(field) == 1 for field in stored
    ):
        return dict(zip(map(str, levels), stored, strict=True))
    shown = ", ".join(str(level) for level in levels) if stored else "no named index"
    problems.append(
        Problem(
            "table-index",
            f"{path}: the index levels must be datetime and instrument; found {shown}.",
            "Set them with df.index.names = ['datetime', 'instrument'] before saving.",
        )
    )
    # Kept out of the factors, so that one fault is not reported as two.
    return {f"\0{position}": field for position, field in enumerate(stored)}


def _find_columns(
    schema: Any, metadata: _PandasMetadata, index: set[str], path: Path, problems: list[Problem]
) -> tuple[FactorColumn, ...]:
    nested = len(metadata.column_indexes) > 1
    columns: list[FactorColumn] = []
    foreign: list[str] = []
    for field in schema:
        if field.name in index:
            continue
        parts = _parse_tuple(field.name)
        if len(parts) == 2 and parts[0] == GROUP:
            columns.append(FactorColumn(parts[1], field.name, field.type))
        elif nested:
            foreign.append(field.name)
        else:
            columns.append(FactorColumn(field.name, field.name, field.type))
    if foreign:
        problems.append(
            Problem(
                "table-column-names",
                f"{path}: columns must be named 'name' or ('feature', 'name'); found {_listed(foreign)}.",
                "Keep the factors only, under plain names or under the first level 'feature'.",
            )
        )
    # pandas takes names for equal that differ in what follows a NUL.
    nameless = [column.name for column in columns if not column.name.strip() or "\0" in column.name]
    if nameless:
        problems.append(
            Problem(
                "table-column-names",
                f"{path}: a factor's name is empty or holds a NUL character: {nameless[0]!r}.",
                "Give every factor a name.",
            )
        )
    doubled = [name for name, count in Counter(column.name for column in columns).items() if count > 1]
    if doubled:
        problems.append(
            Problem(
                "table-duplicate-columns",
                f"{path}: more than one column is named {_listed(doubled)}.",
                "Keep one of them: df.loc[:, ~df.columns.duplicated(keep='last')].",
            )
        )
    objects = [column.name for column in columns if not is_numeric(column.type)]
    if objects:
        problems.append(
            Problem(
                "table-not-numeric",
                f"{path}: no numbers in {_listed(objects)}.",
                "Convert these columns with astype(float), or drop them.",
            )
        )
    return tuple(columns)


def _check_rows(file: Any, path: Path, problems: list[Problem]) -> None:
    if file.rows_problem:
        problems.extend(unreadable(path, file.rows_problem).problems)


def _read_as_dictionary(file: Any, path: Path, field: str) -> tuple[str, ...]:
    leaf = next((leaf for leaf in range(len(file.schema)) if file.schema.column(leaf).path == field), None)
    if leaf is None or is_text_view(file.schema_arrow.field(field).type):
        return ()
    encodings = {encoding for chunk in column_chunks(file, path, leaf) for encoding in chunk.encodings}
    return () if encodings & _NO_DICTIONARY else (field,)


def _check_index_types(
    schema: Any, metadata: _PandasMetadata, index: dict[str, str], path: Path
) -> list[Problem]:
    problems = []
    days = schema.field(index[DATETIME]).type
    if not (pa.types.is_date(days) or (pa.types.is_timestamp(days) and days.tz is None)):
        hint = "Convert it with pd.to_datetime(…)."
        if pa.types.is_timestamp(days):
            stored = [level for level, field in index.items() if field in metadata.index_columns]
            hint = _zone_hint(stored.index(DATETIME) if stored else None)
        problems.append(
            Problem(
                "table-index",
                f"{path}: the level datetime must hold dates without a time zone; found {days}.",
                hint,
            )
        )
    names = schema.field(index[INSTRUMENT]).type
    if not is_text(names):
        problems.append(
            Problem(
                "table-index",
                f"{path}: the level instrument must hold text such as SH600000; found {names}.",
                "Convert it to Qlib's instrument names.",
            )
        )
    return problems


def _zone_hint(level: int | None) -> str:
    """How to make days of moments; a midnight of Shanghai is 16:00 of the day before in UTC."""
    steps = "tz_convert('Asia/Shanghai'){0}.tz_localize(None){0}.normalize()"
    code = (
        f"df['datetime'] = df['datetime'].dt.{steps.format('.dt')}"
        if level is None
        else f"df.index = df.index.set_levels(df.index.levels[{level}].{steps.format('')}, level={level})"
    )
    return f"Convert it to the market's time zone before you drop zone and time: {code}"


def is_text(arrow_type: Any) -> bool:
    """Whether a column of this type holds text, categories of text included."""
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return bool(
        pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) or is_text_view(arrow_type)
    )


def is_text_view(arrow_type: Any) -> bool:
    """Whether it is Arrow's ``string_view``, which older pyarrow has no word for and no dictionary of."""
    return str(arrow_type) == "string_view"


def _is_canonical(
    schema: Any, metadata: _PandasMetadata, columns: tuple[FactorColumn, ...], index: dict[str, str]
) -> bool:
    numpy_types = {column.field_name or column.name: column.numpy_type for column in metadata.columns}
    return (
        tuple(index) == INDEX
        and metadata.index_columns == list(index.values())
        and len(metadata.column_indexes) == 2
        and all(level.pandas_type in _TEXT_TYPES for level in metadata.column_indexes)
        and schema.field(index[DATETIME]).type == pa.timestamp("ns")
        and not pa.types.is_dictionary(schema.field(index[INSTRUMENT]).type)
        and not is_text_view(schema.field(index[INSTRUMENT]).type)
        and all(numpy_types.get(column.field) in _NUMPY_TYPES for column in columns)
        and all(column.field != column.name for column in columns)
    )


def _parse_tuple(field: str) -> tuple[str, ...]:
    """The parts of a column name that pandas spelled as a tuple of text; empty for any other name."""
    if not (field.startswith("(") and field.endswith(")") and len(field) <= _LONGEST_TUPLE):
        return ()
    if field.startswith(_PLAIN_START) and field.endswith("')"):
        name = field[len(_PLAIN_START) : -2]
        if "'" not in name and "\\" not in name:
            return (GROUP, name)
    try:
        value = ast.literal_eval(field)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        return value
    return ()


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
