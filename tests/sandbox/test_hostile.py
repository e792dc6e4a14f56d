"""Programs that mean harm: each way out is tried for real, and is shut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.supervision import Ended, Ending
from tests.sandbox.conftest import needs_walls

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is run on Windows")


def end_of(jail: Jail, program: str, **limits: float) -> Ended:
    return jail.attempt(program, limits=Limits(**{"seconds": 20, **limits})).ended  # type: ignore[arg-type]


def refused(jail: Jail, *attempts: str) -> None:
    """Every attempt, a statement, ends in an ``OSError``; and the program could run at all."""
    program = "import os, socket, subprocess, ctypes, shutil\nfrom pathlib import Path\n"
    for number, attempt in enumerate(attempts):
        program += f"try:\n    {attempt}\nexcept OSError as error:\n    print({number}, 'refused', error)\n"
    ended = end_of(jail, program)
    assert ended.ending is Ending.FINISHED, ended.log
    assert [line.split()[0] for line in ended.log.splitlines()] == [str(n) for n in range(len(attempts))]


def becoming_a_sleeper(marker: str) -> str:
    """A statement that makes of a process one that sleeps, with ``marker`` in its command line."""
    command = ["python", "-S", "-c", "import time; time.sleep(600)", marker]
    return f"os.execv({sys.executable!r}, {command!r})"


def running(marker: str) -> bool:
    """Whether a process somewhere has ``marker`` in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                return True
        except OSError:
            continue
    return False


def test_a_program_that_never_ends_is_ended(jail: Jail) -> None:
    """Also one that listens to no signal."""
    program = (
        "import signal\n"
        "for n in range(1, 32):\n"
        "    n in (9, 19) or signal.signal(n, signal.SIG_IGN)\n"
        "while True: pass"
    )
    started = time.monotonic()
    ended = end_of(jail, program, seconds=0.5)
    assert ended.ending is Ending.OVER_TIME
    assert ended.code is None
    assert time.monotonic() - started < 5


def test_over_its_time_is_an_error_that_names_the_limit(jail: Jail) -> None:
    """And who it was."""
    with pytest.raises(BundleError, match=r"The model was ended: not done after 0\.3 seconds") as caught:
        jail.run("import time; time.sleep(60)", limits=Limits(seconds=0.3), subject="The model")
    assert caught.value.slug == "program-over-limit"


@pytest.mark.skipif(sys.platform != "linux", reason="seen in /proc")
@pytest.mark.parametrize("leave", ["import time; time.sleep(600)", ""])
def test_children_do_not_outlive_it(jail: Jail, leave: str) -> None:
    """A grandchild in a session of its own, whether the program ends or is ended; here it is still seen."""
    marker = f"marker-{os.getpid()}-{len(leave)}"
    program = (
        "import os, subprocess, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        {becoming_a_sleeper(marker)}\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(0.3)\n"
        f"{leave}"
    )
    seen = []
    thread = threading.Thread(target=lambda: end_of(jail, program, seconds=1.5))
    thread.start()
    while thread.is_alive():
        seen.append(running(marker))
        time.sleep(0.02)
    thread.join()
    assert any(seen)
    assert not running(marker)


@pytest.mark.skipif(sys.platform != "linux", reason="seen in /proc")
def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """By kill -9 as well: no factor goes on by itself."""
    marker = f"orphan-{os.getpid()}"
    program = f"import os; {becoming_a_sleeper(marker)}"
    source = f"from rdagent_sota_patch.sandbox.jail import Jail\nJail().attempt({program!r})"
    asker = subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        deadline = time.monotonic() + 20
        while not running(f"sleep(600)\0{marker}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        asker.kill()
        asker.wait()
    deadline = time.monotonic() + 10
    while running(f"sleep(600)\0{marker}"):
        assert time.monotonic() < deadline, "it outlived its asker"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS holds no process to its memory")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param("x = []\nwhile True: x.append(bytearray(10_000_000))", id="alone"),
        pytest.param(
            "import os, time\nfor _ in range(8):\n    if os.fork() == 0: break\n"
            "x = bytearray(b'1' * 40_000_000)\ntime.sleep(60)",
            id="by many processes",
        ),
        pytest.param(
            "import mmap, time\nm = mmap.mmap(-1, 10**9)\nfor i in range(0, 10**9, 4096): m[i] = 1\ntime.sleep(60)",
            id="shared",
        ),
    ],
)
def test_memory_is_bounded_for_all_its_processes_together(jail: Jail, program: str) -> None:
    """However it is taken."""
    assert end_of(jail, program, memory_mb=150).ending is Ending.OVER_MEMORY


