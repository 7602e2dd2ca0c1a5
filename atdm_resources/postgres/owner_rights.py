"""The error of a user who may not read the catalog, or finds none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode


@contextmanager
def catalog_needed(conn: psycopg.Connection[Any], what: str) -> Iterator[None]:
    """Around statements that read the catalog; ``what`` names the operation, as in "a replay".

    Raises:
        AtdmError: TARGET_NOT_INITIALISED without a catalog, with an older one, and for a user who
            may not read it.
    """
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"user {conn.info.user} may not read the catalog of database {conn.info.dbname}, and "
            f"{what} reads it: connect as the owner of schema atdm",
            {"user": conn.info.user, "database": conn.info.dbname},
        ) from error
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.InvalidSchemaName,
    ) as error:
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"database {conn.info.dbname} has no ATDM catalog, or one of an older version; "
            "run atdm init",
            {"database": conn.info.dbname, "reason": error.diag.message_primary},
        ) from error
