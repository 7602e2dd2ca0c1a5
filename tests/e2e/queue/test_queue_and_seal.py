"""The queue and the sealed trail from the command line, without a daemon."""

from __future__ import annotations

from atdm_engine.bundle.registry import Registry
from tests.e2e.conftest import Shell

CLEAN = "active_member_clean"


def test_a_submission_is_told_apart_by_its_key(shell: Shell) -> None:
    first = shell.json("request", CLEAN, "--enqueue", "--key", "nightly-1", "--runs", "2")
    again = shell.json("request", CLEAN, "--enqueue", "--key", "nightly-1", "--runs", "2")
    assert (first["created"], again["created"]) == (True, False)
    assert shell.json("queue", "nightly-1")["status"] == "waiting"
    other = shell.refused("request", CLEAN, "--enqueue", "--key", "nightly-1", "--runs", "3")
    assert other["code"] == "REQUEST_CONFLICT"
    assert shell.refused("claim", "nightly-1")["code"] == "NONE_READY"
    assert shell.refused("claim", "no-such-key")["code"] == "RUN_NOT_FOUND"


def test_waiting_ends_with_the_way_to_go_on(shell: Shell) -> None:
    error = shell.refused("request", CLEAN, "--enqueue", "--wait", "--timeout", "1s")
    assert error["code"] == "NONE_READY"
    assert "atdm claim" in error["message"]


def test_a_bad_submission_is_answered_at_once(shell: Shell) -> None:
    answer = shell.json("request", "active_membr_clean", "--enqueue", "--key", "misspelt")
    assert answer["status"] == "rejected"
    assert shell.refused("claim", "misspelt")["code"] == "SCENARIO_NOT_FOUND"


def test_options_of_the_queue_need_the_queue(shell: Shell) -> None:
    assert shell.run("request", CLEAN, "--wait").status == 2
    assert shell.run("request", CLEAN, "--enqueue", "--playwright").status == 2


def test_a_secret_keeps_a_submission_to_its_owner(shell: Shell) -> None:
    shell.json("request", CLEAN, "--enqueue", "--key", "mine", ATDM_OWNER_SECRET="s")
    assert shell.refused("queue", "mine")["code"] == "RUN_NOT_FOUND"
    assert shell.json("queue", "mine", ATDM_OWNER_SECRET="s")["status"] == "waiting"


def test_the_trail_is_sealed_exported_and_verified(shell: Shell, registry: Registry) -> None:
    shell.make_ready(registry, CLEAN)
    answer = shell.json("request", CLEAN)
    shell.json("reset", answer["test_run_id"], "-t", answer["cleanup"]["cleanup_token"])
    sealed = shell.json("audit-seal")
    assert sealed["sealed"] > 0
    verdict = shell.json("audit-verify")
    assert verdict["intact"] is True
    with shell.connect() as connection:
        connection.execute("ALTER TABLE atdm.audit_event DISABLE TRIGGER USER")
        row = connection.execute(
            "UPDATE atdm.audit_event SET invoker = 'human:nobody' WHERE event_id ="
            " (SELECT max(event_id) FROM atdm.audit_seal) RETURNING event_id, invoker"
        ).fetchone()
        assert row is not None
        told = shell.run("-o", "json", "audit-verify")
        connection.execute(
            "UPDATE atdm.audit_event SET invoker = 'human:tester' WHERE event_id = %s", (row[0],)
        )
        connection.execute("ALTER TABLE atdm.audit_event ENABLE TRIGGER USER")
    assert told.status == 1
    assert told.json["broken"]["event_id"] == row[0]
    assert shell.json("audit-verify")["intact"] is True
