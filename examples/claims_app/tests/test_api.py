"""The claims desk's API, with data of the test's own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from atdm import AtdmClient
from atdm.pytest.plugin import atdm_scenario

DENIED = "claim_denial_active_member"


@atdm_scenario(DENIED, {"denial_reason": "not_covered"})
def test_a_denied_claim_says_why(atdm_data: dict[str, Any], api: httpx.Client) -> None:
    claim = api.get(f"/api/claims/{atdm_data['data']['claim_id']}").json()
    assert (claim["status"], claim["denial_reason"]) == ("denied", "not_covered")


@atdm_scenario("active_member_clean")
def test_only_a_denial_can_be_appealed(atdm_data: dict[str, Any], api: httpx.Client) -> None:
    member = api.get(f"/api/members/{atdm_data['data']['member_id']}").json()
    assert member["eligibility"] == "active"
    for claim in member["claims"]:
        refused = api.post(f"/api/claims/{claim['claim_id']}/appeals", json={"text": "why"})
        assert refused.status_code == 409


@atdm_scenario(DENIED)
def test_an_appeal_is_received(atdm_data: dict[str, Any], api: httpx.Client) -> None:
    claim_id = atdm_data["data"]["claim_id"]
    answer = api.post(f"/api/claims/{claim_id}/appeals", json={"text": "it was covered"})
    assert answer.status_code == 201
    assert [appeal["step"] for appeal in answer.json()["appeals"]] == ["received"]


def test_what_the_application_wrote_goes_with_the_run(
    atdm_client: AtdmClient, api: httpx.Client
) -> None:
    """Its rows bear no run's id: they are found by their foreign keys, and reported as adopted."""
    data = atdm_client.request_scenario(DENIED)
    claim_id = data["data"]["claim_id"]
    api.post(f"/api/claims/{claim_id}/notes", json={"text": "called the member"})
    api.post(f"/api/claims/{claim_id}/notes", json={"text": "called again"})
    api.post(f"/api/claims/{claim_id}/appeals", json={"text": "it was covered"})

    done = atdm_client.reset_run(data["test_run_id"], data["cleanup"]["cleanup_token"])

    assert done["adopted"] == {
        "claims_app.appeal_step": 1,
        "claims_app.claim_appeal": 1,
        "claims_app.claim_note": 2,
    }
    assert api.get(f"/api/claims/{claim_id}").status_code == 404


@pytest.mark.xfail(strict=True, reason="fails on purpose: its data goes all the same")
@atdm_scenario(DENIED)
def test_a_failing_test_leaves_nothing_either(atdm_data: dict[str, Any], api: httpx.Client) -> None:
    claim_id = atdm_data["data"]["claim_id"]
    api.post(f"/api/claims/{claim_id}/notes", json={"text": "the last words of a test"})
    assert api.get(f"/api/claims/{claim_id}").json()["status"] == "paid"
