"""Advisory locks: on a name (a request, a baseline, a clone) and on a domain.

All of them end with their transaction, so that a dead process holds none.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.errors import as_atdm_error

_NEVER_CUT_OFF = (
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL tcp_keepalives_idle = 30",
    "SET LOCAL tcp_keepalives_interval = 10",
    "SET LOCAL tcp_keepalives_count = 3",
)
_TRANSACTION_TIMEOUT_SINCE = 170000


def try_lock(conn: psycopg.Connection[Any], name: str) -> bool:
    """Take the lock ``name`` until the transaction of ``conn`` ends; False when another has it."""
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(atdm.request_lock_key(%s))", (name,)
    ).fetchone()
    return bool(row and row[0])


def wait_for_lock(conn: psycopg.Connection[Any], name: str) -> None:
    """Take the lock ``name`` until the transaction of ``conn`` ends."""
    conn.execute("SELECT pg_advisory_xact_lock(atdm.request_lock_key(%s))", (name,))


def keep_open(conn: psycopg.Connection[Any]) -> None:
    """Keep the server from ending this transaction, however long it is idle.

    Call it last: a statement without parameters also drops the snapshot of the one before it, which
    would keep vacuum from its work while the lock is held.
    """
    settings = list(_NEVER_CUT_OFF)
    if conn.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
        settings.append("SET LOCAL transaction_timeout = 0")
    conn.execute("; ".join(settings).encode())


def try_domain_lock(conn: psycopg.Connection[Any], domain: str) -> bool:
    """Take a domain's exclusive lock until the transaction ends; False when others work in it."""
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(atdm.domain_lock_key(%s))", (domain,)
    ).fetchone()
    return bool(row and row[0])


class RequestLock:
    """Holds the lock on one name and the domain's shared lock while its block runs.

    ``domain`` None: only the first, for work that is alone in the domain anyway.

    Both are transaction-level advisory locks in a transaction that stays open on a connection of
    its own: that works behind PgBouncer in transaction mode, keeps no snapshot and no transaction
    id, and ends with the process, however it ends.

    Raises (on entering):
        AtdmError: ``busy``, or a general BUSY, when another process holds the lock; BUSY when the
            domain is being reset or restored; TARGET_UNREACHABLE; TARGET_NOT_INITIALISED.
    """

    def __init__(
        self, url: str, domain: str | None, request_id: str, *, busy: AtdmError | None = None
    ) -> None:
        self.request_id = request_id
        self._busy = busy
        self._url = url
        self._domain = domain
        self._conn: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        conn = connect(self._url, autocommit=False, application_name="atdm request lock")
        try:
            if self._domain is not None:
                conn.execute("SELECT atdm.enter_domain(%s)", (self._domain,))
            if not try_lock(conn, self.request_id):
                raise self._busy or AtdmError(
                    ErrorCode.BUSY,
                    f"another process is working on request {self.request_id}",
                    {"request_id": self.request_id},
                )
            keep_open(conn)
        except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction) as error:
            conn.close()
            raise AtdmError(
                ErrorCode.TARGET_NOT_INITIALISED,
                f"database {conn.info.dbname} has no ATDM catalog; run atdm init",
            ) from error
        except psycopg.Error as error:
            conn.close()
            raise as_atdm_error(error) or error from error
        except BaseException:
            conn.close()
            raise
        self._conn = conn
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._conn is not None:
            # Closing ends the transaction; a lost connection has ended it already.
            self._conn.close()
            self._conn = None
