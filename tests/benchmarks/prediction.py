"""What predicting one day costs beside the factors' own code.

A market of 5,000 stocks over three years in two files, 20 Alpha features and 20 mined factors, half of which read
both files. Everything is real: the jail, Qlib, the model. The bare runs beside it are the same factor code, as many at
a time, unconfined, with nothing read from what it leaves: on both files as they are, which is what doing without a
prediction comes to, and on the few days that a prediction would cut out of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.processes import run_child

MODULE = "prediction"
STOCKS = 5000
MINED = 20
SECOND_FILE = "static_factors.parquet"
_ROUNDS = 1
_LOOKBACK = 40
_START, _END = date(2021, 1, 4), date(2023, 12, 15)
_JOBS = os.cpu_count() or 1

_ALPHA = {
    "RESI5": "Resi($close, 5)/$close",
    "WVMA5": "Std(Abs($close/Ref($close, 1)-1)*$volume, 5)/(Mean(Abs($close/Ref($close, 1)-1)*$volume, 5)+1e-12)",
    "RSQR5": "Rsquare($close, 5)",
    "KLEN": "($high-$low)/$open",
    "RSQR10": "Rsquare($close, 10)",
    "CORR5": "Corr($close, Log($volume+1), 5)",
    "CORD5": "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 5)",
    "CORR10": "Corr($close, Log($volume+1), 10)",
    "ROC60": "Ref($close, 60)/$close",
    "RESI10": "Resi($close, 10)/$close",
    "VSTD5": "Std($volume, 5)/($volume+1e-12)",
    "RSQR60": "Rsquare($close, 60)",
    "CORR60": "Corr($close, Log($volume+1), 60)",
    "WVMA60": "Std(Abs($close/Ref($close, 1)-1)*$volume, 60)/(Mean(Abs($close/Ref($close, 1)-1)*$volume, 60)+1e-12)",
    "STD5": "Std($close, 5)/$close",
    "RSQR20": "Rsquare($close, 20)",
    "CORD60": "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 60)",
    "CORD10": "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 10)",
    "CORR20": "Corr($close, Log($volume+1), 20)",
    "KLOW": "(Less($open, $close)-$low)/$open",
}
"""RD-Agent's own (``rdagent/utils/qlib.py``, ``ALPHA20``)."""

_CODE = """import numpy as np
import pandas as pd

data = pd.read_hdf("daily_pv.h5", key="data").sort_index()
by_stock = lambda column: column.groupby(level="instrument", group_keys=False)
gap = data["$open"] / by_stock(data["$close"]).shift(1) - 1
factor = by_stock(gap).transform(lambda values: values.rolling({days}).mean())
result = factor.rename("{name}").astype("float64").to_frame().dropna()
result.to_hdf("result.h5", key="data")
"""
"""As RD-Agent's LLM writes them: one rolling window, stock by stock."""

_SECOND = """static = pd.read_parquet("static_factors.parquet")
gap = gap + 0 * static["mf_net"].reindex(gap.index)
"""
_FIRST_COLUMNS = ["$close", "$open"]


def measure(folder: Path) -> list[Comparison]:
    """Measure on a market that is made for it in ``folder``, which needs 2 GB."""
    place = folder / "prediction"
    place.mkdir()
    run_child(MODULE, ["make", place], place)
    whole, alpha, bare, on_cut = [], [], [], []
    for _ in range(_ROUNDS):
        took = run_child(MODULE, ["predict", place], place)
        whole.append(took["all"])
        alpha.append(took["alpha"])
        on_cut.append(run_child(MODULE, ["bare", place / "cut"], place))
        bare.append(run_child(MODULE, ["bare", place / "full"], place))
    shutil.rmtree(place)
    what = f"a day's prediction on two files, {STOCKS:,} stocks, {len(_ALPHA)} Alpha, {MINED} mined"
    return [
        compare(f"{what} / the factors' bare code on both files", "s", whole, bare, Limit(Bound.RATIO, 1.1)),
        compare(
            "the same / the bare code on the days cut out of them",
            "s",
            whole,
            on_cut,
            Limit(Bound.RATIO, 1.5),
        ),
        compare("the same, Alpha features / all of it", "s", alpha, whole),
    ]


def _codes() -> dict[str, str]:
    codes = {}
    for number in range(MINED):
        code = _CODE.format(name=f"Gap{number:02d}", days=5 + number)
        codes[f"Gap{number:02d}"] = (
            code.replace("factor = by_stock", f"{_SECOND}factor = by_stock") if _reads_both(number) else code
        )
    return codes


def _reads_both(number: int) -> bool:
    return number % 2 == 1


def _reads(number: int) -> list[dict[str, Any]]:
    """What an audit notes of the code's files."""
    first = {"name": "daily_pv.h5", "columns": _FIRST_COLUMNS, "dated": True}
    second = {"name": SECOND_FILE, "columns": ["mf_net"], "dated": True}
    return [first, second] if _reads_both(number) else [first]


def _make(place: Path) -> bool:
    """Write the market, the bundle, and the cut that the bare code reads."""
    from rdagent_sota_patch.demo.synthetic_market import (
        MarketSpec,
        simulate_market,
        write_factor_data,
        write_qlib_data,
    )
    from rdagent_sota_patch.scoring.mined import MinedFactor, days_to_read

    market = simulate_market(MarketSpec(stocks=STOCKS, start=_START, end=_END))
    write_qlib_data(market, place / "qlib")
    write_factor_data(market, place / "full", place / "debug")
    days = days_to_read(MinedFactor("", "", _LOOKBACK, None))
    assert days is not None
    frame = market.frame()
    cut = frame.loc[market.days[-days] :]
    cut.index = cut.index.remove_unused_levels()
    (place / "cut").mkdir()
    cut.to_hdf(place / "cut" / "daily_pv.h5", key="data", mode="w")
    for rows, target in ((frame, place / "full"), (cut, place / "cut")):
        _second_table(rows).to_parquet(target / SECOND_FILE)
    _make_bundle(place / "bundle")
    return True


