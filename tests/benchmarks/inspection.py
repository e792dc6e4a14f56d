"""``rdagent-sota inspect`` as a whole process, against ``rdagent --help``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.processes import time_process
from tests.sessions.generated_log import KEY

_ROUNDS = 5


def measure(folder: Path, log: Path) -> list[Comparison]:
    """Measure on the generated log; the plugin stays out of ``rdagent --help``, which it would make slower."""
    bin_folder = Path(sys.executable).parent
    inspect = [str(bin_folder / "rdagent-sota"), "inspect", str(log)]
    help_ = [str(bin_folder / "rdagent"), "--help"]
    ours, reference = [], []
    for _ in range(_ROUNDS):
        ours.append(time_process(inspect, folder, ARTIFACT_SIGNING_KEY=KEY).wall)
        reference.append(time_process(help_, folder, RDAGENT_SOTA_DISABLE="true").wall)
    return [
        compare(
            "rdagent-sota inspect, 100 loops / rdagent --help",
            "s",
            ours,
            reference,
            Limit(Bound.RATIO, 0.25),
        )
    ]
