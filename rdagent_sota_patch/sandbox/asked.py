"""What runs *inside* the jail to see which files a factor's code asks for, also in vain, and which it opens.

Python tells of what it opens and lists (audit hooks); asking whether a file is there it does not tell, and libraries
in C tell nothing, so that these are wrapped where code finds them. Code that sets out to hide what it reads can: this
is a report, and nothing rests on it but whom it names.

A file that was given is a link to one that cannot be written. Code that opens it for writing, as ``pandas.HDFStore``
does unless told otherwise, gets a copy of its own first.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

DATA_SUFFIXES = (
    *(
        ".h5",
        ".hdf",
        ".hdf5",
        ".he5",
        ".parquet",
        ".pq",
        ".csv",
        ".tsv",
        ".txt",
        ".json",
        ".jsonl",
        ".feather",
    ),
    *(
        ".arrow",
        ".ipc",
        ".pkl",
        ".pickle",
        ".npy",
        ".npz",
        ".xlsx",
        ".xls",
        ".gz",
        ".bz2",
        ".xz",
        ".zip",
        ".zst",
    ),
    *(".db", ".sqlite", ".duckdb", ".mat", ".joblib", ".yaml", ".yml", ".orc", ".dat"),
)
"""Of what counts as data where it is asked for and not there; libraries look for many files of their own."""

_ELSEWHERE = ("/usr", "/lib", "/etc", "/proc", "/sys", "/dev", "/nix", "/gnu", "/bin")
_PATHS = ("path", "filename", "source", "path_or_paths", "name")
_IMPORTS = "<frozen importlib"
_BLIND = ("duckdb", "polars", "netCDF4", "vaex")
"""Modules that open files where nothing here sees it."""


class Asked:
    """Notes, a line of JSON each, in a file: forks of the code write to it as well."""

    def __init__(self, folder: Path, given: Mapping[str, Path], notes: Path) -> None:
        self._folder = str(folder)
        self._given = {name: str(path) for name, path in given.items()}
        self._names = {str(path): name for name, path in given.items()}
        self._notes = str(notes)
        self._noted: set[tuple[str, str]] = set()
        libraries = (os.path.abspath(place) for place in sys.path if place)  # noqa: PTH100 - as below
        elsewhere = (*_ELSEWHERE, sys.prefix, sys.base_prefix, *libraries)
        self._elsewhere = tuple(place for place in elsewhere if not self._folder.startswith(place))
        self._busy = False

    def watch(self, code: bytes) -> None:
        """From now on note what this process and its forks ask for."""
        sys.addaudithook(self._hear)
        for name in ("stat", "lstat", "access", "readlink"):
            self._wrap(os, name, "look")
        accessor = getattr(importlib.import_module("pathlib"), "_NormalAccessor", None)
        if accessor is not None:  # Python 3.10 keeps its own.
            accessor.stat = staticmethod(os.stat)
        self._wrap(importlib.import_module("tables").File, "__init__", "open", at=1, mode_at=2)
        # What takes a while to load, and not every code needs.
        if b"pyarrow" in code or b"parquet" in code:
            for module, name in (
                ("pyarrow", "memory_map"),
                ("pyarrow", "OSFile"),
                ("pyarrow.dataset", "dataset"),
            ):
                self._wrap(importlib.import_module(module), name, "open")
            parquet = importlib.import_module("pyarrow.parquet.core")
            self._wrap(parquet.ParquetFile, "__init__", "open", at=1)
            self._wrap(parquet.ParquetDataset, "__init__", "open", at=1)
        if b"h5py" in code:
            with suppress(ImportError):
                self._wrap(importlib.import_module("h5py").File, "__init__", "open", at=1, mode_at=2)

    def _wrap(self, owner: Any, name: str, kind: str, at: int = 0, mode_at: int | None = None) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def asking(*args: Any, **kwargs: Any) -> Any:
            named = (kwargs[key] for key in _PATHS if key in kwargs)
            path = args[at] if len(args) > at else next(named, None)
            mode = kwargs.get("mode", args[mode_at] if mode_at is not None and len(args) > mode_at else "r")
            self._note(path, kind, writes=mode_at is not None and mode != "r", keeps=mode != "w")
            return original(*args, **kwargs)

        for known in (
            os.supports_dir_fd,
            os.supports_fd,
            os.supports_follow_symlinks,
            os.supports_effective_ids,
        ):
            if original in known:
                known.add(asking)
        setattr(owner, name, asking)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = (
                any(letter in mode for letter in "wax+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
            )
            cleared = "w" in mode if mode else bool(flags & os.O_TRUNC)
            self._note(path, "open", writes=writes, keeps=not cleared)
        elif event in {"os.listdir", "os.scandir"}:
            if not sys._getframe(1).f_code.co_filename.startswith(_IMPORTS):
                self._note("." if args[0] is None else args[0], "list")
        elif event == "glob.glob":
            self._note(args[0], "list")
        elif event in {"subprocess.Popen", "os.posix_spawn", "os.exec"}:
            self._write("blind", event)
        elif event == "import" and args[0] in _BLIND:
            self._write("blind", args[0])

    def _note(self, path: Any, kind: str, *, writes: bool = False, keeps: bool = True) -> None:
        if self._busy or isinstance(path, int):
            return
        try:
            text = os.fsdecode(path)
        except TypeError:
            return
        self._busy = True
        try:
            if kind == "list":
                self._write("list", text)
                return
            whole = os.path.abspath(text)  # noqa: PTH100 - pathlib asks the system
            name = self._names.get(whole)
            if name is None and whole.startswith(f"{self._folder}{os.sep}"):
                name = whole[len(self._folder) + 1 :]
            elif name is None and not whole.startswith(self._elsewhere):
                name = whole
            if name is None:
                return
            if name in self._given:
                self._write(kind, name)
                if writes:
                    self._hand_over(name, keeps)
            elif name.lower().endswith(DATA_SUFFIXES) and not os.path.basename(name).startswith("."):  # noqa: PTH119
                self._write("write" if writes else kind, name)
        finally:
            self._busy = False

    def _hand_over(self, name: str, keeps: bool) -> None:
        link = Path(self._folder, name)
        if not link.is_symlink():
            return
        link.unlink()
        if keeps:
            shutil.copyfile(self._given[name], link)

    def _write(self, kind: str, name: str) -> None:
        if (kind, name) in self._noted:
            return
        self._noted.add((kind, name))
        busy, self._busy = self._busy, True
        try:
            file = os.open(self._notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(file, json.dumps([kind, name]).encode() + b"\n")
            os.close(file)
        finally:
            self._busy = busy


def read_notes(notes: Path, folder: Path, given: Mapping[str, Path]) -> dict[str, Any]:
    """What a run asked for: ``opened`` and ``asked`` of what was given, ``missing`` of what was not; and whether it
    looked through its folder, or used what opens files unseen.
    """
    try:
        lines = [
            json.loads(line) for line in notes.read_text(encoding="utf-8", errors="replace").splitlines()
        ]
    except (OSError, ValueError):
        lines = []
    asked = {name for kind, name in lines if kind in {"open", "look"}}
    left = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    written = {name for kind, name in lines if kind == "write"}
    return {
        "opened": sorted({name for kind, name in lines if kind == "open"} & given.keys()),
        "asked": sorted(asked & given.keys()),
        # What the code has made itself was no question for data.
        "missing": sorted(name for name in asked - given.keys() - written if Path(name).parts[0] not in left),
        "left": sorted(left),
        "listed": sorted(name for kind, name in lines if kind == "list"),
        "blind": any(kind == "blind" for kind, _ in lines),
    }
