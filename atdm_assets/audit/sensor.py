"""The audit trail in Dagster: the sensor that seals, counts, shows and exports it."""

# No postponed annotations here: Dagster reads those of resources as classes.

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import psycopg

from atdm_assets import names
from atdm_assets.instance import ticks
from atdm_engine.bundle.registry import Registry
from atdm_resources.catalog import counters, outside_events, seal
from atdm_resources.catalog.outside_events import Gathered
from atdm_resources.store.files import Store
from atdm_services.audit import export

SEALED_A_TICK = 50_000
COUNTED_A_TICK = 3
"""In hundreds of thousands of events."""
EVENTS_A_TICK = 20_000
OBSERVATIONS_A_TICK = 200


def audit_sensor(registry: Registry) -> dg.SensorDefinition:
    """The sensor ``audit_sensor``. Its cursor is the last seal that is shown in Dagster."""
    return ticks.target_sensor(
        "audit_sensor",
        lambda context, conn, store: tick(conn, store.store(), registry, context.cursor),
        "Seals new audit events into the hash chain, shows leases and resets as observations, "
        "exports each finished day as Parquet.",
    )


def tick(
    conn: psycopg.Connection[Any], store: Store, registry: Registry, cursor: str | None
) -> ticks.Ticked:
    """Seal and count events, export due ranges, show new seals in Dagster."""
    sealed = seal.seal(conn, SEALED_A_TICK)
    counters.advance(conn, rounds=COUNTED_A_TICK)
    files = export.export(conn, store, before=datetime.now(UTC).date())
    after = int(cursor or 0)
    gathered, last = outside_events.gather(
        conn, after, events=EVENTS_A_TICK, subjects=OBSERVATIONS_A_TICK
    )
    observations = [
        observation(registry, events) for events in gathered if events.domain in registry.domains
    ]
    said = f"{sealed} events sealed, {len(files)} files exported"
    if last == after:
        return dg.SkipReason(said)
    return dg.SensorResult(
        skip_reason=said, asset_events=observations, cursor=str(max(last, after))
    )


def observation(registry: Registry, events: Gathered) -> dg.AssetObservation:
    """Events of one request on its ``seeded`` asset and partition, others on the domain's."""
    key = names.test_runs_key(events.domain)
    partition = None
    scenarios = registry.domains[events.domain].scenarios
    if events.scenario_id is not None and events.scenario_id in scenarios:
        key = names.seeded_key(events.domain, events.scenario_id)
        partition = events.label
    return dg.AssetObservation(
        key,
        partition=partition,
        description=", ".join(f"{count} {action}" for action, count in events.counts.items()),
        metadata={
            "events": sum(events.counts.values()),
            "counts": dg.MetadataValue.json(events.counts),
            "first_event_id": events.first_event_id,
            "last_event_id": events.last_event_id,
            "trail": dg.MetadataValue.json(events.events),
        },
    )
