"""A Python that has imported what takes long, and runs programs in forks of itself: RD-Agent takes 13 s to import.

As a program: ``warm.py serve SOCKET MODULE…`` is that Python, and ``warm.py run SOCKET [-c CODE | FILE] ARGUMENT…``
does what ``python …`` would, there: with its own arguments, environment, folder and descriptors. What differs from a
new interpreter: imported modules, but for those of RD-Agent and of the plugin, which are dropped and read the
environment when the fork imports them; and the seed of the hashes. So one start of each command is kept as it is.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

COLD = "WARM_INTERPRETER_OFF"
"""In the environment of a run: ``all`` its programs get interpreters of their own, or the ``command`` alone does."""

_OWN = ("rdagent", "rdagent_sota_patch")
_SIZE = 8


@contextmanager
def warm_python(modules: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[list[str]]:
    """The start of a command that runs a program in a Python with ``modules``; what it says goes into ``folder``."""
    folder.mkdir()
    # The name of a socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="warm-") as place, (folder / "said.txt").open("wb") as said:
        address = f"{place}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)  # Whoever asks before all is imported waits.
            server = subprocess.Popen(
                [sys.executable, __file__, "serve", str(listener.fileno()), *modules],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=(listener.fileno(),),
            )
        with server:
            try:
                yield [sys.executable, "-I", "-S", __file__, "run", address]
            finally:
                assert server.stdin is not None
                server.stdin.close()


def serve(listener: socket.socket, modules: Sequence[str]) -> None:
    """Import, and fork for each program that is asked for, until standard input is closed."""
    del sys.path[0]
    for name in modules:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in _OWN]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    ended, write_ended = os.pipe()
    os.set_blocking(write_ended, False)
    signal.set_wakeup_fd(write_ended)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    asked: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for source in (0, listener, ended):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = [key for key, _ in selector.select()]
            for key in ready:
                if key.fileobj == 0:
                    for child in asked:
                        _end(child)
                    return
                if key.fileobj is listener:
                    child, asker = _fork_for_one(listener, asked)
                    asked[child] = asker
                    selector.register(asker, selectors.EVENT_READ, child)
                elif key.data is not None:  # Who asked was ended.
                    _end(key.data)
            if any(key.fileobj == ended for key in ready):
                os.read(ended, 4096)
                for child, code in _reap():
                    asker = asked.pop(child)
                    selector.unregister(asker)
                    with asker, suppress(OSError):
                        asker.sendall(code.to_bytes(_SIZE, "big", signed=True))


def _fork_for_one(listener: socket.socket, asked: Mapping[int, socket.socket]) -> tuple[int, socket.socket]:
    asker, _ = listener.accept()
    order, descriptors = _receive(asker)
    child = os.fork()
    if child == 0:
        _become(order, descriptors, [listener, asker, *asked.values()])
    for descriptor in descriptors:
        os.close(descriptor)
    return child, asker


def _reap() -> Iterator[tuple[int, int]]:
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        _end(child)  # What it left behind.
        yield child, os.waitstatus_to_exitcode(status)


def _end(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _receive(asker: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size, descriptors, *_ = socket.recv_fds(asker, _SIZE, 3)
    left, order = int.from_bytes(size, "big"), b""
    while len(order) < left:
        order += asker.recv(left - len(order))
    return json.loads(order), descriptors


def _become(
    order: Mapping[str, Any], descriptors: Sequence[int], others: Sequence[socket.socket]
) -> NoReturn:
    """Be what ``python ARGUMENTS`` would be; the fork ends with this."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for own, given in enumerate(descriptors):
        os.dup2(given, own)
        os.close(given)
    for other in others:
        other.close()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    tempfile.tempdir = None
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()
    code = 1
    try:
        _run(order["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(arguments: Sequence[str]) -> None:
    from rdagent_sota_patch import _startup

    _startup.install()
    if (
        "qlib.config" in sys.modules
    ):  # It takes the folder for results from the current one when it is imported.
        qlib = sys.modules["qlib.config"].C
        qlib._default_config["exp_manager"]["kwargs"]["uri"] = f"file:{Path.cwd().resolve() / 'mlruns'}"
        qlib.reset()
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    searched = [str(Path(entry).absolute()) for entry in given]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    if arguments[0] == "-c":
        source, name = arguments[1], "<string>"
        sys.argv, first = ["-c", *arguments[2:]], ""
    else:
        name = arguments[0]
        source = Path(name).read_text(encoding="utf-8")
        sys.argv, first = list(arguments), str(Path(name).resolve().parent)
        main.__file__ = name
    sys.path[:0] = [first, *searched]
    exec(compile(source, name, "exec"), main.__dict__)


def run(address: str, arguments: Sequence[str]) -> int:
    """Have a program run there; its exit code. With other options than ``-c``, it gets an interpreter of its own."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "-c"):
        os.execv(sys.executable, [sys.executable, *arguments])
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    text = json.dumps(order).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(text).to_bytes(_SIZE, "big")], [0, 1, 2])
        server.sendall(text)
        answer = server.recv(_SIZE)
    if not answer:
        sys.exit("the warm interpreter has ended")
    code = int.from_bytes(answer, "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
    else:
        sys.exit(run(sys.argv[2], sys.argv[3:]))
