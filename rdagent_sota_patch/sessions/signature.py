"""Tell who wrote a snapshot, as ``rdagent/core/serialization.py`` signs it; never make a key."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.environment import file_wins, read_env_file
from rdagent_sota_patch.errors import SettingsError, SnapshotError
from rdagent_sota_patch.sessions.records import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"RDAGENT_SIGNED_PICKLE_V1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_LEAST_KEY_BYTES = 32
_KEY = "ARTIFACT_SIGNING_KEY"
_KEY_PATH = "ARTIFACT_SIGNING_KEY_PATH"


def find_key(environ: Mapping[str, str] | None = None, dotenv: Path = Path(".env")) -> bytes | None:
    """The key that RD-Agent would sign with here, or None where it has not made one yet.

    Args:
        environ: Variables; the process's own by default. Against ``dotenv`` they win or lose as in RD-Agent.
        dotenv: The ``.env`` file that RD-Agent loads from the current folder (``rdagent/app/cli.py``).

    Raises:
        SettingsError: ``bad-signing-key`` when there is a key that RD-Agent would not accept.
    """
    variables = _variables(os.environ if environ is None else environ, dotenv)
    text = variables.get(_KEY, "")
    if text:
        if len(text.encode()) < _LEAST_KEY_BYTES:
            raise _bad_key(f"{_KEY} has {len(text.encode())} bytes")
        return hashlib.sha256(text.encode()).digest()
    configured = variables.get(_KEY_PATH, "")
    path = Path(configured).expanduser() if configured else Path.home() / ".rdagent" / "artifact_signing.key"
    try:
        key = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _bad_key(f"The signing key {path} cannot be read ({error.strerror})") from None
    if len(key) < _LEAST_KEY_BYTES:
        raise _bad_key(f"The signing key {path} has {len(key)} bytes")
    return key


def open_envelope(data: bytes, key: bytes | None) -> tuple[Signature, memoryview]:
    """Split a snapshot's bytes into what its signature says and its pickle.

    Args:
        data: The whole file.
        key: The key at hand, if any; see `find_key`.

    Returns:
        ``VERIFIED``, ``KEY_NOT_HERE`` or ``UNSIGNED``, and the pickle.

    Raises:
        SnapshotError: ``snapshot-altered`` when the signature does not match the key at hand, and
            ``snapshot-unreadable`` when that is because the end of the file is missing.
    """
    view = memoryview(data)
    if not data.startswith(MAGIC):
        return Signature.UNSIGNED, view
    start = len(MAGIC) + _DIGEST_SIZE
    digest, payload = view[len(MAGIC) : start], view[start:]
    if not payload:
        raise _truncated()
    if key is None:
        return Signature.KEY_NOT_HERE, payload
    if hmac.compare_digest(digest, hmac.digest(key, payload, "sha256")):
        return Signature.VERIFIED, payload

    from rdagent_sota_patch.sessions.opcodes import is_truncated

    if is_truncated(payload):
        raise _truncated()
    raise SnapshotError(
        "snapshot-altered",
        "its signature does not match this machine's key: it was altered, or written on another machine.",
        f"If it comes from another machine, point {_KEY_PATH} to a copy of that machine's "
        "~/.rdagent/artifact_signing.key, or to a file that does not exist to read it unverified.",
    )


def _variables(environ: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    """The key's variables, of which pydantic-settings matches names in any case; ``.env`` as RD-Agent loads it."""
    in_file = {name: value for name, value in read_env_file(dotenv).items() if value is not None}
    first, then = (environ, in_file) if in_file and file_wins() else (in_file, environ)
    found = {name.upper(): value for variables in (first, then) for name, value in variables.items()}
    return {name: value for name, value in found.items() if name in (_KEY, _KEY_PATH)}


def _bad_key(what: str) -> SettingsError:
    return SettingsError(
        "bad-signing-key",
        f"{what}; RD-Agent signs its snapshots with at least {_LEAST_KEY_BYTES} bytes.",
        f"Correct {_KEY} or {_KEY_PATH}.",
    )


def _truncated() -> SnapshotError:
    return SnapshotError(
        "snapshot-unreadable",
        "its end is missing.",
        "A run that was killed while writing leaves such a file; another snapshot may be whole.",
    )
