"""Verdicts written, read, kept by code and data, and asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import BundleError, SotaError
from rdagent_sota_patch.lookahead.kept import keep_audit, kept_folder, read_kept_audit
from rdagent_sota_patch.lookahead.verdicts import (
    SEEN,
    Audit,
    FactorVerdict,
    Power,
    find_unproven,
    hash_code,
    read_verdicts,
    write_verdicts,
)


def verdict(name: str, code: str, *, causal: bool = True) -> FactorVerdict:
    return FactorVerdict(
        name=name,
        causal=causal,
        changed_share=0.0 if causal else 0.25,
        max_change=0.0 if causal else None,
        earliest_day=None if causal else "2019-03-04",
        lookback_days=21 if causal else None,
        code_sha256=hash_code(code),
        reason="" if causal else "Its past changes.",
    )


def audit(*verdicts: FactorVerdict, at: str = "2026-01-01T00:00:00+00:00") -> Audit:
    return Audit(
        audited_at_utc=at,
        data_start="2019-01-02",
        data_end="2020-02-25",
        cuts=("2019-06-03",),
        factors=verdicts,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "daily_pv.h5"
    path.write_bytes(b"prices")
    return path


def test_what_would_have_been_found_follows_from_the_number_of_places(tmp_path: Path) -> None:
    """About three through their number; nothing for none. What an older version wrote without it is read."""
    power = Power.of(cuts=24, rows=0)
    assert (power.days_share, power.rows_share) == (pytest.approx(0.1173, abs=1e-4), 1.0)
    with_it = audit(verdict("A", "a").model_copy(update={"power": power}))
    write_verdicts(with_it, tmp_path / "audit.json")
    assert read_verdicts(tmp_path / "audit.json") == with_it
    older = json.loads((tmp_path / "audit.json").read_text())
    del older["factors"][0]["power"]
    (tmp_path / "audit.json").write_text(json.dumps(older))
    assert read_verdicts(tmp_path / "audit.json").factors[0].power is None


def test_verdicts_come_back_as_they_were_written(tmp_path: Path) -> None:
    """And a file that is none is refused."""
    given = audit(verdict("A", "a"), verdict("B", "b", causal=False))
    write_verdicts(given, tmp_path / "audit.json")
    assert read_verdicts(tmp_path / "audit.json") == given
    for content in (b"{}", b"\xff", b'{"audited_at_utc": 1}'):
        (tmp_path / "audit.json").write_bytes(content)
        with pytest.raises(BundleError) as caught:
            read_verdicts(tmp_path / "audit.json")
        assert caught.value.slug == "bad-audit"
    with pytest.raises(BundleError):
        read_verdicts(tmp_path / "none.json")


def test_a_verdict_counts_for_its_code() -> None:
    """Whatever the factor is called; other code under the same name has none."""
    known = audit(verdict("A", "a"), verdict("B", "b", causal=False))
    assert find_unproven({"A": "a", "Renamed": "a"}, known) == ()
    problems = find_unproven({"A": "other", "B": "b", "C": "a"}, known)
    assert [problem.slug for problem in problems] == ["factor-not-audited", "factor-not-causal"]
    assert "B was found to see the future. Its past changes." in problems[1].message
    assert [problem.slug for problem in find_unproven({"A": "a"}, None)] == ["factor-not-audited"]


def test_one_verdict_against_a_code_outweighs_others() -> None:
    """Which data shows a look-ahead is a matter of the data."""
    known = audit(verdict("A", "a"), verdict("A", "a", causal=False))
    assert [problem.slug for problem in find_unproven({"A": "a"}, known)] == ["factor-not-causal"]


def test_verdicts_are_kept_by_code_and_data(tmp_path: Path, data: Path) -> None:
    """A later audit replaces an earlier one on the same data, and a clean one does not count on other data."""
    folder = tmp_path / "kept"
    assert read_kept_audit({"A": "a"}, tmp_path / "none.h5", folder) is None
    keep_audit(audit(verdict("A", "a"), verdict("B", "b", causal=False)), data, folder)
    keep_audit(audit(verdict("A", "a"), at="2026-02-02T00:00:00+00:00"), data, folder)
    kept = read_kept_audit({"Mine": "a", "Other": "b", "New": "c"}, data, folder)
    assert kept is not None
    assert [(found.name, found.causal) for found in kept.factors] == [("Mine", True), ("Other", False)]
    assert kept.audited_at_utc.startswith("2026-02-02")
    data.write_bytes(b"other prices")
    kept = read_kept_audit({"Mine": "a", "Other": "b"}, data, folder)
    assert kept is not None
    assert [(found.name, found.causal) for found in kept.factors] == [("Other", False)]
    assert read_kept_audit({"Mine": "a"}, data, folder) is None


def test_what_an_older_version_found_is_read_into_three_answers(tmp_path: Path, data: Path) -> None:
    """Only what it saw of the future is an accusation; and what it kept is not taken for a verdict of today."""
    old = audit(
        verdict("Honest", "a"),
        verdict("Peeks", "b", causal=False).model_copy(
            update={"reason": f"{SEEN} 2019-06-03, 2 % are others."}
        ),
        verdict("Fails", "c", causal=False).model_copy(
            update={"reason": "It fails on the whole market data: KeyError: 'x'."}
        ),
    ).model_dump()
    del old["schema_version"]
    read = Audit.model_validate(old)
    assert [one.causal for one in read.factors] == [True, False, None]
    assert read.schema_version == 1
    assert Audit.model_validate_json(read.model_dump_json()) == read
    keep_audit(read, data, tmp_path / "kept")
    assert read_kept_audit({"Honest": "a", "Peeks": "b"}, data, tmp_path / "kept") is None


def test_a_factor_that_could_not_be_judged_is_told_apart() -> None:
    """From one that sees the future and from one that was never audited; a clean verdict on its code outweighs it."""
    unjudged = verdict("A", "a").model_copy(update={"causal": None, "reason": "It fails: KeyError."})
    (problem,) = find_unproven({"A": "a"}, audit(unjudged))
    assert problem.slug == "factor-not-judged"
    assert "KeyError" in problem.message
    assert find_unproven({"A": "a"}, audit(unjudged, verdict("A", "a"))) == ()
    (problem,) = find_unproven({"A": "a"}, audit(unjudged, verdict("A", "a", causal=False)))
    assert problem.slug == "factor-not-causal"


def test_a_damaged_kept_verdict_is_an_error(tmp_path: Path, data: Path) -> None:
    """Not a factor without verdict."""
    keep_audit(audit(verdict("A", "a")), data, tmp_path / "kept")
    (kept,) = (tmp_path / "kept").rglob("*.json")
    kept.write_text("{")
    with pytest.raises(BundleError) as caught:
        read_kept_audit({"A": "a"}, data, tmp_path / "kept")
    assert caught.value.slug == "bad-audit"


def test_unreadable_data_and_unwritable_folders_are_errors(tmp_path: Path, data: Path) -> None:
    """Each with its slug."""
    with pytest.raises(BundleError) as missing:
        keep_audit(audit(verdict("A", "a")), tmp_path / "none.h5", tmp_path / "kept")
    assert missing.value.slug == "market-data-unreadable"
    with pytest.raises(SotaError) as unwritable:
        keep_audit(audit(verdict("A", "a")), data, data / "kept")
    assert unwritable.value.slug == "cannot-write"


def test_the_kept_folder_follows_the_desktop_rules() -> None:
    """An empty or relative XDG_CACHE_HOME does not count."""
    assert kept_folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/rdagent-sota/audits")
    for ignored in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "here"}):
        assert kept_folder(ignored) == Path.home() / ".cache/rdagent-sota/audits"
