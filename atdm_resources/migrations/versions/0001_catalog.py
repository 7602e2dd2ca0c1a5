"""The catalog: tables, the append-only audit trail, leases and resets."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0001"
down_revision = None

FILES = (
    "0001_tables.sql",
    "0001_audit.sql",
    "0001_constraints.sql",
    "0001_lease.sql",
    "0001_reset.sql",
    "0001_grants.sql",
)


def upgrade() -> None:
    """Create everything; the schema itself is there already, for Alembic's own table."""
    for name in FILES:
        run_file(op.get_bind(), name)
