"""Traces of a request, as a receiver of OTLP over HTTP gets them."""

from __future__ import annotations

import gzip
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from atdm_resources.catalog import queue as queueing
from atdm_resources.postgres.connection import connect
from atdm_resources.telemetry import tracing
from atdm_services.requests.request import mint_request_id
from tests.support.dagster_world import World

pytest_plugins = ["tests.support.dagster_fixtures"]

SCENARIO = "claim_denial_active_member"


@dataclass
class Receiver:
    """Spans that were received, by name, and their resource's attributes."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Any:
        (span,) = self.named(name)
        return span


def attributes(span: Any) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes
    }


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver on this machine, and an environment that names it."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.paths.add(self.path)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found.resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    found.spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield from _with_new_provider(found)
    server.shutdown()
    server.server_close()


def _with_new_provider(found: Receiver) -> Iterator[Receiver]:
    tracing._provider.cache_clear()
    yield found
    tracing._provider().shutdown()
    tracing._provider.cache_clear()


def test_a_request_is_one_trace(world: World, receiver: Receiver) -> None:
    outcome = world.ask(SCENARIO, runs=3, invoker="agent:tracer")
    assert outcome.error is None
    assert receiver.paths == {"/v1/traces"}
    assert receiver.resources[0]["service.name"] == "atdm"

    root = receiver.one("atdm.request")
    assert not root.parent_span_id
    assert {span.trace_id for span in receiver.spans} == {uuid.UUID(outcome.dagster_run_id).bytes}
    said = attributes(root)
    assert said["atdm.request_id"] == outcome.request_id
    assert said["dagster.run_id"] == outcome.dagster_run_id
    assert said["atdm.scenario"] == f"healthcare/{SCENARIO}"
    assert (said["atdm.status"], said["atdm.runs"]) == ("ready", 3)
    assert (said["atdm.invoker"], said["atdm.rows"]) == ("agent:tracer", 15)

    steps = ["atdm.plan", "atdm.generate_and_check", "atdm.load"]
    for name in steps:
        assert receiver.one(name).parent_span_id == root.span_id
    made = receiver.one("atdm.generate_and_check")
    for name in ("atdm.generate", "atdm.check", "atdm.stage"):
        span = receiver.one(name)
        assert span.parent_span_id == made.span_id
        assert made.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    load = receiver.one("atdm.load")
    tables = {attributes(span)["atdm.table"]: span for span in receiver.named("atdm.load_table")}
    scenario = world.registry.scenario(SCENARIO)
    assert set(tables) == {*scenario.tables, "test_run"}
    assert {span.parent_span_id for span in tables.values()} == {load.span_id}
    order = ["atdm.plan", "atdm.generate", "atdm.check", "atdm.load"]
    starts = [receiver.one(name).start_time_unix_nano for name in order]
    assert starts == sorted(starts)


def test_a_rejected_request_and_its_wait_in_the_queue(world: World, receiver: Receiver) -> None:
    key = mint_request_id()
    with connect(world.target_url) as conn:
        queueing.submit(conn, {"idempotency_key": "k", "scenario": "contradictory_eligibility"})
        (group,) = queueing.groups(conn, 5)
        queueing.assign(conn, group, key)
    assert world.run("contradictory_eligibility", key).success
    root = receiver.one("atdm.request")
    wait = receiver.one("atdm.queue_wait")
    assert attributes(root)["atdm.status"] == "rejected"
    assert wait.parent_span_id == root.span_id
    assert wait.start_time_unix_nano == root.start_time_unix_nano
    assert receiver.one("atdm.plan").start_time_unix_nano >= wait.end_time_unix_nano
    assert receiver.named("atdm.load") == []


def test_a_failed_step_says_why_without_secrets(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no route to postgresql://u:hunter22@h/d")

    monkeypatch.setattr("atdm_services.requests.load.seed", broken)
    outcome = world.ask(SCENARIO)
    assert outcome.error is not None
    for name in ("atdm.load", "atdm.request"):
        span = receiver.one(name)
        assert span.status.code == 2
        assert attributes(span)["error.type"] == "RuntimeError"
        assert "hunter22" not in span.status.message
        assert "postgresql://u:***@h" in span.status.message


def test_only_the_first_batches_have_spans(receiver: Receiver) -> None:
    root = tracing.begin("root", None)
    batches = tracing.Batches()
    with tracing.span("all", root):
        for _ in batches.around("make", range(tracing.MOST_BATCHES + 20)):
            with batches.of("look"):
                pass
    root.end()
    assert len(receiver.named("make")) == len(receiver.named("look")) == tracing.MOST_BATCHES


@pytest.mark.parametrize(
    "environment",
    [{}, {"ATDM_OTEL": "0"}, {"ATDM_OTEL": "1", "OTEL_SDK_DISABLED": "true"}],
)
def test_off_there_is_nothing(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in ("ATDM_OTEL", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    root = tracing.begin("root", "run")
    assert root is tracing.NONE
    with tracing.span("step", root, rows=1) as span:
        assert span is tracing.NONE
        span.set(rows=2)
    assert list(tracing.Batches().around("make", [1, 2])) == [1, 2]


def test_without_the_extra_it_is_said_and_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sys

    monkeypatch.setenv("ATDM_OTEL", "1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    tracing._provider.cache_clear()
    try:
        with caplog.at_level("WARNING", logger="atdm"):
            assert tracing.begin("root", None) is tracing.NONE
            assert tracing.begin("root", None) is tracing.NONE
    finally:
        tracing._provider.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "traces are asked for, but opentelemetry.sdk.trace is not installed: "
        "pip install 'atdm[otel]'"
    ]
