"""Who a proxy says launched a run, as ATDM names people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdm_assets.instance.run_coordinator import invoker_of
from atdm_resources.settings import is_invoker


@pytest.mark.parametrize(
    ("user", "invoker"),
    [
        ("ada", "human:ada"),
        (" ada lovelace ", "human:ada-lovelace"),
        ("ada@example.org", "human:ada@example.org"),
        ("agent:root", "human:agent:root"),
    ],
)
def test_names(user: str, invoker: str) -> None:
    assert invoker_of(user) == invoker


@given(st.text(min_size=1).filter(lambda text: text.strip() != ""))
def test_whatever_a_header_holds_becomes_a_person(user: str) -> None:
    assert is_invoker(invoker_of(user))
