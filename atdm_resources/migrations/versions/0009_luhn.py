"""The Luhn checksum in one expression: a CHECK constraint runs it for every row that is loaded."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Replace the function; what it answers stays the same."""
    run_file(op.get_bind(), "0009_luhn.sql")
