"""Each known way to make a pickle act, as a file that must do nothing but be read or refused."""

from __future__ import annotations

import copyreg
import struct
import sys
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.errors import SnapshotError, SotaError
from rdagent_sota_patch.sessions.inert import Inert
from tests.sessions.forged import Made, called, factor_experiment, feedback, forge, put, saved_loop

from .watching import read_inert, read_session, watching

TRUSTED = pytest.mark.parametrize("trusted", [False, True])


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


@TRUSTED
@pytest.mark.parametrize(
    ("module", "name", "args"),
    [
        ("os", "system", ("touch owned",)),
        ("posix", "system", ("touch owned",)),
        ("nt", "system", ("touch owned",)),
        ("subprocess", "Popen", (("touch", "owned"),)),
        ("subprocess", "check_output", (("touch", "owned"),)),
        ("builtins", "eval", ("open('owned', 'w')",)),
        ("builtins", "exec", ("open('owned', 'w')",)),
        ("__builtin__", "eval", ("open('owned', 'w')",)),
        ("builtins", "compile", ("1", "x", "eval")),
        ("builtins", "__import__", ("antigravity",)),
        ("builtins", "open", ("owned", "w")),
        ("builtins", "getattr", ("", "format")),
        ("builtins", "breakpoint", ()),
        ("importlib", "import_module", ("antigravity",)),
        ("runpy", "run_path", ("owned.py",)),
        ("pydoc", "locate", ("os.system",)),
        ("operator", "attrgetter", ("system",)),
        ("operator", "methodcaller", ("system", "touch owned")),
        ("functools", "partial", ("x",)),
        ("types", "FunctionType", (b"code",)),
        ("types", "CodeType", ()),
        ("ctypes", "CDLL", ("libc.so.6",)),
        ("socket", "create_connection", (("127.0.0.1", 9),)),
        ("webbrowser", "open", ("http://127.0.0.1",)),
        ("shutil", "rmtree", (".",)),
        ("pathlib", "Path.touch", ("owned",)),
        ("pandas", "read_pickle", ("owned",)),
        ("pandas.io.pickle", "read_pickle", ("owned",)),
        ("pandas.core.computation.eval", "eval", ("1",)),
        ("numpy", "load", ("owned",)),
        ("numpy.f2py.diagnose", "run_command", ("touch owned",)),
        ("torch", "load", ("owned",)),
        ("joblib", "load", ("owned",)),
        ("cloudpickle.cloudpickle", "_make_function", ()),
        ("pickle", "loads", (b"cos\nsystem\n(S'touch owned'\ntR.",)),
        ("_pickle", "loads", (b"cos\nsystem\n(S'touch owned'\ntR.",)),
        ("rdagent.core.utils", "import_class", ("os.system",)),
        ("rdagent_sota_patch.sessions.inert", "read_inert", (b"",)),
    ],
)
def test_calls_become_stand_ins(trusted: bool, module: str, name: str, args: tuple[object, ...]) -> None:
    """Whatever a file asks to call is kept as a note of what it asked."""
    read = read_inert(called(module, name, *args), trusted=trusted)
    assert isinstance(read, Inert)
    assert (read.origin, read.arguments) == ((module, name), args)
    assert not Path("owned").exists()


@TRUSTED
@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'touch owned'\ntR.",
        b"(S'touch owned'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch owned'\no.",
        b"\x80\x02cos\nsystem\nU\x0btouch owned\x85R.",
        b"\x80\x02cos\nsystem\nU\x0btouch owned\x85\x81.",
        b"\x80\x04" + text("os") + text("system") + b"\x93" + text("touch owned") + b"\x85R.",
        b"\x80\x04" + text("os") + text("system") + b"\x93)}" + text("x") + text("y") + b"s\x92.",
    ],
    ids=["GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "STACK_GLOBAL", "NEWOBJ_EX"],
)
def test_every_calling_opcode(trusted: bool, data: bytes) -> None:
    """All ways a pickle has to call a thing end in a stand-in."""
    assert read_inert(data, trusted=trusted).origin == ("os", "system")
    assert not Path("owned").exists()


@TRUSTED
def test_names_built_from_parts(trusted: bool) -> None:
    """STACK_GLOBAL with names from the memo or with dots resolves nothing."""
    data = b"\x80\x04" + text("os") + b"\x94" + text("path.os.system") + b"\x94h\x00h\x01\x93."
    assert read_inert(data, trusted=trusted).origin == ("os", "path.os.system")


