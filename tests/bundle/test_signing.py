"""Signatures: made with a real key, and refused when key, manifest or signature is another."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, SIGNATURE_NAME
from rdagent_sota_patch.bundle.signing import check_signature, read_key, sign_manifest
from rdagent_sota_patch.errors import BundleError

KEY = bytes(range(32))
MANIFEST = b'{"schema_version": 1}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST_NAME).write_bytes(MANIFEST)
    return tmp_path


def test_a_signature_is_hmac_sha256_of_the_manifest(folder: Path) -> None:
    """Anybody can check it with other tools, and it is accepted here."""
    sign_manifest(folder, KEY)
    written = (folder / SIGNATURE_NAME).read_text(encoding="ascii")
    assert written == hmac.new(KEY, MANIFEST, hashlib.sha256).hexdigest() + "\n"
    check_signature(folder, MANIFEST, KEY)


@pytest.mark.parametrize(
    "signature", [b"", b"00", b"f" * 64, b"\xff" * 64, "é".encode() * 32, b"a" * 10_000], ids=str
)
def test_a_wrong_signature_is_refused(folder: Path, signature: bytes) -> None:
    """Whatever stands there, it is an error of its own and no crash."""
    (folder / SIGNATURE_NAME).write_bytes(signature)
    with pytest.raises(BundleError) as caught:
        check_signature(folder, MANIFEST, KEY)
    assert caught.value.slug == "signature-wrong"


def test_another_key_or_manifest_is_refused(folder: Path) -> None:
    """The signature holds for one key and one manifest."""
    sign_manifest(folder, KEY)
    for content, key in ((MANIFEST + b" ", KEY), (MANIFEST, KEY[::-1])):
        with pytest.raises(BundleError) as caught:
            check_signature(folder, content, key)
        assert caught.value.slug == "signature-wrong"


def test_no_signature_is_no_signature(folder: Path) -> None:
    """A bundle that was never signed says so."""
    with pytest.raises(BundleError) as caught:
        check_signature(folder, MANIFEST, KEY)
    assert caught.value.slug == "bundle-not-signed"


def test_key_files(tmp_path: Path) -> None:
    """A key is the file's bytes; short, huge and missing ones are refused."""
    path = tmp_path / "bundle.key"
    path.write_bytes(KEY)
    assert read_key(path) == KEY
    for content in (b"", KEY[:31], bytes((1 << 20) + 1)):
        path.write_bytes(content)
        with pytest.raises(BundleError) as caught:
            read_key(path)
        assert caught.value.slug == "bad-key-file"
    with pytest.raises(BundleError) as caught:
        read_key(tmp_path / "none")
    assert caught.value.slug == "bad-key-file"


def test_nothing_is_signed_with_a_short_key_or_without_a_manifest(folder: Path, tmp_path: Path) -> None:
    """No signature that is worth nothing, and none of nothing."""
    with pytest.raises(BundleError) as caught:
        sign_manifest(folder, b"short")
    assert caught.value.slug == "bad-key-file"
    with pytest.raises(BundleError) as caught:
        sign_manifest(tmp_path / "none", KEY)
    assert caught.value.slug == "not-a-bundle"
    assert not (folder / SIGNATURE_NAME).exists()
