"""A test of an application that shows denied claims, as its team would write it.

The plugin leases the data before the test and deletes it afterwards. Here the "application" is a
query; in a real suite it is a page or an API.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg
import pytest


@pytest.mark.atdm_scenario("claim_denial_active_member")
def test_a_denied_claim_says_why(atdm_data: dict[str, Any]) -> None:
    with psycopg.connect(os.environ["ATDM_DATABASE_URL"]) as application:
        row = application.execute(
            "SELECT m.status, c.status, c.denial_reason, p.network_status"
            " FROM healthcare.claim AS c"
            " JOIN healthcare.member AS m USING (member_id)"
            " JOIN healthcare.provider AS p USING (provider_id)"
            " WHERE c.claim_id = %s",
            (atdm_data["data"]["claim_id"],),
        ).fetchone()

    assert row == ("active", "denied", "invalid_procedure_code", "out_of_network")
