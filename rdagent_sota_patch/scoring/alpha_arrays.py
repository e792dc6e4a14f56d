"""Qlib's expressions on arrays of days by stocks: what Qlib computes stock by stock, for all stocks at once.

For the few days of a live prediction. A window is looked at as a whole, where Qlib carries running sums along; so a
value may differ from Qlib's in float32's last bit, and where a window's numbers cancel almost wholly, as far as Qlib's
sums are off. Sources: ``qlib/data/ops.py``, ``qlib/data/_libs/rolling.pyx``, and pandas' rolling windows.

A stock's rows begin and end with its files. A row in between without a value counts as a row (``WMA``, ``IdxMax``); one
before the stock's first does not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.bundle.expressions import FIELD, parse
from rdagent_sota_patch.scoring.market_days import members_on, read_calendar, read_field, read_memberships

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_FLAT = 2e-05
"""Standard deviation up to which Qlib takes a window for constant (``Corr``, ``Rsquare``)."""

_READ = 128
"""Days that are read of a field at first: most expressions look at 60."""

_RESERVED = frozenset({
    "con", "prn", "aux", "nul", *(f"com{number}" for number in range(10)), *(f"lpt{number}" for number in range(10)),
})  # fmt: skip
"""Stocks whose folder Qlib calls otherwise (``code_to_fname``)."""

_PAIRS: Mapping[str, Any] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Power": np.power,
    "Greater": np.maximum, "Less": np.minimum, "Gt": np.greater, "Ge": np.greater_equal, "Lt": np.less,
    "Le": np.less_equal, "Eq": np.equal, "Ne": np.not_equal, "And": np.bitwise_and, "Or": np.bitwise_or,
}  # fmt: skip
_SAME_DAYS = frozenset({"Gt", "Ge", "Lt", "Le", "Eq", "Ne", "And", "Or"})
"""What pandas refuses for series of different days, or answers otherwise than with true and false."""

_ELEMENTS: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "Abs": np.abs,
    "Sign": lambda values: np.sign(values.astype(np.float32)),
    "Log": np.log,
}
_SIGNS: Mapping[type[ast.AST], str] = {
    ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div", ast.Pow: "Power", ast.BitAnd: "And",
    ast.BitOr: "Or", ast.Gt: "Gt", ast.GtE: "Ge", ast.Lt: "Lt", ast.LtE: "Le", ast.Eq: "Eq", ast.NotEq: "Ne",
}  # fmt: skip


class Unknown(Exception):
    """An expression that is left to Qlib."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """By day and stock, the values, and which of the rows the stock has."""

    values: NDArray[Any]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class AlphaArrays:
    """Fields of Qlib's data as far as expressions look back from a day, and what was computed of them.

    Attributes:
        provider: Its folder.
        instruments: The stocks, in the order of the columns.
        last: Position of the last day in Qlib's calendar.
    """

    provider: Path
    instruments: tuple[str, ...]
    last: int
    _fields: dict[str, _Rows] = field(default_factory=dict)
    _known: dict[tuple[str, int], _Rows] = field(default_factory=dict)

    def compute(self, expression: str, days: int) -> NDArray[np.float32]:
        """The values of an expression on the last days, by day and stock, as Qlib hands them over.

        Raises:
            Unknown: It has an operator, or a use of one, that is left to Qlib.
            BundleError: ``expression-refused``, ``bad-market-data``.
        """
        self._known.clear()
        try:
            found = self._evaluate(parse(expression), days)
        except RecursionError as error:
            raise Unknown("it nests too deep") from error
        if not isinstance(found, _Rows):
            raise Unknown("it has no field")
        values: NDArray[np.float32] = np.where(found.present, found.values, np.nan).astype(np.float32)
        return values

    def rows(self, expressions: Sequence[str], days: int) -> NDArray[np.bool_]:
        """Which stocks have a row on the last days: those that any field of the expressions reaches to."""
        names = {
            part.id
            for expression in expressions
            for part in ast.walk(parse(expression))
            if isinstance(part, ast.Name)
        }
        fields = [self._field(name.removeprefix(FIELD), days) for name in names if name.startswith(FIELD)]
        present: NDArray[np.bool_] = np.logical_or.reduce([each.present for each in fields])
        return present

    def _evaluate(self, node: ast.expr, days: int) -> _Rows | float | int:
        if isinstance(node, ast.Constant):
            return node.value  # type: ignore[return-value]
        key = ast.dump(node), days
        if key not in self._known:
            found = self._compute(node, days)
            if not isinstance(found, _Rows):
                return found
            self._known[key] = found
        return self._known[key]

    def _compute(self, node: ast.expr, days: int) -> _Rows | float | int:
        match node:
            case ast.Name(id=name) if name.startswith(FIELD):
                return self._field(name.removeprefix(FIELD), days)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.BinOp(left=left, op=op, right=right):
                return self._pair(_SIGNS[type(op)], left, right, days)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._pair(_SIGNS[type(op)], left, right, days)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self._call(name, arguments, days)
        raise Unknown(ast.unparse(node))

    def _call(self, name: str, arguments: Sequence[ast.expr], days: int) -> _Rows | float | int:
        found: _Rows | float | int
        match arguments:
            case [one] if name in _ELEMENTS:
                of = self._series(one, days)
                with np.errstate(all="ignore"):
                    found = _Rows(_ELEMENTS[name](of.values), of.present)
            case [one, by] if name in ("Ref", "Delta"):
                found = self._shift(name, one, _window(by), days)
            case [one, by] if name in _WINDOWS:
                found = self._roll(_WINDOWS[name], one, _window(by), days)
            case [left, right] if name in _PAIRS:
                found = self._pair(name, left, right, days)
            case [one, by, ast.Constant(value=int() | float() as share)] if name == "Quantile":
                found = self._roll(lambda window: _quantile(window, share), one, _window(by), days)
            case [left, right, by] if name in ("Corr", "Cov"):
                found = self._roll_pair(name, left, right, _window(by), days)
            case [condition, left, right] if name == "If":
                found = self._choose(condition, left, right, days)
            case _:
                raise Unknown(name)
        return found

    def _shift(self, name: str, one: ast.expr, back: int, days: int) -> _Rows:
        of = self._series(one, days + back)
        if of.values.dtype.kind != "f":
            raise Unknown("true or false of another day")
        then = np.where(of.present, of.values, np.nan)[:days].astype(of.values.dtype)
        return _Rows(then if name == "Ref" else of.values[back:] - then, of.present[back:])

    def _field(self, name: str, days: int) -> _Rows:
        known = self._fields.get(name)
        if known is None or len(known.values) < days:
            span = self.last - max(days, _READ) + 1, self.last
            known = self._fields[name] = _Rows(*read_field(self.provider, self.instruments, name, span))
        return _Rows(known.values[-days:], known.present[-days:])

    def _series(self, node: ast.expr, days: int) -> _Rows:
        found = self._evaluate(node, days)
        if not isinstance(found, _Rows):
            raise Unknown("a number where Qlib takes an expression")
        return found

    def _pair(self, name: str, left: ast.expr, right: ast.expr, days: int) -> _Rows | float | int:
        both = self._evaluate(left, days), self._evaluate(right, days)
        rows = [one for one in both if isinstance(one, _Rows)]
        if not rows:
            raise Unknown("numbers alone")
        values = [one.values if isinstance(one, _Rows) else one for one in both]
        if len(rows) == 2:
            if name in _SAME_DAYS and not np.array_equal(rows[0].present, rows[1].present):
                raise Unknown(f"{name} of fields of different days")
            values = [_missing_as_nan(one, rows) for one in rows]
        try:
            with np.errstate(all="ignore"):
                return _Rows(_PAIRS[name](*values), _either(rows))
        except TypeError as error:  # Such as bool less bool: Qlib says the same.
            raise Unknown(str(error)) from error

    def _choose(self, condition: ast.expr, left: ast.expr, right: ast.expr, days: int) -> _Rows:
        asked = self._series(condition, days)
        both = self._evaluate(left, days), self._evaluate(right, days)
        for one in both:
            # Qlib chooses by position, whatever days the three have.
            if isinstance(one, _Rows) and not np.array_equal(one.present, asked.present):
                raise Unknown("If on fields of different days")
        values = [one.values if isinstance(one, _Rows) else one for one in both]
        return _Rows(np.where(asked.values, *values), asked.present)

    def _roll(self, reduce: Callable[[Window], NDArray[Any]], one: ast.expr, size: int, days: int) -> _Rows:
        of = self._series(one, days + size - 1)
        if reduce in _REGRESSIONS and (np.isinf(of.values) & of.present).any():
            raise Unknown("a regression on what is not finite")  # Qlib's sums never get rid of it.
        values = _as_pandas_rolls(of)
        windows = (Window(values[day : day + size], of.present[day : day + size]) for day in range(days))
        with np.errstate(all="ignore"):
            return _Rows(np.stack([reduce(window) for window in windows]), of.present[size - 1 :])

    def _roll_pair(self, name: str, left: ast.expr, right: ast.expr, size: int, days: int) -> _Rows:
        a, b = self._series(left, days + size - 1), self._series(right, days + size - 1)
        if name == "Corr" and not np.array_equal(a.present, b.present):
            raise Unknown("Corr of fields of different days")
        x, y = _as_pandas_rolls(a), _as_pandas_rolls(b)
        both = np.isfinite(x) & np.isfinite(y)
        found = []
        with np.errstate(all="ignore"):
            for day in range(days):
                rows = slice(day, day + size)
                value = _covariance(x[rows], y[rows], both[rows], correlation=name == "Corr")
                if name == "Corr":
                    value[_is_flat(x[rows]) | _is_flat(y[rows])] = np.nan
                found.append(value)
        return _Rows(np.stack(found), (a.present | b.present)[size - 1 :])


def compute_on_arrays(
    provider: Path,
    market: str,
    days: pd.DatetimeIndex,
    expressions: Mapping[str, str],
    row_expressions: Sequence[str],
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Features of all stocks of the market on some days.

    Args:
        provider: Qlib's provider folder.
        market: Whose stocks.
        days: Consecutive trading days of Qlib's calendar, ascending.
        expressions: Feature name to Qlib expression.
        row_expressions: Expressions that decide, with the others, which rows there are.

    Returns:
        Index (datetime, instrument), sorted; a float32 column for each feature that was computed. And the names of
        those that are left to Qlib; all of them where a stock's name is one that Qlib stores in its own way.

    Raises:
        BundleError: ``unknown-market``, ``bad-market-data``, ``expression-refused``.
    """
    calendar = read_calendar(provider)
    memberships = read_memberships(provider, market)
    members = [set(members_on(memberships, day)) for day in days]
    instruments = tuple(sorted(set().union(*members)))
    if not instruments or any(name.lower() in _RESERVED for name in instruments):
        return pd.DataFrame(), tuple(expressions)
    arrays = AlphaArrays(provider, instruments, int(calendar.get_indexer(days[-1:])[0]))
    belongs = np.array([[name in day for name in instruments] for day in members])
    rows = arrays.rows([*expressions.values(), *row_expressions], len(days)) & belongs
    columns: dict[str, NDArray[np.float32]] = {}
    left: list[str] = []
    for name, expression in expressions.items():
        try:
            columns[name] = arrays.compute(expression, len(days))[rows]
        except Unknown:
            left.append(name)
    at_day, at_stock = np.nonzero(rows)
    index = pd.MultiIndex.from_arrays(
        [days[at_day], np.array(instruments, dtype=object)[at_stock]], names=["datetime", "instrument"]
    )
    frame: pd.DataFrame = pd.DataFrame(columns, index=index)
    return frame, tuple(left)


