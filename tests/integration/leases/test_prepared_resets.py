"""The functions that delete the runs of a domain: written when needed, used while they fit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases
from atdm_resources.catalog.leases import Lease
from atdm_resources.postgres.connection import connect
from atdm_services.target.init import initialise
from tests.support.made_requests import rows_left, seeded

NOTE = "CREATE TABLE public.note (text text, claim text REFERENCES healthcare.claim)"


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


def written(conn: psycopg.Connection[Any]) -> list[Any]:
    """Which versions of the domain's functions there are."""
    return conn.execute(
        "SELECT oid, xmin FROM pg_proc WHERE pronamespace = 'atdm'::regnamespace"
        " AND proname = 'delete_healthcare' ORDER BY oid"
    ).fetchall()


def reset(conn: psycopg.Connection[Any], lease: Lease) -> Any:
    return leases.reset_run(conn, lease["test_run_id"], lease["token"])


def note(conn: psycopg.Connection[Any], lease: Lease) -> None:
    conn.execute("INSERT INTO public.note VALUES ('mine', %s)", (lease["data"]["claim_id"],))


def test_the_first_reset_writes_them_and_the_next_ones_use_them(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=4)
    first, second, third, fourth = leases.lease_request(conn, made.request_id)
    assert written(conn) == []
    assert reset(conn, first)["deleted"]["claim"] == 1
    before = written(conn)
    assert len(before) == 2, "one for some runs, one for all of them"
    assert reset(conn, second)["deleted"]["claim"] == 1
    assert written(conn) == before
    conn.execute(NOTE.encode())
    note(conn, third)
    assert reset(conn, third)["adopted"] == {"public.note": 1}
    after = written(conn)
    assert after != before
    # What a restore does.
    conn.execute(
        "ALTER TABLE public.note DROP CONSTRAINT note_claim_fkey;"
        "ALTER TABLE public.note ADD FOREIGN KEY (claim) REFERENCES healthcare.claim"
    )
    note(conn, fourth)
    assert reset(conn, fourth)["adopted"] == {"public.note": 1}
    assert written(conn) == after


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
    made = seeded(conn, tmp_path, registry, runs=2)
    lease, other = leases.lease_request(conn, made.request_id)
    note(conn, lease)
    note(conn, other)
    table = conn.execute("SELECT 'public.note'::regclass::oid").fetchone()
    conn.execute("SELECT atdm.prepare_reset('healthcare')")
    before = written(conn)
    # The statements are planned before anything changes.
    with conn.transaction(force_rollback=True):
        assert reset(conn, lease)["adopted"]
    conn.execute(change.encode())
    done = reset(conn, lease)
    assert written(conn) != before
    assert set(rows_left(conn, lease["test_run_id"]).values()) == {0}
    assert sum(rows_left(conn, other["test_run_id"]).values()) == 5
    assert list(done["adopted"].values()) == [1]
    name = conn.execute("SELECT %s::oid::regclass::text", table).fetchone()
    assert name is not None
    assert conn.execute(f"SELECT count(*) FROM {name[0]}".encode()).fetchone() == (1,)


def test_resets_of_several_sessions_notice_a_change_at_once(
    conn: psycopg.Connection[Any], target: str, tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=12)
    leased = leases.lease_request(conn, made.request_id)
    conn.execute("SELECT atdm.prepare_reset('healthcare')")
    conn.execute(NOTE.encode())
    for lease in leased:
        note(conn, lease)

    def of_its_own(lease: Lease) -> Any:
        with connect(target) as own:
            return reset(own, lease)

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(of_its_own, leased))
    assert [one["adopted"] for one in done] == [{"public.note": 1}] * 12
    assert conn.execute("SELECT count(*) FROM public.note").fetchone() == (0,)


def test_other_resets_do_not_wait_for_a_transaction_that_writes_them(
    conn: psycopg.Connection[Any], target: str, tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=3)
    first, second, third = leases.lease_request(conn, made.request_id)
    with connect(target) as other:
        other.execute("SET statement_timeout = '5s'")
        with conn.transaction():
            assert reset(conn, first)["status"] == "cleaned"
            assert reset(other, second)["status"] == "cleaned"
            assert written(other) == [], "the other one's are not there yet"
    assert reset(conn, third)["deleted"]["claim"] == 1
    left = conn.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'session_delete_%'")
    assert left.fetchone() == (0,)


