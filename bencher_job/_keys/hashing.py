"""Hash any value to a digest.

Objects are numbered in the order of the walk. An object that is met again while it is still unresolved (because it
contains the current object, or belongs to the same component of cycles) is encoded as the distance back to it. This
distance does not depend on where the component is referred to. An object that leads no further back than to itself has
an encoding that depends on it alone. That encoding is kept, so shared objects and equal objects are encoded alike.
This is Tarjan's algorithm for strongly connected components.

    plain value   None, bool, int, float, complex, str, bytes: its marshal of version 2, which ignores identity
    container     "#" and the digest of a tag, its length, and its encoded members
    other object  "#" and the digest of a tag, its class's name, and its canonical form

Every encoding states its kind and its length, so a sequence of encodings can be read in one way only. A list of plain
values takes one `marshal` call, which is faster than one for each member and gives the same bytes.

Digests are SHA-256 for small input and BLAKE3 for large input, whichever is faster.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from marshal import dumps
from operator import ne
from types import FunctionType
from typing import Any, Final

from blake3 import blake3

from .._cores import cores
from .._errors import UnkeyableArgument
from .canonical import (
    Attributes,
    ByName,
    Content,
    Parts,
    Raised,
    Refusal,
    error_text,
    ignore_remedy,
    key_remedy,
    refuse,
    sentence,
)
from .hashers import Hasher, hasher_for
from .names import qualified_name

KEY_VERSION: Final = 4
"""Increases with every change of an encoding."""

CodeHasher = Callable[[Any, str], bytes]
CodeHook = Callable[..., bytes]
Known = dict[tuple[int, bool], tuple[object, bytes, bool, "Seen"]]
"""Encoded arguments, by identity and whether the argument is its default: the object itself, to keep it alive, its
encoding, whether code counted, and the attributes in it."""

Seen = list[tuple[str, list[str], list[bytes], dict[str, bytes]]]
"""The attributes of objects that are arguments: the parameter, the names, the encodings, and the digests of these,
which are made on demand."""

_LARGE: Final = 1 << 14
"""Size in bytes from which BLAKE3 is faster than SHA-256."""

_IN_PLACE: Final = 1 << 20
"""Size in bytes from which `bytes` are hashed without a copy."""

_PARALLEL: Final = 1 << 22
"""Size in bytes from which several cores are faster than one."""

_MOST_THREADS: Final = 8

UNCHANGEABLE: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})
"""Types of immutable values that are fully described by their value."""

_PLAIN: Final = UNCHANGEABLE
_SHORT: Final = _PLAIN - {bytes}
_SORTABLE: Final = {frozenset({int}), frozenset({str}), frozenset({bytes})}
_LONGEST_ARGUMENTS: Final = 256
"""Size in bytes up to which encoded arguments are not digested: they are stored with each entry."""

WITH_CODE: Final = b"&"
"""First byte of encoded arguments that include code: objects of the user's own classes, functions."""

_NOTHING: Final = object()
_THE_DEFAULT: Final = Parts({"default": None})
_code_hashers: list[CodeHook] = []
_UINT32: Final = struct.Struct("<I")
_MOST_FORGOTTEN: Final = 100_000


class Graph:
    """The objects on the path to the one that is being encoded, and the finished ones."""

    __slots__ = ("_components", "_done", "_forgotten", "_lows", "_numbers", "_open", "_starts", "_unresolved")

    def __init__(self) -> None:
        self._done: dict[int, tuple[bytes, object]] = {}
        self._numbers: dict[int, int] = {}
        self._lows: list[int] = []
        self._starts: list[int] = []
        self._unresolved: list[object] = []
        self._components: dict[int, object] = {}
        self._open: dict[object, int] = {}
        self._forgotten = 0

    def enter(self, value: object) -> bytes | None:
        """Begin an object; if its encoding is known, return it and begin nothing."""
        key = id(value)
        number = self._numbers.get(key)
        if number is not None:
            self._lows[-1] = min(self._lows[-1], number)
            return b"^" + _UINT32.pack(len(self._numbers) - number)
        component = self._components.get(key)
        done = self._done.get(key)
        if done is not None and not self._open.get(component):
            return done[0]
        if component is not None:
            self._open[component] = self._open.get(component, 0) + 1
        self._numbers[key] = number = len(self._numbers)
        self._lows.append(number)
        self._starts.append(len(self._unresolved))
        self._unresolved.append(value)
        return None

    def leave(self, value: object, encoding: bytes) -> bytes:
        """End the object that was entered last, and return its encoding."""
        key = id(value)
        low, start, number = self._lows.pop(), self._starts.pop(), self._numbers[key]
        component = self._components.get(key)
        if component is not None:
            self._open[component] -= 1
        if low < number:
            self._lows[-1] = min(self._lows[-1], low)
            return encoding
        members = self._unresolved[start:]
        del self._unresolved[start:]
        for member in members:
            self._numbers.pop(id(member), None)
        if len(members) > 1:
            self._components.update(dict.fromkeys(map(id, members), object()))
        self._done[key] = encoding, value
        return encoding

    @property
    def depth(self) -> int:
        """The number of objects that were entered and not left."""
        return len(self._numbers)

    def mark(self) -> int:
        """Return a position for `forget`; taken before each member of an unordered container."""
        return len(self._unresolved)

    def forget(self, mark: int) -> bool:
        """Hide the objects met since `mark` from the next member of an unordered container; whether this may go on."""
        for member in self._unresolved[mark:]:
            self._forgotten += self._numbers.pop(id(member), None) is not None
        return self._forgotten <= _MOST_FORGOTTEN


