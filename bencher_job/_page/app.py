"""Answer the requests of the page."""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from .._errors import BencherJobError, UntrustedCache
from .._explain import differences
from .._query import Order
from .._record import code_label
from .._stores import StoreBusy, StoreMissing, export, shared_figures
from .._text import arguments_text, is_writable
from .._views.summaries import common_fields, without_fields
from .entry import entry_of, failed_of, file_answer
from .listing import MOST_COLUMNS, FilterError, JsonResponse, TableQuery
from .stores import Stores
from .summaries import csv_lines, groups_of, running_jobs

__all__ = ["Archives", "Changed", "chosen_keys", "make_app", "remove"]


MOST_ARCHIVES: Final = 4
"""Maximum number of archives that wait for their download; the oldest is removed for a new one."""


class Changed(BencherJobError):
    """The entries have changed since the user confirmed an action on them."""


def chosen_keys(stores: Stores, name: str, given: Mapping[str, Any], query: TableQuery | None) -> list[str]:
    """Return the keys that a request names, or those of its query if they are still as many as it says.

    Raises:
        Changed: when their number has changed.
        StoreFailure: when the store can't be read.
    """
    if query is None:
        return [str(key) for key in given["keys"]]
    shown = stores.get(name)
    keys = shown.listing.keys(query, shown.stamp())
    if len(keys) != given.get("count"):
        raise Changed(
            f"There are {len(keys):,} entries now, and you were asked about {given.get('count'):,}."
        )
    return keys


def remove(stores: Stores, name: str, keys: Sequence[str]) -> int:
    """Remove the entries of some keys, with their files. Return how many there were.

    Raises:
        StoreFailure: when the store can't be written.
    """
    with stores.to_change(name) as store:
        return store.remove(keys, "cleared")


def remove_failed(stores: Stores, name: str, keys: Collection[str]) -> int:
    """Remove the failed jobs of some keys, unless they have succeeded since. Return how many there were.

    Raises:
        StoreFailure: when the store can't be written.
    """
    with stores.to_change(name) as store:
        still = [each.record.key for each in store.history.failures() if each.record.key in keys]
        store.remove(still)
        return len(still)


@dataclass(frozen=True, slots=True)
class _Archive:
    path: Path
    name: str


class Archives:
    """Archives that wait for their download, in a folder that only their owner can read."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bencher_job-")
        self._waiting: dict[str, _Archive] = {}
        self._lock = threading.Lock()

    def make(self, stores: Stores, name: str, keys: Sequence[str], label: str) -> tuple[str, int]:
        """Write an archive of the entries of some keys. Return its ticket and its number of entries.

        Raises:
            StoreFailure: when the store can't be read, or the archive can't be written.
        """
        ticket = secrets.token_urlsafe(12)
        path = Path(self._folder.name, ticket)
        count = export(stores.get(name).store, path, keys=keys)
        with self._lock:
            self._waiting[ticket] = _Archive(path, f"{label}.tar")
            while len(self._waiting) > MOST_ARCHIVES:
                self._waiting.pop(next(iter(self._waiting))).path.unlink(missing_ok=True)
        return ticket, count

    def get(self, ticket: str) -> tuple[Path, str] | None:
        """Return the path of an archive and its download name, or None if it was removed."""
        with self._lock:
            archive = self._waiting.get(ticket)
        return None if archive is None else (archive.path, archive.name)

    def close(self) -> None:
        """Remove all archives."""
        self._folder.cleanup()


THREADS: Final = 4
"""Maximum number of requests that run at once. Each thread has a connection to each store."""

LARGEST_PAGE: Final = 500

LONGEST_TEXT: Final = 3_000
"""Maximum length of a search or a filter in characters: SQLite's limit for a pattern, with escapes, is 50,000 bytes."""

_STATIC: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_STATUS: Final[dict[type[Exception], int]] = {
    StoreMissing: 404,
    UntrustedCache: 403,
    StoreBusy: 503,
    Changed: 409,
    FilterError: 422,
    BencherJobError: 500,
}


