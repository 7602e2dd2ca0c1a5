"""Ready-made statements of resets: taken where they fit the tables there are, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError
from atdm_resources.catalog import leases
from atdm_resources.postgres.connection import connect
from tests.support.made_requests import rows_left, seeded

NOTE = "CREATE TABLE public.note (text text, claim text REFERENCES healthcare.claim)"
FAILS = """
CREATE OR REPLACE FUNCTION atdm.delete_any_runs(
    domain text, run_ids text[], OUT deleted jsonb, OUT adopted jsonb
) LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'made each time'; END $$
"""


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


def is_laid(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("SELECT atdm.has_reset_path('healthcare')").fetchone()
    assert row is not None
    return bool(row[0])


def test_it_is_laid_by_init_and_taken(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    assert is_laid(conn)
    conn.execute(FAILS)
    made = seeded(conn, tmp_path, registry, runs=3)
    first, second, third = leases.lease_request(conn, made.request_id)
    assert leases.reset_run(conn, first["test_run_id"], first["token"])["deleted"]["claim"] == 1
    conn.execute(NOTE.encode())
    assert not is_laid(conn)
    with pytest.raises(AtdmError, match="made each time"):
        leases.reset_run(conn, second["test_run_id"], second["token"])
    conn.execute("SELECT atdm.lay_reset_path('healthcare')")
    assert is_laid(conn)
    conn.execute("INSERT INTO public.note VALUES ('mine', %s)", (third["data"]["claim_id"],))
    assert leases.reset_run(conn, third["test_run_id"], third["token"])["adopted"] == {
        "public.note": 1
    }


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE public.note RENAME COLUMN claim TO about",
        "ALTER TABLE public.note RENAME TO remark",
        "ALTER TABLE public.note SET SCHEMA healthcare",
        "ALTER TABLE public.note RENAME TO remark; CREATE TABLE public.note (LIKE public.remark)",
        "ALTER TABLE public.note RENAME TO remark; CREATE TABLE public.note (text text)",
        "CREATE TABLE public.more (claim text REFERENCES healthcare.claim)",
        "ALTER TABLE healthcare.claim RENAME COLUMN claim_id TO id",
    ],
)
def test_what_has_changed_since_is_noticed(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry, change: str
) -> None:
    conn.execute(NOTE.encode())
    conn.execute("SELECT atdm.lay_reset_path('healthcare')")
    made = seeded(conn, tmp_path, registry, runs=2)
    lease, other = leases.lease_request(conn, made.request_id)
    for one in (lease, other):
        conn.execute("INSERT INTO public.note VALUES ('mine', %s)", (one["data"]["claim_id"],))
    note = conn.execute("SELECT 'public.note'::regclass::oid").fetchone()
    # The statements are planned before anything changes.
    with conn.transaction(force_rollback=True):
        assert leases.reset_run(conn, lease["test_run_id"], lease["token"])["adopted"]
    conn.execute(change.encode())
    done = leases.reset_run(conn, lease["test_run_id"], lease["token"])
    assert set(rows_left(conn, lease["test_run_id"]).values()) == {0}
    assert sum(rows_left(conn, other["test_run_id"]).values()) == 5
    assert list(done["adopted"].values()) == [1]
    name = conn.execute("SELECT %s::oid::regclass::text", note).fetchone()
    assert name is not None
    assert conn.execute(f"SELECT count(*) FROM {name[0]}".encode()).fetchone() == (1,)


def test_many_runs_at_once_take_another_way(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    conn.execute(FAILS)
    made = seeded(conn, tmp_path, registry, runs=41)
    leases.lease_request(conn, made.request_id, owner="few", count=20)
    assert len(leases.reset_owner(conn, "few")["runs"]) == 20
    leases.lease_request(conn, made.request_id, owner="many", count=21)
    with pytest.raises(AtdmError, match="made each time"):
        leases.reset_owner(conn, "many")


def test_what_it_reads_does_not_grow_with_the_tables(
    conn: psycopg.Connection[Any], target: str, tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=400)
    conn.execute("ANALYZE")

    def rows_read(by: psycopg.Connection[Any]) -> int:
        by.execute("SELECT pg_stat_force_next_flush()")
        row = conn.execute(
            "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables"
            " WHERE schemaname = 'healthcare'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    with connect(target) as own:
        before = rows_read(conn)
        for lease in leases.lease_request(own, made.request_id, count=10):
            leases.reset_run(own, lease["test_run_id"], lease["token"])
        read = rows_read(own) - before
    # Five rows a run, of which each is found, looked at from its parents, and deleted.
    assert 10 * 5 <= read < 10 * 5 * 20


def test_nobody_else_may_call_it(conn: psycopg.Connection[Any]) -> None:
    granted = conn.execute(
        "SELECT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'atdm' AND p.proname LIKE 'delete_%'"
        " AND has_function_privilege('atdm_client', p.oid, 'EXECUTE')"
    )
    assert granted.fetchall() == []