@TRUSTED
def test_stack_global_with_other_types(trusted: bool) -> None:
    """Module and name that are no texts are refused."""
    for data in (b"\x80\x04K\x01K\x02\x93.", b"\x80\x04N" + text("x") + b"\x93.", b"\x80\x04]}\x93."):
        with pytest.raises(SnapshotError):
            read_inert(data, trusted=trusted)


@TRUSTED
def test_getattr_chain(trusted: bool) -> None:
    """getattr(getattr(...)) over real modules is a tree of stand-ins."""
    chain = Made("builtins", "getattr", (Made("builtins", "__import__", ("os",)), "system"))
    read = read_inert(forge(chain), trusted=trusted)
    assert read.arguments[0].arguments == ("os",)


@TRUSTED
def test_calling_the_result_of_a_call(trusted: bool) -> None:
    """A stand-in object is not callable, so that a second REDUCE fails."""
    with pytest.raises(SnapshotError):
        read_inert(b"cbuiltins\ngetattr\n(tR(S'x'\ntR.", trusted=trusted)


@TRUSTED
@pytest.mark.parametrize("value", [b"]", b"}", b"S'x'\n", b"K\x01", b")", b"\x8f", b"N"])
def test_calling_plain_values(trusted: bool, value: bytes) -> None:
    """No plain value can be called or instantiated."""
    for opcode in (b"R", b"\x81"):
        with pytest.raises(SnapshotError):
            read_inert(b"\x80\x04" + value + b")" + opcode + b".", trusted=trusted)


@TRUSTED
def test_build_on_a_class_changes_nothing(trusted: bool) -> None:
    """BUILD on pandas.Index, which once replaced Index.tolist for the whole process, fails."""
    tolist = pd.Index.tolist
    for module in ("pandas", "pandas.core.indexes.base"):
        for state in ({"tolist": 1}, (None, {"tolist": 1})):
            data = b"\x80\x04" + f"c{module}\nIndex\n".encode() + forge(state)[2:-1] + b"b."
            with pytest.raises(SnapshotError):
                read_inert(data, trusted=trusted)
    assert pd.Index.tolist is tolist


@TRUSTED
def test_build_on_a_stand_in_class_changes_nothing(trusted: bool) -> None:
    """The stand-in classes keep their methods and origin whatever state a file gives them."""
    for state in ({"origin": ("a", "b")}, (None, {"origin": ("a", "b"), "__setstate__": 1})):
        with pytest.raises(SnapshotError):
            read_inert(b"\x80\x04cm\nC\n" + forge(state)[2:-1] + b"b.", trusted=trusted)
    assert read_inert(b"\x80\x04cm\nC\n)R.", trusted=trusted).origin == ("m", "C")


@TRUSTED
def test_build_cannot_change_what_a_stand_in_is(trusted: bool) -> None:
    """__class__, __setstate__, arguments and the like in a state are mere entries of it."""
    state = {"__class__": 1, "__setstate__": 2, "arguments": 3, "origin": ("x", "y"), "extend": 4, "state": 5}
    read = read_inert(forge(Made("m", "C", (1,), state, [7])), trusted=trusted)
    assert isinstance(read, Inert)
    assert (read.origin, read.arguments, read.items) == (("m", "C"), (1,), [7])
    assert dict(read.attributes) == state


@TRUSTED
def test_setting_and_appending_on_a_class(trusted: bool) -> None:
    """SETITEM, APPEND and ADDITEMS on a class find nothing to change."""
    for tail in (b"K\x01K\x02s.", b"K\x01a.", b"(K\x01e.", b"(K\x01\x90.", b"(K\x01K\x02u."):
        with pytest.raises(SnapshotError):
            read_inert(b"\x80\x04cm\nC\n" + tail, trusted=trusted)


@TRUSTED
def test_copyreg_reconstructor(trusted: bool) -> None:
    """copyreg's own helpers are stand-ins like everything else."""
    for name in ("_reconstructor", "__newobj__", "__newobj_ex__"):
        for module in ("copyreg", "copy_reg"):
            read = read_inert(called(module, name, Made("os", "system"), None), trusted=trusted)
            assert read.origin == (module, name)


