"""``atdm audit-verify`` and ``atdm audit-seal``.

Belongs here: what the two print. Does not belong here: the chain (``atdm_resources.sealing``).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from atdm import target_access
from atdm.extras import server_part
from atdm_resources import sealing
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    from atdm.output import Output


def verify(output: Output) -> int:
    """Print the verdict; exit status 1 when the trail was changed."""
    settings = Settings.from_environment()
    with target_access.connected(settings, output) as connection, output.working("verifying"):
        verdict = sealing.verify(connection)
    output.emit(
        {**dataclasses.asdict(verdict), "intact": verdict.intact}, lambda: shown_verdict(verdict)
    )
    return 0 if verdict.intact else 1


def seal(output: Output, *, export: bool) -> int:
    """Seal everything that can be sealed, and export everything that is."""
    settings = Settings.from_environment()
    with target_access.connected(settings, output) as connection, output.working("sealing"):
        sealed = sealing.seal(connection)
        files: list[str] = []
        if export:
            with server_part("exporting the audit trail"):
                from atdm_resources import audit_export
                from atdm_resources.store import Store
            store = Store(settings.store_url, s3=settings.s3)
            files = audit_export.export(connection, store)
        waiting = sealing.unsealed(connection)
    output.emit(
        {"sealed": sealed, "unsealed": waiting, "files": files},
        lambda: "\n".join([f"{sealed:,} events sealed, {waiting:,} not yet", *files]),
    )
    return 0


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
