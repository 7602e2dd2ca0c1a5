"""Opening connections to PostgreSQL, with errors that say what to do.

Light: a lease imports this.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.telemetry.redaction import redact_url

_OPTIONS: dict[str, Any] = {
    "connect_timeout": 10,
    "application_name": "atdm",
    "prepare_threshold": None,
}


def connect(url: str, *, autocommit: bool = True, **options: Any) -> psycopg.Connection[Any]:
    """A psycopg connection to ``url``, in autocommit mode by default.

    Prepared statements are off, so that it works behind PgBouncer in transaction mode. ``options``
    go to psycopg.

    Raises:
        AtdmError: TARGET_UNREACHABLE with the URL (without its password) and what to do.
    """
    try:
        return psycopg.connect(libpq_url(url), autocommit=autocommit, **{**_OPTIONS, **options})
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise unreachable(url, error) from error


async def connect_async(url: str) -> psycopg.AsyncConnection[Any]:
    """An asyncio connection in autocommit mode. Raises AtdmError TARGET_UNREACHABLE."""
    try:
        return await psycopg.AsyncConnection.connect(libpq_url(url), autocommit=True, **_OPTIONS)
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise unreachable(url, error) from error


def unreachable(url: str, error: BaseException) -> AtdmError:
    """TARGET_UNREACHABLE for a failed attempt to connect to ``url``."""
    reason = _without_password(url, str(error)).strip()
    advice = next(
        (text for pattern, text in _ADVICE if re.search(pattern, reason, re.IGNORECASE)), _CHECK_URL
    )
    shown = redact_url(url)
    return AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"cannot connect to {shown}: {reason}\n{advice}",
        {"url": shown, "reason": reason, "advice": advice},
    )


def libpq_url(url: str) -> str:
    """``url`` without the driver that SQLAlchemy writes into it (``postgresql+psycopg://``)."""
    return re.sub(r"^(?:postgresql|postgres)\+[a-z0-9]+://", "postgresql://", url)


_CHECK_URL = "Check ATDM_DATABASE_URL (postgresql://USER:PASSWORD@HOST:PORT/DATABASE)."
_ADVICE = (
    (
        r"refused|no such file|timeout|timed out|could not translate|no route|server running",
        "Is the server running there? Unset ATDM_DATABASE_URL to use the embedded PostgreSQL "
        "(atdm up), or check host and port.",
    ),
    (r'database "[^"]*" does not exist', "Create the database, or correct its name in the URL."),
    (
        r'password|authentication|role "[^"]*" does not exist|pg_hba',
        "Check the user and the password in ATDM_DATABASE_URL.",
    ),
    (r"too many (clients|connections)|remaining connection slots", "Close some connections first."),
)


def _without_password(url: str, text: str) -> str:
    try:
        password = urlsplit(url).password
    except ValueError:
        return text
    return text.replace(password, "***") if password else text
