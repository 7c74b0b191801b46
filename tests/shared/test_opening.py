"""A shared store that is set up wrongly is refused at once, with a remedy; one that is down is not."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from bencher_job import SharedStoreError
from bencher_job._shared import Remote, Unreachable, entry_address, init_remote, open_remote, shared_signature
from bencher_job._shared.rows import RowRemote, init_rows

from .conftest import Opened
from .proxy import Proxy
from .servers import BUCKET, Azurite, Postgres, Rclone, Seaweed

ADDRESS = entry_address("f", "1")
SetAll = Callable[[dict[str, str]], None]


@pytest.mark.parametrize(
    ("place", "reason", "remedy"),
    [
        ("redis://host/0", "unknown kind, redis://", "postgresql://, s3://, gs:// or az://"),
        ("postgresql://me:word@host/results", "a password in its URL", r"~/\.pgpass"),
        ("postgresql://host/results?password=word", "a password in its URL", r"~/\.pgpass"),
        ("s3://key:word@bucket/x", "a password in its URL", "AWS_SECRET_ACCESS_KEY"),
        ("s3://bucket/x?secret_access_key=word", "a password in its URL", "AWS_SECRET_ACCESS_KEY"),
        ("s3:///x", "names no bucket", "s3://BUCKET/PREFIX"),
        ("", "has no name", "path of a folder, or a URL"),
        ("/nothing/mounted/here", "can't be made: No such file", "Mount the file system"),
        ("/dev/null", "is a file", "correct the path"),
    ],
)
def test_a_place_that_is_none_is_refused(place: str, reason: str, remedy: str) -> None:
    with pytest.raises(SharedStoreError, match=reason) as refused:
        open_remote(place)
    assert re.search(remedy, refused.value.remedy)
    assert "word" not in str(refused.value).replace("password", "")


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="not int"):
        open_remote(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "package", "extra"),
    [("postgresql://h/x", "psycopg", "postgresql"), ("s3://b/x", "obstore", "objects")],
)
def test_a_missing_package_is_named(
    place: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SharedStoreError, match=rf"pip install 'bencher_job\[{extra}\]'"):
        open_remote(place)


def test_a_path_may_be_a_file_url(tmp_path: Path, opened: Opened) -> None:
    opened(f"file://{tmp_path}/a%20b").put_many({ADDRESS: b"value"})
    assert opened(tmp_path / "a b").get_many([ADDRESS]) == {ADDRESS: b"value"}


class TestFolder:
    def test_a_new_one_is_for_its_owner_only(self, tmp_path: Path, opened: Opened) -> None:
        folder = tmp_path / "shared"
        opened(folder).put_many({ADDRESS: b"value"})
        assert {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")]} == {0}

    def test_one_that_a_group_may_use_stays_so(self, tmp_path: Path, opened: Opened) -> None:
        folder = tmp_path / "shared"
        folder.mkdir()
        folder.chmod(0o2770)
        remote = opened(folder)
        remote.put_many({ADDRESS: b"value"})
        remote.ask([entry_address("f", "2")])
        folders = [path for path in folder.rglob("*") if path.is_dir()]
        assert {path.stat().st_mode & 0o7777 for path in folders} == {0o2770}
        files = [path for path in folder.rglob("*") if path.is_file() and path.parent.parent.name == "f"]
        assert {path.stat().st_mode & 0o777 for path in files} == {0o660}

    @pytest.mark.parametrize(
        ("marker", "reason"),
        [
            ("{}", "is not a shared store"),
            ("nonsense", "is not a shared store"),
            (
                json.dumps({"format": "bencher_job shared store", "version": 99, "secret": ""}),
                "of version 99",
            ),
        ],
    )
    def test_what_is_something_else_is_refused(self, tmp_path: Path, marker: str, reason: str) -> None:
        (tmp_path / "bencher_job.json").write_text(marker)
        with pytest.raises(SharedStoreError, match=reason):
            open_remote(tmp_path)

    def test_another_secret_is_refused(self, tmp_path: Path, opened: Opened) -> None:
        opened(tmp_path / "signed", mark=b"ours")
        opened(tmp_path / "plain")
        with pytest.raises(SharedStoreError, match="another BENCHER_JOB_SECRET"):
            open_remote(tmp_path / "signed", mark=b"theirs")
        with pytest.raises(SharedStoreError, match="there is none here"):
            open_remote(tmp_path / "signed")
        with pytest.raises(SharedStoreError, match="without a secret"):
            open_remote(tmp_path / "plain", mark=b"ours")

    def test_a_reader_needs_one_that_exists(self, tmp_path: Path, opened: Opened) -> None:
        with pytest.raises(SharedStoreError, match="doesn't exist"):
            open_remote(tmp_path / "shared", read_only=True)
        with pytest.raises(SharedStoreError, match="holds no shared store"):
            open_remote(tmp_path, read_only=True)
        opened(tmp_path / "shared").put_many({ADDRESS: b"value"})
        assert opened(tmp_path / "shared", read_only=True).get_many([ADDRESS]) == {ADDRESS: b"value"}

    def test_one_that_was_unmounted_is_not_made_again(self, tmp_path: Path, opened: Opened) -> None:
        folder = tmp_path / "shared"
        remote = opened(folder)
        folder.rename(tmp_path / "away")
        for act in (lambda: remote.get_many([ADDRESS]), lambda: remote.put_many({ADDRESS: b"value"})):
            with pytest.raises(Unreachable):
                act()
        assert not folder.exists()
        (tmp_path / "away").rename(folder)
        assert remote.put_many({ADDRESS: b"value"}) == {}


class TestPostgres:
    def test_tables_are_made_once_and_by_init_only(self, postgres: Postgres) -> None:
        schema = f"test_{uuid.uuid4().hex[:12]}"
        with pytest.raises(SharedStoreError, match="bencher-job shared init postgresql://"):
            RowRemote(postgres.url(), schema=schema).open()
        init_rows(postgres.url(), schema=schema, mark=b"ours")
        init_rows(postgres.url(), schema=schema, mark=b"ours")
        with pytest.raises(SharedStoreError, match="another BENCHER_JOB_SECRET"):
            init_rows(postgres.url(), schema=schema, mark=b"theirs")
        init_remote(postgres.url())
        open_remote(postgres.url()).close()

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"/postgres": "/nothing"}, 'database "nothing" does not exist'),
            ({"bj@": "nobody@"}, 'role "nobody" does not exist'),
            ({"/postgres": "/postgres?nonsense=1"}, "libpq doesn't understand"),
        ],
    )
    def test_a_wrong_url_is_refused(self, postgres: Postgres, change: dict[str, str], reason: str) -> None:
        url = postgres.url()
        for old, new in change.items():
            url = url.replace(old, new)
        with pytest.raises(SharedStoreError, match=reason):
            open_remote(url)

    def test_a_wrong_password_is_refused(
        self, postgres: Postgres, schema: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = postgres.url(user=postgres.with_password)
        self._run(
            postgres,
            f"drop role if exists {postgres.with_password}",
            f"create role {postgres.with_password} login superuser password 'right'",
        )
        for password in ("", "wrong"):
            monkeypatch.setenv("PGPASSWORD", password)
            with pytest.raises(SharedStoreError, match="password"):
                open_remote(url)
        monkeypatch.setenv("PGPASSWORD", "right")
        opened(lambda: RowRemote(url, schema=schema)).get_many([ADDRESS])

    def test_a_reader_needs_select_only(self, postgres: Postgres, schema: str, opened: Opened) -> None:
        reader = f"reader_{schema}"
        self._run(
            postgres,
            f"create role {reader} login",
            f"grant usage on schema {schema} to {reader}",
            f"grant select on all tables in schema {schema} to {reader}",
        )
        opened(lambda: RowRemote(postgres.url(), schema=schema)).put_many(
            {ADDRESS: b"value", entry_address("f", "2"): os.urandom(1_500_000)}
        )
        url = postgres.url(user=reader)
        with pytest.raises(SharedStoreError, match="BENCHER_JOB_SHARED_MODE=read"):
            RowRemote(url, schema=schema).open()
        remote = RowRemote(url, schema=schema, read_only=True)
        remote.open()
        opened(lambda: remote)
        assert remote.get_many([ADDRESS]) == {ADDRESS: b"value"}
        assert len(list(remote.names("e/"))) == 2
        assert remote.changes().addresses == frozenset()
        with pytest.raises(Unreachable, match="permission denied"):
            remote.put_many({ADDRESS: b"other"})
        self._run(postgres, f"drop owned by {reader}", f"drop role {reader}")

    @staticmethod
    def _run(postgres: Postgres, *statements: str) -> None:
        import psycopg

        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def test_one_that_is_down_is_opened(
        self, postgres: Postgres, through: Callable[[int], Proxy], opened: Opened
    ) -> None:
        proxy = through(postgres.port)
        proxy.refuse()
        started = time.monotonic()
        remote = opened(postgres.url(proxy.port).replace("/postgres", "/nothing"))
        with pytest.raises(Unreachable):
            remote.get_many([ADDRESS])
        assert time.monotonic() - started < 4
        proxy.is_refusing = False
        with pytest.raises(Unreachable, match='database "nothing" does not exist'):
            remote.get_many([ADDRESS])

    def test_a_server_elsewhere_must_prove_who_it_is(self) -> None:
        import psycopg

        from bencher_job._shared.connection import settings

        def mode(url: str) -> object:
            return settings(url, psycopg)[0].get("sslmode")

        for local in (
            "postgresql:///x",
            "postgresql://localhost/x",
            "postgresql://127.0.0.1/x",
            "postgresql://[::1]/x",
        ):
            assert mode(local) is None
        assert mode("postgresql://cache.lan/x") == "verify-full"
        assert mode("postgresql://localhost,cache.lan/x") == "verify-full"
        assert mode("postgresql://cache.lan/x?sslmode=require") is None


class TestObjects:
    def test_a_server_that_ignores_conditions_is_refused(self, rclone: Rclone, environment: SetAll) -> None:
        environment(rclone.settings())
        with pytest.raises(SharedStoreError, match=r"overwrites .*\(If-None-Match"):
            open_remote(f"s3://{BUCKET}/prefix")

    def test_a_wrong_key_is_refused(self, bucket: str, environment: SetAll) -> None:
        environment({"AWS_ACCESS_KEY_ID": "wrong"})
        with pytest.raises(SharedStoreError, match="credentials"):
            open_remote(bucket)

    def test_a_bucket_that_is_missing_is_refused(self, azurite: Azurite, environment: SetAll) -> None:
        environment(azurite.settings())
        with pytest.raises(SharedStoreError, match="has no such bucket"):
            open_remote("az://nothing/prefix")

    def test_plain_http_elsewhere_is_refused(self, environment: SetAll) -> None:
        pytest.importorskip("obstore")
        environment(Seaweed.environment | {"AWS_ENDPOINT_URL": "http://192.0.2.1:9"})
        with pytest.raises(SharedStoreError, match="not an https:// URL"):
            open_remote("s3://bucket/x")

    def test_one_that_is_down_is_opened(
        self,
        seaweed: Seaweed,
        bucket: str,
        through: Callable[[int], Proxy],
        environment: SetAll,
        opened: Opened,
    ) -> None:
        proxy = through(seaweed.port)
        proxy.refuse()
        environment(seaweed.settings(proxy.port))
        started = time.monotonic()
        remote: Remote = opened(bucket)
        with pytest.raises(Unreachable):
            remote.get_many([ADDRESS])
        assert time.monotonic() - started < 4
        proxy.is_refusing = False
        assert remote.put_many({ADDRESS: b"value"}) == {}

    def test_one_that_is_opened_in_a_forked_child_is_unreachable(self, bucket: str, opened: Opened) -> None:
        """The parent has used one, whichever it was, and the child would hang."""
        opened(bucket).put_many({ADDRESS: b"value"})
        child = os.fork()
        if child == 0:
            try:
                open_remote(bucket).get_many([ADDRESS])
            except Unreachable as error:
                os._exit(0 if "before a fork" in str(error) else 2)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def test_a_folder_of_others_needs_a_secret_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it can't be looked at, since it may be there later."""
    monkeypatch.delenv("BENCHER_JOB_SECRET", raising=False)
    folder, loop = tmp_path / "open", tmp_path / "loop"
    folder.mkdir()
    folder.chmod(0o777)
    loop.symlink_to(loop)
    for place in (str(folder), f"file://{folder}", str(loop)):
        with pytest.raises(SharedStoreError, match="open to others"):
            shared_signature(place)
    assert shared_signature(f"file://{tmp_path}/new").kind == shared_signature(str(tmp_path)).kind == 0


@pytest.mark.parametrize("content", [b"", bytes(32)])
def test_a_lease_that_a_crash_of_its_machine_has_emptied_is_free(
    content: bytes, tmp_path: Path, opened: Opened
) -> None:
    """It is not synchronised with the disk."""
    opened(tmp_path).ask([ADDRESS])
    (lease,) = tmp_path.glob("c/*/*")
    lease.write_bytes(content)
    remote = opened(tmp_path)
    assert remote.running() == {}
    assert ADDRESS in remote.ask([ADDRESS]).leases
