"""Scenario files of one's own, dropped into a folder that ATDM_SCENARIO_PATH names."""

from __future__ import annotations

from tests.e2e.conftest import Shell

GENERATORS = """\
scenario_id: my_paid_claim
description: One row of each table.
domain: healthcare
tags: [mine]
linked_requirement_ids: []
default_constraints: {claim_status: paid}
generators:
  [generate_plan, generate_provider, generate_member, generate_eligibility, generate_claim]
validators: [relational.claim_references_existing_member]
"""


def test_a_loose_file_is_found_published_and_made(shell: Shell) -> None:
    before = shell.total_rows()
    folder = shell.folder / "scenarios"
    folder.mkdir()
    (folder / "mine.yaml").write_text(GENERATORS, encoding="utf-8")
    own = Shell(shell.home, shell.folder, {"ATDM_SCENARIO_PATH": str(folder)})
    answer = own.json("request", "my_paid_claim", "-c", "member_status=inactive", "-c",
                      "eligibility_status=inactive")  # fmt: skip
    assert answer["status"] == "ready"
    assert set(answer["data"]) == {
        "plan_id", "provider_id", "member_id", "eligibility_id", "claim_id",
    }  # fmt: skip
    assert own.total_rows(answer["test_run_id"]) == 5
    done = own.json("reset", answer["test_run_id"], "--token", answer["cleanup"]["cleanup_token"])
    assert done["status"] == "cleaned"
    assert own.total_rows() == before
    refused = shell.refused("request", "my_paid_claim", "--seed", "1")
    assert refused["code"] == "SCENARIO_NOT_FOUND"
    with shell.connect() as conn:
        conn.execute("UPDATE atdm.scenario SET current = false WHERE scenario_id = 'my_paid_claim'")
