"""The patches that this package brings along, one per release of RD-Agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.patching.diff import FilePatch, read_patch

RELEASES = ("1.0.0", "0.8.0")
"""Newest first."""

OLDEST = (0, 8, 0)


@dataclass(frozen=True, slots=True)
class ReleasePatch:
    """The patch for one release.

    Attributes:
        text: As it is on disk, and as ``git apply`` and ``patch -p1`` take it.
    """

    release: str
    text: str
    files: tuple[FilePatch, ...]

    @classmethod
    def parse(cls, release: str, text: bytes) -> ReleasePatch:
        """The patch in ``text``.

        Raises:
            ValueError: It cannot be read; see ``read_patch``.
        """
        # git may have given the patch itself another line end when it was checked out.
        text = text.replace(b"\r\n", b"\n")
        return cls(release, text.decode("utf-8"), read_patch(text))


def shipped_patches() -> tuple[ReleasePatch, ...]:
    """All patches, newest release first.

    Raises:
        SotaError: This package was installed without them, or they are damaged.
    """
    return tuple(_read(release) for release in RELEASES)


def _read(release: str) -> ReleasePatch:
    # A wheel has the patches beside this module, a checkout has them where people look for them.
    places = [folder / f"rdagent-{release}.patch" for folder in (_here(), _here().parents[1] / "patches")]
    for place in places:
        try:
            return ReleasePatch.parse(release, place.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _damaged(f"{place} cannot be used: {error}.") from error
    raise _damaged(f"The patch for RD-Agent {release} is neither of {places[0]} and {places[1]}.")


def _here() -> Path:
    return Path(__file__).resolve().parent


def _damaged(message: str) -> SotaError:
    return SotaError("patch-unreadable", message, "Install rdagent-sota-patch again.")
