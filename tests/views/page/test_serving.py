"""The page is served until Ctrl-C, on this machine only by default, and says in a sentence why it can't be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.shell import Shell
from tests.views.page.caches import entry, fill
from tests.views.page.serving import Served, serving


def test_ctrl_c_ends_it_well_and_leaves_nothing(served: Served, tmp_path: Path) -> None:
    assert served.get("overview").status == 200
    assert served.end() == (0, "")


def test_terminating_ends_it_as_well(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    served.process.communicate(timeout=60)
    assert served.process.returncode in {0, -signal.SIGTERM}


def test_only_this_machine_reaches_it(served: Served) -> None:
    assert urlsplit(served.url).hostname == "127.0.0.1"
    port = urlsplit(served.url).port
    with pytest.raises(ConnectionRefusedError):  # another address of this machine
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_a_port_that_is_taken_is_told_in_a_sentence(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, told = shell.failure("serve", "--no-browser", "--port", port)
    assert code == 5
    assert f"127.0.0.1:{port} can't be listened on" in told
    assert shell.failure("serve", "--port", "99999")[0] == 5
    assert shell.failure("serve", "--host", "no.such.host.invalid")[0] == 5


def test_without_its_libraries_it_says_what_to_install(shell: Shell) -> None:
    hidden = shell.folder / "hidden"
    hidden.mkdir()
    (hidden / "uvicorn.py").write_text("raise ModuleNotFoundError('No module named uvicorn', name='uvicorn')")
    path = os.pathsep.join([str(hidden), *filter(None, sys.path)])
    code, told = shell.failure("serve", PYTHONPATH=path)
    assert code == 5
    assert told == "The page needs uvicorn, which is not installed. Run: pip install 'bencher_job[web]'"


def test_no_other_command_imports_them() -> None:
    program = "import sys, bencher_job._cli; print({'starlette', 'uvicorn', 'anyio'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_browser_is_shown_a_file_so_that_its_arguments_tell_no_token(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\ncp "${{1#file://}}" {opened}.part; stat -c %a "${{1#file://}}" > {opened}.mode\n'
        f'echo "$1" > {opened}.argument; mv {opened}.part {opened}\n'
    )
    browser.chmod(0o755)
    environment = {
        **os.environ,
        "BROWSER": f"{browser} %s",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    words = [Path(sys.executable).parent / "bencher-job", "serve", "--cache-dir", str(tmp_path / "none")]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        told = "".join(iter(process.stdout.readline, "Ctrl-C ends it.\n"))
        token = told.partition("token=")[2].split()[0]
        for _ in range(3000):
            if opened.exists():
                break
            process.poll()
            signal.sigtimedwait([], 0.01)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert token in opened.read_text()
    assert token not in Path(f"{opened}.argument").read_text()
    assert Path(f"{opened}.mode").read_text().strip() == "600"


def test_one_store_is_shown_by_its_own_folder_or_name(cache: Path) -> None:
    fill(cache / "other", entry(1, "other.function", {"x": 1}, 2))
    for options, names in (
        (("--cache-dir", str(cache)), ["fcache", "other"]),
        (("--cache-dir", str(cache / "other")), ["other"]),
        (("--cache-name", "other"), ["other"]),
    ):
        with serving(cache, *options) as server:
            server.begin()
            assert [store["name"] for store in server.get("overview").json()["stores"]] == names
