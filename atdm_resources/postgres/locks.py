"""The lock on a request that whoever executes it holds."""

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


class RequestLock:
    """Holds the lock of one request and the domain's shared lock while its block runs.

    ``domain`` None: only the first, for what is alone in the domain anyway.

    Both are transaction-level advisory locks in a transaction that stays open on a connection of
    its own: that works behind PgBouncer in transaction mode, keeps no snapshot and no transaction
    id, and ends with the process, however it ends.

    Raises (on entering):
        AtdmError: BUSY when another process is at the request, or the domain is being reset or
            restored; TARGET_UNREACHABLE; TARGET_NOT_INITIALISED.
    """

    def __init__(self, url: str, domain: str | None, request_id: str) -> None:
        self.request_id = request_id
        self._url = url
        self._domain = domain
        self._conn: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        conn = connect(self._url, autocommit=False, application_name="atdm request lock")
        try:
            if self._domain is not None:
                conn.execute("SELECT atdm.enter_domain(%s)", (self._domain,))
            row = conn.execute(
                "SELECT pg_try_advisory_xact_lock(atdm.request_lock_key(%s))", (self.request_id,)
            ).fetchone()
            if row is None or not row[0]:
                raise AtdmError(
                    ErrorCode.BUSY,
                    f"another process is working on request {self.request_id}",
                    {"request_id": self.request_id},
                )
            # Last, because a statement without parameters also drops the snapshot of the one before
            # it, which would keep vacuum from its work for as long as the lock is held.
            for statement in _NEVER_CUT_OFF:
                conn.execute(statement.encode())
            if conn.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
                conn.execute("SET LOCAL transaction_timeout = 0")
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
