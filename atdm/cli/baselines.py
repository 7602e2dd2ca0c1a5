"""``atdm baseline-snapshot``, ``-restore``, ``-list``, ``-verify``, ``-diff`` and ``-delete``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atdm.cli.arguments import SOURCE, Domain, LatestBaseline, Reason, RevokeLeases
from atdm.cli.output import Output, table
from atdm_engine.errors import ErrorCode, UsageError
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    from atdm_services.baselines.service import Baselines

Id = Annotated[str, typer.Argument(metavar="ID", help="The baseline.")]


def baseline_snapshot(
    output: Output,
    baseline_id: Annotated[
        str | None,
        typer.Option(
            "--baseline-id", "-b", metavar="ID", help="Default: bl-YYYYMMDD-HHMMSS-xxxxxx."
        ),
    ] = None,
    domain: Domain = None,
    reason: Reason = None,
) -> None:
    """Capture one consistent copy of every table; other sessions go on working.

    Example: atdm baseline-snapshot -b before-migration
    """
    with output.working("capturing a baseline") as step:
        made = _baselines(output, domain).capture(baseline_id, reason=reason or "", progress=step)
    output.emit(
        made,
        lambda: (
            f"captured {made['baseline_id']} of {made['domain']}: {made['rows']:,} rows in "
            f"{len(made['tables'])} tables, {_size(made['bytes'])}"
        ),
    )


def baseline_restore(
    output: Output,
    baseline_id: LatestBaseline = None,
    domain: Domain = None,
    revoke_leases: RevokeLeases = False,
    reason: Reason = None,
) -> None:
    """Bring every table back to a baseline, in one transaction.

    Example: atdm baseline-restore -b before-migration
    """
    with output.working("restoring a baseline") as step:
        done = _baselines(output, domain).restore(
            baseline_id, revoke_leases=revoke_leases, reason=reason or "", progress=step
        )
    output.emit(done, lambda: _restore_text(done))


def baseline_list(output: Output, domain: Domain = None) -> None:
    """List the baselines, newest first.

    Example: atdm baseline-list
    """
    found = _baselines(output, domain).listed()
    output.emit(found, lambda: _baseline_table(found))


def baseline_verify(output: Output, baseline_id: Id, domain: Domain = None) -> int:
    """Read a baseline's files again and compare them with their checksums.

    Exit status 1 when they differ.

    Example: atdm baseline-verify before-migration
    """
    with output.working(f"verifying {baseline_id}") as step:
        result = _baselines(output, domain).verify(baseline_id, step)
    state = "intact" if result["intact"] else "DAMAGED"
    output.emit(result, lambda: "\n".join([f"{baseline_id}: {state}", *result["problems"]]))
    return 0 if result["intact"] else 1


def baseline_diff(
    output: Output,
    one: Annotated[str, typer.Argument(metavar="A", help="A baseline, or live.")],
    other: Annotated[str, typer.Argument(metavar="B", help="A baseline, or live.")] = "live",
    domain: Domain = None,
) -> None:
    """Rows added, removed and changed from A to B, by table and column.

    Example: atdm baseline-diff before-migration live
    """
    with output.working(f"comparing {one} with {other}"):
        result = _baselines(output, domain).diff(one, other)
    output.emit(result, lambda: _diff_table(result))


def baseline_delete(
    output: Output,
    baseline_id: Id,
    domain: Domain = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Yes, for good.")] = False,
) -> None:
    """Delete a baseline; never the last intact one of a domain.

    Example: atdm baseline-delete before-migration --confirm
    """
    if not confirm:
        raise UsageError(
            ErrorCode.CONFIRM_REQUIRED, f"this deletes baseline {baseline_id} for good"
        )
    done = _baselines(output, domain).delete(baseline_id, confirm=confirm)
    output.emit(done, lambda: f"deleted {baseline_id}: {done['files']} files")


def _baselines(output: Output, domain: str | None) -> Baselines:
    from atdm import in_dagster

    return in_dagster.baselines(Settings.from_environment(), output, SOURCE, domain)


def _restore_text(done: Mapping[str, Any]) -> str:
    runs = done["runs"]
    lines = [
        f"restored {done['baseline_id']} of {done['domain']}: {done['rows']:,} rows in "
        f"{len(done['tables'])} tables, {done['seconds']:.1f} s",
        f"  test runs: {runs['ready']:,} ready, {runs['cleaned']:,} cleaned, "
        f"{runs['expired']:,} expired",
    ]
    lines += [f"  revoked {holder['leases']} of {holder['owner']}" for holder in done["revoked"]]
    lines += [f"  checked again: {reference}" for reference in done["outside_references"]]
    return "\n".join(lines)


def _baseline_table(found: Sequence[Mapping[str, Any]]) -> Any:
    if not found:
        return "no baselines; `atdm baseline-snapshot` captures one"
    return table(
        None,
        ("baseline", "kind", "age", "rows", "tables", "size", "runs", "state"),
        [
            (
                item["baseline_id"],
                item.get("kind", ""),
                _age(item["age_seconds"]) if "age_seconds" in item else "",
                f"{item['rows']:,}" if "rows" in item else "",
                len(item.get("tables", ())),
                _size(item.get("bytes")),
                sum(item.get("runs", {}).values()),
                "intact" if item["intact"] else item["problem"],
            )
            for item in found
        ],
    )


def _diff_table(result: Mapping[str, Any]) -> Any:
    if result["same"]:
        return f"{result['from']} and {result['to']} are the same"
    return table(
        f"from {result['from']} to {result['to']}",
        ("table", "added", "removed", "changed", "columns"),
        [
            (
                item["table"],
                f"{item['added']:,}",
                f"{item['removed']:,}",
                f"{item['changed']:,}",
                "; ".join(
                    [
                        *item["shape"],
                        *(f"{name} {count:,}" for name, count in item["columns"].items()),
                    ]
                ),
            )
            for item in result["tables"]
        ],
    )


def _age(seconds: int) -> str:
    from atdm.web.audit.wording import length

    return length(timedelta(seconds=seconds))


def _size(count: int | None) -> str:
    from atdm.web.audit.wording import size

    return size(count)
