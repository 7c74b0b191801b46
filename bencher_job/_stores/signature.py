"""Sign entries and rows, or give them plain digests where there is no secret.

    BENCHER_JOB_SECRET, or the user's own key -> 32-byte key -> the digest of each entry is a MAC (keyed BLAKE3)

The user's own key lies in the home directory, and is made when it is first needed. The algorithm is fixed, and the
reader's own setting says whether an entry must be signed. What the entry says of itself decides nothing.

The MAC of a row, which is an entry with its record or a function version, is

    kind of digest 1 | digest 32 | digest 32 | MAC 32

Of an entry the digests are those of its value, as the value's own header has it, and of the part of its record that a
hit doesn't need. The MAC covers both, and what a hit needs besides: key, times, and the files that the job
wrote. So a hit is verified without the columns that it doesn't read, and a record without the value. Of a function
version they are those of parameters and manifest, and of its sources.

Numbers are little-endian. A text counts as its UTF-8, and nothing as the length -1. Without a secret the MAC is a plain
digest, which shows damage and no forgery.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable
from functools import lru_cache, partial
from hmac import compare_digest
from typing import Any, Final, NoReturn

from blake3 import blake3

from .._errors import BencherJobError, UntrustedCache
from .._folders import make_private
from .parts import Buffer, DamagedEntry, MissignedEntry, StreamingRead

SECRET_VARIABLE: Final = "BENCHER_JOB_SECRET"  # noqa: S105 - the name of the variable, not its content

KEY_FILE_PREFIX: Final = b"file:"

PERSONAL_KEY: Final = "~/.config/bencher_job/key"
"""The file that holds the user's own key."""

_CONTEXT: Final = "bencher_job 2026-11-22 21:00:00 key for the MAC of a stored entry"
"""Another context is another key: it never changes."""

_LARGEST_KEY_FILE: Final = 1 << 16

_PERSONAL: Final = re.compile(rb"[0-9a-f]{64}\n")
"""A key as it is written: no other file of the user's, moved to its place, is taken for one."""

_MARK: Final = b"bencher_job: which secret is this?"
"""No entry begins with this, so its digest is never that of an entry."""


class Signature:
    """Makes the digests of entries: plain ones, or with a secret ones that nobody can make without it.

    Attributes:
        begin: begins a digest with some bytes; a function, since it is called for each entry.
        is_personal: whether the secret is the user's own key.
    """

    __slots__ = ("_key", "begin", "is_personal", "kind")

    def __init__(self, secret: bytes | None = None, *, is_personal: bool = False) -> None:
        self.is_personal = is_personal
        self._key = None if secret is None else blake3(secret, derive_key_context=_CONTEXT).digest()
        self.begin: Callable[[bytes], blake3] = (
            blake3 if self._key is None else partial(blake3, key=self._key)
        )
        self.kind: Final = 0 if secret is None else 1
        """The kind in an entry's header: 0 for a plain digest, 1 for a MAC."""

    def hasher(self, start: bytes | bytearray | memoryview, threads: int = 1) -> blake3:
        """Begin a digest with an entry's first bytes."""
        if self._key is None:
            return blake3(start, max_threads=threads)
        return blake3(start, key=self._key, max_threads=threads)

    def digest(self, whole: bytes) -> bytes:
        """Make the digest of a few bytes at once, the same as that of their pieces."""
        return self.begin(whole).digest()

    @property
    def source(self) -> str:
        """The name of the key, for messages."""
        return f"your key {PERSONAL_KEY}" if self.is_personal else f"this program's {SECRET_VARIABLE}"

    @property
    def mark(self) -> bytes:
        """Bytes that are equal in processes with the same secret, and don't reveal it."""
        return self.digest(_MARK)

    @property
    def shared_mark(self) -> bytes:
        """The mark by which users of a shared store have the same secret; empty without a secret."""
        return self.mark if self.kind else b""

    def __repr__(self) -> str:
        return f"<Signature {'without a' if self._key is None else 'with a'} secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a Signature is not pickled, so that its key stays here. Set {SECRET_VARIABLE} there too."
        )


UNSIGNED: Final = Signature()


