"""Requests and runs page by page, and the trail in numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random import run_ids
from atdm_resources.catalog import audit_summary, leases, pages
from atdm_resources.catalog import requests as catalog
from atdm_resources.catalog.pages import Filters, Kind
from atdm_resources.postgres.connection import connect
from tests.support.made_requests import Made, recorded, seeded

Target = psycopg.Connection[Any]
ID = {"requests": "request_id", "runs": "test_run_id"}


@pytest.fixture
def conn(target: str) -> Iterator[Target]:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def made(conn: Target, tmp_path: Path, registry: Registry) -> list[Made]:
    """Three requests, oldest first: 5 runs, 1 run, 3 runs of another scenario."""
    return [
        seeded(conn, tmp_path, registry, runs=5, constraints={"claim_status": "pending"}),
        seeded(conn, tmp_path, registry, label="middle"),
        seeded(conn, tmp_path, registry, "member_with_dependents", runs=3),
    ]


def everything(conn: Target, kind: Kind, filters: Filters, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = pages.read(conn, kind, filters, limit=limit, cursor=cursor)
        assert len(page.rows) <= limit
        found += [row[ID[kind]] for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.rows) == limit


def newest_first(made: list[Made]) -> list[str]:
    return sorted((it.run(n) for it in made for n in range(1, it.spec.runs + 1)), reverse=True)


def test_pages_together_are_everything_once(conn: Target, made: list[Made]) -> None:
    requests = [it.request_id for it in reversed(made)]
    for filters in (Filters(), Filters(status="ready")):
        for limit in (1, 2, 3, 9, 10):
            assert everything(conn, "runs", filters, limit) == newest_first(made)
            assert everything(conn, "requests", filters, limit) == requests


@pytest.mark.parametrize("status", [None, "ready"])
def test_what_is_added_meanwhile_moves_no_page(
    conn: Target, made: list[Made], registry: Registry, tmp_path: Path, status: str | None
) -> None:
    filters = Filters(status=status)
    first = pages.read(conn, "runs", filters, limit=4)
    seeded(conn, tmp_path, registry, runs=7)
    second = pages.read(conn, "runs", filters, limit=5, cursor=first.next_cursor)
    listed = [row["test_run_id"] for row in (*first.rows, *second.rows)]
    assert listed == newest_first(made)
    assert second.next_cursor is None


def test_every_filter(conn: Target, made: list[Made]) -> None:
    oldest, middle, latest = made
    lease = leases.lease_request(conn, oldest.request_id, owner="ci-1", count=1)[0]
    leases.lease_request(conn, latest.request_id, owner="ci-2", count=2)
    leases.reset_run(conn, lease["test_run_id"], lease["token"])
    split = run_ids.time_of(latest.request_id)
    expected: Mapping[str, tuple[Filters, int, int | None]] = {
        "scenario": (Filters(scenario_id="member_with_dependents"), 3, 1),
        "domain": (Filters(domain="healthcare", scenario_id="active_member_clean"), 6, 2),
        "leased": (Filters(status="leased"), 2, None),
        "cleaned": (Filters(status="cleaned"), 1, None),
        "owner": (Filters(owner="ci-2"), 2, None),
        "former owner": (Filters(owner="ci-1"), 1, None),
        "owner and status": (Filters(owner="ci-1", status="leased"), 0, None),
        "invoker": (Filters(invoker="human:tester"), 9, 3),
        "nobody": (Filters(invoker="human:nobody"), 0, 0),
        "constraint": (Filters(constraints={"claim_status": "pending"}), 5, 1),
        "default counts": (Filters(constraints={"claim_status": "paid"}), 4, 2),
        "without a value": (Filters(constraints={"denial_reason": ""}), 9, 3),
        "two": (Filters(constraints={"claim_status": "paid", "denial_reason": "x"}), 0, 0),
        "since": (Filters(since=split), 3, 1),
        "until": (Filters(until=split), 6, 2),
        "since, leased": (Filters(since=split, status="leased"), 2, None),
        "until, leased": (Filters(until=split, status="leased"), 0, None),
        "window": (Filters(since=split, until=split), 0, 0),
        "future": (Filters(since=datetime(9999, 1, 1, tzinfo=UTC)), 0, 0),
        "long ago": (Filters(since=datetime(1, 1, 1, tzinfo=UTC)), 9, 3),
    }
    found = {
        name: (
            filters,
            len(everything(conn, "runs", filters, 2)),
            None if requests is None else len(everything(conn, "requests", filters, 2)),
        )
        for name, (filters, _, requests) in expected.items()
    }
    assert found == expected
    (row,) = pages.read(conn, "requests", Filters(status="ready"), limit=9).rows[1:2]
    assert (row["label"], row["request_id"]) == ("middle", middle.request_id)


REFUSED: list[tuple[Kind, Filters, ErrorCode, str]] = [
    ("runs", Filters(status="lesed"), ErrorCode.REQUEST_INVALID, "did you mean leased"),
    ("requests", Filters(status="leased"), ErrorCode.REQUEST_INVALID, "no status"),
    (
        "runs",
        Filters(scenario_id="active_member_cleen"),
        ErrorCode.SCENARIO_NOT_FOUND,
        "did you mean active_member_clean",
    ),
    ("runs", Filters(domain="nowhere"), ErrorCode.SCENARIO_NOT_FOUND, "'nowhere'"),
    (
        "requests",
        Filters(constraints={"claim_statu": "x"}),
        ErrorCode.CONSTRAINT_INVALID,
        "did you mean claim_status",
    ),
]


def test_what_there_is_not_is_refused(conn: Target) -> None:
    for kind, filters, code, said in REFUSED:
        with pytest.raises(AtdmError, match=said) as refused:
            pages.read(conn, kind, filters, limit=1)
        assert refused.value.code is code


@pytest.mark.parametrize("cursor", ["", "x", "abc", "\u00e4", "a" * 64, "=" * 9, "A" * 5000])
def test_a_made_up_cursor_is_refused_before_anything_is_read(cursor: str) -> None:
    nothing: Any = None
    with pytest.raises(AtdmError, match="cursor"):
        pages.read(nothing, "runs", Filters(), limit=1, cursor=cursor)


def test_a_cursor_goes_on_with_its_own_listing_only(conn: Target, made: list[Made]) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    first = pages.read(conn, "runs", Filters(since=hour_ago), limit=1)
    later = Filters(since=hour_ago + timedelta(seconds=5))  # `--since 1h` a little later
    second = pages.read(conn, "runs", later, limit=100, cursor=first.next_cursor)
    assert len(second.rows) == 8
    for kind, filters in (("requests", Filters()), ("runs", Filters(owner="x"))):
        with pytest.raises(AtdmError, match="another listing"):
            pages.read(
                conn,
                kind,  # type: ignore[arg-type]
                filters,
                limit=1,
                cursor=first.next_cursor,
            )


def test_the_numbers_of_the_trail(
    conn: Target, made: list[Made], registry: Registry, tmp_path: Path
) -> None:
    oldest, _, latest = made
    for lease in leases.lease_request(conn, oldest.request_id, owner="ci", count=2):
        leases.reset_run(conn, lease["test_run_id"], lease["token"])
    held = leases.lease_request(conn, latest.request_id, owner="ci-2")
    with pytest.raises(AtdmError):
        leases.reset_run(conn, held[0]["test_run_id"], "wrong")
    leases.reset_owner(conn, "ci-2")
    _, record = recorded(conn, registry, label="refused")
    catalog.mark_rejected(
        conn, record.request_id, failed=[{"validator": "a.b"}, {"validator": "a.c"}]
    )
    _, record = recorded(conn, registry, label="as-declared")
    catalog.mark_rejected(conn, record.request_id, failed=[{"validator": "a.b"}], expected=True)

    numbers = audit_summary.summary(conn)
    assert [
        (r["scenario"], r["status"], r["requests"], r["runs"]) for r in numbers["requests"]
    ] == [
        ("healthcare/active_member_clean", "ready", 2, 6),
        ("healthcare/active_member_clean", "rejected", 2, 2),
        ("healthcare/member_with_dependents", "ready", 1, 3),
    ]
    assert numbers["runs"] == {
        "made": 9,
        "leased": 5,
        "taken_back": 5,
        "expired": 0,
        "now": {"cleaned": 5, "ready": 4},
    }
    ways = {way["way"]: way for way in numbers["resets"]}
    assert set(ways) == {"reset_run", "reset_owner"}
    assert ways["reset_run"]["runs"] == 2
    rows = sum(
        table["rows"] for table in catalog.get_request(conn, latest.request_id).tables.values()
    )
    assert (ways["reset_owner"]["runs"], ways["reset_owner"]["deleted_rows"]) == (3, rows)
    assert (numbers["resets_failed"], numbers["resets_refused"]) == (0, 1)
    assert numbers["rejections"] == [
        {"check": "a.b", "requests": 2, "as_declared": 1},
        {"check": "a.c", "requests": 1, "as_declared": 0},
    ]
    assert numbers["invokers"] == [{"invoker": "human:tester", "requests": 5, "runs": 11}]
    assert sum(row["leases"] for row in numbers["leases"]) == 5
    for name, count in (("making", 3), ("lease", 5), ("reset", 5)):
        row = numbers["durations"][name]
        assert row["n"] == count
        assert 0 <= row["p50_ms"] <= row["p95_ms"]
    assert numbers["unsealed"] == numbers["events"]
    assert numbers["sealed"] == 0

    later = audit_summary.summary(conn, datetime.now(UTC) + timedelta(hours=1))
    assert later["requests"] == later["resets"] == later["rejections"] == []
    assert later["durations"]["lease"] == {"n": 0, "p50_ms": None, "p95_ms": None}
    assert later["runs"]["now"] == {"cleaned": 5, "ready": 4}


def test_the_numbers_are_shown(conn: Target, made: list[Made]) -> None:
    from rich.console import Console

    from atdm.cli.audit import summary_parts

    console = Console(width=150, record=True, file=io.StringIO())
    for part in summary_parts(audit_summary.summary(conn)):
        console.print(part)
    said = console.export_text()
    assert "9 made, 0 leased, 0 taken back" in said
    assert "healthcare/member_with_dependents" in said
    assert "resets by kind" not in said
