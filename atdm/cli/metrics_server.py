"""The metrics of a target in the text format of Prometheus, and a server for them.

Needs prometheus_client, which only the server part installs.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psycopg
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import ThreadingWSGIServer, generate_latest, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import counters, health
from atdm_resources.postgres.connection import connect

if TYPE_CHECKING:
    from atdm_resources.catalog.counters import Counts

CONNECT_SECONDS: Final = 3
STATEMENT_MILLISECONDS: Final = 8_000
"""Prometheus waits ten seconds for a scrape."""

_GAUGES: Final = (
    ("atdm_leased_runs", "Test runs that are leased.", "leased"),
    ("atdm_oldest_lease_seconds", "Age of the oldest lease; 0 without one.", "oldest_lease"),
    ("atdm_overdue_runs", "Leased runs that are past their time.", "overdue"),
    ("atdm_stuck_runs", "Overdue runs that could not be taken back.", "stuck"),
    ("atdm_pending_requests", "Requests that are being made.", "pending"),
    ("atdm_dead_requests", "Pending requests whose process is gone.", "dead"),
    ("atdm_queue_waiting", "Submissions that wait.", "waiting"),
    (
        "atdm_queue_oldest_seconds",
        "Age of the oldest submission that waits; 0 without one.",
        "oldest_waiting",
    ),
    ("atdm_up_seconds", "How long the target's server has been up.", "server_up"),
)
"""Name, help, and the field of ``health.Work``."""

_ALL: Final = 100_000
_CLOSE_SECONDS: Final = 2.0

TargetUrl: TypeAlias = Callable[[], str | None]
"""Returns the URL of the target, or None while its server does not run."""


class TargetCollector(Collector):
    """Metrics of one target, read for every scrape over one connection that stays open.

    While the target cannot be read, ``atdm_up`` is 0, nothing else is exposed, and ``problem`` says
    why; ``report`` is called with every new reason.
    """

    def __init__(self, url: TargetUrl, report: Callable[[str], None] | None = None) -> None:
        self.problem: AtdmError | None = None
        self._url = url
        self._report = report
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._may_count = True

    def describe(self) -> Iterable[Metric]:
        """Nothing, because registering the collector must not query the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        started = time.perf_counter()
        families: list[Metric] = []
        with self._lock:
            was = self.problem
            self.problem = None
            try:
                families = list(self._read())
            except AtdmError as error:
                self.problem = error
            except psycopg.errors.InsufficientPrivilege as error:
                self.problem = AtdmError(
                    ErrorCode.TARGET_UNREACHABLE,
                    f"this role may not read the catalog: {error.diag.message_primary}",
                    {"advice": "GRANT SELECT ON ALL TABLES IN SCHEMA atdm"},
                )
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
                self.problem = AtdmError(
                    ErrorCode.TARGET_NOT_INITIALISED,
                    f"the catalog is missing or of an older version: {error.diag.message_primary}; "
                    "run atdm init",
                )
            except psycopg.Error as error:
                self.problem = AtdmError(ErrorCode.TARGET_UNREACHABLE, str(error).strip())
            if self.problem is not None:
                self._drop_connection()
                if self._report and (was is None or was.message != self.problem.message):
                    self._report(self.problem.message)
        yield _gauge("atdm_up", "Whether the target can be read.", float(self.problem is None))
        yield from families
        yield _gauge(
            "atdm_scrape_seconds",
            "How long reading the target took.",
            time.perf_counter() - started,
        )

    def catch_up(self) -> None:
        """Count all events that are not counted yet, so that scrapes are quick."""
        with self._lock:
            try:
                counters.advance(self._open(), rounds=_ALL)
            except (AtdmError, psycopg.Error):
                return  # the scrape meets the same error and reports it

    def close(self) -> None:
        """Close the connection, unless a scrape still uses it."""
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            self._drop_connection()
            self._lock.release()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            url = self._url()
            if url is None:
                raise AtdmError(
                    ErrorCode.TARGET_UNREACHABLE, "PostgreSQL does not run: `atdm up` starts it"
                )
            self._connection = connect(
                url, connect_timeout=CONNECT_SECONDS, application_name="atdm metrics"
            )
        return self._connection

    def _read(self) -> Iterator[Metric]:
        conn = self._open()
        try:
            conn.execute("SELECT")
        except psycopg.OperationalError:
            # The server was restarted since the last scrape, which does not mean that it is down.
            self._drop_connection()
            conn = self._open()
        if self._may_count:
            try:
                counters.advance(conn, rounds=1, milliseconds=STATEMENT_MILLISECONDS)
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
                # A role that only reads, or a standby: read() itself sums up what is not counted.
                self._may_count = False
        counts = counters.read(conn, milliseconds=STATEMENT_MILLISECONDS)
        yield from counted(counts)
        with conn.transaction():
            health.limit_statements(conn, STATEMENT_MILLISECONDS)
            yield from gauges(conn, counts)


