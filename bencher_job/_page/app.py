"""Answer the requests of the page."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .._errors import BencherJobError, UntrustedCache
from .._explain import differences
from .._processes import Process
from .._query import Order
from .._record import FunctionInfo, code_label
from .._stores import (
    Leases,
    LeasesUnavailable,
    Store,
    StoreBusy,
    StoreMissing,
    export,
    look_into,
    open_existing,
    shared_figures,
    stores_in,
)
from .._text import arguments_text, is_writable
from .._views.summaries import common_fields, without_fields
from .entry import entry_of, failed_of, file_answer
from .listing import ALL, MOST_COLUMNS, FilterError, JsonResponse, Listing, TableQuery


class Changed(BencherJobError):
    """The entries have changed since the user confirmed an action on them."""


class Stores:
    """All stores of one directory, opened read-only when they are asked for.

    Attributes:
        directory: the cache directory, or the folder of one store; it may not exist yet.
        trusted: whether to show stores that another user owns or can write to.
        unpickles: whether to unpickle values that can't be shown otherwise.
        read_only: whether the page changes nothing.
    """

    def __init__(
        self, directory: Path, *, trusted: bool = False, unpickles: bool = False, read_only: bool = False
    ) -> None:
        self.directory = directory
        self.read_only = read_only
        self.trusted = trusted
        self.unpickles = unpickles
        self._open: dict[str, Listing] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of all existing stores.

        Raises:
            StoreFailure: when the directory can't be read.
        """
        try:
            return [path.name for path in stores_in(self.directory)]
        except StoreMissing:
            return []

    def get(self, name: str) -> Listing:
        """Return the listing of the store with a name.

        Raises:
            StoreMissing: when there is none.
            StoreFailure: when it can't be read.
            UntrustedCache: when another user owns it or can write to it, and it is not trusted.
        """
        path = self._path(name)
        with self._lock:
            listing = self._open.get(name)
            if listing is None:
                store = look_into(path, trusted=self.trusted)
                listing = self._open[name] = Listing(store, unpickles=self.unpickles)
        return listing

    def _path(self, name: str) -> Path:
        for path in stores_in(self.directory):
            if path.name == name:
                return path
        raise StoreMissing(f"{self.directory} holds no cache of the name {name!r} any more.")

    def to_change(self, name: str) -> closing[Store]:
        """Open the store with a name for a change, as `get` does."""
        return closing(open_existing(self._path(name), trusted=self.trusted))

    def close(self) -> None:
        """Close all stores."""
        for listing in self._open.values():
            listing.store.close()


THREADS: Final = 4
"""Maximum number of requests that run at once. Each thread has a connection to each store."""

LARGEST_PAGE: Final = 500

LONGEST_TEXT: Final = 3_000
"""Maximum length of a search or a filter in characters: SQLite's limit for a pattern, with escapes, is 50,000 bytes."""

