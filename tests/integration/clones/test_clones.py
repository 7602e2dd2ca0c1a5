"""Clones: leased, named, given back, swept; what the dead and what others leave."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import clones, leases
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from atdm_resources.store.files import Store
from atdm_services.baselines import diff
from atdm_services.baselines.capture import capture
from atdm_services.baselines.manifest import Manifest
from atdm_services.clones import creation, schema_copy, teardown, templates
from atdm_services.clones.creation import CloneLease
from atdm_services.clones.lease import drop_clone, lease_clone, listed
from tests.conftest import with_database
from tests.support.clone_world import databases, dropped_after
from tests.support.made_requests import seeded

ACTOR = Actor("human:tester", "test")
DOMAIN = "healthcare"
Conn = psycopg.Connection[Any]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"ATDM_HOME": str(tmp_path), "ATDM_INVOKER": "human:tester"})


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store_url)


@pytest.fixture
def conn(target: str) -> Iterator[Conn]:
    with connect(target) as connection:
        yield connection
        dropped_after(connection)


@pytest.fixture
def captured(conn: Conn, target: str, store: Store, tmp_path: Path, registry: Registry) -> Manifest:
    """A baseline ``one`` of three runs."""
    seeded(conn, tmp_path / "made", registry, runs=3)
    return capture(target, store, DOMAIN, "one", actor=ACTOR)


@pytest.fixture
def lease(conn: Conn, target: str, settings: Settings) -> Any:
    def leased(**asked: Any) -> CloneLease:
        return lease_clone(conn, target, owner="me", settings=settings, **asked)

    return leased


def events(conn: Conn) -> list[tuple[str, str, str | None]]:
    return conn.execute(
        "SELECT action, status, outputs->>'because' FROM atdm.audit_event"
        " WHERE action ~ '^(clone|template|baseline_cloned)' ORDER BY event_id"
    ).fetchall()


def test_a_clone_is_a_database_of_its_own_in_which_leases_work(
    conn: Conn, target: str, captured: Manifest, lease: Any
) -> None:
    name = f"{conn.info.dbname}_own"
    cold = lease(database=name, ttl=timedelta(minutes=5))
    assert (cold.database, cold.baseline, cold.source) == (name, "one", "cold")
    assert cold.token not in repr(cold)
    length = cold.expires_at - datetime.now(UTC)
    assert timedelta(minutes=4) < length <= timedelta(minutes=5)
    assert diff.state_hash(cold.url, captured) == captured.content_hash
    with connect(cold.url) as own:
        run = leases.lease(own, None, "active_member_clean")
        assert leases.reset_run(own, run["test_run_id"], run["token"])["status"] == "cleaned"
    again = lease()
    assert (again.source, again.database != name) == ("template", True)
    assert [item.database for item in listed(conn, target)] == [again.database, name]
    kinds = [item.kind for item in listed(conn, target, everything=True)]
    assert sorted(kinds) == ["clone", "clone", "template"]

    for wrong, code in (
        ({"database": name}, ErrorCode.REQUEST_CONFLICT),
        ({"database": conn.info.dbname}, ErrorCode.REQUEST_CONFLICT),
        ({"database": "postgres"}, ErrorCode.REQUEST_INVALID),
        ({"database": "Upper"}, ErrorCode.REQUEST_INVALID),
        ({"database": "x" * 64}, ErrorCode.REQUEST_INVALID),
        ({"database": "x_prod"}, ErrorCode.TARGET_NOT_DISPOSABLE),
        ({"ttl": timedelta(0)}, ErrorCode.REQUEST_INVALID),
        ({"domain": "healtcare"}, ErrorCode.REQUEST_INVALID),
        ({"baseline": "two"}, ErrorCode.BASELINE_NOT_FOUND),
        ({"baseline": "../x"}, ErrorCode.REQUEST_INVALID),
    ):
        with pytest.raises(AtdmError) as caught:
            lease(**wrong)
        assert caught.value.code is code, wrong
    for database, token in ((name, "atdm_x"), (name, again.token), (conn.info.dbname, None)):
        with pytest.raises(AtdmError) as caught:
            drop_clone(conn, database=database, token=token)
        assert caught.value.code is ErrorCode.TOKEN_MISMATCH
    with connect(cold.url):  # whoever is connected is no reason to keep it
        assert drop_clone(conn, database=name, token=cold.token)["status"] == "dropped"
    given = drop_clone(conn, database=name, token=cold.token)
    assert given["status"] == "already_dropped"
    assert name not in databases(conn)
    reused = lease(database=name)
    assert (reused.database, reused.token != cold.token) == (name, True)
    tokens = conn.execute("SELECT string_agg(e::text, '') FROM atdm.audit_event AS e").fetchone()
    assert tokens is not None
    assert cold.token not in tokens[0]


def test_without_a_baseline_a_clone_is_initialised_and_holds_no_runs(
    conn: Conn, target: str, lease: Any, registry: Registry
) -> None:
    made = lease()
    assert (made.baseline, made.source) == (None, "cold")
    with connect(made.url) as own:
        counts = own.execute(
            "SELECT (SELECT count(*) FROM atdm.test_run), (SELECT count(*) FROM atdm.scenario),"
            " (SELECT database_name FROM atdm.target)"
        ).fetchone()
    assert counts == (0, len(registry.scenarios), made.database)
    assert lease(baseline="empty").source == "template"


def test_clones_past_their_time_are_swept_and_nothing_else_of_their_name(
    conn: Conn, target: str, lease: Any
) -> None:
    over, lives, replaced = (lease(baseline="empty") for _ in range(3))
    assert teardown.sweep(conn) == []
    conn.execute(
        "UPDATE atdm.clone SET expires_at = now() - interval '1 s' WHERE database_name = ANY (%s)",
        ([over.database, replaced.database],),
    )
    # Its holder dropped it and somebody else took the name; ATDM's own names aside, which say it.
    named = f"{conn.info.dbname}_theirs"
    conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(replaced.database)))
    conn.execute(
        "UPDATE atdm.clone SET database_name = %s WHERE database_name = %s",
        (named, replaced.database),
    )
    conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(named)))
    try:
        gone = teardown.sweep(conn)
        assert {item.database for item in gone} == {over.database, named}
        there = conn.execute("SELECT FROM pg_database WHERE datname = %s", (named,)).fetchone()
        assert there is not None
    finally:
        conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(named)))
    assert over.database not in databases(conn)
    assert lives.database in databases(conn)
    assert events(conn)[-2:] == [("clone_dropped", "expired", "its time is over")] * 2


def test_a_thorough_sweep_drops_what_nobody_needs(conn: Conn, target: str, lease: Any) -> None:
    made = lease(baseline="empty")
    prefix = f"{clones.CLONE_PREFIX}{conn.info.dbname[-8:]}"
    for name in (f"{prefix}_ours", f"{prefix}_theirs"):
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        conn.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                sql.Identifier(f"{prefix}_ours"), sql.Literal(clones.comment_of(conn))
            )
        )
        assert [(g.database, g.because) for g in teardown.sweep(conn, thorough=True)] == [
            (f"{prefix}_ours", "it has no owner")
        ]
        conn.execute("UPDATE atdm.clone SET fingerprint = 'older'")
        (template,) = teardown.sweep(conn, thorough=True)
        assert template.kind == "template"
        assert databases(conn) == {made.database}
        there = conn.execute(
            "SELECT FROM pg_database WHERE datname = %s", (f"{prefix}_theirs",)
        ).fetchone()
        assert there is not None
    finally:
        conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(f"{prefix}_theirs")))


def test_many_at_once_make_one_template(
    conn: Conn, target: str, captured: Manifest, settings: Settings
) -> None:
    def leased(number: int) -> CloneLease:
        with connect(target) as own:
            return lease_clone(own, target, owner=f"o{number}", settings=settings)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(leased, range(4)))
    assert len({item.database for item in made}) == 4
    assert sorted(item.source for item in made) == ["cold", "template", "template", "template"]
    kinds = [item.kind for item in listed(conn, target, everything=True)]
    assert kinds.count("template") == 1


def test_a_user_without_the_right_is_told_what_it_takes(
    conn: Conn, target: str, settings: Settings
) -> None:
    role = f"r_{conn.info.dbname[-8:]}"
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    try:
        conn.execute(
            sql.SQL(
                "GRANT USAGE ON SCHEMA atdm TO {0}; GRANT ALL ON ALL TABLES IN SCHEMA atdm TO {0};"
                " GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA atdm TO {0};"
                " GRANT ALL ON ALL SEQUENCES IN SCHEMA atdm TO {0}"
            ).format(sql.Identifier(role))
        )
        url = target.replace("postgres@", f"{role}@")
        with connect(url) as theirs, pytest.raises(AtdmError) as caught:
            lease_clone(theirs, url, baseline="empty", owner="me", settings=settings)
        assert caught.value.code is ErrorCode.CLONE_FAILED
        assert f"ALTER ROLE {role} CREATEDB" in caught.value.message
        assert conn.execute("SELECT count(*) FROM atdm.clone").fetchone() == (0,)
    finally:
        conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def test_a_template_that_is_dropped_meanwhile_is_looked_for_again(
    conn: Conn, lease: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = templates.ready_template
    found: list[clones.Template] = []

    def dropped_the_first_time(*arguments: Any, **options: Any) -> clones.Template:
        found.append(find(*arguments, **options))
        if len(found) == 1:
            teardown.drop(conn, found[0].database, because="x", actor=ACTOR)
        return found[-1]

    monkeypatch.setattr(templates, "ready_template", dropped_the_first_time)
    assert lease(baseline="empty").source == "cold"
    assert [template.made for template in found] == [True, True]
    assert conn.execute("SELECT count(*) FROM atdm.clone WHERE status = 'making'").fetchone() == (
        0,
    )


def test_a_copy_that_fails_leaves_nothing_behind(
    conn: Conn, lease: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease(baseline="empty")
    before = databases(conn)

    def fails(url: str) -> None:
        raise AtdmError(ErrorCode.TARGET_UNREACHABLE, "gone")

    monkeypatch.setattr(creation, "mark_as_target", fails)
    with pytest.raises(AtdmError, match="gone"):
        lease(baseline="empty")
    assert databases(conn) == before
    statuses = conn.execute("SELECT status FROM atdm.clone WHERE status = 'making'").fetchall()
    assert statuses == []


_APPLICATION = """
CREATE TYPE public.mood AS ENUM ('calm', 'upset');
CREATE TABLE public.ward (ward_id int PRIMARY KEY);
CREATE TABLE healthcare.note (
    note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    member_id text NOT NULL REFERENCES healthcare.member (member_id),
    mood public.mood NOT NULL DEFAULT 'calm', body text CHECK (body <> ''));
