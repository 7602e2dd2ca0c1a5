"""An object store on loopback, and a way to it that fails on demand."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

BUCKET = "atdm-tests"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of, or around, being answered.

    ``status``: this answer, and the request goes nowhere. ``cut_request``: the connection is reset
    before the request reaches the store. ``cut_body``: the store's answer is passed on up to so
    many bytes of its body, then the connection is reset. ``lose_answer``: the store does what it is
    asked, its answer is lost. ``seconds``: the body comes a kilobyte at a time with so long
    between two.
    """

    status: int | None = None
    cut_request: bool = False
    cut_body: int | None = None
    lose_answer: bool = False
    seconds: float = 0.0


@dataclass
class Faults:
    """Which of the next requests fail, and what was asked of the proxy."""

    url: str
    asked: list[str] = field(default_factory=list)
    _next: list[tuple[Callable[[str, str], bool], Fault, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(
        self, fault: Fault, *, method: str = "", path: str = "", times: int = 1_000_000
    ) -> None:
        """The next ``times`` requests of this method whose path contains ``path`` fail."""

        def fits(asked_method: str, asked_path: str) -> bool:
            return method in ("", asked_method) and path in asked_path

        with self._lock:
            self._next.append((fits, fault, times))

    def let_pass(self, times: int, *, method: str = "", path: str = "") -> None:
        """The next ``times`` requests of this kind are answered; what is injected later follows."""
        self.inject(Fault(), method=method, path=path, times=times)

    def clear(self) -> None:
        with self._lock:
            self._next.clear()
            self.asked.clear()

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.asked.append(f"{method} {path}")
            for place, (fits, fault, times) in enumerate(self._next):
                if times > 0 and fits(method, path):
                    self._next[place] = (fits, fault, times - 1)
                    return fault
        return None


@contextmanager
def proxy(upstream: str) -> Iterator[Faults]:
    """A proxy in front of ``upstream`` (host:port) that fails as ``Faults`` says."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.daemon_threads = True
    faults = Faults(f"http://127.0.0.1:{server.server_address[1]}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are two small packets: the second would wait 40 ms for an acknowledgement.
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests say what was asked."""

        def _pass_on(self) -> None:
            body = self._body()
            fault = faults.fault_for(self.command, self.path)
            if fault is not None and fault.status is not None:
                self._answer(fault.status, {"Content-Type": "application/xml"}, _error(fault))
                return
            if fault is not None and fault.cut_request:
                self._reset()
                return
            connection = http.client.HTTPConnection(upstream, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            length = answer.getheader("Content-Length")
            connection.close()
            if fault is not None and fault.lose_answer:
                self._reset()
                return
            self._answer(answer.status, dict(answer.getheaders()), content, fault, length)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(
            self,
            status: int,
            headers: dict[str, str],
            content: bytes,
            fault: Fault | None = None,
            length: str | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault is not None and fault.cut_body is not None:
                self.wfile.write(content[: fault.cut_body])
                self.wfile.flush()
                self._reset()
                return
            step = 1024 if fault is not None and fault.seconds else max(1, len(content))
            for begin in range(0, len(content), step):
                self.wfile.write(content[begin : begin + step])
                self.wfile.flush()
                if fault is not None:
                    time.sleep(fault.seconds)

        def _reset(self) -> None:
            """End the connection as a crash does, without the end that the protocol asks for."""
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                self.close_connection = True

    server.RequestHandlerClass = Handler
    server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
    # The argument is how often it looks whether it is to stop, in seconds.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()


def _error(fault: Fault) -> bytes:
    code = {403: "AccessDenied", 404: "NoSuchKey", 503: "SlowDown"}.get(
        fault.status or 0, "InternalError"
    )
    text = f"<Error><Code>{code}</Code><Message>Injected.</Message></Error>"
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address (host:port) of an object store with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        _, port = server.get_host_and_port()
        address = f"127.0.0.1:{port}"
        client = boto3.client("s3", endpoint_url=f"http://{address}")
        client.create_bucket(Bucket=BUCKET)
        try:
            yield address
        finally:
            server.stop()


@pytest.fixture
def faults(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """A way to the object store that a test can break.

    botocore tries as often as it would; it does not wait for seconds between two tries.
    """
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda *_: 0.01)
    with proxy(s3_server) as found:
        yield found
