"""The peak of a process's resident memory from a given moment on (Linux)."""

from __future__ import annotations

import re
from pathlib import Path

_PROCESS = Path("/proc/self")


def begin_peak() -> float:
    """Forget the peak so far; the resident memory now, in MB."""
    # "5" resets VmHWM (proc(5), clear_refs), so that what the imports needed in passing does not hide anything.
    (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
    return peak()


def peak() -> float:
    """The most resident memory since ``begin_peak``, in MB; file mappings count, the page cache does not."""
    status = (_PROCESS / "status").read_text(encoding="ascii")
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) / 1024
