"""Opening the target of the settings; the embedded server is started and initialised first."""

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
    return connect(database_url(settings, reporter))


def initialise(
    settings: Settings,
    reporter: Reporter,
    connection: psycopg.Connection[Any],
    *,
    disposable: str | None = None,
    rebuild: bool = False,
) -> InitReport:
    """Create or update catalog, tables, reference rows and published scenarios."""
    with reporter.working("initialising the target"):
        registry = load_registry(settings)
        # SQLAlchemy and Alembic load here, so that a lease does not load them.
        from atdm_services.target import init

        return init.initialise(connection, registry, disposable, rebuild=rebuild)


def initialised_on_first_use(
    settings: Settings, reporter: Reporter, connection: psycopg.Connection[Any], error: AtdmError
) -> bool:
    """Initialise the embedded server's own database after TARGET_NOT_INITIALISED.

    Returns False for other errors, and for a database that is named by URL: ATDM does not fill it
    unasked.
    """
    if error.code is not ErrorCode.TARGET_NOT_INITIALISED or settings.database_url:
        return False
    reporter.note("first use: making the catalog, the tables and the reference rows")
    initialise(settings, reporter, connection)
    return True
