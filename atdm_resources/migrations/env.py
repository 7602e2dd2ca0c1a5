"""How Alembic runs the versions: on the connection that ``migrations.upgrade`` hands over.

Belongs here: that one hand-over. Does not belong here: configuration files and URLs.
"""

from alembic import context

from atdm_resources.migrations import SCHEMA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
