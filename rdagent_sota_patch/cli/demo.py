"""``rdagent-sota demo``."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from rdagent_sota_patch.cli.output import err, out, print_json
from rdagent_sota_patch.demo.report import list_places, render, show_progress
from rdagent_sota_patch.demo.stages import run_demo

if TYPE_CHECKING:
    from pathlib import Path


def run_demo_command(folder: Path, as_json: bool) -> None:
    """Run the demonstration in ``folder`` and print its table; progress goes to stderr."""
    err.print(
        f"Real rdagent, real Qlib back-tests; the LLM is a script and the market synthetic. Working in {folder}",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
    # Without this a SIGTERM would end this process alone and leave the running rdagent behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with show_progress(err) as observe:
        result = run_demo(folder, observe=observe)
    if as_json:
        print_json(result.as_json())
    else:
        out.print(render(result))
        out.print(f"\n{list_places(result)}", markup=False, highlight=False, soft_wrap=True)
