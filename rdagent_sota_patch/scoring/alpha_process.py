"""The process in which Qlib computes Alpha features: a request in JSON in, parquet out."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any


def main(request_file: Path, target: Path) -> None:
    """Compute what ``request_file`` asks for and write it to ``target``.

    As the loader of a training does (``qlib/data/dataset/loader.py``, ``QlibDataLoader``).
    """
    request = json.loads(request_file.read_text(encoding="utf-8"))
    import pandas as pd
    import qlib
    from qlib.data.dataset.loader import QlibDataLoader

    qlib.init(
        provider_uri=request["provider"],
        region=request["region"],
        kernels=request["jobs"],
        expression_cache=None,
        dataset_cache=None,
        logging_level=logging.ERROR,
    )
    rows = request["row_expressions"]
    groups: dict[str, Any] = {}
    if request["names"]:
        groups["feature"] = (request["expressions"], request["names"])
    if rows:
        groups["label"] = (rows, [f"row{number}" for number in range(len(rows))])
    frame = QlibDataLoader(config=groups).load(request["market"], request["start"], request["end"])
    frame = frame[frame.index.get_level_values("datetime") >= pd.Timestamp(request["keep_from"])]
    features = frame["feature"] if request["names"] else pd.DataFrame(index=frame.index)
    features[request["names"]].sort_index().to_parquet(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