@needs_walls
@pytest.mark.parametrize(
    "start", ["os.fork() or (time.sleep(9), os._exit(0))", "threading.Thread(target=nap).start()"]
)
def test_ever_more_processes_are_stopped_before_they_are_too_many(jail: Jail, start: str) -> None:
    """They hardly use memory, and as root no limit of the kernel counts them. A real bomb would not tell more."""
    program = f"import os, time, threading\nnap = lambda: time.sleep(9)\nfor _ in range(3000):\n    {start}\n"
    assert end_of(jail, program).ending is Ending.OVER_THREADS
    assert end_of(jail, "print('fine')").log == "fine\n"


def test_gigabytes_of_prints_are_counted_and_not_kept(jail: Jail) -> None:
    """The beginning and the end stay, as much as was asked for."""
    ended = end_of(jail, "print('begin')\nfor _ in range(300): print('x' * 10**6)\nprint('end')", log_kb=4)
    assert ended.ending is Ending.FINISHED
    assert ended.log.startswith("begin\nx") and ended.log.endswith("x\nend\n")
    assert "bytes left out" in ended.log
    assert len(ended.log) < 5000


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("open('result.h5', 'wb').write(bytes(30_000_000))", id="one file"),
        pytest.param(
            "import time\nfor i in range(10): open(f'{i}', 'wb').write(bytes(8_000_000))\ntime.sleep(60)",
            id="many files",
        ),
        pytest.param(
            "import os, time\nfiles = [open(f'{i}', 'wb') for i in range(10)]\n"
            "for f in files: os.unlink(f.name); f.write(bytes(8_000_000)); f.flush()\ntime.sleep(60)",
            id="files without a name",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="seen in /proc"),
        ),
        pytest.param(
            "import os, time\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\ntime.sleep(60)", id="depth"
        ),
    ],
)
def test_giant_results_are_over_the_limit(jail: Jail, program: str) -> None:
    """Files count together, hidden ones as well."""
    assert end_of(jail, program, output_mb=20).ending is Ending.OVER_OUTPUT


@needs_walls
def test_no_network_of_any_kind(jail: Jail, tmp_path: Path) -> None:
    """Neither TCP nor UDP, nor local services, reached by path or by an abstract name."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        local.bind(str(tmp_path / "s"))
        local.listen()
        abstract.bind(f"\0jail-test-{os.getpid()}")
        abstract.listen()
        refused(
            jail,
            f"socket.create_connection({tcp.getsockname()!r})",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
            f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})",
            f"socket.socket(socket.AF_UNIX).connect({abstract.getsockname()!r})",
            "socket.getaddrinfo('example.com', 80)",
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        )


@needs_walls
def test_files_outside_cannot_be_read(jail: Jail, tmp_path: Path) -> None:
    """Not directly, through a link, by another process's /proc, or by listing a folder."""
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    data = tmp_path / "data.txt"
    data.write_text("fine")
    refused(
        jail,
        f"print(open({str(secret)!r}).read())",
        f"os.symlink({str(secret)!r}, 'link'); print(open('link').read())",
        f"os.link({str(secret)!r}, 'hard')",
        f"print(os.listdir({str(tmp_path)!r}))",
        f"print(os.listdir({str(Path.home())!r}))",
        "print(os.listdir('..'))",
        "print(open('/etc/passwd').read())",
        f"print(open('/proc/{os.getpid()}/environ').read())",
        f"print(open('/proc/{os.getpid()}/cmdline').read())",
        "print(open('/proc/1/environ').read())",
        f"print(open(__import__('json').__file__ and {str(Path(__file__))!r}).read())",
    )
    neighbour = jail.attempt(f"print(open('d').read()); open({str(secret)!r})", inputs={"d": data}).ended
    assert neighbour.log.startswith("fine") and "PermissionError" in neighbour.log


