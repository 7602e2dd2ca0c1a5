"""Secrets in responses: usable, but not shown where objects are printed."""

from __future__ import annotations

import copy
import json
import pickle
import pprint

from atdm_services.leases.answer import Secret, leased, several

LEASE = {
    "request_id": "01K7ZQ0000ABCDEFGHJK000000",
    "test_run_id": "01K7ZQ0000ABCDEFGHJK000001",
    "scenario_id": "s",
    "domain": "d",
    "token": "atdm_hush",
    "data": {},
    "expires_at": None,
    "seed": 1,
    "as_of": None,
}


def test_a_secret_hides_in_every_kind_of_representation() -> None:
    response = leased(LEASE)
    shown = [repr(response), pprint.pformat(response), f"{response!r}", repr([response["cleanup"]])]
    assert all("atdm_hush" not in text for text in shown)
    assert all("***" in text for text in shown)


def test_a_secret_is_the_text_wherever_it_is_used() -> None:
    token = leased(LEASE)["cleanup"]["cleanup_token"]
    assert token == "atdm_hush"
    assert f"{token}" == "atdm_hush"
    assert json.loads(json.dumps({"t": token})) == {"t": "atdm_hush"}
    assert leased(LEASE)["cleanup"]["command"] == (
        "atdm reset 01K7ZQ0000ABCDEFGHJK000001 --token atdm_hush"
    )


def test_copies_of_a_secret_stay_secret() -> None:
    secret = Secret("hush")
    for other in (copy.deepcopy(secret), copy.copy(secret), pickle.loads(pickle.dumps(secret))):
        assert type(other) is Secret
        assert other == "hush"


def test_several_runs_name_their_request_only_when_it_is_one() -> None:
    one = leased(LEASE)
    other = leased({**LEASE, "request_id": "01K7ZQ0000ZZZZZZZZZZ000000"})
    assert several([one, leased(LEASE)])["request_id"] == LEASE["request_id"]
    assert several([one, other])["request_id"] is None
    assert len(several([one, other])["runs"]) == 2
