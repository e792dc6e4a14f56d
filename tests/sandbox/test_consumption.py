"""What a program takes is counted, wherever it hides it; each hiding place is really used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_patch.sandbox import consumption, supervision
from rdagent_sota_patch.sandbox.consumption import TOO_MUCH, folder_size
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.supervision import Ended, Ending, which_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seen in /proc")

# Every program waits until it is ended: whether it is, and by which limit, is what is asked.
_BEGIN = """
import ctypes, mmap, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def hidden_file(name, megabytes):
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT)
    os.unlink(name)
    for _ in range(megabytes):
        os.write(descriptor, bytes(10**6))
    return descriptor

def leave_to_a_thread(work):
    # The first thread of a process alone ends; what /proc says of the process then says nothing of the others.
    if os.fork() == 0:
        def later():
            time.sleep(0.3)
            work()
            time.sleep(200)
        threading.Thread(target=later).start()
        libc.syscall({exit}, 0)
"""
_EXIT = {"x86_64": "60", "aarch64": "93"}[os.uname().machine] if hasattr(os, "uname") else "60"
BEGIN = _BEGIN.replace("{exit}", _EXIT)


def end_of(jail: Jail, program: str, **limits: int) -> Ended:
    return jail.attempt(f"{BEGIN}\n{program}\ntime.sleep(200)", limits=Limits(seconds=120, **limits)).ended


MAPPED = """
for number in range(4):
    descriptor = hidden_file("f", 10)
    # The C library's, since Python's keeps the file open as well; one page of ten megabytes.
    libc.mmap.restype = ctypes.c_void_p
    assert libc.mmap(None, ctypes.c_size_t(4096), 1, 1, descriptor, ctypes.c_long(0)) != 2**64 - 1
    os.close(descriptor)
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(MAPPED, id="mapped"),
        pytest.param("leave_to_a_thread(lambda: [hidden_file('f', 10) for _ in range(4)])", id="thread"),
        pytest.param(
            "for _ in range(4):\n"
            "    run = os.open('run', os.O_WRONLY | os.O_CREAT, 0o700)\n"
            "    os.write(run, open('/bin/sleep', 'rb').read()); os.write(run, bytes(10**7)); os.close(run)\n"
            "    if os.fork() == 0: os.execv('run', ['sleep', '60'])\n"
            "    time.sleep(0.3); os.unlink('run')\n",
            id="running",
        ),
    ],
)
def test_files_without_a_name_count(jail: Jail, program: str) -> None:
    """Mapped and closed, or held by a process whose first thread has ended."""
    assert end_of(jail, program, output_mb=30).ending is Ending.OVER_OUTPUT


def test_a_file_counts_once_however_many_hold_it(jail: Jail) -> None:
    """Forks share a temporary file; it is one file."""
    program = (
        "held = hidden_file('f', 10)\n"
        "for _ in range(5):\n    if os.fork() == 0: break\n"
        "time.sleep(1.5); os._exit(0)"
    )
    assert end_of(jail, program, output_mb=30).ending is Ending.FINISHED


