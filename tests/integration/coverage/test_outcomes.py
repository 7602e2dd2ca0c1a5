"""Recording how tests ended: what is stored, what is refused, who may."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import outcomes
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services import retention
from atdm_services.requests.request import mint_request_id
from atdm_services.retention import Retention
from tests.support.made_requests import Made, seeded

AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SCENARIO = "claim_denial_active_member"


@pytest.fixture
def conn(target: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def made(conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry) -> Made:
    return seeded(conn, tmp_path, registry, SCENARIO, runs=2)


def outcome(run: str, **changes: Any) -> dict[str, Any]:
    return {
        "test_run_id": run,
        "nodeid": "tests/test_a.py::test_one",
        "outcome": "passed",
        "duration_seconds": 0.25,
        "session": "s1",
        "at": AT,
        **changes,
    }


def of_runs(conn: psycopg.Connection[Any], first: str, last: str) -> list[dict[str, Any]]:
    """What is stored of runs, oldest first."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT session, nodeid, test_run_id, outcome, duration_seconds, at, domain,"
            " scenario_id, scenario_version, requirement_ids, seed FROM atdm.test_outcome"
            " WHERE test_run_id >= %s AND test_run_id <= %s ORDER BY at, outcome_id",
            (first, last),
        ).fetchall()
    return [{**row, "at": row["at"].astimezone(UTC)} for row in found]


def test_an_outcome_is_stored_with_what_the_run_was(
    conn: psycopg.Connection[Any], made: Made, registry: Registry
) -> None:
    scenario = registry.scenario(SCENARIO)

    assert outcomes.record(conn, [outcome(made.run(1)), outcome(made.run(2))]) == 2

    (stored,) = of_runs(conn, made.run(2), made.run(2))
    assert stored == {
        **outcome(made.run(2)),
        "domain": scenario.domain,
        "scenario_id": scenario.name,
        "scenario_version": scenario.version,
        "requirement_ids": list(scenario.spec.linked_requirement_ids),
        "seed": made.spec.seed,
    }
    assert stored["requirement_ids"]


def test_requirements_are_those_of_the_time(conn: psycopg.Connection[Any], made: Made) -> None:
    outcomes.record(conn, [outcome(made.run(1))])
    conn.execute("UPDATE atdm.scenario SET linked_requirement_ids = '{FR-999}'")
    outcomes.record(conn, [outcome(made.run(1), session="s2")])

    before, after = of_runs(conn, made.run(1), made.run(1))
    assert "FR-999" not in before["requirement_ids"]
    assert after["requirement_ids"] == ["FR-999"]


def test_what_was_recorded_before_is_nothing_new(conn: psycopg.Connection[Any], made: Made) -> None:
    one = outcome(made.run(1))
    assert outcomes.record(conn, [one, one]) == 1
    assert outcomes.record(conn, [one, outcome(made.run(1), at=AT + timedelta(seconds=1))]) == 1
    assert len(of_runs(conn, made.run(1), made.run(2))) == 2


def test_unknown_runs_are_named_and_the_others_recorded(
    conn: psycopg.Connection[Any], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "MOST", 2)
    stranger = mint_request_id()[:-1] + "1"
    with pytest.raises(AtdmError) as caught:
        outcomes.record(
            conn,
            [outcome(stranger), outcome("x" * 300), outcome(made.run(1), at="2026-05-04T00:00")],
        )
    assert caught.value.code is ErrorCode.RUN_NOT_FOUND
    assert caught.value.details == {"unknown": sorted([stranger, "x" * 64]), "recorded": 1}
    (stored,) = of_runs(conn, made.run(1), made.run(1))
    assert stored["at"] == datetime(2026, 5, 4, tzinfo=UTC)


def test_a_run_in_a_clone_counts_for_the_version_that_is_published(
    conn: psycopg.Connection[Any], made: Made, registry: Registry
) -> None:
    scenario = registry.scenario(SCENARIO)
    elsewhere, other = mint_request_id()[:-1] + "1", mint_request_id()[:-1] + "2"
    told = outcome(elsewhere, scenario=scenario.key, seed=2**63 - 1)
    with pytest.raises(AtdmError) as caught:
        outcomes.record(conn, [told, told, outcome(other, scenario="healthcare/no_such", seed=1)])
    assert caught.value.details == {"unknown": [other], "recorded": 1}
    (stored,) = of_runs(conn, elsewhere, elsewhere)
    assert stored == {
        **outcome(elsewhere),
        "domain": scenario.domain,
        "scenario_id": scenario.name,
        "scenario_version": scenario.version,
        "requirement_ids": list(scenario.spec.linked_requirement_ids),
        "seed": 2**63 - 1,
    }
    # What the catalog knows of a run outweighs what is told of it.
    outcomes.record(conn, [outcome(made.run(1), scenario="healthcare/no_such", seed=1)])
    (known,) = of_runs(conn, made.run(1), made.run(1))
    assert (known["scenario_id"], known["seed"]) == (SCENARIO, made.spec.seed)


