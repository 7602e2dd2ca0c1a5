"""Errors that the catalog's SQL functions raise, as AtdmError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling

Result = TypeVar("Result")


def guarded(call: Callable[[], Result]) -> Result:
    """The result of ``call``; errors of the catalog's functions become AtdmError.

    Raises:
        AtdmError: the error that ``atdm.fail`` raised; TARGET_NOT_INITIALISED without a catalog, or
            without the right to call its functions.
    """
    try:
        return call()
    except psycopg.Error as error:
        known = meaning(error)
        if known is None:
            raise
        raise known from error


def meaning(error: psycopg.Error) -> AtdmError | None:
    """The AtdmError of a failed call to the catalog; None for an error of another kind."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"this user may not lease from this database: {error.diag.message_primary}; "
            "its owner grants the role atdm_client",
        )
    if isinstance(
        error,
        psycopg.errors.UndefinedFunction
        | psycopg.errors.UndefinedTable
        | psycopg.errors.InvalidSchemaName,
    ):
        return AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            "this database has no ATDM catalog; run atdm init",
            {"reason": error.diag.message_primary},
        )
    return as_atdm_error(error)


def as_atdm_error(error: psycopg.Error) -> AtdmError | None:
    """The AtdmError that ``atdm.fail`` raised in the database, None for any other error."""
    if not (error.sqlstate or "").startswith("AT") or not error.diag.message_detail:
        return None
    problem = json.loads(error.diag.message_detail)
    details: dict[str, Any] = problem["details"]
    message = error.diag.message_primary or problem["code"]
    hints = []
    if "scenario" in details and "known" in details:
        details["nearest"] = nearest_spelling(str(details["scenario"]), details["known"])
        hints.append(details["nearest"])
    for item in details.get("problems", ()):
        if "known" in item:
            item["nearest"] = nearest_spelling(item["constraint"], item["known"])
            hints.append(item["nearest"])
    named = [repr(hint) for hint in hints if hint]
    if named:
        message += f"; did you mean {', '.join(named)}?"
    return AtdmError(ErrorCode(problem["code"]), message, details)
