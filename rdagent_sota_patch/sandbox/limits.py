"""How much a confined program may use before it is ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one confined run; reaching one ends the program and all it started.

    Attributes:
        seconds: Wall-clock time.
        memory_mb: Memory in MiB, of all its processes together.
        output_mb: What its folder may grow to, in MiB, copies of inputs not counted.
        log_kb: How much of what it prints is kept, in KiB: the beginning and the end.
    """

    seconds: float = 600.0
    memory_mb: int = 8192
    output_mb: int = 4096
    log_kb: int = 256

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "output_mb", "log_kb"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