def set_code_hasher(hook: CodeHook) -> None:
    """Use `hook(obj, path, libraries=...)` to digest the code of functions and classes that are values.

    The path is relative to the object, so it is empty. If the path of an `UnkeyableArgument` from the hook begins
    with `.name` or `[key]`, it is appended to the object's own path.
    """
    _code_hashers[:] = [hook]


def digest(value: object, path: str = "value") -> bytes:
    """Make the 32-byte digest of a value.

    Raises:
        UnkeyableArgument: when something in it has no key; the error's path starts with `path`.
    """
    return Encoder().digest(value, path)


def encode_arguments(
    names: tuple[str, ...],
    values: tuple[object, ...],
    defaults: tuple[object, ...] = (),
    *,
    methods: bool = True,
    libraries: bool = True,
    known: Known | None = None,
    seen: Seen | None = None,
) -> bytes:
    """Encode the values of a call's parameters in at most 256 bytes, which begin with `WITH_CODE` if code counts.

    Args:
        names: the parameters for errors, with their stars: `**options`.
        values: their values.
        defaults: their defaults. A value without a key counts as the default if it is that very object, such as an
            `object()` that means "not given".
        methods: whether the code of the user's own classes counts with their objects.
        libraries: whether the versions of the libraries that this code names count.
        known: encodings of objects that are not read again; new ones are added.
        seen: a list to which the attributes of the objects are added.

    Raises:
        UnkeyableArgument: when a value has no key; it names the parameter and the place in it.
    """
    encoding = _plain_sequence(values)
    mark = b"#"
    if encoding is None:
        encoder = Encoder(methods=methods, libraries=libraries, seen=seen)
        encoding = encoder.arguments(names, values, defaults, known)
        mark = WITH_CODE if encoder.has_met_code else mark
    if mark == WITH_CODE or len(encoding) > _LONGEST_ARGUMENTS:
        return mark + _hash(encoding)
    return encoding


def join_key(arguments: bytes, prefix: bytes) -> str:
    """Make the key of a call, in hexadecimal, from its encoded arguments and the prefix of its function."""
    return sha256(arguments + prefix).hexdigest()


