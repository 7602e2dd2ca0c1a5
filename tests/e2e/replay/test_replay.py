"""A kept failing run made again in a second, empty target; its outcome in the coverage."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_engine.hashing.content import combined
from atdm_engine.replay.regeneration import recorded_request, regenerate_run
from atdm_resources.catalog import leases, outcomes
from atdm_resources.postgres.connection import connect
from atdm_services.replay.load import read_back_hashes, recorded
from tests.conftest import with_database
from tests.e2e.conftest import Shell

SCENARIO = "claim_denial_active_member"
OWN_NAME = "replayed_member"
OWN = f"""\
scenario_id: {OWN_NAME}
description: One member.
domain: healthcare
linked_requirement_ids: [FR-777]
rows: {{plan: 1, member: 1}}
"""


@pytest.fixture
def second(shell: Shell) -> Iterator[str]:
    """The URL of an empty database beside the target."""
    name = f"second_{uuid.uuid4().hex[:8]}"
    with shell.connect() as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield with_database(shell.url, name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def rows_of_runs(url: str) -> int:
    """Rows of test runs in all tables of all domains."""
    with connect(url) as conn:
        tables = conn.execute("SELECT schema_name, table_name FROM atdm.domain_table").fetchall()
        total = 0
        for schema, table in tables:
            query = sql.SQL("SELECT count(*) FROM {} WHERE test_run_id IS NOT NULL")
            row = conn.execute(query.format(sql.Identifier(schema, table))).fetchone()
            total += row[0] if row else 0
    return total


def give_back(shell: Shell, kept: dict[str, Any]) -> None:
    with connect(shell.url) as conn:
        leases.reset_run(conn, kept["test_run_id"], kept["cleanup"]["cleanup_token"])


def content_hash(url: str, run: str, registry: Registry) -> str:
    """The hash of the run's rows as that database holds them."""
    with connect(url) as conn:
        original = recorded(conn, run)
        made = regenerate_run(recorded_request(registry, original), original.run_number)
        return combined(read_back_hashes(conn, made))


def test_a_kept_failing_run_is_the_same_in_a_second_empty_target(
    shell: Shell, second: str, registry: Registry
) -> None:
    kept = shell.json("request", SCENARIO, "-c", "denial_reason=not_covered", "--ttl", "1h")
    run = kept["test_run_id"]
    session = f"e2e-{uuid.uuid4().hex[:8]}"
    with connect(shell.url) as conn:
        outcomes.record(
            conn,
            [
                {
                    "test_run_id": run,
                    "nodeid": "tests/test_denial.py::test_denial",
                    "outcome": "failed",
                    "duration_seconds": 1.5,
                    "session": session,
                    "at": datetime.now(UTC),
                }
            ],
        )

    refused = shell.refused("replay", run)
    assert refused["code"] == "REQUEST_CONFLICT"
    assert "--into" in refused["details"]["hint"]

    answer = shell.json("replay", run, "--into", second)
    done = answer["replay"]
    assert (answer["test_run_id"], answer["data"]) == (run, kept["data"])
    assert done["content_hash"] == content_hash(shell.url, run, registry)
    assert done["content_hash"] == content_hash(second, run, registry)
    assert done["content_hash"] == done["request_content_hash"]
    assert done["request_proved"] is True
    assert rows_of_runs(second) == shell.total_rows(run) > 0

    trail = shell.json("audit", run, ATDM_DATABASE_URL=second)
    assert [event["action"] for event in trail["events"]] == [
        "request_received", "leased", "replayed",
    ]  # fmt: skip
    token = answer["cleanup"]["cleanup_token"]
    reset = shell.json("reset", run, "--token", token, ATDM_DATABASE_URL=second)
    assert reset["status"] == "cleaned"
    assert rows_of_runs(second) == 0

    html = shell.folder / "coverage.html"
    found = shell.run(
        "-o", "json", "coverage", "--session", session, "--html", str(html), "--fail-under", "1"
    )
    assert found.status == 1
    summary = found.json["summary"]
    assert (summary["failing"], summary["passing"]) == (summary["exercised"], 0)
    assert summary["failing"] > 0
    assert found.json["fail_under"] == {"asked_for": 1, "held": False}
    assert "are passing, 1 % are asked for" in found.err
    assert run in html.read_text(encoding="utf-8")
    give_back(shell, kept)


def test_a_changed_file_is_named_and_the_target_may_be_gone(shell: Shell, second: str) -> None:
    folder = shell.folder / "scenarios"
    folder.mkdir()
    file = folder / "own.yaml"
    file.write_text(OWN, encoding="utf-8")
    own = Shell(shell.home, shell.folder, {"ATDM_SCENARIO_PATH": str(folder)})
    kept = own.json("request", OWN_NAME, "--ttl", "1h")
    run = kept["test_run_id"]
    spec = own.folder / "run.json"
    printed = own.run("replay", run, "--print-spec")
    spec.write_text(printed.out, encoding="utf-8")
    assert json.loads(printed.out)["test_run_id"] == run

    file.write_text(OWN.replace("member: 1", "member: 2"), encoding="utf-8")
    refused = own.refused("replay", run, "--into", second)
    assert refused["code"] == "REQUEST_CONFLICT"
    assert refused["details"]["changes"] == ["scenario changed"]
    assert "atdm request healthcare/replayed_member --seed" in refused["details"]["hint"]

    file.write_text(OWN.replace("One member", "A member"), encoding="utf-8")
    answer = own.run("replay", "--spec", str(spec), ATDM_DATABASE_URL=second)
    assert answer.status == 0, answer.err
    assert f"test run  {run}" in answer.out
    assert "database  " in answer.out
    assert ": 1 plan, 1 member\n" in answer.out
    assert own.run("replay").status == 2
    assert own.run("replay", "--spec", str(spec), "--print-spec").status == 2
    give_back(shell, kept)
    with shell.connect() as conn:
        conn.execute("UPDATE atdm.scenario SET current = false WHERE scenario_id = %s", (OWN_NAME,))
