"""``rdagent-sota demo``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.cli.evidence import find_missing_libraries
from rdagent_sota_patch.cli.output import err, out, print_json
from rdagent_sota_patch.demo.stages import (
    find_signing_key,
    free_folder,
    list_places,
    render,
    run_demo,
    show_progress,
)

if TYPE_CHECKING:
    from rdagent_sota_patch.demo.stages import DemoResult

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
        out.print(f"\nIs it real? {_weigh(result)}", markup=False, highlight=False)
        out.print(f"\n{list_places(result)}", markup=False, highlight=False, soft_wrap=True)


def _weigh(result: DemoResult) -> str:
    """What `rdagent-sota evidence` says of the last model, with all stages' trials counted."""
    if missing := find_missing_libraries():
        return f"`rdagent-sota evidence` would say; it needs {', '.join(missing)}."
    from rdagent_sota_patch.evidence.trials import gather_trials
    from rdagent_sota_patch.evidence.weighing import weigh
    from rdagent_sota_patch.sessions.signature import find_key
    from rdagent_sota_patch.sessions.snapshots import read_session

    key = find_key(
        {"ARTIFACT_SIGNING_KEY_PATH": str(find_signing_key(result.folder))}, result.folder / "no.env"
    )
    logs = (result.factor_log, *(run.log for run in result.back_tests))
    return weigh(gather_trials([read_session(log, key=key) for log in logs], ())).sentence
