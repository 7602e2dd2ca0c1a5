"""``atdm audit-verify`` and ``atdm audit-seal``."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from atdm_resources.catalog import seal as sealing
from atdm_resources.settings import Settings
from atdm_services.extras import server_part
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.cli.output import Output
    from atdm_services.audit.verify import ExportVerdict


def verify(output: Output, *, exports: bool = False) -> int:
    """Print the verdict; exit status 1 when the trail, or a file of it, was changed."""
    settings = Settings.from_environment()
    of_files: ExportVerdict | None = None
    with access.connected(settings, output) as connection, output.working("verifying"):
        verdict = sealing.verify(connection)
        if exports:
            with server_part("reading exported files"):
                from atdm_resources.store.files import Store
                from atdm_services.audit.verify import verify_exports
                from atdm_services.retention import Retention
            of_files = verify_exports(
                connection,
                Store(settings.store_url, s3=settings.s3),
                kept_since=datetime.now(UTC) - Retention.from_environment().exports,
            )
    intact = verdict.intact and (of_files is None or of_files.intact)
    payload: dict[str, Any] = {**dataclasses.asdict(verdict), "intact": intact}
    if of_files is not None:
        payload["exports"] = dataclasses.asdict(of_files)
    output.emit(
        payload,
        lambda: "\n".join(
            [shown_verdict(verdict), *([] if of_files is None else [shown_files(of_files)])]
        ),
    )
    return 0 if intact else 1


def seal(output: Output, *, export: bool) -> int:
    """Seal everything that can be sealed, and export everything that is."""
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection, output.working("sealing"):
        sealed = sealing.seal(connection)
        files: list[str] = []
        if export:
            with server_part("exporting the audit trail"):
                from atdm_resources.store.files import Store
                from atdm_services.audit import export as audit_export
            store = Store(settings.store_url, s3=settings.s3)
            files = audit_export.export(connection, store)
        waiting = sealing.unsealed(connection)
    output.emit(
        {"sealed": sealed, "unsealed": waiting, "files": files},
        lambda: "\n".join([f"{sealed:,} events sealed, {waiting:,} not yet", *files]),
    )
    return 0


def shown_files(verdict: ExportVerdict) -> str:
    """The verdict on exported files in a few lines."""
    lines = [f"{verdict.files:,} exported files hold {verdict.events:,} events"]
    if verdict.retired:
        lines[0] += f"; {verdict.retired:,} are gone by their age"
    lines += [f"BROKEN {found['file']}: {found['problem']}" for found in verdict.problems]
    return "\n".join(lines)


def shown_verdict(verdict: sealing.Verdict) -> str:
    """The verdict in a few lines."""
    lines = [
        f"{verdict.sealed:,} sealed events hold; {verdict.unsealed:,} are not sealed yet",
        f"head {verdict.head}",
    ]
    if verdict.broken is not None:
        what = verdict.broken
        lines.append(
            f"BROKEN at seal {what['seal_number']}, event {what['event_id']}: {what['problem']}"
        )
    return "\n".join(lines)