def test_what_cannot_be_measured_is_held_against_the_disk(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a file that is mapped alone, root alone may learn: then it is what is gone from the disk."""
    real = Path.stat

    def as_ordinary_users(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if "map_files" in str(path):
            raise PermissionError(path)
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(consumption.Path, "stat", as_ordinary_users)
    # More than others may write or delete meanwhile.
    many = MAPPED.replace("range(4)", "range(60)")
    assert end_of(jail, many, output_mb=300).ending is Ending.OVER_OUTPUT


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            "keep = []\nfor _ in range(4): leave_to_a_thread(lambda: keep.append(b'1' * 10**8))", id="thread"
        ),
        pytest.param(
            "libc.mmap.restype = ctypes.c_void_p\n"
            "size = 40 << 30\n"
            "place = libc.mmap(None, ctypes.c_size_t(size), 1, 0x4022, -1, ctypes.c_long(0))\n"
            "assert place != 2**64 - 1\n"
            "libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(size), 15)\n"
            "for _ in range(8):\n"
            "    if os.fork() == 0:\n"
            "        for at in range(0, size, 2 << 20): ctypes.c_ubyte.from_address(place + at).value\n"
            "        break\n",
            id="page tables",
        ),
        pytest.param(
            "keep = []\n"
            "for _ in range(8):\n"
            "    if os.fork() == 0:\n"
            "        for _ in range(400):\n"
            "            pair = socket.socketpair(); pair[0].setblocking(False); keep.append(pair)\n"
            "            try:\n"
            "                while True: pair[0].send(bytes(65536))\n"
            "            except BlockingIOError: pass\n"
            "        break\n",
            id="sockets",
        ),
        pytest.param(
            "keep = []\n"
            "while True:\n"
            "    m = mmap.mmap(-1, 10**8); m.write(bytes(10**8)); keep.append(m)\n"
            "    m.madvise(mmap.MADV_DONTNEED)\n",
            id="shared and not in use",
        ),
    ],
)
def test_memory_counts_wherever_it_is(jail: Jail, program: str) -> None:
    """Behind a first thread that has ended, in tables of pages, in sockets, shared and let go."""
    assert end_of(jail, program, memory_mb=300).ending is Ending.OVER_MEMORY


def test_a_little_memory_can_be_shared(jail: Jail) -> None:
    """As processes do that count together."""
    program = (
        "shared = mmap.mmap(-1, 4096)\n"
        "if os.fork() == 0: shared[0] = 7; os._exit(0)\n"
        "os.wait(); print(shared[0]); os._exit(0)"
    )
    assert end_of(jail, program).log == "7\n"


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("for _ in range(60): os.mkdir('x' * 255); os.chdir('x' * 255)", id="long names"),
        pytest.param("for number in range(20_001): open(str(number), 'w').close()", id="many"),
    ],
)
def test_folders_that_cannot_be_counted_are_over_the_limit(jail: Jail, program: str) -> None:
    """And not an error of the system's."""
    assert end_of(jail, program).ending is Ending.OVER_OUTPUT


def test_folders_that_change_while_they_are_counted_are_no_error(tmp_path: Path) -> None:
    """A folder that becomes a file or a link is counted as what it is, and nothing outside is followed."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "large").write_bytes(b"1" * 10**7)
    inside = tmp_path / "inside"
    inside.mkdir()
    swapping = (
        f"import os; os.chdir({str(inside)!r})\n"
        "while True:\n"
        "    os.mkdir('d'); os.rmdir('d'); os.symlink('../outside', 'd'); os.unlink('d')\n"
        "    open('d', 'w').close(); os.unlink('d')\n"
    )
    swapper = subprocess.Popen([sys.executable, "-S", "-c", swapping])
    try:
        assert all(folder_size(inside) < 10**6 for _ in range(5000))
    finally:
        swapper.kill()
        swapper.wait()


def test_a_folder_nobody_may_enter_cannot_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter all, so the refusal is made here."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError

    monkeypatch.setattr(consumption.os, "open", refuse)
    assert folder_size(tmp_path) == TOO_MUCH


def test_the_disk_is_not_filled(jail: Jail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the limit of its files: on a disk of which 100 MB are free, some are kept for others."""
    monkeypatch.setattr(supervision, "free_space", lambda folder: 100 * 10**6 - folder_size(folder))
    program = "for number in range(60):\n    open(str(number), 'wb').write(bytes(10**6)); time.sleep(0.01)"
    assert end_of(jail, program).ending is Ending.DISK_FULL


_ON_A_SMALL_DISK = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from rdagent_sota_patch.sandbox.jail import Jail
with Jail() as jail:
    ended = jail.attempt(sys.argv[2]).ended
    print(ended.ending.name, ended.log[-300:])
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("open('a', 'wb').write(bytes(10**8))", id="at once"),
        pytest.param(
            "import time\nfor n in range(48): open(str(n), 'wb').write(bytes(10**6))\ntime.sleep(60)",
            id="by and by",
        ),
    ],
)
def test_a_small_disk_is_said_to_be_full(tmp_path: Path, program: str) -> None:
    """A real one, of 64 MB: it is the disk's fault and not the code's."""
    mount = f'mount -t tmpfs -o size=64m none {tmp_path} && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount a disk in a namespace of its own")
    said = subprocess.run(
        [*command, sys.executable, "-c", _ON_A_SMALL_DISK, str(tmp_path), program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith("DISK_FULL"), said.stdout


@pytest.mark.parametrize(
    "words", ["OSError: [Errno 28] No space left on device", "unable to write: errno = 28, error message"]
)
def test_no_room_on_the_disk_is_not_the_codes_failure(words: str) -> None:
    """However a library says it."""
    assert which_limit(words) is Ending.DISK_FULL