def _second_table(frame: Any) -> Any:
    """As wide as the first, with the same rows: money flow and daily basics."""
    names = ("mf_net", "mf_large", "mf_small", "db_turnover", "db_pe", "db_pb")
    return frame.set_axis(names[: frame.shape[1]], axis=1).astype("float32")


def _make_bundle(folder: Path) -> None:
    """A bundle made by hand, with its model, order and factors exchanged for larger ones."""
    import lightgbm
    import numpy as np

    from rdagent_sota_patch.bundle.documents import (
        BOOSTER_NAME,
        FACTORS_NAME,
        MANIFEST_NAME,
        META_NAME,
        ORDER_NAME,
    )
    from tests.bundle.made import edit_document, make_bundle, replace_file

    make_bundle(folder, replay=False)
    codes = _codes()
    order = sorted([*_ALPHA, *codes])
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(20_000, len(order)))
    settings = {"verbosity": -1, "num_leaves": 64, "num_threads": 1}
    booster = lightgbm.train(
        settings, lightgbm.Dataset(samples, samples[:, 0] + rng.normal(size=20_000)), 200
    )
    replace_file(folder, BOOSTER_NAME, booster.model_to_string().encode())
    for name, code in codes.items():
        replace_file(folder, f"factors/factor_{name}.py", code.encode())

    def set_order(document: dict[str, Any]) -> None:
        document.update(
            factor_order=order,
            alpha_count=len(_ALPHA),
            alpha158_count=len(_ALPHA),
            dynamic_factor_count=len(codes),
            dynamic_factor_order=list(codes),
        )

    def set_meta(document: dict[str, Any]) -> None:
        document["alpha"] = [{"name": name, "expression": _ALPHA[name]} for name in sorted(_ALPHA)]
        document["feature_importance"] = None
        document["processors"] = [
            {
                **document["processors"][0],
                "columns": order,
                "mean": [0.0] * len(order),
                "std": [1.0] * len(order),
            },
            document["processors"][1],
        ]

    def set_factors(document: dict[str, Any]) -> None:
        pattern = document["factors"][0]
        document["factors"] = [
            {**pattern, "index": number, "name": name, "code_relpath": f"factors/factor_{name}.py", "loop": 0}
            for number, name in enumerate(codes, start=1)
        ]

    def set_audit(document: dict[str, Any]) -> None:
        for name in [
            name for name in document["files"] if name.startswith("factors/factor_") and "Gap" not in name
        ]:
            del document["files"][name]
            (folder / name).unlink()
        document["audit"] = {
            "schema_version": 2,
            "audited_at_utc": "2024-01-01T00:00:00+00:00",
            "data_start": f"{_START}",
            "data_end": f"{_END}",
            "cuts": [],
            "factors": [
                {
                    "name": name,
                    "causal": True,
                    "changed_share": 0.0,
                    "max_change": None,
                    "lookback_days": _LOOKBACK,
                    "code_sha256": hashlib.sha256(code.encode()).hexdigest(),
                    "reads": _reads(number),
                }
                for number, (name, code) in enumerate(codes.items())
            ],
        }

    edit_document(folder, ORDER_NAME, set_order)
    edit_document(folder, META_NAME, set_meta)
    edit_document(folder, FACTORS_NAME, set_factors)
    edit_document(folder, MANIFEST_NAME, set_audit)


def _predict(place: Path) -> dict[str, float]:
    """Seconds of one prediction, from the bundle to the written file: of all of it, and of its Alpha features."""
    start = time.perf_counter()
    from rdagent_sota_patch.bundle.opening import open_bundle
    from rdagent_sota_patch.scoring.market_days import MarketFiles, read_calendar
    from rdagent_sota_patch.scoring.prediction import PredictOptions, predict_day
    from rdagent_sota_patch.scoring.scores_file import write_scores

    files = MarketFiles(place / "full", place / "qlib")
    day = read_calendar(files.qlib_dir)[-1]
    bundle = open_bundle(place / "bundle", replay=False)
    prediction = predict_day(bundle, files, PredictOptions(day.date(), jobs=_JOBS), lambda *_: None)
    write_scores(prediction, place / "scores.csv")
    took = time.perf_counter() - start
    assert len(prediction.scores) == STOCKS, prediction.left_out
    return {**prediction.seconds, "all": took}


def _bare(data: Path) -> float:
    """Seconds of the factors' code alone, as many at a time, on the files of a folder."""

    def run(item: tuple[str, str]) -> None:
        work = data.parent / f"bare-{item[0]}"
        work.mkdir()
        (work / "factor.py").write_text(item[1], encoding="utf-8")
        for file in data.iterdir():
            os.link(file, work / file.name)
        subprocess.run([sys.executable, "factor.py"], cwd=work, check=True)
        shutil.rmtree(work)

    start = time.perf_counter()
    with ThreadPoolExecutor(_JOBS) as pool:
        list(pool.map(run, _codes().items()))
    return time.perf_counter() - start


if __name__ == "__main__":
    _work = {"make": _make, "predict": _predict, "bare": _bare}[sys.argv[1]]
    print(json.dumps(_work(Path(sys.argv[2]))))
