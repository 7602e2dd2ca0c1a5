"""What ``atdm audit`` and ``catalog`` read from their options, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from atdm.cli import audit
from atdm.cli.catalog import _filters
from atdm.cli.output import Output
from atdm_engine.errors import UsageError

OPTIONS: dict[str, Any] = {"run": None, "html": None, "summary": False, "since": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "atdm audit RUN"),
        ({"run": "x", "summary": True}, "atdm audit RUN"),
        ({"run": "x", "since": "1d"}, "--since goes with --summary"),
        ({"summary": True, "html": "f"}, "--html goes with one run"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        audit.audit(Output(), **{**OPTIONS, **options})


def test_filters_read_the_options() -> None:
    nothing = (None, None, None, None, None)
    found = _filters("d/s", *nothing, ["a=1", "b="])
    assert (found.domain, found.scenario_id) == ("d", "s")
    assert found.constraints == {"a": "1", "b": ""}
    assert _filters("s", *nothing, []).domain is None
