"""PostgreSQL as a remote. The one door of psycopg.

    ask(addresses)  ->  what exists, and leases on the rest     one round trip
    done(entries)   ->  the winners; the leases are released    one round trip

Both are functions in the server, so that no transaction waits for a client. Nothing depends on a connection but
`LISTEN`, so a pooler may stand in between. The clock is the server's. A value above 1 MB lies in rows of 1 MB.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import select
import socket
import struct
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from .._errors import SharedStoreError
from .base import (
    LEASE_SECONDS,
    STORE_FORMAT,
    STORE_VERSION,
    Asked,
    Changes,
    Name,
    RemoteLease,
    RemoteOwner,
    Unreachable,
    checked,
)
from .named import check_store
from .requests import LIMIT, Mailbox, Requests, chunks
from .sessions import Beating, Session

__all__ = ["ROW_SCHEMES", "SCHEMA", "RowRemote", "init_rows"]

T = TypeVar("T")

ROW_SCHEMES: Final = ("postgresql", "postgres")
SCHEMA: Final = "bencher_job"
PART: Final = 1_000_000
"""Size in bytes of the largest row."""

_AT_ONCE: Final = 1000
"""Addresses in one round trip."""
_PARTS_AT_ONCE: Final = 16
_GROUP: Final = 64 << 20
"""Size in bytes of the entries that are sent in one round trip."""
_CONNECT: Final = 2
_BUSY: Final = ("40001", "40P01")
"""A serialization failure, a deadlock: the operation is repeated."""
_OVERLAP: Final = 60
"""Seconds for which a change record may be invisible to others while its transaction commits."""

FIND: Final = "select address, value, parts from {schema}.entry where address = any(%s)"

DEFINITION: Final = r"""
create schema if not exists {schema};
create table {schema}.about (format text not null, version int not null, secret text not null);
create table {schema}.entry (
    address text collate "C" primary key, size bigint not null, stored timestamptz not null default now(),
    value bytea, parts uuid);
alter table {schema}.entry alter column value set storage external;
create table {schema}.part (
    id uuid, number int, stored timestamptz not null default now(), value bytea not null, primary key (id, number));
alter table {schema}.part alter column value set storage external;
create table {schema}.change (
    number bigint generated always as identity primary key, address text not null,
    happened timestamptz not null default clock_timestamp());
create index on {schema}.change (happened);
create unlogged table {schema}.session (
    id uuid primary key, host text not null, pid int not null, until timestamptz not null);
create unlogged table {schema}.lease (
    address text collate "C" primary key, session uuid not null, number bigint generated always as identity,
    begun boolean not null, waited boolean not null default false);

create function {schema}.beat(me uuid, my_host text, my_pid int, seconds float8) returns void language sql as $$
    insert into {schema}.session values (me, my_host, my_pid, clock_timestamp() + seconds * interval '1 second')
    on conflict (id) do update set until = excluded.until
$$;

create function {schema}.tell(gone text[]) returns void language sql as $$
    select pg_notify('{schema}', address) from unnest(gone) address
$$;

-- What exists, with its number null; leases on the rest, with their numbers.
create function {schema}.ask(
    asked text[], is_begun boolean, me uuid, my_host text, my_pid int, seconds float8)
returns table (address text, value bytea, parts uuid, number bigint) language plpgsql as $$
#variable_conflict use_column
declare
    missing text[];
    mine text[];
begin
    select array_agg(a order by a collate "C") into missing from unnest(asked) a
        where not exists (select from {schema}.entry e where e.address = a);
    if missing is not null then
        perform {schema}.beat(me, my_host, my_pid, seconds);
        with taken as (
            insert into {schema}.lease as l (address, session, begun)
                select a, me, is_begun from unnest(missing) a order by a collate "C"
            on conflict (address) do update set
                session = me, number = default, begun = is_begun or (l.begun and l.session = me), waited = false
                where l.session = me or (is_begun and not l.begun) or not exists (
                    select from {schema}.session s where s.id = l.session and s.until > clock_timestamp())
            returning l.address)
        select array_agg(address) into mine from taken;
        -- stored between the first look and the lease
        delete from {schema}.lease l using {schema}.entry e
            where l.address = any(mine) and l.session = me and e.address = l.address;
    end if;
    return query select e.address, e.value, e.parts, null::bigint from {schema}.entry e
        where e.address = any(asked)
        union all select l.address, null, null, l.number from {schema}.lease l
        where l.address = any(mine) and l.session = me;
