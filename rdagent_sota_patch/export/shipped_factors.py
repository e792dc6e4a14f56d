"""The factors of a bundle: every accepted one with its code, or the reason why that is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.bundle.documents import FACTOR_FOLDER, FACTORS_NAME, ShippedFactor, ShippedFactors
from rdagent_sota_patch.bundle.writing import name_code_file
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.factor_table.provenance import FactorOrigin
from rdagent_sota_patch.factor_table.sources import Source
from rdagent_sota_patch.settings import SourceKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from rdagent_sota_patch.bundle.writing import BundleWriter
    from rdagent_sota_patch.export.choice import Choice

_UNKNOWN_LOOP = -1


@dataclass(frozen=True, slots=True)
class AcceptedFactor:
    """A factor of an accepted experiment.

    Attributes:
        loop: Of its own run; -1 where that is not known.
        metrics: Of its experiment's back-test.
        in_table: Whether the shipped model's factor table has it.
        missing: Why there is no code; empty where there is.
    """

    name: str
    description: str
    formulation: str
    variables: Mapping[str, str]
    loop: int
    metrics: Mapping[str, float | None]
    code: str | None
    in_table: bool
    missing: str = ""


@dataclass(frozen=True, slots=True)
class _Candidate:
    origin: FactorOrigin
    metrics: Mapping[str, float | None]
    implemented: bool = field(default=True)


def list_factors(choice: Choice, table: Sequence[str] | None) -> tuple[AcceptedFactor, ...]:
    """Every factor of every accepted experiment that the shipped one builds on, oldest first.

    A factor is listed under the name of its column in the factor table. Where the table has a column that no factor of
    the session accounts for, it is listed last, without code.

    Args:
        choice: What is shipped.
        table: The table's columns; None where there is no table to ask, and then every implemented factor counts
            as being in it, of several with one name the last.
    """
    candidates = [*_recorded(choice), *_own(choice)]
    usable = [one for one in candidates if one.implemented]
    if table is None:
        table = tuple(dict.fromkeys(one.origin.name for one in usable))
    columns = _columns_by_candidate(usable, table)
    found = [factor for one in candidates for factor in _listed(one, columns.get(id(one), []))]
    accounted = {name for names in columns.values() for name in names}
    return (*found, *(_unaccounted(name) for name in table if name not in accounted))


def codes_of(factors: Collection[AcceptedFactor]) -> dict[str, str]:
    """Code by name of the factors that the model's table has.

    Raises:
        BundleError: ``factor-code-missing``, one for each whose code is not there.
    """
    missing = [
        Problem(
            "factor-code-missing",
            f"The model takes {factor.name}, and its code is not there to be audited: {factor.missing}.",
            "Name the log that has its code. An export without --data lists it as missing.",
        )
        for factor in factors
        if factor.in_table and factor.code is None
    ]
    if missing:
        raise BundleError.of(missing)
    return {factor.name: factor.code for factor in factors if factor.in_table and factor.code is not None}


def write_factors(writer: BundleWriter, task_id: str, factors: Sequence[AcceptedFactor]) -> ShippedFactors:
    """Write ``sota_factors.json`` and ``factors/factor_{i}_{name}.py``."""
    shipped = []
    for number, factor in enumerate(factors, start=1):
        relpath = None
        if factor.code is not None:
            relpath = f"{FACTOR_FOLDER}/{name_code_file(number, factor.name)}"
            writer.add_text(relpath, factor.code)
        shipped.append(
            ShippedFactor(
                index=number,
                name=factor.name,
                description=factor.description,
                formulation=factor.formulation,
                variables=dict(factor.variables),
                loop=factor.loop,
                metrics=dict(factor.metrics),
                in_table=factor.in_table,
                code_relpath=relpath,
                missing_reason=factor.missing or None,
            )
        )
    document = ShippedFactors(schema_version=1, task_id=task_id, factors=tuple(shipped))
    writer.add_document(FACTORS_NAME, document)
    return document


def _own(choice: Choice) -> Iterator[_Candidate]:
    for record in choice.accepted:
        metrics = _finite(record.metrics)
        for factor in record.factors:
            origin = FactorOrigin(
                name=factor.name,
                description=factor.description,
                formulation=factor.formulation,
                variables=factor.variables,
                code=factor.code,
                loop=record.loop,
            )
            yield _Candidate(origin, metrics, factor.implemented)


def _recorded(choice: Choice) -> Iterator[_Candidate]:
    """The SOTA factors of another run, as the plugin recorded them with the experiment."""
    record = choice.experiment.sota_source or {}
    recorded, metrics = record.get("factors"), record.get("metrics")
    numbers = _finite(metrics) if isinstance(metrics, dict) else {}
    for factor in recorded if isinstance(recorded, list) else ():
        if isinstance(factor, dict) and isinstance(factor.get("name"), str):
            yield _Candidate(_origin(factor), numbers)


def _origin(factor: Mapping[str, Any]) -> FactorOrigin:
    variables, code, loop = factor.get("variables"), factor.get("code"), factor.get("loop")
    return FactorOrigin(
        name=factor["name"],
        description=str(factor.get("description") or ""),
        formulation=str(factor.get("formulation") or ""),
        variables={str(key): str(text) for key, text in variables.items()}
        if isinstance(variables, dict)
        else {},
        code=code if isinstance(code, str) else None,
        loop=loop if type(loop) is int else None,
    )


def _columns_by_candidate(usable: Sequence[_Candidate], table: Sequence[str]) -> dict[int, list[str]]:
    """The table's columns by the factor that made them; how, `Source.describe_factors` knows."""
    by_origin = {_key(one.origin): id(one) for one in usable}
    by_name = {one.origin.name: id(one) for one in usable}
    source = Source(SourceKind.LOG, Path(), None, origins=tuple(one.origin for one in usable))
    columns: dict[int, list[str]] = {}
    for name, origin in zip(table, source.describe_factors(table), strict=True):
        candidate = by_name.get(name) or by_origin.get(_key(origin))
        if candidate is not None:
            columns.setdefault(candidate, []).append(name)
    return columns


def _key(origin: FactorOrigin) -> tuple[int | None, str | None, str]:
    return origin.loop, origin.code, origin.description


def _listed(candidate: _Candidate, columns: Sequence[str]) -> Iterator[AcceptedFactor]:
    origin = candidate.origin
    missing = ""
    if not candidate.implemented:
        missing = "RD-Agent's coder did not accept its code, and no table has it"
    elif origin.code is None:
        missing = "the session does not hold its code"
    for name in columns or [origin.name]:
        yield AcceptedFactor(
            name=name,
            description=origin.description,
            formulation=origin.formulation,
            variables=origin.variables,
            loop=_UNKNOWN_LOOP if origin.loop is None else origin.loop,
            metrics=candidate.metrics,
            code=None if missing else origin.code,
            in_table=bool(columns),
            missing=missing,
        )


def _unaccounted(name: str) -> AcceptedFactor:
    return AcceptedFactor(
        name=name,
        description="",
        formulation="",
        variables={},
        loop=_UNKNOWN_LOOP,
        metrics={},
        code=None,
        in_table=True,
        missing="the factor table has it, and no factor of the session has its name or is alone in spelling it",
    )


def _finite(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers by name; what JSON cannot say becomes null."""
    return {
        str(name): float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
        for name, value in metrics.items()
    }
