"""Errors carry slugs, say all that is wrong, and survive the way through a process pool."""

from __future__ import annotations

import pickle

from rdagent_sota_patch.errors import Problem, SotaError, SourceError, TableError


def test_message_hint_and_slug_are_shown() -> None:
    """The text holds slug, message and what to do next."""
    error = SourceError("log-not-found", "Log path does not exist: x", "Name a log.")
    assert str(error) == "[log-not-found] Log path does not exist: x\n  → Name a log."


def test_several_problems_are_one_error() -> None:
    """All problems are shown, and the first gives the slug."""
    error = TableError.of([Problem("table-index", "a"), Problem("table-empty", "b")])
    assert isinstance(error, TableError)
    assert error.slug == "table-index"
    assert str(error) == "[table-index] a\n[table-empty] b"


def test_error_survives_pickling() -> None:
    """RD-Agent's parallel mode sends errors between processes; class and problems arrive."""
    error = TableError.of([Problem("table-index", "a", "h"), Problem("table-empty", "b")])
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, TableError)
    assert copy.problems == error.problems


def test_every_error_is_a_sota_error() -> None:
    """One base catches them all."""
    assert issubclass(SourceError, SotaError) and issubclass(TableError, SotaError)
