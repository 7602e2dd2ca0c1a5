"""Resets every test run, domain by domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atdm_resources.catalog import leases, runs

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings


def reset_all(
    settings: Settings,
    connection: psycopg.Connection[Any],
    *,
    confirm: bool,
    revoke_leases: bool,
    source: str,
) -> dict[str, Any]:
    """Delete the rows of every test run in every published domain.

    Returns status, deleted and adopted by domain and table, cleared_record_count and revoked
    (owners that lost leases). Raises AtdmError CONFIRM_REQUIRED, BUSY (naming the owners),
    RESET_FAILED.
    """
    domains = dict.fromkeys(row["domain"] for row in runs.scenarios(connection))
    done = {
        domain: leases.reset_all(
            connection,
            domain,
            confirm=confirm,
            revoke_leases=revoke_leases,
            invoker=settings.invoker,
            source=source,
        )
        for domain in domains
    }
    return {
        "status": "cleaned",
        "deleted": {domain: part["deleted"] for domain, part in done.items()},
        "adopted": {domain: part["adopted"] for domain, part in done.items()},
        "cleared_record_count": sum(part["cleared_record_count"] for part in done.values()),
        "revoked": [owner for part in done.values() for owner in part["revoked"] or ()],
    }
