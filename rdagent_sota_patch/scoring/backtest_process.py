"""The process in which Qlib back-tests scores: a request in JSON and scores in, its daily report and the label out."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Back-test ``scores.parquet`` as ``request.json`` asks, as ``PortAnaRecord`` of a training does.

    Written are ``report.parquet`` (index: days; return before cost, cost, bench, turnover) and ``label.parquet``.
    """
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    import pyarrow.parquet as pq
    import qlib
    from qlib.backtest import backtest
    from qlib.data.dataset.loader import QlibDataLoader

    qlib.init(
        provider_uri=request["provider"],
        region="cn",
        kernels=1,
        expression_cache=None,
        dataset_cache=None,
        logging_level=logging.ERROR,
    )
    scores = pq.read_table(str(folder / "scores.parquet")).to_pandas()
    label = QlibDataLoader(config={"label": ([request["label"]], ["label"])}).load(
        request["market"], request["start"], request["end"]
    )
    label.droplevel(0, axis=1).to_parquet(folder / "label.parquet")
    strategy = request["strategy"]
    strategy["kwargs"]["signal"] = scores
    executor = {
        "class": "SimulatorExecutor",
        "module_path": "qlib.backtest.executor",
        "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True},
    }
    options = {**request["backtest"], "start_time": request["start"], "end_time": request["end"]}
    portfolio, _ = backtest(executor=executor, strategy=strategy, **options)
    report, _ = portfolio["1day"]
    report[["return", "cost", "bench", "turnover"]].to_parquet(folder / "report.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
