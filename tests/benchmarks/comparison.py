"""One measurement beside its reference: medians, their ratio, and whether the limit is met."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class Bound(str, Enum):
    """What a limit bounds."""

    RATIO = "ratio"
    AMOUNT = "amount"


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a comparison may come to.

    Attributes:
        bound: ``RATIO`` bounds measured through reference, ``AMOUNT`` the measured value in its unit.
    """

    bound: Bound
    most: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the result.

    Attributes:
        name: What was measured, against what.
        unit: Of both values: ``s``, ``ms``, ``MB``, or what is counted.
        measured: Median over the rounds.
        reference: Median over the same rounds; None where there is nothing to compare with.
        limit: None for a figure that is only reported.
        rounds: Number of measured values behind the median.
    """

    name: str
    unit: str
    measured: float
    reference: float | None
    limit: Limit | None
    rounds: int

    @property
    def ratio(self) -> float | None:
        """Measured through reference; None without a reference above zero."""
        return self.measured / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None without a limit."""
        if self.limit is None:
            return None
        value = self.ratio if self.limit.bound is Bound.RATIO else self.measured
        return value is not None and value <= self.limit.most

    def to_plain(self) -> dict[str, Any]:
        """The comparison in JSON's types."""
        return {
            "name": self.name,
            "unit": self.unit,
            "measured": self.measured,
            "reference": self.reference,
            "ratio": self.ratio,
            "limit": None if self.limit is None else {self.limit.bound.value: self.limit.most},
            "met": self.met,
            "rounds": self.rounds,
        }


def compare(
    name: str,
    unit: str,
    measured: Sequence[float],
    reference: Sequence[float] = (),
    limit: Limit | None = None,
) -> Comparison:
    """Compare by medians: other programs' work on the machine makes single values too high, never too low."""
    return Comparison(
        name,
        unit,
        statistics.median(measured),
        statistics.median(reference) if reference else None,
        limit,
        len(measured),
    )


def differences(with_it: Sequence[float], without_it: Sequence[float]) -> list[float]:
    """What "with" took beyond "without", round by round: neighbours in time saw the same load."""
    return [more - less for more, less in zip(with_it, without_it, strict=True)]
