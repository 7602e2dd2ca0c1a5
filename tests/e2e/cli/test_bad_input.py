"""Whatever is wrong is a clear error with its code, and no rows are left behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_resources.local import postgres_server
from tests.e2e.conftest import Shell

SCENARIO = "active_member_clean"
SCENARIO_FILE = """
scenario_id: {name}
description: For a test.
linked_requirement_ids: []
generators:
  [generate_plan, generate_provider, generate_member, generate_eligibility, generate_claim]
validators: [temporal.eligibility_window_contains_claim]
"""


@pytest.fixture(autouse=True)
def no_rows_are_left(shell: Shell) -> Iterator[None]:
    before = shell.rows_by_table()
    live = "SELECT count(*) FROM atdm.test_run WHERE status IN ('ready', 'leased')"
    with shell.connect() as connection:
        runs = connection.execute(live).fetchone()
    yield
    assert shell.rows_by_table() == before
    with shell.connect() as connection:
        assert connection.execute(live).fetchone() == runs
        pending = connection.execute("SELECT 1 FROM atdm.request WHERE status = 'pending'")
        assert pending.fetchall() == []


@pytest.mark.parametrize("options", [(), ("--seed", "1")])
def test_unknown_scenario(shell: Shell, options: tuple[str, ...]) -> None:
    error = shell.refused("request", "active_member_clena", *options)
    assert error["code"] == "SCENARIO_NOT_FOUND"
    assert "active_member_clean" in json.dumps(error)


@pytest.mark.parametrize("options", [(), ("--seed", "1")])
def test_unknown_constraint(shell: Shell, options: tuple[str, ...]) -> None:
    error = shell.refused("request", SCENARIO, "-c", "claim_statsu=denied", *options)
    assert error["code"] == "CONSTRAINT_INVALID"
    assert "claim_status" in json.dumps(error)


@pytest.mark.parametrize("options", [(), ("--seed", "1")])
def test_value_not_allowed(shell: Shell, options: tuple[str, ...]) -> None:
    error = shell.refused("request", SCENARIO, "-c", "claim_status=refused", *options)
    assert error["code"] == "CONSTRAINT_INVALID"
    assert "paid, denied, pending" in json.dumps(error)


def test_contradiction(shell: Shell) -> None:
    error = shell.refused("request", "claim_denial_active_member", "-c", "claim_status=paid")
    assert error["code"] == "CONSTRAINT_CONTRADICTION"
    assert "claim_status" in json.dumps(error["details"])


def test_bad_yaml(shell: Shell) -> None:
    (shell.folder / "broken.yaml").write_text("scenario_id: [unclosed\n", encoding="utf-8")
    error = shell.refused("request", "broken", ATDM_SCENARIO_PATH=str(shell.folder))
    assert error["code"] == "SPEC_INVALID"
    assert error["details"]["problems"][0]["file"].endswith("broken.yaml")
    assert error["details"]["problems"][0]["line"] > 0


def test_unknown_key_in_a_scenario_file(shell: Shell) -> None:
    text = SCENARIO_FILE.format(name="mistyped") + "validater: [x]\n"
    (shell.folder / "mistyped.yaml").write_text(text, encoding="utf-8")
    error = shell.refused("scenarios", ATDM_SCENARIO_PATH=str(shell.folder))
    assert error["code"] == "SPEC_INVALID"
    assert "validater" in json.dumps(error)


def test_bad_sql_in_a_rule(shell: Shell) -> None:
    rules = shell.folder / "pack" / "healthcare" / "rules"
    rules.mkdir(parents=True)
    (rules / "domain.broken.sql").write_text(
        "-- Cannot be read.\nSELEC claim_id, true AS holds FROM claim\n", encoding="utf-8"
    )
    error = shell.refused("scenarios", ATDM_SCENARIO_PATH=str(shell.folder / "pack"))
    assert error["code"] == "SPEC_INVALID"
    assert "domain.broken.sql" in json.dumps(error)


@pytest.mark.parametrize("run", ["01K7ZQ0000ABCDEFGHJK000001", "nonsense"])
def test_unknown_run_and_wrong_token_answer_alike(shell: Shell, run: str) -> None:
    error = shell.refused("reset", run, "--token", "atdm_wrong")
    assert error["code"] == "TOKEN_MISMATCH"


def test_wrong_token_of_a_known_run(shell: Shell, registry: Registry) -> None:
    shell.make_ready(registry, SCENARIO)
    answer = shell.json("request", SCENARIO)
    run = answer["test_run_id"]
    wrong = shell.refused("reset", run, "--token", answer["cleanup"]["cleanup_token"] + "x")
    unknown = shell.refused("reset", run[:-1] + "9", "--token", "atdm_wrong")
    assert wrong["code"] == unknown["code"] == "TOKEN_MISMATCH"
    assert wrong["message"] == unknown["message"]
    assert shell.total_rows(run) == 5
    shell.json("reset", run, "--token", answer["cleanup"]["cleanup_token"])


def test_unknown_run_in_audit(shell: Shell) -> None:
    assert shell.refused("audit", "01K7ZQ0000ABCDEFGHJK000001")["code"] == "RUN_NOT_FOUND"
    assert shell.refused("audit", "no-such-label")["code"] == "RUN_NOT_FOUND"


@pytest.mark.parametrize("label", ["../../etc/x", "a b", "", "x" * 65])
def test_a_label_that_could_leave_a_folder(shell: Shell, label: str) -> None:
    error = shell.refused("request", SCENARIO, "--id", label)
    assert error["code"] == "REQUEST_INVALID"
    assert not (shell.home / "etc").exists()


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hidden@127.0.0.1:1/x", "postgresql://u:hidden@no-such-host.invalid/x"],
)
@pytest.mark.parametrize("arguments", [("request", SCENARIO), ("audit", "x"), ("init",)])
def test_no_database(shell: Shell, url: str, arguments: tuple[str, ...]) -> None:
    error = shell.refused(*arguments, ATDM_DATABASE_URL=url)
    assert error["code"] == "TARGET_UNREACHABLE"
    assert "hidden" not in json.dumps(error)


def database(shell: Shell, name: str) -> str:
    admin = postgres_server.start(shell.home, "postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return postgres_server.start(shell.home, name)


def test_a_target_that_is_not_marked_disposable(shell: Shell) -> None:
    url = database(shell, "application_own")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.precious (id int)")
    refused = shell.refused("init", ATDM_DATABASE_URL=url)
    assert refused["code"] == "TARGET_NOT_DISPOSABLE"
    assert "--disposable application_own" in refused["message"]
    request = shell.refused("request", SCENARIO, ATDM_DATABASE_URL=url)
    assert request["code"] == "TARGET_NOT_INITIALISED"
    with psycopg.connect(url) as connection:
        schemas = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname IN ('atdm', 'healthcare')"
        ).fetchall()
    assert schemas == []
    done = shell.json("init", "--disposable", "application_own", ATDM_DATABASE_URL=url)
    assert done["marked"] == "named"


def test_a_target_called_like_a_real_one(shell: Shell) -> None:
    url = database(shell, "orders_prod")
    error = shell.refused("init", "--disposable", "orders_prod", ATDM_DATABASE_URL=url)
    assert error["code"] == "TARGET_NOT_DISPOSABLE"


def test_a_database_that_is_not_initialised(shell: Shell) -> None:
    url = database(shell, "untouched")
    error = shell.refused("request", SCENARIO, ATDM_DATABASE_URL=url)
    assert error["code"] == "TARGET_NOT_INITIALISED"
    status = shell.run("-o", "json", "status", ATDM_DATABASE_URL=url)
    assert status.status == 1
    assert "atdm init" in status.json["problems"][0]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 256 kB; only root may mount one."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs the right to")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_store_full(shell: Shell, full_disk: Path) -> None:
    error = shell.refused("request", SCENARIO, "--runs", "20000", ATDM_STORE_URL=full_disk.as_uri())
    assert error["code"] == "STORE_FAILED"
    assert "disk is full" in error["message"]
    assert [path for path in full_disk.rglob("*") if path.is_file()] == []


def test_store_that_cannot_be_written(shell: Shell) -> None:
    (shell.folder / "file").write_text("in the way", encoding="utf-8")
    url = (shell.folder / "file" / "store").as_uri()
    error = shell.refused("request", SCENARIO, "--seed", "1", ATDM_STORE_URL=url)
    assert error["code"] == "STORE_FAILED"


def test_fixture_folder_that_cannot_be_written(shell: Shell) -> None:
    (shell.folder / "file").write_text("in the way", encoding="utf-8")
    error = shell.refused(
        *("request", SCENARIO, "--seed", "1", "--pytest"),
        ATDM_FIXTURE_DIR=str(shell.folder / "file"),
    )
    assert error["code"] == "STORE_FAILED"


def test_planning_by_a_language_model_is_refused_before_anything_is_looked_up(shell: Shell) -> None:
    error = shell.refused("request", "no_such_scenario", ATDM_PLANNER="llm")
    assert error["code"] == "LLM_MODE_NOT_ENABLED"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ATDM_PLANNER", "magic"), ("ATDM_INVOKER", "nobody"), ("ATDM_STORE_URL", "ftp://x")],
)
def test_wrong_settings(shell: Shell, variable: str, value: str) -> None:
    error = shell.refused("request", SCENARIO, **{variable: value})
    assert error["code"] == "REQUEST_INVALID"
    assert error["details"]["variable"] == variable