end $$;

-- Store what doesn't exist, and release the leases on it. What others have stored is returned.
create function {schema}.done(
    given text[], sizes bigint[], contents bytea[], many uuid[], me uuid)
returns table (address text, value bytea, parts uuid) language plpgsql as $$
#variable_conflict use_column
begin
    insert into {schema}.entry (address, size, value, parts)
        select * from unnest(given, sizes, contents, many) g(a, s, v, p) order by a collate "C"
        on conflict do nothing;
    perform {schema}.let_go(given, null, me);
    return query select e.address, e.value, e.parts from unnest(given, contents, many) g(a, v, p)
        join {schema}.entry e on e.address = a
        where e.value is distinct from v or e.parts is distinct from p;
end $$;

create function {schema}.let_go(given text[], numbers bigint[], me uuid) returns void language plpgsql as $$
declare
    gone text[];
begin
    with held as (
        select l.address from {schema}.lease l
            where l.address = any(given) and l.session = me and (numbers is null or l.number = any(numbers))
            order by l.address for update),
    released as (
        delete from {schema}.lease l using held where l.address = held.address and l.session = me
            returning l.address, l.waited)
    select array_agg(r.address) into gone from released r where r.waited;
    if gone is not null then perform {schema}.tell(gone); end if;
end $$;

create function {schema}.remove(given text[]) returns void language plpgsql as $$
begin
    delete from {schema}.part p using {schema}.entry e where e.address = any(given) and p.id = e.parts;
    delete from {schema}.entry e where e.address = any(given);
    insert into {schema}.change (address) select unnest(given);
end $$;

create function {schema}.replace(given text, size bigint, content bytea, many uuid, me uuid)
returns void language plpgsql as $$
begin
    perform {schema}.remove(array[given]);
    insert into {schema}.entry as e values (given, size, now(), content, many)
        on conflict (address) do update set
            size = excluded.size, stored = excluded.stored, value = excluded.value, parts = excluded.parts;
    perform {schema}.let_go(array[given], null, me);
end $$;

-- Mark leases as waited for; how many there are.
create function {schema}.watch(given text[]) returns bigint language sql as $$
    with marked as (
        update {schema}.lease set waited = true where address in (
            select l.address from {schema}.lease l where l.address = any(given) order by l.address for update)
        returning 1)
    select count(*) from marked
$$;
"""


class _Switchboard(Mailbox):
    """A mailbox whose thread hears a connection while it waits."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = weakref.ref(line)
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)

    def __del__(self) -> None:
        for end in self._wake:
            os.close(end)

    def put(self, request: Any) -> None:
        """Add a request, and wake the thread."""
        super().put(request)
        with contextlib.suppress(BlockingIOError):  # there are enough bytes in the pipe to wake it
            os.write(self._wake[1], b"x")

    def get(self) -> Any:
        """Wait for a request; meanwhile pass on what is heard."""
        if (line := self._line()) is not None and line.is_listening:
            line.hear()  # what has come together with an answer
        del line
        while True:
            try:
                return self._queue.get_nowait()
            except queue.Empty:
                pass
            line = self._line()
            heard = [] if line is None else line.heard()
            ready, _, _ = select.select([self._wake[0], *heard], [], [])
            if self._wake[0] in ready:
                os.read(self._wake[0], 4096)
            elif line is not None:
                line.hear()
            del line


