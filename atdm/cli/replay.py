"""``atdm replay``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from atdm.cli.arguments import SOURCE, Owner, Reason, Ttl, owner_secret
from atdm.cli.leases import lease_text
from atdm.cli.output import Output, write_line
from atdm.cli.target import connected
from atdm_engine.errors import ErrorCode, UsageError
from atdm_resources.settings import Settings
from atdm_services.arguments import parse_length


def replay(
    output: Output,
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="The id of a test run, or the request of a single one."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="ATDM_REPLAY_DATABASE_URL",
            help="Another database; an empty one is set up first. Default: the target itself.",
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What --print-spec wrote, when the target is gone."),
    ] = None,
    print_spec: Annotated[
        bool, typer.Option("--print-spec", help="Print what the run can be made again from.")
    ] = False,
    prove: Annotated[
        bool | None,
        typer.Option(
            "--prove/--no-prove",
            help="Make the whole request in memory and compare its hash; default: up to 100,000 "
            "runs.",
        ),
    ] = None,
    ttl: Ttl = None,
    owner: Owner = None,
    reason: Reason = None,
) -> None:
    """Make one test run again, under its old id and with the same rows, or show what changed.

    Refused while its rows are there. The run is leased at once: its cleanup token is printed.

    Example: atdm replay 01K0ABCDEF0123456789000001 --into postgresql://me@localhost/scratch
    """
    from atdm_services.replay import replay as service
    from atdm_services.replay.request import ReplayRequest

    if run is None and spec is None:
        raise UsageError(
            ErrorCode.REQUEST_INVALID, "write `atdm replay RUN` or `atdm replay --spec FILE`"
        )
    if print_spec:
        if run is None or spec is not None:
            raise UsageError(
                ErrorCode.REQUEST_INVALID, "--print-spec prints the specification of a RUN"
            )
        with connected(output) as (_, connection):
            found = service.replay_spec(connection, run)
        write_line(sys.stdout, found.model_dump_json(indent=2))
        return
    request = ReplayRequest(
        run=run,
        spec=spec,
        into=into or None,
        prove=prove,
        owner=owner,
        owner_secret=owner_secret(),
        ttl=None if ttl is None else parse_length(ttl),
        reason=reason or "",
        source=SOURCE,
    )
    answer = service.replay(Settings.from_environment(), output, request)
    output.emit(answer, lambda: _replay_text(answer, request.into))


def _replay_text(answer: Mapping[str, Any], into: str | None) -> str:
    from atdm_resources.telemetry.redaction import redact_url

    text = lease_text(answer)
    done = answer["replay"]
    if answer["status"] == "rejected":
        return f"{text}\nchecked again: it breaks {', '.join(done['failed'])} as it did"
    rows = ", ".join(f"{count:,} {table}" for table, count in done["rows"].items())
    proof = (
        f"the whole request was made again: {done['request_content_hash']}, as recorded"
        if done["request_proved"]
        else "not compared with the whole request; --prove does that"
    )
    # The command that gives it back uses the target of the environment.
    where = [] if into is None else [f"          with ATDM_DATABASE_URL={redact_url(into)}"]
    return "\n".join(
        (
            text,
            *where,
            f"database  {done['database']}: {rows}",
            f"content   {done['content_hash']}, read back; {proof}",
        )
    )
