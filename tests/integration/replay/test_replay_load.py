"""A test run made again: the same rows under its old id, here or in another database."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from atdm.client.sync import AtdmClient
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import combined
from atdm_engine.random.run_ids import run_id
from atdm_engine.replay.regeneration import recorded_request, regenerate_run
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import pages, reclaim, requests, retirement, runs
from atdm_resources.catalog.residue import residue_of_domain
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.postgres.run_rows import rows_of_run
from atdm_resources.settings import Settings
from atdm_resources.store.files import Store
from atdm_services.baselines import contained_runs
from atdm_services.baselines.manifest import BaselineFiles
from atdm_services.progress import Silent
from atdm_services.replay.load import read_back_hashes
from atdm_services.replay.replay import replay, replay_spec
from atdm_services.replay.request import ReplayRequest
from atdm_services.retention import Retention
from tests.support.made_requests import Made, recorded, rows_left, seeded

SCENARIO = "claim_denial_active_member"
RUNS = 3


@pytest.fixture
def conn(target: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def settings(target: str, tmp_path: Path) -> Settings:
    return Settings.from_environment(
        {
            "ATDM_HOME": str(tmp_path / "home"),
            "ATDM_DATABASE_URL": target,
            "ATDM_INVOKER": "human:tester",
        }
    )


@pytest.fixture(autouse=True)
def _one_registry(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped files, read once for all tests."""
    monkeypatch.setattr("atdm_services.replay.replay.load_registry", lambda _: registry)
    monkeypatch.setattr("atdm_services.target.access.load_registry", lambda _: registry)


@pytest.fixture
def made(conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry) -> Made:
    return seeded(conn, tmp_path, registry, SCENARIO, runs=RUNS)


Again = Callable[..., dict[str, Any]]


@pytest.fixture
def again(settings: Settings) -> Again:
    """Makes a run again."""

    def call(run: str | None, **options: Any) -> dict[str, Any]:
        return replay(settings, Silent(), ReplayRequest(run=run, **options))

    return call


def refused(again: Again, run: str | None, **options: Any) -> AtdmError:
    with pytest.raises(AtdmError) as caught:
        again(run, **options)
    return caught.value


def rows(conn: psycopg.Connection[Any], made: Made, run: str) -> dict[str, pa.Table]:
    domain = made.spec.domain
    return {
        table: rows_of_run(conn, domain.name, table, domain.tables[table], run)
        for table in made.spec.scenario.tables
    }


def clean(conn: psycopg.Connection[Any], run: str) -> str:
    """Lease all ready runs, give one back; its token, which is worth nothing any more."""
    leases = {
        lease["test_run_id"]: lease["token"]
        for lease in leasing.lease_request(conn, run[:20] + "000000", owner="tester")
    }
    leasing.reset_run(conn, run, leases[run])
    return leases[run]


def status(conn: psycopg.Connection[Any], run: str) -> str | None:
    found = runs.run(conn, run)
    return None if found is None else str(found["status"])


def test_a_cleaned_run_comes_back_as_it_was(
    conn: psycopg.Connection[Any], made: Made, again: Again
) -> None:
    run = made.run(2)
    before = rows(conn, made, run)
    old_token = clean(conn, run)
    assert not any(rows_left(conn, run).values())

    answer = again(run, owner="me", reason="look again")

    assert rows(conn, made, run) == before
    assert answer["test_run_id"] == run
    assert answer["data"]["member_id"] == f"m-{run}"
    assert answer["replay"]["request_content_hash"] == made.content_hash
    assert answer["replay"]["request_proved"] is True
    assert answer["replay"]["content_hash"] == regenerate_run(made.spec, 2).content_hash
    found = runs.run(conn, run)
    assert found is not None
    assert (found["status"], found["owner"], found["ended_at"]) == ("leased", "me", None)
    assert requests.get_request(conn, made.request_id).status == "ready"

    told = all_events(conn, made.request_id, run)[-2:]
    assert [event["action"] for event in told] == ["leased", "replayed"]
    assert told[1]["inputs"]["reason"] == "look again"
    assert told[1]["outputs"]["content_hash"] == answer["replay"]["content_hash"]
    assert {"kind": "member", "primary_key": f"m-{run}"} in told[1]["outputs"]["records_created"]

    with pytest.raises(AtdmError, match="token"):
        leasing.reset_run(conn, run, old_token)
    done = leasing.reset_run(conn, run, answer["cleanup"]["cleanup_token"])
    assert done["status"] == "cleaned"
    assert not any(rows_left(conn, run).values())
    assert residue_of_domain(conn, made.spec.domain.name).rows == 0


