"""Alpha features on arrays, against Qlib itself on a market with everything that markets have."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import AlphaFeature
from rdagent_sota_patch.bundle.expressions import OPERATORS
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.demo.synthetic_market import MarketSpec, simulate_market, write_qlib_data
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring import alpha
from rdagent_sota_patch.scoring.alpha import AlphaRequest, compute_alpha, compute_live
from rdagent_sota_patch.scoring.alpha_arrays import compute_on_arrays
from rdagent_sota_patch.scoring.market_days import read_calendar
from tests.bundle.made import make_bundle

SPEC = MarketSpec(seed=5, stocks=51, start=date(2020, 1, 6), end=date(2020, 10, 30))
BEGIN = "2020-01-06"
MARKET, UNEVEN = "few", "uneven"
"""Stocks with a trouble each; and, by itself, one whose fields end on different days."""

LABEL = ("Ref($close, -2)/Ref($close, -1) - 1",)
LEFT_TO_QLIB = {"Skew", "Kurt", "EMA", "Not", "Mask", "P", "PRef"}

ONE_OF_EACH = {
    **{
        name: f"{name}($close/$open, 7)"
        for name in (
            *("Ref", "Max", "Min", "Sum", "Mean", "Std", "Var", "Med", "Mad", "Slope", "Rsquare"),
            *("Resi", "Rank", "Count", "WMA", "Delta", "IdxMax", "IdxMin"),
        )
    },
    "Quantile": "Quantile($close, 10, 0.8)",
    "Corr": "Corr($close, Log($volume + 1), 9)",
    "Cov": "Cov($close/$open, $volume, 9)",
    **{name: f"{name}($close - $open)" for name in ("Abs", "Sign")},
    "Log": "Log($volume)",
    **{name: f"{name}($close, $open)" for name in ("Add", "Sub", "Mul", "Div", "Greater", "Less")},
    "Power": "Power($close/$open, 2)",
    **{name: f"Mean({name}($close, Ref($close, 1)), 5)" for name in ("Gt", "Ge", "Lt", "Le", "Eq", "Ne")},
    **{name: f"Sum({name}($close > Ref($close, 2), $volume > Ref($volume, 1)), 6)" for name in ("And", "Or")},
    "If": "If($close > Ref($close, 1), $volume, 0)",
}
MORE = {
    "of a late field": "Mean($late, 5) / $close",
    "compared with a day before the first": "Mean($close > Ref($close, 1), 20)",
    "a number from nothing": "Sum(If($close > 0, 1, 1), 20)",
    "to the power of 0": "Sum(Power($close, 0), 20)",
    "a factor": "2 ** ($close / $open)",
    "from a number": "1 - $close / 3e-1",
    "infinite": "$close / ($volume - $volume)",
    "a window of what is infinite": "Mean($close / ($volume * 0), 5)",
    "nested": "Std(Abs($close/Ref($close, 1)-1)*$volume, 20)/(Mean(Abs($close/Ref($close, 1)-1)*$volume, 20)+1e-12)",
    "deep": "Mean(Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 10), 5)",
    "longer than what is read at first": "Mean($close, 150)",
    "constant": "Rsquare($flat, 10)",
    "flat": "Std($flat, 10)",
    "against constant": "Corr($flat, $close, 10)",
}
FOR_QLIB = {
    "by remembering": "EMA($close, 12)/$close",
    "by all there is": "Mean($close, 0)",
    "by a regression on what is not finite": "Slope($close / ($volume * 0), 5)",
    "by skew": "Skew($close, 10)",
    "by its depth": " + ".join(["$close"] * 600),
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qlib's data with halts, late and ended stocks, a flat one, days of no volume, and a field that begins late."""
    folder = tmp_path_factory.mktemp("arrays") / "qlib"
    market = simulate_market(SPEC)
    write_qlib_data(market, folder)
    stocks = sorted((folder / "features").iterdir())[:12]
    lines = [f"{stock.name.upper()}\t2020-01-06\t2099-12-31\n" for stock in stocks]
    (folder / "instruments" / f"{UNEVEN}.txt").write_text(lines.pop(7))
    (folder / "instruments" / f"{MARKET}.txt").write_text("".join(lines))
    rng = np.random.default_rng(0)

    def change(stock: Path, field: str, values: np.ndarray, begin: int = 0) -> None:
        np.hstack([[begin], values]).astype("<f4").tofile(stock / f"{field}.day.bin")

    for number, stock in enumerate(stocks):
        whole = {path.name.split(".")[0]: np.fromfile(path, "<f4")[1:] for path in stock.iterdir()}
        days = len(whole["close"])
        whole["flat"] = np.full(days, np.float32(12.3456))
        change(stock, "late", whole["close"][days - 9 - number :], days - 9 - number)
        for field, values in whole.items():
            match number:
                case 1:  # Halted at times, and now.
                    values[rng.random(days) < 0.2] = np.nan
                    values[-1] = np.nan
                case 2:  # Listed three days ago.
                    change(stock, field, values[-3:], days - 3)
                    continue
                case 3:  # Ended four days ago.
                    change(stock, field, values[:-4])
                    continue
                case 4 if field == "volume":  # Not traded for weeks.
                    values[-30:] = 0
                case 5 if field != "volume":  # At one price for weeks.
                    values[-40:] = values[-40]
                case 6 if field == "open":  # A field that is not there.
                    (stock / "open.day.bin").unlink()
                    continue
                case 7 if field == "close":  # Ends a day before the other fields.
                    change(stock, field, values[:-1])
                    continue
                case 8:  # Listed for less than most windows.
                    change(stock, field, values[-15:], days - 15)
                    continue
            change(stock, field, values)
    return folder


