"""What tests made of their data, and test runs that are made again under their old ids."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0005"
down_revision = "0004"

FILES = (
    "0005_outcomes.sql",
    "0005_replay.sql",
    "0005_grants.sql",
)


def upgrade() -> None:
    """Add outcomes and replays to the catalog."""
    for name in FILES:
        run_file(op.get_bind(), name)
