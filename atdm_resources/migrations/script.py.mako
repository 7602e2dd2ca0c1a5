"""${message}"""

from __future__ import annotations

from alembic import op

from atdm_resources.migrations import run_file

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "run_file(op.get_bind(), '...sql')"}
