"""The catalog: tables, functions, rights."""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file, run_functions

revision = "0001_catalog"
down_revision = None


def upgrade() -> None:
    """Create everything; the schema itself is there already, for Alembic's own table."""
    run_file(op.get_bind(), "0001_tables.sql")
    run_functions(op.get_bind())