_STATIC: Final = Path(__file__).parent / "static"
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

    def page(self, _: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

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
                listing = self._stores.get(name)
                functions = [_figures_of(listing, each) for each in listing.functions()]
            except BencherJobError as error:
                stores.append({"name": name, "functions": [], "running": [], "error": str(error)})
            else:
                running = running_jobs(listing.store.leases)
                shared = [str(each) for each in shared_figures(listing.store)]
                stores.append({"name": name, "functions": functions, "running": running, "shared": shared})
        return JsonResponse({"stores": stores, "stamp": stamp})

    def columns(self, request: Request) -> Response:
        asked = request.query_params
        return JsonResponse({"columns": self._stores.get(asked["store"]).columns(asked["function"])})

    def rows(self, request: Request) -> Response:
        asked = request.query_params
        listing, keys = self._found(asked)
        size = min(max(_whole(asked, "size", 50), 1), LARGEST_PAGE)
        first = min(max(_whole(asked, "first", 0), 0), max(len(keys) - 1, 0) // size * size)
        columns = listing.columns(asked["function"])
        page = listing.page(keys[first : first + size], [each["id"] for each in columns])
        return JsonResponse({"total": len(keys), "first": first, "columns": columns, "rows": page})

    def _found(self, asked: Mapping[str, Any]) -> tuple[Listing, list[str]]:
        """Return the listing of the store that is asked for, and the keys of the entries."""
        listing = self._stores.get(asked["store"])
        return listing, listing.keys(_query(asked))

    def points(self, request: Request) -> Response:
        asked = request.query_params
        listing, keys = self._found(asked)
        columns = [asked["x"], asked["y"], *(asked[name] for name in ("color", "facet") if asked.get(name))]
        return JsonResponse(listing.points(keys, columns))

    def groups(self, request: Request) -> Response:
        asked = request.query_params
        listing, keys = self._found(asked)
        by = [str(name) for name in json.loads(asked["by"])][:MOST_COLUMNS]
        return JsonResponse(listing.groups(keys, by, asked["value"]))

    def csv(self, request: Request) -> Response:
        asked = request.query_params
        listing, keys = self._found(asked)
        columns = ["key", *(each["id"] for each in listing.columns(asked["function"]))]
        name = re.sub(r"[^a-zA-Z0-9_.-]+", "_", asked["function"]).strip("._") or "entries"
        headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
        lines = listing.csv(keys, columns)
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)

    def changes(self, request: Request) -> Response:
        """Return how code and library versions differ between two entries."""
        asked = request.query_params
        history = self._stores.get(asked["store"]).store.history
        versions = [
            version
            for info in history.infos([asked["key"], asked["other"]])
            for version in history.versions(info.record.function)
            if (version.fingerprint, version.version) == (info.record.fingerprint, info.record.version)
        ]
        if len(versions) != 2:
            return _missing("The code of one of them is not known: its key was given, or it is gone.")
        found = differences(*versions)
        return JsonResponse(
            {
                "code": [[each.name, each.kind, each.diff] for each in found.code_changed],
                "libraries": found.distributions_changed,
            }
        )

    def entry(self, request: Request) -> Response:
        asked = request.query_params
        store = self._stores.get(asked["store"]).store
        for info in store.history.infos([asked["key"]]):
            return JsonResponse(entry_of(store, info, unpickles=self._stores.unpickles))
        return _missing("The entry is gone: it was cleared, replaced, evicted or expired.")

    def failed(self, request: Request) -> Response:
        """List failed jobs without their tracebacks, or return one with all that is known."""
        asked = request.query_params
        listing = self._stores.get(asked["store"])
        if "key" in asked:
            for each in listing.store.history.failures():
                if each.record.key == asked["key"]:
                    return JsonResponse(failed_of(each))
            return _missing("It is not a failed job any more: it has succeeded, or was cleared.")
        found = listing.failed(asked["function"], asked.get("code", ""))
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
        return JsonResponse({"jobs": jobs, "hidden": len(listing.failed(asked["function"], ALL)) - len(jobs)})

    def media(self, request: Request) -> Response:
        asked = request.path_params
        store = self._stores.get(asked["store"]).store
        infos = store.history.infos([asked["key"]])
        answer = None
        if infos and store.folder is not None and infos[0].record.media is not None:
            is_download = "download" in request.query_params
            answer = file_answer(store.folder, infos[0].record, asked["path"], is_download=is_download)
        return answer or Response("There is no such file.", 404, media_type="text/plain")

    def clear(self, given: dict[str, Any]) -> Response:
        name = str(given["store"])
        if given.get("failed"):
            named = {str(key) for key in given["keys"]}
            with self._stores.to_change(name) as store:
                keys = [each.record.key for each in store.history.failures() if each.record.key in named]
                store.remove(keys)
                return JsonResponse({"removed": len(keys)})
        keys = self._chosen(given)
        with self._stores.to_change(name) as store:
            return JsonResponse({"removed": store.remove(keys, "cleared")})

    def export(self, given: dict[str, Any]) -> Response:
        """Return an archive of the chosen entries, with their number in a header."""
        keys = self._chosen(given)
        folder = TemporaryDirectory(prefix="bencher_job-")
        path = Path(folder.name, "archive.tar")
        count = export(self._stores.get(str(given["store"])).store, path, keys=keys)
        headers = {"x-entries": str(count)}
        return FileResponse(
            path, media_type="application/x-tar", headers=headers, background=BackgroundTask(folder.cleanup)
        )

    def _chosen(self, given: dict[str, Any]) -> list[str]:
        """Return the keys that a change names, or those of its query if they are still as many as it says.

        Raises:
            Changed: when their number has changed.
        """
        if "keys" in given:
            return [str(key) for key in given["keys"]]
        _, keys = self._found({**given, "store": str(given["store"])})
        if len(keys) != given.get("count"):
            raise Changed(
                f"There are {len(keys):,} entries now, and you were asked about {given.get('count'):,}."
            )
        return keys


def _missing(text: str) -> Response:
    return JsonResponse({"error": text}, 404)


def _figures_of(listing: Listing, function: FunctionInfo) -> dict[str, Any]:
    """Return the figures of a function; the numbers of failed jobs are by the code that is chosen."""
    latest = function.latest()
    failed: dict[str, int] = {}
    if function.failed:
        records = [each.record for each in listing.failed(function.name, ALL)]
        failed = {"": len(listing.failed(function.name)), ALL: len(records)}
        failed |= Counter(code_label(each.fingerprint, each.version) for each in records)
    return {
        "name": function.name,
        "entries": function.entries,
        "failed": failed,
        "versions": [
            {
                "label": version.label,
                "entries": version.entries,
                "since": version.first_seen.timestamp(),
                "commit": version.commit,
                "is_latest": version[:2] in latest,
            }
            for version in function.versions
        ],
        "size": function.size,
        "hits": function.hits,
        "saved": function.seconds_saved,
        "seconds": function.seconds,
        "used": function.last_used.timestamp(),
    }


MOST_RUNNING: Final = 200


def running_jobs(leases: Leases) -> list[dict[str, Any]]:
    """Return what runs now: `key`, `function`, `call`, `host`, `pid`, `since`, and the `program` of this machine."""
    try:
        running = leases.running()[:MOST_RUNNING]
    except LeasesUnavailable:  # nobody has computed here, or the database is locked for a moment
        return []
    programs = {process: _program(process) for process in {job.process for job in running}}
    return [
        {
            "key": job.key,
            "function": job.function,
            "call": arguments_text(job.arguments),
            "host": job.process.host,
            "pid": job.process.pid,
            "since": job.since,
            "program": programs[job.process],
        }
        for job in running
    ]


def _program(process: Process) -> str:
    """Return the name of the script or module that a process of this machine runs, without its arguments."""
    if process.host != os.uname().nodename:
        return ""
    try:
        words = psutil.Process(process.pid).cmdline()[1:]
    except psutil.Error:
        return ""
    if words[:1] == ["-m"]:
        return " ".join(words[:2])
    return (
        ""
        if words[:1] == ["-c"]
        else next((Path(word).name for word in words if not word.startswith("-")), "")
    )


def _query(given: Mapping[str, Any]) -> TableQuery:
    """Parse what is asked for in an address, where the filters are JSON, or in the body of a change."""
    filters = given.get("filters") or {}
    filters = json.loads(filters) if isinstance(filters, str) else filters
    if not isinstance(filters, dict):
        raise TypeError("filters are an object of columns and what is typed into their heads")
    filters = {str(name): str(text) for name, text in filters.items() if str(text).strip()}
    function, search = str(given["function"]), str(given.get("search", "")).strip()
    sort = str(given.get("sort") or "-created")
    for text in (search, function, sort, *filters, *filters.values()):
        if len(text) > LONGEST_TEXT:
            raise FilterError(
                f"A search or a filter has at most {LONGEST_TEXT:,} characters, and this one has {len(text):,}."
            )
        if not is_writable(text):
            raise FilterError(f"{text!a} can't be looked for: it has half of a surrogate pair.")
    order = Order(sort.removeprefix("-"), sort.startswith("-"))
    return TableQuery(function, tuple(sorted(filters.items())), search, order, str(given.get("code", "")))


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
        stores.close()

    looks = (
        *(app.session, app.stamp, app.overview, app.columns, app.rows, app.points, app.groups, app.csv),
        *(app.changes, app.entry, app.failed),
    )
    changes = (app.export,) if stores.read_only else (app.clear, app.export)
    routes = [
        Route("/", app.page),
        Mount("/static", StaticFiles(directory=_STATIC)),
        *(Route(f"/api/{look.__name__}", look) for look in looks),
        *(Route(f"/api/{change.__name__}", _changing(change), methods=["POST"]) for change in changes),
        Route("/media/{store}/{key}/{path:path}", app.media),
    ]
    failures: dict[Any, Any] = dict.fromkeys(_STATUS, _failed)
    return Starlette(
        routes=routes,
        lifespan=life,
        exception_handlers=failures
        | dict.fromkeys((ValueError, KeyError, TypeError, RecursionError), _not_understood),
    )
