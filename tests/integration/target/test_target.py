"""Setting up a target: what is made, that it happens once, and what is refused."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases, runs
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_services.target import init
from atdm_services.target.init import initialise
from tests.conftest import with_database
from tests.support.made_requests import seeded


def changed(files: dict[str, tuple[str, str]]) -> Registry:
    """The shipped registry with one text replaced by another in the files of these names."""
    bundle = []
    for file in read_bundle([shipped_root()]):
        text = file.text
        if file.name in files:
            old, new = files[file.name]
            assert old in text
            text = text.replace(old, new)
        bundle.append(SpecFile(path=file.path, name=file.name, text=text))
    return Registry.build(bundle)


@pytest.fixture
def named_database(postgres_server_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database whose name contains the parameter."""
    name = request.param.replace("*", uuid.uuid4().hex[:8])
    with connect(postgres_server_url) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield with_database(postgres_server_url, name)
    with connect(postgres_server_url) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_an_empty_database_is_set_up_and_a_second_time_nothing_changes(
    empty_database: str, registry: Registry
) -> None:
    with connect(empty_database) as conn:
        first = initialise(conn, registry)
        assert first.marked == "empty"
        assert first.migrated
        assert first.changed
        assert set(first.tables) == {
            f"healthcare.{table}" for table in registry.domains["healthcare"].tables
        }
        assert first.reference_rows == {
            "healthcare.procedure_code": 4,
            "healthcare.diagnosis_code": 4,
        }
        assert len(first.scenarios) == len(registry.scenarios)
        before = conn.execute("SELECT xmin, * FROM atdm.scenario ORDER BY 3, 4").fetchall()
        again = initialise(conn, registry)
        assert not again.changed
        assert conn.execute("SELECT xmin, * FROM atdm.scenario ORDER BY 3, 4").fetchall() == before
        assert conn.autocommit
        ensure_disposable(conn)
        schemas = conn.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'atdm%'"
        ).fetchall()
        assert schemas == [("atdm",)]
        shown = runs.summary(conn)
        assert shown["disposable"] is True
        assert shown["scenarios"] == len(registry.scenarios)
        assert {row["scenario_id"] for row in runs.scenarios(conn)} == {
            scenario.name for scenario in registry.scenarios.values()
        }


def test_several_processes_may_set_up_at_once(empty_database: str, registry: Registry) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with connect(empty_database) as conn:
                initialise(conn, registry)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with connect(empty_database) as conn:
        assert not initialise(conn, registry).changed


@pytest.mark.parametrize("before", [False, True], ids=["the first time", "again"])
def test_setting_up_is_one_transaction_under_one_lock(
    empty_database: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    if before:
        with connect(empty_database) as conn:
            initialise(conn, registry)
    seen: list[Any] = []
    publish = init.publish

    def watched(conn: psycopg.Connection[Any], domain: Any) -> list[str]:
        with connect(empty_database) as other:
            seen.append(
                other.execute(
                    "SELECT pg_try_advisory_lock(hashtextextended('atdm.initialise', 0)),"
                    " (SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                    "  AND xact_start < clock_timestamp() AND pid = %s)",
                    (conn.info.backend_pid,),
                ).fetchone()
            )
        raise RuntimeError("not to its end")

    monkeypatch.setattr(init, "publish", watched)
    with connect(empty_database) as conn, pytest.raises(RuntimeError, match="not to its end"):
        initialise(conn, registry)
    assert seen == [(False, 1)]
    monkeypatch.setattr(init, "publish", publish)
    with connect(empty_database) as conn:
        there = conn.execute("SELECT to_regclass('atdm.alembic_version') IS NOT NULL").fetchone()
        assert there == (before,)
        assert initialise(conn, registry).changed is not before


def test_a_catalog_of_an_unknown_version_is_refused(target: str, registry: Registry) -> None:
    with connect(target) as conn:
        conn.execute("UPDATE atdm.alembic_version SET version_num = '0005'")
        with pytest.raises(AtdmError, match=r"version 0005.*drop schema atdm") as caught:
            initialise(conn, registry)
        assert caught.value.code is ErrorCode.TARGET_DRIFT
        assert caught.value.details == {"version": "0005", "known": ["0001_catalog"]}