def test_a_run_whose_request_is_over_comes_back(
    conn: psycopg.Connection[Any], made: Made, again: Again, tmp_path: Path
) -> None:
    run = made.run(1)
    clean(conn, run)
    leasing.reset_owner(conn, "tester")
    conn.execute("UPDATE atdm.request SET finished_at = now() - interval '2 days'")
    lengths = Retention()
    assert retirement.retire(conn, lengths.retired, 10) == [made.request_id]
    retirement.forget(
        conn, Store(tmp_path.as_uri()), retirement.over_requests(conn, lengths.failed, 10)
    )

    for forgotten in (False, True):
        if forgotten:  # as retention does after 90 days
            conn.execute("DELETE FROM atdm.test_run")
        again(run)
        assert status(conn, run) == "leased"
        assert requests.get_request(conn, made.request_id).status == "retired"
        conn.execute("UPDATE atdm.test_run SET expires_at = now() - interval '1 s'")
        reclaim.expire_due(conn, invoker="agent:x", source="test")
        assert status(conn, run) == "expired"
        assert not any(rows_left(conn, run).values())


def test_it_is_refused_while_its_rows_are_there(
    conn: psycopg.Connection[Any], made: Made, again: Again
) -> None:
    run = made.run(1)
    error = refused(again, run)
    assert error.code is ErrorCode.REQUEST_CONFLICT
    assert error.details["status"] == "ready"
    assert "--into URL" in error.details["hint"]

    leasing.lease_request(conn, made.request_id, owner="somebody")
    error = refused(again, run)
    assert error.details["status"] == "leased"
    assert error.details["owner"] == "somebody"
    assert f"atdm reset {run} --token TOKEN" in error.details["hint"]
    assert "leased to somebody until" in error.message


def test_into_an_empty_database(
    conn: psycopg.Connection[Any],
    made: Made,
    again: Again,
    empty_database: str,
    registry: Registry,
    tmp_path: Path,
) -> None:
    conn.execute("UPDATE atdm.domain SET next_number = 500")
    run = made.run(3)
    before = rows(conn, made, run)

    answer = again(run, into=empty_database)

    assert status(conn, run) == "ready", "the source is as it was"
    with connect(empty_database) as other:
        assert rows(other, made, run) == before
        request = recorded_request(registry, replay_spec(other, run))
        assert (
            combined(read_back_hashes(other, regenerate_run(request, 3)))
            == (answer["replay"]["content_hash"])
        )
        record = requests.get_request(other, made.request_id)
        assert (record.status, record.content_hash, record.runs) == (
            "retired", made.content_hash, RUNS,
        )  # fmt: skip
        # A baseline captured now has the scenario with it, though the request is retired.
        files = BaselineFiles(made.spec.domain.name, "bl-replayed")
        contained = contained_runs.written(other, Store(tmp_path.as_uri()), files, "one")
        assert contained.counts == {"leased": 1}
        assert [one["scenario_id"] for one in contained.scenarios] == [SCENARIO]
        assert retirement.over_requests(other, Retention().failed, 10) == []
        # The numbers of the replayed rows are taken: no later request gets them.
        (next_number,) = other.execute(
            "SELECT next_number FROM atdm.domain WHERE domain = %s", (made.spec.domain.name,)
        ).fetchone() or (None,)
        assert next_number >= made.record.number_base
        assert refused(again, run, into=empty_database).code is ErrorCode.REQUEST_CONFLICT

        # Another run of the same request, and the first one once more after its reset.
        again(made.run(1), into=empty_database)
        leasing.reset_run(other, run, answer["cleanup"]["cleanup_token"])
        assert (
            again(run, into=empty_database)["replay"]["content_hash"]
            == (answer["replay"]["content_hash"])
        )
        assert reclaim.reset_all(
            other, made.spec.domain.name, reason="x", revoke_leases=True,
            invoker="human:x", source="test",
        )["cleared_record_count"] == 2  # fmt: skip
        assert residue_of_domain(other, made.spec.domain.name).rows == 0


