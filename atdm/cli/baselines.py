"""``atdm baseline-...``: what the commands do and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atdm.cli.output import UsageError, table
from atdm_engine.errors import ErrorCode
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    from atdm.cli.output import Output
    from atdm_services.baselines.service import Baselines

SOURCE = "cli"


def _opened(output: Output, domain: str | None) -> Baselines:
    from atdm.in_dagster import BaselineRecord
    from atdm_services.baselines.service import Baselines

    return Baselines(Settings.from_environment(), output, BaselineRecord(), SOURCE, domain)


def snapshot(
    output: Output, *, baseline_id: str | None, domain: str | None, reason: str | None
) -> int:
    """Capture and print the summary."""
    with output.working("capturing a baseline") as step:
        made = _opened(output, domain).capture(baseline_id, reason=reason or "", progress=step)
    output.emit(
        made,
        lambda: (
            f"captured {made['baseline_id']} of {made['domain']}: {made['rows']:,} rows in "
            f"{len(made['tables'])} tables, {size(made['bytes'])}"
        ),
    )
    return 0


def restore(
    output: Output,
    *,
    baseline_id: str | None,
    domain: str | None,
    revoke_leases: bool,
    reason: str | None,
) -> int:
    """Restore and print what came back."""
    with output.working("restoring a baseline") as step:
        done = _opened(output, domain).restore(
            baseline_id, revoke_leases=revoke_leases, reason=reason or "", progress=step
        )
    output.emit(done, lambda: _shown_restore(done))
    return 0


def list_all(output: Output, *, domain: str | None) -> int:
    """Print the baselines, newest first."""
    found = _opened(output, domain).listed()
    output.emit(found, lambda: _shown_list(found))
    return 0


def verify(output: Output, baseline_id: str, *, domain: str | None) -> int:
    """Print what is wrong; exit status 1 when something is."""
    with output.working(f"verifying {baseline_id}") as step:
        result = _opened(output, domain).verify(baseline_id, step)
    output.emit(
        result,
        lambda: "\n".join(
            [f"{baseline_id}: {'intact' if result['intact'] else 'DAMAGED'}", *result["problems"]]
        ),
    )
    return 0 if result["intact"] else 1


def diff(output: Output, one: str, other: str, *, domain: str | None) -> int:
    """Print how two states differ."""
    with output.working(f"comparing {one} with {other}"):
        result = _opened(output, domain).diff(one, other)
    output.emit(result, lambda: _shown_diff(result))
    return 0


def delete(output: Output, baseline_id: str, *, domain: str | None, confirm: bool) -> int:
    """Delete one for good."""
    if not confirm:
        raise UsageError(
            ErrorCode.CONFIRM_REQUIRED, f"this deletes baseline {baseline_id} for good"
        )
    done = _opened(output, domain).delete(baseline_id, confirm=confirm)
    output.emit(done, lambda: f"deleted {baseline_id}: {done['files']} files")
    return 0


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _age(seconds: int) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _shown_restore(done: Mapping[str, Any]) -> str:
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


def _shown_list(found: Sequence[Mapping[str, Any]]) -> Any:
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
                size(item["bytes"]) if "bytes" in item else "",
                sum(item.get("runs", {}).values()),
                "intact" if item["intact"] else item["problem"],
            )
            for item in found
        ],
    )


def _shown_diff(result: Mapping[str, Any]) -> Any:
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
