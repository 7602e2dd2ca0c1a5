"""One line an operation, JSON or for people, without secrets, and nothing unless asked for."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.telemetry import logs

TOKEN = "atdm_" + "x" * 43


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """A process that does not log, before and afterwards."""
    target = logging.getLogger(logs.NAME)
    before = (target.handlers, target.propagate, target.level)
    target.handlers = []
    yield
    target.handlers, target.propagate = before[0], before[1]
    target.setLevel(before[2])


@contextmanager
def captured(stream: io.StringIO | None = None) -> Iterator[io.StringIO]:
    """stderr, which is no terminal unless one is given."""
    with contextlib.redirect_stderr(stream or io.StringIO()) as found:
        yield found


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_nothing_is_logged_before_configure() -> None:
    with captured() as stderr:
        logs.record("request", status="ok")
    assert stderr.getvalue() == ""
    assert not logs.configured()


def test_a_line_has_the_fields_in_their_order() -> None:
    logs.configure(service=True, environ={})
    with captured() as stderr:
        logs.record(
            "request", zone="z", method="queue", invoker="agent:x", seconds=0.25, request_id="R",
            test_run_id="T", status="ready", scenario=None,
        )  # fmt: skip
    (line,) = lines(stderr)
    assert list(line) == [
        "ts", "level", "event", "status", "request_id", "test_run_id", "method", "invoker",
        "latency_ms", "zone",
    ]  # fmt: skip
    assert (line["event"], line["status"], line["level"]) == ("request", "ready", "info")
    assert line["ts"].endswith("Z")
    assert line["latency_ms"] == 250


@pytest.mark.parametrize(
    ("service", "terminal", "environ", "written"),
    [
        (True, False, {}, "json"),
        (False, False, {}, "json"),
        (True, True, {}, "console"),
        (False, True, {}, None),
        (False, True, {"ATDM_LOG_LEVEL": "INFO"}, "console"),
        (True, False, {"ATDM_LOG_LEVEL": "error"}, None),
        (True, True, {"ATDM_LOG_FORMAT": "json"}, "json"),
        (True, False, {"ATDM_LOG_FORMAT": "console"}, "console"),
    ],
)
def test_where_and_how(
    service: bool, terminal: bool, environ: dict[str, str], written: str | None
) -> None:
    with captured(Terminal() if terminal else None) as stderr:
        logs.configure(service=service, environ=environ)
        logs.record("seal", status="ok", seconds=0.5)
    text = stderr.getvalue()
    if written is None:
        assert text == ""
    elif written == "json":
        assert json.loads(text)["latency_ms"] == 500
    else:
        assert "seal" in text
        assert not text.startswith("{")


@pytest.mark.parametrize("name", ["ATDM_LOG_LEVEL", "ATDM_LOG_FORMAT"])
def test_another_value_is_refused_by_name(name: str) -> None:
    with pytest.raises(AtdmError, match=f"{name} is 'loud'; allowed: ") as refused:
        logs.configure(service=True, environ={name: "loud"})
    assert refused.value.code is ErrorCode.REQUEST_INVALID


def test_secrets_are_masked_in_every_field_and_in_tracebacks() -> None:
    url = "postgresql://u:hunter22@h/d"
    logs.configure(service=True, environ={"ATDM_OWNER_SECRET": "open-sesame"})
    with captured() as stderr:
        try:
            raise RuntimeError(f"{TOKEN} {url} open-sesame")
        except RuntimeError as error:
            logging.getLogger("atdm").exception(
                f"failed {TOKEN}",
                extra={"error": error, "nested": {"a": [TOKEN, {"password": "hunter22"}]}},
            )
        logging.getLogger("atdm").error("plain %s %s", TOKEN, url)
    text = stderr.getvalue()
    assert len(lines(stderr)) == 2
    assert "RuntimeError" in text
    assert [secret for secret in (TOKEN, "hunter22", "open-sesame") if secret in text] == []


@settings(max_examples=50)
@given(
    fields=st.dictionaries(
        st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda name: name != "event"),
        st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.floats(), st.dates()),
        max_size=5,
    ),
    before=st.text(max_size=10),
    after=st.text(max_size=10),
)
def test_any_line_is_one_line_of_json_without_the_token(
    fields: dict[str, Any], before: str, after: str
) -> None:
    logs.configure(service=True, environ={})
    with captured() as stderr:
        logs.record("event", planted=f"{before}{TOKEN}{after}", **fields)
    (line,) = lines(stderr)
    assert TOKEN not in stderr.getvalue()
    assert line["event"] == "event"


def test_the_client_loads_no_structlog_and_no_opentelemetry() -> None:
    script = (
        "import sys, atdm.client, atdm.cli.app, atdm.pytest, atdm_resources.telemetry.logs,"
        " atdm_resources.telemetry.tracing as t\n"
        "with t.span('a', t.begin('b', None)): pass\n"
        "from atdm_resources.telemetry import logs\n"
        "logs.record('x', status='ok', seconds=1)\n"
        "print(sorted({'structlog', 'opentelemetry', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