CREATE FUNCTION healthcare.shout() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN NEW.body := upper(NEW.body); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE UPDATE ON healthcare.note
    FOR EACH ROW EXECUTE FUNCTION healthcare.shout();
CREATE VIEW healthcare.upset AS SELECT member_id FROM healthcare.note WHERE mood = 'upset';
INSERT INTO healthcare.note (member_id, mood, body)
    SELECT member_id, 'upset', 'said so' FROM healthcare.member LIMIT 2;
INSERT INTO public.ward VALUES (1);
"""


def test_tables_of_the_application_come_along(
    conn: Conn,
    target: str,
    store: Store,
    lease: Any,
    tmp_path: Path,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded(conn, tmp_path / "made", registry, runs=2)
    conn.execute(_APPLICATION.encode())
    captured = capture(target, store, DOMAIN, "app", actor=ACTOR)
    with monkeypatch.context() as patch:
        patch.setattr(schema_copy, "clients", lambda major: None)
        with pytest.raises(AtdmError) as caught:
            lease(baseline="app")
    assert caught.value.code is ErrorCode.CLONE_FAILED
    assert "note" in caught.value.message
    assert databases(conn) == set()
    made = lease(baseline="app")
    assert diff.state_hash(made.url, captured) == captured.content_hash
    with connect(made.url) as own:
        own.execute("UPDATE healthcare.note SET body = 'now'")
        told = own.execute(
            "SELECT (SELECT string_agg(DISTINCT body, ',') FROM healthcare.note),"
            " (SELECT count(*) FROM healthcare.upset), (SELECT count(*) FROM public.ward)"
        ).fetchone()
        assert told == ("NOW", 2, 0)
        (next_id,) = own.execute(
            "INSERT INTO healthcare.note (member_id)"
            " SELECT member_id FROM healthcare.member LIMIT 1 RETURNING note_id"
        ).fetchone() or (None,)
        assert next_id == 3
        run = leases.lease(own, None, "active_member_clean")
        assert leases.reset_run(own, run["test_run_id"], run["token"])["status"] == "cleaned"
        # What only the catalog's owner may do, nobody else may do in the copy.
        may = own.execute(
            "SELECT has_function_privilege('atdm_client', 'atdm.lease(text,text,jsonb,text,"
            "interval,bytea,interval,text,text)', 'EXECUTE'), count(*) FROM pg_proc AS p"
            " WHERE pronamespace = 'atdm'::regnamespace AND proname = 'reclaim'"
            " AND has_function_privilege('public', p.oid, 'EXECUTE')"
        ).fetchone()
        assert may == (True, 0)


_CHILD = """
import os, signal, sys
from atdm_services.clones import creation, lease
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
phase, url, home = sys.argv[1:]

