"""``atdm`` as a person and a CI job use it: the way through, and what is printed where."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from tests.e2e.conftest import ATDM, Shell, take_interrupts

SCENARIO = "active_member_clean"
COMMANDS = (
    *("init", "up", "down", "status", "env", "schema", "scenarios", "request", "reset"),
    *("reset-all", "audit", "catalog", "demo"),
)
TRAIL = (
    "request_received",
    "plan_resolved",
    "seed_started",
    "validators_passed",
    "seed_completed",
    "catalog_recorded",
    "leased",
    "fixtures_emitted",
    "reset_started",
    "reset_completed",
)


def ended(pid: int) -> bool:
    """Whether a process is gone; one that its parent has yet to collect counts."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return shown in ("", "Z", "Zs")


def contains_in_order(found: list[str], wanted: tuple[str, ...]) -> bool:
    rest = iter(found)
    return all(name in rest for name in wanted)


def test_request_use_reset_audit(shell: Shell) -> None:
    answer = shell.json("request", SCENARIO, "--playwright", "--pytest", "--seed", "11")

    assert {
        "request_id",
        "test_run_id",
        "scenario_id",
        "status",
        "data",
        "fixtures",
        "cleanup",
    } <= (set(answer))
    assert (answer["scenario_id"], answer["status"], answer["seed"]) == (SCENARIO, "ready", 11)
    run = answer["test_run_id"]
    assert answer["request_id"] == run[:20] + "000000"
    assert answer["data"]["member_id"] == f"m-{run}"
    made = shell.rows_by_table(run)
    assert {name for name, count in made.items() if count} == {
        f"healthcare.{name}" for name in ("plan", "provider", "member", "eligibility", "claim")
    }

    for path in answer["fixtures"].values():
        assert Path(path).is_absolute()
        assert Path(path).parent == shell.folder / "automation" / "fixtures"
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    fixture = json.loads(Path(answer["fixtures"]["playwright"]).read_text(encoding="utf-8"))
    assert fixture["cleanup"] == answer["cleanup"]
    assert fixture["data"] == answer["data"]

    token = answer["cleanup"]["cleanup_token"]
    assert answer["cleanup"]["command"] == f"atdm reset {run} --token {token}"
    done = shell.json("reset", run, "--token", token)
    assert done["status"] == "cleaned"
    assert done["deleted"]["claim"] == 1
    assert shell.total_rows(run) == 0
    assert shell.json("reset", run, "-t", token)["status"] == "already_cleaned"

    trail = shell.json("audit", run)
    actions = [event["action"] for event in trail["events"]]
    assert contains_in_order(actions, TRAIL), actions
    assert trail["invoker"] == "human:tester"
    assert trail["reset_status"] == "cleaned"
    assert trail["planner_mode"]
    assert trail["plan"]["scenario_id"] == SCENARIO
    assert {d["decision"] for d in trail["validator_decisions"]} == {"passed"}
    assert {"table": "member", "pk": f"m-{run}"} in trail["records_created"]
    assert sorted(f["kind"] for f in trail["fixtures_emitted"]) == ["playwright", "pytest"]
    assert trail["duration_ms"] > 0
    assert trail["dagster"]["status"] == "SUCCESS"
    assert token not in json.dumps(trail)


def test_a_ready_run_is_leased_instead_of_made(shell: Shell) -> None:
    constraints = ("-c", "coverage_type=hmo")
    made = shell.json("request", SCENARIO, "--no-lease", "--runs", "2", *constraints)
    assert made["ready_runs"] == 2
    assert "cleanup" not in made

    first = shell.json("request", SCENARIO, *constraints)
    second = shell.json("request", f"healthcare/{SCENARIO}", *constraints)
    assert {first["test_run_id"], second["test_run_id"]} == {
        made["first_test_run_id"],
        made["last_test_run_id"],
    }
    third = shell.json("request", SCENARIO, *constraints)
    assert third["request_id"] != made["request_id"]
    for answer in (first, second, third):
        shell.json("reset", answer["test_run_id"], "-t", answer["cleanup"]["cleanup_token"])


