"""Replays of single test runs: the request's row, and the lease under the old id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg.types.json import Jsonb

from atdm_resources.catalog import requests
from atdm_resources.catalog.lease_calls import Lease
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.postgres.errors import guarded

if TYPE_CHECKING:
    from atdm_engine.replay.spec import ReplaySpec


def scenario_parts(conn: psycopg.Connection[Any], record: RequestRecord) -> dict[str, str]:
    """The hashes that the version of the request's scenario covers, sorted; empty if unrecorded."""
    row = conn.execute(
        "SELECT coalesce(parts, '{}') FROM atdm.scenario"
        " WHERE domain = %s AND scenario_id = %s AND version = %s",
        (record.domain, record.scenario_id, record.scenario_version),
    ).fetchone()
    return dict(sorted(row[0].items())) if row else {}


def add_request(
    conn: psycopg.Connection[Any],
    original: ReplaySpec,
    *,
    numbers: int,
    invoker: str,
    source: str,
    reason: str,
) -> bool:
    """Record a request of another database as ``retired``; event request_received.

    Nothing of it is to be made here: only its run is replayed. Later requests do not get its
    ``numbers`` unique numbers. Returns False, and changes nothing, when the request is known.
    """
    values = {
        "request_id": original.request_id,
        "domain": original.domain,
        "scenario_id": original.scenario_id,
        "scenario_version": original.scenario_version,
        "given": Jsonb(original.given),
        "effective": Jsonb(original.effective),
        "seed": original.seed,
        "as_of": original.as_of,
        "runs": original.runs,
        "number_base": original.number_base,
        "invoker": invoker,
        "source": source,
        "reason": reason,
        "content_hash": original.content_hash,
    }
    if not conn.execute(_ADD_REQUEST.encode(), values).rowcount:
        return False
    conn.execute(
        "UPDATE atdm.domain SET next_number = greatest(next_number, %s) WHERE domain = %s",
        (original.number_base + numbers, original.domain),
    )
    record = requests.get_request(conn, original.request_id)
    inputs = {**record.as_received(), "replay": True}
    requests.add_event(conn, "request_received", record, inputs=inputs)
    return True


def lease_replayed(
    conn: psycopg.Connection[Any],
    original: ReplaySpec,
    data: Mapping[str, Any] | None,
    *,
    owner: str,
    owner_secret: str | None,
    ttl: timedelta | None,
    invoker: str,
    source: str,
) -> Lease:
    """Lease a replayed run under its old id; ``data`` is what it hands out beyond its keys.

    Raises:
        AtdmError: REQUEST_CONFLICT, the run has its rows here; BUSY.
    """
    arguments = (
        original.test_run_id,
        original.as_of,
        None if data is None else Jsonb(data),
        owner,
        ttl,
        None if owner_secret is None else hashlib.sha256(owner_secret.encode()).digest(),
        invoker,
        source,
    )
    row = guarded(
        lambda: conn.execute(
            "SELECT atdm.lease_replayed(%s, %s, %s, %s, %s, %s, %s, %s)", arguments
        ).fetchone()
    )
    assert row is not None
    lease: dict[str, Any] = row[0]
    # A flag for pool leases, which reset overdue runs on their way: the next one gets it.
    lease.pop("overdue", None)
    return cast(Lease, lease)


_ADD_REQUEST = """
INSERT INTO atdm.request
    (request_id, label, domain, scenario_id, scenario_version, given, effective, seed, seed_given,
     as_of, as_of_given, runs, number_base, pooled, status, invoker, source, reason, finished_at,
     partition_removed_at, content_hash)
VALUES
    (%(request_id)s, %(request_id)s, %(domain)s, %(scenario_id)s, %(scenario_version)s, %(given)s,
     %(effective)s, %(seed)s, true, %(as_of)s, true, %(runs)s, %(number_base)s, false, 'retired',
     %(invoker)s, %(source)s, %(reason)s, clock_timestamp(), clock_timestamp(), %(content_hash)s)
ON CONFLICT (request_id) DO NOTHING
"""
