"""``replay/``: the back-test's predictions, and a few days of the model's input as Qlib's loader gave it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_patch.bundle.documents import PREDICTIONS_NAME, REPLAY_NAME, SLICE_NAME, ReplayNotes
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.factors.reading import open_parquet, unreadable
from rdagent_sota_patch.factors.schema import INDEX, parse_schema
from rdagent_sota_patch.prediction.alpha import alpha_request, compute_alpha
from rdagent_sota_patch.prediction.features import join_features, order_columns
from rdagent_sota_patch.recorders.recorder import read_artifact, read_predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.bundle.documents import ModelMeta
    from rdagent_sota_patch.bundle.writing import BundleWriter
    from rdagent_sota_patch.recorders.trained import TrainedModel

COMPARED_DAYS = 5
_CONFIG = "config"
_JOBS = 2


def write_replay(
    writer: BundleWriter, trained: TrainedModel, meta: ModelMeta, order: Sequence[str], qlib_dir: Path | None
) -> None:
    """Write predictions, slice and notes.

    Args:
        writer: Of the bundle.
        trained: The model.
        meta: Its description.
        order: The columns of its input.
        qlib_dir: Qlib's data; the folder that the training used by default. Needed where there are Alpha features.

    Raises:
        BundleError: ``artifact-unreadable``, ``replay-needs-market-data``, ``replay-too-short``, ``alpha-failed`` or
            ``model-input-mismatch``.
        TableError: The factor table cannot be read.
    """
    predictions = read_predictions(trained.recorder)
    tested = pd.DatetimeIndex(predictions.index.get_level_values("datetime").unique()).sort_values()
    compared = choose_days(tested, meta.step_len)
    needed = days_needed(tested, compared, meta.step_len)
    raw = order_columns(_load(trained, meta, needed, predictions.index, qlib_dir), order)
    predictions.to_parquet(writer.reserve(PREDICTIONS_NAME))
    raw.to_parquet(writer.reserve(SLICE_NAME))
    writer.adopt(PREDICTIONS_NAME)
    writer.adopt(SLICE_NAME)
    notes = ReplayNotes(
        schema_version=1,
        days=tuple(f"{day:%Y-%m-%d}" for day in compared),
        predictions_rows=len(predictions),
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
        places = np.unique(np.linspace(0, len(tested) - 1, COMPARED_DAYS).round().astype(int))
        chosen = tested[places]
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


def _load(
    trained: TrainedModel,
    meta: ModelMeta,
    days: pd.DatetimeIndex,
    scored: pd.Index[Any],
    qlib_dir: Path | None,
) -> pd.DataFrame:
    """What ``NestedDataLoader.load`` gave on ``days``: index (datetime, instrument), a column per feature."""
    alpha: pd.DataFrame
    if meta.alpha:
        provider = qlib_dir or _provider_of(trained)
        alpha = compute_alpha(alpha_request(meta, provider, days, as_trained=True, jobs=_JOBS))
    else:
        # Without Alpha features the rows are the label's, and each of them was scored.
        alpha = pd.DataFrame(index=scored)
    alpha = alpha[alpha.index.get_level_values("datetime").isin(days)]
    if trained.table is None:
        return alpha
    # A processor may drop columns before the model sees them; the bundle knows those that it sees.
    mined = read_days(trained.table, days)[list(trained.mined)]
    return join_features(alpha, mined, complete_rows=False)


def read_days(table: Path, days: pd.DatetimeIndex) -> pd.DataFrame:
    """The rows of some days of a factor table.

    Returns:
        Index (datetime, instrument), a column per factor, in the types and the order of rows of the file.

    Raises:
        TableError: ``table-unreadable`` and what is wrong with the layout.
    """
    with open_parquet(table) as file:
        schema = parse_schema(file, table)
    if schema.datetime is None or schema.instrument is None:
        raise unreadable(table, "it has no index of datetime and instrument")
    fields = [schema.datetime, schema.instrument, *(column.field for column in schema.columns)]
    try:
        wanted = pa.array(days.to_numpy()).cast(pq.read_schema(table).field(schema.datetime).type)
        read = pq.read_table(table, columns=fields, filters=[(schema.datetime, "in", wanted)])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(table, error) from error
    columns: dict[str, Any] = {column.name: read.column(column.field).to_numpy() for column in schema.columns}
    index = pd.MultiIndex.from_arrays(
        [
            pd.DatetimeIndex(read.column(schema.datetime).to_numpy()),
            read.column(schema.instrument).to_pylist(),
        ],
        names=list(INDEX),
    )
    frame: pd.DataFrame = pd.DataFrame(columns, index=index)
    return frame


def _provider_of(trained: TrainedModel) -> Path:
    """The folder of Qlib's data that the training names, on this machine.

    Raises:
        BundleError: ``replay-needs-market-data``.
    """
    match read_artifact(trained.recorder, _CONFIG):
        case {"qlib_init": {"provider_uri": str() as uri}} | {
            "qlib_init": {"provider_uri": {"day": str() as uri}}
        }:
            provider = Path(uri).expanduser()
        case _:
            raise _needs_market_data("the training does not say where its data were")
    if not (provider / "calendars").is_dir():
        raise _needs_market_data(f"{provider}, which the training used, is not there")
    return provider


def _needs_market_data(reason: str) -> BundleError:
    return BundleError(
        "replay-needs-market-data",
        f"The evidence of a bundle holds a few days of the model's Alpha features, which Qlib computes: {reason}.",
        "Name the folder of Qlib's data with --qlib-dir, or leave the evidence out with --no-replay.",
    )
