"""Every error this package raises: what went wrong, where, and what to do next.

Each carries a ``slug`` that is explained in ``docs/messages.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        slug: Stable identifier, the heading of its explanation in ``docs/messages.md``.
        message: What is wrong, and where.
        hint: What to do next; empty when the message says it all.
    """

    slug: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"[{self.slug}] {self.message}"
        return f"{text}\n  → {self.hint}" if self.hint else text


class SotaError(Exception):
    """Base of every error raised here; carries one or more problems, all to be shown at once."""

    def __init__(self, slug: str, message: str, hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(slug, message, hint),)
        super().__init__(slug, message, hint)

    @classmethod
    def of(cls, problems: tuple[Problem, ...] | list[Problem]) -> Self:
        """The error that reports all of ``problems``; there must be at least one."""
        first = problems[0]
        error = cls(first.slug, first.message, first.hint)
        error.problems = tuple(problems)
        return error

    @property
    def slug(self) -> str:
        """Slug of the first problem."""
        return self.problems[0].slug

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class SettingsError(SotaError):
    """The settings contradict each other, or hold a value that cannot be read."""


class SnapshotError(SotaError):
    """One session snapshot cannot be read; another one may be."""


class SourceError(SotaError):
    """The SOTA factors that were asked for cannot be found."""


class TableError(SotaError):
    """A factor table was found and cannot be used."""


class HostError(SotaError):
    """RD-Agent is missing, or is not as this package needs it."""


class BundleError(SotaError):
    """A bundle, its factors' audit or their use cannot go on."""


class ApiError(SotaError):
    """What the results API was asked for cannot be given, or what it answered cannot be used."""
