"""The seeding transaction: all or nothing, in order, and again."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import ContentHash, combined
from atdm_resources.catalog import leases, requests
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres import run_rows
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import read_batches, write_table
from atdm_services.requests import load
from atdm_services.requests.results import Seeded, StagedTable
from atdm_services.requests.rollback import ORPHANED, roll_back_orphans
from tests.support.made_requests import recorded, rows_left, seeded, staged


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path.as_uri())


def total_rows(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute(
        "SELECT (SELECT count(*) FROM healthcare.plan WHERE test_run_id IS NOT NULL)"
        " + (SELECT count(*) FROM healthcare.claim) + (SELECT count(*) FROM atdm.test_run)"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("batch_runs", [1, 7, 100_000])
def test_what_is_in_the_target_hashes_like_what_was_made(
    conn: psycopg.Connection[Any], store: Store, registry: Registry, batch_runs: int
) -> None:
    spec, record = recorded(conn, registry, "denied_and_pending_claims", runs=30)
    files, exposed, content_hash = staged(store, spec, batch_runs)
    seen: list[tuple[str, int, int]] = []
    result = load.seed(
        conn, store, record, spec, files,
        content_hash=content_hash, exposed=exposed, progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert list(result.tables) == [*spec.scenario.tables, "test_run"]
    assert result.rows == sum(file.rows for file in files.values())
    assert ("loaded claim", 60, 60) in seen
    digests = {}
    for table in spec.scenario.tables:
        digest = ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        for rows in run_rows.rows_of_request(
            conn, "healthcare", table, spec.domain.tables[table], spec.request_id
        ):
            digest.add(rows)
        digests[table] = digest.hexdigest()
        assert digests[table] == files[table].content_hash
    assert combined(digests) == content_hash


def test_a_row_that_the_database_refuses_leaves_nothing(
    conn: psycopg.Connection[Any], store: Store, registry: Registry
) -> None:
    spec, record = recorded(conn, registry, runs=50)
    files, _, content_hash = staged(store, spec)
    rows = pa.concat_tables(
        [pa.Table.from_batches([batch]) for batch in read_batches(store, files["claim"].path)]
    )
    broken = rows.set_column(
        rows.schema.get_field_index("status"), "status", pa.array(["lost"] * rows.num_rows)
    )
    write_table(store, files["claim"].path, broken)
    with pytest.raises(AtdmError) as caught:
        load.seed(conn, store, record, spec, files, content_hash=content_hash)
    assert caught.value.code is ErrorCode.SEED_FAILED
    assert caught.value.details["table"] == "claim"
    assert caught.value.details["constraint"] == "ck_claim_status_values"
    assert total_rows(conn) == 0
    assert requests.get_request(conn, record.request_id).status == "pending"
    assert [event["action"] for event in all_events(conn, record.request_id)] == [
        "request_received",
        "plan_resolved",
    ]


def test_staged_files_that_are_gone_or_short_leave_nothing(
    conn: psycopg.Connection[Any], store: Store, registry: Registry
) -> None:
    spec, record = recorded(conn, registry, runs=5)
    files, _, content_hash = staged(store, spec)

    def attempt(changed: dict[str, StagedTable]) -> AtdmError:
        with pytest.raises(AtdmError) as caught:
            load.seed(
                conn, store, record, spec, changed,
                content_hash=content_hash,
            )  # fmt: skip
        assert total_rows(conn) == 0
        return caught.value

    short = {**files, "claim": dataclasses.replace(files["claim"], rows=6)}
    assert attempt(short).code is ErrorCode.SEED_FAILED
    gone = {**files, "claim": dataclasses.replace(files["claim"], path="nowhere.parquet")}
    error = attempt(gone)
    assert error.code is ErrorCode.STORE_FAILED
    assert "nowhere.parquet" in error.message


def test_a_request_that_was_given_up_meanwhile_is_not_seeded(
    conn: psycopg.Connection[Any], store: Store, registry: Registry
) -> None:
    spec, record = recorded(conn, registry, runs=5)
    files, _, content_hash = staged(store, spec)
    requests.rollback_request(conn, record.request_id, message="given up", step="test")
    with pytest.raises(AtdmError) as caught:
        load.seed(conn, store, record, spec, files, content_hash=content_hash)
    assert caught.value.code is ErrorCode.REQUEST_CONFLICT
    assert total_rows(conn) == 0


def test_a_target_that_is_not_marked_is_not_seeded(
    conn: psycopg.Connection[Any], store: Store, registry: Registry
) -> None:
    spec, record = recorded(conn, registry)
    files, _, content_hash = staged(store, spec)
    conn.execute("DELETE FROM atdm.target")
    with pytest.raises(AtdmError) as caught:
        load.seed(conn, store, record, spec, files, content_hash=content_hash)
    assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE
    assert total_rows(conn) == 0


def test_seeding_again_replaces_rows_and_keeps_used_ones(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=4)
    store = Store(tmp_path.as_uri())
    before = total_rows(conn)
    conn.execute("UPDATE healthcare.plan SET coverage_type = 'hmo'")
    files, _, content_hash = staged(store, made.spec)

    def again() -> Seeded:
        return load.seed(
            conn, store, made.record, made.spec, files,
            content_hash=content_hash,
        )  # fmt: skip

    again()
    assert total_rows(conn) == before
    digest = ContentHash(made.spec.domain, "plan", made.request_id, made.spec.number_base)
    for rows in run_rows.rows_of_request(
        conn, "healthcare", "plan", made.spec.domain.tables["plan"], made.request_id
    ):
        digest.add(rows)
    assert digest.hexdigest() == files["plan"].content_hash
    leases.lease(conn, None, "active_member_clean")
    with pytest.raises(AtdmError) as caught:
        again()
    assert caught.value.code is ErrorCode.REQUEST_CONFLICT
    assert total_rows(conn) == before


def test_rows_beside_a_request_stay_when_it_is_made_again(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    other = seeded(conn, tmp_path, registry)
    made = seeded(conn, tmp_path, registry)
    store = Store(tmp_path.as_uri())
    files, _, content_hash = staged(store, made.spec)
    load.seed(
        conn, store, made.record, made.spec, files,
        content_hash=content_hash,
    )  # fmt: skip
    assert sum(rows_left(conn, other.run(1)).values()) == 5
    assert sum(rows_left(conn, made.run(1)).values()) == 5


def test_a_lock_on_a_request_is_held_once_and_ends_with_its_block(
    target: str, conn: psycopg.Connection[Any], registry: Registry, store: Store
) -> None:
    _, record = recorded(conn, registry)
    with RequestLock(target, "healthcare", record.request_id):
        with (
            pytest.raises(AtdmError) as caught,
            RequestLock(target, "healthcare", record.request_id),
        ):
            pass
        assert caught.value.code is ErrorCode.BUSY
        assert roll_back_orphans(conn, store) == []
        # It holds back neither vacuum nor the sealing of the audit trail.
        held = conn.execute(
            "SELECT backend_xid, backend_xmin, state FROM pg_stat_activity"
            " WHERE application_name = 'atdm request lock' AND datname = current_database()"
        ).fetchall()
        assert held == [(None, None, "idle in transaction")]
    with RequestLock(target, "healthcare", record.request_id):
        assert requests.get_request(conn, record.request_id).status == "pending"


def test_a_request_without_a_holder_is_rolled_back_with_its_files(
    target: str, conn: psycopg.Connection[Any], registry: Registry, store: Store
) -> None:
    spec, record = recorded(conn, registry, runs=3, dagster_run_id="dagster-1")
    alive_spec, alive = recorded(conn, registry)
    staged(store, spec)
    staged(store, alive_spec)
    with RequestLock(target, "healthcare", alive.request_id):
        (dead,) = roll_back_orphans(conn, store)
    assert dead.request_id == record.request_id
    assert dead.dagster_run_id == "dagster-1"
    found = requests.get_request(conn, record.request_id)
    assert found.status == "rolled_back"
    assert found.error is not None
    assert found.error["message"] == ORPHANED
    assert store.files("requests/healthcare/active_member_clean/" + record.request_id) == []
    assert store.files("requests/healthcare/active_member_clean/" + alive.request_id) != []
    assert requests.get_request(conn, alive.request_id).status == "pending"


def test_a_process_that_is_killed_while_it_loads_leaves_nothing(
    target: str, conn: psycopg.Connection[Any], registry: Registry, tmp_path: Path
) -> None:
    script = """
        import sys
        from pathlib import Path
        from atdm_engine.bundle.registry import Registry
        from atdm_services.requests import load
        from atdm_resources.store.bundle import read_bundle, shipped_root
        from atdm_resources.postgres.connection import connect
        from atdm_resources.postgres.locks import RequestLock
        from atdm_resources.store.files import Store
        from tests.support.made_requests import recorded, staged

        registry = Registry.build(read_bundle([shipped_root()]))
        store = Store(sys.argv[2])
        with connect(sys.argv[1]) as conn:
            spec, record = recorded(conn, registry, runs=20_000)
            with RequestLock(sys.argv[1], "healthcare", record.request_id):
                files, _, content_hash = staged(store, spec)
                load.seed(conn, store, record, spec, files,
                    content_hash=content_hash, progress=lambda *step: print(*step, flush=True))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), target, tmp_path.as_uri()],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("loaded member"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = Store(tmp_path.as_uri())
    deadline = time.monotonic() + 20
    swept: list[requests.RequestRef] = []
    while not swept and time.monotonic() < deadline:
        swept = roll_back_orphans(conn, store)
        time.sleep(0.05)
    assert len(swept) == 1
    assert total_rows(conn) == 0
    assert store.files("requests") == []
    assert seeded(conn, tmp_path, registry, runs=2).result.runs == 2
