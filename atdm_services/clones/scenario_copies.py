"""Databases for single tests: copies of a clone that holds one test run.

Light: psycopg and the standard library alone, because each test pays for it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import clones
from atdm_resources.catalog.clones import CloneRequest
from atdm_services.clones import creation
from atdm_services.clones.creation import CloneLease
from atdm_services.clones.lease import DEFAULT_TTL


def copy_of(
    conn: psycopg.Connection[Any],
    server_url: str,
    template: str,
    *,
    domain: str,
    owner: str,
    ttl: timedelta | None,
    invoker: str,
    source: str,
) -> CloneLease:
    """Lease a new database that is a copy of ``template``; a sweep after ``ttl`` drops it.

    ``template`` is a leased clone that takes no connections. ``conn`` is a connection to the target
    in autocommit mode, ``server_url`` its URL.

    Raises:
        AtdmError: CLONE_FAILED, without the right to make databases above all.
    """
    database = creation.new_name()
    request = CloneRequest(
        domain=domain,
        baseline=None,
        database=None,
        owner=owner,
        ttl=DEFAULT_TTL if ttl is None else ttl,
        invoker=invoker,
        source=source,
        token=creation.new_token(),
    )
    try:
        origin = clones.as_template(conn, template, domain)
    except psycopg.errors.InsufficientPrivilege as error:
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"a database of a test's own needs a user who owns the catalog and may make "
            f"databases; {conn.info.user} is none: {error.diag.message_primary}",
            {"user": conn.info.user},
        ) from error
    with creation.new_copy(conn, server_url, origin, database, owner=owner):
        return creation.lease_made(conn, server_url, request, database, "template")
