"""The sealed copies: made once for each state of the data, as a whole or not at all."""

from __future__ import annotations

import shutil
import struct
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.demo.synthetic_market import (
    MarketSpec,
    simulate_market,
    write_factor_data,
    write_qlib_data,
)
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sealing import sealed_folder
from rdagent_sota_patch.sealing.sealed_folder import SealedData, make_sealed
from rdagent_sota_patch.work_folder import hold_work

DAY = date(2018, 2, 1)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qlib's data in a home of its own, and factor data with side tables."""
    folder = tmp_path_factory.mktemp("market")
    made = simulate_market(MarketSpec(stocks=51, start=date(2018, 1, 1), end=date(2018, 2, 20)))
    write_qlib_data(made, folder / ".qlib" / "qlib_data" / "cn_data")
    write_factor_data(made, folder / "full", folder / "debug")
    side = made.frame()[["$close"]].rename(columns={"$close": "pe"})
    side.to_parquet(folder / "full" / "basics.parquet")
    (folder / "full" / "names.csv").write_text("instrument,name\nSH600000,A\n")
    return folder


def seal(market: Path, store: Path, day: date = DAY) -> SealedData:
    """The sealed copies of all of it."""
    home = market / ".qlib"
    return make_sealed(
        store, day, [home / "qlib_data" / "cn_data"], [market / "full", market / "debug"], home
    )


def test_every_table_ends_before_the_day(market: Path, tmp_path: Path) -> None:
    """Side tables too; what names no day is there whole, which is said."""
    sealed = seal(market, tmp_path / "store")
    full = sealed.data_folders[market / "full"]
    for frame in (pd.read_hdf(full / "daily_pv.h5"), pd.read_parquet(full / "basics.parquet")):
        assert frame.index.get_level_values("datetime").max() == pd.Timestamp("2018-01-31")
    assert (full / "README.md").is_file()
    assert sealed.providers[market / ".qlib/qlib_data/cn_data"] == sealed.qlib_home / "qlib_data" / "cn_data"
    assert [notice for notice in sealed.notices if "names.csv has no dates" in notice]
    assert not any(path.is_symlink() for path in sealed.folder.rglob("*"))


def test_a_second_run_copies_nothing(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key tells that the data are the same; another day, or other data, has another one."""
    first = seal(market, tmp_path / "store")
    monkeypatch.setattr(sealed_folder, "_make", lambda *_: pytest.fail("made again"))
    assert seal(market, tmp_path / "store") == first
    with pytest.raises(pytest.fail.Exception):
        seal(market, tmp_path / "store", date(2018, 2, 2))


def test_a_failed_copy_leaves_nothing(market: Path, tmp_path: Path) -> None:
    """A day before all data."""
    with pytest.raises(SotaError):
        seal(market, tmp_path / "store", date(2017, 1, 1))
    assert list((tmp_path / "store").iterdir()) == []


def test_what_a_killed_process_left_is_removed(market: Path, tmp_path: Path) -> None:
    """What another one is at work in stays, whatever its number: in a container it is another one's."""
    store = tmp_path / "store"
    store.mkdir()
    abandoned = store / ".rdagent-sota-0123456789abcdef.tmp"
    with hold_work(store) as held:
        abandoned.mkdir()
        seal(market, store)
        assert held.is_dir()
    assert not abandoned.exists()


def test_data_behind_a_link_are_part_of_the_key(market: Path, tmp_path: Path) -> None:
    """A provider's features are often kept on another disk: what changes there is not what was cut before."""
    provider = shutil.copytree(market / ".qlib" / "qlib_data" / "cn_data", tmp_path / "cn_data")
    (provider / "features").rename(tmp_path / "elsewhere")
    (provider / "features").symlink_to(tmp_path / "elsewhere")
    first = make_sealed(tmp_path / "store", DAY, [provider], [], tmp_path)
    stock = "features/sh600000/close.day.bin"
    (tmp_path / "elsewhere" / "sh600000" / "close.day.bin").write_bytes(struct.pack("<ff", 0, 7.5))
    second = make_sealed(tmp_path / "store", DAY, [provider], [], tmp_path)
    assert second.key != first.key
    assert (second.providers[provider] / stock).read_bytes() == struct.pack("<ff", 0, 7.5)


@pytest.mark.parametrize("other", ["whole", "a file"])
def test_what_another_run_put_in_place_meanwhile(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """The same copy is used; anything else in its place is an error with a next step."""
    make = sealed_folder._make

    def make_slowly(making: Path, *rest: Any) -> None:
        make(making, *rest)
        place = making.parent / sealed_folder._key(DAY, [market / "full"])
        if other == "whole":
            shutil.copytree(making, place)
        else:
            place.touch()

    monkeypatch.setattr(sealed_folder, "_make", make_slowly)
    if other == "whole":
        sealed = make_sealed(tmp_path / "store", DAY, [], [market / "full"], market)
        assert list((tmp_path / "store").iterdir()) == [sealed.folder]
    else:
        with pytest.raises(SotaError) as caught:
            make_sealed(tmp_path / "store", DAY, [], [market / "full"], market)
        assert caught.value.slug == "cannot-write"