def test_several_runs_at_once(shell: Shell) -> None:
    answer = shell.json("request", SCENARIO, "--runs", "3", "--pytest")

    assert len(answer["runs"]) == 3
    runs = [run["test_run_id"] for run in answer["runs"]]
    assert len(set(runs)) == 3
    assert {run["request_id"] for run in answer["runs"]} == {answer["request_id"]}
    assert len({run["cleanup"]["cleanup_token"] for run in answer["runs"]}) == 3
    assert all(Path(run["fixtures"]["pytest"]).exists() for run in answer["runs"])
    for run in answer["runs"]:
        shell.json("reset", run["test_run_id"], "-t", run["cleanup"]["cleanup_token"])
    assert sum(shell.total_rows(run) for run in runs) == 0


def test_equal_seeds_give_equal_data_and_ids_of_their_own(shell: Shell) -> None:
    options = ("--seed", "5", "--as-of", "2026-01-31")
    first = shell.json("request", SCENARIO, *options)
    second = shell.json("request", SCENARIO, *options)

    assert first["as_of"].startswith("2026-01-31T00:00:00")
    assert first["test_run_id"] != second["test_run_id"]
    hashes = {
        shell.json("audit", answer["request_id"])["content_hash"] for answer in (first, second)
    }
    assert len(hashes) == 1
    for answer in (first, second):
        shell.json("reset", answer["test_run_id"], "-t", answer["cleanup"]["cleanup_token"])


def test_a_label_names_the_request_also_in_the_catalog(shell: Shell) -> None:
    answer = shell.json("request", SCENARIO, "--id", "nightly-1", "--reason", "nightly suite")
    trail = shell.json("audit", "nightly-1")
    assert trail["request_id"] == answer["request_id"]
    assert trail["label"] == "nightly-1"
    assert trail["reason"] == "nightly suite"
    error = shell.refused("request", SCENARIO, "--id", "nightly-1")
    assert error["code"] == "REQUEST_CONFLICT"

    scenarios = {row["scenario_id"]: row for row in shell.json("catalog", "scenarios")}
    assert scenarios[SCENARIO]["linked_requirement_ids"] == ["FR-001", "FR-005", "FR-010"]
    assert scenarios[SCENARIO]["leased"] >= 1
    runs = ("catalog", "runs", "--scenario", SCENARIO, "--limit", "1")
    listed = shell.json(*runs)
    assert [row["test_run_id"] for row in listed["runs"]] == [answer["test_run_id"]]
    requests = shell.json("catalog", "requests", "--scenario", SCENARIO, "--limit", "1")
    assert [row["label"] for row in requests["requests"]] == ["nightly-1"]
    assert SCENARIO in shell.run(*runs).out
    page = shell.run("audit", answer["test_run_id"], "--html", "-").out
    assert page.startswith("<!DOCTYPE html>")
    assert "12 checks passed" in page
    assert answer["cleanup"]["cleanup_token"] not in page
    shell.json("reset", answer["test_run_id"], "-t", answer["cleanup"]["cleanup_token"])


def test_an_owner_gives_everything_back(shell: Shell, registry: Registry) -> None:
    shell.make_ready(registry, SCENARIO, 3)
    owner = ("--owner", "ci-job-7")
    secret = {"ATDM_OWNER_SECRET": "s3cret"}
    runs = [shell.json("request", SCENARIO, *owner, **secret)["test_run_id"] for _ in range(2)]
    other = shell.json("request", SCENARIO, "--owner", "another owner")

    assert shell.refused("reset", *owner, ATDM_OWNER_SECRET="wrong")["code"] == "TOKEN_MISMATCH"
    done = shell.json("reset", *owner, **secret)

    assert sorted(done["runs"]) == sorted(runs)
    assert sum(shell.total_rows(run) for run in runs) == 0
    assert shell.total_rows(other["test_run_id"]) == 5
    assert shell.json("reset", *owner, **secret)["runs"] == []
    shell.json("reset", other["test_run_id"], "-t", other["cleanup"]["cleanup_token"])


def test_a_role_that_may_only_lease(shell: Shell, registry: Registry) -> None:
    """A CI job's user can call what a lease and a reset need, and read or write nothing else."""
    shell.make_ready(registry, SCENARIO)
    with shell.connect() as connection:
        connection.execute("CREATE ROLE ci LOGIN IN ROLE atdm_client")
    url = {"ATDM_DATABASE_URL": shell.url.replace("postgres@", "ci@", 1)}

    answer = shell.json("request", SCENARIO, "--pytest", **url)
    assert shell.total_rows(answer["test_run_id"]) == 5
    with psycopg.connect(url["ATDM_DATABASE_URL"]) as connection:
        for query in ("SELECT * FROM atdm.test_run", "SELECT * FROM healthcare.member"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query)
            connection.rollback()
    done = shell.json(
        "reset", answer["test_run_id"], "-t", answer["cleanup"]["cleanup_token"], **url
    )
    assert done["status"] == "cleaned"
    trail = shell.json("audit", answer["test_run_id"])
    assert [fixture["kind"] for fixture in trail["fixtures_emitted"]] == ["pytest"]


