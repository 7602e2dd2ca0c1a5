"""How Alembic reaches the application's database."""

from __future__ import annotations

from alembic import context
from claims_app.database import database_url
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

SCHEMA = "claims_app"

engine = create_engine(make_url(database_url()).set(drivername="postgresql+psycopg"))
with engine.connect() as connection:
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    connection.commit()
    context.configure(connection=connection, version_table_schema=SCHEMA)
    with context.begin_transaction():
        context.run_migrations()
