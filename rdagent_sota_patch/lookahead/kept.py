"""Verdicts kept between runs: a small file per factor code and market data, in the user's cache.

``$XDG_CACHE_HOME/rdagent-sota/audits/<SHA-256 of the code>/<SHA-256 of the data>.json``, ``~/.cache`` without
the variable. Each is an audit of one factor. So ``SOTA_REQUIRE_CAUSAL`` finds what ``rdagent-sota audit`` found,
whichever log the factor is in, and other code under the same name has no verdict.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import BundleError, SotaError
from rdagent_sota_patch.hashing import hash_file
from rdagent_sota_patch.lookahead.verdicts import (
    SCHEMA_VERSION,
    Audit,
    hash_code,
    read_verdicts,
    write_verdicts,
)
from rdagent_sota_patch.sandbox.data_folder import look_into
from rdagent_sota_patch.sandbox.inside import MAIN as DATA_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdagent_sota_patch.lookahead.verdicts import FactorVerdict


def kept_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of kept verdicts."""
    variables = os.environ if environ is None else environ
    # An empty or relative value is to be ignored (XDG Base Directory Specification).
    cache = Path(variables.get("XDG_CACHE_HOME") or "")
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "rdagent-sota" / "audits"


def keep_audit(audit: Audit, data: Path, folder: Path | None = None) -> None:
    """Keep an audit's verdicts, each in place of an older one on the same code and data.

    Args:
        data: The market data that was audited on, a folder or a ``daily_pv.h5``.
        folder: Where to; the user's cache otherwise.

    Raises:
        SotaError: ``cannot-write``, ``market-data-unreadable``.
    """
    folder = kept_folder() if folder is None else folder
    files = DataHashes(data)
    for verdict in audit.factors:
        place = folder / verdict.code_sha256
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SotaError(
                "cannot-write",
                f"Cannot keep verdicts in {place}: {error.strerror or error}.",
                "Set XDG_CACHE_HOME to a folder that can be written to.",
            ) from error
        write_verdicts(audit.model_copy(update={"factors": (verdict,)}), place / f"{files.of(verdict)}.json")


def read_kept_audit(codes: Mapping[str, str], data: Path, folder: Path | None = None) -> Audit | None:
    """What is kept about these factors' codes.

    Verdicts on this very market data; and on other data those that found a factor to see the future: which data
    shows a look-ahead is a matter of the data, and code that looked ahead once does it again. What a version kept
    that knew two answers alone does not count.

    Args:
        codes: Factor name to the text of its ``factor.py``.
        data: The market data that the factors are to be used with, a folder or a ``daily_pv.h5``.
        folder: Where verdicts are kept; the user's cache otherwise.

    Returns:
        One audit of them all, with the dates of the newest; None where nothing is kept.

    Raises:
        BundleError: ``bad-audit``, ``market-data-unreadable``.
    """
    folder = kept_folder() if folder is None else folder
    hashes = {name: hash_code(code) for name, code in codes.items()}
    paths = {name: sorted((folder / sha256).glob("*.json")) for name, sha256 in hashes.items()}
    if not any(paths.values()):
        return None
    files = DataHashes(data)
    kept: list[Audit] = []
    verdicts = []
    for name, sha256 in hashes.items():
        for path in paths[name]:
            audit = read_verdicts(path)
            if audit.schema_version < SCHEMA_VERSION:
                continue
            counted = [
                verdict.model_copy(update={"name": name})
                for verdict in audit.factors
                if verdict.code_sha256 == sha256
                and (path.stem == files.of(verdict) or verdict.causal is False)
            ]
            if counted:
                kept.append(audit)
                verdicts += counted
    if not kept:
        return None
    newest = max(kept, key=lambda audit: audit.audited_at_utc)
    return newest.model_copy(update={"factors": tuple(verdicts)})


class DataHashes:
    """The identity of the market data that a verdict rests on: the contents of the files that its factor reads."""

    def __init__(self, data: Path) -> None:
        self._files = look_into(data).files
        self._known: dict[str, str] = {}

    def of(self, verdict: FactorVerdict) -> str:
        """One SHA-256 for all files of a verdict; a file that is not here any more counts as none."""
        names = sorted({DATA_NAME, *(table.name for table in verdict.reads)})
        texts = [f"{name} {self._hash(name)}" for name in names]
        return hashlib.sha256("\n".join(texts).encode("utf-8", errors="surrogatepass")).hexdigest()

    def _hash(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = _hash_data(self._files[name]) if name in self._files else ""
        return self._known[name]


def _hash_data(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hash_file(file)[1]
    except OSError as error:
        raise BundleError(
            "market-data-unreadable",
            f"{path} cannot be read: {error.strerror or error}.",
            "Name the folder that FACTOR_CoSTEER_DATA_FOLDER names, or its daily_pv.h5.",
        ) from error