def test_from_a_file_when_the_source_is_gone(
    conn: psycopg.Connection[Any],
    made: Made,
    settings: Settings,
    empty_database: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.json"
    file.write_text(replay_spec(conn, made.run(2)).model_dump_json(), encoding="utf-8")
    nowhere = dataclasses.replace(settings, database_url="postgresql://x@127.0.0.1:1/none")

    answer = replay(nowhere, Silent(), ReplayRequest(spec=file, into=empty_database, prove=False))

    assert answer["test_run_id"] == made.run(2)
    assert answer["replay"]["from"] == "file run.json"
    assert answer["replay"]["request_proved"] is False
    with connect(empty_database) as other:
        assert rows(other, made, made.run(2)) == rows(conn, made, made.run(2))


def test_files_that_cannot_be_used_are_refused(
    conn: psycopg.Connection[Any], made: Made, again: Again, tmp_path: Path
) -> None:
    good = tmp_path / "run.json"
    good.write_text(replay_spec(conn, made.run(2)).model_dump_json(), encoding="utf-8")
    assert "not " + made.run(1) in refused(again, made.run(1), spec=good).message
    assert "cannot be read" in refused(again, None, spec=tmp_path / "none.json").message
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(again, None, spec=tmp_path / "bytes").message
    (tmp_path / "large").write_text(" " * 1_000_001)
    assert "more than 1,000,000 characters" in refused(again, None, spec=tmp_path / "large").message
    assert "cannot be read" in refused(again, None, spec=tmp_path).message


def test_what_names_no_run_is_refused(
    conn: psycopg.Connection[Any], made: Made, again: Again, registry: Registry
) -> None:
    for unknown in ("nobody", run_id("01K0ABCDEF0123456789000000", 1), made.run(RUNS + 1), "'; --"):
        assert refused(again, unknown).code is ErrorCode.RUN_NOT_FOUND, unknown
    error = refused(again, made.request_id)
    assert error.code is ErrorCode.REQUEST_INVALID
    assert f"{made.run(1)} to {made.run(RUNS)}" in error.message

    _, pending = recorded(conn, registry, SCENARIO)
    assert "still being made" in refused(again, pending.request_id).message
    requests.rollback_request(conn, pending.request_id, message="x", step="x")
    assert "rolled back" in refused(again, run_id(pending.request_id, 1)).message


def test_two_at_once_make_it_once(
    conn: psycopg.Connection[Any], made: Made, again: Again, target: str
) -> None:
    run = made.run(1)
    clean(conn, run)
    with RequestLock(target, made.spec.domain.name, made.request_id):
        assert refused(again, run).code is ErrorCode.BUSY
    answers: list[dict[str, Any]] = []
    errors: list[AtdmError] = []

    def one() -> None:
        try:
            answers.append(again(run, prove=False))
        except AtdmError as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 1
    assert {error.code for error in errors} <= {ErrorCode.BUSY, ErrorCode.REQUEST_CONFLICT}
    assert len(errors) == 3
    assert set(rows_left(conn, run).values()) <= {0, 1}


def test_while_the_domain_is_reset_it_is_busy(
    conn: psycopg.Connection[Any], made: Made, again: Again
) -> None:
    clean(conn, made.run(1))
    conn.execute("UPDATE atdm.domain SET draining_until = now() + interval '1 minute'")
    assert refused(again, made.run(1)).code is ErrorCode.BUSY
    assert status(conn, made.run(1)) == "cleaned"


def test_a_rejected_request_is_rejected_again_and_writes_nothing(
    conn: psycopg.Connection[Any], again: Again, registry: Registry
) -> None:
    spec, record = recorded(conn, registry, "contradictory_eligibility", runs=2)
    broken = list(spec.scenario.spec.violates)
    requests.mark_rejected(
        conn, record.request_id, failed=[{"validator": name} for name in broken], expected=True
    )
    for name in (record.request_id, run_id(record.request_id, 2)):
        answer = again(name)
        assert answer["status"] == "rejected"
        assert answer["violates"] == answer["replay"]["failed"] == broken
    assert residue_of_domain(conn, spec.domain.name).rows == 0
    assert pages.read(conn, "runs", pages.Filters(request_id=record.request_id)).rows == []


def test_rows_that_the_checks_of_now_refuse_are_not_written(
    conn: psycopg.Connection[Any], made: Made, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(conn, made.run(1))
    domain = made.spec.domain
    stricter = {
        name: dataclasses.replace(
            rule,
            sql=f"SELECT {domain.tables[rule.table].key_columns[0]}, false AS holds"
            f" FROM {rule.table}",
        )
        for name, rule in domain.rules.items()
    }
    registry = Registry(domain.name, {domain.name: dataclasses.replace(domain, rules=stricter)})
    monkeypatch.setattr("atdm_services.replay.replay.load_registry", lambda _: registry)

    error = refused(again, made.run(1))

    assert error.code is ErrorCode.VALIDATOR_REJECTED
    assert {one["validator"] for one in error.details["failed"]} == set(made.spec.scenario.rules)
    assert status(conn, made.run(1)) == "cleaned"


_REFUSE = "BEGIN RAISE EXCEPTION 'not today'; END"
_SHOUT = "BEGIN NEW.name := upper(NEW.name); RETURN NEW; END"


def trigger(body: str) -> str:
    return (
        "CREATE OR REPLACE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql"
        f" AS $${body}$$;"
        "CREATE OR REPLACE TRIGGER meddle BEFORE INSERT ON healthcare.provider FOR EACH ROW"
        " EXECUTE FUNCTION public.meddle()"
    )


DRIFT = ErrorCode.TARGET_DRIFT
FAILED = ErrorCode.SEED_FAILED
CHANGES = [
    (trigger(_SHOUT), FAILED, "the rows of provider are not in database"),
    (trigger(_REFUSE), FAILED, "not today"),
    (
        "DROP TRIGGER meddle ON healthcare.provider;"
        "ALTER TABLE healthcare.claim ADD billed integer NOT NULL",
        DRIFT,
        "healthcare.claim.billed: the table file has no such column",
    ),
    (
        "ALTER TABLE healthcare.claim DROP billed, ALTER status TYPE varchar(3)",
        DRIFT,
        "healthcare.claim.status: is character varying(3)",
    ),
    ("DROP TABLE healthcare.claim", DRIFT, "healthcare.claim: the table is missing"),
]


def test_a_changed_database_is_named_and_nothing_stays(
    conn: psycopg.Connection[Any], made: Made, again: Again
) -> None:
    run = made.run(1)
    clean(conn, run)
    leasing.reset_owner(conn, "tester")
    for change, code, said in CHANGES:
        conn.execute(change.encode())
        error = refused(again, run)
        assert (error.code, said in error.message) == (code, True), error.message
        assert status(conn, run) == "cleaned"
    assert not conn.execute("SELECT FROM pg_namespace WHERE nspname = 'atdm_expected'").fetchall()
    actions = [event["action"] for event in all_events(conn, made.request_id)]
    assert "replayed" not in actions


def test_values_that_others_have_are_named(
    conn: psycopg.Connection[Any], made: Made, again: Again
) -> None:
    run = made.run(1)
    clean(conn, run)
    conn.execute(
        "INSERT INTO healthcare.plan SELECT (jsonb_populate_record(p, jsonb_build_object("
        "'plan_id', 'plan-' || %s, 'test_run_id', NULL))).* FROM healthcare.plan AS p LIMIT 1",
        (run,),
    )
    error = refused(again, run)
    assert error.code is ErrorCode.REQUEST_CONFLICT
    assert error.details["table"] == "plan"
    assert f"plan-{run}" in error.message
    assert status(conn, run) == "cleaned"


def test_another_request_under_the_same_id_is_refused(
    conn: psycopg.Connection[Any], made: Made, again: Again, empty_database: str
) -> None:
    again(made.run(1), into=empty_database)
    with connect(empty_database) as other:
        other.execute("UPDATE atdm.request SET seed = 1")
    error = refused(again, made.run(2), into=empty_database)
    assert error.code is ErrorCode.REQUEST_CONFLICT
    assert "with other values" in error.message


def test_a_database_of_somebody_elses_is_not_written_to(
    made: Made, again: Again, empty_database: str
) -> None:
    with connect(empty_database) as other:
        other.execute("CREATE TABLE invoice (id integer)")
        error = refused(again, made.run(1), into=empty_database)
        assert error.code is ErrorCode.TARGET_NOT_DISPOSABLE
        assert "invoice" in error.message
        assert other.execute("SELECT to_regnamespace('atdm')").fetchone() == (None,)
    assert refused(again, made.run(1), into="postgresql://x@127.0.0.1:1/none").code is (
        ErrorCode.TARGET_UNREACHABLE
    )


def test_reading_the_catalog_is_for_its_owner(
    conn: psycopg.Connection[Any], made: Made, target: str
) -> None:
    role = sql.Identifier(f"tester_{uuid.uuid4().hex[:8]}")
    conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN IN ROLE atdm_client").format(role))
    try:
        with connect(target) as client:
            client.execute(sql.SQL("SET ROLE {}").format(role))
            with pytest.raises(AtdmError, match="owner of schema atdm"):
                replay_spec(client, made.run(1))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                client.execute(
                    "SELECT atdm.lease_replayed(%s, now(), NULL, 'x', NULL, NULL, 'x', 'x')",
                    (made.run(1),),
                )
    finally:
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_the_client_makes_a_run_again(
    conn: psycopg.Connection[Any], made: Made, settings: Settings
) -> None:
    clean(conn, made.run(1))
    with AtdmClient(settings=settings, owner="suite", source="pytest") as client:
        answer = client.replay(made.run(1), ttl="10m", reason="why")
        assert answer["replay"]["from"] == f"database {conn.info.dbname}"
        client.reset_run(answer["test_run_id"], answer["cleanup"]["cleanup_token"])
        with pytest.raises(AtdmError, match="name a test run"):
            client.replay()