def counted(counts: Counts) -> Iterator[Metric]:
    """The counters and histograms. Each is exposed, as 0, before anything was counted."""
    for metric in counters.METRICS:
        if metric.buckets:
            yield _histogram(metric, counts)
            continue
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        values = counts.of(metric)
        if not metric.labels:
            values.setdefault((), 0)
        for labels, value in sorted(values.items()):
            family.add_metric(list(labels), value)
        yield family


def _histogram(metric: counters.Metric, counts: Counts) -> HistogramMetricFamily:
    found = counts.of(metric, "_bucket")
    buckets, total = [], 0.0
    for bound in (*metric.buckets, "+Inf"):
        total += found.get((bound,), 0)
        buckets.append((bound, total))
    family = HistogramMetricFamily(metric.name, metric.help)
    family.add_metric([], buckets, counts.of(metric, "_sum").get((), 0))
    return family


def gauges(conn: psycopg.Connection[Any], counts: Counts) -> Iterator[Metric]:
    """What is leased, waiting, ready and unsealed now."""
    work = health.work(conn)
    for name, text, attribute in _GAUGES:
        yield _gauge(name, text, float(getattr(work, attribute) or 0))
    yield _gauge(
        "atdm_audit_unsealed_events",
        "Audit events that are not in the hash chain yet.",
        float(max(0, counts.events - counts.seals)),
    )
    yield _gauge(
        "atdm_audit_uncounted_events",
        "Audit events that had to be summed up for this scrape alone.",
        float(counts.uncounted),
    )
    ready = GaugeMetricFamily(
        "atdm_pool_ready", "Runs of a pool that can be leased.", labels=["scenario"]
    )
    size = GaugeMetricFamily("atdm_pool_size", "Runs that a pool is to hold.", labels=["scenario"])
    failures = GaugeMetricFamily(
        "atdm_pool_failures", "Attempts in a row to fill a pool that failed.", labels=["scenario"]
    )
    for pool in health.pool_states(conn):
        scenario = [f"{pool.domain}/{pool.scenario_id}"]
        ready.add_metric(scenario, pool.ready)
        size.add_metric(scenario, pool.size)
        failures.add_metric(scenario, pool.failures)
    yield from (ready, size, failures)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def registry_of(collector: TargetCollector) -> CollectorRegistry:
    """A registry with nothing but the collector: no metrics of this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def text_of(collector: TargetCollector) -> str:
    """One scrape in the text format of Prometheus."""
    return generate_latest(registry_of(collector)).decode()


def samples(text: str) -> list[dict[str, Any]]:
    """The samples of an exposition by family, as JSON."""
    return [
        {
            "name": family.name,
            "type": family.type,
            "help": family.documentation,
            "samples": [
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for sample in family.samples
            ],
        }
        for family in text_string_to_metric_families(text)
    ]


def server(collector: TargetCollector, host: str, port: int) -> WSGIServer:
    """A server of ``/metrics`` and ``/healthz``, bound and not yet serving; port 0: any free one.

    Raises:
        AtdmError: REQUEST_INVALID, the address is taken or is not this machine's.
    """
    exposed = make_wsgi_app(registry_of(collector))

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return list(exposed(environ, start_response))
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        if path == "/healthz":
            # Of this process only: a target that is down shows as atdm_up 0, and a restart of this
            # process would not help.
            start_response("200 OK", plain)
            return [b"ok\n"]
        start_response("404 Not Found", plain)
        return [b"not found: /metrics, /healthz\n"]

    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        return make_server(host, port, answer, Server, handler_class=_Silent)
    except OSError as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another --host or --port",
            {"host": host, "port": port},
        ) from error


class _Silent(WSGIRequestHandler):
    """Logs no requests: a line for each scrape would fill the log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass
