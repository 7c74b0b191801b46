"""PostgreSQL as a remote.

    ask(addresses)  ->  what exists, and leases on the rest     one round trip
    done(entries)   ->  the winners; the leases are released    one round trip

Both are functions in the server, so that no transaction waits for a client; `tables.sql` defines them. Nothing
depends on a connection, so a pooler may stand in between. The clock is the server's. A value above 1 MB lies in rows
of 1 MB.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
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
    check_store,
    checked,
    chunks,
    key_of,
    unique,
)
from .connection import Connection, first_line
from .requests import LIMIT
from .sessions import SessionRemote

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
_BUSY: Final = ("40001", "40P01")
"""A serialization failure, a deadlock: the operation is repeated."""
_OVERLAP: Final = 60
"""Seconds for which a change record may be invisible to others while its transaction commits."""

_FIND: Final = "select address, value, parts from {schema}.entry where address = any($1)"

Row = tuple[Any, ...]


class RowRemote(SessionRemote):
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
        super().__init__(url, mark=mark, read_only=read_only, lease_seconds=lease_seconds)
        self._schema = schema
        self._connection = Connection(url)
        self._psycopg = self._connection.psycopg

    def open(self) -> None:
        """Check that the database is what this program needs.

        Raises:
            SharedStoreError: when it isn't.
            Unreachable: when it doesn't answer.
        """
        self._connection.call(self._open_now, limit=2 * LIMIT)

    def get_many(self, addresses: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of those addresses that exist."""
        found: dict[str, bytes] = {}
        for group in chunks(unique(addresses), _AT_ONCE):
            found |= self._with_parts(self._call(partial(self._find, group)))
        return found

    def ask(self, addresses: Iterable[str]) -> Asked:
        """Return what exists, and take leases on the rest."""
        asked = Asked({}, {})
        try:
            for group in chunks(unique(addresses), _AT_ONCE):
                rows, leases = self._call(partial(self._ask, group), undo=lambda each: self.release(each[1]))
                asked.leases.update({each.address: each for each in leases})
                asked.found.update(self._with_parts(rows))
        except BaseException:
            with contextlib.suppress(Unreachable):
                self.release(asked.leases.values())
            raise
        return asked

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        """Store what doesn't exist yet, and release the leases on it."""
        winners: dict[str, bytes] = {}
        for group in chunks(
            unique(entries), _AT_ONCE, size=_GROUP, size_of=lambda each: min(len(entries[each]), PART)
        ):
            winners |= self._put({address: entries[address] for address in group})
        self._session.drop(entries)
        return winners

    def replace(self, address: str, content: bytes) -> None:
        """Store bytes, whatever is there, and let others know."""
        checked(address)
        parts = self._send_parts(content)
        self._rows(
            "select {schema}.replace(%s, %s, %s, %s, %s)",
            *(address, len(content), None if parts else content, parts, self._me),
        )
        self._session.drop([address])

    def remove(self, addresses: Iterable[str]) -> None:
        """Remove what exists, and let others know."""
        for group in chunks(unique(addresses), _AT_ONCE):
            self._rows("select {schema}.remove(%s)", group)

    def changes(self, cursor: str = "") -> Changes:
        """Return what was removed or replaced since a cursor."""
        rows = self._rows(
            "select address, extract(epoch from now())::float8 from {schema}.change"
            " where happened > to_timestamp(%s) union all select null, extract(epoch from now())::float8",
            float(cursor or 0) - _OVERLAP,
        )
        return Changes(frozenset(address for address, _ in rows if address is not None), repr(rows[-1][1]))

    def renew(self) -> None:
        """Send one heartbeat."""
        at = time.monotonic()
        self._rows("select {schema}.beat(%s, %s, %s, %s)", *self._who())
        self._session.beaten = at

    def release(self, leases: Iterable[RemoteLease]) -> None:
        """Release leases without a result."""
        given = {each.address: each.number for each in leases}
        if given:
            self._rows("select {schema}.let_go(%s, %s, %s)", [*given], [*given.values()], self._me)
            self._session.drop(given)

    def running(self, addresses: Iterable[str] | None = None) -> dict[str, RemoteOwner]:
        """Return who has the leases of some addresses, or of all, by the last part of the address."""
        rows = self._rows(
            "select l.address, l.session, coalesce(s.host, ''), coalesce(s.pid, 0) from {schema}.lease l"
            " left join {schema}.session s on s.id = l.session where %s::text[] is null or l.address = any(%s)",
            *((None, None) if addresses is None else (unique(addresses),) * 2),
        )
        return {key_of(address): RemoteOwner(session.hex, *process) for address, session, *process in rows}

    def names(self, prefix: str) -> Iterator[Name]:
        """List the addresses in a folder."""
        last, end = prefix, f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"
        while rows := self._rows(
            "select address, size, extract(epoch from stored)::float8 from {schema}.entry"
            " where address > %s and address < %s order by address limit 10000",
            *(last, end),
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
        return sum(len(self._rows(f"{each} returning 1")) for each in statements)

    def close(self) -> None:
        """Release the leases, end the session, and hang up."""
        self._session.stop_beating()
        with contextlib.suppress(Unreachable):  # the leases end by themselves
            if self._session.beaten is not None:
                before = self._me
                self._session.start_over()
                self._rows(
                    "with gone as (delete from {schema}.session where id = %s)"
                    " select {schema}.let_go(array(select address from {schema}.lease where session = %s), null, %s)",
                    *(before, before, before),
                )
            self._connection.call(self._connection.hang_up)
        self._connection.end()

    @property
    def _me(self) -> uuid.UUID:
        return uuid.UUID(self._session.name)

    def _who(self) -> Row:
        return self._me, self._session.host, os.getpid(), float(self._session.seconds)

    def _rows(self, statement: str, *values: Any) -> list[Row]:
        return self._call(partial(self._fetch, statement, values))

    def _call(self, work: Callable[[Any], T], *, undo: Callable[[T], object] | None = None) -> T:
        """Do something with the connection, and again on a new one if that breaks."""
        return self._connection.call(partial(self._twice, work), undo=undo)

    def _put(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        parts = {address: self._send_parts(content) for address, content in entries.items()}
        rows = self._rows(
            "select * from {schema}.done(%s, %s, %s, %s, %s)",
            list(entries),
            [len(content) for content in entries.values()],
            [None if parts[address] else content for address, content in entries.items()],
            list(parts.values()),
            self._me,
        )
        lost = [parts[address] for address, *_ in rows if parts[address] is not None]
        if lost:
            self._rows("delete from {schema}.part where id = any(%s) returning 1", lost)
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

    def _with_parts(self, rows: Iterable[Row], *, again: bool = True) -> dict[str, bytes]:
        """Read the rows of large values, again where one was replaced in between."""
        found: dict[str, bytes] = {}
        for address, value, parts in rows:
            if parts is None:
                found[address] = value
                continue
            pieces = self._rows("select value from {schema}.part where id = %s order by number", parts)
            if pieces:
                found[address] = b"".join(piece for (piece,) in pieces)
            elif again:
                found |= self._with_parts(self._call(partial(self._find, [address])), again=False)
        return found

    # In the thread of the connection from here on

    def _twice(self, work: Callable[[Any], T]) -> T:
        psycopg = self._psycopg
        for attempt in range(3):
            is_new = False
            try:
                if not self._is_open:
                    self._open_now()
                connection, is_new = self._connection.get()
                return work(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                is_busy = error.sqlstate in _BUSY
                if not is_busy:
                    self._connection.hang_up()
                if attempt == 2 or (is_new and not is_busy):
                    raise Unreachable(f"{self.place}: {first_line(error)}") from error
                self._connection.touch()
            except (psycopg.Error, SharedStoreError) as error:
                raise Unreachable(f"{self.place}: {first_line(error)}") from error
        raise AssertionError

    def _fetch(self, statement: str, values: Row, connection: Any) -> list[Row]:
        statement = statement.replace("{schema}", self._schema)
        return connection.execute(statement, values or None, binary=True).fetchall()  # type: ignore[no-any-return]

    def _find(self, addresses: list[str], connection: Any) -> list[Row]:
        """Look entries up. Without a cursor this takes half of the time, and a hit does little else."""
        array = f"{{{','.join(addresses)}}}"  # no address has anything to quote
        statement = _FIND.replace("{schema}", self._schema)
        found = connection.pgconn.exec_params(statement.encode(), [array.encode()], result_format=1)
        if found.status != self._psycopg.pq.ExecStatus.TUPLES_OK:
            error = self._psycopg.errors.error_from_result(found)
            is_cut = connection.pgconn.status != self._psycopg.pq.ConnStatus.OK  # which has no code
            raise self._psycopg.OperationalError(str(error)) if is_cut else error
        return [
            (
                found.get_value(row, 0).decode(),
                found.get_value(row, 1),
                None if (parts := found.get_value(row, 2)) is None else uuid.UUID(bytes=parts),
            )
            for row in range(found.ntuples)
        ]

    def _open_now(self) -> None:
        psycopg = self._psycopg
        for attempt in range(2):
            try:
                row, may_write = self._look()
                break
            except psycopg.errors.InsufficientPrivilege as error:
                raise SharedStoreError(
                    self.place, f"refuses: {first_line(error)}", "Let its owner grant the privileges."
                ) from error
            except psycopg.OperationalError as error:
                self._connection.hang_up()
                if attempt:  # once may be the network's fault
                    raise self._connection.why(error, self.place) from error
        check_store(self.place, dict(zip(("format", "version", "secret"), row, strict=True)), self._mark)
        if not self._read_only and not may_write:
            raise SharedStoreError(
                self.place,
                "lets this user only read",
                "Set BENCHER_JOB_SHARED_MODE=read, or let its owner grant insert, update and delete.",
            )
        self._is_open = True

    def _look(self) -> tuple[Row, bool]:
        """Return what the store says of itself, and whether this user may write."""
        connection, _ = self._connection.get()
        table = f"{self._schema}.entry"
        ((exists,),) = self._fetch("select to_regclass(%s) is not null", (table,), connection)
        if not exists:
            raise SharedStoreError(
                self.place, "has no tables of this library", f"Run: bencher-job shared init {self.place}."
            )
        statement = "select format, version, secret, has_table_privilege(%s, 'insert') from {schema}.about"
        ((*row, may_write),) = self._fetch(statement, (table,), connection)
        return tuple(row), may_write

    def _ask(self, group: list[str], connection: Any) -> tuple[list[Row], list[RemoteLease]]:
        if self._session.has_lapsed:
            self._session.start_over()
        at = time.monotonic()
        rows = self._fetch(
            "select * from {schema}.ask(%s, %s, %s, %s, %s)", (group, *self._who()), connection
        )
        found = [row[:3] for row in rows if row[3] is None]
        leases = [RemoteLease(row[0], row[3], self.session) for row in rows if row[3] is not None]
        if len(found) < len(group):
            self._session.beaten = at
        if leases:
            self._session.hold(leases, self)
        return found, leases

    def _send_group(self, group: list[tuple[uuid.UUID, int, bytes]], connection: Any) -> None:
        statement = "insert into {schema}.part (id, number, value) values (%s, %s, %s) on conflict do nothing"
        with connection.pipeline():
            for row in group:
                connection.execute(statement.replace("{schema}", self._schema), row, binary=True)

    def make_tables(self) -> None:
        """Create the tables and functions, unless they are there."""
        psycopg = self._psycopg
        definition = Path(__file__).with_name("tables.sql").read_text(encoding="utf-8")
        try:
            connection, _ = self._connection.get()
            with connection.transaction():
                connection.execute(definition.replace("{schema}", self._schema))
                connection.execute(
                    f"insert into {self._schema}.about values (%s, %s, %s)",
                    (STORE_FORMAT, STORE_VERSION, self._mark.hex()),
                )
        except psycopg.errors.DuplicateTable:
            pass
        except psycopg.errors.InsufficientPrivilege as error:
            raise SharedStoreError(
                self.place,
                f"refuses: {first_line(error)}",
                "Let the owner of the database create the tables.",
            ) from error
        except psycopg.OperationalError as error:
            raise self._connection.why(error, self.place) from error


def init_rows(url: str, *, mark: bytes = b"", schema: str = SCHEMA) -> None:
    """Create the tables and functions of a shared store in a database, unless they are there.

    Raises:
        SharedStoreError: when this user may not, or they are another store's.
        Unreachable: when the server doesn't answer.
    """
    with contextlib.closing(RowRemote(url, mark=mark, schema=schema)) as remote:
        remote._connection.call(remote.make_tables, limit=2 * LIMIT)  # noqa: SLF001 - as a method
        remote.open()
