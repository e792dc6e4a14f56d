"""What a confined Python needs of this system: where its modules are, and what it must be able to read."""

from __future__ import annotations

import site
import sys
import sysconfig
from functools import cache
from pathlib import Path

# Shared libraries and what the C library reads of them. Nothing of a user's is kept there.
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/dev/urandom",
    "/dev/random",
    # What numerical libraries ask the machine about.
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
)
# Not /dev/zero: shared, it is memory that a process can unmap without giving it back.
DEVICES = ("/dev/null",)

# Of an installation, not its whole folder: that may be a project's own, with the user's keys in it.
_INSTALLED = ("bin", "lib", "lib64", "share", "pyvenv.cfg")

# Its own folder first and then the installed packages, as `python program.py` has it; but what ``.pth`` files
# say is not run.
_START = (
    "import sys, runpy; sys.path[:0] = [{folder!r}]; sys.path += {modules!r}; "
    "runpy.run_path({program!r}, run_name='__main__')"
)


@cache
def module_folders() -> tuple[str, ...]:
    """The folders of installed packages of this Python."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return tuple(dict.fromkeys(folder for folder in folders if Path(folder).is_dir()))


@cache
def readable_paths() -> tuple[str, ...]:
    """What this Python with its packages has to read in order to run."""
    places = []
    executable = Path(sys.executable)
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        places += [Path(prefix) / name for name in _INSTALLED]
    places += [executable, executable.resolve(), *map(Path, module_folders())]
    return tuple(dict.fromkeys([*_SYSTEM, *(str(place) for place in places if place.exists())]))


def python_command(folder: Path, program: str) -> list[str]:
    """The command that runs the file ``program`` of ``folder`` as ``python program`` would."""
    start = _START.format(folder=str(folder), modules=list(module_folders()), program=program)
    return [sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", "-c", start]


def package_root() -> str:
    """The folder that holds this package, for a Python that is started without looking for packages."""
    return str(Path(__file__).resolve().parents[2])
