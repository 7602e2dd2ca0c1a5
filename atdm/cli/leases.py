"""``atdm request``, ``reset`` and ``reset-all``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atdm.cli.arguments import constraints_of, length_of, moment_of
from atdm.cli.output import UsageError
from atdm.in_dagster import make
from atdm_engine.errors import ErrorCode
from atdm_engine.random.run_ids import check_label
from atdm_resources.catalog import leases
from atdm_resources.settings import Settings
from atdm_services.requests import request as requesting
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.cli.output import Output

SOURCE = "cli"


def request(
    output: Output,
    scenario: str,
    *,
    constraints: Sequence[str],
    runs: int,
    seed: int | None,
    as_of: str | None,
    label: str | None,
    playwright: bool,
    pytest: bool,
    no_lease: bool,
    ttl: str | None,
    owner: str | None,
    reason: str | None,
    enqueue: bool = False,
    key: str | None = None,
    priority: int = 0,
    cleanup: str | None = None,
    wait: bool = False,
    timeout: str = "10m",
) -> int:
    """Print the runs that were leased; write the fixture files asked for."""
    if not enqueue and (wait or key is not None or cleanup is not None or priority):
        raise UsageError(
            ErrorCode.REQUEST_INVALID, "--wait, --key, --priority and --cleanup need --enqueue"
        )
    if enqueue and (no_lease or label is not None or playwright or pytest):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "--enqueue leaves the making to the daemon; it goes with none of --no-lease, --id, "
            "--playwright, --pytest",
        )
    if no_lease and (playwright or pytest):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "--no-lease leaves the runs for others: there is no token to write into a fixture file",
        )
    wish = requesting.LeaseRequest(
        scenario=scenario,
        constraints=constraints_of(constraints),
        runs=runs,
        seed=seed,
        as_of=None if as_of is None else moment_of(as_of),
        label=None if label is None else check_label(label),
        lease=not no_lease,
        ttl=None if ttl is None else length_of(ttl),
        owner=owner,
        owner_secret=os.environ.get("ATDM_OWNER_SECRET") or None,
        reason=reason,
        source=SOURCE,
    )
    settings = Settings.from_environment()
    requesting.refuse_language_model(settings)
    if enqueue:
        from atdm.cli import queue

        return queue.enqueue(
            output,
            wish,
            key=key,
            priority=priority,
            cleanup=cleanup,
            wait=wait,
            timeout=timeout,
        )
    with access.connected(settings, output) as connection:
        answer = requesting.request(settings, output, connection, wish, make)
        if playwright or pytest:
            requesting.emit_fixtures(
                settings, connection, answer, playwright=playwright, pytest=pytest, source=SOURCE
            )
    output.emit(answer, lambda: shown(answer))
    return 0


def reset(output: Output, run: str | None, *, token: str | None, owner: str | None) -> int:
    """Give back one run by its token, or all that an owner holds."""
    if (run is None) == (owner is None) or (run is None) != (token is None):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "write `atdm reset RUN --token TOKEN` or `atdm reset --owner OWNER`",
        )
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection, output.working("deleting rows"):
        if run is not None and token is not None:
            done = leases.reset_run(connection, run, token, invoker=settings.invoker, source=SOURCE)
        else:
            done = leases.reset_owner(
                connection,
                str(owner),
                os.environ.get("ATDM_OWNER_SECRET") or None,
                invoker=settings.invoker,
                source=SOURCE,
            )
    output.emit(done, lambda: _shown_reset(done))
    return 0


def reset_all(output: Output, *, confirm: bool, revoke_leases: bool) -> int:
    """Delete the rows of every test run of every domain."""
    if not confirm:
        raise UsageError(
            ErrorCode.CONFIRM_REQUIRED, "this deletes the rows of every test run of everybody"
        )
    from atdm_services.leases.reset_all import reset_all as reset_every_run

    settings = Settings.from_environment()
    with access.connected(settings, output) as connection, output.working("deleting rows"):
        done = reset_every_run(
            settings, connection, confirm=confirm, revoke_leases=revoke_leases, source=SOURCE
        )
    output.emit(done, lambda: _shown_reset(done))
    return 0


def shown(answer: Mapping[str, Any]) -> str:
    """The answer in lines of text; plain, since a person copies from it."""
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
    runs = answer.get("runs", [answer])
    return "\n\n".join("\n".join(_shown_run(run)) for run in runs)


def _shown_run(run: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{run['scenario_id']}: {run['status']}, until {run['expires_at']}",
        f"test run  {run['test_run_id']}",
        f"request   {run['request_id']}  (seed {run['seed']}, as of {run['as_of']})",
    ]
    width = max((len(name) for name in run["data"]), default=0)
    lines += [f"  {name:<{width}}  {value}" for name, value in run["data"].items()]
    lines += [f"fixture   {path}" for path in run["fixtures"].values() if path is not None]
    return [*lines, f"give back {run['cleanup']['command']}"]


def _shown_reset(done: Mapping[str, Any]) -> str:
    lines = [" ".join(str(part) for part in (done["status"], done.get("test_run_id", "")) if part)]
    for kind in ("deleted", "adopted"):
        for name, count in _flat(done.get(kind) or {}).items():
            if count:
                lines.append(f"  {kind} {count:,} of {name}")
    if "runs" in done:
        lines.insert(1, f"  {len(done['runs'])} runs of {done['owner']}")
    return "\n".join(lines)


def _flat(counts: Mapping[str, Any]) -> dict[str, int]:
    """Counts by table; those of an owner's or everybody's reset are by domain first."""
    flat: dict[str, int] = {}
    for name, value in counts.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": count for inner, count in value.items()}
        else:
            flat[name] = value
    return flat