class Encoder:
    """Encodes values; an object that occurs twice in a digest is encoded once.

    `code` digests the code of functions and classes, in place of the hook from `set_code_hasher`. With `methods` the
    code of the user's own classes counts with their objects, since a function may call their methods. With `libraries`
    the versions of the libraries that this code names count as well.
    """

    __slots__ = ("_code_hasher", "_libraries", "_methods", "_path", "_seen", "graph", "has_met_code")

    def __init__(
        self,
        code: CodeHasher | None = None,
        *,
        methods: bool = True,
        libraries: bool = True,
        seen: Seen | None = None,
    ) -> None:
        self._code_hasher = code
        self._methods = methods
        self._libraries = libraries
        self._seen = seen
        self._path = ""
        self.graph = Graph()
        self.has_met_code = False

    def digest(self, value: object, path: str = "value") -> bytes:
        """Make the 32-byte digest of a value; `path` names the value in errors."""
        self.graph = Graph()  # objects of an earlier digest may have changed since
        return _hash(self._topmost(value, path))

    def arguments(
        self,
        names: Sequence[str],
        values: Sequence[object],
        defaults: Sequence[object] = (),
        known: Known | None = None,
    ) -> bytes:
        """Encode the values of parameters as a tuple."""
        defaults = defaults or (_NOTHING,) * len(values)
        encode = self._topmost if known is None else partial(self._topmost_once, known)
        encodings = [
            encode(value, name, value is default)
            for name, value, default in zip(names, values, defaults, strict=True)
        ]
        return b"(" + _UINT32.pack(len(values)) + b"".join(encodings)

    def _topmost(self, value: object, path: str, is_default: bool = False) -> bytes:
        self._path = path.lstrip("*")
        try:
            return self.encode(value)
        except Refusal as refusal:
            if (
                is_default and not refusal.steps
            ):  # only the default itself; a container of it has a value that may change
                self.graph = Graph()
                return self.encode(_THE_DEFAULT)
            raise refusal.as_error(path) from refusal.__cause__
        except Raised as raised:
            error = raised.error
        except RecursionError:
            name, remedies = qualified_name(type(value)), (ignore_remedy(path, ()), key_remedy(type(value)))
            reason = "it is nested deeper than Python's recursion limit"
            error = UnkeyableArgument(path.lstrip("*"), name, reason, sentence(*remedies))
        raise error

    def _topmost_once(self, known: Known, value: object, path: str, is_default: bool) -> bytes:
        if _is_plain(value):
            return self._topmost(value, path, is_default)
        noted = known.get((id(value), is_default))
        if noted is None:
            # A separate encoder, so that the encoding does not depend on objects that other arguments share with it.
            alone = Encoder(self._code_hasher, methods=self._methods, libraries=self._libraries, seen=[])
            encoding = alone._topmost(value, path, is_default)
            noted = known[id(value), is_default] = value, encoding, alone.has_met_code, alone._seen or []
        self.has_met_code |= noted[2]
        if self._seen is not None:
            self._seen += noted[3]
        return noted[1]

    def encode(self, value: Any) -> bytes:
        """Encode a value; refuse it if its class raises an error."""
        cls = type(value)
        try:
            if cls in _PLAIN:
                return _plain(value)
            return (_BUILTINS.get(cls) or hasher_for(cls))(self, value)
        except (Refusal, Raised, RecursionError, MemoryError):
            raise
        except Exception as error:
            raise refuse(cls, f"reading it raised {error_text(error)}") from error

    def wrap(self, header: bytes, canonical_form: object) -> bytes:
        """Encode an object by its self-delimiting header and its canonical form."""
        return b"#" + _hash(header + self.encode(canonical_form))

    def with_methods(self, encoding: bytes, cls: type) -> bytes:
        """Add the code of an object's class to its encoding, if methods count."""
        return b"#" + _hash(b"&" + encoding + self.code(cls)) if self._methods else encoding

    def name(self, obj: object) -> bytes:
        """Encode a class or a function by its name."""
        return b"@" + dumps(qualified_name(obj), 2)

    def code(self, obj: Any) -> bytes:
        """Encode a function or a class by its code."""
        self.has_met_code = True
        hasher = self._code_hasher
        if hasher is None and _code_hashers:
            hasher = partial(_code_hashers[-1], libraries=self._libraries)
        if hasher is None:
            raise refuse(type(obj), "no hook digests its code")
        try:
            return b"#" + _hash(b"c" + hasher(obj, ""))
        except UnkeyableArgument as error:
            continues = error.path.startswith((".", "["))
            reason = error.reason if continues else f"{error.path}: {error.reason}"
            refusal = Refusal(error.type_name, reason)
            refusal.steps += [error.path] if continues else []
            raise refusal from error

    def _encodings(self, values: Sequence[object], step: Callable[[int], str]) -> list[bytes]:
        encodings: list[bytes] = []
        try:
            for value in values:
                encodings.append(self.encode(value))  # noqa: PERF401  # an error needs the index
        except Refusal as refusal:
            refusal.steps.append(step(len(encodings)))
            raise
        return encodings

    def _members(self, values: Sequence[object], step: Callable[[int], str]) -> bytes:
        return _UINT32.pack(len(values)) + b"".join(self._encodings(values, step))

    def sequence(self, values: list[object] | tuple[object, ...]) -> bytes:
        encoding = _plain_sequence(values)
        if encoding is not None:
            return b"#" + _hash(encoding)
        known = self.graph.enter(values)
        if known is not None:
            return known
        tag = b"[" if type(values) is list else b"("
        return self.graph.leave(values, b"#" + _hash(tag + self._members(values, "[{}]".format)))

    def mapping(self, mapping: dict[Any, object]) -> bytes:
        if mapping and frozenset(map(type, mapping)) not in _SORTABLE:
            return self._unordered(mapping, self._pair, mapping.items(), b"d")
        keys = sorted(mapping)
        values = [mapping[key] for key in keys]
        header = b"{" + dumps(keys, 2)
        encoding = _plain_sequence(values)
        if encoding is not None:
            return b"#" + _hash(header + encoding)
        known = self.graph.enter(mapping)
        if known is not None:
            return known
        members = self._members(values, lambda index: f"[{keys[index]!r}]")
        return self.graph.leave(mapping, b"#" + _hash(header + b"[" + members))

    def members(self, members: set[Any] | frozenset[Any]) -> bytes:
        tag = b"s" if type(members) is set else b"f"
        if frozenset(map(type, members)) in _SORTABLE:
            encoding = _plain_sequence(sorted(members))
            if encoding is not None:
                return b"#" + _hash(tag + encoding)
        return self._unordered(members, self.encode, members, tag)

    def _unordered(self, value: Any, encode: Callable[[Any], bytes], members: Any, tag: bytes) -> bytes:
        known = self.graph.enter(value)
        if known is not None:
            return known
        encodings = []
        for member in members:
            mark = self.graph.mark()
            encodings.append(encode(member))
            if not self.graph.forget(mark):
                raise refuse(type(value), "its members refer to each other in too many ways to follow")
        encodings.sort()
        return self.graph.leave(value, b"#" + _hash(tag + _UINT32.pack(len(encodings)) + b"".join(encodings)))

    def _pair(self, pair: tuple[object, object]) -> bytes:
        key, value = pair
        encoding = self.encode(key)
        try:
            return encoding + self.encode(value)
        except Refusal as refusal:
            plain = type(key) in _PLAIN
            refusal.steps.append(f"[{key!r}]" if plain else f"[<{qualified_name(type(key))}>]")
            raise

    def named(self, parts: Attributes | Parts) -> bytes:
        names = sorted(parts)
        attributes = type(parts) is Attributes

        def step(index: int) -> str:
            return f".{names[index]}" if attributes else ""

        tag = b"a" if attributes else b"p"
        header = tag + (_plain_sequence(names) or self.encode(names))
        encodings = self._encodings([parts[name] for name in names], step)
        if attributes and self._seen is not None and self.graph.depth <= 1:
            self._seen.append((self._path, names, encodings, {}))
        return b"#" + _hash(header + _UINT32.pack(len(names)) + b"".join(encodings))

    def content(self, content: Content) -> bytes:
        return b"#" + _hash_content(b"b", content)

    def name_only(self, named: ByName) -> bytes:
        return self.name(named.obj)


