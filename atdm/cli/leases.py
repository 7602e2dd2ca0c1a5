"""``atdm reset`` and ``reset-all``, and how leased test runs are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from atdm.cli.arguments import SOURCE, owner_secret
from atdm.cli.output import Output
from atdm.cli.target import connected
from atdm_engine.errors import ErrorCode, UsageError


def reset(
    output: Output,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="The id of the test run.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", "-t", help="Its cleanup token.")] = None,
    owner: Annotated[
        str | None, typer.Option(help="Give back all runs that this owner holds.")
    ] = None,
) -> None:
    """Delete a run's rows, by its token; or everything that an owner holds.

    Example: atdm reset 01K7ZQ3V5MWXR8ABCDEF000001 --token atdm_TOKEN
    """
    from atdm_resources.catalog import leases

    if (run is None) == (owner is None) or (run is None) != (token is None):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "write `atdm reset RUN --token TOKEN` or `atdm reset --owner OWNER`",
        )
    with connected(output) as (settings, connection), output.working("deleting rows"):
        who = {"invoker": settings.invoker, "source": SOURCE}
        if run is not None and token is not None:
            done = leases.reset_run(connection, run, token, **who)
        else:
            done = leases.reset_owner(connection, str(owner), owner_secret(), **who)
    output.emit(done, lambda: _reset_text(done))


def reset_all(
    output: Output,
    confirm: Annotated[bool, typer.Option("--confirm", help="Yes, all of them.")] = False,
    revoke_leases: Annotated[
        bool, typer.Option("--revoke-leases", help="Also the runs that are leased.")
    ] = False,
) -> None:
    """Delete the rows of every test run.

    Example: atdm reset-all --confirm
    """
    from atdm_services.leases.reset_all import reset_all as reset_every_run

    if not confirm:
        raise UsageError(
            ErrorCode.CONFIRM_REQUIRED, "this deletes the rows of every test run of every owner"
        )
    with connected(output) as (settings, connection), output.working("deleting rows"):
        done = reset_every_run(
            settings, connection, confirm=confirm, revoke_leases=revoke_leases, source=SOURCE
        )
    output.emit(done, lambda: _reset_text(done))


def lease_text(answer: Mapping[str, Any]) -> str:
    """The answer to a request. Plain text, because people copy from it."""
    if answer["status"] == "rejected":
        broken = ", ".join(answer["violates"])
        return (
            f"{answer['scenario_id']}: rejected, as it is made to be; it breaks {broken}\n"
            f"request   {answer['request_id']}\n"
            "no rows were written"
        )
    if answer.get("leased") is False:
        return (
            f"{answer['scenario_id']}: {answer['ready_runs']:,} ready, none leased\n"
            f"request   {answer['request_id']}"
        )
    return "\n\n".join(_run_text(run) for run in answer.get("runs", [answer]))


def _run_text(run: Mapping[str, Any]) -> str:
    lines = [
        f"{run['scenario_id']}: {run['status']}, until {run['expires_at']}",
        f"test run  {run['test_run_id']}",
        f"request   {run['request_id']}  (seed {run['seed']}, as of {run['as_of']})",
    ]
    width = max((len(name) for name in run["data"]), default=0)
    lines += [f"  {name:<{width}}  {value}" for name, value in run["data"].items()]
    lines += [f"fixture   {path}" for path in run["fixtures"].values() if path is not None]
    return "\n".join([*lines, f"give back {run['cleanup']['command']}"])


def _reset_text(done: Mapping[str, Any]) -> str:
    lines = [" ".join(str(part) for part in (done["status"], done.get("test_run_id", "")) if part)]
    if "runs" in done:
        lines.append(f"  {len(done['runs'])} runs of {done['owner']}")
    for kind in ("deleted", "adopted"):
        for name, count in _by_table(done.get(kind) or {}).items():
            if count:
                lines.append(f"  {kind} {count:,} of {name}")
    return "\n".join(lines)


def _by_table(counts: Mapping[str, Any]) -> dict[str, int]:
    """Counts by table. A reset of several runs counts by domain first."""
    flat: dict[str, int] = {}
    for name, value in counts.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": count for inner, count in value.items()}
        else:
            flat[name] = value
    return flat
