"""Cron expressions: what the specification accepts, the scheduler accepts too."""

from __future__ import annotations

import pytest
from dagster._utils.schedules import is_valid_cron_string

from atdm_engine.spec.cron import cron_problem

GOOD = [
    "0 2 * * *",
    "*/5 * * * *",
    "0 0-6/2,12 1,15 jan-mar,12 mon-fri",
    "59 23 31 12 7",
    "0 0 29 2 *",
    "0 0 30 4 *",
    "0 0 * * SUN",
]
BAD = [
    "",
    "0 2 * *",
    "0 2 * * * *",
    "60 * * * *",
    "* 24 * * *",
    "* * 0 * *",
    "* * 32 * *",
    "* * * 13 *",
    "* * * * 8",
    "5-1 * * * *",
    "a * * * *",
    "1,,2 * * * *",
    "*/0 * * * *",
    "0 0 30 2 *",
    "0 0 31 2 *",
    "@daily",
    "every day",
    "-1 * * * *",
]


@pytest.mark.parametrize("text", GOOD)
def test_is_one_here_and_for_the_scheduler(text: str) -> None:
    """Protects: what a dataset file may say, a schedule can be made of."""
    assert cron_problem(text) is None
    assert is_valid_cron_string(text)


@pytest.mark.parametrize("text", BAD)
def test_is_none(text: str) -> None:
    assert cron_problem(text)
