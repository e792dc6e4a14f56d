"""A seed rules whatever torch leaves to chance, and what ``model.py`` itself fixes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_patch.evidence.seeded_model import seeded_files

NETWORK = """
from torch import manual_seed, nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        {pinned}
        self.layer = nn.Linear(3, 1)

model_cls = Net
"""

PRINTED = "import model, torch; print(model.model_cls().layer.weight.tolist(), torch.rand(2).tolist())"


@pytest.mark.parametrize("pinned", ["", "manual_seed(7)"])
def test_the_seed_rules_weights_and_samples(pinned: str, tmp_path: Path) -> None:
    """One seed gives the same first weights and draws in every process, another others; a pinned seed is shifted."""
    said = []
    for seed in (1, 1, 2):
        for name, text in seeded_files(NETWORK.format(pinned=pinned), seed).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-B", "-W", "ignore", "-c", PRINTED],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(done.stdout)
    assert said[0] == said[1] != said[2]