def signature_from_environment() -> Signature:
    """Make the signature that the variable `BENCHER_JOB_SECRET` asks for.

    It holds the secret itself, or `file:` and the path of a file that holds it: an absolute path, or one that begins
    with `~`. White space at the beginning and the end is not part of the secret. Without the variable entries
    are not signed.

    Raises:
        BencherJobError: when the secret is empty, or its file can't be read or can be read by others. The message
            doesn't tell the secret.
    """
    setting = os.environb.get(SECRET_VARIABLE.encode())
    if setting is None:
        return UNSIGNED
    if not setting.startswith(KEY_FILE_PREFIX):
        return Signature(_not_empty(setting, f"{SECRET_VARIABLE} is set, but empty"))
    path = os.path.expanduser(os.fsdecode(setting.removeprefix(KEY_FILE_PREFIX)))
    if not os.path.isabs(path):
        raise BencherJobError(
            f"{SECRET_VARIABLE}=file:{path} is relative, and so names another file in each folder. "
            f"Give the path from the root."
        )
    name = f"the key file {path} of {SECRET_VARIABLE}"
    try:
        secret = _read_key_file(path, name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BencherJobError(
            f"the key file {path} of {SECRET_VARIABLE} can't be read: {reason}. Correct the path, or make the file "
            f"readable for this user only."
        ) from None
    return Signature(_not_empty(secret, f"{name} is empty"))


def personal_signature(directory: str | os.PathLike[str]) -> Signature:
    """Make the signature of the user's own key, for a store in whose place others can put another one.

    Raises:
        UntrustedCache: when there is no such key, and none can be made.
    """
    path = os.path.expanduser(PERSONAL_KEY)
    try:
        if not os.path.isabs(path) or not os.path.isdir(os.path.expanduser("~")):
            raise BencherJobError("this user has no home directory")  # noqa: TRY301 - told as the others are
        name = f"the key {path}"
        try:
            secret = _read_key_file(path, name)
        except FileNotFoundError:
            _make_key_file(path)
            secret = _read_key_file(path, name)
        if not _PERSONAL.fullmatch(secret):
            raise BencherJobError(f"{name} is not a key that this library made. Remove it")  # noqa: TRY301 - as above
    except (OSError, BencherJobError) as error:
        raise UntrustedCache(
            os.fspath(directory),
            f"can be replaced by another user's folder, and no key is at hand to tell your entries by ({error})",
            "Choose a folder of your own with cache_dir= or BENCHER_JOB_CACHE_DIR, set HOME to a folder that you can "
            f"write to, set {SECRET_VARIABLE}, or say trusted=True.",
        ) from error
    return Signature(secret, is_personal=True)


def _make_key_file(path: str) -> None:
    """Write a new key, unless another process was quicker.

    Raises:
        OSError: when it can't be written.
    """
    make_private(os.path.dirname(path))
    new = f"{path}.{os.urandom(8).hex()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, os.urandom(32).hex().encode() + b"\n")
        os.fsync(descriptor)  # what is signed with it is lost with it
        os.link(new, path)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        os.unlink(new)


def _not_empty(text: bytes, fact: str) -> bytes:
    secret = text.strip()
    if not secret:
        raise BencherJobError(
            f"{fact}, and an empty secret would sign for everybody. Use a long random one, as "
            f"python -c 'import secrets; print(secrets.token_hex())' prints, or unset {SECRET_VARIABLE}."
        )
    return secret


def _read_key_file(path: str, name: str) -> bytes:
    """Read a key file, which is called by a name in messages.

    Raises:
        OSError: when it can't be read.
        BencherJobError: when others can read it, or could have written it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _refuse_exposed(path, name, os.fstat(descriptor))
        return os.read(descriptor, _LARGEST_KEY_FILE)
    finally:
        os.close(descriptor)


def _refuse_exposed(path: str, name: str, status: os.stat_result) -> None:
    """Refuse a key file that others can read, or could have written.

    Raises:
        BencherJobError: naming the remedy.
    """
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_KEY_FILE:
        raise BencherJobError(
            f"{name} is not a regular file of at most {_LARGEST_KEY_FILE} bytes. Keep the secret in such a file."
        )
    if status.st_uid not in {os.geteuid(), 0}:
        raise BencherJobError(
            f"{name} belongs to the user number {status.st_uid}, who knows the secret and can change it. "
            f"Keep it in a file of your own."
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BencherJobError(
            f"{name} is open to others (mode {stat.S_IMODE(status.st_mode):o}). Run: chmod 600 {path}, and choose "
            f"a new secret if others may have read it."
        )


VALUE_DIGEST: Final = slice(8, 40)
"""Where an entry's bytes have their digest; see `codec`."""

MAC_SIZE: Final = 97
_FIRST: Final = slice(1, 33)
_SECOND: Final = slice(33, 65)
_MAC_AT: Final = 65
_KINDS: Final = (0, 1)
_HIT: Final = struct.Struct("<dd3i")
_RECORD: Final = struct.Struct("<?ddqq8i")
_VERSION: Final = struct.Struct("<q4i")

_WRONG: Final = (TypeError, AttributeError, ValueError, struct.error)
"""What columns raise that hold something of another type, or no UTF-8."""


def _packed(form: struct.Struct, numbers: tuple[Any, ...], *parts: bytes | None) -> bytes:
    """Pack numbers, and then parts, each with its length."""
    lengths, text = [], b""
    for part in parts:
        lengths.append(-1 if part is None else len(part))
        text += part or b""
    return form.pack(*numbers, *lengths) + text


def _of_hit(key: str, seconds: float, created: float, media: str | None, files: str | None) -> bytes:
    name = key.encode()
    if media is None and files is None:  # as of most
        return _HIT.pack(seconds, created, len(name), -1, -1) + name
    folder, sizes = (None if each is None else each.encode() for each in (media, files))
    return _packed(_HIT, (seconds, created), name, folder, sizes)


def _of_record(
    function: str,
    tag: str,
    arguments: str,
    origin: str,
    bound: bytes,
    prefix: bytes | None,
    attributes: bytes | None,
    filename: str | None,
    expires: float | None,
    stored: float,
    size: int,
    mode: int,
) -> bytes:
    packed = _packed(
        _RECORD,
        (expires is not None, expires or 0.0, stored, size, mode),
        function.encode(),
        tag.encode(),
        arguments.encode(),
        origin.encode(),
        bound,
        prefix,
        attributes,
        None if filename is None else filename.encode(),
    )
    return blake3(packed).digest()


def mac_of_entry(signature: Signature, value: bytes, hit: tuple[Any, ...], record: tuple[Any, ...]) -> bytes:
    """Make the MAC of a row.

    It takes the digest of the value; what a hit needs, which is key, seconds, when it began to run, media and files;
    and the rest of the record: function, tag, arguments, origin, encoded arguments, prefix of the function version,
    attributes, the name of its file, expiry, when it was stored, its size, and its mode.
    """
    head = bytes((signature.kind,)) + value + _of_record(*record)
    return head + signature.begin(head + _of_hit(*hit)).digest()


def check_hit(
    mac: Any,
    value: Buffer | StreamingRead,
    key: str,
    seconds: float,
    created: float,
    media: str | None,
    files: str | None,
    signature: Signature,
) -> None:
    """Verify what a hit needs of a row, once its value is verified.

    Raises:
        DamagedEntry: when it isn't what was stored with this signature.
    """
    try:
        covered = _of_hit(key, seconds, created, media, files)
        if type(value) is not bytes:
            value = bytes((value.memory if isinstance(value, StreamingRead) else value)[: VALUE_DIGEST.stop])
        made = signature.begin(mac[:_MAC_AT] + covered).digest()
        if compare_digest(mac[_MAC_AT:], made) and mac.startswith(value[VALUE_DIGEST], 1):
            return
    except _WRONG:
        pass
    raise DamagedEntry(f"its record doesn't match its {'signature' if signature.kind else 'digest'}")


def check_record(mac: Any, hit: tuple[Any, ...], record: tuple[Any, ...], signature: Signature) -> None:
    """Verify all of a row but its value.

    Raises:
        MissignedEntry: when it may have been stored with another secret, or with none.
        ValueError: when it isn't what was stored.
    """
    try:
        _check_mac(mac, _of_hit(*hit), signature)
        if _of_record(*record) == mac[_SECOND]:
            return
    except _WRONG:
        pass
    raise ValueError(f"it doesn't match its {'signature' if signature.kind else 'digest'}")


def _check_mac(mac: Any, covered: bytes, signature: Signature) -> None:
    """Verify a MAC and what it covers, but for what its digests stand for; raises as `check_record`."""
    if type(mac) is not bytes or len(mac) != MAC_SIZE:
        raise ValueError("its MAC has another type or length")
    made = signature.begin(mac[:_MAC_AT] + covered).digest()
    if mac[0] == signature.kind and compare_digest(mac[_MAC_AT:], made):
        return
    if mac[0] not in _KINDS or mac[0] == signature.kind == UNSIGNED.kind:
        raise ValueError("its MAC is another one")
    if signature.kind and not mac[0]:
        raise MissignedEntry(f"it is not signed, and {SECRET_VARIABLE} is set", is_signed=False)
    raise MissignedEntry(
        "it doesn't match its signature: it is damaged, or made with another secret"
        if signature.kind
        else f"it is signed, and {SECRET_VARIABLE} is not set",
        is_signed=True,
    )


def mac_of_version(
    signature: Signature, head: tuple[Any, ...], parts: tuple[str, str], sources: bytes
) -> bytes:
    """Make the MAC of a function version.

    It takes prefix, function, fingerprint, version and key version; parameters and manifest; and the sources.
    """
    start = bytes((signature.kind,)) + _of_parts(*parts) + blake3(sources).digest()
    return start + signature.begin(start + _of_version(*head)).digest()


def _of_version(prefix: bytes, function: str, fingerprint: str, version: str, key_version: int) -> bytes:
    return _packed(
        _VERSION, (key_version,), prefix, function.encode(), fingerprint.encode(), version.encode()
    )


def _of_parts(parameters: str, manifest: str) -> bytes:
    first = parameters.encode()
    return blake3(struct.pack("<i", len(first)) + first + manifest.encode()).digest()


@lru_cache(maxsize=1024)
def check_version(mac: Any, head: tuple[Any, ...], signature: Signature) -> None:
    """Verify the head of a function version, which many records have in common; raises as `check_record`."""
    try:
        _check_mac(mac, _of_version(*head), signature)
    except _WRONG as error:
        raise ValueError(f"its function version doesn't match its MAC: {error}") from None


def has_parts(mac: bytes, parameters: Any, manifest: Any, sources: bytes | None = None) -> bool:
    """Whether the parts of a function version, as far as they were read, are those of its MAC, which is verified."""
    try:
        return _of_parts(parameters, manifest) == mac[_FIRST] and (
            sources is None or blake3(sources).digest() == mac[_SECOND]
        )
    except _WRONG:
        return False
