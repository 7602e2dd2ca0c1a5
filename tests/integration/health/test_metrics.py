"""Counters over the trail: every event once, whoever counts and however slow its transaction."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from atdm.cli.metrics_server import TargetCollector, samples, server, text_of
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import counters, requests, seal
from atdm_resources.catalog import leases as leasing
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.retention import Retention, delete_old
from tests.support.made_requests import recorded, seeded
from tests.support.source import ROOT
from tests.support.waiting import until

NAMES = {
    "atdm_up", "atdm_audit_events_total", "atdm_audit_write_latency_seconds_bucket",
    "atdm_audit_dropped_events_total", "atdm_request_latency_seconds_bucket",
    "atdm_reset_latency_seconds_bucket", "atdm_catalog_writes_total", "atdm_up_seconds",
}  # fmt: skip
LABELLED = {
    "atdm_requests_total": {"scenario", "status"}, "atdm_resets_total": {"strategy", "status"},
    "atdm_seed_records_total": {"table"}, "atdm_validator_rejections_total": {"validator"},
    "atdm_planner_invocations_total": {"mode"}, "atdm_fixtures_emitted_total": {"kind"},
    "atdm_audit_events_total": {"action", "status"},
}  # fmt: skip
"""Requirements A-MET-01 and A-MET-02."""

Values = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def conn(target: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def busy(conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry) -> Values:
    """A target where everything that is counted has happened; what is counted of it."""
    made = seeded(conn, tmp_path, registry, runs=3)
    _, lost = recorded(conn, registry)
    requests.rollback_request(conn, lost.request_id, message="gone", step="test")
    _, bad = recorded(conn, registry, "claim_denial_active_member")
    requests.mark_rejected(
        conn,
        bad.request_id,
        failed=[{"validator": "domain.a", "message": "", "details": {}}, {"validator": "domain.b"}],
    )
    leases = leasing.lease_request(conn, made.request_id, count=2)
    first, second = leases
    leasing.record_fixtures(
        conn, first["test_run_id"], first["token"], {"playwright": "a.json", "pytest": None}
    )
    with pytest.raises(AtdmError):
        leasing.reset_run(conn, first["test_run_id"], "wrong")
    leasing.reset_run(conn, first["test_run_id"], first["token"])
    leasing.reset_owner(conn, second["owner"])
    return values(conn)


def values(conn: psycopg.Connection[Any]) -> Values:
    """The counters without times and without events that the template has."""
    return {
        (name, labels): value
        for (name, labels), value in counters.read(conn).values.items()
        if "latency" not in name
    }


def write(conn: psycopg.Connection[Any], action: str, count: int = 1) -> None:
    conn.execute(
        "INSERT INTO atdm.audit_event (action, invoker, source)"
        " SELECT %s, 'agent:test', 'test' FROM generate_series(1, %s)",
        (action, count),
    )


def counted(conn: psycopg.Connection[Any], action: str) -> float:
    return counters.read(conn).values.get(("atdm_audit_events", (action, "ok")), 0)


def test_what_each_counter_counts(busy: Values) -> None:
    scenario = "healthcare/active_member_clean"
    assert busy[("atdm_requests", ("healthcare/claim_denial_active_member", "rejected"))] == 1
    assert busy[("atdm_requests", (scenario, "ready"))] == 1
    assert busy[("atdm_requests", (scenario, "rolled_back"))] == 1
    assert busy[("atdm_leases", (scenario,))] == 2
    assert busy[("atdm_resets", ("reset_run", "forbidden"))] == 1
    assert busy[("atdm_resets", ("reset_run", "cleaned"))] == 1
    assert busy[("atdm_resets", ("reset_owner", "cleaned"))] == 1
    assert busy[("atdm_seed_records", ("healthcare.member",))] == 3
    assert busy[("atdm_validator_rejections", ("domain.a",))] == 1
    assert busy[("atdm_validator_rejections", ("domain.b",))] == 1
    assert busy[("atdm_planner_invocations", ("rule",))] == 3
    assert busy[("atdm_fixtures_emitted", ("playwright",))] == 1
    assert ("atdm_fixtures_emitted", ("pytest",)) not in busy
    assert busy[("atdm_catalog_writes", ())] == 1
    assert ("atdm_audit_dropped_events", ()) not in busy


def test_summing_up_and_adding_agree(conn: psycopg.Connection[Any], busy: Values) -> None:
    uncounted = counters.read(conn)
    assert uncounted.uncounted == uncounted.events > 10
    assert counters.advance(conn)
    kept = counters.read(conn)
    assert kept.uncounted == 0
    assert kept.values == pytest.approx(uncounted.values)
    assert counters.advance(conn)
    assert counters.read(conn).values == kept.values


def test_latencies(conn: psycopg.Connection[Any], busy: Values) -> None:
    counts = counters.read(conn)
    histograms = {metric.name: metric for metric in counters.METRICS if metric.buckets}
    sizes = {
        name: sum(counts.of(metric, "_bucket").values()) for name, metric in histograms.items()
    }
    assert sizes == {
        "atdm_audit_write_latency_seconds": counts.events,
        "atdm_request_latency_seconds": 3,
        "atdm_reset_latency_seconds": 2,
    }
    for metric in histograms.values():
        assert 0 < counts.of(metric, "_sum")[()] < 60


def test_a_bucket_includes_its_bound(conn: psycopg.Connection[Any]) -> None:
    counters.advance(conn)
    cases = {0: "0.005", 4.999: "0.005", 5: "0.005", 5.001: "0.01", 5000: "5", 5001: "+Inf"}
    for milliseconds, bound in cases.items():
        before = counters.read(conn).of(counters.METRICS[1], "_bucket")
        conn.execute(
            "INSERT INTO atdm.audit_event (action, invoker, source, began, at) VALUES"
            " ('x', 'agent:t', 't', '2026-01-01Z', '2026-01-01Z'::timestamptz + %s::interval)",
            (f"{milliseconds} ms",),
        )
        after = counters.read(conn).of(counters.METRICS[1], "_bucket")
        grown = {key[0] for key in after if after[key] != before.get(key, 0)}
        assert grown == {bound}, milliseconds


def test_an_event_of_a_slow_transaction_is_counted_once_it_is_there(
    conn: psycopg.Connection[Any], target: str
) -> None:
    with connect(target, autocommit=False) as slow:
        write(slow, "slow")
        write(conn, "quick")
        assert counters.advance(conn)
        assert (counted(conn, "slow"), counted(conn, "quick")) == (0, 1)
        write(conn, "quick")
        assert counters.advance(conn)
        slow.commit()
    assert (counted(conn, "slow"), counted(conn, "quick")) == (1, 2)
    assert counters.advance(conn)
    assert (counted(conn, "slow"), counted(conn, "quick")) == (1, 2)


def test_many_events_are_counted_in_parts(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "EVENTS_AT_ONCE", 10)
    for _ in range(45):
        write(conn, "single")
    write(conn, "together", 35)
    before = counters.read(conn).values

    def part() -> bool:
        # Each call counts a part, unless another test's transaction is older than all of it.
        counters.advance(conn, rounds=1)
        assert counters.read(conn).values == pytest.approx(before)
        return counters.read(conn).uncounted == 0

    until(part)
    assert (counted(conn, "single"), counted(conn, "together")) == (45, 35)


def test_who_counts_at_once_counts_nothing_twice(
    conn: psycopg.Connection[Any], target: str
) -> None:
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        with connect(target) as own:
            barrier.wait()
            for _ in range(15):
                write(own, f"by-{number}")
                counters.advance(own)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    until(lambda: counters.advance(conn))
    assert [counted(conn, f"by-{number}") for number in range(4)] == [15] * 4


def test_retention_takes_nothing_away(
    conn: psycopg.Connection[Any], busy: Values, tmp_path: Path
) -> None:
    zero = Retention.from_environment(
        {"ATDM_RETENTION": "ready=0s,retired=0s,failed=0s,runs=0s,submissions=0s,exports=0s"}
    )
    conn.execute("UPDATE atdm.request SET status = 'retired' WHERE status = 'ready'")
    deleted = delete_old(conn, Store(tmp_path.as_uri()), zero, datetime.now(UTC))
    assert deleted["runs"] == 2
    assert values(conn) == busy


def test_a_newer_definition_counts_everything_anew(
    conn: psycopg.Connection[Any], busy: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters.advance(conn)
    conn.execute("UPDATE atdm.metric_count SET value = value + 1000")
    monkeypatch.setattr(counters, "DEFINITION", counters.DEFINITION + 1)
    assert values(conn) == busy
    counters.advance(conn)
    assert values(conn) == busy
    monkeypatch.setattr(counters, "DEFINITION", counters.DEFINITION - 1)
    counters.advance(conn)
    assert values(conn) == busy


def test_an_event_that_was_removed_shows_as_dropped(conn: psycopg.Connection[Any]) -> None:
    write(conn, "stays", 3)
    write(conn, "goes", 2)

    def all_sealed() -> bool:
        seal.seal(conn)
        return seal.unsealed(conn) == 0

    until(all_sealed)
    # What only the owner of the table can do.
    conn.execute("ALTER TABLE atdm.audit_event DISABLE TRIGGER audit_event_append_only")
    conn.execute("DELETE " + "FROM atdm.audit_event WHERE action = 'goes'")
    assert counters.read(conn).values[("atdm_audit_dropped_events", ())] == 2
    counters.advance(conn)
    counters.advance(conn)
    assert counters.read(conn).values[("atdm_audit_dropped_events", ())] == 2


def test_what_a_client_writes_makes_no_labels(conn: psycopg.Connection[Any]) -> None:
    for fixtures in ('{"x\\"y": "p", "\\n": 1}', "[1, [2]]", "7", "null", '"text"', "{}"):
        conn.execute(
            "INSERT INTO atdm.audit_event (action, invoker, source, outputs) VALUES"
            " ('fixtures_emitted', 'agent:t', 't', jsonb_build_object('fixtures', %s::jsonb))",
            (fixtures,),
        )
    found = counters.read(conn).of(next(m for m in counters.METRICS if "fixtures" in m.name))
    assert found == {("other",): 2}


def test_the_exposition_is_read_back(target: str, busy: Values) -> None:
    collector = TargetCollector(lambda: target)
    text = text_of(collector)
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert collector.problem is None
    names = {name for name, _ in found}
    assert names >= NAMES | set(LABELLED)
    for name, labels in LABELLED.items():
        assert all({k for k, _ in keys} == labels for n, keys in found if n == name)
    assert found[("atdm_up", ())] == 1
    assert found[("atdm_leased_runs", ())] == 0
    assert found[("atdm_audit_dropped_events_total", ())] == 0
    assert found[("atdm_pool_size", (("scenario", "healthcare/active_member_clean"),))] == 50
    bounds = [
        dict(keys)["le"]
        for name, keys in found
        if name == "atdm_audit_write_latency_seconds_bucket"
    ]
    assert sorted(map(float, bounds))[:-1] == [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
    heights = [
        value for (name, _), value in found.items() if name == "atdm_request_latency_seconds_bucket"
    ]
    assert heights == sorted(heights)
    assert json.loads(json.dumps(samples(text)))[0]["name"] == "atdm_up"
    collector.close()


def test_a_role_that_only_reads(conn: psycopg.Connection[Any], target: str, busy: Values) -> None:
    role = f"reader_{target.rpartition('_')[2][:12]}"
    conn.execute(f"CREATE ROLE {role}".encode())
    try:
        conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA atdm TO {role}".encode())
        limited = f"{target}{'&' if '?' in target else '?'}options=-crole%3D{role}"
        collector = TargetCollector(lambda: limited)
        text = text_of(collector)
        assert collector.problem is None
        assert "atdm_up 1.0" in text
        assert f"atdm_audit_uncounted_events {counters.read(conn).events}.0" in text
        conn.execute(f"REVOKE SELECT ON ALL TABLES IN SCHEMA atdm FROM {role}".encode())
        assert "atdm_up 0.0" in text_of(collector)
        assert collector.problem is not None
        assert "may not read" in collector.problem.message
        collector.close()
    finally:
        conn.execute(f"DROP OWNED BY {role}".encode())
        conn.execute(f"DROP ROLE {role}".encode())


def test_a_target_without_catalog(empty_database: str) -> None:
    told: list[str] = []
    collector = TargetCollector(lambda: empty_database, told.append)
    for _ in range(2):
        assert re.search(r"^atdm_up 0\.0$", text_of(collector), re.MULTILINE)
    assert collector.problem is not None
    assert collector.problem.code is ErrorCode.TARGET_NOT_INITIALISED
    # Said once, not with every scrape.
    assert len(told) == 1
    collector.close()


def fetched(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_answers_while_the_target_goes_and_comes(target: str, busy: Values) -> None:
    where: list[str | None] = [target]
    collector = TargetCollector(lambda: where[0])
    served = server(collector, "127.0.0.1", 0)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{served.server_port}"
    try:
        assert "atdm_up 1.0" in fetched(f"{url}/metrics")[1]
        # The server ends the connection, as one that is restarted does: the next scrape opens one.
        with connect(target) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'atdm metrics' AND datname = current_database()"
            )
        assert "atdm_up 1.0" in fetched(f"{url}/metrics")[1]
        collector.close()
        for gone in (None, "postgresql://x@127.0.0.1:1/none"):
            where[0] = gone
            status, text = fetched(f"{url}/metrics")
            assert (status, "atdm_up 0.0" in text) == (200, True)
            assert list(text_string_to_metric_families(text))
        assert fetched(f"{url}/healthz") == (200, "ok\n")
        assert fetched(f"{url}/")[0] == 404
        where[0] = target
        assert "atdm_up 1.0" in fetched(f"{url}/metrics")[1]
        with pytest.raises(AtdmError, match="choose another"):
            server(collector, "127.0.0.1", served.server_port)
    finally:
        served.shutdown()
        served.server_close()
        collector.close()


def test_the_dashboard_fits_the_metrics(target: str, busy: Values) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/atdm.json").read_text(encoding="utf-8"))
    collector = TargetCollector(lambda: target)
    exposed = {
        sample.name
        for family in text_string_to_metric_families(text_of(collector))
        for sample in family.samples
    }
    collector.close()
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) > 10
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    used: set[str] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for query in panel["targets"]:
            named = set(re.findall(r"\batdm_[a-z_]+", query["expr"]))
            assert named, query
            assert named <= exposed, panel["title"]
            used |= named
    assert used >= NAMES - {"atdm_up_seconds"}
    assert used >= set(LABELLED)