class _App:
    """The handlers of requests for one directory."""

    def __init__(self, stores: Stores, page_token: str) -> None:
        self._stores = stores
        self._page_token = page_token
        self._archives = Archives()
        static = files(__package__).joinpath("static")
        self._static = {
            prefix + entry.name: (entry.read_bytes(), _STATIC[entry.name[entry.name.rindex(".") :]])
            for prefix, folder in (("", static), ("vendor/", static / "vendor"))
            for entry in folder.iterdir()
            if "." in entry.name
        }

    def page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._static:
            return Response("There is no such file.", 404, media_type="text/plain")
        content, kind = self._static[name]
        kept = {"cache-control": "private, max-age=3600"} if name.startswith("vendor/") else None
        return Response(content, media_type=kind, headers=kept)

    def session(self, _: Request) -> Response:
        stores = self._stores
        return JsonResponse(
            {
                "token": self._page_token,
                "directory": str(stores.directory),
                "unpickles": stores.unpickles,
                "read_only": stores.read_only,
            }
        )

    def stamp(self, _: Request) -> Response:
        return JsonResponse({"stamp": self._stamp()})

    def _stamp(self) -> str:
        stamps = []
        for name in self._stores.names():
            try:
                stamps.append(f"{name} {self._stores.get(name).stamp()}")
            except BencherJobError as error:
                stamps.append(f"{name} {error}")
        return "\n".join(stamps)

    def overview(self, _: Request) -> Response:
        stamp = self._stamp()
        stores: list[dict[str, Any]] = []
        for name in self._stores.names():
            try:
                shown = self._stores.get(name)
                functions = [
                    {
                        "name": each.name,
                        "entries": each.entries,
                        "failed": each.failed,
                        "versions": [
                            {
                                "label": version.label,
                                "entries": version.entries,
                                "since": version.first_seen.timestamp(),
                                "commit": version.commit,
                                "is_latest": version[:2] in each.latest(),
                            }
                            for version in each.versions
                        ],
                        "size": each.size,
                        "hits": each.hits,
                        "saved": each.seconds_saved,
                        "seconds": each.seconds,
                        "used": each.last_used.timestamp(),
                    }
                    for each in shown.listing.functions(shown.stamp())
                ]
            except BencherJobError as error:
                stores.append({"name": name, "functions": [], "running": [], "error": str(error)})
            else:
                running = running_jobs(shown.store.leases)
                shared = [str(each) for each in shared_figures(shown.store)]
                stores.append({"name": name, "functions": functions, "running": running, "shared": shared})
        return JsonResponse({"stores": stores, "stamp": stamp})

    def columns(self, request: Request) -> Response:
        asked = request.query_params
        shown = self._stores.get(asked["store"])
        return JsonResponse({"columns": shown.listing.columns(asked["function"], shown.stamp())})

    def rows(self, request: Request) -> Response:
        asked = request.query_params
        shown = self._stores.get(asked["store"])
        stamp = shown.stamp()
        keys = shown.listing.keys(_query(asked), stamp)
        size = min(max(_whole(asked, "size", 50), 1), LARGEST_PAGE)
        first = min(max(_whole(asked, "first", 0), 0), max(len(keys) - 1, 0) // size * size)
        columns = [each["id"] for each in shown.listing.columns(asked["function"], stamp)]
        page = shown.listing.page(keys[first : first + size], columns)
        return JsonResponse(
            {
                "total": len(keys),
                "first": first,
                "columns": shown.listing.columns(asked["function"], stamp),
                "rows": page,
            }
        )

    def points(self, request: Request) -> Response:
        asked = request.query_params
        shown = self._stores.get(asked["store"])
        keys = shown.listing.keys(_query(asked), shown.stamp())
        columns = [asked["x"], asked["y"], *(asked[name] for name in ("color", "facet") if asked.get(name))]
        return JsonResponse(shown.listing.points(keys, columns))

    def groups(self, request: Request) -> Response:
        asked = request.query_params
        shown = self._stores.get(asked["store"])
        keys = shown.listing.keys(_query(asked), shown.stamp())
        by = [str(name) for name in json.loads(asked["by"])][:MOST_COLUMNS]
        return JsonResponse(groups_of(shown.listing, keys, by, asked["value"]))

    def csv(self, request: Request) -> Response:
        asked = request.query_params
        shown = self._stores.get(asked["store"])
        stamp = shown.stamp()
        keys = shown.listing.keys(_query(asked), stamp)
        columns = ["key", *(each["id"] for each in shown.listing.columns(asked["function"], stamp))]
        headers = {
            "content-disposition": f'attachment; filename="{_file_name(asked["function"], "entries")}.csv"'
        }
        lines = csv_lines(shown.listing, keys, columns)
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)

    def changes(self, request: Request) -> Response:
        """Return how code and library versions differ between two entries."""
        asked = request.query_params
        store = self._stores.get(asked["store"]).store
        infos = store.history.infos([asked["key"], asked["other"]])
        versions = [
            version
            for info in infos
            for version in store.history.versions(info.record.function)
            if (version.fingerprint, version.version) == (info.record.fingerprint, info.record.version)
        ]
        if len(versions) != 2:
            return JsonResponse(
                {"error": "The code of one of them is not known: its key was given, or it is gone."}, 404
            )
        found = differences(*versions)
        return JsonResponse(
            {
                "code": [[each.name, each.kind, each.diff] for each in found.code_changed],
                "libraries": found.distributions_changed,
            }
        )

    def entry(self, request: Request) -> Response:
        asked = request.query_params
        shown = self._stores.get(asked["store"])
        infos = shown.store.history.infos([asked["key"]])
        if not infos:
            return JsonResponse(
                {"error": "The entry is gone: it was cleared, replaced, evicted or expired."}, 404
            )
        return JsonResponse(entry_of(shown.store, infos[0], unpickles=self._stores.unpickles))

    def failed(self, request: Request) -> Response:
        """List failed jobs without their tracebacks, or return one with all that is known."""
        asked = request.query_params
        shown = self._stores.get(asked["store"])
        stamp = shown.stamp()
        if "key" in asked:
            for each in shown.store.history.failures():
                if each.record.key == asked["key"]:
                    return JsonResponse(failed_of(each))
            return JsonResponse(
                {"error": "It is no failed job any more: it has succeeded, or was cleared."}, 404
            )
        found = shown.listing.failed(asked["function"], asked.get("code", ""), stamp)
        same = common_fields([each.record.arguments for each in found])
        jobs = [
            {
                "key": each.record.key,
                "call": arguments_text(without_fields(each.record.arguments, same)),
                "created": each.record.created.timestamp(),
                "seconds": each.record.seconds,
                "code": code_label(each.record.fingerprint, each.record.version),
                "error": each.error,
            }
            for each in found
        ]
        failed = next(
            (each.failed for each in shown.listing.functions(stamp) if each.name == asked["function"]), 0
        )
        return JsonResponse({"jobs": jobs, "hidden": failed - len(jobs)})

    def media(self, request: Request) -> Response:
        asked = request.path_params
        store = self._stores.get(asked["store"]).store
        infos = store.history.infos([asked["key"]])
        answer = None
        if infos and store.folder is not None and infos[0].record.media is not None:
            answer = file_answer(
                store.folder,
                infos[0].record.media,
                asked["path"],
                is_download="download" in request.query_params,
            )
        return answer or Response("There is no such file.", 404, media_type="text/plain")

    def clear(self, given: dict[str, Any]) -> Response:
        if given.get("failed"):
            named = {str(key) for key in given["keys"]}
            return JsonResponse({"removed": remove_failed(self._stores, str(given["store"]), named)})
        keys = chosen_keys(self._stores, str(given["store"]), given, _query_of(given))
        return JsonResponse({"removed": remove(self._stores, str(given["store"]), keys)})

    def export(self, given: dict[str, Any]) -> Response:
        name = str(given["store"])
        keys = chosen_keys(self._stores, name, given, _query_of(given))
        label = _file_name(str(given.get("label", "")), name)
        ticket, count = self._archives.make(self._stores, name, keys, label)
        return JsonResponse({"ticket": ticket, "count": count, "asked": len(keys)})

    def archive(self, request: Request) -> Response:
        found = self._archives.get(request.path_params["ticket"])
        if found is None:
            return Response("This archive is no longer here. Export again.", 404, media_type="text/plain")
        path, name = found
        return FileResponse(path, filename=name, media_type="application/x-tar")

    def close(self) -> None:
        self._archives.close()
        self._stores.close()