def test_many_runs_of_one_owner_with_rows_that_refer_to_them(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=301)
    *leased, other = leases.lease_request(conn, made.request_id, owner="many")
    conn.execute(
        "UPDATE atdm.test_run SET owner = 'other' WHERE test_run_id = %s", (other["test_run_id"],)
    )
    conn.execute(NOTE.encode())
    for lease in (*leased[::2], other):
        note(conn, lease)
    # Each run has a claim of the run before.
    move = "UPDATE healthcare.claim SET member_id = %s WHERE claim_id = %s"
    for one, before in zip(leased[1:], leased, strict=False):
        conn.execute(move, (before["data"]["member_id"], one["data"]["claim_id"]))
    conn.execute(move, (leased[0]["data"]["member_id"], other["data"]["claim_id"]))
    with pytest.raises(AtdmError) as caught:
        leases.reset_owner(conn, "many")
    assert caught.value.code is ErrorCode.RESET_FAILED
    assert caught.value.details["other_run"] == other["test_run_id"]
    conn.execute(move, (other["data"]["member_id"], other["data"]["claim_id"]))
    done = leases.reset_owner(conn, "many")
    assert len(done["runs"]) == 300
    assert done["deleted"]["healthcare"]["claim"] == 300
    assert done["adopted"] == {"healthcare": {"public.note": 150}}
    assert sum(rows_left(conn, other["test_run_id"]).values()) == 5


def test_what_it_reads_does_not_grow_with_the_tables(
    conn: psycopg.Connection[Any], target: str, tmp_path: Path, registry: Registry
) -> None:
    def rows_read(by: psycopg.Connection[Any]) -> int:
        by.execute("SELECT pg_stat_force_next_flush()")
        row = conn.execute(
            "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables"
            " WHERE schemaname = 'healthcare'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def read_by_resets(own: psycopg.Connection[Any], request_id: str) -> int:
        leased = leases.lease_request(own, request_id, count=10)
        before = rows_read(own)
        for lease in leased:
            reset(own, lease)
        return rows_read(own) - before

    few = seeded(conn, tmp_path, registry, runs=10)
    with connect(target) as before_growth:
        reads = [read_by_resets(before_growth, few.request_id)]
        many = seeded(conn, tmp_path, registry, runs=400)
        codes = seeded(conn, tmp_path, registry, "denied_claim_withdrawn_code", runs=30)
        reads += [read_by_resets(before_growth, each.request_id) for each in (many, codes)]
    for statement in ("SELECT 1", "ANALYZE"):
        conn.execute(statement.encode())
        with connect(target) as own:
            reads += [read_by_resets(own, each.request_id) for each in (many, codes)]
    # At most six rows a run, of which each is found, looked at from its parents, and deleted.
    assert min(reads) >= 10 * 5
    assert max(reads) < 10 * 6 * 20


def test_they_belong_to_the_owner_of_the_catalog(
    conn: psycopg.Connection[Any], empty_database: str, tmp_path: Path, registry: Registry
) -> None:
    owner = f"o_{tmp_path.parent.name}_{conn.info.backend_pid}"[:60]
    name = sql.Identifier(owner)
    with connect(empty_database) as superuser:
        database = sql.Identifier(superuser.info.dbname)
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        superuser.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, name))
        try:
            with connect(empty_database, user=owner) as own:
                initialise(own, registry)
                made = seeded(own, tmp_path, registry, runs=2)
                first, second = leases.lease_request(own, made.request_id)
                assert reset(superuser, first)["status"] == "cleaned"
                assert written(own)
                own.execute("CREATE SCHEMA app")
                own.execute("CREATE TABLE app.note (claim text REFERENCES healthcare.claim)")
                assert reset(own, second)["status"] == "cleaned"
        finally:
            superuser.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(name))
            superuser.execute(sql.SQL("DROP OWNED BY {}").format(name))
            superuser.execute(sql.SQL("DROP ROLE {}").format(name))


def test_clients_may_not_call_them(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT atdm.prepare_reset('healthcare')")
    allowed = conn.execute(
        "SELECT p.oid::regprocedure::text, has_function_privilege('atdm_client', p.oid, 'EXECUTE')"
        " FROM pg_proc AS p WHERE p.pronamespace = 'atdm'::regnamespace"
        " AND (p.proname LIKE 'delete_%' OR p.proname IN ('prepare_reset', 'write_reset_function'))"
        " ORDER BY 1"
    )
    assert [(name.partition("(")[0], may) for name, may in allowed] == [
        ("atdm.delete_healthcare", False),
        ("atdm.delete_healthcare", False),
        ("atdm.delete_runs", False),
        ("atdm.prepare_reset", False),
        ("atdm.write_reset_function", False),
    ]
