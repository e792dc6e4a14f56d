"""One asset as it is handed out: bytes of known size and SHA-256, in memory or in a file."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from rdagent_sota_patch.hashing import hash_file


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a file apart from another one at its path, and from itself after it was written to."""

    device: int
    inode: int
    size: int
    written_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Identity:
        """That of an open file."""
        facts = os.fstat(descriptor)
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Asset:
    """What ``asset_bytes`` answers with.

    Attributes:
        key: Under which it was asked for.
        media_type: Of its content.
        size: In bytes.
        sha256: Of its bytes, in hexadecimal.
        content: The bytes of a small asset; None where they are in a file.
        path: That file; None where the bytes are here.
        identity: Of that file when it was measured; None for a file that only the server writes.
    """

    key: str
    media_type: str
    size: int
    sha256: str
    content: bytes | None = field(default=None, repr=False)
    path: Path | None = None
    identity: Identity | None = None

    @property
    def etag(self) -> str:
        """A strong entity tag: the same for the same bytes, wherever and whenever they are served."""
        return f'"{self.sha256}"'

    @property
    def digest(self) -> str:
        """The SHA-256 in Base64, as ``Digest`` (RFC 3230) and ``Repr-Digest`` (RFC 9530) spell it."""
        return base64.b64encode(bytes.fromhex(self.sha256)).decode("ascii")


def asset_of_bytes(key: str, content: bytes, media_type: str) -> Asset:
    """A small asset."""
    return Asset(key, media_type, len(content), hashlib.sha256(content).hexdigest(), content)


def asset_of_file(key: str, path: Path, media_type: str) -> Asset:
    """A file that somebody else may write to, measured: what is sent must be the very same one.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        identity = Identity.of(file.fileno())
        _, sha256 = hash_file(file)
    return Asset(key, media_type, identity.size, sha256, path=path, identity=identity)
