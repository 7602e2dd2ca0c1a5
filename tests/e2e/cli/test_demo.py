"""``atdm demo``, which is what ``make demo`` runs: fresh, and again."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Answer, Shell

CLOSING = ("result", "1 passed", "cleaned", "rows left  0", "trail ", "all steps held")


@pytest.mark.xdist_group("demo")
def test_the_demonstration_holds_on_a_fresh_home_and_again(
    demonstrated: tuple[Shell, Answer],
) -> None:
    shell, first = demonstrated
    assert first.status == 0, (first.out, first.err)
    closing = first.out[first.out.rindex("result") :]
    positions = [closing.index(text) for text in CLOSING]
    assert positions == sorted(positions)
    trail = closing[closing.index("trail ") :].split("\n")[0]
    assert "request_received > plan_resolved > seed_started > validators_passed" in trail
    assert trail.rstrip().endswith("reset_started > reset_completed")
    for shown in ("PASSED", "healthcare/claim_denial_active_member/claim", "claim.schema", "equal"):
        assert shown in first.out

    again = shell.json("demo")
    assert again["status"] == "cleaned"
    assert set(again["rows_left"].values()) == {0}
    assert "1 passed" in again["test"]
    assert again["events"][-1] == "reset_completed"
    assert shell.total_rows(again["test_run_id"]) == 0
