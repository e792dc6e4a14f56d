"""Signed manifests: proof that a bundle is one that the holder of a key has exported, unchanged.

The signature is an HMAC-SHA256 of ``manifest.json``'s bytes. The manifest holds size and SHA-256 of every other
file, so that it covers the whole bundle.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, SIGNATURE_NAME
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

MIN_KEY_BYTES = 32
"""As many as the hash has: a shorter key would be the weakest part."""

_MAX_KEY_BYTES = 1 << 20
_MAX_SIGNATURE_BYTES = 256
_MAKE_ONE = (
    "Make one with: (umask 077; head -c 32 /dev/urandom > bundle.key), and keep it apart from bundles."
)


def read_key(path: Path) -> bytes:
    """The signing key in a file: its bytes as they are, a final line break included.

    Raises:
        BundleError: ``bad-key-file`` when it cannot be read, is shorter than 32 bytes or longer than a key can be.
    """
    try:
        with path.open("rb") as file:
            key = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise BundleError(
            "bad-key-file", f"Cannot read the key file {path}: {error.strerror or error}.", _MAKE_ONE
        ) from error
    if len(key) < MIN_KEY_BYTES:
        message = f"The key file {path} holds {len(key)} bytes, and at least {MIN_KEY_BYTES} are needed."
        raise BundleError("bad-key-file", message, _MAKE_ONE)
    if len(key) > _MAX_KEY_BYTES:
        raise BundleError(
            "bad-key-file", f"The key file {path} is larger than 1 MB; it is not a key.", _MAKE_ONE
        )
    return key


def sign_manifest(folder: Path, key: bytes) -> None:
    """Write the signature of a bundle's manifest beside it.

    Args:
        folder: The bundle; its ``manifest.json`` must be there and final.
        key: At least 32 bytes, see `read_key`.

    Raises:
        BundleError: ``bad-key-file`` for a short key, ``not-a-bundle`` without a manifest.
        SotaError: ``cannot-write``.
    """
    if len(key) < MIN_KEY_BYTES:
        message = f"The key has {len(key)} bytes, and at least {MIN_KEY_BYTES} are needed."
        raise BundleError("bad-key-file", message, _MAKE_ONE)
    manifest = folder / MANIFEST_NAME
    try:
        content = manifest.read_bytes()
    except OSError as error:
        message = f"Cannot read {manifest}: {error.strerror or error}."
        raise BundleError("not-a-bundle", message, "Sign the folder that `export` wrote.") from error
    write_text_atomically(folder / SIGNATURE_NAME, f"{_sign(content, key)}\n")


def check_signature(folder: Path, manifest: bytes, key: bytes) -> None:
    """Hold a bundle's signature to its manifest.

    Args:
        folder: The bundle.
        manifest: The bytes of its manifest, as they will be parsed.
        key: The key that it should have been signed with.

    Raises:
        BundleError: ``bundle-not-signed`` or ``signature-wrong``.
    """
    path = folder / SIGNATURE_NAME
    try:
        with path.open("rb") as file:
            signature = file.read(_MAX_SIGNATURE_BYTES)
    except FileNotFoundError:
        raise BundleError(
            "bundle-not-signed",
            f"{folder} is not signed, and a key was given to check its signature.",
            "Leave --key-file out to read it without trust, or export it again with --sign --key-file.",
        ) from None
    except OSError as error:
        message = f"Cannot read the signature {path}: {error.strerror or error}."
        raise BundleError("bundle-not-signed", message) from error
    # Bytes, since compare_digest refuses text beyond ASCII.
    if not hmac.compare_digest(signature.strip(), _sign(manifest, key).encode("ascii")):
        raise BundleError(
            "signature-wrong",
            f"The signature of {folder} was not made with this key, or its manifest was changed since.",
            "Check that it is the key that signed it. If it is, do not trust this bundle: fetch it again.",
        )


def _sign(content: bytes, key: bytes) -> str:
    return hmac.new(key, content, hashlib.sha256).hexdigest()
