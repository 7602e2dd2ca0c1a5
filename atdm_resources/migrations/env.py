"""How Alembic runs the versions: on the connection that ``migrations.upgrade`` hands over."""

from alembic import context

from atdm_resources.migrations import SCHEMA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