def _file_name(text: str, default: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_.-]+", "_", text).strip("._") or default


def _query(asked: QueryParams) -> TableQuery:
    given: dict[str, Any] = dict(asked)
    return _as_query(given | {"filters": json.loads(given.get("filters") or "{}")})


def _query_of(given: dict[str, Any]) -> TableQuery | None:
    """Parse the query of a change, or return None if it names keys."""
    return None if "keys" in given else _as_query(given)


def _as_query(given: dict[str, Any]) -> TableQuery:
    filters = given.get("filters", {})
    if not isinstance(filters, dict):
        raise TypeError("filters are an object of columns and what is typed into their heads")
    filters = {str(name): str(text) for name, text in filters.items() if str(text).strip()}
    texts = (
        str(given.get("search", "")),
        str(given["function"]),
        str(given.get("sort")),
        *filters,
        *filters.values(),
    )
    for text in texts:
        if len(text) > LONGEST_TEXT:
            raise FilterError(
                f"A search or a filter has at most {LONGEST_TEXT:,} characters, and this one has {len(text):,}."
            )
        if not is_writable(text):
            raise FilterError(f"{text!a} is no text that can be looked for: it has half of a surrogate pair.")
    sort = str(given.get("sort") or "-created")
    order = Order(sort.removeprefix("-"), sort.startswith("-"))
    return TableQuery(
        str(given["function"]),
        tuple(sorted(filters.items())),
        str(given.get("search", "")).strip(),
        order,
        str(given.get("code", "")),
    )


