"""Resets: what goes with a run, what stays, what is refused, what is recorded."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import runs
from atdm_resources.catalog.leases import Lease
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres.connection import connect
from tests.support.made_requests import rows_left, seeded

CLEAN = "active_member_clean"


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def leases(conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry) -> list[Lease]:
    made = seeded(conn, tmp_path, registry, runs=3)
    return leasing.lease_request(conn, made.request_id, owner="ci", owner_secret="open sesame")


@pytest.fixture(params=["used", "written"])
def either_way(
    request: pytest.FixtureRequest, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resets that use the domain's function, and those that have to write it."""
    prepared = {
        "used": b"SELECT atdm.prepare_reset('healthcare')",
        "written": b"DELETE FROM atdm.reset_function",
    }[request.param]

    def afterwards(call: Any) -> Any:
        def prepared_call(*arguments: Any, **options: Any) -> Any:
            conn.execute(prepared)
            return call(*arguments, **options)

        return prepared_call

    for name in ("reset_run", "reset_owner"):
        monkeypatch.setattr(leasing, name, afterwards(getattr(leasing, name)))


def insert_claim(
    conn: psycopg.Connection[Any], lease: Lease, key: str, run: str | None = None
) -> None:
    """Insert a claim of the application that refers to the member of the run."""
    conn.execute(
        "INSERT INTO healthcare.claim SELECT %s, member_id, provider_id, procedure_code,"
        " diagnosis_code, status, submitted_at, denial_reason, %s FROM healthcare.claim"
        " WHERE claim_id = %s",
        (key, run, lease["data"]["claim_id"]),
    )


def actions(conn: psycopg.Connection[Any], lease: Lease) -> list[str]:
    return [
        event["action"]
        for event in all_events(conn, lease["request_id"], lease["test_run_id"])
        if event["test_run_id"] == lease["test_run_id"]
    ]


def count(conn: psycopg.Connection[Any], table: str) -> int:
    row = conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.usefixtures("either_way")