def compare(
    provider: Path, expressions: dict[str, str], last: int = 1, market: str = MARKET
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames on the last days: on arrays, and by Qlib."""
    days = read_calendar(provider)[-last:]
    ours, left = compute_on_arrays(provider, market, days, expressions, LABEL)
    assert left == ()
    first, end = f"{days[0]:%Y-%m-%d}", f"{days[-1]:%Y-%m-%d}"
    # From the start, as a training: asked for a day alone, Qlib looks one day less back than Delta needs.
    theirs = compute_alpha(AlphaRequest(provider, market, BEGIN, end, first, expressions, LABEL, jobs=1))
    return ours, theirs


def require_equal(ours: pd.DataFrame, theirs: pd.DataFrame, tolerance: float = 2e-6) -> None:
    """The same rows, NaN and infinite values in the same places, numbers within some units of float32's last place."""
    pd.testing.assert_index_equal(ours.index, theirs.index)
    assert list(ours.columns) == list(theirs.columns)
    assert (ours.dtypes == "float32").all()
    for name in ours.columns:
        np.testing.assert_allclose(
            ours[name].to_numpy(), theirs[name].to_numpy(), rtol=tolerance, atol=1e-7, err_msg=name
        )


def test_every_operator_as_qlib_has_it(provider: Path) -> None:
    """One expression of each operator and many more: the rows and the values of Qlib, on one day and on several."""
    assert ONE_OF_EACH.keys() | LEFT_TO_QLIB == OPERATORS
    expressions = {**ONE_OF_EACH, **MORE}
    for last in (1, 8):
        ours, theirs = compare(provider, expressions, last)
        require_equal(ours, theirs)
        nothing = set(theirs.columns[theirs.isna().all()])
        assert nothing <= {"constant", "against constant", "a window of what is infinite"}, nothing


def test_fields_that_end_on_different_days(provider: Path) -> None:
    """What Qlib can compute of them it computes likewise; where it chooses by position, or fails, it is asked."""
    by_position = {"Corr", "If", "And", "Or", "Gt", "Ge", "Lt", "Le", "Eq", "Ne"}
    even = {name: text for name, text in ONE_OF_EACH.items() if name not in by_position}
    require_equal(*compare(provider, even, market=UNEVEN))
    days = read_calendar(provider)[-1:]
    _, left = compute_on_arrays(
        provider, UNEVEN, days, {name: ONE_OF_EACH[name] for name in ("Corr", "If")}, LABEL
    )
    assert left == ("Corr", "If")


def test_alpha158_and_alpha360(provider: Path) -> None:
    """All features of Qlib's two libraries."""
    from qlib.contrib.data.loader import Alpha158DL, Alpha360DL

    for loader in (Alpha158DL, Alpha360DL):
        expressions, names = loader.get_feature_config()
        wanted = dict(zip(names, expressions, strict=True))
        require_equal(*compare(provider, wanted))


def test_random_expressions(provider: Path) -> None:
    """Operators put together at random, up to three deep."""
    chance = random.Random(11)

    def draw(depth: int) -> str:
        if not depth or chance.random() < 0.15:
            return chance.choice(["$close", "$open", "$high", "$volume", "($close/$open)", "Ref($close, 2)"])
        one, other = draw(depth - 1), draw(depth - 1)
        size = chance.choice([1, 2, 5, 10, 20])
        rolling = chance.choice(["Mean", "Max", "Min", "Rank", "Count", "Med", "Ref", "Delta", "Mad", "WMA"])
        return chance.choice([
            f"{rolling}({one}, {size})",
            f"{chance.choice(['Greater', 'Less'])}({one}, {other})",
            f"If({one} > {other}, {one}, {other})",
            f"({one} {chance.choice('+-*')} {other})",
            f"({one} / ({other} + 1e-12))",
            f"Abs({one})",
        ])  # fmt: skip

    expressions = {f"r{number}": draw(3) for number in range(80)}
    days = read_calendar(provider)[-2:]
    _, left = compute_on_arrays(provider, MARKET, days, expressions, LABEL)
    known = {name: text for name, text in expressions.items() if name not in left}
    assert len(known) >= 60
    require_equal(*compare(provider, known, last=2), tolerance=1e-5)


def test_what_is_left_to_qlib(provider: Path) -> None:
    """What never forgets, what looks ahead, and what Qlib alone knows is named and not computed."""
    days = read_calendar(provider)[-1:]
    ours, left = compute_on_arrays(provider, MARKET, days, {"KLEN": "($high-$low)/$open", **FOR_QLIB}, LABEL)
    assert list(ours.columns) == ["KLEN"]
    assert left == tuple(FOR_QLIB)
    assert compute_on_arrays(provider, MARKET, days, {"next": LABEL[0]}, LABEL)[1] == ("next",)
    with pytest.raises(BundleError) as raised:
        compute_on_arrays(provider, MARKET, days, {"evil": "__import__('os').getcwd()"}, LABEL)
    assert raised.value.slug == "expression-refused"


def test_a_days_members_alone(provider: Path, tmp_path: Path) -> None:
    """Of a market whose stocks change within the days, each day has its own."""
    days = read_calendar(provider)[-3:]
    stocks = sorted(path.name.upper() for path in (provider / "features").iterdir())
    market = provider / "instruments" / "part.txt"
    lines = [f"{stocks[0]}\t2020-01-06\t{days[1]:%Y-%m-%d}", f"{stocks[9]}\t{days[1]:%Y-%m-%d}\t2099-12-31"]
    market.write_text("\n".join(lines) + "\n")
    request = AlphaRequest(
        *(provider, "part", BEGIN, f"{days[-1]:%Y-%m-%d}", f"{days[0]:%Y-%m-%d}"),
        *({"KLEN": "($high-$low)/$open"}, LABEL),
    )
    ours, left = compute_on_arrays(provider, "part", days, request.expressions, LABEL)
    assert not left
    assert [len(rows) for _, rows in ours.groupby("datetime")] == [1, 2, 1]
    require_equal(ours, compute_alpha(replace(request, jobs=1)))


def test_rows_that_qlib_gives_otherwise(
    provider: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of Qlib's are joined with those on arrays where both have the same rows, and refused where not."""
    copy = shutil.copytree(provider, tmp_path / "qlib")
    expressions = {"KLEN": "($high-$low)/$open", "EMA": FOR_QLIB["by remembering"]}
    meta = (
        open_bundle(make_bundle(tmp_path / "bundle").folder)
        .model[1]
        .model_copy(
            update={
                "alpha": tuple(
                    AlphaFeature(name=name, expression=text) for name, text in expressions.items()
                ),
                "instruments": MARKET,
                "label": {"LABEL0": LABEL[0]},
            }
        )
    )
    days = read_calendar(copy)[-1:]
    frame, by_qlib = compute_live(meta, copy, days, jobs=1)
    assert (list(frame.columns), by_qlib) == (["KLEN", "EMA"], ("EMA",))
    assert frame["EMA"].notna().any()
    stock = frame.index[0][1]

    def lose_a_stock_and_compute(request: AlphaRequest) -> pd.DataFrame:
        market = copy / "instruments" / f"{MARKET}.txt"
        kept = [line for line in market.read_text().splitlines(keepends=True) if not line.startswith(stock)]
        market.write_text("".join(kept))
        return compute_alpha(request)

    monkeypatch.setattr(alpha, "compute_alpha", lose_a_stock_and_compute)
    with pytest.raises(
        BundleError, match=f"1 differ, the first that of {stock} on {days[0]:%Y-%m-%d}"
    ) as raised:
        compute_live(meta, copy, days, jobs=1)
    assert raised.value.slug == "alpha-failed"
