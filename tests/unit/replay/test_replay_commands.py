"""What `atdm replay` refuses before it connects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atdm.cli import replay
from atdm.cli.output import Output
from atdm_engine.errors import ErrorCode, UsageError

NOTHING: dict[str, Any] = {
    "into": None, "spec": None, "print_spec": False, "prove": None, "ttl": None, "owner": None,
    "reason": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (None, {}),
        (None, {"print_spec": True, "spec": Path("f")}),
        ("R", {"print_spec": True, "spec": Path("f")}),
        ("R", {"ttl": "0s"}),
        ("R", {"ttl": "soon"}),
    ],
)
def test_options_that_do_not_go_together(run: str | None, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        replay.replay(Output(), run, **{**NOTHING, **options})
    assert caught.value.code is ErrorCode.REQUEST_INVALID