@TRUSTED
def test_nested_pickles_stay_bytes(trusted: bool) -> None:
    """A pickle inside a pickle is not opened."""
    inner = called("os", "system", "touch owned")
    assert read_inert(forge({"inner": inner}), trusted=trusted) == {"inner": inner}


@TRUSTED
@pytest.mark.parametrize("data", [b"Pos.system\n.", b"\x80\x04" + text("os.system") + b"Q."])
def test_persistent_ids(trusted: bool, data: bytes) -> None:
    """Persistent ids are refused."""
    with pytest.raises(SnapshotError):
        read_inert(data, trusted=trusted)


@TRUSTED
@pytest.mark.parametrize("opcode", [b"\x97", b"\x97\x98"])
def test_out_of_band_buffers(trusted: bool, opcode: bytes) -> None:
    """Buffers from outside the file are refused."""
    with pytest.raises(SnapshotError):
        read_inert(b"\x80\x05" + opcode + b".", trusted=trusted)


@TRUSTED
@pytest.mark.parametrize("opcode", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"])
def test_extension_codes(trusted: bool, opcode: bytes) -> None:
    """An extension code that this process has cached does not hand out the real function."""
    copyreg.add_extension("os", "system", 0xF0)
    cached = copyreg._extension_cache  # type: ignore[attr-defined]
    try:
        import os

        cached[0xF0] = os.system
        with pytest.raises(SnapshotError, match="extension code"):
            read_inert(b"\x80\x02" + opcode + text("touch owned") + b"\x85R.", trusted=trusted)
    finally:
        cached.pop(0xF0, None)
        copyreg.remove_extension("os", "system", 0xF0)
    assert not Path("owned").exists()


@TRUSTED
def test_unknown_extension_codes(trusted: bool) -> None:
    """A code that nobody registered is refused, and nothing is cached for it."""
    with pytest.raises(SnapshotError):
        read_inert(b"\x80\x02\x82\x07.", trusted=trusted)
    assert 7 not in copyreg._extension_cache  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", [0x7FFFFFFF, 0x10000000, 1000])
def test_memo_bomb(index: int) -> None:
    """A memo index beyond the file's length would allocate gigabytes: refused unread."""
    with pytest.raises(SnapshotError, match="memo entry"):
        read_inert(b"\x80\x02Nr" + struct.pack("<I", index) + b".")
    with pytest.raises(SnapshotError, match="memo entry"):
        read_inert(b"Np" + str(index).encode() + b"\n.")


@pytest.mark.parametrize("opcode", [b"\x85", b"\x86", b"t", b"\x91"])
def test_nested_tuples_as_keys(opcode: bytes) -> None:
    """Hashing tuples nested a hundred thousand deep overflows the C stack: refused unread."""
    one = {b"\x85": b"\x85", b"\x86": b"N\x86", b"t": b"t", b"\x91": b"\x91"}[opcode]
    marks = b"(" * 100_000 if opcode in (b"t", b"\x91") else b""
    with pytest.raises(SnapshotError, match="nested"):
        read_inert(b"\x80\x04}" + marks + b"N" + one * 100_000 + b"Ns.")


def test_nested_tuples_through_the_memo() -> None:
    """Taking the tuple through memo and DUP at every level does not hide the nesting."""
    for level in (b"\x94h\x00\x86", b"2\x86"):
        data = b"\x80\x04}N" + b"\x85q\x00h\x00" * 1000 + b"Ns."
        with pytest.raises(SnapshotError, match="nested"):
            read_inert(data)
        with pytest.raises(SnapshotError, match="nested"):
            read_inert(b"\x80\x04}N" + level * 1000 + b"Ns.")


@TRUSTED
@pytest.mark.parametrize("opcode", [b"]", b"}"])
def test_deep_nesting_of_lists_and_dicts(trusted: bool, opcode: bytes) -> None:
    """Lists and dicts nested a hundred thousand deep read, and go away again, without a crash."""
    depth = 100_000
    close = b"a" if opcode == b"]" else b"s"
    key = b"" if opcode == b"]" else b"N"
    data = b"\x80\x04" + (opcode + key) * depth + b"N" + close * depth + b"."
    read = read_inert(data, trusted=trusted)
    del read


@TRUSTED
def test_deep_nesting_of_stand_ins(trusted: bool) -> None:
    """Objects in the state of objects a hundred thousand deep do no harm either."""
    data = b"\x80\x04" + b"cm\nC\n)R" * 100_000 + b"N" + b"b" * 100_000 + b"."
    read = read_inert(data, trusted=trusted)
    del read


@TRUSTED
@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
        b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"x.",
        b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
        b"\x80\x02T" + struct.pack("<i", -1) + b"x.",
    ],
)
def test_lengths_beyond_the_file(trusted: bool, data: bytes) -> None:
    """A length that the file does not have is an error, not an allocation."""
    with pytest.raises(SnapshotError):
        read_inert(data, trusted=trusted)