@needs_walls
def test_nothing_outside_can_be_changed(jail: Jail, tmp_path: Path) -> None:
    """Home, /tmp, shared memory, installed packages, its input; contents, names, modes, owners and times."""
    victim, data = tmp_path / "victim", tmp_path / "data"
    for path in (victim, data):
        path.write_text("whole")
        path.chmod(0o640)
        os.utime(path, (1, 1))
    before = {path: (path.stat(), path.read_text()) for path in (victim, data)}
    name = f"jail-test-{os.getpid()}"
    escapes = [Path.home() / name, Path("/tmp") / name, Path("/dev/shm") / name, Path("/var/tmp") / name]
    refused(
        jail,
        *(f"Path({str(path)!r}).write_text('x')" for path in escapes),
        f"Path({str(victim)!r}).write_text('x')",
        f"os.truncate({str(victim)!r}, 0)",
        f"os.open({str(victim)!r}, os.O_RDONLY | os.O_TRUNC)",
        f"os.unlink({str(victim)!r})",
        f"os.rename({str(victim)!r}, 'mine')",
        f"os.rename('program.py', {str(tmp_path / 'theirs')!r})",
        f"os.mkdir({str(tmp_path / 'folder')!r})",
        f"os.symlink('x', {str(tmp_path / 'planted')!r})",
        "Path(os.__file__).open('a')",
        "Path(os.__file__).with_name('planted.pth').write_text('x')",
        "os.mkfifo('/tmp/pipe-of-jail-test')",
    )
    ended = jail.attempt(
        "import os\n"
        f"for path in ({str(victim)!r}, {str(data)!r}, 'data'):\n"
        "    os.chmod(path, 0o777); os.utime(path); os.chown(path, os.getuid(), os.getgid())\n"
        "for cut in (lambda: os.truncate('data', 0), lambda: open('data', 'r+'), lambda: open('data', 'w'),\n"
        "            lambda: os.open('data', os.O_RDONLY | os.O_TRUNC)):\n"
        "    try: cut()\n"
        "    except OSError: print('refused')\n"
        "os.unlink('data'); print(os.path.exists('data'))",
        inputs={"data": data},
    ).ended
    assert ended.log.split() == ["refused"] * 4 + ["False"]
    for path, (state, text) in before.items():
        now = path.stat()
        assert path.read_text() == text
        assert (now.st_mode, now.st_mtime, now.st_uid) == (state.st_mode, state.st_mtime, state.st_uid)
    assert not any(path.exists() for path in escapes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "victim"]


@needs_walls
def test_other_processes_are_out_of_reach(jail: Jail) -> None:
    """They can be neither signalled nor traced, and root is not root in there."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        refused(
            jail,
            f"os.kill({victim.pid}, 9)",
            f"os.kill({os.getpid()}, 0)",
            f"ctypes.CDLL(None, use_errno=True).ptrace(16, {victim.pid}, 0, 0) and 0; "
            "raise OSError(ctypes.get_errno(), 'traced not')",
            "os.setuid(0); os.setgroups([0])",
            "os.chroot('.')",
            "os.nice(-5)",
        )
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@needs_walls
def test_no_new_namespace_gives_rights_back(jail: Jail) -> None:
    """In a user namespace of its own it could mount, and be root there."""
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "for flags in (0x10000000, 0x00020000, 0x40000000):\n"
        "    print(libc.unshare(flags))\n"
        "print(libc.syscall(435, None, 0), ctypes.get_errno(), libc.syscall(425, 8, None))\n"
        "print(libc.syscall(319, b'hidden', 0), open('/proc/self/status').read().split('CapEff:')[1].split()[0])\n"
    )
    ended = end_of(jail, program)
    words = ended.log.split()
    assert words[:4] == ["-1"] * 4 and words[5:7] == ["-1", "-1"]
    assert int(words[7], 16) == 0


def test_the_walls_hold_without_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many systems give none to ordinary users: Landlock and seccomp do it then, and orphans are found."""
    import rdagent_sota_patch.sandbox.jail as module
    from rdagent_sota_patch.sandbox.probe import Confinement, what_confines

    if not (what_confines().files and what_confines().seccomp):
        pytest.skip("this system has no other walls")
    monkeypatch.setattr(
        module, "what_confines", lambda: Confinement(what_confines().landlock, namespaces=False, seccomp=True)
    )
    (tmp_path / "secret").write_text("secret")
    marker = f"bare-{os.getpid()}"
    with Jail() as jail:
        refused(
            jail,
            "socket.socket()",
            f"open({str(tmp_path / 'secret')!r})",
            f"os.kill({os.getpid()}, 0)",
            f"open('/proc/{os.getpid()}/environ')",
        )
        ended = end_of(
            jail,
            "import os, sys\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            f"    os.fork() or {becoming_a_sleeper(marker)}\n"
            "    os._exit(0)\n"
            "import time; time.sleep(0.3)",
        )
        assert ended.ending is Ending.FINISHED
    assert not running(marker)
