"""With a secret only those who know it can make an entry; the secret itself is never shown."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from pathlib import Path

import pytest
from blake3 import blake3

from bencher_job import BencherJobError
from bencher_job._stores.codec import dump, seal, unseal
from bencher_job._stores.parts import DamagedEntry, MissignedEntry
from bencher_job._stores.signature import SECRET_VARIABLE, UNSIGNED, Signature, signature_from_environment

SECRET = "correct horse battery staple"
SIGNED = Signature(SECRET.encode())


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "key"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    monkeypatch.setenv(SECRET_VARIABLE, f"file:{path}")
    return path


def sealed(signature: Signature) -> bytes:
    return bytes(seal(dump("value"), "key", signature=signature))


def accepts(reader: Signature, entry: bytes) -> bool:
    try:
        unseal(entry, "key", signature=reader)
    except (DamagedEntry, MissignedEntry):
        return False
    return True


def refusal() -> str:
    """Give the message and traceback of the error for the present environment, which must not tell the secret."""
    with pytest.raises(BencherJobError) as caught:
        signature_from_environment()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in told
    return str(caught.value)


@pytest.mark.parametrize(
    ("writer", "reader", "message"),
    [
        (UNSIGNED, SIGNED, "it is not signed, and BENCHER_JOB_SECRET is set"),
        (SIGNED, UNSIGNED, "it is signed, or says so, and BENCHER_JOB_SECRET is not set"),
        (Signature(b"another"), SIGNED, "its bytes don't match its signature"),
    ],
)
def test_an_entry_of_another_setting_is_told_from_damage(
    writer: Signature, reader: Signature, message: str
) -> None:
    with pytest.raises(MissignedEntry, match=message):
        unseal(sealed(writer), "key", signature=reader)
    assert accepts(writer, sealed(writer))


def test_what_an_entry_says_of_its_digest_decides_nothing() -> None:
    """A plain digest doesn't pass for a MAC by saying that it is one, nor the other way round."""
    for writer, reader in ((UNSIGNED, SIGNED), (SIGNED, UNSIGNED)):
        entry = bytearray(sealed(writer))
        entry[5] = reader.kind
        assert not accepts(reader, entry)
        entry[8:40] = blake3(entry[:8] + entry[40:]).digest()  # as anybody can make it
        assert accepts(reader, entry) is (reader is UNSIGNED)


def test_the_mac_is_keyed_blake3_with_a_derived_key() -> None:
    """It is pinned: another algorithm or context would make each signed entry damage."""
    context = "bencher_job 2026-11-22 21:00:00 key for the MAC of a stored entry"
    key = blake3(SECRET.encode(), derive_key_context=context).digest()
    entry = sealed(SIGNED)
    assert entry[8:40] == blake3(entry[:8] + entry[40:], key=key).digest()


def test_without_the_variable_entries_are_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    assert signature_from_environment() is UNSIGNED


def test_the_secret_stands_in_the_variable_or_in_a_file(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_file = signature_from_environment()
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    for signature in (from_file, signature_from_environment()):
        assert accepts(signature, sealed(SIGNED))
        assert not accepts(signature, sealed(UNSIGNED))


def test_a_path_without_prefix_is_a_secret_like_any_other(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a file happens to exist doesn't change what a setting means."""
    monkeypatch.setenv(SECRET_VARIABLE, str(key_file))
    assert accepts(signature_from_environment(), sealed(Signature(os.fsencode(key_file))))


def test_a_key_file_in_the_home_folder_is_found(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(key_file.parent))
    monkeypatch.setenv(SECRET_VARIABLE, "file:~/key")
    assert accepts(signature_from_environment(), sealed(SIGNED))


def test_a_secret_that_is_no_text_is_taken_as_it_is(key_file: Path) -> None:
    key_file.write_bytes(b"\xff\xfe\n")
    assert accepts(signature_from_environment(), sealed(Signature(b"\xff\xfe")))


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_secret_is_refused(text: str, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file.write_text(text)
    assert f"{key_file} of {SECRET_VARIABLE} is empty" in refusal()
    monkeypatch.setenv(SECRET_VARIABLE, text)
    assert "is set, but empty" in refusal()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a_key_file_that_is_open_to_others_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    assert f"Run: chmod 600 {key_file}" in refusal()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_key_file_of_another_user_is_refused(key_file: Path) -> None:
    os.chown(key_file, 12345, -1)
    assert "belongs to the user number 12345" in refusal()


def test_a_key_file_that_is_not_there_is_named(key_file: Path) -> None:
    key_file.unlink()
    assert f"the key file {key_file} of {SECRET_VARIABLE} can't be read: No such file" in refusal()


@pytest.mark.parametrize("what", ["folder", "pipe", "large"])
def test_what_is_no_small_regular_file_is_refused(key_file: Path, what: str) -> None:
    if what == "large":
        os.truncate(key_file, 1 << 20)
    else:
        key_file.unlink()
        (os.mkdir if what == "folder" else os.mkfifo)(key_file, 0o600)
    assert "is not a regular file of" in refusal()


def test_a_relative_key_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "file:key")
    assert "Give the path from the root" in refusal()


def test_the_secret_and_its_key_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        shown = repr(SIGNED) + str(SIGNED) + repr(seal(dump(1), "key", signature=SIGNED))
    assert shown.startswith("<Signature with a secret>")
    assert SECRET not in shown + caplog.text


def test_a_signature_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="so that its key stays here"):
        pickle.dumps(SIGNED)
