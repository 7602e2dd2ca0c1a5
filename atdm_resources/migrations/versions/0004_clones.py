"""Clones made ahead: tokens, what makes one out of date, and the steps of its end."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Extend the table of clones."""
    run_file(op.get_bind(), "0004_clones.sql")
