"""A report that follows a running sweep: served to this machine alone, made anew when runs have ended."""

from __future__ import annotations

import html
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from subspace_tuning.errors import BadInput
from subspace_tuning.report.build import Source
from subspace_tuning.sweep.results import runs_below

HERE = "127.0.0.1"
LOOKED_EVERY = 2.0  # seconds
SHARE = 0.2  # of the time that may go into making pages while runs end all the time
WAITING = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>Waiting</title>'
    "<p>{reason}</p><p>This page looks again every 3 seconds.</p></html>"
)


class Watched:
    """The newest page of a source, and a version that changes with it."""

    def __init__(self, source: Source):
        self.source = source
        self._lock = Lock()
        self._version, self._page, self._made_of = "", "", ""
        self._look_after = self._make_after = 0.0

    def version(self) -> str:
        """Changes when runs have begun, ended or failed."""
        with self._lock:
            return self._look()

    def page(self) -> str:
        with self._lock:
            version = self._look()
            if version != self._made_of:
                began = time.monotonic()
                try:
                    self._page = self.source.build(version)
                except Exception as error:  # whatever is wrong with a run: it may be mended while the page waits
                    known = isinstance(error, BadInput)
                    reason = str(error) if known else f"The page cannot be made: {type(error).__name__}: {error}"
                    self._page = WAITING.format(reason=html.escape(reason))
                self._made_of = version
                self._make_after = time.monotonic() + (time.monotonic() - began) / SHARE
            return self._page

    def _look(self) -> str:
        now = time.monotonic()
        if now >= max(self._look_after, self._make_after):
            self._version = _state(self.source)
            self._look_after = time.monotonic() + LOOKED_EVERY
        return self._version


def _state(source: Source) -> str:
    """The number of runs begun and of results, and when the last of these was written."""
    if not source.path.is_dir():
        try:
            return f"file-{source.path.stat().st_mtime_ns}"
        except OSError:
            return "nothing"
    begun, times = 0, []
    for run in runs_below(source.path):
        begun += 1
        for name in ("result.json", "error.txt"):
            try:
                times.append((run / name).stat().st_mtime_ns)
            except OSError:
                continue
    return f"{begun}-{len(times)}-{max(times, default=0)}"


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, watched: Watched, *args: Any):
        self.watched = watched
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] not in (HERE, "localhost"):  # a name that was led here
            self.send_error(403)
        elif self.path == "/":
            self._send(self.watched.page(), "text/html")
        elif self.path == "/version":
            self._send(self.watched.version(), "text/plain")
        else:
            self.send_error(404)

    def _send(self, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: a page that asks every few seconds is not news."""


def server(source: Source, port: int) -> ThreadingHTTPServer:
    """A server of the report that is yet to be started; port 0 takes any that is free."""
    try:
        return ThreadingHTTPServer((HERE, port), partial(_Handler, Watched(source)))
    except OSError as error:
        raise BadInput(f"cannot serve on port {port}: {error.strerror}; give another one by --port") from error