def test_reset_all_needs_confirmation_and_respects_leases(shell: Shell, registry: Registry) -> None:
    shell.make_ready(registry, SCENARIO)
    answer = shell.json("request", SCENARIO, "--owner", "busy-owner")

    refused = shell.run("-o", "json", "reset-all")
    assert (refused.status, refused.code) == (2, "CONFIRM_REQUIRED")
    error = shell.refused("reset-all", "--confirm")
    assert error["code"] == "BUSY"
    assert "busy-owner" in json.dumps(error)
    assert shell.total_rows(answer["test_run_id"]) == 5

    done = shell.json("reset-all", "--confirm", "--revoke-leases")
    assert done["status"] == "cleaned"
    assert shell.total_rows() == 0
    with shell.connect() as connection:
        kept = connection.execute("SELECT count(*) FROM healthcare.procedure_code").fetchone()
    assert kept is not None
    assert kept[0] >= 4


def test_a_scenario_that_breaks_its_rules_on_purpose(shell: Shell) -> None:
    before = shell.total_rows()
    answer = shell.json("request", "contradictory_eligibility")

    assert answer["status"] == "rejected"
    assert answer["expected"] is True
    assert answer["violates"] == ["relational.eligibility_status_matches_member"]
    assert answer["cleanup"] is None
    assert shell.total_rows() == before
    human = shell.run("request", "contradictory_eligibility")
    assert human.status == 0
    assert "relational.eligibility_status_matches_member" in human.out
    trail = shell.json("audit", answer["request_id"])
    assert "plan_rejected" in [event["action"] for event in trail["events"]]


def test_human_output_can_be_copied(shell: Shell) -> None:
    answer = shell.run("request", SCENARIO)
    assert answer.status == 0, answer.err
    command = answer.out.rsplit("give back ", 1)[1].split()
    assert command[:2] == ["atdm", "reset"]
    done = shell.run(*command[1:])
    assert done.status == 0
    assert done.out.startswith("cleaned ")
    shown = shell.run("audit", command[2])
    assert shown.status == 0
    assert "reset_completed" in shown.out


def test_json_stands_alone_on_stdout_on_a_fresh_home(fresh_shell: Shell) -> None:
    answer = fresh_shell.run("-o", "json", "request", SCENARIO)

    assert answer.status == 0, answer.err
    assert answer.json["status"] == "ready"
    assert answer.out == json.dumps(answer.json, indent=2, sort_keys=True) + "\n"
    assert "starting PostgreSQL" in answer.err
    assert "first use" in answer.err


def test_environment_chooses_the_output(shell: Shell) -> None:
    listed = shell.run("scenarios", ATDM_CLI_OUTPUT="json")
    assert SCENARIO in [row["scenario_id"] for row in listed.json]


def test_scenarios_are_found_by_intent(shell: Shell) -> None:
    found = shell.json("scenarios", "denied", "claim", "-c", "claim_status=denied")
    assert found[0]["scenario_id"] in {"claim_denial_active_member", "denied_and_pending_claims"}
    assert found[0]["why"]
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    assert shell.json("scenarios", "zebra") == []
    shown = shell.run("scenarios", "claim_denial_active_member")
    assert "one of: paid, denied, pending" in shown.out


@pytest.mark.parametrize("kind", ["scenario", "domain", "table"])
def test_schemas(shell: Shell, kind: str) -> None:
    schema = shell.json("schema", kind)
    assert schema["type"] == "object"
    assert schema["properties"]