class _Line(Requests):
    """One thread with one connection, on which it hears notifications between requests."""

    def __init__(
        self, conninfo: str, options: Mapping[str, Any], address: Mapping[str, str], psycopg: Any
    ) -> None:
        self.address = address
        self._conninfo = conninfo
        self._options = options
        self._psycopg = psycopg
        self._connection: Any = None
        self._socket: socket.socket | None = None
        self.on_notify: Callable[[str], None] = lambda _: None
        self.is_listening = False
        super().__init__()

    def renew(self) -> None:
        """Start without a connection. In a forked child that of the parent stays open for the parent."""
        super().renew()
        self._socket_lock = threading.Lock()
        self._bytes = 0
        if self._connection is not None:
            self._leave_to_parent()

    def _new_mailbox(self) -> Mailbox:
        return _Switchboard(self)

    def connection(self) -> tuple[Any, bool]:
        """Return the connection, and whether it is new."""
        if self._connection is not None and not self._connection.closed:
            return self._connection, False
        self.hang_up()
        self.touch()
        connection = self._psycopg.connect(self._conninfo, **self._options)
        with self._socket_lock:
            self._connection = connection
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self.touch()
        return connection, True

    def listen(self, channel: str) -> None:
        """Begin to hear notifications, in the thread."""
        connection, _ = self.connection()
        if not self.is_listening:
            connection.execute(f"listen {channel}")
            self.is_listening = True

    def hang_up(self) -> None:
        """Close the connection."""
        with self._socket_lock:
            connection, self._connection = self._connection, None
            guard, self._socket = self._socket, None
            self.is_listening = False
        if guard is not None:
            guard.close()
        if connection is not None:
            connection.close()

    def _leave_to_parent(self) -> None:
        """Close our copy of the connection, after its descriptor leads nowhere: the server hears nothing of it."""
        with contextlib.suppress(OSError, self._psycopg.Error):
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.dup2(nowhere, self._connection.fileno(), inheritable=False)
            finally:
                os.close(nowhere)
        self.hang_up()

    def _has_moved(self, request: Any) -> bool:
        """Whether the connection has sent or received bytes since this was last asked."""
        with self._socket_lock:
            before, self._bytes = self._bytes, _bytes_passed(self._socket)
        if self._bytes == before:
            return False
        request.touched = self._moved = time.monotonic()
        return True

    def _stalled(self) -> None:
        with self._socket_lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def heard(self) -> list[int]:
        """Return the descriptor of the connection, if there is one."""
        connection = self._connection
        return [] if connection is None or connection.closed else [connection.fileno()]

    def hear(self) -> None:
        """Pass on the notifications that have arrived."""
        try:
            for notification in self._connection.notifies(timeout=0):
                self.on_notify(notification.payload)
        except self._psycopg.Error:  # the server has closed it
            self.hang_up()
            self.on_notify("")


