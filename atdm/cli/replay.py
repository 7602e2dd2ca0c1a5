"""``atdm replay``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm.cli.arguments import length_of
from atdm.cli.leases import SOURCE, shown
from atdm.cli.output import UsageError, write_line
from atdm_engine.errors import ErrorCode
from atdm_resources.postgres.connection import masked
from atdm_resources.settings import Settings
from atdm_services.replay import replay as replays
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.cli.output import Output


def replay(
    output: Output,
    run: str | None,
    *,
    into: str | None,
    spec: Path | None,
    print_spec: bool,
    prove: bool | None,
    ttl: str | None,
    owner: str | None,
    reason: str,
) -> int:
    """Print the run that was made again, or its specification."""
    if run is None and spec is None:
        raise UsageError(
            ErrorCode.REQUEST_INVALID, "write `atdm replay RUN` or `atdm replay --spec FILE`"
        )
    settings = Settings.from_environment()
    if print_spec:
        if run is None or spec is not None:
            raise UsageError(
                ErrorCode.REQUEST_INVALID, "--print-spec prints the specification of a RUN"
            )
        with access.connected(settings, output) as connection:
            found = replays.replay_spec(connection, run)
        write_line(sys.stdout, found.model_dump_json(indent=2))
        return 0
    wish = replays.ReplayRequest(
        run=run,
        spec=spec,
        into=into or None,
        prove=prove,
        owner=owner,
        owner_secret=os.environ.get("ATDM_OWNER_SECRET") or None,
        ttl=None if ttl is None else length_of(ttl),
        reason=reason,
        source=SOURCE,
    )
    answer = replays.replay(settings, output, wish)
    output.emit(answer, lambda: _shown(answer, wish.into))
    return 0


def _shown(answer: Mapping[str, Any], into: str | None) -> str:
    text = shown(answer)
    done = answer["replay"]
    if answer["status"] == "rejected":
        return f"{text}\nchecked again: it breaks {', '.join(done['failed'])} as it did"
    rows = ", ".join(f"{count:,} {table}" for table, count in done["rows"].items())
    proof = (
        f"the whole request was made again: {done['request_content_hash']}, as recorded"
        if done["request_proved"]
        else "not compared with the whole request; --prove does that"
    )
    # The command that gives it back goes to whichever target the environment names.
    where = [] if into is None else [f"          with ATDM_DATABASE_URL={masked(into)}"]
    return "\n".join(
        (
            text,
            *where,
            f"database  {done['database']}: {rows}",
            f"content   {done['content_hash']}, read back; {proof}",
        )
    )