def test_env_is_what_plain_dagster_needs(shell: Shell) -> None:
    exported = shell.run("env")
    assert exported.status == 0, exported.err
    script = f"{exported.out}\necho $DAGSTER_HOME; echo $ATDM_DATABASE_URL; echo $ATDM_STORE_URL"
    evaluated = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, env={}
    ).stdout.split()
    variables: dict[str, Any] = shell.json("env")
    assert evaluated == [
        variables["DAGSTER_HOME"],
        variables["ATDM_DATABASE_URL"],
        variables["ATDM_STORE_URL"],
    ]
    assert (Path(variables["DAGSTER_HOME"]) / "dagster.yaml").is_file()
    assert variables["ATDM_DAGSTER_DATABASE_URL"].startswith("postgresql+psycopg2://")


def test_help_names_every_command(shell: Shell) -> None:
    shown = shell.run("--help", COLUMNS="120")
    assert shown.status == 0
    for name in COMMANDS:
        assert f" {name} " in shown.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("request", SCENARIO, "-c", "novalue"),
        ("request", SCENARIO, "-c", "a=1", "-c", "a=2"),
        ("request", SCENARIO, "--as-of", "yesterday"),
        ("request", SCENARIO, "--ttl", "4 hours"),
        ("request", SCENARIO, "--runs", "0"),
        ("request", SCENARIO, "--seed", "many"),
        ("request", SCENARIO, "--no-lease", "--pytest"),
        ("request",),
        ("reset", "RUN"),
        ("reset",),
        ("reset", "RUN", "--token", "T", "--owner", "O"),
        ("schema", "colour"),
        ("no-such-command",),
        ("--output", "xml", "status"),
    ],
)
def test_wrong_command_lines_exit_with_two(shell: Shell, arguments: tuple[str, ...]) -> None:
    answer = shell.run(*arguments)
    assert answer.status == 2, answer
    assert answer.out == ""
    assert answer.err
    assert "Traceback" not in answer.err


def test_a_closed_pipe_is_quiet(shell: Shell) -> None:
    command = f"'{ATDM}' -o json scenarios | head -1"
    done = subprocess.run(
        ["sh", "-c", command],
        env=shell.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[\n"
    assert done.stderr == ""


def test_an_interrupt_ends_with_130_and_without_rows(shell: Shell) -> None:
    process = subprocess.Popen(
        [str(ATDM), "request", SCENARIO, "--runs", "60000"],
        env=shell.environment(),
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_interrupts,
    )
    with shell.connect() as connection:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            started = connection.execute(
                "SELECT count(*) FROM atdm.request WHERE runs = 60000 AND status = 'pending'"
            ).fetchone()
            if started and started[0]:
                break
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert out == ""
    assert "Traceback" not in err
    shell.json("request", SCENARIO)
    with shell.connect() as connection:
        left = connection.execute("SELECT status FROM atdm.request WHERE runs = 60000").fetchall()
        rows = connection.execute(
            "SELECT count(*) FROM atdm.test_run JOIN atdm.request USING (request_id)"
            " WHERE runs = 60000"
        ).fetchone()
    assert {status for (status,) in left} <= {"rolled_back"}
    assert rows == (0,)
    shell.json("reset-all", "--confirm", "--revoke-leases")


def test_up_status_down(fresh_shell: Shell) -> None:
    before = fresh_shell.run("-o", "json", "status")
    assert before.status == 1
    assert "atdm init" in before.json["problems"][0]

    up = fresh_shell.json("up")
    try:
        assert up["url"].startswith("http://127.0.0.1:")
        assert sorted(up["started"]) == ["audit", "daemon", "webserver"]
        again = fresh_shell.json("up")
        assert again["started"] == []
        assert again["url"] == up["url"]
        status = fresh_shell.run("-o", "json", "status")
        assert status.status == 0, status.out
        report = status.json
        assert report["ok"]
        assert report["database"]["reachable"]
        assert report["webserver"]["answers"]
        assert report["daemon"]["running"]
        assert SCENARIO in [row["scenario_id"] for row in report["database"]["scenarios"]]
        # With a seed it is made: the daemon may have filled the pool, and a lease would take a run
        # out of the many of a request, whose page does not name them all.
        made = fresh_shell.json("request", SCENARIO, "--seed", "1")
        page = httpx.get(f"{report['audit']['url']}/{made['request_id']}", trust_env=False)
        assert page.status_code == 200
        assert made["test_run_id"] in page.text
    finally:
        down = fresh_shell.json("down")
    assert sorted(down["stopped"]) == ["audit", "daemon", "postgresql", "webserver"]
    assert ended(up["webserver"])
    assert ended(up["daemon"])
    assert fresh_shell.json("down")["stopped"] == []
