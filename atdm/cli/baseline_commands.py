"""The commands ``baseline-...``: what they are called and what they accept."""

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
    """Capture one consistent copy of every table; nobody is held up.

    Example: atdm baseline-snapshot -b before-migration
    """
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
    """Bring every table back to a baseline, in one transaction.

    Example: atdm baseline-restore -b before-migration
    """
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
    """List the baselines, newest first.

    Example: atdm baseline-list
    """
    from atdm.cli import baselines

    return baselines.list_all(context.obj, domain=domain)


@command(app, "baseline-verify")
def baseline_verify(context: typer.Context, baseline_id: Id, domain: Domain = None) -> int | None:
    """Read a baseline's files again and compare them with their checksums.

    Example: atdm baseline-verify before-migration
    """
    from atdm.cli import baselines

    return baselines.verify(context.obj, baseline_id, domain=domain)


@command(app, "baseline-diff")
def baseline_diff(
    context: typer.Context,
    one: Annotated[str, typer.Argument(metavar="A", help="A baseline, or live.")],
    other: Annotated[str, typer.Argument(metavar="B", help="A baseline, or live.")] = "live",
    domain: Domain = None,
) -> int | None:
    """Rows added, removed and changed from A to B, by table and column.

    Example: atdm baseline-diff before-migration live
    """
    from atdm.cli import baselines

    return baselines.diff(context.obj, one, other, domain=domain)


@command(app, "baseline-delete")
def baseline_delete(
    context: typer.Context,
    baseline_id: Id,
    domain: Domain = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Yes, for good.")] = False,
) -> int | None:
    """Delete a baseline; never the last intact one of a domain.

    Example: atdm baseline-delete before-migration --confirm
    """
    from atdm.cli import baselines

    return baselines.delete(context.obj, baseline_id, domain=domain, confirm=confirm)


@command(app, "baseline-clone")
def baseline_clone(
    context: typer.Context,
    baseline_id: Annotated[
        str | None,
        typer.Option("--baseline-id", "-b", metavar="ID", help="Default: the latest."),
    ] = None,
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
    owner: Annotated[
        str | None, typer.Option(envvar="ATDM_OWNER", help="Who holds it; default: the invoker.")
    ] = None,
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
) -> int | None:
    """Lease a database of your own, made from a baseline; never the target.

    From the pool where one is ready, else a copy of the baseline's template, made once.

    Example: atdm baseline-clone -b golden-7 --ttl 30m
    """
    from atdm.cli import clones

    return clones.clone(
        context.obj,
        baseline=baseline_id,
        empty=empty,
        database=database,
        domain=domain,
        ttl=ttl,
        owner=owner,
        drop=drop,
        token=token,
        listed=listed,
    )


@command(app, "baseline-clones")
def baseline_clones(
    context: typer.Context,
    domain: Annotated[str | None, typer.Option(help="Default: all of them.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those ready in the pool, and templates.")
    ] = False,
    fill: Annotated[
        bool, typer.Option("--fill", help="Fill the pools of atdm.yaml first, as the daemon does.")
    ] = False,
) -> int | None:
    """List the clones that are leased, after dropping those whose time is over.

    Example: atdm baseline-clones --all
    """
    from atdm.cli import clones

    return clones.list_all(context.obj, domain=domain, everything=everything, fill=fill)
