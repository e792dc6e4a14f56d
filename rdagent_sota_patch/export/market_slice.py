"""``replay/``: the back-test's predictions, and a few days of the model's input as Qlib's loader gave it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rdagent_sota_patch.bundle.documents import PREDICTIONS_NAME, REPLAY_NAME, SLICE_NAME, ReplayNotes
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.factor_table.reading import iterate_batches, open_parquet, require_room, unreadable
from rdagent_sota_patch.factor_table.schema import INDEX, parse_schema
from rdagent_sota_patch.mlruns.recorder import CONFIG, read_artifact, read_predictions
from rdagent_sota_patch.scoring.alpha import alpha_request, compute_alpha
from rdagent_sota_patch.scoring.features import join_features, no_rows, order_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rdagent_sota_patch.bundle.documents import ModelMeta
    from rdagent_sota_patch.bundle.writing import BundleWriter
    from rdagent_sota_patch.mlruns.trained import TrainedModel

COMPARED_DAYS = 5
_JOBS = 2
_ROWS_AT_ONCE = 400_000
# Of a table with all its columns, for some of its rows.
_BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The back-test's predictions, and a few days of what its input was made of.

    Attributes:
        predictions: Column score; index (datetime, instrument).
        compared: The days to compare.
        alpha: Alpha features on these days, and for a TimeSeries model on those before; index (datetime, instrument).
            Its rows are those that Qlib gives by Alpha features and label.
        mined: The factor table on the same days, in the file's own types; None for Alpha alone.
    """

    predictions: pd.DataFrame
    compared: pd.DatetimeIndex
    alpha: pd.DataFrame
    mined: pd.DataFrame | None

    def input_of(self, trained: TrainedModel) -> pd.DataFrame:
        """The model's input before any processor, columns in its order.

        Raises:
            BundleError: ``model-input-mismatch``.
        """
        alpha: pd.DataFrame = self.alpha[[name for name in trained.columns if name not in trained.mined]]
        if self.mined is None:
            return alpha
        # A processor may drop columns before the model sees them; the bundle knows those that it sees.
        mined = self.mined[list(trained.mined)]
        return order_columns(
            join_features(alpha, mined, complete_rows=False, join=trained.join), trained.columns
        )

    @property
    def shipped(self) -> pd.Series:
        """The back-test's scores on the compared days."""
        scores: pd.Series = self.predictions["score"]
        return scores[scores.index.get_level_values("datetime").isin(self.compared)]


