"""Outcomes of tests whose run lives in a clone, so that the catalog does not know it."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Replace the functions that take outcomes."""
    run_file(op.get_bind(), "0007_outcomes.sql")