_BUILTINS: Final[dict[type, Hasher]] = {
    list: Encoder.sequence,
    tuple: Encoder.sequence,
    dict: Encoder.mapping,
    set: Encoder.members,
    frozenset: Encoder.members,
    FunctionType: Encoder.code,
    Attributes: Encoder.named,
    Parts: Encoder.named,
    Content: Encoder.content,
    ByName: Encoder.name_only,
}


def _hash(encoding: bytes) -> bytes:
    if len(encoding) < _LARGE:
        return sha256(encoding).digest()
    return blake3(encoding, max_threads=_threads(len(encoding))).digest()


def _hash_content(tag: bytes, content: Content) -> bytes:
    hasher = sha256(tag) if content.nbytes < _LARGE else blake3(tag, max_threads=_threads(content.nbytes))
    for block in content.blocks:
        hasher.update(block)
    return hasher.digest()


def _threads(nbytes: int) -> int:
    """Return the number of threads. With `blake3.AUTO` a forked child would wait for threads that it doesn't have."""
    return min(cores(), _MOST_THREADS) if nbytes >= _PARALLEL else 1


def _is_plain(value: object) -> bool:
    try:
        return type(value) in _PLAIN
    except Exception:  # noqa: BLE001 - a metaclass may raise anything where its class is looked up
        return False


def _plain(value: Any) -> bytes:
    if value != value:  # noqa: PLR0124  # only NaN differs from itself
        value = _one_nan(value)
    elif type(value) is bytes and len(value) >= _IN_PLACE:
        return b"#" + _hash_content(b"y", Content(len(value), (value,)))
    try:
        return dumps(value, 2)
    except ValueError:  # marshal takes no string of 2 GiB
        text = value.encode("utf-8", "surrogatepass")
        return b"#" + _hash_content(b"u", Content(len(text), (text,)))


def _plain_sequence(values: list[Any] | tuple[Any, ...]) -> bytes | None:
    """Encode a sequence of plain values in one call; None if a member is not plain."""
    try:
        if not _SHORT.issuperset(map(type, values)):
            if not _PLAIN.issuperset(map(type, values)):
                return None
            if any(type(value) is bytes and len(value) >= _IN_PLACE for value in values):
                return None
    except Exception:  # noqa: BLE001 - a metaclass may raise anything where its class is looked up
        return None
    try:
        encoding = dumps(values, 2)
    except ValueError:
        return None
    if (0x7F in encoding or 0xFF in encoding) and any(map(ne, values, values)):  # a NaN has such a byte
        return dumps(type(values)(map(_one_nan, values)), 2)
    return encoding


def _one_nan(value: Any) -> Any:
    """Replace any NaN, whatever its sign and payload, by one NaN."""
    if value == value:  # noqa: PLR0124
        return value
    if type(value) is float:
        return math.nan
    return complex(_one_nan(value.real), _one_nan(value.imag))
