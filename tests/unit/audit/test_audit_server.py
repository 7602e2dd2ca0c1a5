"""The server of audit pages: what it answers, and to whom."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator

import pytest

from atdm.web.server import AuditServer
from atdm_engine.errors import AtdmError, ErrorCode


def page(name: str) -> str:
    if name == "nobody":
        raise AtdmError(ErrorCode.RUN_NOT_FOUND, "there is no 'nobody'")
    if name == "down":
        raise AtdmError(ErrorCode.TARGET_UNREACHABLE, "no server")
    if name == "defect":
        raise ZeroDivisionError
    return f"<!DOCTYPE html><p>{name} \u2026"


@pytest.fixture(scope="module")
def server() -> Iterator[AuditServer]:
    with AuditServer(page) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(
    server: AuditServer, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.msg
    connection.close()
    return found


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/nightly-1", 200, "<!DOCTYPE html><p>nightly-1 \u2026"),
        ("/nightly-1?x=1", 200, "<!DOCTYPE html><p>nightly-1 \u2026"),
        ("/nobody", 404, "RUN_NOT_FOUND: there is no 'nobody'\n"),
        ("/down", 503, "TARGET_UNREACHABLE: no server\n"),
        ("/defect", 500, "the page could not be made: the server's log says why\n"),
        ("/", 404, "GET /NAME: NAME is a run id, a request id or a label\n"),
        ("/..%2f..%2fetc%2fpasswd", 404, "GET /NAME: NAME is a run id, a request id or a label\n"),
        ("/%3Cscript%3E", 404, "GET /NAME: NAME is a run id, a request id or a label\n"),
        ("/" + "a" * 65, 404, "GET /NAME: NAME is a run id, a request id or a label\n"),
    ],
)
def test_answers(server: AuditServer, path: str, status: int, said: str) -> None:
    found, text, headers = ask(server, path)
    assert (found, text) == (status, said)
    kind = "text/html" if status == 200 else "text/plain"
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("attacker.example", 403),
        ("attacker.example:80", 403),
        ("127.0.0.1.attacker.example", 403),
    ],
)
def test_other_sites_names_for_this_machine_are_refused(
    server: AuditServer, host: str, status: int
) -> None:
    assert ask(server, "/x", host=host)[0] == status


def test_a_head_has_no_body_and_nothing_can_be_sent(server: AuditServer) -> None:
    status, text, headers = ask(server, "/nightly-1", method="HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 0
    assert ask(server, "/nightly-1", method="POST")[0] == 501


def test_a_taken_port_is_refused_with_what_to_do(server: AuditServer) -> None:
    with pytest.raises(AtdmError, match="cannot listen on") as refused:
        AuditServer(page, port=server.server_address[1])
    assert refused.value.details["hint"] == "Take another --port."
