"""How tests ended, gathered from their outcomes: the last session decides, changes of mind show."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm.client.sync import AtdmClient, AtdmClientError
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import outcomes
from atdm_resources.catalog.outcome_histories import histories
from atdm_resources.postgres.connection import connect
from tests.support.made_requests import Made, seeded

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
DENIED = "claim_denial_active_member"
CLEAN = "active_member_clean"


@pytest.fixture
def conn(target: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def runs(conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry) -> dict[str, Made]:
    return {name: seeded(conn, tmp_path, registry, name) for name in (DENIED, CLEAN)}


def told(
    conn: psycopg.Connection[Any], runs: dict[str, Made], *events: tuple[str, str, str, str]
) -> None:
    """Record (session, test, scenario, outcome), a minute after each other."""
    outcomes.record(
        conn,
        [
            {
                "session": session,
                "nodeid": nodeid,
                "test_run_id": runs[scenario].run(1),
                "outcome": outcome,
                "duration_seconds": 0,
                "at": START + timedelta(minutes=number),
            }
            for number, (session, nodeid, scenario, outcome) in enumerate(events)
        ],
    )


def test_the_last_session_of_a_test_decides(
    conn: psycopg.Connection[Any], runs: dict[str, Made], registry: Registry
) -> None:
    told(
        conn,
        runs,
        ("s1", "t::moved", DENIED, "failed"),
        ("s1", "t::both", DENIED, "passed"),
        ("s1", "t::both", CLEAN, "passed"),
        ("s2", "t::moved", CLEAN, "passed"),
        ("s2", "t::both", DENIED, "error"),
        ("s2", "t::both", CLEAN, "skipped"),
        ("s3", "t::both", CLEAN, "skipped"),
    )
    found = {(one["nodeid"], one["scenario"]): one for one in histories(conn)}
    assert {key: one["outcome"] for key, one in found.items()} == {
        ("t::both", f"healthcare/{CLEAN}"): "skipped",
        ("t::moved", f"healthcare/{CLEAN}"): "passed",
    }
    both = found["t::both", f"healthcare/{CLEAN}"]
    assert (both["passed"], both["failed"], both["skipped"]) == (1, 0, 2)
    assert both["session"] == "s3"
    assert both["at"] == START + timedelta(minutes=6)
    assert both["test_run_id"] == runs[CLEAN].run(1)
    scenario = registry.scenario(CLEAN)
    assert both["requirement_ids"] == list(scenario.spec.linked_requirement_ids)

    of_second = histories(conn, session="s2")
    assert [(one["nodeid"], one["outcome"]) for one in of_second] == [
        ("t::both", "skipped"), ("t::both", "error"), ("t::moved", "passed"),
    ]  # fmt: skip
    assert [one["nodeid"] for one in histories(conn, session="last")] == ["t::both"]
    later = histories(conn, since=START + timedelta(minutes=4))
    assert [(one["nodeid"], one["skipped"]) for one in later] == [("t::both", 2)]
    assert histories(conn, since=START + timedelta(days=1), session="last") == []
    assert histories(conn, since=START + timedelta(days=1), session="s1") == []


@pytest.mark.parametrize("each", [True, False])
def test_who_changes_its_mind_is_flaky(
    conn: psycopg.Connection[Any], runs: dict[str, Made], each: bool
) -> None:
    stories = {
        "t::steady": ["passed", "passed"],
        "t::mended": ["passed", "failed", "passed"],
        "t::broken": ["passed", "failed", "error"],
        "t::flaky": ["passed", "failed", "passed", "error"],
        "t::rerun": ["failed", "passed"],
        "t::skipping": ["passed", "skipped", "passed", "skipped", "failed"],
    }
    told(
        conn,
        runs,
        *(
            (f"s{number}" if each and nodeid != "t::rerun" else "s", nodeid, DENIED, outcome)
            for nodeid, story in stories.items()
            for number, outcome in enumerate(story)
        ),
    )
    flaky = {one["nodeid"] for one in histories(conn) if one["flaky"]}
    within_one_session = {"t::mended", "t::broken", "t::skipping"}
    assert flaky == {"t::flaky", "t::rerun"} | (set() if each else within_one_session)


def test_an_unknown_session_is_refused(
    conn: psycopg.Connection[Any], runs: dict[str, Made]
) -> None:
    with pytest.raises(AtdmError, match="none at all"):
        histories(conn, session="nope")
    assert histories(conn, session="last") == []
    told(conn, runs, ("s1", "t", DENIED, "passed"), ("s2", "t", DENIED, "passed"))
    with pytest.raises(AtdmError, match="the latest are: s2, s1") as caught:
        histories(conn, session="nope")
    assert caught.value.code is ErrorCode.REQUEST_INVALID


def test_the_client_records_and_shows(
    conn: psycopg.Connection[Any], runs: dict[str, Made], target: str
) -> None:
    told(conn, runs, ("s1", "t::old", CLEAN, "failed"))
    outcome = {
        "session": "s2",
        "nodeid": "t::new",
        "test_run_id": runs[DENIED].run(1),
        "outcome": "passed",
        "duration_seconds": 0.5,
        "at": datetime.now(UTC),
    }
    with AtdmClient(target) as client:
        assert client.record_outcomes([outcome]) == 1
        with pytest.raises(AtdmClientError, match="outcome 0: nodeid is missing"):
            client.record_outcomes([{**outcome, "nodeid": None}])
        found = client.coverage(since="7d")
        assert client.coverage()["summary"]["tests"] == 2
    assert [test["nodeid"] for test in found["tests"]] == ["t::new"]
    assert found["summary"]["failing"] == 0
    assert found["summary"]["passing"] == found["summary"]["exercised"] > 0
