"""What a client was given and asked for, before it opens anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atdm.client.context import earliest
from atdm.client.sync import AtdmClient, AtdmClientError
from atdm_engine.errors import ErrorCode
from atdm_resources.settings import Settings

URL = "http://dagster.example:3000"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"ATDM_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "arguments",
    [
        {"database_url": URL, "dagster_url": URL},
        {"dagster_url": "dagster.example"},
        {"dagster_url": "http://"},
        {"dagster_url": "http://[::1"},
    ],
)
def test_an_address_that_is_none_is_refused_at_once(arguments: dict[str, str]) -> None:
    with pytest.raises(AtdmClientError) as caught:
        AtdmClient(**arguments)
    assert caught.value.code is ErrorCode.REQUEST_INVALID


@pytest.mark.parametrize(
    "asked",
    [
        {"scenario": ""},
        {"scenario": None},
        {"scenario": "s", "runs": 0},
        {"scenario": "s", "runs": True},
        {"scenario": "s", "constraints": "a=1"},
        {"scenario": "s", "ttl": "for ever"},
        {"scenario": "s", "as_of": "yesterday"},
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_opened(
    settings: Settings, asked: dict[str, Any]
) -> None:
    with pytest.raises(AtdmClientError) as caught:
        AtdmClient("postgresql://nobody@127.0.0.1:1/x", settings=settings).request_scenario(**asked)
    assert caught.value.code is ErrorCode.REQUEST_INVALID


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, None),
        ("2h", timedelta(hours=2)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        (timedelta(days=1), timedelta(days=1)),
        (datetime(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_since_when_is_a_time_or_a_length_of_time(given: Any, meant: Any) -> None:
    assert earliest(given) == meant
