"""Real servers for tests, on loopback. Each is skipped, with a reason, where its program is missing.

`tests/shared/servers.sh` installs them all.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.environment import free_port

PATIENCE = 60.0

PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"

BUCKET = "bucket"

POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def program(name: str) -> str:
    """The path of a program, in the environment of the tests or on the machine; skips the test without it."""
    near = [Path(sys.prefix, "bin", name), Path(sys.prefix, "azurite", "node_modules", ".bin", name)]
    found = next((str(path) for path in near if path.exists()), None) or shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed: tests/shared/servers.sh installs it")
    return found


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Server:
    """A server with a folder of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bencher_job-server-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *command: str, **options: object) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options
            )

    def start(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(Server):
    """Debian's PostgreSQL. It refuses to run as root."""

    user = "bj"
    with_password = "guarded"

    def start(self) -> None:
        if not POSTGRES_PROGRAMS:
            pytest.skip("PostgreSQL is not installed: tests/shared/servers.sh installs it")
        data, programs = self.folder / "data", POSTGRES_PROGRAMS[0]
        runuser: list[str] = []
        account = None
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            runuser = ["runuser", "-u", "postgres", "--"]
        if not data.exists():
            made = [str(programs / "initdb"), "-D", str(data), "-U", self.user, "-A", "trust", "--no-sync"]
            subprocess.run(
                [*runuser, *made, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, cwd="/"
            )
            rules = data / "pg_hba.conf"
            rules.write_text(f"host all {self.with_password} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        (data / "postmaster.pid").unlink(missing_ok=True)
        settings = ["fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        options = [part for each in settings for part in ("-c", each)]
        who = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.run(str(programs / "postgres"), "-D", str(data), "-p", str(self.port), *options, cwd="/", **who)
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL doesn't answer")

    def url(self, port: int | None = None, user: str = user) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/postgres"

    def kill(self) -> None:
        """End it with its backends, which have process groups of their own and would answer for a while."""
        pid = 0 if self.process is None or self.process.poll() is not None else self.process.pid
        backends = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else []
        super().kill()
        for each in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(each), signal.SIGKILL)
        until(lambda: not answers(self.port), "PostgreSQL still answers")


class PgBouncer(Server):
    """A pooler before a PostgreSQL: each transaction may be another connection's."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__()
        self._postgres = postgres

    def start(self) -> None:
        settings = self.folder / "pgbouncer.ini"
        users = self.folder / "users"
        users.write_text(f'"{Postgres.user}" ""\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._postgres.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\nmax_client_conn = 200\n"
            "default_pool_size = 3\nserver_round_robin = 1\n"
        )
        who = {}
        if os.geteuid() == 0:  # which it refuses to run as
            account = pwd.getpwnam("postgres")
            for path in (self.folder, settings, users):
                os.chown(path, account.pw_uid, account.pw_gid)
            who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.run(program("pgbouncer"), str(settings), cwd="/", **who)
        until(lambda: answers(self.port), "PgBouncer doesn't answer")


class Seaweed(Server):
    """SeaweedFS, which speaks S3."""

    environment: dict[str, str] = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port(10_000)

    def start(self) -> None:
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        writer = {"accessKey": "writer", "secretKey": "secret"}
        identities = [
            {"name": "bj", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": rights},
            {"name": "writer", "credentials": [writer], "actions": ["Read", "Write", "List"]},
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        while not self._runs():  # another program has taken one of its ports
            self.kill()
            self.port = free_port(10_000)

    def _runs(self) -> bool:
        ports = {name: free_port(10_000) for name in ("master", "volume", "filer", "admin")}
        self.run(
            program("weed"),
            "-logtostderr=true",
            "mini",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={self.port}",
            f"-s3.config={self.folder}/s3.json",
            *(f"-{name}.port={port}" for name, port in ports.items()),
            "-admin.ui=false",
            "-webdav=false",
            f"-bucket={BUCKET}",
        )
        process = self.process
        assert process is not None
        until(
            lambda: process.poll() is not None or (answers(self.port) and self._has_bucket()), "no SeaweedFS"
        )
        return process.poll() is None

    def _has_bucket(self) -> bool:
        import obstore
        from obstore.store import S3Store

        store = S3Store(
            BUCKET,
            endpoint=f"http://127.0.0.1:{self.port}",
            client_options={"allow_http": True},
            **{name.removeprefix("AWS_").lower(): value for name, value in self.environment.items()},
        )
        try:
            obstore.put(store, "ready", b"")
        except Exception:
            return False
        return True

    def settings(self, port: int | None = None) -> dict[str, str]:
        return self.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}"}


class Rclone(Server):
    """A server that speaks S3 and ignores conditions."""

    def start(self) -> None:
        (self.folder / "data" / BUCKET).mkdir(parents=True)
        address = f"127.0.0.1:{self.port}"
        self.run(
            program("rclone"),
            "serve",
            "s3",
            "--auth-key",
            "key,secret",
            "--addr",
            address,
            "data",
            cwd=self.folder,
        )
        until(lambda: answers(self.port), "rclone doesn't answer")

    def settings(self) -> dict[str, str]:
        return Seaweed.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}


class Azurite(Server):
    """Azure Blob Storage in a box; the account and its key are public."""

    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def start(self) -> None:
        self.run(
            program("azurite-blob"),
            "--silent",
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--location",
            str(self.folder),
            "--blobPort",
            str(self.port),
        )
        until(lambda: answers(self.port), "Azurite doesn't answer")
        self._make_container()

    def _make_container(self) -> None:
        date, version = formatdate(usegmt=True), "2021-08-06"
        resource = f"/{self.account}/{self.account}/{BUCKET}\nrestype:container"
        text = f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{version}\n{resource}"
        mac = hmac.digest(base64.b64decode(self.key), text.encode(), hashlib.sha256)
        headers = {
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {self.account}:{base64.b64encode(mac).decode()}",
            "Content-Length": "0",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("PUT", f"/{self.account}/{BUCKET}?restype=container", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        connection.close()

    def settings(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{self.port}/{self.account}",
            "AZURE_ALLOW_HTTP": "true",
        }


class TwoMounts(Server):
    """A network file system, JuiceFS, mounted twice as on two hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.mounts = [self.folder / name for name in ("first", "second")]
        self._mounted: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("/dev/fuse is not there, so JuiceFS can't be mounted")
        juicefs, meta = program("juicefs"), f"sqlite3://{self.folder}/meta.db"
        data = ["--storage", "file", "--bucket", f"{self.folder}/data/"]
        subprocess.run([juicefs, "format", *data, meta, "volume"], check=True, capture_output=True)
        for mount in self.mounts:
            mount.mkdir()
            cache = f"{self.folder}/cache-{mount.name}"
            self.run(juicefs, "mount", "--no-usage-report", "--cache-dir", cache, meta, str(mount))
            assert self.process is not None
            self._mounted.append(self.process)
        for mount, process in zip(self.mounts, self._mounted, strict=True):
            until(
                lambda m=mount, p=process: os.path.ismount(m) or p.poll() is not None, "JuiceFS doesn't mount"
            )
            if process.poll() is not None:
                pytest.skip("JuiceFS can't be mounted here")

    def kill(self) -> None:
        for mount in self.mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True)
        for process in self._mounted:
            process.kill()
            process.wait(PATIENCE)