def test_a_catalog_of_the_last_version_before_the_squash_is_kept(
    target: str, registry: Registry
) -> None:
    with connect(target) as conn:
        conn.execute(
            "UPDATE atdm.alembic_version SET version_num = '0009';"
            "ALTER TABLE atdm.reset_function RENAME CONSTRAINT pk_reset_function TO pk_reset_path;"
            "ALTER TABLE atdm.reset_function RENAME TO reset_path"
        )
        assert initialise(conn, registry).migrated
        assert not initialise(conn, registry).changed


@pytest.mark.parametrize(
    "named_database", ["prod_*", "shop-production", "Live_*", "x_PROD"], indirect=True
)
def test_a_database_called_like_a_real_one_is_refused_outright(
    named_database: str, registry: Registry
) -> None:
    with connect(named_database) as conn:
        for disposable in (None, conn.info.dbname):
            with pytest.raises(AtdmError) as caught:
                initialise(conn, registry, disposable=disposable)
            assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE
        assert conn.execute("SELECT to_regnamespace('atdm')").fetchone() == (None,)


@pytest.mark.parametrize("named_database", ["products_*", "reproduction_*"], indirect=True)
def test_a_name_that_only_contains_such_letters_is_not(
    named_database: str, registry: Registry
) -> None:
    with connect(named_database) as conn:
        assert initialise(conn, registry).marked == "empty"


def test_foreign_tables_need_the_name_spelled_out(empty_database: str, registry: Registry) -> None:
    with connect(empty_database) as conn:
        name = conn.info.dbname
        conn.execute("CREATE SCHEMA shop; CREATE TABLE shop.customer (id int)")
        with pytest.raises(AtdmError) as caught:
            initialise(conn, registry)
        assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE
        assert "shop.customer" in caught.value.message
        assert f"--disposable {name}" in caught.value.message
        with pytest.raises(AtdmError) as caught:
            initialise(conn, registry, disposable=name.upper())
        assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE
        with pytest.raises(AtdmError) as caught:
            ensure_disposable(conn)
        assert caught.value.code is ErrorCode.TARGET_NOT_INITIALISED
        assert initialise(conn, registry, disposable=name).marked == "named"
        assert not initialise(conn, registry).changed


def test_the_mark_does_not_come_along_to_a_copy(
    target: str, registry: Registry, postgres_server_url: str
) -> None:
    copy = f"t_{uuid.uuid4().hex[:12]}"
    with connect(target) as conn:
        name = conn.info.dbname
    with connect(postgres_server_url) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(copy), sql.Identifier(name)
            )
        )
    try:
        with connect(with_database(postgres_server_url, copy)) as conn:
            with pytest.raises(AtdmError) as caught:
                ensure_disposable(conn)
            assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE
            with pytest.raises(AtdmError) as caught:
                initialise(conn, registry)
            assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE
            assert initialise(conn, registry, disposable=copy).marked == "named"
            ensure_disposable(conn)
    finally:
        with connect(postgres_server_url) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(copy)))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE healthcare.plan DROP COLUMN coverage_type", "plan.coverage_type: the column"),
        ("ALTER TABLE healthcare.plan ADD COLUMN extra int", "plan.extra: the table file has no"),
        (
            "ALTER TABLE healthcare.plan ALTER COLUMN effective_date TYPE timestamptz",
            "plan.effective_date: is timestamp with time zone NOT NULL, expected date NOT NULL",
        ),
        (
            "ALTER TABLE healthcare.claim ALTER COLUMN denial_reason SET NOT NULL",
            "claim.denial_reason: is text",
        ),
        (
            "ALTER TABLE healthcare.claim DROP CONSTRAINT fk_claim_member_id",
            "constraint fk_claim_member_id is missing (expected FOREIGN KEY (member_id)",
        ),
        (
            "ALTER TABLE healthcare.claim DROP CONSTRAINT ck_claim_denied_has_reason",
            "constraint ck_claim_denied_has_reason is missing",
        ),
        (
            "ALTER TABLE healthcare.member DROP CONSTRAINT ck_member_address_state_marker;"
            " ALTER TABLE healthcare.member ADD CONSTRAINT ck_member_address_state_marker"
            " CHECK (address_state <> 'XX')",
            "constraint ck_member_address_state_marker is CHECK",
        ),
        ("DROP INDEX healthcare.ix_claim_member_id", "index ix_claim_member_id is missing"),
    ],
)
def test_drift_of_the_tables_is_named_and_made_good_on_demand(
    target: str, registry: Registry, statement: str, said: str
) -> None:
    with connect(target) as conn:
        conn.execute(statement.encode())
        with pytest.raises(AtdmError) as caught:
            initialise(conn, registry)
        assert caught.value.code is ErrorCode.TARGET_DRIFT
        assert said in caught.value.message
        assert caught.value.details["rebuild_possible"] is True
        assert "--rebuild" in caught.value.message
        done = initialise(conn, registry, rebuild=True)
        assert done.rebuilt == ["healthcare"]
        assert done.reference_rows["healthcare.procedure_code"] == 4
        assert not initialise(conn, registry).changed