class RowRemote(Beating):
    """The remote on top of PostgreSQL."""

    def __init__(
        self,
        url: str,
        *,
        mark: bytes = b"",
        read_only: bool = False,
        lease_seconds: float = LEASE_SECONDS,
        schema: str = SCHEMA,
    ) -> None:
        self._place = url
        self._mark = mark
        self._schema = schema
        self._read_only = read_only
        self._is_open = False
        self._session = Session(lease_seconds)
        self._psycopg = _psycopg(url)
        self._line = _Line(*_settings(url, self._psycopg), self._psycopg)
        self._line.on_notify = self._heard
        self._waiters: set[tuple[frozenset[str], threading.Event]] = set()

    @property
    def place(self) -> str:
        """The URL."""
        return self._place

    @property
    def session(self) -> str:
        """The name under which this process has leases."""
        return self._session.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}>"

    def open(self) -> None:
        """Check that the database is what this program needs.

        Raises:
            SharedStoreError: when it isn't.
            Unreachable: when it doesn't answer.
        """
        self._line.call(self._open_now, limit=2 * LIMIT)

    def get_many(self, addresses: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of those addresses that exist."""
        found: dict[str, bytes] = {}
        for group in chunks(_unique(addresses), _AT_ONCE):
            found |= self._with_parts(self._rows(FIND, (group,)))
        return found

    def ask(self, addresses: Iterable[str], *, begun: bool = True) -> Asked:
        """Return what exists, and take leases on the rest."""
        asked = Asked({}, {})
        try:
            for group in chunks(_unique(addresses), _AT_ONCE):
                rows, leases = self._call(partial(self._ask, group, begun), undo=self._give_back)
                asked.leases.update(leases)
                asked.found.update(self._with_parts(rows))
        except BaseException:
            self._session_gives_back(asked.leases)
            raise
        return asked

    def begin(self, leases: Iterable[RemoteLease]) -> dict[str, RemoteLease]:
        """Turn queued leases into begun ones."""
        given = [each for each in leases if each.address in self._session.held]
        if not given:
            return {}
        rows = self._rows(
            "update {schema}.lease set begun = true where address = any(%s) and session = %s returning address, number",
            ([each.address for each in given], self._me),
        )
        now = {address: RemoteLease(address, number, self.session) for address, number in rows}
        self._session.drop(each.address for each in given)
        self._session.hold(now.values())
        return now

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        """Store what doesn't exist yet, and release the leases on it."""
        _unique(entries)
        winners: dict[str, bytes] = {}
        for group in _groups(entries):
            winners |= self._put(group)
        self._session.drop(entries)
        return winners

    def replace(self, address: str, content: bytes) -> None:
        """Store bytes, whatever is there, and let others know."""
        checked(address)
        parts = self._send_parts(content)

        self._rows(
            "select {schema}.replace(%s, %s, %s, %s, %s)",
            (address, len(content), None if parts else content, parts, self._me),
        )
        self._session.drop([address])

    def remove(self, addresses: Iterable[str]) -> None:
        """Remove what exists, and let others know."""
        for group in chunks(_unique(addresses), _AT_ONCE):
            self._rows("select {schema}.remove(%s)", (group,))

    def changes(self, cursor: str = "") -> Changes:
        """Return what was removed or replaced since a cursor."""
        rows = self._rows(
            "select address, extract(epoch from now())::float8 from {schema}.change"
            " where happened > to_timestamp(%s) union all select null, extract(epoch from now())::float8",
            (float(cursor or 0) - _OVERLAP,),
        )
        return Changes(frozenset(address for address, _ in rows if address is not None), repr(rows[-1][1]))

    def renew(self) -> None:
        """Give one heartbeat."""
        at = time.monotonic()
        self._rows("select {schema}.beat(%s, %s, %s, %s)", self._who())
        self._session.has_beaten(at)

    def release(self, leases: Iterable[RemoteLease]) -> None:
        """Give leases back without a result."""
        given = list(leases)
        if given:
            self._rows(
                "select {schema}.let_go(%s, %s, %s)",
                ([each.address for each in given], [each.number for each in given], self._me),
            )
            self._session.drop(each.address for each in given)

    def owner(self, address: str) -> RemoteOwner | None:
        """Return who has the lease of an address."""
        return next(iter(self._owners("where l.address = %s", (checked(address),)).values()), None)

    def running(self) -> dict[str, RemoteOwner]:
        """Return who has which lease, by the last part of the address."""
        return self._owners("", ())

    def wait(self, addresses: Iterable[str], timeout: float) -> None:
        """Return when one of these leases was released, or after the timeout."""
        wanted = _unique(addresses)
        waiter = frozenset(wanted), threading.Event()
        self._waiters.add(waiter)
        try:
            end = time.monotonic() + timeout
            if self._call(partial(self._watch, wanted)) == len(wanted):
                waiter[1].wait(max(0.0, end - time.monotonic()))
        finally:
            self._waiters.discard(waiter)

    def names(self, prefix: str) -> Iterator[Name]:
        """List the addresses in a folder."""
        last, end = prefix, f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"
        while rows := self._rows(
            "select address, size, extract(epoch from stored)::float8 from {schema}.entry"
            " where address > %s and address < %s order by address limit 10000",
            (last, end),
        ):
            yield from (Name(*row) for row in rows)
            last = rows[-1][0]

    def tidy(self, seconds: float) -> int:
        """Remove what nobody needs any more after so long."""
        age = f"now() - interval '{float(seconds)} seconds'"
        statements = (
            f"delete from {{schema}}.change where happened < {age}",
            f"delete from {{schema}}.lease l where not exists (select from {{schema}}.session s where s.id = l.session"
            f" and s.until > {age})",
            f"delete from {{schema}}.session where until < {age}",
            f"delete from {{schema}}.part p where stored < {age}"
            " and not exists (select from {schema}.entry e where e.parts = p.id)",
        )
        return sum(self._call(partial(self._count, each)) for each in statements)

    def close(self) -> None:
        """Release the leases, end the session, and hang up."""
        self._session.stop_beating()
        try:
            if self._session.is_known:
                before = uuid.UUID(self._session.start_over())
                self._rows(
                    "with gone as (delete from {schema}.session where id = %s)"
                    " select {schema}.let_go(array(select address from {schema}.lease where session = %s), null, %s)",
                    (before, before, before),
                )
            self._line.call(self._line.hang_up)
        except Unreachable:  # the leases end by themselves
            pass
        self._line.end()

    # In the thread of the connection from here on, where a connection is given

    @property
    def _me(self) -> uuid.UUID:
        return uuid.UUID(self._session.name)

    def _who(self) -> tuple[Any, ...]:
        return self._me, self._session.host, os.getpid(), float(self._session.seconds)

    def _call(self, work: Callable[[Any], T], *, undo: Callable[[T], object] | None = None) -> T:
        """Do something with the connection, and again on a new one if that breaks."""
        return self._line.call(partial(self._twice, work), undo=undo)

    def _twice(self, work: Callable[[Any], T]) -> T:
        psycopg = self._psycopg
        for attempt in range(3):
            is_new = False
            try:
                if not self._is_open:
                    self._open_now()
                connection, is_new = self._line.connection()
                return work(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                is_busy = error.sqlstate in _BUSY
                if not is_busy:
                    self._line.hang_up()
                if attempt == 2 or (is_new and not is_busy):
                    raise Unreachable(f"{self.place}: {_first_line(error)}") from error
                self._line.touch()
            except (psycopg.Error, SharedStoreError) as error:
                raise Unreachable(f"{self.place}: {_first_line(error)}") from error
        raise AssertionError

    def _run(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> Any:
        return connection.execute(statement.replace("{schema}", self._schema), values or None, binary=True)

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._call(lambda connection: self._run(connection, statement, values).fetchall())

    def _count(self, statement: str, connection: Any) -> int:
        return int(self._run(connection, statement).rowcount)

    def _open_now(self) -> None:
        psycopg = self._psycopg
        for attempt in range(2):
            try:
                row, may_write = self._look()
                break
            except psycopg.errors.InsufficientPrivilege as error:
                raise SharedStoreError(
                    self.place, f"refuses: {_first_line(error)}", "Let its owner grant the privileges."
                ) from error
            except psycopg.OperationalError as error:
                self._line.hang_up()
                if attempt:  # once may be the network's fault
                    raise self._why(error) from error
        check_store(self.place, dict(zip(("format", "version", "secret"), row, strict=False)), self._mark)
        if not self._read_only and not may_write:
            raise SharedStoreError(
                self.place,
                "lets this user only read",
                "Set BENCHER_JOB_SHARED_MODE=read, or let its owner grant insert, update and delete.",
            )
        self._is_open = True

    def _look(self) -> tuple[tuple[Any, ...], bool]:
        """Return what the store says of itself, and whether this user may write."""
        connection, _ = self._line.connection()
        table = f"{self._schema}.entry"
        (exists,) = connection.execute("select to_regclass(%s) is not null", (table,)).fetchone()
        if not exists:
            raise SharedStoreError(
                self.place, "has no tables of this library", f"Run: bencher-job shared init {self.place}."
            )
        *row, may_write = connection.execute(
            f"select format, version, secret, has_table_privilege(%s, 'insert') from {self._schema}.about",
            (table,),
        ).fetchone()
        return tuple(row), may_write

    def _why(self, error: Exception) -> Unreachable | SharedStoreError:
        """Tell a server that is down or full from one that refuses."""
        if _refuses(self._line.address):
            return SharedStoreError(
                self.place,
                f"refuses: {_first_line(error)}",
                "Correct the URL, or the password in ~/.pgpass or the service file.",
            )
        return Unreachable(f"{self.place}: {_first_line(error)}")

    def _ask(
        self, group: list[str], begun: bool, connection: Any
    ) -> tuple[list[tuple[Any, ...]], dict[str, RemoteLease]]:
        if self._session.has_lapsed:
            self._session.start_over()
        at = time.monotonic()
        rows = self._run(
            connection, "select * from {schema}.ask(%s, %s, %s, %s, %s, %s)", (group, begun, *self._who())
        ).fetchall()
        found = [row[:3] for row in rows if row[3] is None]
        leases = {
            row[0]: RemoteLease(row[0], row[3], self.session, begun) for row in rows if row[3] is not None
        }
        if len(found) < len(group):
            self._session.has_beaten(at)
        if leases:
            self._session.hold(leases.values())
            self._session.keep_beating(self)
        return found, leases

    def _give_back(self, answer: tuple[list[tuple[Any, ...]], dict[str, RemoteLease]]) -> None:
        self.release(answer[1].values())

    def _session_gives_back(self, leases: Mapping[str, RemoteLease]) -> None:
        with contextlib.suppress(Unreachable):
            self.release(leases.values())

    def _put(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        parts = {address: self._send_parts(content) for address, content in entries.items()}
        rows = self._rows(
            "select * from {schema}.done(%s, %s, %s, %s, %s)",
            (
                list(entries),
                [len(content) for content in entries.values()],
                [None if parts[address] else content for address, content in entries.items()],
                list(parts.values()),
                self._me,
            ),
        )
        lost = [parts[address] for address, *_ in rows if parts[address] is not None]
        if lost:
            self._call(
                lambda c: self._run(c, "delete from {schema}.part where id = any(%s)", (lost,)).rowcount
            )
        winners = self._with_parts(rows)
        return {address: content for address, content in winners.items() if content != entries[address]}

    def _send_parts(self, content: bytes) -> uuid.UUID | None:
        """Store a large value in rows of its own; None for one that fits its entry."""
        if len(content) <= PART:
            return None
        name = uuid.uuid4()
        numbered = [(name, at // PART, content[at : at + PART]) for at in range(0, len(content), PART)]
        for group in chunks(numbered, _PARTS_AT_ONCE):
            self._call(partial(self._send_group, group))
        return name

    def _send_group(self, group: list[tuple[uuid.UUID, int, bytes]], connection: Any) -> None:
        with connection.pipeline():
            for row in group:
                self._run(
                    connection,
                    "insert into {schema}.part (id, number, value) values (%s, %s, %s) on conflict do nothing",
                    row,
                )

    def _with_parts(self, rows: Iterable[tuple[Any, ...]], *, again: bool = True) -> dict[str, bytes]:
        """Read the rows of large values, again where one was replaced in between."""
        found: dict[str, bytes] = {}
        for address, value, parts in rows:
            if parts is None:
                found[address] = value
                continue
            pieces = self._rows("select value from {schema}.part where id = %s order by number", (parts,))
            if pieces:
                found[address] = b"".join(piece for (piece,) in pieces)
            elif again:
                found |= self._with_parts(self._rows(FIND, ([address],)), again=False)
        return found

    def _owners(self, condition: str, values: tuple[Any, ...]) -> dict[str, RemoteOwner]:
        rows = self._rows(
            "select l.address, l.session, l.begun, coalesce(s.host, ''), coalesce(s.pid, 0) from {schema}.lease l"
            f" left join {{schema}}.session s on s.id = l.session {condition}",
            values,
        )
        return {row[0].rpartition("/")[2]: RemoteOwner(row[1].hex, *row[2:]) for row in rows}

    def _watch(self, wanted: list[str], connection: Any) -> int:
        self._line.listen(self._schema)
        (count,) = self._run(connection, "select {schema}.watch(%s)", (wanted,)).fetchone()
        return int(count)

    def _heard(self, address: str) -> None:
        for wanted, event in list(self._waiters):
            if not address or address in wanted:
                event.set()


def init_rows(url: str, *, mark: bytes = b"", schema: str = SCHEMA) -> None:
    """Create the tables and functions of a shared store in a database, unless they are there.

    Raises:
        SharedStoreError: when this user may not, or they are another store's.
        Unreachable: when the server doesn't answer.
    """
    remote = RowRemote(url, mark=mark, schema=schema)

    def make() -> None:
        psycopg = remote._psycopg  # noqa: SLF001 - as a method
        try:
            connection, _ = remote._line.connection()  # noqa: SLF001
            with connection.transaction():
                connection.execute(DEFINITION.replace("{schema}", schema))
                connection.execute(
                    f"insert into {schema}.about values (%s, %s, %s)",
                    (STORE_FORMAT, STORE_VERSION, mark.hex()),
                )
        except psycopg.errors.DuplicateTable:
            pass
        except psycopg.errors.InsufficientPrivilege as error:
            raise SharedStoreError(
                url, f"refuses: {_first_line(error)}", "Let the owner of the database create the tables."
            ) from error
        except psycopg.OperationalError as error:
            raise remote._why(error) from error  # noqa: SLF001

    remote._line.call(make, limit=2 * LIMIT)  # noqa: SLF001
    try:
        remote.open()
    finally:
        remote.close()


def _psycopg(url: str) -> Any:
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        reason = "needs the package psycopg" if error.name == "psycopg" else f"needs libpq ({error})"
        raise SharedStoreError(url, reason, "Run: pip install 'bencher_job[postgresql]'.") from None
    return psycopg


def _settings(url: str, psycopg: Any) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return what `psycopg.connect` takes, with verified TLS unless the server is on this machine; and the address."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        raise SharedStoreError(
            url, f"has a URL that libpq doesn't understand: {_first_line(error)}", "Correct it."
        ) from error
    defaults = {
        each.keyword.decode(): (each.val or b"").decode() for each in psycopg.pq.Conninfo.get_defaults()
    }
    address = defaults | {name: str(value) for name, value in given.items()}
    host = address.get("host") or address.get("hostaddr") or ""
    options: dict[str, Any] = {
        "autocommit": True,
        "prepare_threshold": None,  # prepared statements would bind us to one connection of a pooler
        "connect_timeout": _CONNECT,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": int(1000 * LIMIT),
        "application_name": "bencher_job",
    }
    if not (_is_local(host) or "service" in given or "sslmode" in given or "PGSSLMODE" in os.environ):
        options["sslmode"] = "verify-full"
        if not ("sslrootcert" in given or "PGSSLROOTCERT" in os.environ or _has_root_certificate()):
            options["sslrootcert"] = "system"
    return url, {name: value for name, value in options.items() if name not in given}, address


def _refuses(address: Mapping[str, str]) -> bool:
    """Whether a server answers and refuses this program for good.

    libpq doesn't tell the code of an error that ends an attempt to connect, its messages are translated, and its own
    function for this question stops the whole interpreter. So the first message of the protocol is sent here.
    """
    host, port = (
        address.get("hostaddr") or address.get("host") or "localhost",
        int(address.get("port") or 5432),
    )
    user = address.get("user") or "nobody"
    names = {"user": user, "database": address.get("dbname") or user}
    body = (
        struct.pack("!I", 3 << 16)
        + b"".join(f"{name}\0{value}\0".encode() for name, value in names.items())
        + b"\0"
    )
    try:
        if host.startswith(("/", "@")):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(_CONNECT)
            connection.connect(f"{host}/.s.PGSQL.{port}".replace("@", "\0", 1))
        else:
            connection = socket.create_connection((host.split(",")[0], port), _CONNECT)
        with connection, connection.makefile("rb") as answer:
            connection.sendall(struct.pack("!I", len(body) + 4) + body)
            kind, size = answer.read(1), struct.unpack("!I", answer.read(4))[0]
            fields = answer.read(min(size, 10_000) - 4).split(b"\0") if kind == b"E" else []
    except (OSError, struct.error, ValueError):
        return False
    code = next((each[1:] for each in fields if each.startswith(b"C")), b"")
    return kind == b"R" or (kind == b"E" and not code.startswith(_TEMPORARY))


def _is_local(hosts: str) -> bool:
    def is_here(host: str) -> bool:
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host in {"", "localhost"} or host.startswith(("/", "@"))

    return all(is_here(host) for host in hosts.split(","))


def _has_root_certificate() -> bool:
    return os.path.exists(os.path.expanduser("~/.postgresql/root.crt"))


_TEMPORARY: Final = (b"53", b"57", b"58", b"XX")
"""Classes of errors: too little of something, an operator's intervention, the system, the server itself."""

_COUNTERS: Final = slice(120, 136)
"""Where `struct tcp_info` of Linux counts the bytes that were acknowledged, and those received."""


def _bytes_passed(connection: socket.socket | None) -> int:
    """Return a number that grows with each byte; 0 where the system doesn't count them."""
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS.stop)[_COUNTERS]
    except OSError:
        return 0
    return int.from_bytes(info[:8], "little") + int.from_bytes(info[8:], "little")


def _groups(entries: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Divide entries by number and size."""
    group: dict[str, bytes] = {}
    size = 0
    for address, content in entries.items():
        weight = min(len(content), PART)
        if group and (len(group) == _AT_ONCE or size + weight > _GROUP):
            yield group
            group, size = {}, 0
        group[address] = content
        size += weight
    if group:
        yield group


def _unique(addresses: Iterable[str]) -> list[str]:
    return [checked(address) for address in dict.fromkeys(addresses)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
