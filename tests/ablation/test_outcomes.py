"""Outcomes on the disk: what was kept is found again, and is of the same ablation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.ablation.fitting import Outcome
from rdagent_sota_patch.ablation.outcomes import OutcomeFolder, hold_folder
from rdagent_sota_patch.errors import SotaError

RECORD = {
    "task_id": "mined",
    "factor table": "sha256:1",
    "recipe": {"params": {"num_leaves": 3}, "steps": ("a",)},
}


def outcome(key: str) -> Outcome:
    return Outcome(key, 0.1, 0.2, 0.3, 25, 40, 0.5)


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    """In several files, the same twice among it."""
    first = OutcomeFolder(tmp_path, RECORD)
    first.add([outcome("a"), outcome("b")])
    first.add([outcome("b"), outcome("c")])
    first.add([])
    again = OutcomeFolder(tmp_path, RECORD)
    assert again.known == first.known == {key: outcome(key) for key in "abc"}
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def test_any_program_can_read_them(tmp_path: Path) -> None:
    OutcomeFolder(tmp_path, RECORD).add([outcome("a")])
    (path,) = tmp_path.glob("*.parquet")
    assert pd.read_parquet(path).iloc[0].to_dict() == {
        "key": "a", "ic": 0.1, "rank_ic": 0.2, "top_excess": 0.3, "days": 25, "rounds": 40, "seconds": 0.5,
    }  # fmt: skip


def test_a_table_that_changed_since(tmp_path: Path) -> None:
    """Its outcomes are not mixed with the old one's, and these stay."""
    OutcomeFolder(tmp_path, RECORD).add([outcome("a")])
    with pytest.raises(SotaError, match="other factor table") as error:
        OutcomeFolder(tmp_path, {**RECORD, "factor table": "sha256:2"})
    assert error.value.slug == "ablation-changed"
    assert OutcomeFolder(tmp_path, RECORD).known.keys() == {"a"}


@pytest.mark.parametrize("name", ["ablation.json", "outcomes-x.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    OutcomeFolder(tmp_path, RECORD)
    (tmp_path / name).write_text("nothing of the kind", encoding="utf-8")
    with pytest.raises(SotaError, match=name) as error:
        OutcomeFolder(tmp_path, RECORD)
    assert error.value.slug == "outcomes-unreadable"


def test_one_ablation_at_a_time(tmp_path: Path) -> None:
    """The lock goes with who holds it."""
    with hold_folder(tmp_path / "out"):
        with pytest.raises(SotaError) as error, hold_folder(tmp_path / "out"):
            pass
        assert error.value.slug == "ablation-running"
    with hold_folder(tmp_path / "out"):
        pass


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SotaError) as error, hold_folder(tmp_path / "out"):
        pass
    assert error.value.slug == "cannot-write"
