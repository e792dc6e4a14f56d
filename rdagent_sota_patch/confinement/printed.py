"""What a program prints, kept within bounds."""

from __future__ import annotations

from collections import deque


class Printed:
    """The first and the last of what was added, ``limit`` bytes together; the middle is only counted."""

    def __init__(self, limit: int) -> None:
        self._first = bytearray()
        self._last: deque[bytes] = deque()
        self._last_size = 0
        self._left_out = 0
        self._half = limit // 2

    def add(self, part: bytes) -> None:
        """Add what was read."""
        room = self._half - len(self._first)
        if room > 0:
            self._first += part[:room]
            part = part[room:]
        if not part:
            return
        self._last.append(part)
        self._last_size += len(part)
        while self._last_size > self._half:
            oldest = self._last.popleft()
            surplus = min(len(oldest), self._last_size - self._half)
            self._left_out += surplus
            self._last_size -= surplus
            if surplus < len(oldest):
                self._last.appendleft(oldest[surplus:])

    def text(self) -> str:
        """All of it as text, with a line that says how much was left out."""
        gap = f"\n… {self._left_out:,} bytes left out …\n".encode() if self._left_out else b""
        return (bytes(self._first) + gap + b"".join(self._last)).decode("utf-8", errors="replace")
