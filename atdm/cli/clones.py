"""``atdm baseline-clone`` and ``baseline-clones``: databases of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atdm.cli.arguments import SOURCE, Domain, LatestBaseline, Owner
from atdm.cli.output import Output, table
from atdm_engine.errors import ErrorCode, UsageError
from atdm_resources.settings import Settings
from atdm_services.arguments import parse_length

if TYPE_CHECKING:
    from atdm_services.clones.service import Clones


def baseline_clone(
    output: Output,
    baseline_id: LatestBaseline = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="No baseline: initialised, without test runs.")
    ] = False,
    database: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name; default: one is made up.")
    ] = None,
    domain: Domain = None,
    ttl: Annotated[
        str | None, typer.Option(help="How long it lives: 30m, 4h, 1d; default 4h.")
    ] = None,
    owner: Owner = None,
    drop: Annotated[
        str | None, typer.Option(metavar="NAME", help="Give this clone back instead.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ATDM_CLONE_TOKEN", help="With --drop; the catalog's owner may leave it out."
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="As atdm baseline-clones.")] = False,
) -> None:
    """Lease a database of your own, made from a baseline; never the target.

    From the pool where one is ready, else a copy of the baseline's template, made once.

    Example: atdm baseline-clone -b golden-7 --ttl 30m
    """
    from atdm_resources.catalog.clones import EMPTY

    makes_one = baseline_id is not None or empty or database is not None or ttl is not None
    if (listed or drop is not None) and (makes_one or (listed and drop is not None)):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "--drop NAME and --list stand alone: they make no clone",
        )
    if baseline_id is not None and empty:
        raise UsageError(ErrorCode.REQUEST_INVALID, "one of -b ID and --empty, not both")
    if listed:
        baseline_clones(output, domain)
        return
    if drop is not None:
        done = _clones(output, domain).drop(drop, token)
        output.emit(done, lambda: f"{done['status'].replace('_', ' ')}: {drop}")
        return
    length = None if ttl is None else parse_length(ttl)
    with output.working("making a database"):
        made = _clones(output, domain).lease(
            EMPTY if empty else baseline_id, database=database, ttl=length, owner=owner
        )
    output.emit(made, lambda: _clone_text(made))


def baseline_clones(
    output: Output,
    domain: Annotated[str | None, typer.Option(help="Default: all of them.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those ready in the pool, and templates.")
    ] = False,
    fill: Annotated[
        bool, typer.Option("--fill", help="Fill the pools of atdm.yaml first, as the daemon does.")
    ] = False,
) -> None:
    """List the clones that are leased, after dropping those whose time is over.

    Example: atdm baseline-clones --all
    """
    clones = _clones(output, domain)
    if fill:
        with output.working("filling the pools of clones"):
            filled = clones.fill()
        for pool in filled:
            output.note(_pool_text(pool))
    found = clones.listed(everything=everything)
    output.emit(found, lambda: _clone_table(found, everything))


def _clones(output: Output, domain: str | None) -> Clones:
    from atdm_services.clones.service import Clones

    return Clones(Settings.from_environment(), output, SOURCE, domain)


def _clone_text(made: Mapping[str, Any]) -> str:
    """A leased clone. The password is not shown: terminals and logs keep what they show."""
    from atdm_resources.telemetry.redaction import redact_url

    url = str(made["url"])
    hidden = redact_url(url)
    lines = [
        f"leased {made['database']} until {made['expires_at']}",
        f"  baseline: {made['baseline'] or 'none: initialised, without test runs'}",
        f"  source: {made['source']}",
        f"  url: {hidden}" + ("" if hidden == url else "  (password as in ATDM_DATABASE_URL)"),
        f"  token: {made['token']}",
        f"  drop it: atdm baseline-clone --drop {made['database']} --token {made['token']}",
    ]
    return "\n".join(lines)


def _pool_text(pool: Mapping[str, Any]) -> str:
    counts = f"pool of {pool['domain']}: {pool['made']} made, {pool['dropped']} dropped"
    if pool["busy"]:
        return f"{counts}, another process is filling it"
    return f"{counts}, {pool['ready']} ready"


def _clone_table(found: Sequence[Mapping[str, Any]], everything: bool) -> Any:
    if not found:
        return "no clones; `atdm baseline-clone` makes one"
    from atdm.web.audit.wording import size

    what = ("what",) if everything else ()
    return table(
        None,
        ("database", *what, "baseline", "source", "owner", "until", "size"),
        [
            (
                item["database"],
                *(f"{item['kind']}, {item['status']}" for _ in what),
                item["baseline"] or "(empty)",
                item["source"],
                item["owner"],
                item["expires_at"],
                size(item["bytes"]),
            )
            for item in found
        ],
    )
