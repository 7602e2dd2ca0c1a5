"""The commands ``baseline-...``: what they are called and what they accept.

Belongs here: options, arguments and help texts of baselines. Does not belong here: what a command
does (``baselines``), the commands of everything else (``app``).
"""

from __future__ import annotations

from typing import Annotated

import typer

from atdm.cli.app import app, command

Domain = Annotated[str | None, typer.Option(help="Default: the bundle's default domain.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit trail.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The baseline.")]


@command(app, "baseline-snapshot")
def baseline_snapshot(
    context: typer.Context,
    baseline_id: Annotated[
        str | None,
        typer.Option(
            "--baseline-id", "-b", metavar="ID", help="Default: bl-YYYYMMDD-HHMMSS-xxxxxx."
        ),
    ] = None,
    domain: Domain = None,
    reason: Reason = None,
) -> int | None:
    """Capture one consistent copy of every table; nobody is held up."""
    from atdm.cli import baselines

    return baselines.snapshot(context.obj, baseline_id=baseline_id, domain=domain, reason=reason)


@command(app, "baseline-restore")
def baseline_restore(
    context: typer.Context,
    baseline_id: Annotated[
        str | None,
        typer.Option("--baseline-id", "-b", metavar="ID", help="Default: the latest."),
    ] = None,
    domain: Domain = None,
    revoke_leases: Annotated[
        bool, typer.Option("--revoke-leases", help="Also when somebody holds test runs.")
    ] = False,
    reason: Reason = None,
) -> int | None:
    """Bring every table back to a baseline, in one transaction."""
    from atdm.cli import baselines

    return baselines.restore(
        context.obj,
        baseline_id=baseline_id,
        domain=domain,
        revoke_leases=revoke_leases,
        reason=reason,
    )


@command(app, "baseline-list")
def baseline_list(context: typer.Context, domain: Domain = None) -> int | None:
    """List the baselines, newest first."""
    from atdm.cli import baselines

    return baselines.list_all(context.obj, domain=domain)


@command(app, "baseline-verify")
def baseline_verify(context: typer.Context, baseline_id: Id, domain: Domain = None) -> int | None:
    """Read a baseline's files again and compare them with their checksums."""
    from atdm.cli import baselines

    return baselines.verify(context.obj, baseline_id, domain=domain)


@command(app, "baseline-diff")
def baseline_diff(
    context: typer.Context,
    one: Annotated[str, typer.Argument(metavar="A", help="A baseline, or live.")],
    other: Annotated[str, typer.Argument(metavar="B", help="A baseline, or live.")] = "live",
    domain: Domain = None,
) -> int | None:
    """Rows added, removed and changed from A to B, by table and column."""
    from atdm.cli import baselines

    return baselines.diff(context.obj, one, other, domain=domain)


@command(app, "baseline-delete")
def baseline_delete(
    context: typer.Context,
    baseline_id: Id,
    domain: Domain = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Yes, for good.")] = False,
) -> int | None:
    """Delete a baseline; never the last intact one of a domain."""
    from atdm.cli import baselines

    return baselines.delete(context.obj, baseline_id, domain=domain, confirm=confirm)


@command(app, "baseline-clone")
def baseline_clone(
    context: typer.Context,
    baseline_id: Annotated[
        str | None, typer.Option("--baseline-id", "-b", metavar="ID", help="Made from this one.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="NAME", help="The new database; never the target.")
    ] = None,
    domain: Domain = None,
    ttl: Annotated[
        str | None, typer.Option(help="How long it lives: 30m, 4h, 1d; default 4h.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(envvar="ATDM_OWNER", help="Who holds it; default: the invoker.")
    ] = None,
    drop: Annotated[
        str | None, typer.Option(metavar="NAME", help="Drop this clone instead.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the clones instead.")] = False,
) -> int | None:
    """Make a database of your own from a baseline."""
    from atdm.cli import baselines

    return baselines.clone(
        context.obj,
        baseline_id=baseline_id,
        database=database,
        domain=domain,
        ttl=ttl,
        owner=owner,
        drop=drop,
        listed=listed,
    )
