"""What an audit found, as frozen documents; also a part of a bundle's manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.hashing import hash_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

SCHEMA_VERSION: Literal[2] = 2
"""Of an audit. The first knew no third answer: what could not be judged was written down as seeing the future."""

SEEN = "When the data ends on"
"""How the reason of a factor that sees the future begins, and that of no other."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ReadTable(_Document):
    """A file of the data folder that a factor's code asks for.

    Attributes:
        columns: Those that the code names; all of the table's where it names none.
        dated: Whether it was cut at the days; a table without dates was given whole, and so was what is not a table.
    """

    name: str
    columns: tuple[str, ...] = ()
    dated: bool


class Power(_Document):
    """What an audit would have found of a factor in which it found nothing, with 95 %.

    A peek that shows in a share ``p`` of all places shows in one at least of ``n`` with probability
    ``1 - (1 - p) ** n``. For 95 % that makes ``p = 1 - 0.05 ** (1 / n)``, about ``3 / n``: the rule of three (Hanley
    and Lippman-Hand, JAMA 249, 1983). It holds for places drawn by lot; these are where peeks are likelier to show.

    Attributes:
        cuts: Days on which the data was cut off, with a value of the factor shortly before.
        rows: Values on these days, and at stocks' own ends.
        days_share: Share of days that a peek has to change to be found, where it changes many stocks a day; 0 to 1.
        rows_share: Share of values, where it does so stock by stock.
    """

    cuts: int
    rows: int
    days_share: float
    rows_share: float

    @classmethod
    def of(cls, cuts: int, rows: int) -> Power:
        """From the numbers of places."""
        return cls(cuts=cuts, rows=rows, days_share=_share_found(cuts), rows_share=_share_found(rows))


def _share_found(places: int) -> float:
    return round(1 - 0.05 ** (1 / places), 6) if places else 1.0


class FactorVerdict(_Document):
    """The look-ahead audit of one factor.

    Attributes:
        causal: False: it sees the future. True: it does not. None: it could not be judged, and ``reason`` says why.
        changed_share: Share of the values before a cut that the cut changed, of the worst cut; 0 to 1.
        max_change: Largest absolute change of such a value; null where a value came or went.
        earliest_day: First day with a changed value, ISO; null for a causal factor.
        lookback_days: Trading days of history that the newest value needs, the day itself counted; null where
            it needs the whole history, or more than the audit could shorten.
        reads: The files that its code asks for; none where that is not known.
        reason: What was seen, or what kept it from being judged; empty for a causal factor.
        power: What would have been found; of a causal factor alone, and not of what an older version audited.
    """

    name: str
    causal: bool | None
    changed_share: float
    max_change: float | None
    earliest_day: str | None = None
    lookback_days: int | None
    code_sha256: Sha256
    reads: tuple[ReadTable, ...] = ()
    reason: str = ""
    power: Power | None = None


class Audit(_Document):
    """The look-ahead audit of factors: on which data, cut on which days, and what was found.

    Attributes:
        schema_version: 1 for an audit of a version that knew two answers alone; read into three.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    audited_at_utc: str
    data_start: str
    data_end: str
    cuts: tuple[str, ...]
    factors: tuple[FactorVerdict, ...]

    @model_validator(mode="before")
    @classmethod
    def _read_the_first_form(cls, fields: Any) -> Any:
        """Of an older audit, only what it saw of the future is an accusation."""
        if not isinstance(fields, dict) or "schema_version" in fields:
            return fields
        factors = fields.get("factors")
        if not isinstance(factors, (list, tuple)) or not all(isinstance(one, dict) for one in factors):
            return fields
        read = [
            {**one, "causal": None}
            if one.get("causal") is False and one.get("reason") and not str(one["reason"]).startswith(SEEN)
            else one
            for one in factors
        ]
        return {**fields, "schema_version": 1, "factors": read}


def hash_code(code: str) -> str:
    """What a verdict is about: the SHA-256 of the code's text in UTF-8."""
    return hash_text(code)


def write_verdicts(audit: Audit, path: Path) -> None:
    """Write an audit as JSON, whole or not at all.

    Raises:
        SotaError: ``cannot-write``.
    """
    write_text_atomically(path, audit.model_dump_json(indent=2) + "\n")


def read_verdicts(path: Path) -> Audit:
    """Read what `write_verdicts` wrote.

    Raises:
        BundleError: ``bad-audit``: there is no such file, or it is not an audit.
    """
    try:
        return Audit.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(
            "bad-audit",
            f"{path} cannot be read as an audit: {error}",
            "Write it again: rdagent-sota audit LOG --data daily_pv.h5 --out FILE.",
        ) from error


def find_unproven(codes: Mapping[str, str], audit: Audit | None) -> tuple[Problem, ...]:
    """The objections to using these factors where only causal ones may be.

    A verdict counts for the code that it is about, whatever the factor is called. One against a code outweighs any
    number for it, and one for it those that judge nothing.

    Args:
        codes: Factor name to the text of its ``factor.py``.
        audit: What is known of them; None for nothing.

    Returns:
        ``factor-not-audited``, ``factor-not-causal`` and ``factor-not-judged``, one for each factor concerned.
    """
    problems = []
    for name, code in codes.items():
        sha256 = hash_code(code)
        verdicts = [verdict for verdict in audit.factors if verdict.code_sha256 == sha256] if audit else []
        by_answer = {verdict.causal: verdict for verdict in reversed(verdicts)}
        against, unjudged = by_answer.get(False), by_answer.get(None)
        if against is not None:
            problems.append(
                Problem(
                    "factor-not-causal",
                    f"{name} was found to see the future. {against.reason}".rstrip(),
                    "Leave it out: mine on without it, or correct its code and mine again.",
                )
            )
        elif unjudged is not None and True not in by_answer:
            problems.append(not_judged(name, unjudged))
        elif not verdicts:
            problems.append(
                Problem(
                    "factor-not-audited",
                    f"{name}: no verdict on this code with this market data is known.",
                    "Run: rdagent-sota audit LOG --data daily_pv.h5, with the log that it was accepted in.",
                )
            )
    return tuple(problems)


def not_judged(name: str, verdict: FactorVerdict) -> Problem:
    """What to say of a factor that an audit could not judge."""
    return Problem(
        "factor-not-judged",
        f"{name} could not be judged: nothing is known against it, nothing proven for it. {verdict.reason}".rstrip(),
        "See to what the audit says of it (data that its code needs, --timeout, --memory), and audit again.",
    )
