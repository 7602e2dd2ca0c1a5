"""Databases for single tests: copies of a database that holds one test run.

Light: psycopg and the standard library alone, because each test pays for it.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_services.clones import lease, teardown
from atdm_services.clones.lease import CloneLease

__all__ = ["CloneLease", "close_to_others", "copy_of"]

_REGISTERED = """
INSERT INTO atdm.clone (database_name, domain, baseline_id, kind, status, owner, fingerprint)
SELECT %(name)s, %(domain)s,
       (SELECT c.baseline_id FROM atdm.clone AS c WHERE c.database_name = %(template)s),
       'clone', 'making', %(owner)s, atdm.bundle_fingerprint()
"""


def close_to_others(conn: psycopg.Connection[Any], database: str) -> None:
    """Let nobody connect to a database any more: it can be copied at any time then."""
    conn.execute(
        sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(database))
    )


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

    ``conn`` is a connection to the target in autocommit mode, ``server_url`` its URL.

    Raises:
        AtdmError: CLONE_FAILED, without the right to make databases above all.
    """
    name = f"{teardown.CLONE_PREFIX}{secrets.token_hex(6)}"
    wish = lease.CloneRequest(
        domain=domain,
        baseline=None,
        database=None,
        owner=owner,
        ttl=lease.DEFAULT_TTL if ttl is None else ttl,
        invoker=invoker,
        source=source,
        token=f"atdm_{secrets.token_urlsafe(32)}",
    )
    with teardown.lock(conn, name):
        try:
            conn.execute(
                _REGISTERED,
                {"name": name, "domain": domain, "template": template, "owner": owner},
            )
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
            conn.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(name), sql.Literal(teardown.comment_of(conn))
                )
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise AtdmError(
                ErrorCode.CLONE_FAILED,
                f"a database of a test's own needs a user who owns the catalog and may make "
                f"databases; {conn.info.user} is none: {error.diag.message_primary}",
                {"user": conn.info.user},
            ) from error
        except psycopg.Error as error:
            raise lease.may_not(conn, error) from error
        lease.make_it_its_own(lease.sibling(server_url, name))
        leased = lease.hand_out_made(conn, server_url, wish, name, "template")
    if leased is None:
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"database {name} was dropped by somebody while it was made",
            {"database": name},
        )
    return leased
