"""Baselines and clones: what the target knows of them. The store has the baselines themselves."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables."""
    run_file(op.get_bind(), "0002_baselines.sql")
