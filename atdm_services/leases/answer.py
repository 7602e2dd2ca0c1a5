"""The answer to a request, the same for command line, client and plugin."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any


class Secret(str):
    """Text that ``repr`` hides.

    A failing test prints its locals and an exception its arguments by ``repr``; the cleanup token
    must not get into a CI log that way. ``str()``, formatting and JSON give the text.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    # Copies and pickles (pytest-xdist, deepcopy) are secrets, too.
    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (str.__str__(self),))


def leased(lease: Mapping[str, Any]) -> dict[str, Any]:
    """One leased run as answer; its token and the command with the token are ``Secret``.

    ``lease`` has test_run_id, request_id, scenario_id, domain, token, data, expires_at, seed and
    as_of.
    """
    run = str(lease["test_run_id"])
    token = str(lease["token"])
    return {
        "request_id": lease["request_id"],
        "test_run_id": run,
        "scenario_id": lease["scenario_id"],
        "domain": lease["domain"],
        "status": "ready",
        "data": dict(lease["data"]),
        "seed": lease["seed"],
        "as_of": _text(lease["as_of"]),
        "expires_at": _text(lease["expires_at"]),
        "fixtures": {"playwright": None, "pytest": None},
        "cleanup": {
            "cleanup_token": Secret(token),
            "command": Secret(f"atdm reset {shlex.quote(run)} --token {shlex.quote(token)}"),
        },
    }


def several(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Several leased runs as answer. ``request_id`` is null if they come from several requests."""
    shown = list(runs)
    requests = {run["request_id"] for run in shown}
    return {
        "request_id": requests.pop() if len(requests) == 1 else None,
        "scenario_id": shown[0]["scenario_id"],
        "domain": shown[0]["domain"],
        "status": "ready",
        "runs": shown,
    }


def _text(moment: Any) -> str | None:
    """A point in time as ISO 8601 text."""
    if moment is None or isinstance(moment, str):
        return moment
    return str(moment.isoformat())
