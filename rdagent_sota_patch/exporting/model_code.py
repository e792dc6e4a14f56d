"""The code of a torch model's class: what Qlib imported from the workspace, held to what the session says it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.documents import CODE_NAME
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.exporting.choice import Choice

_LARGEST = 4 << 20


def find_model_code(choice: Choice, workspace: Path) -> str:
    """Text of ``model.py``.

    Raises:
        BundleError: ``model-code-missing``, ``model-code-changed`` or ``artifact-unreadable``.
    """
    model = choice.experiment.model
    recorded = model.code if model is not None else None
    path = workspace / CODE_NAME
    present = _read(path)
    if recorded is None and present is None:
        raise BundleError(
            "model-code-missing",
            f"The code of this torch model is gone: {path} is not there, and the session does not hold it.",
            "Restore the workspace, or export the factors alone with --factors-only.",
        )
    if recorded is not None and present is not None and _lines(recorded) != _lines(present):
        raise BundleError(
            "model-code-changed",
            f"{path} is not the code that the session recorded for this model.",
            "It was changed since; put the recorded one back (rdagent-sota inspect LOG shows where the log is).",
        )
    return present if present is not None else str(recorded)


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(content) > _LARGEST:
        raise _unreadable(path, f"it has more than {_LARGEST >> 20} MB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"it is not UTF-8 ({error.reason})") from None


def _lines(code: str) -> list[str]:
    # RD-Agent writes in text mode: on Windows with other line endings.
    return code.splitlines()


def _unreadable(path: Path, why: str) -> BundleError:
    return BundleError(
        "artifact-unreadable",
        f"{path} cannot be read: {why}.",
        "Restore the workspace from a backup, or run the experiment again.",
    )
