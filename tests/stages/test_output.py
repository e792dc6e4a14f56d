"""RD-Agent's lines."""

from __future__ import annotations

import pytest

from rdagent_sota_patch.stages.progress import Skip, Step, parse_line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "2026-01-14 16:14:52 | INFO | rdagent.utils.workflow.loop:_run_step:243 - Start Loop 0, Step 1: coding",
            Step(0, 1, "coding"),
        ),
        ("\x1b[32mStart Loop 12, Step 0: direct_exp_gen\x1b[0m", Step(12, 0, "direct_exp_gen")),
        ("WARNING - Skip loop 3 due to Factor extraction failed.\n", Skip(3, "Factor extraction failed.")),
        ("Start Loop 3, Step two: coding", None),
        ("Workflow Progress:  20%|██        | 1/5 [00:11<00:45, 11.4s/step]", None),
    ],
)
def test_lines_about_loops_are_told_from_others(line: str, expected: object) -> None:
    """Steps and skipped loops are recognised in RD-Agent's own wording, and nothing else is."""
    assert parse_line(line) == expected
