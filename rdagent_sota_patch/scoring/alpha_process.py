"""The process in which Qlib computes Alpha features: a request in JSON in, parquet out."""

from __future__ import annotations

from typing import Any

from rdagent_sota_patch.scoring.qlib_process import init_qlib


def main() -> None:
    """Compute what is asked for and write it to ``alpha.parquet``.

    As the loader of a training does (``qlib/data/dataset/loader.py``, ``QlibDataLoader``).
    """
    request = init_qlib()
    import pandas as pd
    from qlib.data.dataset.loader import QlibDataLoader

    rows = request["row_expressions"]
    groups: dict[str, Any] = {}
    if request["names"]:
        groups["feature"] = (request["expressions"], request["names"])
    if rows:
        groups["label"] = (rows, [f"row{number}" for number in range(len(rows))])
    frame = QlibDataLoader(config=groups).load(request["market"], request["start"], request["end"])
    frame = frame[frame.index.get_level_values("datetime") >= pd.Timestamp(request["keep_from"])]
    features = frame["feature"] if request["names"] else pd.DataFrame(index=frame.index)
    features[request["names"]].sort_index().to_parquet("alpha.parquet")


if __name__ == "__main__":
    main()