@TRUSTED
def test_doubling_by_reference(trusted: bool) -> None:
    """A list that holds itself twice, forty times over, costs forty entries, not a trillion."""
    value: list[object] = []
    for _ in range(40):
        value = [value, value]
    assert len(read_inert(forge(value), trusted=trusted)) == 2


@TRUSTED
@pytest.mark.parametrize("protocol", [6, 255])
def test_unknown_protocols(trusted: bool, protocol: int) -> None:
    """A protocol of the future is refused."""
    with pytest.raises(SnapshotError):
        read_inert(bytes([0x80, protocol]) + b"N.", trusted=trusted)


def test_no_name_makes_the_cache_of_classes_grow_without_end() -> None:
    """Thousands of invented class names leave a bounded number of classes behind."""
    from rdagent_sota_patch.sessions.inert import _stand_in

    read_inert(forge([Made("m", f"C{number}") for number in range(3000)]))
    assert _stand_in.cache_info().currsize <= 1024


def test_a_hostile_object_inside_a_session() -> None:
    """A session with a call in every place that is read gives its records and runs nothing."""
    bad = Made("os", "system", ("touch owned",))
    experiment = factor_experiment(
        "A",
        running_info=Made("m", "Info", state={"result": bad}),
        experiment_workspace=Made("m", "W", state={"workspace_path": bad}),
        base_features={"x": bad},
        base_feature_codes=bad,
        hypothesis=Made("m", "H", state={"hypothesis": bad}),
        sota_source=bad,
        extra=bad,
    )
    put(Path("log"), 0, "0_record", saved_loop((experiment, feedback(True)), knowledge_base=bad))
    (record,) = read_session(Path("log")).experiments
    assert (record.metrics, record.workspace, record.sota_source, record.hypothesis) == ({}, None, {}, "")
    assert len(record.unread) == 6
    assert not Path("owned").exists()


@pytest.mark.parametrize("place", ["decision", "idx2loop_id", "hist", "sub_tasks"])
def test_a_call_where_a_session_needs_a_value(place: str) -> None:
    """A call in the place of something needed makes the session foreign."""
    bad = Made("builtins", "eval", ("1",))
    loop = saved_loop((factor_experiment("A", **{"sub_tasks": bad}), feedback(True)))
    if place == "decision":
        loop = saved_loop((factor_experiment("A"), feedback(bad)))
    elif place != "sub_tasks":
        loop = saved_loop((factor_experiment("A"), feedback(True)), **{place: bad})
    put(Path("log"), 0, "0_record", loop)
    with pytest.raises(SotaError, match="no-readable-snapshot"):
        read_session(Path("log"))


def test_the_watch_is_awake() -> None:
    """An import, a process or a compilation under watch fails, so that passing means something."""
    import subprocess

    for act in (
        lambda: __import__("antigravity"),
        lambda: eval("1 + 1"),
        lambda: subprocess.run(["true"], check=True),
    ):
        with pytest.raises(AssertionError, match="reading a file"), watching():
            act()


def test_a_forged_module_is_not_imported(tmp_path: Path) -> None:
    """A module beside the log, on the path, stays unimported although a file names its class."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        assert read_inert(called("trap", "Trap")).origin == ("trap", "Trap")
    finally:
        sys.path.remove(str(tmp_path))
    assert "trap" not in sys.modules


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "a.b.c", "__class__", "<locals>", "\x1b[2J"])
def test_odd_names(name: str) -> None:
    """Names no class can have are kept as text, and cannot reach a terminal as they are."""
    data = b"\x80\x04" + text("m") + b"X" + struct.pack("<I", len(_raw(name))) + _raw(name) + b"\x93)R."
    read = read_inert(data)
    assert read.origin == ("m", name)
    assert repr(read).isprintable()


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
