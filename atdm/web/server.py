"""Audit pages over HTTP, made on request; links in Dagster lead here (ADR 0071).

The server only reads, stores nothing and has no login. It listens on this machine only, by
default; on another address it belongs behind the proxy of Dagster's webserver.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from atdm_engine.errors import AtdmError, ErrorCode

LOCAL = "127.0.0.1"
_NAME = re.compile(r"/([A-Za-z0-9_-]{1,64})\Z")
_AT_ONCE = 4
"""Pages made at the same time; each uses a connection to the target."""

_STATUS = {
    ErrorCode.RUN_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.TARGET_UNREACHABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.TARGET_NOT_INITIALISED: HTTPStatus.SERVICE_UNAVAILABLE,
}


class AuditServer(ThreadingHTTPServer):
    """Serves the page that ``page`` makes for a name.

    On this machine only (the default) it answers only to this machine's names, so that scripts of
    other sites cannot reach it under another name (DNS rebinding).
    """

    daemon_threads = True

    def __init__(self, page: Callable[[str], str], *, host: str = LOCAL, port: int = 0) -> None:
        self.page = page
        self.local = host == LOCAL
        self.turns = threading.BoundedSemaphore(_AT_ONCE)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise AtdmError(
                ErrorCode.REQUEST_INVALID,
                f"cannot listen on {host}:{port}: {error}",
                {"host": host, "port": port, "hint": "Take another --port."},
            ) from error

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: AuditServer
    server_version = "atdm"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        status, kind, text = self._page()
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _page(self) -> tuple[HTTPStatus, str, str]:
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if self.server.local and host not in (LOCAL, "localhost"):
            return HTTPStatus.FORBIDDEN, "text/plain", "this machine's own names only\n"
        name = _NAME.match(unquote(urlsplit(self.path).path))
        if name is None:
            said = "GET /NAME: NAME is a run id, a request id or a label\n"
            return HTTPStatus.NOT_FOUND, "text/plain", said
        try:
            with self.server.turns:
                return HTTPStatus.OK, "text/html", self.server.page(name[1])
        except AtdmError as error:
            status = _STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
            return status, "text/plain", f"{error.code}: {error.message}\n"
        except Exception:
            # The operator reads the reason in the log; the caller gets a server error.
            self.server.handle_error(self.request, self.client_address)
            said = "the page could not be made: the server's log says why\n"
            return HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", said

    def log_message(self, format: str, *args: object) -> None:
        """Log no requests: they are no events of the trail."""
