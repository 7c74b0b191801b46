"""Nobody without the token is told anything, nobody else's site changes anything, and no other name is answered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.views.page.caches import key_of
from tests.views.page.serving import Served, serving

DATA = (
    "",
    "static/main.js",
    "api/session",
    "api/overview",
    "api/stamp",
    "api/rows?store=fcache&function=study.train",
)


def entries(shared: Served) -> int:
    return shared.get("rows", store="fcache", function="study.train").json()["total"]


def test_the_token_begins_a_session_for_the_folder_of_the_view_only(shared: Served) -> None:
    parts = urlsplit(shared.url)
    answered = shared.ask(f"/?{parts.query}")
    cookie = answered.headers["set-cookie"]
    assert f"Path={shared.view}/" in cookie
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert parts.query.partition("=")[2] not in cookie
    for path in DATA:
        assert shared.ask(f"{shared.view}/{path}", headers={"cookie": shared.cookie}).status == 200


@pytest.mark.parametrize("token", ["", "?token=", "?token=wrong", "?token=é"])
def test_without_the_token_no_session_begins(shared: Served, token: str) -> None:
    answered = shared.ask("/" + token.replace("é", "%C3%A9"))
    assert (answered.status, "set-cookie" in answered.headers) == (403, False)
    assert b"Open the URL" in answered.body


@pytest.mark.parametrize("path", [*DATA, "media/fcache/0/x.png", "unknown"])
@pytest.mark.parametrize("cookie", [None, "bencher_job=wrong", "bencher_job=", "other=1", ";;="])
def test_without_the_cookie_nothing_is_told(shared: Served, path: str, cookie: str | None) -> None:
    answered = shared.ask(f"{shared.view}/{path}", headers={"cookie": cookie})
    assert answered.status == 403
    assert b"study" not in answered.body
    assert b"cachedir" not in answered.body


def test_the_cookie_is_worth_nothing_outside_of_the_view(shared: Served) -> None:
    for path in (
        "/api/overview",
        "/static/main.js",
        "/x/api/overview",
        f"/{shared.view}",
        f"/x{shared.view}/",
    ):
        assert shared.ask(path, headers={"cookie": shared.cookie}).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": None},
        {"origin": None},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"content-type": "text/plain"},
        {"content-type": None},
        {"x-bencher-job": None},
        {"x-bencher-job": "wrong"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example"},
    ],
    ids=str,
)
def test_a_change_that_is_not_from_the_page_is_refused(
    shared: Served, headers: Mapping[str, str | None]
) -> None:
    body = {"store": "fcache", "keys": [key_of(1)]}
    sent = shared.from_page() | dict(headers)
    for name in ("clear", "export"):
        assert shared.ask(f"{shared.view}/api/{name}", method="POST", body=body, headers=sent).status == 403
    assert entries(shared) == 60


def test_a_change_from_the_page_is_made(served: Served) -> None:
    assert served.post("clear", store="fcache", keys=[key_of(1)]).json() == {"removed": 1}
    assert entries(served) == 59


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_a_post_changes_anything(shared: Served, method: str) -> None:
    headers = shared.from_page()
    body = {"store": "fcache", "keys": [key_of(1)]}
    assert shared.ask(f"{shared.view}/api/clear", method=method, body=body, headers=headers).status == 405
    assert entries(shared) == 60


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "",
        "localhost.evil.example",
        "10.0.0.1",
        "[::2]",
    ],
)
def test_another_name_is_not_answered(shared: Served, host: str) -> None:
    for path in (f"/?{urlsplit(shared.url).query}", f"{shared.view}/api/overview"):
        answered = shared.ask(path, headers={"cookie": shared.cookie, "host": host})
        assert (answered.status, "set-cookie" in answered.headers) == (403, False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:80"])
def test_its_own_names_are_answered_also_behind_a_tunnel_with_another_port(shared: Served, host: str) -> None:
    headers = shared.from_page() | {"host": host, "origin": f"http://{host}"}
    assert shared.ask(f"{shared.view}/api/overview", headers=headers).status == 200
    body = {"store": "fcache", "keys": []}
    assert shared.ask(f"{shared.view}/api/clear", method="POST", body=body, headers=headers).status == 200


def test_on_all_addresses_any_address_is_answered_and_no_other_name(cache: Path) -> None:
    with serving(cache, "--host", "0.0.0.0") as server:
        port = server.host.rpartition(":")[2]
        server.url = f"http://127.0.0.1:{port}/?{urlsplit(server.url).query}"
        server.begin()
        for host, status in (("10.1.2.3:80", 200), ("evil.example", 403)):
            answered = server.ask(
                f"{server.view}/api/overview", headers={"cookie": server.cookie, "host": host}
            )
            assert answered.status == status
        assert "is reached from other machines" in server.end()[1]


def test_each_answer_forbids_scripts_from_elsewhere_and_guessing_of_types(shared: Served) -> None:
    for path in (shared.view + "/", "/", f"{shared.view}/api/overview", f"{shared.view}/nothing"):
        headers = shared.ask(path, headers={"cookie": shared.cookie}).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path", ["static/../app.py", "static/%2e%2e/app.py", "static/..%2fapp.py", "../app.py"]
)
def test_no_file_but_the_pages_own_is_served(shared: Served, path: str) -> None:
    assert shared.ask(f"{shared.view}/{path}", headers={"cookie": shared.cookie}).status in {403, 404}


def test_each_start_has_another_token_and_another_view(cache: Path) -> None:
    with serving(cache) as one, serving(cache) as other:
        one.begin()
        other.begin()
        assert one.url.partition("=")[2] != other.url.partition("=")[2]
        assert one.view != other.view
        other.cookie, other.view = one.cookie, one.view
        assert other.get("overview").status == 403
