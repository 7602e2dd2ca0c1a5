"""Comparing reference rows in the target with the domain's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pyarrow as pa

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import ContentHash
from atdm_engine.model import Domain
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.values.scalars import json_value
from atdm_resources.postgres import run_rows

NO_REQUEST: Final = "0" * 26
"""The request id of rows that belong to none."""

SAMPLE_ROWS: Final = 5
_LISTED = 20


@dataclass(frozen=True)
class ReferenceResult:
    """Reference rows as they are in the target.

    ``others`` counts rows of the table that belong to no run and are not in the file: the
    application's own.
    """

    rows: int
    others: int
    content_hash: str
    sample: Sequence[Mapping[str, Any]]


def verify_reference(conn: psycopg.Connection[Any], domain: Domain, table: str) -> ReferenceResult:
    """Check that the target holds every reference row of ``table`` unchanged.

    Raises:
        AtdmError: TARGET_DRIFT, naming rows that are missing or differ; TARGET_NOT_INITIALISED.
    """
    spec = domain.tables[table]
    expected = domain.reference[table]
    try:
        found = run_rows.shared_rows(conn, domain.name, table, spec)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"table {domain.name}.{table} is not there; run atdm init",
        ) from error
    wanted = _by_key(expected, spec.key_columns)
    present = _by_key(found.drop_columns([RUN_COLUMN]), spec.key_columns)
    missing = [key for key in wanted if key not in present]
    changed = [key for key, row in wanted.items() if key in present and present[key] != row]
    if missing or changed:
        raise AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"{domain.name}.{table}: {len(missing)} reference rows are missing and {len(changed)} "
            "were changed; atdm init --rebuild writes them again",
            {
                "table": f"{domain.name}.{table}",
                "missing": json_value(missing[:_LISTED]),
                "changed": json_value(changed[:_LISTED]),
            },
        )
    content = ContentHash(domain, table, NO_REQUEST)
    content.add(domain.reference_tables()[table])
    return ReferenceResult(
        rows=len(expected),
        others=len(present) - len(wanted),
        content_hash=content.hexdigest(),
        sample=[json_value(row) for row in expected.slice(0, SAMPLE_ROWS).to_pylist()],
    )


def _by_key(rows: pa.Table, key_columns: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[name] for name in key_columns): row for row in rows.to_pylist()}