@dataclass(frozen=True, slots=True, eq=False)
class BackTest:
    """A back-test's predictions on all of its days, and what its input was made of.

    Attributes:
        predictions: Column score; index (datetime, instrument).
        tested: Its days, ascending.
        alpha: Alpha features on these days.
        table: The factor table; None for Alpha alone.
        step_len: Days per sample of a TimeSeries model.
    """

    predictions: pd.DataFrame
    tested: pd.DatetimeIndex
    alpha: pd.DataFrame
    table: Path | None
    step_len: int | None

    def evidence(self) -> Evidence:
        """Of a few days, among them some on which Alpha features and table have other rows.

        Raises:
            BundleError: ``replay-too-short``.
            TableError: The factor table cannot be read.
        """
        compared = choose_days(self.tested, self.step_len)
        if self.table is not None and self.step_len is None:
            rows = read_days(self.table, self.tested, names=()).index
            compared = compared.union(_days_that_differ(self.alpha.index, rows))
        return self._of(compared)

    def pieces(self) -> Iterator[Evidence]:
        """Of all days that have a whole sample, a piece after the other."""
        days = self.tested[(self.step_len or 1) - 1 :]
        at_once = max(1, _ROWS_AT_ONCE * len(self.tested) // max(1, len(self.predictions)))
        for first in range(0, len(days), at_once):
            yield self._of(days[first : first + at_once])

    def _of(self, compared: pd.DatetimeIndex) -> Evidence:
        history = 0 if self.step_len is None else self.step_len - 1
        places = self.tested.get_indexer(compared)
        needed = self.tested[np.unique(np.clip(places[:, None] - np.arange(history + 1), 0, None))]
        alpha = self.alpha[self.alpha.index.get_level_values("datetime").isin(needed)]
        mined = None if self.table is None else read_days(self.table, needed)
        return Evidence(self.predictions, compared, alpha, mined)


def take_back_test(trained: TrainedModel, meta: ModelMeta, qlib_dir: Path | None) -> BackTest:
    """Read all predictions, and have Qlib compute Alpha features on all of their days.

    Args:
        trained: The model, whose input is not proven yet.
        meta: Its description, with all of its Alpha features.
        qlib_dir: See `take_evidence`.

    Raises:
        BundleError: ``artifact-unreadable``, ``replay-needs-market-data`` or ``alpha-failed``.
    """
    predictions = read_predictions(trained.recorder)
    tested = _days_of(predictions)
    alpha = _load_alpha(trained, meta, tested, predictions.index, qlib_dir)
    return BackTest(predictions, tested, alpha, trained.table, meta.step_len)


def take_evidence(trained: TrainedModel, meta: ModelMeta, qlib_dir: Path | None) -> Evidence:
    """Read predictions and table, and have Qlib compute Alpha features.

    Args:
        trained: The model.
        meta: Its description.
        qlib_dir: Qlib's data; the folder that the training used by default. Needed where there are Alpha features.

    Raises:
        BundleError: ``artifact-unreadable``, ``replay-needs-market-data``, ``replay-too-short`` or ``alpha-failed``.
        TableError: The factor table cannot be read.
    """
    predictions = read_predictions(trained.recorder)
    tested = _days_of(predictions)
    compared = choose_days(tested, meta.step_len)
    needed = days_needed(tested, compared, meta.step_len)
    alpha = _load_alpha(trained, meta, needed, predictions.index, qlib_dir)
    return Evidence(
        predictions,
        compared,
        alpha[alpha.index.get_level_values("datetime").isin(needed)],
        None if trained.table is None else read_days(trained.table, needed),
    )


def _days_of(predictions: pd.DataFrame) -> pd.DatetimeIndex:
    days = predictions.index.get_level_values("datetime").unique()
    ordered: pd.DatetimeIndex = pd.DatetimeIndex(days).sort_values()
    return ordered


def _load_alpha(
    trained: TrainedModel,
    meta: ModelMeta,
    days: pd.DatetimeIndex,
    scored: pd.Index[Any],
    qlib_dir: Path | None,
) -> pd.DataFrame:
    """What Qlib gives of Alpha features; the rows are those that they and the label have."""
    joins = {each.join for each in trained.candidates or (trained,)}
    if not meta.alpha and joins == {"right"}:
        return no_rows()
    if not meta.alpha and joins == {"left"}:
        # Without Alpha features the rows are the label's, and each of them was scored.
        rows: pd.DataFrame = pd.DataFrame(index=scored)
        return rows
    provider = qlib_dir or _provider_of(trained)
    return compute_alpha(alpha_request(meta, provider, days, as_trained=True, jobs=_JOBS))


def write_replay(writer: BundleWriter, evidence: Evidence, trained: TrainedModel) -> None:
    """Write predictions, slice and notes.

    Raises:
        BundleError: ``model-input-mismatch``.
    """
    raw = evidence.input_of(trained)
    evidence.predictions.to_parquet(writer.reserve(PREDICTIONS_NAME))
    raw.to_parquet(writer.reserve(SLICE_NAME))
    writer.adopt(PREDICTIONS_NAME)
    writer.adopt(SLICE_NAME)
    notes = ReplayNotes(
        schema_version=1,
        days=tuple(f"{day:%Y-%m-%d}" for day in evidence.compared),
        predictions_rows=len(evidence.predictions),
        slice_rows=len(raw),
    )
    writer.add_document(REPLAY_NAME, notes)


def choose_days(tested: pd.DatetimeIndex, step_len: int | None) -> pd.DatetimeIndex:
    """The days to compare: spread over the back-test, or for a TimeSeries model its last ones, which share history.

    Raises:
        BundleError: ``replay-too-short``: no day has ``step_len - 1`` earlier ones in the back-test.
    """
    chosen: pd.DatetimeIndex
    if step_len is None:
        chosen = tested[_spread(len(tested))]
        return chosen
    with_history = tested[step_len - 1 :]
    if with_history.empty:
        raise BundleError(
            "replay-too-short",
            f"The back-test has {len(tested)} days, and one sample of this model takes {step_len}.",
            "Export without evidence: --no-replay.",
        )
    chosen = with_history[-COMPARED_DAYS:]
    return chosen


def days_needed(
    tested: pd.DatetimeIndex, compared: pd.DatetimeIndex, step_len: int | None
) -> pd.DatetimeIndex:
    """The compared days, and for a TimeSeries model the history of the first."""
    if step_len is None:
        return compared
    first = int(tested.get_loc(compared[0])) - step_len + 1  # type: ignore[arg-type]
    needed: pd.DatetimeIndex = tested[first:]
    return needed


def _spread(count: int) -> np.ndarray:
    """Places in a sequence of so many, at even distances from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(COMPARED_DAYS, count)).round().astype(int))


def _days_that_differ(ours: pd.Index[Any], theirs: pd.Index[Any]) -> pd.DatetimeIndex:
    """Some of the days, spread over all, on which two indexes have other rows."""
    days = ours.symmetric_difference(theirs).get_level_values("datetime").unique().sort_values()
    chosen: pd.DatetimeIndex = days[_spread(len(days))]
    return chosen


def read_days(table: Path, days: pd.DatetimeIndex, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of some days of a factor table.

    Args:
        table: The file.
        days: Which days.
        names: Which factors; all by default.

    Returns:
        Index (datetime, instrument), a column per factor, in the types and the order of rows of the file.

    Raises:
        TableError: ``table-unreadable`` and what is wrong with the layout.
    """
    with open_parquet(table) as file:
        schema = parse_schema(file, table)
        if schema.datetime is None or schema.instrument is None:
            raise unreadable(table, "it has no index of datetime and instrument")
        wanted_columns = [column for column in schema.columns if names is None or column.name in names]
        fields = [schema.datetime, schema.instrument, *(column.field for column in wanted_columns)]
        read = _read_rows(file, table, fields, schema.datetime, days)
    columns: dict[str, Any] = {column.name: read.column(column.field).to_numpy() for column in wanted_columns}
    index = pd.MultiIndex.from_arrays(
        [
            pd.DatetimeIndex(read.column(schema.datetime).to_numpy()),
            read.column(schema.instrument).to_pylist(),
        ],
        names=list(INDEX),
    )
    frame: pd.DataFrame = pd.DataFrame(columns, index=index)
    return frame


def _read_rows(file: Any, table: Path, fields: list[str], field: str, days: pd.DatetimeIndex) -> Any:
    """The rows of some days; batch by batch, since a row group may be as large as the table."""
    try:
        wanted = pa.array(days.to_numpy()).cast(file.schema_arrow.field(field).type)
    except pa.ArrowException as error:
        raise unreadable(table, error) from error

    def chosen(batch: Any) -> Any:
        return pc.is_in(batch.column(batch.schema.get_field_index(field)), value_set=wanted)

    groups = [
        group
        for group in range(file.metadata.num_row_groups)
        if any(
            pc.any(chosen(batch)).as_py() for batch in iterate_batches(file, table, [field], groups=[group])
        )
    ]
    batches, held, schema = [], 0, file.schema_arrow
    for batch in iterate_batches(file, table, fields, rows=_BATCH_ROWS, groups=groups):
        part, schema = batch.filter(chosen(batch)), batch.schema
        held += part.nbytes
        require_room(file, table, held)
        if part.num_rows:
            batches.append(part)
    return pa.Table.from_batches(batches, schema)


def _provider_of(trained: TrainedModel) -> Path:
    """The folder of Qlib's data that the training names, on this machine.

    Raises:
        BundleError: ``replay-needs-market-data``.
    """
    provider = find_provider(trained)
    if provider is None:
        raise _needs_market_data("the training does not say where its data were")
    if not (provider / "calendars").is_dir():
        raise _needs_market_data(f"{provider}, which the training used, is not there")
    return provider


def find_provider(trained: TrainedModel) -> Path | None:
    """The folder of Qlib's data that the training names; it need not be there. None where it names none."""
    match read_artifact(trained.recorder, CONFIG):
        case {"qlib_init": {"provider_uri": str() as uri}} | {
            "qlib_init": {"provider_uri": {"day": str() as uri}}
        }:
            return Path(uri).expanduser()
    return None


def _needs_market_data(reason: str) -> BundleError:
    return BundleError(
        "replay-needs-market-data",
        f"The evidence of a bundle holds a few days of the model's Alpha features, which Qlib computes: {reason}.",
        "Name the folder of Qlib's data with --qlib-dir. --no-replay leaves the evidence out, unless the model's "
        "loader is not one of Qlib's own: then nothing else shows the order of its input.",
    )
