"""Notes and appeals: rows that the application writes about claims and members of others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "claims_app"


def upgrade() -> None:
    op.create_table(
        "claim_note",
        _identity("note_id"),
        _reference("claim_id", "healthcare.claim.claim_id"),
        sa.Column("body", sa.Text, nullable=False),
        _now("written_at"),
        schema=SCHEMA,
    )
    op.create_table(
        "claim_appeal",
        _identity("appeal_id"),
        _reference("claim_id", "healthcare.claim.claim_id"),
        _reference("member_id", "healthcare.member.member_id"),
        sa.Column("reason", sa.Text, nullable=False),
        _now("filed_at"),
        schema=SCHEMA,
    )
    op.create_table(
        "appeal_step",
        _identity("appeal_step_id"),
        _reference("appeal_id", f"{SCHEMA}.claim_appeal.appeal_id", sa.BigInteger),
        sa.Column("step", sa.Text, nullable=False),
        _now("at"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    for table in ("appeal_step", "claim_appeal", "claim_note"):
        op.drop_table(table, schema=SCHEMA)


def _identity(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _reference(name: str, target: str, kind: type[sa.types.TypeEngine] = sa.Text) -> sa.Column:
    # Indexed: whoever deletes a claim has to find what refers to it.
    return sa.Column(name, kind, sa.ForeignKey(target), nullable=False, index=True)


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
