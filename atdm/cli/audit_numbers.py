"""The audit summary for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from atdm.web.audit.wording import count, length, moment


def shown_summary(numbers: Mapping[str, Any]) -> list[Any]:
    """Tables of what there is; what nothing happened of is left out."""
    from rich.panel import Panel

    from atdm.cli.output import table

    parts: list[Any] = [Panel(_about(numbers), title="audit summary", title_align="left")]
    for title, columns, rows in (
        (
            "requests",
            ("scenario", "status", "requests", "runs"),
            [
                (r["scenario"], r["status"], f"{r['requests']:,}", f"{r['runs']:,}")
                for r in numbers["requests"]
            ],
        ),
        (
            "resets by way",
            ("way", "runs", "rows deleted", "of these the application's"),
            [
                (r["way"], f"{r['runs']:,}", f"{r['deleted_rows']:,}", f"{r['adopted_rows']:,}")
                for r in numbers["resets"]
            ],
        ),
        (
            "rejections by check",
            ("check", "requests", "as declared"),
            [
                (r["check"], f"{r['requests']:,}", f"{r['as_declared']:,}")
                for r in numbers["rejections"]
            ],
        ),
        (
            "who asked",
            ("invoker", "requests", "runs"),
            [(r["invoker"], f"{r['requests']:,}", f"{r['runs']:,}") for r in numbers["invokers"]],
        ),
        (
            "who leased",
            ("invoker", "leases"),
            [(r["invoker"], f"{r['leases']:,}") for r in numbers["leases"]],
        ),
        (
            "how long",
            ("what", "times", "p50", "p95"),
            [
                (name, f"{row['n']:,}", _length(row["p50_ms"]), _length(row["p95_ms"]))
                for name, row in numbers["durations"].items()
                if row["n"]
            ],
        ),
        (
            "baselines",
            ("event", "times"),
            [(name, f"{n:,}") for name, n in numbers["baselines"].items()],
        ),
    ):
        if rows:
            parts.append(table(title, columns, rows))
    return parts


def _about(numbers: Mapping[str, Any]) -> str:
    runs = numbers["runs"]
    now = ", ".join(f"{n:,} {status}" for status, n in runs["now"].items()) or "none"
    refused = numbers["resets_refused"]
    return "\n".join(
        (
            f"{'since':<10} {moment(numbers['since']) if numbers['since'] else 'the beginning'}",
            f"{'runs':<10} {runs['made']:,} made, {runs['leased']:,} leased, "
            f"{runs['taken_back']:,} taken back, {runs['expired']:,} of these expired",
            f"{'now':<10} {now}",
            f"{'resets':<10} {numbers['resets_failed']:,} failed, {refused:,} refused",
            f"{'trail':<10} {count(numbers['events'], 'event')}; in all {numbers['sealed']:,} "
            f"sealed, {numbers['unsealed']:,} not sealed yet",
        )
    )


def _length(milliseconds: float | None) -> str:
    return "" if milliseconds is None else length(timedelta(milliseconds=milliseconds))
