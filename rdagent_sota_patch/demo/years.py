"""Which years the installed RD-Agent trains and back-tests on, and a market that covers them.

1.0.0 takes the dates from its settings, and the demonstration chooses few; 0.8.0 has them written in its templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from rdagent_sota_patch.demo.market import MarketSpec
from rdagent_sota_patch.host_source import MODEL_TEMPLATE, find_host_if_any

_VARIABLE = "{{ train_start"


@dataclass(frozen=True, slots=True)
class Segments:
    """The dates that a model is trained, validated and back-tested on."""

    train: tuple[date, date] = (date(2018, 7, 1), date(2019, 6, 30))
    valid: tuple[date, date] = (date(2019, 7, 1), date(2019, 10, 31))
    test: tuple[date, date] = (date(2019, 11, 1), date(2020, 3, 31))

    def variables(self) -> dict[str, str]:
        """The settings of all three commands (``rdagent/app/qlib_rd_loop/conf.py``) that hold these dates."""
        return {
            f"QLIB_{stage}_{segment.upper()}_{edge}": str(day)
            for stage in ("FACTOR", "MODEL", "QUANT")
            for segment in ("train", "valid", "test")
            for edge, day in zip(("START", "END"), getattr(self, segment), strict=True)
        }


FIXED_SEGMENTS = Segments(
    train=(date(2008, 1, 1), date(2014, 12, 31)),
    valid=(date(2015, 1, 1), date(2016, 12, 31)),
    test=(date(2017, 1, 1), date(2020, 8, 1)),
)
"""Those of 0.8.0, which no setting changes."""

# Few stocks, as the years are many; and half a year more before the first day, for the mined factors' windows.
_LONG_MARKET = MarketSpec(stocks=54, start=date(2007, 6, 1), end=FIXED_SEGMENTS.test[1])


def host_segments() -> Segments:
    """The dates of a run of the installed RD-Agent."""
    return FIXED_SEGMENTS if _has_fixed_dates() else Segments()


def host_market() -> MarketSpec:
    """A market for a run of the installed RD-Agent, as small as it takes."""
    return _LONG_MARKET if _has_fixed_dates() else MarketSpec()


def _has_fixed_dates() -> bool:
    host = find_host_if_any()
    template = host.read(MODEL_TEMPLATE) if host else ""
    return bool(template) and _VARIABLE not in template