def test_tables_with_rows_of_runs_are_not_made_again(
    target: str, registry: Registry, tmp_path: Path
) -> None:
    with connect(target) as conn:
        seeded(conn, tmp_path, registry)
        conn.execute("ALTER TABLE healthcare.plan ADD COLUMN extra int")
        with pytest.raises(AtdmError) as caught:
            initialise(conn, registry, rebuild=True)
        assert caught.value.code is ErrorCode.TARGET_DRIFT
        assert caught.value.details["rebuild_possible"] is False
        leases.reset_all(conn, "healthcare", confirm=True)
        assert initialise(conn, registry, rebuild=True).rebuilt == ["healthcare"]


def test_tables_that_others_refer_to_are_not_made_again(target: str, registry: Registry) -> None:
    with connect(target) as conn:
        conn.execute("CREATE TABLE public.letter (member text REFERENCES healthcare.member)")
        conn.execute("ALTER TABLE healthcare.plan ADD COLUMN extra int")
        with pytest.raises(AtdmError) as caught:
            initialise(conn, registry, rebuild=True)
        assert caught.value.code is ErrorCode.TARGET_DRIFT
        assert "letter (letter_member_fkey)" in caught.value.message


def test_what_the_application_adds_beside_is_no_drift(target: str, registry: Registry) -> None:
    with connect(target) as conn:
        conn.execute(
            "CREATE INDEX own_index ON healthcare.member (last_name);"
            " CREATE TABLE healthcare.own (id int);"
            " INSERT INTO healthcare.procedure_code VALUES ('own', 'of the application', true)"
        )
        assert not initialise(conn, registry).changed


def test_a_reference_row_that_differs_is_named_and_kept(target: str, registry: Registry) -> None:
    with connect(target) as conn:
        conn.execute("UPDATE healthcare.procedure_code SET is_valid = true WHERE code = '00000'")
        conn.execute("DELETE FROM healthcare.diagnosis_code WHERE code = 'R51'")
        with pytest.raises(AtdmError) as caught:
            initialise(conn, registry)
        assert caught.value.code is ErrorCode.TARGET_DRIFT
        assert "procedure_code 00000: is_valid is True, expected False" in caught.value.message
        conn.execute("UPDATE healthcare.procedure_code SET is_valid = false WHERE code = '00000'")
        assert initialise(conn, registry).reference_rows == {"healthcare.diagnosis_code": 1}


