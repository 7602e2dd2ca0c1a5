"""Audit events that no Dagster run has recorded, grouped for Dagster."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import psycopg

_RECORDED_BY_RUNS = (
    "request_received",
    "plan_resolved",
    "seed_started",
    "validators_passed",
    "plan_rejected",
    "seed_completed",
    "catalog_recorded",
    "seed_failed",
    "reset_started",
    "reset_requested",
)
"""Events that the steps of a run record in Dagster themselves, or that the next event includes."""

_SHOWN = 20

_EVENTS = """
SELECT s.seal_number, e.event_id, e.at, e.action, e.status, e.domain, e.scenario_id, q.label,
       e.request_id, e.test_run_id, e.invoker, e.source
FROM atdm.audit_seal AS s
JOIN atdm.audit_event AS e USING (event_id)
LEFT JOIN atdm.request AS q ON q.request_id = e.request_id
WHERE s.seal_number > %s AND s.seal_number <= %s
ORDER BY s.seal_number
"""


@dataclass
class Gathered:
    """Events about one request, or about a domain as a whole.

    ``counts`` by action; ``events`` are the first of them. The whole trail is in the catalog.
    """

    domain: str
    scenario_id: str | None
    label: str | None
    counts: dict[str, int] = field(default_factory=dict)
    first_event_id: int = 0
    last_event_id: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)


def gather(
    conn: psycopg.Connection[Any], after: int, *, events: int, subjects: int
) -> tuple[list[Gathered], int]:
    """Sealed events after a seal number, grouped by subject; and the last number read.

    Ends after ``events`` events or ``subjects`` subjects: each subject is one event for Dagster.
    """
    last = after
    found: dict[tuple[str, str | None, str | None], Gathered] = {}
    for row in conn.execute(_EVENTS.encode(), (after, after + events)):
        number, event_id, at, action, status, domain, scenario, label, *ids = row
        if action in _RECORDED_BY_RUNS or domain is None:
            last = number
            continue
        about = (domain, scenario if label is not None else None, label)
        if about not in found and len(found) == subjects:
            break
        last = number
        gathered = found.setdefault(about, Gathered(*about, first_event_id=event_id))
        gathered.counts[action] = gathered.counts.get(action, 0) + 1
        gathered.last_event_id = event_id
        if len(gathered.events) < _SHOWN:
            request_id, test_run_id, invoker, source = ids
            gathered.events.append(
                {
                    "event_id": event_id,
                    "at": at.astimezone(UTC).isoformat(),
                    "action": action,
                    "status": status,
                    "request_id": request_id,
                    "test_run_id": test_run_id,
                    "invoker": invoker,
                    "source": source,
                }
            )
    return list(found.values()), last
