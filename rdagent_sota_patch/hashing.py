"""SHA-256 of files, read a block at a time, and of texts."""

from __future__ import annotations

import hashlib
from typing import IO

_BLOCK = 1 << 20


def hash_file(file: IO[bytes]) -> tuple[int, str]:
    """Size in bytes and SHA-256 of what an open file holds from where it is.

    Raises:
        OSError: It cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def hash_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, such as a factor's code."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
