from __future__ import annotations

import hashlib
import hmac
import pickle
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SettingsError, SnapshotError
from rdagent_sota_patch.sessions.records import Signature
from rdagent_sota_patch.sessions.signature import MAGIC, find_key, open_envelope

KEY = b"k" * 32
PICKLE = pickle.dumps(["some", "thing"])


def sign(payload: bytes, key: bytes = KEY) -> bytes:
    return MAGIC + hmac.digest(key, payload, "sha256") + payload


def test_verified() -> None:
    """The right key verifies, and the payload comes back whole."""
    signature, payload = open_envelope(sign(PICKLE), KEY)
    assert (signature, bytes(payload)) == (Signature.VERIFIED, PICKLE)


def test_key_not_here() -> None:
    """Without a key a signed snapshot is readable and said to be unchecked."""
    signature, payload = open_envelope(sign(PICKLE), None)
    assert (signature, bytes(payload)) == (Signature.KEY_NOT_HERE, PICKLE)


@pytest.mark.parametrize("key", [None, KEY])
def test_unsigned(key: bytes | None) -> None:
    """A plain pickle of 0.8.0 is unsigned whatever key there is."""
    signature, payload = open_envelope(PICKLE, key)
    assert (signature, bytes(payload)) == (Signature.UNSIGNED, PICKLE)


def test_altered_names_the_remedy() -> None:
    """A changed byte is refused, and the error says what to do with another machine's log."""
    data = bytearray(sign(PICKLE))
    data[data.index(b"thing")] ^= 1
    with pytest.raises(SnapshotError) as caught:
        open_envelope(bytes(data), KEY)
    assert caught.value.slug == "snapshot-altered"
    assert "ARTIFACT_SIGNING_KEY_PATH" in str(caught.value)


def test_altered_digest() -> None:
    """A changed signature is refused as well."""
    data = bytearray(sign(PICKLE))
    data[len(MAGIC)] ^= 1
    with pytest.raises(SnapshotError, match="snapshot-altered"):
        open_envelope(bytes(data), KEY)


@pytest.mark.parametrize("kept", range(len(MAGIC), len(sign(PICKLE))))
def test_every_truncation_is_told_from_alteration(kept: int) -> None:
    """A file cut short at any byte after its magic is damaged, not altered."""
    with pytest.raises(SnapshotError) as caught:
        open_envelope(sign(PICKLE)[:kept], KEY)
    assert caught.value.slug == "snapshot-unreadable"


def test_key_from_text() -> None:
    """ARTIFACT_SIGNING_KEY is hashed, as serialization.py does."""
    text = "x" * 40
    assert find_key({"artifact_signing_key": text}) == hashlib.sha256(text.encode()).digest()


def test_key_from_file_as_it_is(tmp_path: Path) -> None:
    """A key file's bytes are the key, also when there are more than 32."""
    file = tmp_path / "key"
    file.write_bytes(b"y" * 48)
    assert find_key({"ARTIFACT_SIGNING_KEY_PATH": str(file)}) == b"y" * 48


def test_default_key_file() -> None:
    """Without settings the key is the one in the home folder."""
    folder = Path.home() / ".rdagent"
    folder.mkdir(parents=True)
    (folder / "artifact_signing.key").write_bytes(KEY)
    assert find_key({}) == KEY


def test_dotenv_comes_after_the_environment(tmp_path: Path) -> None:
    """A .env file is read as RD-Agent reads it: it does not override."""
    text = "from the file, and more than thirty-two bytes"
    (tmp_path / ".env").write_text(f"ARTIFACT_SIGNING_KEY='{text}'\n")
    assert find_key({}) == hashlib.sha256(text.encode()).digest()
    assert find_key({"ARTIFACT_SIGNING_KEY": text + "!"}) == hashlib.sha256((text + "!").encode()).digest()


def test_no_key_is_made(tmp_path: Path) -> None:
    """Looking for a key leaves no key, no folder and no lock file behind."""
    assert find_key({}) is None
    assert find_key({"ARTIFACT_SIGNING_KEY_PATH": str(tmp_path / "none" / "key")}) is None
    assert not Path.home().exists()
    assert list(tmp_path.iterdir()) == []


def test_short_keys_are_refused(tmp_path: Path) -> None:
    """What RD-Agent would not accept as a key is an error, not a missing key."""
    (tmp_path / "key").write_bytes(b"short")
    for environ in ({"ARTIFACT_SIGNING_KEY": "short"}, {"ARTIFACT_SIGNING_KEY_PATH": str(tmp_path / "key")}):
        with pytest.raises(SettingsError, match="bad-signing-key"):
            find_key(environ)


def test_a_folder_as_key_is_refused(tmp_path: Path) -> None:
    """A key path that cannot be read says so."""
    with pytest.raises(SettingsError, match="cannot be read"):
        find_key({"ARTIFACT_SIGNING_KEY_PATH": str(tmp_path)})
