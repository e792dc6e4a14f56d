from __future__ import annotations

import datetime as dt
import math
import pickle
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.sessions.inert import read_inert
from rdagent_sota_patch.sessions.thaw import (
    Unthawable,
    _array,
    thaw_bool,
    thaw_metrics,
    thaw_path,
    thaw_plain,
)

from .forged import Made, forge

DATA = Path(__file__).parent / "data"


def inert(value: object, protocol: int = 5) -> object:
    return read_inert(pickle.dumps(value, protocol=protocol))


@pytest.mark.parametrize("file", sorted(DATA.glob("*.pickle")), ids=lambda file: file.stem)
def test_metrics_of_every_writer(file: Path) -> None:
    """Series written by pandas 2 and 3, numpy 1 and 2, python and arrow strings read the same."""
    assert thaw_metrics(read_inert(file.read_bytes())) == {"IC": 0.01, "ICIR": 0.5}


def test_there_are_samples_of_every_writer() -> None:
    """The samples above are found."""
    assert len(list(DATA.glob("*.pickle"))) == 8


@given(st.dictionaries(st.text(), st.floats(), max_size=20), st.sampled_from([4, 5]))
def test_metrics_round_trip(metrics: dict[str, float], protocol: int) -> None:
    """Any Series of floats by name comes back bit for bit."""
    series = pd.Series(list(metrics.values()), index=pd.Index(list(metrics), dtype=object), dtype=float)
    thawed = thaw_metrics(inert(series, protocol))
    assert list(thawed) == list(metrics)
    for name, value in metrics.items():
        assert thawed[name] == value or (math.isnan(thawed[name]) and math.isnan(value))


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool", ">f8", "object"])
def test_metrics_of_other_types(dtype: str) -> None:
    """Other numeric types become floats."""
    series = pd.Series([1, 0], index=["IC", "ICIR"]).astype(np.dtype(dtype))
    assert thaw_metrics(inert(series)) == {"IC": 1.0, "ICIR": 0.0}


def test_text_that_is_backed_by_itself_is_refused() -> None:
    """A thousand deep, it ended in a RecursionError: texts lie in an array, and in no other texts."""
    backed = ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
    value: object = None
    for _ in range(2):
        dtype = Made("pandas", "StringDtype")
        value = Made(*backed, state=(dtype, value, {}))
    with pytest.raises(Unthawable, match="array in an unknown form"):
        _array(read_inert(forge(value)))


def test_metrics_of_a_slice() -> None:
    """A column of a frame, as upstream takes it, reads like any Series."""
    frame = pd.DataFrame({"0": [1.0, 2.0], "1": [3.0, 4.0]}, index=["a", "b"])
    assert thaw_metrics(inert(frame.iloc[:, 1])) == {"a": 3.0, "b": 4.0}


def test_metrics_of_a_dict() -> None:
    """A plain dict with numpy numbers works, and None is not metrics."""
    assert thaw_metrics(inert({"IC": np.float64(0.5), "n": 3})) == {"IC": 0.5, "n": 3.0}
    assert thaw_metrics(None) == {}


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"IC": [1.0]}),
        pd.Series([1.0], index=pd.MultiIndex.from_tuples([("a", "b")])),
        pd.Series([1.0]),
        pd.Series(["good"], index=["IC"]),
        pd.Series(pd.to_datetime(["2020-01-01"]), index=["IC"]),
        {"IC": "good"},
        {"IC": 10**400},
        {1: 1.0},
        "good",
        [1.0],
    ],
    ids=lambda value: type(value).__name__,
)
def test_metrics_are_never_invented(value: object) -> None:
    """What is not numbers by name is refused."""
    with pytest.raises(Unthawable):
        thaw_metrics(inert(value))


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_paths_of_other_systems_stay_pure(module: str) -> None:
    """A Windows path keeps its spelling here, whichever Python wrote it."""
    windows = thaw_path(read_inert(forge(Made(module, "WindowsPath", ("F:\\", "a", "b")))))
    assert windows == PureWindowsPath("F:/a/b")
    assert type(thaw_path(read_inert(forge(Made(module, "PosixPath", ("/", "a")))))) is PurePosixPath


def test_real_paths() -> None:
    """What this Python pickles reads back."""
    assert thaw_path(inert(Path("/a b/因子"))) == PurePosixPath("/a b/因子")
    assert thaw_path("F:\\a") == PureWindowsPath("F:/a")


@pytest.mark.parametrize("value", [Made("pathlib", "PosixPath", (1,)), Made("os", "system", ("x",)), None, 3])
def test_other_things_are_no_paths(value: object) -> None:
    """Another class, another argument or another type is refused."""
    with pytest.raises(Unthawable):
        thaw_path(read_inert(forge(value)))


def test_decisions() -> None:
    """Python's and numpy's bools are decisions; numbers and texts are not."""
    assert thaw_bool(inert(np.bool_(True))) is True
    assert thaw_bool(False) is False
    for value in (1, "true", np.float64(1), None):
        with pytest.raises(Unthawable):
            thaw_bool(inert(value))


def test_plain_data() -> None:
    """Plain data, dates, paths and numpy scalars come back as values."""
    zone = dt.timezone(dt.timedelta(hours=8))
    value = {
        "when": dt.datetime(2026, 1, 2, 3, 4, 5, 6, zone),
        "naive": dt.datetime(2026, 1, 2),
        "day": dt.date(2026, 1, 2),
        "numbers": [1, 2.5, np.int64(3), np.float32(0.5)],
        "text": np.str_("αβ"),
        "nested": {"t": (True, None, b"x")},
    }
    assert thaw_plain(inert(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        Made("datetime", "datetime", (b"short",)),
        Made("datetime", "datetime", (2026, 1, 2)),
        Made("datetime", "timedelta", (10**30, 0, 0)),
        Made("datetime", "now"),
        Made("builtins", "eval", ("1",)),
        [[[Made("a", "B")]]],
    ],
)
def test_other_plain_data_is_refused(value: object) -> None:
    """Malformed dates and other classes are refused."""
    with pytest.raises(Unthawable):
        thaw_plain(read_inert(forge(value)))


def test_shared_parts_do_not_multiply_without_end() -> None:
    """Lists that repeat each other, a billion values when written out, are refused in time."""
    value: list[object] = []
    for _ in range(30):
        value = [value, value]
    with pytest.raises(Unthawable, match="more than"):
        thaw_plain(read_inert(forge(value)))


@pytest.mark.parametrize("text", ["a/b", "0/1", "a.b", "..", "//share/a", "/root", "a", ""])
def test_a_colon_alone_makes_a_drive(text: str) -> None:
    """A plain string is a path of Windows after a drive's letter, and not after whatever sorts before a colon."""
    assert type(thaw_path(text)) is PurePosixPath
    assert type(thaw_path("C:" + text)) is PureWindowsPath


def test_numpy_text_that_is_no_text() -> None:
    """A numpy string of bytes that are no UTF-32 is not a value, and no foreign exception."""
    pickled = pickle.dumps(np.str_("ab"), protocol=5)
    raw = "ab".encode("utf-32-le")
    assert thaw_plain(read_inert(pickled)) == "ab"
    assert pickled.count(raw) == 1
    with pytest.raises(Unthawable, match="not UTF-32"):
        thaw_plain(read_inert(pickled.replace(raw, b"\xff" * len(raw))))