def test_a_reset_leaves_no_row_of_the_run_and_every_row_of_the_others(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    first, second, _ = leases
    done = leasing.reset_run(conn, first["test_run_id"], first["token"])
    assert done["status"] == "cleaned"
    assert done["adopted"] == {}
    assert done["deleted"] == {
        "plan": 1,
        "provider": 1,
        "member": 1,
        "eligibility": 1,
        "claim": 1,
        "procedure_code": 0,
        "diagnosis_code": 0,
    }
    assert set(rows_left(conn, first["test_run_id"]).values()) == {0}
    assert sum(rows_left(conn, second["test_run_id"]).values()) == 5
    assert count(conn, "healthcare.procedure_code") == 4
    assert actions(conn, first) == ["leased", "reset_started", "reset_completed"]
    again = leasing.reset_run(conn, first["test_run_id"], first["token"])
    assert again["status"] == "already_cleaned"
    assert actions(conn, first) == ["leased", "reset_started", "reset_completed"]


@pytest.mark.usefixtures("either_way")
def test_rows_that_bear_the_run_in_every_table_go_with_it(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, "denied_claim_withdrawn_code", runs=2)
    lease, other = leasing.lease_request(conn, made.request_id)
    done = leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert done["deleted"]["procedure_code"] == 1
    assert set(rows_left(conn, lease["test_run_id"]).values()) == {0}
    assert rows_left(conn, other["test_run_id"])["procedure_code"] == 1


@pytest.mark.usefixtures("either_way")
def test_rows_of_the_application_that_refer_to_the_run_are_deleted_and_reported_as_adopted(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    lease, other, _ = leases
    insert_claim(conn, lease, "app-1")
    insert_claim(conn, other, "app-2")
    done = leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert done["adopted"] == {"claim": 1}
    assert done["deleted"]["claim"] == 2
    left = conn.execute("SELECT claim_id FROM healthcare.claim WHERE test_run_id IS NULL")
    assert left.fetchall() == [("app-2",)]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL"])
def test_the_closure_follows_foreign_keys_of_every_kind_into_any_schema(
    conn: psycopg.Connection[Any], leases: list[Lease], action: str
) -> None:
    lease, other, _ = leases
    conn.execute(
        f"""
        CREATE SCHEMA "App Data";
        -- a composite key, a row that refers to itself, two tables that refer to each other
        CREATE TABLE "App Data"."Order" (
            shop int, no int, member_id text REFERENCES healthcare.member ON DELETE {action},
            replaces_shop int, replaces_no int, invoice int,
            PRIMARY KEY (shop, no),
            FOREIGN KEY (replaces_shop, replaces_no) REFERENCES "App Data"."Order"
                ON DELETE {action});
        CREATE TABLE public.invoice (
            id int PRIMARY KEY, shop int, no int, test_run_id text,
            FOREIGN KEY (shop, no) REFERENCES "App Data"."Order" ON DELETE {action});
        ALTER TABLE "App Data"."Order" ADD FOREIGN KEY (invoice) REFERENCES public.invoice
            ON DELETE {action};
        CREATE TABLE public.reminder (id int PRIMARY KEY, invoice int, at date NOT NULL)
        """.encode()
    )
    conn.execute(
        f"ALTER TABLE public.reminder ADD FOREIGN KEY (invoice) REFERENCES public.invoice"
        f" ON DELETE {action}".encode()
    )
    for base, owner in ((1, lease), (2, other)):
        member = owner["data"]["member_id"]
        conn.execute(
            'INSERT INTO "App Data"."Order" VALUES (%s, 1, %s, %s, 1, NULL),'
            " (%s, 2, NULL, %s, 1, NULL)",
            (base, member, base, base, base),
        )
        conn.execute("INSERT INTO public.invoice VALUES (%s, %s, 2, 'mine')", (base, base))
        conn.execute('UPDATE "App Data"."Order" SET invoice = %s WHERE shop = %s', (base, base))
        conn.execute("INSERT INTO public.reminder VALUES (%s, %s, '2026-01-01')", (base, base))
    done = leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert done["adopted"] == {"App Data.Order": 2, "public.invoice": 1, "public.reminder": 1}
    assert count(conn, '"App Data"."Order"') == 2
    assert count(conn, "public.invoice") == 1
    assert count(conn, "public.reminder") == 1
    assert sum(rows_left(conn, other["test_run_id"]).values()) == 5


@pytest.mark.usefixtures("either_way")
def test_partitioned_tables_on_both_ends_of_a_key(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    lease, other, _ = leases
    conn.execute(
        """
        CREATE TABLE public.visit (id int, day date,
            member_id text REFERENCES healthcare.member, PRIMARY KEY (id, day))
            PARTITION BY RANGE (day);
        CREATE TABLE public.visit_old PARTITION OF public.visit
            FOR VALUES FROM ('2000-01-01') TO ('2020-01-01');
        CREATE TABLE public.visit_new PARTITION OF public.visit
            FOR VALUES FROM ('2020-01-01') TO ('2040-01-01');
        CREATE TABLE public.note (visit int, day date, text text,
            FOREIGN KEY (visit, day) REFERENCES public.visit)
        """
    )
    for base, owner in ((0, lease), (10, other)):
        conn.execute(
            "INSERT INTO public.visit VALUES (%s, '2010-01-01', %s), (%s, '2030-01-01', %s)",
            (base + 1, owner["data"]["member_id"], base + 2, owner["data"]["member_id"]),
        )
        conn.execute(
            "INSERT INTO public.note VALUES (%s, '2010-01-01', 'a'), (%s, '2030-01-01', 'b')",
            (base + 1, base + 2),
        )
    done = leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert done["adopted"] == {"public.visit_old": 1, "public.visit_new": 1, "public.note": 2}
    assert count(conn, "public.visit") == 2
    assert count(conn, "public.note") == 2


@pytest.mark.usefixtures("either_way")
def test_a_row_of_another_run_in_the_way_is_refused_by_name_and_nothing_goes(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    lease, other, _ = leases
    insert_claim(conn, lease, "foreign", other["test_run_id"])
    with pytest.raises(AtdmError) as caught:
        leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert caught.value.code is ErrorCode.RESET_FAILED
    assert caught.value.details["other_run"] == other["test_run_id"]
    assert caught.value.details["table"] == "healthcare.claim"
    assert sum(rows_left(conn, lease["test_run_id"]).values()) == 5
    assert actions(conn, lease) == ["leased", "reset_started", "reset_failed"]
    conn.execute("DELETE FROM healthcare.claim WHERE claim_id = 'foreign'")
    assert leasing.reset_run(conn, lease["test_run_id"], lease["token"])["status"] == "cleaned"


@pytest.mark.usefixtures("either_way")
def test_a_trigger_that_keeps_a_row_fails_the_reset_as_a_whole(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    lease = leases[0]
    conn.execute(
        """
        CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE DELETE ON healthcare.eligibility
            FOR EACH ROW EXECUTE FUNCTION public.keep()
        """
    )
    with pytest.raises(AtdmError) as caught:
        leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert caught.value.code is ErrorCode.RESET_FAILED
    assert sum(rows_left(conn, lease["test_run_id"]).values()) == 5


@pytest.mark.usefixtures("either_way")
def test_triggers_of_the_application_find_its_own_tables(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    lease = leases[0]
    conn.execute(
        """
        CREATE TABLE public.gone (member_id text);
        CREATE FUNCTION public.remember() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN INSERT INTO gone VALUES (OLD.member_id); RETURN OLD; END';
        CREATE TRIGGER remember AFTER DELETE ON healthcare.member
            FOR EACH ROW EXECUTE FUNCTION public.remember()
        """
    )
    leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert conn.execute("SELECT * FROM public.gone").fetchall() == [(lease["data"]["member_id"],)]


def test_a_wrong_token_and_an_unknown_run_are_answered_alike(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    lease, other, _ = leases
    answers = []
    unknown = lease["request_id"][:25] + "Z"
    for run, token in (
        (lease["test_run_id"], "atdm_wrong"),
        (lease["test_run_id"], other["token"]),
        (lease["test_run_id"], ""),
        (unknown, lease["token"]),
        ("'; DROP TABLE x; --" + "x" * 1000, "t"),
    ):
        with pytest.raises(AtdmError) as caught:
            leasing.reset_run(conn, run, token)
        assert caught.value.code is ErrorCode.TOKEN_MISMATCH
        answers.append((caught.value.message, set(caught.value.details)))
    assert len(set(map(repr, answers))) == 1
    assert sum(rows_left(conn, lease["test_run_id"]).values()) == 5
    assert actions(conn, lease) == ["leased"] + ["reset_rejected"] * 3
    rejected = conn.execute(
        "SELECT count(*) FROM atdm.audit_event WHERE action = 'reset_rejected'"
        " AND status = 'forbidden'"
    ).fetchone()
    assert rejected == (5,)


def test_a_ready_run_has_no_token_to_guess(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry)
    with pytest.raises(AtdmError) as caught:
        leasing.reset_run(conn, made.run(1), "")
    assert caught.value.code is ErrorCode.TOKEN_MISMATCH


def test_a_reset_waits_for_a_locked_row_and_then_reports_it(
    conn: psycopg.Connection[Any], target: str, leases: list[Lease]
) -> None:
    lease = leases[0]
    conn.execute(
        "ALTER FUNCTION atdm.delete_runs(text, text[], boolean) SET lock_timeout = '100ms'"
    )
    with connect(target, autocommit=False) as other:
        other.execute(
            "UPDATE healthcare.member SET status = 'inactive' WHERE test_run_id = %s",
            (lease["test_run_id"],),
        )
        with pytest.raises(AtdmError) as caught:
            leasing.reset_run(conn, lease["test_run_id"], lease["token"])
        assert caught.value.code is ErrorCode.BUSY
        other.rollback()
    assert leasing.reset_run(conn, lease["test_run_id"], lease["token"])["status"] == "cleaned"


def test_a_row_that_is_being_inserted_goes_too(
    conn: psycopg.Connection[Any], target: str, leases: list[Lease]
) -> None:
    lease = leases[0]
    result: dict[str, Any] = {}
    with connect(target, autocommit=False) as other:
        insert_claim(other, lease, "late")

        def reset() -> None:
            with connect(target) as own:
                result.update(leasing.reset_run(own, lease["test_run_id"], lease["token"]))

        thread = threading.Thread(target=reset)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive(), "it waits for the insert, which holds the member"
        other.commit()
        thread.join(10)
    assert result["adopted"] == {"claim": 1}
    assert count(conn, "healthcare.claim") == 2


def test_a_reset_fails_at_once_while_the_domain_is_locked(
    conn: psycopg.Connection[Any], target: str, leases: list[Lease]
) -> None:
    lease = leases[0]
    with connect(target, autocommit=False) as other:
        other.execute("SELECT pg_advisory_xact_lock(atdm.domain_lock_key('healthcare'))")
        with pytest.raises(AtdmError) as caught:
            leasing.reset_run(conn, lease["test_run_id"], lease["token"])
        assert caught.value.code is ErrorCode.BUSY
        other.rollback()


@pytest.mark.usefixtures("either_way")
def test_an_owner_resets_all_its_runs_with_the_secret(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    insert_claim(conn, leases[0], "app")
    with pytest.raises(AtdmError) as caught:
        leasing.reset_owner(conn, "ci", "guess")
    assert caught.value.code is ErrorCode.TOKEN_MISMATCH
    assert sum(rows_left(conn, leases[0]["test_run_id"]).values()) == 5
    done = leasing.reset_owner(conn, "ci", "open sesame")
    assert done["runs"] == [lease["test_run_id"] for lease in leases]
    assert done["deleted"]["healthcare"]["claim"] == 4
    assert done["adopted"] == {"healthcare": {"claim": 1}}
    assert sum(sum(rows_left(conn, lease["test_run_id"]).values()) for lease in leases) == 0
    for lease in leases:
        assert actions(conn, lease) == ["leased", "reset_started", "reset_completed"]
    again = leasing.reset_owner(conn, "ci", "open sesame")
    assert again["runs"] == []


def test_the_owner_of_the_catalog_needs_no_secret_and_a_client_does(
    conn: psycopg.Connection[Any], target: str, leases: list[Lease]
) -> None:
    role = f"c_{leases[0]['test_run_id'].lower()}"
    name = psycopg.sql.Identifier(role)
    conn.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN IN ROLE atdm_client").format(name))
    try:
        with connect(target, user=role) as client, pytest.raises(AtdmError) as caught:
            leasing.reset_owner(client, "ci")
        assert caught.value.code is ErrorCode.TOKEN_MISMATCH
        assert len(leasing.reset_owner(conn, "ci")["runs"]) == 3
    finally:
        conn.execute(psycopg.sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.usefixtures("either_way")
def test_runs_of_one_owner_that_refer_to_each_other_go_together(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    insert_claim(conn, leases[0], "shared", leases[1]["test_run_id"])
    done = leasing.reset_owner(conn, "ci", "open sesame")
    assert done["deleted"]["healthcare"]["claim"] == 4


def test_reset_all_needs_confirmation_and_refuses_while_runs_are_leased(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    with pytest.raises(AtdmError) as caught:
        leasing.reset_all(conn, "healthcare", confirm=False)
    assert caught.value.code is ErrorCode.CONFIRM_REQUIRED
    with pytest.raises(AtdmError) as caught:
        leasing.reset_all(conn, "healthcare", confirm=True)
    assert caught.value.code is ErrorCode.BUSY
    assert caught.value.details["owners"] == [{"owner": "ci", "leases": 3}]
    assert count(conn, "healthcare.claim") == 3


def test_reset_all_deletes_runs_and_what_refers_to_them_and_keeps_the_rest(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry, leases: list[Lease]
) -> None:
    ready = seeded(conn, tmp_path, registry, "denied_claim_withdrawn_code", runs=2)
    insert_claim(conn, leases[0], "app-1")
    conn.execute(
        """
        CREATE TABLE public.letter (id int PRIMARY KEY,
            claim_id text REFERENCES healthcare.claim, answers int REFERENCES public.letter);
        INSERT INTO public.letter VALUES (1, 'app-1', NULL), (2, NULL, 1), (3, NULL, NULL);
        INSERT INTO healthcare.plan VALUES ('own', 'FAKE_own', 'hmo', '2020-01-01', NULL)
        """
    )
    # A row of a run that refers to a row that is none.
    conn.execute(
        "UPDATE healthcare.member SET plan_id = 'own' WHERE test_run_id = %s",
        (leases[1]["test_run_id"],),
    )
    done = leasing.reset_all(conn, "healthcare", confirm=True, revoke_leases=True)
    assert done["status"] == "cleaned"
    assert done["cleared_record_count"] == 5
    assert done["revoked"] == [{"owner": "ci", "leases": 3}]
    assert done["adopted"] == {"claim": 1, "public.letter": 2}
    assert done["deleted"]["claim"] == 6
    assert done["deleted"]["procedure_code"] == 2
    assert count(conn, "public.letter") == 1
    assert count(conn, "healthcare.plan") == 1
    assert count(conn, "healthcare.member") == 0
    assert count(conn, "healthcare.diagnosis_code") == 4
    assert runs.summary(conn)["runs"] == {"cleaned": 2, "expired": 3}
    # A revoked lease has nothing left to reset.
    lease = leases[0]
    again = leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert again["status"] == "already_cleaned"
    draining = conn.execute("SELECT draining_until FROM atdm.domain").fetchone()
    assert draining == (None,)
    assert seeded(conn, tmp_path, registry).request_id > ready.request_id


def test_reset_all_refuses_to_delete_a_row_of_another_domains_run(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    conn.execute(
        """
        CREATE SCHEMA other;
        CREATE TABLE other.letter (test_run_id text, claim_id text REFERENCES healthcare.claim);
        INSERT INTO atdm.domain (domain) VALUES ('other');
        INSERT INTO atdm.domain_table VALUES ('other', 'letter', 'other', 0)
        """
    )
    conn.execute("INSERT INTO other.letter VALUES ('theirs', %s)", (leases[0]["data"]["claim_id"],))
    with pytest.raises(AtdmError) as caught:
        leasing.reset_all(conn, "healthcare", confirm=True, revoke_leases=True)
    assert caught.value.code is ErrorCode.RESET_FAILED
    assert caught.value.details == {"table": "other.letter", "other_run": "theirs"}
    assert count(conn, "healthcare.claim") == 3


def test_reset_all_polls_while_others_work_and_keeps_newcomers_out(
    conn: psycopg.Connection[Any], target: str, tmp_path: Path, registry: Registry
) -> None:
    seeded(conn, tmp_path, registry)
    with connect(target, autocommit=False) as other:
        other.execute("SELECT atdm.enter_domain('healthcare')")
        with pytest.raises(AtdmError) as caught:
            leasing.reset_all(conn, "healthcare", confirm=True, timeout=timedelta(milliseconds=200))
        assert caught.value.code is ErrorCode.BUSY
        refused = []

        def lease_meanwhile() -> None:
            with connect(target) as own:
                time.sleep(0.2)
                try:
                    leasing.lease(own, None, CLEAN)
                except AtdmError as error:
                    refused.append(error.code)
                other.rollback()

        thread = threading.Thread(target=lease_meanwhile)
        thread.start()
        done = leasing.reset_all(conn, "healthcare", confirm=True)
        thread.join()
    assert refused == [ErrorCode.BUSY]
    assert done["cleared_record_count"] == 1


def test_the_audit_trail_cannot_be_changed(
    conn: psycopg.Connection[Any], leases: list[Lease]
) -> None:
    before = count(conn, "atdm.audit_event")
    for statement in (
        "UPDATE atdm.audit_event SET action = 'x'",
        "DELETE FROM atdm.audit_event",
        "TRUNCATE atdm.audit_event",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            conn.execute(statement.encode())
    assert count(conn, "atdm.audit_event") == before
