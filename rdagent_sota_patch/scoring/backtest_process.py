"""The process in which Qlib back-tests scores: a request in JSON and scores in, its daily report and the label out."""

from __future__ import annotations

from rdagent_sota_patch.scoring.qlib_process import init_qlib


def main() -> None:
    """Back-test ``scores.parquet`` as the request asks, as ``PortAnaRecord`` of a training does.

    Written are ``report.parquet`` (index: days; return before cost, cost, bench, turnover) and ``label.parquet``.
    """
    request = init_qlib()
    import pyarrow.parquet as pq
    from qlib.backtest import backtest
    from qlib.data.dataset.loader import QlibDataLoader

    scores = pq.read_table("scores.parquet").to_pandas()
    label = QlibDataLoader(config={"label": ([request["label"]], ["label"])}).load(
        request["market"], request["start"], request["end"]
    )
    label.droplevel(0, axis=1).to_parquet("label.parquet")
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
    report[["return", "cost", "bench", "turnover"]].to_parquet("report.parquet")


if __name__ == "__main__":
    main()
