"""The lifecycle: expiry, the queue, pools that fill themselves, the sealed and exported trail."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = "0003"
down_revision = "0002"

FILES = (
    "0003_expiry.sql",
    "0003_queue.sql",
    "0003_pools.sql",
    "0003_seal.sql",
    "0003_grants.sql",
)


def upgrade() -> None:
    """Add what runs by itself to the catalog."""
    for name in FILES:
        run_file(op.get_bind(), name)
