"""What the commands of the queue and of the sealed trail are called and accept."""

from __future__ import annotations

from typing import Annotated

import typer

from atdm.cli.app import app, command

Ttl = Annotated[
    str | None,
    typer.Option(help="How long the lease holds: 30m, 4h, 1d; default: as submitted."),
]
Owner = Annotated[
    str | None, typer.Option(envvar="ATDM_OWNER", help="Who holds it; default: as submitted.")
]


@command(app, "queue")
def queue(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The idempotency key.")],
) -> int | None:
    """Say how a submission to the queue stands: keys or errors, never a token.

    Example: atdm queue build-7-denials
    """
    from atdm.cli import queue

    return queue.status(context.obj, key)


@command(app, "claim")
def claim(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The idempotency key.")],
    ttl: Ttl = None,
    owner: Owner = None,
) -> int | None:
    """Lease the test runs that were made for a submission. Prints the cleanup token once.

    Example: atdm claim build-7-denials --ttl 30m
    """
    from atdm.cli import queue

    return queue.claim(context.obj, key, ttl=ttl, owner=owner)


@command(app, "suite-started")
def suite_started(
    context: typer.Context,
    build: Annotated[str, typer.Argument(metavar="BUILD", help="Whose suite it is.")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", "-b", help="Restored before anything is made.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Default: the default domain.")] = None,
    revoke_leases: Annotated[
        bool, typer.Option("--revoke-leases", help="Also when somebody holds test runs.")
    ] = False,
) -> int | None:
    """Tell the queue that a suite starts; its baseline is restored first.

    Example: atdm suite-started build-7 --baseline golden-7
    """
    from atdm.cli import queue

    return queue.suite_started(
        context.obj, build, baseline=baseline, domain=domain, revoke_leases=revoke_leases
    )


@command(app, "suite-finished")
def suite_finished(
    context: typer.Context,
    build: Annotated[str, typer.Argument(metavar="BUILD", help="Whose suite it was.")],
) -> int | None:
    """Tell the queue that a suite is over; what its build holds is given back.

    Example: atdm suite-finished build-7
    """
    from atdm.cli import queue

    return queue.suite_finished(context.obj, build)


@command(app, "audit-verify")
def audit_verify(
    context: typer.Context,
    exports: Annotated[
        bool, typer.Option("--exports", help="Also read every exported file again.")
    ] = False,
) -> int | None:
    """Compute the seal of the audit trail anew; names the first event that does not hold.

    With --exports, names every exported file that is missing or was changed as well.
    Example: atdm audit-verify --exports
    """
    from atdm.cli import sealing

    return sealing.verify(context.obj, exports=exports)


@command(app, "audit-seal")
def audit_seal(
    context: typer.Context,
    no_export: Annotated[
        bool, typer.Option("--no-export", help="Only seal, write no files.")
    ] = False,
) -> int | None:
    """Seal the audit trail and export it, as the daemon does; for sessions without one.

    Example: atdm audit-seal
    """
    from atdm.cli import sealing

    return sealing.seal(context.obj, export=not no_export)
