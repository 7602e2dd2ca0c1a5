"""Setting up a target: schema ``atdm`` and the domains' tables, as ``atdm init`` does."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.exc import ProgrammingError

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Domain
from atdm_resources.catalog import setup
from atdm_resources.catalog.scenarios import publish
from atdm_resources.postgres.expected_tables import ExpectedTables, create_schema
from atdm_resources.postgres.sqlalchemy_transaction import sqlalchemy_transaction
from atdm_resources.postgres.target import current_database, reason_to_mark

if TYPE_CHECKING:
    from sqlalchemy import Connection

_RESERVED = re.compile(r"^(?:pg_.*|public|information_schema|atdm|atdm_expected)$")


@dataclass
class InitReport:
    """What ``initialise`` did; everything empty when there was nothing to do."""

    database: str
    marked: str | None = None
    migrated: bool = False
    tables: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    reference_rows: dict[str, int] = field(default_factory=dict)
    scenarios: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(
            self.marked
            or self.migrated
            or self.tables
            or self.rebuilt
            or self.reference_rows
            or self.scenarios
        )


def initialise(
    conn: psycopg.Connection[Any],
    registry: Registry,
    disposable: str | None = None,
    *,
    rebuild: bool = False,
) -> InitReport:
    """Bring the target to the state of ``registry``, in one transaction.

    Doing it again changes nothing. Marks the database disposable: by itself when it is empty, else
    only when ``disposable`` is its name. Then: migrations of schema ``atdm``, a schema a domain
    with its tables, reference rows (inserted, or compared row by row), publication of the
    scenarios, role ``atdm_client`` (where this user may make roles). ``rebuild`` drops and makes
    again the tables of a domain that have drifted, as long as they hold no row of a test run.

    Raises:
        AtdmError: TARGET_NOT_DISPOSABLE; TARGET_DRIFT naming every difference;
            TARGET_NOT_INITIALISED when this user lacks a right.
    """
    for name in registry.domains:
        if _RESERVED.match(name):
            raise AtdmError(
                ErrorCode.SPEC_INVALID,
                f"a domain cannot be called {name!r}: it would be a schema of that name",
                {"domain": name},
            )
    database = current_database(conn)
    report = InitReport(database)
    with sqlalchemy_transaction(conn) as connection:
        setup.lock_setup(conn)
        report.marked = reason_to_mark(conn, database, disposable)
        try:
            report.migrated = setup.migrate(conn, connection)
            if report.marked:
                setup.mark_disposable(conn, database, report.marked, registry.default_domain)
            setup.set_default_domain(conn, registry.default_domain)
            for domain in registry.domains.values():
                _set_up_domain(conn, connection, domain, report, rebuild=rebuild)
            note = setup.grant_to_clients(conn)
        except (psycopg.errors.InsufficientPrivilege, ProgrammingError) as error:
            cause = error.orig if isinstance(error, ProgrammingError) else error
            if not isinstance(cause, psycopg.errors.InsufficientPrivilege):
                raise
            raise AtdmError(
                ErrorCode.TARGET_NOT_INITIALISED,
                f"this user may not set up database {database}: {cause}; as its owner: "
                f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {conn.info.user}",
                {"database": database, "user": conn.info.user},
            ) from error
    if note is not None:
        report.notes.append(note)
    return report


def _set_up_domain(
    conn: psycopg.Connection[Any],
    connection: Connection,
    domain: Domain,
    report: InitReport,
    *,
    rebuild: bool,
) -> None:
    """Schema, tables, reference rows and scenarios of one domain."""
    create_schema(conn, domain.name)
    tables = ExpectedTables(conn, connection, domain)
    drifted = tables.drift()
    if drifted:
        _refuse_drift(domain, tables, drifted, rebuild=rebuild)
        tables.drop_actual()
        report.rebuilt.append(domain.name)
    report.tables += [f"{domain.name}.{name}" for name in tables.create_missing()]
    setup.record_domain(conn, domain)
    for name, rows in domain.reference.items():
        inserted = tables.insert_reference(name, rows)
        if inserted:
            report.reference_rows[f"{domain.name}.{name}"] = inserted
    differing = [line for name in domain.reference for line in tables.reference_drift(name)]
    if differing:
        raise _drift(domain, "the reference files", differing, "", rebuild_possible=False)
    tables.drop()
    report.scenarios += publish(conn, domain)


def _refuse_drift(
    domain: Domain, tables: ExpectedTables, drifted: list[str], *, rebuild: bool
) -> None:
    """Refuse tables that have drifted, unless a rebuild is wanted and loses nothing."""
    held = tables.tables_with_runs()
    if not rebuild or held:
        way_out = (
            f"rows of test runs are in {', '.join(held)}: reset them first (atdm reset-all)"
            if held
            else "no test run has rows there: atdm init --rebuild makes the tables again"
        )
        raise _drift(domain, "the table files", drifted, way_out, rebuild_possible=not held)
    outside = tables.references_from_outside()
    if outside:
        named = ", ".join(f"{table} ({constraint})" for table, constraint in outside)
        raise AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"the tables of {domain.name} cannot be made again: {named} refer to them",
            {"domain": domain.name, "references": [list(row) for row in outside]},
        )


def _drift(
    domain: Domain, files: str, lines: list[str], way_out: str, *, rebuild_possible: bool
) -> AtdmError:
    listed = "\n".join(f"  {domain.name}.{line}" for line in lines)
    return AtdmError(
        ErrorCode.TARGET_DRIFT,
        f"{len(lines)} differences between {files} and the database:\n{listed}"
        + (f"\n{way_out}" if way_out else ""),
        {"domain": domain.name, "differences": lines, "rebuild_possible": rebuild_possible},
    )
