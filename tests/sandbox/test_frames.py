"""Tables from the jail are a stranger's files: what is not a table is refused, and nothing is unpickled."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdagent_sota_patch.sandbox.outputs import Unreadable, read_frame, read_survey

DAYS = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[ns]")
HEADER = {"columns": ["f"], "instruments": ["a", "b"], "rows": 2}
CODES = np.array([0, 1])


def write(path: Path, header: Any, *arrays: Any) -> Path:
    with path.open("wb") as file:
        np.save(file, np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
        for array in arrays:
            np.save(file, array, allow_pickle=True)
    return path


def test_a_table_is_read(tmp_path: Path) -> None:
    """As it was written inside."""
    path = write(tmp_path / "t", HEADER, DAYS, CODES, CODES[::-1].copy(), np.array([1.5, np.nan]))
    frame = read_frame(path)
    assert frame.index.tolist() == [(DAYS[0], "b"), (DAYS[1], "a")]
    assert frame["f"].tolist()[0] == 1.5


def test_an_array_that_is_said_to_be_longer_makes_no_room(tmp_path: Path) -> None:
    """A header of a hundred bytes may promise gigabytes."""
    path = tmp_path / "t"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (4 << 30,)}
        )
        file.write(b"{}")
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match=r"larger than|less than it says"):
            read_frame(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_survey_is_held_to_what_was_asked(tmp_path: Path) -> None:
    """Another file than those asked for, or one too few, is not an answer."""
    first = {"name": "a.h5", "rows": 2, "dated": True, "presence": True, "instruments": ["x"]}
    header = {"files": [first, {"name": "b.csv", "rows": 1}]}
    path = write(tmp_path / "t", header, DAYS, np.packbits([False, True]), np.packbits([True, False]))
    tables, presence = read_survey(path, ["a.h5", "b.csv"])
    assert tables["a.h5"].days is not None and tables["b.csv"].days is None
    assert presence.complete.tolist() == [[False], [True]]
    assert presence.traded.tolist() == [[True], [False]]
    for names in (["a.h5"], ["b.csv", "a.h5"], ["a.h5", "c.csv"]):
        with pytest.raises(Unreadable, match="other files"):
            read_survey(path, names)


@pytest.mark.parametrize(
    ("header", "arrays", "fault"),
    [
        ({"fault": "no column"}, [], "^no column$"),
        ({"fault": 1}, [], "header"),
        ([], [], "header"),
        ({**HEADER, "more": 1}, [], "header"),
        (HEADER, [], "ends early"),
        (HEADER, [DAYS[::-1].copy()], "order"),
        (HEADER, [DAYS, CODES], "ends early"),
        (HEADER, [DAYS, np.array([0, 2]), CODES, CODES * 1.0], "not there"),
        (HEADER, [DAYS, np.array([-1, 0]), CODES, CODES * 1.0], "not there"),
        (HEADER, [DAYS, CODES, CODES, np.zeros(3)], "3 rows, not 2"),
        (HEADER, [DAYS, CODES, CODES, np.zeros((2, 1))], "something else"),
        (HEADER, [DAYS, CODES, CODES, np.array(["a", "b"])], "something else"),
        (HEADER, [DAYS, CODES, CODES, np.array([{}, {}])], "damaged"),
        ({**HEADER, "instruments": ["a", "a"]}, [DAYS, CODES, CODES, CODES * 1.0], "twice"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, header: Any, arrays: list[Any], fault: str) -> None:
    """Objects among them, whose reading would unpickle."""
    with pytest.raises(Unreadable, match=fault):
        read_frame(write(tmp_path / "t", header, *arrays))


def test_a_header_of_holes_takes_no_memory(tmp_path: Path) -> None:
    """A file of a gigabyte that takes nothing on the disk, and one that only says so."""
    for real in (1 << 30, 10):
        head = f"{{'descr':'|u1','fortran_order':False,'shape':({1 << 30},)}}\n".encode()
        with (tmp_path / "t").open("wb") as file:
            file.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
            file.truncate(file.tell() + real)
        tracemalloc.start()
        for read in (read_frame, lambda path: read_survey(path, [])):
            with pytest.raises(Unreadable, match="larger than what is read"):
                read(tmp_path / "t")
        assert tracemalloc.get_traced_memory()[1] < 10**6
        tracemalloc.stop()


def test_an_array_that_says_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    """Its size is held against the file before it is allocated."""
    path = write(tmp_path / "t", HEADER)
    head = f"{{'descr':'<M8[ns]','fortran_order':False,'shape':({1 << 26},)}}\n".encode()
    with path.open("ab") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    tracemalloc.start()
    with pytest.raises(Unreadable, match="less than it says"):
        read_frame(path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_strangers_table_has_a_largest_size(tmp_path: Path) -> None:
    """That of its data, and some."""
    path = write(tmp_path / "t", HEADER, DAYS, CODES, CODES, np.array([1.5, 2]))
    assert len(read_frame(path, most=10_000)) == 2
    with pytest.raises(Unreadable, match="takes"):
        read_frame(path, most=100)


def test_a_file_of_anything_is_refused(tmp_path: Path) -> None:
    """Empty, or no arrays at all."""
    for content in (b"", b"\x80\x04}.", b"PK\x03\x04"):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(Unreadable):
            read_frame(tmp_path / "t")
