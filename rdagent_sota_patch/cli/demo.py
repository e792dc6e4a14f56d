"""``rdagent-sota demo``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from rdagent_sota_patch.cli.output import err, out, print_json
from rdagent_sota_patch.demo.stages import free_folder, list_places, render, run_demo, show_progress

_FOLDER = Path("rdagent-sota-demo")


def run_demo_command(folder: Path | None, as_json: bool, *, force: bool = False) -> None:
    """Run the demonstration in ``folder`` and print its table; progress goes to stderr."""
    if folder is None:
        folder = _FOLDER if force else free_folder(_FOLDER)
    err.print(
        "Real rdagent, real Qlib back-tests; the LLM is a script and the market synthetic. It takes 3 to 6 minutes on "
        f"two cores. Working in {folder}",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
    # Without this a SIGTERM would end this process alone and leave the running rdagent behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with show_progress(err) as observe:
        result = run_demo(folder, observe=observe, force=force)
    if as_json:
        print_json(result.as_json())
    else:
        out.print(render(result))
        out.print(f"\n{list_places(result)}", markup=False, highlight=False, soft_wrap=True)
