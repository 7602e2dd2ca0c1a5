"""Several clients and an application at once: no run twice, nothing left, no stray error."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases
from atdm_resources.postgres.connection import connect
from tests.support.made_requests import seeded

CLIENTS = 4
SECONDS = 4.0


def test_clients_that_lease_and_reset_while_the_application_writes(
    target: str, registry: Registry, tmp_path: Path
) -> None:
    leased: Counter[str] = Counter()
    reset: list[str] = []
    held: list[str] = []
    surprises: list[BaseException] = []
    end = time.monotonic() + SECONDS
    lock = threading.Lock()

    def client(number: int) -> None:
        try:
            with connect(target) as conn:
                while time.monotonic() < end:
                    try:
                        lease = leases.lease(conn, None, "active_member_clean", owner=str(number))
                    except AtdmError as error:
                        if error.code is not ErrorCode.NONE_READY:
                            raise
                        seeded(conn, tmp_path, registry, runs=10)
                        continue
                    with lock:
                        leased[lease["test_run_id"]] += 1
                        held.append(lease["data"]["member_id"])
                    time.sleep(random.random() * 0.01)
                    done = leases.reset_run(conn, lease["test_run_id"], lease["token"])
                    assert done["status"] == "cleaned"
                    with lock:
                        reset.append(lease["test_run_id"])
        except BaseException as error:
            surprises.append(error)

    def application() -> None:
        """Writes on members that are leased, and may find that they are gone."""
        try:
            with connect(target) as conn:
                written = 0
                while time.monotonic() < end:
                    with lock:
                        member = random.choice(held[-5:]) if held else None
                    if member is None:
                        continue
                    written += 1
                    try:
                        with conn.transaction():
                            conn.execute(
                                "INSERT INTO healthcare.claim SELECT %s, member_id, provider_id,"
                                " procedure_code, diagnosis_code, status, submitted_at, NULL, NULL"
                                " FROM healthcare.claim WHERE member_id = %s AND status = 'paid'"
                                " LIMIT 1",
                                (f"app-{written}", member),
                            )
                            conn.execute(
                                "UPDATE healthcare.member SET status = 'inactive'"
                                " WHERE member_id = %s",
                                (member,),
                            )
                    except (
                        psycopg.errors.ForeignKeyViolation,
                        psycopg.errors.UniqueViolation,
                        psycopg.errors.DeadlockDetected,
                    ):
                        continue
        except BaseException as error:
            surprises.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    threads.append(threading.Thread(target=application))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert surprises == []
    assert len(reset) > 10
    assert set(leased.values()) == {1}
    assert sorted(leased) == sorted(reset)
    with connect(target) as conn:
        left = conn.execute(
            "SELECT count(*) FROM healthcare.claim AS c"
            " LEFT JOIN atdm.test_run AS r ON r.test_run_id = c.test_run_id"
            " WHERE r.status IS DISTINCT FROM 'ready'"
        ).fetchone()
        members = conn.execute(
            "SELECT count(*) FROM healthcare.member AS m"
            " JOIN atdm.test_run AS r USING (test_run_id) WHERE r.status <> 'ready'"
        ).fetchone()
    assert left == (0,)
    assert members == (0,)
