"""Counters over the audit trail, and when the transaction of an event started."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the counters to the catalog."""
    run_file(op.get_bind(), "0006_metrics.sql")
