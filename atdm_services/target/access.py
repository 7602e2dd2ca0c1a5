"""The target that the settings name, opened; on a fresh home started and initialised first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.local import postgres_server
from atdm_resources.postgres.connection import connect
from atdm_services.extras import load_registry

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter
    from atdm_services.target.init import InitReport


def database_url(settings: Settings, reporter: Reporter) -> str:
    """The URL of the target; starts the embedded server when none is named and none runs."""
    if settings.database_url:
        return settings.database_url
    url = postgres_server.running_url(settings.home)
    if url:
        return url
    reporter.note(f"starting PostgreSQL in {settings.home}")
    with reporter.working("starting PostgreSQL"):
        return postgres_server.start(settings.home)


def connected(settings: Settings, reporter: Reporter) -> psycopg.Connection[Any]:
    """A connection to the target; a context manager that closes it. Raises TARGET_UNREACHABLE."""
    return opened(database_url(settings, reporter))


def opened(url: str) -> psycopg.Connection[Any]:
    """A connection to the target at ``url``. Raises TARGET_UNREACHABLE."""
    return connect(url)


def initialise(
    settings: Settings,
    reporter: Reporter,
    connection: psycopg.Connection[Any],
    *,
    disposable: str | None = None,
    rebuild: bool = False,
) -> InitReport:
    """Make or bring up to date catalog, tables, reference rows and published scenarios."""
    with reporter.working("initialising the target"):
        registry = load_registry(settings)
        # SQLAlchemy and Alembic load here: a lease does not pay for them.
        from atdm_services.target import init

        return init.initialise(connection, registry, disposable, rebuild=rebuild)


def initialised_on_first_use(
    settings: Settings, reporter: Reporter, connection: psycopg.Connection[Any], error: AtdmError
) -> bool:
    """Initialise the embedded server's own database after TARGET_NOT_INITIALISED.

    A database that somebody named by URL is not ours to fill unasked: False, as for other errors.
    """
    if error.code is not ErrorCode.TARGET_NOT_INITIALISED or settings.database_url:
        return False
    reporter.note("first use: making the catalog, the tables and the reference rows")
    initialise(settings, reporter, connection)
    return True
