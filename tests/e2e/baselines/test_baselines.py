"""Baselines from the command line: capture, change, compare, restore, and what is refused."""

from __future__ import annotations

import json

import pytest

from atdm_engine.bundle.registry import Registry
from tests.e2e.conftest import Shell

pytestmark = pytest.mark.long


def test_a_baseline_from_capture_to_deletion(fresh_shell: Shell, registry: Registry) -> None:
    shell = fresh_shell
    assert shell.refused("baseline-restore")["code"] in ("TARGET_NOT_INITIALISED", "NO_BASELINE")
    shell.json("init")
    assert shell.refused("baseline-restore")["code"] == "NO_BASELINE"
    shell.make_ready(registry, "active_member_clean", 3)
    made = shell.json("baseline-snapshot", "-b", "first", "--reason", "before")
    assert made["status"] == "captured"
    assert made["runs"] == {"ready": 3}
    assert shell.refused("baseline-snapshot", "-b", "first")["code"] == "BASELINE_EXISTS"
    assert shell.json("baseline-diff", "first")["same"] is True

    lease = shell.json("request", "active_member_clean", "--id", "later")
    assert shell.refused("baseline-restore", "-b", "first")["code"] == "BUSY"
    (plan, *_) = [
        table for table in shell.json("baseline-diff", "first", "live")["tables"]
        if table["table"] == "plan"
    ]  # fmt: skip
    assert (plan["added"], plan["removed"], plan["changed"]) == (1, 0, 0)
    done = shell.json("baseline-restore", "--revoke-leases")
    assert done["baseline_id"] == "first"
    assert done["runs"] == {"ready": 3, "cleaned": 0, "expired": 1}
    assert shell.total_rows(lease["test_run_id"]) == 0
    assert shell.json("baseline-diff", "first")["same"] is True

    second = shell.json("baseline-snapshot")["baseline_id"]
    listed = shell.json("baseline-list")
    assert [item["baseline_id"] for item in listed] == [second, "first"]
    assert all(item["intact"] for item in listed)
    assert second.startswith("bl-")
    (path,) = (shell.home / "store" / "baselines" / "healthcare" / "first" / "claim").iterdir()
    path.write_bytes(b"PAR1")
    damaged = shell.run("-o", "json", "baseline-verify", "first")
    assert damaged.status == 1
    assert not json.loads(damaged.out)["intact"]
    assert shell.refused("baseline-restore", "-b", "first")["code"] == "BASELINE_INVALID"
    assert shell.run("baseline-delete", "first").status == 2
    assert shell.json("baseline-delete", "first", "--confirm")["status"] == "deleted"
    assert shell.refused("baseline-delete", second, "--confirm")["code"] == "REQUEST_CONFLICT"

    clone = shell.json("baseline-clone", "-b", second, "--database", "own_one", "--ttl", "1h")
    assert clone["url"].split("?")[0].endswith("/own_one")
    leased = shell.json("request", "active_member_clean", ATDM_DATABASE_URL=clone["url"])
    assert leased["status"] == "ready"
    assert shell.refused("baseline-clone", "-b", second, "--database", "atdm")["code"] == (
        "REQUEST_CONFLICT"
    )
    assert (clone["source"], clone["baseline"]) == ("cold", second)
    assert [item["database"] for item in shell.json("baseline-clones")] == ["own_one"]
    wrong = shell.refused("baseline-clone", "--drop", "own_one", "--token", "atdm_x")
    assert wrong["code"] == "TOKEN_MISMATCH"
    said = shell.run("baseline-clone", "--empty").out
    assert "source: cold" in said
    assert "baseline: none" in said
    (line,) = [line for line in said.splitlines() if line.startswith("  drop it: atdm ")]
    assert shell.run(*line.removeprefix("  drop it: atdm ").split()).status == 0
    given_back = ("baseline-clone", "--drop", "own_one", "--token", clone["token"])
    assert shell.json(*given_back)["status"] == "dropped"
    assert shell.json(*given_back)["status"] == "already_dropped"
    assert shell.json("baseline-clone", "--list") == []
    assert "baseline-restore" in shell.run("--help").out
