"""Files are hashed whole, however many blocks they have."""

from __future__ import annotations

import hashlib
import io

import pytest

from rdagent_sota_patch.hashing import hash_file, hash_text


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_size_and_hash(size: int) -> None:
    """As hashlib has them of the whole."""
    content = b"7" * size
    assert hash_file(io.BytesIO(content)) == (size, hashlib.sha256(content).hexdigest())


def test_from_where_the_file_is() -> None:
    """What was read before is left out."""
    file = io.BytesIO(b"head and rest")
    file.read(9)
    assert hash_file(file) == (4, hashlib.sha256(b"rest").hexdigest())


def test_texts() -> None:
    """In UTF-8; half of a surrogate pair, which a log may hold, has a hash, too."""
    assert hash_text("因子\n") == hashlib.sha256("因子\n".encode()).hexdigest()
    assert hash_text("\ud800") == hashlib.sha256(b"\xed\xa0\x80").hexdigest()
