"""Audit events that belong to no request: of baselines, datasets and clones. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, through which face, and why. ``attempt`` ties the events of a restore together."""

    invoker: str
    source: str
    reason: str = ""
    attempt: str | None = None


def add_event(
    conn: psycopg.Connection[Any],
    action: str,
    domain: str | None,
    actor: Actor,
    *,
    status: str = "ok",
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
) -> None:
    """Write one audit event; ``inputs`` and ``outputs`` hold JSON values. Never pass a token."""
    conn.execute(
        "INSERT INTO atdm.audit_event (action, status, domain, invoker, source, inputs, outputs)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (
            action,
            status,
            domain,
            actor.invoker,
            actor.source,
            Jsonb(dict(inputs or {})),
            Jsonb(dict(outputs or {})),
        ),
    )