WRONG = [
    ({"outcome": "xpassed"}, "outcome is xpassed; allowed: passed, failed, error, skipped"),
    ({"outcome": None}, "outcome is missing"),
    ({"nodeid": ""}, "nodeid must have 1 to 2000 characters"),
    ({"nodeid": "n" * 2001}, "nodeid must have 1 to 2000 characters"),
    ({"nodeid": 7}, "nodeid must be text"),
    ({"session": "s" * 201}, "session must have 1 to 200 characters"),
    ({"duration_seconds": -0.1}, "duration_seconds must be a number from 0 to 10000000"),
    ({"duration_seconds": "1"}, "duration_seconds must be a number from 0 to 10000000"),
    ({"duration_seconds": True}, "duration_seconds must be a number from 0 to 10000000"),
    ({"duration_seconds": 1e300}, "duration_seconds must be a number from 0 to 10000000"),
    ({"at": "yesterday"}, "at must be a timestamp like 2026-01-31T12:00:00Z"),
    ({"at": "2026-13-45T00:00:00Z"}, "at must be a timestamp like 2026-01-31T12:00:00Z"),
    (
        {"token": "t"},
        "unknown field token; known: at, duration_seconds, nodeid, outcome, session, test_run_id,"
        " scenario, seed",
    ),
    ({"seed": 7}, "scenario and seed are given together, or neither is"),
    ({"scenario": SCENARIO}, "scenario and seed are given together, or neither is"),
    (
        {"scenario": 7, "seed": 7},
        "scenario must be text like healthcare/active_member_clean",
    ),
    *(
        (
            {"scenario": SCENARIO, "seed": seed},
            "seed must be a whole number from 0 to 9223372036854775807",
        )
        for seed in (-1, 0.5, "7", 2**63)
    ),
]


def test_every_wrong_outcome_is_named_and_nothing_recorded(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    wrong = [outcome(made.run(1), **changes) for changes, _ in WRONG]
    with pytest.raises(AtdmError, match="outcome 1: ") as caught:
        outcomes.record(conn, [outcome(made.run(1)), *wrong])
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert caught.value.details["problems"] == [
        {"place": place, "problem": said} for place, (_, said) in enumerate(WRONG, 1)
    ]
    assert of_runs(conn, made.run(1), made.run(2)) == []


def test_a_problem_has_its_place_in_the_whole(
    conn: psycopg.Connection[Any], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "MOST", 2)
    good = [outcome(made.run(1), session=f"s{number}") for number in range(3)]
    with pytest.raises(AtdmError, match="outcome 3: nodeid is missing") as caught:
        outcomes.record(conn, [*good, outcome(made.run(1), nodeid=None)])
    assert caught.value.details["problems"][0]["place"] == 3


def test_what_postgresql_cannot_hold_is_refused(conn: psycopg.Connection[Any]) -> None:
    for changes in (
        {"duration_seconds": math.nan},
        {"duration_seconds": object()},
        {"nodeid": "a\0b"},
        {"nodeid": "\ud800"},
    ):
        with pytest.raises(AtdmError, match="cannot be recorded") as caught:
            outcomes.record(conn, [outcome("run", **changes)])
        assert caught.value.code is ErrorCode.REQUEST_INVALID
    for sent in ("{}", "null", "3"):
        with pytest.raises(psycopg.Error, match="must be a JSON array"):
            conn.execute("SELECT atdm.record_outcomes(%s::jsonb)", (sent,))
    assert outcomes.record(conn, []) == 0


def test_a_client_may_record_and_not_read(
    conn: psycopg.Connection[Any], made: Made, target: str
) -> None:
    name = f"tester_{uuid.uuid4().hex[:8]}"
    role = sql.Identifier(name)
    conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN IN ROLE atdm_client").format(role))
    try:
        with connect(target) as client:
            client.execute(sql.SQL("SET ROLE {}").format(role))
            assert outcomes.record(client, [outcome(made.run(1))]) == 1
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                of_runs(client, made.run(1), made.run(1))
    finally:
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_without_a_catalog_it_says_what_to_do(empty_database: str) -> None:
    with connect(empty_database) as conn, pytest.raises(AtdmError, match="atdm init") as caught:
        outcomes.record(conn, [outcome("x")])
    assert caught.value.code is ErrorCode.TARGET_NOT_INITIALISED


def test_retention_deletes_old_outcomes(
    conn: psycopg.Connection[Any], made: Made, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    old, new = now - timedelta(days=91), now - timedelta(days=89)
    outcomes.record(conn, [outcome(made.run(1), at=old), outcome(made.run(1), at=new)])

    deleted = retention.delete_old(conn, Store(tmp_path.as_uri()), Retention(), now)

    assert deleted["outcomes"] == 1
    (kept,) = of_runs(conn, made.run(1), made.run(1))
    assert kept["at"] == new
    everything = Retention.from_environment({retention.VARIABLE: "outcomes=0s"})
    assert retention.delete_old(conn, Store(tmp_path.as_uri()), everything, now)["outcomes"] == 1