def test_a_new_version_of_a_scenario_is_published_beside_the_old_one(
    target: str, tmp_path: Path, registry: Registry
) -> None:
    newer = changed(
        {
            "healthcare/active_member_clean.yaml": (
                "pool: {ready: 50, max_age: 1d}",
                "pool: {ready: 50, max_age: 1d}\nlease_ttl: 30m",
            ),
            "healthcare/expired_eligibility.yaml": (
                "default_constraints:",
                "default_constraints:\n  coverage_type: ppo",
            ),
        }
    )
    with connect(target) as conn:
        made = seeded(conn, tmp_path, registry, "expired_eligibility")
        done = initialise(conn, newer)
        assert "healthcare/expired_eligibility" in done.scenarios
        versions = conn.execute(
            "SELECT current FROM atdm.scenario WHERE scenario_id = 'expired_eligibility'"
            " ORDER BY current"
        ).fetchall()
        assert versions == [(False,), (True,)]
        with pytest.raises(AtdmError) as caught:
            leases.lease(conn, None, "expired_eligibility")
        assert caught.value.code is ErrorCode.NONE_READY
        assert initialise(conn, registry).scenarios
        lease = leases.lease(conn, None, "expired_eligibility")
        assert lease["request_id"] == made.request_id


def test_a_scenario_without_a_file_is_no_longer_leased(target: str, registry: Registry) -> None:
    files = [
        file
        for file in read_bundle([shipped_root()])
        if file.name != "healthcare/expired_eligibility.yaml" and "/datasets/" not in file.name
    ]
    with connect(target) as conn:
        initialise(conn, Registry.build(files))
        with pytest.raises(AtdmError) as caught:
            leases.lease(conn, None, "expired_eligibility")
        assert caught.value.code is ErrorCode.SCENARIO_NOT_FOUND


def test_an_ordinary_user_sets_up_leases_and_resets(
    empty_database: str, registry: Registry, tmp_path: Path
) -> None:
    role = f"u_{uuid.uuid4().hex[:10]}"
    with connect(empty_database) as admin:
        name = sql.Identifier(role)
        database = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEROLE").format(name))
        try:
            with connect(empty_database, user=role) as conn, pytest.raises(AtdmError) as caught:
                initialise(conn, registry)
            assert caught.value.code is ErrorCode.TARGET_NOT_INITIALISED
            assert f"GRANT CREATE, TEMPORARY ON DATABASE {admin.info.dbname} TO {role}" in (
                caught.value.message
            )
            admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, name))
            with connect(empty_database, user=role) as conn:
                assert initialise(conn, registry).marked == "empty"
                assert not initialise(conn, registry).changed
                seeded(conn, tmp_path, registry)
                lease = leases.lease(conn, None, "active_member_clean")
                done = leases.reset_run(conn, lease["test_run_id"], lease["token"])
                assert done["status"] == "cleaned"
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(name))
            admin.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": "127.0.0.1", "port": "1"}, "Is the server running there?"),
        ({"dbname": "no_such_database"}, "Create the database"),
        ({"user": "nobody_at_all"}, "Check the user and the password"),
    ],
)
def test_a_target_that_cannot_be_reached_says_what_to_do(
    postgres_server_url: str, change: dict[str, str], said: str
) -> None:
    with pytest.raises(AtdmError) as caught:
        connect(postgres_server_url, **change)
    assert caught.value.code is ErrorCode.TARGET_UNREACHABLE
    assert said in caught.value.details["advice"]


def test_a_domain_may_not_take_a_schema_of_postgresql_or_atdm(empty_database: str) -> None:
    bundle = [
        SpecFile("d", "public/domain.yaml", "description: x"),
        SpecFile(
            "t",
            "public/tables/thing.yaml",
            "description: x\nkey: id\ncolumns:\n  id: {type: text, generate: {id: t}}\n",
        ),
        SpecFile("a", "atdm.yaml", "default_domain: public"),
    ]
    with connect(empty_database) as conn, pytest.raises(AtdmError) as caught:
        initialise(conn, Registry.build(bundle))
    assert caught.value.code is ErrorCode.SPEC_INVALID


def test_an_interrupted_set_up_leaves_nothing(
    empty_database: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atdm_services.target import init

    def fail(*_: Any) -> None:
        raise psycopg.OperationalError("interrupted")

    monkeypatch.setattr(init, "publish", fail)
    with connect(empty_database) as conn:
        with pytest.raises(psycopg.OperationalError):
            initialise(conn, registry)
        assert conn.execute("SELECT to_regnamespace('atdm')").fetchone() == (None,)
        assert conn.execute("SELECT to_regnamespace('healthcare')").fetchone() == (None,)
        monkeypatch.undo()
        assert initialise(conn, registry).changed
