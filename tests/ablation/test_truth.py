"""The smallest set is the true one: five real factors, each with a twin, among twenty that are noise."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rdagent_sota_patch.ablation.ablating import AblateOptions, ablate
from tests.ablation.made_worlds import NOISE, REAL, RECIPE, TWINS, make_world

OPTIONS = AblateOptions(seeds=1, windows=6, one_by_one=False)


def find_smallest(seed: int) -> frozenset[str]:
    """What is found in a world."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        arrays = make_world(folder, seed)
        found = ablate(
            arrays, [*REAL, *NOISE, *TWINS], RECIPE, folder, options=OPTIONS, report=lambda *_: None
        )
    assert found.smallest is not None
    return frozenset(found.smallest)


def test_two_worlds() -> None:
    assert [find_smallest(seed) for seed in (0, 1)] == [frozenset(REAL)] * 2


@pytest.mark.proof
def test_a_hundred_worlds() -> None:
    """Exactly the true set in at least 95 of them."""
    from joblib import Parallel, delayed

    found = Parallel(n_jobs=os.cpu_count())(delayed(find_smallest)(seed) for seed in range(100))
    wrong = [
        (seed, sorted(smallest ^ set(REAL))) for seed, smallest in enumerate(found) if smallest != set(REAL)
    ]
    assert len(wrong) <= 5, wrong
