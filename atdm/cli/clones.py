"""``atdm baseline-clone`` and ``baseline-clones``: what the commands do and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atdm.cli.arguments import length_of
from atdm.cli.output import Output, UsageError, table
from atdm_engine.errors import ErrorCode
from atdm_resources.postgres.connection import masked
from atdm_resources.settings import Settings
from atdm_services.clones.lease import EMPTY
from atdm_services.clones.service import Clones

SOURCE = "cli"


def clone(
    output: Output,
    *,
    baseline: str | None,
    empty: bool,
    database: str | None,
    domain: str | None,
    ttl: str | None,
    owner: str | None,
    drop: str | None,
    token: str | None,
    listed: bool,
) -> int:
    """Lease a clone; or give one back, or list them."""
    asked = [baseline is not None, empty, database is not None, ttl is not None]
    if (listed or drop is not None) and (any(asked) or (listed and drop is not None)):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "--drop NAME and --list stand alone: they make no clone",
        )
    if baseline is not None and empty:
        raise UsageError(ErrorCode.REQUEST_INVALID, "one of -b ID and --empty, not both")
    if listed:
        return list_all(output, domain=domain, everything=False, fill=False)
    clones = Clones(Settings.from_environment(), output, SOURCE, domain)
    if drop is not None:
        done = clones.drop(drop, token)
        output.emit(done, lambda: f"{done['status'].replace('_', ' ')}: {drop}")
        return 0
    length = None if ttl is None else length_of(ttl)
    with output.working("making a database"):
        made = clones.lease(
            EMPTY if empty else baseline, database=database, ttl=length, owner=owner
        )
    output.emit(made, lambda: _shown(made))
    return 0


def list_all(output: Output, *, domain: str | None, everything: bool, fill: bool) -> int:
    """Print the clones, newest first."""
    clones = Clones(Settings.from_environment(), output, SOURCE, domain)
    if fill:
        with output.working("filling the pools of clones"):
            filled = clones.fill()
        for pool in filled:
            output.note(_shown_pool(pool))
    found = clones.listed(everything=everything)
    output.emit(found, lambda: _shown_list(found, everything))
    return 0


def _shown(made: Mapping[str, Any]) -> str:
    """A lease for people. The password stays out of terminals and logs: they have it already."""
    url = str(made["url"])
    hidden = masked(url)
    lines = [
        f"leased {made['database']} until {made['expires_at']}",
        f"  baseline: {made['baseline'] or 'none: initialised, without test runs'}",
        f"  source: {made['source']}",
        f"  url: {hidden}" + ("" if hidden == url else "  (password as in ATDM_DATABASE_URL)"),
        f"  token: {made['token']}",
        f"  drop it: atdm baseline-clone --drop {made['database']} --token {made['token']}",
    ]
    return "\n".join(lines)


def _shown_pool(pool: Mapping[str, Any]) -> str:
    said = f"pool of {pool['domain']}: {pool['made']} made, {pool['dropped']} dropped"
    return said + (", somebody else is filling it" if pool["busy"] else f", {pool['ready']} ready")


def _shown_list(found: Sequence[Mapping[str, Any]], everything: bool) -> Any:
    if not found:
        return "no clones; `atdm baseline-clone` makes one"
    columns = ["database", "baseline", "source", "owner", "until", "size"]
    rows = [
        [
            item["database"],
            item["baseline"] or "(empty)",
            item["source"],
            item["owner"],
            item["expires_at"],
            "" if item["bytes"] is None else f"{item['bytes'] / 2**20:.1f} MiB",
        ]
        for item in found
    ]
    if everything:
        columns.insert(1, "what")
        for row, item in zip(rows, found, strict=True):
            row.insert(1, f"{item['kind']}, {item['status']}")
    return table(None, columns, rows)
