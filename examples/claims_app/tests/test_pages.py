"""The claims desk in a real browser, with data of the test's own."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from atdm.pytest.plugin import atdm_scenario

DENIED = "claim_denial_active_member"


@atdm_scenario(DENIED, {"denial_reason": "not_covered"})
def test_a_denial_is_found_and_appealed(atdm_data: dict[str, Any], page: Page) -> None:
    data = atdm_data["data"]
    page.goto("/")
    page.get_by_label("Member id").fill(data["member_id"])
    page.get_by_role("button", name="Look up").click()
    page.get_by_role("link", name=data["denied_claim_id"]).click()

    expect(page.get_by_test_id("status")).to_have_text("denied")
    expect(page.get_by_text("not covered")).to_be_visible()
    page.get_by_label("Why the denial is wrong").fill("The plan covers it.")
    page.get_by_role("button", name="File appeal").click()
    expect(page.get_by_label("Appeals")).to_have_text("The plan covers it. (received)")


@atdm_scenario("active_member_clean")
def test_a_new_claim_is_pending(atdm_data: dict[str, Any], page: Page) -> None:
    data = atdm_data["data"]
    page.goto(f"/members/{data['member_id']}")
    page.get_by_label("Provider id").fill(data["provider_id"])
    page.get_by_label("Procedure").select_option("99213")
    page.get_by_role("button", name="Submit claim").click()

    expect(page.get_by_test_id("status")).to_have_text("pending")
    page.get_by_label("New note").fill("<b>submitted by hand</b>")
    page.get_by_role("button", name="Add note").click()
    expect(page.get_by_label("Notes")).to_have_text("<b>submitted by hand</b>")


def test_an_unknown_member_is_said_to_be_unknown(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Member id").fill("m-nobody")
    page.get_by_role("button", name="Look up").click()
    expect(page.get_by_role("alert")).to_have_text("There is no such member.")
