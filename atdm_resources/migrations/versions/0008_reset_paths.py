"""Taking back a few runs by statements that are ready made for their domain."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the paths, and the function that takes them where they lead."""
    run_file(op.get_bind(), "0008_reset_paths.sql")
