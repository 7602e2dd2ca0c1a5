"""Options and arguments that several commands share, and how their text is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from atdm_engine.errors import ErrorCode, UsageError

SOURCE = "cli"
"""The source of the command line's acts in the audit trail."""

Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--constraint",
        metavar="KEY=VALUE",
        help="A constraint of the scenario; may be given several times.",
    ),
]
AsOf = Annotated[str | None, typer.Option(help="The clock of the data, ISO 8601; default: now.")]
Domain = Annotated[str | None, typer.Option(help="Default: the bundle's default domain.")]
LatestBaseline = Annotated[
    str | None, typer.Option("--baseline-id", "-b", metavar="ID", help="Default: the latest.")
]
Ttl = Annotated[
    str | None,
    typer.Option(help="How long the lease holds: 30m, 4h, 1d; default: the scenario's."),
]
Owner = Annotated[
    str | None, typer.Option(envvar="ATDM_OWNER", help="Who holds it; default: the invoker.")
]
RevokeLeases = Annotated[
    bool, typer.Option("--revoke-leases", help="Also when test runs are leased.")
]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit trail.")]


def parse_constraints(pairs: Sequence[str]) -> dict[str, str]:
    """``["a=1", "b=x=y"]`` as a mapping; UsageError for anything else, and for two values."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        name = name.strip()
        if not separator or not name:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"-c {pair}: write it as -c key=value",
                {"found": pair},
            )
        if found.get(name, value) != value:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"-c {name} is given twice: {found[name]!r} and {value!r}",
                {"constraint": name, "found": [found[name], value]},
            )
        found[name] = value
    return found


def owner_secret() -> str | None:
    """What protects the leases of an owner from others who know the owner's name."""
    return os.environ.get("ATDM_OWNER_SECRET") or None