def _window(node: ast.expr) -> int:
    """The number of rows that an operator looks at; whole and above 0, since others never forget or look ahead."""
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value > 0:
        return node.value
    raise Unknown("a window that is not a number of days")


def _either(rows: Sequence[_Rows]) -> NDArray[np.bool_]:
    """Two series are aligned to the days of both, which must adjoin: pandas counts rows, not days."""
    present: NDArray[np.bool_] = np.logical_or.reduce([one.present for one in rows])
    starts = present & ~np.vstack([np.zeros((1, present.shape[1]), dtype=bool), present[:-1]])
    if (starts.sum(axis=0) > 1).any():
        raise Unknown("fields of days that do not adjoin")
    return present


def _missing_as_nan(one: _Rows, rows: Sequence[_Rows]) -> NDArray[Any]:
    """Values as pandas aligns them: NaN where only the other series has a row."""
    lacking = np.logical_or.reduce([each.present for each in rows]) & ~one.present
    if not lacking.any():
        return one.values
    if one.values.dtype.kind != "f":
        raise Unknown("true or false on days that one of two fields lacks")
    return np.where(lacking, np.nan, one.values).astype(one.values.dtype)


def _as_pandas_rolls(of: _Rows) -> NDArray[np.float64]:
    """As pandas' rolling windows take values: float64, and NaN for what is not finite or not there."""
    values = of.values.astype(np.float64)
    values[~of.present | ~np.isfinite(values)] = np.nan
    return values


