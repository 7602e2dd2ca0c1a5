"""Queries of test suites: ready runs, unused runs, rows of a run.

Light: psycopg and the standard library alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_resources.catalog import leases
from atdm_resources.catalog.reclaim import Reclaimed, reclaim_runs
from atdm_resources.postgres.errors import guarded


@dataclass(frozen=True, slots=True)
class Ready:
    """The number of runs that could be leased now, up to a limit.

    ``privileged`` is False where this user may lease but not read; ``violates`` is True for a
    scenario that is meant to be rejected and never has runs.
    """

    runs: int
    privileged: bool
    violates: bool = False


def ready(
    conn: psycopg.Connection[Any],
    scenario: str,
    constraints: Mapping[str, Any],
    most: int,
) -> Ready:
    """The number of runs that a suite could lease from the pool, up to ``most``.

    ``conn`` is in autocommit mode. A user who may not read the catalog counts by leasing in a
    transaction that is rolled back.

    Raises:
        AtdmError: SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, TARGET_NOT_INITIALISED, BUSY.
    """
    domain, _, name = scenario.rpartition("/")
    found = _counted(conn, domain or None, name, constraints, most)
    if found is None:
        return Ready(_probed(conn, domain or None, name, constraints, most), privileged=False)
    return Ready(found[0], privileged=True, violates=found[1])


def _counted(
    conn: psycopg.Connection[Any],
    domain: str | None,
    name: str,
    constraints: Mapping[str, Any],
    most: int,
) -> tuple[int, bool] | None:
    """Ready runs, and whether the scenario violates rules; None if the user may not read."""
    query = (
        b"SELECT (SELECT count(*) FROM (SELECT FROM atdm.test_run AS r"
        b"  WHERE r.status = 'ready' AND r.pool_key = atdm.pool_key(s.domain, s.scenario_id,"
        b"   s.version, atdm.effective_constraints(s.parameters, s.defaults, %s))"
        b"  AND r.as_of >= now() - s.max_age LIMIT %s) AS counted), s.violates"
        b" FROM atdm.published_scenario(%s, %s) AS s"
    )
    given = Jsonb(dict(constraints), dumps=partial(json.dumps, default=str))
    try:
        row = guarded(lambda: conn.execute(query, (given, most, domain, name)).fetchone())
    except AtdmError as error:
        if isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
            return None
        raise
    assert row is not None
    return row[0], row[1]


def _probed(
    conn: psycopg.Connection[Any],
    domain: str | None,
    name: str,
    constraints: Mapping[str, Any],
    most: int,
) -> int:
    """Lease up to ``most`` runs and roll back; returns how many there were."""
    found = 0
    try:
        with conn.transaction(force_rollback=True):
            while found < most:
                leases.lease(conn, domain, name, constraints, source="probe")
                found += 1
    except AtdmError as error:
        if error.code is not ErrorCode.NONE_READY:
            raise
    return found


def reclaim_unused(
    conn: psycopg.Connection[Any], labels: Sequence[str], *, invoker: str, source: str
) -> Reclaimed:
    """Reclaim the ready runs of the requests with these labels.

    For the owner of the catalog. Raises AtdmError TARGET_NOT_INITIALISED.
    """
    rows = guarded(
        lambda: conn.execute(
            "SELECT r.test_run_id FROM atdm.request AS q JOIN atdm.test_run AS r"
            "  ON r.test_run_id > q.request_id"
            "  AND r.test_run_id <= left(q.request_id, 20) || 'ZZZZZZ'"
            " WHERE q.label = ANY (%s) AND q.status = 'ready' AND r.status = 'ready'"
            " ORDER BY r.test_run_id",
            (list(labels),),
        ).fetchall()
    )
    return reclaim_runs(
        conn, [run for (run,) in rows], strategy="after_suite", invoker=invoker, source=source
    )


def query_for_a_person(domain: str, table: str, test_run_id: str) -> str:
    """The query with which a person looks at a run's rows in a table. It is only printed."""
    return f"SELECT * FROM {domain}.{table} WHERE {RUN_COLUMN} = '{test_run_id}'"


def records_of_run(
    conn: psycopg.Connection[Any], domain: str, test_run_id: str
) -> dict[str, list[dict[str, Any]]]:
    """The rows of a run by table; tables without any are left out.

    Needs the right to read the domain's tables, not the catalog.

    Raises:
        AtdmError: REQUEST_INVALID where no table of the domain can be read.
    """
    tables = conn.execute(
        "SELECT c.table_name FROM information_schema.columns AS c"
        " JOIN information_schema.tables AS t USING (table_schema, table_name)"
        " WHERE c.table_schema = %s AND c.column_name = %s AND t.table_type = 'BASE TABLE'"
        " AND CASE WHEN has_schema_privilege(table_schema, 'USAGE') THEN"
        "  has_table_privilege(format('%%I.%%I', table_schema, table_name), 'SELECT') END"
        " ORDER BY c.table_name",
        (domain, RUN_COLUMN),
    ).fetchall()
    if not tables:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"user {conn.info.user} may read no table of {domain}: its records cannot be shown; "
            f"GRANT USAGE ON SCHEMA {domain} and SELECT on its tables",
            {"user": conn.info.user, "domain": domain},
        )
    found = {}
    with conn.cursor(row_factory=dict_row) as cursor:
        for (table,) in tables:
            query = sql.SQL("SELECT * FROM {} WHERE {} = %s ORDER BY 1").format(
                sql.Identifier(domain, table), sql.Identifier(RUN_COLUMN)
            )
            rows = cursor.execute(query, (test_run_id,)).fetchall()
            if rows:
                found[table] = rows
    return found