def _whole(asked: QueryParams, name: str, default: int) -> int:
    text = asked.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 else default


def _changing(change: Callable[[dict[str, Any]], Response]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        given = json.loads(await request.body())
        if not isinstance(given, dict):
            raise TypeError("a change is asked for by an object")
        return await run_in_threadpool(change, given)

    return endpoint


async def _failed(_: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return JsonResponse({"error": str(error)}, status)


async def _not_understood(_: Request, error: Exception) -> Response:
    return JsonResponse({"error": f"The request is not understood: {error!r}"}, 400)


def make_app(stores: Stores, page_token: str) -> Starlette:
    """Make the application that handles admitted requests."""
    app = _App(stores, page_token)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        import anyio.to_thread

        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        app.close()

    routes = [
        Route("/", app.page),
        Route("/static/{name:path}", app.page),
        Route("/api/session", app.session),
        Route("/api/stamp", app.stamp),
        Route("/api/overview", app.overview),
        Route("/api/columns", app.columns),
        Route("/api/rows", app.rows),
        Route("/api/points", app.points),
        Route("/api/groups", app.groups),
        Route("/api/csv", app.csv),
        Route("/api/changes", app.changes),
        Route("/api/entry", app.entry),
        Route("/api/failed", app.failed),
        *([] if stores.read_only else [Route("/api/clear", _changing(app.clear), methods=["POST"])]),
        Route("/api/export", _changing(app.export), methods=["POST"]),
        Route("/archives/{ticket}", app.archive),
        Route("/media/{store}/{key}/{path:path}", app.media),
    ]
    failures: dict[Any, Any] = dict.fromkeys(_STATUS, _failed)
    return Starlette(
        routes=routes,
        lifespan=life,
        exception_handlers=failures
        | dict.fromkeys((ValueError, KeyError, TypeError, RecursionError), _not_understood),
    )