# ------------------------------------------------------------------------------------------------ windows


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The rows of a window, by day and stock, finite or NaN; and which of them the stock has."""

    values: NDArray[np.float64]
    present: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which have a value."""
        return ~np.isnan(self.values)


def _nan_unless(enough: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.where(enough, values, np.nan)
    return result


def _sum(window: Window) -> NDArray[np.float64]:
    return _nan_unless(window.known.sum(axis=0) > 0, np.nansum(window.values, axis=0))


def _mean(window: Window) -> NDArray[np.float64]:
    count = window.known.sum(axis=0)
    return _nan_unless(count > 0, np.nansum(window.values, axis=0) / count)


def _variance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of samples; exactly 0 for a window of one value, as pandas has it."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean = np.nansum(values, axis=0) / count
    variance = np.nansum((values - mean) ** 2, axis=0) / (count - 1)
    flat = np.where(known, values, -np.inf).max(axis=0) == np.where(known, values, np.inf).min(axis=0)
    return _nan_unless(count > 1, np.where(flat, 0.0, variance))


def _is_flat(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isclose(np.sqrt(_variance(values)), 0, atol=_FLAT)


def _extreme(window: Window, *, highest: bool) -> NDArray[np.float64]:
    bound = -np.inf if highest else np.inf
    filled = np.where(window.known, window.values, bound)
    return _nan_unless(window.known.sum(axis=0) > 0, filled.max(axis=0) if highest else filled.min(axis=0))


def _place_of_extreme(window: Window, *, highest: bool) -> NDArray[np.float64]:
    """From 1, counted from the stock's first row in the window; NumPy takes a NaN for the extreme."""
    bound = -np.inf if highest else np.inf
    rows = np.where(window.present, window.values, bound)
    place = rows.argmax(axis=0) if highest else rows.argmin(axis=0)
    return _nan_unless(window.known.sum(axis=0) > 0, place - window.present.argmax(axis=0) + 1)


def _quantile(window: Window, share: float) -> NDArray[np.float64]:
    """Linear between the two values next to it."""
    count = window.known.sum(axis=0)
    at = share * np.maximum(count - 1, 0)
    lower = np.floor(at).astype(np.int64)
    upper = np.minimum(lower + 1, np.maximum(count - 1, 0))
    ordered = np.sort(window.values, axis=0)  # NaN last.
    low = np.take_along_axis(ordered, lower[None], axis=0)[0]
    high = np.take_along_axis(ordered, upper[None], axis=0)[0]
    return _nan_unless(count > 0, low + (high - low) * (at - lower))


def _rank(window: Window) -> NDArray[np.float64]:
    """Of the last value among all, as a share; equal ones share the mean of their ranks."""
    last = window.values[-1]
    below = (window.values < last).sum(axis=0)
    equal = (window.values == last).sum(axis=0)
    return _nan_unless(~np.isnan(last), (below + (equal + 1) / 2) / window.known.sum(axis=0))


def _deviation(window: Window) -> NDArray[np.float64]:
    return _nan_unless(
        window.known.sum(axis=0) > 0, _mean(Window(np.abs(window.values - _mean(window)), window.present))
    )


def _weighted(window: Window) -> NDArray[np.float64]:
    weights = np.cumsum(window.present, axis=0, dtype=np.float64)
    weights /= weights[-1] * (weights[-1] + 1) / 2
    count = window.known.sum(axis=0)
    return _nan_unless(count > 0, np.nansum(weights * window.values, axis=0) / count)


def _regress(window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Slope and intercept of the values over 1 to the window's size, and the share that they explain."""
    known = window.known
    count = known.sum(axis=0)
    places = np.where(known, np.arange(1, len(known) + 1, dtype=np.float64)[:, None], 0)
    values = np.where(known, window.values, 0)
    x, y = places.sum(axis=0), values.sum(axis=0)
    mean_x, mean_y = x / count, y / count
    off_x, off_y = np.where(known, places - mean_x, 0), np.where(known, values - mean_y, 0)
    xx, xy, yy = (off_x**2).sum(axis=0), (off_x * off_y).sum(axis=0), (off_y**2).sum(axis=0)
    slope = xy / xx
    return slope, mean_y - slope * mean_x, xy**2 / (xx * yy)


def _slope(window: Window) -> NDArray[np.float64]:
    return _regress(window)[0]


def _residual(window: Window) -> NDArray[np.float64]:
    slope, intercept, _ = _regress(window)
    residual: NDArray[np.float64] = window.values[-1] - (slope * len(window.values) + intercept)
    return residual


def _explained(window: Window) -> NDArray[np.float64]:
    return _nan_unless(~_is_flat(window.values), _regress(window)[2])


def _covariance(
    x: NDArray[np.float64], y: NDArray[np.float64], both: NDArray[np.bool_], *, correlation: bool
) -> NDArray[np.float64]:
    count = both.sum(axis=0)
    x, y = np.where(both, x, np.nan), np.where(both, y, np.nan)
    mean_x, mean_y = np.nansum(x, axis=0) / count, np.nansum(y, axis=0) / count
    covariance = np.nansum((x - mean_x) * (y - mean_y), axis=0) / (count - 1)
    if not correlation:
        return _nan_unless(count > 1, covariance)
    result: NDArray[np.float64] = covariance / np.sqrt(_variance(x) * _variance(y))
    return result


_REGRESSIONS = (_slope, _residual, _explained)
_WINDOWS: Mapping[str, Callable[[Window], NDArray[Any]]] = {
    "Sum": _sum,
    "Mean": _mean,
    "Std": lambda window: np.sqrt(_variance(window.values)),
    "Var": lambda window: _variance(window.values),
    "Max": lambda window: _extreme(window, highest=True),
    "Min": lambda window: _extreme(window, highest=False),
    "IdxMax": lambda window: _place_of_extreme(window, highest=True),
    "IdxMin": lambda window: _place_of_extreme(window, highest=False),
    "Med": lambda window: _quantile(window, 0.5),
    "Rank": _rank,
    "Count": lambda window: window.known.sum(axis=0).astype(np.float64),
    "Mad": _deviation,
    "WMA": _weighted,
    "Slope": _slope,
    "Rsquare": _explained,
    "Resi": _residual,
}