def dies_after(name):
    function = getattr(creation, name)
    def call(*arguments, **options):
        done = function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return done
    setattr(creation, name, call)

dies_after(phase)
settings = Settings.from_environment({"ATDM_HOME": home})
with connect(url) as conn:
    lease.lease_clone(conn, url, baseline="empty", owner="killed", settings=settings)
"""


@pytest.mark.parametrize("phase", ["create", "mark_as_target"])
def test_what_a_killed_process_was_making_is_never_used_and_swept(
    conn: Conn, target: str, settings: Settings, lease: Any, phase: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, phase, target, str(settings.home)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    kind = "clone" if phase == "mark_as_target" else "template"
    # Whoever comes next gets a whole one, whether or not somebody has swept before.
    if kind == "template":
        assert lease(baseline="empty").source == "cold"
        assert teardown.sweep(conn) == []
    else:
        (dead,) = teardown.sweep(conn)
        assert (dead.kind, dead.because) == ("clone", "its process is gone")
        assert lease(baseline="empty").source == "template"
    rows = conn.execute("SELECT kind, status FROM atdm.clone WHERE status <> 'dropped'").fetchall()
    assert sorted(rows) == [("clone", "leased"), ("template", "ready")]
    assert len(databases(conn)) == 2


def test_a_server_url_of_another_database_makes_the_same_sibling(postgres_server_url: str) -> None:
    url = with_database(postgres_server_url, "a")
    assert creation.sibling(url, "b") == with_database(postgres_server_url, "b")
