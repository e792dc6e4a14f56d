"""Alpha features from market data: Qlib computes them, in a process of its own, or `alpha_arrays` does.

``qlib.init`` rules the whole process it is called in, and Qlib prints. So neither happens here.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.parquet as pq

from rdagent_sota_patch.bundle.expressions import require_harmless
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.alpha_arrays import compute_on_arrays
from rdagent_sota_patch.scoring.qlib_process import run_qlib

if TYPE_CHECKING:
    from rdagent_sota_patch.bundle.documents import ModelMeta, Region

_REMEMBERS = re.compile(r"\b(EMA|Delta)\s*\(|,\s*0(\.\d*)?\s*\)")
"""What needs more history than it says (``get_extended_window_size``): averages that never forget, windows of all there
is, and ``Delta``, which asks for a day less than it looks back.
"""


@dataclass(frozen=True, slots=True)
class AlphaRequest:
    """What Qlib is to compute.

    Attributes:
        provider: Folder of Qlib's data.
        market: Whose stocks: a name in ``instruments/``.
        start, end: First and last day to compute, ISO. What an expression looks back on before ``start``, Qlib adds.
        keep_from: First day to hand over.
        expressions: Feature name to Qlib expression; may be empty.
        row_expressions: Expressions that decide, with the others, which rows there are, and whose values are not
            wanted: the label's. Qlib's loader makes a row of every day that any expression has.
        jobs: Processes.
        region: Qlib's.
    """

    provider: Path
    market: str
    start: str
    end: str
    keep_from: str
    expressions: dict[str, str]
    row_expressions: tuple[str, ...]
    jobs: int = 1
    region: Region = "cn"


def alpha_request(
    meta: ModelMeta, provider: Path, days: pd.DatetimeIndex, *, as_trained: bool, jobs: int
) -> AlphaRequest:
    """The Alpha features that a model takes, on ``days``.

    Args:
        meta: Of the bundle.
        provider: Folder of Qlib's data.
        days: Ascending; from the first to the last all days are computed.
        as_trained: Compute from the day on which the training's data began. Running sums then carry the very
            rounding errors of the training; otherwise a value may differ in its last bit.
        jobs: Processes.
    """
    first, last = f"{days[0]:%Y-%m-%d}", f"{days[-1]:%Y-%m-%d}"
    start = first
    expressions = {feature.name: feature.expression for feature in meta.alpha}
    if as_trained or any(_REMEMBERS.search(expression) for expression in expressions.values()):
        kwargs = meta.handler.get("kwargs", meta.handler)
        start = min(first, str(kwargs.get("start_time") or first)[:10])
    return AlphaRequest(
        provider,
        meta.instruments,
        start,
        last,
        first,
        expressions,
        tuple(meta.label.values()),
        jobs,
        meta.region,
    )


def compute_live(
    meta: ModelMeta, provider: Path, days: pd.DatetimeIndex, *, jobs: int
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The Alpha features that a model takes on days after its back-test: on arrays, and by Qlib what these do not know.

    Returns:
        As `compute_alpha`; and the names of the features that Qlib computed.

    Raises:
        BundleError: As `compute_on_arrays` and `compute_alpha`; ``alpha-failed`` where the two give other rows.
    """
    expressions = {feature.name: feature.expression for feature in meta.alpha}
    frame, left = compute_on_arrays(provider, meta.instruments, days, expressions, tuple(meta.label.values()))
    if not left:
        return frame, ()
    by_qlib = meta.model_copy(update={"alpha": tuple(each for each in meta.alpha if each.name in left)})
    request = alpha_request(by_qlib, provider, days, as_trained=False, jobs=jobs)
    if len(left) == len(expressions):
        return compute_alpha(request), left
    # Before Qlib runs: where the data change from here on, its rows are others.
    rows = compute_on_arrays(provider, meta.instruments, days, request.expressions, request.row_expressions)[
        0
    ].index
    theirs = compute_alpha(request)
    if not rows.equals(theirs.index):
        differing = rows.symmetric_difference(theirs.index)
        day, stock = differing[0]
        raise BundleError(
            "alpha-failed",
            f"Qlib's rows of {', '.join(left)} are not those of its files: {len(differing)} differ, the first that of "
            f"{stock} on {day:%Y-%m-%d}. Joined with the other Alpha features, some values would be missing.",
            "The market data may have changed meanwhile: predict again.",
        )
    joined: pd.DataFrame = frame.join(theirs)[list(expressions)]
    return joined, left


def compute_alpha(request: AlphaRequest) -> pd.DataFrame:
    """Have Qlib compute features for all stocks of the market.

    Returns:
        Index (datetime, instrument), sorted; one float32 column per name in ``request.expressions``, in its
        order. The rows are those that a training on the same data would have.

    Raises:
        BundleError: ``live-extra-missing``, ``alpha-failed``, and what `require_harmless` raises.
    """
    for expression in (*request.expressions.values(), *request.row_expressions):
        require_harmless(expression)
    plain = {
        "provider": str(request.provider.resolve()),
        "region": request.region,
        "market": request.market,
        "start": request.start,
        "end": request.end,
        "keep_from": request.keep_from,
        "names": list(request.expressions),
        "expressions": list(request.expressions.values()),
        "row_expressions": list(request.row_expressions),
        "jobs": request.jobs,
    }
    with tempfile.TemporaryDirectory(prefix="alpha-") as folder:
        place = Path(folder).resolve()
        failed = run_qlib("alpha_process", place, plain)
        if failed is not None:
            raise BundleError(
                "alpha-failed",
                f"Qlib could not compute the Alpha features from {request.provider}. It ended with:\n{failed}",
                "Check that the folder is Qlib's data (calendars, instruments, features) and has the fields that "
                "the expressions name.",
            )
        # By its path: pandas would open it in Python, and a thread of Arrow's that closes such a file while Python ends
        # aborts the process.
        frame: pd.DataFrame = pq.read_table(str(place / "alpha.parquet")).to_pandas()
        return frame
